//! What outlives a restart besides the history: registrations, patches, pins, pauses, admin states
//! and counters, each under its names, and how they become rows and come back from them.
//!
//! What a registration or a patch says is checked by those who make it; here they are texts of bounded size.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::model::{BackendName, PoolName, WebhookName};

use super::entries::{AdminEntry, Patch, Pause, Pin, PoolCounters, StoppedTunnel};

/// The longest text of one entry, in bytes: a backend's table is far below a tenth of it.
pub(super) const ENTRY_MAX: usize = 64 << 10;
/// The most entries in all: twice as many backends as a pool may have, and an admin state and a counter for each. Beyond it
/// nothing more is registered or patched; how much else there is, the plan bounds.
pub(super) const ENTRIES_MAX: usize = 120_000;

/// A backend of a pool, by their names.
pub type BackendKey = (PoolName, BackendName);

/// One entry set or, where there is none, removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A backend registered at run time: its table as JSON.
    Registration(BackendKey, Option<String>),
    /// A dotted key of a pool's configuration.
    Patch(PoolName, String, Option<Patch>),
    /// Where a pool serves from.
    Pin(PoolName, Option<Pin>),
    /// Whether a pool's clients wait.
    Pause(PoolName, Option<Pause>),
    /// What people say of a backend.
    AdminState(BackendKey, Option<AdminEntry>),
    /// Whether the tunnel to a backend is stopped.
    StoppedTunnel(BackendKey, Option<StoppedTunnel>),
    /// What is counted of a pool.
    Counters(PoolName, Option<PoolCounters>),
    /// How long a backend has been unhealthy in all.
    Downtime(BackendKey, Option<Duration>),
    /// The highest line of history that a cluster's clients were sent to: as JSON, whose form is the core's.
    Lineage(PoolName, Option<String>),
    /// The last event that a webhook is done with.
    Cursor(WebhookName, Option<u64>),
}

/// Everything that outlives a restart besides the history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Backends registered at run time: their tables as JSON.
    pub registrations: BTreeMap<BackendKey, String>,
    /// Changed keys of pools: by pool and dotted key.
    pub patches: BTreeMap<(PoolName, String), Patch>,
    /// Pools that serve from where an operator said.
    pub pins: BTreeMap<PoolName, Pin>,
    /// Pools whose clients wait.
    pub pauses: BTreeMap<PoolName, Pause>,
    /// What people say of backends.
    pub admin_states: BTreeMap<BackendKey, AdminEntry>,
    /// Backends whose tunnels are stopped.
    pub stopped_tunnels: BTreeMap<BackendKey, StoppedTunnel>,
    /// What is counted of pools.
    pub counters: BTreeMap<PoolName, PoolCounters>,
    /// How long backends have been unhealthy in all.
    pub downtimes: BTreeMap<BackendKey, Duration>,
    /// The highest line of history that each cluster's clients were sent to, as JSON.
    pub lineages: BTreeMap<PoolName, String>,
    /// The last event that each webhook is done with.
    pub cursors: BTreeMap<WebhookName, u64>,
}

/// A kind of entry, which is a table on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    Registrations,
    Patches,
    Pins,
    Pauses,
    AdminStates,
    StoppedTunnels,
    Counters,
    Downtimes,
    Lineages,
    Cursors,
}

impl Shelf {
    pub(super) const ALL: &'static [Self] = &[
        Self::Registrations,
        Self::Patches,
        Self::Pins,
        Self::Pauses,
        Self::AdminStates,
        Self::StoppedTunnels,
        Self::Counters,
        Self::Downtimes,
        Self::Lineages,
        Self::Cursors,
    ];

    /// Whether files of earlier versions may lack it.
    pub(super) const fn came_later(self) -> bool {
        matches!(self, Self::Lineages | Self::Cursors | Self::StoppedTunnels)
    }

    /// The table's name on disk.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Registrations => "registrations",
            Self::Patches => "patches",
            Self::Pins => "pins",
            Self::Pauses => "pauses",
            Self::AdminStates => "admin_states",
            Self::StoppedTunnels => "stopped_tunnels",
            Self::Counters => "counters",
            Self::Downtimes => "downtimes",
            Self::Lineages => "lineages",
            Self::Cursors => "webhooks",
        }
    }
}

/// An entry as it is on disk: a pool's name, another name or nothing, and a text or its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) shelf: Shelf,
    pub(super) pool: String,
    pub(super) name: String,
    pub(super) value: Option<String>,
}

