//! What a backend carries now, counted by those who put it there: sessions, and how long it takes to answer.
//!
//! Backends of a pool that were made together share a [`Block`], in which each has a bit that says that it is full: among
//! thousands of full ones the one with room is found without a look at each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How much a new measurement of the latency counts: one part in so many.
const LATENCY_MEMORY: u64 = 4;

/// One backend's load, shared by every thread. Aligned to two cache lines, so that sessions of one backend
/// do not slow down those of another.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load {
    sessions: AtomicU32,
    latency_nanos: AtomicU64,
    /// The limit in force, under which alone its bit is set.
    limit: AtomicU32,
    block: Arc<Block>,
    /// Its bit in the block.
    bit: u32,
}

/// Which of 64 backends are full. A bit may be clear although its backend is full. It is set although there is room only
/// while the thread that set it has not looked again, which it does at once; whoever gives a place back clears it.
#[derive(Debug, Default)]
pub struct Block {
    full: AtomicU64,
}

impl Block {
    /// A bit for each backend that is thought to be full.
    #[must_use]
    pub fn full(&self) -> u64 {
        self.full.load(Ordering::SeqCst)
    }
}

/// Makes loads, 64 to a block.
#[derive(Debug, Default)]
pub struct Loads {
    block: Arc<Block>,
    made: u32,
}

impl Loads {
    /// One more, at zero.
    pub fn make(&mut self) -> Arc<Load> {
        if self.made == u64::BITS {
            *self = Self::default();
        }
        let load = Load { block: Arc::clone(&self.block), bit: self.made, ..Load::default() };
        self.made += 1;
        Arc::new(load)
    }
}

impl Load {
    /// Sessions from the beginning of the dial to the end.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        // In one order with the queue of those who wait for room: whoever has joined it sees each place given back before.
        self.sessions.load(Ordering::SeqCst)
    }

    /// Has `limit` in force from now on; zero is no limit. What was noted under another is forgotten, and whoever
    /// still goes by that notes nothing more.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::SeqCst);
        self.has_room();
    }

    /// Whether there are `limit` sessions; zero is no limit. Notes it in the block if there are and it is in force.
    #[must_use]
    pub fn is_full(&self, limit: u32) -> bool {
        if limit == 0 || self.sessions() < limit {
            return false;
        }
        let in_force = || self.limit.load(Ordering::SeqCst) == limit;
        if self.block.full() & self.mask() == 0 && in_force() {
            self.block.full.fetch_or(self.mask(), Ordering::SeqCst);
            let has_room = self.sessions() < limit;
            if has_room || !in_force() {
                self.has_room();
            }
            return !has_room;
        }
        true
    }

    /// Has the block say that there is room, which is never wrong for long.
    pub fn has_room(&self) {
        if self.block.full() & self.mask() != 0 {
            self.block.full.fetch_and(!self.mask(), Ordering::SeqCst);
        }
    }

    /// The block, and the bit in it.
    #[must_use]
    pub const fn bit(&self) -> (&Arc<Block>, u32) {
        (&self.block, self.bit)
    }

    const fn mask(&self) -> u64 {
        1 << self.bit
    }

    /// Counts a session, unless there are `limit` already; zero is no limit. Exact, however many try at once.
    #[must_use]
    pub fn take(self: &Arc<Self>, limit: u32) -> Option<Place> {
        if limit == 0 {
            self.sessions.fetch_add(1, Ordering::SeqCst);
        } else {
            let more = |taken| if taken < limit { Some(taken + 1) } else { None };
            self.sessions.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        }
        Some(Place(Arc::clone(self)))
    }

    /// How long good answers take of late; zero before the first.
    #[must_use]
    pub fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency_nanos.load(Ordering::Relaxed))
    }

    /// Takes in how long a good answer took. There is one who measures, so that nothing is lost between load and store.
    pub fn measured(&self, latency: Duration) {
        let new = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX / LATENCY_MEMORY).max(1);
        let smoothed = match self.latency_nanos.load(Ordering::Relaxed) {
            0 => new,
            old => old - old / LATENCY_MEMORY + new / LATENCY_MEMORY,
        };
        self.latency_nanos.store(smoothed, Ordering::Relaxed);
    }
}

