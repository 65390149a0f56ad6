//! Floor 7: wires everything together. Starts the threads in order, changes their plan on a reload,
//! stops them in order. Nothing is decided here and no byte is moved.

mod control_threads;
mod reload;
mod run;
mod session_limit;
mod sockets;
mod thread;
mod worker_thread;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use crate::admin::CredentialsError;
use crate::config::Document;
use crate::config::overlay::Note;
use crate::control::{Control, Observer, RecordTo, Recorder};
use crate::dial::Ways;
use crate::model::{Address, ListenerName, MonoTime, Plan};
use crate::routing::{ControlHandle, Phase, Readiness, Registry, mailbox, route_cell};
use crate::session::{Guard, Seats, Threads, Worker};
use crate::settings::{Settings, notes_of};
use crate::store::{self, Opened, State, StoreError};
use crate::sys::{Clock, Descriptors, cores, raise_descriptor_limit};
use crate::telemetry::Metrics;

use control_threads::{Askers, ControlThreads, admin, tunnels};
pub use reload::ReloadError;
pub use run::{RunError, run};
use session_limit::session_limit;
use sockets::Sockets;
use worker_thread::{Order, WorkerThread};

/// How long sessions that were cut may take to notice.
const CUT_MAX: Duration = Duration::from_secs(2);

/// How long another process may still have the state: one that is about to end has let go of its addresses already.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// How often the end of a drain is looked for.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// Is told the name of what has ended and should not have.
pub type OnDeath = Arc<dyn Fn(&str) + Send + Sync>;

