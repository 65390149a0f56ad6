//! What others than our own probes say of a backend's health: sessions, people, and systems that speak for them.

use std::time::Duration;

use crate::model::{CheckKind, CheckPlan, HealthState, MonoTime, OutReason, PushedHealth};

use super::health::{Health, Verdict};
use super::passive::{Hearsay, Passive};
use super::pushed::Pushed;

/// A backend that is not checked, and is unhealthy by what was heard of it, is taken to be fit again after so long if it
/// has no `recovery_interval`.
pub const UNCHECKED_RETURN: Duration = Duration::from_secs(10);

impl Health {
    /// Takes what was heard as evidence.
    pub(super) fn hear(&mut self, now: MonoTime, hearsay: Hearsay<'_>, check: &CheckPlan) -> Verdict {
        let enough = self.passive.add(now, hearsay, check);
        let serves = self.state == HealthState::Healthy || self.is_slow();
        if !serves {
            return Verdict::None;
        }
        let first_failure = *self.first_failure.get_or_insert(now);
        if !enough {
            return Verdict::None;
        }
        self.note_error(now, self.passive.detail());
        self.successes = 0;
        self.attempts = 0;
        self.turn(now, HealthState::Unhealthy, Some(OutReason::CheckFailed));
        Verdict::Unhealthy { reason: OutReason::CheckFailed, detect: now.since(first_failure) }
    }

    /// Live sessions have been without an answer since `since`: a failure that is found now began then.
    pub(super) fn stalled(&mut self, since: MonoTime) -> bool {
        if self.state != HealthState::Healthy {
            return false;
        }
        self.first_failure = Some(self.first_failure.map_or(since, |first| first.min(since)));
        true
    }

    /// Takes a verdict from outside, or forgets it.
    pub(super) fn push(&mut self, now: MonoTime, verdict: Option<PushedHealth>, check: &CheckPlan) -> Verdict {
        self.pushed = verdict.and_then(|verdict| Pushed::new(now, verdict, self.pushed.as_ref()));
        self.settle(now);
        if self.said() != HealthState::Healthy {
            return Verdict::None;
        }
        self.attempts = 0;
        if self.pushed.as_ref().is_some_and(|pushed| pushed.since == now) {
            // Only when it is news: good words that are said again and again must not outvote probes.
            self.clear();
        }
        self.unchecked_again(now, check)
    }

    /// Forgets all that was counted against it, and lets its next answer decide alone.
    pub(super) fn reset(&mut self, now: MonoTime, check: &CheckPlan) -> Verdict {
        self.clear();
        self.successes = 0;
        self.answers = 0;
        self.pushed = None;
        self.forgiven = self.state == HealthState::Unhealthy;
        self.settle(now);
        self.unchecked_again(now, check)
    }

    /// One that nobody asks is fit by a good word, unless there is no way to it.
    fn unchecked_again(&mut self, now: MonoTime, check: &CheckPlan) -> Verdict {
        match (&check.kind, self.state) {
            (CheckKind::None, HealthState::Unhealthy) if !self.has_no_way => self.recover(now),
            _ => Verdict::None,
        }
    }

    /// Takes back what was counted against a backend that serves.
    pub(super) fn acquit(&mut self) {
        if self.state == HealthState::Healthy {
            self.clear();
        }
    }

    /// The verdict over a backend that nobody asks.
    pub(super) fn unchecked(&mut self, now: MonoTime, check: &CheckPlan) -> Verdict {
        match self.state {
            HealthState::Unknown | HealthState::Unhealthy if self.has_no_way => Verdict::None,
            HealthState::Healthy => Verdict::None,
            HealthState::Unknown => {
                self.turn(now, HealthState::Healthy, None);
                Verdict::Healthy { downtime: None }
            }
            HealthState::Unhealthy if self.unchecked_return(check).is_some_and(|at| at <= now) => {
                self.clear();
                self.recover(now)
            }
            HealthState::Unhealthy => Verdict::None,
        }
    }

    /// When a backend that nobody asks is taken to be fit again; nothing if it is asked, or is fit.
    pub(super) fn unchecked_return(&self, check: &CheckPlan) -> Option<MonoTime> {
        let waits = check.kind == CheckKind::None && self.state == HealthState::Unhealthy && !self.has_no_way;
        waits.then(|| self.since + check.recovery_interval.unwrap_or(UNCHECKED_RETURN))
    }

    /// It is asked in another way from now on.
    pub(super) fn another_check(&mut self, now: MonoTime, check: &CheckPlan) {
        self.attempts = 0;
        if check.kind == CheckKind::None && self.state == HealthState::Unhealthy && !self.has_no_way {
            // What was found out by asking goes with the asking.
            self.clear();
            self.turn(now, HealthState::Unknown, None);
        }
    }

    /// Since when its health by anybody's word is what it is.
    pub(super) fn joined_since(&self) -> MonoTime {
        match &self.pushed {
            Some(pushed) if self.joined() != self.state => pushed.since,
            Some(_) | None => self.since,
        }
    }

    pub(super) fn clear(&mut self) {
        self.failures = 0;
        self.hard_failures = 0;
        self.attempts = 0;
        self.streak = None;
        self.first_failure = None;
        self.passive = Passive::default();
    }
}
