//! What operators want done, and how the core says no.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{AdminState, BackendName, MonoTime, PoolName, PushedHealth, SessionPolicy};

/// What an operator, or a system that speaks for one, wants done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Drain a backend, put it in maintenance, or make it ready.
    SetAdminState {
        /// Its pool.
        pool: PoolName,
        /// The backend.
        backend: BackendName,
        /// What it shall be.
        state: AdminState,
    },
    /// Serve from another backend, and from it alone until [`Order::Failback`].
    Failover {
        /// The pool.
        pool: PoolName,
        /// Where to; the best of the other tiers if left open.
        to: Option<BackendName>,
        /// Why, in the operator's words.
        reason: Option<String>,
        /// What becomes of the sessions of those that served.
        sessions: SessionPolicy,
    },
    /// Serve from wherever the rules say again, and at once.
    Failback {
        /// The pool.
        pool: PoolName,
    },
    /// Let new clients wait.
    Pause {
        /// The pool.
        pool: PoolName,
        /// Until when at most.
        until: Option<MonoTime>,
    },
    /// Let them go on.
    Resume {
        /// The pool.
        pool: PoolName,
    },
    /// Take a verdict from outside.
    PushHealth {
        /// The backend's pool.
        pool: PoolName,
        /// The backend.
        backend: BackendName,
        /// The verdict.
        pushed: PushedHealth,
    },
    /// Somebody outside could not use a backend.
    ReportFailure {
        /// The backend's pool.
        pool: PoolName,
        /// The backend.
        backend: BackendName,
        /// What went wrong.
        error: String,
    },
    /// Somebody outside could.
    ReportSuccess {
        /// The backend's pool.
        pool: PoolName,
        /// The backend.
        backend: BackendName,
    },
    /// Forget every failure of a backend, or of all of a pool, and ask it anew.
    Reset {
        /// The pool.
        pool: PoolName,
        /// The backend; all of them if left open.
        backend: Option<BackendName>,
    },
    /// Probe a backend, or all of a pool, now.
    Probe {
        /// The pool.
        pool: PoolName,
        /// The backend; all of them if left open.
        backend: Option<BackendName>,
    },
    /// Start or stop the tunnel that leads to a backend.
    Tunnel {
        /// The backend's pool.
        pool: PoolName,
        /// The backend.
        backend: BackendName,
        /// What is wanted.
        wanted: TunnelOrder,
    },
}

/// What is wanted of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelOrder {
    /// That it is started, at once, whatever became of it before.
    Start,
    /// That it is stopped, and not started before somebody says so.
    Stop,
    /// That it is started anew.
    Restart,
}

impl Order {
    /// The pool that it is for.
    #[must_use]
    pub const fn pool(&self) -> &PoolName {
        match self {
            Self::SetAdminState { pool, .. }
            | Self::Failover { pool, .. }
            | Self::Failback { pool }
            | Self::Pause { pool, .. }
            | Self::Resume { pool }
            | Self::PushHealth { pool, .. }
            | Self::ReportFailure { pool, .. }
            | Self::ReportSuccess { pool, .. }
            | Self::Reset { pool, .. }
            | Self::Probe { pool, .. }
            | Self::Tunnel { pool, .. } => pool,
        }
    }

    /// The backend that it names, if it names one.
    #[must_use]
    pub const fn backend(&self) -> Option<&BackendName> {
        match self {
            Self::SetAdminState { backend, .. }
            | Self::PushHealth { backend, .. }
            | Self::ReportFailure { backend, .. }
            | Self::ReportSuccess { backend, .. }
            | Self::Tunnel { backend, .. } => Some(backend),
            Self::Failover { to: backend, .. } | Self::Reset { backend, .. } | Self::Probe { backend, .. } => {
                backend.as_ref()
            }
            Self::Failback { .. } | Self::Pause { .. } | Self::Resume { .. } => None,
        }
    }

    /// Whether it outlives a restart: evidence is gathered anew, what people want is not.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        match self {
            Self::SetAdminState { .. }
            | Self::Failover { .. }
            | Self::Failback { .. }
            | Self::Pause { .. }
            | Self::Resume { .. }
            | Self::Tunnel { wanted: TunnelOrder::Start | TunnelOrder::Stop, .. } => true,
            Self::PushHealth { .. }
            | Self::ReportFailure { .. }
            | Self::ReportSuccess { .. }
            | Self::Reset { .. }
            | Self::Probe { .. }
            | Self::Tunnel { wanted: TunnelOrder::Restart, .. } => false,
        }
    }

    /// The word for it in the audit trail.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::SetAdminState { state: AdminState::Ready, .. } => "backend.ready",
            Self::SetAdminState { state: AdminState::Drain, .. } => "backend.drain",
            Self::SetAdminState { state: AdminState::Maintenance, .. } => "backend.maintenance",
            Self::Failover { .. } => "pool.failover",
            Self::Failback { .. } => "pool.failback",
            Self::Pause { .. } => "pool.pause",
            Self::Resume { .. } => "pool.resume",
            Self::PushHealth { .. } => "backend.health",
            Self::ReportFailure { .. } => "backend.failure",
            Self::ReportSuccess { .. } => "backend.success",
            Self::Reset { .. } => "reset",
            Self::Probe { .. } => "probe",
            Self::Tunnel { wanted: TunnelOrder::Start, .. } => "tunnel.start",
            Self::Tunnel { wanted: TunnelOrder::Stop, .. } => "tunnel.stop",
            Self::Tunnel { wanted: TunnelOrder::Restart, .. } => "tunnel.restart",
        }
    }
}

/// Why an order was not carried out. It has changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such pool.
    PoolNotFound(PoolName),
    /// The pool has no such backend.
    BackendNotFound(PoolName, BackendName),
    /// Nothing, or not the one that was asked for, is fit to serve; why, in words.
    NoEligibleBackend(String),
    /// What was asked for is so already, or makes no sense as things stand; why, in words.
    Conflict(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoolNotFound(pool) => write!(f, "there is no pool {pool}"),
            Self::BackendNotFound(pool, backend) => write!(f, "pool {pool} has no backend {backend}"),
            Self::NoEligibleBackend(why) | Self::Conflict(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refusal {}
