//! The registry of all series, and its text.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Encoder, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

use crate::model::{
    BackendName, Generation, ListenerName, MonoTime, OutReason, PipeRefusal, PoolFigures, PoolName, PoolState,
    Redundancy, SessionEnd, WebhookName,
};

use super::backends::{BackendMetrics, Backends};
use super::exposition;
use super::family::Maker;
use super::outward::{OutwardVecs, SubscriberMetrics, WebhookMetrics};
use super::series::{ListenerMetrics, ListenerVecs, PipeMetrics, PoolMetrics};

/// A part of the time from a backend's death to the first session elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// From the first evidence to the verdict.
    Detect,
    /// From the verdict to a primary that can be written to; of PostgreSQL clusters alone.
    Promote,
    /// From the arrival of the last verdict that was needed to the decision.
    Decide,
    /// From the decision to the table being in force and the fences done.
    Publish,
    /// From there to the first session that is established elsewhere.
    FirstSession,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Detect, Self::Promote, Self::Decide, Self::Publish, Self::FirstSession];

    const fn label(self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::Promote => "promote",
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
    backends: Backends,
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
    outward: OutwardVecs,
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
            degraded: make
                .gauge("store_degraded", "1 while the disk fails, so that new things are in memory only, else 0.")?,
            failed_writes: make
                .counter("store_failed_writes_total", "Number of writes of state and history that failed.")?,
            history_events: make.gauge("history_events", "Number of events of the history that are on disk.")?,
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
        let build = make.gauges("build_info", "1 for the version that is running.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let generation = make.gauge("route_table_generation", "Number of the route table in force.")?;
        let recording = make.gauge("recording_active", "1 while decisions are recorded, else 0.")?;
        let config_reloads = make.counters("config_reloads_total", "Number of reloads, by result.", &["result"])?;
        for result in ["reloaded", "rejected"] {
            config_reloads.with_label_values(&[result]);
        }
        Ok(Self {
            listeners: ListenerVecs::new(&make)?,
            backends: Backends::default(),
            hold_seconds: make.histograms("hold_seconds", "Time that clients were held, in seconds.", &["pool"])?,
            pool_state: make.gauges("pool_state", "1 for the state that the pool is in, 0 for the others.", &["pool", "state"])?,
            pool_redundancy: make.gauges("pool_redundancy", "Number of healthy backends; 3 are three or more.", &["pool"])?,
            primary_healthy: make.gauges(
                "primary_healthy",
                "1 if the pool's clients that write are given a PostgreSQL primary, else 0; left out of pools that are no cluster.",
                &["pool"],
            )?,
            pool_paused: make.gauges(
                "pool_paused",
                "1 while an operator has the pool's new clients wait, else 0.",
                &["pool"],
            )?,
            pool_pinned: make.gauges(
                "pool_pinned",
                "1 while an operator has bound the pool to one backend or tier, else 0.",
                &["pool"],
            )?,
            failovers: make.counters("failover_total", "Number of failovers, by reason.", &["pool", "reason"])?,
            recoveries: make.counters(
                "recoveries_total",
                "Number of times that the pool served again after nothing did, or returned to a better tier.",
                &["pool"],
            )?,
            failover_seconds: make.histograms(
                "failover_seconds",
                "Parts of the time a failover took, in seconds.",
                &["pool", "phase"],
            )?,
            sessions_closed: make.counters(
                "sessions_closed_total",
                "Number of sessions that ended, by reason.",
                &["pool", "reason"],
            )?,
            config_reloads,
            pipe_refusals: make.counters(
                "pipe_refusals_total",
                "Number of times that a stream got no pipe and was copied instead, which takes about twice the processor time.",
                &["reason"],
            )?,
            generation,
            recording,
            store: StoreSeries::new(&make)?,
            outward: OutwardVecs::new(&make)?,
            registry,
        })
    }

    /// The handles of a listener.
    #[must_use]
    pub fn listener(&self, name: &ListenerName) -> ListenerMetrics {
        self.listeners.handles(name)
    }

    /// The handles of a listener that has series, for whoever only wants to look.
    #[must_use]
    pub fn known_listener(&self, name: &ListenerName) -> Option<ListenerMetrics> {
        self.listeners.known(name)
    }

    /// The series of a backend.
    #[must_use]
    pub fn backend(&self, pool: &PoolName, backend: &BackendName) -> Arc<BackendMetrics> {
        self.backends.of(pool, backend)
    }

    /// The handles of what threads lend to streams.
    #[must_use]
    pub fn pipes(&self) -> PipeMetrics {
        let counters = PipeRefusal::LABELS.iter().map(|reason| self.pipe_refusals.with_label_values(&[*reason]));
        PipeMetrics { refusals: counters.collect() }
    }

    /// The handles of the live stream's subscribers.
    #[must_use]
    pub fn subscribers(&self) -> SubscriberMetrics {
        self.outward.subscribers()
    }

    /// The handles of a webhook.
    #[must_use]
    pub fn webhook(&self, name: &WebhookName) -> WebhookMetrics {
        self.outward.webhook(name)
    }

    /// The handles of a pool.
    #[must_use]
    pub fn pool(&self, pool: &PoolName) -> PoolMetrics {
        let name = pool.as_str();
        let phase = |phase: Phase| self.failover_seconds.with_label_values(&[name, phase.label()]);
        self.recoveries.with_label_values(&[name]);
        for reason in OutReason::LABELS {
            self.failovers.with_label_values(&[name, *reason]);
        }
        for of in [Phase::Detect, Phase::Decide, Phase::Publish] {
            phase(of);
        }
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

    /// Drops the series of a webhook that is gone.
    pub fn forget_webhook(&self, name: &WebhookName) {
        self.outward.forget_webhook(name);
    }

    /// Drops the series of a backend that is gone.
    pub fn forget_backend(&self, pool: &PoolName, backend: &BackendName) {
        self.backends.forget(pool, backend);
    }

    /// Drops what says how a pool is: of one that is in no plan any more it would stay as it was, and have alerts go on,
    /// for as long as its last session lives. A series that was never there is no error.
    pub fn hide_pool(&self, pool: &PoolName) {
        let name = pool.as_str();
        for gauges in [&self.pool_redundancy, &self.primary_healthy, &self.pool_paused, &self.pool_pinned] {
            drop(gauges.remove_label_values(&[name]));
        }
        for state in PoolState::LABELS {
            drop(self.pool_state.remove_label_values(&[name, *state]));
        }
    }

    /// Drops all series of a pool that is gone. A series that was never there is no error.
    pub fn forget_pool(&self, pool: &PoolName) {
        self.hide_pool(pool);
        let name = pool.as_str();
        drop(self.hold_seconds.remove_label_values(&[name]));
        drop(self.recoveries.remove_label_values(&[name]));
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

    /// Shows these figures of a pool from now on.
    pub fn show_pool(&self, pool: &PoolName, figures: &PoolFigures) {
        let name = pool.as_str();
        for state in PoolState::ALL {
            self.pool_state.with_label_values(&[name, state.label()]).set(i64::from(*state == figures.state));
        }
        let redundancy = match figures.redundancy {
            Redundancy::None => 0,
            Redundancy::Single => 1,
            Redundancy::Dual => 2,
            Redundancy::Multi => 3,
        };
        self.pool_redundancy.with_label_values(&[name]).set(redundancy);
        self.pool_paused.with_label_values(&[name]).set(i64::from(figures.is_paused));
        self.pool_pinned.with_label_values(&[name]).set(i64::from(figures.is_pinned));
        match figures.serves_writes {
            Some(writes) => {
                self.primary_healthy.with_label_values(&[name]).set(i64::from(writes));
                self.failover_seconds.with_label_values(&[name, Phase::Promote.label()]);
            }
            None => drop(self.primary_healthy.remove_label_values(&[name])),
        }
    }

    /// All series as they are `now`, as text, in pieces that end with a line. `give` takes each; if it says no, that was the last one.
    ///
    /// No lock is held meanwhile that anybody needs who counts, adds or forgets.
    ///
    /// # Errors
    ///
    /// If a family cannot be written, before the first piece; a fault in the program.
    pub fn write(&self, now: MonoTime, give: &mut dyn FnMut(Vec<u8>) -> bool) -> prometheus::Result<()> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        if give(text) {
            exposition::write(&self.backends.list(), now, give);
        }
        Ok(())
    }

    /// All series as text.
    #[cfg(test)]
    pub(crate) fn text(&self) -> String {
        let mut text = Vec::new();
        let written = self.write(MonoTime::ZERO, &mut |piece| {
            text.extend(piece);
            true
        });
        assert!(written.is_ok(), "{written:?}");
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fmt::Write as _;
    use std::time::{Duration, Instant};

    use super::Metrics;
    use crate::model::{
        BackendFigures, BackendName, DialError, MonoTime, NotLetIn, PoolFigures, PoolName, PoolState, ProbeOutcome,
        Redundancy, ServerFigures, TunnelFigures, TunnelState,
    };

    fn pool(serves_writes: Option<bool>) -> PoolFigures {
        let (state, redundancy) = (PoolState::Healthy, Redundancy::Dual);
        PoolFigures { state, redundancy, is_paused: false, is_pinned: false, serves_writes }
    }

    fn server(is_standby: bool, lag: Option<(u64, u64)>) -> Option<ServerFigures> {
        Some(ServerFigures {
            is_standby,
            is_monitored: true,
            behind_bytes: lag.map(|(bytes, _)| bytes),
            behind_time: lag.map(|(_, millis)| Duration::from_millis(millis)),
        })
    }

    const PRIMARY: (bool, Option<(u64, u64)>) = (false, Some((0, 0)));

    fn show(metrics: &Metrics, name: &str, is_healthy: bool, server: Option<ServerFigures>) {
        metrics.backend(&"p".into(), &name.into()).show(&BackendFigures {
            is_healthy,
            is_eligible: is_healthy,
            server,
            tunnel: None,
        });
    }

    /// The samples of the families whose names begin with one of `starts`.
    fn samples(metrics: &Metrics, starts: &[&str]) -> Vec<String> {
        let text = metrics.text();
        let bare = text.lines().filter_map(|line| line.strip_prefix("changeover_"));
        bare.filter(|line| starts.iter().any(|start| line.starts_with(start))).map(str::to_owned).collect()
    }

    /// What only clusters have.
    const OF_CLUSTERS: [&str; 4] = ["replication_lag_", "primary_healthy", "standby_healthy", "monitor_connected"];

    #[test]
    fn a_cluster_shows_its_primary_its_standbys_and_how_far_they_are_behind() {
        let metrics = Metrics::new().unwrap();
        metrics.show_pool(&"p".into(), &pool(Some(true)));
        show(&metrics, "a", true, server(PRIMARY.0, PRIMARY.1));
        show(&metrics, "b", true, server(true, Some((4096, 1500))));
        show(&metrics, "c", false, server(true, None));
        show(&metrics, "d", false, server(false, None));
        assert_eq!(
            samples(&metrics, &OF_CLUSTERS[..3]),
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
        assert_eq!(samples(&metrics, &["monitor_connected"]).len(), 4);
    }

    #[test]
    fn a_tunnel_shows_its_state_its_restarts_and_for_how_long_it_is_up() {
        let metrics = Metrics::new().unwrap();
        let shown = |name: &str, tunnel| {
            let figures = BackendFigures { is_healthy: true, is_eligible: true, server: None, tunnel };
            metrics.backend(&"p".into(), &name.into()).show(&figures);
        };
        let up_since = Some(MonoTime::ZERO + Duration::from_millis(1500));
        shown("a", Some(TunnelFigures { state: TunnelState::Connected, restarts: 2, up_since }));
        shown("b", Some(TunnelFigures { state: TunnelState::Failed, restarts: 0, up_since: None }));
        shown("c", None);
        let mut text = String::new();
        let mut take = |piece: Vec<u8>| {
            text.push_str(std::str::from_utf8(&piece).unwrap());
            true
        };
        metrics.write(MonoTime::ZERO + Duration::from_secs(11), &mut take).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("changeover_tunnel_")).collect();
        let has = |line: &str| assert!(lines.contains(&line), "no {line} in {lines:#?}");
        has(r#"changeover_tunnel_state{backend="a",pool="p",state="connected"} 1"#);
        has(r#"changeover_tunnel_state{backend="a",pool="p",state="failed"} 0"#);
        has(r#"changeover_tunnel_state{backend="b",pool="p",state="failed"} 1"#);
        has(r#"changeover_tunnel_restarts_total{backend="a",pool="p"} 2"#);
        has(r#"changeover_tunnel_uptime_seconds{backend="a",pool="p"} 9.5"#);
        has(r#"changeover_tunnel_uptime_seconds{backend="b",pool="p"} 0"#);
        assert_eq!(lines.len(), 2 * (TunnelState::ALL.len() + 2), "c has none");
    }

    #[test]
    fn what_is_ordered_for_long_and_who_is_not_watched_can_be_alerted_on() {
        let metrics = Metrics::new().unwrap();
        let shown = |figures: &PoolFigures, server| {
            metrics.show_pool(&"p".into(), figures);
            show(&metrics, "a", true, server);
            samples(&metrics, &["pool_paused{", "pool_pinned{", "monitor_connected{"])
        };
        let of = pool(Some(true));
        let watched = server(PRIMARY.0, PRIMARY.1);
        assert_eq!(
            shown(&of, watched),
            [
                r#"pool_paused{pool="p"} 0"#,
                r#"pool_pinned{pool="p"} 0"#,
                r#"monitor_connected{backend="a",pool="p"} 1"#
            ]
        );
        let of = PoolFigures { is_paused: true, is_pinned: true, ..of };
        assert_eq!(
            shown(&of, watched.map(|server| ServerFigures { is_monitored: false, ..server })),
            [
                r#"pool_paused{pool="p"} 1"#,
                r#"pool_pinned{pool="p"} 1"#,
                r#"monitor_connected{backend="a",pool="p"} 0"#
            ]
        );
        assert_eq!(shown(&of, None).len(), 2, "there is no monitor of what is no server");
        metrics.forget_pool(&"p".into());
        assert_eq!(samples(&metrics, &["pool_paused{", "pool_pinned{"]), Vec::<String>::new());
    }

    #[test]
    fn a_promoted_standby_is_behind_nobody_and_a_figure_that_is_not_known_any_more_goes() {
        let metrics = Metrics::new().unwrap();
        metrics.show_pool(&"p".into(), &pool(Some(true)));
        show(&metrics, "a", true, server(PRIMARY.0, PRIMARY.1));
        show(&metrics, "b", true, server(true, Some((4096, 1500))));
        show(&metrics, "c", true, server(true, Some((1, 1))));
        // It says that it is the primary, and is not given any session yet.
        metrics.show_pool(&"p".into(), &pool(Some(false)));
        show(&metrics, "b", true, server(PRIMARY.0, PRIMARY.1));
        show(&metrics, "c", true, server(true, None));
        assert_eq!(
            samples(&metrics, &OF_CLUSTERS[..3]),
            [
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
        let plain = || {
            metrics.show_pool(&"p".into(), &pool(None));
            show(&metrics, "a", true, None);
            samples(&metrics, &OF_CLUSTERS)
        };
        let cluster = || {
            metrics.show_pool(&"p".into(), &pool(Some(false)));
            show(&metrics, "a", true, server(true, Some((1, 1))));
            samples(&metrics, &OF_CLUSTERS)
        };
        assert_eq!(plain(), Vec::<String>::new());
        assert_eq!(cluster().len(), 5);
        assert_eq!(plain(), Vec::<String>::new(), "the pool is of another kind by now");
        assert_eq!(cluster().len(), 5);
        metrics.forget_backend(&"p".into(), &"a".into());
        assert_eq!(samples(&metrics, &OF_CLUSTERS), [r#"primary_healthy{pool="p"} 0"#]);
        metrics.forget_pool(&"p".into());
        assert_eq!(samples(&metrics, &OF_CLUSTERS), Vec::<String>::new());
    }

    #[test]
    fn the_alerts_ask_for_series_that_there_are() {
        let metrics = Metrics::new().unwrap();
        drop(metrics.pool(&"p".into()));
        metrics.show_pool(&"p".into(), &pool(Some(true)));
        show(&metrics, "b", true, server(true, Some((1, 1))));
        let tunnel = Some(TunnelFigures { state: TunnelState::Connected, restarts: 0, up_since: Some(MonoTime::ZERO) });
        let (is_healthy, is_eligible, server) = (true, true, None);
        metrics.backend(&"p".into(), &"t".into()).show(&BackendFigures { is_healthy, is_eligible, server, tunnel });
        let text = metrics.text();
        let alerts = include_str!("../../config/prometheus/alerts.yml");
        let asked = alerts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: Vec<&str> = asked.filter(|word| word.starts_with("changeover_")).collect();
        assert!(asked.len() > 5, "{asked:?}");
        for name in asked {
            assert!(text.lines().any(|line| line.starts_with(&format!("{name}{{"))), "{name}");
        }
    }

    #[test]
    fn what_is_counted_of_a_backend_is_what_is_written() {
        let metrics = Metrics::new().unwrap();
        let of = metrics.backend(&"p\\".into(), &"a\"\nb".into());
        of.session_begins();
        of.count_session(Duration::from_micros(250), 1_763_756_906.5);
        of.count_session(Duration::from_secs(11), 1_763_756_907.5);
        of.count_moved([3, 4]);
        of.count_connect_failure(DialError::Other);
        of.count_not_let_in(NotLetIn::Full);
        let detail = String::new();
        of.count_check(&ProbeOutcome::Inconclusive { error: None, detail }, Duration::ZERO);
        let labels = r#"backend="a\"\nb",pool="p\\""#;
        let lines = [
            format!("backend_connections_total{{{labels}}} 2"),
            format!("backend_connections_active{{{labels}}} 1"),
            format!("backend_connect_failures_total{{{labels},reason=\"other\"}} 1"),
            format!("backend_connect_failures_total{{{labels},reason=\"unanswered\"}} 0"),
            format!("backend_connect_failures_total{{{labels},reason=\"full\"}} 1"),
            format!("backend_connect_seconds_bucket{{{labels},le=\"0.0001\"}} 0"),
            format!("backend_connect_seconds_bucket{{{labels},le=\"0.00025\"}} 1"),
            format!("backend_connect_seconds_bucket{{{labels},le=\"10\"}} 1"),
            format!("backend_connect_seconds_bucket{{{labels},le=\"+Inf\"}} 2"),
            format!("backend_connect_seconds_sum{{{labels}}} 11.00025"),
            format!("backend_connect_seconds_count{{{labels}}} 2"),
            format!("backend_bytes_total{{{labels},direction=\"client_to_backend\"}} 3"),
            format!("backend_bytes_total{{{labels},direction=\"backend_to_client\"}} 4"),
            format!("backend_last_active_timestamp_seconds{{{labels}}} 1763756907.5"),
            format!("check_total{{{labels},result=\"inconclusive\"}} 1"),
            format!("check_failures_total{{{labels}}} 0"),
            format!("check_seconds_count{{{labels}}} 1"),
        ];
        let text = metrics.text();
        for line in lines {
            assert!(text.lines().any(|found| found == format!("changeover_{line}")), "{line}\n{text}");
        }
        of.session_ends();
        assert_eq!(of.active(), 0);
    }

    /// Metrics of so many backends.
    fn crowd(backends: usize) -> Metrics {
        let metrics = Metrics::new().unwrap();
        let pool = PoolName::from("p");
        for at in 0..backends {
            drop(metrics.backend(&pool, &BackendName::from(format!("b{at}").as_str())));
        }
        metrics
    }

    #[test]
    fn to_look_at_a_listener_makes_no_series_of_it() {
        let metrics = Metrics::new().unwrap();
        let name = "going".into();
        let has_series = || {
            let mut text = String::new();
            metrics
                .write(MonoTime::ZERO, &mut |piece| {
                    text.push_str(std::str::from_utf8(&piece).unwrap());
                    true
                })
                .unwrap();
            text.contains("listener=\"going\"")
        };
        assert!(metrics.known_listener(&name).is_none() && !has_series());
        metrics.listener(&name).active.inc();
        assert!(metrics.known_listener(&name).is_some_and(|known| known.active.get() == 1) && has_series());
        metrics.forget_listener(&name);
        assert!(metrics.known_listener(&name).is_none() && !has_series());
    }

    #[test]
    fn a_scrape_keeps_nobody_from_adding_forgetting_and_counting() {
        let metrics = crowd(5000);
        let (pool, counted) = (PoolName::from("p"), metrics.backend(&"p".into(), &"b7".into()));
        let (mut pieces, mut last) = (0, None);
        let written = metrics.write(MonoTime::ZERO, &mut |piece| {
            // On this very thread: a lock that the scrape held would never be given to it.
            let name = BackendName::from(format!("new{pieces}").as_str());
            metrics.backend(&pool, &name).count_moved([1, 1]);
            metrics.forget_backend(&pool, &format!("b{pieces}").as_str().into());
            let other = PoolName::from(format!("q{pieces}").as_str());
            drop((metrics.pool(&other), metrics.listener(&"l".into())));
            metrics.show_pool(&other, &self::pool(Some(true)));
            metrics.forget_pool(&other);
            metrics.forget_listener(&"l".into());
            counted.count_moved([1, 1]);
            assert!(piece.ends_with(b"\n"), "a piece ends with a line");
            pieces += 1;
            last = Some(piece);
            true
        });
        written.unwrap();
        assert!(pieces > 50, "{pieces}");
        assert!(last.unwrap().len() < 100_000, "no piece is large");
    }

    #[test]
    fn who_takes_no_more_is_given_no_more() {
        let metrics = crowd(1000);
        let mut pieces = 0;
        metrics
            .write(MonoTime::ZERO, &mut |_| {
                pieces += 1;
                pieces < 3
            })
            .unwrap();
        assert_eq!(pieces, 3);
    }

    #[test]
    fn each_backend_that_is_more_costs_what_the_one_before_did() {
        let (few, many) = (crowd(1000), crowd(10_000));
        let took = |metrics: &Metrics| {
            let begun = Instant::now();
            metrics.write(MonoTime::ZERO, &mut |_| true).unwrap();
            begun.elapsed()
        };
        // In turn, and the best of each: others use this machine, too.
        let (mut of_few, mut of_many) = (Duration::MAX, Duration::MAX);
        for _ in 0..15 {
            (of_few, of_many) = (of_few.min(took(&few)), of_many.min(took(&many)));
        }
        let ratio = of_many.as_secs_f64() / of_few.as_secs_f64();
        println!("1,000: {of_few:?}, 10,000: {of_many:?}: {ratio:.1}");
        assert!(ratio < 30.0, "ten times the backends take {ratio:.1} times as long");
    }

    #[test]
    fn series_of_a_thousand_that_came_and_went_are_gone() {
        let metrics = crowd(10);
        let lines = || metrics.text().lines().count();
        let before = lines();
        for at in 0..1000 {
            let (pool, name) = (PoolName::from("p"), BackendName::from(format!("n{at}").as_str()));
            metrics.backend(&pool, &name).count_session(Duration::ZERO, 0.0);
            metrics.forget_backend(&pool, &name);
            let pool = PoolName::from(format!("p{at}").as_str());
            drop((metrics.pool(&pool), metrics.listener(&name.as_str().into())));
            metrics.show_pool(&pool, &self::pool(Some(true)));
            metrics.count_failover(&pool, "dead");
            metrics.observe_phase(&pool, super::Phase::Promote, Duration::ZERO);
            metrics.count_recovery(&pool);
            metrics.forget_pool(&pool);
            metrics.forget_listener(&name.as_str().into());
        }
        assert!(lines() <= before, "{}", metrics.text());
    }

    #[test]
    fn every_help_says_what_is_measured_in_which_unit() {
        let metrics = crowd(1);
        drop((metrics.pool(&"p".into()), metrics.listener(&"l".into()), metrics.pipes()));
        metrics.show_pool(&"p".into(), &pool(Some(true)));
        let mut wrong = String::new();
        let mut seen = 0;
        for line in metrics.text().lines() {
            let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            seen += 1;
            let says = if name.ends_with("_seconds") {
                help.contains("in seconds")
            } else if name.contains("_bytes") {
                help.to_lowercase().contains("bytes")
            } else {
                ["Number of ", "1 if ", "1 while ", "1 for "].iter().any(|start| help.starts_with(start))
            };
            if !says {
                writeln!(wrong, "{name}: {help}").unwrap();
            }
        }
        assert!(seen > 35, "{seen}");
        assert_eq!(wrong, "");
    }
}
