//! A watch over a PostgreSQL server on a thread of its own, and what it tells.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use changeover::dial::Ways;
use changeover::model::{
    Address, Approach, PostgresPlan, Promotion, Secret, ServerFacts, TlsMode, WatchEnd, WatchError, WatchNews,
    WatchSession, WatchSpec,
};
use changeover::sys::Clock;
use changeover::watch::Watcher;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Notify, oneshot};
use tokio::task::LocalSet;

use super::cluster::{MONITOR, PASSWORD};
use super::wait::DEADLINE;

/// A plan for the monitor's role of a cluster, with everything at its default.
pub fn plan() -> PostgresPlan {
    PostgresPlan {
        user: MONITOR.to_owned(),
        password: Some(Secret::new(PASSWORD)),
        database: "postgres".to_owned(),
        tls: TlsMode::Prefer,
        ca_file: None,
        session: WatchSession::Replication,
        heartbeat: Duration::from_millis(10),
        heartbeat_deadline: Duration::from_millis(250),
        max_lag: 0,
        max_lag_time: Duration::ZERO,
        promotion: Promotion::Never,
    }
}

/// One watch or some, on one thread. They end when this is dropped.
#[derive(Debug)]
pub struct Watched {
    news: Receiver<(Instant, WatchNews)>,
    knocks: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Duration>>,
}

impl Watched {
    /// Watches the server at `addr`.
    pub fn start(addr: SocketAddr, plan: PostgresPlan) -> Self {
        Self::start_at(Address::Ip(addr), plan, Duration::from_secs(10))
    }

    /// Watches the server at `address`, which has so much time for a login.
    pub fn start_at(address: Address, plan: PostgresPlan, timeout: Duration) -> Self {
        Self::start_all(vec![address], plan, timeout)
    }

    /// Watches the servers at `addresses`, each of which has so much time for a login.
    pub fn start_all(addresses: Vec<Address>, plan: PostgresPlan, timeout: Duration) -> Self {
        let postgres = Arc::new(plan);
        let (told, news) = channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let knocks = Arc::new(Notify::new());
        let bell = Arc::clone(&knocks);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let since_open = Rc::new(Cell::new(Duration::ZERO));
            let local = LocalSet::new();
            let watcher = Watcher::new(Clock::start(), Ways::default());
            for address in addresses {
                let (told, opened) = (told.clone(), Rc::clone(&since_open));
                let spec = WatchSpec { address, approach: Approach::PLAIN, timeout, postgres: Arc::clone(&postgres) };
                local.spawn_local(watcher.clone().watch(Arc::new(spec), Arc::clone(&bell), async move |news| {
                    if matches!(news, WatchNews::Opened(_)) {
                        opened.set(thread_time());
                    }
                    told.send((Instant::now(), news)).ok();
                }));
            }
            drop(told);
            local.block_on(&runtime, stopped).ok();
            thread_time().saturating_sub(since_open.get())
        });
        Self { news, knocks, stop: Some(stop), thread: Some(thread) }
    }

    /// Waits for news that `pick` picks, and returns when they came; panics with `what` if none come. All before are dropped.
    #[track_caller]
    pub fn until<T>(&self, what: &str, mut pick: impl FnMut(&WatchNews) -> Option<T>) -> (Instant, T) {
        let begun = Instant::now();
        let mut seen = Vec::new();
        loop {
            match self.news.recv_timeout(DEADLINE.saturating_sub(begun.elapsed())) {
                Ok((at, news)) => match pick(&news) {
                    Some(found) => return (at, found),
                    None => seen.push(news),
                },
                Err(RecvTimeoutError::Timeout) => panic!("waited in vain until {what}; told was {seen:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the watch has ended; told was {seen:?}"),
            }
        }
    }

    /// Has a watch log in once more.
    pub fn knock(&self) {
        self.knocks.notify_one();
    }

    /// Waits until a session is open, and returns its first facts.
    #[track_caller]
    pub fn opened(&self) -> ServerFacts {
        self.until("a session is open", |news| {
            let WatchNews::Opened(facts) = news else { return None };
            Some(facts.clone())
        })
        .1
    }

    /// Waits until the server is seen as `is_so` says.
    #[track_caller]
    pub fn seen(&self, what: &str, is_so: impl Fn(&ServerFacts) -> bool) -> (Instant, ServerFacts) {
        self.until(what, |news| {
            let WatchNews::Seen(facts) = news else { return None };
            is_so(facts).then(|| facts.clone())
        })
    }

    /// Waits until the session is over, and returns when and how that was told.
    #[track_caller]
    pub fn ended(&self) -> (Instant, WatchEnd, String) {
        let (at, (end, detail)) = self.until("the session is over", |news| {
            let WatchNews::Ended { end, detail } = news else { return None };
            Some((*end, detail.clone()))
        });
        (at, end, detail)
    }

    /// Waits until no session could be opened, and returns why.
    #[track_caller]
    pub fn failed(&self) -> (WatchError, String) {
        self.until("no session can be opened", |news| {
            let WatchNews::Failed { error, detail } = news else { return None };
            Some((*error, detail.clone()))
        })
        .1
    }

    /// What was told and not asked for yet.
    pub fn rest(&self) -> Vec<WatchNews> {
        self.news.try_iter().map(|(_, news)| news).collect()
    }

    /// Ends the watches, and returns the processor time that its thread has taken since it last opened a session.
    pub fn stop(mut self) -> Duration {
        drop(self.stop.take());
        self.thread.take().expect("it runs").join().expect("no panic")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The processor time that this thread has taken.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
