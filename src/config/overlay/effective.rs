//! The plan that the file and what lies over it make, by the rules of precedence, and what had to go.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use toml::de::DeTable;

use crate::config::document::Document;
use crate::config::pools::{BACKENDS_MAX, place_of, same_place};
use crate::model::{Actor, Address, BackendName, Plan, PoolName, PoolPlan};

use super::layer::Entry;
use super::note::{Dropped, Note};
use super::screen;
use super::settle::{Entries, Ground};
use super::shown;
use super::{Change, Overlay, PATCHES_MAX, PatchKey, REGISTRATIONS_MAX, Registration};

/// What is in force, and what is not any more.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// The file with what lies over it.
    pub plan: Plan,
    /// What is left of the overlay.
    pub overlay: Overlay,
    /// What was dropped, for a store to forget it. Only once the plan is in force: a reload may still fail.
    pub changes: Vec<Change>,
    /// The same for people.
    pub notes: Vec<Note>,
}

/// The plan that `document` makes with `overlay` over it. What cannot lie over it is dropped, so that
/// there always is one; the module's header has the rules.
#[must_use]
pub fn effective(document: &Document, overlay: &Overlay) -> Effective {
    let mut result =
        Effective { plan: document.plan().clone(), overlay: overlay.clone(), changes: Vec::new(), notes: Vec::new() };
    if overlay.is_empty() {
        return result;
    }
    let (tree, _) = DeTable::parse_recoverable(document.text());
    let tree = tree.get_ref();
    cap(&mut result, overlay);
    let kept = result.overlay.clone();
    for name in kept.pools() {
        let mut entries = Entries::of(&kept, name);
        let Some(file) = document.plan().pools.get(name) else {
            drop_all(&mut result, name, &mut entries, |_| Some(Dropped::PoolGone));
            continue;
        };
        let ground = Ground::new(document, tree, name);
        // First what may not be set: what a note of it would tell of the file may be a secret.
        drop_refused(&mut result, name, &mut entries);
        drop_superseded(&mut result, &ground, file, &mut entries);
        if let Some(plan) = settle(&mut result, &ground, name, &mut entries) {
            result.plan.pools.insert(name.clone(), Arc::new(plan));
        }
    }
    result
}

/// Drops what is more than may be in all, the youngest first.
fn cap(result: &mut Effective, overlay: &Overlay) {
    let mut registered: Vec<_> = overlay.registrations.iter().collect();
    registered.sort_by_key(|(_, registration)| registration.at);
    for ((pool, name), registration) in registered.iter().skip(REGISTRATIONS_MAX) {
        let entry = Entry::Registration(name.clone());
        result.forget(pool, entry, &registration.actor, Dropped::Limit { limit: REGISTRATIONS_MAX });
    }
    let mut patched: Vec<_> = overlay.patches.iter().collect();
    patched.sort_by_key(|(_, patch)| patch.at);
    for ((pool, key), patch) in patched.iter().skip(PATCHES_MAX) {
        let limit = Dropped::Limit { limit: PATCHES_MAX };
        result.forget(pool, Entry::Patch(key.clone()), &patch.actor, limit);
    }
}

/// Drops those of `entries` for which there is a reason.
fn drop_all(
    result: &mut Effective,
    pool: &PoolName,
    entries: &mut Entries<'_>,
    reason: impl Fn(&Entry) -> Option<Dropped>,
) {
    entries.registrations.retain(|name, registration| {
        let entry = Entry::Registration((*name).clone());
        let reason = reason(&entry);
        let keep = reason.is_none();
        reason.into_iter().for_each(|reason| result.forget(pool, entry.clone(), &registration.actor, reason));
        keep
    });
    entries.patches.retain(|key, patch| {
        let entry = Entry::Patch((*key).clone());
        let reason = reason(&entry);
        let keep = reason.is_none();
        reason.into_iter().for_each(|reason| result.forget(pool, entry.clone(), &patch.actor, reason));
        keep
    });
}

