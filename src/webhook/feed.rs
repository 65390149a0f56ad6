//! One webhook: what it still has to post, and how far it is.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use crate::model::{EventRecord, MonoTime, WebhookFormat, WebhookPlan, is_of_kind};
use crate::routing::ControlHandle;
use crate::store::{Change, Filter, Followed, Looked, PAGE_MAX, StoreHandle};
use crate::sys::Clock;
use crate::telemetry::WebhookMetrics;

use super::alerts::{AGAIN_EVERY, AGAIN_SOON, Lasting, lasting_kinds};
use super::delivery::Delivery;
use super::present::Present;

/// The kind of the events that tell of what was given up.
pub(super) const FAILED: &str = "webhook.failed";
/// How far it is is kept so often at most: what was posted after that is posted again when the daemon is killed.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// How long the control plane may take to say how pools stand: what happens is posted all the same.
const ASK_MAX: Duration = Duration::from_secs(5);

/// What a webhook works with.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) plan: Arc<WebhookPlan>,
    pub(super) store: StoreHandle,
    /// Whom to ask how pools stand.
    pub(super) control: ControlHandle,
    pub(super) clock: Clock,
    pub(super) metrics: WebhookMetrics,
    /// The last event that it is done with.
    pub(super) cursor: Arc<AtomicU64>,
    /// Turns true when it is to end after the attempt that is under way.
    pub(super) stop: watch::Receiver<bool>,
}

/// A webhook at work.
pub(super) struct Feed {
    work: Work,
    /// Events that were found for it, and those of them that it is done with.
    found: Cell<u64>,
    done: Cell<u64>,
    /// The last that was found.
    last_found: Cell<u64>,
}

impl Feed {
    pub(super) fn new(work: Work) -> Self {
        let (found, done, last_found) = Default::default();
        Self { work, found, done, last_found }
    }

    /// Posts what comes after the cursor, until it is told to stop or the store is closed.
    pub(super) async fn run(self) {
        self.show();
        // Two that read the same: one counts what waits, while the other waits for the receiver.
        // Cancel-safety: the end of either is the end of both; the cursor says what was posted.
        tokio::select! {
            () = self.count() => {}
            () = self.post() => {}
        }
    }

    fn filter(&self) -> Filter {
        let pools = (!self.work.plan.pools.is_empty()).then(|| self.work.plan.pools.as_slice().into());
        Filter { kinds: self.work.plan.kinds.clone(), pools, ..Filter::default() }
    }

    /// Whether `event` is posted: nobody is told that he could not be told.
    fn wants(&self, event: &EventRecord) -> bool {
        event.kind != FAILED
            || event.detail.get("webhook").and_then(serde_json::Value::as_str) != Some(self.work.plan.name.as_str())
    }

