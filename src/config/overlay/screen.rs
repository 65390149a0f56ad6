//! What may be set at run time. A key may be if it is named here; one that is not is refused, so that a
//! new key of the file is for the file alone until somebody says otherwise.

use serde_json::{Map, Value, json};

use crate::config::json_schema;
use crate::config::key::{Key, Kind, Part};
use crate::config::keys;
use crate::config::wording::quote;
use crate::model::HIDDEN;

use super::{FieldFault, PatchKey};

/// The keys that may be set, by the table they stand in.
const SETTABLE: &[(Part, &[&str])] = &[
    (Part::Pool, &["check", "failover"]),
    (
        Part::Check,
        &[
            "kind",
            "interval",
            "timeout",
            "unhealthy_threshold",
            "healthy_threshold",
            "recovery_interval",
            "recovery_attempts",
            "recovery_backoff",
            "max_latency",
            "http",
            "agent",
        ],
    ),
    (Part::Http, &["method", "path", "port", "expect"]),
    (Part::Agent, &["port", "send"]),
    (Part::Failover, &["automatic", "failback", "failback_after", "sessions"]),
    (Part::Sessions, &["dead", "unreachable", "demoted", "lagging", "check_failed", "drained", "failed_back"]),
    (Part::Backend, &["address", "priority", "weight", "max_connections", "send_proxy_protocol", "check"]),
];

/// Where the file's schema says how a value is looked up.
const LOOKUP: &str = "#/$defs/lookup";

/// The check that runs a program, and the key that says which.
const COMMAND: &str = "command";
/// Why neither may be set.
const NO_PROGRAM: &str =
    "runs a program with the daemon's rights, and whoever may call the API must not choose one; write it in the file";
/// Why a secret may not be set.
const NO_SECRET: &str = "is a secret, and what is set at run time is kept on disk and shown; \
     write it in the file, best as { file = \"PATH\" }";
/// The methods by which a check that is set at run time may ask.
const CHECK_METHODS: &[&str] = &["GET", "HEAD"];
/// Why it may not by another.
const NO_ORDER: &str = "may be an order to whoever is at the address that the caller chooses; at run time GET and HEAD may be set, \
     others in the file";
/// Why no Unix socket may be dialled: whoever listens there takes the daemon for the user that it runs as.
const NO_SOCKET: &str = "is a Unix socket, which would be dialled with the daemon's rights, and whoever may call the API must not \
     choose one; a backend there belongs in the file";
/// What is said to whoever wants to move a backend that stands in the file.
pub(super) const FIXED_ADDRESS: &str = "`address` of a backend that stands in the file is changed in the file";
/// Why any other may not.
const NOT_NAMED: &str = "cannot be set at run time; write it in the file and reload";

/// Why `key` may not be set at run time; nothing if it may.
pub(super) fn refusal(key: &Key) -> Option<&'static str> {
    if key.kind == Kind::Secret {
        return Some(NO_SECRET);
    }
    let may = SETTABLE.iter().any(|(part, names)| *part == key.part && names.contains(&key.name));
    if may { None } else { Some(NOT_NAMED) }
}

/// The JSON schema of what may be set at run time: the file's own tables by their names there, without what is for the file
/// alone.
#[must_use]
pub fn settable_schema() -> Map<String, Value> {
    let mut tables = json_schema()["$defs"].take();
    let settable = SETTABLE.iter().filter(|(part, _)| *part != Part::Pool).map(|(part, names)| {
        let name = part.names().0;
        let mut table = tables[name].take();
        if let Some(properties) = table["properties"].as_object_mut() {
            properties.retain(|name, _| names.contains(&name.as_str()));
            properties.values_mut().for_each(take_no_lookup);
        }
        let kinds = (*part == Part::Check).then(|| table["properties"][keys::CHECK_KIND.name]["enum"].as_array_mut());
        if let Some(kinds) = kinds.flatten() {
            kinds.retain(|kind| kind != COMMAND);
        }
        if *part == Part::Http {
            table["properties"][keys::METHOD.name]["enum"] = json!(CHECK_METHODS);
        }
        if *part == Part::Backend {
            // A tunnel is for the file alone.
            table["required"] = json!([keys::ADDRESS.name]);
            drop(table.as_object_mut().and_then(|table| table.remove("anyOf")));
            let address = &mut table["properties"][keys::ADDRESS.name];
            address["not"] = json!({ "pattern": "^(unix:|/)" });
            address["description"] =
                json!("Where it listens: \"HOST:PORT\"; a host name is looked up at each dial. A Unix socket is for the file alone.");
        }
        (name.to_owned(), table)
    });
    settable.collect()
}

