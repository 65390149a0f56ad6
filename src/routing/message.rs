//! What the control plane can be told and asked.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::failover::{Order, Refusal, Transition};
use crate::model::{
    Actor, BackendId, DialError, Epoch, Evaluation, EventRecord, Explanation, Plan, PoolName, PoolStatus,
};

/// What came of an order: what was reported of its pool in that turn, or why it was not carried out.
pub type Outcome = Result<Vec<Transition>, Refusal>;

/// An order that was carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// What was reported of its pool in that turn.
    pub reports: Vec<Transition>,
    /// The same as events of the history, with their ids; none if the history did not take them.
    pub events: Vec<Arc<EventRecord>>,
    /// Whether what it changed outlives a restart by now; so it does if there was nothing to keep.
    pub is_durable: bool,
}

use super::live::BackendLive;

/// A message to the control plane.
#[derive(Debug)]
pub enum Message {
    /// A session could not connect to a backend.
    DialFailed {
        /// The backend.
        backend: BackendId,
        /// The epoch of the route that it had picked.
        epoch: Epoch,
        /// Why.
        error: DialError,
    },
    /// Sessions of a backend ended before its first byte: how many is noted there.
    EndedEarly {
        /// The backend.
        backend: BackendId,
        /// The epoch of the first of them.
        epoch: Epoch,
        /// Where they are counted.
        live: Arc<BackendLive>,
    },
    /// What was sent to a backend is not acknowledged, on live sessions.
    DataStalled {
        /// The backend.
        backend: BackendId,
        /// The epoch of one of them.
        epoch: Epoch,
        /// For how long nothing has been.
        silent: Duration,
    },
    /// How does every pool stand?
    Pools(oneshot::Sender<Vec<PoolStatus>>),
    /// How does this pool stand?
    Pool(PoolName, oneshot::Sender<Option<PoolStatus>>),
    /// Should this pool fail over?
    Evaluate(PoolName, oneshot::Sender<Option<Evaluation>>),
    /// Why does this pool's traffic go where it goes?
    Explain(PoolName, oneshot::Sender<Option<Explanation>>),
    /// Do this; answered once it is done and in force, and kept as far as that can be.
    Order {
        /// Who says so.
        actor: Actor,
        /// What.
        order: Order,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Done, Refusal>>,
    },
    /// Go by this plan from now on; answered once it is in force.
    Replace {
        /// The plan.
        plan: Arc<Plan>,
        /// Who has it so.
        actor: Actor,
        /// Where the answer goes.
        reply: oneshot::Sender<()>,
    },
    /// Work no more.
    Stop,
}
