//! Any sequence of events keeps the invariants, and the seat is where a simple, slow model says it must be.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::build::{PlanBuilder, ms, plan};
use super::model::{Seat, may_serve, model};
use super::rig::{Rig, advised, bad_answer, inconclusive, passed, passed_in, refused, replaced, timed_out};
use crate::failover::{Command, Event, MIN_GAIN, Order};
use crate::model::{
    Actor, AdminState, BackendId, BackendName, BackendStatus, CheckKind, CheckPlan, DialError, Epoch, Explanation,
    HealthState, PoolName, PoolStatus, ProbeId, ProbeOutcome, PushedHealth, SessionPolicy, TargetId, WhenDown,
};

#[derive(Debug, Clone)]
enum Op {
    /// Lets so many milliseconds pass, with a turn at each deadline.
    Pass(u64),
    /// Answers the n-th open probe.
    Answer(usize, u8),
    /// So many open questions are answered in one piece, beginning with this answer.
    Answers(usize, u8),
    /// Answers any target with any number.
    Stray(u32, u64, u8),
    Dial(usize, u8, u64),
    Order(usize, u8),
    /// Orders a failover: of a pool, to which backend, or to the best other tier.
    FailOver(u8, u8, usize),
    FailBack(u8),
    /// Pauses a pool, for so many milliseconds or until it is resumed.
    Pause(u8, u64),
    Resume(u8),
    Replan(u8),
    /// Sessions that ended early, or are stuck.
    Ended(usize, u32),
    Stuck(usize, u64),
    /// We did not run for so long.
    Stall(u64),
    /// Somebody outside says that it failed, or did not.
    Report(usize, bool),
    Push(usize, u8, u64),
    Reset(usize, bool),
    Probe(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => prop_oneof![0u64..20, 0u64..3000, 0u64..40_000].prop_map(Op::Pass),
        12 => (any::<prop::sample::Index>(), 0u8..13).prop_map(|(n, o)| Op::Answer(n.index(16), o)),
        2 => (2usize..6, 0u8..13).prop_map(|(n, o)| Op::Answers(n, o)),
        1 => (0u32..12, 0u64..60, 0u8..13).prop_map(|(t, p, o)| Op::Stray(t, p, o)),
        2 => (0usize..8, 0u8..7, 0u64..3).prop_map(|(b, e, epoch)| Op::Dial(b, e, epoch)),
        1 => (0usize..8, 0u8..3).prop_map(|(b, s)| Op::Order(b, s)),
        1 => (0u8..2, 0u8..7, 0usize..8).prop_map(|(pool, to, policy)| Op::FailOver(pool, to, policy % 3)),
        1 => (0u8..2).prop_map(Op::FailBack),
        1 => (0u8..2, prop_oneof![Just(0u64), 1u64..9000]).prop_map(|(pool, time)| Op::Pause(pool, time)),
        1 => (0u8..2).prop_map(Op::Resume),
        1 => (0u8..FAMILY).prop_map(Op::Replan),
        2 => (0usize..8, 0u32..30).prop_map(|(b, n)| Op::Ended(b, n)),
        1 => (0usize..8, 0u64..2000).prop_map(|(b, t)| Op::Stuck(b, t)),
        1 => (0u64..9000).prop_map(Op::Stall),
        2 => (0usize..8, any::<bool>()).prop_map(|(b, good)| Op::Report(b, good)),
        2 => (0usize..8, 0u8..3, 0u64..5000).prop_map(|(b, h, ttl)| Op::Push(b, h, ttl)),
        1 => (0usize..8, any::<bool>()).prop_map(|(b, all)| Op::Reset(b, all)),
        1 => (0usize..8).prop_map(Op::Probe),
    ];
    prop::collection::vec(op, 1..120)
}

const FAMILY: u8 = 12;

const POOLS: [&str; 2] = ["p", "q"];

