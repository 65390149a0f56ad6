//! Notices that the control task itself did not run: a paused machine, a starved processor.
//!
//! Backends are asked on a thread of its own, which judges its own lateness (`probe::Service` has what happens if only one of
//! the two stands still). So the answers to questions that were open meanwhile may well be right, if this thread alone stood
//! still; but whether the machine did is not known here, and what sessions reported of that time is worth nothing if
//! it did. They are asked again, which costs a moment.
//!
//! Should the other thread stand still, what is doubted cannot be allayed: both paths to a server end there. So when something is
//! due its stalls (`probe::Stalls`) count as one's own.
//!
//! A turn that puts a plan in force takes its time, hundreds of milliseconds for ten thousand backends, and that is known: what
//! fell due in it is not late.
//!
//! What is shorter than that is no stall, and may yet be when a doubt falls due whose end waits to be read: whoever judges it late
//! gives it more time (`failover::doubt`).

use std::time::Duration;

use crate::model::MonoTime;

/// A turn that begins so much later than it should have was not late by chance.
pub(super) const LATE: Duration = Duration::from_millis(200);

/// While questions are open the task wakes at least this often, to know that it runs.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(200);

/// When to wake at the latest, given when something is due and whether questions are open.
pub(super) fn wake_by(now: MonoTime, due: Option<MonoTime>, questions_are_open: bool) -> Option<MonoTime> {
    due.into_iter().chain(questions_are_open.then(|| now + HEARTBEAT)).min()
}

/// Since when the task has not run, if it should have run at `due` and it is much later now. Until `planned`, when the
/// last plan was in force, it was at work.
pub(super) fn stalled_since(now: MonoTime, due: Option<MonoTime>, planned: MonoTime) -> Option<MonoTime> {
    due.map(|due| due.max(planned)).filter(|&since| now.since(since) >= LATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonoTime {
        MonoTime::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn it_wakes_for_what_is_due_and_for_its_own_pulse_while_questions_are_open() {
        assert_eq!(wake_by(at(1000), None, false), None);
        assert_eq!(wake_by(at(1000), Some(at(9000)), false), Some(at(9000)));
        assert_eq!(wake_by(at(1000), Some(at(9000)), true), Some(at(1200)));
        assert_eq!(wake_by(at(1000), Some(at(1100)), true), Some(at(1100)));
        assert_eq!(wake_by(at(1000), None, true), Some(at(1200)));
    }

    #[test]
    fn a_little_late_is_no_stall() {
        assert_eq!(stalled_since(at(5000), None, at(0)), None);
        assert_eq!(stalled_since(at(1000), Some(at(5000)), at(0)), None);
        assert_eq!(stalled_since(at(1199), Some(at(1000)), at(0)), None);
        assert_eq!(stalled_since(at(1200), Some(at(1000)), at(0)), Some(at(1000)));
    }

    #[test]
    fn what_fell_due_while_a_plan_was_put_in_force_is_not_late() {
        assert_eq!(stalled_since(at(1350), Some(at(1000)), at(1300)), None);
        assert_eq!(stalled_since(at(1500), Some(at(1000)), at(1300)), Some(at(1300)), "but after it, it is");
        assert_eq!(stalled_since(at(5000), Some(at(4000)), at(1300)), Some(at(4000)));
    }
}
