//! Any sequence of events keeps the rules of tunnels: one run at a time, no two starts at once, none while an operator has
//! stopped it, no session and no question without a way, and nothing that an older run tells has an effect. The rig holds the
//! first two, and the core's own invariants the fourth.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::build::{PlanBuilder, ms, plan};
use super::rig::{Rig, bad_answer, closed_early, inconclusive, passed, passed_in, refused, replaced, timed_out};
use crate::failover::{Change, Command, Event, Order, TunnelOrder};
use crate::model::{
    Actor, AdminState, BackendId, BackendName, CheckKind, HealthState, ProbeOutcome, PushedHealth, RunEnd, RunId,
    TunnelNews,
};

#[derive(Debug, Clone)]
enum Op {
    /// Lets so many milliseconds pass, with a turn at each deadline.
    Pass(u64),
    /// The next turn comes so much too late.
    Jump(u64),
    /// Answers the n-th open probe.
    Answer(usize, u8),
    /// The n-th tunnel's run tells something: the present one, or one that many before it.
    News(usize, u8, u64),
    Order(usize, u8),
    World,
    Replan(u8),
    Stall(u64),
    Moved(usize, u64),
    Reset(usize),
    Push(usize, bool),
    Drain(usize, u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => prop_oneof![0u64..20, 0u64..3000, 0u64..40_000, 0u64..900_000].prop_map(Op::Pass),
        1 => (0u64..100_000).prop_map(Op::Jump),
        10 => (any::<prop::sample::Index>(), 0u8..14).prop_map(|(n, o)| Op::Answer(n.index(16), o)),
        10 => (0usize..6, 0u8..10, prop_oneof![4 => Just(0u64), 1 => 1u64..3]).prop_map(|(n, k, o)| Op::News(n, k, o)),
        2 => (0usize..6, 0u8..3).prop_map(|(n, k)| Op::Order(n, k)),
        1 => Just(Op::World),
        1 => (0u8..6).prop_map(Op::Replan),
        1 => (0u64..9000).prop_map(Op::Stall),
        1 => (0usize..6, 0u64..9000).prop_map(|(n, m)| Op::Moved(n, m)),
        1 => (0usize..6).prop_map(Op::Reset),
        1 => (0usize..6, any::<bool>()).prop_map(|(n, good)| Op::Push(n, good)),
        1 => (0usize..6, 0u8..3).prop_map(|(n, state)| Op::Drain(n, state)),
    ];
    prop::collection::vec(op, 1..120)
}

fn family(which: u8) -> PlanBuilder {
    let two =
        || plan().pool("p").failback_after(ms(3000)).backend("a", 1).tunnel("db:1").backend("b", 2).tunnel("db:1");
    match which {
        0 => two(),
        1 => two().backend("c", 3),
        2 => two().backend("c", 3).tunnel("db:2").check(|check| check.kind = CheckKind::None),
        3 => plan().pool("p").backend("a", 1).tunnel("db:1").tunnel_with(|plan| plan.restart_after = 1),
        4 => plan()
            .pool("p")
            .use_preferred()
            .backend("a", 1)
            .backend("b", 1)
            .tunnel("db:1")
            .pool("q")
            .backend("a", 1)
            .tunnel("x:1"),
        _ => two().backend("c", 1).tunnel("db:1").check(|check| {
            check.recovery_attempts = 3;
            check.max_latency = Some(ms(100));
        }),
    }
}

fn outcome(which: u8) -> ProbeOutcome {
    match which {
        0 => bad_answer(),
        1 => refused(),
        2 => timed_out(),
        3 => inconclusive(),
        4..7 => closed_early(),
        7 => passed_in(400),
        _ => passed(),
    }
}

fn news(which: u8) -> TunnelNews {
    let ended = |how| TunnelNews::Ended { how, detail: format!("it said {how}") };
    match which {
        0 => TunnelNews::Started { pid: 7 },
        1..5 => TunnelNews::Open,
        5 => TunnelNews::Fatal { line: "denied".to_owned() },
        6 => ended(RunEnd::NotStarted),
        7 => ended(RunEnd::PortTaken),
        8 => ended(RunEnd::Local),
        _ => ended(RunEnd::Exited),
    }
}

