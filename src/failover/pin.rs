//! A pool that an operator has bound to a backend or a tier, until it is released.

use std::collections::BTreeSet;

use crate::model::{
    BackendId, BackendName, FailoverStatus, MonoTime, OutReason, PinnedServer, Rule, SessionPolicy, SystemId,
};

use super::change::Change;
use super::lifecycle::Tenure;
use super::member::Member;
use super::order::Refusal;
use super::pool::{Effects, Move, Pool};

/// Said of a failover that an operator's order makes idle.
const OVERRULED: &str = "an operator ordered another failover";

/// What a pool is bound to. Its active tier is then the backend's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) backend: BackendName,
    /// Whether all of its tier serve with it.
    pub(super) whole_tier: bool,
    pub(super) at: MonoTime,
    /// Why, in the operator's words.
    pub(super) reason: Option<String>,
    /// The server that it says is the primary of a cluster, over all proof, if it does: whom it names said so of itself when it was
    /// ordered.
    pub(super) overrules: Option<PinnedServer>,
}

/// The server that is `member` now.
pub(super) fn pinned_server(member: &Member) -> PinnedServer {
    PinnedServer { address: member.plan.address.clone(), system: system_of(member) }
}

/// Whether `member` is still `server`, as far as it says.
fn is_still(server: &PinnedServer, member: &Member) -> bool {
    let is_of_another = server.system.zip(system_of(member)).is_some_and(|(own, other)| own != other);
    member.plan.address == server.address && !is_of_another
}

fn system_of(member: &Member) -> Option<SystemId> {
    member.server.as_ref()?.facts.as_ref()?.system
}

impl Pool {
    /// Whether a pin, if there is one, lets `member` serve, provided that it is of the active tier.
    pub(super) fn is_within_pin(&self, member: &Member) -> bool {
        self.pin.as_ref().is_none_or(|pin| pin.whole_tier || pin.backend == member.plan.name)
    }

    /// Whether `member` has a place in the seat, be it fit or not.
    pub(super) fn is_seated(&self, member: &Member) -> bool {
        Some(member.tier) == self.active && self.is_within_pin(member)
    }

    /// The backend that an order to fail over would pin, and whether with all of its tier.
    pub(super) fn pin_target(&self, to: Option<&BackendName>) -> Result<(BackendName, bool), Refusal> {
        let pool = &self.plan.name;
        if to.is_none() && self.cluster.is_some() {
            let hint = "name the standby that is, or will be, promoted (--to)";
            return Err(Refusal::NoEligibleBackend(format!("pool {pool} is a PostgreSQL cluster: {hint}")));
        }
        let Some(name) = to else {
            let best = self.next_tier().and_then(|priority| self.fit_names_of(priority).next());
            let refusal = || {
                Refusal::NoEligibleBackend(format!(
                    "pool {pool} has no other tier with an eligible backend; to serve from one backend of the active tier alone, name it (--to)"
                ))
            };
            return best.map(|backend| (backend, true)).ok_or_else(refusal);
        };
        let Some(member) = self.named(name) else {
            return Err(Refusal::BackendNotFound(pool.clone(), name.clone()));
        };
        if !(member.is_eligible() || (self.cluster.is_some() && member.is_sound())) {
            let why = self.why_not(member, false);
            return Err(Refusal::NoEligibleBackend(format!("backend {name} of pool {pool} is not eligible: {why}")));
        }
        // Unless its word is to be taken now, over all proof.
        let is_told_more = |pin: &Pin| self.is_refused_claimant(member) && pin.overrules.is_none();
        if self.pin.as_ref().is_some_and(|pin| pin.backend == *name && !pin.whole_tier && !is_told_more(pin)) {
            return Err(Refusal::Conflict(format!("pool {pool} is pinned to {name} already")));
        }
        Ok((name.clone(), false))
    }

    /// Why the pool cannot be released, or has nowhere to return to.
    pub(super) fn refuses_failback(&self) -> Option<Refusal> {
        let best = self.fit_tiers().into_keys().next();
        let has_better = self.serves() && best < self.active && best.is_some();
        let pool = &self.plan.name;
        if self.cluster.is_some() {
            let nothing = || Refusal::Conflict(format!("pool {pool} is not pinned: it follows the primary"));
            return self.pin.is_none().then(nothing);
        }
        (self.pin.is_none() && !has_better).then(|| {
            Refusal::Conflict(format!("pool {pool} is not pinned, and no better tier than its active one is fit"))
        })
    }

    /// Whoever may have sessions from the time in which it served: all that sit in the seat, and those that served last.
    /// Whether they are fit does not matter, since their sessions may have been kept.
    fn holders(&self) -> Vec<BackendId> {
        let holds = |member: &&Member| self.is_seated(member) || self.serving.contains(&member.plan.name);
        self.members().iter().filter(holds).map(|member| member.id).collect()
    }

