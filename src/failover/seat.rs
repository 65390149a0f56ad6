//! Who sits in the pool's one seat: which tier is active, and when that may change.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{BackendId, Failback, MonoTime, PoolState};

use super::availability::Availability;
use super::member::Member;
use super::pool::Pool;

impl Pool {
    /// The tier that should be active; none while nothing that may be is fit.
    pub(super) fn choose(&self, now: MonoTime) -> Option<u32> {
        let tiers = self.fit_tiers();
        let policy = &self.plan.failover;
        let Some(active) = self.active else { return self.first_seat(&tiers) };
        if self.pin.is_some() {
            return self.members().iter().any(|m| self.is_seated(m) && m.is_eligible()).then_some(active);
        }
        let active_is_fit = self.may_go_on(active);
        if !policy.automatic {
            return active_is_fit.then_some(active);
        }
        if !active_is_fit {
            return self.best_of(&tiers);
        }
        let stable_time = self.damping.stable_time(policy.failback_after);
        let may_return = policy.failback == Failback::Automatic;
        // The best tier may be fit for too short a time and a lesser one, still better than the active, long enough.
        let mut better = tiers.range(..active).filter(|&(_, &since)| may_return && now >= since + stable_time);
        Some(better.next().map_or(active, |(&priority, _)| priority))
    }

    /// The first tier ever: the best fit one, but not before every better one has its verdict.
    fn first_seat(&self, tiers: &BTreeMap<u32, MonoTime>) -> Option<u32> {
        let allowed = |member: &&Member| member.availability().is_allowed();
        let preferred = self.members().iter().filter(allowed).map(|member| member.tier).min()?;
        let best = self.best_of(tiers)?;
        if self.cluster.is_some() {
            // Whoever was promoted while no process looked gets nobody without an order either.
            let is_ordered = self.served_last().is_none_or(|last| last == best);
            return (self.plan.failover.automatic || is_ordered).then_some(best);
        }
        if !self.plan.failover.automatic {
            return (best == preferred).then_some(best);
        }
        let pending = self.members().iter().filter(|member| member.availability() == Availability::Pending);
        pending.map(|member| member.tier).all(|priority| priority >= best).then_some(best)
    }

    /// The tier of a cluster's server that served last, in this process or before, if it is there still.
    pub(super) fn served_last(&self) -> Option<u32> {
        let lineage = self.cluster.as_ref()?.lineage.as_ref()?;
        let there = self.members().iter().find(|member| lineage.is_at(&member.plan));
        let named = || self.named(&lineage.server);
        there.or_else(named).map(|member| member.tier)
    }

    /// The best tier with a fit backend, or else the best of those that are slow.
    fn best_of(&self, fit: &BTreeMap<u32, MonoTime>) -> Option<u32> {
        let slow = || self.members().iter().find(|member| member.is_eligible()).map(|member| member.tier);
        fit.keys().next().copied().or_else(slow)
    }

    /// The best tier besides the active one, by the same measure, whatever binds the pool.
    pub(super) fn next_tier(&self) -> Option<u32> {
        let other = |member: &&Member| Some(member.tier) != self.active && member.is_eligible();
        let fit = self.members().iter().filter(other).find(|member| member.is_fit());
        fit.or_else(|| self.members().iter().find(other)).map(|member| member.tier)
    }

    /// Whether the tier has a backend that may get new sessions, be it slow.
    pub(super) fn may_go_on(&self, priority: u32) -> bool {
        self.members().iter().any(|member| member.tier == priority && member.is_eligible())
    }

    /// Each tier with a fit backend, and since when those of them that are fit have been so.
    pub(super) fn fit_tiers(&self) -> BTreeMap<u32, MonoTime> {
        let mut tiers = BTreeMap::new();
        for member in self.members() {
            if let Some(since) = member.eligible_since {
                let tier = tiers.entry(member.tier).or_insert(since);
                *tier = since.min(*tier);
            }
        }
        tiers
    }

    fn has_tier(&self, priority: u32) -> bool {
        self.members().iter().any(|member| member.tier == priority)
    }

    /// The backends of the active tier.
    pub(super) fn seated(&self) -> BTreeSet<BackendId> {
        let sits = |member: &&Member| Some(member.tier) == self.active;
        self.members().iter().filter(sits).map(|member| member.id).collect()
    }

    /// After a new plan: the backends that sat in the seat keep it, whatever their tier is numbered now.
    pub(super) fn keep_seated(&mut self, seated: &BTreeSet<BackendId>) {
        let Some(active) = self.active else { return };
        let stayed: Vec<&Member> = self.members().iter().filter(|member| seated.contains(&member.id)).collect();
        let fit = stayed.iter().filter(|member| member.is_eligible()).map(|member| member.tier).min();
        let any = stayed.iter().map(|member| member.tier).min();
        if let Some(priority) = fit.or(any) {
            self.active = Some(priority);
        } else if !self.plan.failover.automatic && !self.has_tier(active) {
            // Nothing is left that new sessions could be kept on: the seat is given out as if for the first time.
            self.active = None;
        }
    }

    /// When the pool wants to decide though nothing happens.
    pub(super) fn next_deadline(&self) -> Option<MonoTime> {
        let pause = self.pause.and_then(|pause| pause.until);
        let kept_by = self.cluster.as_ref().and_then(|cluster| cluster.kept_by);
        let ends = pause.into_iter().chain(kept_by);
        let ends = ends.chain(self.next_lapse_of_lag());
        ends.chain(self.returns_at())
            .chain(self.next_lapse())
            .chain(self.next_word())
            .chain(self.next_of_tunnels())
            .min()
    }

    /// When the stable time of a better tier ends, if one runs.
    pub(super) fn returns_at(&self) -> Option<MonoTime> {
        let policy = &self.plan.failover;
        let stable_time = self.damping.stable_time(policy.failback_after);
        if self.state != PoolState::RecoveryInProgress || policy.failback == Failback::Manual || !policy.automatic {
            return None;
        }
        let better = |&(priority, _): &(u32, MonoTime)| Some(priority) < self.active;
        self.fit_tiers().into_iter().filter(better).map(|(_, since)| since + stable_time).min()
    }
}
