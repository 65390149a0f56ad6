//! The registry of all series, and its text.

use std::time::Duration;

use prometheus::{Encoder, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

use crate::model::{
    BackendName, BackendStatus, Generation, HealthState, ListenerName, OutReason, PipeRefusal, PoolKind, PoolName,
    PoolState, PoolStatus, Redundancy, Role, SessionEnd,
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
    primary_healthy: IntGaugeVec,
    pool_paused: IntGaugeVec,
    pool_pinned: IntGaugeVec,
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
            primary_healthy: make.gauges(
                "primary_healthy",
                "1 if the pool's clients that write are given a PostgreSQL primary.",
                &["pool"],
            )?,
            pool_paused: make.gauges(
                "pool_paused",
                "1 while an operator has the pool's new clients wait.",
                &["pool"],
            )?,
            pool_pinned: make.gauges(
                "pool_pinned",
                "1 while an operator has bound the pool to one backend or tier.",
                &["pool"],
            )?,
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
        drop(self.primary_healthy.remove_label_values(&[name]));
        drop(self.pool_paused.remove_label_values(&[name]));
        drop(self.pool_pinned.remove_label_values(&[name]));
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
        self.pool_paused.with_label_values(&[name]).set(i64::from(pool.paused.is_some()));
        self.pool_pinned.with_label_values(&[name]).set(i64::from(pool.pinned.is_some()));
        match pool.kind {
            PoolKind::Postgres => self.primary_healthy.with_label_values(&[name]).set(i64::from(serves_writes(pool))),
            PoolKind::Tcp => drop(self.primary_healthy.remove_label_values(&[name])),
        }
        for backend in &pool.backends {
            self.show_backend(&pool.name, backend);
        }
    }

    fn show_backend(&self, pool: &PoolName, backend: &BackendStatus) {
        self.backends.show(pool, backend);
    }
}