/// Has a key take a value alone, not the environment variable or the file that has it.
fn take_no_lookup(property: &mut Value) {
    let Some(ways) = property.get_mut("anyOf").and_then(Value::as_array_mut) else { return };
    ways.retain(|way| way["$ref"] != LOOKUP);
    if let [Value::Object(one)] = ways.as_mut_slice() {
        let one = std::mem::take(one);
        if let Some(property) = property.as_object_mut() {
            property.remove("anyOf");
            property.extend(one);
        }
    }
}

/// The key `name` of a table, if there is one.
pub(super) fn key_of(part: Part, name: &str) -> Option<&'static Key> {
    keys::of(part).find(|key| key.name == name)
}

/// What of `table` may not be set at run time, and why. Unknown keys are left for the reader.
pub(super) fn screen(part: Part, table: &Map<String, Value>, path: &str, faults: &mut Vec<FieldFault>) {
    for (name, value) in table.iter().filter(|(_, value)| !value.is_null()) {
        let field = join(path, name);
        if let Some(message) = one(part, name, value) {
            faults.push(FieldFault { field, message });
        } else if let (Some(Key { kind: Kind::Table(below), .. }), Some(table)) =
            (key_of(part, name), value.as_object())
        {
            screen(*below, table, &field, faults);
        }
    }
}

/// Why a key of a table may not be set to `value`.
fn one(part: Part, name: &str, value: &Value) -> Option<String> {
    if part == Part::Check && name == COMMAND {
        return Some(format!("`{name}` {NO_PROGRAM}"));
    }
    if part == Part::Check && name == keys::CHECK_KIND.name && value == COMMAND {
        return Some(format!("`{name}`: `{COMMAND}` {NO_PROGRAM}"));
    }
    if part == Part::Backend && name == keys::TUNNEL.name {
        return Some(format!("`{name}` {NO_PROGRAM}"));
    }
    if part == Part::Http
        && name == keys::METHOD.name
        && let Some(method) = value.as_str().filter(|method| !CHECK_METHODS.contains(method))
    {
        return Some(format!("`{name}`: {} {NO_ORDER}", quote(method)));
    }
    if part == Part::Backend
        && name == keys::ADDRESS.name
        && let Some(socket) = value.as_str().filter(|address| is_socket(address))
    {
        return Some(format!("`{name}`: {} {NO_SOCKET}", quote(socket)));
    }
    if value.as_str().is_some_and(|text| text.ends_with(HIDDEN)) {
        return Some(format!("`{name}`: {HIDDEN} stands for what is not shown; leave the key out to keep it"));
    }
    key_of(part, name).and_then(refusal).map(|why| format!("`{name}` {why}"))
}

/// Whether `address` is meant to be a Unix socket, be it written as one or not.
fn is_socket(address: &str) -> bool {
    address.starts_with("unix:") || address.starts_with('/')
}

/// Why a registration may not be; nothing if it may.
pub(super) fn registration(table: &Map<String, Value>) -> Option<String> {
    let mut faults = Vec::new();
    screen(Part::Backend, table, "", &mut faults);
    faults.into_iter().next().map(|fault| fault.message)
}

/// Why a patch may not be; nothing if it may.
pub(super) fn patch(key: &PatchKey, value: &Value) -> Option<String> {
    let mut part = if key.backend.is_some() { Part::Backend } else { Part::Pool };
    let mut names = key.path.split('.').peekable();
    while let Some(name) = names.next() {
        if part == Part::Backend && name == keys::ADDRESS.name {
            return Some(FIXED_ADDRESS.to_owned());
        }
        let value = if names.peek().is_none() { value } else { &Value::Null };
        if let Some(message) = one(part, name, value) {
            return Some(message);
        }
        match key_of(part, name).map(|key| key.kind) {
            Some(Kind::Table(_)) if names.peek().is_none() => {
                return Some(format!("`{name}` is a table; patch its keys"));
            }
            Some(Kind::Table(below)) => part = below,
            // What is unknown, or no table, is told by the reader.
            Some(_) | None => return None,
        }
    }
    None
}

/// A key with the tables it stands in.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::{COMMAND, SETTABLE, key_of, refusal};
    use crate::config::key::{Kind, Part};
    use crate::config::keys::KEYS;

    #[test]
    fn what_may_be_set_is_a_key_and_neither_a_secret_nor_a_program() {
        for (part, names) in SETTABLE {
            for name in *names {
                let key = key_of(*part, name);
                assert!(key.is_some_and(|key| key.kind != Kind::Secret), "{name}");
                assert_ne!(*name, COMMAND);
            }
        }
        for key in KEYS.iter().filter(|key| matches!(key.part, Part::Daemon | Part::Admin | Part::Log | Part::Listener))
        {
            assert!(refusal(key).is_some(), "{}", key.name);
        }
    }
}
