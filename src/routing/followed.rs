//! Where each client's sessions are whose keys could not be read, because they are encrypted: a request to cancel one of
//! them is encrypted too, and cannot be told from another session. It is sent where the client's last one went of those that
//! wait for an answer, for that is what is cancelled; if none waits, where the last one went.
//!
//! So are its first few sessions, then: a client that has more of them open than [`FOLLOWED_MAX`] is many people or a pool of
//! connections, of which the last says nothing, and whose balance would suffer. What is kept is one entry a session.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::{BackendId, Epoch, ListenerName};

/// A client with more sessions than this at a listener is followed no longer.
pub const FOLLOWED_MAX: usize = 4;

/// How many locks there are.
const SHARDS: usize = 32;

/// A client's address, and the listener that it comes through.
type Visitor = (ListenerName, IpAddr);

/// The sessions of clients whose keys could not be read.
#[derive(Debug)]
pub struct Followed {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    /// Each client's, in the order in which they were opened.
    open: HashMap<Visitor, BTreeMap<u64, Visit>>,
    /// How many were entered so far.
    entered: u64,
}

/// One session of a client.
#[derive(Debug)]
struct Visit {
    to: (BackendId, Epoch),
    awaits: Arc<AtomicBool>,
}

/// Where a client's session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastVisit {
    /// Its backend.
    pub backend: BackendId,
    /// The epoch under which it was admitted there: who comes after it goes when it goes.
    pub epoch: Epoch,
    /// Whether it waits for an answer: the client was the last to say something.
    pub awaits: bool,
}

impl Default for Followed {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl Followed {
    /// Enters a session of a client at `ip` that was admitted to a backend under this epoch, for as long as the result lives.
    #[must_use]
    pub fn enter(self: &Arc<Self>, listener: &ListenerName, ip: IpAddr, to: (BackendId, Epoch)) -> Follow {
        let visitor = (listener.clone(), ip);
        let awaits = Arc::<AtomicBool>::default();
        let mut shard = self.shard(&visitor);
        shard.entered += 1;
        let number = shard.entered;
        let visit = Visit { to, awaits: Arc::clone(&awaits) };
        shard.open.entry(visitor.clone()).or_default().insert(number, visit);
        drop(shard);
        Follow { followed: Arc::clone(self), visitor, number, awaits }
    }

    /// Where the client at `ip` has the last session that it has opened, of those that wait for an answer if any does; none
    /// if it has none, or too many.
    #[must_use]
    pub fn last(&self, listener: &ListenerName, ip: IpAddr) -> Option<LastVisit> {
        let visitor = (listener.clone(), ip);
        let shard = self.shard(&visitor);
        let open = shard.open.get(&visitor).filter(|open| open.len() <= FOLLOWED_MAX)?;
        let visits = open.values().map(|visit| (visit.awaits.load(Ordering::Relaxed), visit.to));
        // The last one of the greatest.
        let last = visits.max_by_key(|&(awaits, _)| awaits);
        last.map(|(awaits, (backend, epoch))| LastVisit { backend, epoch, awaits })
    }

    /// A panic while the lock was held cannot have left a shard half changed in a way that matters.
    fn shard(&self, visitor: &Visitor) -> MutexGuard<'_, Shard> {
        let hash = usize::try_from(self.hasher.hash_one(visitor) % SHARDS as u64).unwrap_or(0);
        self.shards[hash].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that was entered. Taken out when dropped.
#[derive(Debug)]
pub struct Follow {
    followed: Arc<Followed>,
    visitor: Visitor,
    number: u64,
    awaits: Arc<AtomicBool>,
}

impl Follow {
    /// To be set to whether the session waits for an answer.
    #[must_use]
    pub const fn awaits(&self) -> &Arc<AtomicBool> {
        &self.awaits
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let mut shard = self.followed.shard(&self.visitor);
        if let Entry::Occupied(mut open) = shard.open.entry(self.visitor.clone()) {
            open.get_mut().remove(&self.number);
            if open.get().is_empty() {
                open.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FOLLOWED_MAX, Followed, LastVisit};
    use crate::model::{BackendId, Epoch};
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    const ONE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_client_is_followed_to_its_last_session_while_it_has_few() {
        let followed = Arc::new(Followed::default());
        let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let enter = |ip, backend| followed.enter(&"reads".into(), ip, (BackendId(backend), Epoch(7)));
        let last = |ip| followed.last(&"reads".into(), ip).map(|last| last.backend.0);
        assert_eq!(last(ONE), None);
        let (first, _other, second) = (enter(ONE, 1), enter(other, 3), enter(ONE, 2));
        assert_eq!((last(ONE), last(other)), (Some(2), Some(3)));
        assert_eq!(followed.last(&"writes".into(), ONE), None, "through another listener it has none");
        drop(second);
        assert_eq!(last(ONE), Some(1));
        let mut more: Vec<_> = (1..FOLLOWED_MAX).map(|_| enter(ONE, 2)).collect();
        assert_eq!(last(ONE), Some(2));
        more.push(enter(ONE, 2));
        assert_eq!(last(ONE), None, "too many");
        drop((first, more));
        assert_eq!(last(ONE), None);
        let left: usize = followed.shards.iter().map(|shard| shard.lock().unwrap().open.len()).sum();
        assert_eq!(left, 1, "the other one's");
    }

    #[test]
    fn a_session_that_waits_for_an_answer_goes_before_those_that_came_later() {
        let followed = Arc::new(Followed::default());
        let visits = [1, 2, 3].map(|n| followed.enter(&"reads".into(), ONE, (BackendId(n), Epoch(u64::from(n)))));
        let last = || followed.last(&"reads".into(), ONE);
        let visit = |n, awaits| Some(LastVisit { backend: BackendId(n), epoch: Epoch(u64::from(n)), awaits });
        assert_eq!(last(), visit(3, false));
        visits[0].awaits().store(true, Ordering::Relaxed);
        assert_eq!(last(), visit(1, true));
        visits[1].awaits().store(true, Ordering::Relaxed);
        assert_eq!(last(), visit(2, true));
        visits[1].awaits().store(false, Ordering::Relaxed);
        assert_eq!(last(), visit(1, true));
    }
}
