//! Whole lives of tunnels in virtual time: programs that exit, hang, never open, say that they never will, or lead nowhere
//! though they run; targets that die; networks that change; operators and reloads; all from one seed. `SIM_SEED=N` replays one
//! run, `SIM_SEEDS=N` sets how many there are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on shall panic"
)]

use std::any::Any;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use changeover::failover::recording::{Line, Replay, Scribe};
use changeover::failover::{Change, Command, Controller, Event, Order, START_GAP, Transition, TunnelOrder};
use changeover::model::{
    Actor, AdminPlan, Advice, Approach, Attach, BackendId, BackendName, BackendPlan, BackendStatus, Balance,
    CheckError, CheckKind, CheckPlan, DaemonPlan, DialError, DialPlan, Failback, FailoverPlan, FailoverStatus,
    HoldPlan, LogPlan, MonoTime, Part, Plan, PoolKind, PoolName, PoolPlan, ProbeError, ProbeId, ProbeOutcome,
    ProbeSpec, ProgramPlan, Resend, RunEnd, RunId, SessionPolicies, SessionPolicy, StorePlan, TargetId, Text,
    TunnelNews, TunnelPlan, TunnelState, Via, WhenDown,
};

/// How many seeds a plain run tries.
const SEEDS: u64 = 1000;
/// Lives that are recorded and lived again.
const RECORDED: u64 = 30;
/// Steps of trouble in one run, before the world calms down.
const STEPS: usize = 40;
/// Lines of the trace that a failure prints.
const TAIL: usize = 80;
/// So long after the last trouble every tunnel that is wanted leads somewhere: the longest slow retry, and some to spare.
const SETTLED: Duration = Duration::from_secs(420);
/// A target is silent for so long without any tunnel being started anew.
const SILENT: Duration = Duration::from_secs(30);
/// Starts of one tunnel within a minute that nobody ordered, and that no want of our own explains: ten tries, and the last ones
/// of what was before.
const STARTS_A_MINUTE: usize = 14;
/// An order, another plan or another network may have so many tries begin anew.
const STARTS_FOR_EACH_WORD: usize = 12;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// How a program behaves that is started now, or what is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// It ends by itself after a while.
    Exits,
    /// It is open and leads nowhere: what is sent into it is never answered.
    Hangs,
    /// It is open and ends each connection at once.
    Drops,
    /// It takes long to open.
    Slow,
    NeverOpens,
    Fatal,
    NotStarted,
    PortTaken,
    Local,
}

const MOODS: [Mood; 10] = [
    Mood::Well,
    Mood::Exits,
    Mood::Hangs,
    Mood::Drops,
    Mood::Slow,
    Mood::NeverOpens,
    Mood::Fatal,
    Mood::NotStarted,
    Mood::PortTaken,
    Mood::Local,
];

/// What is on its way to the core.
#[derive(Debug, Clone)]
enum Pending {
    Answer(TargetId, ProbeId, ProbeOutcome),
    News(BackendId, RunId, TunnelNews),
}

/// A run as the hands know it.
#[derive(Debug, Clone, Copy)]
struct Run {
    run: RunId,
    is_open: bool,
    /// Whether it is to stop.
    stops: bool,
}

#[derive(Debug, Default)]
struct Account {
    starts: Vec<MonoTime>,
    /// When something happened that lets tries begin anew.
    words: Vec<MonoTime>,
    /// When it could not be started for want of something of our own.
    locals: Vec<MonoTime>,
}

struct Recorded {
    seed: u64,
    scribe: Scribe,
    lines: Vec<String>,
}

struct World {
    rng: fastrand::Rng,
    core: Controller,
    now: MonoTime,
    plan: Arc<Plan>,
    /// Which program each tunnel has by the plan, so that another plan is another one.
    version: u32,
    moods: BTreeMap<String, Mood>,
    silent: BTreeSet<String>,
    /// Direct backends that are dead.
    dead: BTreeSet<String>,
    runs: BTreeMap<BackendId, Run>,
    accounts: BTreeMap<BackendId, Account>,
    pending: BTreeMap<(MonoTime, u64), Pending>,
    sent: u64,
    open: BTreeMap<TargetId, ProbeId>,
    stopped: BTreeSet<(PoolName, BackendName)>,
    told: Vec<Transition>,
    /// Starts and stops since that was last looked at.
    acts: usize,
    turns: u64,
    trace: VecDeque<String>,
    hash: DefaultHasher,
    recorded: Option<Recorded>,
}

