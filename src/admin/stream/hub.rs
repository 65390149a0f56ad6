//! One that follows the history for all subscribers: each event is read and written as text once, and handed to all of
//! them by one ring of bounded length. Whoever does not read it in time has lost its place in it, and holds nobody up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};
use tokio::time::{sleep, timeout};

use crate::model::EventRecord;
use crate::store::{Filter, Follow, Followed, StoreHandle};
use crate::telemetry::SubscriberMetrics;

/// Events that a subscriber may be behind. One more, and it is dropped.
pub(super) const QUEUE_MAX: usize = 1024;
/// Subscribers at once.
const SUBSCRIBERS_MAX: usize = 512;
/// Of them, those of one caller.
const OF_CALLER_MAX: usize = 64;
/// From one time that subscribers are woken to the next: nobody sees the difference, and 1,000 events a second cost a
/// hundred writes to each of them instead of a thousand.
const PACE: Duration = Duration::from_millis(10);
/// Events that are told between two pauses, so that a burst of many drops nobody who reads: a quarter of what may wait.
const BURST: usize = QUEUE_MAX / 4;
/// What the daemon says last.
const LAST_WORDS: &str = "daemon.stopping";
/// How long that may take to be told, once the daemon has come to its end.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);
/// How long subscribers may take to be told the end.
const END_MAX: Duration = Duration::from_secs(1);

/// An event, and the text by which it is told.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) event: Arc<EventRecord>,
    pub(super) frame: Bytes,
}

/// `event` as the stream has it: its number, its kind and its JSON, which has no line breaks.
pub(super) fn frame(event: &EventRecord) -> Bytes {
    let json = serde_json::to_string(event).unwrap_or_default();
    Bytes::from(format!("id: {}\nevent: {}\ndata: {json}\n\n", event.id, event.kind))
}

/// The live stream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Streams {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: StoreHandle,
    metrics: SubscriberMetrics,
    places: Arc<Semaphore>,
    /// How many of them each caller has.
    callers: Mutex<BTreeMap<String, usize>>,
    /// Whether the daemon's own last event was told.
    last_words: watch::Sender<bool>,
    /// None once it has ended: then subscribers get what was told before, and their end.
    live: Mutex<Option<broadcast::Sender<Arc<Told>>>>,
}

impl Streams {
    /// One of the history in `store`, that tells nothing before it runs.
    #[must_use]
    pub fn new(store: StoreHandle, metrics: SubscriberMetrics) -> Self {
        let live = Mutex::new(Some(broadcast::channel(QUEUE_MAX).0));
        let (places, last_words) = (Arc::new(Semaphore::new(SUBSCRIBERS_MAX)), watch::Sender::new(false));
        let callers = Mutex::default();
        Self { inner: Arc::new(Inner { store, metrics, places, callers, last_words, live }) }
    }

    /// Tells subscribers what happens from this call on, until the store is closed or this is ended.
    pub fn run(&self) -> impl Future<Output = ()> + Send + use<> {
        // Before anybody can have read a page of the past: nothing falls in between.
        let follow = self.inner.store.follow(Filter::default(), None);
        let streams = self.clone();
        async move {
            streams.follow(follow).await;
            streams.live().take();
        }
    }

    async fn follow(&self, mut follow: Follow) {
        while let Some(first) = follow.next().await {
            self.tell(first);
            for _ in 1..BURST {
                // Cancel-safety: what `next` has not given is given by its next call.
                let more = tokio::select! {
                    biased;
                    more = follow.next() => more,
                    () = std::future::ready(()) => break,
                };
                let Some(more) = more else { return };
                self.tell(more);
            }
            sleep(PACE).await;
        }
    }

    fn tell(&self, followed: Followed) {
        // What was missed follows.
        let Followed::Event(event) = followed else { return };
        if let Some(live) = self.live().as_ref().filter(|live| live.receiver_count() > 0) {
            let frame = frame(&event);
            let is_last = event.kind == LAST_WORDS;
            let _all_have_gone = live.send(Arc::new(Told { event, frame }));
            if is_last {
                self.inner.last_words.send_replace(true);
            }
        }
    }

    fn live(&self) -> std::sync::MutexGuard<'_, Option<broadcast::Sender<Arc<Told>>>> {
        self.inner.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is told from now on; ended already if nothing is any more.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Told>> {
        self.live().as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe)
    }

    /// A place for one more subscriber, who is `caller`.
    ///
    /// # Errors
    ///
    /// There is none, or the caller has as many as one may.
    pub(in crate::admin) fn place(&self, caller: &str) -> Result<Place, NoPlace> {
        let permit = Arc::clone(&self.inner.places).try_acquire_owned().map_err(|_| NoPlace::Full)?;
        let mut callers = self.inner.callers();
        let count = callers.entry(caller.to_owned()).or_default();
        if *count >= OF_CALLER_MAX {
            return Err(NoPlace::FullOfCaller);
        }
        *count += 1;
        self.inner.metrics.present.inc();
        Ok(Place { _permit: permit, caller: caller.to_owned(), inner: Arc::clone(&self.inner) })
    }

    /// The history.
    pub(super) fn store(&self) -> &StoreHandle {
        &self.inner.store
    }

    /// Ends it in order: subscribers get what was told so far, then the end. Resolves when their connections have ended, or
    /// after a second.
    pub async fn end(&self) {
        if self.inner.places.available_permits() < SUBSCRIBERS_MAX {
            let mut told = self.inner.last_words.subscribe();
            // A disk that is slow to take it keeps nobody waiting.
            let _not_told = timeout(LAST_WORDS_MAX, told.wait_for(|&told| told)).await;
        }
        self.live().take();
        let all = u32::try_from(SUBSCRIBERS_MAX).unwrap_or(u32::MAX);
        let _some_do_not_read = timeout(END_MAX, self.inner.places.acquire_many(all)).await;
    }
}

impl Inner {
    fn callers(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) enum NoPlace {
    /// All are taken.
    Full,
    /// The caller has as many as one may.
    FullOfCaller,
}

/// A subscriber's place, which it has until its connection ends.
#[derive(Debug)]
pub(in crate::admin) struct Place {
    _permit: OwnedSemaphorePermit,
    caller: String,
    inner: Arc<Inner>,
}

impl Place {
    /// Counts that the subscriber did not read.
    pub(in crate::admin) fn count_dropped(&self) {
        self.inner.metrics.dropped.inc();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.metrics.present.dec();
        let mut callers = self.inner.callers();
        match callers.get_mut(&self.caller) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(callers.remove(&self.caller)),
        }
    }
}
