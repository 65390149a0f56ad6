//! What is remembered of single clients: how many connections each has open, and how fast it comes.
//!
//! Shared by all threads, since the kernel spreads one client's connections over all of them, and cut into shards,
//! each behind a lock of its own. Clients with open connections are as many as there are sessions at most; of the
//! others, of whom only their pace is remembered, a fixed number is kept. If more come, those are forgotten whose
//! pace matters least, and who has been forgotten may come as if for the first time: nobody is refused for the sake
//! of strangers.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{LimitsPlan, MonoTime, Rate, RejectReason};

/// How many locks there are.
const SHARDS: usize = 32;
/// The clients without connections that a shard remembers.
const RESTING_MAX: usize = 512;

/// A client: an IP address, or whoever comes through a Unix socket.
type Client = Option<IpAddr>;

/// The clients of one listener.
#[derive(Debug)]
pub(super) struct Clients {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    /// Clients with open connections.
    present: HashMap<Client, Present>,
    /// Those without, and until when their pace matters.
    resting: HashMap<Client, MonoTime>,
}

/// A client with open connections.
#[derive(Debug, Default)]
struct Present {
    open: usize,
    /// When its next connection would be due, if all came evenly.
    due: MonoTime,
}

impl Clients {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// Counts a connection of `client`, to be given back with [`Self::leave`]. The time is read while the client is
    /// locked: for one client it never goes back, whichever threads it comes through.
    ///
    /// # Errors
    ///
    /// The limit that is reached; then nothing was counted.
    pub(super) fn enter(
        &self,
        client: Client,
        limits: &LimitsPlan,
        now: impl FnOnce() -> MonoTime,
    ) -> Result<(), RejectReason> {
        let mut shard = self.shard(client);
        let Shard { present, resting } = &mut *shard;
        let known = present.get(&client);
        let due = known.map_or_else(|| resting.get(&client).copied().unwrap_or_default(), |known| known.due);
        let most = limits.max_connections_per_client;
        if most > 0 && known.is_some_and(|known| known.open >= most) {
            return Err(RejectReason::MaxConnectionsPerClient);
        }
        let due = match limits.rate {
            Some(rate) => next_due(due, rate, now()).ok_or(RejectReason::ConnectionRate)?,
            None => MonoTime::ZERO,
        };
        resting.remove(&client);
        let entry = present.entry(client).or_default();
        entry.open += 1;
        entry.due = due;
        Ok(())
    }

    /// Gives a connection of `client` back.
    pub(super) fn leave(&self, client: Client) {
        let mut shard = self.shard(client);
        let Entry::Occupied(mut entry) = shard.present.entry(client) else { return };
        if entry.get().open > 1 {
            entry.get_mut().open -= 1;
            return;
        }
        let due = entry.remove().due;
        if due > MonoTime::ZERO {
            shard.rest(client, due);
        }
    }

    /// How many are remembered: with open connections, and without.
    #[cfg(test)]
    fn remembered(&self) -> (usize, usize) {
        let shards = || self.shards.iter().map(|shard| shard.lock().unwrap());
        (shards().map(|shard| shard.present.len()).sum(), shards().map(|shard| shard.resting.len()).sum())
    }

    /// A panic while the lock was held cannot have left a shard half changed in a way that matters.
    fn shard(&self, client: Client) -> MutexGuard<'_, Shard> {
        let hash = usize::try_from(self.hasher.hash_one(client) % SHARDS as u64).unwrap_or(0);
        self.shards[hash].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    /// Remembers the pace of a client that has gone, and forgets another if they are too many.
    fn rest(&mut self, client: Client, due: MonoTime) {
        if self.resting.len() >= RESTING_MAX {
            // Half of them at once, so that the next ones find room: those that are due first, or were long ago.
            let mut dues: Vec<MonoTime> = self.resting.values().copied().collect();
            let (_, &mut median, _) = dues.select_nth_unstable(RESTING_MAX / 2);
            self.resting.retain(|_, due| *due > median);
        }
        self.resting.insert(client, due);
    }
}

