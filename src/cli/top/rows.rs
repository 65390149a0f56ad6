//! The rows of each view, out of the daemon's answers.

use serde_json::Value;

use super::super::events::what;
use super::super::views::{
    age, has_clusters, has_tunnels, items, lag, names, place, serves, session_count, size, text, tunnel_state,
};
use super::feed::Seen;
use super::screen::View;

/// What stands in a column of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    pub(super) shown: String,
    /// What it is sorted by; by its text if it is no number.
    pub(super) number: Option<f64>,
}

/// A row, and what it is about.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) pool: Option<String>,
    pub(super) backend: Option<String>,
    /// What tells it from the others of its view, so that it stays chosen when rows come and go.
    pub(super) id: String,
    pub(super) cells: Vec<Cell>,
}

fn word(shown: impl Into<String>) -> Cell {
    Cell { shown: shown.into(), number: None }
}

fn figure(value: &Value, show: impl Fn(f64) -> String) -> Cell {
    let number = value.as_f64();
    Cell { shown: number.map_or_else(|| "-".to_owned(), show), number }
}

fn count(value: &Value) -> Cell {
    figure(value, |number| format!("{number:.0}"))
}

/// The header of a view.
pub(super) fn header(view: View, seen: &Seen) -> Vec<&'static str> {
    let mut header = match view {
        View::Pools => vec!["POOL", "STATE", "REDUNDANCY", "ACTIVE", "STANDBY", "HELD", "SESS", "ORDERED"],
        View::Backends => vec!["BACKEND", "HEALTH", "ADMIN", "SERVES", "SESS", "LATENCY", "ADDRESS"],
        View::Sessions => vec!["ID", "CLIENT", "LISTENER", "BACKEND", "STATE", "AGE", "UP", "DOWN"],
        View::Events => vec!["TIME", "KIND", "POOL", "BACKEND", "WHAT"],
    };
    if view == View::Backends {
        let extra = Extra::of(&seen.pools);
        extra.trim(&mut header);
        if extra.clusters {
            header.splice(3..3, ["ROLE", "LAG"]);
        }
        if extra.tunnels {
            header.insert(3, "TUNNEL");
        }
    }
    header
}

/// Which columns there are of backends besides those that there always are.
#[derive(Debug, Clone, Copy)]
struct Extra {
    clusters: bool,
    tunnels: bool,
}

impl Extra {
    fn of(pools: &Value) -> Self {
        Self { clusters: has_clusters(pools), tunnels: has_tunnels(pools) }
    }

    /// Takes away the last columns that 80 have no room for: addresses, and latencies where there are both clusters and
    /// tunnels. They are in `changeover backends`.
    fn trim<T>(self, columns: &mut Vec<T>) {
        let gone = usize::from(self.clusters) * (1 + usize::from(self.tunnels));
        columns.truncate(columns.len().saturating_sub(gone));
    }
}

/// The rows of a view, in the daemon's order; of events the newest first.
pub(super) fn rows(view: View, seen: &Seen) -> Vec<Row> {
    let pools = items(&seen.pools["pools"]);
    match view {
        View::Pools => pools.iter().map(pool).collect(),
        View::Backends => {
            let extra = Extra::of(&seen.pools);
            let all = pools.iter().flat_map(|pool| items(&pool["backends"]).iter().map(move |one| (pool, one)));
            all.map(|(pool, one)| backend(pool, one, extra)).collect()
        }
        View::Sessions => items(&seen.sessions["sessions"]).iter().map(session).collect(),
        View::Events => items(&seen.events["events"]).iter().rev().map(event).collect(),
    }
}

fn pool(pool: &Value) -> Row {
    let name = text(pool, "name");
    let ordered = match (pool["paused"] == true, pool["pinned"].as_str()) {
        (true, Some(pinned)) => format!("paused, pinned to {pinned}"),
        (true, None) => "paused".to_owned(),
        (false, Some(pinned)) => format!("pinned to {pinned}"),
        (false, None) => "-".to_owned(),
    };
    let sessions = session_count(pool);
    let cells = vec![
        word(&name),
        word(text(pool, "state")),
        word(text(pool, "redundancy")),
        word(names(pool, "active")),
        word(names(pool, "standby")),
        count(&pool["held"]),
        Cell { number: sessions.parse().ok(), shown: sessions },
        word(ordered),
    ];
    Row { pool: Some(name.clone()), backend: None, id: name, cells }
}

fn backend(pool: &Value, backend: &Value, extra: Extra) -> Row {
    let (pool, name) = (text(pool, "name"), text(backend, "name"));
    let full = format!("{pool}/{name}");
    let mut cells = vec![word(&full), word(text(backend, "health")), word(text(backend, "admin_state"))];
    if extra.tunnels {
        cells.push(word(tunnel_state(backend)));
    }
    if extra.clusters {
        let behind =
            if backend["role"] == "standby" { lag(backend).unwrap_or_else(|| "?".to_owned()) } else { "-".to_owned() };
        cells.extend([word(text(backend, "role")), Cell { shown: behind, number: backend["lag_bytes"].as_f64() }]);
    }
    let latency = figure(&backend["latency_ms"], |ms| format!("{ms:.1}ms"));
    cells.extend([word(serves(backend)), count(&backend["sessions"]), latency, word(place(backend))]);
    extra.trim(&mut cells);
    Row { pool: Some(pool), backend: Some(name), id: full, cells }
}

fn session(session: &Value) -> Row {
    let (pool, backend) = (text(session, "pool"), text(session, "backend"));
    let cells = vec![
        count(&session["id"]),
        word(text(session, "client")),
        word(text(session, "listener")),
        word(format!("{pool}/{backend}")),
        word(text(session, "state")),
        figure(&session["age_seconds"], age),
        figure(&session["bytes_to_backend"], size),
        figure(&session["bytes_to_client"], size),
    ];
    Row { pool: Some(pool), backend: Some(backend), id: text(session, "id"), cells }
}

fn event(event: &Value) -> Row {
    let time = text(event, "time");
    let name = |key: &str| event[key].as_str().map(str::to_owned);
    // As short as it can be: the columns are narrow, and `changeover events` has the whole message.
    let said = |key: &str| event[key].as_str();
    let moved = match (said("from"), said("to")) {
        (None, None) => None,
        (from, to) => Some(format!("{} → {}", from.unwrap_or("nothing"), to.unwrap_or("nothing"))),
    };
    let short = match (moved, said("reason")) {
        (Some(moved), Some(reason)) => format!("{moved}: {reason}"),
        (Some(moved), None) => moved,
        (None, Some(reason)) => reason.to_owned(),
        (None, None) => what(event),
    };
    let cells = vec![
        // The time of day; the day is that of the title for all but the oldest.
        word(time.get(5..19).unwrap_or(&time).replace('T', " ")),
        word(text(event, "kind")),
        word(text(event, "pool")),
        word(text(event, "backend")),
        word(short),
    ];
    Row { pool: name("pool"), backend: name("backend"), id: text(event, "id"), cells }
}