    fn show(&self) {
        let waiting = self.found.get().saturating_sub(self.done.get());
        self.work.metrics.pending.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    async fn count(&self) {
        let mut follow = self.work.store.follow(self.filter(), Some(self.work.cursor.load(Ordering::Relaxed)));
        while let Some(followed) = follow.next().await {
            if let Followed::Event(event) = followed
                && self.wants(&event)
            {
                self.found.set(self.found.get() + 1);
                self.last_found.set(event.id);
                self.show();
            }
        }
    }

    async fn post(&self) {
        let mut follow = self.work.store.follow(self.filter(), Some(self.work.cursor.load(Ordering::Relaxed)));
        let (store, metrics, mut stop) = (self.work.store.clone(), self.work.metrics.clone(), self.work.stop.clone());
        let mut delivery = Delivery::new(Arc::clone(&self.work.plan), store, self.work.clock, metrics, stop.clone());
        let mut kept = Kept { id: self.work.cursor.load(Ordering::Relaxed), at: self.work.clock.now() };
        let has_alerts = self.work.plan.format == WebhookFormat::Alertmanager;
        let mut lasting = Lasting::default();
        let (mut renewed, mut again_at) = (self.work.clock.now(), self.work.clock.now() + AGAIN_SOON);
        loop {
            let due = self.work.clock.instant(kept.at + KEEP_EVERY);
            let is_behind = kept.id != self.work.cursor.load(Ordering::Relaxed);
            // Cancel-safety: what `look` has not given is given by its next call.
            let next = tokio::select! {
                biased;
                _ = stop.wait_for(|&stop| stop) => return,
                () = sleep_until(due), if is_behind => {
                    self.keep(&mut kept);
                    continue;
                }
                () = sleep_until(self.work.clock.instant(again_at)), if has_alerts => {
                    let is_due = self.work.clock.now().since(renewed) >= AGAIN_EVERY;
                    let is_told = self.renew(&mut delivery, &mut lasting, is_due).await;
                    let now = self.work.clock.now();
                    (renewed, again_at) = (if is_due && is_told { now } else { renewed }, now + AGAIN_SOON);
                    continue;
                }
                next = follow.look() => next,
            };
            match next {
                None => return,
                Some(Looked::Passed(id)) => self.work.cursor.store(id, Ordering::Relaxed),
                // What was missed follows.
                Some(Looked::Given(Followed::Lagged(_))) => {}
                Some(Looked::Given(Followed::Cut(after))) => delivery.missed(after),
                Some(Looked::Given(Followed::Event(event))) => {
                    if self.wants(&event) {
                        if !self.deliver(&mut delivery, &event, &mut kept).await {
                            return;
                        }
                        // What the history forgot meanwhile waits no more.
                        let is_last = event.id >= self.last_found.get();
                        self.done.set(if is_last { self.found.get() } else { self.done.get() + 1 });
                        self.show();
                    }
                    self.work.cursor.store(event.id, Ordering::Relaxed);
                }
            }
        }
    }

    /// Tells of the alerts that are over without an event, and if it `is_due` once more of all that last, as they stand now.
    /// `false` if that was not taken, or not known.
    async fn renew(&self, delivery: &mut Delivery, lasting: &mut Lasting, is_due: bool) -> bool {
        let mut stop = self.work.stop.clone();
        // Cancel-safety: what was not read is read the next time.
        let present = tokio::select! {
            biased;
            _ = stop.wait_for(|&stop| stop) => return false,
            present = self.look(lasting) => present,
        };
        let Some(present) = present else { return false };
        let now = self.work.clock.wall(self.work.clock.now());
        let alerts = if is_due { lasting.again(&present, now) } else { lasting.over(&present, now) };
        if !alerts.is_empty() && !delivery.tell_again(&alerts).await {
            return false;
        }
        lasting.settle(&present);
        true
    }

    /// Learns what has begun and ended since the last time, as far as it was posted, and how everything stands now; none if the
    /// control plane does not say.
    async fn look(&self, lasting: &mut Lasting) -> Option<Present> {
        self.read(lasting).await;
        let pools = timeout(ASK_MAX, self.work.control.pools()).await.ok()??;
        Some(Present::new(pools, self.work.store.figures().is_degraded))
    }

    /// Reads the history on, up to what was posted. What only a disk has that does not answer is read another time.
    async fn read(&self, lasting: &mut Lasting) {
        let mut wanted = self.filter();
        let is_wanted = |kind: &String| wanted.kinds.iter().any(|wanted| is_of_kind(kind, wanted));
        let kinds: Vec<String> = lasting_kinds().into_iter().filter(is_wanted).collect();
        wanted.kinds = kinds;
        let done = self.work.cursor.load(Ordering::Relaxed);
        while lasting.read_to < done && !wanted.kinds.is_empty() {
            let Ok(page) = self.work.store.events(wanted.clone(), Some(lasting.read_to), PAGE_MAX).await else {
                return;
            };
            let before = lasting.read_to;
            self.work.metrics.not_renewed.inc_by(lasting.read(&page, done));
            if lasting.read_to <= before {
                return;
            }
        }
    }

    /// Posts `event`, or gives it up. Meanwhile it is kept how far it was. `false` if it was told to stop before.
    async fn deliver(&self, delivery: &mut Delivery, event: &EventRecord, kept: &mut Kept) -> bool {
        let delivered = delivery.deliver(event);
        tokio::pin!(delivered);
        let due = self.work.clock.instant(kept.at + KEEP_EVERY);
        let is_behind = kept.id != self.work.cursor.load(Ordering::Relaxed);
        // Cancel-safety: the delivery goes on below where it was.
        tokio::select! {
            is_done = &mut delivered => return is_done,
            () = sleep_until(due), if is_behind => self.keep(kept),
        }
        delivered.await
    }

    fn keep(&self, kept: &mut Kept) {
        let id = self.work.cursor.load(Ordering::Relaxed);
        kept.at = self.work.clock.now();
        // If the store has no room for it now, it may have later.
        if self.work.store.record(vec![Change::Cursor(self.work.plan.name.clone(), Some(id))], Vec::new()).is_ok() {
            kept.id = id;
        }
    }
}

/// What is kept of how far it is.
struct Kept {
    id: u64,
    at: MonoTime,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::net::Ipv4Addr;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::watch;
    use tokio::task::{JoinHandle, LocalSet, spawn_local};
    use tokio::time::sleep;

