//! How long a backend's answers take, and when that is too long.

use std::time::Duration;

use crate::model::{CheckPlan, MonoTime, SmoothedLatency};

/// Only answers that take at most this share of `max_latency` end a slow spell.
pub const SLOW_EXIT: f64 = 0.8;

/// A slow spell lasts at least so long, and at least [`SLOW_HOLD_INTERVALS`] intervals.
pub const SLOW_HOLD: Duration = Duration::from_secs(5);

/// See [`SLOW_HOLD`].
pub const SLOW_HOLD_INTERVALS: u32 = 5;

/// A slow backend is passed over only for one whose smoothed latency is below its own by at least this share.
pub const MIN_GAIN: f64 = 0.1;

/// What is known of a backend's answers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Latency {
    /// The last one.
    pub(super) last: Option<Duration>,
    pub(super) smoothed: Option<SmoothedLatency>,
    /// Since when it has been called slow, if it was when it last was unhealthy.
    pub(super) slow_since: MonoTime,
}

impl Latency {
    /// Takes in how long one good answer took.
    pub(super) fn measure(&mut self, took: Duration) {
        self.last = Some(took);
        self.smoothed = Some(match self.smoothed {
            None => SmoothedLatency { mean: took, deviation: took / 2 },
            Some(SmoothedLatency { mean, deviation }) => SmoothedLatency {
                mean: approach(mean, took, 8),
                deviation: approach(deviation, mean.abs_diff(took), 4),
            },
        });
    }

    pub(super) fn mean(&self) -> Option<Duration> {
        self.smoothed.map(|smoothed| smoothed.mean)
    }

    /// Whether a slow spell may not end yet.
    pub(super) fn is_held(&self, now: MonoTime, check: &CheckPlan) -> bool {
        now.since(self.slow_since) < SLOW_HOLD.max(check.interval.saturating_mul(SLOW_HOLD_INTERVALS))
    }

    /// Whether this backend is so much faster than the `slow` one that new sessions rather go to it. One whose answers
    /// were never measured is not known to be slow, which the other is.
    pub(super) fn is_better_than(&self, slow: &Self) -> bool {
        match (self.mean(), slow.mean()) {
            (Some(mean), Some(slow)) => mean <= slow.mul_f64(1.0 - MIN_GAIN),
            (None, _) | (_, None) => true,
        }
    }
}

/// Whether an answer that took so long is within the limit.
pub(super) fn is_in_time(took: Duration, check: &CheckPlan) -> bool {
    check.max_latency.is_none_or(|limit| took <= limit)
}

/// Whether it is so far within the limit that it speaks for the end of a slow spell.
pub(super) fn is_quick(took: Duration, check: &CheckPlan) -> bool {
    check.max_latency.is_none_or(|limit| took <= limit.mul_f64(SLOW_EXIT))
}

/// One `share`-th of the way from `from` to `to`.
fn approach(from: Duration, to: Duration, share: u32) -> Duration {
    let step = from.abs_diff(to) / share;
    if to > from { from + step } else { from.saturating_sub(step) }
}
