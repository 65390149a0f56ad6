//! What one subscriber is told: from where it left off, then as it happens, without a gap or a double.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::sleep;

use crate::admin::lease::StreamLease;
use crate::model::EventRecord;
use crate::store::{Filter, Refused};

use super::super::access::Standing;
use super::hub::{Streams, Told, frame};

/// A subscriber that was told nothing for so long is told that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events of the past that are read at once, for each subscriber.
const PAGE: usize = 100;
/// What is written at once, in bytes: no more is made until that is gone. One event may be more.
const FRAME_MAX: usize = 64 << 10;
/// What every stream begins with: a client that loses it is to come back after a second.
const HELLO: &str = ": changeover events\nretry: 1000\n\n";
const ALIVE: &str = ": alive\n\n";
const LOST: &str = "event: end\ndata: {\"reason\":\"what was presented counts no more\"}\n\n";
/// Said before what is in memory, when there is more on a disk that does not answer.
const GAP: &str = "event: gap\ndata: {\"reason\":\"the disk does not give older events\"}\n\n";
/// Said before what is left, when there were more after the one that a subscriber had.
const GONE: &str = "event: gap\ndata: {\"reason\":\"older events are not kept any more\"}\n\n";

/// Which events a subscriber gets. Whatever limits what a caller may see belongs here: nothing else is asked.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Those that were asked for.
    pub(super) filter: Filter,
    /// Whether it goes on after an event that it had, and has to know if those after that are gone.
    pub(super) is_resumed: bool,
}

impl Wanted {
    fn has(&self, event: &EventRecord) -> bool {
        self.filter.matches(event)
    }
}

/// A subscriber's place in the history.
#[derive(Debug)]
pub(super) struct Subscription {
    streams: Streams,
    wanted: Wanted,
    lease: StreamLease,
    /// Whether the subscriber may still have them.
    standing: Option<Standing>,
    live: broadcast::Receiver<Arc<Told>>,
    /// Whether the past is still being read.
    is_past: bool,
    /// What was read of the past and not told yet.
    waiting: VecDeque<Arc<EventRecord>>,
    /// What it has to be told of events that it does not get.
    gap: Option<&'static str>,
    /// The last event that was looked at.
    last: u64,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Hello,
    Events,
    Over,
}

impl Subscription {
    /// One that begins after the event `after`, or without it with whatever happens from now on.
    pub(super) fn new(streams: Streams, wanted: Wanted, after: Option<u64>, lease: StreamLease) -> Self {
        let (is_past, last, live) = (after.is_some(), after.unwrap_or(0), streams.subscribe());
        let standing = None;
        let (waiting, gap, step) = (VecDeque::new(), None, Step::Hello);
        Self { streams, wanted, lease, standing, live, is_past, waiting, gap, last, step }
    }

    /// The same, which ends when the subscriber may have it no more.
    pub(super) fn for_as_long_as(self, standing: Standing) -> Self {
        Self { standing: Some(standing), ..self }
    }

