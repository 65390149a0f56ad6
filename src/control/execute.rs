//! Carries the controller's commands out, in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::failover::{Change, Command, Controller, Transition};
use crate::model::{BackendId, BackendName, MonoTime, PoolName, ProbeOutcome};
use crate::routing::{BackendLive, Live, PoolLive, Published, Registry, RouteWriter};
use crate::sys::Clock;
use crate::telemetry::{Metrics, Phase};

use super::Observer;
use super::probes::Probes;

/// The hands of the control task.
pub(super) struct Executor {
    pub(super) clock: Clock,
    pub(super) writer: RouteWriter,
    pub(super) registry: Registry,
    pub(super) metrics: Arc<Metrics>,
    pub(super) observer: Option<Observer>,
    live: Arc<Live>,
    names: BTreeMap<BackendId, (PoolName, BackendName)>,
    /// Backends that went with the last plan: nobody can hold a table with them any more by the next.
    gone: Vec<BackendId>,
}

impl Executor {
    pub(super) fn new(
        clock: Clock,
        writer: RouteWriter,
        registry: Registry,
        metrics: Arc<Metrics>,
        observer: Option<Observer>,
    ) -> Self {
        let (live, names, gone) = Default::default();
        Self { clock, writer, registry, metrics, observer, live, names, gone }
    }

    /// Makes counters for what came with a new plan, and forgets those of what went.
    pub(super) fn adopt(&mut self, controller: &Controller) {
        for backend in std::mem::take(&mut self.gone) {
            self.registry.forget(backend);
        }
        let names: BTreeMap<BackendId, (PoolName, BackendName)> =
            controller.backends().map(|(id, pool, backend)| (id, (pool.clone(), backend.clone()))).collect();
        let in_use: BTreeSet<&(PoolName, BackendName)> = names.values().collect();
        for (id, name) in self.names.iter().filter(|(id, _)| !names.contains_key(id)) {
            self.gone.push(*id);
            if !in_use.contains(name) {
                self.metrics.forget_backend(&name.0, &name.1);
            }
        }
        let mut live = Live::default();
        for (id, (pool, backend)) in &names {
            let known = self.live.backends.get(id).cloned();
            let counters =
                known.unwrap_or_else(|| Arc::new(BackendLive { metrics: self.metrics.backend(pool, backend) }));
            live.backends.insert(*id, counters);
            if !live.pools.contains_key(pool) {
                let known = self.live.pools.get(pool).cloned();
                let counters = known.unwrap_or_else(|| Arc::new(PoolLive::new(self.metrics.pool(pool))));
                live.pools.insert(pool.clone(), counters);
            }
        }
        for pool in self.live.pools.keys().filter(|pool| !live.pools.contains_key(*pool)) {
            self.metrics.forget_pool(pool);
        }
        self.live = Arc::new(live);
        self.names = names;
    }

    /// Counts a probe's answer for each backend that it is for.
    pub(super) fn count_check(&self, backends: &[BackendId], outcome: &ProbeOutcome, time: Duration) {
        for live in backends.iter().filter_map(|id| self.live.backends.get(id)) {
            live.metrics.count_check(outcome, time);
        }
    }

    /// Carries out the commands of one turn, which began at `began`.
    pub(super) fn carry_out(&mut self, began: MonoTime, commands: &mut Vec<Command>, probes: &mut Probes) {
        let decided = self.clock.now();
        let mut reports = Vec::new();
        for command in commands.drain(..) {
            match command {
                Command::PublishTable(table) => {
                    self.metrics.set_generation(table.generation);
                    self.writer.publish(Published { table, live: Arc::clone(&self.live) });
                }
                Command::FenceSessions { backend, epoch, reason } => {
                    let cut = self.registry.fence(backend, epoch, reason);
                    if cut > 0 {
                        let (pool, name) = self.names.get(&backend).cloned().unzip();
                        let (pool, name) = (pool.map(|p| p.to_string()), name.map(|n| n.to_string()));
                        tracing::warn!(pool, backend = name, %reason, sessions = cut, "sessions closed");
                    }
                }
                Command::StartProbe { target, probe, spec } => probes.start(target, probe, spec),
                Command::StopProbe { target } => probes.stop(target),
                Command::Report(transition) => reports.push(transition),
            }
        }
        let published = self.clock.now();
        for transition in &reports {
            self.measure(transition, decided.since(began), published.since(decided), published);
            self.report(transition);
        }
    }

    /// Keeps the time of each part of a failover, and the counts.
    fn measure(&self, transition: &Transition, decide: Duration, publish: Duration, published: MonoTime) {
        let Transition { pool, change } = transition;
        match change {
            Change::PoolFailover { reason, detect, .. } => {
                self.metrics.count_failover(pool, reason.label());
                self.metrics.observe_phase(pool, Phase::Detect, *detect);
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
            | Change::PoolDegraded
            | Change::PoolDown { .. } => {}
        }
    }

    fn report(&mut self, transition: &Transition) {
        let Transition { pool, change } = transition;
        let kind = change.kind();
        match change {
            Change::BackendUnhealthy { .. }
            | Change::PoolFailover { .. }
            | Change::PoolDown { .. }
            | Change::PoolDegraded => tracing::warn!(kind, %pool, "{change}"),
            Change::BackendHealthy { .. }
            | Change::BackendAdminState { .. }
            | Change::BackendRegistered { .. }
            | Change::BackendRemoved { .. }
            | Change::PoolFailback { .. }
            | Change::PoolRecovered { .. } => tracing::info!(kind, %pool, "{change}"),
        }
        if let Some(observer) = &mut self.observer {
            observer(transition);
        }
    }
}
