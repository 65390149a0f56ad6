//! One session's place in the registry.

use std::sync::Arc;

use crate::model::{MonoTime, SessionEnd};
use crate::sys::{Gated, Resting, Stream};

use super::entry::{Entry, Pair, Sockets};
use super::registry::Registry;

/// The route that the session picked is older than the last fence of its backend: pick again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

/// What became of a session at rest when there was news of it.
#[derive(Debug)]
pub enum Woken {
    /// It goes on.
    Streams(Pair),
    /// It was fenced, and stays until its client is closed, which is to be then.
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

    /// Has `tell` write to the client, whose socket is not under the fence, what is true of any backend. A fence comes before
    /// that, or after it.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the backend was fenced meanwhile.
    pub fn unless_fenced<T>(&self, tell: impl FnOnce() -> T) -> Result<T, Stale> {
        let mut told = None;
        self.change(|_| told = Some(tell()))?;
        told.ok_or(Stale)
    }

    /// Puts the client's socket under the fence too and has `deliver` write the first bytes to it, without
    /// waiting. A fence comes before both, and the client can be given another backend, or after both.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the backend was fenced meanwhile: nothing it said may reach the client.
    pub fn attach_client(
        &self,
        client: &Arc<Gated>,
        server: &Arc<Stream>,
        deliver: impl FnOnce(),
    ) -> Result<(), Stale> {
        self.change(|entry| {
            entry.sockets = Sockets::Both(Pair { client: Arc::clone(client), server: Arc::clone(server) });
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
        both: Pair,
        take_out: impl FnOnce([Stream; 2]) -> Result<[Resting; 2], Option<[Stream; 2]>>,
    ) -> Result<(), Option<Pair>> {
        let mut shard = self.registry.shard(self.worker);
        let Some(entry) = self.key.and_then(|key| shard.sessions.get_mut(key)) else { return Err(Some(both)) };
        if entry.fenced.is_some() {
            return Err(Some(both));
        }
        entry.sockets = Sockets::None;
        let Pair { client, server } = both;
        // Nobody else has a handle: only a fence would, and there has been none.
        let (Some(client), Some(server)) = (Arc::into_inner(client), Arc::into_inner(server)) else { return Err(None) };
        match take_out([client.into_stream(), server]) {
            Ok(resting) => {
                entry.sockets = Sockets::Resting(resting);
                Ok(())
            }
            Err(None) => Err(None),
            Err(Some(streams)) => {
                let both = Pair::new(streams);
                entry.sockets = Sockets::Both(both.clone());
                Err(Some(both))
            }
        }
    }

    /// Ends the rest: `take_in` gives the sockets back to the runtime, or loses them. If it was fenced while it rested
    /// they are cut already, or else its client's stays here, to be closed in its turn, and its backend's, which is cut,
    /// is closed.
    pub fn wake(&self, take_in: impl FnOnce([Resting; 2]) -> Option<[Stream; 2]>) -> Woken {
        let mut shard = self.registry.shard(self.worker);
        let Some(entry) = self.key.and_then(|key| shard.sessions.get_mut(key)) else { return Woken::Lost };
        let sockets = std::mem::replace(&mut entry.sockets, Sockets::None);
        if let Some(turn) = entry.turn {
            entry.sockets = match sockets {
                Sockets::Resting([client, _]) => Sockets::Leaving(client),
                other @ (Sockets::None | Sockets::Server(_) | Sockets::Both(_) | Sockets::Leaving(_)) => other,
            };
            return Woken::Fenced(turn);
        }
        let Sockets::Resting(resting) = sockets else { return Woken::Lost };
        let Some(both) = take_in(resting) else { return Woken::Lost };
        let both = Pair::new(both);
        entry.sockets = Sockets::Both(both.clone());
        Woken::Streams(both)
    }

    /// Keeps the socket of its `client`, which is to be closed in its turn: `take_out` takes it out of the runtime. Its
    /// backend's is let go. Should somebody be cutting it at the same moment it is let go too.
    pub fn keep_leaving(&self, client: Arc<Gated>, take_out: impl FnOnce(Stream) -> Option<Resting>) {
        let mut shard = self.registry.shard(self.worker);
        let Some(entry) = self.key.and_then(|key| shard.sessions.get_mut(key)) else { return };
        drop(std::mem::replace(&mut entry.sockets, Sockets::None));
        if let Some(client) = Arc::into_inner(client).and_then(|client| take_out(client.into_stream())) {
            entry.sockets = Sockets::Leaving(client);
        }
    }

    /// Has `look` look at its client's socket, if that was fenced and is to be closed in its turn.
    pub fn leaving<T>(&self, look: impl FnOnce(&Resting) -> T) -> Option<T> {
        let shard = self.registry.shard(self.worker);
        match &self.key.and_then(|key| shard.sessions.get(key))?.sockets {
            Sockets::Leaving(client) => Some(look(client)),
            Sockets::None | Sockets::Server(_) | Sockets::Both(_) | Sockets::Resting(_) => None,
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

    /// Leaves the registry, unless it was fenced and its client is to be closed in its turn. Says why the session was
    /// cut from outside, if it was. A fence comes before that, or does not find it.
    ///
    /// # Errors
    ///
    /// The turn.
    pub fn end_unless_leaving(&mut self) -> Result<Option<SessionEnd>, MonoTime> {
        let mut shard = self.registry.shard(self.worker);
        let turn = self.key.and_then(|key| shard.sessions.get(key)?.turn);
        if let Some(turn) = turn {
            return Err(turn);
        }
        let left = self.key.take().and_then(|key| shard.sessions.try_remove(key));
        drop(shard);
        Ok(left.and_then(|entry| entry.fenced))
    }

    /// Leaves the registry when its turn has come. Says why the session was cut, and gives its client's socket.
    pub fn end_leaving(&mut self) -> (Option<SessionEnd>, Option<Resting>) {
        match self.leave() {
            Some(Entry { fenced, sockets: Sockets::Leaving(client), .. }) => (fenced, Some(client)),
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
