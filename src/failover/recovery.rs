//! How an unhealthy backend is asked: ever more rarely, and at last no more, if its plan says so.

use std::time::Duration;

use crate::model::CheckPlan;

/// The longest that a backend rests after a failed attempt.
pub const RECOVERY_WAIT_MAX: Duration = Duration::from_secs(600);

/// How long until a backend is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// Counted from the beginning of the last probe.
    pub(super) interval: Duration,
    /// Counted from its answer: the rest that a failed attempt is followed by.
    pub(super) rest: Duration,
}

impl Pace {
    pub(super) const fn every(interval: Duration) -> Self {
        Self { interval, rest: Duration::ZERO }
    }

    /// How long that is at most.
    pub(super) fn longest(self) -> Duration {
        self.interval.max(self.rest)
    }
}

/// Whether so many failed attempts are all that the plan allows.
pub(super) const fn has_given_up(attempts: u32, check: &CheckPlan) -> bool {
    check.recovery_attempts > 0 && attempts >= check.recovery_attempts
}

/// The rest after so many failed attempts.
pub(super) fn rest(attempts: u32, check: &CheckPlan) -> Duration {
    if check.recovery_attempts == 0 || attempts == 0 {
        return Duration::ZERO;
    }
    let doubled = 1u32.checked_shl(attempts - 1).unwrap_or(u32::MAX);
    check.recovery_backoff.saturating_mul(doubled).min(RECOVERY_WAIT_MAX)
}
