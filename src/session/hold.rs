//! Where clients wait while there is no backend for them: bounded in number and time, released in the
//! order of their arrival, without polling.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::failover::{PoolRoutes, RouteTable};
use crate::model::{HoldEnd, HoldPlan, ListenerPlan, MonoTime, PoolName, Target, WhenDown};
use crate::routing::{InLine, PoolLive};
use crate::sys::Clock;
use crate::telemetry::{Counted, ListenerMetrics};

/// A client's number in its thread, by order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket(u64);

/// The clients of one thread that wait, by pool.
#[derive(Debug, Default)]
pub(super) struct HoldQueues {
    queues: RefCell<BTreeMap<PoolName, BTreeMap<Ticket, Waiter>>>,
    /// The routes for which each queue was last released.
    seen: RefCell<BTreeMap<PoolName, Arc<PoolRoutes>>>,
    last_ticket: Cell<u64>,
    closed: Cell<bool>,
}

/// Who waits in a queue.
#[derive(Debug)]
struct Waiter {
    released: Rc<Notify>,
    /// What it wants to reach.
    target: Target,
}

/// A client's right to wait. It keeps its place in the order, and counts as held, until it is served
/// or turned away, also while it tries a backend in between.
#[derive(Debug)]
pub(super) struct Hold {
    ticket: Ticket,
    pool: PoolName,
    target: Target,
    live: Arc<PoolLive>,
    since: MonoTime,
    deadline: Instant,
    clock: Clock,
    /// One more on the listener's gauge.
    _held: Counted,
}

impl Hold {
    /// Whether it is what `plan` says that the client waits for.
    pub(super) fn is_for(&self, plan: &ListenerPlan) -> bool {
        self.pool == plan.pool && self.target == plan.target
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.live.release(self.target);
        self.live.metrics.hold_seconds.observe(self.clock.now().since(self.since).as_secs_f64());
    }
}

impl HoldQueues {
    /// Lets a client begin to wait for what `listener` wants, if the pool still has a place for one.
    pub(super) fn begin(
        &self,
        listener: &ListenerPlan,
        plan: &HoldPlan,
        live: &Arc<PoolLive>,
        clock: Clock,
        metrics: &ListenerMetrics,
    ) -> Option<Hold> {
        if !live.try_hold(listener.target, plan.hold_limit) {
            return None;
        }
        let ticket = Ticket(self.last_ticket.get() + 1);
        self.last_ticket.set(ticket.0);
        let since = clock.now();
        Some(Hold {
            ticket,
            pool: listener.pool.clone(),
            target: listener.target,
            live: Arc::clone(live),
            since,
            deadline: clock.instant(since + plan.hold),
            clock,
            _held: Counted::new(&metrics.held),
        })
    }

    /// Waits until there is a route or, in `line`, room; until `retry_after` has passed, the time is up, or the client has
    /// `left`.
    pub(super) async fn wait(
        &self,
        hold: &Hold,
        left: impl Future<Output = ()>,
        line: Option<&InLine>,
        retry_after: Option<Duration>,
    ) -> HoldEnd {
        if self.closed.get() {
            return HoldEnd::ShuttingDown;
        }
        let place = self.enter(hold);
        let retry = async {
            match retry_after {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        let called = async {
            match line {
                Some(line) => line.called().await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safety: every branch only waits; nothing is taken from the client, and leaving the
        // queue is the drop of `place`.
        let end = tokio::select! {
            biased;
            () = place.released.notified() => HoldEnd::Released,
            () = left => HoldEnd::ClientLeft,
            () = sleep_until(hold.deadline) => HoldEnd::TimedOut,
            () = called => HoldEnd::Released,
            () = retry => HoldEnd::Released,
        };
        if self.closed.get() { HoldEnd::ShuttingDown } else { end }
    }

    fn enter<'a>(&'a self, hold: &'a Hold) -> Place<'a> {
        let released = Rc::new(Notify::new());
        let mut queues = self.queues.borrow_mut();
        let waiter = Waiter { released: Rc::clone(&released), target: hold.target };
        queues.entry(hold.pool.clone()).or_default().insert(hold.ticket, waiter);
        Place { queues: self, hold, released }
    }

    /// Lets everybody go on, in order, for whom `table` has news.
    pub(super) fn release(&self, table: &RouteTable) {
        let mut seen = self.seen.borrow_mut();
        seen.retain(|pool, _| table.pools.contains_key(pool));
        for (pool, queue) in &*self.queues.borrow() {
            let routes = table.pools.get(pool);
            // Another pool's change is no news: those who wait for room at a full backend would all look in vain.
            if let Some(routes) = routes {
                let before = seen.insert(pool.clone(), Arc::clone(routes));
                if before.is_some_and(|before| Arc::ptr_eq(&before, routes)) {
                    continue;
                }
            }
            for waiter in queue.values() {
                if routes.is_none_or(|routes| is_news(routes, waiter.target)) {
                    waiter.released.notify_one();
                }
            }
        }
    }

    /// Turns everybody away, now and from now on.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.release_all();
    }

    /// Has everybody look again, in order.
    pub(super) fn release_all(&self) {
        for waiter in self.queues.borrow().values().flat_map(BTreeMap::values) {
            waiter.released.notify_one();
        }
    }
}

/// Whether a held client that wants `target` could do anything with these routes but wait on.
fn is_news(routes: &PoolRoutes, target: Target) -> bool {
    let (pending, tiers) = routes.wanted(Some(target));
    !tiers.is_empty() || (!pending && !routes.paused && routes.hold.when_down != WhenDown::Hold)
}

/// A place in the queue; left when dropped.
struct Place<'a> {
    queues: &'a HoldQueues,
    hold: &'a Hold,
    released: Rc<Notify>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queues = self.queues.queues.borrow_mut();
        if let Some(queue) = queues.get_mut(&self.hold.pool) {
            queue.remove(&self.hold.ticket);
            if queue.is_empty() {
                queues.remove(&self.hold.pool);
            }
        }
    }
}
