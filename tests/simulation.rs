//! Whole lives of a controller in virtual time: backends that flap, die, hang, lie and answer late, operators, reloads
//! and clients, all from one seed. `SIM_SEED=N` replays one run, `SIM_SEEDS=N` sets how many there are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on shall panic"
)]

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use changeover::failover::recording::{Line, Replay, Scribe};
use changeover::failover::{Arrival, Change, Command, Controller, DAMPING_CAP, Event, Order, RouteTable};
use changeover::model::{
    Actor, AdminPlan, AdminState, Advice, Approach, BackendId, BackendPlan, BackendStatus, Balance, CheckError,
    CheckKind, CheckPlan, DaemonPlan, DialError, DialPlan, Epoch, Failback, FailoverPlan, FailoverStatus, HealthState,
    HoldPlan, LogFormat, LogLevel, LogPlan, MonoTime, OutReason, Plan, PoolKind, PoolName, PoolPlan, PoolState,
    PoolStatus, ProbeError, ProbeId, ProbeOutcome, PushedHealth, Resend, SessionPolicies, SessionPolicy, StorePlan,
    TargetId, WhenDown,
};

/// How many seeds a plain run tries.
const SEEDS: u64 = 2000;
/// Seeds that have found something once.
const KEPT: [u64; 0] = [];
/// Lives that are recorded and lived again.
const RECORDED: u64 = 50;
/// Steps of trouble in one run, before the world calms down.
const STEPS: usize = 200;
/// Turns that the controller may ask for in one instant: one, as all that is due is done in it.
const TURNS_AT_ONCE: usize = 1;
/// Lines of the trace that a failure prints.
const TAIL: usize = 60;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a host does when it is asked or dialled.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Host {
    Up,
    /// Refuses everything.
    Dead,
    /// Never answers; the probe's own deadline does.
    Hangs,
    /// Accepts, and its check is bad.
    Sick,
    /// Good or bad by the toss of a coin.
    Flaps,
    /// Its probes pass, its dials are refused.
    Lies,
    /// Answers, but after the deadline, or never.
    Late,
    /// The daemon cannot ask.
    Blind,
    /// Answers well, and takes its time, now more and now less.
    Slow,
    /// Its agent asks for this and that.
    Advises,
    /// Its probes pass, its sessions end before they are answered.
    Drops,
}

const MOODS: [Host; 11] = [
    Host::Up,
    Host::Dead,
    Host::Hangs,
    Host::Sick,
    Host::Flaps,
    Host::Lies,
    Host::Late,
    Host::Blind,
    Host::Slow,
    Host::Advises,
    Host::Drops,
];

/// The most that an answer may take where there is a limit.
const MAX_LATENCY: Duration = ms(100);

/// A virtual session as the registry knows it.
#[derive(Debug)]
struct Session {
    backend: BackendId,
    epoch: Epoch,
}

struct World {
    rng: fastrand::Rng,
    core: Controller,
    now: MonoTime,
    plan: Arc<Plan>,
    /// What data-plane threads see.
    table: Arc<RouteTable>,
    hosts: BTreeMap<String, Host>,
    /// Answers on their way.
    answers: BTreeMap<(MonoTime, u64), (TargetId, ProbeId, ProbeOutcome)>,
    sent: u64,
    /// The open question to each target.
    open: BTreeMap<TargetId, ProbeId>,
    last_probe: ProbeId,
    fences: BTreeMap<BackendId, Epoch>,
    sessions: Vec<Session>,
    turns: u64,
    trace: VecDeque<String>,
    hash: DefaultHasher,
    failovers: u64,
    /// The number and status of each pool's last failover.
    told: BTreeMap<PoolName, (u64, FailoverStatus)>,
    /// Orders that were carried out, and that were refused.
    orders: (u64, u64),
    /// The lines of a recording, if one is made.
    recording: Option<(Scribe, Vec<String>)>,
    /// What every agent says that has nothing to ask for.
    advice: Advice,
}

impl World {
    fn new(seed: u64) -> Self {
        Self::begin(seed, None)
    }

