//! Carries orders out: one task for each backend that has a run, and one run of a backend at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use super::ports::Ports;
use super::record::Record;
use super::remains::{daemon_mark, session_mark, signal, sweep};
use super::run::Run;
use super::survey::Survey;
use super::world::watch_world;
use super::{Doors, Hands, Order, Outputs, Told, Tunnels, World};
use crate::model::{BackendId, RunId};
use crate::sys::{Clock, GroupSignal, OrderInbox, Spawner, orders, token};

/// News that may wait for whoever decides. Then runs wait to tell theirs, and go on all the same.
const NEWS: usize = 1024;
/// What of the host's changes may wait: one is as good as many.
const WORLD: usize = 4;
/// From one look at what a daemon before has left to the next, and how many there are at most.
const SWEEP_LOOK: Duration = Duration::from_millis(20);
const SWEEP_LOOKS: u32 = 100;

/// What is to run on the thread of the tunnels.
pub struct Service {
    clock: Clock,
    inbox: OrderInbox<BackendId, Order>,
    spawner: Spawner,
    doors: Arc<dyn Doors + Send + Sync>,
    outputs: Outputs,
    news: mpsc::Sender<Told>,
    world: mpsc::Sender<World>,
    record_dir: Option<PathBuf>,
    guarded_by: Option<Vec<String>>,
    token: String,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("record_dir", &self.record_dir).finish_non_exhaustive()
    }
}

impl Service {
    /// One that has started nothing yet, and the ends for whoever gives it orders. It writes down in `record_dir` what runs.
    #[must_use]
    pub fn new(
        clock: Clock,
        spawner: Spawner,
        doors: Arc<dyn Doors + Send + Sync>,
        record_dir: Option<PathBuf>,
    ) -> (Self, Tunnels) {
        let (orders, inbox) = orders();
        let ((news_in, news), (world_in, world)) = (mpsc::channel(NEWS), mpsc::channel(WORLD));
        let outputs = Outputs::new(clock);
        // Without randomness the process's number has to do: no two that live have it in common.
        let token = token().unwrap_or_else(|_| format!("{}", std::process::id()));
        let tunnels = Tunnels { orders, news, world, outputs: outputs.clone(), session_mark: session_mark(&token) };
        let (news, world) = (news_in, world_in);
        let service = Self { clock, inbox, spawner, doors, outputs, news, world, record_dir, guarded_by: None, token };
        (service, tunnels)
    }

    /// The same with a guard, which is this program with these arguments and comes to [`super::guard`]. It is started
    /// before the first tunnel's program.
    #[must_use]
    pub fn guarded_by(self, argv: Vec<String>) -> Self {
        Self { guarded_by: Some(argv), ..self }
    }

    /// Carries orders out until nobody can give any more, and ends all runs then. On a thread of its own, in a runtime for
    /// local tasks.
    pub async fn run(self) {
        let Self { clock, mut inbox, spawner, doors, outputs, news, world, record_dir, guarded_by, token } = self;
        let record = match &record_dir {
            Some(directory) => Self::recorded(directory, &token).await,
            None => None,
        };
        let (ending, _) = watch::channel(false);
        let hands = Rc::new(Hands {
            clock,
            spawner,
            doors,
            outputs,
            news,
            ports: Ports::default(),
            survey: Survey::new(clock, &token),
            token,
            running: BTreeSet::new().into(),
            record: record.into(),
            guard: None.into(),
            guarded_by,
            ending,
        });
        let (for_ports, for_survey) = (Rc::clone(&hands), Rc::clone(&hands));
        let ports = spawn_local(async move { for_ports.ports.watch(clock, &for_ports.survey).await });
        let survey = spawn_local(async move { for_survey.survey.work().await });
        let mut watching = None;
        let mut keepers: BTreeMap<BackendId, Keeper> = BTreeMap::new();
        while let Some(orders) = inbox.take().await {
            watching.get_or_insert_with(|| spawn_local(watch_world(world.clone())));
            for (backend, order) in orders {
                carry_out(&hands, &mut keepers, backend, order);
            }
            keepers.retain(|_, keeper| !keeper.task.is_finished());
        }
        hands.ending.send_replace(true);
        for keeper in keepers.values() {
            drop(keeper.orders.send(Order::Stop));
        }
        for keeper in keepers.into_values() {
            if let Err(error) = keeper.task.await {
                tracing::error!(%error, "a tunnel did not come to its end in order");
            }
        }
        ports.abort();
        if watching.inspect(JoinHandle::abort).is_some() {
            Self::clear_away(&hands).await;
        }
        survey.abort();
        let (record, guard) = (hands.record.take(), hands.guard.take());
        if let Some(record) = record {
            record.end().await;
        }
        if let Some(guard) = guard {
            guard.end().await;
        }
    }

