//! The one owner of what is kept: gives ids, holds the state and the recent past in memory, says what is to be
//! written and when, and who is told what. It does no I/O and reads no clock; it is told the time.
//!
//! The rules:
//! - An event is shown when it is durable, or when the disk has not answered for [`SHOW_AFTER`], or at once while
//!   the disk is known to fail. A change is answered when it is durable, or likewise that it is not.
//! - One write is under way at a time; whatever comes meanwhile goes together into the next.
//! - After a failure everything in memory is written anew, first after [`BACKOFF_MIN`], then ever more seldom.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{broadcast, oneshot};

use crate::model::{EventRecord, MonoTime, WallTime};

use super::disk::{Batch, Found, Kept, Scan};
use super::figures::{Figures, count};
use super::history::{Page, Ring, bound};
use super::pages::{Pages, Query};
use super::state::{Change, ENTRIES_MAX, ENTRY_MAX, Row, State};

/// An event that is not durable after so long is shown all the same: the contract's second.
pub(super) const SHOW_AFTER: Duration = Duration::from_secs(1);
/// A change that is not durable after so long is answered all the same: well below what callers wait.
pub(super) const ANSWER_AFTER: Duration = Duration::from_secs(5);
/// From a failed write to the next try.
pub(super) const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The longest time from one try to the next.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// From one look for events that are too old to the next.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The events in memory, in bytes: some 5,000 of them.
pub(super) const RING_MAX: usize = 4 << 20;
/// Those of them that still have to be written; beyond it the oldest are given up and counted.
pub(super) const UNSAVED_MAX: usize = RING_MAX / 2;
/// Changed entries that still have to be written; beyond it all entries are written, which is bounded.
const ROWS_MAX: usize = 10_000;

/// The time, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) mono: MonoTime,
    pub(super) wall: WallTime,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Whether it is on disk. If not, it holds in memory, and is written as soon as the disk works.
    pub is_durable: bool,
    /// The events that came with it, with their ids.
    pub events: Vec<Arc<EventRecord>>,
}

/// Why a change or a question was not taken. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many of them wait already.
    #[error("too many requests to the store are waiting; try again")]
    Busy,
    /// The store was closed.
    #[error("the store is closed: the daemon is stopping")]
    Closed,
    /// An entry is too long.
    #[error("an entry of {0} bytes is too long: {ENTRY_MAX} is the most")]
    TooLong(usize),
    /// There are too many entries.
    #[error("there are {ENTRIES_MAX} entries, which is the most; remove some")]
    Full,
}

/// Where a change's answer goes.
pub(super) type Reply = oneshot::Sender<Result<Applied, Refused>>;

/// What the keeper is asked.
#[derive(Debug)]
pub(super) enum Request {
    Record { changes: Vec<Change>, events: Vec<EventRecord>, reply: Option<Reply> },
    Find { query: Query, reply: oneshot::Sender<Page> },
    State(oneshot::Sender<State>),
    Disk(Answer),
    Close(Option<oneshot::Sender<bool>>),
}

/// What the disk thread is to do.
#[derive(Debug)]
pub(super) enum Job {
    Write(Batch),
    Scan { key: u64, scan: Scan },
    Close,
}

/// What the disk thread says.
#[derive(Debug)]
pub(super) enum Answer {
    Written { kept: Kept, took: Duration, file_bytes: u64, set_aside: Option<String> },
    Failed { reason: String, set_aside: Option<String> },
    Scanned { key: u64, result: Result<Scan, String> },
    Closed,
}

/// How the disk fares.
#[derive(Debug)]
enum Condition {
    /// There is none.
    Memory,
    Well,
    Failing {
        retry_at: MonoTime,
        backoff: Duration,
    },
}

/// A write under way.
#[derive(Debug)]
struct Flight {
    since: MonoTime,
    /// The last record that it covers.
    record: u64,
    /// The last event that it covers.
    event: u64,
}

