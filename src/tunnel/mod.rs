//! Floor 4: the hands of tunnels. Starts, watches, stops and sweeps the programs by which backends are reached.
//!
//! Nothing is decided here: orders say which run is wanted of which backend, and what becomes of a run is told. A run ends
//! once, and that is told when nothing is left of it: no process, no port.
//!
//! # What is left when something dies
//!
//! - A program ends: its group is killed, and its descendants that left the group, which are known by a mark in their
//!   environment ([`crate::sys::MARK_VARIABLE`]). The daemon takes them in when their parents end, and waits for them.
//! - A program that was run for one connection ends: its group is killed. What left the group is, with the daemon's end.
//! - The daemon is killed: the kernel kills the programs with it, and the guard, a process beside it, what those have left.
//! - The guard is killed as well: the next daemon finds in a file in its directory of state what to kill.
//! - A descendant that left the group and has emptied its environment is known by nothing, and is not ended.
//! - What has become another user's process, as by `sudo`, may be killed by nobody here. It is waited for a while, and
//!   then named in the log.

mod guard;
mod lookup;
mod mask;
mod outputs;
mod ports;
mod record;
mod remains;
mod run;
mod service;
mod speech;
mod survey;
mod way;
mod world;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::dial::{Programs, Ways};
use crate::model::{Address, BackendId, RunId, TunnelNews, TunnelPlan, Via, spoken};
use crate::sys::{self, Clock, Spawner};

pub use guard::guard;
pub use outputs::{BYTES_MAX, LINES_MAX, Line, Outputs, Page, Sink};
pub use record::FILE_NAME;
pub use service::Service;

use self::guard::Guard;
use self::ports::Ports;
use self::record::Record;
use self::remains::Leader;
use self::survey::Survey;

/// What to do about a backend's tunnel.
#[derive(Debug, Clone)]
pub enum Order {
    /// Begin this run; an older one is ended first, and its end is told.
    Start {
        /// The number that all that is told of it carries.
        run: RunId,
        /// What is run, and when it is open.
        plan: Arc<TunnelPlan>,
    },
    /// End the run that there is.
    Stop,
}

/// Where orders are given: the last one about a backend is the one that counts. When it is dropped, all runs are ended.
pub type Orders = sys::Orders<BackendId, Order>;

/// News of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The backend that it leads to.
    pub backend: BackendId,
    /// Which run.
    pub run: RunId,
    /// What there is to tell.
    pub news: TunnelNews,
}

/// What happened to the host that may make a difference to tunnels that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum World {
    /// Its network is another than before, as these words say.
    NetworkChanged(String),
    /// It has slept for so long.
    Woke(Duration),
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkChanged(what) => write!(f, "the network has changed: {what}"),
            Self::Woke(time) => write!(f, "the machine has slept for {}", spoken(*time)),
        }
    }
}

/// What dials through tunnels, and has to know where they are.
pub trait Doors {
    /// The backend of `via` is reached at `at` from now on: a proxy or a port there, or the backend itself.
    fn open(&self, via: &Via, at: Address);
    /// The same as others say: there is nobody led while we listen there ourselves.
    fn open_found(&self, via: &Via, at: Address);
    /// Each connection to the backend of `via` is one of `programs` from now on.
    fn open_programs(&self, via: &Via, programs: Programs);
    /// It is not reached any more.
    fn shut(&self, via: &Via);
    /// Whether `at` is where we listen ourselves, as far as that address tells.
    fn lead_back(&self, at: &Address) -> bool;
}

impl Doors for Ways {
    fn open(&self, via: &Via, at: Address) {
        Self::open(self, via, at);
    }

    fn open_found(&self, via: &Via, at: Address) {
        Self::open_found(self, via, at);
    }

    fn open_programs(&self, via: &Via, programs: Programs) {
        self.open_program(via, programs);
    }

    fn shut(&self, via: &Via) {
        Self::shut(self, via);
    }

    fn lead_back(&self, at: &Address) -> bool {
        Self::lead_back(self, at)
    }
}

/// The ends that whoever decides has.
#[derive(Debug)]
pub struct Tunnels {
    /// Where it says what is to run.
    pub orders: Orders,
    /// What becomes of the runs.
    pub news: mpsc::Receiver<Told>,
    /// What happened to the host, once there was an order.
    pub world: mpsc::Receiver<World>,
    /// What their programs say.
    pub outputs: Outputs,
    /// The mark for programs that others start, one for a connection each: by it the guard finds them.
    pub session_mark: String,
}

/// What all runs share.
struct Hands {
    clock: Clock,
    spawner: Spawner,
    doors: Arc<dyn Doors + Send + Sync>,
    outputs: Outputs,
    news: mpsc::Sender<Told>,
    ports: Ports,
    survey: Survey,
    token: String,
    /// The programs that run.
    running: RefCell<BTreeSet<Leader>>,
    record: RefCell<Option<Record>>,
    guard: RefCell<Option<Guard>>,
    /// How the guard is started; none leaves it out.
    guarded_by: Option<Vec<String>>,
    /// Whether everything comes to its end.
    ending: watch::Sender<bool>,
}

impl fmt::Debug for Hands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hands").field("running", &self.running).finish_non_exhaustive()
    }
}

impl Hands {
    /// A program was started.
    fn started(&self, leader: Leader) {
        self.running.borrow_mut().insert(leader);
        if let Some(guard) = &*self.guard.borrow() {
            guard.started(leader);
        }
        self.keep();
    }

    /// Nothing is left of it.
    fn ended(&self, leader: Leader) {
        self.running.borrow_mut().remove(&leader);
        if let Some(guard) = &*self.guard.borrow() {
            guard.ended(leader);
        }
        self.keep();
    }

    fn keep(&self) {
        if let Some(record) = &*self.record.borrow() {
            record.keep(&self.running.borrow());
        }
    }

    /// Has the guard there, before the first program is.
    fn watch_over(&self) {
        let mut guard = self.guard.borrow_mut();
        if guard.as_mut().is_some_and(|guard| !guard.is_gone()) {
            return;
        }
        if let Some(argv) = &self.guarded_by {
            match Guard::start(argv, &self.token) {
                Ok(started) => {
                    self.running.borrow().iter().for_each(|leader| started.started(*leader));
                    *guard = Some(started);
                }
                Err(error) => {
                    tracing::warn!(%error, "tunnels have no guard: what they leave when the daemon is killed may stay");
                }
            }
        }
    }

    /// Tells it to whoever decides. If everything comes to its end and nobody takes it, it is not told.
    async fn tell(&self, backend: BackendId, run: RunId, news: TunnelNews) {
        let mut ending = self.ending.subscribe();
        // Cancel-safety: what is not sent is not wanted any more.
        tokio::select! {
            biased;
            sent = self.news.send(Told { backend, run, news }) => drop(sent),
            _ = ending.wait_for(|ends| *ends) => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
