//! The pool's turn: who serves from now on, and the life of each failover from the loss to its end. What is chosen is
//! `seat`'s; what an operator orders is `pin`'s.

use std::time::Duration;

use crate::model::{BackendId, BackendName, FailoverStatus, MonoTime, OutReason, Rule};

use super::change::Change;
use super::member::Member;
use super::pool::{Effects, Loss, Move, Pool};

/// Said of a failover that ends because what was lost is back before there was anywhere to go, be it by another name.
const SERVES_AGAIN: &str = "the tier that was lost serves again";

/// Said of a failover that ends because nobody may go on with it.
const CALLED_OFF: &str = "called off: automatic failover is off, or the pool is pinned";

/// Since when something serves, and by which rule it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tenure {
    pub(super) since: MonoTime,
    pub(super) rule: Rule,
}

/// The failovers of a pool.
#[derive(Debug, Default)]
pub(super) struct Failovers {
    /// The number of the last one.
    pub(super) last: u64,
    /// How many have been completed.
    pub(super) completed: u64,
    /// How often the pool served again after it was down, or went back to a better tier.
    pub(super) recoveries: u64,
    /// The one that is under way, or has failed and not been followed by another.
    open: Option<Failover>,
}

/// One failover.
#[derive(Debug)]
pub(super) struct Failover {
    number: u64,
    /// When what served was lost.
    pub(super) at: MonoTime,
    from: Vec<BackendName>,
    loss: Loss,
    has_failed: bool,
    /// An operator has ordered it to a server that is not the primary yet.
    awaits: bool,
}

impl Failovers {
    /// Begins one with the next number.
    pub(super) const fn begin(&mut self, at: MonoTime, from: Vec<BackendName>, loss: Loss) -> Failover {
        self.last += 1;
        Failover { number: self.last, at, from, loss, has_failed: false, awaits: false }
    }
}

impl Failover {
    /// How it is told that it has come so far.
    pub(super) fn told(&self, now: MonoTime, status: FailoverStatus, to: &[BackendName], note: Option<&str>) -> Change {
        let Loss { reason, detect, ref evidence, note: ref loss } = self.loss;
        Change::PoolFailover {
            number: self.number,
            status,
            from: self.from.clone(),
            to: to.to_vec(),
            reason,
            note: note.or(loss.as_deref()).map(str::to_owned),
            evidence: evidence.as_deref().map(str::to_owned),
            detect,
            duration: detect + now.since(self.at),
        }
    }
}

impl Pool {
    /// Chooses anew who serves and says what changed.
    pub(super) fn decide(&mut self, now: MonoTime, effects: &mut Effects) {
        self.end_pause(now, effects);
        self.lapse(now, effects);
        self.pass_tunnels(now, effects);
        self.end_doubts(now, effects);
        self.elect(now, effects);
        self.age_lags(now, effects);
        self.weigh(now);
        let tiers = self.fit_tiers();
        self.damping.watch(now, tiers, self.plan.failover.failback_after);
        let chosen = self.choose(now);
        let serving = chosen.map(|priority| self.fit_names(priority)).unwrap_or_default();
        let before = self.active;
        self.active = chosen.or(before);
        match chosen {
            Some(_) if self.active != before => self.moved(now, before, &serving, effects),
            Some(_) => self.goes_on(now, effects),
            None => self.lacks(now, effects),
        }
        if !serving.is_empty() {
            self.serving = serving;
            self.departed.clear();
        }
        self.report_state(now, chosen.is_some(), effects);
    }

    /// The backends of a tier that may serve there.
    pub(super) fn fit_names(&self, priority: u32) -> Vec<BackendName> {
        self.fit_in(priority).map(|member| member.plan.name.clone()).collect()
    }

    /// Those that serve, if anything does.
    pub(super) fn serving_ids(&self) -> Vec<BackendId> {
        self.active.into_iter().flat_map(|priority| self.fit_in(priority)).map(|member| member.id).collect()
    }