/// A change whose answer waits for the disk.
#[derive(Debug)]
struct Waiter {
    record: u64,
    deadline: MonoTime,
    applied: Applied,
    reply: Reply,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Keeper {
    state: State,
    ring: Ring,
    next_id: u64,
    /// Events up to this one are shown.
    shown: u64,
    kept: Kept,
    rows: Vec<Row>,
    /// Whether everything has to be written, rather than `rows`.
    is_all_unsaved: bool,
    /// How many records came.
    records: u64,
    flight: Option<Flight>,
    /// Whether the write under way is overdue.
    is_stalled: bool,
    condition: Condition,
    sweep_at: MonoTime,
    waiters: VecDeque<Waiter>,
    pages: Pages,
    live: broadcast::Sender<Arc<EventRecord>>,
    figures: Arc<Figures>,
    jobs: Vec<Job>,
    end: End,
}

/// How far the end has come.
#[derive(Debug)]
enum End {
    NotYet,
    /// Whatever is left is to be written.
    Wanted(Option<oneshot::Sender<bool>>),
    /// It is being written.
    Writing(Option<oneshot::Sender<bool>>),
    /// The disk is being closed; whether all is on it.
    Closing(Option<oneshot::Sender<bool>>, bool),
    Over,
}

impl Keeper {
    /// A keeper of what was found; `has_disk` is whether there is a disk at all.
    pub(super) fn new(
        found: Found,
        has_disk: bool,
        live: broadcast::Sender<Arc<EventRecord>>,
        figures: Arc<Figures>,
        now: Now,
    ) -> Self {
        figures.is_durable.store(has_disk, Ordering::Relaxed);
        let mut ring = Ring::default();
        for mut event in found.recent {
            let bytes = bound(&mut event);
            ring.push(Arc::new(event), bytes, now.mono, false);
        }
        let keeper = Self {
            state: found.state,
            ring,
            next_id: found.next_id,
            shown: found.next_id.saturating_sub(1),
            kept: found.kept,
            rows: Vec::new(),
            is_all_unsaved: false,
            records: 0,
            flight: None,
            is_stalled: false,
            condition: if has_disk { Condition::Well } else { Condition::Memory },
            // Whatever is too old already goes with the first write.
            sweep_at: now.mono,
            waiters: VecDeque::new(),
            pages: Pages::default(),
            live,
            figures,
            jobs: Vec::new(),
            end: End::NotYet,
        };
        keeper.tell_kept();
        keeper
    }

    /// Begins with a disk that failed already.
    pub(super) fn begin_failing(&mut self, now: Now, reason: &str) {
        self.failed(now, reason);
        self.settle(now);
    }

    /// Takes an event of the store's own in, before anything else happens.
    pub(super) fn begin_with(&mut self, now: Now, event: EventRecord) {
        self.take_in(now, event);
        self.settle(now);
    }

    /// What the disk thread is to do, in this order.
    pub(super) fn take_jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// When it wants to be called at the latest, although nothing came.
    pub(super) fn deadline(&self) -> Option<MonoTime> {
        let waits = !matches!(self.condition, Condition::Memory) && !self.is_degraded();
        let show = self.ring.after(self.shown).next().filter(|_| waits).map(|entry| entry.at + SHOW_AFTER);
        let answer = self.waiters.front().map(|waiter| waiter.deadline);
        let stall = self.flight.as_ref().filter(|_| !self.is_stalled).map(|flight| flight.since + ANSWER_AFTER);
        let next = match (&self.flight, &self.condition) {
            (Some(_), _) | (None, Condition::Memory) => None,
            (None, Condition::Well) => Some(self.sweep_at),
            (None, Condition::Failing { retry_at, .. }) => Some(*retry_at),
        };
        [show, answer, stall, next, self.pages.deadline()].into_iter().flatten().min()
    }

