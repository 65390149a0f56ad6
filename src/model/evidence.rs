//! What is said of a backend from outside the daemon's own probes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AdminState, HealthState, MonoTime};

/// The most figures that one report may carry.
pub const FIGURES_MAX: usize = 32;

/// What an agent on the backend's host asks for besides good or bad news. Nothing said changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Advice {
    /// Whether the backend wants to be drained or maintained, or is ready again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminState>,
    /// The share of its weight that it can carry, in percent: 0 is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
}

/// A verdict that somebody outside has pushed, with what it is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PushedHealth {
    /// The verdict. `unknown` takes back what was pushed before.
    pub health: HealthState,
    /// Until when it holds.
    pub until: MonoTime,
    /// Why, in the words of who pushed it.
    pub reason: Option<String>,
    /// Figures such as `cpu_percent`, by name; for people and metrics, no verdict follows from them.
    pub figures: Vec<(String, f64)>,
}

/// How long answers take, smoothed: the mean and how far they stray from it (as RFC 6298 has it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmoothedLatency {
    /// The mean.
    pub mean: Duration,
    /// The mean distance from the mean.
    pub deviation: Duration,
}