    fn fit_in(&self, priority: u32) -> impl Iterator<Item = &Member> {
        let serves =
            move |member: &&Member| member.tier == priority && member.is_eligible() && self.is_within_pin(member);
        self.members().iter().filter(serves)
    }

    /// The active tier changed from `before` to the present one, in which `to` serve.
    pub(super) fn moved(&mut self, now: MonoTime, before: Option<u32>, to: &[BackendName], effects: &mut Effects) {
        let Some(active) = self.active else { return };
        // Nobody expects a drained backend to be the first to serve: that another one is, is no failover.
        let preferred = self.preferred_of_allowed();
        if before.is_none() {
            // Whatever was returned to before is no part of the plan any more.
            self.damping.left(now, now, false, self.plan.failover.failback_after);
        }
        let (from, left) = match before {
            Some(left) => (self.serving.clone(), left),
            None if preferred == Some(active) || self.cluster.is_some() => {
                self.tenure = Some(Tenure { since: now, rule: Rule::FirstSeat });
                return;
            }
            None => (self.preferred_names(), preferred.unwrap_or(active)),
        };
        // A return is the policy's doing: the tier that is left could have gone on. Anything else fills an empty seat.
        if active < left && self.may_go_on(left) {
            let left: Vec<BackendId> = self.fit_in(left).map(|member| member.id).collect();
            self.returned(now, &left, from, to, Rule::StableTime, effects);
        } else if self.are_back(to) {
            // By another name or at another address: nothing was lost, and nobody has taken over.
            self.goes_on(now, effects);
        } else {
            self.fail_over(now, from, to, effects);
        }
    }

    /// The pool serves from a better tier again; `left` served until now.
    pub(super) fn returned(
        &mut self,
        now: MonoTime,
        left: &[BackendId],
        from: Vec<BackendName>,
        to: &[BackendName],
        rule: Rule,
        effects: &mut Effects,
    ) {
        let (at, reason) = (now, OutReason::FailedBack);
        self.last_move = Some(Move { at, from: from.clone(), to: to.to_vec(), reason });
        self.tenure = Some(Tenure { since: now, rule });
        self.damping.returned(now, self.plan.failover.failback_after);
        self.failovers.recoveries += 1;
        effects.changes.push(Change::PoolFailback { from, to: to.to_vec() });
        for &id in left {
            self.evict(id, reason, effects);
        }
    }

    /// The tier that served is lost and another one serves in its place.
    fn fail_over(&mut self, now: MonoTime, from: Vec<BackendName>, to: &[BackendName], effects: &mut Effects) {
        let failover = match self.failovers.open.take() {
            Some(open) if !open.has_failed => open,
            other => {
                let (at, from, loss) = match other {
                    Some(failed) => (failed.at, failed.from, failed.loss),
                    None => (self.empty_since.unwrap_or(now), from, self.loss.clone()),
                };
                let new = self.failovers.begin(at, from, loss);
                effects.changes.push(new.told(now, FailoverStatus::Pending, &[], None));
                new
            }
        };
        let Failover { at: lost, ref from, loss: Loss { reason, .. }, .. } = failover;
        self.damping.left(now, lost, reason.is_verdict(), self.plan.failover.failback_after);
        self.last_move = Some(Move { at: now, from: from.clone(), to: to.to_vec(), reason });
        let rule = if reason == OutReason::Slow { Rule::Slow } else { Rule::EmptySeat };
        self.tenure = Some(Tenure { since: now, rule });
        self.complete(now, &failover, to, None, effects);
    }

    /// `to` serve, and that was all that was to be done.
    pub(super) fn complete(
        &mut self,
        now: MonoTime,
        failover: &Failover,
        to: &[BackendName],
        note: Option<&str>,
        effects: &mut Effects,
    ) {
        self.failovers.completed += 1;
        for status in [FailoverStatus::InProgress, FailoverStatus::Completed] {
            effects.changes.push(failover.told(now, status, to, note));
        }
    }

