//! Who serves, by a second and simpler reckoning: slow, without any index or cache, and from what can be seen alone.
//!
//! What it takes from the controller is evidence: the health, admin state, slowness and latency of each backend, and the
//! reason of the last move. What it knows are the rules of `failover/mod.rs` about the seat, and of these: the first seat
//! and its patience, the empty seat, fit tiers before slow ones, whom a slow backend is passed over for and for how long,
//! the return and its stable time, damping, `automatic` and `failback`, pins, an ordered failover and failback, pauses,
//! the numbers of failovers, and who keeps the seat through a new plan. Backends that outsiders, the agent, hearsay or a
//! used-up recovery take out come in as what they are then said to be: unhealthy, or not ready.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::rig::Rig;
use crate::failover::{Change, DAMPING_CAP, DAMPING_FLOOR, MIN_GAIN, Order};
use crate::model::{
    AdminState, BackendId, BackendName, BackendStatus, Failback, FailoverStatus, HealthState, MonoTime, PoolState,
    PoolStatus,
};

fn is_ready(backend: &BackendStatus) -> bool {
    backend.admin_state == AdminState::Ready
}

fn is_fit(backend: &BackendStatus) -> bool {
    is_ready(backend) && backend.health == HealthState::Healthy
}

/// Whether new sessions may go to it: it is fit, or slow and not passed over.
pub(super) fn may_serve(backend: &BackendStatus, passed_over: &BTreeSet<BackendId>) -> bool {
    is_fit(backend) || (backend.slow && !passed_over.contains(&backend.id))
}

/// What the model remembers of a pool: the seat, who sat in it, and since when whom is fit.
#[derive(Default, Clone)]
pub(super) struct Seat {
    pub(super) active: Option<u32>,
    seated: Vec<BackendId>,
    since: BTreeMap<BackendId, MonoTime>,
    /// Those that are slow while others are better.
    pub(super) passed_over: BTreeSet<BackendId>,
    /// Those that were healthy at the last look.
    well: BTreeSet<BackendId>,
    /// To whom it is pinned, and whether with the tier.
    pub(super) pin: Option<(BackendName, bool)>,
    pub(super) paused: bool,
    /// Since when nothing serves that did.
    lost: Option<MonoTime>,
    calm: Calm,
    /// The number and status of the last failover.
    told: Option<(u64, FailoverStatus)>,
}

/// How far the pool trusts a better tier: the damping once more.
#[derive(Default, Clone)]
struct Calm {
    bounces: u32,
    since: MonoTime,
    fit: BTreeMap<u32, MonoTime>,
    proof: Option<MonoTime>,
}

impl Calm {
    fn wait(&self, after: Duration) -> Duration {
        (0..self.bounces).fold(after.max(DAMPING_FLOOR), |wait, _| wait * 2).min(DAMPING_CAP.max(after))
    }

    fn returned(&mut self, now: MonoTime, after: Duration) {
        (self.since, self.proof) = (now, Some(now + self.wait(after) * 2));
    }

    fn left(&mut self, now: MonoTime, lost: MonoTime, by_verdict: bool, after: Duration) {
        self.since = now;
        let bounced = self.proof.take().is_some_and(|proof| lost < proof && by_verdict);
        self.bounces += u32::from(bounced && self.wait(after) < DAMPING_CAP.max(after));
    }

    fn stable_time(&self, after: Duration) -> Duration {
        if self.bounces > 0 { self.wait(after) } else { after }
    }

    fn look(&mut self, now: MonoTime, fit: BTreeMap<u32, MonoTime>, after: Duration) {
        while self.bounces > 0 && now >= self.since + self.wait(after) * 2 {
            self.since = self.since + self.wait(after) * 2;
            self.bounces -= 1;
        }
        if self.fit != fit {
            (self.fit, self.since) = (fit, now);
        }
    }
}

impl Seat {
    pub(super) fn is_seated(&self, backend: &BackendStatus) -> bool {
        let within = self.pin.as_ref().is_none_or(|(name, tier)| *tier || *name == backend.name);
        within && Some(backend.priority) == self.active
    }

    fn may(&self, backend: &BackendStatus) -> bool {
        may_serve(backend, &self.passed_over)
    }

    pub(super) fn serving(&self, all: &[BackendStatus]) -> Vec<BackendId> {
        all.iter().filter(|b| self.may(b) && self.is_seated(b)).map(|b| b.id).collect()
    }

