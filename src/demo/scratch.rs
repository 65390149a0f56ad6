//! The directory in which the demo keeps what it writes; gone when the demo is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tempfile::{Builder, TempDir};

/// How often its removal is tried.
const ATTEMPTS: usize = 50;
/// From one try to the next.
const PAUSE: Duration = Duration::from_millis(20);

/// The directory.
#[derive(Debug)]
pub(super) struct Scratch(TempDir);

impl Scratch {
    /// Makes it. Everybody may look in: PostgreSQL's account must pass through it.
    pub(super) fn create() -> anyhow::Result<Self> {
        let mode = fs::Permissions::from_mode(0o755);
        let dir = Builder::new().prefix("changeover-demo-").permissions(mode).tempdir();
        dir.map(Self).context("cannot make a temporary directory")
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The children of a killed PostgreSQL may write their last into it yet, between the emptying of a
        // directory and its removal.
        for _ in 0..ATTEMPTS {
            if fs::remove_dir_all(self.0.path()).is_ok() || !self.0.path().exists() {
                return;
            }
            thread::park_timeout(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_in_the_directory_goes_with_it() {
        let scratch = super::Scratch::create().unwrap();
        let path = scratch.path().to_owned();
        std::fs::create_dir(path.join("pg")).unwrap();
        std::fs::write(path.join("pg/file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
