//! What runs on the thread that asks, beside the probes: it carries out orders, each watch a task of its own, and hands the news back.
//!
//! Nothing goes over for a heartbeat, only what there is to tell: facts five times a second, and what is wrong. News are never lost:
//! there is room for so many, and a watch with more to tell waits with it, its session with it.
//!
//! The thread that decides and this one can each stand still without the other, and neither may make a verdict of it:
//!
//! - This one alone: an answer whose time ran out while nobody looked has all of its time again (`talk`), and a login that
//!   failed too late has not failed. So no doubt begins by it. One that was open before, and for which the answers of both paths
//!   would now come here, is not to become a verdict meanwhile: whoever decides looks first whether this thread runs
//!   (`probe::Stalls`).
//! - The other alone: servers are watched in time, and the news wait. When they are heard a doubt counts from then
//!   at the earliest, for they say how long something has taken, not since when; and the news that end it wait right behind. A watch
//!   that waits with its news reads nothing meanwhile, which is its own lateness, as above.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, spawn_local};

use crate::dial::Ways;
use crate::model::{BackendId, WatchId, WatchNews, WatchSpec};
use crate::sys::{self, Clock, OrderInbox, orders};

use super::Watcher;

/// News that wait for whoever decides at most; a watch with more to tell waits with it.
const UNHEARD_MAX: usize = 256;

/// What to do about a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Watch it; an older watch of it ends.
    Start {
        /// The number that its news must carry: what an older watch has told and was not heard yet has another.
        watch: WatchId,
        /// Whom to watch, and how.
        spec: Arc<WatchSpec>,
    },
    /// Log in once more beside the session that is open, if one is, and tell what comes of it.
    Knock,
    /// Watch it no more.
    Stop,
}

/// Where orders are given: the last one about a server is the one that counts.
pub type Orders = sys::Orders<BackendId, Order>;

/// What a watch has to tell.
#[derive(Debug)]
pub struct Told {
    /// Of whom.
    pub backend: BackendId,
    /// The number of the watch.
    pub watch: WatchId,
    /// What.
    pub news: WatchNews,
}

/// The ends that whoever decides has.
#[derive(Debug)]
pub struct Watched {
    /// Where it says whom to watch.
    pub orders: Orders,
    /// Where the news come.
    pub news: mpsc::Receiver<Told>,
}

/// What is to run on the thread that asks.
#[derive(Debug)]
pub struct Service {
    clock: Clock,
    ways: Ways,
    inbox: OrderInbox<BackendId, Order>,
    news: mpsc::Sender<Told>,
}

impl Service {
    /// One that watches nobody yet and dials servers by `ways`, and the ends for whoever gives it orders.
    #[must_use]
    pub fn new(clock: Clock, ways: Ways) -> (Self, Watched) {
        let (orders, inbox) = orders();
        let (sender, news) = mpsc::channel(UNHEARD_MAX);
        (Self { clock, ways, inbox, news: sender }, Watched { orders, news })
    }

    /// Watches until nobody can give orders any more, in a runtime for local tasks.
    pub async fn run(self) {
        let Self { clock, ways, mut inbox, news } = self;
        let mut running = Running { watcher: Watcher::new(clock, ways), news, tasks: BTreeMap::new() };
        while let Some(orders) = inbox.take().await {
            orders.into_iter().for_each(|(backend, order)| running.carry_out(backend, order));
        }
    }
}

/// A watch under way.
struct Task {
    handle: AbortHandle,
    /// Where it is told to knock.
    knocks: Arc<Notify>,
}

/// The watches under way.
struct Running {
    watcher: Watcher,
    news: mpsc::Sender<Told>,
    tasks: BTreeMap<BackendId, Task>,
}