struct Bench {
    rig: Rig,
    /// The tunnels that an operator has stopped.
    stopped: BTreeSet<(String, BackendName)>,
}

impl Bench {
    fn feed(&mut self, event: Event) {
        self.rig.feed(event);
        for command in &self.rig.last {
            if let Command::StartTunnel { plan, .. } = command {
                let name = (plan.via.pool.to_string(), plan.via.backend.clone());
                assert!(!self.stopped.contains(&name), "{name:?} is started though it is stopped");
            }
        }
        let states: BTreeMap<BackendId, _> = self.tunnels().into_iter().map(|(id, _, state)| (id, state)).collect();
        for change in self.rig.last.iter().filter_map(told) {
            assert!(change.kind().starts_with("tunnel."));
        }
        assert!(states.len() <= 4);
    }

    fn tunnels(&self) -> Vec<(BackendId, BackendName, crate::model::TunnelState)> {
        let pools = self.rig.core.pool_statuses(self.rig.now);
        let all = pools.into_iter().flat_map(|pool| pool.backends);
        all.filter_map(|b| b.tunnel.map(|tunnel| (b.id, b.name, tunnel.state))).collect()
    }

    fn nth(&self, n: usize) -> Option<BackendId> {
        let tunnels = self.tunnels();
        (!tunnels.is_empty()).then(|| tunnels[n % tunnels.len()].0)
    }

    fn pass(&mut self, millis: u64) {
        let end = self.rig.now + ms(millis);
        while let Some(at) = self.rig.core.next_deadline().filter(|&at| at <= end) {
            self.rig.now = at;
            self.feed(Event::Tick);
        }
        self.rig.now = end;
    }

    fn news(&mut self, id: BackendId, what: u8, older: u64) {
        let Some((present, _)) = self.rig.hands.begun.get(&id).copied() else { return };
        let run = RunId(present.0.saturating_sub(older));
        let news = news(what);
        if run == present && matches!(news, TunnelNews::Ended { .. }) {
            self.rig.hands.runs.remove(&id);
            self.rig.hands.stopping.remove(&id);
        }
        self.feed(Event::Tick);
        let before = (run != present).then(|| format!("{:?}", self.rig.core));
        self.feed(Event::Tunnel { backend: id, run, news });
        if let Some(before) = before {
            assert_eq!(before, format!("{:?}", self.rig.core), "what an older run tells has an effect");
        }
    }

