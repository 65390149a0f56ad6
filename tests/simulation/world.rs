//! A world: the controller, what it has been told to do, and the rules that are checked at each turn.

use crate::*;

/// A virtual session as the registry knows it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) backend: BackendId,
    pub(crate) epoch: Epoch,
}

pub(crate) struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) core: Controller,
    pub(crate) now: MonoTime,
    pub(crate) plan: Arc<Plan>,
    /// What data-plane threads see.
    pub(crate) table: Arc<RouteTable>,
    pub(crate) hosts: BTreeMap<String, Host>,
    /// Answers on their way.
    pub(crate) answers: BTreeMap<(MonoTime, u64), (TargetId, ProbeId, ProbeOutcome)>,
    pub(crate) sent: u64,
    /// The open question to each target.
    pub(crate) open: BTreeMap<TargetId, ProbeId>,
    pub(crate) last_probe: ProbeId,
    pub(crate) fences: BTreeMap<BackendId, Epoch>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) turns: u64,
    pub(crate) trace: VecDeque<String>,
    pub(crate) hash: DefaultHasher,
    pub(crate) failovers: u64,
    /// The number and status of each pool's last failover.
    pub(crate) told: BTreeMap<PoolName, (u64, FailoverStatus)>,
    /// Orders that were carried out, and that were refused.
    pub(crate) orders: (u64, u64),
    /// What each process has recorded, if that is wanted.
    pub(crate) recordings: Option<Vec<Recorded>>,
    /// What every agent says that has nothing to ask for.
    pub(crate) advice: Advice,
    /// How many questions the plan makes.
    questions: usize,
    /// When this process started, on the calendar.
    pub(crate) started: WallTime,
    pub(crate) disk: Disk,
    /// What the store was told last, as the control task's keeper has it.
    pub(crate) rows: BTreeMap<PoolName, Row>,
    pub(crate) account: Account,
    pub(crate) restarts: Restarts,
}

