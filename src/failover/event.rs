//! What the core is told, and what it wants done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{
    Actor, BackendId, DialError, Epoch, MonoTime, OutReason, Plan, PoolName, ProbeId, ProbeOutcome, ProbeSpec, RunId,
    TargetId, TunnelNews, TunnelPlan, WatchId, WatchNews, WatchSpec,
};

use super::change::Transition;
use super::line::Lineage;
use super::memory::PoolMemory;
use super::order::Order;
use super::table::RouteTable;

/// An input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Nothing happened but that time passed.
    Tick,
    /// A probe has its answer. Ignored unless `probe` is the latest of its target.
    ProbeFinished {
        /// Whom it asked.
        target: TargetId,
        /// Which question it answers.
        probe: ProbeId,
        /// The answer.
        outcome: ProbeOutcome,
    },
    /// Several probes have their answers, in this order: all are taken in before anything is decided, so that a crowd
    /// that dies or comes at once costs one table and not one each. As [`Self::ProbeFinished`] otherwise.
    ProbesFinished {
        /// Whom each asked, which question it answers, and the answer.
        answers: Vec<(TargetId, ProbeId, ProbeOutcome)>,
    },
    /// A session could not connect to a backend. Ignored if `epoch` is not the backend's present one.
    DialFailed {
        /// The backend.
        backend: BackendId,
        /// The epoch of the route that the session had picked.
        epoch: Epoch,
        /// Why.
        error: DialError,
    },
    /// Sessions of a backend ended badly right after it had accepted them. Ignored if `epoch` is not the backend's present one.
    EndedEarly {
        /// The backend.
        backend: BackendId,
        /// The epoch of the sessions' route.
        epoch: Epoch,
        /// How many.
        sessions: u32,
        /// Whether it has sent bytes to anybody since such sessions were last told of.
        #[serde(default)]
        answered: bool,
    },
    /// Bytes that were sent to a backend are not acknowledged, on live sessions. Ignored if `epoch` is not the backend's present one.
    DataStalled {
        /// The backend.
        backend: BackendId,
        /// The epoch of the sessions' route.
        epoch: Epoch,
        /// For how long.
        silent: Duration,
    },
    /// A server's monitor has something to tell. Ignored unless `watch` is the backend's present one.
    Watched {
        /// The server.
        backend: BackendId,
        /// Which watch tells.
        watch: WatchId,
        /// What.
        news: WatchNews,
    },
    /// The control loop itself did not run from `since` until now: a paused machine, a starved processor.
    WasStalled {
        /// When it should have run.
        since: MonoTime,
    },
    /// An operator has spoken.
    Ordered {
        /// Who.
        actor: Actor,
        /// What.
        order: Order,
    },
    /// What the last process remembered is given back: once, and in force with the first plan if it comes before it.
    /// Nobody is told.
    Restored {
        /// By pool.
        pools: BTreeMap<PoolName, PoolMemory>,
    },
    /// This line of history is on disk, or it is known that it will not be for now. Ignored unless it is the pool's present one.
    LineageKept {
        /// Where.
        pool: PoolName,
        /// Which.
        lineage: Lineage,
    },
    /// A run of a tunnel has something to tell. Ignored unless `run` is the backend's present one.
    Tunnel {
        /// The backend that it leads to.
        backend: BackendId,
        /// Which run.
        run: RunId,
        /// What.
        news: TunnelNews,
    },
    /// So many bytes have sessions of a backend that a tunnel leads to moved by now, both ways and since it came into the plan.
    /// Told before each of its checks that has failed.
    TunnelMoved {
        /// The backend.
        backend: BackendId,
        /// Bytes in all.
        moved: u64,
    },
    /// The host's network is another, or the host was asleep.
    WorldChanged {
        /// What was seen, in words.
        what: String,
    },
    /// The plan is another: the configuration was read anew, or changed at run time.
    PlanReplaced {
        /// The plan.
        plan: Arc<Plan>,
        /// Who had it replaced.
        actor: Actor,
    },
}

/// An output, to be carried out in order.
#[derive(Debug, Clone)]
pub enum Command {
    /// Ask `target`; an older question to it that is still open is void.
    StartProbe {
        /// Whom to ask.
        target: TargetId,
        /// The number that the answer must carry.
        probe: ProbeId,
        /// What to ask.
        spec: Arc<ProbeSpec>,
    },
    /// `target` is asked no more.
    StopProbe {
        /// Whom not to ask.
        target: TargetId,
    },
    /// Watch a server; an older watch of it is void.
    StartWatch {
        /// The server.
        backend: BackendId,
        /// The number that its news must carry.
        watch: WatchId,
        /// Whom to watch, and how.
        spec: Arc<WatchSpec>,
    },
    /// Have the server's monitor log in once more, beside the session that it has: whether others are let in is doubted.
    Knock {
        /// The server.
        backend: BackendId,
    },
    /// The server is watched no more.
    StopWatch {
        /// The server.
        backend: BackendId,
    },
    /// Have it written down that `pool` is about to send clients to this line of history, and tell when it is.
    KeepLineage {
        /// Where.
        pool: PoolName,
        /// Which.
        lineage: Lineage,
    },
    /// New sessions go by this table from now on.
    PublishTable(Arc<RouteTable>),
    /// Close the sessions of `backend` that were admitted under an epoch below `epoch`, and admit no more of them.
    FenceSessions {
        /// The backend.
        backend: BackendId,
        /// The first epoch that may go on.
        epoch: Epoch,
        /// Why.
        reason: OutReason,
        /// Which of them.
        which: Sessions,
    },
    /// Tell people.
    Report(Transition),
    /// Start a run of a tunnel, once an older one that may be left has ended.
    StartTunnel {
        /// The backend that it leads to.
        backend: BackendId,
        /// The number that its news must carry.
        run: RunId,
        /// What to start.
        plan: Arc<TunnelPlan>,
    },
    /// Stop whatever runs of the tunnel of a backend, which may be in no plan any more.
    StopTunnel {
        /// The backend.
        backend: BackendId,
    },
}

/// Which sessions of a backend something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sessions {
    /// All of them. So go those of a server that loses the role of the primary: whatever they came for, they could write there.
    #[default]
    All,
    /// Those whose server has not answered yet: their clients are given another one.
    Opening,
}
