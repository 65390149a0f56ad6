//! JSON merge patches: on a registered backend's table, and as single keys.

use serde_json::{Map, Value};

use crate::config::key::{Kind, Part};
use crate::config::view::unknown_key;

use super::FieldFault;
use super::screen::{join, key_of};

/// The keys of a table with those of the tables in it, each with its path; a table as such where it is null.
pub(super) fn flatten(
    part: Part,
    table: &Map<String, Value>,
    path: &str,
    leaves: &mut Vec<(String, Value)>,
    faults: &mut Vec<FieldFault>,
) {
    for (name, value) in table {
        let field = join(path, name);
        match (key_of(part, name).map(|key| key.kind), value) {
            (None, _) if faults.iter().any(|fault| fault.field == field) => {}
            // A name with a dot in it ends here too, and is never taken for a path.
            (None, _) => faults.push(FieldFault { message: unknown_key(part, "", name), field }),
            (Some(Kind::Table(below)), Value::Object(table)) => flatten(below, table, &field, leaves, faults),
            (Some(Kind::Table(_)), value) if !value.is_null() => {
                faults.push(FieldFault { message: format!("`{name}` is a table; write {{\"key\": value}}"), field });
            }
            (Some(_), value) => leaves.push((field, value.clone())),
        }
    }
}

/// A JSON merge patch (RFC 7396): objects are merged, `null` takes away, anything else stands for what was there.
pub(super) fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (name, value) in from {
        match value {
            Value::Null => drop(into.remove(name)),
            Value::Object(from) => {
                let below = into.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
                if !below.is_object() {
                    *below = Value::Object(Map::new());
                }
                if let Value::Object(below) = below {
                    merge(below, from);
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                into.insert(name.clone(), value.clone());
            }
        }
    }
}
