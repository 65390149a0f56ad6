//! What callers, the keeper and the disk thread say to each other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::model::{EventRecord, MonoTime, WallTime};

use super::disk::{Batch, Kept, Scan};
use super::history::Page;
use super::pages::Query;
use super::state::{Change, ENTRIES_MAX, ENTRY_MAX, State};

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
