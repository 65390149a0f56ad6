//! What the control plane is told and asked from outside: one bounded queue.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::failover::{Order, Refusal};
use crate::model::{Actor, Evaluation, Explanation, Plan, PoolName, PoolStatus};

use super::feedback::Feedback;
use super::message::{Done, Message, Outcome};

/// Messages that may wait. A thousand failed dials tell no more than the first few did.
const CAPACITY: usize = 1024;

/// Speaks to the control plane and waits for its answer. Not for the data plane, which has [`Feedback`].
#[derive(Debug, Clone)]
pub struct ControlHandle {
    queue: mpsc::Sender<Message>,
}

/// The queue's ends: for those who ask, for those who only report, and for the control plane.
#[must_use]
pub fn mailbox() -> (ControlHandle, Feedback, mpsc::Receiver<Message>) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    (ControlHandle { queue: sender.clone() }, Feedback::new(sender), receiver)
}

impl ControlHandle {
    /// How every pool stands, by name; none if the control plane works no more.
    pub async fn pools(&self) -> Option<Vec<PoolStatus>> {
        self.ask(Message::Pools).await
    }

    /// How the pool `name` stands. The outer none: the control plane works no more; the inner: no such pool.
    pub async fn pool(&self, name: PoolName) -> Option<Option<PoolStatus>> {
        self.ask(|reply| Message::Pool(name, reply)).await
    }

    /// Has `order` carried out and waits until it is in force, with what was reported of its pool in that turn; or why it is
    /// refused, and then nothing has changed. None: the control plane works no more.
    pub async fn order(&self, actor: Actor, order: Order) -> Option<Outcome> {
        Some(self.carry_out(actor, order).await?.map(|done| done.reports))
    }

    /// As [`Self::order`], with the events that it became and whether it outlives a restart.
    pub async fn carry_out(&self, actor: Actor, order: Order) -> Option<Result<Done, Refusal>> {
        self.ask(|reply| Message::Order { actor, order, reply }).await
    }

    /// Puts `plan` in force and waits until it is. `false`: the control plane works no more.
    pub async fn replace(&self, plan: Arc<Plan>, actor: Actor) -> bool {
        self.ask(|reply| Message::Replace { plan, actor, reply }).await.is_some()
    }

    /// Whether the pool `name` should fail over. The outer none: the control plane works no more; the inner: no such pool.
    pub async fn evaluate(&self, name: PoolName) -> Option<Option<Evaluation>> {
        self.ask(|reply| Message::Evaluate(name, reply)).await
    }

    /// Why traffic of the pool `name` goes where it goes. The outer none: the control plane works no more; the inner: no such pool.
    pub async fn explain(&self, name: PoolName) -> Option<Option<Explanation>> {
        self.ask(|reply| Message::Explain(name, reply)).await
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(message(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Puts `plan` in force and waits, blocking, until it is. `false`: the control plane works no more.
    #[must_use]
    pub fn replace_plan(&self, plan: Arc<Plan>) -> bool {
        let (reply, answer) = oneshot::channel();
        let message = Message::Replace { plan, actor: Actor::changeover(), reply };
        self.queue.blocking_send(message).is_ok() && answer.blocking_recv().is_ok()
    }

    /// Has the control plane end, blocking until it has been told.
    pub fn stop(&self) {
        // One that has ended already need not be told.
        drop(self.queue.blocking_send(Message::Stop));
    }
}
