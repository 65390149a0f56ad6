//! Tunnels to the servers of a cluster.

use super::build::{PlanBuilder, ms, plan};
use super::clustered::{primary, standby};
use super::rig::{Rig, passed};
use crate::failover::TunnelOrder;
use crate::model::{DialError, HealthState, OutReason, TunnelNews, WatchEnd, WatchError};

fn three() -> PlanBuilder {
    let pool = plan().pool("pg").postgres().backend("a", 1).tunnel("a.db:5432");
    pool.backend("b", 2).tunnel("b.db:5432").backend("c", 2).tunnel("c.db:5432")
}

/// `a` is the primary on timeline 1, the others are its standbys, and all are well.
fn healthy() -> Rig {
    let mut rig = Rig::new(three());
    ["a", "b", "c"].iter().for_each(|name| rig.up(name));
    rig.open_session("a", primary(1, &[]));
    rig.open_session("b", standby(1, &[]));
    rig.open_session("c", standby(1, &[]));
    rig.pass(ms(300));
    assert_eq!(rig.way("pg"), "a");
    rig
}

fn no_way(rig: &mut Rig, name: &str) {
    rig.fails(name, WatchError::Dial(DialError::TunnelDown));
}

#[test]
fn a_monitor_that_has_no_way_says_nothing_of_its_server() {
    let mut rig = Rig::new(three());
    for _ in 0..19 {
        ["a", "b", "c"].iter().for_each(|name| no_way(&mut rig, name));
        rig.pass(ms(1000));
    }
    assert_eq!(rig.count("backend.unhealthy"), 0);
    assert!(!rig.core.has_first_verdicts());
    rig.pass(ms(2000));
    assert!(["a", "b", "c"].iter().all(|name| rig.backend(name).health == HealthState::Unhealthy));
}

#[test]
fn a_tunnel_that_an_operator_stops_makes_no_dead_server() {
    let mut rig = healthy();
    rig.order_tunnel("b", TunnelOrder::Stop).unwrap();
    rig.ends("b", WatchEnd::Closed);
    rig.has_stopped("b");
    // One that was down before is no deader for it.
    rig.exit("c", "gone");
    rig.order_tunnel("c", TunnelOrder::Stop).unwrap();
    for _ in 0..5 {
        ["b", "c"].iter().for_each(|name| no_way(&mut rig, name));
        rig.pass(ms(1000));
        assert!(rig.fences().iter().all(|fence| fence.2 == OutReason::Drained), "{:?}", rig.fences());
    }
    assert_eq!(rig.count("backend.unhealthy"), 1, "that of c, before the order");
    assert!(["b", "c"].iter().all(|name| rig.backend(name).health == HealthState::Unknown));
    assert_eq!(rig.way("pg"), "a");
}

#[test]
fn a_tunnel_that_is_lost_takes_its_primary_out_and_brings_it_back() {
    let mut rig = healthy();
    let changes = rig.count("pool.primary_changed");
    rig.exit("a", "gone");
    rig.ends("a", WatchEnd::Closed);
    assert_eq!((rig.way("pg").as_str(), rig.count("backend.unhealthy")), ("", 1));
    no_way(&mut rig, "a");
    rig.until_started("a");
    rig.news("a", TunnelNews::Open);
    rig.open_session("a", primary(1, &[]));
    rig.answer("a", passed());
    assert_eq!(rig.way("pg"), "a");
    assert_eq!(rig.count("pool.primary_changed"), changes);
}

#[test]
fn whoever_cannot_be_asked_before_its_tunnel_is_open_may_be_the_newer_primary() {
    let next = || {
        let mut next = healthy().restarted(three());
        ["a", "c"].iter().for_each(|name| next.up(name));
        next.open_session("a", primary(1, &[]));
        next.open_session("c", standby(1, &[]));
        no_way(&mut next, "b");
        next.pass(ms(12_000));
        assert!(next.holds(), "it is not known what b is");
        next
    };
    let mut late = next();
    late.news("b", TunnelNews::Open);
    late.answer("b", passed());
    assert!(late.holds());
    late.open_session("b", primary(2, &[900]));
    assert_eq!(late.way("pg"), "b");
    // It is not waited for for ever: neither for its tunnel nor, once that is open, for its word.
    let mut never = next();
    never.pass(ms(9000));
    assert_eq!(never.way("pg"), "a");
    let mut mute = next();
    mute.news("b", TunnelNews::Open);
    mute.answer("b", passed());
    mute.pass(ms(5100));
    assert_eq!(mute.way("pg"), "a");
}
