//! What checks say of what is beyond a tunnel. A check that fails because the way is broken and one that fails because nobody answers at
//! its end look alike from here; what tells them apart is that other ways lead to the same end. If none of them gets an
//! answer there, it is the target that is down: another tunnel would not help, nor would this one anew.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{
    Address, BackendId, CheckPlan, DialError, HealthState, MonoTime, OutReason, ProbeError, ProbeOutcome, TunnelCause,
};

use super::health::Verdict;
use super::member::Member;
use super::pool::{Effects, Pool};
use super::schedule::Again;
use super::tunnel::Tunnel;

/// After so long a target that is silent has one of its tunnels set up anew, in case all of them are broken alike; then after
/// twice as long, and so on.
pub const SILENCE_RESTART: Duration = Duration::from_secs(120);

/// The longest time from one to the next.
pub const SILENCE_RESTART_MAX: Duration = Duration::from_secs(1800);

/// A network that has changed has that done at once, but not again within this time.
const SILENCE_NUDGE_GAP: Duration = Duration::from_secs(30);

/// A tunnel that is to be set up anew because checks fail goes on for so long at most while its sessions move bytes: a
/// transfer may starve the checks beside it.
pub const MOVING_MAX: Duration = Duration::from_secs(180);

/// How the checks through one run of a tunnel end.
#[derive(Debug, Clone, Default)]
pub(super) struct Checks {
    /// How many in a row have failed.
    pub(super) failed: u32,
    /// How many of them, up to the last, at the target.
    of_target: u32,
    /// When the last one did, if it was the target that did not answer.
    silent_at: Option<MonoTime>,
    /// What the last failure said.
    pub(super) last: Option<String>,
    /// How many bytes its sessions had moved when that was last told.
    moved: Option<u64>,
    /// Whether that is more than the time before.
    grew: bool,
    /// Since when it is to be set up anew.
    due_since: Option<MonoTime>,
}

impl Checks {
    /// Those of another run.
    pub(super) fn anew(&self) -> Self {
        Self { moved: self.moved, ..Self::default() }
    }

    fn failed(&mut self, now: MonoTime, is_of_target: bool, detail: &str) {
        self.failed = self.failed.saturating_add(1);
        self.of_target = if is_of_target { self.of_target.saturating_add(1) } else { 0 };
        self.silent_at = is_of_target.then_some(now);
        self.last = Some(detail.to_owned());
    }

    /// Its sessions have moved so many bytes by now.
    pub(super) fn moved(&mut self, bytes: u64) {
        self.grew = bytes > self.moved.unwrap_or_default();
        self.moved = Some(bytes);
    }

    /// Whether so many have failed that the tunnel is to be set up anew, `after` so many. A target that does not answer is first
    /// given the time in which it is found out whether it does so behind others.
    fn want_restart(&mut self, now: MonoTime, after: u32, check: &CheckPlan) -> bool {
        let is_early = self.silent_at.is_some() && self.failed < check.unhealthy_threshold;
        if after == 0 || self.failed < after || is_early {
            return false;
        }
        let due_since = *self.due_since.get_or_insert(now);
        let moves = std::mem::take(&mut self.grew);
        !moves || now.since(due_since) >= MOVING_MAX
    }
}

/// What is known of a target that tunnels of one pool lead to.
#[derive(Debug, Default)]
pub(super) struct Beyond {
    /// When all of them were last asked because one had failed.
    asked_at: Option<MonoTime>,
    silence: Option<Silence>,
}

/// A target that does not answer, behind none of its tunnels.
#[derive(Debug)]
struct Silence {
    since: MonoTime,
    words: String,
    /// When one of its tunnels is set up anew.
    next: MonoTime,
    gap: Duration,
    /// Which one was last.
    last: Option<BackendId>,
    nudged_at: Option<MonoTime>,
}

/// By target.
pub(super) type Targets = BTreeMap<Address, Beyond>;

/// Whether one more failure makes `member` unhealthy.
fn is_near(member: &Member) -> bool {
    member.health.hard_failures.saturating_add(1) >= member.plan.check.unhealthy_threshold
}

fn target_of(member: &Member) -> Option<&Address> {
    member.tunnel.as_ref().map(|tunnel| &tunnel.plan.via.target)
}

