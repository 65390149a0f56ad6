//! One backend's health: the stream of evidence, counted against its thresholds.

use std::time::Duration;

use crate::model::{CheckPlan, DialError, HealthState, MonoTime, OutReason, ProbeError, ProbeOutcome};

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
    /// The backend is not fit, or for a worse reason than before.
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
    pub(super) state: HealthState,
    pub(super) since: MonoTime,
    /// Why it is unhealthy; meaningful only while it is.
    pub(super) reason: Option<OutReason>,
    pub(super) failures: u32,
    pub(super) successes: u32,
    pub(super) last_check: Option<MonoTime>,
    pub(super) last_error: Option<String>,
    /// What kept the last check from being made, if anything did.
    pub(super) obstacle: Option<String>,
    pub(super) latency: Option<Duration>,
    /// How long it has been unhealthy, without the present spell.
    past_downtime: Duration,
    /// The present run of failures of one reason.
    streak: Option<Streak>,
    /// When the present run of failures of any reason began.
    first_failure: Option<MonoTime>,
}

#[derive(Debug, Clone, Copy)]
struct Streak {
    reason: OutReason,
    length: u32,
    began: MonoTime,
}

impl Health {
    pub(super) const fn new(now: MonoTime) -> Self {
        Self {
            state: HealthState::Unknown,
            since: now,
            reason: None,
            failures: 0,
            successes: 0,
            last_check: None,
            last_error: None,
            obstacle: None,
            latency: None,
            past_downtime: Duration::ZERO,
            streak: None,
            first_failure: None,
        }
    }

    /// How long it has been unhealthy in all.
    pub(super) fn downtime(&self, now: MonoTime) -> Duration {
        match self.state {
            HealthState::Unhealthy => self.past_downtime + now.since(self.since),
            HealthState::Unknown | HealthState::Healthy => self.past_downtime,
        }
    }

    /// Takes one probe's answer as evidence.
    pub(super) fn observe(&mut self, now: MonoTime, outcome: &ProbeOutcome, check: &CheckPlan) -> Verdict {
        self.obstacle = None;
        match outcome {
            ProbeOutcome::Passed { latency, .. } => self.passed(now, *latency, check),
            ProbeOutcome::Failed { error, detail } => self.failed(now, *error, detail, check),
            ProbeOutcome::Inconclusive { detail, .. } => {
                self.obstacle = Some(detail.clone());
                Verdict::None
            }
        }
    }

    /// Takes a client's failed dial as evidence. It never decides alone; says whether it is worth a question.
    pub(super) fn suspect(&mut self, now: MonoTime, error: DialError) -> bool {
        if error.is_own() || self.state != HealthState::Healthy {
            return false;
        }
        self.first_failure.get_or_insert(now);
        if error == DialError::Refused && self.streak.is_none_or(|streak| streak.reason != OutReason::Dead) {
            self.streak = Some(Streak { reason: OutReason::Dead, length: 1, began: now });
        }
        true
    }

    fn passed(&mut self, now: MonoTime, latency: Duration, check: &CheckPlan) -> Verdict {
        self.last_check = Some(now);
        self.latency = Some(latency);
        self.failures = 0;
        self.streak = None;
        self.first_failure = None;
        self.successes = self.successes.saturating_add(1);
        match self.state {
            HealthState::Healthy => Verdict::None,
            HealthState::Unhealthy if self.successes < check.healthy_threshold => Verdict::None,
            HealthState::Unhealthy => {
                let spell = now.since(self.since);
                self.past_downtime += spell;
                self.turn(now, HealthState::Healthy, None);
                Verdict::Healthy { downtime: Some(spell) }
            }
            HealthState::Unknown => {
                self.turn(now, HealthState::Healthy, None);
                Verdict::Healthy { downtime: None }
            }
        }
    }

    fn failed(&mut self, now: MonoTime, error: ProbeError, detail: &str, check: &CheckPlan) -> Verdict {
        let reason = error.out_reason();
        self.last_check = Some(now);
        self.last_error = Some(detail.to_owned());
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        let first_failure = *self.first_failure.get_or_insert(now);
        let (length, began) = match self.streak {
            Some(streak) if streak.reason == reason => (streak.length.saturating_add(1), streak.began),
            Some(_) | None => (1, now),
        };
        self.streak = Some(Streak { reason, length, began });
        if self.is_enough(reason, length, check) {
            // What made it unhealthy in the first place is no evidence for the worse that came later.
            let evidence = if self.state == HealthState::Unhealthy { began } else { first_failure };
            self.turn(now, HealthState::Unhealthy, Some(reason));
            return Verdict::Unhealthy { reason, detect: now.since(evidence) };
        }
        let one_short_of_proof = reason == OutReason::Dead && length < REFUSALS_FOR_DEATH;
        let would_be_news = self.reason.is_none_or(|held| severity(reason) > severity(held));
        if one_short_of_proof && would_be_news { Verdict::AskAgain } else { Verdict::None }
    }

    /// Whether `length` failures in a row for `reason` change what we hold of the backend.
    fn is_enough(&self, reason: OutReason, length: u32, check: &CheckPlan) -> bool {
        let proof = reason == OutReason::Dead && length >= REFUSALS_FOR_DEATH;
        match self.state {
            HealthState::Unknown => true,
            HealthState::Healthy => proof || self.failures >= check.unhealthy_threshold,
            HealthState::Unhealthy => {
                let worse = self.reason.is_some_and(|held| severity(reason) > severity(held));
                worse && (proof || length >= check.unhealthy_threshold)
            }
        }
    }

    /// Changes the state; a reason that only gets worse does not restart the spell.
    fn turn(&mut self, now: MonoTime, state: HealthState, reason: Option<OutReason>) {
        if self.state != state {
            self.since = now;
        }
        self.state = state;
        self.reason = reason;
    }
}

/// How bad a reason is: worse news is told even of a backend that is out already.
const fn severity(reason: OutReason) -> u8 {
    match reason {
        OutReason::FailedBack | OutReason::Drained | OutReason::Manual => 0,
        OutReason::Slow => 1,
        OutReason::CheckFailed => 2,
        OutReason::Unreachable => 3,
        OutReason::Dead => 4,
    }
}
