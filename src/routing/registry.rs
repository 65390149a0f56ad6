//! Who is connected to which backend, so that the control plane can cut them: the fence.
//!
//! Each worker has a shard of its own and is alone in locking it, but for a fence. A session is in
//! its shard from before its dial until before its sockets close, so a fence never touches a socket
//! that is not the session's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;

use crate::model::{BackendId, Epoch, OutReason};
use crate::sys::Stream;

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
    /// None until the dial is done.
    server: Option<Arc<Stream>>,
    /// None until something may be written to it: until then the session can still be given another backend.
    client: Option<Arc<Stream>>,
    fenced: Option<OutReason>,
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
        let key = shard.sessions.insert(Entry { backend, epoch, server: None, client: None, fenced: None });
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
        let (mut fenced, mut sockets) = (0, Vec::new());
        let mut shard = self.shard(worker);
        let floor = shard.floors.entry(backend).or_default();
        *floor = epoch.max(*floor);
        for (_, entry) in &mut shard.sessions {
            if entry.backend == backend && entry.epoch < epoch && entry.fenced.is_none() {
                entry.fenced = Some(reason);
                fenced += usize::from(entry.client.is_some());
                sockets.extend(entry.client.iter().chain(&entry.server).cloned());
            }
        }
        // Cut outside the lock, which the worker needs for every other session; the handles keep the sockets open.
        drop(shard);
        sockets.iter().for_each(|socket| socket.abort());
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
        self.attach(|entry| entry.server = Some(Arc::clone(server)))
    }

    /// Puts the client's socket under the fence too and has `deliver` write the first bytes to it, without
    /// waiting. A fence comes before both, and the client can be given another backend, or after both.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the backend was fenced meanwhile: nothing it said may reach the client.
    pub fn attach_client(&self, client: &Arc<Stream>, deliver: impl FnOnce()) -> Result<(), Stale> {
        self.attach(|entry| {
            entry.client = Some(Arc::clone(client));
            deliver();
        })
    }

    fn attach(&self, change: impl FnOnce(&mut Entry)) -> Result<(), Stale> {
        let mut shard = self.registry.shard(self.worker);
        let entry = self.key.and_then(|key| shard.sessions.get_mut(key)).ok_or(Stale)?;
        if entry.fenced.is_some() {
            return Err(Stale);
        }
        change(entry);
        Ok(())
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
        assert_eq!(admission.attach_client(&client, || ()), Err(Stale));
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
        admission.attach_client(&client, || ()).unwrap();
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
