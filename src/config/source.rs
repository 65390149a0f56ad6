//! Where values come from besides the file's own text: the one place that reads files and the
//! environment.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The largest configuration file, in bytes: a pool of 20,000 backends takes less than two million.
pub(super) const FILE_MAX: usize = 16 << 20;
/// The largest value that `{ env = … }` or `{ file = … }` may stand for, in bytes.
const VALUE_MAX: usize = 64 << 10;

/// Why `{ env = "NAME" }` or `{ file = "PATH" }` stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The environment variable is not set.
    #[error("is not set")]
    Unset,
    /// The value is not UTF-8.
    #[error("is not UTF-8 text")]
    NotText,
    /// The value is longer than any value here needs to be.
    #[error("is longer than {VALUE_MAX} bytes")]
    TooLong,
    /// The file cannot be read. The operating system's words.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

/// What `{ env = "NAME" }` and `{ file = "PATH" }` stand for.
pub trait Sources {
    /// The value of an environment variable.
    ///
    /// # Errors
    /// If it is not set, is not text or is too long.
    fn env(&self, name: &str) -> Result<String, SourceError>;

    /// The content of a file, without one newline at its end.
    ///
    /// # Errors
    /// If it cannot be read, is not text or is too long.
    fn file(&self, path: &str) -> Result<String, SourceError>;
}

/// The environment variable with the directory in which systemd puts the credentials of a unit (`LoadCredential=`).
pub(super) const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The ways in which a value may stand elsewhere, as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `{ env = "NAME" }`.
    Env,
    /// `{ file = "PATH" }`.
    File,
    /// `{ credential = "NAME" }`.
    Credential,
}

impl Way {
    /// The way that `word` names.
    pub(super) fn from_word(word: &str) -> Option<Self> {
        match word {
            "env" => Some(Self::Env),
            "file" => Some(Self::File),
            "credential" => Some(Self::Credential),
            _ => None,
        }
    }

    /// What stands there under `name`.
    ///
    /// # Errors
    /// As [`Sources`]; a credential is unset if systemd gives none at all.
    pub(super) fn look_up(self, sources: &dyn Sources, name: &str) -> Result<String, SourceError> {
        match self {
            Self::Env => sources.env(name),
            Self::File => sources.file(name),
            Self::Credential => {
                // It is a file's name and no path: no credential leads out of the directory.
                if name.is_empty() || name.contains(['/', '\0']) || matches!(name, "." | "..") {
                    return Err(SourceError::Unreadable("a credential is named without a path".to_owned()));
                }
                sources.file(&format!("{}/{name}", sources.env(CREDENTIALS)?.trim_end_matches('/')))
            }
        }
    }

    /// Where that is, in words; `name` is in quotes.
    pub(super) fn words(self, name: &str) -> String {
        match self {
            Self::Env => format!("the environment variable {name}"),
            Self::File => format!("the file {name}"),
            Self::Credential => format!("the credential {name}"),
        }
    }
}

/// The process's own environment and files.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsSources;

impl Sources for OsSources {
    fn env(&self, name: &str) -> Result<String, SourceError> {
        let value = std::env::var_os(name).ok_or(SourceError::Unset)?;
        let value = value.into_string().map_err(|_| SourceError::NotText)?;
        if value.len() > VALUE_MAX { Err(SourceError::TooLong) } else { Ok(value) }
    }

    fn file(&self, path: &str) -> Result<String, SourceError> {
        // One newline more than the value may have bytes.
        let bytes = read(Path::new(path), VALUE_MAX + 2).map_err(|error| SourceError::Unreadable(error.to_string()))?;
        let mut text = String::from_utf8(bytes).map_err(|_| SourceError::NotText)?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        if text.len() > VALUE_MAX { Err(SourceError::TooLong) } else { Ok(text) }
    }
}

/// The first `limit` bytes of a file and one more, if it has more.
pub(super) fn read(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::{OsSources, SourceError, Sources, VALUE_MAX};

    fn content(bytes: &[u8]) -> Result<String, SourceError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        OsSources.file(file.path().to_str().unwrap())
    }

    #[test]
    fn a_file_loses_one_newline_at_its_end() {
        assert_eq!(content(b"secret\n"), Ok("secret".to_owned()));
        assert_eq!(content(b"secret\r\n"), Ok("secret".to_owned()));
        assert_eq!(content(b"secret\n\n"), Ok("secret\n".to_owned()));
        assert_eq!(content(b""), Ok(String::new()));
    }

    #[test]
    fn a_value_that_cannot_be_had_says_why() {
        assert_eq!(content(&[0xff]), Err(SourceError::NotText));
        assert_eq!(content(&vec![b'x'; VALUE_MAX]).map(|text| text.len()), Ok(VALUE_MAX));
        assert_eq!(content(&vec![b'x'; VALUE_MAX + 1]), Err(SourceError::TooLong));
        assert!(matches!(OsSources.file("/nonexistent/x"), Err(SourceError::Unreadable(_))));
        assert!(matches!(OsSources.file("/dev/zero"), Err(SourceError::TooLong)));
        assert!(matches!(OsSources.file("a\0b"), Err(SourceError::Unreadable(_))));
        assert_eq!(OsSources.env("CHANGEOVER_NO_SUCH_VARIABLE"), Err(SourceError::Unset));
        assert_eq!(OsSources.env("A=B\0"), Err(SourceError::Unset));
        assert!(OsSources.env("PATH").is_ok());
    }
}
