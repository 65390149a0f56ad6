//! Any sequence of events keeps the invariants, and the seat is where a simple, slow model says it must be.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::build::{PlanBuilder, ms, plan};
use super::rig::{Rig, bad_answer, inconclusive, passed, refused, replaced, timed_out};
use crate::failover::{Change, Command, DAMPING_CAP, DAMPING_FLOOR, Event, Order};
use crate::model::{
    Actor, AdminState, BackendId, BackendName, BackendStatus, DialError, Epoch, Explanation, Failback, FailoverStatus,
    HealthState, MonoTime, PoolState, PoolStatus, ProbeId, ProbeOutcome, SessionPolicy, TargetId, WhenDown,
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
    /// Orders a failover: of a pool, to which backend, or to the best other tier.
    FailOver(u8, u8, usize),
    FailBack(u8),
    /// Pauses a pool, for so many milliseconds or until it is resumed.
    Pause(u8, u64),
    Resume(u8),
    Replan(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => prop_oneof![0u64..20, 0u64..3000, 0u64..40_000].prop_map(Op::Pass),
        14 => (any::<prop::sample::Index>(), 0u8..8).prop_map(|(n, o)| Op::Answer(n.index(16), o)),
        1 => (0u32..12, 0u64..60, 0u8..8).prop_map(|(t, p, o)| Op::Stray(t, p, o)),
        2 => (0usize..8, 0u8..6, 0u64..3).prop_map(|(b, e, epoch)| Op::Dial(b, e, epoch)),
        1 => (0usize..8, 0u8..3).prop_map(|(b, s)| Op::Order(b, s)),
        1 => (0u8..2, 0u8..7, 0usize..8).prop_map(|(pool, to, policy)| Op::FailOver(pool, to, policy % 3)),
        1 => (0u8..2).prop_map(Op::FailBack),
        1 => (0u8..2, prop_oneof![Just(0u64), 1u64..9000]).prop_map(|(pool, time)| Op::Pause(pool, time)),
        1 => (0u8..2).prop_map(Op::Resume),
        1 => (0u8..FAMILY).prop_map(Op::Replan),
    ];
    prop::collection::vec(op, 1..120)
}

const FAMILY: u8 = 9;

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
        _ => plan(),
    }
}

fn outcome(which: u8) -> ProbeOutcome {
    match which {
        0 => bad_answer(),
        1 => refused(),
        2 => timed_out(),
        3 => inconclusive(),
        _ => passed(),
    }
}

/// What the model remembers of a pool: the seat, who sat in it, and since when whom is eligible.
#[derive(Default, Clone)]
struct Seat {
    active: Option<u32>,
    seated: Vec<BackendId>,
    since: BTreeMap<BackendId, MonoTime>,
    /// To whom it is pinned, and whether with the tier.
    pin: Option<(BackendName, bool)>,
    paused: bool,
    /// Since when nothing serves that did.
    lost: Option<MonoTime>,
    calm: Calm,
    /// The number and status of the last failover.
    told: Option<(u64, FailoverStatus)>,
}

/// How far the pool trusts a better tier: the damping once more.
#[derive(Default, Clone)]
struct Calm {
    bounces: u32,
    since: MonoTime,
    fit: BTreeMap<u32, MonoTime>,
    proof: Option<MonoTime>,
}

impl Calm {
    fn wait(&self, after: Duration) -> Duration {
        (0..self.bounces).fold(after.max(DAMPING_FLOOR), |wait, _| wait * 2).min(DAMPING_CAP)
    }

    fn returned(&mut self, now: MonoTime, after: Duration) {
        (self.since, self.proof) = (now, Some(now + self.wait(after) * 2));
    }

    fn left(&mut self, now: MonoTime, lost: MonoTime, by_verdict: bool) {
        self.since = now;
        self.bounces += u32::from(self.proof.take().is_some_and(|proof| lost < proof && by_verdict));
    }
}

impl Seat {
    fn is_seated(&self, backend: &BackendStatus) -> bool {
        let within = self.pin.as_ref().is_none_or(|(name, tier)| *tier || *name == backend.name);
        within && Some(backend.priority) == self.active
    }

    fn serving(&self, all: &[BackendStatus]) -> Vec<BackendId> {
        all.iter().filter(|b| b.eligible && self.is_seated(b)).map(|b| b.id).collect()
    }

    /// From `before` to the present tier.
    fn moved(&mut self, now: MonoTime, before: u32, status: &PoolStatus, after: Duration) {
        if self.active < Some(before) && status.backends.iter().any(|b| b.priority == before && b.eligible) {
            self.calm.returned(now, after);
        } else {
            let by_verdict = status.last_failover.as_ref().is_some_and(|last| last.reason.is_verdict());
            self.calm.left(now, self.lost.unwrap_or(now), by_verdict);
        }
    }

    /// What an order that is not refused makes of it; `status` is the pool after the order.
    fn obey(&mut self, now: MonoTime, order: &Order, status: &PoolStatus, after: Duration) {
        let all = &status.backends;
        match order {
            Order::Failover { to, .. } => {
                let of_tier = |b: &&BackendStatus| b.eligible && Some(b.priority) != self.active;
                let target = match to {
                    Some(name) => all.iter().find(|b| b.name == *name).unwrap(),
                    None => all.iter().find(of_tier).unwrap(),
                };
                self.pin = Some((target.name.clone(), to.is_none()));
                self.active = Some(target.priority);
                self.calm.left(now, now, false);
            }
            Order::Failback { .. } => {
                let (served, before) = (self.serving(all), self.active.unwrap());
                self.pin = None;
                let best = all.iter().filter(|b| b.eligible).map(|b| b.priority).min();
                self.active = best.or(self.active);
                let is_better = self.active < Some(before);
                if served.is_empty() && self.active > Some(before) {
                    self.moved(now, before, status, after);
                } else if (is_better || !served.is_empty()) && self.serving(all) != served {
                    self.calm.returned(now, after);
                }
            }
            Order::Pause { .. } => self.paused = true,
            Order::Resume { .. } => self.paused = false,
            other => panic!("no order about who serves: {other:?}"),
        }
        self.seated = all.iter().filter(|b| Some(b.priority) == self.active).map(|b| b.id).collect();
    }

