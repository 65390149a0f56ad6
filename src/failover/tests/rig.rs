//! A controller on the bench: answers for its probes by backend, time by hand, invariants after every turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::build::{PlanBuilder, ms};
use crate::failover::{
    Change, Command, Controller, Event, Order, Refusal, RouteTable, START_GAP, TunnelOrder, UNANSWERED_FOR,
};
use crate::model::{
    Actor, AdminState, Advice, BackendId, BackendName, BackendStatus, CheckError, DialError, Epoch, FailoverStatus,
    Generation, HealthState, MonoTime, OutReason, PoolName, PoolState, PoolStatus, ProbeError, ProbeId, ProbeOutcome,
    ProbeSpec, PushedHealth, RunEnd, RunId, SessionPolicy, TargetId, TunnelNews, TunnelPlan, TunnelState, TunnelStatus,
    WatchId,
};

pub(super) fn passed() -> ProbeOutcome {
    ProbeOutcome::Passed { latency: ms(1), advice: Advice::default() }
}

/// A good answer that took so long.
pub(super) fn passed_in(millis: u64) -> ProbeOutcome {
    ProbeOutcome::Passed { latency: ms(millis), advice: Advice::default() }
}

/// A good answer of an agent that asks for something besides.
pub(super) fn advised(admin: Option<AdminState>, weight: Option<u8>) -> ProbeOutcome {
    ProbeOutcome::Passed { latency: ms(1), advice: Advice { admin, weight } }
}

pub(super) fn failed(error: ProbeError) -> ProbeOutcome {
    ProbeOutcome::Failed { error, detail: error.label().to_owned() }
}

pub(super) fn refused() -> ProbeOutcome {
    failed(ProbeError::Dial(DialError::Refused))
}

pub(super) fn timed_out() -> ProbeOutcome {
    failed(ProbeError::Dial(DialError::TimedOut))
}

pub(super) fn bad_answer() -> ProbeOutcome {
    failed(ProbeError::Check(CheckError::UnexpectedStatus))
}

/// The target behind a tunnel does not answer.
pub(super) fn closed_early() -> ProbeOutcome {
    failed(ProbeError::Check(CheckError::ClosedEarly))
}

pub(super) fn inconclusive() -> ProbeOutcome {
    ProbeOutcome::Inconclusive { error: None, detail: "no descriptor".to_owned() }
}

pub(super) fn replaced(plan: PlanBuilder) -> Event {
    Event::PlanReplaced { plan: plan.build(), actor: Actor::changeover() }
}

/// Whether it is a failover that is not yet completed, nor failed.
fn is_on_its_way(change: &Change) -> bool {
    let ended = [FailoverStatus::Completed, FailoverStatus::Failed];
    matches!(change, Change::PoolFailover { status, .. } if !ended.contains(status))
}

/// A table before its fences, and only a cluster's write target in another one after them; reports last, and then what begins.
fn check_order(commands: &[Command]) {
    let has_fenced = |at: usize| commands[..at].iter().any(|before| matches!(before, Command::FenceSessions { .. }));
    let rank = |(at, command): (usize, &Command)| match command {
        Command::StopProbe { .. } | Command::StopWatch { .. } => 0,
        Command::KeepLineage { .. } => 0,
        Command::PublishTable(_) if !has_fenced(at) => 1,
        Command::FenceSessions { .. } => 2,
        Command::PublishTable(_) => 3,
        Command::Report(_) => 4,
        Command::StartTunnel { .. } | Command::StopTunnel { .. } => 5,
        Command::StartWatch { .. } | Command::Knock { .. } => 6,
        Command::StartProbe { .. } => 7,
    };
    let ranks: Vec<u8> = commands.iter().enumerate().map(rank).collect();
    assert!(ranks.is_sorted(), "out of order: {commands:?}");
    assert!(ranks.iter().filter(|rank| matches!(rank, 1)).count() <= 1, "{commands:?}");
    assert!(ranks.iter().filter(|rank| matches!(rank, 3)).count() <= 1, "{commands:?}");
}

/// What starts and stops the programs of tunnels, as far as it has been told.
#[derive(Default)]
pub(super) struct Hands {
    /// The present run of each tunnel, if it is to go on.
    pub(super) runs: BTreeMap<BackendId, RunId>,
    /// The runs that are to stop, and whose end was not told yet.
    pub(super) stopping: BTreeMap<BackendId, RunId>,
    /// The last run of each tunnel, and when it began.
    pub(super) begun: BTreeMap<BackendId, (RunId, MonoTime)>,
    /// How often each was started.
    pub(super) starts: BTreeMap<BackendId, u32>,
}