fn family(which: u8) -> PlanBuilder {
    let three = plan().drain_timeout(ms(5000)).pool("p").failback_after(ms(3000));
    match which {
        0 => three.backend("a", 1).backend("b", 2).backend("c", 3),
        1 => three.backend("a", 2).backend("b", 2).backend("c", 1),
        2 => three.manual_failover().backend("a", 1).backend("b", 1).backend("c", 2),
        3 => three.manual_failback().backend("a", 1).backend("c", 5).use_preferred(),
        4 => plan()
            .pool("p")
            .use_preferred()
            .backend("a", 1)
            .at("x:1")
            .backend("b", 2)
            .pool("q")
            .backend("a", 1)
            .at("x:1"),
        5 => plan().pool("q").backend("a", 1).backend("b", 2),
        6 => three.manual_failover().use_preferred().backend("d", 7).backend("e", 8).pool("q").backend("c", 3),
        7 => three.failback_after(ms(0)).backend("a", 1).weight(3).backend("b", 1).backend("c", 2).weight(1000),
        8 => three.backend("a", 1).check(limited).backend("b", 1).check(limited).backend("c", 2).check(limited),
        9 => {
            three.failback_after(ms(0)).backend("a", 1).check(limited).backend("b", 2).check(unchecked).backend("c", 3)
        }
        10 => {
            plan().pool("q").backend("a", 1).check(patient).pool("p").manual_failover().backend("a", 1).check(limited)
        }
        _ => plan(),
    }
}

fn limited(check: &mut CheckPlan) {
    check.max_latency = Some(ms(100));
}

fn unchecked(check: &mut CheckPlan) {
    check.kind = CheckKind::None;
}

fn patient(check: &mut CheckPlan) {
    check.recovery_attempts = 3;
    check.recovery_backoff = ms(700);
}

fn outcome(which: u8) -> ProbeOutcome {
    match which {
        0 => bad_answer(),
        1 => refused(),
        2 => timed_out(),
        3 => inconclusive(),
        4 => advised(Some(AdminState::Drain), None),
        5 => advised(Some(AdminState::Ready), Some(60)),
        6 => advised(None, Some(0)),
        7 => passed_in(70),
        8 => passed_in(200),
        9 => passed_in(400),
        _ => passed(),
    }
}

struct Bench {
    rig: Rig,
    seats: BTreeMap<String, Seat>,
    /// How often all that served was lost by an answer.
    losses: u32,
}

impl Bench {
    fn feed(&mut self, event: Event) {
        let is_plan = matches!(event, Event::PlanReplaced { .. });
        let before = self.rig.core.table().clone();
        let order = match &event {
            Event::Ordered { order, .. } => Some(order.clone()),
            _ => None,
        };
        let is_answer = matches!(event, Event::ProbeFinished { .. });
        let expected = if is_answer { self.explanations() } else { Vec::new() };
        self.rig.feed(event);
        expected.iter().for_each(|before| self.check_prospect(before));
        for command in &self.rig.last {
            let Command::Report(told) = command else { continue };
            let Some(pool) = &told.pool else { continue };
            self.seats.entry(pool.to_string()).or_default().tell(&told.change);
        }
        let unchanged = self.rig.published().is_none();
        assert_eq!(unchanged, before.generation == self.rig.generation());
        assert!(unchanged || before.pools != self.rig.core.table().pools, "a publish that changes nothing");
        let statuses = self.rig.core.pool_statuses(self.rig.now);
        self.seats.retain(|name, _| statuses.iter().any(|status| status.name.as_str() == name));
        for status in &statuses {
            let mut seat = self.seats.get(status.name.as_str()).cloned().unwrap_or_default();
            if let Some(order) = order.as_ref().filter(|order| *order.pool() == status.name) {
                let after = self.rig.core.pools[&status.name].plan.failover.failback_after;
                seat.obey(self.rig.now, order, status, after);
            }
            // A pause may also have ended by itself.
            assert!(seat.paused || status.paused.is_none(), "nobody paused it");
            let seat = model(&self.rig, status, seat);
            for backend in &status.backends {
                let expected = may_serve(backend, &seat.passed_over);
                assert_eq!(backend.eligible, expected, "{status:#?}");
                assert_eq!(backend.active, expected && seat.is_seated(backend), "{status:#?}");
            }
            let active = self.rig.core.pools[&status.name].active;
            assert_eq!(
                active,
                seat.active,
                "{} after {}: {status:#?}",
                status.name,
                if is_plan { "a plan" } else { "an event" }
            );
            self.check_routes(status, &seat);
            let evaluation = self.rig.core.evaluate(self.rig.now, &status.name).unwrap();
            assert!(!evaluation.should_failover, "what should be done is done in its turn: {evaluation:?}");
            self.check_slow(status, &seat);
            self.seats.insert(status.name.to_string(), seat);
        }
    }

    fn explanations(&self) -> Vec<Explanation> {
        let names = self.rig.core.pools.keys();
        names.map(|name| self.rig.core.explain(self.rig.now, name).unwrap()).collect()
    }

