//! What the core says of a pool when asked: facts for the API, the metrics and the tables.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Actor, Address, AdminState, BackendId, BackendName, Generation, HealthState, Lsn, MonoTime, OutReason, PoolKind,
    PoolName, PoolState, Redundancy, Role, SmoothedLatency, SystemId, Timeline, TunnelStatus, WallTime,
};

/// A pool as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolStatus {
    /// Its name.
    pub name: PoolName,
    /// What it is made of.
    pub kind: PoolKind,
    /// How it fares.
    pub state: PoolState,
    /// How many healthy backends it has, in words.
    pub redundancy: Redundancy,
    /// The number of the route table that this describes.
    pub generation: Generation,
    /// What an operator has bound it to; of a whole tier, one backend.
    pub pinned: Option<BackendName>,
    /// Who did; the core does not know.
    pub pinned_by: Option<OrderedBy>,
    /// Whether an operator has its new clients wait.
    pub paused: Option<Paused>,
    /// Who has; the core does not know.
    pub paused_by: Option<OrderedBy>,
    /// How long a client may wait, also while it is paused.
    pub hold: Duration,
    /// Of a cluster: the servers that people were told of as a split brain, for as long as that is not settled.
    pub contested: Vec<BackendName>,
    /// Failovers that have been completed.
    pub failovers: u64,
    /// How often it served again after it was down, or went back to a better tier.
    pub recoveries: u64,
    /// The last time it changed its tier, if ever.
    pub last_failover: Option<LastFailover>,
    /// Its backends by priority, then name.
    pub backends: Vec<BackendStatus>,
}

/// Who gave an order that holds, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderedBy {
    /// Who.
    pub actor: Actor,
    /// When, also before this process began.
    pub at: WallTime,
}

/// A pool whose new clients wait by an operator's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Since when.
    pub since: MonoTime,
    /// Until when at most.
    pub until: Option<MonoTime>,
}

/// The last change of a pool's active tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFailover {
    /// When.
    pub at: MonoTime,
    /// The backends that served before.
    pub from: Vec<BackendName>,
    /// The backends that serve since.
    pub to: Vec<BackendName>,
    /// Why.
    pub reason: OutReason,
}

/// A PostgreSQL server as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerStatus {
    /// What it says it is; none while that is not known.
    pub role: Option<Role>,
    /// Its cluster.
    pub system: Option<SystemId>,
    /// Its line of history.
    pub timeline: Option<Timeline>,
    /// How far it has written (a primary), or received (a standby).
    pub written: Option<Lsn>,
    /// How far a standby has replayed.
    pub replayed: Option<Lsn>,
    /// How many bytes a standby is behind the primary.
    pub lag_bytes: Option<u64>,
    /// For how long a standby has not replayed what the primary had written by then.
    pub lag_time: Option<Duration>,
    /// Whether its monitoring session is open: what is told of it is what it says now, and not what it said last.
    pub is_monitored: bool,
    /// What the monitoring session and the accept path said last, and what that means, in words.
    pub meaning: String,
}

impl ServerStatus {
    /// How many bytes it is behind: a primary is behind nobody, and of a standby it may not be known.
    #[must_use]
    pub fn behind_bytes(&self) -> Option<u64> {
        if self.role == Some(Role::Primary) { Some(0) } else { self.lag_bytes }
    }

    /// The same in time.
    #[must_use]
    pub fn behind_time(&self) -> Option<Duration> {
        if self.role == Some(Role::Primary) { Some(Duration::ZERO) } else { self.lag_time }
    }
}

/// A backend as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendStatus {
    /// Its number.
    pub id: BackendId,
    /// Its name.
    pub name: BackendName,
    /// Where it listens.
    pub address: Address,
    /// Its tier.
    pub priority: u32,
    /// Its share within the tier, as far as its agent lets it have it.
    pub weight: u32,
    /// What probes and outsiders say.
    pub health: HealthState,
    /// What people and its agent say.
    pub admin_state: AdminState,
    /// Whether it may get new sessions.
    pub eligible: bool,
    /// Whether it gets new sessions now.
    pub active: bool,
    /// Why it gets none, in words; empty if it does.
    pub reason: String,
    /// Whether it answers, and takes longer than `max_latency`.
    pub slow: bool,
    /// How long its last good answer took.
    pub latency: Option<Duration>,
    /// How long its good answers take, smoothed.
    pub smoothed: Option<SmoothedLatency>,
    /// Failures in a row, of probes and of those who reported them.
    pub consecutive_failures: u32,
    /// What was heard against it, in quarters of a failure.
    pub passive_points: u32,
    /// Whether it is asked no more until it is reset.
    pub gave_up: bool,
    /// Successes in a row.
    pub consecutive_successes: u32,
    /// When its last verdict-bearing answer came.
    pub last_check: Option<MonoTime>,
    /// Since when its health is what it is.
    pub since: MonoTime,
    /// What the last failure said.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<MonoTime>,
    /// How long it has been unhealthy in all, up to now.
    pub downtime: Duration,
    /// What a PostgreSQL server is, and how far; none of other backends.
    pub server: Option<ServerStatus>,
    /// The figures that came with a verdict from outside that still holds, by name.
    pub reported: Vec<(String, f64)>,
    /// That verdict.
    pub pushed: Option<PushedVerdict>,
    /// The tunnel that leads to it; none of other backends.
    pub tunnel: Option<TunnelStatus>,
}

/// A verdict from outside that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedVerdict {
    /// What it says.
    pub health: HealthState,
    /// Why, in the words of who pushed it.
    pub reason: Option<String>,
    /// Since when it says so.
    pub since: MonoTime,
    /// Until when it holds, unless it is said again.
    pub until: MonoTime,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl BackendStatus {
    /// A healthy one, of which nothing else is known, for tests to start from.
    pub(crate) fn healthy(name: &str) -> Self {
        Self {
            id: BackendId(1),
            name: name.into(),
            address: "127.0.0.1:1".parse().unwrap(),
            priority: 1,
            weight: 1,
            health: HealthState::Healthy,
            admin_state: AdminState::Ready,
            eligible: true,
            active: false,
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
            last_error_at: None,
            downtime: Duration::ZERO,
            server: None,
            reported: Vec::new(),
            pushed: None,
            tunnel: None,
        }
    }
}
