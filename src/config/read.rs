//! The typed reader: walks the tree of the file along the table of keys, writes down what is wrong
//! and goes on with the default, so that one run finds everything. The tables that it walks are in `view`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::fault::Faults;
use super::key::{Key, Kind};
use super::source::{CREDENTIALS, SourceError, Sources, Way};
use super::tunnel::{Providers, TunnelNeeds};
use super::value::{Given, Raw, Value};
use super::view::{Node, View};
use super::wording::quote;

/// Reads values and collects faults.
pub(super) struct Reader<'a> {
    sources: &'a dyn Sources,
    /// What stands here or behind was set at run time.
    runtime_from: usize,
    /// What tunnels can be made with.
    pub(super) providers: Providers,
    /// What the tunnels that were read need of this machine.
    pub(super) needs: Vec<TunnelNeeds>,
    /// What was found to be wrong.
    pub(super) faults: Faults,
}

impl<'a> Reader<'a> {
    /// A reader that has found nothing yet.
    pub(super) fn new(sources: &'a dyn Sources) -> Self {
        Self {
            sources,
            runtime_from: usize::MAX,
            providers: Providers::default(),
            needs: Vec::new(),
            faults: Faults::default(),
        }
    }

    /// The same, where the places from `runtime_from` on are not the file's: nothing is looked up for them.
    pub(super) fn layered(sources: &'a dyn Sources, runtime_from: usize) -> Self {
        Self { runtime_from, ..Self::new(sources) }
    }

    /// One for another text, with the same sources.
    pub(super) fn aside(&self) -> Self {
        Self::new(self.sources)
    }

    /// Says where the file is no TOML.
    pub(super) fn broken(&mut self, errors: &[toml::de::Error]) {
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            // The parser takes nothing for a string without quotes.
            let nothing = span.is_empty() && error.message().starts_with("string values must be quoted");
            let message = if nothing { "a value is missing" } else { error.message() };
            self.faults.syntax(span, format!("this is not TOML: {message}"));
        }
    }

    /// Keeps every plain value in `node` out of the snippets.
    pub(super) fn hide(&mut self, node: &Node<'_>) {
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
        if view.lacks(key) {
            let Key { name, .. } = key;
            self.faults.lacking(
                view.span.clone(),
                name,
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

    /// The items of the list under `key`, at most `max` of what they are called `of`; none if it is absent or wrong.
    pub(super) fn list<'t>(&mut self, view: &View<'t>, key: &Key, max: usize, of: &str) -> &'t [Node<'t>] {
        let Some(node) = view.node(key) else { return &[] };
        let DeValue::Array(list) = node.get_ref() else {
            // One alone is no list, and saying so needs no look at it.
            if let Some(given) = self.scalar(node, key) {
                self.faults.wrong(node.span(), given.mismatch(key));
            }
            return &[];
        };
        if list.len() > max {
            let message = format!("`{}` has {} {of}; {max} is the most", key.name, list.len());
            self.faults.wrong(node.span(), message);
            return &[];
        }
        list
    }

    /// The directory that systemd made for us (`StateDirectory=`), the first if there are several.
    pub(super) fn state_directory(&self) -> Option<PathBuf> {
        let list = self.sources.env("STATE_DIRECTORY").ok()?;
        let first = list.split(':').next()?;
        first.starts_with('/').then(|| PathBuf::from(first))
    }

    /// What is in the file at `path`, which a value names.
    ///
    /// # Errors
    /// If it cannot be read, is no text or is longer than any value.
    pub(super) fn content(&self, path: &Path) -> Result<String, SourceError> {
        path.to_str().map_or(Err(SourceError::NotText), |path| self.sources.file(path))
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
        if node.span().start >= self.runtime_from {
            // Whoever may call the API must not read the files and the environment of the daemon.
            let message = format!(
                "`{}` takes {}, and no table: what is set at run time stands for itself, \
                 {{ env = … }}, {{ file = … }} and {{ credential = … }} are for the file alone",
                key.name,
                key.kind.wanted()
            );
            self.faults.wrong(node.span(), message);
            return None;
        }
        let entry = table.iter().next().filter(|_| table.len() == 1);
        let found = entry.and_then(|(name, value)| Some((name.get_ref().as_ref(), value.get_ref().as_str()?)));
        let way = found.and_then(|(word, name)| Some((Way::from_word(word)?, name)));
        let (way, origin, value) = match way {
            Some((way, name)) => (way, way.words(&quote(name)), way.look_up(self.sources, name)),
            None => {
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
                        "`{}` takes {}, or {{ env = \"NAME\" }}, {{ file = \"PATH\" }} or {{ credential = \"NAME\" }} \
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
                    SourceError::Unset if way == Way::Credential => {
                        let name = found.map(|(_, name)| name).unwrap_or_default();
                        let message = format!(
                            "`{}`: {origin} cannot be had, because ${CREDENTIALS} is not set: systemd sets it for a unit \
                             with LoadCredential={name}:PATH; write that there, or {{ file = \"PATH\" }} here",
                            key.name
                        );
                        self.faults.wrong(node.span(), message);
                        return None;
                    }
                    // A secret is not always taken as it stands.
                    SourceError::Unset if key.kind == Kind::Secret => "set it",
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

/// "a" or "an".
pub(super) fn article(word: &str) -> &'static str {
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
