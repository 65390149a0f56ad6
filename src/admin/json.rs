//! A pool and its backends as the API shows them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::{BackendStatus, MonoTime, PoolStatus};
use crate::routing::Live;
use crate::sys::Clock;

/// A pool.
#[derive(Debug, Serialize)]
pub(super) struct PoolView {
    name: String,
    kind: &'static str,
    state: &'static str,
    redundancy: &'static str,
    degraded: bool,
    generation: u64,
    active: Vec<String>,
    standby: Vec<String>,
    paused: bool,
    held: usize,
    pinned: Option<String>,
    last_failover: FailoverView,
    backends: Vec<BackendView>,
}

/// The last change of the active tier; empty if there was none.
#[derive(Debug, Default, Serialize)]
struct FailoverView {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// A backend.
#[derive(Debug, Serialize)]
pub(super) struct BackendView {
    name: String,
    address: String,
    priority: u32,
    weight: u32,
    health: &'static str,
    admin_state: &'static str,
    eligible: bool,
    active: bool,
    reason: String,
    latency_ms: Option<f64>,
    sessions: i64,
    consecutive_failures: u32,
    consecutive_successes: u32,
    last_check: Option<String>,
    since: String,
    last_error: Option<String>,
    downtime_seconds: f64,
    reported: BTreeMap<String, f64>,
    /// Null: it is reached directly.
    tunnel: Option<()>,
}

/// A number with no more digits than anybody reads.
pub(super) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

impl PoolView {
    pub(super) fn new(pool: &PoolStatus, live: &Live, clock: &Clock) -> Self {
        let named = |keep: &dyn Fn(&BackendStatus) -> bool| -> Vec<String> {
            pool.backends.iter().filter(|backend| keep(backend)).map(|backend| backend.name.to_string()).collect()
        };
        Self {
            name: pool.name.to_string(),
            kind: pool.kind.label(),
            state: pool.state.label(),
            redundancy: pool.redundancy.label(),
            degraded: pool.backends.iter().any(|backend| !backend.eligible || backend.slow),
            generation: pool.generation.0,
            active: named(&|backend| backend.active),
            standby: named(&|backend| backend.eligible && !backend.active),
            paused: pool.paused.is_some(),
            held: live.pools.get(&pool.name).map_or(0, |live| live.held()),
            pinned: pool.pinned.as_ref().map(ToString::to_string),
            last_failover: pool.last_failover.as_ref().map_or_else(FailoverView::default, |last| FailoverView {
                time: Some(clock.timestamp(last.at)),
                from: Some(last.from.iter().map(ToString::to_string).collect()),
                to: Some(last.to.iter().map(ToString::to_string).collect()),
                reason: Some(last.reason.label()),
            }),
            backends: pool.backends.iter().map(|backend| BackendView::new(backend, live, clock)).collect(),
        }
    }
}

impl BackendView {
    pub(super) fn new(backend: &BackendStatus, live: &Live, clock: &Clock) -> Self {
        let stamp = |time: MonoTime| clock.timestamp(time);
        Self {
            name: backend.name.to_string(),
            address: backend.address.to_string(),
            priority: backend.priority,
            weight: backend.weight,
            health: backend.health.label(),
            admin_state: backend.admin_state.label(),
            eligible: backend.eligible,
            active: backend.active,
            reason: backend.reason.clone(),
            latency_ms: backend.latency.map(|latency| rounded(latency.as_secs_f64() * 1e3, 3)),
            sessions: live.backends.get(&backend.id).map_or(0, |live| live.metrics.active.get()),
            consecutive_failures: backend.consecutive_failures,
            consecutive_successes: backend.consecutive_successes,
            last_check: backend.last_check.map(stamp),
            since: stamp(backend.since),
            last_error: backend.last_error.clone(),
            downtime_seconds: rounded(backend.downtime.as_secs_f64(), 3),
            reported: backend.reported.iter().cloned().collect(),
            tunnel: None,
        }
    }
}
