//! The pace at which the clients of a pool are closed: those that are closed all at once come back all at once.
//!
//! It is one for all fences of the pool: those of ten backends that are lost together are one crowd. A fence silences its sessions at once, whatever their number; only the close of the clients waits for its turn.

use std::time::Duration;

use crate::model::MonoTime;

/// So many clients of a pool are closed at once, and then in each [`PACE_STEP`]: what a backend's queue of
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

/// The places of a pool's fences, over all threads, and what the present fence has given away of them.
#[derive(Debug, Default)]
pub struct Pace {
    /// The turn of the lot that is being given away, and how many of it are.
    lot: MonoTime,
    taken: usize,
    begun: MonoTime,
    given: usize,
    waiting: usize,
    over: Duration,
}

impl Pace {
    /// For the fences of a pool, the first of which begins at `now`.
    #[must_use]
    pub fn new(now: MonoTime) -> Self {
        let mut pace = Self { lot: now, ..Self::default() };
        pace.begin(now);
        pace
    }

    /// Another fence begins at `now`. What is left of the lot is for it; a new one is only after its time.
    pub fn begin(&mut self, now: MonoTime) {
        (self.begun, self.given, self.waiting, self.over) = (now, 0, 0, Duration::ZERO);
        if self.lot + PACE_STEP <= now {
            (self.lot, self.taken) = (now, 0);
        }
    }

    /// Gives the next place away, and says how long after the fence it is to be closed; none is at once.
    pub(super) fn next(&mut self) -> Option<Duration> {
        if self.taken == PACE_AT_ONCE {
            (self.lot, self.taken) = (self.lot + PACE_STEP, 0);
        }
        (self.taken, self.given) = (self.taken + 1, self.given + 1);
        Some(self.lot.since(self.begun)).filter(|after| !after.is_zero())
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

    #[test]
    fn fences_of_one_pool_share_the_pace() {
        let mut pace = Pace::new(MonoTime::ZERO);
        let crowd = |pace: &mut Pace, now: MonoTime, sessions: usize| {
            pace.begin(now);
            (0..sessions).filter_map(|_| pace.next().map(|after| now + after)).collect::<Vec<_>>()
        };
        assert_eq!(crowd(&mut pace, MonoTime::ZERO, PACE_AT_ONCE - 1), []);
        let soon = MonoTime::ZERO + PACE_STEP / 2;
        assert_eq!(crowd(&mut pace, soon, 2), [MonoTime::ZERO + PACE_STEP], "one is left of the first lot");
        let turns = crowd(&mut pace, soon, 2 * PACE_AT_ONCE);
        assert_eq!(turns.last(), Some(&(MonoTime::ZERO + PACE_STEP * 3)), "behind those that wait already");
        // Of those whose turn has come meanwhile nobody is waited for.
        let later = MonoTime::ZERO + PACE_STEP * 4;
        assert_eq!(crowd(&mut pace, later, PACE_AT_ONCE), []);
        assert_eq!(crowd(&mut pace, later, 1), [later + PACE_STEP]);
    }
}