    /// If an answer has cost the pool all that served, what was foretold has happened.
    fn check_prospect(&mut self, before: &Explanation) {
        let Some(prospect) = &before.if_active_failed else { return };
        let after = self.rig.core.explain(self.rig.now, &before.pool).unwrap();
        // One that is passed over or drained has not failed.
        let has_failed =
            |b: &BackendStatus| b.health == HealthState::Unhealthy && !b.slow && b.admin_state == AdminState::Ready;
        let is_well = |name: &BackendName| after.evidence.iter().any(|b| b.name == *name && !has_failed(b));
        if before.serving.iter().any(is_well) {
            return;
        }
        self.losses += 1;
        assert_eq!(prospect.to, after.serving, "{before:#?} became {after:#?}");
        if after.serving.is_empty() {
            let told = prospect.rules.last().map(|applied| (applied.rule, applied.detail.clone()));
            let so = after.rules.first().map(|applied| (applied.rule, applied.detail.clone()));
            assert_eq!(told, so, "{before:#?} became {after:#?}");
        }
    }

    /// Fails whatever serves, again and again, until nothing does.
    fn fail_active(&mut self) {
        for _ in 0..2000 {
            let all = self.rig.core.pool_statuses(self.rig.now).into_iter().flat_map(|pool| pool.backends);
            let active: Vec<BackendId> = all.filter(|backend| backend.active).map(|backend| backend.id).collect();
            if active.is_empty() {
                return;
            }
            if let Some(&id) = active.iter().find(|&&id| !self.is_checked(id)) {
                self.denounce(id);
                continue;
            }
            let asked = |id: &BackendId| {
                let mut open = self.rig.open.keys().filter(|target| self.rig.core.subscribers(**target).contains(id));
                open.next().copied()
            };
            if let Some(target) = active.iter().find_map(asked) {
                let (probe, _) = self.rig.open.remove(&target).unwrap();
                self.feed(Event::ProbeFinished { target, probe, outcome: refused() });
            } else {
                self.rig.now = self.rig.core.next_deadline().unwrap();
                self.feed(Event::Tick);
            }
        }
        panic!("something goes on serving: {:#?}", self.rig.core.pool_statuses(self.rig.now));
    }

    fn is_checked(&self, id: BackendId) -> bool {
        self.rig.core.pools.values().find_map(|pool| pool.member(id)).is_some_and(|member| member.is_checked())
    }

    /// Nobody asks it: only what others report takes it out.
    fn denounce(&mut self, id: BackendId) {
        let before = self.explanations();
        let named = self.rig.core.backends().find(|(known, ..)| *known == id);
        let (pool, backend) = named.map(|(_, pool, backend, _)| (pool.clone(), backend.clone())).unwrap();
        let order = Order::ReportFailure { pool, backend, error: "no".to_owned() };
        self.feed(Event::Ordered { actor: Actor::from("ops"), order });
        before.iter().for_each(|before| self.check_prospect(before));
    }

    fn check_routes(&self, status: &PoolStatus, seat: &Seat) {
        let pool = &self.rig.core.pools[&status.name].plan;
        let routes = self.rig.routes(status.name.as_str());
        let find = |name: &String| status.backends.iter().find(|b| b.name.as_str() == name).unwrap();
        let serves = !seat.serving(&status.backends).is_empty();
        assert_eq!(status.pinned, seat.pin.as_ref().map(|(name, _)| name.clone()));
        assert_eq!(serves, status.backends.iter().any(|b| b.active), "{status:#?}");
        if status.paused.is_some() {
            assert!(routes.is_empty(), "paused, and yet {routes:?}");
            return;
        }
        let flat: Vec<&BackendStatus> = routes.iter().flatten().map(find).collect();
        if serves {
            assert!(flat.iter().all(|b| b.eligible), "{routes:?}");
            let may_leave = pool.failover.automatic && seat.pin.is_none();
            let reachable = |b: &&BackendStatus| b.eligible && (may_leave || seat.is_seated(b));
            assert_eq!(flat.len(), status.backends.iter().filter(reachable).count(), "{routes:?}");
            assert_eq!(Some(flat[0].priority), seat.active);
        } else if pool.hold.when_down == WhenDown::UsePreferred {
            assert!(flat.len() <= 1 && flat.iter().all(|b| b.admin_state == AdminState::Ready));
        } else {
            assert!(routes.is_empty(), "{routes:?}");
        }
    }

