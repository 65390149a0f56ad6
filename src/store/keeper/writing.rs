//! What the keeper does about the disk: when it has what written, what follows from the answers, and the end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::model::EventRecord;
use crate::store::disk::{Batch, Kept};
use crate::store::figures::count;
use crate::store::request::{Job, Now};

use super::{BACKOFF_MAX, BACKOFF_MIN, Condition, End, Flight, Keeper, SWEEP_EVERY, set_aside_event};

impl Keeper {
    pub(super) fn written(&mut self, now: Now, kept: Kept, took: Duration) {
        let Some(flight) = self.flight.take() else { return };
        self.kept = kept;
        self.tell_kept();
        count(&self.figures.commits, 1);
        count(&self.figures.commit_micros, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.ring.saved(flight.event);
        self.show(flight.event);
        self.answer_waiters(flight.record, true);
        self.sweep_at = if kept.has_overdue { now.mono } else { now.mono + SWEEP_EVERY };
        if self.is_degraded() {
            self.is_stalled = false;
            self.condition = Condition::Well;
            self.figures.is_degraded.store(false, Ordering::Relaxed);
            tracing::info!("state and history are on disk again");
            self.take_in(now, EventRecord::new(now.wall, "store.recovered"));
        }
    }

    pub(super) fn failed(&mut self, now: Now, reason: &str) {
        count(&self.figures.failed_writes, 1);
        self.flight = None;
        self.rows = Vec::new();
        self.is_all_unsaved = true;
        let was_degraded = self.is_degraded();
        self.is_stalled = false;
        let backoff = match self.condition {
            Condition::Failing { backoff, .. } => (backoff * 2).min(BACKOFF_MAX),
            Condition::Well | Condition::Memory => BACKOFF_MIN,
        };
        self.condition = Condition::Failing { retry_at: now.mono + backoff, backoff };
        self.answer_waiters(u64::MAX, false);
        if was_degraded {
            tracing::debug!(reason, retry = ?backoff, "state and history are still in memory only");
        } else {
            self.degraded(now, reason);
        }
    }

    /// Says that from now on new things are in memory only.
    pub(super) fn degraded(&mut self, now: Now, reason: &str) {
        self.figures.is_degraded.store(true, Ordering::Relaxed);
        tracing::error!(reason, "the disk fails: state and history are in memory only until it works again");
        let mut event = EventRecord::new(now.wall, "store.degraded");
        event.reason = Some(reason.to_owned());
        self.take_in(now, event);
    }

    /// Says that a corrupt file was begun anew.
    pub(super) fn moved_aside(&mut self, now: Now, path: Option<String>) {
        if let Some(path) = path {
            self.take_in(now, set_aside_event(now.wall, path));
        }
    }

    pub(super) fn plan_write(&mut self, now: Now) {
        let is_last = match self.end {
            End::NotYet => false,
            End::Wanted(_) => true,
            End::Writing(_) | End::Closing(..) | End::Over => return,
        };
        if self.flight.is_some() {
            return;
        }
        let is_due = match &self.condition {
            Condition::Memory => false,
            Condition::Well => {
                let is_dirty = self.is_all_unsaved || !self.rows.is_empty() || self.ring.has_unsaved();
                is_dirty || is_last || self.sweep_at <= now.mono
            }
            Condition::Failing { retry_at, .. } => is_last || *retry_at <= now.mono,
        };
        if !is_due {
            // With nothing left to write, whoever still waits has brought nothing.
            self.answer_waiters(u64::MAX, matches!(self.condition, Condition::Well));
            return;
        }
        let is_all = std::mem::take(&mut self.is_all_unsaved);
        let changed = std::mem::take(&mut self.rows);
        let rows = if is_all { self.state.changes().map(|change| change.row()).collect() } else { changed };
        self.flight = Some(Flight { since: now.mono, record: self.records, event: self.next_id - 1 });
        let events = self.ring.unsaved();
        let batch = Batch { is_all, rows, events, next_id: self.next_id, is_last, now: now.wall };
        if let End::Wanted(reply) = &mut self.end {
            self.end = End::Writing(reply.take());
        }
        self.jobs.push(Job::Write(batch));
    }

    /// Closes the disk once the last write has its answer, whatever it is.
    pub(super) fn plan_end(&mut self) {
        match &mut self.end {
            End::Wanted(reply) if matches!(self.condition, Condition::Memory) => {
                self.end = End::Closing(reply.take(), false);
                self.over();
            }
            End::Writing(reply) if self.flight.is_none() => {
                self.end = End::Closing(reply.take(), matches!(self.condition, Condition::Well));
                self.jobs.push(Job::Close);
            }
            End::NotYet | End::Wanted(_) | End::Writing(_) | End::Closing(..) | End::Over => {}
        }
    }

    pub(super) fn over(&mut self) {
        if let End::Closing(Some(reply), is_durable) = std::mem::replace(&mut self.end, End::Over) {
            let _asker_gone = reply.send(is_durable);
        }
    }
}
