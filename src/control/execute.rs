//! Carries the controller's commands out, in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::failover::{Change, Command, Controller, Event, Figures, RouteTable, Transition};
use crate::model::{
    BackendId, BackendName, Direction, FailoverStatus, MonoTime, PoolKind, PoolName, ProbeOutcome, TunnelState,
};
use crate::probe::{Answer, Finished};
use crate::routing::{BackendLive, Fenced, Live, Pace, PoolLive, Published, Registry, RouteWriter};
use crate::sys::Clock;
use crate::telemetry::{Metrics, Phase};
use crate::tunnel;
use crate::watch;

use super::Observer;
use super::history::{Reports, Took};
use super::keep::Keeper;
use super::probes::Probes;
use super::record::Recorded;

/// The hands of the control task.
pub(super) struct Executor {
    pub(super) clock: Clock,
    pub(super) writer: RouteWriter,
    pub(super) registry: Registry,
    pub(super) metrics: Arc<Metrics>,
    pub(super) observer: Option<Observer>,
    watches: watch::Orders,
    tunnels: tunnel::Orders,
    outputs: tunnel::Outputs,
    live: Arc<Live>,
    /// The table in force.
    table: Arc<RouteTable>,
    /// Whether the counters of the last plan were published with it.
    is_published: bool,
    names: BTreeMap<BackendId, (PoolName, BackendName)>,
    departed: Departed,
    /// At which the clients of each pool's fences are closed.
    paces: BTreeMap<PoolName, Pace>,
}

/// What went with a plan, until the last session that counts on it has ended and no table names it.
#[derive(Default)]
struct Departed {
    backends: Vec<(BackendId, (PoolName, BackendName), Arc<BackendLive>)>,
    pools: Vec<(PoolName, Arc<PoolLive>)>,
}

impl Executor {
    pub(super) fn new(
        clock: Clock,
        writer: RouteWriter,
        registry: Registry,
        metrics: Arc<Metrics>,
        observer: Option<Observer>,
        watches: watch::Orders,
        (tunnels, outputs): (tunnel::Orders, tunnel::Outputs),
    ) -> Self {
        let (live, table, names, departed, paces) = Default::default();
        let is_published = true;
        Self {
            clock,
            writer,
            registry,
            metrics,
            observer,
            watches,
            tunnels,
            outputs,
            live,
            table,
            is_published,
            names,
            departed,
            paces,
        }
    }

    /// Makes counters for what came with a new plan. Those of what went stay for as long as a session counts on them.
    pub(super) fn adopt(&mut self, controller: &Controller) {
        let mut live = Live::default();
        let mut names = BTreeMap::new();
        for (id, pool, backend, load) in controller.backends() {
            let counters = self.live.backends.get(&id).cloned();
            let counters = counters.unwrap_or_else(|| {
                let metrics = self.metrics.backend(pool, backend);
                let load = Arc::clone(load);
                Arc::new(BackendLive::new(pool.clone(), backend.clone(), metrics, load))
            });
            live.backends.insert(id, counters);
            if !live.pools.contains_key(pool) {
                let counters = self.live.pools.get(pool).cloned();
                let counters = counters.unwrap_or_else(|| Arc::new(PoolLive::new(self.metrics.pool(pool))));
                live.pools.insert(pool.clone(), counters);
            }
            names.insert(id, (pool.clone(), backend.clone()));
        }
        // What a tunnel has said goes with it.
        let tunnelled = names.iter().filter(|(id, _)| controller.is_tunnelled(**id));
        self.outputs.retain(&tunnelled.map(|(_, name)| name.clone()).collect());
        let old = std::mem::replace(&mut self.live, Arc::new(live));
        for (id, counters) in old.backends.iter().filter(|(id, _)| !names.contains_key(id)) {
            counters.metrics.show_gone();
            if let Some(name) = self.names.get(id) {
                self.departed.backends.push((*id, name.clone(), Arc::clone(counters)));
            }
        }
        for (pool, counters) in old.pools.iter().filter(|(pool, _)| !self.live.pools.contains_key(*pool)) {
            self.metrics.hide_pool(pool);
            self.departed.pools.push((pool.clone(), Arc::clone(counters)));
        }
        self.names = names;
        self.is_published = false;
    }

    /// A new plan that leaves the table as it is has it published with the new counters all the same: those of what went
    /// would be held by the old ones until the next change.
    fn publish_counters(&mut self) {
        if !std::mem::replace(&mut self.is_published, true) {
            self.writer.publish(Published { table: Arc::clone(&self.table), live: Arc::clone(&self.live) });
        }
    }

