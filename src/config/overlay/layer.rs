//! What lies over one pool of the file, in the shape that the file has, so that the file's reader reads it.
//! Its places are numbers behind the file's last byte; each leads back to the entry and the field it is of.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::model::BackendName;

use super::{Patch, PatchKey, Registration};

/// How deep values may be nested. No table of the file is half as deep.
const DEPTH_MAX: usize = 8;

/// One entry of the overlay, within its pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entry {
    /// A registered backend.
    Registration(BackendName),
    /// A patched key.
    Patch(PatchKey),
}

/// Where something in the layer comes from.
struct Origin<'o> {
    entry: usize,
    /// The place of the table that it stands in, if that is part of the entry.
    within: Option<usize>,
    name: &'o str,
}

/// What lies over a pool.
pub(super) struct Layer<'o> {
    /// In the shape of the pool's table.
    pub(super) table: DeTable<'o>,
    /// The first of its places.
    pub(super) from: usize,
    numbers: &'o Numbers,
    entries: Vec<Entry>,
    origins: Vec<Origin<'o>>,
}

impl<'o> Layer<'o> {
    /// A layer in which nothing stands, over a file of `from` bytes.
    pub(super) fn new(from: usize, numbers: &'o Numbers) -> Self {
        Self { table: DeTable::new(), from, numbers, entries: Vec::new(), origins: Vec::new() }
    }

    /// Puts a registered backend in.
    pub(super) fn register(&mut self, name: &'o BackendName, registration: &'o Registration) {
        let entry = self.enter(Entry::Registration(name.clone()));
        let key = self.place(entry, None, "name");
        let place = self.place(entry, None, "");
        let table = self.table_of(entry, place, &registration.table, 1);
        let value = Spanned::new(self.span(place), DeValue::Table(table));
        let key = Spanned::new(self.span(key), Cow::Borrowed(name.as_str()));
        if let Some(backends) = below(&mut self.table, self.from + place, "backends") {
            backends.insert(key, value);
        }
    }

    /// Puts a patched key in. What stands in its way keeps its place.
    pub(super) fn patch(&mut self, key: &'o PatchKey, patch: &'o Patch) {
        let entry = self.enter(Entry::Patch(key.clone()));
        let place = self.place(entry, None, &key.path);
        let at = self.from + place;
        let value = self.value(entry, place, &patch.value, 1);
        let mut parts: Vec<&'o str> = key.path.split('.').collect();
        let Some(last) = parts.pop() else { return };
        let mut table = Some(&mut self.table);
        let of_backend = key.backend.iter().flat_map(|name| ["backends", name.as_str()]);
        for part in of_backend.chain(parts) {
            table = table.and_then(|table| below(table, at, part));
        }
        if let Some(table) = table
            && !table.contains_key(last)
        {
            table.insert(Spanned::new(at..at + 1, Cow::Borrowed(last)), Spanned::new(at..at + 1, value));
        }
    }

    /// The entry that stands at `place`, and the field of it; nothing if that is in the file.
    pub(super) fn origin(&self, place: usize) -> Option<(&Entry, String)> {
        let mut origin = self.origins.get(place.checked_sub(self.from)?)?;
        let entry = self.entries.get(origin.entry)?;
        let mut names = vec![origin.name];
        while let Some(within) = origin.within.and_then(|place| self.origins.get(place)) {
            names.push(within.name);
            origin = within;
        }
        names.retain(|name| !name.is_empty());
        names.reverse();
        Some((entry, names.join(".")))
    }

    fn enter(&mut self, entry: Entry) -> usize {
        self.entries.push(entry);
        self.entries.len() - 1
    }

    fn place(&mut self, entry: usize, within: Option<usize>, name: &'o str) -> usize {
        self.origins.push(Origin { entry, within, name });
        self.origins.len() - 1
    }

    fn span(&self, place: usize) -> std::ops::Range<usize> {
        self.from + place..self.from + place + 1
    }

    fn table_of(&mut self, entry: usize, within: usize, from: &'o Map<String, Value>, depth: usize) -> DeTable<'o> {
        let mut table = DeTable::new();
        // What is null is left out, as where JSON is merged.
        for (name, value) in from.iter().filter(|(_, value)| !value.is_null()) {
            let place = self.place(entry, Some(within), name);
            let value = self.value(entry, place, value, depth + 1);
            let key = Spanned::new(self.span(place), Cow::Borrowed(name.as_str()));
            table.insert(key, Spanned::new(self.span(place), value));
        }
        table
    }

    fn value(&mut self, entry: usize, place: usize, from: &'o Value, depth: usize) -> DeValue<'o> {
        match from {
            _ if depth > DEPTH_MAX => DeValue::Table(DeTable::new()),
            Value::Null => DeValue::Table(DeTable::new()),
            Value::Bool(flag) => DeValue::Boolean(*flag),
            Value::Number(number) => self.numbers.read(number),
            Value::String(text) => DeValue::String(Cow::Borrowed(text)),
            Value::Array(items) => {
                let span = self.span(place);
                let items =
                    items.iter().map(|item| Spanned::new(span.clone(), self.value(entry, place, item, depth + 1)));
                DeValue::Array(items.collect())
            }
            Value::Object(table) => DeValue::Table(self.table_of(entry, place, table, depth)),
        }
    }
}

/// The table under `name`, made if it is not there; nothing if something else is.
fn below<'a, 'o>(table: &'a mut DeTable<'o>, at: usize, name: &'o str) -> Option<&'a mut DeTable<'o>> {
    if !table.contains_key(name) {
        let empty = Spanned::new(at..at + 1, DeValue::Table(DeTable::new()));
        table.insert(Spanned::new(at..at + 1, Cow::Borrowed(name)), empty);
    }
    match table.get_mut(name)?.get_mut() {
        DeValue::Table(table) => Some(table),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_) => None,
    }
}

/// The numbers of a pool's entries as texts: a number in the layer is one that the file's parser has read.
#[derive(Default)]
pub(super) struct Numbers(BTreeSet<String>);

impl Numbers {
    /// Takes in those of `value`.
    pub(super) fn take_in(&mut self, value: &Value) {
        match value {
            Value::Number(number) => drop(self.0.insert(number.to_string())),
            Value::Array(items) => items.iter().for_each(|item| self.take_in(item)),
            Value::Object(table) => table.values().for_each(|item| self.take_in(item)),
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }

    /// The number, or its text if the parser of the file takes it for none.
    fn read(&self, number: &Number) -> DeValue<'_> {
        let text = number.to_string();
        match self.0.get(text.as_str()).and_then(|text| DeValue::parse(text).ok()) {
            Some(value) => value.into_inner(),
            None => DeValue::String(Cow::Owned(text)),
        }
    }
}
