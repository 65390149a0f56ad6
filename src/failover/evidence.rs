//! What evidence on its backends does to a pool.

use std::time::Duration;

use crate::model::{
    AdminState, Advice, BackendId, CheckPlan, HealthState, MonoTime, OutReason, ProbeOutcome, PushedHealth,
};

use super::change::Change;
use super::health::{Health, Verdict};
use super::member::Member;
use super::passive::Hearsay;
use super::pool::{Effects, Pool, Return};
use super::pushed::Pushed;
use super::recovery::{Pace, rest};
use super::watched::pace_in_doubt;

/// A question that brought no evidence is put again after this time, or sooner if the interval says so.
const INCONCLUSIVE_RETRY: Duration = Duration::from_millis(100);

/// When to ask a member again, and whether the last answer changed anything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    pub(super) at_once: bool,
    /// Nothing if it is asked no more.
    pub(super) pace: Option<Pace>,
    pub(super) decided: bool,
}

impl Pool {
    /// Takes a probe's answer as evidence on member `id`, and says whether and how soon to ask again.
    pub(super) fn observe(
        &mut self,
        now: MonoTime,
        id: BackendId,
        outcome: &ProbeOutcome,
        effects: &mut Effects,
    ) -> Option<Next> {
        let empty = self.is_empty_seat();
        let advised = match outcome {
            ProbeOutcome::Passed { advice, .. } => self.advise(now, id, *advice, effects),
            ProbeOutcome::Failed { .. } | ProbeOutcome::Inconclusive { .. } => false,
        };
        let judged = self.accepted(now, id, outcome);
        let outcome = judged.as_ref().unwrap_or(outcome);
        let may_serve = self.may_serve(self.member(id)?);
        let member = self.member_mut(id)?;
        let verdict = member.health.observe(now, outcome, &member.plan.check);
        let silent = self.checked(now, id, outcome, &verdict);
        let member = self.member_mut(id)?;
        if let Some(words) = &silent {
            let own = member.health.last_error.clone().unwrap_or_default();
            member.health.note_error(now, format!("{words}: {own}"));
        }
        let passed = matches!(outcome, ProbeOutcome::Passed { .. });
        // A slow one is not brought back by answering at once, however often.
        let is_out = member.health.state == HealthState::Unhealthy && !member.health.is_slow();
        let is_server = member.server.is_some();
        let is_new_way = member.tunnel.as_ref().is_some_and(|tunnel| !tunnel.phase.is_verified());
        let nearly_back = (is_server || is_new_way || (empty && may_serve)) && passed && is_out;
        let wanted = nearly_back || verdict == Verdict::AskAgain;
        let decided = self.judge(now, id, &verdict, effects);
        if let Some(words) = &silent {
            self.falls_silent(now, id, words, effects);
        }
        self.follow_check(now, id, outcome, effects);
        // Whether a slow one is passed over depends on how fast the others are.
        let member = self.member(id)?;
        let decided = decided || advised || self.has_slow || is_server || member.tunnel.is_some();
        let pace = self.pace(member);
        let pace = match outcome {
            ProbeOutcome::Inconclusive { .. } => pace.map(|pace| Pace::every(pace.interval.min(INCONCLUSIVE_RETRY))),
            ProbeOutcome::Passed { .. } | ProbeOutcome::Failed { .. } => pace,
        };
        Some(Next { at_once: wanted && pace.is_some(), pace, decided })
    }

    /// Takes in what was heard of member `id`. Says whether that decided anything. Of a cluster's server only words are
    /// taken in: what a session meets has it asked, and is no evidence.
    pub(super) fn hear(&mut self, now: MonoTime, id: BackendId, hearsay: Hearsay<'_>, effects: &mut Effects) -> bool {
        let is_word = matches!(hearsay, Hearsay::Reported(_));
        let Some(member) = self.member_mut(id).filter(|member| is_word || member.server.is_none()) else {
            return false;
        };
        let verdict = member.health.hear(now, hearsay, &member.plan.check);
        self.judge(now, id, &verdict, effects)
    }

    /// Takes in a verdict from outside on member `id`, or forgets it.
    pub(super) fn push(&mut self, now: MonoTime, id: BackendId, pushed: Option<PushedHealth>, effects: &mut Effects) {
        self.said(now, id, effects, |health, check| health.push(now, pushed, check));
    }

    /// Forgets what is held against member `id`.
    pub(super) fn reset(&mut self, now: MonoTime, id: BackendId, effects: &mut Effects) {
        self.said(now, id, effects, |health, check| health.reset(now, check));
    }

    /// Acts on what becomes of member `id` by somebody's word.
    fn said(
        &mut self,
        now: MonoTime,
        id: BackendId,
        effects: &mut Effects,
        word: impl FnOnce(&mut Health, &CheckPlan) -> Verdict,
    ) {
        let Some(member) = self.member_mut(id) else { return };
        let (was_out, own, spell) = (member.health.is_out(), member.health.state, member.health.spell(now));
        let verdict = word(&mut member.health, &member.plan.check);
        member.settle(now);
        self.judge(now, id, &verdict, effects);
        let Some(member) = self.member(id) else { return };
        if member.health.state != own {
            return;
        }
        match (was_out, member.health.is_out()) {
            (false, true) => {
                let detail = member.health.pushed.as_ref().map(Pushed::detail).unwrap_or_default();
                self.is_out(id, OutReason::CheckFailed, detail, Duration::ZERO, effects);
            }
            (true, false) => {
                effects.returns.push(Return::Healthy(id));
                if own == HealthState::Healthy {
                    let backend = member.plan.name.clone();
                    effects.changes.push(Change::BackendHealthy { backend, downtime: Some(spell) });
                }
            }
            (true, true) | (false, false) => {}
        }
    }

