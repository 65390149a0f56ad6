//! One tunnel's machine: when its program is started, when it is stopped, and what is waited for in between. It does not know
//! of the backend behind it but by what is told: whether that is healthy, and how its checks end.
//!
//! | phase | what ends it |
//! |---|---|
//! | stopped by an operator | an order |
//! | waiting for its next try | time, an order, a network that has changed |
//! | starting | the way is open; the run ends; no check has come through in time |
//! | open: it can be dialled, and its backend is asked | the backend is healthy; the run ends; checks fail |
//! | verified: its backend is healthy | it is not any more; the run ends |
//! | stopping | the run has ended, or has not been heard of for longer than it may take |
//!
//! While it is wanted and not verified it is connecting, or reconnecting if it ever was; or it has failed, which is for its
//! [`Tries`] to say: at once if its program cannot be started.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{MonoTime, RunEnd, RunId, TunnelCause, TunnelFigures, TunnelNews, TunnelPlan, TunnelState, spoken};

use super::beyond::Checks;
use super::phase::{Act, Closed, Phase, Step, Then};
use super::tries::{Tries, cause_of};

/// Once its program was killed, the end of a run is told at once: if it is not, the hands have lost it, and whoever starts a
/// newer run has them look for it.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// A tunnel.
#[derive(Debug, Clone)]
pub(super) struct Tunnel {
    pub(super) plan: Arc<TunnelPlan>,
    pub(super) phase: Phase,
    /// The present run, or the last.
    run: RunId,
    pid: Option<u32>,
    starts: u64,
    tries: Tries,
    /// Whether checks have ever come through it.
    was_verified: bool,
    /// Until when its backend may go without a verdict because of it.
    verdict_by: Option<MonoTime>,
    /// How the checks through it end.
    pub(super) checks: Checks,
    /// Why it fares as it does, in one word and in many.
    pub(super) cause: TunnelCause,
    pub(super) words: String,
    /// How it fares, since when, and whether people were told.
    pub(super) state: TunnelState,
    pub(super) since: MonoTime,
}

impl Tunnel {
    /// One that is started at once; `seed` spreads its tries in time.
    pub(super) fn new(now: MonoTime, plan: Arc<TunnelPlan>, seed: u64) -> Self {
        Self {
            plan,
            phase: Phase::Waiting { until: now },
            run: RunId::default(),
            pid: None,
            starts: 0,
            tries: Tries::new(seed),
            was_verified: false,
            verdict_by: None,
            checks: Checks::default(),
            cause: TunnelCause::Planned,
            words: String::new(),
            state: TunnelState::Connecting,
            since: now,
        }
    }

    /// Has its first start wait for up to `most`.
    pub(super) fn spread(&mut self, now: MonoTime, most: Duration) {
        if let Phase::Waiting { until } = &mut self.phase {
            *until = self.tries.within(now, most);
        }
    }

    pub(super) const fn run(&self) -> RunId {
        self.run
    }

    pub(super) const fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Whether it was ever started.
    pub(super) const fn has_begun(&self) -> bool {
        self.starts > 0
    }

    /// How it fares by its phase.
    pub(super) const fn fares(&self) -> TunnelState {
        match self.phase {
            Phase::Stopped | Phase::Stopping { then: Then::Rest, .. } => TunnelState::Disconnected,
            Phase::Verified { .. } => TunnelState::Connected,
            Phase::Waiting { .. } | Phase::Starting { .. } | Phase::Open { .. } | Phase::Stopping { .. } => {
                match (self.tries.have_failed(), self.was_verified) {
                    (true, _) => TunnelState::Failed,
                    (false, true) => TunnelState::Reconnecting,
                    (false, false) => TunnelState::Connecting,
                }
            }
        }
    }

    pub(super) const fn figures(&self) -> TunnelFigures {
        TunnelFigures { state: self.state, restarts: self.restarts(), up_since: self.phase.up_since() }
    }

    pub(super) const fn restarts(&self) -> u64 {
        self.starts.saturating_sub(1)
    }

    /// When it wants to be driven though nothing happens.
    pub(super) fn deadline(&self) -> Option<MonoTime> {
        self.phase.deadline().into_iter().chain(self.verdict_by).min()
    }