    /// Serves from what `pin` says alone. Returns those that serve.
    pub(super) fn serve_pinned(
        &mut self,
        now: MonoTime,
        pin: Pin,
        sessions: SessionPolicy,
        effects: &mut Effects,
    ) -> Vec<BackendId> {
        let Some(priority) = self.named(&pin.backend).map(|member| member.tier) else { return Vec::new() };
        self.call_off(now, OVERRULED, effects);
        let (left, from) = (self.holders(), self.serving.clone());
        let note = pin.reason.clone();
        self.pin = Some(pin);
        self.active = Some(priority);
        if let Some(id) = self.overruled() {
            self.reject_others(id, effects);
        }
        self.elect(now, effects);
        let (ids, to) = (self.serving_ids(), self.fit_names(priority));
        let failover = self.begin_ordered(now, from.clone());
        effects.changes.push(failover.told(now, FailoverStatus::Pending, &[], note.as_deref()));
        if self.cluster.is_some() && to.is_empty() {
            self.await_promotion(failover);
        } else {
            self.complete(now, &failover, &to, note.as_deref(), effects);
        }
        self.damping.left(now, now, false, self.plan.failover.failback_after);
        self.last_move = Some(Move { at: now, from, to: to.clone(), reason: OutReason::Manual });
        self.tenure = Some(Tenure { since: now, rule: Rule::Ordered });
        if self.cluster.is_none() || !to.is_empty() {
            self.serving = to;
        }
        for id in left.into_iter().filter(|id| !ids.contains(id)) {
            self.evict_by(id, OutReason::Manual, sessions, effects);
        }
        ids
    }

    /// Releases the pin and serves from the best tier that is fit, at once. Returns those that serve.
    pub(super) fn fail_back(&mut self, now: MonoTime, effects: &mut Effects) -> Vec<BackendId> {
        let (left, held) = (self.serving_ids(), self.holders());
        self.unpin(false, effects);
        self.elect(now, effects);
        let Some(best) = self.fit_tiers().into_keys().next() else { return Vec::new() };
        let before = self.active.replace(best);
        let (ids, to) = (self.serving_ids(), self.fit_names(best));
        let is_better = self.active < before;
        if left.is_empty() && !is_better {
            // What it was pinned to is lost, and so is all that is better: whoever serves now fills an empty seat.
            if before != self.active {
                self.moved(now, before, &to, effects);
            }
        } else if left != ids {
            let gone: Vec<BackendId> = held.into_iter().filter(|id| !ids.contains(id)).collect();
            let from = std::mem::take(&mut self.serving);
            self.returned(now, &gone, from, &to, Rule::Ordered, effects);
        }
        self.serving = to;
        ids
    }

    /// After a new plan: the pool stays pinned to the backend of that name, or to the tier that it was pinned to.
    pub(super) fn keep_pin(&mut self, seated: &BTreeSet<BackendId>, effects: &mut Effects) {
        let Some(pin) = &self.pin else { return };
        let stayed = self.members().iter().find(|member| pin.whole_tier && seated.contains(&member.id));
        match self.named(&pin.backend).or(stayed).map(|member| (member.plan.name.clone(), member.tier)) {
            Some((backend, priority)) => {
                self.active = Some(priority);
                self.pin.iter_mut().for_each(|pin| pin.backend = backend.clone());
            }
            None => self.unpin(true, effects),
        }
    }

    /// Another server has the name of the one that a person has decided for: nobody has decided for it.
    pub(super) fn review_pin(&mut self) {
        let Some(pin) = &self.pin else { return };
        let is_it = |server: &PinnedServer| self.named(&pin.backend).is_some_and(|member| is_still(server, member));
        if !pin.overrules.as_ref().is_none_or(is_it) {
            self.pin.iter_mut().for_each(|pin| pin.overrules = None);
        }
    }

    fn unpin(&mut self, removed: bool, effects: &mut Effects) {
        if let Some(pin) = self.pin.take() {
            effects.changes.push(Change::PoolUnpinned { backend: pin.backend, removed });
        }
    }

    /// The backend of that name.
    pub(super) fn named(&self, name: &BackendName) -> Option<&Member> {
        self.members().iter().find(|member| member.plan.name == *name)
    }

    /// The backends of a tier that are fit, or slow and not passed over, whatever the pin says.
    pub(super) fn fit_names_of(&self, priority: u32) -> impl Iterator<Item = BackendName> {
        let fit = move |member: &&Member| member.tier == priority && member.is_eligible();
        self.members().iter().filter(fit).map(|member| member.plan.name.clone())
    }
}
