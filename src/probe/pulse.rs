//! Notices that the thread which asks did not run itself: starved of its processor, or kept busy by one turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::model::MonoTime;

/// While there is somebody to ask, the thread wakes at least this often, to know that it runs.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(100);

/// Whoever decides looks when something is due, so a stall that nobody asked about for so long is over, and whatever it held up
/// has been asked since.
const STALE: Duration = Duration::from_secs(1);

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
    /// Since when it lasted.
    began: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { due: AtomicU64::new(u64::MAX), stalled: AtomicU64::new(0), began: AtomicU64::new(0) }
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
        let due = self.due.load(Ordering::Relaxed);
        if now.since(MonoTime::from_nanos(due)) >= LATE {
            self.began.store(due, Ordering::Relaxed);
            self.stalled.store(now.as_nanos(), Ordering::Relaxed);
        }
    }
}

/// Tells another thread of the stalls of the one that asks, each once. What was not answered in such a time is nobody's fault but
/// ours: a verdict that falls due in it would be one over us.
#[derive(Debug)]
pub struct Stalls {
    pulse: Arc<Pulse>,
    /// When the last one that was told was noticed, and since when it lasted.
    told: (u64, u64),
}

impl Stalls {
    pub(super) fn of(pulse: &Arc<Pulse>) -> Self {
        Self { pulse: Arc::clone(pulse), told: (0, 0) }
    }

    /// Since when the thread that asks stood still, if it does, or did a moment ago, and that was not told yet. Of a stall that
    /// goes on, only what came after it was told last: who is excused for it is excused for no more than its time.
    pub fn news(&mut self, now: MonoTime) -> Option<MonoTime> {
        self.pulse.look(now);
        let noticed = (self.pulse.stalled.load(Ordering::Relaxed), self.pulse.began.load(Ordering::Relaxed));
        if noticed.0 <= self.told.0 {
            return None;
        }
        let before = std::mem::replace(&mut self.told, noticed);
        let [stalled, began, told] = [noticed.0, noticed.1, before.0].map(MonoTime::from_nanos);
        // Both threads stood still, or this one saw the other come back: that it ended a moment later is no news.
        let is_known = noticed.1 == before.1 && stalled < now && stalled.since(told) < LATE;
        let since = if noticed.1 == before.1 { told.max(began) } else { began };
        (now.since(stalled) < STALE && !is_known).then_some(since)
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
    #[test]
    fn who_decides_is_told_of_a_stall_while_it_lasts_and_once_after_it() {
        let pulse = Arc::new(Pulse::default());
        let mut stalls = Stalls::of(&pulse);
        pulse.beat(at(1000));
        assert_eq!(stalls.news(at(1199)), None);
        assert_eq!(stalls.news(at(1250)), Some(at(1100)), "it lasts");
        assert_eq!(
            stalls.news(at(1500)),
            Some(at(1250)),
            "it lasts still, and what fell due meanwhile is not to be judged either"
        );
        pulse.beat(at(1600));
        assert_eq!(stalls.news(at(1601)), Some(at(1500)), "it went on for long after it was told");
        assert_eq!(stalls.news(at(1602)), None);
        pulse.beat(at(2000));
        assert_eq!(stalls.news(at(2001)), Some(at(1700)));
        assert_eq!(stalls.news(at(2250)), Some(at(2100)));
        pulse.beat(at(2251));
        assert_eq!(stalls.news(at(2252)), None, "that it is over now was to be expected");
        pulse.beat(at(2500));
        pulse.rest();
        assert_eq!(stalls.news(at(3500)), None, "long ago");
        assert_eq!(stalls.news(at(9000)), None);
    }
}
