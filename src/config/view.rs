//! The tables that the reader walks, each known to be of one part.
//!
//! Over the file may lie a layer of the same shape with what was set at run time. It is read by the
//! same walk, key by key: what stands in the layer stands for what the file says.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key::{Key, Kind, Part, listed};
use super::keys;
use super::read::{Reader, article};
use super::wording::{nearest, quote};

/// The longest name of a listener, pool or backend.
const NAME_MAX: usize = 64;

/// A value of the tree with its place.
pub(super) type Node<'t> = Spanned<DeValue<'t>>;

/// A table of the file, known to be of one part. An absent one is empty.
#[derive(Debug, Clone)]
pub(super) struct View<'t> {
    part: Part,
    /// Its header, for messages.
    pub(super) label: String,
    /// Its header's place, or its parent's if it is absent.
    pub(super) span: Range<usize>,
    table: Option<&'t DeTable<'t>>,
    /// What was set at run time.
    layer: Option<&'t DeTable<'t>>,
}

impl<'t> View<'t> {
    /// A table in which nothing stands.
    pub(super) const fn absent(part: Part, span: Range<usize>) -> Self {
        Self { part, label: String::new(), span, table: None, layer: None }
    }

    /// The value of `key`, if it is there: the one set at run time, or else the file's.
    pub(super) fn node(&self, key: &Key) -> Option<&'t Node<'t>> {
        let (below, above) = self.nodes(key);
        above.or(below)
    }

    /// What the file has under `key`, and what was set at run time.
    pub(super) fn nodes(&self, key: &Key) -> (Option<&'t Node<'t>>, Option<&'t Node<'t>>) {
        let under = |table: Option<&'t DeTable<'t>>| table?.get(key.name);
        (under(self.table), under(self.layer))
    }

    /// Whether the table is there, and `key` is not in it.
    pub(super) fn lacks(&self, key: &Key) -> bool {
        self.table.or(self.layer).is_some() && self.node(key).is_none()
    }

    /// The place of the value of `key`, or else of the table.
    pub(super) fn place(&self, key: &Key) -> Range<usize> {
        self.node(key).map_or_else(|| self.span.clone(), Spanned::span)
    }
}

/// A table with a name that the user chose.
#[derive(Debug, Clone)]
pub(super) struct Named<'t> {
    /// The name.
    pub(super) name: &'t str,
    /// Its place.
    pub(super) place: Range<usize>,
    /// The table.
    pub(super) view: View<'t>,
}