    /// The best of these tiers: fit ones go before slow ones.
    fn best<'a>(&self, of: impl Iterator<Item = &'a BackendStatus> + Clone) -> Option<u32> {
        let fit = of.clone().filter(|b| is_fit(b)).map(|b| b.priority).min();
        fit.or_else(|| of.filter(|b| self.may(b)).map(|b| b.priority).min())
    }

    /// From `before` to the present tier.
    fn moved(&mut self, now: MonoTime, before: u32, status: &PoolStatus, after: Duration) {
        if self.active < Some(before) && status.backends.iter().any(|b| b.priority == before && self.may(b)) {
            self.calm.returned(now, after);
        } else {
            let by_verdict = status.last_failover.as_ref().is_some_and(|last| last.reason.is_verdict());
            self.calm.left(now, self.lost.unwrap_or(now), by_verdict, after);
        }
    }

    /// What an order that is not refused makes of it; `status` is the pool after the order.
    pub(super) fn obey(&mut self, now: MonoTime, order: &Order, status: &PoolStatus, after: Duration) {
        let all = &status.backends;
        match order {
            Order::Failover { to, .. } => {
                let other = self.best(all.iter().filter(|b| Some(b.priority) != self.active));
                let target = match to {
                    Some(name) => all.iter().find(|b| b.name == *name).unwrap(),
                    None => all.iter().find(|b| Some(b.priority) == other && self.may(b)).unwrap(),
                };
                self.pin = Some((target.name.clone(), to.is_none()));
                self.active = Some(target.priority);
                self.calm.left(now, now, false, after);
            }
            Order::Failback { .. } => self.fail_back(now, status, after),
            Order::Pause { .. } => self.paused = true,
            Order::Resume { .. } => self.paused = false,
            // All others are about evidence.
            _ => return,
        }
        self.seated = all.iter().filter(|b| Some(b.priority) == self.active).map(|b| b.id).collect();
    }

    fn fail_back(&mut self, now: MonoTime, status: &PoolStatus, after: Duration) {
        let all = &status.backends;
        let (served, before) = (self.serving(all), self.active.unwrap());
        self.pin = None;
        let Some(best) = all.iter().filter(|b| is_fit(b)).map(|b| b.priority).min() else { return };
        self.active = Some(best);
        if served.is_empty() && best > before {
            self.moved(now, before, status, after);
        } else if (best < before || !served.is_empty()) && self.serving(all) != served {
            self.calm.returned(now, after);
        }
    }

    /// Failovers are numbered without a gap, and each is told in order.
    pub(super) fn tell(&mut self, change: &Change) {
        let Change::PoolFailover { number, status, .. } = change else { return };
        let (last, before) = self.told.unwrap_or((0, FailoverStatus::Failed));
        let expected = match (before, status) {
            (FailoverStatus::Completed | FailoverStatus::Failed, FailoverStatus::Pending) => last + 1,
            (FailoverStatus::Pending, FailoverStatus::InProgress | FailoverStatus::Failed)
            | (FailoverStatus::InProgress, FailoverStatus::Completed) => last,
            _ => panic!("{status} after {before}"),
        };
        assert_eq!(*number, expected);
        self.told = Some((*number, *status));
    }

    /// A new plan: those who sat keep the seat, the fit among them first. Without a new plan they are all one tier.
    fn keep(&mut self, all: &[BackendStatus], automatic: bool) {
        let stayed: Vec<&BackendStatus> = all.iter().filter(|b| self.seated.contains(&b.id)).collect();
        if self.active.is_some() {
            // A plan may also make well what was not: but not before the seat is kept.
            let was_well = |b: &&&BackendStatus| self.may(b) && (b.slow || self.well.contains(&b.id));
            let best = stayed.iter().filter(was_well).map(|b| b.priority).min();
            self.active = best.or_else(|| stayed.iter().map(|b| b.priority).min()).or(self.active);
        }
        if !automatic && all.iter().all(|b| Some(b.priority) != self.active) {
            self.active = None;
        }
        if let Some((name, tier)) = self.pin.take() {
            let stayed = stayed.into_iter().find(|_| tier);
            let pinned = all.iter().find(|b| b.name == name).or(stayed);
            self.active = pinned.map(|b| b.priority).or(self.active);
            self.pin = pinned.map(|b| (b.name.clone(), tier));
        }
    }

    /// Whom of the `slow` ones new sessions rather do without.
    fn weigh(&mut self, all: &[BackendStatus], slow: &BTreeSet<BackendId>, automatic: bool) {
        let reachable = |b: &&BackendStatus| match &self.pin {
            Some(_) => self.is_seated(b),
            None => automatic || self.active.is_none_or(|active| b.priority == active),
        };
        let fit: Vec<&BackendStatus> = all.iter().filter(|b| is_fit(b)).filter(reachable).collect();
        let faster = |b: &BackendStatus, slow: &BackendStatus| match (b.smoothed, slow.smoothed) {
            (Some(b), Some(slow)) => b.mean <= slow.mean.mul_f64(1.0 - MIN_GAIN),
            (None, _) | (_, None) => true,
        };
        let is_passed_over = |b: &&BackendStatus| {
            let stays = self.passed_over.contains(&b.id) && !fit.is_empty();
            slow.contains(&b.id) && (stays || fit.iter().any(|fit| faster(fit, b)))
        };
        self.passed_over = all.iter().filter(is_passed_over).map(|b| b.id).collect();
    }

    /// Who sits down, by the policy of the pool.
    fn choose(
        &self,
        now: MonoTime,
        all: &[BackendStatus],
        automatic: bool,
        failback: Failback,
        wait: Duration,
    ) -> Option<u32> {
        let best = self.best(all.iter());
        let ready = || all.iter().filter(|b| is_ready(b));
        let preferred = ready().map(|b| b.priority).min();
        let unasked = ready().filter(|b| b.health == HealthState::Unknown).map(|b| b.priority).min();
        match self.active {
            Some(active) if self.pin.is_some() => Some(active),
            None if automatic => best.filter(|&best| unasked.is_none_or(|unasked| unasked >= best)),
            None => best.filter(|_| best == preferred),
            Some(active) if !automatic => Some(active),
            Some(active) if !all.iter().any(|b| b.priority == active && self.may(b)) => Some(best.unwrap_or(active)),
            Some(active) if failback == Failback::Manual => Some(active),
            Some(active) => {
                let stable = |b: &&BackendStatus| is_fit(b) && now >= self.since[&b.id] + wait && b.priority < active;
                Some(all.iter().filter(stable).map(|b| b.priority).min().unwrap_or(active))
            }
        }
    }
}

