//! The API's own description, `GET /api/v1/openapi.json` (OpenAPI 3.1): made of the table of routes, of what each of them
//! takes and answers (`operations`), of the views and shapes, and of the keys of the configuration file. Nothing here
//! answers anything else.

mod operations;
pub(super) mod shapes;

use std::collections::BTreeSet;

use axum::Router;
use axum::routing::get;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use crate::config::overlay::settable_schema;
use crate::model::{
    AccessRole, AdminState, Attach, HealthState, PoolKind, PoolState, Redundancy, Role, Rule, SessionPolicy,
    SessionState, Target, TunnelState,
};

use super::Admin;
use super::access::{Need, ROUTES, Route};
use super::answer;
use super::problem::Problem;
use operations::{Answer, Body, Operation};
use shapes::Shapes;

/// Where a schema lives in the document.
const SCHEMAS: &str = "#/components/schemas/";

pub(super) fn routes() -> Router<Admin> {
    // It is the same as long as the daemon lives.
    let text = document().to_string();
    Router::new().route("/api/v1/openapi.json", get(move || async move { answer::written(text) }))
}

/// The document.
fn document() -> Value {
    let mut document = serde_json::to_value(Shapes::openapi()).unwrap_or_default();
    document["info"] = json!({
        "title": "changeover",
        "version": env!("CARGO_PKG_VERSION"),
        "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
        "description": "What the daemon knows, and the orders it takes. Every change wants a bearer of the role in \
            x-changeover-role, or a Unix socket whose peer is root or the daemon's own user. Every error is \
            application/problem+json with a stable code, but for what is no HTTP and for a head of more than 16 KiB or 100 \
            headers, which the HTTP library answers with 400 or 431 and no body. A body is read as JSON whatever its \
            Content-Type says; it has 64 KiB at most, and objects in it are nested 127 deep at most. HEAD is taken wherever \
            GET is.",
    });
    let schemas = &mut document["components"]["schemas"];
    add_words(schemas);
    add_configuration(schemas);
    document["components"]["securitySchemes"] = json!({ "bearer": {
        "type": "http", "scheme": "bearer", "description": "A token of [admin.tokens], or a JWT by [admin.jwt].",
    } });
    let mut paths = Map::new();
    for route in ROUTES {
        let Some(operation) = operations::of(route) else { continue };
        let at = paths.entry(route.path).or_insert_with(|| json!({ "parameters": of_path(route.path) }));
        at[route.method.to_ascii_lowercase()] = described(route, &operation);
    }
    document["paths"] = Value::Object(paths);
    widen(&mut document);
    document
}

/// Which words a field may be.
fn add_words(schemas: &mut Value) {
    let roles = [AccessRole::Viewer, AccessRole::Operator, AccessRole::Admin];
    debug_assert!(roles.is_sorted(), "roles grow");
    let words: [(&str, &str, &[&str]); 15] = [
        ("PoolView", "kind", PoolKind::LABELS),
        ("PoolView", "state", PoolState::LABELS),
        ("PoolView", "redundancy", Redundancy::LABELS),
        ("Explanation", "state", PoolState::LABELS),
        ("RuleView", "rule", Rule::LABELS),
        ("BackendView", "health", HealthState::LABELS),
        ("BackendView", "admin_state", AdminState::LABELS),
        ("BackendView", "role", Role::LABELS),
        ("TunnelView", "state", TunnelState::LABELS),
        ("TunnelView", "attach", Attach::LABELS),
        ("ListenerView", "target", Target::LABELS),
        ("SessionView", "state", SessionState::LABELS),
        ("FailoverOrder", "sessions", SessionPolicy::LABELS),
        ("PushedHealth", "health", HealthState::LABELS),
        ("Status", "status", &["ok", "ready"]),
    ];
    for (schema, field, words) in words {
        let field = &mut schemas[schema]["properties"][field];
        let may_be_null = field["type"].is_array();
        let mut all: Vec<Value> = words.iter().map(|word| json!(word)).collect();
        all.extend(may_be_null.then_some(Value::Null));
        field["enum"] = Value::Array(all);
    }
    let codes: BTreeSet<&str> = Problem::ALL.iter().map(|problem| problem.code()).collect();
    schemas["ProblemDetails"]["properties"]["code"]["enum"] = json!(codes);
}

/// What is taken much as it is in the file: its tables, and the bodies that are made of them.
fn add_configuration(schemas: &mut Value) {
    for (name, mut table) in settable_schema() {
        rename(&mut table);
        schemas[format!("config.{name}")] = table;
    }
    let mut registration = schemas["config.backend"].clone();
    registration["properties"]["name"] = json!({ "type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$" });
    registration["required"] = json!(["name", "address"]);
    schemas["Registration"] = registration;
    let patch = |table: &Value| {
        let mut patch = table.clone();
        if let Some(patch) = patch.as_object_mut() {
            patch.remove("required");
        }
        if let Some(properties) = patch["properties"].as_object_mut() {
            // A null takes back what was set before.
            properties.values_mut().for_each(|value| *value = json!({ "anyOf": [value.take(), { "type": "null" }] }));
        }
        patch
    };
    schemas["BackendPatch"] = patch(&schemas["config.backend"]);
    let (check, failover) = (patch(&schemas["config.check"]), patch(&schemas["config.failover"]));
    schemas["FailoverPatch"] = json!({
        "type": "object", "properties": { "check": check, "failover": failover }, "additionalProperties": false,
    });
}