    /// Slow is not down, and is passed over only while there is something fit.
    fn check_slow(&self, status: &PoolStatus, seat: &Seat) {
        let automatic = self.rig.core.pools[&status.name].plan.failover.automatic;
        let reachable = |b: &&BackendStatus| match &seat.pin {
            Some(_) => seat.is_seated(b),
            None => automatic || seat.active.is_none_or(|active| b.priority == active),
        };
        let fit: Vec<_> = status.backends.iter().filter(|b| b.eligible && !b.slow).filter(reachable).collect();
        for slow in status.backends.iter().filter(|b| b.slow) {
            assert!(slow.eligible || !fit.is_empty(), "nothing is better, and yet it is passed over: {slow:?}");
            let mean = slow.smoothed.unwrap().mean;
            let better = |b: &&BackendStatus| b.smoothed.is_none_or(|s| s.mean <= mean.mul_f64(1.0 - MIN_GAIN));
            assert!(!(slow.eligible && fit.iter().any(better)), "another is better by far: {slow:?}");
        }
    }

    fn pass(&mut self, millis: u64) {
        let end = self.rig.now + ms(millis);
        while let Some(at) = self.rig.core.next_deadline().filter(|&at| at <= end) {
            self.rig.now = at;
            self.feed(Event::Tick);
        }
        self.rig.now = end;
    }

    fn backend(&self, n: usize) -> Option<(BackendId, Epoch)> {
        let members: Vec<_> = self.rig.core.pools.values().flat_map(|pool| pool.members()).collect();
        (!members.is_empty()).then(|| members[n % members.len()]).map(|member| (member.id, member.epoch))
    }

    /// An operator's order: carried out, or refused and without effect.
    fn say(&mut self, order: Order) {
        self.feed(Event::Tick);
        if self.rig.core.refusal(self.rig.now, &order).is_some() {
            assert!(self.rig.say(order).is_err());
        } else {
            self.feed(Event::Ordered { actor: Actor::from("ops"), order });
        }
    }

    fn command(&mut self, n: usize, order: impl FnOnce(PoolName, BackendName) -> Order) {
        let Some((id, _)) = self.backend(n) else { return };
        let named = self.rig.core.backends().find(|(known, ..)| *known == id);
        let order = named.map(|(_, pool, backend, _)| order(pool.clone(), backend.clone())).unwrap();
        self.feed(Event::Ordered { actor: Actor::from("ops"), order });
    }

    /// Time passes without a turn; nobody is the worse for it.
    fn stall(&mut self, millis: u64) {
        let since = self.rig.now;
        self.rig.now = since + ms(millis);
        let healthy = |bench: &Self| -> Vec<BackendId> {
            let all = bench.rig.core.pools.values().flat_map(|pool| pool.members());
            all.filter(|member| member.health.state == HealthState::Healthy).map(|member| member.id).collect()
        };
        let before = healthy(self);
        self.feed(Event::WasStalled { since });
        let after = healthy(self);
        assert!(before.iter().all(|id| after.contains(id)), "a verdict from a time in which we did not run");
        assert!(self.rig.core.pools.values().flat_map(|pool| pool.members()).all(|member| {
            member.health.state != HealthState::Healthy || member.health.consecutive_failures() == 0
        }));
    }

