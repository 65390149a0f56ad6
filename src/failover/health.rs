//! One backend's health: the stream of evidence, counted against its thresholds.

use std::time::Duration;

use crate::model::{CheckError, CheckPlan, DialError, HealthState, MonoTime, OutReason, ProbeError, ProbeOutcome};

use super::latency::{Latency, is_in_time, is_quick};
use super::passive::Passive;
use super::pushed::Pushed;

/// So many refusals in a row, the last of them a probe's, are proof of death.
pub const REFUSALS_FOR_DEATH: u32 = 2;

/// What one piece of evidence amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing that anybody need act on.
    None,
    /// Not enough to decide, but enough to ask again at once.
    AskAgain,
    /// The backend is fit.
    Healthy {
        /// How long it was not; nothing if it had no verdict before.
        downtime: Option<Duration>,
    },
    /// The backend is not fit, or for another reason than before.
    Unhealthy {
        /// Why.
        reason: OutReason,
        /// From the first evidence for this verdict to now.
        detect: Duration,
    },
}

/// A backend's health with the counts behind it.
#[derive(Debug, Clone)]
pub(super) struct Health {
    /// What our own evidence says.
    pub(super) state: HealthState,
    pub(super) since: MonoTime,
    /// Why it is unhealthy; meaningful only while it is.
    pub(super) reason: Option<OutReason>,
    /// Probes that failed in a row, slow answers included.
    pub(super) failures: u32,
    /// Answers in time in a row.
    pub(super) successes: u32,
    pub(super) last_check: Option<MonoTime>,
    pub(super) last_error: Option<String>,
    /// When that was seen, or heard.
    pub(super) last_error_at: Option<MonoTime>,
    /// What kept the last check from being made, if anything did.
    pub(super) obstacle: Option<String>,
    pub(super) latency: Latency,
    pub(super) passive: Passive,
    /// What somebody outside says. It has lapsed when its time is up, and is taken out then.
    pub(super) pushed: Option<Pushed>,
    /// Probes that failed in a row while it was unhealthy.
    pub(super) attempts: u32,
    /// Those of the failures that were no slow answers.
    pub(super) hard_failures: u32,
    /// Answers in a row, however slow.
    pub(super) answers: u32,
    /// Its next conclusive answer decides alone, as the first one did.
    pub(super) forgiven: bool,
    /// Whether the tunnel that leads to it is not open: whatever anybody says, it is not healthy.
    pub(super) has_no_way: bool,
    /// How long it has been unhealthy by anybody's word, without the present spell, and since when it is.
    pub(super) past_downtime: Duration,
    out_since: Option<MonoTime>,
    /// The present run of failures of one reason.
    pub(super) streak: Option<Streak>,
    /// When the present run of failures of any reason began.
    pub(super) first_failure: Option<MonoTime>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Streak {
    reason: OutReason,
    length: u32,
    began: MonoTime,
}

impl Health {
    pub(super) fn new(now: MonoTime) -> Self {
        Self {
            state: HealthState::Unknown,
            since: now,
            reason: None,
            failures: 0,
            successes: 0,
            last_check: None,
            last_error: None,
            last_error_at: None,
            obstacle: None,
            latency: Latency::default(),
            passive: Passive::default(),
            pushed: None,
            attempts: 0,
            hard_failures: 0,
            answers: 0,
            forgiven: false,
            has_no_way: false,
            past_downtime: Duration::ZERO,
            out_since: None,
            streak: None,
            first_failure: None,
        }
    }

    /// How long it has been unhealthy in all, by anybody's word.
    pub(super) fn downtime(&self, now: MonoTime) -> Duration {
        self.past_downtime + self.spell(now)
    }

    /// What somebody outside says.
    pub(super) fn said(&self) -> HealthState {
        self.pushed.as_ref().map_or(HealthState::Unknown, |pushed| pushed.verdict.health)
    }

    /// Its health by anybody's word.
    pub(super) fn joined(&self) -> HealthState {
        if self.said() == HealthState::Unhealthy { HealthState::Unhealthy } else { self.state }
    }

