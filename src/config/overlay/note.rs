//! What is told of an entry that did not outlive a change of the file.

use std::fmt;

use serde_json::{Value, json};

use crate::config::wording::quote;
use crate::model::{Actor, BackendName, PoolName};

use super::PatchKey;

/// Why an entry of the overlay was dropped.
#[derive(Debug, Clone, PartialEq)]
pub enum Dropped {
    /// The file has the pool no longer.
    PoolGone,
    /// The file has the patched backend no longer.
    BackendGone,
    /// The file has a backend of the registered one's name.
    NameInFile,
    /// The file has a backend at the registered one's address.
    AddressInFile {
        /// The one in the file.
        backend: BackendName,
    },
    /// The file says something else than it did when the key was patched; each value as it is shown to all.
    FileChanged {
        /// What it said then, if anything.
        base: Option<Value>,
        /// What it says now, if anything.
        file: Option<Value>,
        /// The patch's value.
        patch: Value,
    },
    /// It is not valid any more. In the words of the reader.
    Invalid {
        /// What is wrong.
        message: String,
    },
    /// There are more than may be.
    Limit {
        /// How many may be.
        limit: usize,
    },
}

impl Dropped {
    /// The word for it in the API.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::PoolGone => "pool_gone",
            Self::BackendGone => "backend_gone",
            Self::NameInFile => "name_in_file",
            Self::AddressInFile { .. } => "address_in_file",
            Self::FileChanged { .. } => "file_changed",
            Self::Invalid { .. } => "invalid",
            Self::Limit { .. } => "limit",
        }
    }
}

/// An entry of the overlay that was dropped, and why: for an event's detail, and by [`fmt::Display`] for people.
/// Shows no secret, since none can be set at run time.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// The pool.
    pub pool: PoolName,
    /// The backend, if it is about one.
    pub backend: Option<BackendName>,
    /// The key that was patched; none for a registration.
    pub key: Option<PatchKey>,
    /// Who had registered or patched.
    pub actor: Actor,
    /// Why it was dropped.
    pub dropped: Dropped,
}

impl Note {
    /// As the detail of an event.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self { pool, backend, key, actor, dropped } = self;
        let mut detail = json!({
            "pool": pool.as_str(), "backend": backend.as_ref().map(BackendName::as_str),
            "key": key.as_ref().map(|key| key.path.as_str()), "actor": actor.as_str(),
            "dropped": dropped.label(), "message": self.to_string(),
        });
        if let (Dropped::FileChanged { base, file, patch }, Some(detail)) = (dropped, detail.as_object_mut()) {
            for (name, value) in [("base", base.as_ref()), ("file", file.as_ref()), ("patch", Some(patch))] {
                detail.insert(name.to_owned(), value.cloned().unwrap_or_default());
            }
        }
        detail
    }
}

/// A value in a message.
fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| quote(&value.to_string()))
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, backend, key, dropped, .. } = self;
        match (key, backend) {
            (Some(key), _) => write!(f, "pool {pool}: the change of `{key}` is dropped: ")?,
            (None, Some(backend)) => write!(f, "pool {pool}: the registration of backend {backend} is dropped: ")?,
            (None, None) => write!(f, "pool {pool}: a registration is dropped: ")?,
        }
        match dropped {
            Dropped::PoolGone => f.write_str("the file has no such pool any more"),
            Dropped::BackendGone => f.write_str("the file has no such backend any more"),
            Dropped::NameInFile => f.write_str("the file now has a backend of that name"),
            Dropped::AddressInFile { backend } => write!(f, "the file now has backend {backend} at its address"),
            Dropped::FileChanged { base, file, patch } => write!(
                f,
                "the file now says {}, and said {} when it was set to {}",
                shown(file.as_ref()),
                shown(base.as_ref()),
                shown(Some(patch))
            ),
            Dropped::Invalid { message } => f.write_str(message),
            Dropped::Limit { limit } => write!(f, "there may be {limit} at most"),
        }
    }
}
