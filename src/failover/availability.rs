//! The one truth table: what probes say × what people say → whether a backend may serve.

use crate::model::{AdminState, HealthState};

/// Whether a backend may get new sessions, and if not, what stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It may.
    Eligible,
    /// It has no verdict yet.
    Pending,
    /// Its probes say no.
    Unfit,
    /// People say no: it is drained.
    Draining,
    /// People say no: it is in maintenance.
    Maintained,
}

impl Availability {
    /// Joins the two axes. People's word goes first: no verdict makes a drained backend serve.
    #[must_use]
    pub const fn of(health: HealthState, admin: AdminState) -> Self {
        match (admin, health) {
            (AdminState::Ready, HealthState::Healthy) => Self::Eligible,
            (AdminState::Ready, HealthState::Unknown) => Self::Pending,
            (AdminState::Ready, HealthState::Unhealthy) => Self::Unfit,
            (AdminState::Drain, HealthState::Healthy | HealthState::Unknown | HealthState::Unhealthy) => Self::Draining,
            (AdminState::Maintenance, HealthState::Healthy | HealthState::Unknown | HealthState::Unhealthy) => {
                Self::Maintained
            }
        }
    }

    /// Whether people allow it to serve, whatever probes say.
    #[must_use]
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Eligible | Self::Pending | Self::Unfit)
    }
}
