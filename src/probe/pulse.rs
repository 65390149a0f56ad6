//! Notices that the thread which asks did not run itself: starved of its processor, or kept busy by one turn.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::model::MonoTime;

/// While there is somebody to ask, the thread wakes at least this often, to know that it runs.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(100);

/// A wake that is so much later than it should be was not late by chance.
const LATE: Duration = Duration::from_millis(100);

/// When the thread should run next, and when it was last known not to have.
///
/// Whoever is about to judge looks for himself: after a stall nobody knows whose turn comes first.
#[derive(Debug)]
pub(super) struct Pulse {
    /// In nanoseconds; the end of time if it may sleep.
    due: AtomicU64,
    /// When a stall was last noticed, in nanoseconds; nothing if none was.
    stalled: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { due: AtomicU64::new(u64::MAX), stalled: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// The thread runs, and will again within [`HEARTBEAT`].
    pub(super) fn beat(&self, now: MonoTime) {
        self.look(now);
        self.due.store((now + HEARTBEAT).as_nanos(), Ordering::Relaxed);
    }

    /// The thread runs, and may sleep for as long as there is nobody to ask.
    pub(super) fn rest(&self) {
        self.due.store(u64::MAX, Ordering::Relaxed);
    }

    /// Whether the thread stood still at some time after `begun`.
    pub(super) fn stalled_since(&self, begun: MonoTime, now: MonoTime) -> bool {
        self.look(now);
        self.stalled.load(Ordering::Relaxed) > begun.as_nanos()
    }

    fn look(&self, now: MonoTime) {
        if now.since(MonoTime::from_nanos(self.due.load(Ordering::Relaxed))) >= LATE {
            self.stalled.store(now.as_nanos(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonoTime {
        MonoTime::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_stall_counts_for_what_was_begun_before_it_was_over_whoever_looks_first() {
        let pulse = Pulse::default();
        pulse.beat(at(1000));
        assert!(!pulse.stalled_since(at(0), at(1199)), "a little late is no stall");
        assert!(pulse.stalled_since(at(900), at(1200)), "noticed by whoever judges");
        pulse.beat(at(1201));
        assert!(pulse.stalled_since(at(900), at(1202)), "and known to those who judge after the next beat");
        assert!(!pulse.stalled_since(at(1202), at(1290)), "nothing to those who begin after it");
        pulse.beat(at(5000));
        assert!(pulse.stalled_since(at(1202), at(5001)), "noticed by the beat itself");
    }

    #[test]
    fn who_has_nobody_to_ask_may_sleep() {
        let pulse = Pulse::default();
        assert!(!pulse.stalled_since(at(0), at(10_000)));
        pulse.beat(at(10_000));
        pulse.rest();
        assert!(!pulse.stalled_since(at(0), at(90_000)));
        pulse.beat(at(90_000));
        assert!(!pulse.stalled_since(at(0), at(90_000)));
    }
}