impl Running {
    fn carry_out(&mut self, backend: BackendId, order: Order) {
        if order == Order::Knock {
            return self.tasks.get(&backend).into_iter().for_each(|task| task.knocks.notify_one());
        }
        if let Some(task) = self.tasks.remove(&backend) {
            task.handle.abort();
        }
        match order {
            Order::Start { watch, spec } => {
                let (watcher, sender) = (self.watcher.clone(), self.news.clone());
                let knocks = Arc::new(Notify::new());
                let task = spawn_local(watcher.watch(spec, Arc::clone(&knocks), async move |news: WatchNews| {
                    // Nobody listens any more only when the daemon ends.
                    drop(sender.send(Told { backend, watch, news }).await);
                }));
                self.tasks.insert(backend, Task { handle: task.abort_handle(), knocks });
            }
            Order::Stop | Order::Knock => {}
        }
    }
}

impl Drop for Running {
    /// Their servers are told that they go.
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.handle.abort();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use super::*;
    use crate::model::{Approach, DialError, PostgresPlan, Promotion, TlsMode, WatchError, WatchSession};
    use crate::sys::refusing;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn spec(server: SocketAddr) -> Arc<WatchSpec> {
        let postgres = PostgresPlan {
            user: "monitor".to_owned(),
            password: None,
            database: "postgres".to_owned(),
            tls: TlsMode::Disable,
            ca_file: None,
            session: WatchSession::Plain,
            heartbeat: Duration::from_millis(10),
            heartbeat_deadline: Duration::from_millis(250),
            max_lag: 0,
            max_lag_time: Duration::ZERO,
            promotion: Promotion::Never,
        };
        let (address, approach, timeout) = (server.to_string().parse().unwrap(), Approach::PLAIN, PATIENCE);
        Arc::new(WatchSpec { address, approach, timeout, postgres: Arc::new(postgres) })
    }

    /// Runs `test` with a service beside it, which comes to its end after it.
    async fn with_service<F: Future<Output = ()>>(test: impl FnOnce(Watched) -> F) {
        let (service, watched) = Service::new(Clock::start(), Ways::default());
        let local = LocalSet::new();
        let service = local.spawn_local(service.run());
        local.run_until(test(watched)).await;
        timeout(PATIENCE, local.run_until(service)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_last_order_is_the_one_whose_news_come() {
        with_service(async |mut watched| {
            let ((_refusing, address), server, first) = (refusing(), BackendId::default(), WatchId::default());
            watched.orders.give(server, Order::Start { watch: first, spec: spec(address) });
            let told = timeout(PATIENCE, watched.news.recv()).await.unwrap().unwrap();
            assert_eq!((told.backend, told.watch), (server, first));
            let refused = WatchError::Dial(DialError::Refused);
            assert!(matches!(told.news, WatchNews::Failed { error, .. } if error == refused), "{told:?}");
            watched.orders.give(server, Order::Start { watch: first.next(), spec: spec(address) });
            let second =
                async { while timeout(PATIENCE, watched.news.recv()).await.unwrap().unwrap().watch == first {} };
            timeout(PATIENCE, second).await.unwrap();
            watched.orders.give(server, Order::Stop);
            let Watched { orders, mut news } = watched;
            drop(orders);
            // The end of all who could tell anything.
            timeout(PATIENCE, async { while news.recv().await.is_some() {} }).await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn news_that_nobody_hears_for_a_while_wait_and_are_all_there() {
        let count = UNHEARD_MAX + 50;
        with_service(async |mut watched| {
            let (_refusing, address) = refusing();
            let spec = spec(address);
            let ids = std::iter::successors(Some(BackendId::default()), |id| Some(id.next()));
            let servers: Vec<BackendId> = ids.take(count).collect();
            for &server in &servers {
                let watch = WatchId::default();
                watched.orders.give(server, Order::Start { watch, spec: Arc::clone(&spec) });
            }
            let mut silent: std::collections::BTreeSet<BackendId> = servers.into_iter().collect();
            let all_full = async {
                while watched.news.len() < UNHEARD_MAX {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, all_full).await.unwrap();
            while !silent.is_empty() {
                silent.remove(&timeout(PATIENCE, watched.news.recv()).await.unwrap().unwrap().backend);
            }
        })
        .await;
    }
}
