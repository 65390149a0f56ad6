//! What is on disk of programs that run, for a daemon that comes after one that was killed together with its guard.
//!
//! A thread of its own writes it: a disk that hangs holds no tunnel up. Only the last that is to be written counts.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::Builder;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::remains::Leader;
use crate::sys::{boot_id, read_private, replace_private};

/// The file's name in its directory.
pub const FILE_NAME: &str = "tunnels.json";
/// The largest that is read.
const BYTES_MAX: u64 = 4 << 20;
/// How long the disk is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    /// Of the host's run that the rest belongs to.
    boot: String,
    /// The daemon that has written it.
    daemon: Leader,
    /// What begins its marks.
    pub(super) token: String,
    /// The programs that ran.
    pub(super) runs: BTreeSet<Leader>,
}

/// Where what runs is written down.
#[derive(Debug)]
pub(super) struct Record {
    jobs: Sender<Option<Written>>,
    daemon: Leader,
    token: String,
    done: oneshot::Receiver<()>,
}

impl Record {
    /// A record in `directory`, and what the one before has left there.
    pub(super) async fn open(directory: &Path, token: &str) -> io::Result<(Self, Option<Written>)> {
        let daemon = Leader::of(std::process::id()).ok_or(io::ErrorKind::Unsupported)?;
        let (jobs, inbox) = mpsc::channel();
        let ((before, left), (finished, done)) = (oneshot::channel(), oneshot::channel());
        let path = directory.join(FILE_NAME);
        Builder::new().name("tunnel-record".to_owned()).spawn(move || write(&path, &inbox, before, finished))?;
        let record = Self { jobs, daemon, token: token.to_owned(), done };
        let left = match timeout(PATIENCE, left).await {
            // What cannot be read, as after a crash of the host, is overwritten: else nothing would ever be written again.
            Ok(Ok(left)) => left.unwrap_or_else(|error| {
                let path = directory.join(FILE_NAME);
                let path = path.display();
                tracing::warn!(%path, %error, "which tunnels ran before cannot be read: what a killed daemon has left may stay");
                None
            }),
            Ok(Err(_)) | Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer")),
        };
        // A daemon that drains while its successor runs stops its tunnels itself.
        let is_of_the_dead = |written: &Written| {
            let lives = Leader::of(written.daemon.pid) == Some(written.daemon);
            written.boot == boot_id() && !lives && !written.token.is_empty()
        };
        Ok((record, left.filter(is_of_the_dead)))
    }

    /// Has `runs` written down.
    pub(super) fn keep(&self, runs: &BTreeSet<Leader>) {
        let (daemon, token) = (self.daemon, self.token.clone());
        let written = Written { boot: boot_id(), daemon, token, runs: runs.clone() };
        drop(self.jobs.send(Some(written)));
    }

    /// Nothing is left: neither is the file.
    pub(super) async fn end(self) {
        drop(self.jobs.send(None));
        drop(self.jobs);
        drop(timeout(PATIENCE, self.done).await);
    }
}

fn read(path: &Path) -> io::Result<Option<Written>> {
    let Some(bytes) = read_private(path, BYTES_MAX)? else { return Ok(None) };
    Ok(Some(serde_json::from_slice(&bytes)?))
}

fn write(
    path: &PathBuf,
    inbox: &Receiver<Option<Written>>,
    before: oneshot::Sender<io::Result<Option<Written>>>,
    finished: oneshot::Sender<()>,
) {
    drop(before.send(read(path)));
    let mut was_written = true;
    while let Ok(job) = inbox.recv() {
        let job = inbox.try_iter().last().unwrap_or(job);
        let done = match job {
            Some(written) => {
                serde_json::to_vec(&written).map_err(Into::into).and_then(|text| replace_private(path, &text))
            }
            None => fs::remove_file(path)
                .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }),
        };
        if let Err(error) = &done
            && was_written
        {
            let path = path.display();
            tracing::warn!(%path, %error, "which tunnels run cannot be written down: what a killed daemon leaves may stay");
        }
        was_written = done.is_ok();
    }
    let _unheard = finished.send(());
}