/// One session's place at a backend; free again when dropped.
#[derive(Debug)]
pub struct Place(Arc<Load>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::SeqCst);
        self.0.has_room();
    }
}

#[cfg(test)]
mod tests {
    use super::{Load, Loads};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    #[test]
    fn a_limit_is_exact_however_many_try_at_once() {
        const LIMIT: u32 = 7;
        let load = Arc::new(Load::default());
        let (inside, worst, served) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut places = Vec::new();
                    for round in 0..20_000 {
                        if let Some(place) = load.take(LIMIT) {
                            worst.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            served.fetch_add(1, Ordering::SeqCst);
                            places.push(place);
                        }
                        if round % 3 == 0 && !places.is_empty() {
                            inside.fetch_sub(1, Ordering::SeqCst);
                            places.pop();
                        }
                    }
                    inside.fetch_sub(u32::try_from(places.len()).unwrap_or(0), Ordering::SeqCst);
                });
            }
        });
        assert!(worst.load(Ordering::SeqCst) <= LIMIT && served.load(Ordering::SeqCst) > LIMIT);
        assert_eq!(load.sessions(), 0, "every place was given back");
    }

    #[test]
    fn no_limit_counts_all_the_same() {
        let load = Arc::new(Load::default());
        let places: Vec<_> = (0..100).filter_map(|_| load.take(0)).collect();
        assert_eq!(load.sessions(), 100);
        assert!(load.take(100).is_none(), "a limit that is new counts those who came before it");
        drop(places);
        assert_eq!(load.sessions(), 0);
    }

    #[test]
    fn a_block_knows_who_is_full() {
        let mut loads = Loads::default();
        let all: Vec<_> = (0..130).map(|_| loads.make()).collect();
        let block = |at: usize| all[at].bit().0;
        assert!(Arc::ptr_eq(block(0), block(63)) && !Arc::ptr_eq(block(63), block(64)) && block(128).full() == 0);
        for (at, limit) in [(3, 1), (66, 1), (67, 2)] {
            all[at].set_limit(limit);
        }
        let places = (all[3].take(1), all[66].take(1), all[67].take(2));
        assert!(all[3].is_full(1) && all[66].is_full(1) && !all[67].is_full(2) && !all[4].is_full(0));
        assert_eq!((block(3).full(), block(66).full()), (1 << 3, 1 << 2));
        assert!(all[67].is_full(1) && block(67).full() == 1 << 2, "by a limit that is not in force nothing is noted");
        all[66].set_limit(2);
        assert_eq!(block(66).full(), 0);
        drop(places);
        assert_eq!((block(3).full(), block(66).full()), (0, 0));
    }

    /// Whatever threads do to each other, at rest no bit says that a backend with room is full.
    #[test]
    fn a_backend_with_room_is_not_kept_for_full() {
        let load = Loads::default().make();
        load.set_limit(1);
        for _ in 0..200 {
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| (0..200).for_each(|_| drop((load.is_full(1), load.take(1), load.is_full(1)))));
                }
            });
            assert_eq!((load.sessions(), load.bit().0.full()), (0, 0));
        }
    }

    #[test]
    fn a_place_is_given_back_by_a_panic_too() {
        let load = Arc::new(Load::default());
        let held = Arc::clone(&load);
        let broken = std::thread::spawn(move || {
            let _place = held.take(1);
            panic!("a fault of ours");
        });
        assert!(broken.join().is_err());
        assert_eq!(load.sessions(), 0);
    }

    #[test]
    fn latency_follows_the_measurements_slowly() {
        let load = Load::default();
        assert_eq!(load.latency(), Duration::ZERO);
        load.measured(Duration::from_millis(8));
        assert_eq!(load.latency(), Duration::from_millis(8), "the first one counts alone");
        load.measured(Duration::from_millis(16));
        assert_eq!(load.latency(), Duration::from_millis(10));
        for _ in 0..40 {
            load.measured(Duration::from_millis(1));
        }
        assert!(load.latency() < Duration::from_millis(2));
        load.measured(Duration::MAX);
        load.measured(Duration::MAX);
    }
}
