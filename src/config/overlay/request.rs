//! What a caller of the API wants changed: a request becomes a new overlay with what a store is to
//! keep, or is refused with all that is wrong with it. One that is refused has changed nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};
use toml::de::DeTable;

use crate::config::conflict;
use crate::config::document::Document;
use crate::config::key::Part;
use crate::config::keys;
use crate::config::pools::{BACKENDS_MAX, place_of, same_place};
use crate::config::wording::{meant, nearest, quote};
use crate::model::{Actor, BackendName, PoolName, PoolPlan};

use super::effective::address;
use super::layer::Entry;
use super::merge::{flatten, merge};
use super::screen::{FIXED_ADDRESS, screen};
use super::settle::{Entries, Ground};
use super::{
    Change, FieldFault, Overlay, PATCHES_MAX, Patch, PatchKey, REGISTRATIONS_MAX, Registration, RejectCode, Rejected,
};

/// What a request is about and by whom it is. The overlay is one that [`super::effective()`] has left over this document.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The file.
    pub document: &'a Document,
    /// What lies over it.
    pub overlay: &'a Overlay,
    /// The pool that is to change.
    pub pool: &'a PoolName,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub actor: Actor,
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// The overlay from now on.
    pub overlay: Overlay,
    /// How it differs from the one before, for a store to keep. None if all was so already.
    pub changes: Vec<Change>,
    /// The pool from now on.
    pub pool: Arc<PoolPlan>,
}

