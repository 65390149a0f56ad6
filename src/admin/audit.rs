//! The audit trail: each change by the API is an event, `admin.action`, with who wanted it, from where, and what came
//! of it; those that were refused, too.

use serde_json::{Map, Value, json};

use crate::config::overlay::shown;
use crate::model::{BackendName, EventRecord, PoolName};

use super::Admin;
use super::access::Identity;

/// The longest document that is written down, in bytes of JSON. All that may be set at run time has room in it; it is what
/// may be left out, a null for a key that nobody knows, that has no end.
const SAID_MAX: usize = 16 * 1024;
/// Of a document that was refused, this many keys at most are named.
const KEYS_MAX: usize = 32;
/// The longest name of a key that is written down, with the tables it stands in, in characters.
const KEY_MAX: usize = 80;

/// What somebody wants done.
#[derive(Debug, Clone)]
pub(super) struct Action {
    /// What: `backend.register`.
    pub(super) what: &'static str,
    pub(super) pool: Option<PoolName>,
    pub(super) backend: Option<BackendName>,
    pub(super) session: Option<u64>,
    /// What was said with it: figures of a backend are kept over time by this.
    pub(super) said: Option<Value>,
}

/// The entry for `action` of `caller`, with `result`: `done`, or the code of the refusal.
pub(super) fn entry(admin: &Admin, caller: &Identity, action: &Action, result: &str) -> EventRecord {
    let Action { what, session, said, .. } = action;
    let detail =
        json!({ "action": what, "address": caller.address, "result": result, "session": session, "said": said });
    EventRecord {
        pool: action.pool.clone(),
        backend: action.backend.clone(),
        status: Some(if result == "done" { "completed" } else { "failed" }.to_owned()),
        actor: caller.actor.clone(),
        ..admin.settings.event("admin.action", detail)
    }
}

/// What a document that was taken says, as it is shown to all. There is no secret in it: none may be set at run time.
pub(super) fn taken(document: &Value) -> Value {
    let bytes = document.to_string().len();
    if bytes <= SAID_MAX { shown(document) } else { json!({ "left_out_bytes": bytes }) }
}

/// What a document that was refused speaks of. Its values may be secrets, which is why it was refused, and are left out.
pub(super) fn refused(document: &Value) -> Value {
    let mut keys = Vec::new();
    if let Value::Object(table) = document {
        name_keys(table, "", &mut keys);
    }
    json!({ "keys": keys })
}

/// Adds the keys of `table`, which stands at `path`: `check.interval`.
fn name_keys(table: &Map<String, Value>, path: &str, keys: &mut Vec<String>) {
    for (name, value) in table {
        let key: String = path.chars().chain(name.chars()).take(KEY_MAX).collect();
        match value {
            _ if keys.len() >= KEYS_MAX => return,
            Value::Object(below) if !below.is_empty() && path.len() < KEY_MAX => {
                name_keys(below, &format!("{key}."), keys);
            }
            Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                keys.push(key)
            }
        }
    }
}

/// Notes in the history what came of `action`. Never waits.
pub(super) fn note(admin: &Admin, caller: &Identity, action: &Action, result: &str) {
    admin.settings.store().append(entry(admin, caller, action, result));
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::{KEY_MAX, KEYS_MAX, SAID_MAX, refused, taken};

    #[test]
    fn of_what_was_refused_the_keys_are_named_and_no_value() {
        let document =
            json!({ "check": { "http": { "authorization": "hunter2" }, "kind": null }, "weight": 3, "x": {} });
        assert_eq!(refused(&document), json!({ "keys": ["check.http.authorization", "check.kind", "weight", "x"] }));
        assert_eq!(refused(&json!(["hunter2"])), json!({ "keys": [] }));
    }

    #[test]
    fn what_is_written_down_has_an_end() {
        let many: Map<String, Value> = (0..5000).map(|at| (format!("key-{at}"), Value::Null)).collect();
        let bytes = json!(many).to_string().len();
        assert!(bytes > SAID_MAX);
        assert_eq!(taken(&json!(many)), json!({ "left_out_bytes": bytes }));
        assert_eq!(refused(&json!(many))["keys"].as_array().map(Vec::len), Some(KEYS_MAX));
        let mut deep = json!(1);
        for _ in 0..120 {
            deep = json!({ "long-name": deep, "ä".repeat(200): 2 });
        }
        let named = refused(&deep);
        for key in named["keys"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(key.chars().count() <= KEY_MAX, "{key}");
        }
        let said = json!({ "check": { "interval": "2s" } });
        assert_eq!(taken(&said), said);
    }

    #[test]
    fn of_what_was_taken_nothing_is_told_that_may_hold_a_key() {
        let check = json!({ "http": { "path": "/up?hunter2" }, "agent": { "send": "hunter2" }, "kind": "http" });
        for said in [json!({ "check": check }), json!({ "name": "x", "address": "a:1", "check": check })] {
            let told = taken(&said);
            assert!(!told.to_string().contains("hunter2"), "{told}");
            assert_eq!(told["check"]["http"]["path"], "/up?[not shown]");
        }
    }
}
