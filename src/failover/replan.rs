//! A new plan over a running one: what stays the same keeps its health, its sessions and its number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{
    Address, AdminState, BackendId, BackendName, BackendPlan, Epoch, HealthState, Load, MonoTime, Plan, PoolName,
    PoolPlan, ProbeSpec, TargetId,
};

use super::advised::Advised;
use super::change::Change;
use super::controller::{Controller, Turn};
use super::event::Command;
use super::health::Health;
use super::member::Member;
use super::pool::{Effects, Pool, Return};
use super::primary::Cluster;
use super::schedule::Wanted;
use super::tunnel::Tunnel;

/// What makes a backend the same across plans. At another address it is another backend, and so it is behind a tunnel.
type Identity = (BackendName, Address, bool);

impl Controller {
    /// Goes over to `plan`.
    pub(super) fn replace_plan(&mut self, now: MonoTime, plan: &Arc<Plan>, turn: &mut Turn, out: &mut Vec<Command>) {
        let first = !std::mem::replace(&mut self.planned, true);
        self.drain_timeout = plan.daemon.drain_timeout;
        turn.about = Some(self.differences(plan));
        let (watched, tunnelled) = (self.watched_servers(), self.tunnelled());
        // A cluster is another pool than one that is none.
        let stays = |name: &PoolName, pool: &Pool| {
            plan.pools.get(name).is_some_and(|plan| plan.postgres.is_some() == pool.cluster.is_some())
        };
        let gone = self.pools.iter().filter(|(name, pool)| !stays(name, pool));
        let gone: Vec<PoolName> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            let Some(mut pool) = self.pools.remove(&name) else { continue };
            let mut effects = Effects::default();
            remove_members(&mut pool, &|_| true, &mut effects);
            if let Some(cluster) = pool.cluster.take() {
                self.rests(name.clone(), cluster);
            }
            self.deadlines.retain(|(_, of)| *of != name);
            turn.touched.insert(name.clone());
            self.take(now, &name, effects, turn);
        }
        for (name, pool_plan) in &plan.pools {
            let mut effects = Effects::default();
            self.replan_pool(now, pool_plan, &mut effects);
            if first {
                effects.changes.clear();
            }
            turn.touched.insert(name.clone());
            self.take(now, name, effects, turn);
        }
        // Before anything is decided: what people keep out is never the first to serve.
        let memories = std::mem::take(&mut self.memories);
        self.restore(now, memories, turn);
        self.replan_tunnels(now, &tunnelled, turn);
        let pools = self.pools.iter();
        self.homes = pools.flat_map(|(name, pool)| pool.members().iter().map(|m| (m.id, name.clone()))).collect();
        self.retarget(now, out);
        self.rewatch(now, &watched, turn, out);
    }

    /// The pools that are not in `plan` what they are now.
    fn differences(&self, plan: &Plan) -> BTreeSet<PoolName> {
        let is_same = |name: &PoolName| {
            let (before, after) = (self.pools.get(name), plan.pools.get(name));
            before.zip(after).is_some_and(|(pool, after)| Arc::ptr_eq(&pool.plan, after) || pool.plan == *after)
        };
        let all = self.pools.keys().chain(plan.pools.keys());
        all.filter(|name| !is_same(name)).cloned().collect()
    }

    fn replan_pool(&mut self, now: MonoTime, plan: &Arc<PoolPlan>, effects: &mut Effects) {
        let (mut last_backend, seed) = (self.last_backend, self.seed);
        let absent = &mut self.absent;
        let pool = self.pools.entry(plan.name.clone()).or_insert_with(|| {
            let mut pool = Pool::new(Arc::clone(plan));
            if let Some(cluster) = &mut pool.cluster {
                *cluster = absent.remove(&plan.name).unwrap_or_else(Cluster::new);
            }
            pool
        });
        // Sessions of removed backends go by the policy under which they began.
        let seated = pool.seated();
        let planned: BTreeSet<Identity> = plan.backends.iter().map(identity).collect();
        // At another address it is another backend to probes, and the same to the operator who took it out to move it.
        let admins: BTreeMap<BackendName, AdminState> =
            pool.members().iter().map(|member| (member.plan.name.clone(), member.admin)).collect();
        let stopped: BTreeSet<BackendName> = pool.stopped_tunnels();
        remove_members(pool, &|member| !planned.contains(&identity(&member.plan)), effects);
        pool.damping.pass_time(now, pool.plan.failover.failback_after);
        pool.plan = Arc::clone(plan);
        let mut known: BTreeMap<Identity, Member> =
            pool.take_members().into_iter().map(|member| (identity(&member.plan), member)).collect();
        let mut members = Vec::with_capacity(plan.backends.len());
        for backend in &plan.backends {
            if let Some(mut member) = known.remove(&identity(backend)) {
                if take_plan(now, &mut member, backend) {
                    effects.returns.push(Return::Ready(member.id));
                }
                members.push(member);
            } else {
                last_backend = last_backend.next();
                effects.changes.push(Change::BackendRegistered { backend: backend.name.clone() });
                let mut member = new_member(now, last_backend, backend, pool.loads.make(), seed);
                member.admin = admins.get(&backend.name).copied().unwrap_or(AdminState::Ready);
                let tunnel = member.tunnel.as_mut().filter(|_| stopped.contains(&backend.name));
                tunnel.into_iter().for_each(|tunnel| tunnel.stay_stopped());
                members.push(member);
            }
        }
        pool.set_members(members);
        pool.keep_seated(&seated);
        pool.keep_pin(&seated, effects);
        self.last_backend = last_backend;
    }

    /// Has every address asked once in each way that is wanted, however many backends share the answer.
    fn retarget(&mut self, now: MonoTime, out: &mut Vec<Command>) {
        let mut wanted: BTreeMap<ProbeSpec, Wanted> = BTreeMap::new();
        for member in self.pools.values().flat_map(Pool::members).filter(|member| member.is_checked()) {
            let interval = member.plan.check.interval;
            let wanted = wanted.entry(probe_spec(&member.plan)).or_insert_with(|| Wanted::every(interval));
            wanted.interval = interval.min(wanted.interval);
            wanted.is_urgent |= member.health.state == HealthState::Unknown;
            // Nobody else is asked through the tunnel of one.
            wanted.rests |= member.health.has_no_way;
            wanted.subscribers.push(member.id);
        }
        self.schedule.replace(now, wanted, out);
        let hurry = self.schedule.hurry();
        for pool in self.pools.values_mut() {
            pool.hurry = hurry;
            let mut members = pool.take_members();
            for member in &mut members {
                member.target = self.schedule.target(&probe_spec(&member.plan)).unwrap_or_default();
            }
            pool.set_members(members);
            for member in pool.members() {
                // An interval that was shortened takes effect now, not after the old one has passed.
                if let Some(pace) = pool.pace(member) {
                    self.schedule.no_later_than(now, member.target, pace.longest());
                }
            }
        }
    }
}