    /// Acts on the verdict that a piece of evidence brought for member `id`. Says whether there was one.
    pub(super) fn judge(&mut self, now: MonoTime, id: BackendId, verdict: &Verdict, effects: &mut Effects) -> bool {
        let Some(member) = self.member_mut(id) else { return false };
        match *verdict {
            Verdict::None | Verdict::AskAgain => return false,
            Verdict::Healthy { downtime } => {
                member.settle(now);
                // While outsiders say that it is not fit, good news of our own changes nothing for anybody.
                if !member.health.is_out() {
                    let backend = member.plan.name.clone();
                    effects.changes.push(Change::BackendHealthy { backend, downtime });
                    effects.returns.push(Return::Healthy(id));
                }
            }
            Verdict::Unhealthy { reason, detect } => {
                member.settle(now);
                let detail = member.health.last_error.clone().unwrap_or_default();
                self.is_out(id, reason, detail, detect, effects);
            }
        }
        true
    }

    /// Member `id` is not fit, for `reason`.
    fn is_out(&mut self, id: BackendId, reason: OutReason, detail: String, detect: Duration, effects: &mut Effects) {
        let Some(member) = self.member(id) else { return };
        let backend = member.plan.name.clone();
        let priority = member.tier;
        let slow = reason == OutReason::Slow;
        let high = member.plan.check.max_latency.zip(member.health.latency.mean()).filter(|_| slow);
        let is_out = member.health.is_out();
        self.lose(priority, reason, detect, &detail);
        effects.changes.push(Change::BackendUnhealthy { backend: backend.clone(), reason, detail, detect });
        if slow && !is_out {
            // It was out for worse before, if it was out at all.
            effects.returns.push(Return::Healthy(id));
        }
        effects.changes.extend(high.map(|(limit, latency)| Change::LatencyHigh { backend, latency, limit }));
        self.evict(id, reason, effects);
    }

    /// Takes in what the agent of member `id` asks for. Says whether that changed anything.
    fn advise(&mut self, now: MonoTime, id: BackendId, advice: Advice, effects: &mut Effects) -> bool {
        let Some(member) = self.member_mut(id) else { return false };
        let (was, from, ordered) = (member.advised, member.admin_state(), member.ordered());
        member.advised.take(advice);
        if member.advised == was {
            return false;
        }
        let (to, backend) = (member.admin_state(), member.plan.name.clone());
        if from != to {
            effects.changes.push(Change::BackendAdminState { backend, from, to });
        }
        self.was_ordered(now, id, ordered, effects);
        true
    }

    /// Acts on an admin state of member `id` that was `before` until now, by whoever's word.
    pub(super) fn was_ordered(&mut self, now: MonoTime, id: BackendId, before: AdminState, effects: &mut Effects) {
        let Some(member) = self.member_mut(id) else { return };
        member.settle(now);
        match (before, member.ordered()) {
            (AdminState::Ready, AdminState::Drain | AdminState::Maintenance) => {
                let (priority, backend, to) = (member.tier, member.plan.name.clone(), member.ordered());
                let order = Change::BackendAdminState { backend, from: before, to };
                self.lose(priority, OutReason::Drained, Duration::ZERO, &order.to_string());
                self.evict(id, OutReason::Drained, effects);
            }
            (AdminState::Drain | AdminState::Maintenance, AdminState::Ready) => {
                effects.returns.push(Return::Ready(id));
            }
            (AdminState::Ready, AdminState::Ready)
            | (AdminState::Drain | AdminState::Maintenance, AdminState::Drain | AdminState::Maintenance) => {}
        }
    }

    /// Takes out what has lapsed by now, and gives the verdicts that need no evidence.
    pub(super) fn lapse(&mut self, now: MonoTime, effects: &mut Effects) {
        let lapses = |member: &&Member| !member.is_checked() || member.health.pushed.is_some();
        let ids: Vec<BackendId> = self.members().iter().filter(lapses).map(|member| member.id).collect();
        for id in ids {
            let Some(member) = self.member_mut(id) else { continue };
            if member.health.pushed.as_ref().is_some_and(|pushed| pushed.verdict.until <= now) {
                self.push(now, id, None, effects);
            }
            let Some(member) = self.member_mut(id) else { continue };
            if !member.is_checked() {
                let verdict = member.health.unchecked(now, &member.plan.check);
                self.judge(now, id, &verdict, effects);
            }
        }
    }

    /// When something lapses.
    pub(super) fn next_lapse(&self) -> Option<MonoTime> {
        let of = |member: &Member| {
            let pushed = member.health.pushed.as_ref().map(|pushed| pushed.verdict.until);
            pushed.into_iter().chain(member.health.unchecked_return(&member.plan.check)).min()
        };
        self.members().iter().filter_map(of).min()
    }

    /// How long until `member` is asked again; nothing if it is not.
    pub(super) fn pace(&self, member: &Member) -> Option<Pace> {
        let (check, health) = (&member.plan.check, &member.health);
        if !member.is_checked() || member.has_given_up() || health.has_no_way {
            return None;
        }
        if health.state == HealthState::Healthy || health.is_slow() {
            let every = Pace::every(check.interval);
            let in_doubt = pace_in_doubt(member.server.as_ref());
            return in_doubt.into_iter().chain([every]).min_by_key(|pace| pace.interval);
        }
        let interval = match check.recovery_interval {
            Some(interval) => interval,
            None if check.recovery_attempts > 0 => check.interval,
            None if self.is_empty_seat() => check.interval.min(self.hurry),
            None => check.interval,
        };
        Some(Pace { interval, rest: rest(health.attempts, check) })
    }
}
