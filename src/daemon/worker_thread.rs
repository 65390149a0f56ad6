//! A data-plane thread: one runtime, its listening sockets, its sessions.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_local};

use crate::listener::{ListenerEnd, accept_until_stopped, serve};
use crate::model::{Address, ListenerName, ListenerPlan};
use crate::session::{Entrance, Guard, Handed, Worker};
use crate::sys::{BoundSocket, Listener};
use crate::telemetry::{ListenerMetrics, Metrics};

use super::Mourn;
use super::thread::spawn_with_runtime;

/// Orders that may wait for a thread; the daemon gives one and waits for its answer.
const ORDERS: usize = 16;

/// Which socket: the listener it belongs to, and its address as configured.
pub(super) type SocketKey = (ListenerName, Address);

/// What a thread is told.
pub(super) enum Order {
    /// Go by these plans, accept at these sockets as well, and at those no longer.
    Arrange { plans: Vec<(Arc<ListenerPlan>, Arc<Guard>)>, open: Vec<(SocketKey, BoundSocket)>, close: Vec<SocketKey> },
    /// Accept no more.
    StopAccepting,
    /// End every session now.
    Cut,
}

/// A running thread.
pub(super) struct WorkerThread {
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    thread: std::thread::JoinHandle<()>,
}

impl WorkerThread {
    /// Starts a thread that works with what `make` makes for it.
    pub(super) fn start(
        index: usize,
        make: impl FnOnce() -> Worker + Send + 'static,
        arrivals: mpsc::Receiver<Handed>,
        metrics: Arc<Metrics>,
        mourn: Mourn,
    ) -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let name = format!("worker-{index}");
        let thread = spawn_with_runtime(name, mourn.clone(), move || async move {
            obey(Rc::new(make()), metrics, inbox, arrivals, mourn).await;
        })?;
        Ok(Self { orders, thread })
    }

    /// Gives an order; the answer comes when it is carried out.
    pub(super) fn give(&self, order: Order) -> oneshot::Receiver<()> {
        let (done, answer) = oneshot::channel();
        // A thread that is gone has been mourned already, and the answer says so.
        drop(self.orders.blocking_send((order, done)));
        answer
    }

    /// Ends the thread and whatever still runs on it.
    pub(super) fn join(self) {
        drop(self.orders);
        // A panic was mourned when it happened.
        drop(self.thread.join());
    }
}

/// One open socket: what stops it when dropped, and the task that accepts there.
struct Door {
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

/// One thread's listeners.
struct Doors {
    worker: Rc<Worker>,
    metrics: Arc<Metrics>,
    mourn: Mourn,
    entrances: BTreeMap<ListenerName, (Rc<Entrance>, Arc<Guard>)>,
    doors: BTreeMap<SocketKey, Door>,
}

/// Carries orders out until nobody can give any more.
async fn obey(
    worker: Rc<Worker>,
    metrics: Arc<Metrics>,
    mut inbox: mpsc::Receiver<(Order, oneshot::Sender<()>)>,
    mut arrivals: mpsc::Receiver<Handed>,
    mourn: Mourn,
) {
    let ticking = Rc::clone(&worker);
    drop(spawn_local(ticking.tick_forever()));
    drop(spawn_local(Rc::clone(&worker).wake_rested_forever()));
    drop(spawn_local(Rc::clone(&worker).close_in_turn_forever()));
    let releasing = Rc::clone(&worker);
    drop(spawn_local(async move { releasing.release_held_forever().await }));
    let waking = Rc::clone(&worker);
    drop(spawn_local(async move { waking.stay_awake_forever().await }));
    let mut doors = Doors { worker, metrics, mourn, entrances: BTreeMap::new(), doors: BTreeMap::new() };
    loop {
        // Cancel-safety: a message that is not returned stays in its queue.
        let order = tokio::select! {
            biased;
            Some(handed) = arrivals.recv() => {
                doors.take_in(handed);
                continue;
            }
            order = inbox.recv() => order,
        };
        let Some((order, done)) = order else { return };
        match order {
            Order::Arrange { plans, open, close } => doors.arrange(plans, open, &close).await,
            Order::StopAccepting => {
                doors.worker.end_turns();
                doors.close_all().await;
            }
            Order::Cut => doors.worker.cut(),
        }
        let _giver_gone = done.send(());
    }
}

impl Doors {
    async fn arrange(
        &mut self,
        plans: Vec<(Arc<ListenerPlan>, Arc<Guard>)>,
        open: Vec<(SocketKey, BoundSocket)>,
        close: &[SocketKey],
    ) {
        let names: Vec<ListenerName> = plans.iter().map(|(plan, _)| plan.name.clone()).collect();
        for (plan, guard) in plans {
            match self.entrances.get(&plan.name) {
                Some((entrance, _)) => entrance.replace_plan(plan),
                None => {
                    let handles: ListenerMetrics = self.metrics.listener(&plan.name);
                    self.entrances.insert(plan.name.clone(), (Rc::new(Entrance::new(plan, handles)), guard));
                }
            }
        }
        for (key, socket) in open {
            self.open(key, socket);
        }
        self.close(close).await;
        self.entrances.retain(|name, _| names.contains(name));
        self.worker.look_again();
    }

    /// Serves a client that another thread has let in.
    fn take_in(&self, handed: Handed) {
        // Its listener may have been removed while it was on its way; then it is closed, as those in a queue are.
        let Some((entrance, _)) = self.entrances.get(&handed.listener) else { return };
        if let Some((client, caller, places)) = handed.arrive() {
            serve(&self.worker, entrance, client, caller, places);
        }
    }

    /// Accepts no more at these sockets; returns when whoever was in their queues has been accepted.
    async fn close(&mut self, keys: &[SocketKey]) {
        let doors: Vec<Door> = keys.iter().filter_map(|key| self.doors.remove(key)).collect();
        for Door { stop, accepting } in doors {
            drop(stop);
            // A panic there ends this listener only, and it is ending anyway.
            let _panicked = accepting.await;
        }
    }

    async fn close_all(&mut self) {
        let keys: Vec<SocketKey> = self.doors.keys().cloned().collect();
        self.close(&keys).await;
    }

    fn open(&mut self, key: SocketKey, socket: BoundSocket) {
        let Some((entrance, guard)) = self.entrances.get(&key.0).cloned() else { return };
        let listener = match Listener::from_bound(socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(listener = %key.0, %error, "a socket cannot be watched");
                return self.mourn.now(&format!("listener {}", key.0));
            }
        };
        let (stop, stopped) = watch::channel(false);
        let (worker, mourn) = (Rc::clone(&self.worker), self.mourn.clone());
        let name = key.0.clone();
        let accepting = spawn_local(async move {
            if accept_until_stopped(worker, entrance, guard, listener, stopped).await == ListenerEnd::Broken {
                mourn.now(&format!("listener {name}"));
            }
        });
        self.doors.insert(key, Door { stop, accepting });
    }
}
