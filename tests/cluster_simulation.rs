//! Whole lives of PostgreSQL clusters in virtual time: servers that die, freeze, come back as they were and are promoted by
//! somebody else, sometimes two at once; monitors whose news come late or not at all; operators; and a daemon that stalls and
//! restarts. What is true is known here, and the core is held to it. `SIM_SEED=N` replays one life, `SIM_SEEDS=N` sets how many.
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
use changeover::failover::{
    Arrival, Change, Command, Controller, Event, KEPT_WITHIN, Lineage, Order, PoolMemory, Route, RouteTable, Sessions,
};
use changeover::model::{
    Actor, Address, AdminPlan, AdminState, Advice, Approach, BackendId, BackendName, BackendPlan, BackendStatus,
    Balance, CheckKind, CheckPlan, DaemonPlan, DialError, DialPlan, Epoch, Failback, FailoverPlan, Fork, HealthState,
    HoldPlan, LogPlan, LoginError, Lsn, MonoTime, Plan, PoolKind, PoolName, PoolPlan, PoolStatus, PostgresPlan,
    ProbeError, ProbeId, ProbeOutcome, Promotion, Resend, Role, ServerFacts, SessionPolicies, SessionPolicy, StorePlan,
    SystemId, Target, TargetId, Timeline, TlsMode, WatchEnd, WatchError, WatchId, WatchNews, WatchSession, WhenDown,
};

/// How many seeds a plain run tries.
const SEEDS: u64 = 2000;
/// Seeds that have found something once.
const KEPT: [u64; 5] = [2447, 3371, 4959, 6312, 7182];
/// Lives that are recorded and lived again.
const RECORDED: u64 = 30;
/// Steps of trouble in one life, before the world calms down.
const STEPS: usize = 60;
/// Lines of the trace that a failure prints.
const TAIL: usize = 80;
/// For so long a server's first word is waited for.
const CHECK_TIMEOUT: Duration = ms(1000);
/// Within so long after the end of all trouble the one primary is served from.
const BOUND: Duration = Duration::from_secs(10);

const MIB: u64 = 1 << 20;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn pool() -> PoolName {
    PoolName::from("pg")
}

/// What is true of a server.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Process {
    Up,
    Dead,
    Frozen,
    /// It accepts, and takes no sessions.
    Stopping,
}

#[derive(Debug, Clone)]
struct Truth {
    process: Process,
    /// Grows with each start.
    life: u64,
    role: Role,
    timeline: u32,
    history: Vec<Fork>,
    at: u64,
    /// Whether it lets the monitor in.
    denies: bool,
    /// Whether it was put back to an older state, so that nothing that was heard of it before says what it is.
    restored: bool,
    /// It waits for its clients to go, and turns others away.
    is_shut: bool,
}

impl Truth {
    fn facts(&self) -> ServerFacts {
        let replayed = (self.role == Role::Standby).then_some(Lsn(self.at));
        let (system, timeline) = (Some(SystemId(9)), Some(Timeline(self.timeline)));
        let history = self.history.clone().into();
        ServerFacts { system, timeline, role: self.role, written: Some(Lsn(self.at)), replayed, history }
    }

    fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }

    /// Somebody promotes it: a line of the next number begins where it is.
    fn promote(&mut self, timeline: u32) {
        self.history.push(Fork { timeline: Timeline(self.timeline), at: Lsn(self.at) });
        (self.timeline, self.role) = (timeline, Role::Primary);
    }

    /// Somebody puts an old state back.
    fn restore(&mut self, backup: &Self) {
        (self.timeline, self.role, self.at) = (backup.timeline, backup.role, backup.at);
        self.history.clone_from(&backup.history);
        self.restored = true;
    }

    /// Made anew from `primary`, or just follows it.
    fn follow(&mut self, primary: &Self) {
        (self.timeline, self.role, self.at) = (primary.timeline, Role::Standby, primary.at);
        self.history.clone_from(&primary.history);
    }
}

/// A monitor of one server.
#[derive(Debug)]
struct Monitor {
    watch: WatchId,
    server: String,
    /// The life of the server that its session is with.
    session: Option<u64>,
    late_since: Option<MonoTime>,
    /// Whether it has told that others are turned away.
    is_shut: bool,
    next: MonoTime,
    /// What it tells comes in order.
    told_until: MonoTime,
    seen: Option<ServerFacts>,
}

/// A client's, with one life of a server: it ends when that does.
#[derive(Debug)]
struct Session {
    backend: BackendId,
    epoch: Epoch,
    server: String,
    life: u64,
    /// It was led to whom those who write are led to.
    writes: bool,
    /// Its server has not answered yet.
    opens: bool,
}

struct World {
    rng: fastrand::Rng,
    /// What gives servers other names and addresses; none in a life in which each keeps its own.
    spelling: Option<fastrand::Rng>,
    core: Controller,
    now: MonoTime,
    plan: Arc<Plan>,
    table: Arc<RouteTable>,
    servers: BTreeMap<String, Truth>,
    /// What is on its way to the core.
    mail: BTreeMap<(MonoTime, u64), Event>,
    sent: u64,
    monitors: BTreeMap<BackendId, Monitor>,
    /// The server of each backend that ever was, whatever it is called.
    names: BTreeMap<BackendId, String>,
    /// The fences of those that are there, and of those that write and have not begun.
    fences: BTreeMap<BackendId, [Epoch; 2]>,
    sessions: Vec<Session>,
    /// What the core was told last that each server is, by whatever name.
    told: BTreeMap<String, Role>,
    /// Until when the first words of those that live are waited for, if nobody was written to since this process began.
    first_until: Option<MonoTime>,
    /// Those at whose address nobody listened.
    unheard: BTreeSet<BackendId>,
    /// Whom clients that write were sent to last.
    written: Option<String>,
    /// Whether anybody has said anything since, or need not.
    is_free: bool,
    /// The highest timeline that clients that write were ever sent to.
    routed: u32,
    /// What was heard last of who clients that write were sent to.
    served: Option<(String, ServerFacts)>,
    /// Who was announced as the primary in this turn.
    announced: Option<String>,
    /// How much people were told that was lost since.
    told_lost: u64,
    /// What each server said last.
    said: BTreeMap<BackendId, ServerFacts>,
    /// Old states of servers.
    backups: Vec<Truth>,
    /// All standbys keep up with their primary.
    keeps_up: bool,
    /// How often what was written was lost, and people were told.
    losses: u64,
    /// What of that is on disk.
    on_disk: Option<Lineage>,
    /// What the disk has not answered yet, and since when it was asked.
    unkept: Option<(Lineage, MonoTime)>,
    /// The disk does not answer.
    is_stuck: bool,
    /// Whether every plan so far has had the writing sessions of who is demoted closed.
    always_cut: bool,
    /// How often news is lost, in a hundred.
    loss: u8,
    turns: u64,
    moves: u64,
    splits: u64,
    restarts: u64,
    is_traced: bool,
    trace: VecDeque<String>,
    hash: DefaultHasher,
    recording: Option<(Scribe, Vec<String>)>,
}

