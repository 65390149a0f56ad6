//! What `/readyz` answers: written by the daemon, read by the admin server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Where the daemon is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// First verdicts are still out.
    Starting,
    /// Serving.
    Ready,
    /// Going down.
    Draining,
}

/// The phase, shared.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicU8>);

impl Readiness {
    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// Goes over to ready, unless it is going down already.
    pub fn set_ready(&self) {
        let was_starting = self.0.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
        if was_starting.is_err() {
            tracing::debug!("the first verdicts came too late to matter");
        }
    }

    /// Goes over to `phase`.
    pub fn set(&self, phase: Phase) {
        let number = match phase {
            Phase::Starting => 0,
            Phase::Ready => 1,
            Phase::Draining => 2,
        };
        self.0.store(number, Ordering::Release);
    }
}
