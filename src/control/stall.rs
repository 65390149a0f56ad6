//! Notices that the control task itself did not run: a paused machine, a starved processor.

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

/// Since when the task has not run, if it should have run at `due` and it is much later now.
pub(super) fn stalled_since(now: MonoTime, due: Option<MonoTime>) -> Option<MonoTime> {
    due.filter(|&due| now.since(due) >= LATE)
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
        assert_eq!(stalled_since(at(5000), None), None);
        assert_eq!(stalled_since(at(1000), Some(at(5000))), None);
        assert_eq!(stalled_since(at(1199), Some(at(1000))), None);
        assert_eq!(stalled_since(at(1200), Some(at(1000))), Some(at(1000)));
    }
}