    /// How long the present spell of being unhealthy has lasted.
    pub(super) fn spell(&self, now: MonoTime) -> Duration {
        self.out_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Whether it is not fit, and not just slow.
    pub(super) fn is_out(&self) -> bool {
        match self.said() {
            HealthState::Unhealthy => true,
            HealthState::Unknown | HealthState::Healthy => self.state == HealthState::Unhealthy && !self.is_slow(),
        }
    }

    /// Whether it answers, and takes too long.
    pub(super) fn is_slow(&self) -> bool {
        self.reason == Some(OutReason::Slow)
    }

    /// Failures in a row as people count them: of probes, and of those who reported them.
    pub(super) const fn consecutive_failures(&self) -> u32 {
        self.failures.saturating_add(self.passive.failures())
    }

    /// Takes one probe's answer as evidence.
    pub(super) fn observe(&mut self, now: MonoTime, outcome: &ProbeOutcome, check: &CheckPlan) -> Verdict {
        if self.has_no_way {
            return Verdict::None;
        }
        self.obstacle = None;
        let verdict = match outcome {
            ProbeOutcome::Passed { latency, .. } => self.answered(now, *latency, check),
            ProbeOutcome::Failed { error, detail } => self.failed(now, *error, detail.clone(), check),
            ProbeOutcome::Inconclusive { detail, .. } => {
                self.obstacle = Some(detail.clone());
                return Verdict::None;
            }
        };
        self.forgiven = false;
        verdict
    }

    /// Takes a client's failed dial as the first sign of a failure. Says whether it is worth a question.
    pub(super) fn suspect(&mut self, now: MonoTime, error: DialError) -> bool {
        if error.is_own() || self.state != HealthState::Healthy {
            return false;
        }
        self.first_failure.get_or_insert(now);
        let is_proof = ProbeError::Dial(error).out_reason() == OutReason::Dead;
        if is_proof && self.streak.is_none_or(|streak| streak.reason != OutReason::Dead) {
            self.streak = Some(Streak { reason: OutReason::Dead, length: 1, began: now });
        }
        true
    }

    fn answered(&mut self, now: MonoTime, took: Duration, check: &CheckPlan) -> Verdict {
        self.last_check = Some(now);
        self.latency.measure(took);
        self.attempts = 0;
        self.answers = self.answers.saturating_add(1);
        self.passive.lower();
        if !is_in_time(took, check) {
            return self.was_slow(now, took, check);
        }
        self.failures = 0;
        self.hard_failures = 0;
        self.streak = None;
        self.first_failure = None;
        if self.is_slow() && !self.forgiven && !is_quick(took, check) {
            // Neither slow nor quick: the spell goes on.
            self.successes = 0;
            return Verdict::None;
        }
        self.successes = self.successes.saturating_add(1);
        match self.state {
            HealthState::Healthy => Verdict::None,
            HealthState::Unhealthy if self.may_return(now, check) => self.recover(now),
            HealthState::Unhealthy => Verdict::None,
            HealthState::Unknown => {
                self.turn(now, HealthState::Healthy, None);
                Verdict::Healthy { downtime: None }
            }
        }
    }

    pub(super) fn may_return(&self, now: MonoTime, check: &CheckPlan) -> bool {
        let held = self.is_slow() && self.latency.is_held(now, check);
        let earned = self.successes >= check.healthy_threshold && !held && !self.passive.is_enough(check);
        earned || self.forgiven
    }

    pub(super) fn recover(&mut self, now: MonoTime) -> Verdict {
        let spell = self.spell(now);
        self.turn(now, HealthState::Healthy, None);
        Verdict::Healthy { downtime: Some(spell) }
    }

    /// It answered, and took too long.
    fn was_slow(&mut self, now: MonoTime, took: Duration, check: &CheckPlan) -> Verdict {
        let limit = check.max_latency.unwrap_or(took);
        let detail = format!("answered in {took:.1?}, and may take {limit:.1?}");
        let worse = self.state == HealthState::Unhealthy && !self.is_slow();
        let answers = self.answers >= check.healthy_threshold && !self.passive.is_enough(check);
        if self.state == HealthState::Unknown {
            // It answers, so it is there; that it is slow waits for its threshold.
            self.turn(now, HealthState::Healthy, None);
            self.fail(now, OutReason::Slow, detail);
            return Verdict::Healthy { downtime: None };
        }
        let first_failure = self.first_failure.unwrap_or(now);
        if worse && (answers || self.forgiven) {
            self.fail(now, OutReason::Slow, detail);
            self.latency.slow_since = now;
            self.turn(now, HealthState::Unhealthy, Some(OutReason::Slow));
            return Verdict::Unhealthy { reason: OutReason::Slow, detect: now.since(first_failure) };
        }
        self.failed(now, ProbeError::Check(CheckError::Slow), detail, check)
    }

    fn failed(&mut self, now: MonoTime, error: ProbeError, detail: String, check: &CheckPlan) -> Verdict {
        let reason = error.out_reason();
        self.last_check = Some(now);
        let Streak { length, began, .. } = self.fail(now, reason, detail);
        if reason != OutReason::Slow {
            self.answers = 0;
            if self.state == HealthState::Unhealthy && !self.is_slow() {
                self.attempts = self.attempts.saturating_add(1);
            }
        }
        if let Some(reason) = self.enough_for(reason, length, check) {
            // What made it unhealthy in the first place is no evidence for the worse that came later.
            let first_failure = self.first_failure.unwrap_or(now);
            let evidence = if self.state == HealthState::Unhealthy { began } else { first_failure };
            if reason == OutReason::Slow {
                self.latency.slow_since = now;
            }
            self.turn(now, HealthState::Unhealthy, Some(reason));
            return Verdict::Unhealthy { reason, detect: now.since(evidence) };
        }
        // As many refusals as are proof would have been enough, unless they are no news.
        let would_be_news = self.reason.is_none_or(|held| severity(reason) > severity(held));
        if reason == OutReason::Dead && would_be_news { Verdict::AskAgain } else { Verdict::None }
    }

    /// Keeps what was said against it last.
    pub(super) fn note_error(&mut self, now: MonoTime, detail: String) {
        (self.last_error, self.last_error_at) = (Some(detail), Some(now));
    }

    /// Counts one failure.
    pub(super) fn fail(&mut self, now: MonoTime, reason: OutReason, detail: String) -> Streak {
        self.note_error(now, detail);
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        self.hard_failures = self.hard_failures.saturating_add(u32::from(reason != OutReason::Slow));
        self.first_failure.get_or_insert(now);
        let (length, began) = match self.streak {
            Some(streak) if streak.reason == reason => (streak.length.saturating_add(1), streak.began),
            Some(_) | None => (1, now),
        };
        *self.streak.insert(Streak { reason, length, began })
    }

    /// What we hold of the backend after `length` failures in a row for `reason`, if that is news.
    fn enough_for(&self, reason: OutReason, length: u32, check: &CheckPlan) -> Option<OutReason> {
        let proof = reason == OutReason::Dead && length >= REFUSALS_FOR_DEATH;
        let enough = |count: u32| count >= check.unhealthy_threshold;
        match self.state {
            HealthState::Unknown => Some(reason),
            HealthState::Healthy if proof => Some(reason),
            HealthState::Healthy if reason != OutReason::Slow && enough(self.hard_failures) => Some(reason),
            // Some of the answers did come: too late is all that is held against it.
            HealthState::Healthy => enough(self.failures).then_some(OutReason::Slow),
            HealthState::Unhealthy => {
                let worse = self.reason.is_some_and(|held| severity(reason) > severity(held));
                (worse && (proof || enough(length))).then_some(reason)
            }
        }
    }

    /// Takes one word that is proof by itself, if it is news.
    pub(super) fn prove(&mut self, now: MonoTime, reason: OutReason, detail: String) -> Verdict {
        let is_worse = self.reason.is_none_or(|held| severity(reason) > severity(held));
        if self.state == HealthState::Unhealthy && !is_worse {
            return Verdict::None;
        }
        let began = self.first_failure.unwrap_or(now);
        self.fail(now, reason, detail);
        self.answers = 0;
        self.turn(now, HealthState::Unhealthy, Some(reason));
        Verdict::Unhealthy { reason, detect: now.since(began) }
    }

    /// What is known of it is known no more: the way to it was closed by order.
    pub(super) fn forget(&mut self, now: MonoTime) {
        self.clear();
        (self.successes, self.answers, self.forgiven) = (0, 0, false);
        self.turn(now, HealthState::Unknown, None);
    }

    /// Changes the state; a reason that only changes does not restart the spell.
    pub(super) fn turn(&mut self, now: MonoTime, state: HealthState, reason: Option<OutReason>) {
        if self.state != state {
            self.since = now;
            self.attempts = 0;
        }
        self.state = state;
        self.reason = reason;
        self.settle(now);
    }

    /// Keeps the downtime true after any change.
    pub(super) fn settle(&mut self, now: MonoTime) {
        if self.joined() == HealthState::Unhealthy {
            self.out_since.get_or_insert(now);
        } else if let Some(since) = self.out_since.take() {
            self.past_downtime += now.since(since);
        }
    }
}

/// How bad a reason is: worse news is told even of a backend that is out already.
pub(super) const fn severity(reason: OutReason) -> u8 {
    match reason {
        OutReason::FailedBack | OutReason::Drained | OutReason::Manual | OutReason::Demoted | OutReason::Lagging => 0,
        OutReason::Slow => 1,
        OutReason::CheckFailed => 2,
        OutReason::Unreachable => 3,
        OutReason::Dead => 4,
    }
}