impl World {
    fn new(seed: u64, recording: Option<(Scribe, Vec<String>)>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let core = Controller::new(rng.u64(..));
        let count = rng.usize(2..=4);
        let plan = draw_plan(&mut rng, count);
        let first = Truth {
            process: Process::Up,
            life: 1,
            role: Role::Standby,
            timeline: 1,
            history: Vec::new(),
            at: 100,
            denies: false,
            restored: false,
            is_shut: false,
        };
        let mut servers: BTreeMap<String, Truth> =
            NAMES.iter().map(|name| ((*name).to_owned(), first.clone())).collect();
        let primary = NAMES[rng.usize(..count)];
        servers.get_mut(primary).unwrap().role = Role::Primary;
        let loss = if rng.bool() { 0 } else { rng.u8(..10) };
        let table = Arc::clone(core.table());
        let spelling = seed.is_multiple_of(2).then(|| fastrand::Rng::with_seed(seed));
        let mut world = Self {
            rng,
            spelling,
            core,
            now: MonoTime::ZERO + ms(1),
            plan: Arc::clone(&plan),
            table,
            servers,
            mail: BTreeMap::new(),
            sent: 0,
            monitors: BTreeMap::new(),
            names: BTreeMap::new(),
            fences: BTreeMap::new(),
            sessions: Vec::new(),
            told: BTreeMap::new(),
            first_until: Some(MonoTime::ZERO + CHECK_TIMEOUT),
            unheard: BTreeSet::new(),
            written: None,
            is_free: true,
            routed: 0,
            served: None,
            announced: None,
            told_lost: 0,
            said: BTreeMap::new(),
            backups: Vec::new(),
            keeps_up: false,
            losses: 0,
            on_disk: None,
            unkept: None,
            is_stuck: false,
            always_cut: true,
            loss,
            turns: 0,
            moves: 0,
            splits: 0,
            restarts: 0,
            is_traced: false,
            trace: VecDeque::new(),
            hash: DefaultHasher::new(),
            recording,
        };
        world.replan(plan);
        world
    }

