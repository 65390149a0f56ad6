//! The API's description of itself: that it is the table of routes, and that a real daemon answers and takes what it says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use changeover::admin::{Need, ROUTES};
use serde_json::{Map, Value, json};
use support::http::{self, Response};
use support::net::meet;
use support::process::with_jsonschema;
use support::{Backend, DEADLINE, Daemon, dial_unix, wait_until};
use tempfile::TempDir;

/// The JSON schema of the dialect of OpenAPI 3.1, applied to each answer: by a validator that is not ours.
const VALIDATE: &str = "
import json, sys
import jsonschema
document, answers = json.load(sys.stdin)
def close(schema):
    if isinstance(schema, dict):
        if 'properties' in schema and 'additionalProperties' not in schema:
            schema['additionalProperties'] = False
        for value in schema.values():
            close(value)
    elif isinstance(schema, list):
        for value in schema:
            close(value)
for name, schema in document['components']['schemas'].items():
    jsonschema.Draft202012Validator.check_schema(schema)
    whole = 'allOf' not in schema
    # What answers have beside what is written is an error here, though clients are to bear it.
    if whole and name not in ('Event',  'PoolView', 'BackendView'):
        close(schema)
for name, schema, answer in answers:
    whole = dict(schema, components=document['components'])
    for error in jsonschema.Draft202012Validator(whole).iter_errors(answer):
        print(name, list(error.absolute_path), error.message[:300])
";

/// A backend behind a tunnel that leads nowhere.
const TUNNEL: &str = "[pools.orders.backends.pg4]\naddress = \"127.0.0.1:8\"\npriority = 4\n\
                      [pools.orders.backends.pg4.tunnel]\nprovider = \"command\"\nattach = \"address\"\n\
                      command = [\"sleep\", \"1000\"]\n";

/// A daemon with four backends of which one is gone and one cannot be reached, over its Unix socket.
struct World {
    daemon: Daemon,
    dir: TempDir,
    _backends: [Backend; 2],
}

