//! Orders to the thread that asks, from the one that decides: neither ever waits for the other.
//!
//! The last order about a target is all there is to be known of it, for a question voids the one before. So what waits
//! has an end without anything being lost: one order for each target that there is, or that went since they were last
//! taken, however long the thread that asks stands still.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::{ProbeId, ProbeSpec, TargetId};

/// What to do about a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Ask it; an older question to it is dropped.
    Start {
        /// The number that the answer must carry.
        probe: ProbeId,
        /// What to ask.
        spec: Arc<ProbeSpec>,
    },
    /// Ask it no more.
    Stop,
}

#[derive(Debug, Default)]
struct Waiting {
    orders: BTreeMap<TargetId, Order>,
    /// Whoever gave orders is gone.
    is_over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    news: Notify,
}

impl Shared {
    /// Held for a moment only: nothing in it can panic or wait.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where orders are given. When it is dropped, whoever carries them out comes to an end.
#[derive(Debug)]
pub struct Orders(Arc<Shared>);

/// Where they are taken.
#[derive(Debug)]
pub(super) struct Inbox(Arc<Shared>);

pub(super) fn orders() -> (Orders, Inbox) {
    let shared = Arc::new(Shared::default());
    (Orders(Arc::clone(&shared)), Inbox(shared))
}

impl Orders {
    /// Gives an order, in place of one about the same target that was not taken yet.
    pub fn give(&self, target: TargetId, order: Order) {
        let mut waiting = self.0.lock();
        let is_first = waiting.orders.is_empty();
        waiting.orders.insert(target, order);
        drop(waiting);
        // To wake a thread costs a system call: once for all that is given before it is there.
        if is_first {
            self.0.news.notify_one();
        }
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.news.notify_one();
    }
}

impl Inbox {
    /// All orders since the last ones; none when nobody can give any more. Cancel-safe: what is not returned stays.
    pub(super) async fn take(&mut self) -> Option<BTreeMap<TargetId, Order>> {
        loop {
            {
                let mut waiting = self.0.lock();
                if waiting.is_over {
                    return None;
                }
                if !waiting.orders.is_empty() {
                    return Some(std::mem::take(&mut waiting.orders));
                }
            }
            self.0.news.notified().await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::model::{Approach, CheckKind};

    fn ask(probe: ProbeId) -> Order {
        let address = "127.0.0.1:1".parse().unwrap();
        let (timeout, approach) = (Duration::from_secs(1), Approach::PLAIN);
        Order::Start { probe, spec: Arc::new(ProbeSpec { address, kind: CheckKind::Tcp, timeout, approach }) }
    }

    #[tokio::test]
    async fn the_last_order_about_a_target_is_the_one_that_waits() {
        let (orders, mut inbox) = orders();
        let (one, two, three) = (TargetId::default(), TargetId::default().next(), TargetId::default().next().next());
        let (old, new) = (ProbeId::default(), ProbeId::default().next());
        orders.give(one, ask(old));
        orders.give(two, ask(old));
        orders.give(three, Order::Stop);
        orders.give(one, ask(new));
        orders.give(two, Order::Stop);
        orders.give(three, ask(new));
        let taken = inbox.take().await.unwrap();
        assert_eq!(taken, BTreeMap::from([(one, ask(new)), (two, Order::Stop), (three, ask(new))]));
        let nothing = timeout(Duration::from_millis(1), inbox.take()).await;
        assert!(nothing.is_err(), "each is taken once: {nothing:?}");
        orders.give(one, Order::Stop);
        assert_eq!(inbox.take().await.unwrap().len(), 1, "what comes after a wait that was given up");
    }

    #[tokio::test]
    async fn it_ends_with_whoever_gives_orders_and_leaves_the_last_undone() {
        let (orders, mut inbox) = orders();
        orders.give(TargetId::default(), Order::Stop);
        let (taken, ()) = tokio::join!(inbox.take(), async { drop(orders) });
        assert!(taken.is_some());
        assert!(inbox.take().await.is_none());
    }
}
