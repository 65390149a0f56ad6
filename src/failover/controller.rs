//! The one that decides: told of events and the time, it says what is to be done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    Actor, AdminState, BackendId, BackendName, Load, MonoTime, PoolName, ProbeId, ProbeOutcome, SessionPolicy,
    TargetId, WatchId,
};

use super::change::Transition;
use super::departures::{Departure, Departures};
use super::event::{Command, Event, Sessions};
use super::evidence::Next;
use super::memory::PoolMemory;
use super::order::Order;
use super::pool::{Effects, Eviction, Pool};
use super::primary::Cluster;
use super::recovery::Pace;
use super::schedule::Schedule;
use super::table::RouteTable;

/// Every pool, every schedule and the table that follows from them.
///
/// A pure function of the seed, the events and the times it was told. Feed it one event at a time
/// and carry out all commands before the next.
#[derive(Debug)]
pub struct Controller {
    pub(super) pools: BTreeMap<PoolName, Pool>,
    /// Which pool a backend belongs to.
    pub(super) homes: BTreeMap<BackendId, PoolName>,
    pub(super) schedule: Schedule,
    /// Sessions that may go on until the time is up.
    pub(super) departures: Departures,
    /// When a pool wants to decide though nothing happens; as each pool says, for looking up by time.
    pub(super) deadlines: BTreeSet<(MonoTime, PoolName)>,
    /// Whether there has been a plan.
    pub(super) planned: bool,
    /// What the last process remembered, until there is a plan.
    pub(super) memories: BTreeMap<PoolName, PoolMemory>,
    /// What is known of clusters that are in no plan now: should they be again, an old primary is not believed.
    pub(super) absent: BTreeMap<PoolName, Cluster>,
    pub(super) last_backend: BackendId,
    pub(super) last_watch: WatchId,
    /// What spreads the tries of each tunnel in time is made from it.
    pub(super) seed: u64,
    pub(super) drain_timeout: Duration,
    /// Pools whose figures may have changed since they were told.
    pub(super) untold: BTreeSet<PoolName>,
    pub(super) table: Arc<RouteTable>,
}

/// What one turn has gathered so far.
#[derive(Debug)]
pub(super) struct Turn {
    /// Who had it done.
    pub(super) actor: Actor,
    /// The pools that it is for; all of them if left open. What comes due elsewhere meanwhile is nobody's order.
    pub(super) about: Option<BTreeSet<PoolName>>,
    /// The pools whose choice may have changed.
    pub(super) touched: BTreeSet<PoolName>,
    pub(super) fences: Vec<Command>,
    pub(super) reports: Vec<Transition>,
    /// Lines of history that are to be written down.
    pub(super) keeps: Vec<Command>,
    /// Servers that are to be watched.
    pub(super) watches: Vec<Command>,
    /// Tunnels that are to be started and stopped.
    pub(super) tunnels: Vec<Command>,
}

impl Turn {
    fn new() -> Self {
        Self {
            actor: Actor::changeover(),
            about: None,
            touched: BTreeSet::new(),
            fences: Vec::new(),
            reports: Vec::new(),
            keeps: Vec::new(),
            watches: Vec::new(),
            tunnels: Vec::new(),
        }
    }

    fn keep(&mut self, pool: &PoolName, effects: &mut Effects) {
        let keep = |lineage| Command::KeepLineage { pool: pool.clone(), lineage };
        self.keeps.extend(effects.lineage.take().map(keep));
    }

    pub(super) fn report(&mut self, pool: &PoolName, effects: &mut Effects) {
        let Self { actor, about, reports, .. } = self;
        let is_theirs = about.as_ref().is_none_or(|about| about.contains(pool));
        let actor = if is_theirs { actor.clone() } else { Actor::changeover() };
        let changes = effects.changes.drain(..);
        reports.extend(changes.map(|change| Transition { pool: Some(pool.clone()), actor: actor.clone(), change }));
    }
}

