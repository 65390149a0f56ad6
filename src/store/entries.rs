//! What an entry says: of a changed key, a pin, a pause, a backend, a tunnel, and what is counted.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::{Actor, AdminState, BackendName, PinnedServer, WallTime};

/// One key of a pool's configuration that was changed at run time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// The value, as JSON.
    pub value: String,
    /// What the file said at that time, as JSON; none if it said nothing.
    pub file_value: Option<String>,
    /// When.
    pub since: WallTime,
    /// By whom.
    pub actor: Actor,
}

/// A pool that an operator has serve from one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// From where.
    pub backend: BackendName,
    /// Whether the backend's whole tier serves.
    pub whole_tier: bool,
    /// Others of that tier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mates: Vec<BackendName>,
    /// Since when.
    pub since: WallTime,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// By whom.
    pub actor: Actor,
    /// Whether it says who is the primary of a cluster, over all proof.
    #[serde(default)]
    pub overrules: bool,
    /// If so, the server that it says it of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<PinnedServer>,
    /// Whether it waits for a promotion.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaits: bool,
}

/// A pool whose new clients wait by an operator's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Until when at most.
    pub until: Option<WallTime>,
    /// Since when.
    pub since: WallTime,
    /// By whom.
    pub actor: Actor,
}

/// What people say of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminEntry {
    /// What.
    #[serde(serialize_with = "write_admin_state", deserialize_with = "read_admin_state")]
    pub state: AdminState,
    /// Since when.
    pub since: WallTime,
    /// By whom.
    pub actor: Actor,
}

/// A tunnel that an operator does not want.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedTunnel {
    /// Since when.
    pub since: WallTime,
    /// By whom.
    pub actor: Actor,
}

/// What is counted of a pool over all its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolCounters {
    /// The number of the last failover.
    #[serde(default)]
    pub last_failover: u64,
    /// Failovers that were completed.
    pub failovers: u64,
    /// How often it served again after it had been down.
    pub recoveries: u64,
}

fn write_admin_state<S: Serializer>(state: &AdminState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.label())
}

fn read_admin_state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AdminState, D::Error> {
    let word = String::deserialize(deserializer)?;
    AdminState::from_label(&word).ok_or_else(|| serde::de::Error::custom(format!("no admin state: {word}")))
}
