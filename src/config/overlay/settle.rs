//! One pool with what lies over it, read; and which entries are to blame for what is wrong with that.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::conflict;
use crate::config::document::Document;
use crate::config::key::Part;
use crate::config::keys;
use crate::config::pools::{self, PoolDraft};
use crate::config::read::Reader;
use crate::config::tunnel;
use crate::model::{BackendName, PoolName};

use super::layer::{Entry, Layer, Numbers};
use super::{Overlay, Patch, PatchKey, Registration};

/// Up to so many suspects are tried one by one; of more, all go.
const TRIALS: usize = 8;

/// What lies over one pool.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries<'o> {
    /// The registered backends.
    pub(super) registrations: BTreeMap<&'o BackendName, &'o Registration>,
    /// The patched keys.
    pub(super) patches: BTreeMap<&'o PatchKey, &'o Patch>,
}

impl<'o> Entries<'o> {
    /// All that `overlay` has for `pool`.
    pub(super) fn of(overlay: &'o Overlay, pool: &PoolName) -> Self {
        Self { registrations: overlay.registered(pool).collect(), patches: overlay.patched(pool).collect() }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.registrations.is_empty() && self.patches.is_empty()
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, entry: &Entry) {
        match entry {
            Entry::Registration(name) => drop(self.registrations.remove(name)),
            Entry::Patch(key) => drop(self.patches.remove(key)),
        }
    }

    fn all(&self) -> BTreeSet<Entry> {
        let registrations = self.registrations.keys().map(|name| Entry::Registration((*name).clone()));
        registrations.chain(self.patches.keys().map(|key| Entry::Patch((*key).clone()))).collect()
    }

    fn numbers(&self) -> Numbers {
        let mut numbers = Numbers::default();
        self.registrations.values().flat_map(|entry| entry.table.values()).for_each(|value| numbers.take_in(value));
        self.patches.values().for_each(|patch| numbers.take_in(&patch.value));
        numbers
    }
}

/// Something that is wrong with a pool and what lies over it.
#[derive(Debug, Clone)]
pub(super) struct Blame {
    /// The entry that is wrong, with the field; none if the place is in the file.
    pub(super) entry: Option<(Entry, String)>,
    /// What is wrong, and what would be right.
    pub(super) message: String,
    place: usize,
}

/// A pool of the file, to be read with what lies over it.
pub(super) struct Ground<'t> {
    document: &'t Document,
    tree: &'t DeTable<'t>,
    pool: &'t PoolName,
}

impl<'t> Ground<'t> {
    /// The pool `pool` of `document`, whose tree is `tree`.
    pub(super) const fn new(document: &'t Document, tree: &'t DeTable<'t>, pool: &'t PoolName) -> Self {
        Self { document, tree, pool }
    }

    /// The pool with `entries` over it, and what is wrong with that.
    pub(super) fn read(&self, entries: &Entries<'_>) -> (Option<PoolDraft>, Vec<Blame>) {
        let numbers = entries.numbers();
        let mut layer = Layer::new(self.document.text().len() + 1, &numbers);
        for (name, registration) in &entries.registrations {
            layer.register(name, registration);
        }
        for (key, patch) in &entries.patches {
            layer.patch(key, patch);
        }
        let mut reader = Reader::layered(self.document.sources(), layer.from);
        let draft = {
            let root = reader.root(self.tree);
            tunnel::take_in(&mut reader, &root);
            let named = reader.table_of(&root, (&keys::POOLS, Part::Pool), self.pool.as_str(), &layer.table);
            named.map(|entry| pools::pool(&mut reader, entry.name, &entry.view))
        };
        let listeners = self.document.plan().listeners.values().map(AsRef::as_ref);
        conflict::loops(&mut reader.faults, listeners, draft.iter());
        conflict::doors(&mut reader.faults, &self.document.plan().admin.bind, draft.iter());
        let blamed = reader.faults.into_list().into_iter().map(|fault| {
            let origin = layer.origin(fault.span.start).map(|(entry, field)| {
                let lacks = fault.lacks.map(|key| super::screen::join(&field, key));
                (entry.clone(), lacks.unwrap_or(field))
            });
            Blame { entry: origin, message: fault.message, place: fault.span.start }
        });
        let blamed = blamed.collect();
        (draft, blamed)
    }

