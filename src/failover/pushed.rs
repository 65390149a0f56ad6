//! A verdict that somebody outside has pushed, for as long as it holds.

use crate::model::{FIGURES_MAX, HealthState, MonoTime, PushedHealth};

/// A pushed verdict that holds, or held until lately.
#[derive(Debug, Clone)]
pub(super) struct Pushed {
    pub(super) verdict: PushedHealth,
    /// Since when the verdict has been the same.
    pub(super) since: MonoTime,
}

impl Pushed {
    /// What `verdict` amounts to after the one `before`: nothing if it takes that back, or has lapsed already.
    pub(super) fn new(now: MonoTime, mut verdict: PushedHealth, before: Option<&Self>) -> Option<Self> {
        if verdict.health == HealthState::Unknown || verdict.until <= now {
            return None;
        }
        verdict.figures.truncate(FIGURES_MAX);
        let renewed = before.filter(|before| before.verdict.health == verdict.health);
        Some(Self { since: renewed.map_or(now, |before| before.since), verdict })
    }

    /// The evidence in words.
    pub(super) fn detail(&self) -> String {
        let health = self.verdict.health;
        match &self.verdict.reason {
            Some(reason) => format!("reported {health}: {reason}"),
            None => format!("reported {health}"),
        }
    }
}
