//! What was changed at run time, as a value, and the plan that it makes together with the file.
//!
//! Two things can be changed without the file: backends are *registered*, and keys are *patched*: those
//! of a pool's `check` and `failover`, and those of a backend that stands in the file, all but its
//! address. What a registered backend is told later changes its registration.
//!
//! # Precedence
//!
//! Read by the same reader as the file, along the same table of keys; then, at each reload and start:
//!
//! 1. A registration stays, whatever else the file says.
//! 2. If the file has a backend of the same name or the same address, the file wins and the registration
//!    is dropped.
//! 3. A patch holds as long as the file says for its key what it said when it was patched, word for word,
//!    nothing included. If the file says something else the file wins and the patch is dropped. A backend in a
//!    list has its place for its priority.
//! 4. With a pool that is gone from the file go its registrations and patches, with a backend its patches.
//! 5. What is no longer valid is dropped: it keeps no daemon from starting and no file from being loaded.
//!
//! Whatever is dropped is told by a [`Note`], and stays dropped when the file says again what it said before.
//!
//! # What may not be set at run time
//!
//! A program to run, a Unix socket to dial, a secret, and whatever nobody has said may be (`screen`). `{ env }`, `{ file }` and
//! `{ credential }` are for the file alone: whoever may call the API must not read the daemon's host.
//!
//! Nothing here reads a clock, a file or the environment; [`Document`](super::Document) has what the file's
//! own look-ups found.

mod effective;
mod entry;
mod in_force;
mod layer;
mod merge;
mod note;
mod rejected;
mod request;
mod screen;
mod settle;
mod shown;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::model::{Actor, BackendName, PoolName};

pub use effective::{Effective, effective};
pub use entry::{PatchKey, PatchKeyError};
pub use in_force::{at_run_time, failover_config};
pub use note::{Dropped, Note};
pub use rejected::{FieldFault, RejectCode, Rejected};
pub use request::{Changed, Request};
pub use screen::settable_schema;
pub use shown::document as shown;

/// The most backends that are registered at run time, over all pools: as many as one pool may have.
pub const REGISTRATIONS_MAX: usize = super::pools::BACKENDS_MAX;
/// The most keys that are patched, over all pools.
pub const PATCHES_MAX: usize = 20_000;

/// A backend that was registered at run time.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// Its keys, as in the file.
    pub table: Map<String, Value>,
    /// When it was registered, or last changed.
    pub at: Timestamp,
    /// By whom.
    pub actor: Actor,
}

impl Registration {
    /// All of it, to be kept.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "table": self.table, "at": self.at.to_string(), "actor": self.actor.as_str() })
    }

    /// What [`Self::to_json`] wrote; nothing if it is anything else.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            table: value.get("table")?.as_object()?.clone(),
            at: value.get("at")?.as_str()?.parse().ok()?,
            actor: Actor::from(value.get("actor")?.as_str()?),
        })
    }
}

/// A key that was changed at run time.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// Its value.
    pub value: Value,
    /// What the file said when it was patched, as it stood there; none if it said nothing.
    pub base: Option<Value>,
    /// When it was patched.
    pub at: Timestamp,
    /// By whom.
    pub actor: Actor,
}

/// Everything that was changed at run time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overlay {
    /// The backends that were registered.
    pub registrations: BTreeMap<(PoolName, BackendName), Registration>,
    /// The keys that were changed.
    pub patches: BTreeMap<(PoolName, PatchKey), Patch>,
}

/// One entry of an [`Overlay`] that is set or, where there is none, removed: what a store is to keep.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A backend registered at run time.
    Registration(PoolName, BackendName, Option<Registration>),
    /// A patched key.
    Patch(PoolName, PatchKey, Option<Patch>),
}

impl Overlay {
    /// Carries out one change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Registration(pool, backend, Some(to)) => drop(self.registrations.insert((pool, backend), to)),
            Change::Registration(pool, backend, None) => drop(self.registrations.remove(&(pool, backend))),
            Change::Patch(pool, key, Some(to)) => drop(self.patches.insert((pool, key), to)),
            Change::Patch(pool, key, None) => drop(self.patches.remove(&(pool, key))),
        }
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.registrations.is_empty() && self.patches.is_empty()
    }

    /// The pools of which something was changed.
    #[must_use]
    pub fn pools(&self) -> BTreeSet<&PoolName> {
        self.registrations.keys().map(|(pool, _)| pool).chain(self.patches.keys().map(|(pool, _)| pool)).collect()
    }

    /// Whether the backend was registered at run time.
    #[must_use]
    pub fn is_registered(&self, pool: &PoolName, backend: &BackendName) -> bool {
        self.registrations.contains_key(&(pool.clone(), backend.clone()))
    }

    /// What was registered in `pool`, by name.
    fn registered(&self, pool: &PoolName) -> impl Iterator<Item = (&BackendName, &Registration)> {
        let from = (pool.clone(), BackendName::from(""));
        let all = self.registrations.range(from..).take_while(move |((of, _), _)| of == pool);
        all.map(|((_, name), registration)| (name, registration))
    }

    /// What was patched in `pool`, by key.
    fn patched(&self, pool: &PoolName) -> impl Iterator<Item = (&PatchKey, &Patch)> {
        let from = (pool.clone(), PatchKey::FIRST);
        let all = self.patches.range(from..).take_while(move |((of, _), _)| of == pool);
        all.map(|((_, key), patch)| (key, patch))
    }
}