    /// The same tier as before serves.
    fn goes_on(&mut self, now: MonoTime, effects: &mut Effects) {
        if self.pin.is_some()
            && let Some(open) = self.failovers.open.take_if(|open| open.awaits)
        {
            let to = self.active.map(|tier| self.fit_names(tier)).unwrap_or_default();
            self.last_move = Some(Move { at: now, from: open.from.clone(), to: to.clone(), reason: OutReason::Manual });
            self.tenure = Some(Tenure { since: now, rule: Rule::Ordered });
            let note = self.pin.as_ref().and_then(|pin| pin.reason.clone());
            self.complete(now, &open, &to, note.as_deref(), effects);
        }
        self.call_off(now, SERVES_AGAIN, effects);
        let rule = if self.pin.is_some() { Rule::Ordered } else { Rule::EmptySeat };
        self.tenure.get_or_insert(Tenure { since: now, rule });
    }

    /// Nothing that may serve is fit.
    fn lacks(&mut self, now: MonoTime, effects: &mut Effects) {
        self.tenure = None;
        if self.active.is_none() {
            return;
        }
        if self.pin.is_some() && self.is_pending() && self.awaits_promotion() {
            return;
        }
        if !self.plan.failover.automatic || self.pin.is_some() {
            self.call_off(now, CALLED_OFF, effects);
            self.departed.clear();
            return;
        }
        let is_lost = self.serves() || !self.departed.is_empty();
        if is_lost && self.failovers.open.is_none() && !self.may_be_back() {
            let at = self.empty_since.unwrap_or(now);
            let new = self.failovers.begin(at, self.serving.clone(), self.loss.clone());
            effects.changes.push(new.told(now, FailoverStatus::Pending, &[], None));
            self.failovers.open = Some(new);
        }
        let is_pending = self.is_pending();
        if let Some(open) = self.failovers.open.as_mut().filter(|open| !open.has_failed && !is_pending) {
            open.has_failed = true;
            effects.changes.push(open.told(now, FailoverStatus::Failed, &[], None));
        }
    }

    /// Ends the failover that is under way, if one is, because there is no more need of it.
    pub(super) fn call_off(&mut self, now: MonoTime, why: &str, effects: &mut Effects) {
        if let Some(open) = self.failovers.open.take().filter(|open| !open.has_failed) {
            effects.changes.push(open.told(now, FailoverStatus::Failed, &[], Some(why)));
        }
    }

    /// A failover that is nobody's verdict: an operator's.
    pub(super) fn begin_ordered(&mut self, now: MonoTime, from: Vec<BackendName>) -> Failover {
        self.failovers.begin(
            now,
            from,
            Loss { reason: OutReason::Manual, detect: Duration::ZERO, evidence: None, note: None },
        )
    }

    /// Leaves an operator's failover open until the server that it is to is the primary.
    pub(super) fn await_promotion(&mut self, failover: Failover) {
        self.failovers.open = Some(Failover { awaits: true, ..failover });
    }

    /// Whether an operator's failover is open until then.
    pub(super) fn awaits_promotion(&self) -> bool {
        self.failovers.open.as_ref().is_some_and(|open| open.awaits)
    }

    /// The same in a process after the one that it was ordered in: it is the last one there was.
    pub(super) fn await_promotion_again(&mut self, now: MonoTime) {
        let led = self.cluster.as_ref().and_then(|cluster| cluster.lineage.as_ref());
        let from = led.map(|lineage| lineage.server.clone()).into_iter().collect();
        let loss = Loss { reason: OutReason::Manual, detect: Duration::ZERO, evidence: None, note: None };
        let open = Failover { number: self.failovers.last, at: now, from, loss, has_failed: false, awaits: true };
        self.failovers.open = Some(open);
    }

    fn preferred_names(&self) -> Vec<BackendName> {
        let preferred = self.preferred_of_allowed();
        let tier = self.members().iter().filter(|member| Some(member.tier) == preferred);
        tier.map(|member| member.plan.name.clone()).collect()
    }
}