    use super::{AGAIN_EVERY, AGAIN_SOON, Feed, KEEP_EVERY, Work};
    use crate::model::{EventRecord, HealthState, PoolState, PoolStatus, StorePlan, WebhookFormat, WebhookPlan};
    use crate::routing::{ControlHandle, Message, mailbox};
    use crate::store::{Filter, Opened, StoreHandle, open};
    use crate::sys::Clock;
    use crate::telemetry::Metrics;
    use crate::webhook::present::tests::{orders, paused};

    /// What was posted: the kind in the head, and the first alert.
    type Posts = Rc<RefCell<Vec<(String, Value)>>>;

    async fn take(mut stream: TcpStream, posts: Posts, status: u16) {
        let mut text = String::new();
        let alerts: Value = loop {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).await.unwrap();
            text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
            match text.split_once("\r\n\r\n").map(|(_, body)| serde_json::from_str(body)) {
                Some(Ok(alerts)) => break alerts,
                _ if count == 0 => return,
                _ => {}
            }
        };
        let kind = text.split_once("changeover-event: ").and_then(|(_, rest)| rest.lines().next()).unwrap();
        posts.borrow_mut().push((kind.to_owned(), alerts[0].clone()));
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    /// An Alertmanager, and one that posts to it.
    struct World {
        plan: Arc<WebhookPlan>,
        store: StoreHandle,
        clock: Clock,
        posts: Posts,
        control: ControlHandle,
        /// How the pools stand.
        pools: Rc<RefCell<Vec<PoolStatus>>>,
        /// What the receiver answers.
        says: Rc<Cell<u16>>,
    }

