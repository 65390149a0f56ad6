//! The typed reader: walks the tree of the file along the table of keys, writes down what is wrong
//! and goes on with the default, so that one run finds everything.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::Faults;
use super::key::{Key, Kind, Part, listed};
use super::keys;
use super::source::{SourceError, Sources};
use super::value::{Given, Raw, Value};
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
}

impl<'t> View<'t> {
    /// The value of `key`, if it is there.
    pub(super) fn node(&self, key: &Key) -> Option<&'t Node<'t>> {
        self.table?.get(key.name)
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
    /// The table.
    pub(super) view: View<'t>,
}

/// Reads values and collects faults.
pub(super) struct Reader<'a> {
    sources: &'a dyn Sources,
    /// What was found to be wrong.
    pub(super) faults: Faults,
}

impl<'a> Reader<'a> {
    /// A reader that has found nothing yet.
    pub(super) fn new(sources: &'a dyn Sources) -> Self {
        Self { sources, faults: Faults::default() }
    }

    /// The file as a table.
    pub(super) fn root<'t>(&mut self, table: &'t DeTable<'t>) -> View<'t> {
        self.view(Part::Root, String::new(), 0..0, Some(table))
    }

    fn view<'t>(&mut self, part: Part, label: String, span: Range<usize>, table: Option<&'t DeTable<'t>>) -> View<'t> {
        for (name, value) in table.into_iter().flatten() {
            if keys::of(part).any(|key| key.name == name.get_ref()) {
                continue;
            }
            // Whatever it is, it may be a secret behind a mistyped key.
            self.hide(value);
            if self.faults.is_full() {
                self.faults.wrong(name.span(), String::new());
                continue;
            }
            let place = if label.is_empty() { String::new() } else { format!(" in [{label}]") };
            let meant = match nearest(name.get_ref(), keys::of(part).map(|key| key.name)) {
                Some(guess) => format!("did you mean `{guess}`?"),
                None => format!("known are {}", listed(keys::of(part).map(|key| key.name)).replace('"', "`")),
            };
            self.faults.wrong(name.span(), format!("unknown key {}{place}; {meant}", quote(name.get_ref())));
        }
        View { part, label, span, table }
    }