    fn command(&mut self, n: usize, order: impl FnOnce(crate::model::PoolName, BackendName) -> Order) {
        let Some(id) = self.nth(n) else { return };
        let (pool, name) = self
            .rig
            .core
            .backends()
            .find(|(known, ..)| *known == id)
            .map(|(_, p, b, _)| (p.clone(), b.clone()))
            .unwrap();
        self.feed(Event::Tick);
        let order = order(pool.clone(), name.clone());
        let is_refused = self.rig.core.refusal(self.rig.now, &order).is_some();
        if let Order::Tunnel { wanted, .. } = &order
            && !is_refused
        {
            match wanted {
                TunnelOrder::Stop => drop(self.stopped.insert((pool.to_string(), name))),
                TunnelOrder::Start | TunnelOrder::Restart => {
                    self.stopped.remove(&(pool.to_string(), name));
                }
            }
        }
        self.feed(Event::Ordered { actor: Actor::from("ops"), order });
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Pass(millis) => self.pass(millis),
            Op::Jump(millis) => {
                self.rig.now = self.rig.now + ms(millis);
                self.feed(Event::Tick);
            }
            Op::Answer(n, which) => {
                let open: Vec<_> = self.rig.open.keys().copied().collect();
                if open.is_empty() {
                    return;
                }
                let target = open[n % open.len()];
                let (probe, _) = self.rig.open.remove(&target).unwrap();
                self.feed(Event::ProbeFinished { target, probe, outcome: outcome(which) });
            }
            Op::News(n, what, older) => {
                if let Some(id) = self.nth(n) {
                    self.news(id, what, older);
                }
            }
            Op::Order(n, which) => {
                let wanted = [TunnelOrder::Start, TunnelOrder::Stop, TunnelOrder::Restart][usize::from(which)];
                self.command(n, |pool, backend| Order::Tunnel { pool, backend, wanted });
            }
            Op::World => self.feed(Event::WorldChanged { what: "a route".to_owned() }),
            Op::Replan(which) => {
                self.feed(replaced(family(which)));
                // What is in no plan is not remembered to be stopped.
                let pools = self.rig.core.pool_statuses(self.rig.now);
                let with = pools.iter().flat_map(|pool| pool.backends.iter().map(move |b| (pool, b)));
                let with = with.filter(|(_, backend)| backend.tunnel.is_some());
                let has: BTreeSet<_> = with.map(|(pool, b)| (pool.name.to_string(), b.name.clone())).collect();
                self.stopped.retain(|name| has.contains(name));
            }
            Op::Stall(millis) => {
                let since = self.rig.now;
                self.rig.now = since + ms(millis);
                self.feed(Event::WasStalled { since });
            }
            Op::Moved(n, moved) => {
                if let Some(backend) = self.nth(n) {
                    self.feed(Event::TunnelMoved { backend, moved });
                }
            }
            Op::Reset(n) => self.command(n, |pool, backend| Order::Reset { pool, backend: Some(backend) }),
            Op::Push(n, good) => {
                let health = if good { HealthState::Healthy } else { HealthState::Unhealthy };
                let pushed = PushedHealth { health, until: self.rig.now + ms(900), reason: None, figures: Vec::new() };
                self.command(n, |pool, backend| Order::PushHealth { pool, backend, pushed });
            }
            Op::Drain(n, state) => {
                let state = AdminState::ALL[usize::from(state)];
                self.command(n, |pool, backend| Order::SetAdminState { pool, backend, state });
            }
        }
    }

    /// Every program does as it should, and every target answers: each tunnel that is wanted leads somewhere before long.
    fn calm(&mut self) {
        let end = self.rig.now + ms(900_000);
        while self.rig.now < end {
            let ids: Vec<BackendId> = self.tunnels().into_iter().map(|(id, ..)| id).collect();
            for id in ids {
                if self.rig.hands.stopping.contains_key(&id) {
                    self.news(id, 9, 0);
                }
                if self.rig.hands.runs.contains_key(&id) {
                    self.news(id, 1, 0);
                }
            }
            while let Some((target, (probe, _))) = self.rig.open.pop_first() {
                self.feed(Event::ProbeFinished { target, probe, outcome: passed() });
            }
            self.pass(1000);
            if self.unsettled().is_none() {
                return;
            }
        }
        panic!("{:#?}", self.unsettled());
    }

    /// A backend whose tunnel is not as it should be once nothing is wrong.
    fn unsettled(&self) -> Option<crate::model::BackendStatus> {
        let pools = self.rig.core.pool_statuses(self.rig.now);
        let mut all = pools.iter().flat_map(|pool| pool.backends.iter().map(move |b| (pool, b)));
        let is_off = |(pool, backend): &(&crate::model::PoolStatus, &crate::model::BackendStatus)| {
            let is_stopped = self.stopped.contains(&(pool.name.to_string(), backend.name.clone()));
            let expected = if is_stopped { "disconnected" } else { "connected" };
            let state = backend.tunnel.as_ref().map(|tunnel| tunnel.state.label());
            state.is_some_and(|state| state != expected) && !backend.gave_up
        };
        all.find(is_off).map(|(_, backend)| backend.clone())
    }
}

fn told(command: &Command) -> Option<&Change> {
    match command {
        Command::Report(told) if matches!(told.change, Change::Tunnel { .. }) => Some(&told.change),
        _ => None,
    }
}

/// How many sequences are tried: `PROPTEST_CASES`, or what a plain run has time for.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_events_keeps_the_rules_of_tunnels(ops in ops()) {
        let mut bench = Bench { rig: Rig::new(plan()), stopped: BTreeSet::new() };
        bench.feed(replaced(family(1)));
        for op in &ops {
            bench.apply(op);
        }
        bench.calm();
    }
}