    impl World {
        async fn new() -> Self {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let url = format!("http://{}/api/v2/alerts", listener.local_addr().unwrap()).parse().unwrap();
            let (posts, clock) = (Posts::default(), Clock::start());
            let (taken, says) = (Rc::clone(&posts), Rc::new(Cell::new(200)));
            let status = Rc::clone(&says);
            drop(spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    drop(spawn_local(take(stream, Rc::clone(&taken), status.get())));
                }
            }));
            let pools = Rc::new(RefCell::new(Vec::new()));
            let ((control, _, mut asked), stand) = (mailbox(), Rc::clone(&pools));
            drop(spawn_local(async move {
                while let Some(message) = asked.recv().await {
                    if let Message::Pools(reply) = message {
                        drop(reply.send(stand.borrow().clone()));
                    }
                }
            }));
            let plan = WebhookPlan {
                name: "alerts".into(),
                url,
                kinds: vec!["pool.*".to_owned()],
                pools: Vec::new(),
                secret: None,
                format: WebhookFormat::Alertmanager,
                timeout: Duration::from_secs(5),
                give_up_after: Duration::from_secs(30 * 86_400),
                ca_file: None,
            };
            let Opened { handle: store, .. } = open(&StorePlan::default(), Duration::ZERO, clock).unwrap();
            Self { plan: Arc::new(plan), store, clock, posts, control, pools, says }
        }

        fn happens(&self, kind: &str) {
            let mut event = EventRecord::new(self.clock.wall(self.clock.now()), kind);
            event.pool = Some("orders".into());
            self.store.append(event);
        }

        fn begin(&self, after: u64) -> (JoinHandle<()>, watch::Sender<bool>) {
            self.begin_at(Arc::new(AtomicU64::new(after)))
        }

        fn begin_at(&self, cursor: Arc<AtomicU64>) -> (JoinHandle<()>, watch::Sender<bool>) {
            let (stop, stopped) = watch::channel(false);
            let metrics = Metrics::new().unwrap().webhook(&self.plan.name);
            let (plan, store, control) = (Arc::clone(&self.plan), self.store.clone(), self.control.clone());
            let work = Work { plan, store, control, clock: self.clock, metrics, cursor, stop: stopped };
            (spawn_local(Feed::new(work).run()), stop)
        }

        /// Waits until whatever was under way is done: one thing is posted at a time.
        async fn done(&self) {
            let marks = self.posts.borrow().iter().filter(|(told, _)| told == "pool.failback").count();
            self.happens("pool.failback");
            self.ends("pool.failback", marks + 1).await;
        }

        /// The ends of the alerts that were posted as `kind`, once there are `number`.
        async fn ends(&self, kind: &str, number: usize) -> Vec<String> {
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            loop {
                let posts = self.posts.borrow().clone();
                let of_kind = posts.iter().filter(|(told, _)| told == kind);
                let ends: Vec<String> =
                    of_kind.map(|(_, alert)| alert["endsAt"].as_str().unwrap().to_owned()).collect();
                if ends.len() >= number {
                    return ends;
                }
                assert!(std::time::Instant::now() < deadline, "{number} of {kind}: {posts:?}");
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// The clock goes on by `time` at once. It stands still for this alone: the history answers from another thread.
    async fn pass(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    #[tokio::test]
    async fn an_alert_that_lasts_is_posted_again_until_it_is_over() {
        let test = async {
            let world = World::new().await;
            world.pools.replace(vec![paused(PoolState::Degraded)]);
            world.happens("pool.paused");
            let (feed, _stop) = world.begin(0);
            world.ends("pool.paused", 1).await;
            for number in 1..=3 {
                world.done().await;
                pass(AGAIN_EVERY).await;
                world.ends("alerts.again", number).await;
            }
            let again = world.ends("alerts.again", 3).await;
            assert!(again.is_sorted() && again[0] < again[2], "{again:?}");
            feed.abort();
            assert!(feed.await.unwrap_err().is_cancelled());
            // One that begins later, and has posted it already, knows of it.
            world.posts.borrow_mut().clear();
            let (_feed, _stop) = world.begin(4);
            world.happens("pool.degraded");
            world.ends("pool.degraded", 1).await;
            world.done().await;
            pass(AGAIN_EVERY).await;
            world.ends("alerts.again", 1).await;
            for over in ["pool.resumed", "pool.recovered"] {
                world.happens(over);
                world.ends(over, 1).await;
            }
            world.done().await;
            world.posts.borrow_mut().clear();
            pass(AGAIN_EVERY).await;
            world.happens("pool.failover");
            world.ends("pool.failover", 1).await;
            assert_eq!(world.posts.borrow().len(), 1, "it is over: {:?}", world.posts.borrow());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn an_alert_that_is_over_without_an_event_is_ended_once_and_for_all() {
        let test = async {
            let world = World::new().await;
            // It was posted by a process that is gone, and what it tells of ended while there was none. More that is over since
            // than a page of the history holds is no reason to forget it.
            world.happens("pool.down");
            for _ in 0..600 {
                world.happens("pool.paused");
                world.happens("pool.resumed");
            }
            let (_feed, _stop) = world.begin(1201);
            let down = orders(PoolState::Down, HealthState::Unhealthy);
            world.pools.replace(vec![down]);
            world.done().await;
            pass(AGAIN_EVERY).await;
            let ends = world.ends("alerts.again", 1).await;
            let now = || world.clock.wall(world.clock.now()).to_string();
            assert!(ends[0] > now(), "it lasts: {ends:?}");
            // Before the first verdicts nobody knows.
            world.done().await;
            world.pools.replace(vec![orders(PoolState::Unknown, HealthState::Unknown)]);
            pass(AGAIN_EVERY).await;
            world.done().await;
            assert_eq!(world.ends("alerts.again", 1).await.len(), 1);
            // The end is told until it is taken, and then no more.
            world.pools.replace(vec![orders(PoolState::Healthy, HealthState::Healthy)]);
            world.says.set(503);
            pass(AGAIN_EVERY).await;
            world.ends("alerts.again", 2).await;
            world.says.set(200);
            world.done().await;
            pass(AGAIN_SOON).await;
            let ends = world.ends("alerts.again", 3).await;
            assert!(ends[1..].iter().all(|end| *end <= now()), "it is over: {ends:?}");
            world.done().await;
            pass(AGAIN_EVERY).await;
            world.done().await;
            assert_eq!(world.ends("alerts.again", 3).await.len(), 3, "{:?}", world.posts.borrow());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn an_end_without_an_event_is_not_kept_until_the_next_renewal() {
        let test = async {
            let world = World::new().await;
            world.pools.replace(vec![paused(PoolState::Healthy)]);
            world.happens("pool.paused");
            let (_feed, _stop) = world.begin(0);
            world.ends("pool.paused", 1).await;
            world.done().await;
            // It lasts, and it is too early to say so again.
            pass(AGAIN_SOON).await;
            world.done().await;
            assert!(world.posts.borrow().iter().all(|(told, _)| told != "alerts.again"), "{:?}", world.posts.borrow());
            // Its pool is taken out.
            world.pools.replace(Vec::new());
            pass(AGAIN_SOON).await;
            let ends = world.ends("alerts.again", 1).await;
            assert!(ends[0] <= world.clock.wall(world.clock.now()).to_string(), "it is over: {ends:?}");
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn one_that_wants_little_loses_nothing_when_the_history_forgets_what_it_does_not_want() {
        let test = async {
            let world = World::new().await;
            let cursor = Arc::new(AtomicU64::new(0));
            let (feed, stop) = world.begin_at(Arc::clone(&cursor));
            let first = world.store.events(Filter::default(), None, 1).await.unwrap().next + 1;
            world.happens("pool.paused");
            world.ends("pool.paused", 1).await;
            let page = |after| world.store.events(Filter::default(), Some(after), 1);
            // Few at a time, and then more at once than those who listen may be behind.
            let mut newest = first;
            for number in [1, 10, 3000, 3000] {
                (0..number).for_each(|_| world.happens("backend.healthy"));
                newest += number;
                let deadline = std::time::Instant::now() + Duration::from_secs(20);
                while cursor.load(Ordering::Relaxed) < newest {
                    assert!(std::time::Instant::now() < deadline, "it is at {cursor:?}, the history at {newest}");
                    sleep(Duration::from_millis(1)).await;
                }
            }
            assert!(page(first).await.unwrap().is_cut, "the history is large enough for all of it");
            pass(KEEP_EVERY).await;
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            while world.store.state().await.unwrap().cursors.get(&world.plan.name) != Some(&newest) {
                assert!(std::time::Instant::now() < deadline, "how far it is does not outlive the process");
                sleep(Duration::from_millis(1)).await;
            }
            stop.send_replace(true);
            feed.await.unwrap();
            let (_feed, _stop) = world.begin(cursor.load(Ordering::Relaxed));
            world.happens("pool.resumed");
            world.ends("pool.resumed", 1).await;
            let failed = Filter { kinds: vec![super::FAILED.to_owned()], ..Filter::default() };
            let failed = world.store.events(failed, None, 10).await.unwrap().events;
            assert_eq!(failed, [], "nothing was lost");
        };
        LocalSet::new().run_until(test).await;
    }
}