    /// What is to be written next; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        match self.step {
            Step::Hello => {
                self.step = Step::Events;
                return Some(Bytes::from_static(HELLO.as_bytes()));
            }
            Step::Events => {}
            Step::Over => return None,
        }
        let (stopped, mut standing) = (self.lease.stopped(), self.standing.take());
        // Cancel-safety: nothing is read on after the end, and what is to be told is told by the call that has read it.
        let text = tokio::select! {
            biased;
            () = stopped => None,
            () = lost(standing.as_mut()) => self.end(LOST),
            text = self.events() => text,
            () = sleep(HEARTBEAT) => Some(Bytes::from_static(ALIVE.as_bytes())),
        };
        self.standing = standing;
        text
    }

    /// Cancel-safe as long as it waits for events that have not happened yet: what was read of the past stays in `waiting`.
    async fn events(&mut self) -> Option<Bytes> {
        loop {
            if let Some(gap) = self.gap.take() {
                return Some(Bytes::from_static(gap.as_bytes()));
            }
            if !self.waiting.is_empty() {
                return Some(self.past());
            }
            if self.is_past {
                if let Err(refused) = self.read_on().await {
                    return self.end(&format!("event: end\ndata: {{\"reason\":\"{refused}\"}}\n\n"));
                }
                continue;
            }
            match self.live.recv().await {
                Ok(told) => {
                    if let Some(text) = self.present(&told) {
                        return Some(text);
                    }
                }
                Err(RecvError::Lagged(missed)) => return self.dropped(missed, Vec::new()),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Reads a page of the past.
    async fn read_on(&mut self) -> Result<(), Refused> {
        // Before the look at the past, so that nothing falls in between; and whatever happened during the pages before
        // this one is read from the past, so that nobody is behind who only came late.
        self.live = self.streams.subscribe();
        let page = self.streams.store().events(self.wanted.filter.clone(), Some(self.last), PAGE).await?;
        self.is_past = page.events.len() >= PAGE;
        // After the first page it goes on after events that it had, whoever it is.
        let is_gone = page.is_cut && (self.wanted.is_resumed || self.last > 0);
        self.gap = if page.is_partial { Some(GAP) } else { is_gone.then_some(GONE) };
        self.last = page.next;
        self.waiting.extend(page.events.into_iter().filter(|event| self.wanted.has(event)));
        Ok(())
    }

    /// What waits, as much as is written at once.
    fn past(&mut self) -> Bytes {
        let mut text = Vec::new();
        while text.len() < FRAME_MAX
            && let Some(event) = self.waiting.pop_front()
        {
            text.extend_from_slice(&frame(&event));
        }
        text.into()
    }

    /// `first` and whatever else has happened by now, as much as is written at once; none if nothing of it is wanted.
    fn present(&mut self, first: &Told) -> Option<Bytes> {
        let mut text = Vec::new();
        self.add(first, &mut text);
        while text.len() < FRAME_MAX {
            match self.live.try_recv() {
                Ok(told) => self.add(&told, &mut text),
                Err(TryRecvError::Lagged(missed)) => return self.dropped(missed, text),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        (!text.is_empty()).then(|| text.into())
    }

    fn add(&mut self, told: &Told, text: &mut Vec<u8>) {
        if told.event.id > self.last {
            self.last = told.event.id;
            if self.wanted.has(&told.event) {
                text.extend_from_slice(&told.frame);
            }
        }
    }

    /// It was too slow. After `text`, it is told how many events it missed at least, and where to go on.
    fn dropped(&mut self, missed: u64, text: Vec<u8>) -> Option<Bytes> {
        self.lease.count_dropped();
        let last = self.last;
        let notice = format!("id: {last}\nevent: dropped\ndata: {{\"missed\":{missed},\"resume\":{last}}}\n\n");
        self.end(&[text, notice.into_bytes()].concat())
    }

    fn end(&mut self, text: &(impl AsRef<[u8]> + ?Sized)) -> Option<Bytes> {
        self.step = Step::Over;
        Some(Bytes::copy_from_slice(text.as_ref()))
    }
}

type Next = Pin<Box<dyn Future<Output = (Option<Bytes>, Subscription)> + Send>>;

/// Resolves when `standing` is lost.
async fn lost(standing: Option<&mut Standing>) {
    match standing {
        Some(standing) => standing.lost().await,
        None => std::future::pending().await,
    }
}

/// A subscription as the body of an answer.
pub(super) struct Text {
    next: Option<Next>,
}

impl Text {
    pub(super) fn new(subscription: Subscription) -> Self {
        Self { next: Some(read(subscription)) }
    }
}

fn read(mut subscription: Subscription) -> Next {
    Box::pin(async move { (subscription.next().await, subscription) })
}

impl Body for Text {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let (text, subscription) = ready!(next.as_mut().poll(cx));
        self.next = text.is_some().then(|| read(subscription));
        Poll::Ready(text.map(|text| Ok(Frame::data(text))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;
    use tokio::time::Instant;

    use super::{ALIVE, GONE, HEARTBEAT, HELLO, Streams, Subscription, Wanted};
    use crate::admin::lease::Lease;
    use crate::model::{EventRecord, StorePlan, WallTime};
    use crate::store::{Filter, Opened, StoreHandle, open};
    use crate::sys::{Clock, in_time};
    use crate::telemetry::Metrics;

    fn store() -> StoreHandle {
        let Opened { handle, .. } = open(&StorePlan::default(), Duration::ZERO, Clock::start()).unwrap();
        handle
    }

    /// The newest event's number; before the first, the one before it.
    async fn newest(store: &StoreHandle) -> u64 {
        store.events(Filter::default(), None, 1).await.unwrap().next
    }

    fn happen(store: &StoreHandle, number: usize) {
        let time: WallTime = "2026-11-21T10:00:00Z".parse().unwrap();
        for _ in 0..number {
            store.append(EventRecord::new(time, "pool.down"));
        }
    }

    fn subscribe(streams: &Streams, after: Option<u64>) -> (Subscription, watch::Sender<bool>) {
        begin(streams, after, after.is_some())
    }

    fn begin(streams: &Streams, after: Option<u64>, is_resumed: bool) -> (Subscription, watch::Sender<bool>) {
        let (stop, stopped) = watch::channel(false);
        let lease = Lease::new(stopped).stream(streams.place("anonymous").unwrap());
        let wanted = Wanted { filter: Filter::default(), is_resumed };
        (Subscription::new(streams.clone(), wanted, after, lease), stop)
    }

    async fn text(subscription: &mut Subscription) -> String {
        String::from_utf8(subscription.next().await.unwrap().to_vec()).unwrap()
    }

    fn ids(text: &str) -> Vec<u64> {
        text.lines().filter_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_told_nothing_is_told_that_the_connection_lives() {
        let streams = Streams::new(store(), Metrics::new().unwrap().subscribers());
        let (mut subscription, stop) = subscribe(&streams, None);
        assert_eq!(text(&mut subscription).await, HELLO);
        for _ in 0..3 {
            let before = Instant::now();
            assert_eq!(text(&mut subscription).await, ALIVE);
            assert_eq!(before.elapsed(), HEARTBEAT);
        }
        stop.send(true).unwrap();
        assert_eq!(subscription.next().await, None, "it ends with its server");
    }

    #[tokio::test]
    async fn whoever_is_behind_by_more_than_the_queue_is_told_so_and_dropped() {
        let store = store();
        let metrics = Metrics::new().unwrap().subscribers();
        let streams = Streams::new(store.clone(), metrics.clone());
        let (mut slow, _stop) = subscribe(&streams, None);
        let (mut fast, _stop) = subscribe(&streams, None);
        let hub = tokio::spawn(streams.run());
        let begin = newest(&store).await;
        happen(&store, 3000);
        assert_eq!(text(&mut fast).await, HELLO);
        let mut got = Vec::new();
        // What says only that the connection lives goes on for ever.
        in_time(async {
            while got.len() < 3000 {
                got.extend(ids(&text(&mut fast).await));
            }
        })
        .await;
        assert_eq!(got, (begin + 1..=begin + 3000).collect::<Vec<_>>(), "a burst drops nobody who reads");
        assert_eq!(text(&mut slow).await, HELLO);
        let notice = text(&mut slow).await;
        assert_eq!(notice, format!("id: 0\nevent: dropped\ndata: {{\"missed\":{},\"resume\":0}}\n\n", 3000 - 1024));
        assert_eq!(slow.next().await, None);
        assert_eq!((metrics.dropped.get(), metrics.present.get()), (1, 2));
        drop((slow, fast));
        assert_eq!(metrics.present.get(), 0);
        streams.end().await;
        hub.abort();
    }

    #[tokio::test]
    async fn a_long_past_drops_nobody_who_only_came_late() {
        let store = store();
        let streams = Streams::new(store.clone(), Metrics::new().unwrap().subscribers());
        let hub = tokio::spawn(streams.run());
        let begin = newest(&store).await;
        happen(&store, 1000);
        let (mut late, _stop) = subscribe(&streams, Some(begin + 5));
        assert_eq!(text(&mut late).await, HELLO);
        let mut got = Vec::new();
        let mut has_more = true;
        in_time(async {
            while got.len() < 2495 {
                if got.len() >= 500 && std::mem::take(&mut has_more) {
                    happen(&store, 1500);
                }
                got.extend(ids(&text(&mut late).await));
            }
        })
        .await;
        assert_eq!(got, (begin + 6..=begin + 2500).collect::<Vec<_>>());
        hub.abort();
    }
    #[tokio::test]
    async fn whoever_goes_on_after_what_memory_has_forgotten_is_told_so_first() {
        let store = store();
        let streams = Streams::new(store.clone(), Metrics::new().unwrap().subscribers());
        // Some 30 KiB each: memory is full before the last.
        let time: WallTime = "2026-11-21T10:00:00Z".parse().unwrap();
        let before = newest(&store).await;
        let mut newest = before;
        let first = loop {
            let mut event = EventRecord::new(time, "pool.down");
            event.detail.insert("evidence".to_owned(), "x".repeat(30_000).into());
            store.append(event);
            newest += 1;
            assert!(newest < before + 10_000, "300 MB, and nothing is forgotten");
            let oldest = store.events(Filter::default(), Some(0), 1).await.unwrap().events[0].id;
            if oldest > before + 3 {
                break oldest;
            }
        };
        for (after, is_resumed, is_told) in [
            (before + 1, true, true),
            (first - 2, true, true),
            (first - 1, true, false),
            (newest, true, false),
            (0, true, true),
            (0, false, false),
            // Of another history.
            (7, true, true),
            (newest + 7, true, true),
        ] {
            let (mut late, _stop) = begin(&streams, Some(after), is_resumed);
            assert_eq!(text(&mut late).await, HELLO);
            if is_told {
                assert_eq!(text(&mut late).await, GONE, "after {after}");
            }
            if after != newest {
                let next = if after > newest { first } else { first.max(after + 1) };
                assert_eq!(ids(&text(&mut late).await).first(), Some(&next), "after {after}");
            }
        }
    }
}
