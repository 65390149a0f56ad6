//! The table of floors, and the imports that it allows: only down, never sideways.
//!
//! A new module under `src/` gets a row here; a row that proves wrong is changed here, with its reason.

use std::collections::BTreeSet;

use crate::Breach;
use crate::source::{Source, closing};

/// A top-level module: where it stands, and what it may import.
pub(crate) struct Room {
    pub(crate) name: &'static str,
    pub(crate) floor: u8,
    pub(crate) may_import: &'static [&'static str],
}

const fn room(name: &'static str, floor: u8, may_import: &'static [&'static str]) -> Room {
    Room { name, floor, may_import }
}

/// `main` stands alone at the top because it starts `demo`, and nothing may go sideways.
pub(crate) const ROOMS: &[Room] = &[
    room(
        "main",
        9,
        &[
            "demo",
            "daemon",
            "cli",
            "listener",
            "session",
            "control",
            "admin",
            "webhook",
            "relay",
            "probe",
            "watch",
            "tunnel",
            "settings",
            "routing",
            "store",
            "dial",
            "config",
            "sys",
            "telemetry",
            "wire",
            "failover",
            "model",
        ],
    ),
    room("demo", 8, &["daemon", "config", "sys", "failover", "model"]),
    room(
        "daemon",
        7,
        &[
            "listener",
            "session",
            "control",
            "admin",
            "webhook",
            "relay",
            "probe",
            "watch",
            "tunnel",
            "settings",
            "routing",
            "store",
            "dial",
            "config",
            "sys",
            "telemetry",
            "failover",
            "model",
        ],
    ),
    // `doctor` asks what the daemon would ask: its probes and its monitor's login are the daemon's own.
    room("cli", 7, &["tunnel", "probe", "watch", "dial", "config", "sys", "failover", "model"]),
    room("listener", 6, &["session", "routing", "sys", "telemetry", "wire", "model"]),
    room("session", 5, &["relay", "routing", "dial", "sys", "telemetry", "wire", "failover", "model"]),
    room(
        "control",
        5,
        &["tunnel", "probe", "watch", "routing", "store", "dial", "sys", "telemetry", "failover", "model"],
    ),
    // Of `config`, what checks a key or a certificate when the file is read: what it makes is what callers are checked by.
    room("admin", 5, &["tunnel", "settings", "routing", "store", "config", "sys", "telemetry", "failover", "model"]),
    // Of `routing`, whom to ask how pools stand: the history does not say what is over. Of `wire`, by what name we ask.
    room("webhook", 5, &["routing", "store", "sys", "telemetry", "wire", "model"]),
    room("relay", 4, &["sys", "wire", "model"]),
    room("probe", 4, &["dial", "sys", "wire", "model"]),
    room("watch", 4, &["dial", "sys", "wire", "model"]),
    room("tunnel", 4, &["dial", "sys", "wire", "model"]),
    room("settings", 4, &["routing", "store", "config", "sys", "model"]),
    room("routing", 3, &["sys", "telemetry", "failover", "model"]),
    room("store", 3, &["sys", "model"]),
    // Of `wire`, what a proxy is asked and answers, and what lines there are in what programs say.
    room("dial", 3, &["sys", "wire", "model"]),
    room("config", 2, &["model"]),
    room("sys", 2, &["model"]),
    room("wire", 2, &["model"]),
    room("telemetry", 2, &["failover", "model"]),
    room("failover", 1, &["model"]),
    room("model", 0, &[]),
];

pub(crate) fn find(name: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| room.name == name)
}

/// What is wrong with the table itself: rows that go up or sideways, name nothing, or form a cycle.
pub(crate) fn table_faults(rooms: &[Room]) -> Vec<String> {
    let mut faults = Vec::new();
    for room in rooms {
        if rooms.iter().filter(|other| other.name == room.name).count() != 1 {
            faults.push(format!("`{}` has more than one row", room.name));
        }
        for name in room.may_import {
            match rooms.iter().find(|other| other.name == *name) {
                None => faults.push(format!("`{}` imports `{name}`, which has no row", room.name)),
                Some(other) if other.floor >= room.floor => {
                    faults.push(format!("`{}` imports `{name}`, which is not below it", room.name));
                }
                Some(_) => {}
            }
        }
    }
    // Take away, again and again, each room all of whose imports are gone: what stays is on a cycle.
    let mut left: BTreeSet<&str> = rooms.iter().map(|room| room.name).collect();
    loop {
        let stays = |room: &&Room| left.contains(room.name) && room.may_import.iter().any(|name| left.contains(name));
        let next: BTreeSet<&str> = rooms.iter().filter(stays).map(|room| room.name).collect();
        if next.len() == left.len() {
            break;
        }
        left = next;
    }
    faults.extend(left.into_iter().map(|name| format!("`{name}` is on a cycle, or imports one")));
    faults
}

