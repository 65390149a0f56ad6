//! Who is connected to which backend, so that the control plane can cut them: the fence.
//!
//! Each worker has a shard of its own and is alone in locking it, but for a fence. A session is in
//! its shard from before its dial until before its sockets close, so a fence never touches a socket
//! that is not the session's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;

use crate::model::{BackendId, Epoch, OutReason};
use crate::sys::{Resting, Stream};

/// So many sessions at rest are cut before the lock is given up for a moment: about 100 microseconds.
const CUT_AT_ONCE: usize = 32;

/// All admitted sessions.
#[derive(Debug, Clone)]
pub struct Registry {
    shards: Arc<[Mutex<Shard>]>,
}

#[derive(Debug, Default)]
struct Shard {
    sessions: Slab<Entry>,
    /// The lowest epoch that is admitted, for backends that were fenced.
    floors: BTreeMap<BackendId, Epoch>,
}

#[derive(Debug)]
struct Entry {
    backend: BackendId,
    epoch: Epoch,
    sockets: Sockets,
    fenced: Option<OutReason>,
}

/// The sockets of a session that are under the fence.
#[derive(Debug)]
enum Sockets {
    /// It dials, or is on its way to rest or back: its thread asks again before it moves a byte.
    None,
    /// Nothing may be written to its client yet: it can still be given another backend.
    Server(Arc<Stream>),
    /// Established: its client's and its backend's.
    Both([Arc<Stream>; 2]),
    /// The same, kept here while nothing moves.
    Resting([Resting; 2]),
}

/// The route that the session picked is older than the last fence of its backend: pick again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

