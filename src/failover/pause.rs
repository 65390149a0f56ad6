//! A pool whose new clients an operator has wait. Who serves is decided meanwhile as ever, and published at the end.

use crate::model::{MonoTime, Paused};

use super::change::Change;
use super::order::Refusal;
use super::pool::{Effects, Pool};

/// Since when clients wait, and until when at most.
pub(super) type Pause = Paused;

impl Pool {
    /// Why new clients cannot be made to wait until `until`.
    pub(super) fn refuses_pause(&self, now: MonoTime, until: Option<MonoTime>) -> Option<Refusal> {
        let is_over = until.is_some_and(|until| until <= now);
        is_over.then(|| Refusal::Conflict(format!("a pause of {} that has ended before it begins", self.plan.name)))
    }

    /// Why new clients cannot be let in.
    pub(super) fn refuses_resume(&self) -> Option<Refusal> {
        let name = &self.plan.name;
        self.pause.is_none().then(|| Refusal::Conflict(format!("pool {name} is not paused")))
    }

    /// Has new clients wait. A pause that runs goes on with the new end.
    pub(super) fn pause(&mut self, now: MonoTime, until: Option<MonoTime>, effects: &mut Effects) {
        let since = self.pause.map_or(now, |pause| pause.since);
        self.pause = Some(Pause { since, until });
        effects.changes.push(Change::PoolPaused { timeout: until.map(|until| until.since(now)) });
    }

    /// Lets them go on.
    pub(super) fn resume(&mut self, now: MonoTime, timed_out: bool, effects: &mut Effects) {
        if let Some(pause) = self.pause.take() {
            effects.changes.push(Change::PoolResumed { paused: now.since(pause.since), timed_out });
        }
    }

    /// Lets them go on if the time is up.
    pub(super) fn end_pause(&mut self, now: MonoTime, effects: &mut Effects) {
        if self.pause.and_then(|pause| pause.until).is_some_and(|until| until <= now) {
            self.resume(now, true, effects);
        }
    }
}