    /// Keeps a line for people, if they want to see this life.
    fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if !self.is_traced {
            return;
        }
        let line = line(self);
        if self.trace.len() == TAIL {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    fn replan(&mut self, plan: Arc<Plan>) {
        self.always_cut &= plan.pools[&pool()].failover.sessions.demoted == SessionPolicy::Close;
        self.plan = Arc::clone(&plan);
        self.is_free = true;
        self.feed(replaced(plan));
    }

    /// One turn, with its commands carried out and all rules checked.
    fn feed(&mut self, event: Event) {
        self.turns += 1;
        (self.turns, self.now).hash(&mut self.hash);
        if let Event::LineageKept { lineage, .. } = &event
            && self.unkept.as_ref().is_some_and(|(of, _)| of == lineage)
        {
            self.on_disk = self.unkept.take().map(|(lineage, _)| lineage);
        }
        // What a monitor tells that was replaced meanwhile is not heard.
        if let Event::Watched { backend, watch, news: WatchNews::Opened(facts) | WatchNews::Seen(facts) } = &event
            && self.monitors.get(backend).is_some_and(|monitor| monitor.watch == *watch)
        {
            self.said.insert(*backend, facts.clone());
        }
        self.note(|world| match &event {
            Event::PlanReplaced { .. } => format!("{:?} PlanReplaced", world.now),
            Event::Watched { backend, news, .. } => {
                format!("{:?} {}: {news:?}", world.now, world.names.get(backend).map_or("", String::as_str))
            }
            other => format!("{:?} {other:?}", world.now),
        });
        self.hear(&event);
        self.hear_refusal(&event);
        self.is_free |= matches!(event, Event::Ordered { .. });
        let replaced = matches!(event, Event::PlanReplaced { .. });
        let mut out = Vec::new();
        let copy = self.recording.as_ref().map(|_| event.clone());
        self.core.tell_figures(&mut |_| {});
        self.core.handle(self.now, event, &mut out);
        if let Some(((scribe, lines), event)) = self.recording.as_mut().zip(copy) {
            lines.push(scribe.line(self.now, &event, &out).unwrap());
        }
        if replaced {
            let backends = &self.plan.pools[&pool()].backends;
            let server = |name: &BackendName| backends.iter().find(|of| of.name == *name).map(server_of).unwrap();
            self.names.extend(self.core.backends().map(|(id, _, name, _)| (id, server(name))));
        }
        let is_news =
            out.iter().any(|command| !matches!(command, Command::StartProbe { .. } | Command::StopProbe { .. }));
        for command in out {
            self.carry_out(command);
        }
        assert!(Arc::ptr_eq(&self.table, self.core.table()), "the table decided was not published");
        self.core.check_invariants().unwrap_or_else(|broken| panic!("{broken}"));
        assert!(self.core.next_deadline().is_none_or(|at| at > self.now), "it wants to be woken in the past");
        if is_news {
            self.check_first();
            self.check_lineage();
            self.check_losses();
            self.check_evidence();
        }
        self.check_follow();
        self.check_writers(&Arc::clone(&self.table));
    }

    /// Takes note of what the core is told that a server is.
    fn hear(&mut self, event: &Event) {
        let Event::Watched { backend, watch, news: WatchNews::Opened(facts) | WatchNews::Seen(facts) } = event else {
            return;
        };
        if self.monitors.get(backend).is_some_and(|monitor| monitor.watch == *watch) {
            self.told.insert(self.names[backend].clone(), facts.role);
        }
    }

    /// Takes note of where nobody listens.
    fn hear_refusal(&mut self, event: &Event) {
        if let Event::Watched {
            backend,
            news: WatchNews::Failed { error: WatchError::Dial(DialError::Refused), .. },
            ..
        } = event
        {
            self.unheard.insert(*backend);
        }
    }

    /// Nobody is written to at first while a server lives that may say soon that it is the newer primary.
    fn check_first(&mut self) {
        let Some(until) = self.first_until.filter(|_| self.target().is_some()) else { return };
        self.first_until = None;
        let status = self.status();
        if status.pinned.is_some() || self.now >= until {
            return;
        }
        let owes = |backend: &&BackendStatus| {
            let has_spoken = backend.server.as_ref().is_some_and(|server| server.timeline.is_some());
            let is_silent = !has_spoken && !self.unheard.contains(&backend.id);
            is_silent && backend.admin_state == AdminState::Ready && backend.health != HealthState::Unhealthy
        };
        let awaited = status.backends.iter().find(owes);
        assert!(awaited.is_none(), "clients write, and what this one is was not heard yet: {awaited:?}");
    }

    /// Whether the session can write, whatever it came for, and the core could know.
    fn can_write(&self, session: &Session) -> bool {
        let Session { server, life, .. } = session;
        let truth = &self.servers[server];
        let goes_on = truth.life == *life && matches!(truth.process, Process::Up | Process::Frozen);
        goes_on && truth.is_primary() && self.told.get(server) == Some(&Role::Primary)
    }

    /// While those who write are led to one server, nobody can write at another one.
    fn check_writers(&self, table: &RouteTable) {
        let Some((target, _)) = write_target(table).filter(|_| self.always_cut) else { return };
        let name = &self.names[&target];
        // A server that has another name or another address now is the same.
        let stray = self.sessions.iter().find(|session| session.server != *name && self.can_write(session));
        assert!(stray.is_none(), "{name} is the write target, and another one is written to: {stray:?}");
    }

    /// Nobody becomes the primary while a standby lives that shows that another one was promoted from there.
    fn check_evidence(&mut self) {
        let Some(name) = self.announced.take() else { return };
        let (status, lineage) = (self.status(), self.core.memory(&pool()).unwrap().lineage);
        if status.pinned.is_some() {
            return;
        }
        let id = status.backends.iter().find(|backend| backend.name.as_str() == name).unwrap().id;
        let own = &self.said[&id];
        for other in &status.backends {
            let follows = other.server.as_ref().is_some_and(|of| of.role == Some(Role::Standby));
            let counts = other.health == HealthState::Healthy && other.admin_state == AdminState::Ready;
            if !(follows && counts) {
                continue;
            }
            let facts = &self.said[&other.id];
            let left = facts.history.iter().any(|fork| Some(fork.timeline) == own.timeline);
            let comes_from_it = left && own.history.iter().all(|fork| facts.history.contains(fork));
            let is_out = lineage.as_ref().is_some_and(|of| is_rejected(of, facts));
            assert!(!comes_from_it || is_out, "{name} is the primary, and {} follows a newer one", other.name);
        }
    }

    /// Nothing that was heard to be written is left behind in silence, but by a person's order; and nobody takes over what
    /// he lacks without a promotion.
    fn check_losses(&mut self) {
        if self.status().pinned.is_some() {
            // A person has said so, perhaps while clients wait.
            self.served = None;
        }
        let Some((id, _)) = self.target() else { return };
        let now = self.said[&id].clone();
        let server = &self.names[&id];
        let before = self.served.replace((server.clone(), now.clone()));
        let told = std::mem::take(&mut self.told_lost);
        let Some((last, before)) = before else { return };
        let is_same = before.timeline == now.timeline && before.history == now.history;
        let left = now.history.iter().find(|fork| Some(fork.timeline) == before.timeline);
        let end = if is_same { now.written } else { left.map(|fork| fork.at) };
        let lost = before.written.unwrap().since(end.expect("it comes from nowhere"));
        assert!(!is_same || last == *server || lost == 0, "{server} was never promoted, and lacks {lost}");
        // A crash may leave out a little.
        let is_told = told >= lost || (is_same && lost <= 16 * MIB);
        assert!(is_told, "{server} lacks {lost} bytes of {before:?}, and {told} were told");
        self.losses += u64::from(lost > 0);
    }

    fn status(&self) -> PoolStatus {
        self.core.pool_status(self.now, &pool()).unwrap()
    }

    fn target(&self) -> Option<(BackendId, Epoch)> {
        write_target(&self.table)
    }

    /// Without automatic failover nobody who writes is sent to another server unless a person has said something.
    fn check_follow(&mut self) {
        let Some((target, _)) = self.target() else { return };
        let name = &self.names[&target];
        if self.written.as_ref() != Some(name) {
            let may_follow = self.is_free || self.plan.pools[&pool()].failover.automatic || self.written.is_none();
            assert!(may_follow, "{name} is the write target after {:?}, and nobody has ordered it", self.written);
            (self.written, self.is_free) = (Some(name.clone()), false);
        }
    }

    /// Nobody is ever sent to an older line than somebody was before, by what the core believes and by what is true.
    fn check_lineage(&mut self) {
        let status = self.status();
        if let Some(active) = status.backends.iter().find(|backend| backend.active && status.pinned.is_some()) {
            // A person has said so, perhaps while clients wait.
            self.routed =
                active.server.as_ref().and_then(|server| server.timeline).expect("a primary without a timeline").0;
        }
        let Some((id, _)) = self.target() else { return };
        let chosen = status.backends.iter().find(|backend| backend.id == id).expect("a route to nobody");
        let believed =
            chosen.server.as_ref().and_then(|server| server.timeline).expect("a primary without a timeline").0;
        let truth = &self.servers[&self.names[&id]];
        let (truth, restored) = (truth.timeline, truth.restored);
        let lineage = self.core.memory(&pool()).unwrap().lineage;
        // Nothing is proven by who is on the same line, nor by what a person decided against.
        let is_out = |other: &BackendStatus| {
            let (own, others) = (&self.said[&id], &self.said[&other.id]);
            let is_same = own.timeline == others.timeline && own.history == others.history;
            is_same || lineage.as_ref().is_some_and(|of| is_rejected(of, others))
        };
        let equal = |other: &&BackendStatus| {
            let claims = other.server.as_ref().is_some_and(|of| of.role == Some(Role::Primary));
            let timeline = other.server.as_ref().and_then(|of| of.timeline);
            let counts = other.health == HealthState::Healthy && other.admin_state == AdminState::Ready;
            other.id != id && claims && counts && timeline >= Some(Timeline(believed)) && !is_out(other)
        };
        let rival = status.backends.iter().find(equal).filter(|_| status.pinned.is_none());
        assert!(rival.is_none(), "{} is the write target, and {rival:?} proves as much", chosen.name);
        let was_routed = believed == self.routed;
        if let Some((lineage, asked)) = &self.unkept {
            let waited = self.now.since(*asked) >= KEPT_WITHIN;
            let is_there = self.on_disk.as_ref().is_some_and(|of| is_like(of, lineage));
            assert!(was_routed || waited || is_there, "clients write to {lineage:?}, which is not on disk");
        } else {
            let kept = self.on_disk.as_ref().and_then(|lineage| lineage.timeline);
            assert_eq!(kept, Some(Timeline(believed)), "clients write to what is not on disk");
        }
        assert!(believed >= self.routed, "timeline {believed} after {}", self.routed);
        assert!(
            restored || truth >= self.routed,
            "{} is truly on timeline {truth}, after {}",
            chosen.name,
            self.routed
        );
        self.routed = believed;
    }

    /// One write target or none; whoever writes elsewhere has been cut before; and nobody is led to another primary.
    fn check_table(&self, table: &RouteTable) {
        let routes = &table.pools[&pool()];
        let targets: Vec<_> = routes.tiers.iter().flat_map(|tier| tier.routes()).collect();
        assert!(targets.len() <= 1, "{} write targets", targets.len());
        for route in &targets {
            self.check_epoch(route);
        }
        let target = write_target(table);
        let elsewhere = |of: &Session| target.is_some_and(|target| self.names[&target.0] != of.server);
        let begins = |of: &&Session| of.writes && of.opens && elsewhere(of);
        let begun = self.sessions.iter().find(begins);
        assert!(begun.is_none(), "{target:?} is the write target, and a dial is under way: {begun:?}");
        if target.map(|of| of.0) != self.target().map(|of| of.0) {
            self.check_writers(table);
        }
        for (wanted, of) in &routes.others {
            for route in of.tiers.iter().flat_map(|tier| tier.routes()) {
                self.check_epoch(route);
                let is_standby = self.told.get(&self.names[&route.backend]) == Some(&Role::Standby);
                let is_target = target.is_some_and(|of| of.0 == route.backend);
                assert!(
                    is_standby || is_target,
                    "{wanted} leads to {}, and those who write are not led there",
                    route.name
                );
            }
        }
    }

    fn check_epoch(&self, route: &Route) {
        let floors = self.fences.get(&route.backend).copied().unwrap_or_default();
        let floor = floors[0].max(floors[1]);
        assert!(route.epoch >= floor, "{} is routed under {} and fenced at {floor}", route.name, route.epoch);
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::StartProbe { target, probe, spec } => {
                let name = server_at(&spec.address);
                self.ask(&name, target, probe, spec.timeout);
            }
            Command::StartWatch { backend, watch, spec } => {
                let server = server_at(&spec.address);
                self.note(|_| format!("  watch {server} as {watch}"));
                let (session, late_since, seen) = (None, None, None);
                let next = self.now + ms(self.rng.u64(1..20));
                let told_until = self.now;
                let monitor = Monitor { watch, server, session, late_since, is_shut: false, next, told_until, seen };
                self.monitors.insert(backend, monitor);
            }
            Command::Knock { .. } | Command::StartTunnel { .. } | Command::StopTunnel { .. } => {}
            Command::StopWatch { backend } => assert!(self.monitors.remove(&backend).is_some(), "it was not watched"),
            Command::PublishTable(table) => {
                assert_eq!(table.generation, self.table.generation.next(), "generations grow by one");
                assert!(table.pools != self.table.pools, "a publish that changes nothing");
                self.check_table(&table);
                let before = self.target();
                self.table = table;
                let after = self.target();
                self.moves += u64::from(after.is_some() && before.map(|of| of.0) != after.map(|of| of.0));
                self.note(|world| {
                    format!("  publish {}: {:?}", world.table.generation, after.map(|of| &world.names[&of.0]))
                });
                // Clients do not wait for the rest of the turn.
                _ = self.admit();
            }
            Command::FenceSessions { backend, epoch, reason, which } => {
                self.note(|_| format!("  fence {backend} below {epoch}, {which:?}, for {reason}"));
                let is_opening = which == Sessions::Opening;
                let floor = &mut self.fences.entry(backend).or_default()[usize::from(is_opening)];
                assert!(epoch > *floor, "a fence of {backend} goes back to {epoch}");
                *floor = epoch;
                let is_among = |of: &Session| match which {
                    Sessions::All => true,
                    Sessions::Opening => of.opens,
                };
                self.sessions.retain(|of| of.backend != backend || of.epoch >= epoch || !is_among(of));
            }
            Command::Report(transition) => {
                self.splits += u64::from(transition.change.kind() == "pool.split_brain");
                if let Change::PrimaryChanged { from, to, lost, .. } = &transition.change {
                    // Not one that goes on, and was put back.
                    let is_new = from.is_some() || lost.is_none();
                    self.announced = is_new.then(|| to.to_string()).or_else(|| self.announced.take());
                    self.told_lost += lost.unwrap_or(0);
                }
                self.note(|_| format!("  {}", transition.change));
            }
            Command::StopProbe { .. } => {}
            Command::KeepLineage { lineage, .. } => {
                self.note(|_| format!("  keep {lineage:?}"));
                let late = if self.is_stuck { 10_000 } else { self.rng.u64(1..20) };
                let late = if self.rng.u8(..10) == 0 { late + 150 } else { late };
                if self.status().pinned.is_some() {
                    // A person has said so; should it be lost before it is on disk, it is still what was said.
                    self.routed = lineage.timeline.expect("a primary without a timeline").0;
                }
                // How far it was written may be told anew while the disk owes an answer.
                let asked = self.unkept.take().filter(|(of, _)| is_like(of, &lineage)).map(|(_, asked)| asked);
                self.unkept = Some((lineage.clone(), asked.unwrap_or(self.now)));
                self.send(self.now + ms(late), Event::LineageKept { pool: pool(), lineage });
            }
        }
    }

