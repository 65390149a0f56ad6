//! One session's place in the registry.

use std::sync::Arc;

use crate::model::SessionEnd;
use crate::sys::{Resting, Stream};

use super::registry::{Entry, Registry, Sockets};

/// The route that the session picked is older than the last fence of its backend: pick again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

/// A session's place in the registry. Gone when dropped; drop it before the sockets.
#[derive(Debug)]
pub struct Admission {
    pub(super) registry: Registry,
    pub(super) worker: usize,
    pub(super) key: Option<usize>,
}

impl Admission {
    /// Puts the session's socket to the backend under the fence, once the dial is done.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the backend was fenced meanwhile.
    pub fn attach_server(&self, server: &Arc<Stream>) -> Result<(), Stale> {
        self.change(|entry| entry.sockets = Sockets::Server(Arc::clone(server)))
    }

    /// Puts the client's socket under the fence too and has `deliver` write the first bytes to it, without
    /// waiting. A fence comes before both, and the client can be given another backend, or after both.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the backend was fenced meanwhile: nothing it said may reach the client.
    pub fn attach_client(
        &self,
        client: &Arc<Stream>,
        server: &Arc<Stream>,
        deliver: impl FnOnce(),
    ) -> Result<(), Stale> {
        self.change(|entry| {
            entry.sockets = Sockets::Both([Arc::clone(client), Arc::clone(server)]);
            deliver();
        })
    }

    /// Lets go of the sockets: the session moves no byte until it has put them back.
    pub fn detach(&self) {
        // A fence that comes meanwhile is told when they are put back.
        drop(self.replace(Sockets::None));
    }

    /// Keeps the sockets, its client's and its backend's, while nothing moves.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the backend was fenced meanwhile; the sockets are cut then.
    pub fn rest(&self, both: [Resting; 2]) -> Result<(), Stale> {
        let mut shard = self.registry.shard(self.worker);
        let entry = self.key.and_then(|key| shard.sessions.get_mut(key)).ok_or(Stale)?;
        if entry.fenced.is_none() {
            entry.sockets = Sockets::Resting(both);
            return Ok(());
        }
        drop(shard);
        both.iter().for_each(Resting::abort);
        Err(Stale)
    }

    /// Gives the sockets back that were kept; none if none were.
    pub fn wake(&self) -> Option<[Resting; 2]> {
        match self.replace(Sockets::None)? {
            Sockets::Resting(both) => Some(both),
            Sockets::None | Sockets::Server(_) | Sockets::Both(_) => None,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) -> Result<(), Stale> {
        let mut shard = self.registry.shard(self.worker);
        let entry = self.key.and_then(|key| shard.sessions.get_mut(key)).ok_or(Stale)?;
        if entry.fenced.is_some() {
            return Err(Stale);
        }
        change(entry);
        Ok(())
    }

    /// What was there; for dropping after the lock.
    fn replace(&self, sockets: Sockets) -> Option<Sockets> {
        let mut shard = self.registry.shard(self.worker);
        let entry = self.key.and_then(|key| shard.sessions.get_mut(key))?;
        Some(std::mem::replace(&mut entry.sockets, sockets))
    }

    /// Its key among its worker's sessions, for [`Registry::add_moved`].
    #[must_use]
    pub fn key(&self) -> usize {
        self.key.unwrap_or(usize::MAX)
    }

    /// Adds to what it has moved, to the backend and to the client.
    pub fn add_moved(&self, moved: [u64; 2]) {
        self.registry.add_moved(self.worker, &[(self.key(), moved)]);
    }

    /// Why the session was cut from outside, if it was.
    #[must_use]
    pub fn fenced(&self) -> Option<SessionEnd> {
        let shard = self.registry.shard(self.worker);
        self.key.and_then(|key| shard.sessions.get(key)?.fenced)
    }

    /// Leaves the registry. Says why the session was cut from outside, if it was.
    pub fn end(mut self) -> Option<SessionEnd> {
        self.leave()
    }

    fn leave(&mut self) -> Option<SessionEnd> {
        let key = self.key.take()?;
        // The entry, and with it perhaps a socket, goes only after the lock.
        let entry = self.registry.shard(self.worker).sessions.try_remove(key);
        entry.and_then(|entry| entry.fenced)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.leave();
    }
}