impl Hands {
    fn start(&mut self, now: MonoTime, backend: BackendId, run: RunId, plan: &Arc<TunnelPlan>) {
        assert!(!self.runs.contains_key(&backend), "a run of {} is there already", plan.via.backend);
        if let Some((last, at)) = self.begun.insert(backend, (run, now)) {
            assert!(run > last, "{run} after {last}");
            assert!(now.since(at) >= START_GAP, "{} is started twice at once", plan.via.backend);
        }
        *self.starts.entry(backend).or_default() += 1;
        self.runs.insert(backend, run);
        // Whoever starts a newer run has the older one stopped.
        self.stopping.remove(&backend);
    }

    fn stop(&mut self, backend: BackendId) {
        self.stopping.extend(self.runs.remove(&backend).map(|run| (backend, run)));
    }
}

pub(super) struct Rig {
    pub(super) core: Controller,
    pub(super) now: MonoTime,
    /// What the last turn wanted done.
    pub(super) last: Vec<Command>,
    /// Every change ever reported.
    pub(super) told: Vec<Change>,
    /// The latest watch of each server.
    pub(super) watches: BTreeMap<BackendId, WatchId>,
    /// Whether the disk answers at once.
    pub(super) has_disk: bool,
    /// What runs of tunnels there are.
    pub(super) hands: Hands,
    /// The latest open question to each target.
    pub(super) open: BTreeMap<TargetId, (ProbeId, Arc<ProbeSpec>)>,
}

impl Rig {
    pub(super) fn new(plan: PlanBuilder) -> Self {
        let core = Controller::new(7);
        let open = BTreeMap::new();
        let (last, told, watches, hands) = Default::default();
        let mut rig = Self { core, now: MonoTime::ZERO + ms(1000), last, told, watches, has_disk: true, hands, open };
        rig.replan(plan);
        rig
    }

    pub(super) fn replan(&mut self, plan: PlanBuilder) {
        self.feed(replaced(plan));
    }

    /// One turn, with the order of its commands and the invariants checked; and the next one with what is on disk by then.
    pub(super) fn feed(&mut self, event: Event) {
        self.turn(event);
        let keep = self.last.iter().find_map(|command| match command {
            Command::KeepLineage { pool, lineage } => Some((pool.clone(), lineage.clone())),
            _ => None,
        });
        if let Some((pool, lineage)) = keep.filter(|_| self.has_disk) {
            let first = std::mem::take(&mut self.last);
            self.turn(Event::LineageKept { pool, lineage });
            self.last.splice(0..0, first);
        }
    }

    fn turn(&mut self, event: Event) {
        let before = self.core.table().generation;
        self.last.clear();
        self.core.tell_figures(&mut |_| {});
        self.core.handle(self.now, event, &mut self.last);
        check_order(&self.last);
        let mut generation = before;
        for command in &self.last {
            match command {
                Command::StartProbe { target, probe, spec } => {
                    self.open.insert(*target, (*probe, Arc::clone(spec)));
                }
                Command::StopProbe { target } => {
                    self.open.remove(target);
                }
                Command::Report(transition) => self.told.push(transition.change.clone()),
                Command::PublishTable(table) => {
                    generation = generation.next();
                    assert_eq!(table.generation, generation);
                }
                Command::StartWatch { backend, watch, .. } => {
                    self.watches.insert(*backend, *watch);
                }
                Command::StopWatch { backend } => assert!(self.watches.remove(backend).is_some(), "not watched"),
                Command::StartTunnel { backend, run, plan } => self.hands.start(self.now, *backend, *run, plan),
                Command::StopTunnel { backend } => self.hands.stop(*backend),
                Command::FenceSessions { .. } | Command::KeepLineage { .. } | Command::Knock { .. } => {}
            }
        }
        self.core.check_invariants().unwrap();
        assert!(self.core.next_deadline().is_none_or(|at| at > self.now), "it wants to be woken in the past");
    }

    pub(super) fn status(&self, pool: &str) -> PoolStatus {
        self.core.pool_status(self.now, &PoolName::from(pool)).unwrap()
    }

    pub(super) fn state(&self) -> PoolState {
        self.core.pool_statuses(self.now)[0].state
    }

    /// The first backend of that name in any pool.
    pub(super) fn backend(&self, name: &str) -> BackendStatus {
        let pools = self.core.pool_statuses(self.now);
        pools.into_iter().flat_map(|pool| pool.backends).find(|backend| backend.name.as_str() == name).unwrap()
    }