/// Which tier is active: the rules once more, from what the controller says of its backends alone.
pub(super) fn model(rig: &Rig, status: &PoolStatus, mut seat: Seat) -> Seat {
    let pool = &rig.core.pools[&status.name];
    let policy = pool.plan.failover;
    let all = &status.backends;
    // Of one that is drained nobody is told that it is slow, too.
    let slow: BTreeSet<BackendId> = pool.members().iter().filter(|m| m.health.is_slow()).map(|m| m.id).collect();
    seat.since.retain(|id, _| all.iter().any(|b| b.id == *id && is_fit(b)));
    for backend in all.iter().filter(|b| is_fit(b)) {
        seat.since.entry(backend.id).or_insert(rig.now);
    }
    seat.keep(all, policy.automatic);
    seat.weigh(all, &slow, policy.automatic);
    let mut fit_tiers: BTreeMap<u32, MonoTime> = BTreeMap::new();
    for backend in all.iter().filter(|b| is_fit(b)) {
        let since = fit_tiers.entry(backend.priority).or_insert(rig.now);
        *since = seat.since[&backend.id].min(*since);
    }
    seat.calm.look(rig.now, fit_tiers, policy.failback_after);
    let wait = seat.calm.stable_time(policy.failback_after);
    let before = seat.active;
    seat.active = seat.choose(rig.now, all, policy.automatic, policy.failback, wait);
    match before {
        Some(before) if seat.active != Some(before) => seat.moved(rig.now, before, status, policy.failback_after),
        None if seat.active.is_some() => seat.calm.left(rig.now, rig.now, false, policy.failback_after),
        _ => {}
    }
    let serves = !seat.serving(all).is_empty();
    let empty = seat.active.is_some() || status.state == PoolState::Down;
    seat.lost = if serves || !empty { None } else { seat.lost.or(Some(rig.now)) };
    seat.paused = status.paused.is_some();
    seat.seated = all.iter().filter(|b| Some(b.priority) == seat.active).map(|b| b.id).collect();
    seat.well = all.iter().filter(|b| b.health == HealthState::Healthy).map(|b| b.id).collect();
    seat
}
