//! How the stable time grows with returns that do not last, so that a backend that flaps does not take the pool along.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::MonoTime;

/// What doubles where `failback_after` is shorter than this.
pub const DAMPING_FLOOR: Duration = Duration::from_secs(1);

/// The most that the stable time grows to, unless `failback_after` is longer anyway.
pub const DAMPING_CAP: Duration = Duration::from_secs(600);

/// A return lasts if the tier is not lost within so many times the stable time that was in force. As long a quiet takes
/// one bounce back: were it shorter, the wait for a return would itself undo the bounce that it is for.
const LASTS: u32 = 2;

/// How often returns did not last, of late.
#[derive(Debug, Default, Clone)]
pub(super) struct Damping {
    bounces: u32,
    /// Since when nothing moved and no tier became fit or unfit; or the end of the last time of quiet after that.
    quiet_since: MonoTime,
    /// The tiers that were fit at the last look, and since when.
    fit: BTreeMap<u32, MonoTime>,
    /// Until when the present tier's loss would be a bounce, if it was returned to.
    proves_until: Option<MonoTime>,
}

impl Damping {
    /// How often returns did not last, of late.
    pub(super) const fn bounces(&self) -> u32 {
        self.bounces
    }

    /// As it would be if it had reckoned with the time until now, which a pool does when it decides.
    pub(super) fn as_of(&self, now: MonoTime, failback_after: Duration) -> Self {
        let mut later = self.clone();
        later.pass_time(now, failback_after);
        later
    }

    /// How long a better tier must have been fit.
    pub(super) fn stable_time(&self, failback_after: Duration) -> Duration {
        if self.bounces == 0 { failback_after } else { self.wait(failback_after) }
    }

    /// The stable time as it is reckoned with: never nothing.
    fn wait(&self, failback_after: Duration) -> Duration {
        let doubled = failback_after.max(DAMPING_FLOOR).saturating_mul(1 << self.bounces.min(u32::BITS - 1));
        doubled.min(DAMPING_CAP.max(failback_after))
    }

    /// Reckons with the time until now. Each time of quiet takes one bounce back.
    ///
    /// A better tier's stable time always ends before the quiet that would shorten it, because its beginning broke the
    /// quiet: so nobody need be woken for that.
    pub(super) fn pass_time(&mut self, now: MonoTime, failback_after: Duration) {
        while self.bounces > 0 && now >= self.quiet_since + self.wait(failback_after).saturating_mul(LASTS) {
            self.quiet_since = self.quiet_since + self.wait(failback_after).saturating_mul(LASTS);
            self.bounces -= 1;
        }
    }

    /// Looks at the tiers that are fit now.
    pub(super) fn watch(&mut self, now: MonoTime, fit: BTreeMap<u32, MonoTime>, failback_after: Duration) {
        self.pass_time(now, failback_after);
        if fit != self.fit {
            self.quiet_since = now;
            self.fit = fit;
        }
    }

    /// The pool returned to a better tier.
    pub(super) fn returned(&mut self, now: MonoTime, failback_after: Duration) {
        self.quiet_since = now;
        self.proves_until = Some(now + self.wait(failback_after).saturating_mul(LASTS));
    }

    /// The pool went elsewhere, because what served was lost at `lost`, by a verdict or not.
    pub(super) fn left(&mut self, now: MonoTime, lost: MonoTime, by_verdict: bool, failback_after: Duration) {
        self.quiet_since = now;
        let bounced = self.proves_until.take().is_some_and(|until| by_verdict && lost < until);
        // What has reached the cap grows no further, or it would take as long again to come down.
        if bounced && self.wait(failback_after) < DAMPING_CAP.max(failback_after) {
            self.bounces += 1;
        }
    }
}
