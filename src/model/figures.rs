//! What is shown of pools and backends all the time, as numbers: what changes of it is told once, when it changes.

use std::time::Duration;

use super::{MonoTime, PoolState, Redundancy, TunnelState};

/// The figures of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolFigures {
    /// How it fares.
    pub state: PoolState,
    /// How many healthy backends it has, in words.
    pub redundancy: Redundancy,
    /// Whether an operator has its new clients wait.
    pub is_paused: bool,
    /// Whether an operator has bound it to a backend or tier.
    pub is_pinned: bool,
    /// Whether a server that says it is the primary gets new sessions now; none of a pool that is no PostgreSQL cluster.
    pub serves_writes: Option<bool>,
}

/// The figures of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendFigures {
    /// Whether probes and outsiders say that it is healthy.
    pub is_healthy: bool,
    /// Whether it may get new sessions.
    pub is_eligible: bool,
    /// Those that only a PostgreSQL server has.
    pub server: Option<ServerFigures>,
    /// Those of the tunnel that leads to it, if one does.
    pub tunnel: Option<TunnelFigures>,
}

/// The figures of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelFigures {
    /// How it fares.
    pub state: TunnelState,
    /// How often it was started after the first time.
    pub restarts: u64,
    /// Since when checks come through it, if they do.
    pub up_since: Option<MonoTime>,
}

/// The figures of a PostgreSQL server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerFigures {
    /// Whether it says that it is a standby.
    pub is_standby: bool,
    /// Whether the monitor has a session to it.
    pub is_monitored: bool,
    /// How many bytes of the write-ahead log it has not replayed; zero of a primary, none where that is not known.
    pub behind_bytes: Option<u64>,
    /// The same in time.
    pub behind_time: Option<Duration>,
}
