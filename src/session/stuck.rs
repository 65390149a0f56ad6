//! Bytes that a backend's host does not acknowledge: what live sessions find out before the next probe does.
//!
//! It is a suspicion and no verdict: it has the backend asked at once. Looked for in sessions that have just fallen silent,
//! by one system call each, so that a session that moves bytes pays nothing for it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::BackendId;

use super::worker::Worker;

/// A session is looked at when it has been silent for so many ticks: three quarters of a second to a second. The kernel sends
/// what was lost again after 200 milliseconds at the soonest.
pub(super) const STUCK_AFTER: u32 = 4;

/// So many sessions are looked at in one tick: a tenth of a millisecond. When thousands fall silent at once, some of each
/// backend's are enough.
pub(super) const LOOKED_AT_A_TICK: usize = 256;

/// Without an acknowledgement for so long, and with something sent again in vain, a connection is stuck.
const SILENCE: Duration = Duration::from_millis(500);

impl Worker {
    /// Reports the backends of those of the sessions `silent`, by their keys in the registry, that are stuck.
    pub(super) fn report_stuck(&self, silent: &[usize]) {
        let mut told: BTreeSet<BackendId> = BTreeSet::new();
        for (backend, epoch, server) in self.registry.servers(self.index, silent) {
            if told.contains(&backend) {
                continue;
            }
            if let Some(unheard) = server.unheard().filter(|&unheard| unheard >= SILENCE) {
                told.insert(backend);
                self.feedback.data_stalled(backend, epoch, unheard);
            }
        }
    }
}