impl World {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backends = [Backend::start("pg1"), Backend::start("pg2")];
        let (socket, gone) = (dir.path().join("admin.sock"), Backend::absent("pg3"));
        let daemon = Daemon::start(&format!(
            "[admin]\nbind = [\"unix:{}\", \"127.0.0.1:0\"]\nrate_limit = \"0\"\n[listeners.orders]\nbind = \"127.0.0.1:0\"\n\
             pool = \"orders\"\n[pools.orders]\nwhen_down = \"refuse\"\n[pools.orders.check]\ninterval = \"100ms\"\n{}{}{}{TUNNEL}",
            socket.display(),
            backends[0].toml("orders", 1),
            backends[1].toml("orders", 2),
            gone.toml("orders", 3),
        ));
        daemon.wait_health("orders", "pg3", "unhealthy");
        Self { daemon, dir, _backends: backends }
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        let stream = dial_unix(&self.dir.path().join("admin.sock")).unwrap();
        http::send_with(stream, method, path, headers, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    fn get(&self, path: &str) -> Response {
        self.send("GET", path, "", "")
    }

    #[track_caller]
    fn order(&self, path: &str, body: &str) -> Value {
        let answer = self.send("POST", &format!("/api/v1/pools/orders{path}"), "", body);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    fn document(&self) -> Value {
        self.get("/api/v1/openapi.json").json()
    }
}

/// The operations of the document by method and path.
fn operations(document: &Value) -> BTreeMap<(String, String), Value> {
    let methods = |(path, of): (&String, &Value)| {
        let of = of.as_object().unwrap().clone();
        let path = path.clone();
        of.into_iter()
            .filter(|(method, _)| method != "parameters")
            .map(move |(method, operation)| ((method.to_uppercase(), path.clone()), operation))
    };
    document["paths"].as_object().unwrap().iter().flat_map(methods).collect()
}

/// What a validator has against `answers`: a name, a schema and an answer each.
fn invalid(document: &Value, answers: &[(String, Value, Value)]) -> String {
    with_jsonschema(VALIDATE, &json!([document, answers]).to_string())
}

/// The schema of what `operation` answers with `status`.
fn schema(operation: &Value, status: u16) -> Value {
    let responses = &operation["responses"];
    let response = responses.get(status.to_string()).unwrap_or(&responses["default"]);
    let kind = if status < 400 { "application/json" } else { "application/problem+json" };
    response["content"][kind]["schema"].clone()
}

#[test]
fn the_document_is_the_table_of_routes() {
    let world = World::start();
    let document = world.document();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let role = |need: Need| match need {
        Need::Open => "open",
        Need::View | Need::ViewAll => "viewer",
        Need::Operate => "operator",
        Need::Administer => "admin",
    };
    let of_table: BTreeSet<(String, String, String)> =
        ROUTES.iter().map(|route| (route.method.into(), route.path.into(), role(route.need).into())).collect();
    let operations = operations(&document);
    let of_document: BTreeSet<(String, String, String)> = operations
        .iter()
        .map(|((method, path), of)| {
            (method.clone(), path.clone(), of["x-changeover-role"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(of_document, of_table);
    let ids: BTreeSet<&str> = operations.values().map(|of| of["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), ROUTES.len(), "names of operations are one operation's each: {ids:?}");
    for ((method, path), operation) in &operations {
        let open = operation["security"] == json!([]);
        assert_eq!(open, operation["x-changeover-role"] == "open", "{method} {path}");
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{method} {path}");
    }
}

#[test]
fn what_a_daemon_answers_is_what_the_document_says() {
    let world = World::start();
    let document = world.document();
    let operations = operations(&document);
    let _session = meet(world.daemon.listener("orders")).unwrap();
    let mut answers: Vec<(String, Value, Value)> = Vec::new();
    let mut done: BTreeSet<(String, String)> = BTreeSet::new();
    let mut check = |method: &str, path: &str, body: &str, status: u16| {
        let template = path.split('?').next().unwrap();
        let template =
            template.replacen("/pools/orders", "/pools/{pool}", 1).replacen("/pools/nope", "/pools/{pool}", 1);
        let mut parts: Vec<&str> = template.split('/').collect();
        if let Some(backend) = parts.get_mut(6).filter(|part| part.starts_with("pg")) {
            *backend = "{backend}";
        }
        let template = parts.join("/").replace("/sessions/4000000000", "/sessions/{id}");
        let answer = world.send(method, path, "", body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        // As what is asked on a terminal is to end.
        assert!(answer.body.strip_suffix('\n').is_some_and(|rest| !rest.ends_with('\n')), "{answer:?}");
        let key = (method.to_owned(), template);
        let operation = operations.get(&key).unwrap_or_else(|| panic!("{key:?} is not in the document"));
        answers.push((format!("{method} {path}"), schema(operation, status), answer.json()));
        done.insert(key);
    };
    let pool = |path: &str| format!("/api/v1/pools/orders{path}");
    for path in
        ["/healthz", "/readyz", "/api/v1/openapi.json", "/api/v1/listeners", "/api/v1/pools", "/api/v1/sessions"]
    {
        check("GET", path, "", 200);
    }
    for path in ["", "/explain", "/pick", "/events?limit=5", "/failover-config"] {
        check("GET", &pool(path), "", 200);
    }
    check("GET", "/api/v1/events?kind=*", "", 200);
    check("POST", &pool("/evaluate"), "", 200);
    check("POST", &pool("/failover"), r#"{"to": "pg2", "reason": "a test", "sessions": "keep"}"#, 200);
    check("GET", &pool("/explain"), "", 200);
    check("GET", &pool(""), "", 200);
    check("POST", &pool("/failback"), "", 200);
    check("POST", &pool("/pause"), r#"{"timeout": "30s"}"#, 200);
    for path in ["/resume", "/reset", "/check"] {
        check("POST", &pool(path), "", 200);
    }
    check("PATCH", &pool("/failover-config"), r#"{"check": {"interval": "200ms"}}"#, 200);
    check("POST", &pool("/backends"), r#"{"name": "pg9", "address": "127.0.0.1:9", "priority": 9}"#, 201);
    check("PATCH", &pool("/backends/pg9"), r#"{"weight": 3}"#, 200);
    for path in ["/drain", "/ready", "/maintenance", "/reset", "/check", "/successes"] {
        check("POST", &pool(&format!("/backends/pg9{path}")), "", 200);
    }
    check("POST", &pool("/backends/pg9/failures"), r#"{"error": "it hung"}"#, 200);
    let pushed = r#"{"health": "unhealthy", "ttl": "5s", "reason": "disk full", "metrics": {"cpu_percent": 97.5}}"#;
    check("PUT", &pool("/backends/pg9/health"), pushed, 200);
    check("DELETE", &pool("/backends/pg9"), "", 200);
    for order in ["restart", "stop", "start"] {
        check("POST", &pool(&format!("/backends/pg4/tunnel/{order}")), "", 200);
    }
    check("GET", &pool("/backends/pg4/tunnel/logs?limit=5&after=0"), "", 200);
    check("GET", &pool("/backends/pg4/tunnel/explain"), "", 200);
    check("POST", &pool("/backends/pg1/tunnel/start"), "", 409);
    check("DELETE", "/api/v1/sessions/4000000000", "", 404);
    check("GET", "/api/v1/pools/nope", "", 404);
    check("GET", "/api/v1/events?limit=0", "", 400);
    check("POST", &pool("/failover"), r#"{"to": 7, "two": 8}"#, 422);
    check("POST", &pool("/backends"), r#"{"name": "pg1", "address": "127.0.0.1:9"}"#, 409);
    // What is no JSON, and the stream, which has no end.
    let others = ["/", "/metrics", "/dashboard/{file}", "/api/v1/events/stream"];
    let left: Vec<_> = ROUTES
        .iter()
        .filter(|route| !done.contains(&(route.method.to_owned(), route.path.to_owned())))
        .filter(|route| !others.contains(&route.path))
        .collect();
    assert!(left.is_empty(), "not tried: {left:?}");
    for (path, kind) in [("/", "text/html"), ("/metrics", "text/plain")] {
        assert!(world.get(path).header("content-type").starts_with(kind), "{path}");
        let content = &operations[&("GET".to_owned(), path.to_owned())]["responses"]["200"]["content"];
        assert!(content.get(kind).is_some(), "{path}: {content}");
    }
    assert_eq!(invalid(&document, &answers), "");
    // The validator is one.
    let mut wrong = answers;
    wrong.retain(|(name, ..)| name == "GET /api/v1/pools/orders");
    wrong.iter_mut().for_each(|(.., answer)| answer["state"] = json!("splendid"));
    assert!(invalid(&document, &wrong).contains("splendid"));
}

#[test]
fn the_bodies_of_the_document_are_those_that_are_taken() {
    let world = World::start();
    let document = world.document();
    let mut seen = 0;
    for ((method, path), operation) in operations(&document) {
        if method == "GET" || method == "DELETE" {
            continue;
        }
        let target = path.replace("{pool}", "orders").replace("{backend}", "pg1");
        let answer = world.send(&method, &target, "", r#"{"nonsense-that-is-like-nothing": 1}"#);
        assert_eq!(answer.status, 422, "{method} {path}: {}", answer.body);
        let message = answer.json()["errors"][0]["message"].as_str().unwrap().to_owned();
        let reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str();
        let Some(reference) = reference else {
            assert!(message.contains("takes no fields"), "{method} {path}: {message}");
            continue;
        };
        let properties = document.pointer(&format!("{}/properties", reference.trim_start_matches('#')));
        let properties: Map<String, Value> = properties.unwrap().as_object().unwrap().clone();
        // What is taken as in the file is made of the file's own schema.
        if let Some((_, known)) = message.split_once("known are ")
            && !target.ends_with("/backends")
            && method != "PATCH"
        {
            let known: BTreeSet<&str> = known.split(", ").collect();
            assert_eq!(properties.keys().map(String::as_str).collect::<BTreeSet<_>>(), known, "{method} {path}");
            seen += 1;
        }
        for required in
            document.pointer(reference.trim_start_matches('#')).unwrap()["required"].as_array().into_iter().flatten()
        {
            let required = required.as_str().unwrap();
            let answer = world.send(&method, &target, "", "{}");
            let errors = answer.json()["errors"].to_string();
            assert!(errors.contains(&format!("\"{required}\"")), "{method} {path} without {required}: {errors}");
        }
    }
    assert_eq!(seen, 4, "failover, pause, health and failures say what they know");
}

#[test]
fn the_document_says_which_headers_are_taken_and_sent() {
    let world = World::start();
    let document = world.document();
    let operations = operations(&document);
    let takes = |operation: &Value, header: &str| {
        operation["parameters"].as_array().unwrap().iter().any(|one| one["name"] == header && one["in"] == "header")
    };
    let mut tagged = 0;
    for ((method, path), operation) in &operations {
        let of_default = &operation["responses"]["default"]["headers"];
        assert!(["Retry-After", "Allow", "WWW-Authenticate"].iter().all(|name| of_default[name].is_object()), "{path}");
        assert_eq!(takes(operation, "Last-Event-ID"), path.ends_with("/stream"), "{method} {path}");
        if method != "GET" || path.ends_with("/stream") {
            assert!(!takes(operation, "If-None-Match"), "{method} {path}");
            continue;
        }
        let target = path.replace("{pool}", "orders").replace("{file}", "app.js");
        let is_tagged = !world.get(&target).header("etag").is_empty();
        tagged += usize::from(is_tagged);
        let responses = &operation["responses"];
        for told in [
            takes(operation, "If-None-Match"),
            responses["200"]["headers"]["ETag"].is_object(),
            responses["304"]["headers"]["ETag"].is_object(),
        ] {
            assert_eq!(told, is_tagged, "{path}: {operation}");
        }
    }
    assert_eq!(tagged, 6, "the pools, one, explain, failover-config, the dashboard and its files");
    let partial = &document["components"]["schemas"]["Events"]["properties"]["partial"]["description"];
    assert!(partial.as_str().unwrap().contains("a disk that does not answer"), "{partial}");
}

#[test]
fn the_document_admits_nothing_that_is_for_the_file_alone() {
    let world = World::start();
    let document = world.document();
    let check = |check: Value| json!({ "name": "x", "address": "127.0.0.1:9", "check": check });
    let (backends, config) = ("/api/v1/pools/orders/backends", "/api/v1/pools/orders/failover-config");
    let cases = [
        ("POST", backends, "Registration", check(json!({ "kind": "command" }))),
        ("POST", backends, "Registration", check(json!({ "command": ["/bin/true"] }))),
        ("POST", backends, "Registration", check(json!({ "http": { "authorization": "Bearer x" } }))),
        ("POST", backends, "Registration", check(json!({ "http": { "method": "POST" } }))),
        ("POST", backends, "Registration", check(json!({ "interval": { "env": "HOME" } }))),
        ("POST", backends, "Registration", json!({ "name": "x", "address": { "file": "/etc/hostname" } })),
        ("POST", backends, "Registration", json!({ "name": "x", "address": "unix:/run/docker.sock" })),
        ("POST", backends, "Registration", json!({ "name": "x", "address": "/run/docker.sock" })),
        ("PATCH", "/api/v1/pools/orders/backends/pg1", "BackendPatch", json!({ "address": "unix:/run/docker.sock" })),
        ("PATCH", "/api/v1/pools/orders/backends/pg1", "BackendPatch", json!({ "check": { "kind": "command" } })),
        ("PATCH", config, "FailoverPatch", json!({ "check": { "kind": "command" } })),
        ("PATCH", config, "FailoverPatch", json!({ "failover": { "automatic": { "env": "HOME" } } })),
    ];
    let shape = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    for (method, path, name, body) in cases {
        let answer = world.send(method, path, "", &body.to_string());
        assert_eq!(answer.status, 422, "{body}: {answer:?}");
        assert_ne!(invalid(&document, &[(name.to_owned(), shape(name), body.clone())]), "", "{name} admits {body}");
    }
    let body = check(json!({ "kind": "http", "interval": "1s", "http": { "method": "HEAD", "path": "/up" } }));
    assert_eq!(invalid(&document, &[("right".to_owned(), shape("Registration"), body.clone())]), "");
    assert_eq!(world.send("POST", backends, "", &body.to_string()).status, 201);
}

#[test]
fn what_a_caller_knows_is_not_sent_again() {
    let world = World::start();
    // Whatever is tried again and again is never twice the same.
    world.order("/backends/pg4/tunnel/stop", "");
    for path in ["", "/explain", "/failover-config"].map(|path| format!("/api/v1/pools/orders{path}")) {
        let (mut tag, mut body) = (String::new(), String::new());
        // Between two reads the backends may have been checked, which makes it another answer.
        wait_until(&format!("{path} is as it was"), DEADLINE, || {
            let whole = world.get(&path);
            tag = whole.header("etag").to_owned();
            body = whole.body;
            let again = world.send("GET", &path, &format!("If-None-Match: \"x\", {tag}\r\n"), "");
            assert!(again.status == 304 && again.body.is_empty() || again.status == 200, "{again:?}");
            assert_eq!(again.status == 304, again.header("etag") == tag, "{again:?}");
            again.status == 304
        });
        assert!(tag.starts_with("W/\"g") && tag.ends_with('"') && body.starts_with('{'), "{path}: {tag} {body}");
        assert_eq!(world.send("GET", &path, "If-None-Match: W/\"g0-0\"\r\n", "").status, 200);
        assert_eq!(world.send("GET", &path, "If-None-Match: *\r\n", "").status, 304);
    }
    assert!(world.get("/api/v1/pools").header("etag").starts_with("W/\"g"));
    let before = world.get("/api/v1/pools/orders/failover-config");
    let same = world.get("/api/v1/pools/orders/failover-config");
    assert_eq!((before.header("etag"), &before.body), (same.header("etag"), &same.body));
    world.order("/backends/pg1/drain", "");
    let after = world.send("GET", "/api/v1/pools/orders", &format!("If-None-Match: {}\r\n", before.header("etag")), "");
    assert_eq!(after.status, 200, "another generation");
}

#[test]
fn the_pick_is_the_choice_of_the_next_session() {
    let world = World::start();
    let pick = || world.get("/api/v1/pools/orders/pick?client=10.0.0.7");
    let serves = |name: &str| assert_eq!(meet(world.daemon.listener("orders")).unwrap().1.trim(), name);
    let first = pick().json();
    assert_eq!(
        (&first["backend"], &first["priority"], &first["balance"]),
        (&json!("pg1"), &json!(1), &json!("round-robin"))
    );
    assert_eq!(first["address"], world.daemon.backend("orders", "pg1")["address"]);
    assert_eq!(first["passed"][0], json!({ "backend": "pg2", "priority": 2, "reason": "standby: priority 1 serves" }));
    assert!(!first["passed"][1]["reason"].as_str().unwrap().is_empty(), "{first}");
    serves("pg1");
    world.order("/backends/pg1/drain", "");
    let drained = pick().json();
    assert_eq!((&drained["backend"], &drained["passed"][0]["backend"]), (&json!("pg2"), &json!("pg1")));
    assert!(drained["passed"][0]["reason"].as_str().unwrap().contains("drain"), "{drained}");
    assert!(drained["generation"].as_u64() > first["generation"].as_u64(), "{drained}");
    serves("pg2");
    world.order("/backends/pg1/ready", "");
    world.order("/failover", r#"{"to": "pg2"}"#);
    let pinned = pick().json();
    assert_eq!(pinned["backend"], "pg2");
    assert!(pinned["reason"].as_str().unwrap().contains("pinned to pg2"), "{pinned}");
    serves("pg2");
    world.order("/failback", "");
    world.order("/pause", "");
    let nobody = |why: &str| {
        let answer = pick();
        let said = answer.json();
        assert_eq!((answer.status, &said["code"]), (503, &json!("no_eligible_backend")), "{said}");
        assert!(said["detail"].as_str().unwrap().contains(why), "{said}");
    };
    nobody("paused");
    world.order("/resume", "");
    for backend in ["pg1", "pg2"] {
        world.order(&format!("/backends/{backend}/maintenance"), "");
    }
    nobody("no backend may serve");
    for query in ["target=standby", "target=other", "client=nobody", "clint=10.0.0.7"] {
        let answer = world.get(&format!("/api/v1/pools/orders/pick?{query}"));
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("bad_query")), "{query}: {}", answer.body);
    }
}

/// A query that is not right: with the key, and what is said of it.
type BadQuery = (&'static str, &'static str, &'static str);

/// Every route that takes a query, with queries that it does not take.
const BAD_QUERIES: &[(&str, &[BadQuery])] = &[
    (
        "/api/v1/events",
        &[
            ("since=10m", "since", "`since`: `10m` is no time; write one such as 2026-11-21T10:00:00Z"),
            ("until=now", "until", "`until`: `now` is no time; write one such as 2026-11-21T10:00:00Z"),
            ("limit=1001", "limit", "`limit`: `1001` is no number from 1 to 1000"),
            ("after=-1", "after", "`after`: `-1` is no number; write one from 0 on, such as 812"),
            ("sinse=x", "sinse", "`sinse` is unknown; did you mean `since`?"),
            ("limit=1&limit=2", "limit", "`limit`: `2` is its second value; write it once"),
        ],
    ),
    (
        "/api/v1/pools/{pool}/events",
        &[
            ("since=10m", "since", "`since`: `10m` is no time; write one such as 2026-11-21T10:00:00Z"),
            ("pool=orders", "pool", "`pool` is unknown; known are backend, kind, since, until, limit, after"),
        ],
    ),
    (
        "/api/v1/events/stream",
        &[
            ("since=10m", "since", "`since`: `10m` is no time; write one such as 2026-11-21T10:00:00Z"),
            ("limit=5", "limit", "`limit` is unknown; known are pool, backend, kind, since, until, after"),
            ("pol=orders", "pol", "`pol` is unknown; did you mean `pool`?"),
        ],
    ),
    (
        "/api/v1/pools/{pool}/pick",
        &[
            ("client=nobody", "client", "`client`: `nobody` is no IP address; write one, such as 10.0.0.7"),
            ("target=other", "target", "`target`: `other` is none of primary, standby, prefer-standby, any"),
            (
                "target=standby",
                "target",
                "`target`: `standby` is for a postgres pool, and orders is a tcp pool; leave it out",
            ),
            ("clint=10.0.0.7", "clint", "`clint` is unknown; did you mean `client`?"),
        ],
    ),
    (
        "/api/v1/pools/{pool}/backends/{backend}/tunnel/logs",
        &[
            ("limit=501", "limit", "`limit`: `501` is no number from 1 to 500"),
            ("after=x", "after", "`after`: `x` is no number; write one from 0 on, such as 812"),
            ("lines=5", "lines", "`lines` is unknown; known are limit, after"),
        ],
    ),
    (
        "/api/v1/sessions",
        &[
            ("limit=10001", "limit", "`limit`: `10001` is no number from 1 to 10000"),
            ("after=first", "after", "`after`: `first` is no number; write one from 0 on, such as 812"),
            ("colour=red", "colour", "`colour` is unknown; known are listener, pool, backend, after, limit"),
        ],
    ),
];

#[test]
fn a_query_that_is_not_right_is_told_by_its_key_its_value_and_what_would_be_right() {
    let world = World::start();
    let document = world.document();
    for ((method, path), operation) in operations(&document) {
        let in_query = |parameter: &&Value| parameter["in"] == "query";
        let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
        let known: Vec<&str> =
            parameters.iter().filter(in_query).map(|parameter| parameter["name"].as_str().unwrap()).collect();
        let cases = BAD_QUERIES.iter().find(|(of, _)| *of == path && method == "GET");
        assert_eq!(cases.is_some(), !known.is_empty(), "{method} {path}");
        let Some((_, cases)) = cases else { continue };
        let path = path.replace("{pool}", "orders").replace("{backend}", "pg4");
        let ask = |query: &str| {
            let answer = world.get(&format!("{path}?{query}"));
            assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("bad_query")), "{query}: {answer:?}");
            answer.json()
        };
        for (query, key, message) in *cases {
            let said = ask(query);
            assert_eq!(said["detail"], *message, "{path}?{query}");
            assert_eq!(said["errors"], json!([{ "field": key, "message": message }]), "{path}?{query}");
        }
        // What is described is what is known, and all that is wrong is told at once.
        let said = ask("one=1&two=2");
        let known = |key: &str| format!("`{key}` is unknown; known are {}", known.join(", "));
        assert_eq!(said["detail"], format!("{}; {}", known("one"), known("two")));
        assert_eq!(said["errors"].as_array().unwrap().len(), 2);
    }
    let answer = world.send("GET", "/api/v1/events/stream", "Last-Event-ID: x\r\n", "");
    assert_eq!(answer.json()["detail"], "`Last-Event-ID`: `x` is no number of an event; write the last `id` that came");
}

#[test]
fn whoever_is_passed_is_passed_for_a_reason() {
    let [a, b, mut c] = ["a", "b", "c"].map(Backend::start);
    let tables = format!("{}{}{}", a.toml("orders", 1), b.toml("orders", 1), c.toml("orders", 2));
    let tables = tables.replace("priority = 1\n", "priority = 1\nmax_connections = 1\n");
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders]\nwhen_down = \"use-preferred\"\n\
         [pools.orders.check]\ninterval = \"50ms\"\n{tables}"
    ));
    daemon.wait_health("orders", "c", "healthy");
    let pick = || daemon.admin_get("/api/v1/pools/orders/pick").json();
    let reasons = |pick: &Value| -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        pick["passed"].as_array().unwrap().iter().map(|one| (text(&one["backend"]), text(&one["reason"]))).collect()
    };
    let full = "it has as many sessions as it may (1)";
    let (_first, served) = meet(daemon.listener("orders")).unwrap();
    let (one, served) = (pick(), served.trim().to_owned());
    let free = if served == "a" { "b" } else { "a" };
    assert_eq!(one["reason"], format!("{free} is the one backend of priority 1 that may serve"), "{one}");
    assert_eq!(reasons(&one).get(&served).map(String::as_str), Some(full), "{one}");
    let _second = meet(daemon.listener("orders")).unwrap();
    let both = pick();
    assert_eq!(
        (&both["backend"], reasons(&both)),
        (&json!("c"), ["a", "b"].map(|name| (name.into(), full.into())).into())
    );
    drop((_first, _second, a, b));
    c.kill();
    for name in ["a", "b", "c"] {
        daemon.wait_health("orders", name, "unhealthy");
    }
    let dead = pick();
    let why = format!(
        "nothing is fit, and when_down of the pool is use-preferred: {} is preferred",
        dead["backend"].as_str().unwrap()
    );
    assert_eq!(dead["reason"], why, "{dead}");
    assert!(reasons(&dead).values().all(|reason| !reason.is_empty()), "{dead}");
}

#[test]
fn asking_for_the_pick_takes_nobodys_turn() {
    let backends = [Backend::start("a"), Backend::start("b")];
    let tables: String = backends.iter().map(|backend| backend.toml("orders", 1)).collect();
    let daemon = Daemon::start(&format!("[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{tables}"));
    for _ in 0..6 {
        let asked = [(); 3].map(|()| daemon.admin_get("/api/v1/pools/orders/pick").json()["backend"].clone());
        assert!(asked.iter().all(|name| name == &asked[0]), "{asked:?}");
        assert_eq!(meet(daemon.listener("orders")).unwrap().1.trim(), asked[0]);
    }
}

#[test]
fn every_error_is_a_problem_with_a_code() {
    let world = World::start();
    let deep = format!("{}1{}", "{\"to\":".repeat(200), "}".repeat(200));
    let long = format!("{{\"to\": \"{}\"}}", "x".repeat(70_000));
    let failover = "/api/v1/pools/orders/failover";
    let cases: &[(&str, &str, &str, &str, u16, &str)] = &[
        ("GET", "/api/v1/pools/%FF", "", "", 404, "pool_not_found"),
        ("GET", "/api/v1/pools/%zz", "", "", 404, "pool_not_found"),
        ("GET", "/api/v1/pools/%FF/events", "", "", 404, "pool_not_found"),
        ("GET", "/api/v1/pools/%FF/failover-config", "", "", 404, "pool_not_found"),
        ("PATCH", "/api/v1/pools/%FF/failover-config", "", "{}", 404, "pool_not_found"),
        ("POST", "/api/v1/pools/%FF/backends", "", "{}", 404, "pool_not_found"),
        ("PATCH", "/api/v1/pools/orders/backends/%FF", "", "{}", 404, "backend_not_found"),
        ("DELETE", "/api/v1/pools/%C0%80/backends/%FF", "", "", 404, "backend_not_found"),
        ("POST", "/api/v1/pools/orders/backends/%FF/drain", "", "", 404, "backend_not_found"),
        ("GET", "/dashboard/%FF", "", "", 404, "not_found"),
        ("GET", "/dashboard/../etc/passwd", "", "", 404, "not_found"),
        ("DELETE", "/api/v1/sessions/%FF", "", "", 404, "session_not_found"),
        ("DELETE", "/api/v1/sessions/99999999999999999999", "", "", 404, "session_not_found"),
        ("DELETE", "/api/v1/sessions/-1", "", "", 404, "session_not_found"),
        ("GET", "/api/v1/events?limit=%FF", "", "", 400, "bad_query"),
        ("GET", "/api/v1/events?limit=1&limit=2", "", "", 400, "bad_query"),
        ("GET", "/api/v1/events?since=yesterday", "", "", 400, "bad_query"),
        ("GET", "/api/v1/sessions?after=-1", "", "", 400, "bad_query"),
        ("GET", "/api/v1/events/stream?limit=1", "", "", 400, "bad_query"),
        ("GET", "/api/v1/events/stream", "Last-Event-ID: x\r\n", "", 400, "bad_query"),
        ("POST", failover, "", "", 409, "no_eligible_backend"),
        ("POST", failover, "", "{", 400, "bad_body"),
        ("POST", failover, "", "[]", 400, "bad_body"),
        ("POST", failover, "", "NaN", 400, "bad_body"),
        ("POST", failover, "", "{\"to\": 1e999}", 400, "bad_body"),
        ("POST", failover, "", &deep, 400, "bad_body"),
        ("POST", failover, "", &long, 413, "body_too_large"),
        ("POST", failover, "", "{\"to\": \"\\ud800\"}", 400, "bad_body"),
        ("POST", "/api/v1/pools/orders/backends", "", &deep, 400, "bad_body"),
        ("POST", "/api/v1/pools/orders/backends", "", &long, 413, "body_too_large"),
        ("POST", "/api/v1/pools/orders/backends", "", "", 400, "bad_body"),
        ("POST", "/api/v1/pools/orders/backends", "", "[]", 422, "invalid_value"),
        // The content type is not looked at: `curl -d` says that it sends a form.
        ("POST", failover, "Content-Type: image/png\r\n", "{\"two\": 1}", 422, "invalid_body"),
        ("POST", failover, "Content-Type: \r\n", "{\"two\": 1}", 422, "invalid_body"),
        ("POST", failover, "Expect: a miracle\r\n", "{\"two\": 1}", 422, "invalid_body"),
        ("POST", failover, "Origin: http://evil.example\r\n", "", 403, "cross_origin"),
        ("GET", "/api/v1/pools", "Authorization: Bearer x\r\n", "", 401, "not_authenticated"),
        ("OPTIONS", "/api/v1/pools", "", "", 405, "method_not_allowed"),
        ("OPTIONS", "*", "", "", 404, "not_found"),
        ("TRACE", "/healthz", "", "", 405, "method_not_allowed"),
        ("BREW", "/api/v1/pools/orders", "", "", 405, "method_not_allowed"),
        ("CONNECT", "/healthz", "", "", 405, "method_not_allowed"),
        ("POST", "/", "", "", 405, "method_not_allowed"),
        ("GET", "/api/v1/pools/", "", "", 404, "not_found"),
        ("GET", "/api/v2/pools", "", "", 404, "not_found"),
        ("GET", "//healthz", "", "", 404, "not_found"),
    ];
    let document = world.document();
    let codes = document["components"]["schemas"]["ProblemDetails"]["properties"]["code"]["enum"].as_array().unwrap();
    for (method, path, headers, body, status, code) in cases {
        // There is another tier, so that it takes two to have none left.
        if *code == "no_eligible_backend" {
            world.order("/backends/pg2/drain", "");
        }
        let answer = world.send(method, path, headers, body);
        let shown: String = body.chars().take(40).collect();
        let what = format!("{method} {path} {headers:?} {shown}: {answer:?}");
        assert_eq!(answer.status, *status, "{what}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
        assert!(answer.body.ends_with("}\n"), "{what}");
        let said = answer.json();
        assert_eq!((&said["code"], &said["status"]), (&json!(code), &json!(status)), "{what}");
        assert!(codes.contains(&said["code"]), "{code} is not in the document");
        assert_eq!(*status == 405, !answer.header("allow").is_empty(), "{what}");
    }
    let head = http::exchange_head(
        dial_unix(&world.dir.path().join("admin.sock")).unwrap(),
        &format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n", "x".repeat(40_000)),
    );
    // The library answers this one itself, without a body; or the rest of it meets a closed connection.
    assert!(head.is_err() || head.is_ok_and(|answer| answer.status == 431), "a head of 40 KB");
}
