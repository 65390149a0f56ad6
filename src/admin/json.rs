//! A pool and its backends as the API shows them.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::model::{BackendStatus, Direction, MonoTime, PoolStatus, Role, ServerStatus, TunnelStatus};
use crate::routing::Live;
use crate::sys::Clock;

/// A pool.
#[derive(Debug, Serialize, ToSchema)]
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
    /// Who ordered that, and when, be it before a restart; null while it is not so.
    paused_by: Option<String>,
    paused_at: Option<String>,
    /// When it is resumed by itself; null if it is not paused, or until it is resumed.
    paused_until: Option<String>,
    /// How long a client waits at most, also while it is paused.
    hold_seconds: f64,
    held: usize,
    pinned: Option<String>,
    /// The same.
    pinned_by: Option<String>,
    pinned_at: Option<String>,
    last_failover: FailoverView,
    backends: Vec<BackendView>,
}

/// The last change of the active tier; empty if there was none.
#[derive(Debug, Default, Serialize, ToSchema)]
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
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BackendView {
    name: String,
    address: String,
    priority: u32,
    weight: u32,
    health: &'static str,
    admin_state: &'static str,
    /// What a PostgreSQL server says it is; null of others, and while that is not known.
    role: Option<&'static str>,
    eligible: bool,
    active: bool,
    reason: String,
    latency_ms: Option<f64>,
    lag_bytes: Option<u64>,
    lag_seconds: Option<f64>,
    timeline: Option<u32>,
    /// As text: it has more digits than a number of JSON keeps.
    system_id: Option<String>,
    written_lsn: Option<String>,
    replayed_lsn: Option<String>,
    /// What was said last by the paths on which a server is watched, and what it means.
    meaning: Option<String>,
    sessions: u64,
    /// Moved by its sessions since it came into the configuration.
    bytes_to_backend: u64,
    bytes_to_client: u64,
    consecutive_failures: u32,
    consecutive_successes: u32,
    last_check: Option<String>,
    since: String,
    last_error: Option<String>,
    last_error_at: Option<String>,
    downtime_seconds: f64,
    reported: BTreeMap<String, f64>,
    /// The tunnel that leads to it; null if it is reached directly.
    tunnel: Option<TunnelView>,
}

/// The tunnel that leads to a backend.
#[derive(Debug, Serialize, ToSchema)]
struct TunnelView {
    state: &'static str,
    /// Since when.
    since: String,
    provider: String,
    attach: &'static str,
    /// The process number of its program, while that runs and is known.
    pid: Option<u32>,
    /// How often it was started after the first time.
    restarts: u64,
    /// For how long checks have come through it; null while they do not.
    uptime_seconds: Option<f64>,
    /// When it is tried again, if it waits for that.
    next_retry: Option<String>,
    /// Why it is not connected, in words.
    reason: Option<String>,
}