/// Modules without a row, and imports that the rows do not allow.
pub(crate) fn check(sources: &[Source]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut unknown = BTreeSet::new();
    for source in sources.iter().filter(|source| source.path.starts_with("src/") && source.room() != "lib") {
        let name = source.room();
        match find(name) {
            Some(room) => {
                breaches.extend(imports(source).into_iter().filter_map(|import| refuse(source, room, import)))
            }
            None if unknown.insert(name.to_owned()) => breaches.push(Breach::new(
                &source.path,
                1,
                format!("unknown module `{name}`: add it to the table of floors in tests/tidy/floors.rs"),
            )),
            None => {}
        }
    }
    breaches
}

/// A name that is reached through the crate's root, or the root itself.
struct Import {
    line: usize,
    name: Option<String>,
}

fn refuse(source: &Source, room: &Room, import: Import) -> Option<Breach> {
    let message = match import.name {
        None => "takes in the crate's root: name the one module that is meant".to_owned(),
        Some(name) if name == room.name || room.may_import.contains(&name.as_str()) => return None,
        Some(name) => match find(&name) {
            Some(other) => {
                let (own, floor) = (room.name, room.floor);
                format!("`{own}` (floor {floor}) may not import `{name}` (floor {})", other.floor)
            }
            None => format!("`crate::{name}` is no module of the table of floors: import it from where it lives"),
        },
    };
    Some(Breach::new(&source.path, import.line, message))
}

/// Every path of the file that passes through the crate's root.
fn imports(source: &Source) -> Vec<Import> {
    let mut found = Vec::new();
    for (index, token) in source.tokens.iter().enumerate() {
        let goes_on = source.is(index + 1, "::");
        let begins = source.begins_path(index);
        if token.is("crate") || (token.is("changeover") && goes_on && begins) {
            let renamed = source.is(index + 1, "as") || (index > 0 && source.is(index - 1, "use"));
            if goes_on {
                walk(source, index + 2, 0, &mut found);
            } else if renamed || source.is(index + 1, "self") {
                found.push(Import { line: token.line, name: None });
            }
        } else if (token.is("super") || (token.is("self") && goes_on)) && begins {
            walk(source, index, source.depth(index), &mut found);
        }
    }
    found
}

/// Follows the path at `index`, `depth` modules below the root.
fn walk(source: &Source, index: usize, depth: usize, found: &mut Vec<Import>) {
    let Some(token) = source.tokens.get(index) else { return };
    let goes_on = source.is(index + 1, "::");
    if token.is("super") && depth > 0 {
        if goes_on {
            walk(source, index + 2, depth - 1, found);
        } else if depth == 1 && source.is(index + 1, "as") {
            found.push(Import { line: token.line, name: None });
        }
    } else if token.is("self") && goes_on {
        walk(source, index + 2, depth, found);
    } else if token.is("{") {
        let end = closing(&source.tokens, index).unwrap_or(index);
        let mut entry = index + 1;
        while entry < end {
            walk(source, entry, depth, found);
            while entry < end && !source.is(entry, ",") {
                let group = if source.is(entry, "{") { closing(&source.tokens, entry) } else { None };
                entry = group.unwrap_or(entry) + 1;
            }
            entry += 1;
        }
    } else if depth == 0 {
        let whole = token.is("*") || token.is("self");
        let is_name = token.text.chars().all(|c| c.is_alphanumeric() || c == '_');
        if whole || is_name {
            found.push(Import { line: token.line, name: (!whole).then(|| token.text.clone()) });
        }
    }
}