    /// Forgets what went and is counted on by nobody any more: its series, and what is known of its fences.
    fn forget_departed(&mut self) {
        let is_over = |counters: &Arc<BackendLive>| Arc::strong_count(counters) == 1;
        let over: Vec<_> = self.departed.backends.extract_if(.., |(_, _, counters)| is_over(counters)).collect();
        if !over.is_empty() {
            // A set of all names takes its time, and this is looked at each turn.
            let leaving = self.departed.backends.iter().map(|(_, name, _)| name);
            let in_use: BTreeSet<&(PoolName, BackendName)> = self.names.values().chain(leaving).collect();
            for (id, name, _) in over {
                self.registry.forget(id);
                if !in_use.contains(&name) {
                    self.metrics.forget_backend(&name.0, &name.1);
                }
            }
        }
        self.departed.pools.retain(|(pool, counters)| {
            if Arc::strong_count(counters) > 1 {
                return true;
            }
            if !self.live.pools.contains_key(pool) {
                self.metrics.forget_pool(pool);
                self.paces.remove(pool);
            }
            false
        });
    }

    /// The names of a backend that is there, or was until lately.
    fn name_of(&self, id: BackendId) -> Option<&(PoolName, BackendName)> {
        let departed = || self.departed.backends.iter().find(|(departed, ..)| *departed == id).map(|(_, name, _)| name);
        self.names.get(&id).or_else(departed)
    }

    /// Counts answers, and notes what is told before those that failed.
    pub(super) fn count_checks(&self, controller: &Controller, ready: &[Finished], moved: &mut Vec<Event>) {
        for finished in ready {
            self.count_check(controller.subscribers(finished.target), &finished.answer);
            self.note_moved(controller, finished, moved);
        }
    }

    /// Counts a probe's answer for each backend that it is for, and its time if it was good.
    fn count_check(&self, backends: &[BackendId], answer: &Answer) {
        for live in backends.iter().filter_map(|id| self.live.backends.get(id)) {
            live.metrics.count_check(&answer.outcome, answer.time);
            if let ProbeOutcome::Passed { latency, .. } = answer.outcome {
                live.load.measured(latency);
            }
        }
    }

    /// Notes how many bytes the sessions of backends behind tunnels have moved, if the check has failed: a tunnel that carries
    /// something is not started anew for it.
    fn note_moved(&self, controller: &Controller, finished: &Finished, moved: &mut Vec<Event>) {
        if matches!(finished.answer.outcome, ProbeOutcome::Failed { .. }) {
            let tunnelled = controller.subscribers(finished.target).iter().filter(|id| controller.is_tunnelled(**id));
            let live = tunnelled.filter_map(|id| Some((*id, self.live.backends.get(id)?)));
            let all = |live: &BackendLive| Direction::ALL.iter().map(|direction| live.moved(*direction)).sum();
            moved.extend(live.map(|(backend, live)| Event::TunnelMoved { backend, moved: all(live) }));
        }
    }

    /// Shows what has changed of the figures of pools and backends: whoever reads them asks nobody.
    pub(super) fn show(&self, controller: &mut Recorded) {
        controller.tell_figures(&mut |figures| match figures {
            Figures::Pool(pool, figures) => self.metrics.show_pool(pool, &figures),
            Figures::Backend(id, figures) => {
                self.live.backends.get(&id).into_iter().for_each(|live| live.metrics.show(&figures));
            }
        });
    }

    /// Carries out the commands of one turn, which began at `began`. Returns what it has told, and how long it took.
    pub(super) fn carry_out(
        &mut self,
        began: MonoTime,
        commands: &mut Vec<Command>,
        probes: &Probes,
        keeper: &mut Keeper,
    ) -> Reports {
        let decided = self.clock.now();
        let mut transitions = Vec::new();
        for command in commands.drain(..) {
            match command {
                Command::KeepLineage { pool, lineage } => keeper.keep_lineage(pool, lineage),
                Command::PublishTable(table) => {
                    self.metrics.set_generation(table.generation);
                    self.table = Arc::clone(&table);
                    self.is_published = true;
                    self.writer.publish(Published { table, live: Arc::clone(&self.live) });
                }
                Command::FenceSessions { backend, epoch, reason, which } => {
                    // One that is forgotten has no session left to cut.
                    let Some((pool, name)) = self.name_of(backend).cloned() else { continue };
                    let pace = self.paces.entry(pool.clone()).or_default();
                    pace.begin(self.clock.now());
                    let Fenced { sessions, at_once, over } = self.registry.fence(backend, epoch, which, reason, pace);
                    if sessions > 0 {
                        let over_ms = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
                        tracing::warn!(%pool, backend = %name, %reason, sessions, at_once, over_ms, "sessions closed");
                    }
                }
                Command::StartProbe { target, probe, spec } => probes.start(target, probe, spec),
                Command::StopProbe { target } => probes.stop(target),
                Command::StartWatch { backend, watch, spec } => {
                    self.watches.give(backend, watch::Order::Start { watch, spec });
                }
                Command::Knock { backend } => self.watches.give_if_none(backend, watch::Order::Knock),
                Command::StopWatch { backend } => self.watches.give(backend, watch::Order::Stop),
                Command::Report(transition) => transitions.push(transition),
                Command::StartTunnel { backend, run, plan } => {
                    self.tunnels.give(backend, tunnel::Order::Start { run, plan });
                }
                Command::StopTunnel { backend } => self.tunnels.give(backend, tunnel::Order::Stop),
            }
        }
        self.publish_counters();
        let published = self.clock.now();
        self.forget_departed();
        let took = Took { decide: decided.since(began), publish: published.since(decided) };
        for transition in &transitions {
            self.measure(transition, took, published);
            self.report(transition);
        }
        Reports { transitions, took }
    }