/// Drops what the file says otherwise by now.
fn drop_superseded(result: &mut Effective, ground: &Ground<'_>, file: &PoolPlan, entries: &mut Entries<'_>) {
    let names: BTreeMap<&BackendName, ()> = file.backends.iter().map(|backend| (&backend.name, ())).collect();
    let at: BTreeMap<String, &BackendName> =
        file.backends.iter().filter_map(|backend| Some((place_of(backend)?, &backend.name))).collect();
    let all = entries.clone();
    drop_all(result, &file.name, entries, |entry| match entry {
        Entry::Registration(name) if names.contains_key(name) => Some(Dropped::NameInFile),
        Entry::Registration(name) => {
            let address = all.registrations.get(name).and_then(|registration| address(registration))?;
            let backend = at.get(&same_place(&address))?;
            Some(Dropped::AddressInFile { backend: (*backend).clone() })
        }
        Entry::Patch(PatchKey { backend: Some(backend), .. }) if !names.contains_key(backend) => {
            Some(Dropped::BackendGone)
        }
        Entry::Patch(key) => {
            let patch = all.patches.get(key)?;
            let says = ground.says(key);
            let told = |value: &Value| shown::patched(key, value);
            (says != patch.base).then(|| Dropped::FileChanged {
                base: patch.base.as_ref().map(told),
                file: says.as_ref().map(told),
                patch: told(&patch.value),
            })
        }
    });
    // Those that the file's own backends leave no room for, the youngest first.
    let room = BACKENDS_MAX.saturating_sub(file.backends.len());
    if entries.registrations.len() > room {
        let mut by_age: Vec<_> =
            entries.registrations.iter().map(|(name, entry)| (entry.at, (*name).clone())).collect();
        by_age.sort();
        let young: BTreeMap<BackendName, ()> = by_age.into_iter().skip(room).map(|(_, name)| (name, ())).collect();
        drop_all(result, &file.name, entries, |entry| match entry {
            Entry::Registration(name) if young.contains_key(name) => Some(Dropped::Limit { limit: BACKENDS_MAX }),
            Entry::Registration(_) | Entry::Patch(_) => None,
        });
    }
}

/// Drops what may not be set at run time; a request with it would have been refused.
fn drop_refused(result: &mut Effective, pool: &PoolName, entries: &mut Entries<'_>) {
    let all = entries.clone();
    drop_all(result, pool, entries, |entry| {
        let fault = match entry {
            Entry::Registration(name) => screen::registration(&all.registrations.get(name)?.table),
            Entry::Patch(key) => screen::patch(key, &all.patches.get(key)?.value),
        };
        fault.map(|message| Dropped::Invalid { message })
    });
}

/// Reads the pool, and drops what is wrong, until nothing is; nothing if nothing is left over the file.
fn settle(result: &mut Effective, ground: &Ground<'_>, pool: &PoolName, entries: &mut Entries<'_>) -> Option<PoolPlan> {
    while !entries.is_empty() {
        let (draft, blamed) = ground.read(entries);
        if blamed.is_empty() {
            return draft.map(|draft| draft.plan);
        }
        let to_blame = ground.blame(entries, &blamed, |_| true);
        drop_all(result, pool, entries, |entry| {
            to_blame.get(entry).map(|message| Dropped::Invalid { message: message.clone() })
        });
    }
    None
}

impl Effective {
    fn forget(&mut self, pool: &PoolName, entry: Entry, actor: &Actor, dropped: Dropped) {
        let (change, backend, key) = match entry {
            Entry::Registration(name) => (Change::Registration(pool.clone(), name.clone(), None), Some(name), None),
            Entry::Patch(key) => (Change::Patch(pool.clone(), key.clone(), None), key.backend.clone(), Some(key)),
        };
        self.overlay.apply(change.clone());
        self.changes.push(change);
        self.notes.push(Note { pool: pool.clone(), backend, key, actor: actor.clone(), dropped });
    }
}

/// Where a registered backend listens, as far as its table says so.
pub(super) fn address(registration: &Registration) -> Option<Address> {
    registration.table.get("address")?.as_str()?.parse().ok()
}
