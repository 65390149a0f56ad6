//! The handles that the rest of the program counts on.

use std::time::Duration;

use prometheus::{GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::model::{
    BackendName, BackendStatus, CancelWay, DialError, Direction, HealthState, ListenerName, PipeRefusal, PoolName,
    ProbeOutcome, RejectReason, Role, SessionEnd,
};

use super::family::Maker;

/// How probes end, as the `result` label has it.
const RESULTS: [&str; 3] = ["passed", "failed", "inconclusive"];

/// One more on a gauge for as long as this lives.
#[derive(Debug)]
pub struct Counted(IntGauge);

impl Counted {
    /// Counts one more on `gauge`.
    #[must_use]
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A listener's series.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    /// Clients accepted.
    pub connections: IntCounter,
    /// Clients that are connected now.
    pub active: IntGauge,
    /// Clients that wait now.
    pub held: IntGauge,
    /// Sessions whose key for cancelling there was no place for.
    pub cancel_keys_refused: IntCounter,
    /// Encrypted connections that went to another server than the one where their address waits for an answer.
    pub encrypted_elsewhere: IntCounter,
    rejected: Vec<IntCounter>,
    cancels: Vec<IntCounter>,
}

impl ListenerMetrics {
    /// Counts a client that was turned away.
    pub fn count_rejected(&self, reason: RejectReason) {
        if let Some(counter) = self.rejected.get(reason.index()) {
            counter.inc();
        }
    }

    /// Counts a request to cancel.
    pub fn count_cancel(&self, way: CancelWay) {
        if let Some(counter) = self.cancels.get(way.index()) {
            counter.inc();
        }
    }
}

/// What threads lend to streams.
#[derive(Debug, Clone)]
pub struct PipeMetrics {
    pub(super) refusals: Vec<IntCounter>,
}

impl PipeMetrics {
    /// Counts `number` pipes that were refused.
    pub fn count_refusals(&self, reason: PipeRefusal, number: u64) {
        if let Some(counter) = self.refusals.get(reason.index()) {
            counter.inc_by(number);
        }
    }
}

/// A pool's series.
#[derive(Debug, Clone)]
pub struct PoolMetrics {
    /// How long clients were held.
    pub hold_seconds: Histogram,
    /// From a failover to the first session after it.
    pub first_session_seconds: Histogram,
    pub(super) sessions_closed: Vec<IntCounter>,
}

impl PoolMetrics {
    /// Counts a session that ended.
    pub fn count_closed(&self, reason: SessionEnd) {
        if let Some(counter) = self.sessions_closed.get(reason.index()) {
            counter.inc();
        }
    }
}

/// A backend's series.
#[derive(Debug, Clone)]
pub struct BackendMetrics {
    /// Sessions established.
    pub connections: IntCounter,
    /// Sessions open now.
    pub active: IntGauge,
    /// How long dials took that became sessions.
    pub connect_seconds: Histogram,
    last_active: prometheus::Gauge,
    connect_failures: Vec<IntCounter>,
    bytes: Vec<IntCounter>,
    checks: Vec<IntCounter>,
    check_failures: IntCounter,
    check_seconds: Histogram,
}

impl BackendMetrics {
    /// Counts a dial that failed.
    pub fn count_connect_failure(&self, reason: DialError) {
        if let Some(counter) = self.connect_failures.get(reason.index()) {
            counter.inc();
        }
    }

    /// Counts bytes that were moved, by [`Direction`]: to the backend and to the client.
    pub fn count_moved(&self, moved: [u64; 2]) {
        self.bytes.iter().zip(moved).for_each(|(counter, bytes)| counter.inc_by(bytes));
    }

    /// Bytes that it has sent to clients, as far as they are counted.
    #[must_use]
    pub fn sent_to_clients(&self) -> u64 {
        self.bytes.get(Direction::BackendToClient.index()).map_or(0, IntCounter::get)
    }

    /// Notes when a session last began, in seconds since 1970.
    pub fn set_last_active(&self, unix_seconds: f64) {
        self.last_active.set(unix_seconds);
    }

    /// Counts a probe's answer that took `time`.
    pub fn count_check(&self, outcome: &ProbeOutcome, time: Duration) {
        let index = match outcome {
            ProbeOutcome::Passed { .. } => 0,
            ProbeOutcome::Failed { .. } => 1,
            ProbeOutcome::Inconclusive { .. } => 2,
        };
        if let Some(counter) = self.checks.get(index) {
            counter.inc();
        }
        if index == 1 {
            self.check_failures.inc();
        }
        self.check_seconds.observe(time.as_secs_f64());
    }
}

/// The families of listeners.
#[derive(Debug)]
pub(super) struct ListenerVecs {
    connections: IntCounterVec,
    active: IntGaugeVec,
    rejected: IntCounterVec,
    held: IntGaugeVec,
    cancels: IntCounterVec,
    cancel_keys_refused: IntCounterVec,
    encrypted_elsewhere: IntCounterVec,
}

impl ListenerVecs {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            connections: make.counters("listener_connections_total", "Clients accepted.", &["listener"])?,
            active: make.gauges("listener_connections_active", "Clients connected now.", &["listener"])?,
            rejected: make.counters(
                "listener_rejected_total",
                "Clients turned away before they reached a backend, by reason.",
                &["listener", "reason"],
            )?,
            held: make.gauges("listener_held", "Clients that wait for a backend now.", &["listener"])?,
            cancels: make.counters(
                "postgres_cancels_total",
                "Requests to cancel, by how their server was found.",
                &["listener", "way"],
            )?,
            cancel_keys_refused: make.counters(
                "postgres_cancel_keys_refused_total",
                "Sessions whose key for cancelling there was no place for, so that all servers are asked.",
                &["listener"],
            )?,
            encrypted_elsewhere: make.counters(
                "postgres_encrypted_elsewhere_total",
                "Encrypted connections that went to another server than the one where a session of their address waits for \
                 an answer: if one was a request to cancel that, it missed.",
                &["listener"],
            )?,
        })
    }

    pub(super) fn handles(&self, name: &ListenerName) -> ListenerMetrics {
        let name = name.as_str();
        ListenerMetrics {
            connections: self.connections.with_label_values(&[name]),
            active: self.active.with_label_values(&[name]),
            held: self.held.with_label_values(&[name]),
            cancel_keys_refused: self.cancel_keys_refused.with_label_values(&[name]),
            encrypted_elsewhere: self.encrypted_elsewhere.with_label_values(&[name]),
            rejected: RejectReason::LABELS
                .iter()
                .map(|reason| self.rejected.with_label_values(&[name, *reason]))
                .collect(),
            cancels: CancelWay::LABELS.iter().map(|way| self.cancels.with_label_values(&[name, *way])).collect(),
        }
    }

    pub(super) fn forget(&self, name: &ListenerName) {
        let name = name.as_str();
        drop(self.connections.remove_label_values(&[name]));
        drop(self.active.remove_label_values(&[name]));
        drop(self.held.remove_label_values(&[name]));
        for reason in RejectReason::LABELS {
            drop(self.rejected.remove_label_values(&[name, *reason]));
        }
        drop(self.cancel_keys_refused.remove_label_values(&[name]));
        drop(self.encrypted_elsewhere.remove_label_values(&[name]));
        for way in CancelWay::LABELS {
            drop(self.cancels.remove_label_values(&[name, *way]));
        }
    }
}