fn identity(plan: &BackendPlan) -> Identity {
    (plan.name.clone(), plan.address.clone(), plan.tunnel.is_some())
}

fn probe_spec(plan: &BackendPlan) -> ProbeSpec {
    ProbeSpec {
        address: plan.address.clone(),
        kind: plan.check.kind.clone(),
        timeout: plan.check.timeout,
        approach: plan.approach.clone(),
    }
}

fn new_member(now: MonoTime, id: BackendId, plan: &BackendPlan, load: Arc<Load>, seed: u64) -> Member {
    // Each tunnel draws its own times, and the same ones from the same seed.
    let seed = seed ^ u64::from(id.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let tunnel = plan.tunnel.as_ref().map(|plan| Box::new(Tunnel::new(now, Arc::clone(plan), seed)));
    let mut health = Health::new(now);
    health.has_no_way = tunnel.is_some();
    Member {
        id,
        plan: plan.clone(),
        target: TargetId::default(),
        admin: AdminState::Ready,
        advised: Advised::default(),
        health,
        epoch: Epoch::default(),
        load,
        passed_over: false,
        eligible_since: None,
        tier: plan.priority,
        server: None,
        tunnel,
        told: None,
    }
}

/// Gives `member` its new plan. Says whether it is ready by that: what an agent asked for goes with the agent.
fn take_plan(now: MonoTime, member: &mut Member, plan: &BackendPlan) -> bool {
    let before = std::mem::replace(&mut member.plan, plan.clone()).check;
    if before == plan.check {
        return false;
    }
    member.health.another_check(now, &plan.check);
    let was = member.ordered();
    if before.kind != plan.check.kind {
        member.advised = Advised::default();
    }
    member.settle(now);
    was != member.ordered() && member.ordered() == AdminState::Ready
}

/// Takes the members that `is_gone` out of `pool`; their sessions go by the `drained` policy.
fn remove_members(pool: &mut Pool, is_gone: &dyn Fn(&Member) -> bool, effects: &mut Effects) {
    let gone: BTreeSet<BackendId> = pool.members().iter().filter(|m| is_gone(m)).map(|m| m.id).collect();
    if !gone.is_empty() {
        pool.departed.clear();
    }
    let newest = pool.members().iter().map(|member| member.id).max();
    for &id in &gone {
        pool.retire(id, newest.unwrap_or(id), effects);
    }
    let mut members = pool.take_members();
    members.retain(|member| !gone.contains(&member.id));
    pool.set_members(members);
}