fn check(rng: &mut fastrand::Rng) -> CheckPlan {
    CheckPlan {
        kind: if rng.u8(..8) == 0 { CheckKind::Http(request()) } else { CheckKind::Tcp },
        interval: ms([500, 1000, 2000][rng.usize(..3)]),
        timeout: ms(1000),
        unhealthy_threshold: rng.u32(2..4),
        healthy_threshold: rng.u32(1..3),
        recovery_interval: None,
        recovery_attempts: 0,
        recovery_backoff: ms(5000),
        max_latency: None,
    }
}

fn request() -> changeover::model::HttpCheck {
    changeover::model::HttpCheck {
        method: "HEAD".to_owned(),
        path: "/".to_owned(),
        port: 0,
        expect: Vec::new(),
        authorization: None,
    }
}

fn tunnel(rng: &mut fastrand::Rng, via: Arc<Via>, version: u32) -> TunnelPlan {
    let argv = vec![Text(vec![Part::Shown("tunnel".into())]), Text(vec![Part::Shown(version.to_string().into())])];
    TunnelPlan {
        via,
        provider: "command".into(),
        program: Some(Arc::new(ProgramPlan { argv, env: Vec::new(), file: None })),
        proxy: None,
        lookup: None,
        ready: None,
        ready_timeout: ms([5000, 20_000][rng.usize(..2)]),
        fatal: Vec::new(),
        restart_after: [0, 4, 6][rng.usize(..3)],
        retry_initial: ms(500),
        retry_max: ms(30_000),
        retry_reset: ms(60_000),
        stop_grace: ms(2000),
    }
}

/// A pool of one to four tunnels to one or two targets, and perhaps direct backends; now and then a second pool.
fn draw_plan(rng: &mut fastrand::Rng, version: u32) -> Arc<Plan> {
    let mut pools = BTreeMap::new();
    for name in ["p", "q"].iter().take(1 + usize::from(rng.u8(..4) == 0)) {
        let pool = PoolName::from(*name);
        let mut backends = Vec::new();
        for number in 0..rng.usize(1..5) {
            let name = BackendName::from(format!("t{number}").as_str());
            let target = if rng.u8(..4) == 0 { "replica:5432" } else { "db:5432" };
            let via = Arc::new(Via {
                pool: pool.clone(),
                backend: name.clone(),
                attach: Attach::Listen,
                target: target.parse().unwrap(),
            });
            let plan = tunnel(rng, Arc::clone(&via), version);
            backends.push(backend(rng, name, "127.0.0.1:1", Some((via, plan))));
        }
        for number in 0..rng.usize(..3).saturating_sub(1) {
            let name = BackendName::from(format!("d{number}").as_str());
            backends.push(backend(rng, name, &format!("d{number}:5432"), None));
        }
        let sessions = SessionPolicies {
            dead: SessionPolicy::Close,
            unreachable: SessionPolicy::Close,
            demoted: SessionPolicy::Close,
            lagging: SessionPolicy::Keep,
            check_failed: SessionPolicy::Keep,
            drained: SessionPolicy::Drain,
            failed_back: SessionPolicy::Keep,
        };
        let plan = PoolPlan {
            name: pool.clone(),
            kind: PoolKind::Tcp,
            balance: Balance::RoundRobin,
            dial: DialPlan { connect_timeout: ms(2000), connect_attempts: 3, resend: Resend::Greeting },
            hold: HoldPlan { when_down: WhenDown::Hold, hold: ms(10_000), hold_limit: 100 },
            failover: FailoverPlan {
                automatic: true,
                failback: Failback::Automatic,
                failback_after: ms(3000),
                sessions,
            },
            postgres: None,
            backends,
        };
        pools.insert(pool, Arc::new(plan));
    }
    let daemon = DaemonPlan {
        workers: 0,
        drain_timeout: ms(5000),
        max_sessions: 0,
        relay_buffer: 65_536,
        tcp_keepalive: ms(60_000),
        store: StorePlan::default(),
    };
    let (admin, log) = (AdminPlan::default(), LogPlan::default());
    Arc::new(Plan { daemon, admin, log, listeners: BTreeMap::new(), pools, webhooks: BTreeMap::new() })
}

