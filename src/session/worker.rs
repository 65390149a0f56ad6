//! What the sessions of one data-plane thread share, and its one coarse tick.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::dial::Ways;
use crate::model::{ListenerPlan, PipeRefusal, SessionEnd};
use crate::relay::{Loans, Pulse, Vigil};
use crate::routing::{Admission, BackendLive, Feedback, Registry, RouteReader};
use crate::sys::{Clock, Stream, release_memory};
use crate::telemetry::PipeMetrics;

use super::cancel::Broadcasts;
use super::chance::Chance;
use super::hand_over::Threads;
use super::hold::HoldQueues;
use super::pace::Turns;
use super::rest::{REST_AFTER, RESTS_A_TICK, RestingTalks};
use super::seats::Seats;
use super::stuck::{Looks, STUCK_AFTER};

/// How often sessions are looked at for idle and half-close limits. Those are given in seconds and
/// minutes; a quarter of a second costs next to nothing and is never noticed.
const TICK: Duration = Duration::from_millis(250);

/// So many connections to backends are set up for keepalive in one tick, by four system calls each: about a millisecond
/// of the thread's time.
const KEPT_ALIVE_A_TICK: usize = 1024;

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
    /// By which backends are dialled.
    pub(super) ways: Ways,
    /// Connections to backends are kept alive after so long a silence; zero is never.
    pub(super) keepalive: Duration,
    pub(super) loans: Loans,
    /// Where refusals of pipes are counted, and how many have been.
    pipes: Option<PipeMetrics>,
    refusals_counted: Cell<[u64; PipeRefusal::ALL.len()]>,
    /// The session from which on connections are kept alive in the next tick: the first one that the last had no time for.
    keep_from: Cell<usize>,
    /// The session from which on it is looked at whether bytes are stuck: the same.
    pub(super) look_from: Cell<usize>,
    vigil: Rc<Vigil>,
    pub(super) holds: HoldQueues,
    pub(super) chance: Chance,
    pub(super) broadcasts: Broadcasts,
    sessions: Rc<RefCell<Slab<Watched>>>,
    pub(super) first_session: Notify,
    pub(super) resting: RestingTalks,
    pub(super) turns: Turns,
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
    /// The connection to the backend until it is kept alive. It is the session that keeps it open.
    unkept: Option<Weak<Stream>>,
}

impl Watched {
    /// Has its connection to the backend be kept alive, if that is still to be done and `budget` allows it.
    ///
    /// Not when it is dialled, so that a session that is over before the next tick is spared the four system calls. One
    /// that lives gets it whatever it does, open or not, half-closed or busy, and before it can rest: a tick later
    /// than the dial, where keepalive counts a silence of seconds.
    fn keep_alive(&mut self, after: Duration, budget: &mut usize) -> bool {
        let Some(server) = self.unkept.take() else { return true };
        let Some(left) = budget.checked_sub(1) else {
            self.unkept = Some(server);
            return false;
        };
        *budget = left;
        if let Some(server) = server.upgrade() {
            server.keep_alive(after);
        }
        true
    }
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
            ways: Ways::default(),
            keepalive: Duration::ZERO,
            loans: Loans::new(relay_buffer),
            pipes: None,
            refusals_counted: Cell::default(),
            keep_from: Cell::new(0),
            look_from: Cell::new(0),
            vigil: Rc::default(),
            holds: HoldQueues::default(),
            chance: Chance::new(clock.unix_seconds(clock.now()).to_bits() ^ (index as u64).rotate_right(16)),
            broadcasts: Broadcasts::default(),
            sessions: Rc::default(),
            first_session: Notify::new(),
            resting: RestingTalks::default(),
            turns: Turns::default(),
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

    /// Dials backends behind tunnels by `ways`; otherwise all of those are shut.
    #[must_use]
    pub fn by(mut self, ways: Ways) -> Self {
        self.ways = ways;
        self
    }