/// The families of backends.
#[derive(Debug)]
pub(super) struct BackendVecs {
    connections: IntCounterVec,
    active: IntGaugeVec,
    connect_failures: IntCounterVec,
    connect_seconds: HistogramVec,
    bytes: IntCounterVec,
    healthy: IntGaugeVec,
    eligible: IntGaugeVec,
    latency: GaugeVec,
    last_active: GaugeVec,
    checks: IntCounterVec,
    check_failures: IntCounterVec,
    check_seconds: HistogramVec,
    lag_bytes: IntGaugeVec,
    lag_seconds: GaugeVec,
    standby_healthy: IntGaugeVec,
    monitor_connected: IntGaugeVec,
}

/// The labels that every family of backends begins with.
const OF_BACKEND: [&str; 2] = ["pool", "backend"];

impl BackendVecs {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        let [pool, backend] = OF_BACKEND;
        Ok(Self {
            connections: make.counters("backend_connections_total", "Sessions established.", &OF_BACKEND)?,
            active: make.gauges("backend_connections_active", "Sessions open now.", &OF_BACKEND)?,
            connect_failures: make.counters(
                "backend_connect_failures_total",
                "Dials that failed, by reason.",
                &[pool, backend, "reason"],
            )?,
            connect_seconds: make.histograms(
                "backend_connect_seconds",
                "Time of dials that became sessions, in seconds.",
                &OF_BACKEND,
            )?,
            bytes: make.counters("backend_bytes_total", "Bytes moved, by direction.", &[pool, backend, "direction"])?,
            healthy: make.gauges("backend_healthy", "1 if its probes say it is healthy.", &OF_BACKEND)?,
            eligible: make.gauges("backend_eligible", "1 if it may get new sessions.", &OF_BACKEND)?,
            latency: make.float_gauges(
                "backend_latency_seconds",
                "Time of its last good check, in seconds.",
                &OF_BACKEND,
            )?,
            last_active: make.float_gauges(
                "backend_last_active_timestamp_seconds",
                "When a session to it last began, in seconds since 1970.",
                &OF_BACKEND,
            )?,
            checks: make.counters("check_total", "Checks made, by result.", &[pool, backend, "result"])?,
            check_failures: make.counters("check_failures_total", "Checks that failed.", &OF_BACKEND)?,
            check_seconds: make.histograms("check_seconds", "Time checks took, in seconds.", &OF_BACKEND)?,
            lag_bytes: make.gauges(
                "replication_lag_bytes",
                "Bytes of the write-ahead log that a PostgreSQL server has not replayed; 0 of a primary, left out if not known.",
                &OF_BACKEND,
            )?,
            lag_seconds: make.float_gauges(
                "replication_lag_seconds",
                "Time since the primary had written what a PostgreSQL server has not replayed, in seconds.",
                &OF_BACKEND,
            )?,
            standby_healthy: make.gauges(
                "standby_healthy",
                "1 if a PostgreSQL standby may get new sessions; left out of what is no standby.",
                &OF_BACKEND,
            )?,
            monitor_connected: make.gauges(
                "monitor_connected",
                "1 while the monitor has a session to a PostgreSQL server; without one its role is the one it had last, or none.",
                &OF_BACKEND,
            )?,
        })
    }

    pub(super) fn handles(&self, pool: &PoolName, backend: &BackendName) -> BackendMetrics {
        let (pool, backend) = (pool.as_str(), backend.as_str());
        let of = [pool, backend];
        let each = |family: &IntCounterVec, labels: &[&'static str]| -> Vec<IntCounter> {
            labels.iter().map(|label| family.with_label_values(&[pool, backend, *label])).collect()
        };
        BackendMetrics {
            connections: self.connections.with_label_values(&of),
            active: self.active.with_label_values(&of),
            connect_seconds: self.connect_seconds.with_label_values(&of),
            last_active: self.last_active.with_label_values(&of),
            connect_failures: each(&self.connect_failures, DialError::LABELS),
            bytes: each(&self.bytes, Direction::LABELS),
            checks: each(&self.checks, &RESULTS),
            check_failures: self.check_failures.with_label_values(&of),
            check_seconds: self.check_seconds.with_label_values(&of),
        }
    }

    /// Sets the gauges of `backend` to what is known of it now.
    pub(super) fn show(&self, pool: &PoolName, backend: &BackendStatus) {
        let of = [pool.as_str(), backend.name.as_str()];
        self.healthy.with_label_values(&of).set(i64::from(backend.health == HealthState::Healthy));
        self.eligible.with_label_values(&of).set(i64::from(backend.eligible));
        self.latency.with_label_values(&of).set(backend.latency.map_or(0.0, |latency| latency.as_secs_f64()));
        self.show_server(&of, backend);
    }

    /// The same of a PostgreSQL server. What is not known is left out: a figure that stays where it was would be a lie.
    fn show_server(&self, of: &[&str; 2], backend: &BackendStatus) {
        let Some(server) = &backend.server else { return self.forget_server(of) };
        self.monitor_connected.with_label_values(of).set(i64::from(server.is_monitored));
        match server.behind_bytes() {
            Some(bytes) => self.lag_bytes.with_label_values(of).set(i64::try_from(bytes).unwrap_or(i64::MAX)),
            None => drop(self.lag_bytes.remove_label_values(of)),
        }
        match server.behind_time() {
            Some(time) => self.lag_seconds.with_label_values(of).set(time.as_secs_f64()),
            None => drop(self.lag_seconds.remove_label_values(of)),
        }
        match server.role {
            Some(Role::Standby) => {
                let healthy = backend.health == HealthState::Healthy && backend.eligible;
                self.standby_healthy.with_label_values(of).set(i64::from(healthy));
            }
            Some(Role::Primary) | None => drop(self.standby_healthy.remove_label_values(of)),
        }
    }

    fn forget_server(&self, of: &[&str; 2]) {
        drop(self.lag_bytes.remove_label_values(of));
        drop(self.lag_seconds.remove_label_values(of));
        drop(self.standby_healthy.remove_label_values(of));
        drop(self.monitor_connected.remove_label_values(of));
    }

    pub(super) fn forget(&self, pool: &PoolName, backend: &BackendName) {
        let (pool, backend) = (pool.as_str(), backend.as_str());
        let of = [pool, backend];
        for family in [&self.connections, &self.check_failures] {
            drop(family.remove_label_values(&of));
        }
        for family in [&self.active, &self.healthy, &self.eligible] {
            drop(family.remove_label_values(&of));
        }
        for family in [&self.latency, &self.last_active] {
            drop(family.remove_label_values(&of));
        }
        self.forget_server(&of);
        for family in [&self.connect_seconds, &self.check_seconds] {
            drop(family.remove_label_values(&of));
        }
        let labelled: [(&IntCounterVec, &[&str]); 3] =
            [(&self.connect_failures, DialError::LABELS), (&self.bytes, Direction::LABELS), (&self.checks, &RESULTS)];
        for (family, labels) in labelled {
            for label in labels {
                drop(family.remove_label_values(&[pool, backend, *label]));
            }
        }
    }
}