fn backend(
    rng: &mut fastrand::Rng,
    name: BackendName,
    address: &str,
    tunnel: Option<(Arc<Via>, TunnelPlan)>,
) -> BackendPlan {
    let (via, tunnel) = tunnel.map_or((None, None), |(via, plan)| (Some(via), Some(Arc::new(plan))));
    BackendPlan {
        name,
        address: address.parse().unwrap(),
        priority: rng.u32(1..4),
        weight: 1,
        max_connections: 0,
        check: check(rng),
        approach: Approach { via, ..Approach::PLAIN },
        tunnel,
    }
}

fn replaced(plan: &Arc<Plan>) -> Event {
    Event::PlanReplaced { plan: Arc::clone(plan), actor: Actor::changeover() }
}

fn failed(error: ProbeError) -> ProbeOutcome {
    ProbeOutcome::Failed { error, detail: error.label().to_owned() }
}

fn ended(how: RunEnd) -> TunnelNews {
    TunnelNews::Ended { how, detail: format!("it said {how}") }
}

impl World {
    fn new(seed: u64, is_recorded: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = draw_plan(&mut rng, 0);
        let core_seed = rng.u64(..);
        let recorded = is_recorded.then(|| Recorded { seed: core_seed, scribe: Scribe::default(), lines: Vec::new() });
        let mut world = Self {
            rng,
            core: Controller::new(core_seed),
            now: MonoTime::ZERO + ms(1),
            plan: Arc::clone(&plan),
            version: 0,
            moods: BTreeMap::new(),
            silent: BTreeSet::new(),
            dead: BTreeSet::new(),
            runs: BTreeMap::new(),
            accounts: BTreeMap::new(),
            pending: BTreeMap::new(),
            sent: 0,
            open: BTreeMap::new(),
            stopped: BTreeSet::new(),
            told: Vec::new(),
            acts: 0,
            turns: 0,
            trace: VecDeque::new(),
            hash: DefaultHasher::new(),
            recorded,
        };
        world.feed(replaced(&plan));
        world
    }