    /// Keeps every plain value in `node` out of the snippets.
    fn hide(&mut self, node: &Node<'_>) {
        let mut nodes = vec![node];
        while let Some(node) = nodes.pop() {
            match node.get_ref() {
                DeValue::Array(items) => nodes.extend(items.iter()),
                DeValue::Table(table) => nodes.extend(table.values()),
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_) => self.faults.hide(node.span()),
            }
        }
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
            | Kind::Rate
            | Kind::Ip
            | Kind::Text { .. }
            | Kind::Command
            | Kind::Directory
            | Kind::Tables(_) => view.part,
        };
        let label = join(&view.label, key.name);
        match view.node(key) {
            Some(node) => {
                let table = self.as_table(node, &label);
                self.view(part, label, node.span(), table)
            }
            None => View { part, label, span: view.span.clone(), table: None },
        }
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
        let label = join(&view.label, key.name);
        let Some(node) = view.node(key) else { return Vec::new() };
        let Some(table) = self.as_table(node, &label) else { return Vec::new() };
        if table.len() > limit {
            self.faults.wrong(node.span(), format!("[{label}] has {} entries; {limit} is the most", table.len()));
            return Vec::new();
        }
        let mut named = Vec::with_capacity(table.len());
        for (name, value) in table {
            let text: &'t str = name.get_ref();
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
            if text.is_empty() || text.len() > NAME_MAX || !text.bytes().all(fits) {
                self.faults.wrong(
                    name.span(),
                    format!(
                        "{} is no name for an entry of [{label}]; \
                     a name has 1 to {NAME_MAX} letters, digits or . _ : -",
                        quote(text)
                    ),
                );
            }
            let label = join(&label, &bare(text));
            let table = self.as_table(value, &label);
            named.push(Named { name: text, view: self.view(part, label, value.span(), table) });
        }
        named
    }

    /// The value of `key`, or its default.
    pub(super) fn get<T: Value>(&mut self, view: &View<'_>, key: &Key) -> T {
        self.given(view, key).unwrap_or_else(|| T::preset(key))
    }

    /// The value of `key` if it is there and right.
    pub(super) fn given<T: Value>(&mut self, view: &View<'_>, key: &Key) -> Option<T> {
        let node = view.node(key)?;
        self.convert(node, key)
    }

    /// The value of `key`, which must be there.
    pub(super) fn required<T: Value>(&mut self, view: &View<'_>, key: &Key) -> Option<T> {
        self.demand(view, key);
        self.given(view, key)
    }

    /// Says so if `key` is absent.
    pub(super) fn demand(&mut self, view: &View<'_>, key: &Key) {
        if view.table.is_some() && view.node(key).is_none() {
            let Key { name, .. } = key;
            self.faults.missing(
                view.span.clone(),
                format!("[{}] has no `{name}`; write {name} = {}", view.label, key.literal()),
            );
        }
    }

    /// A value as what `key` takes.
    pub(super) fn convert<T: Value>(&mut self, node: &Node<'_>, key: &Key) -> Option<T> {
        let given = self.scalar(node, key)?;
        match T::read(&given, key) {
            Ok(value) => Some(value),
            Err(message) => {
                self.faults.wrong(node.span(), message);
                None
            }
        }
    }

    /// The directory that systemd made for us (`StateDirectory=`), the first if there are several.
    pub(super) fn state_directory(&self) -> Option<PathBuf> {
        let list = self.sources.env("STATE_DIRECTORY").ok()?;
        let first = list.split(':').next()?;
        first.starts_with('/').then(|| PathBuf::from(first))
    }

    /// A plain value, looked up if it is `{ env = … }` or `{ file = … }`.
    pub(super) fn scalar<'t>(&mut self, node: &'t Node<'_>, key: &Key) -> Option<Given<'t>> {
        if key.kind == Kind::Secret {
            self.hide(node);
        }
        let plain = |raw| Some(Given { raw, origin: None });
        match node.get_ref() {
            DeValue::Boolean(flag) => plain(Raw::Flag(*flag)),
            DeValue::Integer(integer) => plain(Raw::Integer(match integer.radix() {
                10 => Cow::Borrowed(integer.as_str()),
                radix => match i64::from_str_radix(integer.as_str(), radix) {
                    Ok(number) => Cow::Owned(number.to_string()),
                    Err(_) => Cow::Owned(integer.to_string()),
                },
            })),
            DeValue::String(text) => plain(Raw::Text(Cow::Borrowed(text))),
            DeValue::Table(table) if is_text(key.kind) => self.indirect(node, table, key),
            DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                let what = node.get_ref().type_str();
                self.faults.wrong(
                    node.span(),
                    format!("`{}` takes {}, not {} {what}", key.name, key.kind.wanted(), article(what)),
                );
                None
            }
        }
    }

    fn indirect(&mut self, node: &Node<'_>, table: &DeTable<'_>, key: &Key) -> Option<Given<'static>> {
        let entry = table.iter().next().filter(|_| table.len() == 1);
        let found = entry.and_then(|(name, value)| Some((name.get_ref().as_ref(), value.get_ref().as_str()?)));
        let (origin, value) = match found {
            Some(("env", name)) => (format!("the environment variable {}", quote(name)), self.sources.env(name)),
            Some(("file", path)) => (format!("the file {}", quote(path)), self.sources.file(path)),
            Some(_) | None => {
                // It may be anything, so none of it is shown.
                self.hide(node);
                let more = if key.kind == Kind::Backends {
                    "; backends with more than an address are written as [pools.NAME.backends.NAME]"
                } else {
                    ""
                };
                self.faults.wrong(
                    node.span(),
                    format!(
                        "`{}` takes {}, or {{ env = \"NAME\" }} or {{ file = \"PATH\" }} \
                     in its place, and no other table{more}",
                        key.name,
                        key.kind.wanted()
                    ),
                );
                return None;
            }
        };
        match value {
            Ok(text) => Some(Given { raw: Raw::Text(Cow::Owned(text)), origin: Some(origin) }),
            Err(error) => {
                let mend = match error {
                    SourceError::Unset => "set it, or write the value here",
                    SourceError::Unreadable(_) => "create it, or let the daemon's user read it",
                    SourceError::NotText | SourceError::TooLong => "it is probably not the one you mean",
                };
                self.faults.wrong(node.span(), format!("`{}`: {origin} {error}; {mend}", key.name));
                None
            }
        }
    }
}

/// Whether a key takes a string, so that it may be looked up elsewhere.
fn is_text(kind: Kind) -> bool {
    !matches!(kind, Kind::Flag | Kind::Integer { .. } | Kind::Table(_) | Kind::Tables(_))
}

fn join(label: &str, name: &str) -> String {
    if label.is_empty() { name.to_owned() } else { format!("{label}.{name}") }
}

/// A name as it is written in a header.
fn bare(name: &str) -> String {
    let is_bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if is_bare { name.to_owned() } else { quote(name).replace('`', "\"") }
}

/// "a" or "an".
fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

#[cfg(test)]
mod tests {
    use super::is_text;
    use crate::config::key::{Kind, Preset};
    use crate::config::keys::KEYS;

    #[test]
    fn only_texts_have_a_text_for_a_default() {
        for key in KEYS {
            if matches!(key.preset, Preset::Text(_)) {
                assert!(is_text(key.kind), "{}", key.name);
            }
            assert!(!(is_text(key.kind) && matches!(key.kind, Kind::Table(_))));
        }
    }
}
