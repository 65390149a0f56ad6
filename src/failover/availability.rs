//! The one truth table: what probes say × what outsiders say × what people say × what the agent says × its part in a
//! cluster → whether a backend may serve.

use crate::model::{AdminState, HealthState};

use super::server::Part;

/// What is said of a backend, by each who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voices {
    /// What our own evidence says.
    pub health: HealthState,
    /// Whether it is unhealthy for nothing but answers that take too long.
    pub slow: bool,
    /// The verdict that somebody outside has pushed; `unknown` if none holds.
    pub pushed: HealthState,
    /// What the operator says.
    pub operator: AdminState,
    /// What the agent on its host asks for.
    pub agent: AdminState,
    /// Its part in its cluster; that of one who leads where there is none.
    pub part: Part,
}

/// Whether a backend may get new sessions, and if not, what stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It may.
    Eligible,
    /// It may if there is none that is better by enough.
    Slow,
    /// It has no verdict yet, or what it is in its cluster is waited for, or being written down.
    Pending,
    /// It is fit, and a standby in its cluster.
    Standby,
    /// It lives, and has no part in its cluster in which it could serve.
    Barred,
    /// Its probes, or somebody outside, say no.
    Unfit,
    /// People, or its agent, say no: it is drained.
    Draining,
    /// People, or its agent, say no: it is in maintenance.
    Maintained,
}

/// The stricter of two admin states.
pub(super) fn stricter(one: AdminState, other: AdminState) -> AdminState {
    one.max(other)
}

impl Availability {
    /// Joins the voices. People's word and the agent's go first, the stricter of them: no verdict makes a drained
    /// backend serve. A pushed `unhealthy` outvotes probes; a pushed `healthy` does not.
    #[must_use]
    pub fn of(voices: Voices) -> Self {
        match (stricter(voices.operator, voices.agent), voices.pushed, voices.health) {
            (AdminState::Maintenance, ..) => Self::Maintained,
            (AdminState::Drain, ..) => Self::Draining,
            (AdminState::Ready, HealthState::Unhealthy, _) => Self::Unfit,
            (AdminState::Ready, HealthState::Unknown | HealthState::Healthy, health) => match health {
                HealthState::Unknown => Self::Pending,
                HealthState::Unhealthy if !voices.slow => Self::Unfit,
                HealthState::Healthy | HealthState::Unhealthy => match voices.part {
                    Part::Leads if health == HealthState::Unhealthy => Self::Slow,
                    Part::Leads => Self::Eligible,
                    Part::Elected | Part::Awaited => Self::Pending,
                    Part::Follows => Self::Standby,
                    Part::Refused | Part::Roleless | Part::Foreign | Part::Shut => Self::Barred,
                },
            },
        }
    }

    /// Whether it is a server that lives and does not lead its cluster, but may yet.
    #[must_use]
    pub const fn may_lead(self) -> bool {
        matches!(self, Self::Pending | Self::Standby | Self::Barred)
    }

    /// Whether people and the agent allow it to serve, whatever is said of its health.
    #[must_use]
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Eligible | Self::Slow | Self::Pending | Self::Standby | Self::Barred | Self::Unfit)
    }
}