    fn note(&mut self, line: String) {
        line.hash(&mut self.hash);
        // What they come to is told besides.
        if ["Tick", "ProbeFinished", "TunnelMoved"].iter().any(|word| line.contains(word)) {
            return;
        }
        if self.trace.len() == TAIL {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// One turn, with its commands carried out and the rules checked.
    fn feed(&mut self, event: Event) -> usize {
        self.turns += 1;
        self.note(match &event {
            Event::PlanReplaced { plan, .. } => format!("{:?} PlanReplaced {:?}", self.now, plan.pools.keys()),
            other => format!("{:?} {other:?}", self.now),
        });
        let mut out = Vec::new();
        let told = self.recorded.as_ref().map(|_| event.clone());
        self.core.tell_figures(&mut |_| {});
        self.core.handle(self.now, event, &mut out);
        if let Some((Recorded { scribe, lines, .. }, event)) = self.recorded.as_mut().zip(told) {
            lines.push(scribe.line(self.now, &event, &out).unwrap());
        }
        let count = out.len();
        let mut has_reported = false;
        for command in out {
            match &command {
                Command::Report(_) => has_reported = true,
                Command::PublishTable(_) | Command::FenceSessions { .. } => {
                    assert!(!has_reported, "a table or a fence after a report");
                }
                _ => {}
            }
            self.carry_out(command);
        }
        // Turns in which nothing is done are many, and look alike.
        if count > 1 || self.turns.is_multiple_of(16) {
            self.core.check_invariants().unwrap_or_else(|broken| panic!("{broken}"));
        }
        assert!(self.core.next_deadline().is_none_or(|at| at > self.now), "it wants to be woken in the past");
        count
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::StartTunnel { backend, run, plan } => self.start(backend, run, &plan),
            Command::StopTunnel { backend } => self.stop(backend),
            Command::StartProbe { target, probe, spec } => self.ask(target, probe, &spec),
            Command::StopProbe { target } => drop(self.open.remove(&target)),
            Command::Report(transition) => {
                self.note(format!("  {}", transition.change));
                self.told.push(transition);
            }
            _ => {}
        }
    }

    fn later(&mut self, wait: Duration, what: Pending) {
        self.sent += 1;
        self.pending.insert((self.now + wait, self.sent), what);
    }

    fn start(&mut self, backend: BackendId, run: RunId, plan: &TunnelPlan) {
        let name = (plan.via.pool.clone(), plan.via.backend.clone());
        self.note(format!("  start {name:?} {run}"));
        assert!(!self.stopped.contains(&name), "{name:?} is started though an operator has stopped it");
        let before = self.runs.get(&backend).copied();
        assert!(before.is_none_or(|before| before.stops), "{name:?} has a run already: {before:?}");
        self.acts += 1;
        let account = self.accounts.entry(backend).or_default();
        assert!(
            account.starts.last().is_none_or(|last| self.now.since(*last) >= START_GAP),
            "{name:?} is started twice"
        );
        account.starts.push(self.now);
        let recent = |all: &[MonoTime]| all.iter().filter(|at| self.now.since(**at) <= ms(60_000)).count();
        let may = STARTS_A_MINUTE + STARTS_FOR_EACH_WORD * recent(&account.words) + recent(&account.locals);
        let starts = recent(&account.starts);
        assert!(starts <= may, "{name:?} is started {starts} times in a minute");
        self.runs.insert(backend, Run { run, is_open: false, stops: false });
        let mood = self.moods.get(name.1.as_str()).copied().unwrap_or(Mood::Well);
        let news = |news| Pending::News(backend, run, news);
        let began = ms(self.rng.u64(1..20));
        match mood {
            Mood::NotStarted => return self.later(began, news(ended(RunEnd::NotStarted))),
            Mood::PortTaken => return self.later(began, news(ended(RunEnd::PortTaken))),
            Mood::Local => return self.later(began, news(ended(RunEnd::Local))),
            _ => {}
        }
        self.later(began, news(TunnelNews::Started { pid: 1 + u32::try_from(run.0).unwrap() }));
        let open = began + ms(self.rng.u64(1..800));
        match mood {
            Mood::NeverOpens => {}
            Mood::Fatal => self.later(open, news(TunnelNews::Fatal { line: "denied".to_owned() })),
            Mood::Slow => {
                let open = ms(self.rng.u64(1000..30_000));
                self.later(open, news(TunnelNews::Open));
            }
            _ => self.later(open, news(TunnelNews::Open)),
        }
        if mood == Mood::Exits {
            let end = began + ms(self.rng.u64(1..6000));
            self.later(end, news(TunnelNews::Lost { detail: "the last words".to_owned() }));
            let cleared = end + ms(self.rng.u64(1..300));
            self.later(cleared, news(ended(RunEnd::Exited)));
        }
    }

    fn stop(&mut self, backend: BackendId) {
        self.acts += 1;
        let Some(run) = self.runs.get_mut(&backend).filter(|run| !run.stops) else { return };
        (run.stops, run.is_open) = (true, false);
        let run = run.run;
        let wait = ms(self.rng.u64(1..2500));
        self.later(wait, Pending::News(backend, run, ended(RunEnd::Stopped)));
    }

    fn ask(&mut self, target: TargetId, probe: ProbeId, spec: &ProbeSpec) {
        self.open.insert(target, probe);
        let quick = ms(self.rng.u64(1..30));
        let passed = ProbeOutcome::Passed { latency: quick, advice: Advice::default() };
        let (wait, outcome) = match &spec.approach.via {
            None if self.dead.contains(&spec.address.host()) => (quick, failed(ProbeError::Dial(DialError::Refused))),
            None => (quick, passed),
            Some(via) => {
                let id = self.id_of(&via.pool, &via.backend);
                let is_open = id.and_then(|id| self.runs.get(&id)).is_some_and(|run| run.is_open);
                let mood = self.moods.get(via.backend.as_str()).copied().unwrap_or(Mood::Well);
                match mood {
                    _ if !is_open => (quick, failed(ProbeError::Dial(DialError::Refused))),
                    Mood::Hangs => (spec.timeout, failed(ProbeError::Check(CheckError::AnswerTimedOut))),
                    Mood::Drops => (quick, failed(ProbeError::Check(CheckError::ClosedEarly))),
                    _ if self.silent.contains(&via.target.to_string()) => {
                        (quick, failed(ProbeError::Check(CheckError::ClosedEarly)))
                    }
                    _ => (quick, passed),
                }
            }
        };
        self.later(wait, Pending::Answer(target, probe, outcome));
    }

    fn id_of(&self, pool: &PoolName, backend: &BackendName) -> Option<BackendId> {
        self.core.backends().find(|(_, p, b, _)| *p == pool && *b == backend).map(|(id, ..)| id)
    }

    /// Lets time pass with all that is on its way.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let pending = self.pending.first_key_value().map(|(&(at, _), _)| at);
            let Some(next) = pending.into_iter().chain(self.core.next_deadline()).min().filter(|&at| at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if pending != Some(next) {
                self.feed(Event::Tick);
                continue;
            }
            let (_, what) = self.pending.pop_first().unwrap();
            match what {
                Pending::Answer(target, probe, outcome) => {
                    if self.open.get(&target) == Some(&probe) {
                        self.open.remove(&target);
                    }
                    let is_bad = matches!(outcome, ProbeOutcome::Failed { .. });
                    let asked = self.core.subscribers(target).to_vec();
                    let told: Vec<BackendId> =
                        asked.into_iter().filter(|id| is_bad && self.runs.contains_key(id)).collect();
                    for backend in told {
                        let moved = u64::from(self.rng.u8(..3));
                        self.feed(Event::TunnelMoved { backend, moved });
                    }
                    self.feed(Event::ProbeFinished { target, probe, outcome });
                }
                Pending::News(backend, run, news) => self.news(backend, run, news),
            }
        }
        self.now = end;
    }

