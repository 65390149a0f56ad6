//! What outlives a restart, and how it is given back.

use std::collections::BTreeMap;

use super::build::{PlanBuilder, ms, plan};
use super::rig::Rig;
use crate::failover::{Change, Command, Event, PoolMemory, Refusal};
use crate::model::{AdminState, OutReason, PoolName, PoolState};

fn three() -> PlanBuilder {
    plan().pool("pg").backend("a", 1).backend("b", 2).backend("c", 3)
}

/// What the rig's pool remembers.
fn memory(rig: &Rig) -> PoolMemory {
    rig.core.memory(&PoolName::from("pg")).unwrap()
}

/// A process after the one of `rig`.
fn restarted(rig: &Rig, plan: PlanBuilder) -> Rig {
    let mut next = Rig::new(plan);
    next.feed(Event::Restored { pools: BTreeMap::from([("pg".into(), memory(rig))]) });
    next
}

fn reports(rig: &Rig) -> usize {
    rig.last.iter().filter(|command| matches!(command, Command::Report(_))).count()
}

#[test]
fn what_is_given_back_is_what_was_remembered_and_nobody_is_told() {
    let mut rig = Rig::new(three());
    rig.fit(&["a", "b", "c"]);
    rig.kill("a");
    rig.now = rig.now + ms(500);
    rig.revive("a");
    rig.order("c", AdminState::Drain);
    rig.fail_over("pg", Some("b")).unwrap();
    rig.pause("pg", Some(ms(60_000))).unwrap();
    let before = memory(&rig);
    assert_eq!((before.failovers, before.admin.len(), before.downtimes.len()), (2, 1, 1));
    let next = restarted(&rig, three());
    assert_eq!((memory(&next), reports(&next), next.fences().len()), (before, 0, 0));
    assert_eq!(next.state(), PoolState::Unknown);
}

#[test]
fn a_restored_pin_waits_for_its_backend_and_is_no_failover() {
    let mut rig = Rig::new(three());
    rig.fit(&["a", "b", "c"]);
    rig.fail_over("pg", Some("b")).unwrap();
    let mut next = restarted(&rig, three());
    next.fit(&["a", "c"]);
    assert_eq!((next.way("pg"), next.state()), (String::new(), PoolState::Unknown));
    next.fit(&["b"]);
    assert_eq!((next.way("pg"), next.count("pool.failover")), ("b".to_owned(), 0));
    assert_eq!(next.status("pg").pinned, Some("b".into()));
    next.live(ms(120_000), &[]);
    assert_eq!(next.way("pg"), "b");
    next.fail_back("pg").unwrap();
    assert!(next.way("pg").starts_with('a'));
}

#[test]
fn a_restored_pin_on_what_is_dead_is_down() {
    let mut rig = Rig::new(three());
    rig.fit(&["a", "b", "c"]);
    rig.fail_over("pg", Some("b")).unwrap();
    let mut next = restarted(&rig, three());
    next.fit(&["a", "c"]);
    next.kill("b");
    assert_eq!((next.way("pg"), next.state(), next.count("pool.down")), (String::new(), PoolState::Down, 1));
}

#[test]
fn a_pin_on_what_is_gone_is_dropped_and_told() {
    let mut rig = Rig::new(three());
    rig.fit(&["a", "b", "c"]);
    rig.fail_over("pg", Some("b")).unwrap();
    let mut next = restarted(&rig, plan().pool("pg").backend("a", 1).backend("c", 3));
    assert_eq!(next.told, [Change::PoolUnpinned { backend: "b".into(), removed: true }]);
    next.fit(&["a", "c"]);
    assert!(next.way("pg").starts_with('a'));
}

#[test]
fn a_drained_backend_is_not_asked_for_and_does_not_serve_after_a_restart() {
    let mut rig = Rig::new(three());
    rig.fit(&["a", "b", "c"]);
    rig.order("a", AdminState::Drain);
    let mut next = restarted(&rig, three());
    next.fit(&["a", "b", "c"]);
    assert!(next.way("pg").starts_with('b'));
    assert_eq!((next.backend("a").admin_state, next.count("pool.failover")), (AdminState::Drain, 0));
}

#[test]
fn a_pool_that_people_keep_out_is_down_after_a_restart_because_they_do() {
    let mut rig = Rig::new(three());
    for backend in ["a", "b", "c"] {
        rig.order(backend, AdminState::Maintenance);
    }
    let drained = [Change::PoolDown { reason: OutReason::Drained }];
    assert_eq!(restarted(&rig, three()).told, drained);
    let mut rig = Rig::new(three());
    rig.fit(&["a", "b", "c"]);
    rig.fail_over("pg", Some("b")).unwrap();
    rig.order("b", AdminState::Drain);
    assert_eq!(restarted(&rig, three()).told, drained);
}

#[test]
fn a_pause_has_what_was_left_of_it_and_one_that_is_over_ends_at_once() {
    let mut rig = Rig::new(three());
    rig.fit(&["a", "b", "c"]);
    rig.pause("pg", Some(ms(5000))).unwrap();
    let mut next = restarted(&rig, three());
    next.fit(&["a", "b", "c"]);
    assert_eq!(next.way("pg"), "");
    next.live(ms(5000), &[]);
    assert!(next.way("pg").starts_with('a'));
    let mut late = Rig::new(three());
    late.now = late.now + ms(10_000);
    late.feed(Event::Restored { pools: BTreeMap::from([("pg".into(), memory(&rig))]) });
    assert_eq!(late.count("pool.resumed"), 1);
    assert!(matches!(late.resume("pg"), Err(Refusal::Conflict(_))));
}
