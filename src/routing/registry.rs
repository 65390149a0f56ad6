//! Who is connected to which backend, so that the control plane can cut them: the fence.
//!
//! Each worker has a shard of its own and is alone in locking it, but for a fence. A session is in
//! its shard from before its dial until before its sockets close, so a fence never touches a socket
//! that is not the session's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;

use crate::failover::Sessions;
use crate::model::{BackendId, Epoch, OutReason, SessionEnd, SessionId, SessionStatus};
use crate::sys::{Gated, Resting, Stream};

use super::admission::{Admission, Stale};
use super::cancel_keys::CancelKeys;
use super::entry::{Entry, Pair, SessionFacts, Sockets};
use super::followed::Followed;
use super::pace::{Fenced, Pace};

/// So many sessions at rest are cut, or others silenced, before the lock is given up for a moment: about 100 microseconds.
const CUT_AT_ONCE: usize = 32;

/// So many sessions are looked at before the lock is given up for a moment: some tens of microseconds.
const LOOKED_AT_ONCE: usize = 512;

/// All admitted sessions.
#[derive(Debug, Clone)]
pub struct Registry {
    shards: Arc<[Mutex<Shard>]>,
    keys: Arc<CancelKeys>,
    followed: Arc<Followed>,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) sessions: Slab<Entry>,
    /// Sessions admitted so far.
    admitted: u64,
    /// The lowest epoch that is admitted, for backends that were fenced.
    floors: BTreeMap<BackendId, Epoch>,
}