/// Who is told what while the daemon runs.
#[derive(Default)]
pub struct Options {
    /// Called on the control thread for each transition; it must not block.
    pub observer: Option<Observer>,
    /// Called once, when the first verdicts are in.
    pub on_ready: Option<Box<dyn FnOnce() + Send>>,
    /// Called with a name when a thread or a listener that should not end has ended.
    pub on_death: Option<OnDeath>,
    /// The program, with its arguments, that comes to [`crate::tunnel::guard`]: it is started before the first tunnel.
    pub guard: Option<Vec<String>>,
    /// Where everything that is decided, and what it is decided by, is recorded.
    pub record: Option<RecordTo>,
}

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened at.
    #[error("{what} cannot listen at {address}: {cause}")]
    Bind {
        /// Who wants to.
        what: String,
        /// Where.
        address: Address,
        /// Why not, and what to do about it.
        cause: String,
    },
    /// The recording cannot be begun.
    #[error("{} cannot be recorded to: {}", path.display(), unwritable(cause))]
    Record {
        /// Where to.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The callers of the admin server cannot be told apart.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A thread could not be started.
    #[error("a thread could not be started")]
    Thread(#[source] io::Error),
    /// What the last process left cannot be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The metrics could not be set up.
    #[error("the metrics could not be set up")]
    Metrics(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a file cannot be begun, in the words of whoever named it.
fn unwritable(cause: &io::Error) -> String {
    if cause.kind() == io::ErrorKind::AlreadyExists {
        return "the file is there already; name one that is not".to_owned();
    }
    format!("{cause}; name a file in a directory that is there and that the daemon's user may write to")
}

/// Tells of ends that nobody asked for.
#[derive(Clone)]
struct Mourn(Option<OnDeath>);

impl Mourn {
    fn now(&self, who: &str) {
        if let Some(tell) = &self.0 {
            tell(who);
        }
    }

    /// Tells of `who`'s end if the thread that holds the result panics.
    fn watch(&self, who: String) -> DeathWatch {
        DeathWatch { mourn: self.clone(), who }
    }
}

struct DeathWatch {
    mourn: Mourn,
    who: String,
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.mourn.now(&self.who);
        }
    }
}

/// Waits until every worker has carried its order out. One that is gone was mourned already.
fn wait_for(answers: Vec<oneshot::Receiver<()>>) {
    for answer in answers {
        let _worker_gone = answer.blocking_recv();
    }
}

/// A pause between two looks.
fn pause() -> bool {
    std::thread::park_timeout(DRAIN_LOOK);
    true
}

/// A running daemon.
pub struct Daemon {
    plan: Arc<Plan>,
    clock: Clock,
    control: ControlHandle,
    control_threads: ControlThreads,
    workers: Vec<WorkerThread>,
    sockets: Sockets,
    seats: Seats,
    guards: BTreeMap<ListenerName, Arc<Guard>>,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    ready: Receiver<()>,
    settings: Settings,
    descriptors: Descriptors,
    ways: Ways,
}

/// Starts a daemon by `document` and by what the last one left in its `state_dir`: binds every address, then lets the
/// control plane ask every backend. Clients that come before the first verdicts are held.
///
/// # Errors
///
/// [`StartError`]; then nothing is left running or bound.
pub fn start(document: Document, options: Options) -> Result<Daemon, StartError> {
    let plan = Arc::new(document.plan().clone());
    let worker_count = if plan.daemon.workers == 0 { cores() } else { plan.daemon.workers };
    // Once: afterwards nobody knows with how many this process was started.
    let descriptors = raise_descriptor_limit();
    let seats = Seats::new(session_limit(&plan, worker_count, descriptors), worker_count);
    let metrics = Arc::new(Metrics::new().map_err(|cause| StartError::Metrics(Box::new(cause)))?);
    let (sockets, clock) = (Sockets::default(), Clock::start());
    let opening = sockets.open_missing(&plan, worker_count)?;
    let (writer, routes) = route_cell();
    let (control, feedback, inbox) = mailbox();
    let ways = Ways::default();
    let (askers, asked, watched) = Askers::new(clock, &ways);
    let (tunnels, programs) = tunnels(&plan, clock, &ways, descriptors, options.guard).map_err(StartError::Thread)?;
    let outputs = programs.outputs.clone();
    let Begun { settings, plan, state, notes } = begin(document, control.clone(), clock)?;
    let (registry, readiness, mourn) = (Registry::new(worker_count), Readiness::default(), Mourn(options.on_death));
    let ((sender, ready), seed) = (mpsc::channel(), clock.unix_seconds(clock.now()).to_bits());
    let recorder = options.record.map(|to| record(to, seed, clock, &metrics)).transpose()?;
    let task = Control {
        clock,
        writer,
        registry: registry.clone(),
        metrics: Arc::clone(&metrics),
        asked,
        watched,
        tunnels: programs,
        inbox,
        observer: options.observer,
        on_first_verdicts: Some(first_verdicts(readiness.clone(), sender, options.on_ready)),
        seed,
        recorder,
        store: settings.store().clone(),
        state,
    };
    let admin = admin(&plan.admin, &control, &routes, &registry, &readiness, &metrics, &settings, clock, outputs)?;
    let control_threads = ControlThreads::start(task, admin, askers, tunnels, &mourn).map_err(StartError::Thread)?;
    let (threads, arrivals) = Threads::new(worker_count);
    let start_worker = |(index, arrivals)| {
        let (routes, registry, feedback) = (routes.clone(), registry.clone(), feedback.clone());
        let (seats, relay_buffer, keepalive) = (seats.clone(), plan.daemon.relay_buffer, plan.daemon.tcp_keepalive);
        let (threads, pipes, ways) = (threads.clone(), metrics.pipes(), ways.clone());
        let make = move || {
            let worker = Worker::new(index, clock, routes, registry, feedback, seats, relay_buffer);
            worker.with_keepalive(keepalive).counting(pipes).among(threads).by(ways)
        };
        WorkerThread::start(index, make, arrivals, Arc::clone(&metrics), mourn.clone()).map_err(StartError::Thread)
    };
    let workers = arrivals.into_iter().enumerate().map(start_worker).collect::<Result<Vec<_>, _>>()?;
    let mut daemon = Daemon {
        plan: Arc::clone(&plan),
        clock,
        control,
        control_threads,
        workers,
        sockets,
        seats,
        guards: BTreeMap::new(),
        readiness,
        metrics,
        ready,
        settings,
        descriptors,
        ways,
    };
    daemon.put_in_force(plan, opening);
    daemon.tell_of_start(&notes);
    Ok(daemon)
}

fn record(to: RecordTo, seed: u64, clock: Clock, metrics: &Arc<Metrics>) -> Result<Recorder, StartError> {
    let started = clock.timestamp(MonoTime::ZERO);
    Recorder::start(&to, seed, started, metrics).map_err(|cause| StartError::Record { path: to.path, cause })
}

/// What a daemon begins with.
struct Begun {
    settings: Settings,
    /// What is in force.
    plan: Arc<Plan>,
    /// What the last process left.
    state: State,
    /// What of it does not fit the file any more.
    notes: Vec<Note>,
}

/// Opens the state. The listeners and their addresses are the file's alone, and are had by now.
fn begin(document: Document, control: ControlHandle, clock: Clock) -> Result<Begun, StartError> {
    let Opened { handle, state } = store::open(&document.plan().daemon.store, LOCK_WAIT, clock)?;
    let (settings, notes) = Settings::begin(document, &state, control, handle, clock);
    let plan = Arc::clone(settings.hold().plan());
    Ok(Begun { settings, plan, state, notes })
}

fn first_verdicts(
    readiness: Readiness,
    ready: mpsc::Sender<()>,
    then: Option<Box<dyn FnOnce() + Send>>,
) -> Box<dyn FnOnce() + Send> {
    Box::new(move || {
        readiness.set_ready();
        let _nobody_waits = ready.send(());
        if let Some(then) = then {
            then();
        }
    })
}

impl Daemon {
    /// Waits until every backend has its first verdict. `false` if it takes longer than `timeout`.
    #[must_use]
    pub fn wait_ready(&self, timeout: Duration) -> bool {
        self.readiness.phase() != Phase::Starting || self.ready.recv_timeout(timeout).is_ok()
    }

    /// Where orders are given and questions asked.
    #[must_use]
    pub const fn control(&self) -> &ControlHandle {
        &self.control
    }

    /// Where listener `name` listens, with the port that was really taken.
    #[must_use]
    pub fn listener_address(&self, name: &str) -> Option<Address> {
        self.sockets.listener_address(&ListenerName::from(name))
    }

    /// Where the admin server listens first.
    #[must_use]
    pub fn admin_address(&self) -> Option<Address> {
        self.sockets.admin.values().next().map(|open| open.address.clone())
    }

    /// Tells that it has started, and what of the last process's changes does not fit the file any more.
    fn tell_of_start(&self, notes: &[Note]) {
        let detail = json!({ "version": env!("CARGO_PKG_VERSION"), "notes": notes_of(notes) });
        self.settings.store().append(self.settings.event("daemon.started", detail));
        for note in notes {
            tracing::warn!("{note}");
        }
    }

    /// Stops: accepts no more, lets sessions end for up to `drain`, cuts the rest, then ends the threads.
    pub fn stop(mut self, drain: Duration) {
        self.begin_drain();
        self.wait_drained(drain, pause);
        self.finish();
    }

    /// Has every listener stop; sessions and held clients go on, and so does failover. Our own handles
    /// go first: a socket that nobody accepts from must not take anybody in.
    fn begin_drain(&mut self) {
        self.settings.store().append(self.settings.event("daemon.stopping", Value::Null));
        self.readiness.set(Phase::Draining);
        let all: Vec<_> = self.sockets.listeners.keys().cloned().collect();
        self.sockets.close(&all);
        self.everywhere(|| Order::StopAccepting);
    }

    /// Looks for the last session's end for at most `limit`, with a `pause` between looks that may say
    /// that it has waited long enough.
    fn wait_drained(&self, limit: Duration, mut pause: impl FnMut() -> bool) {
        let deadline = self.clock.now() + limit;
        while self.seats.taken() > 0 && self.clock.now() < deadline {
            if !pause() {
                return;
            }
        }
    }

    /// Cuts what is left and ends the threads; the admin server is the last to go.
    fn finish(self) {
        let left = self.seats.taken();
        if left > 0 {
            tracing::warn!(sessions = left, "sessions that outlived the drain are cut");
            self.everywhere(|| Order::Cut);
            self.wait_drained(CUT_MAX, pause);
        }
        let Self { control, control_threads, workers, sockets, settings, .. } = self;
        for worker in workers {
            worker.join();
        }
        control_threads.join(&control, &settings);
        for address in sockets.admin.keys() {
            sockets::remove_file(address);
        }
    }

    /// Gives every worker an order and waits until all have carried it out.
    fn everywhere(&self, order: impl Fn() -> Order) {
        wait_for(self.workers.iter().map(|worker| worker.give(order())).collect());
    }

    /// Serves the admin API at these sockets too.
    fn open_admin(&mut self, sockets: Vec<(Address, crate::sys::BoundSocket)>) {
        for (address, socket) in sockets {
            let (stop, stopped) = watch::channel(false);
            let bound = socket.address().clone();
            tracing::info!(listener = "admin", address = %bound, "listening");
            self.control_threads.serve((socket, stopped));
            self.sockets.keep_admin(address, bound, stop);
        }
    }
}