    fn send(&mut self, at: MonoTime, event: Event) {
        self.sent += 1;
        self.mail.insert((at, self.sent), event);
    }

    fn ask(&mut self, name: &str, target: TargetId, probe: ProbeId, timeout: Duration) {
        let quick = Duration::from_micros(self.rng.u64(50..5000));
        let failed = |error| ProbeOutcome::Failed { error: ProbeError::Dial(error), detail: String::new() };
        let (after, outcome) = match self.servers[name].process {
            Process::Up | Process::Stopping => {
                (quick, ProbeOutcome::Passed { latency: quick, advice: Advice::default() })
            }
            Process::Dead => (quick / 5, failed(DialError::Refused)),
            Process::Frozen => (timeout, failed(DialError::TimedOut)),
        };
        self.send(self.now + after, Event::ProbeFinished { target, probe, outcome });
    }

    /// A monitor looks at its server.
    fn monitor(&mut self, backend: BackendId) {
        let (now, loss) = (self.now, self.loss);
        let lost = self.rng.u8(..100) < loss;
        let delay = if self.rng.u8(..8) == 0 { ms(self.rng.u64(..300)) } else { ms(self.rng.u64(..3)) };
        let again = ms(self.rng.u64(20..1000));
        let Some(monitor) = self.monitors.get_mut(&backend) else { return };
        let truth = &self.servers[&monitor.server];
        let words = || "as it is".to_owned();
        let mut wait = ms(200);
        let news = match (monitor.session, truth.process) {
            (Some(life), process) if life != truth.life || matches!(process, Process::Dead | Process::Stopping) => {
                (monitor.session, monitor.late_since, wait) = (None, None, ms(1));
                let end = if process == Process::Stopping { WatchEnd::Terminated } else { WatchEnd::Closed };
                Some(WatchNews::Ended { end, detail: words() })
            }
            (Some(_), Process::Frozen) => match monitor.late_since {
                None => {
                    (monitor.late_since, wait) = (Some(now), ms(1000));
                    Some(WatchNews::Late { waited: ms(30), slowest: ms(again.subsec_millis().into()) })
                }
                Some(since) if now.since(since) >= ms(1000) => {
                    (monitor.session, monitor.late_since) = (None, None);
                    Some(WatchNews::Ended { end: WatchEnd::Silent, detail: words() })
                }
                Some(_) => None,
            },
            (Some(_), _) => match monitor.late_since.take() {
                Some(since) => {
                    wait = ms(5);
                    Some(WatchNews::OnTime { took: now.since(since) })
                }
                None if truth.is_shut != monitor.is_shut => {
                    (monitor.is_shut, wait) = (truth.is_shut, ms(5));
                    let turned = WatchNews::TurnedAway { detail: words() };
                    Some(if truth.is_shut { turned } else { WatchNews::LetIn })
                }
                None => Some(WatchNews::Seen(truth.facts())),
            },
            (None, Process::Up) if !truth.denies && !truth.is_shut => {
                monitor.is_shut = false;
                monitor.session = Some(truth.life);
                Some(WatchNews::Opened(truth.facts()))
            }
            (None, process) => {
                wait = again;
                let error = match process {
                    Process::Up if truth.is_shut => WatchError::Login(LoginError::CannotConnectNow),
                    Process::Up if truth.life.is_multiple_of(2) => WatchError::Login(LoginError::TooManyConnections),
                    Process::Up => WatchError::Login(LoginError::NotAuthorized),
                    Process::Dead => WatchError::Dial(DialError::Refused),
                    Process::Frozen => WatchError::Login(LoginError::TimedOut),
                    Process::Stopping => WatchError::Login(LoginError::CannotConnectNow),
                };
                Some(WatchNews::Failed { error, detail: words() })
            }
        };
        monitor.next = now + wait;
        let news = news.filter(|news| match news {
            WatchNews::Seen(facts) => monitor.seen.replace(facts.clone()).as_ref() != Some(facts) || !lost,
            WatchNews::LetIn => true,
            _ => !lost,
        });
        let Some(news) = news else { return };
        let (at, watch) = ((now + delay).max(monitor.told_until), monitor.watch);
        monitor.told_until = at;
        self.send(at, Event::Watched { backend, watch, news });
    }

