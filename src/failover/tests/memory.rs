//! What outlives a restart, and how it is given back.

use std::collections::BTreeMap;

use super::build::{PlanBuilder, ms, plan};
use super::rig::{Hands, Rig};
use crate::failover::{Change, Command, Controller, Event, PoolMemory, Refusal};
use crate::model::{AdminState, CheckKind, CheckPlan, MonoTime, OutReason, PoolName, PoolState};

fn three() -> PlanBuilder {
    plan().pool("pg").backend("a", 1).backend("b", 2).backend("c", 3)
}

/// What the rig's pool remembers.
fn memory(rig: &Rig) -> PoolMemory {
    rig.core.memory(&PoolName::from("pg")).unwrap()
}

/// A process after the one of `rig`.
fn restarted(rig: &Rig, plan: PlanBuilder) -> Rig {
    restarted_with(memory(rig), plan)
}

/// A process that is given this back.
fn restarted_with(memory: PoolMemory, plan: PlanBuilder) -> Rig {
    let (core, open, now) = (Controller::new(7), BTreeMap::new(), MonoTime::ZERO + ms(1000));
    let mut next = Rig {
        core,
        now,
        last: Vec::new(),
        told: Vec::new(),
        has_disk: true,
        open,
        watches: BTreeMap::new(),
        hands: Hands::default(),
    };
    next.feed(Event::Restored { pools: BTreeMap::from([("pg".into(), memory)]) });
    assert!(next.last.is_empty(), "{:?}", next.last);
    next.replan(plan);
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
    let drained = [Change::PoolDown { reason: OutReason::Drained, note: None }];
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

#[test]
fn what_is_fit_without_a_verdict_goes_by_what_was_remembered_at_once() {
    let two = || {
        let unchecked = |check: &mut CheckPlan| check.kind = CheckKind::None;
        plan().pool("pg").backend("a", 1).check(unchecked).backend("b", 2).check(unchecked)
    };
    let mut rig = Rig::new(two());
    assert!(rig.way("pg").starts_with('a'));
    rig.order("a", AdminState::Drain);
    let drained = restarted(&rig, two());
    assert_eq!((drained.way("pg"), drained.failovers()), ("b".to_owned(), Vec::new()));
    assert_eq!((drained.status("pg").failovers, drained.state()), (1, PoolState::Degraded));
    rig.order("a", AdminState::Ready);
    rig.fail_over("pg", Some("b")).unwrap();
    let pinned = restarted(&rig, two());
    assert_eq!((pinned.way("pg"), pinned.failovers()), ("b".to_owned(), Vec::new()));
}

#[test]
fn failovers_are_numbered_on_after_a_restart() {
    let mut rig = Rig::new(three());
    rig.fit(&["a"]);
    rig.kill("b");
    rig.kill("c");
    rig.kill("a");
    assert_eq!(rig.failovers().last().unwrap(), "1 failed: a >  (dead)");
    let mut next = restarted(&rig, three());
    next.fit(&["a", "b", "c"]);
    next.kill("a");
    assert_eq!(next.failovers().last().unwrap(), "2 completed: a > b (dead)");
    let counted = PoolMemory { last_failover: 0, failovers: 7, ..memory(&rig) };
    let mut next = restarted_with(counted, three());
    next.fit(&["a", "b", "c"]);
    next.kill("a");
    assert_eq!(next.failovers().last().unwrap(), "8 completed: a > b (dead)");
}

#[test]
fn a_pinned_tier_outlives_a_restart_without_one_of_its_backends_as_it_does_a_reload() {
    let tiers = || plan().pool("pg").backend("a", 1).backend("b", 2).backend("b2", 2);
    let mut rig = Rig::new(tiers().backend("c", 3));
    rig.fit(&["a", "b", "b2", "c"]);
    rig.fail_over("pg", None).unwrap();
    let without = |names: [&str; 2]| {
        let [first, second] = names;
        let mut next = restarted(&rig, plan().pool("pg").backend(first, 1).backend(second, 2));
        next.fit(&names);
        (next.way("pg"), next.status("pg").pinned, next.count("pool.unpinned"))
    };
    assert_eq!(without(["a", "b2"]), ("b2".to_owned(), Some("b2".into()), 0));
    assert_eq!(without(["a", "c"]), ("a | c".to_owned(), None, 1), "none of the tier is left");
    rig.fail_back("pg").unwrap();
    rig.fail_over("pg", Some("b")).unwrap();
    let mut one = restarted(&rig, plan().pool("pg").backend("a", 1).backend("b2", 2));
    one.fit(&["a", "b2"]);
    assert_eq!((one.way("pg"), one.status("pg").pinned), ("a | b2".to_owned(), None), "its tier never was pinned");
}

#[test]
fn of_clusters_in_no_plan_so_many_lines_of_history_are_remembered_and_no_more() {
    let line = r#"{"server":"b","system":1,"timeline":2,"history":[{"timeline":1,"at":900}]}"#;
    let absent = PoolMemory { lineage: Some(serde_json::from_str(line).unwrap()), ..PoolMemory::default() };
    let name = |number: usize| PoolName::from(format!("pg{number:04}").as_str());
    let mut rig = Rig::new(three());
    let remembers = |rig: &Rig| (0..=1024).filter(|&number| rig.core.memory(&name(number)).is_some()).count();
    rig.feed(Event::Restored { pools: (0..1024).map(|number| (name(number), absent.clone())).collect() });
    assert_eq!(remembers(&rig), 1024);
    rig.feed(Event::Restored { pools: BTreeMap::from([(name(1024), absent)]) });
    assert_eq!((remembers(&rig), rig.core.memory(&name(1024)).is_some()), (1024, true));
}