    /// Does what is due by now.
    pub(super) fn pass_time(&mut self, now: MonoTime) -> Step {
        let mut step = match self.phase {
            Phase::Waiting { until } if until <= now => self.begin(now),
            Phase::Stopping { by, then } if by <= now => self.ended(now, then),
            Phase::Starting { ready_by } | Phase::Open { ready_by: Some(ready_by) } if ready_by <= now => {
                let time = spoken(self.plan.ready_timeout);
                let seen = if self.phase.is_open() { "no check came through it" } else { "it was not open" };
                let last = self.checks.last.as_ref().map_or_else(String::new, |last| format!(", the last: {last}"));
                self.give_up_run(now, TunnelCause::NotReady, format!("{seen} within {time}{last}"))
            }
            Phase::Stopped
            | Phase::Waiting { .. }
            | Phase::Starting { .. }
            | Phase::Open { .. }
            | Phase::Verified { .. }
            | Phase::Stopping { .. } => Step::default(),
        };
        if self.verdict_by.is_some_and(|by| by <= now) {
            self.verdict_by = None;
            step.closed = step.closed.or_else(|| Some(Closed::Lost(self.words.clone())));
        }
        step
    }

    /// Takes in what is told of its present run. `unchecked` is whether nobody asks its backend.
    pub(super) fn told(&mut self, now: MonoTime, news: &TunnelNews, unchecked: bool) -> Step {
        match (news, self.phase) {
            (_, Phase::Stopped | Phase::Waiting { .. }) => Step::default(),
            (TunnelNews::Started { pid }, _) => {
                self.pid = Some(*pid);
                self.has_begun_at_last();
                Step::default()
            }
            (TunnelNews::Open, Phase::Starting { ready_by }) => {
                self.phase = Phase::Open { ready_by: (!unchecked).then_some(ready_by) };
                self.verdict_by = None;
                self.has_begun_at_last();
                Step::default()
            }
            (TunnelNews::Open, Phase::Open { .. } | Phase::Verified { .. } | Phase::Stopping { .. }) => Step::default(),
            (TunnelNews::Fatal { line }, Phase::Starting { .. } | Phase::Open { .. } | Phase::Verified { .. }) => {
                self.give_up_run(now, TunnelCause::Fatal, line.clone())
            }
            (TunnelNews::Fatal { line }, Phase::Stopping { by, then }) => {
                // What was said before the end counts, unless a person has spoken since.
                if let Then::Start(_) = then
                    && !matches!(self.cause, TunnelCause::Ordered | TunnelCause::Replaced)
                {
                    self.because(TunnelCause::Fatal, line.clone());
                    self.phase = Phase::Stopping { by, then: Then::Start(self.tries.hopeless(now)) };
                }
                Step::default()
            }
            (TunnelNews::Lost { detail }, Phase::Starting { .. } | Phase::Open { .. } | Phase::Verified { .. }) => {
                // Its end is told once there is nothing left of it, which takes a while, and clients have none.
                let words = if detail.is_empty() { "its program has ended".to_owned() } else { detail.clone() };
                self.pid = None;
                Step { act: None, ..self.give_up_run(now, TunnelCause::Exited, words) }
            }
            (TunnelNews::Lost { .. }, Phase::Stopping { .. }) => Step::default(),
            (TunnelNews::Ended { how, detail }, Phase::Stopping { then, .. }) => {
                // Of one that ended by itself more is known now.
                if self.cause == TunnelCause::Exited && !detail.is_empty() {
                    self.because(cause_of(*how), detail.clone());
                }
                self.ended(now, then)
            }
            (
                TunnelNews::Ended { how, detail },
                Phase::Starting { .. } | Phase::Open { .. } | Phase::Verified { .. },
            ) => self.ended_unasked(now, *how, detail),
        }
    }

    /// Its program runs, whatever comes of that: one that could not be started has not failed any more.
    fn has_begun_at_last(&mut self) {
        // What has been found out since is not taken back by that.
        if self.tries.can_begin() && self.cause == TunnelCause::NotStarted {
            self.because(TunnelCause::Planned, BEGUN.to_owned());
        }
    }