impl Registry {
    /// A registry for `workers` threads.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { shards: (0..workers).map(|_| Mutex::default()).collect() }
    }

    /// Admits a session of `worker` to `backend` under `epoch`.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the backend was fenced since that epoch.
    pub fn admit(&self, worker: usize, backend: BackendId, epoch: Epoch) -> Result<Admission, Stale> {
        let mut shard = self.shard(worker);
        if shard.floors.get(&backend).is_some_and(|&floor| epoch < floor) {
            return Err(Stale);
        }
        let key = shard.sessions.insert(Entry { backend, epoch, sockets: Sockets::None, fenced: None });
        drop(shard);
        Ok(Admission { registry: self.clone(), worker, key: Some(key) })
    }

    /// Closes every session of `backend` that was admitted under an epoch below `epoch`, and admits no
    /// more of them. When it returns, no byte of theirs reaches a client any more. Gives the number of
    /// those that were established; those that have not been answered yet are cut from their backend only.
    pub fn fence(&self, backend: BackendId, epoch: Epoch, reason: OutReason) -> usize {
        (0..self.shards.len()).map(|worker| self.fence_shard(worker, backend, epoch, reason)).sum()
    }

    fn fence_shard(&self, worker: usize, backend: BackendId, epoch: Epoch, reason: OutReason) -> usize {
        let mut shard = self.shard(worker);
        let floor = shard.floors.entry(backend).or_default();
        *floor = epoch.max(*floor);
        let (mut fenced, mut from) = (0, 0);
        // Sessions that come from now on are not of this fence, so a key that was passed need not be looked at again.
        while let Some(batch) = shard.mark(from, backend, epoch, reason) {
            // Cut outside the lock, which the worker needs for every other session; the handles keep the sockets open.
            drop(shard);
            batch.sockets.iter().for_each(|socket| socket.abort());
            fenced += batch.established;
            from = batch.next;
            shard = self.shard(worker);
        }
        fenced
    }

    /// Drops what is remembered of fences of backends that are gone for good.
    pub fn forget(&self, backend: BackendId) {
        for worker in 0..self.shards.len() {
            self.shard(worker).floors.remove(&backend);
        }
    }

    /// A panic while the lock was held cannot have left a shard half changed: every change is one step.
    fn shard(&self, worker: usize) -> MutexGuard<'_, Shard> {
        self.shards[worker % self.shards.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one look at a shard has found to be fenced.
struct Batch {
    established: usize,
    /// To be cut.
    sockets: Vec<Arc<Stream>>,
    /// Where to look on.
    next: usize,
}

impl Shard {
    /// Marks the sessions of a fence from key `from` on; none if there is no key left. Those at rest are cut
    /// here, where their sockets are kept, so not too many at a time.
    fn mark(&mut self, from: usize, backend: BackendId, epoch: Epoch, reason: OutReason) -> Option<Batch> {
        let end = self.sessions.iter().next_back().map_or(0, |(key, _)| key + 1);
        if from >= end {
            return None;
        }
        let mut batch = Batch { established: 0, sockets: Vec::new(), next: end };
        let mut cut = 0;
        for key in from..end {
            let Some(entry) = self.sessions.get_mut(key) else { continue };
            if entry.backend != backend || entry.epoch >= epoch || entry.fenced.is_some() {
                continue;
            }
            entry.fenced = Some(reason);
            match &entry.sockets {
                Sockets::None => {}
                Sockets::Server(server) => batch.sockets.push(Arc::clone(server)),
                Sockets::Both(both) => {
                    batch.established += 1;
                    batch.sockets.extend(both.iter().cloned());
                }
                Sockets::Resting(both) => {
                    batch.established += 1;
                    both.iter().for_each(Resting::abort);
                    cut += 1;
                }
            }
            if cut == CUT_AT_ONCE {
                batch.next = key + 1;
                break;
            }
        }
        Some(batch)
    }
}

/// A session's place in the registry. Gone when dropped; drop it before the sockets.
#[derive(Debug)]
pub struct Admission {
    registry: Registry,
    worker: usize,
    key: Option<usize>,
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

    /// Why the session was fenced, if it was.
    #[must_use]
    pub fn fenced(&self) -> Option<OutReason> {
        let shard = self.registry.shard(self.worker);
        self.key.and_then(|key| shard.sessions.get(key)?.fenced)
    }

    /// Leaves the registry. Says why the session was fenced, if it was.
    pub fn end(mut self) -> Option<OutReason> {
        self.leave()
    }

    fn leave(&mut self) -> Option<OutReason> {
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

#[cfg(test)]
mod tests {
    use super::{Registry, Stale};
    use crate::model::{BackendId, Epoch, OutReason};
    use crate::sys::{Stream, connect};
    use std::io::{Read, Write};
    use std::sync::Arc;

    const PG1: BackendId = BackendId(1);

    #[test]
    fn no_session_is_admitted_with_an_epoch_below_the_last_fence() {
        let registry = Registry::new(2);
        let before = registry.admit(0, PG1, Epoch(4)).unwrap();
        assert_eq!(registry.fence(PG1, Epoch(5), OutReason::Dead), 0, "it was not established yet");
        assert_eq!(registry.admit(1, PG1, Epoch(4)).unwrap_err(), Stale);
        assert_eq!(before.end(), Some(OutReason::Dead));
        let after = registry.admit(0, PG1, Epoch(5)).unwrap();
        assert!(registry.admit(1, BackendId(2), Epoch(0)).is_ok());
        assert_eq!(registry.fence(PG1, Epoch(5), OutReason::Dead), 0);
        assert_eq!(after.end(), None);
        registry.forget(PG1);
        assert!(registry.admit(0, PG1, Epoch(0)).is_ok());
    }

    async fn pair() -> (Arc<Stream>, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let ours = connect(&address, std::time::Duration::from_secs(10)).await.unwrap();
        let theirs = listener.accept().unwrap().0;
        theirs.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        (Arc::new(ours), theirs)
    }

    #[tokio::test]
    async fn a_session_fenced_while_it_dialled_is_stale() {
        let registry = Registry::new(1);
        let admission = registry.admit(0, PG1, Epoch(0)).unwrap();
        registry.fence(PG1, Epoch(1), OutReason::Dead);
        let (server, _peer) = pair().await;
        assert_eq!(admission.attach_server(&server), Err(Stale));
    }

    #[tokio::test]
    async fn a_session_fenced_before_the_first_answer_keeps_its_client() {
        let registry = Registry::new(1);
        let admission = registry.admit(0, PG1, Epoch(0)).unwrap();
        let ((client, mut person), (server, mut peer)) = (pair().await, pair().await);
        admission.attach_server(&server).unwrap();
        assert_eq!(registry.fence(PG1, Epoch(1), OutReason::Dead), 0, "it was not established yet");
        assert_eq!(peer.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(admission.attach_client(&client, &server, || ()), Err(Stale));
        assert_eq!(admission.end(), Some(OutReason::Dead));
        client.try_send(b"from another").unwrap();
        assert_eq!(person.read(&mut [0; 64]).unwrap(), 12);
    }

    #[tokio::test]
    async fn when_a_fence_returns_no_byte_reaches_the_client() {
        let registry = Registry::new(1);
        let admission = registry.admit(0, PG1, Epoch(0)).unwrap();
        let ((client, mut person), (backend, mut server)) = (pair().await, pair().await);
        admission.attach_server(&backend).unwrap();
        admission.attach_client(&client, &backend, || ()).unwrap();
        let registry_of_control = registry.clone();
        let control = std::thread::spawn(move || registry_of_control.fence(PG1, Epoch(1), OutReason::Dead));
        assert_eq!(control.join().unwrap(), 1);
        assert!(client.try_send(b"an acknowledgement").is_err());
        assert_eq!(person.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(server.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert!(server.write_all(b"x").is_err());
        assert_eq!(admission.end(), Some(OutReason::Dead));
    }
}