    /// Counts refusals of pipes there.
    #[must_use]
    pub fn counting(mut self, pipes: PipeMetrics) -> Self {
        self.pipes = Some(pipes);
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
            self.count_refusals();
            self.tick_rested();
            self.give_back_memory();
        }
    }

    /// Counts the pipes that were refused since the last tick; at the refusal itself nothing shared is touched.
    fn count_refusals(&self) {
        let refused = self.loans.pipes().refused;
        let counted = self.refusals_counted.replace(refused);
        if let Some(pipes) = &self.pipes {
            for ((&reason, now), before) in PipeRefusal::ALL.iter().zip(refused).zip(counted) {
                pipes.count_refusals(reason, now - before);
            }
        }
    }

    fn tick(&self) {
        let mut all_moved = Vec::new();
        let mut looks = Looks::from(self.look_from.take());
        let mut may_rest = if self.resting.is_open() { RESTS_A_TICK } else { 0 };
        let mut may_keep = KEPT_ALIVE_A_TICK;
        // Where sessions come faster than that, those in front would take every tick's time from those behind.
        let keep_from = self.keep_from.take();
        let mut left_over = None;
        for (key, session) in &mut *self.sessions.borrow_mut() {
            let has_turn = key >= keep_from;
            let is_kept = session.unkept.is_none() || has_turn && session.keep_alive(self.keepalive, &mut may_keep);
            if has_turn && !is_kept {
                left_over.get_or_insert(key);
            }
            let moved = session.pulse.tick();
            if moved != [0, 0] {
                session.backend.count_moved(moved);
                all_moved.push((session.key, moved));
            }
            if session.pulse.is_due(STUCK_AFTER) && looks.take(key, session.key) {
                session.pulse.look_into();
            }
            if may_rest > 0 && is_kept && session.pulse.quiet_ticks() >= REST_AFTER && session.pulse.can_rest() {
                may_rest -= 1;
                session.pulse.let_rest();
            }
        }
        self.keep_from.set(left_over.unwrap_or(0));
        self.registry.add_moved(self.index, &all_moved);
        self.look_from.set(looks.left_over());
        self.report_stuck(looks.sessions());
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

    /// Whether the daemon's time is up.
    pub(super) const fn has_been_cut(&self) -> bool {
        self.is_cut.get()
    }

    /// Waits until the daemon's time is up. Cancel-safe.
    pub async fn until_cut(&self) {
        let cut = self.cut.notified();
        if !self.is_cut.get() {
            cut.await;
        }
    }

    /// Waits until the daemon's time has been up for `more`. Cancel-safe.
    pub(super) async fn until_cut_for(&self, more: Duration) {
        self.until_cut().await;
        sleep(more).await;
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

    /// Puts a session under the eye of the tick for as long as the result lives; with its connection to the backend, if
    /// that is not kept alive yet.
    pub(super) fn watch(
        &self,
        pulse: &Rc<Pulse>,
        backend: &Arc<BackendLive>,
        admission: &Admission,
        unkept: Option<&Arc<Stream>>,
    ) -> Watch {
        if self.is_cut.get() {
            pulse.stop(SessionEnd::DrainDeadline);
        }
        let mut sessions = self.sessions.borrow_mut();
        let first = sessions.is_empty();
        let key = sessions.insert(Watched {
            pulse: Rc::clone(pulse),
            backend: Arc::clone(backend),
            key: admission.key(),
            unkept: unkept.map(Arc::downgrade),
        });
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
    use crate::failover::{Route, Sessions};
    use crate::model::{Approach, BackendId, Epoch, LimitsPlan, ListenerPlan, MonoTime, OutReason, PoolName};
    use crate::relay::{Loans, Pulse, Splicing, Start, relay};
    use crate::routing::{
        BackendLive, PACE_AT_ONCE, Pace, Pair, PoolLive, Registry, Room, SessionFacts, mailbox, route_cell,
    };
    use crate::session::dial::Established;
    use crate::session::meeting::Meeting;
    use crate::session::talk::{Guest, Line, Talk, talk};
    use crate::session::{Guard, Places};
    use crate::sys::{Clock, Gated, connect, in_time};
    use crate::telemetry::{Counted, Metrics};
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
        let other = listener.accept().unwrap().0;
        other.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        (ours, other)
    }

    fn facts() -> SessionFacts {
        let metrics = Metrics::new().unwrap().backend(&"orders".into(), &"pg1".into());
        let load = Arc::default();
        let backend = BackendLive::new("orders".into(), "pg1".into(), metrics, load);
        SessionFacts { listener: "front".into(), backend: Arc::new(backend), client: None, since: MonoTime::default() }
    }

    /// A conversation of `worker`, established a moment ago.
    fn conversation(worker: &Rc<Worker>, client: crate::sys::Stream, server: crate::sys::Stream) -> (Talk, Line) {
        let (metrics, pool) = (Metrics::new().unwrap(), PoolName::from("orders"));
        let (epoch, facts) = (Epoch(0), facts());
        let route = Route {
            backend: BackendId(1),
            name: "pg1".into(),
            address: "127.0.0.1:1".parse().unwrap(),
            weight: 1,
            approach: Approach::PLAIN,
            max_connections: 0,
            epoch,
            load: Arc::clone(&facts.backend.load),
        };
        let pool_live = Arc::new(PoolLive::new(metrics.pool(&pool)));
        let (Pair { client, server }, backend_live) = (Pair::new([client, server]), Arc::clone(&facts.backend));
        let admission = worker.registry.admit(0, route.backend, epoch, facts).unwrap();
        admission.attach_client(&client, &server, || {}).unwrap();
        let room = Room::new(route.load.take(0).unwrap(), Arc::clone(&pool_live));
        let (answer_by, is_last_resort) = (MonoTime::default(), false);
        let session = Established {
            admission,
            server,
            backend_live,
            pool_live,
            route,
            pool: pool.clone(),
            answer_by,
            is_last_resort,
            room,
        };
        let plan = ListenerPlan {
            name: "front".into(),
            bind: Vec::new(),
            pool,
            target: crate::model::Target::Any,
            limits: LimitsPlan::default(),
            idle_timeout: Duration::ZERO,
            half_close_timeout: Duration::ZERO,
            busy_poll: Duration::ZERO,
        };
        let pass = Arc::<Guard>::default().enter(&plan.limits).unwrap();
        let places = Places { pass, seat: worker.seats.take(0).unwrap() };
        let active = Counted::new(&metrics.listener(&"front".into()).active);
        Talk::after(Meeting::new(worker, Arc::new(plan), session), Guest { peer: None, places, active }, client)
    }

    #[tokio::test]
    async fn sessions_at_rest_go_on_when_their_watch_fails() {
        let seats = Seats::new(2, 1);
        let worker = Rc::new(worker(&seats, &Registry::new(1)));
        let ((client, mut person), (backend, mut server)) = (pair().await, pair().await);
        let rested = async {
            drop(spawn_local(Rc::clone(&worker).wake_rested_forever()));
            tokio::task::yield_now().await;
            let (talk, line) = conversation(&worker, client, backend);
            let Line { pair, pulse, watch } = line;
            drop((pulse, watch));
            worker.rest(talk, pair, 0);
            assert_eq!(worker.resting.len(), 1);
            let fails = async |_: &mut Vec<u64>| Err(std::io::ErrorKind::InvalidInput.into());
            worker.wake_rested(fails).await;
            assert!(worker.resting.len() == 0 && !worker.resting.is_open());
        };
        let local = LocalSet::new();
        local.run_until(rested).await;
        person.write_all(b"still here?").unwrap();
        person.shutdown(Shutdown::Write).unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        let over = async {
            while seats.taken() > 0 {
                tokio::task::yield_now().await;
            }
        };
        local.run_until(in_time(over)).await;
        let mut heard = String::new();
        server.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "still here?");
    }

    /// A conversation that is fenced, at rest or not, with a turn in an hour, until `then` and the end of all that is on its
    /// way.
    async fn fenced_for_an_hour(
        rests: bool,
        then: impl FnOnce(&Rc<Worker>, &std::net::TcpStream),
    ) -> std::net::TcpStream {
        let (seats, registry) = (Seats::new(1, 1), Registry::new(1));
        let worker = Rc::new(worker(&seats, &registry));
        let ((client, person), (backend, server)) = (pair().await, pair().await);
        let ((other, _other_person), (other_server, _other_peer)) = (pair().await, pair().await);
        let others: Vec<_> =
            (0..PACE_AT_ONCE).map(|_| registry.admit(0, BackendId(1), Epoch(0), facts()).unwrap()).collect();
        let Pair { client: other, server: other_server } = Pair::new([other, other_server]);
        others.iter().for_each(|admission| admission.attach_client(&other, &other_server, || ()).unwrap());
        let fenced = async {
            drop(spawn_local(Rc::clone(&worker).wake_rested_forever()));
            drop(spawn_local(Rc::clone(&worker).close_in_turn_forever()));
            tokio::task::yield_now().await;
            let (on, line) = conversation(&worker, client, backend);
            let load = Arc::clone(&on.backend_live.load);
            assert_eq!(load.sessions(), 1);
            if rests {
                let Line { pair, pulse, watch } = line;
                drop((pulse, watch));
                worker.rest(on, pair, 0);
            } else {
                drop(spawn_local(talk(Rc::clone(&worker), on, line, Start::default())));
            }
            let in_an_hour = MonoTime::from_nanos(3_600_000_000_000);
            registry.fence(BackendId(1), Epoch(1), Sessions::All, OutReason::Dead, &mut Pace::new(in_an_hour));
            until(|| load.sessions() == 0).await;
            assert_eq!((seats.taken(), worker.resting.len()), (1, 1), "it is no load any more, and keeps its client");
            person.set_nonblocking(true).unwrap();
            assert_eq!((&person).read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            then(&worker, &person);
            until(|| seats.taken() == 0).await;
            assert_eq!(worker.resting.len(), 0);
        };
        LocalSet::new().run_until(fenced).await;
        drop(server);
        person
    }

    async fn until(condition: impl Fn() -> bool) {
        let turns = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        in_time(turns).await;
    }

    #[tokio::test]
    async fn a_fenced_client_that_leaves_before_its_turn_is_freed() {
        for rests in [true, false] {
            drop(fenced_for_an_hour(rests, |_, person| person.shutdown(Shutdown::Both).unwrap()).await);
        }
    }

    #[tokio::test]
    async fn fenced_clients_are_closed_at_once_when_the_daemon_stops() {
        for (rests, is_cut) in [(true, false), (true, true), (false, false), (false, true)] {
            let stop = |worker: &Rc<Worker>, mut person: &std::net::TcpStream| {
                person.write_all(b"nobody reads this").unwrap();
                if is_cut { worker.cut() } else { worker.end_turns() }
            };
            let mut person = fenced_for_an_hour(rests, stop).await;
            assert_eq!(person.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn a_refused_pipe_is_counted_at_the_next_tick() {
        let metrics = Metrics::new().unwrap();
        let mut worker = worker(&Seats::new(1, 1), &Registry::new(1)).counting(metrics.pipes());
        worker.loans = Loans::with(4096, Splicing { large_read: 1, stream: 1, pipes_max: 0, ..Splicing::default() });
        let counted = |reason: &str| {
            let (line, text) = (format!("changeover_pipe_refusals_total{{reason=\"{reason}\"}} "), metrics.text());
            text.lines().find_map(|found| found.strip_prefix(&line)).unwrap().parse::<u64>().unwrap()
        };
        let ((client, mut person), (backend, server)) = (pair().await, pair().await);
        person.write_all(&[7; 64 * 1024]).unwrap();
        drop((person.shutdown(Shutdown::Write), server.shutdown(Shutdown::Write)));
        let client = Gated::new(client);
        in_time(relay(&client, &backend, Start::default(), &Pulse::new(0, 0), &worker.loans)).await;
        assert_eq!(counted("limit"), 0);
        worker.count_refusals();
        worker.count_refusals();
        let [limit, ..] = worker.loans.pipes().refused;
        assert!(limit > 0);
        assert_eq!((counted("limit"), counted("quota"), counted("kernel")), (limit, 0, 0));
    }

    #[tokio::test]
    async fn a_session_that_lives_until_the_next_tick_is_kept_alive() {
        let registry = Registry::new(1);
        let worker = worker(&Seats::new(1, 1), &registry).with_keepalive(Duration::from_secs(60));
        let (server, _peer) = pair().await;
        let (server, pulse, facts) = (Arc::new(server), Rc::new(Pulse::new(0, 0)), facts());
        let backend = Arc::clone(&facts.backend);
        let admission = registry.admit(0, BackendId(1), Epoch(0), facts).unwrap();
        let is_kept = || socket2::SockRef::from(&*server).keepalive().unwrap();
        let watch = worker.watch(&pulse, &backend, &admission, Some(&server));
        // More than one tick may do come later, and no session can rest before its turn.
        let mut sessions = worker.sessions.borrow_mut();
        let session = sessions.get_mut(watch.key).unwrap();
        assert!(!session.keep_alive(worker.keepalive, &mut 0) && !is_kept());
        drop(sessions);
        worker.tick();
        assert!(is_kept());
        let mut sessions = worker.sessions.borrow_mut();
        let session = sessions.get_mut(watch.key).unwrap();
        assert!(session.keep_alive(worker.keepalive, &mut 0), "it is once and for all");
    }

    /// Of a flood of short sessions there are always more than a tick has time for, and all of them in front.
    #[tokio::test]
    async fn a_session_behind_a_flood_of_new_ones_is_kept_alive_all_the_same() {
        let registry = Registry::new(1);
        let worker = worker(&Seats::new(1, 1), &registry).with_keepalive(Duration::from_secs(60));
        let ((of_flood, _client), (server, _peer)) = (pair().await, pair().await);
        let (of_flood, server, facts) = (Arc::new(of_flood), Arc::new(server), facts());
        let backend = Arc::clone(&facts.backend);
        let admission = registry.admit(0, BackendId(1), Epoch(0), facts).unwrap();
        let watch = |server| worker.watch(&Rc::new(Pulse::new(0, 0)), &backend, &admission, Some(server));
        let mut flood: Vec<_> = (0..=super::KEPT_ALIVE_A_TICK).map(|_| watch(&of_flood)).collect();
        let _last = watch(&server);
        let is_kept = || socket2::SockRef::from(&*server).keepalive().unwrap();
        for _ in 0..2 {
            worker.tick();
            flood.iter_mut().for_each(|session| {
                drop(std::mem::replace(session, watch(&of_flood)));
            });
        }
        assert!(is_kept());
        worker.tick();
        worker.tick();
        let unkept = worker.sessions.borrow().iter().filter(|(_, session)| session.unkept.is_some()).count();
        assert_eq!(unkept, 0, "nor are those in front forgotten");
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
            let client = Gated::new(client);
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
        assert_eq!(
            registry
                .fence(
                    BackendId(1),
                    Epoch(1),
                    Sessions::All,
                    crate::model::OutReason::Dead,
                    &mut Pace::new(MonoTime::ZERO)
                )
                .sessions,
            0
        );
        person.write_all(b"still here?").unwrap();
        person.shutdown(Shutdown::Write).unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            local.run_until(in_time(relayed)).await.unwrap(),
            crate::relay::RelayEnd::Over(crate::model::SessionEnd::Completed)
        );
        let mut heard = String::new();
        server.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "still here?");
    }
}
