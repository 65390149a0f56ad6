//! Any sequence of events keeps the invariants, and the seat is where a simple, slow model says it must be.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::build::{PlanBuilder, ms, plan};
use super::rig::{Rig, advised, bad_answer, inconclusive, passed, passed_in, refused, replaced, timed_out};
use crate::failover::{Event, MIN_GAIN, Order};
use crate::model::{
    Actor, AdminState, BackendId, BackendName, BackendStatus, CheckKind, CheckPlan, DialError, Epoch, Failback,
    HealthState, MonoTime, PoolName, PoolStatus, ProbeId, ProbeOutcome, PushedHealth, TargetId, WhenDown,
};

#[derive(Debug, Clone)]
enum Op {
    /// Lets so many milliseconds pass, with a turn at each deadline.
    Pass(u64),
    /// Answers the n-th open probe.
    Answer(usize, u8),
    /// Answers any target with any number.
    Stray(u32, u64, u8),
    Dial(usize, u8, u64),
    Order(usize, u8),
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
        14 => (any::<prop::sample::Index>(), 0u8..13).prop_map(|(n, o)| Op::Answer(n.index(16), o)),
        1 => (0u32..12, 0u64..60, 0u8..13).prop_map(|(t, p, o)| Op::Stray(t, p, o)),
        2 => (0usize..8, 0u8..6, 0u64..3).prop_map(|(b, e, epoch)| Op::Dial(b, e, epoch)),
        1 => (0usize..8, 0u8..3).prop_map(|(b, s)| Op::Order(b, s)),
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

/// What the model remembers of a pool: the seat, who sat in it, and since when whom is eligible.
#[derive(Default, Clone)]
struct Seat {
    active: Option<u32>,
    seated: Vec<BackendId>,
    since: BTreeMap<BackendId, MonoTime>,
}

/// Which tier is active: the rules once more, from what the controller says of its backends alone.
fn model(rig: &Rig, status: &PoolStatus, mut seat: Seat) -> Seat {
    let policy = rig.core.pools[&status.name].plan.failover;
    let all = &status.backends;
    let is_fit = |b: &BackendStatus| b.eligible && !b.slow;
    seat.since.retain(|id, _| all.iter().any(|b| b.id == *id && is_fit(b)));
    for backend in all.iter().filter(|b| is_fit(b)) {
        seat.since.entry(backend.id).or_insert(rig.now);
    }
    // A new plan: those who sat keep the seat, the fit among them first. Without a new plan they are all one tier.
    let stayed: Vec<&BackendStatus> = all.iter().filter(|b| seat.seated.contains(&b.id)).collect();
    let was_fit = |b: &&&BackendStatus| b.eligible;
    if seat.active.is_some() {
        let best = stayed.iter().filter(was_fit).map(|b| b.priority).min();
        seat.active = best.or_else(|| stayed.iter().map(|b| b.priority).min()).or(seat.active);
    }
    if !policy.automatic && all.iter().all(|b| Some(b.priority) != seat.active) {
        seat.active = None;
    }
    let fit = |priority: u32| all.iter().any(|b| b.priority == priority && b.eligible);
    let ready = |b: &&BackendStatus| b.admin_state == AdminState::Ready;
    // The fit go first, then the slow.
    let slow = all.iter().filter(|b| b.eligible).map(|b| b.priority).min();
    let best = all.iter().filter(|b| is_fit(b)).map(|b| b.priority).min().or(slow);
    let preferred = all.iter().filter(ready).map(|b| b.priority).min();
    let unasked = all.iter().filter(ready).filter(|b| b.health == HealthState::Unknown).map(|b| b.priority).min();
    seat.active = match seat.active {
        None if policy.automatic => best.filter(|&best| unasked.is_none_or(|unasked| unasked >= best)),
        None => best.filter(|_| best == preferred),
        Some(active) if !policy.automatic => Some(active),
        Some(active) if !fit(active) => Some(best.unwrap_or(active)),
        Some(active) if policy.failback == Failback::Manual => Some(active),
        Some(active) => {
            let stable = |b: &&BackendStatus| {
                is_fit(b) && rig.now >= seat.since[&b.id] + policy.failback_after && b.priority < active
            };
            Some(all.iter().filter(stable).map(|b| b.priority).min().unwrap_or(active))
        }
    };
    seat.seated = all.iter().filter(|b| Some(b.priority) == seat.active).map(|b| b.id).collect();
    seat
}

struct Bench {
    rig: Rig,
    seats: BTreeMap<String, Seat>,
}

impl Bench {
    fn feed(&mut self, event: Event) {
        let is_plan = matches!(event, Event::PlanReplaced { .. });
        let before = self.rig.core.table().clone();
        self.rig.feed(event);
        let unchanged = self.rig.published().is_none();
        assert_eq!(unchanged, before.generation == self.rig.generation());
        assert!(unchanged || before.pools != self.rig.core.table().pools, "a publish that changes nothing");
        let statuses = self.rig.core.pool_statuses(self.rig.now);
        self.seats.retain(|name, _| statuses.iter().any(|status| status.name.as_str() == name));
        for status in &statuses {
            let seat = self.seats.get(status.name.as_str()).cloned().unwrap_or_default();
            let seat = model(&self.rig, status, seat);
            let active = self.rig.core.pools[&status.name].active;
            assert_eq!(
                active,
                seat.active,
                "{} after {}: {status:#?}",
                status.name,
                if is_plan { "a plan" } else { "an event" }
            );
            self.check_routes(status, &seat);
            self.check_slow(status, &seat);
            self.seats.insert(status.name.to_string(), seat);
        }
    }

    fn check_routes(&self, status: &PoolStatus, seat: &Seat) {
        let pool = &self.rig.core.pools[&status.name].plan;
        let routes = self.rig.routes(status.name.as_str());
        let find = |name: &String| status.backends.iter().find(|b| b.name.as_str() == name).unwrap();
        let serves = status.backends.iter().any(|b| b.eligible && Some(b.priority) == seat.active);
        let flat: Vec<&BackendStatus> = routes.iter().flatten().map(find).collect();
        if serves {
            assert!(flat.iter().all(|b| b.eligible), "{routes:?}");
            let reachable =
                |b: &&BackendStatus| b.eligible && (pool.failover.automatic || Some(b.priority) == seat.active);
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
        let reachable = |b: &&BackendStatus| automatic || seat.active.is_none_or(|active| b.priority == active);
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
            Op::Replan(which) => self.feed(replaced(family(which))),
            Op::Ended(n, sessions) => {
                let Some((backend, epoch)) = self.backend(n) else { return };
                self.feed(Event::EndedEarly { backend, epoch, sessions });
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_events_keeps_the_rules(ops in ops()) {
        let mut bench = Bench { rig: Rig::new(plan()), seats: BTreeMap::new() };
        bench.feed(replaced(family(0)));
        for op in &ops {
            bench.apply(op);
        }
        bench.calm();
    }
}
