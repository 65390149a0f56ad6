//! What the sessions of one data-plane thread share, and its one coarse tick.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::model::{ListenerPlan, SessionEnd};
use crate::relay::{Loans, Pulse, Vigil};
use crate::routing::{Admission, BackendLive, Feedback, Registry, RouteReader};
use crate::sys::{Clock, release_memory};

use super::chance::Chance;
use super::hand_over::Threads;
use super::hold::HoldQueues;
use super::rest::{REST_AFTER, RESTS_A_TICK, RestingTalks};
use super::seats::Seats;

/// How often sessions are looked at for idle and half-close limits. Those are given in seconds and
/// minutes; a quarter of a second costs next to nothing and is never noticed.
const TICK: Duration = Duration::from_millis(250);

/// Memory is given back when so many sessions have become half as many or fewer.
const MANY_SESSIONS: usize = 512;

/// One data-plane thread's share of everything.
#[derive(Debug)]
pub struct Worker {
    /// Its number, from zero: its shard of the registry.
    pub index: usize,
    /// The time.
    pub clock: Clock,
    /// The table in force.
    pub routes: RouteReader,
    /// Where sessions are admitted.
    pub registry: Registry,
    /// Where failed dials are reported.
    pub feedback: Feedback,
    /// Places for sessions, shared by all threads.
    pub seats: Seats,
    pub(super) threads: Threads,
    /// Connections to backends are kept alive after so long a silence; zero is never.
    pub(super) keepalive: Duration,
    pub(super) loans: Loans,
    vigil: Rc<Vigil>,
    pub(super) holds: HoldQueues,
    pub(super) chance: Chance,
    sessions: Rc<RefCell<Slab<Watched>>>,
    pub(super) first_session: Notify,
    pub(super) resting: RestingTalks,
    /// How many sessions there were at most since memory was last given back to the host.
    peaks: Cell<[usize; 2]>,
    /// The daemon's time is up: sessions end as they begin.
    is_cut: Cell<bool>,
    cut: Notify,
}

/// A session that moves bytes, under the eye of the tick.
#[derive(Debug)]
struct Watched {
    pulse: Rc<Pulse>,
    backend: Arc<BackendLive>,
    /// Its key in the registry.
    key: usize,
}

impl Worker {
    /// A worker without sessions whose buffers have `relay_buffer` bytes.
    #[must_use]
    pub fn new(
        index: usize,
        clock: Clock,
        routes: RouteReader,
        registry: Registry,
        feedback: Feedback,
        seats: Seats,
        relay_buffer: usize,
    ) -> Self {
        Self {
            index,
            clock,
            routes,
            registry,
            feedback,
            seats,
            threads: Threads::default(),
            keepalive: Duration::ZERO,
            loans: Loans::new(relay_buffer),
            vigil: Rc::default(),
            holds: HoldQueues::default(),
            chance: Chance::new(clock.unix_seconds(clock.now()).to_bits() ^ (index as u64).rotate_right(16)),
            sessions: Rc::default(),
            first_session: Notify::new(),
            resting: RestingTalks::default(),
            peaks: Cell::default(),
            is_cut: Cell::new(false),
            cut: Notify::new(),
        }
    }

    /// Keeps connections to backends alive after a silence of `idle`; zero is never.
    #[must_use]
    pub const fn with_keepalive(mut self, idle: Duration) -> Self {
        self.keepalive = idle;
        self
    }

    /// Hands clients over to other threads that have fewer sessions.
    #[must_use]
    pub fn among(mut self, threads: Threads) -> Self {
        self.threads = threads;
        self
    }

    /// Looks at every session once a tick, for ever. A thread without sessions sleeps.
    pub async fn tick_forever(self: Rc<Self>) {
        loop {
            if self.sessions.borrow().is_empty() && !self.resting.has_limits() {
                self.give_back_memory();
                self.first_session.notified().await;
            }
            sleep(TICK).await;
            self.tick();
            self.tick_rested();
            self.give_back_memory();
        }
    }

    fn tick(&self) {
        let mut all_moved = Vec::new();
        let mut may_rest = if self.resting.is_open() { RESTS_A_TICK } else { 0 };
        for (_, session) in &*self.sessions.borrow() {
            let moved = session.pulse.tick();
            if moved != [0, 0] {
                session.backend.metrics.count_moved(moved);
                all_moved.push((session.key, moved));
            }
            if may_rest > 0 && session.pulse.quiet_ticks() >= REST_AFTER && session.pulse.can_rest() {
                may_rest -= 1;
                session.pulse.let_rest();
            }
        }
        self.registry.add_moved(self.index, &all_moved);
    }

    /// When many sessions have gone, or gone to rest, has the allocator return what they took.
    fn give_back_memory(&self) {
        let now = [self.sessions.borrow().len(), self.resting.len()];
        let peaks = self.peaks.get();
        if peaks.iter().zip(&now).any(|(&peak, &now)| peak >= MANY_SESSIONS && now < peak / 2) {
            release_memory();
            self.peaks.set(now);
        } else {
            self.peaks.set([peaks[0].max(now[0]), peaks[1].max(now[1])]);
        }
    }

    /// Lets held clients go on whenever the table changes, for as long as there are new tables.
    pub async fn release_held_forever(&self) {
        let mut routes = self.routes.clone();
        while routes.changed().await {
            self.holds.release(&routes.load().table);
        }
    }

    /// Stays awake after sessions have moved bytes, where their listener says so, for ever.
    pub async fn stay_awake_forever(&self) {
        self.vigil.keep_forever(self.clock).await;
    }

