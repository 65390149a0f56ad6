//! Operators' orders about tunnels.

use std::collections::BTreeMap;

use super::build::{PlanBuilder, ms, plan};
use super::rig::{Rig, replaced};
use crate::failover::{Event, Order, PoolMemory, Refusal, TunnelOrder};
use crate::model::{HealthState, OutReason, PoolName, RunEnd, TunnelNews, TunnelState};

fn two() -> PlanBuilder {
    plan().pool("pg").backend("a", 1).tunnel("db:5432").backend("b", 2)
}

fn up() -> Rig {
    let mut rig = Rig::new(two());
    rig.up("a");
    rig.fit(&["b"]);
    rig
}

#[test]
fn a_stopped_tunnel_is_no_way_and_stays_so() {
    let mut rig = up();
    rig.order_tunnel("a", TunnelOrder::Stop).unwrap();
    assert_eq!((rig.way("pg").as_str(), rig.count("tunnel.disconnected")), ("b", 1));
    assert!(rig.failovers().last().unwrap().contains("drained"), "{:?}", rig.failovers());
    assert!(rig.fences().is_empty(), "they drain, as `drained` says");
    let backend = rig.backend("a");
    assert_eq!((backend.health, backend.eligible), (HealthState::Unknown, false));
    assert_eq!(backend.reason, "its tunnel was stopped by an operator");
    assert_eq!(rig.count("backend.unhealthy"), 0);
    rig.has_stopped("a");
    rig.world_changes();
    rig.pass(ms(700_000));
    assert_eq!((rig.starts("a"), rig.tunnel("a").state), (1, TunnelState::Disconnected));
    assert!(rig.core.has_first_verdicts(), "nobody waits for its verdict");
    assert_eq!(rig.tunnel("a").next_retry, None);
}

#[test]
fn sessions_of_a_stopped_tunnel_go_by_drained() {
    let closes = two().sessions(|sessions| sessions.drained = crate::model::SessionPolicy::Close);
    let mut rig = Rig::new(closes);
    rig.up("a");
    rig.order_tunnel("a", TunnelOrder::Stop).unwrap();
    assert_eq!(rig.fences().iter().map(|fence| fence.2).collect::<Vec<_>>(), [OutReason::Drained]);
}

#[test]
fn a_stopped_tunnel_is_started_by_order_and_at_once() {
    let mut rig = up();
    rig.order_tunnel("a", TunnelOrder::Stop).unwrap();
    rig.has_stopped("a");
    rig.pass(ms(1000));
    rig.order_tunnel("a", TunnelOrder::Start).unwrap();
    assert_eq!((rig.starts("a"), rig.tunnel("a").state), (2, TunnelState::Connecting));
    assert_eq!(rig.way("pg"), "b");
    rig.news("a", TunnelNews::Open);
    rig.answer("a", super::rig::passed());
    assert_eq!(rig.tunnel("a").state, TunnelState::Connected, "the first answer decides, as the first one did");
    rig.live(ms(10_000), &[]);
    assert_eq!(rig.way("pg"), "a | b");
}

#[test]
fn an_order_that_comes_before_the_end_is_carried_out_after_it() {
    let mut rig = up();
    rig.order_tunnel("a", TunnelOrder::Stop).unwrap();
    rig.order_tunnel("a", TunnelOrder::Start).unwrap();
    assert_eq!(rig.starts("a"), 1);
    rig.pass(ms(200));
    rig.has_stopped("a");
    assert_eq!(rig.starts("a"), 2);
    rig.order_tunnel("a", TunnelOrder::Stop).unwrap();
    rig.order_tunnel("a", TunnelOrder::Start).unwrap();
    rig.order_tunnel("a", TunnelOrder::Stop).unwrap();
    rig.has_stopped("a");
    rig.pass(ms(60_000));
    assert_eq!((rig.starts("a"), rig.tunnel("a").state), (2, TunnelState::Disconnected));
}

