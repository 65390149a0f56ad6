//! What people have ordered of a cluster, after a restart and after a name was given to another server.

use super::build::{PlanBuilder, plan};
use super::clustered::{SYSTEM, healthy, of_system, primary, standby, three};
use super::rig::Rig;
use crate::model::{Rule, SessionPolicy};

/// The three servers, of which `a` is at another address.
fn three_at(address: &str) -> PlanBuilder {
    plan().pool("pg").postgres().backend("a", 1).at(address).backend("b", 2).backend("c", 2)
}

/// `a` is dead and `b` leads; then `a` comes back as it was, and a person decides for it.
fn decided() -> Rig {
    let mut rig = healthy(three());
    rig.dies("a");
    rig.sees("b", primary(2, &[900]));
    rig.comes_back("a", primary(1, &[]));
    assert_eq!(rig.way("pg"), "b");
    rig.point_to("a", SessionPolicy::Keep).unwrap();
    assert_eq!(rig.way("pg"), "a", "over all proof");
    rig
}

#[test]
fn a_failover_that_was_ordered_is_completed_also_if_the_promotion_comes_after_a_restart() {
    let mut rig = healthy(three());
    rig.point_to("b", SessionPolicy::Keep).unwrap();
    assert_eq!(rig.failovers(), ["1 pending: a >  (manual)"]);
    let mut next = rig.restarted(three());
    next.open_session("a", primary(1, &[]));
    next.open_session("b", standby(1, &[]));
    next.open_session("c", standby(1, &[]));
    assert!(next.holds() && next.failovers().is_empty(), "{:?}", next.failovers());
    // Nor by one more.
    let mut next = next.restarted(three());
    next.open_session("a", standby(1, &[]));
    next.open_session("b", primary(2, &[1000]));
    next.open_session("c", standby(1, &[]));
    assert_eq!(next.failovers(), ["1 in_progress: a > b (manual)", "1 completed: a > b (manual)"]);
    assert_eq!((next.way("pg"), next.status("pg").failovers), ("b".to_owned(), 1));
    let rules = next.core.explain(next.now, &"pg".into()).unwrap().rules;
    assert!(rules.iter().any(|applied| applied.rule == Rule::Ordered), "{rules:?}");
    // It is over, in the processes after that as well.
    let mut last = next.restarted(three());
    last.open_session("a", standby(1, &[]));
    last.open_session("b", primary(2, &[1000]));
    last.open_session("c", standby(1, &[]));
    assert_eq!((last.way("pg"), last.failovers()), ("b".to_owned(), Vec::new()));
    let rules = last.core.explain(last.now, &"pg".into()).unwrap().rules;
    assert!(rules.iter().any(|applied| applied.rule == Rule::Ordered), "{rules:?}");
}

#[test]
fn what_a_person_decided_for_one_server_is_said_of_no_other_that_has_its_name() {
    let moved = || three_at("elsewhere:5432");
    let refused = of_system(primary(5, &[1, 2, 3, 4]), 5);
    for restarts in [false, true] {
        let mut rig = decided();
        if restarts {
            rig = rig.restarted(three());
            rig.open_session("a", primary(1, &[]));
            rig.open_session("b", primary(2, &[900]));
            rig.open_session("c", standby(1, &[]));
            assert_eq!(rig.way("pg"), "a", "a restart forgets no order");
            rig = rig.restarted(moved());
        } else {
            rig.replan(moved());
        }
        rig.open_session("a", refused.clone());
        rig.fit(&["a"]);
        assert!(rig.holds(), "{} has the name alone: {}", rig.way("pg"), rig.deeds());
        assert_eq!(rig.status("pg").pinned, Some("a".into()), "people released nothing");
        rig.point_to("a", SessionPolicy::Keep).unwrap();
        assert_eq!(rig.way("pg"), "a", "they may say so of that one too");
    }
}

#[test]
fn what_a_person_decided_for_a_server_is_not_said_of_another_cluster_at_its_address() {
    let mut rig = decided();
    rig.dies("a");
    rig.comes_back("a", of_system(primary(1, &[]), 5));
    assert!(rig.holds(), "{}", rig.way("pg"));
}

#[test]
fn a_pin_that_an_older_version_has_written_down_still_says_so_of_whom_it_names() {
    let rig = decided();
    let mut memory = rig.remembered();
    memory.pin.as_mut().unwrap().server = None;
    let text = serde_json::to_string(&memory).unwrap();
    assert!(!text.contains("\"server\":{"), "{text}");
    for (plan, serves) in [(three(), true), (three_at("elsewhere:5432"), false)] {
        let mut next = rig.after_restart(plan, serde_json::from_str(&text).unwrap());
        next.open_session("b", primary(2, &[900]));
        next.open_session("c", standby(1, &[]));
        next.open_session("a", of_system(primary(1, &[]), if serves { SYSTEM.0 } else { 5 }));
        assert_eq!(next.way("pg") == "a", serves);
    }
}
