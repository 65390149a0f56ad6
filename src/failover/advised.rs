//! What the agent on a backend's host has asked for, until it asks for something else.

use crate::model::{AdminState, Advice};

use super::availability::stricter;

/// An agent that has asked for nothing asks for this share of the weight.
const WHOLE: u8 = 100;

/// What an agent has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Advised {
    pub(super) admin: AdminState,
    /// In percent.
    weight: u8,
}

impl Default for Advised {
    fn default() -> Self {
        Self { admin: AdminState::Ready, weight: WHOLE }
    }
}

impl Advised {
    /// Takes in the latest advice: what it leaves out stays as it was.
    pub(super) fn take(&mut self, advice: Advice) {
        self.admin = advice.admin.unwrap_or(self.admin);
        self.weight = advice.weight.unwrap_or(self.weight);
    }

    /// The admin state that this amounts to: no weight is as good as drained, as far as new sessions go.
    pub(super) fn amounts_to(self) -> AdminState {
        if self.weight == 0 { stricter(self.admin, AdminState::Drain) } else { self.admin }
    }

    /// The share of `weight` that it asks for, and at least 1.
    pub(super) fn share_of(self, weight: u32) -> u32 {
        let share = (u64::from(weight) * u64::from(self.weight) + u64::from(WHOLE) / 2) / u64::from(WHOLE);
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }
}