#[test]
fn a_restart_is_a_stop_and_another_run() {
    let mut rig = up();
    let before = rig.hands.begun[&rig.id("a")].0;
    rig.order_tunnel("a", TunnelOrder::Restart).unwrap();
    assert!(rig.hands.stopping.contains_key(&rig.id("a")));
    assert_eq!((rig.way("pg").as_str(), rig.tunnel("a").state), ("b", TunnelState::Reconnecting));
    rig.now = rig.now + ms(150);
    rig.has_stopped("a");
    assert_eq!(rig.hands.begun[&rig.id("a")].0, before.next());
    rig.up("a");
}

#[test]
fn an_order_forgets_what_has_failed() {
    let mut rig = up();
    rig.news("a", TunnelNews::Fatal { line: "no".to_owned() });
    rig.has_stopped("a");
    assert_eq!(rig.tunnel("a").state, TunnelState::Failed);
    rig.pass(ms(1000));
    rig.order_tunnel("a", TunnelOrder::Start).unwrap();
    assert_eq!((rig.starts("a"), rig.tunnel("a").state), (2, TunnelState::Reconnecting));
    rig.exit("a", "no");
    assert!(rig.until_started("a") <= ms(500), "as if it had never been tried");
}

#[test]
fn an_order_that_makes_no_sense_is_refused_in_words() {
    let mut rig = Rig::new(two());
    let refused = |rig: &mut Rig, name: &str, wanted| match rig.order_tunnel(name, wanted) {
        Err(Refusal::Conflict(why)) => why,
        other => panic!("{other:?}"),
    };
    let of = "the tunnel of backend a of pool pg";
    assert_eq!(refused(&mut rig, "b", TunnelOrder::Stop), "backend b of pool pg has no tunnel");
    assert_eq!(refused(&mut rig, "a", TunnelOrder::Start), format!("{of} is being set up already"));
    rig.up("a");
    assert_eq!(refused(&mut rig, "a", TunnelOrder::Start), format!("{of} is up already"));
    rig.order_tunnel("a", TunnelOrder::Stop).unwrap();
    assert_eq!(refused(&mut rig, "a", TunnelOrder::Stop), format!("{of} is stopped already"));
    let order = Order::Tunnel { pool: "pg".into(), backend: "z".into(), wanted: TunnelOrder::Stop };
    assert_eq!(rig.say(order), Err(Refusal::BackendNotFound("pg".into(), "z".into())));
}

#[test]
fn the_audit_trail_has_a_word_for_each_and_a_restart_is_not_kept() {
    let words = [
        (TunnelOrder::Start, "tunnel.start", true),
        (TunnelOrder::Stop, "tunnel.stop", true),
        (TunnelOrder::Restart, "tunnel.restart", false),
    ];
    for (wanted, word, kept) in words {
        let order = Order::Tunnel { pool: "pg".into(), backend: "a".into(), wanted };
        assert_eq!((order.label(), order.is_kept()), (word, kept));
    }
}

#[test]
fn a_stop_outlives_a_restart_and_nobody_is_told_again() {
    let mut rig = up();
    rig.order_tunnel("a", TunnelOrder::Stop).unwrap();
    let name = PoolName::from("pg");
    let memory = rig.core.memory(&name).unwrap();
    let text = serde_json::to_string(&memory).unwrap();
    let memory: PoolMemory = serde_json::from_str(&text).unwrap();
    let mut next = Rig::new(plan());
    next.core = crate::failover::Controller::new(9);
    next.feed(Event::Restored { pools: BTreeMap::from([(name.clone(), memory)]) });
    next.feed(replaced(two()));
    next.fit(&["b"]);
    next.pass(ms(60_000));
    assert_eq!((next.starts("a"), next.way("pg").as_str()), (0, "b"));
    assert_eq!(next.tunnel("a").state, TunnelState::Disconnected);
    assert!(!next.told.iter().any(|change| change.kind().starts_with("tunnel.")), "{:?}", next.told);
    next.order_tunnel("a", TunnelOrder::Start).unwrap();
    assert_eq!((next.starts("a"), next.count("tunnel.connecting")), (1, 1));
    assert!(next.core.memory(&name).unwrap().stopped.is_empty());
    next.news("a", TunnelNews::Ended { how: RunEnd::NotStarted, detail: "no such file".to_owned() });
    assert_eq!(next.backend("a").health, HealthState::Unhealthy);
}
