//! The registry of all series, and its text.

use std::time::Duration;

use prometheus::{Encoder, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

use crate::model::{
    BackendName, BackendStatus, Generation, ListenerName, OutReason, PipeRefusal, PoolName, PoolState, PoolStatus,
    Redundancy, SessionEnd,
};

use super::family::Maker;
use super::series::{BackendMetrics, BackendVecs, ListenerMetrics, ListenerVecs, PipeMetrics, PoolMetrics};

/// A part of the time from a backend's death to the first session elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// From the first evidence to the verdict.
    Detect,
    /// From the verdict's arrival to the decision.
    Decide,
    /// From the decision to the table being in force and the fences done.
    Publish,
    /// From there to the first session that is established elsewhere.
    FirstSession,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Detect, Self::Decide, Self::Publish, Self::FirstSession];

    const fn label(self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::Decide => "decide",
            Self::Publish => "publish",
            Self::FirstSession => "first_session",
        }
    }
}

/// Every series of the daemon. Made once and shared.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    listeners: ListenerVecs,
    backends: BackendVecs,
    hold_seconds: HistogramVec,
    pool_state: IntGaugeVec,
    pool_redundancy: IntGaugeVec,
    failovers: IntCounterVec,
    recoveries: IntCounterVec,
    failover_seconds: HistogramVec,
    sessions_closed: IntCounterVec,
    config_reloads: IntCounterVec,
    pipe_refusals: IntCounterVec,
    generation: IntGauge,
    recording: IntGauge,
    store: StoreSeries,
}

/// What the store says of itself.
#[derive(Debug)]
struct StoreSeries {
    degraded: IntGauge,
    failed_writes: IntCounter,
    history_events: IntGauge,
}

impl StoreSeries {
    fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            degraded: make.gauge("store_degraded", "1 while the disk fails, so that new things are in memory only.")?,
            failed_writes: make.counter("store_failed_writes_total", "Writes of state and history that failed.")?,
            history_events: make.gauge("history_events", "Events of the history that are on disk.")?,
        })
    }
}

impl Metrics {
    /// A registry with every family in it.
    ///
    /// # Errors
    ///
    /// If two families had one name: a fault in the program that any start would show.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let make = Maker::new(&registry);
        let build = make.gauges("build_info", "What is running; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let generation = IntGauge::new("changeover_route_table_generation", "Number of the route table in force.")?;
        registry.register(Box::new(generation.clone()))?;
        let recording = IntGauge::new("changeover_recording_active", "1 while decisions are recorded.")?;
        registry.register(Box::new(recording.clone()))?;
        let config_reloads = make.counters("config_reloads_total", "Reloads by result.", &["result"])?;
        for result in ["reloaded", "rejected"] {
            config_reloads.with_label_values(&[result]);
        }
        Ok(Self {
            listeners: ListenerVecs::new(&make)?,
            backends: BackendVecs::new(&make)?,
            hold_seconds: make.histograms("hold_seconds", "Time clients were held, in seconds.", &["pool"])?,
            pool_state: make.gauges("pool_state", "1 for the state the pool is in.", &["pool", "state"])?,
            pool_redundancy: make.gauges("pool_redundancy", "Healthy backends: 0, 1, 2, 3 = more.", &["pool"])?,
            failovers: make.counters("failover_total", "Failovers by reason.", &["pool", "reason"])?,
            recoveries: make.counters(
                "recoveries_total",
                "Times the pool served again after nothing did, or returned to a better tier.",
                &["pool"],
            )?,
            failover_seconds: make.histograms(
                "failover_seconds",
                "Parts of the time a failover took, in seconds.",
                &["pool", "phase"],
            )?,
            sessions_closed: make.counters(
                "sessions_closed_total",
                "Sessions ended, by reason.",
                &["pool", "reason"],
            )?,
            config_reloads,
            pipe_refusals: make.counters(
                "pipe_refusals_total",
                "Times a stream got no pipe and was copied instead, which takes about twice the processor time.",
                &["reason"],
            )?,
            generation,
            recording,
            store: StoreSeries::new(&make)?,
            registry,
        })
    }

    /// The handles of a listener.
    #[must_use]
    pub fn listener(&self, name: &ListenerName) -> ListenerMetrics {
        self.listeners.handles(name)
    }

    /// The handles of a backend.
    #[must_use]
    pub fn backend(&self, pool: &PoolName, backend: &BackendName) -> BackendMetrics {
        self.backends.handles(pool, backend)
    }

    /// The handles of what threads lend to streams.
    #[must_use]
    pub fn pipes(&self) -> PipeMetrics {
        let counters = PipeRefusal::LABELS.iter().map(|reason| self.pipe_refusals.with_label_values(&[*reason]));
        PipeMetrics { refusals: counters.collect() }
    }

