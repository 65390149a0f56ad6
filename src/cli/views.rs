//! What the tables show of the daemon's answers.

use serde_json::Value;

use super::table::{layout, wrapped};

pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn text(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => other.to_string(),
    }
}

pub(super) fn names(value: &Value, key: &str) -> String {
    let names: Vec<&str> = items(&value[key]).iter().filter_map(Value::as_str).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(",") }
}

fn session_count(pool: &Value) -> String {
    items(&pool["backends"]).iter().filter_map(|backend| backend["sessions"].as_i64()).sum::<i64>().to_string()
}

/// A line a pool, in short.
pub(super) fn status(answer: &Value) -> String {
    let row = |pool: &Value| {
        vec![text(pool, "name"), text(pool, "state"), names(pool, "active"), text(pool, "held"), session_count(pool)]
    };
    let rows: Vec<Vec<String>> = items(&answer["pools"]).iter().map(row).collect();
    layout(&["POOL", "STATE", "ACTIVE", "HELD", "SESSIONS"], &rows)
}

/// A line a pool, in full.
pub(super) fn pools(answer: &Value) -> String {
    let row = |pool: &Value| {
        vec![
            text(pool, "name"),
            text(pool, "kind"),
            text(pool, "state"),
            text(pool, "redundancy"),
            names(pool, "active"),
            names(pool, "standby"),
            text(pool, "held"),
            session_count(pool),
        ]
    };
    let rows: Vec<Vec<String>> = items(&answer["pools"]).iter().map(row).collect();
    layout(&["POOL", "KIND", "STATE", "REDUNDANCY", "ACTIVE", "STANDBY", "HELD", "SESSIONS"], &rows)
}

/// A line a backend, and below the table why those do not serve that do not.
pub(super) fn backends(answer: &Value) -> String {
    let (mut rows, mut reasons) = (Vec::new(), String::new());
    for pool in items(&answer["pools"]) {
        for backend in items(&pool["backends"]) {
            let name = format!("{}/{}", text(pool, "name"), text(backend, "name"));
            if let Some(reason) = backend["reason"].as_str().filter(|reason| !reason.is_empty()) {
                reasons.push_str(&wrapped(&format!("{name}: {reason}")));
            }
            rows.push(backend_row(name, backend));
        }
    }
    let header = ["BACKEND", "ADDRESS", "PRIO", "WT", "HEALTH", "SERVES", "SESS", "LATENCY"];
    let gap = if reasons.is_empty() { "" } else { "\n" };
    format!("{}{gap}{reasons}", layout(&header, &rows))
}

/// A line a session.
pub(super) fn sessions(answer: &Value) -> String {
    let row = |session: &Value| {
        vec![
            text(session, "id"),
            text(session, "client"),
            text(session, "listener"),
            format!("{}/{}", text(session, "pool"), text(session, "backend")),
            text(session, "state"),
            session["age_seconds"].as_f64().map_or_else(|| "-".to_owned(), age),
            session["bytes_to_backend"].as_f64().map_or_else(|| "-".to_owned(), size),
            session["bytes_to_client"].as_f64().map_or_else(|| "-".to_owned(), size),
        ]
    };
    let rows: Vec<Vec<String>> = items(&answer["sessions"]).iter().map(row).collect();
    let table = layout(&["ID", "CLIENT", "LISTENER", "BACKEND", "STATE", "AGE", "UP", "DOWN"], &rows);
    if answer["next"].is_null() { table } else { format!("{table}\nthere are more: raise --limit or narrow down\n") }
}

/// Seconds in the largest unit that fits.
pub(super) fn age(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.0}s"),
        s if s < 3600.0 => format!("{:.0}m", s / 60.0),
        s if s < 86_400.0 => format!("{:.1}h", s / 3600.0),
        s => format!("{:.1}d", s / 86_400.0),
    }
}

/// Bytes in the largest unit that fits.
fn size(bytes: f64) -> String {
    match bytes {
        b if b < 1024.0 => format!("{b:.0}B"),
        b if b < 1024.0 * 1024.0 => format!("{:.1}K", b / 1024.0),
        b if b < 1024.0 * 1024.0 * 1024.0 => format!("{:.1}M", b / (1024.0 * 1024.0)),
        b => format!("{:.1}G", b / (1024.0 * 1024.0 * 1024.0)),
    }
}

fn backend_row(name: String, backend: &Value) -> Vec<String> {
    let latency = backend["latency_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}ms"));
    vec![
        name,
        text(backend, "address"),
        text(backend, "priority"),
        text(backend, "weight"),
        text(backend, "health"),
        if backend["active"] == true { "yes" } else { "no" }.to_owned(),
        text(backend, "sessions"),
        latency,
    ]
}