    /// Something happened to a server: its monitors will notice soon.
    fn stir(&mut self, name: &str) {
        for monitor in self.monitors.values_mut().filter(|monitor| monitor.server == name) {
            let soon = self.now + ms(self.rng.u64(1..15));
            monitor.next = monitor.next.min(soon);
        }
    }

    /// Lets time pass with all that is on its way.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let mail = self.mail.first_key_value().map(|(&(at, _), _)| at);
            let monitor = self.monitors.iter().map(|(&id, monitor)| (monitor.next, id)).min();
            let due = self.core.next_deadline();
            let next = mail.into_iter().chain(monitor.map(|of| of.0)).chain(due).min();
            let Some(next) = next.filter(|&at| at <= end) else { break };
            self.now = self.now.max(next);
            if mail == Some(next) {
                let (_, event) = self.mail.pop_first().unwrap();
                self.feed(event);
            } else if let Some((_, id)) = monitor.filter(|of| of.0 == next) {
                self.monitor(id);
            } else {
                self.feed(Event::Tick);
            }
            self.write();
        }
        self.now = end;
    }

    /// The primaries that live write, and those that follow them replay.
    fn write(&mut self) {
        if self.rng.u8(..16) > 0 {
            return;
        }
        let up = |truth: &&mut Truth| truth.process == Process::Up;
        let mut written = Vec::new();
        for truth in self.servers.values_mut().filter(up).filter(|truth| truth.is_primary()) {
            truth.at += if self.rng.u8(..8) == 0 { self.rng.u64(..20 * MIB) } else { 1 };
            written.push((truth.history.clone(), truth.at));
        }
        for truth in self.servers.values_mut().filter(up).filter(|truth| !truth.is_primary()) {
            let keeps_up = self.keeps_up || self.rng.bool();
            let followed = written.iter().filter(|_| keeps_up).find(|(history, _)| *history == truth.history);
            truth.at = followed.map_or(truth.at, |&(_, at)| truth.at.max(at));
        }
    }

    /// A client comes, and finds out if its server is dead.
    fn client(&mut self) {
        // Those that were opened before have been answered meanwhile, or not.
        let answered = self.rng.bool();
        self.sessions.iter_mut().for_each(|session| session.opens &= !answered);
        let Some((backend, epoch)) = self.admit() else { return };
        if self.rng.u8(..10) == 0 && self.servers[&self.names[&backend]].process == Process::Dead {
            self.feed(Event::DialFailed { backend, epoch, error: DialError::Refused });
        }
    }

    /// A client comes, and is admitted: the present table leads behind no fence.
    fn admit(&mut self) -> Option<(BackendId, Epoch)> {
        let target = Target::ALL[self.rng.usize(..4)];
        let routes = self.table.pools.get(&pool())?;
        let arrival = Arrival { target: Some(target), turn: self.rng.u64(..), ..Arrival::default() };
        let route = routes.pick(&arrival).ok()?;
        let (backend, epoch) = (route.backend, route.epoch);
        self.check_epoch(route);
        let server = server_at(&route.address);
        let life = self.servers[&server].life;
        let writes = target == Target::Primary || routes.is_write_route(backend);
        let opens = self.rng.bool();
        self.sessions.push(Session { backend, epoch, server, life, writes, opens });
        Some((backend, epoch))
    }

    fn any_name(&mut self) -> String {
        let count = self.plan.pools[&pool()].backends.len();
        NAMES[self.rng.usize(..count)].to_owned()
    }

    /// What a server of the plan is called there, and how its address is spelt.
    fn backend_of(&self, server: &str) -> (BackendName, Option<Address>) {
        let backends = &self.plan.pools[&pool()].backends;
        let backend = backends.iter().find(|of| server_of(of) == server).unwrap();
        (backend.name.clone(), Some(backend.address.clone()))
    }

    /// Somebody else promotes a standby that lives, and perhaps a second one at the same moment.
    fn promote(&mut self) {
        let standbys: Vec<String> = self
            .servers
            .iter()
            .filter(|(_, of)| !of.is_primary() && of.process == Process::Up)
            .map(|(name, _)| name.clone())
            .collect();
        let twice = self.rng.u8(..10) == 0;
        let Some(name) = self.rng.choice(standbys.clone()) else { return };
        let own = self.servers[&name].timeline;
        self.servers.get_mut(&name).unwrap().promote(own + 1);
        self.note(|_| format!("{name} is promoted"));
        self.stir(&name);
        let new = self.servers[&name].clone();
        for other in standbys.iter().filter(|other| **other != name) {
            let truth = self.servers.get_mut(other).unwrap();
            if twice {
                truth.at += 7;
                let next = truth.timeline + 1;
                truth.promote(next);
            } else if truth.at <= new.at && self.rng.bool() {
                truth.follow(&new);
            }
            self.stir(other);
        }
    }

    fn set(&mut self, name: &str, process: Process) {
        let truth = self.servers.get_mut(name).unwrap();
        if truth.process == process {
            return;
        }
        let starts = process == Process::Up && matches!(truth.process, Process::Dead | Process::Stopping);
        truth.life += u64::from(starts);
        truth.is_shut &= !starts;
        truth.process = process;
        self.note(|_| format!("{name} is {process:?}"));
        self.stir(name);
    }

    /// Servers are named anew, spelt otherwise, or have one another's names.
    fn spell_anew(&mut self) {
        let Some(spelling) = &mut self.spelling else { return };
        let pool = &self.plan.pools[&pool()];
        let mut backends = pool.backends.clone();
        let mut addresses: Vec<Address> = backends.iter().map(|of| of.address.clone()).collect();
        let (one, other) = (spelling.usize(..addresses.len()), spelling.usize(..addresses.len()));
        if spelling.bool() {
            addresses.swap(one, other);
        } else {
            let server = server_at(&addresses[one]);
            addresses[one] = address(&if spelling.bool() { format!("{server}.alias") } else { server });
        }
        if spelling.u8(..3) == 0 {
            backends[other].name = BackendName::from(format!("{}{}", NAMES[other], spelling.u8(..3)).as_str());
        }
        backends.iter_mut().zip(addresses).for_each(|(of, address)| of.address = address);
        let pool = Arc::new(PoolPlan { backends, ..PoolPlan::clone(pool) });
        let pools = [(pool.name.clone(), pool)].into();
        self.replan(Arc::new(Plan { pools, ..Plan::clone(&self.plan) }));
    }

    fn step(&mut self) {
        if self.spelling.as_mut().is_some_and(|spelling| spelling.u8(..20) == 0) {
            self.spell_anew();
        }
        let name = self.any_name();
        match self.rng.u8(..100) {
            0..25 => self.client(),
            25..33 => self.set(&name, Process::Dead),
            33..43 => self.set(&name, Process::Up),
            43..47 => self.set(&name, Process::Frozen),
            47..50 => self.set(&name, Process::Stopping),
            50..58 => self.promote(),
            58..61 => self.rejoin(&name),
            61 => self.go_astray(&name),
            62..64 => {
                // Its monitor's session alone is ended.
                if let Some(monitor) = self.monitors.values_mut().find(|monitor| monitor.server == name) {
                    monitor.session = monitor.session.map(|_| 0);
                }
                self.stir(&name);
            }
            64..66 => {
                let truth = self.servers.get_mut(&name).unwrap();
                truth.denies = !truth.denies;
            }
            66 => {
                let truth = self.servers.get_mut(&name).unwrap();
                truth.is_shut = !truth.is_shut;
                self.stir(&name);
            }
            67..69 => self.direct(&name),
            69..71 => self.stall(),
            71 if self.rng.u8(..4) == 0 => self.forget(),
            71 if self.rng.bool() => self.restart(),
            71 => self.is_stuck = !self.is_stuck,
            72 => {
                let count = self.rng.usize(2..=4);
                let plan = draw_plan(&mut self.rng, count);
                self.replan(plan);
            }
            73..95 => {
                let time = ms(self.rng.u64(1..300));
                self.pass(time);
            }
            _ => {
                let time = ms(self.rng.u64(500..3000));
                self.pass(time);
            }
        }
    }

    /// A server is made a standby of the newest primary that lives.
    fn rejoin(&mut self, name: &str) {
        let primaries =
            self.servers.iter().filter(|(of, truth)| *of != name && truth.is_primary() && truth.process == Process::Up);
        let Some(primary) = primaries.max_by_key(|(_, truth)| truth.timeline).map(|(_, truth)| truth.clone()) else {
            return;
        };
        if self.servers[name].timeline > primary.timeline {
            return;
        }
        self.set(name, Process::Dead);
        self.servers.get_mut(name).unwrap().follow(&primary);
        self.set(name, Process::Up);
    }

    /// A server is not what it was: started as a primary without a promotion, or put back to what somebody had once kept.
    fn go_astray(&mut self, name: &str) {
        let kept = self.servers[name].clone();
        let backup = self.rng.choice(self.backups.clone());
        self.backups.push(kept);
        self.set(name, Process::Dead);
        let truth = self.servers.get_mut(name).unwrap();
        if let Some(backup) = backup.filter(|_| self.rng.bool()) {
            truth.restore(&backup);
        }
        truth.role = Role::Primary;
        if truth.restored && self.rng.bool() {
            let next = truth.timeline + 1;
            truth.promote(next);
        }
        self.note(|world| format!("{name} comes up as {:?}", world.servers[name].facts()));
        self.set(name, Process::Up);
    }

    fn direct(&mut self, name: &str) {
        let (pool, backend) = (pool(), self.backend_of(name).0);
        let sessions = SessionPolicy::ALL[self.rng.usize(..3)];
        let order = match self.rng.u8(..8) {
            0..2 => Order::Failover { pool, to: Some(backend), reason: None, sessions },
            2..4 => Order::Failback { pool },
            4 => Order::Pause { pool, until: Some(self.now + ms(self.rng.u64(1..2000))) },
            5 => Order::Resume { pool },
            _ => Order::SetAdminState { pool, backend, state: AdminState::ALL[self.rng.usize(..3)] },
        };
        self.feed(Event::Tick);
        let refused = self.core.refusal(self.now, &order).is_some();
        let before = (self.status(), Arc::clone(&self.table));
        self.feed(Event::Ordered { actor: Actor::from("ops"), order });
        let changed = before.0 != self.status() || !Arc::ptr_eq(&before.1, &self.table);
        assert!(!(refused && changed), "a refused order changes something");
    }

    /// The control task does not run for a while, and then finds all that came meanwhile.
    fn stall(&mut self) {
        let since = self.now;
        self.now = since + ms(self.rng.u64(200..4000));
        let healthy = |world: &Self| world.status().backends.iter().filter(|b| b.health.label() == "healthy").count();
        let before = healthy(self);
        self.feed(Event::WasStalled { since });
        assert!(healthy(self) >= before, "a verdict from a time in which nobody looked");
    }

    /// Another process begins without what this one remembered.
    fn forget(&mut self) {
        if self.recording.is_some() {
            return;
        }
        (self.routed, self.on_disk, self.unkept) = (0, None, None);
        self.begin_anew(PoolMemory::default());
    }

    /// Another process goes on with what this one remembered.
    fn restart(&mut self) {
        if self.recording.is_some() {
            return;
        }
        let mut memory: PoolMemory = self.core.memory(&pool()).unwrap();
        // What was waited for is on disk; what was not may be lost with the machine.
        let (lost, _) = (self.rng.bool(), self.unkept.take());
        if lost && memory.lineage != self.on_disk {
            memory.lineage.clone_from(&self.on_disk);
            let timeline = self.on_disk.as_ref().and_then(|lineage| lineage.timeline);
            self.routed = timeline.map_or(0, |timeline| timeline.0);
        }
        self.on_disk.clone_from(&memory.lineage);
        self.begin_anew(memory);
    }

    fn begin_anew(&mut self, memory: PoolMemory) {
        self.note(|_| format!("restart with {memory:?}"));
        self.restarts += 1;
        let json = serde_json::to_string(&memory).unwrap();
        (self.served, self.told_lost) = (None, 0);
        // Whom people had named is known as far as it was remembered.
        self.written = memory.lineage.as_ref().map(server_on);
        self.is_free |= memory.pin.is_some();
        self.core = Controller::new(self.rng.u64(..));
        self.table = Arc::clone(self.core.table());
        self.mail.clear();
        self.monitors.clear();
        self.fences.clear();
        self.sessions.clear();
        self.told.clear();
        self.unheard.clear();
        self.first_until = Some(self.now + CHECK_TIMEOUT);
        self.feed(replaced(Arc::clone(&self.plan)));
        let memory = serde_json::from_str(&json).unwrap();
        self.feed(Event::Restored { pools: [(pool(), memory)].into() });
    }

    fn say(&mut self, order: Order) {
        self.feed(Event::Ordered { actor: Actor::from("ops"), order });
    }

    fn is_well(&self, primary: &str) -> bool {
        let serves = self.target().is_some_and(|of| self.names[&of.0] == primary);
        serves && self.status().backends.iter().all(|backend| backend.eligible) && self.core.has_first_verdicts()
    }

    /// One primary is left, and all is well: within a bounded time it is served from.
    fn calm(&mut self) {
        (self.loss, self.is_stuck, self.keeps_up) = (0, false, true);
        let count = self.plan.pools[&pool()].backends.len();
        let in_plan: Vec<String> = NAMES.iter().take(count).map(|name| (*name).to_owned()).collect();
        for name in NAMES {
            self.servers.get_mut(name).unwrap().denies = false;
            self.set(name, Process::Dead);
        }
        // All that was on its way has come when they are made anew.
        self.pass(ms(3000));
        // The one that was served from last goes on, or another one is promoted above all that there was.
        let newest = self.servers.values().map(|of| of.timeline).max().unwrap().max(self.routed);
        let lineage = self.core.memory(&pool()).unwrap().lineage;
        let line = lineage.map(|of| (server_on(&of), of.timeline.unwrap().0, of.history.to_vec()));
        let is_last = |name: &&String| {
            let truth = &self.servers[*name];
            truth.is_primary() && line == Some(((*name).clone(), truth.timeline, truth.history.clone()))
        };
        let last: Vec<&String> = in_plan.iter().filter(is_last).collect();
        let goes_on = if last.len() == 1 && self.rng.bool() { Some(last[0].clone()) } else { None };
        let primary = goes_on.unwrap_or_else(|| {
            let name = in_plan[self.rng.usize(..in_plan.len())].clone();
            let truth = self.servers.get_mut(&name).unwrap();
            truth.promote(newest + 1);
            name
        });
        let truth = self.servers[&primary].clone();
        for name in NAMES.iter().filter(|name| **name != primary) {
            self.servers.get_mut(*name).unwrap().follow(&truth);
        }
        NAMES.iter().for_each(|name| self.set(name, Process::Up));
        let status = self.status();
        for backend in &status.backends {
            let (pool, backend) = (pool(), backend.name.clone());
            self.say(Order::SetAdminState { pool, backend, state: AdminState::Ready });
        }
        if status.paused.is_some() {
            self.say(Order::Resume { pool: pool() });
        }
        if status.pinned.is_some() {
            self.say(Order::Failback { pool: pool() });
        }
        let end = self.now + BOUND;
        while self.now < end && !self.is_well(&primary) {
            self.pass(ms(500));
        }
        let automatic = self.plan.pools[&pool()].failover.automatic;
        if self.target().is_none() {
            // A person decides: there is no automatic failover, or what serves last does not come from what was routed to.
            let lineage = self.core.memory(&pool()).unwrap().lineage;
            let comes_from_it = lineage.filter(|of| !is_rejected(of, &truth.facts())).is_some_and(|of| {
                let left = truth.history.iter().any(|fork| Some(fork.timeline) == of.timeline);
                // Another server may have been promoted to the same number at the same place, and what that one wrote is nowhere.
                // One that was a standby under the address that it has again may be such a twin, for all that can be told of it.
                let is_it = of.address == self.backend_of(&primary).1
                    && Some(Timeline(truth.timeline)) == of.timeline
                    && *truth.history == *of.history;
                is_it || (left && of.history.iter().all(|fork| truth.history.contains(fork)))
            });
            let known = self.core.memory(&pool());
            assert!(!automatic || !comes_from_it, "the one primary is not served from: {known:?} {:#?}", self.status());
            let (pool, to) = (pool(), Some(self.backend_of(&primary).0));
            self.say(Order::Failover { pool, to, reason: None, sessions: SessionPolicy::Close });
            let end = self.now + BOUND;
            while self.now < end && !self.is_well(&primary) {
                self.pass(ms(500));
            }
        }
        let target = self.target().map(|of| self.names[&of.0].clone());
        assert_eq!(target.as_ref(), Some(&primary), "the one primary is not served from: {:#?}", self.status());
        let status = self.status();
        assert!(status.backends.iter().all(|backend| backend.eligible), "a standby is not read from: {status:#?}");
        assert!(self.core.has_first_verdicts());
    }
}

