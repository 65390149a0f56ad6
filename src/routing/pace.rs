//! The pace at which the clients of one fence are closed: those that are closed all at once come back all at once.
//!
//! A fence silences its sessions at once, whatever their number; only the close of the clients waits for its turn.

use std::time::Duration;

use crate::model::MonoTime;

/// So many clients are closed with the fence itself, and then in each [`PACE_STEP`]: what a backend's queue of
/// connections takes at once also where it is small (a server with `listen(fd, 511)`, a database that allows 300 sessions).
pub const PACE_AT_ONCE: usize = 500;

/// From one lot of clients to the next: 5,000 a second, so that ten thousand are closed within two seconds. The proxy
/// itself admits and dials more than that, a database that starts a process for each client does not.
pub const PACE_STEP: Duration = Duration::from_millis(100);

/// What one fence has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fenced {
    /// How many of its sessions were established.
    pub sessions: usize,
    /// How many of their clients were closed with it: those that may be at once, and those that could not wait.
    pub at_once: usize,
    /// After so long the last of the others will be closed, or sooner.
    pub over: Duration,
}

/// The places of one fence, over all threads.
#[derive(Debug)]
pub(super) struct Pace {
    begun: MonoTime,
    given: usize,
    waiting: usize,
    over: Duration,
}

impl Pace {
    pub(super) const fn new(begun: MonoTime) -> Self {
        Self { begun, given: 0, waiting: 0, over: Duration::ZERO }
    }

    /// Gives the next place away, and says how long after the fence it is to be closed; none is at once.
    pub(super) fn next(&mut self) -> Option<Duration> {
        let steps = self.given / PACE_AT_ONCE;
        self.given += 1;
        (steps > 0).then(|| PACE_STEP * u32::try_from(steps).unwrap_or(u32::MAX))
    }

    /// The turn of a client that is to wait for so long.
    pub(super) fn turn(&mut self, after: Duration) -> MonoTime {
        self.waiting += 1;
        self.over = self.over.max(after);
        self.begun + after
    }

    /// One whose turn it was to wait could not.
    pub(super) const fn cut(&mut self) {
        self.waiting -= 1;
    }

    pub(super) const fn done(&self) -> Fenced {
        Fenced { sessions: self.given, at_once: self.given - self.waiting, over: self.over }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fenced, PACE_AT_ONCE, PACE_STEP, Pace};
    use crate::model::MonoTime;

    #[test]
    fn as_many_as_may_be_closed_at_once_have_the_same_turn() {
        let mut pace = Pace::new(MonoTime::ZERO);
        let places: Vec<_> = (0..3 * PACE_AT_ONCE).map(|_| pace.next()).collect();
        assert!(places[..PACE_AT_ONCE].iter().all(Option::is_none));
        assert!(places[PACE_AT_ONCE..2 * PACE_AT_ONCE].iter().all(|&place| place == Some(PACE_STEP)));
        assert!(places[2 * PACE_AT_ONCE..].iter().all(|&place| place == Some(2 * PACE_STEP)));
        assert_eq!(pace.done().over.as_nanos(), 0, "nobody waits yet");
        assert_eq!(pace.turn(PACE_STEP), MonoTime::ZERO + PACE_STEP);
        let sessions = 3 * PACE_AT_ONCE;
        assert_eq!(pace.done(), Fenced { sessions, at_once: sessions - 1, over: PACE_STEP });
    }
}
