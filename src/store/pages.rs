//! Questions to the history: what the ring can answer it answers, the rest is searched on disk, and what takes
//! too long is answered with what there is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::model::{EventRecord, MonoTime};

use super::disk::Scan;
use super::history::{Filter, Page, Ring};
use super::request::Job;

/// The most events of one page.
pub const PAGE_MAX: usize = 1000;
/// The most questions that wait for the disk. Beyond it they are answered from memory.
const SCANS_MAX: usize = 32;
/// A question that the disk has not answered after so long is answered without it: before those who ask give up, the first of
/// them after eight seconds. A search through all of 64 MiB takes 0.6 s.
pub(crate) const FIND_WITHIN: Duration = Duration::from_secs(5);

/// A question to the history.
#[derive(Debug, Clone, Default)]
pub(super) struct Query {
    pub(super) filter: Filter,
    /// The oldest after this one; without it the newest of all.
    pub(super) after: Option<u64>,
    pub(super) limit: usize,
}

/// From where to where the history goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The first number that it gave, or may have given.
    pub(super) begin: u64,
    /// The oldest event that is kept anywhere; the next one, if there is none.
    pub(super) oldest: u64,
    /// The newest that is shown.
    pub(super) shown: u64,
}

impl Bounds {
    /// Whether events after `after` are kept nowhere any more. A number that this history never gave is of another one, of which
    /// nothing is kept; 0 is no event's, and before all of them.
    const fn is_cut(self, after: u64) -> bool {
        let from = if after == 0 { self.begin } else { after.saturating_add(1) };
        from < self.oldest || after > self.shown
    }
}

/// A question that waits for the disk.
#[derive(Debug)]
struct Pending {
    key: u64,
    deadline: MonoTime,
    query: Query,
    /// What was found so far: before that which the disk finds when going forward, after it when going backward.
    found: Vec<Arc<EventRecord>>,
    /// Whether events after the one that was asked for are kept nowhere any more.
    is_cut: bool,
    /// What was shown when the newest were asked for.
    shown: u64,
    reply: oneshot::Sender<Page>,
}

/// The questions under way.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pending: Vec<Pending>,
    last_key: u64,
}

impl Pages {
    /// When the first question has waited for too long.
    pub(super) fn deadline(&self) -> Option<MonoTime> {
        self.pending.iter().map(|pending| pending.deadline).min()
    }

    /// Answers `query`, or says what has to be searched for that.
    pub(super) fn ask(
        &mut self,
        now: MonoTime,
        query: Query,
        reply: oneshot::Sender<Page>,
        ring: &Ring,
        bounds: Bounds,
        is_readable: bool,
    ) -> Option<Job> {
        self.last_key += 1;
        let Bounds { oldest, shown, .. } = bounds;
        let limit = query.limit.clamp(1, PAGE_MAX);
        let is_cut = query.after.is_some_and(|after| bounds.is_cut(after));
        // A number of another history is no number of this one, of which everything is news.
        let after = query.after.map(|after| if after > shown { 0 } else { after });
        let query = Query { limit, after, ..query };
        let found = if query.after.is_none() { newest(ring, &query, shown) } else { Vec::new() };
        let has_older = oldest < ring.first_id().unwrap_or(shown + 1);
        let pending = Pending { key: self.last_key, deadline: now + FIND_WITHIN, query, found, is_cut, shown, reply };
        let can_search = is_readable && self.pending.len() < SCANS_MAX;
        self.go_on(pending, ring, shown, has_older, can_search)
    }

    /// Goes on with the question that `key` stands for.
    pub(super) fn found(
        &mut self,
        key: u64,
        result: Result<Scan, String>,
        ring: &Ring,
        shown: u64,
        has_older: bool,
    ) -> Option<Job> {
        let at = self.pending.iter().position(|pending| pending.key == key)?;
        let mut pending = self.pending.swap_remove(at);
        let Ok(scan) = result else {
            return self.go_on(pending, ring, shown, has_older, false);
        };
        match pending.query.after {
            Some(_) => {
                pending.found.extend(scan.found);
                pending.query.after = Some(scan.from.saturating_sub(1));
                self.go_on(pending, ring, shown, has_older, true)
            }
            None => {
                let newer = std::mem::take(&mut pending.found);
                pending.found = scan.found.into_iter().rev().chain(newer).collect();
                end(pending, false);
                None
            }
        }
    }

    /// Answers the questions that have waited for too long.
    pub(super) fn expire(&mut self, now: MonoTime, ring: &Ring, shown: u64) {
        let (late, waiting) =
            std::mem::take(&mut self.pending).into_iter().partition::<Vec<_>, _>(|pending| pending.deadline <= now);
        self.pending = waiting;
        for pending in late {
            let _no_search = self.go_on(pending, ring, shown, true, false);
        }
    }

    fn go_on(
        &mut self,
        mut pending: Pending,
        ring: &Ring,
        shown: u64,
        has_older: bool,
        can_search: bool,
    ) -> Option<Job> {
        let first = ring.first_id().unwrap_or(shown + 1);
        let query = &pending.query;
        let wanted = query.limit.saturating_sub(pending.found.len());
        let scan = |from: u64, is_backward: bool| Scan {
            from,
            to: first,
            is_backward,
            filter: query.filter.clone(),
            limit: wanted,
            found: Vec::new(),
            unreadable: 0,
        };
        let search = match query.after {
            _ if wanted == 0 || !has_older => None,
            Some(after) => (after + 1 < first).then(|| scan(after + 1, false)),
            None => Some(scan(0, true)),
        };
        match (search, query.after) {
            (Some(scan), _) if can_search => {
                let key = pending.key;
                self.pending.push(pending);
                return Some(Job::Scan { key, scan });
            }
            (search, Some(after)) => {
                let wanted_of_ring = ring.after(after).map(|entry| &entry.event).filter(|event| event.id <= shown);
                let matching = wanted_of_ring.filter(|event| query.filter.matches(event)).take(wanted);
                let matching: Vec<_> = matching.map(Arc::clone).collect();
                pending.found.extend(matching);
                pending.shown = shown;
                end(pending, search.is_some());
            }
            (search, None) => end(pending, search.is_some()),
        }
        None
    }
}

/// The newest of the ring that match, oldest first.
fn newest(ring: &Ring, query: &Query, shown: u64) -> Vec<Arc<EventRecord>> {
    let events = ring.after(0).rev().map(|entry| &entry.event).filter(|event| event.id <= shown);
    let mut found: Vec<_> = events.filter(|event| query.filter.matches(event)).take(query.limit).cloned().collect();
    found.reverse();
    found
}

/// Answers.
fn end(pending: Pending, is_partial: bool) {
    let is_full = pending.query.after.is_some() && pending.found.len() >= pending.query.limit;
    // A full page may have more behind it; otherwise everything that is shown was looked at.
    let last = pending.found.last().map(|event| event.id).filter(|_| is_full);
    let next = last.unwrap_or_else(|| pending.shown.max(pending.query.after.unwrap_or(0)));
    let _asker_gone = pending.reply.send(Page { events: pending.found, next, is_partial, is_cut: pending.is_cut });
}
