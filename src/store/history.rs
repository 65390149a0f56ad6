//! The recent past in memory: a ring of events, bounded in bytes, and the questions that can be asked of it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::{Actor, BackendName, EventRecord, MonoTime, PoolName, WallTime, is_of_kind};

/// What an event takes in memory besides its JSON's length, in bytes: the node of its detail alone is 650.
const ENTRY_OVERHEAD: usize = 1024;
/// The longest event, in bytes of its JSON: the evidence of a failover of a large pool takes a tenth of it.
pub(super) const EVENT_MAX: usize = 32 << 10;
/// The longest text of an event that is too long, in characters.
const TEXT_CUT: usize = 1000;

/// The kind of event that says what somebody wanted done.
const AUDIT: &str = "admin.action";
/// The status of one that was refused.
const FAILED: &str = "failed";

/// Which events are wanted; what is not said does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Those of this pool.
    pub pool: Option<PoolName>,
    /// Those of one of these pools, and none that belongs to no pool.
    pub pools: Option<Arc<[PoolName]>>,
    /// Those of backends of this name.
    pub backend: Option<BackendName>,
    /// Those of one of these kinds, of any if there is none here; `pool.*` is all that begin with `pool.`.
    pub kinds: Vec<String>,
    /// Those at or after this time.
    pub since: Option<WallTime>,
    /// Those at or before this time.
    pub until: Option<WallTime>,
    /// Those by which something was or was done: not changes that were refused, which anybody may have asked for of anything.
    pub is_done: bool,
}

impl Filter {
    /// Whether `event` is wanted.
    #[must_use]
    pub fn matches(&self, event: &EventRecord) -> bool {
        (self.kinds.is_empty() || self.kinds.iter().any(|wanted| is_of_kind(&event.kind, wanted)))
            && (self.pool.is_none() || self.pool == event.pool)
            && self.pools.as_ref().is_none_or(|pools| event.pool.as_ref().is_some_and(|pool| pools.contains(pool)))
            && (self.backend.is_none() || self.backend == event.backend)
            && self.since.is_none_or(|since| event.time >= since)
            && self.until.is_none_or(|until| event.time <= until)
            && !(self.is_done && event.kind == AUDIT && event.status.as_deref() == Some(FAILED))
    }
}

/// Events in the order of their ids, the newest last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// The events.
    pub events: Vec<Arc<EventRecord>>,
    /// To page on, ask for those after this id. Nothing matched between the last event and it.
    pub next: u64,
    /// Whether the disk had no part in it although older events are there, because it does not work or
    /// does not answer.
    pub is_partial: bool,
    /// Whether events after the one that was asked for are kept nowhere any more.
    pub is_cut: bool,
}

/// An event in the ring.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) event: Arc<EventRecord>,
    /// When it came in.
    pub(super) at: MonoTime,
    /// What it takes, in bytes.
    pub(super) bytes: usize,
    /// Whether it still has to be written.
    pub(super) is_unsaved: bool,
}

/// The newest events, in the order of their ids.
#[derive(Debug, Default)]
pub(super) struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    unsaved_bytes: usize,
}

impl Ring {
    /// Takes in an event that is newer than all others.
    pub(super) fn push(&mut self, event: Arc<EventRecord>, json_bytes: usize, at: MonoTime, is_unsaved: bool) {
        let bytes = json_bytes + ENTRY_OVERHEAD;
        self.bytes += bytes;
        if is_unsaved {
            self.unsaved_bytes += bytes;
        }
        self.entries.push_back(Entry { event, at, bytes, is_unsaved });
    }

    /// The id of the oldest event, if there is one.
    pub(super) fn first_id(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.event.id)
    }

    /// The entries with ids above `id`, oldest first.
    pub(super) fn after(&self, id: u64) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.range(self.entries.partition_point(|entry| entry.event.id <= id)..)
    }

    /// Lets go of the oldest until no more than `limit` bytes are held; what is unsaved or has an id above `shown` stays.
    pub(super) fn shrink(&mut self, limit: usize, shown: u64) {
        while self.bytes > limit && self.entries.front().is_some_and(|e| !e.is_unsaved && e.event.id <= shown) {
            self.bytes -= self.entries.pop_front().map_or(0, |entry| entry.bytes);
        }
    }

    /// Whether anything still has to be written.
    pub(super) const fn has_unsaved(&self) -> bool {
        self.unsaved_bytes > 0
    }

    /// What still has to be written, oldest first.
    pub(super) fn unsaved(&self) -> Vec<Arc<EventRecord>> {
        self.entries.iter().filter(|entry| entry.is_unsaved).map(|entry| Arc::clone(&entry.event)).collect()
    }

    /// Everything up to `id` is written.
    pub(super) fn saved(&mut self, id: u64) {
        for entry in self.entries.iter_mut().filter(|entry| entry.is_unsaved && entry.event.id <= id) {
            entry.is_unsaved = false;
            self.unsaved_bytes -= entry.bytes;
        }
    }

    /// Gives up writing the oldest above `id` until no more than `limit` bytes are unsaved. How many those are.
    pub(super) fn give_up(&mut self, limit: usize, id: u64) -> u64 {
        let mut given_up = 0;
        if self.unsaved_bytes <= limit {
            return given_up;
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.is_unsaved && entry.event.id > id) {
            if self.unsaved_bytes <= limit {
                break;
            }
            entry.is_unsaved = false;
            self.unsaved_bytes -= entry.bytes;
            given_up += 1;
        }
        given_up
    }
}

/// Cuts an event that is too long down, so that one report cannot fill the history. Its size as JSON.
pub(super) fn bound(event: &mut EventRecord) -> usize {
    let size = |event: &EventRecord| serde_json::to_string(event).map_or(0, |json| json.len());
    let bytes = size(event);
    if bytes <= EVENT_MAX {
        return bytes;
    }
    event.detail.clear();
    event.detail.insert("left_out_bytes".to_owned(), bytes.into());
    let texts = [&mut event.from, &mut event.to, &mut event.reason, &mut event.status];
    for text in texts.into_iter().flatten().chain([&mut event.kind]) {
        if let Some(start) = cut(text) {
            *text = start.to_owned();
        }
    }
    // Of requests that were refused: of what is in force, no name is that long.
    event.pool = event.pool.take().map(|name| cut(name.as_str()).map(PoolName::from).unwrap_or(name));
    event.backend = event.backend.take().map(|name| cut(name.as_str()).map(BackendName::from).unwrap_or(name));
    if let Some(start) = cut(event.actor.as_str()) {
        event.actor = Actor::from(start);
    }
    size(event)
}

/// The beginning of a text that is too long.
fn cut(text: &str) -> Option<&str> {
    text.char_indices().nth(TEXT_CUT).and_then(|(at, _)| text.get(..at))
}