fn address(host: &str) -> Address {
    format!("{host}:5432").parse().unwrap()
}

/// The server at `address`, however that is spelt.
fn server_at(address: &Address) -> String {
    address.host().split('.').next().unwrap().to_owned()
}

fn server_of(backend: &BackendPlan) -> String {
    server_at(&backend.address)
}

/// The server that was on the line last.
fn server_on(lineage: &Lineage) -> String {
    server_at(lineage.address.as_ref().unwrap())
}

/// Where those who write are led.
fn write_target(table: &RouteTable) -> Option<(BackendId, Epoch)> {
    let route = table.pools.get(&pool())?.tiers.first()?.routes().first()?;
    Some((route.backend, route.epoch))
}

/// Whether they are the same but for how far was written.
fn is_like(one: &Lineage, other: &Lineage) -> bool {
    *one == Lineage { at: one.at, ..other.clone() }
}

/// Whether a person has decided against the line of `facts`, or against one that it comes from.
fn is_rejected(lineage: &Lineage, facts: &ServerFacts) -> bool {
    let past = facts.history.iter().map(|fork| fork.timeline).chain(facts.timeline);
    let left = std::iter::once(None).chain(facts.history.iter().copied().map(Some));
    past.zip(left).any(|(timeline, left)| lineage.rejected.iter().any(|of| (of.timeline, of.left) == (timeline, left)))
}

