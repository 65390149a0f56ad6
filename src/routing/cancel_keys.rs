//! Which server a client means that cancels: the keys of open sessions, as their servers told them.
//!
//! Shared by all threads, since a request to cancel comes on a connection of its own, and cut into shards, each behind a
//! lock that is held for one look. A session is entered once, when it opens, and taken out at its end. Whose key is not
//! known, because it was encrypted or there was no place for it, is asked of all servers.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::failover::PoolServer;
use crate::model::CancelKey;

/// How many locks there are.
const SHARDS: usize = 32;

/// The keys that a shard keeps: 131,072 in all, of about 200 bytes each.
const KEYS_MAX: usize = 4096;

/// The keys of open sessions.
#[derive(Debug)]
pub struct CancelKeys {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// How many sessions' keys there was no place for.
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    servers: HashMap<CancelKey, (u64, Arc<PoolServer>)>,
    /// How many were entered so far: which session a key is of, if two had the same.
    entered: u64,
}

impl Default for CancelKeys {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new(), refused: AtomicU64::new(0) }
    }
}

impl CancelKeys {
    /// Remembers that `server` has told `key` to a client, for as long as the result lives; none if there is no place.
    #[must_use]
    pub fn learn(self: &Arc<Self>, key: CancelKey, server: PoolServer) -> Option<Learned> {
        let mut shard = self.shard(&key);
        if shard.servers.len() >= KEYS_MAX && !shard.servers.contains_key(&key) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        shard.entered += 1;
        let entered = shard.entered;
        shard.servers.insert(key.clone(), (entered, Arc::new(server)));
        drop(shard);
        Some(Learned { keys: Arc::clone(self), key, entered })
    }

    /// The server that has told `key` to a client that is still there.
    #[must_use]
    pub fn server(&self, key: &CancelKey) -> Option<Arc<PoolServer>> {
        self.shard(key).servers.get(key).map(|(_, server)| Arc::clone(server))
    }

    /// How many sessions' keys there was no place for, so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A panic while the lock was held cannot have left a shard half changed: every change is one step.
    fn shard(&self, key: &CancelKey) -> MutexGuard<'_, Shard> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards[hash].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key that is remembered. Forgotten when dropped.
#[derive(Debug)]
pub struct Learned {
    keys: Arc<CancelKeys>,
    key: CancelKey,
    entered: u64,
}

impl Drop for Learned {
    fn drop(&mut self) {
        let mut shard = self.keys.shard(&self.key);
        // A server that was restored from a copy may have told the same to somebody else since.
        if shard.servers.get(&self.key).is_some_and(|&(entered, _)| entered == self.entered) {
            shard.servers.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CancelKeys, KEYS_MAX, SHARDS};
    use crate::failover::PoolServer;
    use crate::model::{Approach, CancelKey};
    use std::sync::Arc;

    fn key(number: u32) -> CancelKey {
        CancelKey::parse(&[number.to_be_bytes(), [1, 2, 3, 4]].concat()).unwrap()
    }

    fn server(name: &str) -> PoolServer {
        PoolServer { name: name.into(), address: "127.0.0.1:1".parse().unwrap(), approach: Approach::PLAIN }
    }

    #[test]
    fn a_key_is_known_for_as_long_as_its_session_is_there() {
        let keys = Arc::new(CancelKeys::default());
        let (first, second) = (keys.learn(key(1), server("pg1")), keys.learn(key(2), server("pg2")));
        let found = |number| keys.server(&key(number)).map(|server| server.name.to_string());
        assert_eq!((found(1).as_deref(), found(2).as_deref(), found(3)), (Some("pg1"), Some("pg2"), None));
        drop(first);
        assert_eq!((found(1), found(2).as_deref()), (None, Some("pg2")));
        let again = keys.learn(key(2), server("pg3"));
        drop(second);
        assert_eq!(found(2).as_deref(), Some("pg3"), "the later one stays");
        drop(again);
        assert_eq!(found(2), None);
    }

    #[test]
    fn there_is_a_limit_and_what_is_beyond_it_is_counted() {
        let keys = Arc::new(CancelKeys::default());
        let most = u32::try_from(SHARDS * KEYS_MAX).unwrap();
        let learned: Vec<_> = (0..2 * most).filter_map(|number| keys.learn(key(number), server("pg1"))).collect();
        // Chance fills some shards before others.
        assert!((most / 2..=most).contains(&u32::try_from(learned.len()).unwrap()), "{}", learned.len());
        assert_eq!(keys.refused() + learned.len() as u64, u64::from(2 * most));
        drop(learned);
        assert!(keys.learn(key(0), server("pg1")).is_some());
        assert_eq!(keys.shards.iter().map(|shard| shard.lock().unwrap().servers.len()).sum::<usize>(), 0);
    }
}