    /// Has held clients look again: their listener may go by another plan now.
    pub fn look_again(&self) {
        self.holds.release_all();
    }

    /// Ends every session, and every wait, because the daemon's time is up.
    pub fn cut(self: &Rc<Self>) {
        self.is_cut.set(true);
        self.cut.notify_waiters();
        self.holds.close();
        for (_, session) in &*self.sessions.borrow() {
            session.pulse.stop(SessionEnd::DrainDeadline);
        }
        self.cut_rested();
    }

    /// Waits until the daemon's time is up. Cancel-safe.
    pub async fn until_cut(&self) {
        let cut = self.cut.notified();
        if !self.is_cut.get() {
            cut.await;
        }
    }

    /// `limit` in ticks, so that at least `limit` passes; zero stays zero.
    pub(super) fn ticks(&self, limit: Duration) -> u32 {
        if limit.is_zero() {
            return 0;
        }
        let ticks = limit.as_nanos().div_ceil(TICK.as_nanos()) + 1;
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// The sign of life of a session of this listener.
    pub(super) fn pulse(&self, plan: &ListenerPlan) -> Pulse {
        let pulse = Pulse::new(self.ticks(plan.idle_timeout), self.ticks(plan.half_close_timeout));
        pulse.awake_for(plan.busy_poll, &self.vigil)
    }

    /// Puts a session under the eye of the tick for as long as the result lives.
    pub(super) fn watch(&self, pulse: &Rc<Pulse>, backend: &Arc<BackendLive>, admission: &Admission) -> Watch {
        if self.is_cut.get() {
            pulse.stop(SessionEnd::DrainDeadline);
        }
        let mut sessions = self.sessions.borrow_mut();
        let first = sessions.is_empty();
        let key =
            sessions.insert(Watched { pulse: Rc::clone(pulse), backend: Arc::clone(backend), key: admission.key() });
        if first {
            self.first_session.notify_one();
        }
        Watch { sessions: Rc::clone(&self.sessions), key }
    }
}

/// Being under the eye of the tick.
#[derive(Debug)]
pub(super) struct Watch {
    sessions: Rc<RefCell<Slab<Watched>>>,
    key: usize,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.sessions.borrow_mut().try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::{Seats, Worker};
    use crate::model::{BackendId, Epoch, MonoTime};
    use crate::relay::{Pulse, Start, relay};
    use crate::routing::{BackendLive, Registry, SessionFacts, mailbox, route_cell};
    use crate::sys::{Clock, connect};
    use crate::telemetry::Metrics;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::task::{LocalSet, spawn_local};

    fn worker(seats: &Seats, registry: &Registry) -> Worker {
        let (_, routes) = route_cell();
        let (_, feedback, _) = mailbox();
        Worker::new(0, Clock::start(), routes, registry.clone(), feedback, seats.clone(), 4096)
    }

    #[test]
    fn a_limit_in_ticks_is_never_shorter_than_in_time() {
        let worker = worker(&Seats::new(1, 1), &Registry::new(1));
        assert_eq!(worker.ticks(Duration::ZERO), 0);
        assert_eq!(worker.ticks(Duration::from_millis(1)), 2);
        assert_eq!(worker.ticks(Duration::from_secs(1)), 5);
        assert_eq!(worker.ticks(Duration::MAX), u32::MAX);
    }

    /// One end of a connection for the relay, and the other end.
    async fn pair() -> (crate::sys::Stream, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = connect(&listener.local_addr().unwrap().to_string().parse().unwrap(), Duration::from_secs(10))
            .await
            .unwrap();
        (ours, listener.accept().unwrap().0)
    }

    fn facts() -> SessionFacts {
        let metrics = Metrics::new().unwrap().backend(&"orders".into(), &"pg1".into());
        let (load, early_ends) = Default::default();
        let backend = BackendLive { metrics, pool: "orders".into(), name: "pg1".into(), load, early_ends };
        SessionFacts { listener: "front".into(), backend: Arc::new(backend), client: None, since: MonoTime::default() }
    }

    #[tokio::test]
    async fn a_panic_in_one_session_ends_no_other() {
        let (seats, registry) = (Seats::new(2, 1), Registry::new(1));
        let worker = Rc::new(worker(&seats, &registry));
        let ((client, mut person), (backend, mut server)) = (pair().await, pair().await);
        let local = LocalSet::new();
        let healthy = Rc::clone(&worker);
        let relayed = local.spawn_local(async move {
            let seat = healthy.seats.take(0);
            let end = relay(&client, &backend, Start::default(), &Pulse::new(0, 0), &healthy.loans).await;
            drop(seat);
            end
        });
        local
            .run_until(async {
                let broken = spawn_local(async move {
                    let _seat = worker.seats.take(0);
                    let _admission = worker.registry.admit(0, BackendId(1), Epoch(0), facts()).unwrap();
                    panic!("a fault of ours");
                });
                assert!(broken.await.unwrap_err().is_panic());
            })
            .await;
        // It gave back what it held, and the other goes on.
        assert_eq!(seats.taken(), 1);
        assert_eq!(registry.fence(BackendId(1), Epoch(1), crate::model::OutReason::Dead), 0);
        person.write_all(b"still here?").unwrap();
        person.shutdown(Shutdown::Write).unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            local.run_until(relayed).await.unwrap(),
            crate::relay::RelayEnd::Over(crate::model::SessionEnd::Completed)
        );
        let mut heard = String::new();
        server.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "still here?");
    }
}