    /// A run tells something, as far as it is there to do so; or an older one does, of which nobody hears.
    fn news(&mut self, backend: BackendId, run: RunId, news: TunnelNews) {
        let present = self.runs.get(&backend).copied();
        if present.is_none_or(|present| present.run != run) {
            self.feed(Event::Tick);
            let before = self.core.pool_statuses(self.now);
            let done = self.feed(Event::Tunnel { backend, run, news });
            assert_eq!((done, before), (0, self.core.pool_statuses(self.now)), "an older run's news have an effect");
            return;
        }
        let stops = present.is_some_and(|present| present.stops);
        match &news {
            TunnelNews::Open if stops => return,
            TunnelNews::Open => self.runs.get_mut(&backend).into_iter().for_each(|run| run.is_open = true),
            TunnelNews::Ended { how, .. } => {
                if *how == RunEnd::Local {
                    self.accounts.entry(backend).or_default().locals.push(self.now);
                }
                self.runs.remove(&backend);
            }
            TunnelNews::Lost { .. } if stops => return,
            // What is left of it is cleared away from now on.
            TunnelNews::Lost { .. } => {
                let lost = self.runs.get_mut(&backend).into_iter();
                lost.for_each(|run| (run.is_open, run.stops) = (false, true));
            }
            TunnelNews::Started { .. } | TunnelNews::Fatal { .. } => {}
        }
        let cannot_begin = !stops && matches!(news, TunnelNews::Ended { how: RunEnd::NotStarted, .. });
        let has_begun = matches!(news, TunnelNews::Started { .. });
        self.tell(backend, run, news);
        let found = self.tunnels().into_iter().find(|(_, known)| known.id == backend);
        // One that another plan has taken out is nobody's.
        if let Some((_, found)) = found.filter(|_| cannot_begin || has_begun) {
            let tunnel = found.tunnel.unwrap();
            let is_missing = tunnel.reason == Some(format!("it said {}", RunEnd::NotStarted));
            assert_eq!(is_missing, cannot_begin, "whether it could be started is not told: {tunnel:?}");
            assert!(!cannot_begin || tunnel.state == TunnelState::Failed, "it cannot be started: {tunnel:?}");
        }
    }