/// Has references lead to where the tables are in this document.
fn rename(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(to)) = fields.get_mut("$ref") {
                *to = to.replace("#/$defs/", &format!("{SCHEMAS}config."));
            }
            fields.values_mut().for_each(rename);
        }
        Value::Array(items) => items.iter_mut().for_each(rename),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Counts and numbers of events are unsigned, of which `int64` would leave out half.
fn widen(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(format) = fields.get_mut("format").filter(|format| *format == "int64") {
                *format = json!("uint64");
            }
            fields.values_mut().for_each(widen);
        }
        Value::Array(items) => items.iter_mut().for_each(widen),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The parameters that are parts of `path`.
fn of_path(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let schema = |name| match name {
        "id" => json!({ "type": "integer", "minimum": 0 }),
        _ => json!({ "type": "string", "minLength": 1 }),
    };
    names.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": schema(name) })).collect()
}

fn role(need: Need) -> &'static str {
    need.role().map_or("open", |role| role.label())
}

/// The name of an operation: `getPoolsExplain`.
fn id(route: &Route) -> String {
    let rest = route.path.strip_prefix("/api/v1").unwrap_or(route.path);
    let parts = rest.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    let capital = |part: &str| {
        let (first, rest) = part.split_at(1);
        format!("{}{rest}", first.to_ascii_uppercase())
    };
    let path: String = parts.map(capital).collect();
    format!("{}{}", route.method.to_ascii_lowercase(), if path.is_empty() { "Dashboard" } else { &path })
}

/// A header of an answer.
fn header(description: &str, kind: &str) -> Value {
    json!({ "description": description, "schema": { "type": kind } })
}

/// Has `operation` take a header.
fn add_header(operation: &mut Value, name: &str, description: &str, kind: &str) {
    let mut parameter = header(description, kind);
    (parameter["name"], parameter["in"], parameter["required"]) = (json!(name), json!("header"), json!(false));
    operation["parameters"].as_array_mut().into_iter().for_each(|all| all.push(parameter.clone()));
}

fn described(route: &Route, operation: &Operation) -> Value {
    let shape = |name: &str| json!({ "$ref": format!("{SCHEMAS}{name}") });
    let content = match operation.answer {
        Answer::Nothing => None,
        Answer::Shape(name) => Some(json!({ "application/json": { "schema": shape(name) } })),
        Answer::Document => Some(json!({ "application/json": { "schema": { "type": "object" } } })),
        Answer::Other(kind) => Some(json!({ kind: { "schema": { "type": "string" } } })),
    };
    let mut done = json!({ "description": operation.summary });
    if let Some(content) = content {
        done["content"] = content;
    }
    let problem = json!({
        "description": "What is wrong, and what would be right.",
        "content": { "application/problem+json": { "schema": shape("ProblemDetails") } },
        "headers": {
            "Retry-After": header("With 429, and `too_much_unread`: the caller may come again after so many seconds.", "integer"),
            "Allow": header("With 405: the methods that the path takes.", "string"),
            "WWW-Authenticate": header("With 401: how a credential is presented.", "string"),
        },
    });
    let mut described = json!({
        "operationId": id(route),
        "summary": operation.summary,
        "x-changeover-role": role(route.need),
        // Over loopback and Unix sockets a viewer needs to present nothing.
        "security": match route.need {
            Need::Open => json!([]),
            Need::View | Need::ViewAll => json!([{}, { "bearer": [] }]),
            Need::Operate | Need::Administer => json!([{ "bearer": [] }]),
        },
        "parameters": (operation.query)(),
        "responses": { operation.status.to_string(): done, "default": problem },
    });
    for parameter in described["parameters"].as_array_mut().into_iter().flatten() {
        if parameter["name"] == "target" {
            parameter["schema"] = json!({ "enum": Target::LABELS });
        }
    }
    if operation.is_tagged {
        let tag = json!({ "ETag": header("What If-None-Match is to be next time.", "string") });
        described["responses"][operation.status.to_string()]["headers"] = tag.clone();
        described["responses"]["304"] = json!({ "description": "It is as If-None-Match says.", "headers": tag });
        add_header(&mut described, "If-None-Match", "The ETag of what the caller has, or several.", "string");
    }
    if operation.is_resumed {
        add_header(&mut described, "Last-Event-ID", "The same as `after`, which it goes before.", "integer");
    }
    let body = match operation.body {
        Body::Nothing => None,
        Body::Shape(name) => Some((name, false)),
        Body::Required(name) => Some((name, true)),
    };
    if let Some((name, is_required)) = body {
        described["requestBody"] =
            json!({ "required": is_required, "content": { "application/json": { "schema": shape(name) } } });
    }
    described
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::{ROUTES, document, operations};

    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_route_is_described_and_every_reference_leads_somewhere() {
        for route in ROUTES {
            assert!(operations::of(route).is_some(), "say in operations.rs what {route:?} takes and answers");
        }
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }
}
