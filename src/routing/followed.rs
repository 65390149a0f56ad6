//! Where each client's sessions are whose keys could not be read, because they are encrypted: a request to cancel one of
//! them is encrypted too, and cannot be told from another session. It is sent where the client's last one went.
//!
//! So are its first few sessions, then: a client that has more of them open than [`FOLLOWED_MAX`] is many people or a pool of
//! connections, of which the last says nothing, and whose balance would suffer. What is kept is one entry a session.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::{BackendId, ListenerName};

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
    open: HashMap<Visitor, BTreeMap<u64, BackendId>>,
    /// How many were entered so far.
    entered: u64,
}

impl Default for Followed {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl Followed {
    /// Enters a session of a client at `ip` to `backend`, for as long as the result lives.
    #[must_use]
    pub fn enter(self: &Arc<Self>, listener: &ListenerName, ip: IpAddr, backend: BackendId) -> Follow {
        let visitor = (listener.clone(), ip);
        let mut shard = self.shard(&visitor);
        shard.entered += 1;
        let number = shard.entered;
        shard.open.entry(visitor.clone()).or_default().insert(number, backend);
        drop(shard);
        Follow { followed: Arc::clone(self), visitor, number }
    }

    /// Where the client at `ip` has opened its last session that is still there; none if it has none, or too many.
    #[must_use]
    pub fn last(&self, listener: &ListenerName, ip: IpAddr) -> Option<BackendId> {
        let visitor = (listener.clone(), ip);
        let shard = self.shard(&visitor);
        let open = shard.open.get(&visitor).filter(|open| open.len() <= FOLLOWED_MAX)?;
        open.last_key_value().map(|(_, &backend)| backend)
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
    use super::{FOLLOWED_MAX, Followed};
    use crate::model::BackendId;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    #[test]
    fn a_client_is_followed_to_its_last_session_while_it_has_few() {
        let followed = Arc::new(Followed::default());
        let (one, other) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
        let enter = |ip, backend| followed.enter(&"reads".into(), ip, BackendId(backend));
        let last = |ip| followed.last(&"reads".into(), ip);
        assert_eq!(last(one), None);
        let (first, _other, second) = (enter(one, 1), enter(other, 3), enter(one, 2));
        assert_eq!((last(one), last(other)), (Some(BackendId(2)), Some(BackendId(3))));
        assert_eq!(followed.last(&"writes".into(), one), None, "through another listener it has none");
        drop(second);
        assert_eq!(last(one), Some(BackendId(1)));
        let mut more: Vec<_> = (1..FOLLOWED_MAX).map(|_| enter(one, 2)).collect();
        assert_eq!(last(one), Some(BackendId(2)));
        more.push(enter(one, 2));
        assert_eq!(last(one), None, "too many");
        drop((first, more));
        assert_eq!(last(one), None);
        let left: usize = followed.shards.iter().map(|shard| shard.lock().unwrap().open.len()).sum();
        assert_eq!(left, 1, "the other one's");
    }
}
