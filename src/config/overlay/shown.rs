//! What was said of a check and may hold a key, as it is shown to whoever may read: the query of a path, what is sent to an
//! agent, and what an expect check says and hears are not.

use serde_json::{Map, Value};

use crate::config::key::{Key, Kind, Part};
use crate::config::keys;
use crate::model::{HIDDEN, HttpCheck};

use super::PatchKey;
use super::screen::key_of;

/// What a caller said, for all to read: the table of a backend, or the check and failover tables of a pool.
#[must_use]
pub fn document(said: &Value) -> Value {
    // A pool's `check` is a backend's, and nothing is hidden of its `failover`.
    said.as_object().map_or_else(|| said.clone(), |said| Value::Object(table(Part::Backend, said)))
}

/// The value of a patched key.
pub(super) fn patched(key: &PatchKey, value: &Value) -> Value {
    let mut names = key.path.split('.');
    let mut part = if key.backend.is_some() { Part::Backend } else { Part::Pool };
    let mut found = names.next().and_then(|name| key_of(part, name));
    for name in names {
        let Some(Key { kind: Kind::Table(below), .. }) = found else { break };
        part = *below;
        found = key_of(part, name);
    }
    found.map_or_else(|| value.clone(), |key| self::value(key, value))
}

/// The value of `key`.
pub(super) fn value(key: &Key, value: &Value) -> Value {
    match (key.kind, value) {
        (Kind::UrlPath, Value::String(path)) => Value::from(HttpCheck::shown_path(path)),
        (_, Value::String(text)) if is_hidden(key) && !text.is_empty() => Value::from(HIDDEN),
        (Kind::Table(part), Value::Object(below)) => Value::Object(table(part, below)),
        _ => value.clone(),
    }
}

fn is_hidden(key: &Key) -> bool {
    [keys::SEND, keys::EXPECT_SEND, keys::ANSWER].contains(key)
}

fn table(part: Part, of: &Map<String, Value>) -> Map<String, Value> {
    let shown =
        |name: &str, value: &Value| key_of(part, name).map_or_else(|| value.clone(), |key| self::value(key, value));
    of.iter().map(|(name, value)| (name.clone(), shown(name, value))).collect()
}