    /// The run that was being stopped has ended, or is taken to have.
    fn ended(&mut self, now: MonoTime, then: Then) -> Step {
        self.pid = None;
        match then {
            Then::Rest => {
                self.phase = Phase::Stopped;
                Step::default()
            }
            Then::Start(at) => {
                let until = self.tries.no_sooner(at);
                self.phase = Phase::Waiting { until };
                if until <= now { self.begin(now) } else { Step::default() }
            }
        }
    }

    fn ended_unasked(&mut self, now: MonoTime, how: RunEnd, detail: &str) -> Step {
        let cause = cause_of(how);
        let was_open = self.phase.is_open();
        let words = if detail.is_empty() { format!("its program has ended ({how})") } else { detail.to_owned() };
        self.because(cause, words.clone());
        let until = self.retry_at(now, cause);
        (self.phase, self.pid) = (Phase::Waiting { until }, None);
        // What we lack ourselves says nothing of what was never open.
        let is_proof = cause != TunnelCause::Local || was_open;
        if is_proof {
            self.verdict_by = None;
        }
        Step { act: None, closed: is_proof.then_some(Closed::Lost(words)) }
    }

    /// Begins the next run.
    fn begin(&mut self, now: MonoTime) -> Step {
        if !self.has_begun() {
            self.verdict_by = Some(now + self.plan.ready_timeout);
        }
        self.run = self.run.next();
        self.starts += 1;
        self.tries.begin(now);
        self.pid = None;
        self.checks = self.checks.anew();
        self.phase = Phase::Starting { ready_by: now + self.plan.ready_timeout };
        Step { act: Some(Act::Start), closed: None }
    }

    /// Has the present run stopped, and another one started when it is time for that.
    pub(super) fn give_up_run(&mut self, now: MonoTime, cause: TunnelCause, words: String) -> Step {
        self.because(cause, words.clone());
        let at = if cause == TunnelCause::TargetDown { now } else { self.retry_at(now, cause) };
        self.verdict_by = None;
        self.phase = Phase::Stopping { by: self.stopped_by(now), then: Then::Start(at) };
        Step { act: Some(Act::Stop), closed: Some(Closed::Lost(words)) }
    }

    /// An operator does not want it any more.
    pub(super) fn stop(&mut self, now: MonoTime) -> Step {
        let runs = self.phase.is_wanted_up();
        self.tries.forget();
        (self.was_verified, self.verdict_by) = (false, None);
        self.because(TunnelCause::Ordered, STOPPED.to_owned());
        self.phase = match self.phase {
            Phase::Stopping { by, .. } => Phase::Stopping { by, then: Then::Rest },
            Phase::Stopped | Phase::Waiting { .. } => Phase::Stopped,
            Phase::Starting { .. } | Phase::Open { .. } | Phase::Verified { .. } => {
                Phase::Stopping { by: self.stopped_by(now), then: Then::Rest }
            }
        };
        Step { act: runs.then_some(Act::Stop), closed: Some(Closed::Ordered(STOPPED)) }
    }

    /// The last process was told not to start it, and nobody is told again.
    pub(super) fn stay_stopped(&mut self) {
        self.phase = Phase::Stopped;
        self.because(TunnelCause::Ordered, STOPPED.to_owned());
        self.state = TunnelState::Disconnected;
    }

    /// An operator, or another plan, wants it started, whatever became of it before, and anew if it runs.
    pub(super) fn start_anew(&mut self, now: MonoTime, cause: TunnelCause, words: &'static str) -> Step {
        let (runs, was_stopped) = (self.phase.is_wanted_up(), self.phase.is_stopped());
        self.tries.forget();
        self.because(cause, words.to_owned());
        if was_stopped {
            self.verdict_by = Some(now + self.plan.ready_timeout);
        }
        self.phase = match self.phase {
            Phase::Stopping { by, .. } => Phase::Stopping { by, then: Then::Start(now) },
            Phase::Stopped | Phase::Waiting { .. } => Phase::Waiting { until: self.tries.no_sooner(now) },
            Phase::Starting { .. } | Phase::Open { .. } | Phase::Verified { .. } => {
                self.verdict_by = Some(now + self.plan.stop_grace + self.plan.ready_timeout);
                Phase::Stopping { by: self.stopped_by(now), then: Then::Start(now) }
            }
        };
        Step { act: runs.then_some(Act::Stop), closed: runs.then_some(Closed::Ordered(words)) }
    }