    /// Kills what is left of programs that were run for one connection each, and of ours that failed: those that left their groups.
    async fn clear_away(hands: &Hands) {
        for _ in 0..SWEEP_LOOKS {
            let left = hands.survey.remains(None, &daemon_mark(&hands.token)).await;
            if left.is_empty() {
                return;
            }
            signal(&left, GroupSignal::Kill);
            sleep(SWEEP_LOOK).await;
        }
    }

    /// The record, after what one before has left was swept away.
    async fn recorded(directory: &std::path::Path, token: &str) -> Option<Record> {
        match Record::open(directory, token).await {
            Ok((record, left)) => {
                if let Some(left) = left {
                    let mut killed = 0;
                    for look in 0..SWEEP_LOOKS {
                        let found = sweep(&left.token, &left.runs);
                        killed += if look == 0 { found } else { 0 };
                        if found == 0 {
                            break;
                        }
                        sleep(SWEEP_LOOK).await;
                    }
                    if killed > 0 {
                        tracing::warn!(killed, "processes of tunnels were left by a daemon that was killed");
                    }
                }
                Some(record)
            }
            Err(error) => {
                let directory = directory.display();
                tracing::warn!(%directory, %error, "which tunnels run is not written down: what a killed daemon leaves may stay");
                None
            }
        }
    }
}

/// The task of a backend, and where it is told what is wanted.
struct Keeper {
    orders: watch::Sender<Order>,
    run: Option<RunId>,
    task: JoinHandle<()>,
}

fn carry_out(hands: &Rc<Hands>, keepers: &mut BTreeMap<BackendId, Keeper>, backend: BackendId, order: Order) {
    let wanted = match &order {
        Order::Start { run, .. } => Some(*run),
        Order::Stop => None,
    };
    if let Some(keeper) = keepers.get_mut(&backend) {
        // What was ordered already is under way, or has been told the end of.
        if wanted.is_some() && keeper.run == wanted {
            return;
        }
        keeper.run = wanted;
        if keeper.orders.send(order.clone()).is_ok() {
            return;
        }
        keepers.remove(&backend);
    }
    if wanted.is_some() {
        let (orders, inbox) = watch::channel(Order::Stop);
        orders.send_replace(order);
        let task = spawn_local(keep(Rc::clone(hands), backend, inbox));
        keepers.insert(backend, Keeper { orders, run: wanted, task });
    }
}

/// Carries out what is ordered of one backend, until that is to stop.
async fn keep(hands: Rc<Hands>, backend: BackendId, mut orders: watch::Receiver<Order>) {
    let mut last = None;
    loop {
        let order = orders.borrow_and_update().clone();
        match order {
            Order::Stop => return,
            Order::Start { run, plan } => {
                let kept = last.take().filter(|(_, before)| *before == plan).map(|(port, _)| port);
                let mut this = Run::new(Rc::clone(&hands), backend, run, Arc::clone(&plan));
                // A change is seen by whoever looks next as well.
                let port = Box::pin(this.carry_out(kept, orders.clone())).await;
                last = port.map(|port| (port, plan));
            }
        }
        if orders.changed().await.is_err() {
            return;
        }
    }
}