impl Registry {
    /// A registry for `workers` threads.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            shards: (0..workers).map(|_| Mutex::default()).collect(),
            keys: Arc::default(),
            followed: Arc::default(),
        }
    }

    /// The keys with which clients may cancel.
    #[must_use]
    pub const fn cancel_keys(&self) -> &Arc<CancelKeys> {
        &self.keys
    }

    /// Where clients' sessions are whose keys are not known.
    #[must_use]
    pub const fn followed(&self) -> &Arc<Followed> {
        &self.followed
    }

    /// Admits a session of `worker` to `backend` under `epoch`.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the backend was fenced since that epoch.
    pub fn admit(
        &self,
        worker: usize,
        backend: BackendId,
        epoch: Epoch,
        facts: SessionFacts,
    ) -> Result<Admission, Stale> {
        let mut shard = self.shard(worker);
        if shard.floors.get(&backend).is_some_and(|&floor| epoch < floor) {
            return Err(Stale);
        }
        shard.admitted += 1;
        let id = self.id(worker, shard.admitted);
        let entry =
            Entry { id, backend, epoch, facts, moved: [0, 0], sockets: Sockets::None, fenced: None, turn: None };
        let key = shard.sessions.insert(entry);
        drop(shard);
        Ok(Admission { registry: self.clone(), worker, key: Some(key) })
    }

    /// Ends every session of `backend` that was admitted under an epoch below `epoch`, and admits no more of them. When
    /// it returns, no byte of theirs reaches a client or the backend any more, and every socket to the backend is cut.
    /// The clients are closed with that, as many as may be at once; beyond them those that can be silenced are silent
    /// until their turn at their pool's `pace` comes, for which this fence has begun (see [`super::PACE_STEP`]). Those that have not been answered yet
    /// are cut from their backend only.
    ///
    /// Of sessions that are not among `which` none is cut; one that had not been admitted yet picks again, as any does.
    pub fn fence(
        &self,
        backend: BackendId,
        epoch: Epoch,
        which: Sessions,
        reason: OutReason,
        pace: &mut Pace,
    ) -> Fenced {
        let fence = Fence { backend, epoch, which, end: SessionEnd::from(reason) };
        let shards = 0..self.shards.len();
        let behind: Vec<_> = shards.map(|worker| self.fence_shard(worker, fence, pace)).collect();
        for (worker, behind) in behind.into_iter().enumerate() {
            self.cut_behind(worker, &behind, pace);
        }
        pace.done()
    }

    /// Gives those whose clients are silenced and to whom the kernel had still to send.
    fn fence_shard(&self, worker: usize, fence: Fence, pace: &mut Pace) -> Vec<(usize, SessionId)> {
        let mut behind = Vec::new();
        let mut shard = self.shard(worker);
        let floor = shard.floors.entry(fence.backend).or_default();
        *floor = fence.epoch.max(*floor);
        let mut from = 0;
        // Sessions that come from now on are not of this fence, so a key that was passed need not be looked at again.
        while let Some(batch) = shard.mark(from, fence, pace) {
            // Cut outside the lock, which the worker needs for every other session; the handles keep the sockets open.
            drop(shard);
            batch.clients.iter().for_each(|client| client.abort());
            batch.servers.iter().for_each(|server| server.abort());
            from = batch.next;
            behind.extend(batch.behind);
            shard = self.shard(worker);
        }
        drop(shard);
        behind
    }

    /// Looks once more at those to whom the kernel had still to send: what it sent was perhaps acknowledged while the rest
    /// of a crowd was fenced. The others cannot wait, for it would send again what is lost.
    fn cut_behind(&self, worker: usize, behind: &[(usize, SessionId)], pace: &mut Pace) {
        for &(key, id) in behind {
            let mut shard = self.shard(worker);
            // Another may have its key by now.
            let Some(entry) = shard.sessions.get_mut(key).filter(|entry| entry.id == id) else { continue };
            match &entry.sockets {
                Sockets::Both(Pair { client, .. }) if !client.is_delivered() => {
                    client.abort();
                    entry.turn = None;
                }
                // Its thread waits for the turn already, and sees that the client is gone.
                Sockets::Leaving(client) if client.unsent() > 0 => client.abort(),
                Sockets::None | Sockets::Server(_) | Sockets::Both(_) | Sockets::Resting(_) | Sockets::Leaving(_) => {
                    continue;
                }
            }
            pace.cut();
        }
    }

    /// Drops what is remembered of fences of backends that are gone for good.
    pub fn forget(&self, backend: BackendId) {
        for worker in 0..self.shards.len() {
            self.shard(worker).floors.remove(&backend);
        }
    }

    /// Adds to what sessions of `worker` have moved, to the backend and to the client.
    pub fn add_moved(&self, worker: usize, moved: &[(usize, [u64; 2])]) {
        if moved.is_empty() {
            return;
        }
        let mut shard = self.shard(worker);
        for &(key, [up, down]) in moved {
            if let Some(entry) = shard.sessions.get_mut(key) {
                entry.moved = [entry.moved[0] + up, entry.moved[1] + down];
            }
        }
    }

    /// The backends of sessions of `worker`, by key, and their connections to them; not of those that dial or rest.
    #[must_use]
    pub fn servers(&self, worker: usize, keys: &[usize]) -> Vec<(BackendId, Epoch, Arc<Stream>)> {
        if keys.is_empty() {
            return Vec::new();
        }
        let shard = self.shard(worker);
        let entries = keys.iter().filter_map(|&key| shard.sessions.get(key));
        entries
            .filter_map(|entry| match &entry.sockets {
                Sockets::Server(server) | Sockets::Both(Pair { server, .. }) => {
                    Some((entry.backend, entry.epoch, Arc::clone(server)))
                }
                Sockets::None | Sockets::Resting(_) | Sockets::Leaving(_) => None,
            })
            .collect()
    }

    /// Up to `limit` sessions for which `wanted` is true, with numbers above `after`, by number.
    #[must_use]
    pub fn sessions(
        &self,
        after: SessionId,
        limit: usize,
        mut wanted: impl FnMut(&SessionFacts) -> bool,
    ) -> Vec<SessionStatus> {
        let mut found = Vec::new();
        for worker in 0..self.shards.len() {
            self.walk(worker, |entry| {
                if entry.id > after && wanted(&entry.facts) {
                    found.push(entry.status());
                }
                if found.len() > 2 * limit.max(LOOKED_AT_ONCE) {
                    found.select_nth_unstable_by_key(limit, |session: &SessionStatus| session.id);
                    found.truncate(limit);
                }
            });
        }
        found.sort_unstable_by_key(|session| session.id);
        found.truncate(limit);
        found
    }

    /// Shows `look` every session of `worker`, some at a time, so that the worker is never kept waiting for long.
    fn walk(&self, worker: usize, mut look: impl FnMut(&mut Entry)) {
        let (mut from, mut end) = (0, usize::MAX);
        while from < end {
            let mut shard = self.shard(worker);
            end = shard.sessions.capacity();
            let to = end.min(from + LOOKED_AT_ONCE);
            for key in from..to {
                if let Some(entry) = shard.sessions.get_mut(key) {
                    look(entry);
                }
            }
            from = to;
        }
    }

    /// Closes one session, if there is one of that number.
    #[must_use]
    pub fn close(&self, id: SessionId) -> bool {
        let workers = u64::try_from(self.shards.len()).unwrap_or(1);
        let (mut found, mut server, mut pair) = (false, None, None);
        self.walk(usize::try_from(id.0 % workers).unwrap_or(0), |entry| {
            if entry.id != id {
                return;
            }
            found = true;
            match &entry.sockets {
                // Of one that was fenced before it was answered only this ends the client too.
                Sockets::None | Sockets::Server(_) => entry.fenced = Some(SessionEnd::Closed),
                Sockets::Both(_) | Sockets::Resting(_) | Sockets::Leaving(_) => {
                    entry.fenced.get_or_insert(SessionEnd::Closed);
                }
            }
            match &entry.sockets {
                // Its thread finds out when it has dialled.
                Sockets::None => {}
                Sockets::Server(of) => server = Some(Arc::clone(of)),
                Sockets::Both(both) => pair = Some(both.clone()),
                Sockets::Resting(both) => both.iter().for_each(Resting::abort),
                Sockets::Leaving(client) => client.abort(),
            }
        });
        server.iter().for_each(|server| server.abort());
        pair.iter().for_each(Pair::abort);
        found
    }

    /// The number of the `count`-th session of `worker`: it tells the worker, too.
    fn id(&self, worker: usize, count: u64) -> SessionId {
        let workers = u64::try_from(self.shards.len()).unwrap_or(1);
        SessionId(count * workers + u64::try_from(worker).unwrap_or(0) % workers)
    }

    /// A panic while the lock was held cannot have left a shard half changed: every change is one step.
    pub(super) fn shard(&self, worker: usize) -> MutexGuard<'_, Shard> {
        self.shards[worker % self.shards.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose sessions are fenced, and why.
#[derive(Debug, Clone, Copy)]
struct Fence {
    backend: BackendId,
    /// Those that were admitted before this one.
    epoch: Epoch,
    which: Sessions,
    end: SessionEnd,
}

impl Fence {
    fn is_for(&self, entry: &Entry) -> bool {
        let is_among = match self.which {
            Sessions::All => true,
            Sessions::Opening => matches!(entry.sockets, Sockets::None | Sockets::Server(_)),
        };
        entry.backend == self.backend && entry.epoch < self.epoch && is_among && entry.fenced.is_none()
    }
}

/// What one look at a shard has found to be fenced.
struct Batch {
    /// To be cut.
    clients: Vec<Arc<Gated>>,
    /// The same.
    servers: Vec<Arc<Stream>>,
    /// Their clients are silenced, and the kernel has still to send to them: their keys and numbers.
    behind: Vec<(usize, SessionId)>,
    /// Where to look on.
    next: usize,
}

impl Shard {
    /// Marks the sessions of a fence from key `from` on; none if there is no key left. Those at rest are cut
    /// here, where their sockets are kept, and others silenced here, so not too many at a time.
    ///
    /// A client can be left open if nobody writes to it any more, and what was written before has arrived: nobody does
    /// to one at rest, for it cannot wake; and its thread can write no more to one that is silenced. If its thread is
    /// writing to it at the moment, or the kernel has still to send to it, it is silent only once it is cut; it takes up
    /// a place all the same, for it comes back like the others.
    ///
    /// A thread whose client is silenced finds out by its backend's socket: it waits for that to be read from, as no end
    /// was passed on, or else for room at the client, which has some.
    fn mark(&mut self, from: usize, fence: Fence, pace: &mut Pace) -> Option<Batch> {
        let end = self.sessions.iter().next_back().map_or(0, |(key, _)| key + 1);
        if from >= end {
            return None;
        }
        let mut batch = Batch { clients: Vec::new(), servers: Vec::new(), behind: Vec::new(), next: end };
        let mut cut = 0;
        for key in from..end {
            let Some(entry) = self.sessions.get_mut(key) else { continue };
            if !fence.is_for(entry) {
                continue;
            }
            entry.fenced = Some(fence.end);
            match &entry.sockets {
                Sockets::None => {}
                Sockets::Server(server) => batch.servers.push(Arc::clone(server)),
                Sockets::Both(Pair { client, server }) => {
                    batch.servers.push(Arc::clone(server));
                    match pace.next() {
                        Some(after) if client.silence() => {
                            entry.turn = Some(pace.turn(after));
                            if !client.is_delivered() {
                                batch.behind.push((key, entry.id));
                            }
                            cut += 1;
                        }
                        Some(_) | None => batch.clients.push(Arc::clone(client)),
                    }
                }
                // One that is kept here was fenced.
                Sockets::Leaving(_) => {}
                Sockets::Resting([client, server]) => {
                    server.abort();
                    match pace.next() {
                        Some(after) if client.unsent() == 0 => entry.turn = Some(pace.turn(after)),
                        Some(_) | None => client.abort(),
                    }
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

#[cfg(test)]
mod tests {
    use super::{Fence, Pair, Registry, SessionFacts};
    use crate::failover::Sessions;
    use crate::model::{BackendId, Epoch, MonoTime, OutReason, SessionEnd, SessionId, SessionState};
    use crate::routing::admission::{Stale, Woken};
    use crate::routing::live::BackendLive;
    use crate::routing::pace::{Fenced, PACE_AT_ONCE, PACE_STEP, Pace};
    use crate::sys::{Gated, Stream, connect, in_time};
    use crate::telemetry::Metrics;
    use std::io::{Read, Write};
    use std::sync::Arc;

    const PG1: BackendId = BackendId(1);

    fn facts() -> SessionFacts {
        let metrics = Metrics::new().unwrap().backend(&"orders".into(), &"pg1".into());
        let load = Arc::default();
        let backend = BackendLive::new("orders".into(), "pg1".into(), metrics, load);
        SessionFacts { listener: "front".into(), backend: Arc::new(backend), client: None, since: MonoTime::default() }
    }

    #[test]
    fn no_session_is_admitted_with_an_epoch_below_the_last_fence() {
        let registry = Registry::new(2);
        let before = registry.admit(0, PG1, Epoch(4), facts()).unwrap();
        assert_eq!(
            registry.fence(PG1, Epoch(5), Sessions::All, OutReason::Dead, &mut Pace::new(MonoTime::ZERO)).sessions,
            0,
            "it was not established yet"
        );
        assert_eq!(registry.admit(1, PG1, Epoch(4), facts()).unwrap_err(), Stale);
        assert_eq!(before.end(), Some(SessionEnd::FencedDead));
        let after = registry.admit(0, PG1, Epoch(5), facts()).unwrap();
        assert!(registry.admit(1, BackendId(2), Epoch(0), facts()).is_ok());
        assert_eq!(
            registry.fence(PG1, Epoch(5), Sessions::All, OutReason::Dead, &mut Pace::new(MonoTime::ZERO)).sessions,
            0
        );
        assert_eq!(after.end(), None);
        registry.forget(PG1);
        assert!(registry.admit(0, PG1, Epoch(0), facts()).is_ok());
    }

    #[tokio::test]
    async fn a_fence_of_those_that_open_leaves_those_that_have_begun() {
        let registry = Registry::new(1);
        let open = || registry.admit(0, PG1, Epoch(0), facts()).unwrap();
        let (begun, dialling, connected) = (open(), open(), open());
        let ((client, mut person), (backend, mut server)) = (client().await, pair().await);
        begun.attach_client(&client, &backend, || ()).unwrap();
        let (silent, mut peer) = pair().await;
        connected.attach_server(&silent).unwrap();
        let fence = |which| registry.fence(PG1, Epoch(1), which, OutReason::Demoted, &mut Pace::new(MonoTime::ZERO));
        assert_eq!(fence(Sessions::Opening).sessions, 0, "no client is cut");
        assert_eq!(begun.fenced(), None);
        client.try_send(b"rows").unwrap();
        backend.try_send(b"query").unwrap();
        assert_eq!((person.read(&mut [0; 8]).unwrap(), server.read(&mut [0; 8]).unwrap()), (4, 5));
        let (late, _peer) = pair().await;
        assert_eq!(dialling.attach_server(&late), Err(Stale), "a dial under way becomes no session");
        assert_eq!(
            connected.attach_client(&client, &silent, || ()),
            Err(Stale),
            "nor does one that was not answered yet"
        );
        assert_eq!(peer.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(registry.admit(0, PG1, Epoch(0), facts()).unwrap_err(), Stale, "whoever comes now picks again");
        assert_eq!(fence(Sessions::All).sessions, 1, "and those that have begun can be cut as well");
        assert_eq!(begun.end(), Some(SessionEnd::FencedDemoted));
        assert_eq!(person.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(server.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }

    /// A client's connection, and the client.
    async fn client() -> (Arc<Gated>, std::net::TcpStream) {
        let (ours, theirs) = pair().await;
        (Arc::new(Gated::new(Arc::into_inner(ours).unwrap())), theirs)
    }

    async fn pair() -> (Arc<Stream>, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let ours = connect(&address, std::time::Duration::from_secs(10)).await.unwrap();
        let theirs = listener.accept().unwrap().0;
        theirs.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        (Arc::new(ours), theirs)
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        let turns = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        in_time(turns).await;
    }

    #[tokio::test]
    async fn a_session_fenced_while_it_dialled_is_stale() {
        let registry = Registry::new(1);
        let admission = registry.admit(0, PG1, Epoch(0), facts()).unwrap();
        registry.fence(PG1, Epoch(1), Sessions::All, OutReason::Dead, &mut Pace::new(MonoTime::ZERO));
        let (server, _peer) = pair().await;
        assert_eq!(admission.attach_server(&server), Err(Stale));
    }

    #[tokio::test]
    async fn a_session_fenced_before_the_first_answer_keeps_its_client() {
        let registry = Registry::new(1);
        let admission = registry.admit(0, PG1, Epoch(0), facts()).unwrap();
        let ((client, mut person), (server, mut peer)) = (client().await, pair().await);
        admission.attach_server(&server).unwrap();
        assert_eq!(
            registry.fence(PG1, Epoch(1), Sessions::All, OutReason::Dead, &mut Pace::new(MonoTime::ZERO)).sessions,
            0,
            "it was not established yet"
        );
        assert_eq!(peer.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(admission.attach_client(&client, &server, || ()), Err(Stale));
        assert_eq!(admission.end(), Some(SessionEnd::FencedDead));
        client.try_send(b"from another").unwrap();
        assert_eq!(person.read(&mut [0; 64]).unwrap(), 12);
    }

    #[tokio::test]
    async fn when_a_fence_returns_no_byte_reaches_the_client() {
        let registry = Registry::new(1);
        let admission = registry.admit(0, PG1, Epoch(0), facts()).unwrap();
        let ((client, mut person), (backend, mut server)) = (client().await, pair().await);
        admission.attach_server(&backend).unwrap();
        admission.attach_client(&client, &backend, || ()).unwrap();
        let registry_of_control = registry.clone();
        let control = std::thread::spawn(move || {
            registry_of_control.fence(PG1, Epoch(1), Sessions::All, OutReason::Dead, &mut Pace::new(MonoTime::ZERO))
        });
        assert_eq!(control.join().unwrap().sessions, 1);
        assert!(client.try_send(b"an acknowledgement").is_err());
        assert_eq!(person.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(server.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert!(server.write_all(b"x").is_err());
        assert_eq!(admission.end(), Some(SessionEnd::FencedDead));
    }

    #[tokio::test]
    async fn a_client_at_rest_beyond_the_pace_is_silent_and_waits_for_its_turn() {
        let registry = Registry::new(2);
        let ((first, mut first_person), (first_server, _first_peer)) = (client().await, pair().await);
        // Each takes a place, and is cut.
        let busy: Vec<_> = (0..PACE_AT_ONCE).map(|_| registry.admit(0, PG1, Epoch(0), facts()).unwrap()).collect();
        busy.iter().for_each(|admission| admission.attach_client(&first, &first_server, || ()).unwrap());
        let mut resting = Vec::new();
        for is_behind in [false, true] {
            let ((client, person), (server, peer)) = (client().await, pair().await);
            if is_behind {
                while client.try_send(&[7; 65_536]).is_ok() {}
            }
            let admission = registry.admit(1, PG1, Epoch(0), facts()).unwrap();
            admission.attach_client(&client, &server, || ()).unwrap();
            let both = Pair { client, server };
            admission.rest(both, |both| Ok(both.map(|socket| socket.rest().unwrap()))).unwrap();
            resting.push((admission, person, peer));
        }
        let (mut later, mut later_person, mut later_peer) = resting.remove(0);
        let (behind, mut behind_person, mut behind_peer) = resting.remove(0);
        let now = MonoTime::from_nanos(7);
        let fenced = registry.fence(PG1, Epoch(1), Sessions::All, OutReason::Dead, &mut Pace::new(now));
        assert_eq!(fenced, Fenced { sessions: PACE_AT_ONCE + 2, at_once: PACE_AT_ONCE + 1, over: PACE_STEP });
        let is_reset = |stream: &mut std::net::TcpStream| {
            std::io::copy(stream, &mut std::io::sink()).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
        };
        assert!(is_reset(&mut first_person) && is_reset(&mut later_peer) && is_reset(&mut behind_peer));
        assert!(is_reset(&mut behind_person), "what the kernel had still to send to it must not arrive");
        assert!(matches!(behind.wake(|_| None), Woken::Lost));
        later_person.set_nonblocking(true).unwrap();
        assert_eq!(later_person.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let woken = later.wake(|_| panic!("it must not wake"));
        assert!(matches!(woken, Woken::Fenced(turn) if turn == now + PACE_STEP), "{woken:?}");
        later_person.set_nonblocking(false).unwrap();
        let id = registry.sessions(SessionId(0), usize::MAX / 4, |_| true).into_iter();
        let id = id.filter(|session| session.state == SessionState::Idle).map(|session| session.id).min().unwrap();
        assert!(registry.close(id) && is_reset(&mut later_person), "an order to close it comes before its turn");
        assert_eq!(later.end_leaving().0, Some(SessionEnd::FencedDead));
    }

    #[tokio::test]
    async fn a_busy_client_beyond_the_pace_is_silent_and_waits_if_nothing_is_on_its_way() {
        let registry = Registry::new(1);
        let ((first, _first_person), (first_server, _first_peer)) = (client().await, pair().await);
        let others: Vec<_> = (0..PACE_AT_ONCE).map(|_| registry.admit(0, PG1, Epoch(0), facts()).unwrap()).collect();
        others.iter().for_each(|admission| admission.attach_client(&first, &first_server, || ()).unwrap());
        let mut busy = Vec::new();
        for _ in 0..3 {
            let ((client, person), (server, peer)) = (client().await, pair().await);
            let admission = registry.admit(0, PG1, Epoch(0), facts()).unwrap();
            admission.attach_client(&client, &server, || ()).unwrap();
            busy.push((admission, client, person, peer));
        }
        assert_eq!(busy[0].1.try_send(b"an answer").unwrap(), 9);
        assert_eq!(busy[0].2.read(&mut [0; 64]).unwrap(), 9);
        until(|| busy[0].1.unsent() == 0).await;
        while busy[1].1.try_send(&[7; 65_536]).is_ok() {}
        busy[2].1.end_writing().unwrap();
        let fenced = registry.fence(PG1, Epoch(1), Sessions::All, OutReason::Dead, &mut Pace::new(MonoTime::ZERO));
        assert_eq!(fenced, Fenced { sessions: PACE_AT_ONCE + 3, at_once: PACE_AT_ONCE + 2, over: PACE_STEP });
        let is_reset = |stream: &mut std::net::TcpStream| {
            std::io::copy(stream, &mut std::io::sink()).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
        };
        assert!(is_reset(&mut busy[1].2), "what the kernel had still to send to it must not arrive");
        for (mut admission, _, _, mut peer) in busy.drain(1..) {
            assert!(is_reset(&mut peer));
            assert_eq!(admission.end_unless_leaving(), Ok(Some(SessionEnd::FencedDead)));
        }
        let (mut admission, client, mut person, mut peer) = busy.remove(0);
        assert!(is_reset(&mut peer));
        assert!(client.is_silenced() && client.try_send(b"another").is_err() && client.end_writing().is_err());
        assert_eq!(admission.end_unless_leaving(), Err(MonoTime::ZERO + PACE_STEP));
        admission.keep_leaving(client, |client| client.rest().ok());
        assert_eq!(admission.leaving(|client| client.has_ended()), Some(false));
        person.set_nonblocking(true).unwrap();
        assert_eq!(person.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let (end, socket) = admission.end_leaving();
        assert_eq!(end, Some(SessionEnd::FencedDead));
        socket.as_ref().unwrap().reset_on_close();
        drop(socket);
        person.set_nonblocking(false).unwrap();
        assert!(is_reset(&mut person));
    }

    #[tokio::test]
    async fn a_client_that_has_got_everything_by_the_end_of_the_fence_waits_too() {
        let (registry, mut pace) = (Registry::new(1), Pace::new(MonoTime::ZERO));
        let mut behind = Vec::new();
        for _ in 0..2 {
            let ((client, person), (server, peer)) = (client().await, pair().await);
            let admission = registry.admit(0, PG1, Epoch(0), facts()).unwrap();
            admission.attach_client(&client, &server, || ()).unwrap();
            while client.try_send(&[7; 65_536]).is_ok() {}
            behind.push((admission, client, person, peer));
        }
        (0..PACE_AT_ONCE).for_each(|_| _ = pace.next());
        let fence = Fence { backend: PG1, epoch: Epoch(1), which: Sessions::All, end: SessionEnd::FencedDead };
        let keys = registry.fence_shard(0, fence, &mut pace);
        assert_eq!((keys.len(), pace.done().at_once), (2, PACE_AT_ONCE), "both are behind");
        behind[0].2.set_nonblocking(true).unwrap();
        until(|| {
            drop(std::io::copy(&mut behind[0].2, &mut std::io::sink()));
            behind[0].1.is_delivered()
        })
        .await;
        registry.cut_behind(0, &keys, &mut pace);
        assert_eq!(pace.done().at_once, PACE_AT_ONCE + 1);
        drop(std::io::copy(&mut behind[0].2, &mut std::io::sink()));
        assert_eq!(behind[0].2.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let got = std::io::copy(&mut behind[1].2, &mut std::io::sink());
        assert_eq!(got.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn sessions_are_listed_by_number_and_one_can_be_closed() {
        let registry = Registry::new(2);
        let admissions: Vec<_> = (0..5).map(|n| registry.admit(n % 2, PG1, Epoch(0), facts()).unwrap()).collect();
        let all = registry.sessions(SessionId(0), 10, |_| true);
        assert!(all.is_sorted_by_key(|session| session.id) && all.len() == 5);
        assert_eq!(registry.sessions(all[1].id, 2, |_| true), all[2..4]);
        assert!(registry.sessions(SessionId(0), 10, |_| false).is_empty());
        // One that dials finds out when it has a socket.
        let dials = all.iter().find(|session| session.id.0 % 2 == 1).unwrap().id;
        assert!(registry.close(dials) && !registry.close(SessionId(99)));
        assert_eq!(admissions[1].fenced(), Some(SessionEnd::Closed));
        let ((client, mut person), (server, _peer)) = (client().await, pair().await);
        admissions[0].attach_server(&server).unwrap();
        admissions[0].attach_client(&client, &server, || ()).unwrap();
        registry.add_moved(0, &[(admissions[0].key(), [3, 4]), (99, [1, 1])]);
        let open = registry.sessions(SessionId(0), 10, |_| true).into_iter().find(|s| s.state == SessionState::Open);
        let open = open.unwrap();
        assert_eq!(open.moved, [3, 4]);
        assert!(registry.close(open.id));
        assert!(person.read(&mut [0; 8]).is_err());
        assert_eq!(admissions[0].fenced(), Some(SessionEnd::Closed));
    }
}