fn replaced(plan: Arc<Plan>) -> Event {
    Event::PlanReplaced { plan, actor: Actor::changeover() }
}

fn draw_plan(rng: &mut fastrand::Rng, count: usize) -> Arc<Plan> {
    let postgres = Arc::new(PostgresPlan {
        user: "changeover".to_owned(),
        password: None,
        database: "postgres".to_owned(),
        tls: TlsMode::Prefer,
        ca_file: None,
        session: WatchSession::Replication,
        heartbeat: ms(10),
        heartbeat_deadline: ms(250),
        max_lag: [0, 5 * MIB, 1000 * MIB][rng.usize(..3)],
        max_lag_time: ms([0, 2000][rng.usize(..2)]),
        promotion: Promotion::Never,
    });
    let priorities: Vec<u32> = (0..count).map(|_| rng.u32(1..3)).collect();
    let check = CheckPlan {
        kind: CheckKind::Postgres,
        interval: ms(1000),
        timeout: CHECK_TIMEOUT,
        unhealthy_threshold: rng.u32(1..4),
        healthy_threshold: rng.u32(1..4),
        recovery_interval: None,
        recovery_attempts: 0,
        recovery_backoff: ms(1000),
        max_latency: None,
    };
    let backend = |(name, priority): (&&str, &u32)| BackendPlan {
        name: (*name).into(),
        address: address(name),
        priority: *priority,
        weight: 1,
        max_connections: 0,
        check: check.clone(),
        approach: Approach::PLAIN,
        tunnel: None,
    };
    let any = |rng: &mut fastrand::Rng| SessionPolicy::ALL[rng.usize(..3)];
    let sessions = SessionPolicies {
        dead: any(rng),
        unreachable: any(rng),
        demoted: if rng.u8(..4) > 0 { SessionPolicy::Close } else { any(rng) },
        lagging: any(rng),
        check_failed: any(rng),
        drained: any(rng),
        failed_back: any(rng),
    };
    let pool = PoolPlan {
        name: pool(),
        kind: PoolKind::Postgres,
        balance: Balance::RoundRobin,
        dial: DialPlan { connect_timeout: ms(500), connect_attempts: 3, resend: Resend::Greeting },
        hold: HoldPlan { when_down: WhenDown::ALL[rng.usize(..3)], hold: ms(1000), hold_limit: 10 },
        failover: FailoverPlan {
            automatic: rng.u8(..8) > 0,
            failback: Failback::Automatic,
            failback_after: ms(1000),
            sessions,
        },
        postgres: Some(postgres),
        backends: NAMES.iter().zip(&priorities).map(backend).collect(),
    };
    let daemon = DaemonPlan {
        workers: 1,
        drain_timeout: ms(rng.u64(0..5000)),
        max_sessions: 0,
        relay_buffer: 65_536,
        tcp_keepalive: ms(60_000),
        store: StorePlan::default(),
    };
    let pools = [(pool.name.clone(), Arc::new(pool))].into();
    let (admin, log) = (AdminPlan::default(), LogPlan::default());
    Arc::new(Plan { daemon, admin, log, listeners: BTreeMap::new(), pools, webhooks: BTreeMap::new() })
}

