//! The one owner of what is kept: gives ids, holds the state and the recent past in memory, says what is to be
//! written and when, and who is told what. It does no I/O and reads no clock; it is told the time.
//!
//! The rules:
//! - An event is shown when it is durable, or when the disk has not answered for [`SHOW_AFTER`], or at once while
//!   the disk is known to fail. A change is answered when it is durable, or likewise that it is not.
//! - One write is under way at a time; whatever comes meanwhile goes together into the next.
//! - After a failure everything in memory is written anew, first after [`BACKOFF_MIN`], then ever more seldom.

mod writing;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{broadcast, oneshot};

use crate::model::{EventRecord, MonoTime, WallTime};

use super::disk::{Found, Kept};
use super::figures::{Figures, count};
use super::history::{Ring, bound};
use super::pages::{Bounds, Pages};
use super::request::{Answer, Applied, Job, Now, Refused, Reply, Request};
use super::state::{Change, ENTRIES_MAX, Row, State};

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
/// The events in memory, in bytes: some 3,000 of them.
pub(super) const RING_MAX: usize = 4 << 20;
/// Those of them that still have to be written; beyond it the oldest are given up and counted.
pub(super) const UNSAVED_MAX: usize = RING_MAX / 2;
/// Changed entries that still have to be written; beyond it all entries are written, which is bounded.
const ROWS_MAX: usize = 10_000;

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
    /// The first id that this history gave, or may have given.
    begin: u64,
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
            begin: if has_disk { 1 } else { found.next_id },
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
                let bounds = Bounds { begin: self.begin, oldest: self.oldest(), shown: self.shown };
                let is_readable = !self.is_degraded();
                self.jobs.extend(self.pages.ask(now.mono, query, reply, &self.ring, bounds, is_readable));
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
        self.ring.first_id().unwrap_or(self.next_id) > self.oldest()
    }

    /// The id of the oldest event that is kept anywhere; that of the next one, if there is none.
    fn oldest(&self) -> u64 {
        let first = self.ring.first_id().unwrap_or(self.next_id);
        self.kept.oldest.map_or(first, |oldest| oldest.min(first))
    }

    const fn is_degraded(&self) -> bool {
        self.is_stalled || matches!(self.condition, Condition::Failing { .. })
    }

    fn record(&mut self, now: Now, changes: Vec<Change>, events: Vec<EventRecord>, reply: Option<Reply>) {
        let longest = changes.iter().filter(|change| !change.fits()).map(Change::weight).max();
        let added = changes.iter().filter(|change| self.state.grows_by(change)).count();
        let refusal = if let Some(longest) = longest {
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
            // Nobody hears of it, and what happened has happened: only what is beyond a limit is left out.
            (Some(_), false) => {
                count(&self.figures.refused, 1);
                let is_full = longest.is_none();
                let is_kept = |change: &Change| change.fits() && !(is_full && self.state.grows_by(change));
                changes.into_iter().filter(is_kept).collect()
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
