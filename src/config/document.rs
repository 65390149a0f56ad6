//! The configuration file as it was read: its text, what its `{ env }` and `{ file }` stood for, and
//! the plan that it makes. With it at hand, what lies over the file is read without touching the disk again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::model::{Plan, Secret};

use super::source::{OsSources, SourceError, Sources};
use super::{ConfigErrors, TunnelNeeds, parse_with_needs, read_text};

/// A configuration file that is right, as it was read.
#[derive(Clone)]
pub struct Document {
    name: String,
    text: String,
    found: Found,
    plan: Plan,
    needs: Vec<TunnelNeeds>,
}

impl Document {
    /// Reads the configuration file at `path`, with the process's own environment and files.
    ///
    /// # Errors
    /// Everything that is wrong with it; a single error if it cannot be read at all.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::load_with(path, &OsSources)
    }

    /// The same, where what `{ env }` and `{ file }` stand for comes from `sources`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(path: &Path, sources: &dyn Sources) -> Result<Self, ConfigErrors> {
        let name = path.display().to_string();
        let text = read_text(path, &name)?;
        Self::parse(&name, &text, sources)
    }

    /// Reads a configuration from `text`; `name` is what messages call it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(name: &str, text: &str, sources: &dyn Sources) -> Result<Self, ConfigErrors> {
        let recorder = Recorder { sources, found: RefCell::default() };
        let (plan, needs) = parse_with_needs(name, text, &recorder)?;
        let found = Found(recorder.found.into_inner());
        Ok(Self { name: name.to_owned(), text: text.to_owned(), found, plan, needs })
    }

    /// What the file alone says, with nothing over it.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the tunnels in it need of this machine.
    #[must_use]
    pub fn tunnel_needs(&self) -> &[TunnelNeeds] {
        &self.needs
    }

    /// Its text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What its `{ env }` and `{ file }` stood for when it was read.
    pub(super) const fn sources(&self) -> &dyn Sources {
        &self.found
    }
}

impl fmt::Debug for Document {
    /// The text may hold secrets, so that only its length is told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.text.len())
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Env(String),
    File(String),
}

type Findings = BTreeMap<Origin, Result<Secret, SourceError>>;

/// Sources that write down what they were asked and what they said.
struct Recorder<'a> {
    sources: &'a dyn Sources,
    found: RefCell<Findings>,
}

impl Recorder<'_> {
    fn keep(&self, origin: Origin, value: Result<String, SourceError>) -> Result<String, SourceError> {
        let kept = value.as_deref().map(Secret::new).map_err(Clone::clone);
        self.found.borrow_mut().insert(origin, kept);
        value
    }
}

impl Sources for Recorder<'_> {
    fn env(&self, name: &str) -> Result<String, SourceError> {
        self.keep(Origin::Env(name.to_owned()), self.sources.env(name))
    }

    fn file(&self, path: &str) -> Result<String, SourceError> {
        self.keep(Origin::File(path.to_owned()), self.sources.file(path))
    }
}

/// What was written down.
#[derive(Clone)]
struct Found(Findings);

impl Found {
    fn get(&self, origin: &Origin) -> Result<String, SourceError> {
        let found = self.0.get(origin).cloned().unwrap_or(Err(SourceError::Unset));
        found.map(|secret| secret.expose().to_owned())
    }
}

impl Sources for Found {
    fn env(&self, name: &str) -> Result<String, SourceError> {
        self.get(&Origin::Env(name.to_owned()))
    }

    fn file(&self, path: &str) -> Result<String, SourceError> {
        self.get(&Origin::File(path.to_owned()))
    }
}