/// A row that no version of this program has written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an entry of {0} cannot be read: {1}")]
pub(super) struct UnreadableRow(pub(super) &'static str, pub(super) String);

impl Change {
    /// How many bytes of text it brings.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Registration((pool, name), value) => {
                pool.as_str().len() + name.as_str().len() + value.as_ref().map_or(0, String::len)
            }
            Self::Patch(pool, key, patch) => {
                let text = |patch: &Patch| patch.value.len() + patch.file_value.as_ref().map_or(0, String::len);
                pool.as_str().len() + key.len() + patch.as_ref().map_or(0, text)
            }
            Self::Pin(pool, pin) => {
                let texts = |Pin { backend, mates, reason, server, .. }: &Pin| {
                    let names = mates.iter().chain([backend]).map(|name| name.as_str().len());
                    let host = server.as_ref().map_or(0, |server| server.address.host().len());
                    names.sum::<usize>() + reason.as_ref().map_or(0, String::len) + host
                };
                pool.as_str().len() + pin.as_ref().map_or(0, texts)
            }
            Self::AdminState((pool, name), _)
            | Self::StoppedTunnel((pool, name), _)
            | Self::Downtime((pool, name), _) => pool.as_str().len() + name.as_str().len(),
            Self::Pause(pool, _) | Self::Counters(pool, _) => pool.as_str().len(),
            Self::Lineage(pool, lineage) => pool.as_str().len() + lineage.as_ref().map_or(0, String::len),
            Self::Cursor(name, _) => name.as_str().len(),
        }
    }

    /// Whether it may be as long as it is. What a line of history is made of was bounded where it was read.
    pub(super) fn fits(&self) -> bool {
        matches!(self, Self::Lineage(..)) || !self.is_set() || self.weight() <= ENTRY_MAX
    }

    /// Whether it sets an entry, rather than removing it.
    pub(super) const fn is_set(&self) -> bool {
        match self {
            Self::Registration(_, value) => value.is_some(),
            Self::Patch(_, _, patch) => patch.is_some(),
            Self::Pin(_, pin) => pin.is_some(),
            Self::Pause(_, pause) => pause.is_some(),
            Self::AdminState(_, entry) => entry.is_some(),
            Self::StoppedTunnel(_, stopped) => stopped.is_some(),
            Self::Counters(_, counters) => counters.is_some(),
            Self::Downtime(_, time) => time.is_some(),
            Self::Lineage(_, lineage) => lineage.is_some(),
            Self::Cursor(_, id) => id.is_some(),
        }
    }

    /// What is to be written.
    pub(super) fn row(&self) -> Row {
        match self {
            Self::Registration((pool, name), value) => row(Shelf::Registrations, pool, name.as_str(), value.clone()),
            Self::Patch(pool, key, patch) => row(Shelf::Patches, pool, key, patch.as_ref().map(json)),
            Self::Pin(pool, pin) => row(Shelf::Pins, pool, "", pin.as_ref().map(json)),
            Self::Pause(pool, pause) => row(Shelf::Pauses, pool, "", pause.as_ref().map(json)),
            Self::AdminState((pool, name), entry) => {
                row(Shelf::AdminStates, pool, name.as_str(), entry.as_ref().map(json))
            }
            Self::StoppedTunnel((pool, name), stopped) => {
                row(Shelf::StoppedTunnels, pool, name.as_str(), stopped.as_ref().map(json))
            }
            Self::Counters(pool, counters) => row(Shelf::Counters, pool, "", counters.as_ref().map(json)),
            Self::Downtime((pool, name), time) => {
                row(Shelf::Downtimes, pool, name.as_str(), time.map(|time| time.as_micros().to_string()))
            }
            Self::Lineage(pool, lineage) => row(Shelf::Lineages, pool, "", lineage.clone()),
            // The first of a row's two names; what it is a name of, the shelf says.
            Self::Cursor(name, id) => {
                row(Shelf::Cursors, &PoolName::from(name.as_str()), "", id.map(|id| id.to_string()))
            }
        }
    }
}

fn row(shelf: Shelf, pool: &PoolName, name: &str, value: Option<String>) -> Row {
    Row { shelf, pool: pool.as_str().to_owned(), name: name.to_owned(), value }
}

/// Plain types of texts and numbers have always a JSON.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