    /// Everything is well again: whatever happened, within a bounded time everything serves.
    fn calm(&mut self) {
        let ids: Vec<BackendId> = self.rig.core.backends().map(|(id, ..)| id).collect();
        for id in ids {
            let event = self.rig.ordered(id, AdminState::Ready);
            self.feed(event);
        }
        for status in self.rig.core.pool_statuses(self.rig.now) {
            if status.paused.is_some() {
                self.say(Order::Resume { pool: status.name.clone() });
            }
            if status.pinned.is_some() {
                self.say(Order::Failback { pool: status.name.clone() });
            }
        }
        for n in 0..8 {
            self.command(n, |pool, backend| Order::Reset { pool, backend: Some(backend) });
        }
        let end = self.rig.now + ms(40_000);
        loop {
            while let Some((target, (probe, _))) = self.rig.open.pop_first() {
                let outcome = advised(Some(AdminState::Ready), Some(100));
                self.feed(Event::ProbeFinished { target, probe, outcome });
            }
            let Some(at) = self.rig.core.next_deadline().filter(|&at| at <= end) else { break };
            self.rig.now = at;
            self.feed(Event::Tick);
        }
        for status in self.rig.core.pool_statuses(self.rig.now) {
            assert!(status.backends.iter().all(|b| b.eligible && !b.slow), "not all serve again: {status:#?}");
            assert!(!self.rig.routes(status.name.as_str()).is_empty());
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Pass(millis) => self.pass(millis),
            Op::Answer(n, which) => {
                if self.rig.open.is_empty() {
                    self.pass(300);
                }
                let count = self.rig.open.len();
                let Some(&target) = self.rig.open.keys().nth(n % count.max(1)) else { return };
                let (probe, _) = self.rig.open.remove(&target).unwrap();
                self.feed(Event::ProbeFinished { target, probe, outcome: outcome(which) });
            }
            Op::Answers(count, first) => {
                let mut answers = Vec::new();
                while answers.len() < count
                    && let Some((target, (probe, _))) = self.rig.open.pop_first()
                {
                    let which = u8::try_from(answers.len()).unwrap() * 5;
                    answers.push((target, probe, outcome((first + which) % 13)));
                }
                self.feed(Event::ProbesFinished { answers });
            }
            Op::Stray(target, probe, which) => {
                let (target, probe) = (TargetId(target), ProbeId(probe));
                if self.rig.open.get(&target).is_none_or(|(open, _)| *open != probe) {
                    self.feed(Event::ProbeFinished { target, probe, outcome: outcome(which) });
                }
            }
            Op::Dial(n, error, back) => {
                let Some((backend, epoch)) = self.backend(n) else { return };
                let epoch = Epoch(epoch.0.saturating_sub(back));
                self.feed(Event::DialFailed { backend, epoch, error: DialError::ALL[usize::from(error)] });
            }
            Op::Order(n, state) => {
                let Some((backend, _)) = self.backend(n) else { return };
                let event = self.rig.ordered(backend, AdminState::ALL[usize::from(state)]);
                self.feed(event);
            }
            Op::FailOver(pool, to, policy) => {
                let to = ["a", "b", "c", "d", "e"].get(usize::from(to)).map(|&name| name.into());
                let sessions = SessionPolicy::ALL[policy];
                self.say(Order::Failover { pool: POOLS[usize::from(pool)].into(), to, reason: None, sessions });
            }
            Op::FailBack(pool) => self.say(Order::Failback { pool: POOLS[usize::from(pool)].into() }),
            Op::Pause(pool, millis) => {
                let until = (millis > 0).then(|| self.rig.now + ms(millis));
                self.say(Order::Pause { pool: POOLS[usize::from(pool)].into(), until });
            }
            Op::Resume(pool) => self.say(Order::Resume { pool: POOLS[usize::from(pool)].into() }),
            Op::Replan(which) => {
                // The model reckons with the time at each turn only.
                self.feed(Event::Tick);
                self.feed(replaced(family(which)));
            }
            Op::Ended(n, sessions) => {
                let Some((backend, epoch)) = self.backend(n) else { return };
                self.feed(Event::EndedEarly { backend, epoch, sessions, answered: sessions % 4 == 3 });
            }
            Op::Stuck(n, silent) => {
                let Some((backend, epoch)) = self.backend(n) else { return };
                self.feed(Event::DataStalled { backend, epoch, silent: ms(silent) });
            }
            Op::Stall(millis) => self.stall(millis),
            Op::Report(n, good) => self.command(n, |pool, backend| {
                let error = "no".to_owned();
                if good {
                    Order::ReportSuccess { pool, backend }
                } else {
                    Order::ReportFailure { pool, backend, error }
                }
            }),
            Op::Push(n, health, ttl) => {
                let (health, until) = (HealthState::ALL[usize::from(health)], self.rig.now + ms(ttl));
                let pushed = PushedHealth { health, until, reason: None, figures: Vec::new() };
                self.command(n, |pool, backend| Order::PushHealth { pool, backend, pushed });
            }
            Op::Reset(n, all) => {
                self.command(n, |pool, backend| Order::Reset { pool, backend: (!all).then_some(backend) });
            }
            Op::Probe(n) => self.command(n, |pool, backend| Order::Probe { pool, backend: Some(backend) }),
        }
    }
}

/// How many sequences are tried: `PROPTEST_CASES`, or what a plain run has time for.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_events_keeps_the_rules(ops in ops()) {
        let mut bench = Bench { rig: Rig::new(plan()), seats: BTreeMap::new(), losses: 0 };
        bench.feed(replaced(family(0)));
        for op in &ops {
            bench.apply(op);
        }
        let serves = bench.rig.core.pool_statuses(bench.rig.now).iter().flat_map(|p| &p.backends).any(|b| b.active);
        let before = bench.losses;
        bench.fail_active();
        assert!(!serves || bench.losses > before, "nothing was lost");
        bench.calm();
    }
}