/// When the connection after one at `now` is due, if all came evenly; none if this one comes too early, by more than
/// a burst allows. (The generic cell rate algorithm.)
fn next_due(due: MonoTime, rate: Rate, now: MonoTime) -> Option<MonoTime> {
    let burst = rate.gap() * rate.burst();
    // What lies further ahead than this rate can bring it stems from one that was in force before a reload.
    let due = if due.since(now) > burst { now } else { due.max(now) };
    let next = due + rate.gap();
    (next.since(now) <= burst).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::{Clients, RESTING_MAX, SHARDS};
    use crate::model::{LimitsPlan, MonoTime, Rate, RejectReason};
    use std::net::Ipv4Addr;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    fn at(nanos: u64) -> impl FnOnce() -> MonoTime {
        move || MonoTime::from_nanos(nanos)
    }

    fn rate(count: u32, seconds: u64) -> LimitsPlan {
        LimitsPlan { rate: Some(Rate { count, per: Duration::from_secs(seconds) }), ..LimitsPlan::default() }
    }

    /// A client that comes and goes at once.
    fn visit(clients: &Clients, limits: &LimitsPlan, now: u64) -> bool {
        let client = Some(Ipv4Addr::LOCALHOST.into());
        let entered = clients.enter(client, limits, at(now)).is_ok();
        if entered {
            clients.leave(client);
        }
        entered
    }

    #[test]
    fn a_burst_of_one_seconds_worth_may_come_and_then_one_a_gap() {
        let (clients, limits) = (Clients::new(), rate(10, 1));
        assert_eq!((0..20).filter(|_| visit(&clients, &limits, SECOND)).count(), 10);
        assert!(!visit(&clients, &limits, SECOND + SECOND / 10 - 1));
        assert!(visit(&clients, &limits, SECOND + SECOND / 10));
        assert!(!visit(&clients, &limits, SECOND + SECOND / 10));
        assert_eq!((0..20).filter(|_| visit(&clients, &limits, 10 * SECOND)).count(), 10, "and again after a rest");
        let (clients, limits) = (Clients::new(), rate(6, 60));
        assert!(visit(&clients, &limits, 0) && !visit(&clients, &limits, 10 * SECOND - 1));
        assert!(visit(&clients, &limits, 10 * SECOND));
    }

    #[test]
    fn nobody_pays_for_a_rate_that_is_no_longer_in_force() {
        let clients = Clients::new();
        assert!(visit(&clients, &rate(1, 60), 0) && !visit(&clients, &rate(1, 60), 1));
        assert_eq!((0..20).filter(|_| visit(&clients, &rate(10, 1), 2)).count(), 10);
    }

    #[test]
    fn connections_are_counted_for_each_client_and_given_back() {
        let clients = Clients::new();
        let limits = LimitsPlan { max_connections_per_client: 2, ..LimitsPlan::default() };
        let (one, unix) = (Some(Ipv4Addr::LOCALHOST.into()), None);
        for client in [one, unix] {
            assert!((0..2).all(|_| clients.enter(client, &limits, at(0)).is_ok()));
            assert_eq!(clients.enter(client, &limits, at(0)), Err(RejectReason::MaxConnectionsPerClient));
        }
        clients.leave(one);
        assert_eq!(clients.enter(one, &limits, at(0)), Ok(()));
        for client in [one, one, unix, unix] {
            clients.leave(client);
        }
        assert_eq!(clients.remembered(), (0, 0), "whose pace is not limited is forgotten");
        clients.leave(one);
        assert_eq!(clients.remembered(), (0, 0));
    }

    #[test]
    fn a_flood_of_addresses_takes_no_more_memory_than_a_fixed_number_of_them() {
        let (clients, limits) = (Clients::new(), rate(1, 60));
        for number in 0..200_000_u32 {
            let client = Some(Ipv4Addr::from(number).into());
            assert_eq!(clients.enter(client, &limits, at(u64::from(number))), Ok(()), "strangers refuse nobody");
            clients.leave(client);
        }
        let (present, resting) = clients.remembered();
        assert!(present == 0 && (SHARDS * RESTING_MAX / 4..=SHARDS * RESTING_MAX).contains(&resting), "{resting}");
        let last = Some(Ipv4Addr::from(199_999).into());
        assert_eq!(clients.enter(last, &limits, at(200_000)), Err(RejectReason::ConnectionRate));
        // Those with open connections are all kept.
        for number in 0..50_000_u32 {
            clients.enter(Some(Ipv4Addr::from(number).into()), &LimitsPlan::default(), at(0)).unwrap();
        }
        assert_eq!(clients.remembered().0, 50_000);
    }
}