    /// Keeps the time of each part of a failover, and the counts.
    fn measure(&self, transition: &Transition, Took { decide, publish }: Took, published: MonoTime) {
        let Transition { pool: Some(pool), change, .. } = transition else { return };
        match change {
            Change::PoolFailover { status: FailoverStatus::Completed, reason, detect, duration, .. } => {
                self.metrics.count_failover(pool, reason.label());
                self.metrics.observe_phase(pool, Phase::Detect, *detect);
                if self.is_cluster(pool) {
                    self.metrics.observe_phase(pool, Phase::Promote, duration.saturating_sub(*detect));
                }
                self.metrics.observe_phase(pool, Phase::Decide, decide);
                self.metrics.observe_phase(pool, Phase::Publish, publish);
                if let Some(live) = self.live.pools.get(pool) {
                    live.failed_over(published);
                }
            }
            Change::PoolFailback { .. } | Change::PoolRecovered { .. } => self.metrics.count_recovery(pool),
            Change::BackendHealthy { .. }
            | Change::BackendUnhealthy { .. }
            | Change::BackendAdminState { .. }
            | Change::BackendRegistered { .. }
            | Change::BackendRemoved { .. }
            | Change::PoolFailover { .. }
            | Change::PoolDegraded
            | Change::PoolDown { .. }
            | Change::PoolPaused { .. }
            | Change::PoolResumed { .. }
            | Change::PoolUnpinned { .. }
            | Change::LatencyHigh { .. }
            | Change::PrimaryChanged { .. }
            | Change::PrimaryRefused { .. }
            | Change::SplitBrain { .. }
            | Change::BackendLagging { .. }
            | Change::Tunnel { .. }
            | Change::WasStalled { .. } => {}
        }
    }

    /// Whether the servers of `pool` are a PostgreSQL cluster, by the table in force.
    fn is_cluster(&self, pool: &PoolName) -> bool {
        self.table.pools.get(pool).is_some_and(|routes| routes.kind == PoolKind::Postgres)
    }

    fn report(&mut self, transition: &Transition) {
        let Transition { pool, change, .. } = transition;
        let pool = pool.as_ref().map(PoolName::as_str);
        let kind = change.kind();
        match change {
            // It is the step between two that are told.
            Change::PoolFailover { status: FailoverStatus::InProgress, .. } => tracing::debug!(kind, pool, "{change}"),
            Change::BackendUnhealthy { .. }
            | Change::PoolFailover { .. }
            | Change::PoolDown { .. }
            | Change::PoolDegraded
            | Change::LatencyHigh { .. }
            | Change::PrimaryChanged { .. }
            | Change::PrimaryRefused { .. }
            | Change::SplitBrain { .. }
            | Change::BackendLagging { .. }
            | Change::Tunnel { state: TunnelState::Reconnecting | TunnelState::Failed, .. }
            | Change::WasStalled { .. } => tracing::warn!(kind, pool, "{change}"),
            Change::BackendHealthy { .. }
            | Change::BackendAdminState { .. }
            | Change::BackendRegistered { .. }
            | Change::BackendRemoved { .. }
            | Change::PoolFailback { .. }
            | Change::PoolRecovered { .. }
            | Change::PoolPaused { .. }
            | Change::PoolResumed { .. }
            | Change::PoolUnpinned { .. }
            | Change::Tunnel {
                state: TunnelState::Disconnected | TunnelState::Connecting | TunnelState::Connected,
                ..
            } => tracing::info!(kind, pool, "{change}"),
        }
        if let Some(observer) = &mut self.observer {
            observer(transition);
        }
    }
}
