//! A program that runs, and its group.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child as StdChild, ExitStatus};
use std::sync::mpsc::Sender;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Job, RunError, Started};

/// What a group may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupSignal {
    /// To come to its end: `SIGTERM`.
    Terminate,
    /// To be gone: `SIGKILL`.
    Kill,
}

impl GroupSignal {
    pub(in crate::sys) const fn number(self) -> Signal {
        match self {
            Self::Terminate => Signal::TERM,
            Self::Kill => Signal::KILL,
        }
    }
}

/// The process that was started, which leads its group. When it is dropped, the group is killed.
pub(super) struct Leader {
    child: Option<StdChild>,
    pid: Pid,
    jobs: Sender<Job>,
    is_reaped: bool,
}

impl Leader {
    pub(super) fn new(child: StdChild, jobs: Sender<Job>) -> Self {
        Self { pid: Pid::from_child(&child), child: Some(child), jobs, is_reaped: false }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, StdChild::id)
    }

    /// Until it is waited for, no other process or group has its number.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.is_reaped {
            return Ok(());
        }
        Ok(kill_process_group(self.pid, signal)?)
    }

    /// How it ended, once it has.
    fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() && !self.is_reaped {
            self.is_reaped = true;
            // A thread that is gone knows of nobody.
            drop(self.jobs.send(Job::Reaped(child.id())));
        }
        Ok(status)
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.is_reaped {
            return;
        }
        // What may not be killed, as another user's, ends when it ends: somebody waits for it.
        drop(self.signal(Signal::KILL));
        if let Some(child) = self.child.take() {
            drop(self.jobs.send(Job::Bury(child)));
        }
    }
}

/// A program that runs. When it is dropped, it is killed with all of its group, and does not stay as a zombie.
pub struct Child {
    /// Its standard input and output, if they are one connection. Does not block.
    pub connection: Option<UnixStream>,
    /// What it writes: its standard error, and its output if that is no connection. Does not block.
    pub output: Option<OwnedFd>,
    ended: AsyncFd<OwnedFd>,
    leader: Leader,
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl Child {
    pub(super) fn new(started: Started) -> Result<Self, RunError> {
        let Started { leader, ended, connection, output } = started;
        // SAFETY: an `OwnedFd` is one open descriptor, the same for as long as it lives, and it is never
        // taken out of the `AsyncFd`.
        #[expect(unsafe_code, reason = "AsyncFd has no safe constructor")]
        let registered = unsafe { AsyncFd::register_with_interest(ended, Interest::READABLE) };
        let ended = registered.map_err(|error| RunError::Local(error.into()))?;
        Ok(Self { connection, output: Some(output), ended, leader })
    }

    /// Its process number, which is that of its group as well.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.leader.pid()
    }

    /// Waits until it has ended. It keeps its number, and so does its group, until [`Self::ended`] says how. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If it cannot be waited for.
    pub async fn exited(&self) -> io::Result<()> {
        // It stays readable, and so the readiness is not cleared.
        self.ended.readable().await.map(drop)
    }

    /// Waits until it has ended, and says how. From then on its number may be another's. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If it cannot be waited for.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            let mut readiness = self.ended.readable().await?;
            if let Some(status) = self.leader.reap()? {
                return Ok(status);
            }
            readiness.clear_ready();
        }
    }

    /// Sends its group a signal; nothing once it was waited for.
    ///
    /// # Errors
    ///
    /// If none of the group may be sent it.
    pub fn signal_group(&self, signal: GroupSignal) -> io::Result<()> {
        self.leader.signal(signal.number())
    }
}