    /// Has another plan from now on.
    pub(super) fn replan(&mut self, now: MonoTime, plan: &Arc<TunnelPlan>) -> Step {
        if self.plan == *plan {
            return Step::default();
        }
        let goes_on = self.phase.is_wanted_up() && plan.runs_as(&self.plan);
        self.plan = Arc::clone(plan);
        if goes_on {
            return Step::default();
        }
        self.was_verified = false;
        if self.phase.is_stopped() {
            return Step::default();
        }
        self.start_anew(now, TunnelCause::Replaced, "its plan is another")
    }

    /// The network has changed, or the machine was asleep: whoever waits need not wait longer.
    pub(super) fn nudge(&mut self, now: MonoTime) {
        let Some(at) = self.phase.next_retry() else { return };
        if let Some(soon) = self.tries.nudge(now) {
            self.phase.try_at(soon.min(at));
        }
    }

    /// A check has come through, in this run.
    pub(super) const fn is_passed(&mut self) {
        if let Phase::Open { ready_by } = &mut self.phase {
            *ready_by = None;
        }
    }

    /// What it leads to is healthy, or is not: then for this `cause` and in these words.
    pub(super) fn verify(&mut self, now: MonoTime, is_healthy: bool, cause: TunnelCause, words: &str) {
        if is_healthy && self.phase.is_open() && !self.phase.is_verified() {
            self.phase = Phase::Verified { since: now };
            self.was_verified = true;
            self.tries.are_good();
            self.because(TunnelCause::Verified, String::new());
        } else if self.phase.is_verified() && !is_healthy {
            self.leave_verified(now);
            self.phase = Phase::Open { ready_by: None };
            self.because(cause, words.to_owned());
        }
    }

    /// What it leads to was silent behind all of its siblings, and is not any more: what was counted meanwhile was no fault of it.
    pub(super) fn is_acquitted(&mut self, now: MonoTime) {
        self.checks = self.checks.anew();
        if let Phase::Open { ready_by: Some(by) } = &mut self.phase {
            *by = (*by).max(now + self.plan.ready_timeout);
        }
    }

    /// Its target is silent behind all others too: it has more time, since another run would not help.
    pub(super) fn has_time(&mut self, now: MonoTime) {
        if let Phase::Open { ready_by: Some(by) } = &mut self.phase
            && *by <= now
        {
            *by = now + self.plan.ready_timeout;
        }
    }

    /// We did not run for so long: it has so much more time, and what was counted against it is void.
    pub(super) fn excuse(&mut self, lasted: Duration) {
        self.checks = self.checks.anew();
        self.phase.excuse(lasted);
        self.verdict_by = self.verdict_by.map(|by| by + lasted);
    }

    pub(super) fn because(&mut self, cause: TunnelCause, words: String) {
        (self.cause, self.words) = (cause, words);
    }

    /// Tries count from the start again if checks have come through for long enough.
    fn leave_verified(&mut self, now: MonoTime) {
        if self.phase.up_since().is_some_and(|since| now.since(since) >= self.plan.retry_reset) {
            self.tries.recover();
        }
    }

    /// When it is tried again after it failed for this `cause`. Counts the try.
    fn retry_at(&mut self, now: MonoTime, cause: TunnelCause) -> MonoTime {
        self.leave_verified(now);
        self.tries.after(now, cause, &self.plan)
    }

    /// When the end of a run that is stopped now must have been told.
    fn stopped_by(&self, now: MonoTime) -> MonoTime {
        now + self.plan.stop_grace + LOST_AFTER
    }
}

/// What is known of a tunnel whose program could not be started, and now was.
const BEGUN: &str = "its program could be started this time, and no check has come through it yet";

/// Why a tunnel is not up that an operator has stopped.
pub(super) const STOPPED: &str = "its tunnel was stopped by an operator";