    /// Does what has become due.
    pub(super) fn tick(&mut self, now: Now) {
        let overdue = self.flight.as_ref().is_some_and(|flight| flight.since + ANSWER_AFTER <= now.mono);
        if overdue && !self.is_stalled {
            let was_degraded = self.is_degraded();
            self.is_stalled = true;
            self.answer_waiters(u64::MAX, false);
            if !was_degraded {
                self.degraded(now, &format!("it has not answered for {ANSWER_AFTER:.0?}"));
            }
        }
        while self.waiters.front().is_some_and(|waiter| waiter.deadline <= now.mono) {
            if let Some(waiter) = self.waiters.pop_front() {
                answer(waiter, false);
            }
        }
        self.pages.expire(now.mono, &self.ring, self.shown);
        self.settle(now);
    }

    /// Takes `request` in.
    pub(super) fn handle(&mut self, now: Now, request: Request) {
        match request {
            Request::Record { changes, events, reply } => self.record(now, changes, events, reply),
            Request::Find { query, reply } => {
                let has_older = self.has_older();
                let is_readable = !self.is_degraded();
                let shown = self.shown;
                self.jobs.extend(self.pages.ask(now.mono, query, reply, &self.ring, shown, has_older, is_readable));
            }
            Request::State(reply) => {
                let _asker_gone = reply.send(self.state.clone());
            }
            Request::Disk(Answer::Written { kept, took, file_bytes, set_aside }) => {
                self.moved_aside(now, set_aside);
                self.figures.file_bytes.store(file_bytes, Ordering::Relaxed);
                self.written(now, kept, took);
            }
            Request::Disk(Answer::Failed { reason, set_aside }) => {
                self.moved_aside(now, set_aside);
                self.failed(now, &reason);
            }
            Request::Disk(Answer::Scanned { key, result }) => {
                let has_older = self.has_older();
                if let Ok(scan) = &result {
                    count(&self.figures.unreadable, scan.unreadable);
                }
                self.jobs.extend(self.pages.found(key, result, &self.ring, self.shown, has_older));
            }
            Request::Disk(Answer::Closed) => self.over(),
            Request::Close(reply) => {
                if let End::NotYet = self.end {
                    self.end = End::Wanted(reply);
                }
            }
        }
        self.settle(now);
    }

    /// Whether the disk has events that the ring has no more.
    fn has_older(&self) -> bool {
        let first = self.ring.first_id().unwrap_or(self.next_id);
        self.kept.oldest.is_some_and(|oldest| oldest < first)
    }

    const fn is_degraded(&self) -> bool {
        self.is_stalled || matches!(self.condition, Condition::Failing { .. })
    }

    fn record(&mut self, now: Now, changes: Vec<Change>, events: Vec<EventRecord>, reply: Option<Reply>) {
        let longest = changes.iter().map(Change::weight).max().unwrap_or(0);
        let added = changes.iter().filter(|change| change.is_set()).count();
        let refusal = if longest > ENTRY_MAX {
            Some(Refused::TooLong(longest))
        } else if added > 0 && self.state.len() + added > ENTRIES_MAX {
            Some(Refused::Full)
        } else {
            None
        };
        let changes = match (refusal, reply.is_some()) {
            (None, _) => changes,
            (Some(refused), true) => {
                count(&self.figures.refused, 1);
                if let Some(reply) = reply {
                    let _asker_gone = reply.send(Err(refused));
                }
                return;
            }
            // Nobody hears of it, and what happened has happened.
            (Some(_), false) => {
                count(&self.figures.refused, 1);
                Vec::new()
            }
        };
        for change in changes {
            if !matches!(self.condition, Condition::Memory) && !self.is_all_unsaved {
                self.rows.push(change.row());
            }
            self.state.apply(change);
        }
        if self.rows.len() > ROWS_MAX {
            self.rows = Vec::new();
            self.is_all_unsaved = true;
        }
        let events = events.into_iter().map(|event| self.take_in(now, event)).collect();
        self.records += 1;
        let Some(reply) = reply else { return };
        let waiter = Waiter {
            record: self.records,
            deadline: now.mono + ANSWER_AFTER,
            applied: Applied { is_durable: false, events },
            reply,
        };
        if self.is_degraded() || matches!(self.condition, Condition::Memory) {
            answer(waiter, false);
        } else {
            self.waiters.push_back(waiter);
        }
    }

