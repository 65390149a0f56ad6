//! When a tunnel is tried again: never twice at once, ever more rarely while it fails, and but now and then if that is hopeless.
//! And whether it has failed, which is told at once where its program cannot even be started: nobody need count that.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::{MonoTime, RunEnd, TunnelCause, TunnelPlan};

/// The shortest wait before another try: many tunnels that fail at once do so at as many moments.
pub const RETRY_FLOOR: Duration = Duration::from_millis(100);

/// Whatever happens, a tunnel is not started again within this time.
pub const START_GAP: Duration = Duration::from_millis(100);

/// The wait after a try that failed for want of something of our own, which is no try.
pub const LOCAL_RETRY: Duration = Duration::from_secs(1);

/// So many failed tries within [`TRIES_WITHIN`], and it has failed. It is tried no less often than the plan allows at the least: whoever
/// it cannot reach may be back at any moment.
pub const TRIES_MAX: usize = 10;

/// See [`TRIES_MAX`].
pub const TRIES_WITHIN: Duration = Duration::from_secs(600);

/// How often a tunnel is tried whose program has said that it will never work, give or take [`SLOW_JITTER`].
pub const SLOW_RETRY: Duration = Duration::from_secs(300);

/// See [`SLOW_RETRY`].
pub const SLOW_JITTER: f64 = 0.2;

/// A network that has changed has such a tunnel tried, but not again within this time.
pub const NUDGE_GAP: Duration = Duration::from_secs(300);

/// Those that wait are tried within this time after the network has changed.
const NUDGE_SPREAD: Duration = Duration::from_millis(250);

/// The tries of a tunnel.
#[derive(Debug, Clone)]
pub(super) struct Tries {
    /// How many in a row have failed.
    in_a_row: u32,
    /// When the last of them did.
    failed_at: VecDeque<MonoTime>,
    /// Whether too many tries came to nothing, or it is hopeless.
    have_failed: bool,
    /// Whether its program could not even be started when that was last tried: it is missing, or may not be run. Somebody has to
    /// mend that, and it may be for a moment only (a package is being upgraded), so that it is tried as often as ever.
    cannot_begin: bool,
    /// Whether its program has said that it will never work: it is tried but now and then.
    are_hopeless: bool,
    /// When it last was tried because the network had changed, though it is hopeless.
    nudged_at: Option<MonoTime>,
    last_start: Option<MonoTime>,
    rng: fastrand::Rng,
}

impl Tries {
    /// None yet; `seed` spreads them in time.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            in_a_row: 0,
            failed_at: VecDeque::new(),
            have_failed: false,
            cannot_begin: false,
            are_hopeless: false,
            nudged_at: None,
            last_start: None,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// A moment within `most` from now.
    pub(super) fn within(&mut self, now: MonoTime, most: Duration) -> MonoTime {
        now + most.mul_f64(self.rng.f64())
    }

    /// One begins.
    pub(super) const fn begin(&mut self, now: MonoTime) {
        self.last_start = Some(now);
    }

    /// They count from the start again.
    pub(super) fn recover(&mut self) {
        self.in_a_row = 0;
        self.failed_at.clear();
    }

    /// The same, and whatever made it fail is over.
    pub(super) fn forget(&mut self) {
        self.recover();
        self.are_good();
    }

    /// A check has come through.
    pub(super) const fn are_good(&mut self) {
        (self.have_failed, self.cannot_begin, self.are_hopeless) = (false, false, false);
    }

    /// Its program was started. Says whether it could not be before.
    pub(super) const fn can_begin(&mut self) -> bool {
        std::mem::replace(&mut self.cannot_begin, false)
    }

    /// Whether it has failed: too many tries came to nothing, it is hopeless, or its program cannot be started.
    pub(super) const fn have_failed(&self) -> bool {
        self.have_failed || self.cannot_begin
    }

    /// When it is tried again, one having failed for this `cause`. Counts it.
    pub(super) fn after(&mut self, now: MonoTime, cause: TunnelCause, plan: &TunnelPlan) -> MonoTime {
        if cause == TunnelCause::Local {
            return if self.are_hopeless { self.hopeless(now) } else { self.no_sooner(now + LOCAL_RETRY) };
        }
        self.cannot_begin = cause == TunnelCause::NotStarted;
        let doubled = 1u32.checked_shl(self.in_a_row).unwrap_or(u32::MAX);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.failed_at.push_back(now);
        if self.failed_at.len() > TRIES_MAX {
            self.failed_at.pop_front();
        }
        let first = self.failed_at.front().filter(|_| self.failed_at.len() == TRIES_MAX);
        let are_many = first.is_some_and(|first| now.since(*first) <= TRIES_WITHIN);
        self.have_failed |= are_many;
        if cause == TunnelCause::Fatal || self.are_hopeless {
            return self.hopeless(now);
        }
        if self.have_failed {
            let least = plan.retry_max.max(RETRY_FLOOR) / 2;
            let at = self.within(now + least, least);
            return self.no_sooner(at);
        }
        let most = plan.retry_initial.saturating_mul(doubled).min(plan.retry_max).max(RETRY_FLOOR);
        let at = self.within(now + RETRY_FLOOR, most - RETRY_FLOOR);
        self.no_sooner(at)
    }

    /// Its program has said that it will never work: when it is tried again all the same.
    pub(super) fn hopeless(&mut self, now: MonoTime) -> MonoTime {
        (self.have_failed, self.are_hopeless) = (true, true);
        now + SLOW_RETRY.mul_f64(1.0 + SLOW_JITTER * (2.0 * self.rng.f64() - 1.0))
    }

    /// When one that waits is tried after the network has changed; none if it was for the last change not long ago.
    pub(super) fn nudge(&mut self, now: MonoTime) -> Option<MonoTime> {
        if self.are_hopeless {
            if self.nudged_at.is_some_and(|last| now.since(last) < NUDGE_GAP) {
                return None;
            }
            self.nudged_at = Some(now);
        }
        let soon = self.within(now, NUDGE_SPREAD);
        Some(self.no_sooner(soon))
    }

    /// That time, or as soon after it as it may be started again.
    pub(super) fn no_sooner(&self, at: MonoTime) -> MonoTime {
        self.last_start.map_or(at, |last| at.max(last + START_GAP))
    }
}

/// Why a try failed whose run ended so.
pub(super) const fn cause_of(how: RunEnd) -> TunnelCause {
    match how {
        RunEnd::Stopped | RunEnd::Exited => TunnelCause::Exited,
        RunEnd::NotStarted => TunnelCause::NotStarted,
        RunEnd::PortTaken => TunnelCause::PortTaken,
        RunEnd::Local => TunnelCause::Local,
    }
}
