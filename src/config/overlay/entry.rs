//! Which key of a pool is meant, as one text that a store can keep and people can read.

use std::fmt;
use std::str::FromStr;

use crate::model::BackendName;

/// A key of a pool that can be patched: one of its own, or one of a backend that stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatchKey {
    /// The backend whose key it is; none if it is the pool's.
    pub backend: Option<BackendName>,
    /// The key with the tables it stands in: `check.interval`.
    pub path: String,
}

impl PatchKey {
    /// What comes before every other.
    pub(super) const FIRST: Self = Self { backend: None, path: String::new() };

    /// A key of the pool itself.
    #[must_use]
    pub fn of_pool(path: &str) -> Self {
        Self { backend: None, path: path.to_owned() }
    }

    /// A key of one of its backends.
    #[must_use]
    pub fn of_backend(backend: &BackendName, path: &str) -> Self {
        Self { backend: Some(backend.clone()), path: path.to_owned() }
    }

    /// Whether this is `path` or stands below it, for the same backend.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        let rest = self.path.strip_prefix(other.path.as_str());
        self.backend == other.backend && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl fmt::Display for PatchKey {
    /// As a dotted key of the file: `check.interval`, `backends."10.0.0.1:5432".weight`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(backend) = &self.backend else { return f.write_str(&self.path) };
        let name = backend.as_str();
        if !name.is_empty() && name.bytes().all(is_bare) {
            write!(f, "backends.{name}.{}", self.path)
        } else {
            write!(f, "backends.{}.{}", serde_json::Value::from(name), self.path)
        }
    }
}

fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// A text that is no key of a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no key of a pool; write it as check.interval or backends.NAME.weight")]
pub struct PatchKeyError(String);

impl FromStr for PatchKey {
    type Err = PatchKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.strip_prefix("backends.") {
            None => Some(Self::of_pool(text)),
            Some(rest) if rest.starts_with('"') => {
                let mut names = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                let name = names.next().and_then(Result::ok);
                let behind = rest.get(names.byte_offset()..).and_then(|behind| behind.strip_prefix('.'));
                name.zip(behind).map(|(name, path)| Self::of_backend(&BackendName::from(name.as_str()), path))
            }
            Some(rest) => rest
                .split_once('.')
                .filter(|(name, _)| !name.is_empty() && name.bytes().all(is_bare))
                .map(|(name, path)| Self::of_backend(&BackendName::from(name), path)),
        };
        let error = || PatchKeyError(text.chars().take(64).collect());
        parsed.filter(|key| key.path.split('.').all(|part| !part.is_empty())).ok_or_else(error)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::PatchKey;
    use crate::model::BackendName;

    #[test]
    fn a_key_reads_back_as_it_prints() {
        let backend = |name: &str, path: &str| PatchKey::of_backend(&BackendName::from(name), path);
        for (key, text) in [
            (PatchKey::of_pool("check.interval"), "check.interval"),
            (PatchKey::of_pool("failover.sessions.dead"), "failover.sessions.dead"),
            (backend("pg1", "weight"), "backends.pg1.weight"),
            (backend("10.0.0.1:5432", "check.http.port"), "backends.\"10.0.0.1:5432\".check.http.port"),
            (backend("unix:/run/\"x\\.weight", "weight"), "backends.\"unix:/run/\\\"x\\\\.weight\".weight"),
        ] {
            assert_eq!(key.to_string(), text);
            assert_eq!(text.parse(), Ok(key));
        }
        for bad in ["", ".", "check.", "backends.pg1", "backends..weight", "backends.\"a", "backends.\"a\"weight"] {
            assert!(bad.parse::<PatchKey>().is_err(), "{bad}");
        }
    }
}
