//! Orders from one thread to another, neither of which ever waits for the other.
//!
//! The last order about a thing is all there is to be known of it, for it voids the one before. So what waits
//! has an end without anything being lost: one order for each thing that there is, or that went since they were last
//! taken, however long the thread that carries them out stands still.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug)]
struct Waiting<K, O> {
    orders: BTreeMap<K, O>,
    /// Whoever gave orders is gone.
    is_over: bool,
}

#[derive(Debug)]
struct Shared<K, O> {
    waiting: Mutex<Waiting<K, O>>,
    news: Notify,
}

impl<K, O> Shared<K, O> {
    /// Held for a moment only: nothing in it can panic or wait.
    fn lock(&self) -> MutexGuard<'_, Waiting<K, O>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where orders `O` about things `K` are given. When it is dropped, whoever carries them out comes to an end.
#[derive(Debug)]
pub struct Orders<K, O>(Arc<Shared<K, O>>);

/// Where they are taken.
#[derive(Debug)]
pub struct OrderInbox<K, O>(Arc<Shared<K, O>>);

/// Both ends.
#[must_use]
pub fn orders<K: Ord, O>() -> (Orders<K, O>, OrderInbox<K, O>) {
    let waiting = Mutex::new(Waiting { orders: BTreeMap::new(), is_over: false });
    let shared = Arc::new(Shared { waiting, news: Notify::new() });
    (Orders(Arc::clone(&shared)), OrderInbox(shared))
}

impl<K: Ord, O> Orders<K, O> {
    /// Gives an order, in place of one about the same thing that was not taken yet.
    pub fn give(&self, about: K, order: O) {
        let mut waiting = self.0.lock();
        let is_first = waiting.orders.is_empty();
        waiting.orders.insert(about, order);
        drop(waiting);
        // To wake a thread costs a system call: once for all that is given before it is there.
        if is_first {
            self.0.news.notify_one();
        }
    }
}

impl<K: Ord, O> Orders<K, O> {
    /// Gives an order that is nothing beside another one about the same thing: while one waits, that one stays.
    pub fn give_if_none(&self, about: K, order: O) {
        if !self.0.lock().orders.contains_key(&about) {
            self.give(about, order);
        }
    }
}

impl<K, O> Drop for Orders<K, O> {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.news.notify_one();
    }
}

impl<K: Ord, O> OrderInbox<K, O> {
    /// All orders since the last ones; none when nobody can give any more. Cancel-safe: what is not returned stays.
    pub async fn take(&mut self) -> Option<BTreeMap<K, O>> {
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

    #[tokio::test]
    async fn the_last_order_about_a_thing_is_the_one_that_waits() {
        let (orders, mut inbox) = orders();
        let (one, two, three) = (1, 2, 3);
        orders.give(one, "old");
        orders.give(two, "old");
        orders.give(three, "stop");
        orders.give(one, "new");
        orders.give(two, "stop");
        orders.give(three, "new");
        let taken = inbox.take().await.unwrap();
        assert_eq!(taken, BTreeMap::from([(one, "new"), (two, "stop"), (three, "new")]));
        let nothing = timeout(Duration::from_millis(1), inbox.take()).await;
        assert!(nothing.is_err(), "each is taken once: {nothing:?}");
        orders.give_if_none(one, "knock");
        orders.give_if_none(one, "again");
        assert_eq!(inbox.take().await.unwrap(), BTreeMap::from([(one, "knock")]));
        orders.give(one, "stop");
        orders.give_if_none(one, "knock");
        let taken = inbox.take().await.unwrap();
        assert_eq!(taken, BTreeMap::from([(one, "stop")]), "no order is voided by less than one");
        orders.give(one, "stop");
        assert_eq!(inbox.take().await.unwrap().len(), 1, "what comes after a wait that was given up");
    }

    #[tokio::test]
    async fn it_ends_with_whoever_gives_orders_and_leaves_the_last_undone() {
        let (orders, mut inbox) = orders();
        orders.give(1, "stop");
        let (taken, ()) = tokio::join!(inbox.take(), async { drop(orders) });
        assert!(taken.is_some());
        assert!(inbox.take().await.is_none());
    }
}