impl Controller {
    /// A controller that knows of no pool yet; tell it [`Event::PlanReplaced`]. `seed` spreads the probes in time.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            pools: BTreeMap::new(),
            homes: BTreeMap::new(),
            schedule: Schedule::new(seed),
            departures: Departures::default(),
            deadlines: BTreeSet::new(),
            planned: false,
            memories: BTreeMap::new(),
            absent: BTreeMap::new(),
            last_backend: BackendId::default(),
            last_watch: WatchId::default(),
            seed,
            drain_timeout: Duration::ZERO,
            untold: BTreeSet::new(),
            table: Arc::new(RouteTable::default()),
        }
    }

    /// Takes in one event and adds to `out` what is to be done, in order: a new line of history is written down before the
    /// table, the table before the fences, the fences before the reports. A cluster's new write target is in a second table,
    /// after the fences, and not in this turn's if its line of history is new: [`Event::LineageKept`] brings it.
    pub fn handle(&mut self, now: MonoTime, event: Event, out: &mut Vec<Command>) {
        let mut turn = Turn::new();
        match event {
            Event::Tick => {}
            Event::Watched { backend, watch, news } => self.watched(now, backend, watch, &news, &mut turn),
            Event::ProbeFinished { target, probe, outcome } => {
                self.probe_finished(now, target, probe, &outcome, &mut turn);
            }
            Event::ProbesFinished { answers } => {
                for (target, probe, outcome) in answers {
                    self.probe_finished(now, target, probe, &outcome, &mut turn);
                }
            }
            Event::DialFailed { backend, epoch, error } => self.dial_failed(now, backend, epoch, error, &mut turn),
            Event::EndedEarly { backend, epoch, sessions, answered } => {
                self.ended_early(now, backend, epoch, sessions, answered, &mut turn);
            }
            Event::DataStalled { backend, epoch, silent } => self.data_stalled(now, backend, epoch, silent),
            Event::WasStalled { since } => self.was_stalled(now, since, &mut turn),
            Event::Ordered { actor, order } => {
                turn.actor = actor;
                turn.about = Some(BTreeSet::from([order.pool().clone()]));
                self.carry_out(now, &order, &mut turn);
            }
            Event::Restored { pools } if self.planned => self.restore(now, pools, &mut turn),
            Event::Restored { pools } => self.memories = pools,
            Event::LineageKept { pool, lineage } => self.lineage_kept(pool, &lineage, &mut turn),
            Event::Tunnel { backend, run, news } => self.tunnel_told(now, backend, run, &news, &mut turn),
            Event::TunnelMoved { backend, moved } => self.tunnel_moved(backend, moved),
            Event::WorldChanged { what: _ } => self.world_changed(now, &mut turn),
            Event::PlanReplaced { plan, actor } => {
                turn.actor = actor;
                self.replace_plan(now, &plan, &mut turn, out);
            }
        }
        self.pass_time(now, &mut turn);
        self.settle(now, turn, out);
        self.schedule.start_due(now, out);
    }

    /// When to come back with [`Event::Tick`] if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonoTime> {
        let pool = self.deadlines.first().map(|&(at, _)| at);
        pool.into_iter().chain(self.departures.next_due()).chain(self.schedule.next_due()).min()
    }

    /// The table last published.
    #[must_use]
    pub fn table(&self) -> &Arc<RouteTable> {
        &self.table
    }

    /// Whether every backend that may serve has had its first verdict.
    #[must_use]
    pub fn has_first_verdicts(&self) -> bool {
        self.pools.values().all(Pool::has_first_verdicts)
    }

    /// Every backend with its pool's name, its own, and what it carries.
    pub fn backends(&self) -> impl Iterator<Item = (BackendId, &PoolName, &BackendName, &Arc<Load>)> {
        let pools = self.pools.iter();
        pools.flat_map(|(name, pool)| pool.members().iter().map(move |m| (m.id, name, &m.plan.name, &m.load)))
    }

    /// Whether a tunnel leads to `backend`.
    #[must_use]
    pub fn is_tunnelled(&self, backend: BackendId) -> bool {
        let pool = self.homes.get(&backend).and_then(|name| self.pools.get(name));
        pool.and_then(|pool| pool.member(backend)).is_some_and(|member| member.tunnel.is_some())
    }

    /// The backends that the answers of `target` are for.
    #[must_use]
    pub fn subscribers(&self, target: TargetId) -> &[BackendId] {
        self.schedule.subscribers(target)
    }

    /// Whether an answer is waited for.
    #[must_use]
    pub fn has_open_questions(&self) -> bool {
        self.schedule.has_open()
    }

    fn probe_finished(
        &mut self,
        now: MonoTime,
        target: TargetId,
        probe: ProbeId,
        outcome: &ProbeOutcome,
        turn: &mut Turn,
    ) {
        let Some(subscribers) = self.schedule.finish(target, probe) else { return };
        let mut at_once = false;
        let mut soonest: Option<Pace> = None;
        for id in subscribers {
            let Some((name, pool)) = self.home_mut(id) else { continue };
            let mut effects = Effects::default();
            let Some(next) = pool.observe(now, id, outcome, &mut effects) else { continue };
            let Next { at_once: again, pace, decided } = next;
            at_once |= again;
            soonest = soonest.into_iter().chain(pace).min_by_key(|pace| pace.longest());
            if decided {
                turn.touched.insert(name.clone());
            }
            self.take(now, &name, effects, turn);
        }
        if at_once {
            self.schedule.ask_again(now, target);
        } else {
            self.schedule.plan_next(now, target, soonest);
        }
    }

    /// Carries out what an operator wants, if it can be.
    fn carry_out(&mut self, now: MonoTime, order: &Order, turn: &mut Turn) {
        if self.refusal(now, order).is_some() {
            return;
        }
        match order {
            Order::SetAdminState { pool, backend, state } => {
                let id = self.named(pool, backend);
                id.into_iter().for_each(|id| self.set_admin(now, id, *state, turn));
            }
            Order::Failover { .. } | Order::Failback { .. } | Order::Pause { .. } | Order::Resume { .. } => {
                self.direct(now, order, turn);
            }
            Order::PushHealth { pool, backend, pushed } => self.push_health(now, pool, backend, pushed, turn),
            Order::ReportFailure { pool, backend, error } => self.report_failure(now, pool, backend, error, turn),
            Order::ReportSuccess { pool, backend } => self.report_success(pool, backend),
            Order::Reset { pool, backend } => self.reset(now, pool, backend.as_ref(), turn),
            Order::Probe { pool, backend } => self.probe_now(now, pool, backend.as_ref()),
            Order::Tunnel { pool, backend, wanted } => self.order_tunnel(now, pool, backend, *wanted, turn),
        }
    }

    fn set_admin(&mut self, now: MonoTime, backend: BackendId, state: AdminState, turn: &mut Turn) {
        let Some((name, pool)) = self.home_mut(backend) else { return };
        let mut effects = Effects::default();
        pool.set_admin(now, backend, state, &mut effects);
        turn.touched.insert(name.clone());
        self.take(now, &name, effects, turn);
    }

    /// What is due by now.
    fn pass_time(&mut self, now: MonoTime, turn: &mut Turn) {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        turn.touched.extend(due.map(|(_, name)| name.clone()));
        while let Some(Departure { backend, epoch, reason, which, .. }) = self.departures.pop_due(now) {
            turn.fences.push(Command::FenceSessions { backend, epoch, reason, which });
            if which == Sessions::All && !self.homes.contains_key(&backend) {
                let clusters = self.pools.values_mut().filter_map(|pool| pool.cluster.as_mut());
                clusters
                    .chain(self.absent.values_mut())
                    .for_each(|of| of.gone.retain(|gone| !gone.is_over(backend, epoch)));
            }
        }
    }

    /// Lets every touched pool decide, then puts the commands in their order, after the lines of history that are to be kept:
    ///
    /// | the pool | the table | fences | another table | reports |
    /// |---|---|---|---|---|
    /// | no cluster; or those who write are led where they were led, or nowhere; or no other server is fenced | as decided | those there are | | what changed |
    /// | a cluster in which they are led to another one, while others of its servers are fenced | nobody is led to that one, through whichever target | of the others | as decided | the same |
    fn settle(&mut self, now: MonoTime, mut turn: Turn, out: &mut Vec<Command>) {
        let touched = std::mem::take(&mut turn.touched);
        for name in &touched {
            self.decide(now, name, &mut turn);
        }
        let waiting = touched.iter().filter(|name| self.must_fence_first(name, &turn.fences));
        let waiting: BTreeSet<PoolName> = waiting.cloned().collect();
        out.append(&mut turn.keeps);
        self.publish(&touched, &waiting, out);
        out.append(&mut turn.fences);
        self.publish(&waiting, &BTreeSet::new(), out);
        self.untold.extend(touched);
        out.extend(turn.reports.into_iter().map(Command::Report));
        out.append(&mut turn.tunnels);
        out.append(&mut turn.watches);
    }

    /// Lets pool `name` decide, if it is there still.
    fn decide(&mut self, now: MonoTime, name: &PoolName, turn: &mut Turn) {
        let Some(pool) = self.pools.get_mut(name) else { return };
        let mut effects = Effects::default();
        pool.decide(now, &mut effects);
        if pool.is_empty_seat() {
            for member in pool.members() {
                if let Some(pace) = pool.pace(member) {
                    self.schedule.no_later_than(now, member.target, pace.longest());
                }
            }
        }
        let deadline = pool.next_deadline();
        if let Some(before) = std::mem::replace(&mut pool.deadline, deadline) {
            self.deadlines.remove(&(before, name.clone()));
        }
        self.deadlines.extend(deadline.map(|at| (at, name.clone())));
        self.take(now, name, effects, turn);
    }

    /// Takes over what a pool wants done.
    pub(super) fn take(&mut self, now: MonoTime, pool: &PoolName, mut effects: Effects, turn: &mut Turn) {
        turn.report(pool, &mut effects);
        turn.keep(pool, &mut effects);
        turn.tunnels.append(&mut effects.tunnels);
        for (target, is_open) in effects.ways {
            if is_open { self.schedule.wake(now, target) } else { self.schedule.rest(target) }
        }
        effects.suspects.iter().for_each(|&(target, again)| self.schedule.ask_soon(now, target, again));
        self.departures.stay(&effects.returns);
        self.evict(now, effects.evictions, turn);
    }

    fn evict(&mut self, now: MonoTime, evictions: Vec<Eviction>, turn: &mut Turn) {
        for Eviction { backend, epoch, reason, policy, which } in evictions {
            // Without time to drain they are closed in this turn, before anything else is served from.
            let is_at_once = policy == SessionPolicy::Close || self.drain_timeout.is_zero();
            match policy {
                SessionPolicy::Keep => {}
                SessionPolicy::Close | SessionPolicy::Drain if is_at_once => {
                    self.departures.are_fenced(backend, epoch, which);
                    turn.fences.push(Command::FenceSessions { backend, epoch, reason, which });
                }
                SessionPolicy::Close | SessionPolicy::Drain => {
                    self.departures.add(Departure { at: now + self.drain_timeout, backend, epoch, reason, which });
                }
            }
        }
    }

    pub(super) fn home_mut(&mut self, id: BackendId) -> Option<(PoolName, &mut Pool)> {
        let name = self.homes.get(&id)?.clone();
        let pool = self.pools.get_mut(&name)?;
        Some((name, pool))
    }
}