    /// Gives the event its id and keeps it.
    fn take_in(&mut self, now: Now, mut event: EventRecord) -> Arc<EventRecord> {
        event.id = self.next_id;
        self.next_id += 1;
        let bytes = bound(&mut event);
        let event = Arc::new(event);
        let is_unsaved = !matches!(self.condition, Condition::Memory);
        self.ring.push(Arc::clone(&event), bytes, now.mono, is_unsaved);
        let in_flight = self.flight.as_ref().map_or(0, |flight| flight.event);
        count(&self.figures.events_lost, self.ring.give_up(UNSAVED_MAX, in_flight));
        event
    }

    fn written(&mut self, now: Now, kept: Kept, took: Duration) {
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

    fn failed(&mut self, now: Now, reason: &str) {
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
    fn degraded(&mut self, now: Now, reason: &str) {
        self.figures.is_degraded.store(true, Ordering::Relaxed);
        tracing::error!(reason, "the disk fails: state and history are in memory only until it works again");
        let mut event = EventRecord::new(now.wall, "store.degraded");
        event.reason = Some(reason.to_owned());
        self.take_in(now, event);
    }

    /// Says that a corrupt file was begun anew.
    fn moved_aside(&mut self, now: Now, path: Option<String>) {
        if let Some(path) = path {
            self.take_in(now, set_aside_event(now.wall, path));
        }
    }

    fn answer_waiters(&mut self, record: u64, is_durable: bool) {
        while self.waiters.front().is_some_and(|waiter| waiter.record <= record) {
            if let Some(waiter) = self.waiters.pop_front() {
                answer(waiter, is_durable);
            }
        }
    }

    /// Shows the events up to `id`.
    fn show(&mut self, id: u64) {
        for entry in self.ring.after(self.shown).take_while(|entry| entry.event.id <= id) {
            // Nobody listening is fine.
            let _listeners = self.live.send(Arc::clone(&entry.event));
        }
        self.shown = self.shown.max(id);
    }

    /// What follows from whatever happened.
    fn settle(&mut self, now: Now) {
        if self.is_degraded() || matches!(self.condition, Condition::Memory) {
            self.show(self.next_id - 1);
        } else {
            let overdue = self.ring.after(self.shown).take_while(|entry| entry.at + SHOW_AFTER <= now.mono).last();
            if let Some(id) = overdue.map(|entry| entry.event.id) {
                self.show(id);
            }
        }
        self.ring.shrink(RING_MAX, self.shown);
        self.plan_write(now);
        self.plan_end();
    }

    fn plan_write(&mut self, now: Now) {
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
    fn plan_end(&mut self) {
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

    fn over(&mut self) {
        if let End::Closing(Some(reply), is_durable) = std::mem::replace(&mut self.end, End::Over) {
            let _asker_gone = reply.send(is_durable);
        }
    }

    /// Whether the last answer was given.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.end, End::Over)
    }

    fn tell_kept(&self) {
        self.figures.history_events.store(self.kept.events, Ordering::Relaxed);
        self.figures.history_bytes.store(self.kept.bytes, Ordering::Relaxed);
    }
}

fn answer(waiter: Waiter, is_durable: bool) {
    let _asker_gone = waiter.reply.send(Ok(Applied { is_durable, ..waiter.applied }));
}

/// The event that a corrupt file lies at `path` now.
pub(super) fn set_aside_event(time: WallTime, path: String) -> EventRecord {
    let mut event = EventRecord::new(time, "store.set_aside");
    event.to = Some(path);
    event.reason = Some("corrupt".to_owned());
    event
}