impl State {
    /// Makes `change`.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Registration(key, value) => put(&mut self.registrations, key, value),
            Change::Patch(pool, key, patch) => put(&mut self.patches, (pool, key), patch),
            Change::Pin(pool, pin) => put(&mut self.pins, pool, pin),
            Change::Pause(pool, pause) => put(&mut self.pauses, pool, pause),
            Change::AdminState(key, entry) => put(&mut self.admin_states, key, entry),
            Change::StoppedTunnel(key, stopped) => put(&mut self.stopped_tunnels, key, stopped),
            Change::Counters(pool, counters) => put(&mut self.counters, pool, counters),
            Change::Downtime(key, time) => put(&mut self.downtimes, key, time),
            Change::Lineage(pool, lineage) => put(&mut self.lineages, pool, lineage),
            Change::Cursor(name, id) => put(&mut self.cursors, name, id),
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let Self { registrations, patches, pins, pauses, admin_states, stopped_tunnels, .. } = self;
        let Self { counters, downtimes, lineages, cursors, .. } = self;
        let ordered = [registrations.len(), patches.len(), pins.len(), pauses.len(), admin_states.len()];
        let counted = [stopped_tunnels.len(), counters.len(), downtimes.len(), lineages.len(), cursors.len()];
        ordered.iter().chain(&counted).sum()
    }

    /// Whether `change` would be one more of those that people add as they like.
    pub(super) fn grows_by(&self, change: &Change) -> bool {
        match change {
            Change::Registration(key, Some(_)) => !self.registrations.contains_key(key),
            Change::Patch(pool, key, Some(_)) => !self.patches.contains_key(&(pool.clone(), key.clone())),
            Change::Registration(..)
            | Change::Patch(..)
            | Change::Pin(..)
            | Change::Pause(..)
            | Change::AdminState(..)
            | Change::StoppedTunnel(..)
            | Change::Counters(..)
            | Change::Downtime(..)
            | Change::Lineage(..)
            | Change::Cursor(..) => false,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything, as changes to nothing.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> {
        let registrations = self.registrations.iter().map(|(k, v)| Change::Registration(k.clone(), Some(v.clone())));
        let patches =
            self.patches.iter().map(|((pool, key), v)| Change::Patch(pool.clone(), key.clone(), Some(v.clone())));
        let pins = self.pins.iter().map(|(k, v)| Change::Pin(k.clone(), Some(v.clone())));
        let pauses = self.pauses.iter().map(|(k, v)| Change::Pause(k.clone(), Some(v.clone())));
        let admin = self.admin_states.iter().map(|(k, v)| Change::AdminState(k.clone(), Some(v.clone())));
        let stopped = self.stopped_tunnels.iter().map(|(k, v)| Change::StoppedTunnel(k.clone(), Some(v.clone())));
        let counters = self.counters.iter().map(|(k, v)| Change::Counters(k.clone(), Some(*v)));
        let downtimes = self.downtimes.iter().map(|(k, v)| Change::Downtime(k.clone(), Some(*v)));
        let lineages = self.lineages.iter().map(|(k, v)| Change::Lineage(k.clone(), Some(v.clone())));
        let cursors = self.cursors.iter().map(|(k, v)| Change::Cursor(k.clone(), Some(*v)));
        let counters = counters.chain(lineages).chain(cursors).chain(stopped);
        registrations.chain(patches).chain(pins).chain(pauses).chain(admin).chain(counters).chain(downtimes)
    }

    /// Takes a row in that was read from disk.
    pub(super) fn load(&mut self, shelf: Shelf, pool: &str, name: &str, text: &str) -> Result<(), UnreadableRow> {
        let unreadable = |error: serde_json::Error| UnreadableRow(shelf.name(), error.to_string());
        let pool = PoolName::from(pool);
        let key = || (pool.clone(), BackendName::from(name));
        let change = match shelf {
            Shelf::Registrations => Change::Registration(key(), Some(text.to_owned())),
            Shelf::Patches => {
                Change::Patch(pool, name.to_owned(), Some(serde_json::from_str(text).map_err(unreadable)?))
            }
            Shelf::Pins => Change::Pin(pool, Some(serde_json::from_str(text).map_err(unreadable)?)),
            Shelf::Pauses => Change::Pause(pool, Some(serde_json::from_str(text).map_err(unreadable)?)),
            Shelf::AdminStates => Change::AdminState(key(), Some(serde_json::from_str(text).map_err(unreadable)?)),
            Shelf::StoppedTunnels => {
                Change::StoppedTunnel(key(), Some(serde_json::from_str(text).map_err(unreadable)?))
            }
            Shelf::Counters => Change::Counters(pool, Some(serde_json::from_str(text).map_err(unreadable)?)),
            Shelf::Downtimes => {
                let micros: u64 = serde_json::from_str(text).map_err(unreadable)?;
                Change::Downtime(key(), Some(Duration::from_micros(micros)))
            }
            Shelf::Lineages => Change::Lineage(pool, Some(text.to_owned())),
            Shelf::Cursors => {
                let name = WebhookName::from(pool.as_str());
                Change::Cursor(name, Some(serde_json::from_str(text).map_err(unreadable)?))
            }
        };
        self.apply(change);
        Ok(())
    }
}