    pub(super) fn id(&self, name: &str) -> BackendId {
        self.backend(name).id
    }

    pub(super) fn target(&self, name: &str) -> TargetId {
        let id = self.id(name);
        let members = self.core.pools.values().flat_map(|pool| pool.members());
        members.into_iter().find(|member| member.id == id).unwrap().target
    }

    pub(super) fn epoch(&self, name: &str) -> Epoch {
        let id = self.id(name);
        let members = self.core.pools.values().flat_map(|pool| pool.members());
        members.into_iter().find(|member| member.id == id).unwrap().epoch
    }

    pub(super) fn generation(&self) -> Generation {
        self.core.table().generation
    }

    pub(super) fn tick(&mut self) {
        self.feed(Event::Tick);
    }

    /// Lets time pass with a turn at every deadline on the way.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.core.next_deadline().filter(|&at| at <= end) {
            self.now = at;
            self.tick();
        }
        self.now = end;
    }

    /// Lets time pass until the backend is being asked.
    pub(super) fn until_asked(&mut self, name: &str) {
        let target = self.target(name);
        for _ in 0..1000 {
            if self.open.contains_key(&target) {
                return;
            }
            self.now = self.core.next_deadline().unwrap();
            self.tick();
        }
        panic!("{name} is never asked");
    }

    /// The backend's next or open probe gets this answer.
    pub(super) fn answer(&mut self, name: &str, outcome: ProbeOutcome) {
        self.until_asked(name);
        let target = self.target(name);
        let (probe, _) = self.open.remove(&target).unwrap();
        self.feed(Event::ProbeFinished { target, probe, outcome });
    }

    /// The next answers of these backends are good.
    pub(super) fn fit(&mut self, names: &[&str]) {
        for name in names {
            self.answer(name, passed());
        }
    }

    /// Refused for good: as often as it takes.
    pub(super) fn kill(&mut self, name: &str) {
        for _ in 0..2 {
            self.answer(name, refused());
        }
        assert_eq!(self.backend(name).health.label(), "unhealthy");
    }

    pub(super) fn revive(&mut self, name: &str) {
        for _ in 0..2 {
            self.answer(name, passed());
        }
        assert_eq!(self.backend(name).health.label(), "healthy");
    }

    /// As `pass`, with a good answer to every probe at once except those to `dead`, which are refused.
    pub(super) fn live(&mut self, time: Duration, dead: &[&str]) {
        let end = self.now + time;
        loop {
            while let Some((target, (probe, spec))) = self.open.pop_first() {
                let outcome = if dead.contains(&spec.address.host().as_str()) { refused() } else { passed() };
                self.feed(Event::ProbeFinished { target, probe, outcome });
            }
            let Some(at) = self.core.next_deadline().filter(|&at| at <= end) else { break };
            self.now = at;
            self.tick();
        }
        self.now = end;
    }

    pub(super) fn dial_failed(&mut self, name: &str, error: DialError) {
        let (backend, epoch) = (self.id(name), self.epoch(name));
        self.feed(Event::DialFailed { backend, epoch, error });
    }

    pub(super) fn order(&mut self, name: &str, state: AdminState) {
        let event = self.ordered(self.id(name), state);
        self.feed(event);
    }

    /// An order of whatever kind.
    pub(super) fn command(&mut self, order: Order) {
        self.feed(Event::Ordered { actor: Actor::from("ops"), order });
    }

    /// The pool and the name of the first backend of that name.
    fn whose(&self, name: &str) -> (PoolName, BackendName) {
        let (_, pool, backend, _) = self.core.backends().find(|(_, _, known, _)| known.as_str() == name).unwrap();
        (pool.clone(), backend.clone())
    }

    pub(super) fn report_failure(&mut self, name: &str, error: &str) {
        let (pool, backend) = self.whose(name);
        self.command(Order::ReportFailure { pool, backend, error: error.to_owned() });
    }

    pub(super) fn report_success(&mut self, name: &str) {
        let (pool, backend) = self.whose(name);
        self.command(Order::ReportSuccess { pool, backend });
    }

    /// Pushes a verdict that holds for so long.
    pub(super) fn push(&mut self, name: &str, health: HealthState, ttl: Duration) {
        let (pool, backend) = self.whose(name);
        let figures = vec![("cpu_percent".to_owned(), 97.5)];
        let pushed = PushedHealth { health, until: self.now + ttl, reason: Some("disk full".to_owned()), figures };
        self.command(Order::PushHealth { pool, backend, pushed });
    }

    pub(super) fn reset(&mut self, name: &str) {
        let (pool, backend) = self.whose(name);
        self.command(Order::Reset { pool, backend: Some(backend) });
    }

    pub(super) fn probe_now(&mut self, name: &str) {
        let (pool, backend) = self.whose(name);
        self.command(Order::Probe { pool, backend: Some(backend) });
    }

    pub(super) fn ended_early(&mut self, name: &str, sessions: u32) {
        let (backend, epoch) = (self.id(name), self.epoch(name));
        self.feed(Event::EndedEarly { backend, epoch, sessions, answered: false });
    }

    /// As [`Self::ended_early`], and others were answered meanwhile.
    pub(super) fn ended_early_among_others(&mut self, name: &str, sessions: u32) {
        let (backend, epoch) = (self.id(name), self.epoch(name));
        self.feed(Event::EndedEarly { backend, epoch, sessions, answered: true });
    }

    /// Sessions end early for longer than a moment: enough to take the backend out.
    pub(super) fn end_all_early(&mut self, name: &str) {
        self.ended_early(name, 1000);
        self.now = self.now + UNANSWERED_FOR;
        self.ended_early(name, 1000);
        assert_eq!(self.backend(name).health, HealthState::Unhealthy);
    }

    /// How long until the backend is asked the next time.
    pub(super) fn wait(&mut self, name: &str) -> Duration {
        let began = self.now;
        self.until_asked(name);
        self.now.since(began)
    }

    /// Whether the backend is asked within so long.
    pub(super) fn is_asked_within(&mut self, name: &str, time: Duration) -> bool {
        let target = self.target(name);
        self.pass(time);
        self.open.contains_key(&target)
    }

    /// What the last turn reported, in words.
    pub(super) fn words(&self) -> Vec<String> {
        let words = |command: &Command| match command {
            Command::Report(transition) => Some(transition.change.to_string()),
            _ => None,
        };
        self.last.iter().filter_map(words).collect()
    }

    /// An operator's order for the backend of that number, as the event it comes in.
    pub(super) fn ordered(&self, id: BackendId, state: AdminState) -> Event {
        let (_, pool, backend, _) = self.core.backends().find(|(known, ..)| *known == id).unwrap();
        let order = Order::SetAdminState { pool: pool.clone(), backend: backend.clone(), state };
        Event::Ordered { actor: Actor::from("ops"), order }
    }

    /// Has an operator say so. A refused order changes nothing, to the last bit, and nobody hears of it.
    pub(super) fn say(&mut self, order: Order) -> Result<(), Refusal> {
        self.tick();
        let refusal = self.core.refusal(self.now, &order);
        let before = refusal.as_ref().map(|_| format!("{:?}", self.core));
        self.feed(Event::Ordered { actor: Actor::from("ops"), order });
        let Some(refusal) = refusal else { return Ok(()) };
        assert_eq!(before, Some(format!("{:?}", self.core)), "refused, and yet something changed");
        assert!(self.last.is_empty(), "refused, and yet something is done: {:?}", self.last);
        Err(refusal)
    }

    pub(super) fn fail_over(&mut self, pool: &str, to: Option<&str>) -> Result<(), Refusal> {
        let (pool, to, reason) = (pool.into(), to.map(Into::into), Some("because".to_owned()));
        self.say(Order::Failover { pool, to, reason, sessions: SessionPolicy::Drain })
    }

    pub(super) fn fail_back(&mut self, pool: &str) -> Result<(), Refusal> {
        self.say(Order::Failback { pool: pool.into() })
    }

    pub(super) fn pause(&mut self, pool: &str, time: Option<Duration>) -> Result<(), Refusal> {
        let until = time.map(|time| self.now + time);
        self.say(Order::Pause { pool: pool.into(), until })
    }

    pub(super) fn resume(&mut self, pool: &str) -> Result<(), Refusal> {
        self.say(Order::Resume { pool: pool.into() })
    }

    /// How the tunnel of a backend stands.
    pub(super) fn tunnel(&self, name: &str) -> TunnelStatus {
        self.backend(name).tunnel.unwrap()
    }

    /// How often it was started.
    pub(super) fn starts(&self, name: &str) -> u32 {
        self.hands.starts.get(&self.id(name)).copied().unwrap_or_default()
    }

    /// The present run of the backend's tunnel tells this.
    pub(super) fn news(&mut self, name: &str, news: TunnelNews) {
        let backend = self.id(name);
        if let TunnelNews::Ended { .. } = news {
            self.hands.runs.remove(&backend);
            self.hands.stopping.remove(&backend);
        }
        let run = self.hands.begun[&backend].0;
        self.feed(Event::Tunnel { backend, run, news });
    }

    /// The present run ends by itself, and says this at last.
    pub(super) fn exit(&mut self, name: &str, said: &str) {
        self.news(name, TunnelNews::Ended { how: RunEnd::Exited, detail: said.to_owned() });
    }

    /// What is to stop has stopped.
    pub(super) fn has_stopped(&mut self, name: &str) {
        let id = self.id(name);
        assert!(self.hands.stopping.contains_key(&id), "{name} is not to stop");
        self.news(name, TunnelNews::Ended { how: RunEnd::Stopped, detail: String::new() });
    }

    /// Lets time pass until the backend's tunnel is started once more.
    pub(super) fn until_started(&mut self, name: &str) -> Duration {
        let (began, before) = (self.now, self.starts(name));
        for _ in 0..10_000 {
            if self.starts(name) > before {
                return self.now.since(began);
            }
            self.now = self.core.next_deadline().unwrap();
            self.tick();
        }
        panic!("the tunnel of {name} is never started");
    }

    /// Has the backend's tunnel open and its checks come through, as often as it takes.
    pub(super) fn up(&mut self, name: &str) {
        if !self.hands.runs.contains_key(&self.id(name)) {
            self.until_started(name);
        }
        self.news(name, TunnelNews::Started { pid: 4711 });
        self.news(name, TunnelNews::Open);
        for _ in 0..3 {
            if self.tunnel(name).state != TunnelState::Connected {
                self.answer(name, passed());
            }
        }
        assert_eq!(self.tunnel(name).state, TunnelState::Connected);
    }

    pub(super) fn order_tunnel(&mut self, name: &str, wanted: TunnelOrder) -> Result<(), Refusal> {
        let (pool, backend) = self.whose(name);
        self.say(Order::Tunnel { pool, backend, wanted })
    }

    pub(super) fn world_changes(&mut self) {
        self.feed(Event::WorldChanged { what: "another route".to_owned() });
    }

    /// The published tiers of a pool, by names.
    pub(super) fn routes(&self, pool: &str) -> Vec<Vec<String>> {
        let routes = &self.core.table().pools[&PoolName::from(pool)];
        let names = |tier: &crate::failover::tier::Tier| {
            tier.routes().iter().map(|route| route.name.to_string()).collect::<Vec<_>>()
        };
        routes.tiers.iter().map(names).collect()
    }

    /// The published tiers of a pool as text: `a b | c`.
    pub(super) fn way(&self, pool: &str) -> String {
        self.routes(pool).iter().map(|tier| tier.join(" ")).collect::<Vec<_>>().join(" | ")
    }

    pub(super) fn fences(&self) -> Vec<(BackendId, Epoch, OutReason)> {
        let fence = |command: &Command| match command {
            Command::FenceSessions { backend, epoch, reason, which: _ } => Some((*backend, *epoch, *reason)),
            _ => None,
        };
        self.last.iter().filter_map(fence).collect()
    }

    pub(super) fn published(&self) -> Option<Arc<RouteTable>> {
        self.last.iter().find_map(|command| match command {
            Command::PublishTable(table) => Some(Arc::clone(table)),
            _ => None,
        })
    }

    /// The kinds of the changes that the last turn reported; of a failover, its end.
    pub(super) fn kinds(&self) -> Vec<&'static str> {
        let kind = |command: &Command| match command {
            Command::Report(transition) if is_on_its_way(&transition.change) => None,
            Command::Report(transition) => Some(transition.change.kind()),
            _ => None,
        };
        self.last.iter().filter_map(kind).collect()
    }

    pub(super) fn count(&self, kind: &str) -> usize {
        self.told.iter().filter(|change| change.kind() == kind && !is_on_its_way(change)).count()
    }

    /// Every failover ever told of, in order: its number, status, names and reason.
    pub(super) fn failovers(&self) -> Vec<String> {
        let text = |list: &[BackendName]| list.iter().map(BackendName::as_str).collect::<Vec<_>>().join(" ");
        let failover = |change: &Change| match change {
            Change::PoolFailover { number, status, from, to, reason, .. } => {
                Some(format!("{number} {status}: {} > {} ({reason})", text(from), text(to)))
            }
            _ => None,
        };
        self.told.iter().filter_map(failover).collect()
    }

    pub(super) fn started(&self, name: &str) -> bool {
        let asked = self.target(name);
        self.last.iter().any(|command| matches!(command, Command::StartProbe { target, .. } if *target == asked))
    }
}