    /// The entries to blame, each with the reason, of those that `may` be. Never empty if one of `entries` may be.
    pub(super) fn blame(
        &self,
        entries: &Entries<'_>,
        blamed: &[Blame],
        may: impl Fn(&Entry) -> bool,
    ) -> BTreeMap<Entry, String> {
        let mut to_blame = BTreeMap::new();
        for (entry, blame) in blamed.iter().filter_map(|blame| Some((&blame.entry.as_ref()?.0, blame))) {
            if may(entry) {
                to_blame.entry(entry.clone()).or_insert_with(|| blame.message.clone());
            }
        }
        let Some(first) = blamed.first().filter(|_| to_blame.is_empty()) else { return to_blame };
        // What is wrong stands in the file, or in another entry, and was right before.
        let all: BTreeSet<Entry> = entries.all().into_iter().filter(|entry| may(entry)).collect();
        let paths: Vec<Vec<String>> = blamed.iter().map(|blame| self.path(blame)).collect();
        let near: BTreeSet<Entry> =
            all.iter().filter(|entry| paths.iter().any(|path| bears(entry, path))).cloned().collect();
        let suspects = if near.is_empty() { all } else { near };
        if suspects.len() <= TRIALS {
            for suspect in &suspects {
                let mut without = entries.clone();
                without.remove(suspect);
                if self.read(&without).1.len() < blamed.len() {
                    return BTreeMap::from([(suspect.clone(), first.message.clone())]);
                }
            }
        }
        suspects.into_iter().map(|suspect| (suspect, first.message.clone())).collect()
    }

    /// The pool's table in the file.
    pub(super) fn table(&self) -> Option<&'t DeTable<'t>> {
        self.tree.get("pools")?.get_ref().as_table()?.get(self.pool.as_str())?.get_ref().as_table()
    }

    /// What the file says under `key`, as it stands there.
    pub(super) fn says(&self, key: &PatchKey) -> Option<Value> {
        let mut table = self.table()?;
        if let Some(name) = &key.backend {
            match table.get("backends")?.get_ref() {
                DeValue::Array(list) => {
                    // A backend of a list is preferred by its place, and says nothing else.
                    let names = list.iter().map(|item| item.get_ref().as_str());
                    let place = names.into_iter().position(|item| item == Some(name.as_str()));
                    return place.filter(|_| key.path == keys::PRIORITY.name).map(|place| Value::from(place + 1));
                }
                DeValue::Table(backends) => table = backends.get(name.as_str())?.get_ref().as_table()?,
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_) => return None,
            }
        }
        let (tables, last) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
        for part in tables.split('.').filter(|part| !part.is_empty()) {
            table = table.get(part)?.get_ref().as_table()?;
        }
        table.get(last).map(|node| json(node.get_ref()))
    }

    /// The way to what is blamed, from the pool's table.
    fn path(&self, blame: &Blame) -> Vec<String> {
        if let Some((entry, field)) = &blame.entry {
            let of_backend = match entry {
                Entry::Registration(name) => Some(name),
                Entry::Patch(key) => key.backend.as_ref(),
            };
            let way = of_backend.into_iter().flat_map(|name| ["backends", name.as_str()]);
            return way.chain(field.split('.')).map(str::to_owned).collect();
        }
        let mut path = Vec::new();
        if let Some(table) = self.table() {
            find(table, blame.place, &mut path);
        }
        path
    }
}

/// Whether what stands at `path` can be wrong because of `entry`: it is the same table of the same
/// backend, or the pool's own table that this one inherits from.
fn bears(entry: &Entry, path: &[String]) -> bool {
    let Entry::Patch(key) = entry else { return false };
    let (backend, rest) = match path {
        [first, name, rest @ ..] if first == keys::BACKENDS.name => (Some(name), rest),
        rest => (None, rest),
    };
    let same_backend = key.backend.as_ref().is_none_or(|name| backend.is_some_and(|other| other == name.as_str()));
    same_backend && rest.first().is_some_and(|table| key.path.split('.').next() == Some(table))
}

/// Writes down the way to what stands at `place`.
fn find(table: &DeTable<'_>, place: usize, path: &mut Vec<String>) -> bool {
    for (name, node) in table {
        path.push(name.get_ref().clone().into_owned());
        if name.span().start == place || node.span().start == place {
            return true;
        }
        if let DeValue::Table(below) = node.get_ref()
            && find(below, place, path)
        {
            return true;
        }
        path.pop();
    }
    false
}

/// A value of the file as JSON.
pub(super) fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Value::from(number),
            Err(_) => Value::from(integer.to_string()),
        },
        DeValue::Float(float) => {
            let number = float.as_str().parse().ok().and_then(Number::from_f64);
            number.map_or_else(|| Value::from(float.as_str()), Value::Number)
        }
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Datetime(date) => Value::from(date.to_string()),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| json(item.get_ref())).collect()),
        DeValue::Table(table) => {
            let entry = |(name, node): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let name: &std::borrow::Cow<'_, str> = name.get_ref();
                (name.clone().into_owned(), json(node.get_ref()))
            };
            Value::Object(table.iter().map(entry).collect::<Map<_, _>>())
        }
    }
}