impl Request<'_> {
    /// Registers a backend: `{"name": …, "address": …}` and what else it has in the file.
    ///
    /// # Errors
    /// If the pool has it already, or it would not be right in the file.
    pub fn register(&self, body: &Value) -> Result<Changed, Rejected> {
        let file = self.file()?;
        let mut table = object(body)?.clone();
        let mut faults = Vec::new();
        let name = match table.remove("name") {
            Some(Value::String(name)) => name,
            None | Some(Value::Null) => {
                faults.push(fault("name", "it has no `name`; write \"name\": \"pg3\""));
                String::new()
            }
            Some(_) => {
                faults.push(fault("name", "`name` takes a text of 1 to 64 letters, digits or . _ : -"));
                String::new()
            }
        };
        table.retain(|_, value| !value.is_null());
        screen(Part::Backend, &table, "", &mut faults);
        let name = BackendName::from(name.as_str());
        let registration = Registration { table, at: self.at, actor: self.actor.clone() };
        if faults.is_empty() {
            self.room(file, &name, &registration)?;
        }
        let change = Change::Registration(self.pool.clone(), name, Some(registration));
        self.settle(vec![change], faults)
    }

    /// Changes a backend by a JSON merge patch: a registered one freely, one of the file all but its address,
    /// where `null` takes back what was changed before.
    ///
    /// # Errors
    /// If there is no such backend, or it would not be right in the file.
    pub fn change(&self, backend: &BackendName, body: &Value) -> Result<Changed, Rejected> {
        let file = self.file()?;
        let body = object(body)?;
        let mut faults = Vec::new();
        if body.contains_key("name") {
            faults.push(fault("name", "`name` cannot be changed; register another backend"));
        }
        let body: Map<String, Value> = body
            .iter()
            .filter(|(name, _)| *name != "name")
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        screen(Part::Backend, &body, "", &mut faults);
        if let Some(before) = self.overlay.registrations.get(&(self.pool.clone(), backend.clone())) {
            let mut table = before.table.clone();
            merge(&mut table, &body);
            let registration = Registration { table, at: self.at, actor: self.actor.clone() };
            if faults.is_empty() {
                self.address_is_free(file, backend, &registration)?;
            }
            let change = Change::Registration(self.pool.clone(), backend.clone(), Some(registration));
            return self.settle(vec![change], faults);
        }
        if !file.backends.iter().any(|known| known.name == *backend) {
            return Err(self.no_backend(backend));
        }
        if body.contains_key(keys::ADDRESS.name) {
            faults.push(fault(keys::ADDRESS.name, FIXED_ADDRESS));
        }
        let changes = self.patches(Some(backend), Part::Backend, &body, &mut faults);
        self.settle(changes, faults)
    }

    /// Removes a registered backend.
    ///
    /// # Errors
    /// If there is no such backend, or it stands in the file.
    pub fn remove(&self, backend: &BackendName) -> Result<Changed, Rejected> {
        let file = self.file()?;
        if self.overlay.is_registered(self.pool, backend) {
            return self.settle(vec![Change::Registration(self.pool.clone(), backend.clone(), None)], Vec::new());
        }
        if file.backends.iter().any(|known| known.name == *backend) {
            let message = format!(
                "backend {} stands in the file, and the next reload would bring it back; \
                 drain it, or remove it from the file and reload",
                quote(backend.as_str())
            );
            return Err(Rejected::one(RejectCode::BackendInFile, "", message));
        }
        Err(self.no_backend(backend))
    }

    /// Changes keys of the pool's `check` and `failover` by a JSON merge patch: `{"check": {…}, "failover": {…}}`,
    /// where `null` goes back to what the file says.
    ///
    /// # Errors
    /// If it would not be right in the file, or may not be set at run time.
    pub fn patch(&self, body: &Value) -> Result<Changed, Rejected> {
        self.file()?;
        let body = object(body)?;
        let tables = [keys::CHECK.name, keys::FAILOVER.name];
        let mut faults = Vec::new();
        for name in body.keys().filter(|name| !tables.contains(&name.as_str())) {
            let meant = nearest(name, tables.into_iter())
                .map_or_else(|| "`check` and `failover` can".to_owned(), |guess| format!("did you mean `{guess}`?"));
            faults.push(fault(name, &format!("{} cannot be set at run time; {meant}", quote(name))));
        }
        let body: Map<String, Value> =
            tables.into_iter().filter_map(|name| Some((name.to_owned(), body.get(name)?.clone()))).collect();
        screen(Part::Pool, &body, "", &mut faults);
        let changes = self.patches(None, Part::Pool, &body, &mut faults);
        self.settle(changes, faults)
    }

    /// The pool as the file has it.
    fn file(&self) -> Result<&Arc<PoolPlan>, Rejected> {
        let pools = &self.document.plan().pools;
        pools.get(self.pool).ok_or_else(|| {
            let guess = meant(self.pool.as_str(), pools.keys().map(PoolName::as_str));
            let message = format!("there is no pool {}{guess}", quote(self.pool.as_str()));
            Rejected::one(RejectCode::PoolNotFound, "", message)
        })
    }

    fn no_backend(&self, backend: &BackendName) -> Rejected {
        let message = format!("pool {} has no backend {}", quote(self.pool.as_str()), quote(backend.as_str()));
        Rejected::one(RejectCode::BackendNotFound, "", message)
    }

    /// Whether a backend can be registered beside those that there are.
    fn room(&self, file: &PoolPlan, name: &BackendName, registration: &Registration) -> Result<(), Rejected> {
        let in_file = file.backends.iter().any(|backend| backend.name == *name);
        if in_file || self.overlay.is_registered(self.pool, name) {
            let mend = if in_file { "the file has it" } else { "change it, or remove it first" };
            let message = format!("there is a backend {} already; {mend}", quote(name.as_str()));
            return Err(Rejected::one(RejectCode::BackendExists, "name", message));
        }
        let count = file.backends.len() + self.overlay.registered(self.pool).count();
        for (count, limit, what) in [
            (count, BACKENDS_MAX, "the pool has"),
            (self.overlay.registrations.len(), REGISTRATIONS_MAX, "at run time were registered"),
        ] {
            if count >= limit {
                let message = format!("{what} {count} backends; {limit} is the most");
                return Err(Rejected::one(RejectCode::LimitReached, "", message));
            }
        }
        self.address_is_free(file, name, registration)
    }

    /// Whether no other backend of the pool is where this one is.
    fn address_is_free(&self, file: &PoolPlan, name: &BackendName, of: &Registration) -> Result<(), Rejected> {
        let Some(wanted) = address(of) else { return Ok(()) };
        if let Some(message) = conflict::door(&wanted, &self.document.plan().admin.bind) {
            return Err(Rejected::one(RejectCode::AddressInUse, keys::ADDRESS.name, format!("`address`: {message}")));
        }
        let wanted = same_place(&wanted);
        let in_file = file.backends.iter().find(|backend| place_of(backend).is_some_and(|place| place == wanted));
        let registered = || {
            let mut others = self.overlay.registered(self.pool).filter(|(other, _)| *other != name);
            others.find(|(_, other)| address(other).is_some_and(|other| same_place(&other) == wanted))
        };
        match in_file.map(|backend| &backend.name).or_else(|| registered().map(|(other, _)| other)) {
            None => Ok(()),
            Some(other) => {
                let message = format!(
                    "`address`: {} is already the address of backend {}; each backend of a pool has its own",
                    quote(&wanted),
                    quote(other.as_str())
                );
                Err(Rejected::one(RejectCode::AddressInUse, keys::ADDRESS.name, message))
            }
        }
    }

    /// The changes that a merge patch of a table comes to.
    fn patches(
        &self,
        backend: Option<&BackendName>,
        part: Part,
        body: &Map<String, Value>,
        faults: &mut Vec<FieldFault>,
    ) -> Vec<Change> {
        let (tree, _) = DeTable::parse_recoverable(self.document.text());
        let ground = Ground::new(self.document, tree.get_ref(), self.pool);
        let mut leaves = Vec::new();
        flatten(part, body, "", &mut leaves, faults);
        let mut changes = Vec::new();
        for (path, value) in leaves {
            let key = PatchKey { backend: backend.cloned(), path };
            if value.is_null() {
                let within = self.overlay.patched(self.pool).filter(|(patched, _)| patched.is_within(&key));
                changes.extend(within.map(|(patched, _)| Change::Patch(self.pool.clone(), patched.clone(), None)));
            } else {
                let base = ground.says(&key);
                let patch = Patch { value: value.clone(), base, at: self.at, actor: self.actor.clone() };
                changes.push(Change::Patch(self.pool.clone(), key, Some(patch)));
            }
        }
        changes
    }

    /// The pool with `changes`, unless that is wrong or `faults` were found already.
    fn settle(&self, changes: Vec<Change>, mut faults: Vec<FieldFault>) -> Result<Changed, Rejected> {
        let mut overlay = self.overlay.clone();
        for change in &changes {
            overlay.apply(change.clone());
        }
        if overlay.patches.len() > PATCHES_MAX.max(self.overlay.patches.len()) {
            let message = format!("at run time {PATCHES_MAX} keys may be changed at most");
            return Err(Rejected::one(RejectCode::LimitReached, "", message));
        }
        let (tree, _) = DeTable::parse_recoverable(self.document.text());
        let ground = Ground::new(self.document, tree.get_ref(), self.pool);
        let entries = Entries::of(&overlay, self.pool);
        let (draft, blamed) = ground.read(&entries);
        let own: BTreeSet<Entry> = changes.iter().map(entry).collect();
        let told: BTreeSet<String> = faults.iter().map(|fault| fault.field.clone()).collect();
        // What stands elsewhere was right until now: which of the request's fields made it wrong?
        let culprits = ground.blame(&entries, &blamed, |entry| own.contains(entry));
        let culprit = culprits.into_keys().find_map(|entry| match entry {
            Entry::Patch(key) => Some(key.path),
            Entry::Registration(_) => None,
        });
        for blame in blamed {
            let field = match blame.entry {
                Some((entry, field)) if own.contains(&entry) => field,
                Some(_) | None => culprit.clone().unwrap_or_default(),
            };
            let fault = FieldFault { field, message: blame.message };
            if !told.contains(&fault.field) && !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        match draft {
            Some(draft) if faults.is_empty() => Ok(Changed { overlay, changes, pool: Arc::new(draft.plan) }),
            Some(_) | None => Err(Rejected { code: RejectCode::InvalidValue, faults }),
        }
    }
}

fn fault(field: &str, message: &str) -> FieldFault {
    FieldFault { field: field.to_owned(), message: message.to_owned() }
}

fn object(body: &Value) -> Result<&Map<String, Value>, Rejected> {
    body.as_object().ok_or_else(|| Rejected::invalid("", "the body is no object; write {\"key\": value}"))
}

/// The entry that a change is about.
fn entry(change: &Change) -> Entry {
    match change {
        Change::Registration(_, name, _) => Entry::Registration(name.clone()),
        Change::Patch(_, key, _) => Entry::Patch(key.clone()),
    }
}
