//! The JSON schema of the file (draft 2020-12), printed from the table of keys.

use serde_json::{Map, Value, json};

use super::command::WORDS_MAX;
use super::key::{Key, Kind, Part, Preset};
use super::keys;
use super::tunnel::TEXTS_MAX;

/// The JSON schema of the configuration file, for editors.
#[must_use]
pub fn json_schema() -> Value {
    let mut definitions: Map<String, Value> =
        Part::ALL.iter().map(|part| (part.names().0.to_owned(), table(*part))).collect();
    definitions.insert("lookup".to_owned(), lookup());
    let mut schema = definitions.remove(Part::Root.names().0).unwrap_or_default();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("changeover.toml");
    schema["$defs"] = Value::Object(definitions);
    schema
}

fn lookup() -> Value {
    let one = |name: &str, what: &str| {
        json!({
            "type": "object", "description": what, "properties": { name: { "type": "string", "minLength": 1 } },
            "required": [name], "additionalProperties": false,
        })
    };
    json!({ "oneOf": [
        one("env", "The value of an environment variable."),
        one("file", "The content of a file, without one newline at its end."),
        one("credential", "The same of the file of this name in $CREDENTIALS_DIRECTORY, which systemd sets."),
    ] })
}

fn table(part: Part) -> Value {
    let properties: Map<String, Value> = keys::of(part).map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<&str> =
        keys::of(part).filter(|key| matches!(key.preset, Preset::Required(_))).map(|key| key.name).collect();
    let mut table = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if let Some(table) = table.as_object_mut()
        && !required.is_empty()
    {
        table.insert("required".to_owned(), json!(required));
    }
    if let (Part::Root, Some(table)) = (part, table.as_object_mut()) {
        table.insert("required".to_owned(), json!(["listeners", "pools"]));
    }
    if let (Part::Backend, Some(table)) = (part, table.as_object_mut()) {
        // What a tunnel leads to is its target.
        table.remove("required");
        let either = [&keys::ADDRESS, &keys::TUNNEL].map(|key| json!({ "required": [key.name] }));
        table.insert("anyOf".to_owned(), json!(either));
    }
    table
}

fn property(key: &Key) -> Value {
    let mut property = shape(key.kind);
    if let Some(property) = property.as_object_mut() {
        let description =
            if key.reason.is_empty() { key.doc.to_owned() } else { format!("{} {}", key.doc, key.reason) };
        property.insert("description".to_owned(), json!(description));
        let default = match key.preset {
            Preset::Flag(flag) => Some(json!(flag)),
            Preset::Integer(number) => Some(json!(number)),
            Preset::Text(text) => Some(json!(text)),
            Preset::Empty => Some(json!([])),
            Preset::Required(_) | Preset::Optional(_) | Preset::Section => None,
        };
        if let Some(default) = default {
            property.insert("default".to_owned(), default);
        }
    }
    property
}

fn shape(kind: Kind) -> Value {
    let text = |text: Value| json!({ "anyOf": [text, { "$ref": "#/$defs/lookup" }] });
    let plain = || json!({ "type": "string", "minLength": 1 });
    let entries = |part: Part| {
        json!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z0-9._:-]{1,64}$" },
            "additionalProperties": { "$ref": format!("#/$defs/{}", part.names().0) },
        })
    };
    match kind {
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Duration { .. } => {
            text(json!({ "type": "string", "pattern": "[0-9] *[a-zµμ:]", "examples": ["250ms", "1m 30s"] }))
        }
        Kind::Size { .. } => {
            text(json!({ "type": "string", "pattern": "^ *[0-9]+ *([kKMG]?B|[KMG]iB) *$", "examples": ["64KiB"] }))
        }
        Kind::Word(words) => text(json!({ "enum": words })),
        Kind::Method => text(json!({ "type": "string", "pattern": "^[A-Z]{1,16}$" })),
        Kind::UrlPath => text(json!({ "type": "string", "pattern": "^/[!-~]*$", "maxLength": 2048 })),
        Kind::Statuses => text(json!({ "type": "string", "pattern": "^[ 0-9,-]+$" })),
        Kind::Networks => json!({ "type": "array", "items": text(plain()), "maxItems": 1000 }),
        Kind::Names(_) => json!({ "type": "array", "items": text(plain()), "maxItems": 1000 }),
        Kind::Rate => text(json!({ "type": "string", "pattern": "^ *(0|[1-9][0-9]* */ *(s|min)) *$" })),
        Kind::Text { max } => text(json!({ "type": "string", "maxLength": max })),
        Kind::Command => json!({ "type": "array", "items": text(plain()), "minItems": 1, "maxItems": WORDS_MAX }),
        Kind::Argv => {
            let words = json!({ "type": "array", "items": plain(), "minItems": 1, "maxItems": WORDS_MAX });
            json!({ "type": "array", "items": { "anyOf": [plain(), words] }, "minItems": 1, "maxItems": WORDS_MAX })
        }
        Kind::Texts(_) => {
            let value =
                json!({ "anyOf": [{ "type": ["string", "integer", "boolean"] }, { "$ref": "#/$defs/lookup" }] });
            json!({ "type": "object", "additionalProperties": value, "maxProperties": TEXTS_MAX })
        }
        Kind::Directory | Kind::File => text(json!({ "type": "string", "pattern": "^/", "maxLength": 4096 })),
        Kind::Secret | Kind::Pool | Kind::Address | Kind::Ip => text(plain()),
        Kind::Binds => json!({ "anyOf": [
            plain(), { "$ref": "#/$defs/lookup" },
            { "type": "array", "items": text(plain()), "minItems": 1, "maxItems": 64 },
        ] }),
        Kind::Backends => {
            let mut tables = entries(Part::Backend);
            if let Some(tables) = tables.as_object_mut() {
                tables.insert("minProperties".to_owned(), json!(1));
            }
            json!({ "anyOf": [{ "type": "array", "items": text(plain()), "minItems": 1, "maxItems": 20_000 }, tables] })
        }
        Kind::Table(part) => json!({ "$ref": format!("#/$defs/{}", part.names().0) }),
        Kind::Tables(part) => entries(part),
    }
}
