//! The file: where it is, who may read it, whose it is, and what is done with one that is broken.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::{Builder, Database};

use crate::model::WallTime;

/// The file's name in its directory.
pub const FILE_NAME: &str = "changeover.redb";
/// What of the file is kept in memory, in bytes: the pages that every write touches, and some of the last.
const CACHE: usize = 2 << 20;
/// The largest file that is read into memory when it cannot be written, in bytes.
const COPY_MAX: u64 = 4 << 30;
/// How many files of one second may be moved aside.
const ASIDE_MAX: u32 = 100;
/// The database's own format. Files before it were never written by this program.
const KNOWN_FILE_FORMAT: u8 = 3;
/// A file that begins with these bytes was never finished: the first real ones are written last.
const UNFINISHED: [u8; 9] = [0; 9];

/// Why the file cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// Another process has it.
    #[error("another process uses it")]
    InUse,
    /// A newer version of this program has written it.
    #[error("its format is {0}, which this version does not know")]
    Newer(u64),
    /// What is in it makes no sense.
    #[error("it is corrupt: {0}")]
    Corrupt(String),
    /// The disk says no.
    #[error("{0}")]
    Disk(io::Error),
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        use redb::Error;

        let error = error.into();
        let is_nonsense = matches!(
            error,
            Error::Corrupted(_)
                | Error::UpgradeRequired(_)
                | Error::TableTypeMismatch { .. }
                | Error::TableIsMultimap(_)
                | Error::TypeDefinitionChanged { .. }
        );
        if matches!(error, Error::DatabaseAlreadyOpen) {
            Self::InUse
        } else if let Error::UpgradeRequired(version @ KNOWN_FILE_FORMAT..) = error {
            Self::Newer(u64::from(version))
        } else if let Error::Io(error) = error {
            // A file that ends too early, or does not begin as it should.
            let is_nonsense = matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof);
            if is_nonsense { Self::Corrupt(error.to_string()) } else { Self::Disk(error) }
        } else if is_nonsense {
            Self::Corrupt(error.to_string())
        } else {
            Self::Disk(io::Error::other(error.to_string()))
        }
    }
}

/// What holds the database: a file, and in tests whatever fails when it is told to.
pub(super) trait Medium: Send {
    /// Opens what is there, or begins anew if there is nothing.
    fn open(&mut self) -> Result<Database, Trouble>;
    /// Takes what is there out of the way; says where it is now.
    fn set_aside(&mut self, now: WallTime) -> io::Result<String>;
    /// All that is there, to be read only.
    fn copy(&self) -> io::Result<Vec<u8>>;
    /// How many bytes there are.
    fn bytes(&self) -> u64;
    /// Its name, for people.
    fn name(&self) -> String;
}

/// A builder with the limits that hold for every database here.
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

/// The file in the directory of state.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file in `directory`.
    pub(super) fn new(directory: &Path) -> Self {
        Self { path: directory.join(FILE_NAME) }
    }

    /// Has the directory remember its new entry.
    fn sync_directory(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

impl Medium for StateFile {
    fn open(&mut self) -> Result<Database, Trouble> {
        if let Some(directory) = self.path.parent().filter(|directory| !directory.is_dir()) {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(Trouble::Disk)?;
        }
        let is_new = !self.path.exists();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&self.path).map_err(Trouble::Disk)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Trouble::InUse),
            Err(TryLockError::Error(error)) => return Err(Trouble::Disk(error)),
        }
        let mut head = UNFINISHED.map(|_| 1);
        // A shorter file is empty or corrupt, and the database says which.
        if file.read_exact(&mut head).is_ok() && head == UNFINISHED {
            file.set_len(0).map_err(Trouble::Disk)?;
        }
        let database = builder().create_file(file)?;
        if is_new {
            self.sync_directory().map_err(Trouble::Disk)?;
        }
        Ok(database)
    }

    fn set_aside(&mut self, now: WallTime) -> io::Result<String> {
        let stamp: String = now.to_string().chars().filter(char::is_ascii_alphanumeric).take(15).collect();
        for number in 1..=ASIDE_MAX {
            let more = if number == 1 { String::new() } else { format!("-{number}") };
            let path = self.path.with_file_name(format!("{FILE_NAME}.corrupt-{stamp}Z{more}"));
            if !path.exists() {
                fs::rename(&self.path, &path)?;
                self.sync_directory()?;
                return Ok(path.display().to_string());
            }
        }
        Err(io::Error::other(format!("{ASIDE_MAX} files of this second lie beside it already")))
    }

    fn copy(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(file) => file.take(COPY_MAX).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(bytes)
    }

    fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}