    /// The handles of a pool.
    #[must_use]
    pub fn pool(&self, pool: &PoolName) -> PoolMetrics {
        let name = pool.as_str();
        let phase = |phase: Phase| self.failover_seconds.with_label_values(&[name, phase.label()]);
        self.recoveries.with_label_values(&[name]);
        PoolMetrics {
            hold_seconds: self.hold_seconds.with_label_values(&[name]),
            first_session_seconds: phase(Phase::FirstSession),
            sessions_closed: SessionEnd::LABELS
                .iter()
                .map(|reason| self.sessions_closed.with_label_values(&[name, *reason]))
                .collect(),
        }
    }

    /// Drops the series of a listener that is gone.
    pub fn forget_listener(&self, name: &ListenerName) {
        self.listeners.forget(name);
    }

    /// Drops the series of a backend that is gone.
    pub fn forget_backend(&self, pool: &PoolName, backend: &BackendName) {
        self.backends.forget(pool, backend);
    }

    /// Drops the series of a pool that is gone. A series that was never there is no error.
    pub fn forget_pool(&self, pool: &PoolName) {
        let name = pool.as_str();
        drop(self.hold_seconds.remove_label_values(&[name]));
        drop(self.pool_redundancy.remove_label_values(&[name]));
        drop(self.recoveries.remove_label_values(&[name]));
        for state in PoolState::LABELS {
            drop(self.pool_state.remove_label_values(&[name, *state]));
        }
        for phase in Phase::ALL {
            drop(self.failover_seconds.remove_label_values(&[name, phase.label()]));
        }
        for reason in SessionEnd::LABELS {
            drop(self.sessions_closed.remove_label_values(&[name, *reason]));
        }
        for reason in OutReason::LABELS {
            drop(self.failovers.remove_label_values(&[name, *reason]));
        }
    }

    /// Counts a failover.
    pub fn count_failover(&self, pool: &PoolName, reason: &str) {
        self.failovers.with_label_values(&[pool.as_str(), reason]).inc();
    }

    /// Counts a recovery.
    pub fn count_recovery(&self, pool: &PoolName) {
        self.recoveries.with_label_values(&[pool.as_str()]).inc();
    }

    /// Notes how long a part of a failover took.
    pub fn observe_phase(&self, pool: &PoolName, phase: Phase, time: Duration) {
        self.failover_seconds.with_label_values(&[pool.as_str(), phase.label()]).observe(time.as_secs_f64());
    }

    /// Counts a reload that was carried out, or not.
    pub fn count_reload(&self, carried_out: bool) {
        let result = if carried_out { "reloaded" } else { "rejected" };
        self.config_reloads.with_label_values(&[result]).inc();
    }

    /// Notes the number of the table in force.
    pub fn set_generation(&self, generation: Generation) {
        self.generation.set(i64::try_from(generation.0).unwrap_or(i64::MAX));
    }

    /// Notes whether decisions are recorded.
    pub fn set_recording(&self, under_way: bool) {
        self.recording.set(under_way.into());
    }

    /// Notes what the store says of itself: whether the disk fails, how many writes have failed so far, and how many
    /// events are on disk.
    pub fn show_store(&self, is_degraded: bool, failed_writes: u64, history_events: u64) {
        let StoreSeries { degraded, failed_writes: counter, history_events: events } = &self.store;
        degraded.set(i64::from(is_degraded));
        counter.inc_by(failed_writes.saturating_sub(counter.get()));
        events.set(i64::try_from(history_events).unwrap_or(i64::MAX));
    }

    /// All series as text, with the gauges of `pools` as they stand.
    ///
    /// # Errors
    ///
    /// If a family cannot be written; a fault in the program.
    pub fn encode(&self, pools: &[PoolStatus]) -> prometheus::Result<String> {
        for pool in pools {
            self.show_pool(pool);
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn show_pool(&self, pool: &PoolStatus) {
        let name = pool.name.as_str();
        for state in PoolState::ALL {
            self.pool_state.with_label_values(&[name, state.label()]).set(i64::from(*state == pool.state));
        }
        let redundancy = match pool.redundancy {
            Redundancy::None => 0,
            Redundancy::Single => 1,
            Redundancy::Dual => 2,
            Redundancy::Multi => 3,
        };
        self.pool_redundancy.with_label_values(&[name]).set(redundancy);
        for backend in &pool.backends {
            self.show_backend(&pool.name, backend);
        }
    }

    fn show_backend(&self, pool: &PoolName, backend: &BackendStatus) {
        self.backends.show(pool, backend);
    }
}