    fn tell(&mut self, backend: BackendId, run: RunId, news: TunnelNews) {
        self.feed(Event::Tunnel { backend, run, news });
    }

    /// Something that lets tries begin anew.
    fn word(&mut self, backend: Option<BackendId>) {
        let ids: Vec<BackendId> = self.core.backends().map(|(id, ..)| id).collect();
        for id in ids.into_iter().filter(|id| backend.is_none_or(|only| only == *id)) {
            self.accounts.entry(id).or_default().words.push(self.now);
        }
    }

    fn order(&mut self) {
        let all: Vec<_> = self.core.backends().map(|(id, pool, name, _)| (id, pool.clone(), name.clone())).collect();
        let Some((id, pool, backend)) = self.rng.choice(all) else { return };
        let wanted = [TunnelOrder::Start, TunnelOrder::Stop, TunnelOrder::Restart][self.rng.usize(..3)];
        self.feed(Event::Tick);
        let order = Order::Tunnel { pool: pool.clone(), backend: backend.clone(), wanted };
        let is_refused = self.core.refusal(self.now, &order).is_some();
        if !is_refused {
            self.word(Some(id));
            match wanted {
                TunnelOrder::Stop => drop(self.stopped.insert((pool, backend))),
                TunnelOrder::Start | TunnelOrder::Restart => drop(self.stopped.remove(&(pool, backend))),
            }
        }
        let done = self.feed(Event::Ordered { actor: Actor::from("ops"), order });
        assert!(!is_refused || done == 0, "a refused order does something");
    }

    fn reload(&mut self) {
        self.version += u32::from(self.rng.bool());
        let plan = match self.rng.u8(..3) {
            0 => draw_plan(&mut self.rng, self.version),
            1 => {
                // The same, but for what tunnels run.
                let mut plan = (*self.plan).clone();
                for pool in plan.pools.values_mut() {
                    for backend in &mut Arc::make_mut(pool).backends {
                        let Some(tunnel) = &mut backend.tunnel else { continue };
                        let text = Text(vec![Part::Shown(self.version.to_string().into())]);
                        let program = ProgramPlan { argv: vec![text], env: Vec::new(), file: None };
                        Arc::make_mut(tunnel).program = Some(Arc::new(program));
                    }
                }
                Arc::new(plan)
            }
            _ => Arc::clone(&self.plan),
        };
        let tunnels: BTreeSet<(PoolName, BackendName)> = plan
            .pools
            .values()
            .flat_map(|pool| {
                pool.backends.iter().filter(|b| b.tunnel.is_some()).map(|b| (pool.name.clone(), b.name.clone()))
            })
            .collect();
        self.stopped.retain(|name| tunnels.contains(name));
        self.plan = Arc::clone(&plan);
        self.word(None);
        self.feed(replaced(&plan));
    }

    fn step(&mut self) {
        let tunnel = format!("t{}", self.rng.u8(..4));
        match self.rng.u8(..40) {
            0..14 => {
                let mood = MOODS[self.rng.usize(..MOODS.len())];
                self.note(format!("{tunnel} is {mood:?}"));
                self.moods.insert(tunnel, mood);
                if self.rng.bool() {
                    self.end_one();
                }
            }
            14..17 => self.end_one(),
            17..20 => {
                let target = ["db:5432", "replica:5432"][self.rng.usize(..2)].to_owned();
                self.note(format!("{target} turns"));
                if !self.silent.remove(&target) {
                    self.silent.insert(target);
                }
            }
            20 => {
                let host = format!("d{}", self.rng.u8(..2));
                if !self.dead.remove(&host) {
                    self.dead.insert(host);
                }
            }
            21 => {
                self.word(None);
                self.feed(Event::WorldChanged { what: "a route".to_owned() });
            }
            22..24 => self.order(),
            24 => self.reload(),
            25 => {
                let since = self.now;
                self.now = self.now + ms(self.rng.u64(200..9000));
                self.feed(Event::WasStalled { since });
            }
            26..34 => {
                let time = ms(self.rng.u64(1..3000));
                self.pass(time);
            }
            _ => {
                let time = ms(self.rng.u64(1000..20_000));
                self.pass(time);
            }
        }
    }