impl TunnelView {
    fn new(tunnel: &TunnelStatus, clock: &Clock) -> Self {
        let now = clock.now();
        Self {
            state: tunnel.state.label(),
            since: clock.timestamp(tunnel.since),
            provider: tunnel.provider.to_string(),
            attach: tunnel.attach.label(),
            pid: tunnel.pid,
            restarts: tunnel.restarts,
            uptime_seconds: tunnel.up_since.map(|since| rounded(now.since(since).as_secs_f64(), 3)),
            next_retry: tunnel.next_retry.map(|at| clock.timestamp(at)),
            reason: tunnel.reason.clone(),
        }
    }
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
            paused_until: pool.paused.and_then(|paused| paused.until).map(|until| clock.timestamp(until)),
            hold_seconds: rounded(pool.hold.as_secs_f64(), 3),
            held: live.pools.get(&pool.name).map_or(0, |live| live.held()),
            paused_by: pool.paused_by.as_ref().map(|by| by.actor.to_string()),
            paused_at: pool.paused_by.as_ref().map(|by| by.at.to_string()),
            pinned: pool.pinned.as_ref().map(ToString::to_string),
            pinned_by: pool.pinned_by.as_ref().map(|by| by.actor.to_string()),
            pinned_at: pool.pinned_by.as_ref().map(|by| by.at.to_string()),
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
        let server = backend.server.as_ref();
        let live = live.backends.get(&backend.id);
        let moved = |direction| live.map_or(0, |live| live.moved(direction));
        Self {
            name: backend.name.to_string(),
            address: backend.address.to_string(),
            priority: backend.priority,
            weight: backend.weight,
            health: backend.health.label(),
            admin_state: backend.admin_state.label(),
            role: server.and_then(|server| server.role).map(Role::label),
            eligible: backend.eligible,
            active: backend.active,
            reason: backend.reason.clone(),
            latency_ms: backend.latency.map(|latency| rounded(latency.as_secs_f64() * 1e3, 3)),
            lag_bytes: server.and_then(ServerStatus::behind_bytes),
            lag_seconds: server.and_then(ServerStatus::behind_time).map(|time| rounded(time.as_secs_f64(), 3)),
            timeline: server.and_then(|server| server.timeline).map(|timeline| timeline.0),
            system_id: server.and_then(|server| server.system).as_ref().map(ToString::to_string),
            written_lsn: server.and_then(|server| server.written).as_ref().map(ToString::to_string),
            replayed_lsn: server.and_then(|server| server.replayed).as_ref().map(ToString::to_string),
            meaning: server.map(|server| server.meaning.clone()),
            sessions: live.map_or(0, |live| live.active()),
            bytes_to_backend: moved(Direction::ClientToBackend),
            bytes_to_client: moved(Direction::BackendToClient),
            consecutive_failures: backend.consecutive_failures,
            consecutive_successes: backend.consecutive_successes,
            last_check: backend.last_check.map(stamp),
            since: stamp(backend.since),
            last_error: backend.last_error.clone(),
            last_error_at: backend.last_error_at.map(stamp),
            downtime_seconds: rounded(backend.downtime.as_secs_f64(), 3),
            reported: backend.reported.iter().cloned().collect(),
            tunnel: backend.tunnel.as_ref().map(|tunnel| TunnelView::new(tunnel, clock)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::BackendView;
    use crate::model::{Attach, BackendStatus, Lsn, Role, ServerStatus, SystemId, Timeline, TunnelState, TunnelStatus};
    use crate::routing::Live;
    use crate::sys::Clock;

    fn shown(server: Option<ServerStatus>) -> Value {
        let backend = BackendStatus {
            address: "10.0.0.2:5432".parse().unwrap(),
            priority: 2,
            consecutive_successes: 9,
            server,
            ..BackendStatus::healthy("pg2")
        };
        serde_json::to_value(BackendView::new(&backend, &Live::default(), &Clock::start())).unwrap()
    }

    #[test]
    fn a_tunnel_is_shown_as_the_contract_has_it() {
        let clock = Clock::start();
        let tunnel = |state, up_since, reason: Option<&str>| BackendStatus {
            tunnel: Some(TunnelStatus {
                state,
                since: clock.now(),
                provider: "ssh".into(),
                attach: Attach::Listen,
                pid: Some(1),
                restarts: 2,
                up_since,
                next_retry: None,
                reason: reason.map(str::to_owned),
            }),
            ..BackendStatus::healthy("pg2")
        };
        let view = |status| serde_json::to_value(BackendView::new(&status, &Live::default(), &clock)).unwrap();
        let up = view(tunnel(TunnelState::Connected, Some(clock.now()), None));
        let fields = json!({"state": "connected", "provider": "ssh", "attach": "listen", "pid": 1, "restarts": 2,
            "next_retry": null, "reason": null});
        has(&up["tunnel"], &fields);
        assert!(up["tunnel"]["uptime_seconds"].as_f64().is_some_and(|uptime| uptime >= 0.0), "{up}");
        let down = view(tunnel(TunnelState::Failed, None, Some("Permission denied")));
        has(&down["tunnel"], &json!({"state": "failed", "uptime_seconds": null, "reason": "Permission denied"}));
        assert_eq!(view(BackendStatus::healthy("pg2"))["tunnel"], Value::Null);
    }

    fn standby() -> ServerStatus {
        ServerStatus {
            role: Some(Role::Standby),
            system: Some(SystemId(u64::MAX)),
            timeline: Some(Timeline(3)),
            written: Some(Lsn(0x1_0300_0060)),
            replayed: Some(Lsn(0x1_0300_0000)),
            lag_bytes: Some(96),
            lag_time: Some(Duration::from_micros(12_345)),
            is_monitored: true,
            meaning: "alive: the session is open, the accept path answers".to_owned(),
        }
    }

    #[track_caller]
    fn has(view: &Value, wanted: &Value) {
        for (field, value) in wanted.as_object().unwrap() {
            assert_eq!(&view[field], value, "{field} of {view}");
        }
    }

    #[test]
    fn a_server_of_a_cluster_is_shown_as_the_contract_has_it() {
        has(
            &shown(Some(standby())),
            &json!({"role": "standby", "lag_bytes": 96, "lag_seconds": 0.012, "timeline": 3,
                "system_id": "18446744073709551615", "written_lsn": "1/3000060", "replayed_lsn": "1/3000000",
                "meaning": "alive: the session is open, the accept path answers"}),
        );
        let primary =
            ServerStatus { role: Some(Role::Primary), replayed: None, lag_bytes: None, lag_time: None, ..standby() };
        has(
            &shown(Some(primary)),
            &json!({"role": "primary", "lag_bytes": 0, "lag_seconds": 0.0, "replayed_lsn": null}),
        );
    }

    #[test]
    fn what_is_not_known_of_a_server_is_null() {
        let unknown = ServerStatus {
            role: None,
            system: None,
            timeline: None,
            written: None,
            replayed: None,
            lag_bytes: None,
            lag_time: None,
            is_monitored: true,
            meaning: "unknown".to_owned(),
        };
        let nothing = json!({"role": null, "lag_bytes": null, "lag_seconds": null, "timeline": null, "system_id": null,
            "written_lsn": null, "replayed_lsn": null});
        for (server, meaning) in [(Some(unknown), json!("unknown")), (None, Value::Null)] {
            let view = shown(server);
            has(&view, &nothing);
            assert_eq!(view.as_object().unwrap().get("meaning"), Some(&meaning));
        }
    }
}
