//! One worker thread with a listener in front of a pool whose backends are behind tunnels: the data plane's own parts, without a
//! daemon that would see to the tunnels.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use changeover::config::{OsSources, parse};
use changeover::dial::Ways;
use changeover::failover::{Controller, Event, RouteTable, Sessions};
use changeover::model::{
    Actor, Address, Attach, BackendId, BackendName, CheckKind, Epoch, Generation, MonoTime, OutReason, PoolName, Via,
};
use changeover::routing::{BackendLive, Live, Pace, PoolLive, Published, Registry, RouteWriter, mailbox, route_cell};
use changeover::session::{Caller, Entrance, Guard, Places, Seats, Worker, run};
use changeover::sys::{Clock, Stream};
use changeover::telemetry::Metrics;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

/// The pool of a [`Hall`].
const POOL: &str = "orders";

/// The way to a backend of a [`Hall`].
pub fn way(backend: &str, attach: Attach) -> Arc<Via> {
    let target: Address = format!("{backend}.internal:5432").parse().expect("an address");
    Arc::new(Via { pool: PoolName::from(POOL), backend: BackendName::from(backend), attach, target })
}

/// The thread, and what it works with.
pub struct Hall {
    /// Where clients connect.
    pub front: SocketAddr,
    registry: Registry,
    backends: BTreeMap<String, BackendId>,
    _writer: RouteWriter,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Hall {
    /// In front of the backends of `vias`, in this order of preference and all of them fit, with these lines of configuration.
    pub fn start(lines: &str, vias: &[Arc<Via>], ways: Ways) -> Self {
        let mut text =
            format!("[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"{POOL}\"\n[pools.{POOL}]\n{lines}\n");
        for (priority, via) in (1..).zip(vias) {
            let (name, target) = (&via.backend, &via.target);
            text += &format!("[pools.{POOL}.backends.{name}]\naddress = \"{target}\"\npriority = {priority}\n");
        }
        let mut plan = parse("a file", &text, &OsSources).expect("a plan");
        let pool = Arc::make_mut(plan.pools.get_mut(&PoolName::from(POOL)).expect("the pool"));
        for (backend, via) in pool.backends.iter_mut().zip(vias) {
            assert_eq!(backend.name, via.backend, "names are in their order");
            backend.check.kind = CheckKind::None;
            backend.approach.via = Some(Arc::clone(via));
        }
        let listener = Arc::clone(plan.listeners.values().next().expect("one"));
        let (metrics, registry) = (Metrics::new().expect("metrics"), Registry::new(1));
        let (mut core, mut commands) = (Controller::new(7), Vec::new());
        let replaced = Event::PlanReplaced { plan: Arc::new(plan), actor: Actor::changeover() };
        core.handle(MonoTime::ZERO, replaced, &mut commands);
        let (mut live, mut backends) = (Live::default(), BTreeMap::new());
        for (id, pool, name, load) in core.backends() {
            backends.insert(name.to_string(), id);
            live.pools.entry(pool.clone()).or_insert_with(|| Arc::new(PoolLive::new(metrics.pool(pool))));
            let backend = BackendLive::new(pool.clone(), name.clone(), metrics.backend(pool, name), Arc::clone(load));
            live.backends.insert(id, Arc::new(backend));
        }
        let table = RouteTable { generation: Generation(1), pools: core.table().pools.clone() };
        let (writer, routes) = route_cell();
        writer.publish(Published { table: Arc::new(table), live: Arc::new(live) });
        let (_, feedback, _) = mailbox();
        let ((stop, stopped), (ready, front)) = (oneshot::channel(), mpsc::channel());
        let of_worker = registry.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let served = async {
                let seats = Seats::new(1000, 1);
                let worker = Worker::new(0, Clock::start(), routes, of_worker, feedback, seats, 65_536).by(ways);
                let worker = Rc::new(worker);
                drop(spawn_local(Rc::clone(&worker).tick_forever()));
                drop(spawn_local(Rc::clone(&worker).wake_rested_forever()));
                let entrance = Rc::new(Entrance::new(Arc::clone(&listener), metrics.listener(&listener.name)));
                let socket = TcpListener::bind("127.0.0.1:0").await.expect("bound");
                ready.send(socket.local_addr().expect("bound")).expect("somebody waits");
                drop(spawn_local(accept(Rc::clone(&worker), entrance, socket)));
                drop(stopped.await);
                worker.cut();
            };
            LocalSet::new().block_on(&runtime, served);
        });
        let front = front.recv().expect("the worker has begun");
        Self { front, registry, backends, _writer: writer, stop: Some(stop), thread: Some(thread) }
    }

    /// Fences all sessions of `backend`, as one that is dead. There is no table by which its clients could go elsewhere, so all
    /// of them have to have been answered.
    pub fn fence(&self, backend: &str) {
        let (id, mut pace) = (self.backends[backend], Pace::new(MonoTime::ZERO));
        self.registry.fence(id, Epoch(u64::MAX), Sessions::All, OutReason::Dead, &mut pace);
    }
}

impl Drop for Hall {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(!matches!(ended, Some(Err(_))) || std::thread::panicking(), "the worker panicked");
    }
}

async fn accept(worker: Rc<Worker>, entrance: Rc<Entrance>, socket: TcpListener) {
    let guard = Arc::<Guard>::default();
    loop {
        let (client, peer) = socket.accept().await.expect("a client");
        client.set_nodelay(true).expect("a socket");
        let pass = guard.enter(&entrance.plan().limits).expect("no limit");
        let places = Places { pass, seat: worker.seats.take(0).expect("a seat") };
        let (worker, entrance, client) = (Rc::clone(&worker), Rc::clone(&entrance), Stream::Tcp(client));
        drop(spawn_local(run(worker, entrance, client, Caller::peer(Some(peer)), places)));
    }
}
