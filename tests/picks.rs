//! What a pick costs among ten thousand backends: allocations counted, times printed.
#![allow(unsafe_code, reason = "an allocator that counts can only be written with it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "support/counting.rs"]
mod counting;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use changeover::config::{OsSources, parse};
use changeover::failover::{Arrival, Command, Controller, Event, PoolRoutes};
use changeover::model::{Actor, Advice, Balance, MonoTime, Place, Plan, ProbeOutcome};
use counting::allocations;

const BACKENDS: u32 = 10_000;
const PICKS: u64 = 20_000;

/// Ten thousand backends of three weights in one tier and one in the next, all fit. One probe answers for all: they share an address.
fn plan(balance: Balance, max_connections: u32) -> Plan {
    let text = "[listeners.l]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n";
    let text =
        format!("{text}[pools.p]\nbalance = \"{balance}\"\n[pools.p.backends.last]\naddress = \"h:1\"\npriority = 9\n");
    let mut plan = parse("a file", &text, &OsSources).unwrap();
    let pool = plan.pools.values().next().unwrap();
    let mut pool = (**pool).clone();
    let last = pool.backends.pop().unwrap();
    for number in 0..BACKENDS {
        let mut backend = last.clone();
        backend.name = format!("b{number:05}").as_str().into();
        (backend.priority, backend.weight, backend.max_connections) = (1, 1 + number % 3, max_connections);
        pool.backends.push(backend);
    }
    pool.backends.push(last);
    plan.pools.insert(pool.name.clone(), Arc::new(pool));
    plan
}

fn routes(balance: Balance, max_connections: u32) -> Arc<PoolRoutes> {
    let (mut core, mut commands) = (Controller::new(7), Vec::new());
    let mut now = MonoTime::ZERO;
    core.handle(
        now,
        Event::PlanReplaced { plan: Arc::new(plan(balance, max_connections)), actor: Actor::changeover() },
        &mut commands,
    );
    let (target, probe) = loop {
        let asked = commands.drain(..).find_map(|command| match command {
            Command::StartProbe { target, probe, .. } => Some((target, probe)),
            Command::StopProbe { .. }
            | Command::PublishTable(_)
            | Command::StartWatch { .. }
            | Command::StopWatch { .. }
            | Command::Knock { .. }
            | Command::FenceSessions { .. }
            | Command::KeepLineage { .. }
            | Command::StartTunnel { .. }
            | Command::StopTunnel { .. }
            | Command::Report(_) => None,
        });
        if let Some(asked) = asked {
            break asked;
        }
        now = core.next_deadline().unwrap();
        core.handle(now, Event::Tick, &mut commands);
    };
    let outcome = ProbeOutcome::Passed { latency: Duration::from_millis(1), advice: Advice::default() };
    let start = Instant::now();
    core.handle(now, Event::ProbeFinished { target, probe, outcome }, &mut commands);
    println!("{balance}: decided and laid out in {:?}", start.elapsed());
    let routes = Arc::clone(&core.table().pools["p"]);
    assert_eq!(routes.tiers[0].routes().len(), BACKENDS as usize);
    routes
}

/// Picks and takes places, and returns what they cost: allocations, and the mean time.
fn cost(routes: &PoolRoutes, picks: u64, mut keep: impl FnMut(Place)) -> (u64, Duration) {
    let (before, start) = (allocations(), Instant::now());
    for turn in 0..picks {
        let arrival = Arrival {
            target: None,
            turn,
            client: turn.rotate_left(32) ^ turn << 7,
            chance: turn << 13,
            tried: &[],
            will_wait: false,
        };
        let route = black_box(routes).pick(black_box(&arrival)).unwrap();
        keep(route.load.take(route.max_connections).unwrap());
    }
    (allocations() - before, start.elapsed() / u32::try_from(picks).unwrap())
}

#[test]
fn a_pick_allocates_nothing_among_ten_thousand_backends() {
    for &balance in Balance::ALL {
        let routes = routes(balance, 0);
        let (allocations, mean) = cost(&routes, PICKS, drop);
        println!("{balance}: {mean:?} a pick");
        assert_eq!(allocations, 0, "{balance}: {PICKS} picks");
    }
}

#[test]
fn a_pick_allocates_nothing_when_ten_thousand_backends_are_full() {
    for &balance in Balance::ALL {
        let routes = routes(balance, 1);
        let mut places = Vec::with_capacity(BACKENDS as usize);
        let (allocations, mean) = cost(&routes, BACKENDS.into(), |place| places.push(place));
        println!("{balance}: {mean:?} a pick while they fill up");
        let (more, mean) = cost(&routes, 200, drop);
        println!("{balance}: {mean:?} a pick that spills to the next tier");
        assert_eq!((allocations, more), (0, 0), "{balance}");
        assert_eq!(places.len(), BACKENDS as usize);
    }
}
