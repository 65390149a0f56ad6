//! One session's place in the registry.

use std::sync::Arc;

use crate::model::{MonoTime, SessionEnd};
use crate::sys::{Resting, Stream};

use super::entry::{Entry, Sockets};
use super::registry::Registry;

/// The route that the session picked is older than the last fence of its backend: pick again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

/// What became of a session at rest when there was news of it.
#[derive(Debug)]
pub enum Woken {
    /// It goes on: its client's socket and its backend's.
    Streams([Arc<Stream>; 2]),
    /// It was fenced, and rests until its client is closed, which is to be then.
    Fenced(MonoTime),
    /// Its sockets are gone.
    Lost,
}

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

    /// Puts the session to rest: `take_out` takes its client's and its backend's sockets out of the runtime, and
    /// they are kept here. A fence comes before that or after it, and finds them in either case.
    ///
    /// # Errors
    ///
    /// The sockets, if it has been fenced or `take_out` gave them back; none if that lost them.
    pub fn rest(
        &self,
        both: [Arc<Stream>; 2],
        take_out: impl FnOnce([Stream; 2]) -> Result<[Resting; 2], Option<[Stream; 2]>>,
    ) -> Result<(), Option<[Arc<Stream>; 2]>> {
        let mut shard = self.registry.shard(self.worker);
        let Some(entry) = self.key.and_then(|key| shard.sessions.get_mut(key)) else { return Err(Some(both)) };
        if entry.fenced.is_some() {
            return Err(Some(both));
        }
        entry.sockets = Sockets::None;
        let [client, server] = both;
        // Nobody else has a handle: only a fence would, and there has been none.
        let (Some(client), Some(server)) = (Arc::into_inner(client), Arc::into_inner(server)) else { return Err(None) };
        match take_out([client, server]) {
            Ok(resting) => {
                entry.sockets = Sockets::Resting(resting);
                Ok(())
            }
            Err(None) => Err(None),
            Err(Some(streams)) => {
                let both = streams.map(Arc::new);
                entry.sockets = Sockets::Both(both.clone());
                Err(Some(both))
            }
        }
    }

    /// Ends the rest: `take_in` gives the sockets back to the runtime, or loses them. If it was fenced while it rested
    /// they are cut already, or else stay here: its backend's is cut, and its client is to be closed in its turn.
    pub fn wake(&self, take_in: impl FnOnce([Resting; 2]) -> Option<[Stream; 2]>) -> Woken {
        let mut shard = self.registry.shard(self.worker);
        let Some(entry) = self.key.and_then(|key| shard.sessions.get_mut(key)) else { return Woken::Lost };
        if let Some(turn) = entry.turn {
            return Woken::Fenced(turn);
        }
        let Sockets::Resting(resting) = std::mem::replace(&mut entry.sockets, Sockets::None) else {
            return Woken::Lost;
        };
        let Some(both) = take_in(resting) else { return Woken::Lost };
        let both = both.map(Arc::new);
        entry.sockets = Sockets::Both(both.clone());
        Woken::Streams(both)
    }

    /// Has `look` look at its client's and its backend's sockets, if it rests.
    pub fn at_rest<T>(&self, look: impl FnOnce(&[Resting; 2]) -> T) -> Option<T> {
        let shard = self.registry.shard(self.worker);
        match &self.key.and_then(|key| shard.sessions.get(key))?.sockets {
            Sockets::Resting(both) => Some(look(both)),
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
        self.leave()?.fenced
    }

    /// Leaves the registry from a rest. Says why the session was cut from outside, if it was, and gives its sockets.
    pub fn end_at_rest(mut self) -> (Option<SessionEnd>, Option<[Resting; 2]>) {
        match self.leave() {
            Some(Entry { fenced, sockets: Sockets::Resting(both), .. }) => (fenced, Some(both)),
            left => (left.and_then(|entry| entry.fenced), None),
        }
    }

    /// The entry, and with it perhaps a socket, goes only after the lock.
    fn leave(&mut self) -> Option<Entry> {
        let key = self.key.take()?;
        self.registry.shard(self.worker).sessions.try_remove(key)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        drop(self.leave());
    }
}