impl Reader<'_> {
    /// The file as a table.
    pub(super) fn root<'t>(&mut self, table: &'t DeTable<'t>) -> View<'t> {
        self.view(Part::Root, String::new(), 0..0, (Some(table), None))
    }

    /// A table that is a text of its own.
    pub(super) fn alone<'t>(&mut self, part: Part, label: &str, table: &'t DeTable<'t>) -> View<'t> {
        self.view(part, label.to_owned(), 0..0, (Some(table), None))
    }

    /// A table of the file, and what lies over it.
    fn view<'t>(
        &mut self,
        part: Part,
        label: String,
        span: Range<usize>,
        (table, layer): (Option<&'t DeTable<'t>>, Option<&'t DeTable<'t>>),
    ) -> View<'t> {
        for (name, value) in table.into_iter().chain(layer).flatten() {
            if keys::of(part).any(|key| key.name == name.get_ref()) {
                continue;
            }
            // Whatever it is, it may be a secret behind a mistyped key.
            self.hide(value);
            if self.faults.is_full() {
                self.faults.wrong(name.span(), String::new());
                continue;
            }
            self.faults.wrong(name.span(), unknown_key(part, &label, name.get_ref()));
        }
        View { part, label, span, table, layer }
    }

    /// The table under `key`; an empty one if it is absent or no table.
    pub(super) fn table<'t>(&mut self, view: &View<'t>, key: &Key) -> View<'t> {
        let part = match key.kind {
            Kind::Table(part) => part,
            Kind::Flag
            | Kind::Integer { .. }
            | Kind::Duration { .. }
            | Kind::Size { .. }
            | Kind::Word(_)
            | Kind::Method
            | Kind::UrlPath
            | Kind::Statuses
            | Kind::Secret
            | Kind::Pool
            | Kind::Binds
            | Kind::Address
            | Kind::Backends
            | Kind::Networks
            | Kind::Names(_)
            | Kind::Rate
            | Kind::Ip
            | Kind::Text { .. }
            | Kind::Command
            | Kind::Argv
            | Kind::Texts(_)
            | Kind::Directory
            | Kind::File
            | Kind::Tables(_) => view.part,
        };
        let label = join(&view.label, key.name);
        let (below, above) = view.nodes(key);
        let Some(node) = below.or(above) else {
            return View { label, ..View::absent(part, view.span.clone()) };
        };
        let tables = [below, above].map(|node| node.and_then(|node| self.as_table(node, &label)));
        self.view(part, label, node.span(), tables.into())
    }

    fn as_table<'t>(&mut self, node: &'t Node<'t>, label: &str) -> Option<&'t DeTable<'t>> {
        let table = node.get_ref().as_table();
        if table.is_none() {
            self.hide(node);
            let what = node.get_ref().type_str();
            self.faults.wrong(
                node.span(),
                format!("`{label}` is a table, not {} {what}; write [{label}] and its keys below it", article(what)),
            );
        }
        table
    }

    /// The tables under `key` by name, at most `limit`.
    pub(super) fn tables<'t>(&mut self, view: &View<'t>, key: &Key, part: Part, limit: usize) -> Vec<Named<'t>> {
        let named = self.named(view, key, view.nodes(key), (part, limit));
        for entry in &named {
            self.check_name(&view.label, key, entry);
        }
        named
    }

    /// Those of them that were set at run time; their names are still to be checked.
    pub(super) fn tables_above<'t>(&mut self, view: &View<'t>, key: &Key, part: Part, limit: usize) -> Vec<Named<'t>> {
        self.named(view, key, (None, view.nodes(key).1), (part, limit))
    }

    /// The one of them that is called `name`, with `layer` over it.
    pub(super) fn table_of<'t>(
        &mut self,
        view: &View<'t>,
        (key, part): (&Key, Part),
        name: &'t str,
        layer: &'t DeTable<'t>,
    ) -> Option<Named<'t>> {
        let label = join(&view.label, key.name);
        let tables = view.nodes(key).0.and_then(|node| self.as_table(node, &label))?;
        Some(self.entry(&label, part, (name, 0..0), (tables.get(name), None), Some(layer)))
    }

    fn named<'t>(
        &mut self,
        view: &View<'t>,
        key: &Key,
        (below, above): (Option<&'t Node<'t>>, Option<&'t Node<'t>>),
        (part, limit): (Part, usize),
    ) -> Vec<Named<'t>> {
        let label = join(&view.label, key.name);
        let Some(node) = below.or(above) else { return Vec::new() };
        let [below, above] = [below, above].map(|node| node.and_then(|node| self.as_table(node, &label)));
        let is_new = |name: &str| below.is_none_or(|table| !table.contains_key(name));
        let added = || above.into_iter().flatten().filter(|(name, _)| is_new(name.get_ref()));
        let count = below.map_or(0, DeTable::len) + added().count();
        if count > limit {
            self.faults.wrong(node.span(), format!("[{label}] has {count} entries; {limit} is the most"));
            return Vec::new();
        }
        let mut named = Vec::with_capacity(count);
        for (name, value) in below.into_iter().flatten() {
            let over = above.and_then(|table| table.get(name.get_ref().as_ref()));
            named.push(self.entry(&label, part, (name.get_ref(), name.span()), (Some(value), over), None));
        }
        for (name, value) in added() {
            named.push(self.entry(&label, part, (name.get_ref(), name.span()), (None, Some(value)), None));
        }
        named
    }

    /// Says so if the name of an entry of `key` in the table `label` is none.
    pub(super) fn check_name(&mut self, label: &str, key: &Key, entry: &Named<'_>) {
        let text = entry.name;
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        if text.is_empty() || text.len() > NAME_MAX || !text.bytes().all(fits) {
            self.faults.wrong(
                entry.place.clone(),
                format!(
                    "{} is no name for an entry of [{}]; \
                     a name has 1 to {NAME_MAX} letters, digits or . _ : -",
                    quote(text),
                    join(label, key.name)
                ),
            );
        }
    }

    /// What the file has under one name, and what lies over it: a node, or a table as such.
    fn entry<'t>(
        &mut self,
        label: &str,
        part: Part,
        (name, place): (&'t str, Range<usize>),
        (below, above): (Option<&'t Node<'t>>, Option<&'t Node<'t>>),
        layer: Option<&'t DeTable<'t>>,
    ) -> Named<'t> {
        let label = join(label, &bare(name));
        let span = below.or(above).map_or(0..0, Spanned::span);
        let [below, above] = [below, above].map(|node| node.and_then(|node| self.as_table(node, &label)));
        Named { name, place, view: self.view(part, label, span, (below, layer.or(above))) }
    }
}

/// What is said of a key that a table does not have.
pub(super) fn unknown_key(part: Part, label: &str, name: &str) -> String {
    let place = if label.is_empty() { String::new() } else { format!(" in [{label}]") };
    let known = || keys::of(part).map(|key| key.name);
    let meant = match nearest(name, known()) {
        Some(guess) => format!("did you mean `{guess}`?"),
        None => format!("known are {}", listed(known()).replace('"', "`")),
    };
    format!("unknown key {}{place}; {meant}", quote(name))
}

fn join(label: &str, name: &str) -> String {
    if label.is_empty() { name.to_owned() } else { format!("{label}.{name}") }
}

/// A name as it is written in a header.
fn bare(name: &str) -> String {
    let is_bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if is_bare { name.to_owned() } else { quote(name).replace('`', "\"") }
}
