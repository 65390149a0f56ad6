//! Places for sessions: `max_sessions` of them, shared by all threads, and how many each thread has taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A thread hands a client over only to one that has so many sessions fewer, and a sixteenth of its own: moving
/// a socket costs four system calls and a wake-up, and short sessions come and go.
const MARGIN: usize = 4;

/// The places.
#[derive(Debug, Clone)]
pub struct Seats(Arc<Count>);

#[derive(Debug)]
struct Count {
    taken: AtomicUsize,
    limit: AtomicUsize,
    by_thread: Box<[AtomicUsize]>,
}

impl Seats {
    /// `limit` places, none taken, for `threads` threads.
    #[must_use]
    pub fn new(limit: usize, threads: usize) -> Self {
        let by_thread = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        Self(Arc::new(Count { taken: AtomicUsize::new(0), limit: AtomicUsize::new(limit), by_thread }))
    }

    /// Changes how many places there are; those that are taken stay taken.
    pub fn set_limit(&self, limit: usize) {
        self.0.limit.store(limit, Ordering::Relaxed);
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Takes a place for a session of `thread`, if there is one.
    #[must_use]
    pub fn take(&self, thread: usize) -> Option<Seat> {
        let limit = self.0.limit.load(Ordering::Relaxed);
        let more = |taken| if taken < limit { Some(taken + 1) } else { None };
        self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.count(thread, 1);
        Some(Seat { seats: self.clone(), thread })
    }

    /// The thread with the fewest sessions, if `thread` has so many more that a client is worth moving.
    pub(super) fn lighter_than(&self, thread: usize) -> Option<usize> {
        let load = |thread: &AtomicUsize| thread.load(Ordering::Relaxed);
        let own = load(self.0.by_thread.get(thread)?);
        let loads = self.0.by_thread.iter().map(load).enumerate();
        let (lightest, least) = loads.min_by_key(|&(_, load)| load)?;
        (own > least + MARGIN + own / 16).then_some(lightest)
    }

    fn count(&self, thread: usize, by: isize) {
        if let Some(load) = self.0.by_thread.get(thread) {
            load.fetch_add(by.cast_unsigned(), Ordering::Relaxed);
        }
    }
}

/// One place; free again when dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    thread: usize,
}

impl Seat {
    /// The session goes on in `thread`.
    pub(super) fn move_to(&mut self, thread: usize) {
        self.seats.count(self.thread, -1);
        self.thread = thread;
        self.seats.count(thread, 1);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.count(self.thread, -1);
        self.seats.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Seats;

    #[test]
    fn there_are_as_many_seats_as_the_limit_says() {
        let seats = Seats::new(2, 1);
        let (first, second) = (seats.take(0), seats.take(0));
        assert!(first.is_some() && second.is_some() && seats.take(0).is_none());
        drop(first);
        assert_eq!(seats.taken(), 1);
        seats.set_limit(1);
        assert!(seats.take(0).is_none());
        drop(second);
        assert!(seats.take(0).is_some());
    }

    #[test]
    fn a_client_is_worth_moving_when_the_counts_differ_by_more_than_a_little() {
        let seats = Seats::new(1000, 3);
        let mut taken: Vec<_> = (0..4).map(|_| seats.take(1).unwrap()).collect();
        assert_eq!(seats.lighter_than(1), None);
        taken.push(seats.take(1).unwrap());
        assert_eq!(seats.lighter_than(1), Some(0));
        taken[4].move_to(2);
        assert_eq!(seats.lighter_than(1), None);
        taken.extend((0..160).map(|_| seats.take(2).unwrap()));
        assert_eq!(seats.lighter_than(2), Some(0), "the lightest of all");
        taken.clear();
        assert_eq!((seats.lighter_than(1), seats.lighter_than(2), seats.taken()), (None, None, 0));
        assert_eq!(Seats::new(1, 0).lighter_than(0), None);
    }
}
