//! The way to the store. A handle is cheap to clone; the last one that goes closes the store.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, oneshot};
use tokio::time::sleep;

use crate::model::EventRecord;

use super::figures::{Figures, StoreFigures, count};
use super::history::{Filter, Page};
use super::pages::{PAGE_MAX, Query};
use super::request::{Applied, Refused, Request};
use super::state::{Change, State};

/// Requests that may wait for the keeper, which is seldom longer than a few microseconds.
pub(super) const INBOX_MAX: usize = 8192;
/// Events that a listener may be behind before it loses some.
pub(super) const LIVE_MAX: usize = 1024;
/// From a look at the past that the disk had no part in, or that was refused, to the next.
pub(super) const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A way to the store.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    inbox: SyncSender<Request>,
    /// Weak, so that listeners hear of the end.
    live: broadcast::WeakSender<Arc<EventRecord>>,
    figures: Arc<Figures>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _closed_or_full = self.inbox.try_send(Request::Close(None));
    }
}

impl StoreHandle {
    pub(super) fn new(
        inbox: SyncSender<Request>,
        live: &broadcast::Sender<Arc<EventRecord>>,
        figures: Arc<Figures>,
    ) -> Self {
        Self { inner: Arc::new(Inner { inbox, live: live.downgrade(), figures }) }
    }

    /// Adds `event` to the history; its id is given here. Never waits. It is durable within milliseconds, or as
    /// soon as the disk works.
    pub fn append(&self, event: EventRecord) {
        let _lost_and_counted = self.record(Vec::new(), vec![event]);
    }

    /// Makes `changes` and adds `events`, all in one transaction. Never waits, and nobody is told how it went: for
    /// what has happened anyway. Changes beyond the limits are left out and counted.
    ///
    /// # Errors
    ///
    /// [`Refused::Busy`] and [`Refused::Closed`]; then nothing of it was taken, and the events are counted as lost.
    pub fn record(&self, changes: Vec<Change>, events: Vec<EventRecord>) -> Result<(), Refused> {
        let lost = u64::try_from(events.len()).unwrap_or(u64::MAX);
        let sent = self.send(Request::Record { changes, events, reply: None });
        if sent.is_err() {
            count(&self.inner.figures.events_lost, lost);
        }
        sent
    }

    /// Makes `changes` and adds `events`, all in one transaction. It is under way when this returns; what is
    /// returned resolves when it is durable, or at once if the disk is known to fail, or after five seconds if it does
    /// not answer: then with `is_durable: false`.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing has changed.
    pub fn change(
        &self,
        changes: Vec<Change>,
        events: Vec<EventRecord>,
    ) -> impl Future<Output = Result<Applied, Refused>> + Send + use<> {
        let begun = self.begin(changes, events);
        async move { begun?.await }
    }

    /// As [`StoreHandle::change`], for those who want to know at once whether it is under way.
    ///
    /// # Errors
    ///
    /// [`Refused::Busy`] and [`Refused::Closed`]; then nothing of it was taken.
    pub fn begin(
        &self,
        changes: Vec<Change>,
        events: Vec<EventRecord>,
    ) -> Result<impl Future<Output = Result<Applied, Refused>> + Send + use<>, Refused> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Record { changes, events, reply: Some(reply) })?;
        Ok(async move { answer.await.unwrap_or(Err(Refused::Closed)) })
    }

    /// At most `limit` events (at most [`PAGE_MAX`]) that `filter` wants: the oldest after the id `after`, or
    /// without it the newest. Takes a look at the disk only if memory does not do.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub async fn events(&self, filter: Filter, after: Option<u64>, limit: usize) -> Result<Page, Refused> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Find { query: Query { filter, after, limit }, reply })?;
        answer.await.map_err(|_| Refused::Closed)
    }

    /// The events that `filter` wants as they come; with `after`, beginning with those that came after this id.
    #[must_use]
    pub fn follow(&self, filter: Filter, after: Option<u64>) -> Follow {
        Follow {
            // Before any look at the past, so that nothing falls in between.
            live: self.inner.live.upgrade().map_or_else(|| broadcast::channel(1).1, |live| live.subscribe()),
            store: self.clone(),
            filter,
            last: after.unwrap_or(0),
            told: after.unwrap_or(0),
            is_past: after.is_some(),
            is_sure: after.is_some(),
            waiting: VecDeque::new(),
        }
    }

    /// What is kept besides the history, changes that are not durable yet included.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub async fn state(&self) -> Result<State, Refused> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::State(reply))?;
        answer.await.map_err(|_| Refused::Closed)
    }

    /// What the store counts of itself.
    #[must_use]
    pub fn figures(&self) -> StoreFigures {
        self.inner.figures.read()
    }

    /// Writes what is not yet written and closes the store; another process may open it then. What is
    /// returned resolves with whether everything is on disk; bound it with a deadline, for the disk may hang.
    pub fn close(&self) -> impl Future<Output = bool> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let sent = self.send(Request::Close(Some(reply)));
        async move { sent.is_ok() && answer.await.unwrap_or(false) }
    }

    fn send(&self, request: Request) -> Result<(), Refused> {
        self.inner.inbox.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => {
                count(&self.inner.figures.refused, 1);
                Refused::Busy
            }
            TrySendError::Disconnected(_) => Refused::Closed,
        })
    }
}

