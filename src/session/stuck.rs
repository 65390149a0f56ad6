//! Bytes that a backend's host does not acknowledge: what live sessions find out before the next probe does.
//!
//! It is a suspicion and no verdict: it has the backend asked at once. Looked for in sessions to which nothing has come from
//! the backend for a second, and again each second for as long as that lasts, by one system call each: a session that sends
//! may be stuck, whatever our own kernel has taken of it, and one that is answered pays nothing for it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::BackendId;

use super::worker::Worker;

/// A session is looked at when its backend has been silent for so many ticks, three quarters of a second to a second, and
/// each time as many have passed again; in any case when the client has been silent for as long too, for then it rests. The kernel sends what was lost again after 200 milliseconds at the soonest.
pub(super) const STUCK_AFTER: u32 = 4;

/// So many sessions are looked at in one tick: a tenth of a millisecond. Where there are more, those that are left over come
/// first in the next.
const LOOKED_AT_A_TICK: usize = 256;

/// Without an acknowledgement for so long, and with something sent again in vain, a connection is stuck.
const SILENCE: Duration = Duration::from_millis(500);

/// The sessions that are looked at in one tick.
#[derive(Debug)]
pub(super) struct Looks {
    /// Whoever stands before it had its turn in the last tick.
    from: usize,
    sessions: Vec<usize>,
    left_over: Option<usize>,
}

impl Looks {
    /// None yet; those from `from` on are taken, and those before it next time.
    pub(super) const fn from(from: usize) -> Self {
        Self { from, sessions: Vec::new(), left_over: None }
    }

    /// Takes the session `key`, which the registry knows as `session`, if it has its turn and there is room for it.
    pub(super) fn take(&mut self, key: usize, session: usize) -> bool {
        if key < self.from {
            return false;
        }
        let has_room = self.sessions.len() < LOOKED_AT_A_TICK;
        if has_room {
            self.sessions.push(session);
        } else {
            self.left_over.get_or_insert(key);
        }
        has_room
    }

    /// From which one on is taken next time.
    pub(super) fn left_over(&self) -> usize {
        self.left_over.unwrap_or(0)
    }

    /// By their keys in the registry.
    pub(super) fn sessions(&self) -> &[usize] {
        &self.sessions
    }
}

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

#[cfg(test)]
mod tests {
    use super::{LOOKED_AT_A_TICK, Looks};

    #[test]
    fn those_for_whom_a_tick_had_no_time_come_first_in_the_next() {
        let all = 2 * LOOKED_AT_A_TICK + 10;
        let (mut from, mut turns) = (0, vec![0; all]);
        for _ in 0..3 {
            let mut looks = Looks::from(from);
            for (key, turns) in turns.iter_mut().enumerate() {
                *turns += usize::from(looks.take(key, key));
            }
            assert!(looks.sessions().len() <= LOOKED_AT_A_TICK);
            from = looks.left_over();
        }
        assert_eq!((from, turns), (0, vec![1; all]), "each once in three ticks");
    }
}