    /// Failovers are numbered without a gap, and each is told in order.
    fn tell(&mut self, change: &Change) {
        let Change::PoolFailover { number, status, .. } = change else { return };
        let (last, before) = self.told.unwrap_or((0, FailoverStatus::Failed));
        let expected = match (before, status) {
            (FailoverStatus::Completed | FailoverStatus::Failed, FailoverStatus::Pending) => last + 1,
            (FailoverStatus::Pending, FailoverStatus::InProgress | FailoverStatus::Failed)
            | (FailoverStatus::InProgress, FailoverStatus::Completed) => last,
            _ => panic!("{status} after {before}"),
        };
        assert_eq!(*number, expected);
        self.told = Some((*number, *status));
    }
}

/// Which tier is active: the rules once more, from what the controller says of its backends alone.
fn model(rig: &Rig, status: &PoolStatus, mut seat: Seat) -> Seat {
    let policy = rig.core.pools[&status.name].plan.failover;
    let all = &status.backends;
    seat.since.retain(|id, _| all.iter().any(|b| b.id == *id && b.eligible));
    for backend in all.iter().filter(|b| b.eligible) {
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
    if let Some((name, tier)) = seat.pin.take() {
        let stayed = || all.iter().find(|b| tier && seat.seated.contains(&b.id));
        let pinned = all.iter().find(|b| b.name == name).or_else(stayed);
        seat.active = pinned.map(|b| b.priority).or(seat.active);
        seat.pin = pinned.map(|b| (b.name.clone(), tier));
    }
    let mut fit_tiers: BTreeMap<u32, MonoTime> = BTreeMap::new();
    for backend in all.iter().filter(|b| b.eligible) {
        let since = fit_tiers.entry(backend.priority).or_insert(rig.now);
        *since = seat.since[&backend.id].min(*since);
    }
    while seat.calm.bounces > 0 && rig.now >= seat.calm.since + seat.calm.wait(policy.failback_after) * 2 {
        seat.calm.since = seat.calm.since + seat.calm.wait(policy.failback_after) * 2;
        seat.calm.bounces -= 1;
    }
    if seat.calm.fit != fit_tiers {
        (seat.calm.fit, seat.calm.since) = (fit_tiers, rig.now);
    }
    let wait = if seat.calm.bounces > 0 { seat.calm.wait(policy.failback_after) } else { policy.failback_after };
    let before = seat.active;
    let fit = |priority: u32| all.iter().any(|b| b.priority == priority && b.eligible);
    let ready = |b: &&BackendStatus| b.admin_state == AdminState::Ready;
    let best = all.iter().filter(|b| b.eligible).map(|b| b.priority).min();
    let preferred = all.iter().filter(ready).map(|b| b.priority).min();
    let unasked = all.iter().filter(ready).filter(|b| b.health == HealthState::Unknown).map(|b| b.priority).min();
    seat.active = match seat.active {
        Some(active) if seat.pin.is_some() => Some(active),
        None if policy.automatic => best.filter(|&best| unasked.is_none_or(|unasked| unasked >= best)),
        None => best.filter(|_| best == preferred),
        Some(active) if !policy.automatic => Some(active),
        Some(active) if !fit(active) => Some(best.unwrap_or(active)),
        Some(active) if policy.failback == Failback::Manual => Some(active),
        Some(active) => {
            let stable = |b: &&BackendStatus| b.eligible && rig.now >= seat.since[&b.id] + wait && b.priority < active;
            Some(all.iter().filter(stable).map(|b| b.priority).min().unwrap_or(active))
        }
    };
    match before {
        Some(before) if seat.active != Some(before) => seat.moved(rig.now, before, status, policy.failback_after),
        None if seat.active.is_some() => seat.calm.left(rig.now, rig.now, false),
        _ => {}
    }
    let serves = !seat.serving(all).is_empty();
    let empty = seat.active.is_some() || status.state == PoolState::Down;
    seat.lost = if serves || !empty { None } else { seat.lost.or(Some(rig.now)) };
    seat.paused = status.paused.is_some();
    seat.seated = all.iter().filter(|b| Some(b.priority) == seat.active).map(|b| b.id).collect();
    seat
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
            Event::Ordered { order, .. } if !matches!(order, Order::SetAdminState { .. }) => Some(order.clone()),
            _ => None,
        };
        let is_answer = matches!(event, Event::ProbeFinished { .. });
        let expected = if is_answer { self.explanations() } else { Vec::new() };
        self.rig.feed(event);
        expected.iter().for_each(|before| self.check_prospect(before));
        for command in &self.rig.last {
            let Command::Report(told) = command else { continue };
            self.seats.entry(told.pool.as_ref().unwrap().to_string()).or_default().tell(&told.change);
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
        let is_fit = |name: &BackendName| after.evidence.iter().any(|b| b.name == *name && b.eligible);
        if before.serving.iter().any(is_fit) {
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
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

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
    }
}