/// What a [`Follow`] has.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// An event.
    Event(Arc<EventRecord>),
    /// It was too slow: so many events, wanted or not, have to be read from the history again, as far as they are
    /// still there. They follow.
    Lagged(u64),
    /// Of the events after this number some are kept nowhere any more. What is left follows.
    Cut(u64),
}

/// What a [`Follow`] has looked at.
#[derive(Debug, Clone, PartialEq)]
pub enum Looked {
    /// Something for its owner.
    Given(Followed),
    /// Nothing is wanted of what came since the last that was given, up to the event of this number.
    Passed(u64),
}

/// Events as they come.
#[derive(Debug)]
pub struct Follow {
    store: StoreHandle,
    filter: Filter,
    live: broadcast::Receiver<Arc<EventRecord>>,
    /// The last event that was looked at, wanted or not.
    last: u64,
    /// How far its owner knows of that.
    told: u64,
    /// Whether the past is still being read.
    is_past: bool,
    /// Whether everything up to the last was looked at: not if it began with what is new.
    is_sure: bool,
    waiting: VecDeque<Arc<EventRecord>>,
}

impl Follow {
    /// The next one; none once the store is closed. What only a disk has that does not answer is waited for, and all after it.
    /// Cancel-safe: what was not given is given by the next call.
    pub async fn next(&mut self) -> Option<Followed> {
        loop {
            if let Looked::Given(followed) = self.look().await? {
                return Some(followed);
            }
        }
    }

    /// As [`Follow::next`], for those who keep how far it is: a number that only moved with what is wanted would be
    /// left behind by a history that forgets, and look like a loss.
    pub async fn look(&mut self) -> Option<Looked> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                self.told = event.id;
                return Some(Looked::Given(Followed::Event(event)));
            }
            if self.is_sure && self.told < self.last {
                self.told = self.last;
                return Some(Looked::Passed(self.last));
            }
            if self.is_past {
                let after = self.last;
                let page = match self.store.events(self.filter.clone(), Some(after), PAGE_MAX).await {
                    Ok(page) if !page.is_partial => page,
                    Err(Refused::Closed) => return None,
                    // Whoever went on with what memory has would pass over what only the disk has, and nobody would know.
                    Ok(_) | Err(_) => {
                        sleep(ASK_AGAIN_AFTER).await;
                        continue;
                    }
                };
                self.is_past = page.events.len() >= PAGE_MAX;
                (self.last, self.told) = (page.next, self.told.min(page.next));
                self.waiting.extend(page.events);
                if page.is_cut {
                    return Some(Looked::Given(Followed::Cut(after)));
                }
                continue;
            }
            match self.live.recv().await {
                Ok(event) if event.id <= self.last => {}
                Ok(event) => {
                    self.last = event.id;
                    if self.filter.matches(&event) {
                        self.told = event.id;
                        return Some(Looked::Given(Followed::Event(event)));
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    self.is_past = true;
                    return Some(Looked::Given(Followed::Lagged(missed)));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// A store that takes nothing in by itself, for the tests of those who write to one.
#[cfg(test)]
pub(crate) struct Stuck {
    inbox: std::sync::mpsc::Receiver<Request>,
    _live: broadcast::Sender<Arc<EventRecord>>,
}

#[cfg(test)]
impl Stuck {
    /// One that is busy with the first request that waits, and the way to it.
    pub(crate) fn new() -> (Self, StoreHandle) {
        let (sender, inbox) = std::sync::mpsc::sync_channel(1);
        let (live, _) = broadcast::channel(1);
        let handle = StoreHandle::new(sender, &live, Arc::new(Figures::default()));
        (Self { inbox, _live: live }, handle)
    }

    /// Takes what waits: its changes.
    pub(crate) fn take(&self) -> Option<Vec<Change>> {
        match self.inbox.try_recv() {
            Ok(Request::Record { changes, .. }) => Some(changes),
            Ok(Request::Find { .. } | Request::State(_) | Request::Disk(_) | Request::Close(_)) | Err(_) => None,
        }
    }
}