impl Pool {
    fn siblings<'a>(&'a self, target: &'a Address) -> impl Iterator<Item = (&'a Member, &'a Tunnel)> {
        let of = |member: &'a Member| member.tunnel.as_deref().map(|tunnel| (member, tunnel));
        self.members.iter().filter_map(of).filter(move |(_, tunnel)| tunnel.plan.via.target == *target)
    }

    /// Why nothing is wrong with the tunnel of `member` that another run would mend: what it leads to is silent.
    pub(super) fn silence(&self, member: &Member) -> Option<&str> {
        member.tunnel.as_ref()?.checks.silent_at?;
        let silence = self.targets.get(target_of(member)?)?.silence.as_ref()?;
        Some(&silence.words)
    }

    /// Takes in how a check through the tunnel of member `id` ended, and what that made of the backend. Says in words if it is
    /// found out by that that the target is down.
    pub(super) fn checked(
        &mut self,
        now: MonoTime,
        id: BackendId,
        outcome: &ProbeOutcome,
        verdict: &Verdict,
    ) -> Option<String> {
        let member = self.member_mut(id)?;
        let threshold = member.plan.check.unhealthy_threshold;
        let tunnel = member.tunnel.as_deref_mut()?;
        match outcome {
            ProbeOutcome::Passed { .. } => {
                tunnel.checks = tunnel.checks.anew();
                tunnel.is_passed();
                None
            }
            ProbeOutcome::Inconclusive { .. } => None,
            ProbeOutcome::Failed { error, detail } => {
                // Where its own program publishes a port elsewhere, a port that nobody has is the program's failure.
                let is_unpublished = *error == ProbeError::Dial(DialError::Refused) && tunnel.plan.program.is_some();
                tunnel.checks.failed(now, error.is_of_target() && !is_unpublished, detail);
                let is_enough = match tunnel.phase.is_verified() {
                    true => matches!(verdict, Verdict::Unhealthy { .. }),
                    false => tunnel.checks.of_target >= threshold,
                };
                if is_enough { self.silence_found(id) } else { None }
            }
        }
    }

    /// Whether the target of member `id`, which has failed there often enough, is silent behind all others too; in words.
    ///
    /// | it was | the others | so |
    /// |---|---|---|
    /// | healthy | each that is healthy has failed there since it began to, and once more would be enough, or twice in a row | it is |
    /// | not yet healthy in this run | none is healthy, and each that is open has failed there last | it is |
    /// | any | one is healthy, and no more than that is against it | it is not |
    /// | any | a backend of the pool is healthy that no tunnel leads to | it is not |
    fn silence_found(&self, id: BackendId) -> Option<String> {
        let member = self.member(id)?;
        let target = target_of(member)?;
        let own = member.tunnel.as_deref()?;
        let beyond = self.targets.get(target);
        let is_known = beyond.is_some_and(|beyond| beyond.silence.is_some());
        own.checks.silent_at.filter(|_| !is_known && !self.is_refuted())?;
        // Whoever failed first had the others asked, and that may have been the first failure of this one.
        let since = member.health.first_failure.unwrap_or_default();
        let since = beyond.and_then(|beyond| beyond.asked_at).map_or(since, |asked| asked.min(since));
        let others = || self.siblings(target).filter(|(m, tunnel)| m.id != id && tunnel.phase.is_open());
        let fails_too = |(m, tunnel): (&Member, &Tunnel)| {
            tunnel.checks.silent_at.is_some_and(|at| at >= since) && (is_near(m) || tunnel.checks.of_target >= 2)
        };
        let mut verified = others().filter(|(_, tunnel)| tunnel.phase.is_verified()).peekable();
        let is_silent = if own.phase.is_verified() {
            verified.all(fails_too)
        } else {
            verified.peek().is_none() && others().all(|(_, tunnel)| tunnel.checks.silent_at.is_some())
        };
        let ways = 1 + others().filter(|(_, tunnel)| tunnel.checks.silent_at.is_some()).count();
        let behind = match (ways, self.siblings(target).count()) {
            (1, 1) => "its only tunnel".to_owned(),
            (1, _) => "the only tunnel that is up".to_owned(),
            (ways, _) => format!("all {ways} tunnels"),
        };
        is_silent.then(|| format!("target {target} does not answer behind {behind}"))
    }

    /// The target of member `id` is silent: whoever serves through another tunnel to it does not, either. All of that in one turn,
    /// so that nobody is sent from one to the next.
    pub(super) fn falls_silent(&mut self, now: MonoTime, id: BackendId, words: &str, effects: &mut Effects) {
        let Some(target) = self.member(id).and_then(target_of).cloned() else { return };
        let (next, gap) = (now + SILENCE_RESTART, SILENCE_RESTART);
        let silence = Silence { since: now, words: words.to_owned(), next, gap, last: None, nudged_at: None };
        self.targets.entry(target.clone()).or_default().silence = Some(silence);
        let others = self.siblings(&target).filter(|(_, tunnel)| tunnel.checks.silent_at.is_some());
        let ids: Vec<BackendId> = others.map(|(member, _)| member.id).collect();
        for id in ids {
            let Some(member) = self.member_mut(id) else { continue };
            if member.health.state == HealthState::Unhealthy && !member.health.is_slow() {
                continue;
            }
            let own = member.health.last_error.clone().unwrap_or_default();
            let verdict = member.health.prove(now, OutReason::CheckFailed, format!("{words}: {own}"));
            self.judge(now, id, &verdict, effects);
        }
        if self.loss.evidence.as_deref().is_some_and(|evidence| evidence.starts_with(words)) {
            self.loss.note = Some(words.into());
        }
    }

    /// Does what follows from the end of a check through the tunnel of member `id`, once its backend is judged.
    pub(super) fn follow_check(&mut self, now: MonoTime, id: BackendId, outcome: &ProbeOutcome, effects: &mut Effects) {
        let Some(member) = self.member_mut(id) else { return };
        let check = member.plan.check.clone();
        let Some(tunnel) = member.tunnel.as_deref_mut() else { return };
        let (after, was_verified) = (tunnel.plan.restart_after, tunnel.phase.is_verified());
        match outcome {
            ProbeOutcome::Passed { .. } => self.speaks(now, id),
            ProbeOutcome::Inconclusive { .. } => {}
            ProbeOutcome::Failed { .. } => {
                let (failed, is_silent) = (tunnel.checks.failed, tunnel.checks.silent_at.is_some());
                // One through which no check has come in this run yet has its own time for that.
                let wants = !tunnel.phase.is_to_be_ready() && tunnel.checks.want_restart(now, after, &check);
                let last = tunnel.checks.last.clone().unwrap_or_default();
                if was_verified && is_silent {
                    self.ask_siblings(now, id, check.interval, effects);
                    self.ask_twice(id, effects);
                }
                let is_protected = self.member(id).is_some_and(|member| self.silence(member).is_some());
                if wants && !is_protected {
                    let words = format!("{failed} checks in a row have failed, the last: {last}");
                    self.drive(now, id, effects, |tunnel| tunnel.give_up_run(now, TunnelCause::ChecksFailed, words));
                }
            }
        }
        self.review_tunnel(now, id, effects);
    }

    /// The target of member `id` answers: what was counted against its siblings while it did not is no fault of theirs.
    fn speaks(&mut self, now: MonoTime, id: BackendId) {
        let Some(target) = self.member(id).and_then(target_of).cloned() else { return };
        self.end_silence(now, &target);
    }

    fn end_silence(&mut self, now: MonoTime, target: &Address) {
        let Some(beyond) = self.targets.get_mut(target) else { return };
        if beyond.silence.take().is_none() {
            return;
        }
        for member in &mut self.members {
            let tunnel = member.tunnel.as_deref_mut().filter(|tunnel| tunnel.plan.via.target == *target);
            tunnel.into_iter().for_each(|tunnel| tunnel.is_acquitted(now));
        }
    }

    /// A backend that no tunnel leads to is healthy: tunnels that lead nowhere meanwhile are judged each for itself, from now on.
    fn refute_silences(&mut self, now: MonoTime) {
        if !self.is_refuted() {
            return;
        }
        let is_silent = |(target, beyond): (&Address, &Beyond)| beyond.silence.as_ref().map(|_| target.clone());
        let silent: Vec<Address> = self.targets.iter().filter_map(is_silent).collect();
        silent.iter().for_each(|target| self.end_silence(now, target));
    }

    /// Whether a backend is healthy that no tunnel leads to.
    fn is_refuted(&self) -> bool {
        self.members.iter().any(|member| member.tunnel.is_none() && member.health.state == HealthState::Healthy)
    }

    /// Has all others asked that lead where the tunnel of member `id` does, unless they were within half an interval.
    fn ask_siblings(&mut self, now: MonoTime, id: BackendId, interval: Duration, effects: &mut Effects) {
        let Some(target) = self.member(id).and_then(target_of).cloned() else { return };
        let beyond = self.targets.entry(target.clone()).or_default();
        if beyond.asked_at.is_some_and(|at| now.since(at) < interval / 2) {
            return;
        }
        beyond.asked_at = Some(now);
        let others = self.siblings(&target).filter(|(m, tunnel)| m.id != id && tunnel.phase.is_open());
        let others = others.filter(|(member, _)| !member.has_given_up());
        effects.suspects.extend(others.map(|(member, _)| (member.target, Again::IfIdle)));
    }

    /// Where one of those that lead to the target of member `id` is judged by its next failure, others that have failed once are
    /// asked once more at once, so that by then it is known whether they share that fate.
    fn ask_twice(&self, id: BackendId, effects: &mut Effects) {
        let Some(target) = self.member(id).and_then(target_of) else { return };
        let failing = self.siblings(target).filter(|(_, tunnel)| tunnel.phase.is_verified());
        let failing: Vec<(&Member, &Tunnel)> =
            failing.filter(|(_, tunnel)| tunnel.checks.silent_at.is_some()).collect();
        if failing.iter().any(|(member, _)| is_near(member)) {
            let once = failing.iter().filter(|(member, tunnel)| tunnel.checks.of_target == 1 && !is_near(member));
            effects.suspects.extend(once.map(|(member, _)| (member.target, Again::IfIdle)));
        }
    }

    /// One whose time to be ready is up, and whose target does not answer: is it silent behind all others that are open, too?
    pub(super) fn is_behind_silence(&mut self, now: MonoTime, id: BackendId, effects: &mut Effects) -> bool {
        if self.member(id).is_some_and(|member| self.silence(member).is_some()) {
            return true;
        }
        let is_open = |member: &Member| member.tunnel.as_ref().is_some_and(|tunnel| tunnel.phase.is_open());
        if !self.member(id).is_some_and(is_open) {
            return false;
        }
        let Some(words) = self.silence_found(id) else { return false };
        self.falls_silent(now, id, &words, effects);
        true
    }

    /// Has tunnels to silent targets set up anew, one at a time, and forgets targets that no tunnel leads to.
    pub(super) fn pass_silences(&mut self, now: MonoTime, effects: &mut Effects) {
        self.refute_silences(now);
        let wanted = |member: &Member| {
            let tunnel = member.tunnel.as_ref().filter(|tunnel| !tunnel.phase.is_stopped());
            tunnel.map(|tunnel| tunnel.plan.via.target.clone())
        };
        let known: Vec<Address> = self.members.iter().filter_map(wanted).collect();
        self.targets.retain(|target, _| known.contains(target));
        let due = |(target, beyond): (&Address, &Beyond)| {
            let silence = beyond.silence.as_ref().filter(|silence| silence.next <= now)?;
            Some((target.clone(), silence.last, silence.since))
        };
        let due: Vec<(Address, Option<BackendId>, MonoTime)> = self.targets.iter().filter_map(due).collect();
        for (target, last, since) in due {
            let silent = self.siblings(&target).filter(|(_, t)| t.phase.is_open() && t.checks.silent_at.is_some());
            let mut ids: Vec<BackendId> = silent.map(|(member, _)| member.id).collect();
            ids.sort_unstable();
            let next = ids.iter().find(|id| last.is_some_and(|last| **id > last)).or(ids.first()).copied();
            let Some(beyond) = self.targets.get_mut(&target) else { continue };
            let Some(silence) = &mut beyond.silence else { continue };
            let Some(id) = next else {
                silence.next = now + SILENCE_RESTART;
                continue;
            };
            silence.gap = (silence.gap * 2).min(SILENCE_RESTART_MAX);
            (silence.next, silence.last) = (now + silence.gap, Some(id));
            let words = format!("{} for {:.0?}: it is set up anew to be sure", silence.words, now.since(since));
            self.drive(now, id, effects, |tunnel| tunnel.give_up_run(now, TunnelCause::TargetDown, words));
        }
    }

    /// The network has changed: where a target is silent, one of its tunnels is set up anew at once.
    pub(super) fn nudge_silences(&mut self, now: MonoTime) {
        for silence in self.targets.values_mut().filter_map(|beyond| beyond.silence.as_mut()) {
            if silence.nudged_at.is_none_or(|at| now.since(at) >= SILENCE_NUDGE_GAP) {
                (silence.nudged_at, silence.next) = (Some(now), now);
            }
        }
    }

    /// When a tunnel to a silent target is set up anew.
    pub(super) fn next_of_silences(&self) -> Option<MonoTime> {
        self.targets.values().filter_map(|beyond| beyond.silence.as_ref()).map(|silence| silence.next).min()
    }

    /// The targets that are silent: since when, in words, and when one of their tunnels is set up anew.
    pub(super) fn silences(&self) -> impl Iterator<Item = (MonoTime, &str, MonoTime)> {
        let silences = self.targets.values().filter_map(|beyond| beyond.silence.as_ref());
        silences.map(|silence| (silence.since, silence.words.as_str(), silence.next))
    }
}