/// The recording of one process.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) seed: u64,
    scribe: Scribe,
    pub(crate) lines: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self::begin(seed, None)
    }

    pub(crate) fn begin(seed: u64, recordings: Option<Vec<Recorded>>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = draw_plan(&mut rng);
        let core = Controller::new(0);
        let mut world = Self {
            rng,
            table: Arc::clone(core.table()),
            core,
            now: MonoTime::ZERO,
            plan,
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
            recordings,
            advice: Advice::default(),
            questions: 0,
            started: WallTime::from_micros(1_800_000_000_000_000),
            disk: Disk::new(seed),
            rows: BTreeMap::new(),
            account: Account::default(),
            restarts: Restarts::default(),
        };
        world.begin_process();
        world.boot(&Image::default());
        world
    }

    /// Another process: of what the last one had in memory nothing is left, and its clock begins anew.
    pub(crate) fn begin_process(&mut self) {
        let seed = self.rng.u64(..);
        self.core = Controller::new(seed);
        self.now = MonoTime::ZERO + ms(1);
        self.table = Arc::clone(self.core.table());
        self.answers.clear();
        self.open.clear();
        self.last_probe = ProbeId::default();
        self.fences.clear();
        self.sessions.clear();
        self.told.clear();
        if let Some(recordings) = &mut self.recordings {
            recordings.push(Recorded { seed, scribe: Scribe::default(), lines: Vec::new() });
        }
    }

    pub(crate) fn note(&mut self, line: String) {
        line.hash(&mut self.hash);
        if self.trace.len() == TAIL {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// One turn of the control task, with its commands carried out, all rules checked, and what it leaves kept.
    pub(crate) fn feed(&mut self, event: Event) {
        let replaced = matches!(event, Event::PlanReplaced { .. });
        let mut is_obeyed = false;
        if let Event::Ordered { order, .. } = &event
            && self.core.refusal(self.now, order).is_none()
        {
            is_obeyed = true;
            if let Order::SetAdminState { pool, backend, state } = order {
                self.account.ordered(pool, backend, *state);
            }
        }
        let reports = self.turn(event);
        self.keep(&reports, replaced, is_obeyed);
    }

    /// One turn of the core. Returns what it told people.
    pub(crate) fn turn(&mut self, event: Event) -> Vec<Transition> {
        self.turns += 1;
        let line = match &event {
            Event::PlanReplaced { plan, .. } => {
                let questions: BTreeSet<_> =
                    plan.pools.values().flat_map(|pool| &pool.backends).map(question).collect();
                self.questions = questions.len();
                format!("{:?} PlanReplaced {:?}", self.now, plan.pools.keys())
            }
            other => format!("{:?} {other:?}", self.now),
        };
        self.note(line);
        let mut out = Vec::new();
        let told = self.recordings.as_ref().map(|_| event.clone());
        self.core.tell_figures(&mut |_| {});
        self.core.handle(self.now, event, &mut out);
        if let Some((Recorded { scribe, lines, .. }, event)) =
            self.recordings.as_mut().and_then(|all| all.last_mut()).zip(told)
        {
            lines.push(scribe.line(self.now, &event, &out).unwrap());
        }
        let (mut fenced, mut reports) = (false, Vec::new());
        for command in out {
            if let Command::PublishTable(table) = &command {
                assert!(!fenced && reports.is_empty(), "a table is published after a fence or a report");
                assert_eq!(table.generation, self.table.generation.next(), "generations grow by one");
                assert!(table.pools != self.table.pools, "a publish that changes nothing");
                self.check_epochs(table);
            }
            fenced |= matches!(command, Command::FenceSessions { .. });
            let is_late = !reports.is_empty() && matches!(command, Command::FenceSessions { .. });
            assert!(!is_late, "a fence after a report");
            if let Command::Report(transition) = &command {
                reports.push(transition.clone());
            }
            self.carry_out(command);
        }
        assert!(Arc::ptr_eq(&self.table, self.core.table()), "the table decided was not published");
        self.core.check_invariants().unwrap_or_else(|broken| panic!("{broken}"));
        assert!(self.core.next_deadline().is_none_or(|at| at > self.now), "it wants to be woken in the past");
        assert!(self.open.len() <= self.questions, "more than one probe of a target");
        reports
    }

    /// No route may carry an epoch that was fenced off, or its sessions could not be admitted.
    pub(crate) fn check_epochs(&self, table: &RouteTable) {
        for route in table.pools.values().flat_map(|pool| &pool.tiers).flat_map(|tier| tier.routes()) {
            let fence = self.fences.get(&route.backend).copied().unwrap_or_default();
            assert!(route.epoch >= fence, "{} is routed under {} and fenced at {fence}", route.name, route.epoch);
        }
    }

    pub(crate) fn carry_out(&mut self, command: Command) {
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
            Command::StartWatch { .. }
            | Command::StopWatch { .. }
            | Command::Knock { .. }
            | Command::KeepLineage { .. }
            | Command::StartTunnel { .. }
            | Command::StopTunnel { .. } => {
                panic!("no server is watched here, and nobody is behind a tunnel")
            }
            Command::PublishTable(table) => {
                self.note(format!("  publish {}", table.generation));
                self.table = table;
            }
            Command::FenceSessions { backend, epoch, reason, which: _ } => {
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
    pub(crate) fn follow(&mut self, pool: &PoolName, number: u64, status: FailoverStatus) {
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

    /// Lets time pass with every answer and deadline on its way.
    pub(crate) fn pass(&mut self, time: Duration) {
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
            if is_answer && self.rng.u8(..4) == 0 && self.answer_together(end) {
                continue;
            }
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

    /// The control task comes a little late, and has the answers that have come meanwhile in one turn. Not if it is one.
    fn answer_together(&mut self, end: MonoTime) -> bool {
        let until = end.min(self.now + ms(self.rng.u64(1..15)));
        if self.answers.range(..=(until, u64::MAX)).count() < 2 {
            return false;
        }
        let mut answers = Vec::new();
        while let Some(entry) = self.answers.first_entry().filter(|entry| entry.key().0 <= until) {
            self.now = self.now.max(entry.key().0);
            let (target, probe, outcome) = entry.remove();
            if self.open.get(&target) == Some(&probe) {
                self.open.remove(&target);
            }
            answers.push((target, probe, outcome));
        }
        self.feed(Event::ProbesFinished { answers });
        true
    }

    /// Health and its counts of every backend.
    pub(crate) fn statuses(&self) -> Vec<(BackendId, HealthState, u32, u32)> {
        let all = self.core.pool_statuses(self.now).into_iter().flat_map(|pool| pool.backends);
        all.map(|b| (b.id, b.health, b.consecutive_failures, b.consecutive_successes)).collect()
    }
}

pub(crate) fn replaced(plan: Arc<Plan>) -> Event {
    Event::PlanReplaced { plan, actor: Actor::changeover() }
}