/// What a life came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    hash: u64,
    turns: u64,
    moves: u64,
    splits: u64,
    restarts: u64,
    losses: u64,
}

fn run(seed: u64) -> Outcome {
    live(seed, false)
}

/// A life that fails is lived once more, so that people see how it came to that.
fn live(seed: u64, is_traced: bool) -> Outcome {
    let mut world = World::new(seed, None);
    world.is_traced = is_traced;
    let mut step = 0;
    let lived = catch_unwind(AssertUnwindSafe(|| {
        while step < STEPS {
            world.step();
            step += 1;
        }
        world.calm();
    }));
    if lived.is_err() && !is_traced {
        return live(seed, true);
    }
    if let Err(panic) = lived {
        let tail = world.trace.make_contiguous().join("\n");
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default();
        resume_unwind(Box::new(format!("{tail}\nSIM_SEED={seed} fails at step {step}: {said}")));
    }
    let World { hash, turns, moves, splits, restarts, losses, .. } = world;
    Outcome { hash: hash.finish(), turns, moves, splits, restarts, losses }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn whatever_happens_to_a_cluster_there_is_one_write_target_or_none() {
    if let Some(seed) = number("SIM_SEED") {
        let lived = catch_unwind(|| run(seed));
        assert!(lived.is_ok(), "{}", lived.unwrap_err().downcast_ref::<String>().cloned().unwrap_or_default());
        return;
    }
    let seeds: Vec<u64> = KEPT.into_iter().chain(0..number("SIM_SEEDS").unwrap_or(SEEDS)).collect();
    let next = AtomicUsize::new(0);
    let work = || -> Vec<Outcome> {
        let seeds = std::iter::from_fn(|| seeds.get(next.fetch_add(1, Ordering::Relaxed)));
        seeds.map(|&seed| run(seed)).collect()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<Outcome>>| match thread.join() {
            Ok(outcomes) => outcomes,
            Err(panic) => panic!("{}", panic.downcast_ref::<String>().cloned().unwrap_or_default()),
        };
        all.into_iter().flat_map(join).collect()
    });
    assert_eq!(outcomes.len(), seeds.len());
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (moves, splits, restarts) = (sum(|of| of.moves), sum(|of| of.splits), sum(|of| of.restarts));
    let losses = sum(|of| of.losses);
    let enough = u64::try_from(seeds.len()).unwrap() / 10;
    assert!(
        moves > enough && splits > enough && restarts > enough && losses > enough,
        "hardly anything happens: {moves} {splits} {restarts} {losses}"
    );
}

#[test]
fn the_same_seed_is_the_same_life() {
    for seed in [1, 77, 4242] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).hash, run(2).hash);
}

#[test]
fn a_recorded_life_of_a_cluster_is_decided_the_same_again() {
    let (mut turns, mut watched) = (0, 0);
    for seed in 0..RECORDED {
        let mut world = World::new(seed, Some(Default::default()));
        (0..STEPS).for_each(|_| world.step());
        let (_, lines) = world.recording.take().unwrap();
        let mut replay = Replay::new(fastrand::Rng::with_seed(seed).u64(..));
        for (number, line) in lines.iter().enumerate() {
            let Ok(Line::Turn(turn)) = Line::read(line.as_bytes()) else {
                panic!("SIM_SEED={seed}, line {number}: {line}")
            };
            watched += u64::from(matches!(turn.event, Event::Watched { .. }));
            assert_eq!(replay.turn(turn.at, turn.event), turn.commands, "SIM_SEED={seed}, line {number}: {line}");
        }
        turns += lines.len();
    }
    assert!(turns > 3000 && watched > 1000, "lives in which nothing happens: {turns} turns, {watched} news");
}