    fn begin(seed: u64, recording: Option<(Scribe, Vec<String>)>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let core = Controller::new(rng.u64(..));
        let plan = draw_plan(&mut rng);
        let table = Arc::clone(core.table());
        let mut world = Self {
            rng,
            core,
            now: MonoTime::ZERO + ms(1),
            plan: Arc::clone(&plan),
            table,
            hosts: BTreeMap::new(),
            answers: BTreeMap::new(),
            sent: 0,
            open: BTreeMap::new(),
            last_probe: ProbeId::default(),
            fences: BTreeMap::new(),
            sessions: Vec::new(),
            turns: 0,
            trace: VecDeque::new(),
            hash: DefaultHasher::new(),
            failovers: 0,
            told: BTreeMap::new(),
            orders: (0, 0),
            recording,
            advice: Advice::default(),
        };
        world.feed(replaced(plan));
        world
    }

    fn note(&mut self, line: String) {
        line.hash(&mut self.hash);
        if self.trace.len() == TAIL {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// One turn of the control task, with its commands carried out and all rules checked.
    fn feed(&mut self, event: Event) {
        self.turns += 1;
        let line = match &event {
            Event::PlanReplaced { plan, .. } => format!("{:?} PlanReplaced {:?}", self.now, plan.pools.keys()),
            other => format!("{:?} {other:?}", self.now),
        };
        self.note(line);
        let mut out = Vec::new();
        let told = self.recording.as_ref().map(|_| event.clone());
        self.core.handle(self.now, event, &mut out);
        if let Some(((scribe, lines), event)) = self.recording.as_mut().zip(told) {
            lines.push(scribe.line(self.now, &event, &out).unwrap());
        }
        let mut fenced = false;
        let mut told = false;
        for command in out {
            if let Command::PublishTable(table) = &command {
                assert!(!fenced && !told, "a table is published after a fence or a report");
                assert_eq!(table.generation, self.table.generation.next(), "generations grow by one");
                assert!(table.pools != self.table.pools, "a publish that changes nothing");
                self.check_epochs(table);
            }
            fenced |= matches!(command, Command::FenceSessions { .. });
            told |= matches!(command, Command::Report(_));
            assert!(!(told && matches!(command, Command::FenceSessions { .. })), "a fence after a report");
            self.carry_out(command);
        }
        assert!(Arc::ptr_eq(&self.table, self.core.table()), "the table decided was not published");
        self.core.check_invariants().unwrap_or_else(|broken| panic!("{broken}"));
        assert!(self.core.next_deadline().is_none_or(|at| at > self.now), "it wants to be woken in the past");
        let targets: BTreeSet<(_, _, _)> =
            self.plan.pools.values().flat_map(|pool| &pool.backends).map(question).collect();
        assert!(self.open.len() <= targets.len(), "more than one probe of a target");
    }

    /// No route may carry an epoch that was fenced off, or its sessions could not be admitted.
    fn check_epochs(&self, table: &RouteTable) {
        for route in table.pools.values().flat_map(|pool| &pool.tiers).flat_map(|tier| tier.routes()) {
            let fence = self.fences.get(&route.backend).copied().unwrap_or_default();
            assert!(route.epoch >= fence, "{} is routed under {} and fenced at {fence}", route.name, route.epoch);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::StartProbe { target, probe, spec } => {
                assert!(probe > self.last_probe, "a probe's number is used again");
                self.last_probe = probe;
                self.open.insert(target, probe);
                self.note(format!("  start {probe} of {target} at {}", spec.address));
                let host = self.host(&spec.address.host());
                self.ask(host, target, probe, spec.timeout);
            }
            Command::StopProbe { target } => {
                self.open.remove(&target);
                self.note(format!("  stop {target}"));
            }
            Command::PublishTable(table) => {
                self.note(format!("  publish {}", table.generation));
                self.table = table;
            }
            Command::FenceSessions { backend, epoch, reason } => {
                self.note(format!("  fence {backend} below {epoch} for {reason}"));
                assert_ne!(reason, OutReason::Slow, "no session is closed because its backend is slow");
                let before = self.fences.insert(backend, epoch).unwrap_or_default();
                assert!(epoch > before, "the fences of {backend} go from {before} to {epoch}");
                self.sessions.retain(|session| session.backend != backend || session.epoch >= epoch);
            }
            Command::Report(transition) => {
                if let Change::PoolFailover { number, status, .. } = transition.change {
                    self.failovers += u64::from(status == FailoverStatus::Completed);
                    self.follow(transition.pool.as_ref().unwrap(), number, status);
                }
                self.note(format!("  {:?}: {}", transition.pool, transition.change));
            }
        }
    }

    /// Failovers of a pool are numbered without a gap, and each is told in order.
    fn follow(&mut self, pool: &PoolName, number: u64, status: FailoverStatus) {
        let (last, before) = self.told.get(pool).copied().unwrap_or((0, FailoverStatus::Failed));
        let expected = match (before, status) {
            (FailoverStatus::Completed | FailoverStatus::Failed, FailoverStatus::Pending) => last + 1,
            (FailoverStatus::Pending, FailoverStatus::InProgress | FailoverStatus::Failed)
            | (FailoverStatus::InProgress, FailoverStatus::Completed) => last,
            _ => panic!("{status} after {before}"),
        };
        assert_eq!(number, expected, "the numbers of the failovers of {pool}");
        self.told.insert(pool.clone(), (number, status));
    }

    fn host(&mut self, name: &str) -> Host {
        *self.hosts.entry(name.to_owned()).or_insert(Host::Up)
    }

    /// Sends a question off; its answer comes as the host feels.
    fn ask(&mut self, host: Host, target: TargetId, probe: ProbeId, timeout: Duration) {
        let quick = Duration::from_micros(self.rng.u64(50..20_000));
        let failed = |error: ProbeError| ProbeOutcome::Failed { error, detail: error.label().to_owned() };
        let passed = ProbeOutcome::Passed { latency: quick, advice: self.advice };
        let slow = ms(self.rng.u64(40..300));
        let sick = failed(ProbeError::Check(CheckError::UnexpectedStatus));
        let (after, outcome) = match host {
            Host::Up | Host::Lies | Host::Drops => (quick, passed),
            Host::Slow => (slow, ProbeOutcome::Passed { latency: slow, advice: self.advice }),
            Host::Advises => {
                let admin = self.rng.choice(AdminState::ALL).copied().filter(|_| self.rng.bool());
                let weight = [0, 1, 50, 100][self.rng.usize(..4)];
                let advice = Advice { admin, weight: Some(weight).filter(|_| self.rng.bool()) };
                (quick, ProbeOutcome::Passed { latency: quick, advice })
            }
            Host::Dead => (quick / 10, failed(ProbeError::Dial(DialError::Refused))),
            Host::Hangs => (timeout, failed(ProbeError::Dial(DialError::TimedOut))),
            Host::Sick => (quick, sick),
            Host::Flaps if self.rng.bool() => (quick, passed),
            Host::Flaps => (quick, sick),
            Host::Late if self.rng.bool() => return,
            Host::Late => (timeout * self.rng.u32(1..5), passed),
            Host::Blind => (quick, ProbeOutcome::Inconclusive { error: None, detail: "no descriptor".to_owned() }),
        };
        self.sent += 1;
        self.answers.insert((self.now + after, self.sent), (target, probe, outcome));
    }

    /// Lets time pass with every answer and deadline on its way.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut at_once = 0;
        loop {
            let answer = self.answers.first_key_value().map(|(&(at, _), _)| at);
            let Some(next) = answer.into_iter().chain(self.core.next_deadline()).min().filter(|&at| at <= end) else {
                break;
            };
            let is_answer = answer == Some(next);
            at_once = if next > self.now || is_answer { 0 } else { at_once + 1 };
            assert!(at_once <= TURNS_AT_ONCE, "a busy loop");
            self.now = self.now.max(next);
            if is_answer {
                let (_, (target, probe, outcome)) = self.answers.pop_first().unwrap();
                let counts = self.open.get(&target) == Some(&probe);
                if counts {
                    self.open.remove(&target);
                }
                let before = (!counts).then(|| self.statuses());
                self.feed(Event::ProbeFinished { target, probe, outcome });
                // Downtime alone goes on by itself, and what was due anyway is no effect of the answer.
                if let Some(before) = before.filter(|_| self.core.next_deadline().is_some_and(|at| at > self.now)) {
                    assert_eq!(before, self.statuses(), "a late probe answer is ignored");
                }
            } else {
                self.feed(Event::Tick);
            }
        }
        self.now = end;
    }

    /// Health and its counts of every backend.
    fn statuses(&self) -> Vec<(BackendId, HealthState, u32, u32)> {
        let all = self.core.pool_statuses(self.now).into_iter().flat_map(|pool| pool.backends);
        all.map(|b| (b.id, b.health, b.consecutive_failures, b.consecutive_successes)).collect()
    }

    /// A client comes: it picks from the table, dials, tries the next, and is admitted if no fence forbids.
    fn client(&mut self) {
        let names: Vec<PoolName> = self.table.pools.keys().cloned().collect();
        let Some(name) = self.rng.choice(names) else { return };
        let table = Arc::clone(&self.table);
        let routes = &table.pools[&name];
        let status = self.core.pool_status(self.now, &name).unwrap();
        let policy = Arc::clone(&self.plan.pools[&name]);
        let mut tried = Vec::new();
        let turn = self.rng.u64(..);
        while tried.len() < routes.dial.connect_attempts {
            let arrival = Arrival {
                turn,
                client: turn.rotate_left(7),
                chance: self.rng.u64(..),
                tried: &tried,
                will_wait: false,
            };
            let Ok(route) = routes.pick(&arrival) else { break };
            let chosen = status.backends.iter().find(|b| b.id == route.backend).expect("a route to nobody");
            check_choice(&policy, &status, chosen);
            assert!(!tried.contains(&route.backend), "tried twice");
            tried.push(route.backend);
            let host = self.host(&route.address.host());
            let error = match host {
                Host::Up | Host::Sick | Host::Late | Host::Flaps | Host::Slow | Host::Advises | Host::Drops => None,
                Host::Dead | Host::Lies => Some(DialError::Refused),
                Host::Hangs => Some(DialError::TimedOut),
                Host::Blind => Some(DialError::Local),
            };
            let Some(error) = error else {
                let fence = self.fences.get(&route.backend).copied().unwrap_or_default();
                assert!(route.epoch >= fence, "the present table leads behind a fence");
                self.sessions.push(Session { backend: route.backend, epoch: route.epoch });
                if host == Host::Drops {
                    let sessions = self.rng.u32(1..50);
                    self.feed(Event::EndedEarly { backend: route.backend, epoch: route.epoch, sessions });
                }
                break;
            };
            self.feed(Event::DialFailed { backend: route.backend, epoch: route.epoch, error });
        }
    }

    fn step(&mut self) {
        match self.rng.u8(..100) {
            0..33 => self.client(),
            33..40 => self.outsider(),
            40..42 => self.stall(),
            42 => self.stuck(),
            43..46 => self.direct(),
            46..60 => {
                let host = ["a", "b", "c", "d", "e", "f"][self.rng.usize(..6)].to_owned();
                let mood = if self.rng.bool() { Host::Up } else { MOODS[self.rng.usize(..MOODS.len())] };
                self.note(format!("{host} is {mood:?}"));
                self.hosts.insert(host, mood);
            }
            60..65 => {
                let all: Vec<BackendId> = self.backends().iter().map(|b| b.id).collect();
                if let Some(backend) = self.rng.choice(all) {
                    let state = AdminState::ALL[self.rng.usize(..3)];
                    self.order(backend, state);
                }
            }
            65..67 => {
                let plan = draw_plan(&mut self.rng);
                self.plan = Arc::clone(&plan);
                // A pool that comes again is another one.
                self.told.retain(|pool, _| plan.pools.contains_key(pool));
                self.feed(replaced(plan));
            }
            67 => {
                // A jump that nobody has noticed: the next turn is late.
                self.now = self.now + ms(self.rng.u64(1..60_000));
                self.feed(Event::Tick);
            }
            68..95 => {
                let time = ms(self.rng.u64(1..400));
                self.pass(time);
            }
            _ => {
                let time = ms(self.rng.u64(1000..8000));
                self.pass(time);
            }
        }
    }

    /// An operator says who serves, or whether clients wait; what is refused has no effect.
    fn direct(&mut self) {
        let names: Vec<PoolName> = self.plan.pools.keys().cloned().collect();
        let Some(pool) = self.rng.choice(names) else { return };
        let order = match self.rng.u8(..8) {
            0..3 => {
                let to = (self.rng.u8(..4) > 0).then(|| ["a", "b", "c", "d", "e", "f"][self.rng.usize(..6)].into());
                let sessions = SessionPolicy::ALL[self.rng.usize(..3)];
                Order::Failover { pool, to, reason: None, sessions }
            }
            3..5 => Order::Failback { pool },
            5 => {
                let time = self.rng.bool().then(|| ms(self.rng.u64(1..5000)));
                Order::Pause { pool, until: time.map(|time| self.now + time) }
            }
            _ => Order::Resume { pool },
        };
        self.feed(Event::Tick);
        let refusal = self.core.refusal(self.now, &order);
        let before = (self.core.pool_statuses(self.now), Arc::clone(&self.table), self.open.clone());
        self.feed(Event::Ordered { actor: Actor::from("ops"), order: order.clone() });
        match refusal {
            Some(refusal) => {
                self.note(format!("  {refusal}"));
                let (statuses, table, open) = before;
                assert_eq!(statuses, self.core.pool_statuses(self.now), "a refused order changes something");
                assert!(Arc::ptr_eq(&table, &self.table) && open == self.open, "a refused order does something");
                self.orders.1 += 1;
            }
            None => self.check_obeyed(&order),
        }
    }

    /// What is so right after an order that was carried out.
    fn check_obeyed(&mut self, order: &Order) {
        self.orders.0 += 1;
        let status = self.core.pool_status(self.now, order.pool()).unwrap();
        let active: Vec<&BackendStatus> = status.backends.iter().filter(|b| b.active).collect();
        match order {
            Order::Failover { to, .. } => {
                assert!(!active.is_empty(), "{order:?} to what does not serve");
                assert!(to.is_none() || (active.len() == 1 && Some(&active[0].name) == to.as_ref()), "{status:#?}");
            }
            Order::Failback { .. } => {
                let best = status.backends.iter().find(|b| b.eligible && !b.slow).map(|b| b.priority);
                assert_eq!(status.pinned, None);
                let serves = active.first().map(|b| b.priority);
                assert!(best.is_none() || serves == best, "not the best that is fit: {status:#?}");
            }
            Order::Pause { .. } => assert!(status.paused.is_some()),
            Order::Resume { .. } => assert!(status.paused.is_none()),
            _ => {}
        }
    }

    /// Somebody outside has something to say.
    fn outsider(&mut self) {
        let named: Vec<_> = self.core.backends().map(|(_, pool, name, _)| (pool.clone(), name.clone())).collect();
        let Some((pool, backend)) = self.rng.choice(named) else { return };
        let order = match self.rng.u8(..8) {
            0..3 => Order::ReportFailure { pool, backend, error: "could not use it".to_owned() },
            3 => Order::ReportSuccess { pool, backend },
            4 | 5 => {
                let (health, ttl) = (HealthState::ALL[self.rng.usize(..3)], ms(self.rng.u64(0..5000)));
                let pushed = PushedHealth { health, until: self.now + ttl, reason: None, figures: Vec::new() };
                Order::PushHealth { pool, backend, pushed }
            }
            6 => Order::Reset { pool, backend: Some(backend).filter(|_| self.rng.bool()) },
            _ => Order::Probe { pool, backend: Some(backend).filter(|_| self.rng.bool()) },
        };
        self.feed(Event::Ordered { actor: Actor::from("ops"), order });
    }

    /// The control task does not run for a while. What was out may come back by that, nothing that was fit goes.
    fn stall(&mut self) {
        let since = self.now;
        self.now = since + ms(self.rng.u64(200..9000));
        let healthy = |world: &Self| -> BTreeSet<BackendId> {
            world.backends().iter().filter(|b| b.health == HealthState::Healthy).map(|b| b.id).collect()
        };
        let before = healthy(self);
        self.feed(Event::WasStalled { since });
        assert!(before.is_subset(&healthy(self)), "a verdict from a time in which nobody looked");
    }

    /// What live sessions send is not acknowledged.
    fn stuck(&mut self) {
        let session = self.sessions.last().map(|session| (session.backend, session.epoch));
        let Some((backend, epoch)) = session else { return };
        let before = self.statuses();
        let due = self.core.next_deadline();
        self.feed(Event::DataStalled { backend, epoch, silent: ms(500) });
        if due.is_none_or(|due| due > self.now) {
            assert_eq!(before, self.statuses(), "a verdict from sessions that are stuck");
        }
    }

    fn order(&mut self, id: BackendId, state: AdminState) {
        let (_, pool, backend, _) = self.core.backends().find(|(known, ..)| *known == id).unwrap();
        let order = Order::SetAdminState { pool: pool.clone(), backend: backend.clone(), state };
        self.feed(Event::Ordered { actor: Actor::from("ops"), order });
    }

    fn backends(&self) -> Vec<BackendStatus> {
        self.core.pool_statuses(self.now).into_iter().flat_map(|pool| pool.backends).collect()
    }

    fn all_are_fit(&self) -> bool {
        self.backends().iter().all(|backend| backend.eligible && !backend.slow)
    }

    /// Whether a pool will go back to a better tier by itself.
    fn returns(&self) -> bool {
        let returns = |pool: &PoolStatus| {
            let policy = self.plan.pools[&pool.name].failover;
            let is_back = pool.backends.iter().any(|b| b.active && b.priority == pool.backends[0].priority);
            policy.automatic && policy.failback == Failback::Automatic && !is_back
        };
        self.core.pool_statuses(self.now).iter().any(returns)
    }

    /// Everything is well again: within a bounded time the pools are too.
    fn calm(&mut self) {
        self.hosts.clear();
        self.advice = Advice { admin: Some(AdminState::Ready), weight: Some(100) };
        for backend in self.backends() {
            self.order(backend.id, AdminState::Ready);
        }
        for status in self.core.pool_statuses(self.now) {
            let pool = status.name;
            if status.paused.is_some() {
                self.feed(Event::Ordered { actor: Actor::from("ops"), order: Order::Resume { pool: pool.clone() } });
            }
            if status.pinned.is_some() {
                self.feed(Event::Ordered { actor: Actor::from("ops"), order: Order::Failback { pool } });
            }
        }
        for pool in self.core.pool_statuses(self.now) {
            let order = Order::Reset { pool: pool.name, backend: None };
            self.feed(Event::Ordered { actor: Actor::from("ops"), order });
        }
        // A probe that hangs, the one after it, its thresholds, and the way back tier by tier. Returns that did not last
        // have made the next one wait.
        let (soon, most) = (self.now + ms(45_000), self.now + DAMPING_CAP * 2);
        while self.now < soon && !self.all_are_fit() {
            self.pass(ms(1000));
        }
        assert!(self.all_are_fit(), "not all are fit again: {:#?}", self.core.pool_statuses(self.now));
        while self.now < most && self.returns() {
            self.pass(ms(1000));
        }
        // And it stays so.
        self.pass(ms(2000));
        for status in self.core.pool_statuses(self.now) {
            let policy = self.plan.pools[&status.name].failover;
            assert!(status.backends.iter().all(|b| b.eligible && !b.slow), "not all are fit again: {status:#?}");
            if policy.automatic && policy.failback == Failback::Automatic {
                assert_eq!(status.state, PoolState::Healthy, "{status:#?}");
                let active = status.backends.iter().find(|b| b.active).unwrap();
                assert_eq!(active.priority, status.backends[0].priority, "the preferred tier does not serve");
            } else {
                let serves = status.backends.iter().any(|b| b.active);
                assert!(serves, "nothing serves: {status:#?}");
            }
        }
        assert!(self.core.has_first_verdicts());
    }
}

/// Whom a session may be sent to at the time of its pick.
fn check_choice(policy: &PoolPlan, status: &PoolStatus, chosen: &BackendStatus) {
    let PoolStatus { state, backends: all, .. } = status;
    assert!(status.paused.is_none(), "{} gets a client of a paused pool", chosen.name);
    if let Some(pinned) = status.pinned.as_ref().and_then(|name| all.iter().find(|b| b.name == *name)) {
        let may = chosen.active || !all.iter().any(|b| b.active);
        assert!(may && chosen.priority == pinned.priority, "{} serves a pool pinned to {}", chosen.name, pinned.name);
    }
    let is_down = matches!(state, PoolState::Unknown | PoolState::Down | PoolState::FailoverInProgress);
    if is_down {
        assert_eq!(policy.hold.when_down, WhenDown::UsePreferred, "{} serves while the pool is {state}", chosen.name);
        assert_eq!(chosen.admin_state, AdminState::Ready, "people took {} out", chosen.name);
        return;
    }
    assert!(chosen.eligible, "{} is not eligible", chosen.name);
    if !policy.failover.automatic {
        let active = all.iter().find(|b| b.active).map(|b| b.priority);
        assert_eq!(Some(chosen.priority), active, "a session leaves the active tier though automatic is off");
    }
}

fn question(backend: &BackendPlan) -> (String, CheckKind, Duration) {
    (backend.address.to_string(), backend.check.kind.clone(), backend.check.timeout)
}

/// All but `source-hash`, whose table takes milliseconds to lay out and is tested by itself.
const BALANCES: [Balance; 4] = [Balance::RoundRobin, Balance::LeastConnections, Balance::Random, Balance::Latency];

/// Backends may share hosts, pools may share backends, and the next plan is likely to keep some of each.
fn draw_plan(rng: &mut fastrand::Rng) -> Arc<Plan> {
    let mut pools = BTreeMap::new();
    for name in ["p", "q"].into_iter().take(rng.usize(1..=2)) {
        let automatic = rng.u8(..4) > 0;
        let failback = if rng.u8(..4) > 0 { Failback::Automatic } else { Failback::Manual };
        let mut names: Vec<&str> = ["a", "b", "c", "d", "e", "f"].into();
        rng.shuffle(&mut names);
        names.truncate(rng.usize(1..=4));
        names.sort_unstable();
        let backends = names.into_iter().map(|name| draw_backend(rng, name)).collect();
        let pool = PoolPlan {
            name: name.into(),
            kind: PoolKind::Tcp,
            balance: BALANCES[rng.usize(..BALANCES.len())],
            dial: DialPlan { connect_timeout: ms(500), connect_attempts: rng.usize(1..4), resend: Resend::Greeting },
            hold: HoldPlan { when_down: WhenDown::ALL[rng.usize(..3)], hold: ms(1000), hold_limit: 10 },
            failover: FailoverPlan {
                automatic,
                failback,
                failback_after: ms(rng.u64(0..4000)),
                sessions: draw_policies(rng),
            },
            backends,
        };
        pools.insert(PoolName::from(name), Arc::new(pool));
    }
    Arc::new(Plan {
        daemon: DaemonPlan {
            workers: 1,
            drain_timeout: ms(rng.u64(0..5000)),
            max_sessions: 0,
            relay_buffer: 65_536,
            tcp_keepalive: ms(60_000),
            store: StorePlan::default(),
        },
        admin: AdminPlan { bind: Vec::new() },
        log: LogPlan { format: LogFormat::Auto, level: LogLevel::Info },
        listeners: BTreeMap::new(),
        pools,
    })
}

fn draw_policies(rng: &mut fastrand::Rng) -> SessionPolicies {
    let mut policy = |_: OutReason| SessionPolicy::ALL[rng.usize(..3)];
    SessionPolicies {
        dead: policy(OutReason::Dead),
        unreachable: policy(OutReason::Unreachable),
        check_failed: policy(OutReason::CheckFailed),
        drained: policy(OutReason::Drained),
        failed_back: policy(OutReason::FailedBack),
    }
}

fn replaced(plan: Arc<Plan>) -> Event {
    Event::PlanReplaced { plan, actor: Actor::changeover() }
}

fn draw_backend(rng: &mut fastrand::Rng, name: &str) -> BackendPlan {
    let port = if rng.u8(..8) == 0 { 2 } else { 1 };
    let check = CheckPlan {
        kind: if rng.u8(..10) == 0 { CheckKind::None } else { CheckKind::Tcp },
        interval: if rng.u8(..4) == 0 { ms(250) } else { ms(1000) },
        timeout: if rng.u8(..8) == 0 { ms(300) } else { ms(800) },
        unhealthy_threshold: rng.u32(1..5),
        healthy_threshold: rng.u32(1..4),
        recovery_interval: (rng.u8(..4) == 0).then(|| ms(3000)),
        recovery_attempts: if rng.u8(..4) == 0 { rng.u32(1..6) } else { 0 },
        recovery_backoff: ms(rng.u64(100..2000)),
        max_latency: (rng.u8(..3) == 0).then_some(MAX_LATENCY),
    };
    let address = format!("{name}:{port}").parse().unwrap();
    let (priority, weight) = (rng.u32(1..4), rng.u32(1..=4));
    BackendPlan { name: name.into(), address, priority, weight, max_connections: 0, check, approach: Approach::PLAIN }
}

/// What a run came to: the hash of its trace, its turns and failovers.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    hash: u64,
    turns: u64,
    failovers: u64,
    orders: (u64, u64),
}

fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    let mut step = 0;
    let lived = catch_unwind(AssertUnwindSafe(|| {
        while step < STEPS {
            world.step();
            step += 1;
        }
        world.calm();
    }));
    if let Err(panic) = lived {
        let tail = world.trace.make_contiguous().join("\n");
        let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        resume_unwind(Box::new(format!("{tail}\nSIM_SEED={seed} fails at step {step}: {said}")));
    }
    Outcome { hash: world.hash.finish(), turns: world.turns, failovers: world.failovers, orders: world.orders }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn whatever_happens_the_rules_hold_and_the_pools_recover() {
    if let Some(seed) = number("SIM_SEED") {
        let lived = catch_unwind(|| run(seed));
        assert!(lived.is_ok(), "{}", lived.unwrap_err().downcast_ref::<String>().cloned().unwrap_or_default());
        return;
    }
    let seeds: Vec<u64> = KEPT.into_iter().chain(0..number("SIM_SEEDS").unwrap_or(SEEDS)).collect();
    let next = AtomicUsize::new(0);
    let live = || -> Vec<Outcome> {
        let seeds = std::iter::from_fn(|| seeds.get(next.fetch_add(1, Ordering::Relaxed)));
        seeds.map(|&seed| run(seed)).collect()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(live)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<Outcome>>| match thread.join() {
            Ok(outcomes) => outcomes,
            Err(panic) => panic!("{}", panic.downcast_ref::<String>().cloned().unwrap_or_default()),
        };
        all.into_iter().flat_map(join).collect()
    });
    assert_eq!(outcomes.len(), seeds.len());
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (turns, failovers) = (sum(|outcome| outcome.turns), sum(|outcome| outcome.failovers));
    let (done, refused) = (sum(|outcome| outcome.orders.0), sum(|outcome| outcome.orders.1));
    assert!(turns > 0 && failovers > 0, "a world in which nothing happens: {turns} turns, {failovers} failovers");
    assert!(done > 0 && refused > 0, "operators who say nothing: {done} orders carried out, {refused} refused");
}

#[test]
fn the_same_seed_is_the_same_life() {
    for seed in [1, 77, 4242] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).hash, run(2).hash);
}

#[test]
fn a_recorded_life_is_decided_the_same_again() {
    let (mut turns, mut decisions) = (0, 0);
    for seed in 0..RECORDED {
        let mut world = World::begin(seed, Some(Default::default()));
        (0..STEPS).for_each(|_| world.step());
        let (_, lines) = world.recording.take().unwrap();
        let mut replay = Replay::new(fastrand::Rng::with_seed(seed).u64(..));
        for (number, line) in lines.iter().enumerate() {
            let Ok(Line::Turn(turn)) = Line::read(line.as_bytes()) else {
                panic!("SIM_SEED={seed}, line {number}: {line}")
            };
            assert_eq!(replay.turn(turn.at, turn.event), turn.commands, "SIM_SEED={seed}, line {number}: {line}");
            decisions += turn.commands.len();
        }
        turns += lines.len();
    }
    assert!(
        turns > 10_000 && decisions > 10_000,
        "lives in which nothing happens: {turns} turns, {decisions} decisions"
    );
}