    /// A program that runs ends.
    fn end_one(&mut self) {
        let all: Vec<(BackendId, Run)> = self.runs.iter().map(|(id, run)| (*id, *run)).collect();
        let Some((id, run)) = self.rng.choice(all).filter(|(_, run)| !run.stops) else { return };
        self.runs.remove(&id);
        self.tell(id, run.run, ended(RunEnd::Exited));
    }

    fn tunnels(&self) -> Vec<(PoolName, BackendStatus)> {
        let pools = self.core.pool_statuses(self.now);
        let of = |pool: changeover::model::PoolStatus| {
            let name = pool.name.clone();
            pool.backends.into_iter().map(move |backend| (name.clone(), backend))
        };
        pools.into_iter().flat_map(of).filter(|(_, backend)| backend.tunnel.is_some()).collect()
    }

    /// Nothing is wrong any more: each tunnel that is wanted leads somewhere before long, and what is stopped stays so.
    fn calm(&mut self) {
        self.note("calm".to_owned());
        self.moods.clear();
        self.silent.clear();
        self.dead.clear();
        // Those that never open stay so: they are found out. None ends by itself any more but those that are about to have ended.
        let lost = |what: &Pending| match what {
            Pending::News(backend, run, TunnelNews::Lost { .. }) => Some((*backend, *run)),
            _ => None,
        };
        let spared: BTreeSet<(BackendId, RunId)> = self.pending.values().filter_map(lost).collect();
        self.pending.retain(|_, what| match what {
            Pending::News(_, _, TunnelNews::Lost { .. } | TunnelNews::Fatal { .. }) => false,
            Pending::News(backend, run, TunnelNews::Ended { how: RunEnd::Exited, .. }) => {
                !spared.contains(&(*backend, *run))
            }
            _ => true,
        });
        let end = self.now + SETTLED;
        let is_settled = |world: &Self| {
            world.tunnels().iter().all(|(pool, backend)| {
                let is_stopped = world.stopped.contains(&(pool.clone(), backend.name.clone()));
                let expected = if is_stopped { TunnelState::Disconnected } else { TunnelState::Connected };
                backend.tunnel.as_ref().unwrap().state == expected
            })
        };
        while !is_settled(self) {
            assert!(self.now < end, "{:#?}", self.tunnels());
            self.pass(ms(1000));
        }
        self.pass(ms(8000));
        assert!(is_settled(self), "it does not last");
        for pool in self.core.pool_statuses(self.now) {
            assert!(pool.backends.iter().all(|backend| backend.eligible != backend.reason.contains("stopped")));
        }
    }

    /// What tunnels lead to dies behind all of them, and nothing is wrong with any of them.
    fn silence(&mut self) {
        self.note("silence".to_owned());
        // One that is reached directly and healthy would be a proof that it is the tunnels.
        self.dead.extend(["d0".to_owned(), "d1".to_owned()]);
        self.pass(ms(8000));
        let before = self.told.len();
        self.silent.extend(["db:5432".to_owned(), "replica:5432".to_owned()]);
        self.acts = 0;
        self.pass(SILENT);
        assert_eq!(self.acts, 0, "tunnels are started or stopped because what they lead to is down");
        let plan = Arc::clone(&self.plan);
        let target = |pool: &PoolName, name: &BackendName| {
            let backend = plan.pools[pool].backends.iter().find(|backend| backend.name == *name)?;
            Some(backend.tunnel.as_ref()?.via.target.clone())
        };
        for Transition { pool, change, .. } in &self.told[before..] {
            let Change::PoolFailover { status: FailoverStatus::Completed, from, to, .. } = change else { continue };
            let of = |names: &[BackendName]| -> BTreeSet<_> {
                names.iter().filter_map(|name| target(pool.as_ref().unwrap(), name)).collect()
            };
            assert!(of(from).is_disjoint(&of(to)), "from one tunnel to the next: {change}");
        }
        self.silent.clear();
        self.dead.clear();
        self.pass(ms(20_000));
        assert_eq!(self.acts, 0, "tunnels are started or stopped though all is well again");
        for (pool, backend) in self.tunnels() {
            let is_stopped = self.stopped.contains(&(pool, backend.name.clone()));
            assert!(is_stopped || backend.tunnel.as_ref().unwrap().state == TunnelState::Connected, "{backend:#?}");
        }
    }
}

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    hash: u64,
    turns: u64,
    starts: usize,
    failed: usize,
    target_downs: usize,
    orders: usize,
}

fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed, false);
    let mut step = 0;
    let lived = catch_unwind(AssertUnwindSafe(|| {
        while step < STEPS {
            world.step();
            step += 1;
        }
        world.calm();
        world.silence();
    }));
    if let Err(panic) = lived {
        let tail = world.trace.make_contiguous().join("\n");
        std::panic::resume_unwind(Box::new(format!(
            "{tail}\nSIM_SEED={seed} fails at step {step}: {}",
            words(&*panic)
        )));
    }
    let count = |kind: &str| world.told.iter().filter(|told| told.change.kind() == kind).count();
    let is_note = |told: &&Transition| matches!(&told.change, Change::PoolDown { note: Some(_), .. });
    Outcome {
        hash: world.hash.finish(),
        turns: world.turns,
        starts: world.accounts.values().map(|account| account.starts.len()).sum(),
        failed: count("tunnel.failed"),
        target_downs: world.told.iter().filter(is_note).count(),
        orders: count("tunnel.disconnected"),
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    panic.downcast_ref::<String>().cloned().or(text).unwrap_or_default()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn whatever_befalls_tunnels_the_rules_hold_and_all_lead_somewhere_in_the_end() {
    if let Some(seed) = number("SIM_SEED") {
        let lived = catch_unwind(|| run(seed));
        assert!(lived.is_ok(), "{}", words(&*lived.unwrap_err()));
        return;
    }
    let seeds: Vec<u64> = (0..number("SIM_SEEDS").unwrap_or(SEEDS)).collect();
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
            Err(panic) => panic!("{}", words(&*panic)),
        };
        all.into_iter().flat_map(join).collect()
    });
    assert_eq!(outcomes.len(), seeds.len());
    type Count = fn(&Outcome) -> usize;
    let counts: [(&str, Count); 4] = [
        ("starts", |o| o.starts),
        ("tunnels that have failed", |o| o.failed),
        ("targets down", |o| o.target_downs),
        ("tunnels stopped by order", |o| o.orders),
    ];
    for (what, of) in counts {
        let sum: usize = outcomes.iter().map(of).sum();
        assert!(sum > 0, "no {what} in {} lives", seeds.len());
        println!("{what}: {sum}");
    }
}

#[test]
fn the_same_seed_is_the_same_life() {
    for seed in [1, 77, 4242] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).hash, run(2).hash);
}

#[test]
fn a_recorded_life_of_tunnels_is_decided_the_same_again() {
    let (mut turns, mut decisions) = (0, 0);
    for seed in 0..RECORDED {
        let mut world = World::new(seed, true);
        (0..STEPS).for_each(|_| world.step());
        let Recorded { seed: given, lines, .. } = world.recorded.take().unwrap();
        let mut replay = Replay::new(given);
        for (number, line) in lines.iter().enumerate() {
            let Ok(Line::Turn(turn)) = Line::read(line.as_bytes()) else {
                panic!("SIM_SEED={seed}, line {number}: {line}")
            };
            assert_eq!(replay.turn(turn.at, turn.event), turn.commands, "SIM_SEED={seed}, line {number}: {line}");
            decisions += turn.commands.len();
        }
        turns += lines.len();
    }
    assert!(turns > 1000 && decisions > 1000, "lives in which nothing happens: {turns} turns, {decisions} decisions");
}