/// Whether a server that says it is the primary gets new sessions now.
fn serves_writes(pool: &PoolStatus) -> bool {
    let is_primary =
        |backend: &BackendStatus| backend.server.as_ref().and_then(|server| server.role) == Some(Role::Primary);
    pool.backends.iter().any(|backend| backend.active && backend.health == HealthState::Healthy && is_primary(backend))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::Metrics;
    use crate::model::{
        AdminState, BackendId, BackendStatus, Generation, HealthState, MonoTime, Paused, PoolKind, PoolState,
        PoolStatus, Redundancy, Role, ServerStatus,
    };

    fn server(role: Option<Role>, lag: Option<(u64, u64)>) -> Option<ServerStatus> {
        Some(ServerStatus {
            role,
            system: None,
            timeline: None,
            written: None,
            replayed: None,
            lag_bytes: lag.map(|(bytes, _)| bytes),
            lag_time: lag.map(|(_, millis)| Duration::from_millis(millis)),
            is_monitored: role.is_some(),
            meaning: String::new(),
        })
    }

    fn backend(name: &str, health: HealthState, active: bool, server: Option<ServerStatus>) -> BackendStatus {
        BackendStatus {
            id: BackendId(1),
            name: name.into(),
            address: "10.0.0.1:5432".parse().unwrap(),
            priority: 1,
            weight: 1,
            health,
            admin_state: AdminState::Ready,
            eligible: health == HealthState::Healthy,
            active,
            reason: String::new(),
            slow: false,
            latency: None,
            smoothed: None,
            consecutive_failures: 0,
            passive_points: 0,
            gave_up: false,
            consecutive_successes: 0,
            last_check: None,
            since: MonoTime::ZERO,
            last_error: None,
            downtime: Duration::ZERO,
            server,
            reported: Vec::new(),
        }
    }

    fn pool(kind: PoolKind, backends: Vec<BackendStatus>) -> PoolStatus {
        PoolStatus {
            name: "p".into(),
            kind,
            state: PoolState::Healthy,
            redundancy: Redundancy::Dual,
            generation: Generation(1),
            pinned: None,
            paused: None,
            failovers: 0,
            recoveries: 0,
            last_failover: None,
            backends,
        }
    }

    /// The samples of families that only clusters have.
    fn samples(metrics: &Metrics, pools: &[PoolStatus]) -> Vec<String> {
        let text = metrics.encode(pools).unwrap();
        let of_clusters = |line: &&str| {
            let name = line.strip_prefix("changeover_").unwrap_or_default();
            ["replication_lag_", "primary_healthy", "standby_healthy"].iter().any(|start| name.starts_with(start))
        };
        text.lines().filter(of_clusters).map(|line| line.trim_start_matches("changeover_").to_owned()).collect()
    }

    #[test]
    fn a_cluster_shows_its_primary_its_standbys_and_how_far_they_are_behind() {
        let metrics = Metrics::new().unwrap();
        let backends = vec![
            backend("a", HealthState::Healthy, true, server(Some(Role::Primary), None)),
            backend("b", HealthState::Healthy, false, server(Some(Role::Standby), Some((4096, 1500)))),
            backend("c", HealthState::Unhealthy, false, server(Some(Role::Standby), None)),
            backend("d", HealthState::Unknown, false, server(None, None)),
        ];
        let shown = samples(&metrics, &[pool(PoolKind::Postgres, backends)]);
        assert_eq!(
            shown,
            [
                r#"primary_healthy{pool="p"} 1"#,
                r#"replication_lag_bytes{backend="a",pool="p"} 0"#,
                r#"replication_lag_bytes{backend="b",pool="p"} 4096"#,
                r#"replication_lag_seconds{backend="a",pool="p"} 0"#,
                r#"replication_lag_seconds{backend="b",pool="p"} 1.5"#,
                r#"standby_healthy{backend="b",pool="p"} 1"#,
                r#"standby_healthy{backend="c",pool="p"} 0"#,
            ]
        );
        let text = metrics.encode(&[]).unwrap();
        for name in ["replication_lag_bytes", "replication_lag_seconds", "primary_healthy", "standby_healthy"] {
            assert!(text.contains(&format!("# HELP changeover_{name} ")), "{name}");
            assert!(text.contains(&format!("# TYPE changeover_{name} gauge\n")), "{name}");
        }
    }

    #[test]
    fn what_is_ordered_for_long_and_who_is_not_watched_can_be_alerted_on() {
        let metrics = Metrics::new().unwrap();
        let shown = |pool: &PoolStatus| {
            let text = metrics.encode(std::slice::from_ref(pool)).unwrap();
            let is_meant = |line: &&str| {
                ["pool_paused{", "pool_pinned{", "monitor_connected{"].iter().any(|name| line.contains(name))
            };
            text.lines()
                .filter(is_meant)
                .map(|line| line.trim_start_matches("changeover_").to_owned())
                .collect::<Vec<_>>()
        };
        let a = backend("a", HealthState::Healthy, true, server(Some(Role::Primary), None));
        let mut of = pool(PoolKind::Postgres, vec![a]);
        assert_eq!(
            shown(&of),
            [
                r#"monitor_connected{backend="a",pool="p"} 1"#,
                r#"pool_paused{pool="p"} 0"#,
                r#"pool_pinned{pool="p"} 0"#
            ]
        );
        of.pinned = Some("a".into());
        of.paused = Some(Paused { since: MonoTime::ZERO, until: None });
        of.backends[0].server.as_mut().unwrap().is_monitored = false;
        assert_eq!(
            shown(&of),
            [
                r#"monitor_connected{backend="a",pool="p"} 0"#,
                r#"pool_paused{pool="p"} 1"#,
                r#"pool_pinned{pool="p"} 1"#
            ]
        );
        of.backends[0].server = None;
        assert_eq!(shown(&of).len(), 2, "there is no monitor of what is no server");
        metrics.forget_pool(&"p".into());
        let text = metrics.encode(&[]).unwrap();
        assert!(!text.contains("pool_paused{") && !text.contains("pool_pinned{"));
    }

    #[test]
    fn a_promoted_standby_is_behind_nobody_and_a_figure_that_is_not_known_any_more_goes() {
        let metrics = Metrics::new().unwrap();
        let before = vec![
            backend("a", HealthState::Healthy, true, server(Some(Role::Primary), None)),
            backend("b", HealthState::Healthy, false, server(Some(Role::Standby), Some((4096, 1500)))),
            backend("c", HealthState::Healthy, false, server(Some(Role::Standby), Some((1, 1)))),
        ];
        samples(&metrics, &[pool(PoolKind::Postgres, before)]);
        let after = vec![
            backend("a", HealthState::Unhealthy, false, server(Some(Role::Primary), None)),
            backend("b", HealthState::Healthy, false, server(Some(Role::Primary), None)),
            backend("c", HealthState::Healthy, false, server(Some(Role::Standby), None)),
        ];
        let shown = samples(&metrics, &[pool(PoolKind::Postgres, after)]);
        assert_eq!(
            shown,
            [
                // It says that it is the primary, and is not given any session yet.
                r#"primary_healthy{pool="p"} 0"#,
                r#"replication_lag_bytes{backend="a",pool="p"} 0"#,
                r#"replication_lag_bytes{backend="b",pool="p"} 0"#,
                r#"replication_lag_seconds{backend="a",pool="p"} 0"#,
                r#"replication_lag_seconds{backend="b",pool="p"} 0"#,
                r#"standby_healthy{backend="c",pool="p"} 1"#,
            ]
        );
    }

    #[test]
    fn only_clusters_have_these_series_and_they_go_with_their_pool_and_backend() {
        let metrics = Metrics::new().unwrap();
        let plain = || pool(PoolKind::Tcp, vec![backend("a", HealthState::Healthy, true, None)]);
        assert_eq!(samples(&metrics, &[plain()]), Vec::<String>::new());
        let cluster = || {
            let standby = server(Some(Role::Standby), Some((1, 1)));
            pool(PoolKind::Postgres, vec![backend("a", HealthState::Healthy, true, standby)])
        };
        assert_eq!(samples(&metrics, &[cluster()]).len(), 4);
        assert_eq!(samples(&metrics, &[plain()]), Vec::<String>::new(), "the pool is of another kind by now");
        assert_eq!(samples(&metrics, &[cluster()]).len(), 4);
        metrics.forget_backend(&"p".into(), &"a".into());
        assert_eq!(samples(&metrics, &[]), [r#"primary_healthy{pool="p"} 0"#]);
        metrics.forget_pool(&"p".into());
        assert_eq!(samples(&metrics, &[]), Vec::<String>::new());
    }

    #[test]
    fn the_alerts_ask_for_series_that_there_are() {
        let metrics = Metrics::new().unwrap();
        metrics.count_failover(&"p".into(), "dead");
        let backends = vec![
            backend("a", HealthState::Healthy, true, server(Some(Role::Primary), None)),
            backend("b", HealthState::Healthy, false, server(Some(Role::Standby), Some((1, 1)))),
        ];
        let text = metrics.encode(&[pool(PoolKind::Postgres, backends)]).unwrap();
        let alerts = include_str!("../../config/prometheus/alerts.yml");
        let asked = alerts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: Vec<&str> = asked.filter(|word| word.starts_with("changeover_")).collect();
        assert!(asked.len() > 5, "{asked:?}");
        for name in asked {
            assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
        }
    }
}
