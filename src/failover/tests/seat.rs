//! Which tier is active: the first seat, failover, failback.

use super::build::{ms, plan};
use super::rig::{Rig, bad_answer, inconclusive, passed, refused};
use crate::failover::{Arrival, Change, NoRoute};
use crate::model::{AdminState, Epoch, FailoverStatus, OutReason, PoolState, Redundancy};

fn tiers(count: u32) -> Rig {
    let mut three = plan().pool("pg");
    for priority in 1..=count {
        three = three.backend(["a", "b", "c"][priority as usize - 1], priority);
    }
    Rig::new(three)
}

fn manual() -> Rig {
    Rig::new(plan().pool("pg").manual_failover().backend("a", 1).backend("a2", 1).backend("b", 2))
}

fn failovers(rig: &Rig) -> Vec<(OutReason, Vec<String>, Vec<String>)> {
    let text = |list: &[crate::model::BackendName]| list.iter().map(ToString::to_string).collect();
    let failover = |change: &Change| match change {
        Change::PoolFailover { status: FailoverStatus::Completed, from, to, reason, .. } => {
            Some((*reason, text(from), text(to)))
        }
        _ => None,
    };
    rig.told.iter().filter_map(failover).collect()
}

#[test]
fn the_first_seat_waits_for_better_tiers() {
    let mut rig = tiers(3);
    assert_eq!(rig.core.table().pools["pg"].pick(&Arrival::default()).err(), Some(NoRoute::Pending));
    rig.fit(&["c"]);
    assert_eq!((rig.way("pg"), rig.state()), (String::new(), PoolState::Unknown));
    rig.fit(&["b"]);
    assert_eq!(rig.way("pg"), "");
    rig.answer("a", inconclusive());
    assert_eq!(rig.way("pg"), "", "no evidence is no verdict");
    rig.fit(&["a"]);
    assert_eq!((rig.way("pg"), rig.state()), ("a | b | c".to_owned(), PoolState::Healthy));
    assert_eq!(rig.count("pool.failover"), 0);
}

#[test]
fn the_first_seat_does_not_wait_for_worse_tiers() {
    let mut rig = tiers(3);
    rig.fit(&["a"]);
    assert_eq!((rig.way("pg"), rig.state()), ("a".to_owned(), PoolState::Degraded));
    assert!(!rig.core.has_first_verdicts());
    rig.fit(&["b", "c"]);
    assert!(rig.core.has_first_verdicts());
}

#[test]
fn the_first_seat_goes_to_the_best_that_is_fit() {
    let mut rig = tiers(3);
    rig.answer("a", refused());
    rig.fit(&["c"]);
    assert_eq!(rig.way("pg"), "", "b may still be fit");
    rig.answer("b", bad_answer());
    assert_eq!((rig.way("pg"), rig.state()), ("c".to_owned(), PoolState::FailoverComplete));
    assert_eq!(failovers(&rig), [(OutReason::Dead, vec!["a".to_owned()], vec!["c".to_owned()])]);
}

#[test]
fn the_first_seat_does_not_wait_for_the_drained() {
    let mut rig = tiers(2);
    rig.order("a", AdminState::Maintenance);
    assert!(!rig.core.has_first_verdicts());
    rig.fit(&["b"]);
    assert_eq!(rig.way("pg"), "b");
    assert!(rig.core.has_first_verdicts());
}

#[test]
fn an_empty_seat_is_filled_at_once() {
    let mut rig = tiers(3);
    rig.fit(&["a", "b", "c"]);
    rig.kill("b");
    rig.kill("a");
    assert_eq!((rig.way("pg"), rig.state()), ("c".to_owned(), PoolState::FailoverComplete));
    rig.kill("c");
    assert_eq!((rig.way("pg"), rig.state()), (String::new(), PoolState::Down));
    assert_eq!(rig.core.table().pools["pg"].pick(&Arrival::default()).err(), Some(NoRoute::Down));
    rig.revive("b");
    assert_eq!(rig.way("pg"), "b", "whatever its stable time");
}

#[test]
fn the_active_tier_stays_while_one_of_it_is_fit() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("a2", 1).backend("b", 2));
    rig.fit(&["a", "a2", "b"]);
    assert_eq!((rig.way("pg"), rig.state()), ("a a2 | b".to_owned(), PoolState::Healthy));
    rig.kill("a");
    assert_eq!((rig.way("pg"), rig.state()), ("a2 | b".to_owned(), PoolState::Degraded));
    assert!(rig.told.contains(&Change::PoolDegraded));
    assert_eq!(rig.status("pg").redundancy, Redundancy::Dual);
    assert_eq!(rig.count("pool.failover"), 0);
}

#[test]
fn failback_waits_for_its_stable_time() {
    let mut rig = tiers(2);
    rig.fit(&["a", "b"]);
    rig.kill("a");
    rig.revive("a");
    let began = rig.now;
    assert_eq!((rig.way("pg"), rig.state()), ("b | a".to_owned(), PoolState::RecoveryInProgress));
    rig.live(ms(9999), &[]);
    assert_eq!(rig.way("pg"), "b | a");
    rig.live(ms(1), &[]);
    assert_eq!((rig.way("pg"), rig.state()), ("a | b".to_owned(), PoolState::Healthy));
    assert_eq!(rig.now.since(began), ms(10_000), "to the moment");
    assert_eq!(rig.told.last(), Some(&Change::PoolFailback { from: vec!["b".into()], to: vec!["a".into()] }));
    let last = rig.status("pg").last_failover.unwrap();
    assert_eq!((last.reason, last.at), (OutReason::FailedBack, rig.now));
}

#[test]
fn a_break_starts_the_stable_time_anew() {
    let mut rig = tiers(2);
    rig.fit(&["a", "b"]);
    rig.kill("a");
    rig.revive("a");
    rig.live(ms(9000), &[]);
    rig.order("a", AdminState::Drain);
    rig.live(ms(500), &[]);
    rig.order("a", AdminState::Ready);
    rig.live(ms(9900), &[]);
    assert_eq!(rig.way("pg"), "b | a");
    rig.live(ms(100), &[]);
    assert_eq!(rig.way("pg"), "a | b");
}

#[test]
fn a_restless_best_tier_keeps_no_stable_one_from_returning() {
    let mut rig = tiers(3);
    rig.fit(&["a", "b", "c"]);
    rig.kill("b");
    rig.kill("a");
    assert_eq!(rig.way("pg"), "c");
    rig.revive("b");
    let began = rig.now;
    while rig.now.since(began) < ms(9000) {
        rig.live(ms(3000), &["a"]);
        rig.revive("a");
    }
    rig.live(began.since(rig.now) + (began + ms(10_000)).since(rig.now), &[]);
    assert!(rig.way("pg").starts_with('b'), "{}", rig.way("pg"));
    rig.live(ms(10_000), &[]);
    assert_eq!(rig.way("pg"), "a | b | c");
}

#[test]
fn failback_is_manual_if_so_set() {
    let mut rig = Rig::new(plan().pool("pg").manual_failback().backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.kill("a");
    rig.revive("a");
    rig.live(ms(60_000), &[]);
    assert_eq!((rig.way("pg"), rig.state()), ("b | a".to_owned(), PoolState::RecoveryInProgress));
    assert_eq!(rig.backend("a").reason, "fit again, waiting for failback");
    rig.kill("b");
    assert_eq!(rig.way("pg"), "a", "an empty seat is filled all the same");
}

#[test]
fn with_automatic_off_no_new_session_leaves_the_active_tier() {
    let mut rig = manual();
    rig.fit(&["b", "a"]);
    assert_eq!(rig.way("pg"), "a");
    rig.fit(&["a2"]);
    assert_eq!(rig.way("pg"), "a a2", "not even by a retried dial");
    rig.kill("a");
    assert_eq!(rig.way("pg"), "a2");
    rig.kill("a2");
    assert_eq!((rig.way("pg"), rig.state()), (String::new(), PoolState::Down));
    assert_eq!(rig.backend("b").reason, "standby: automatic failover is off");
    rig.live(ms(60_000), &["a", "a2"]);
    assert_eq!(rig.way("pg"), "");
    rig.revive("a2");
    assert_eq!(rig.way("pg"), "a2");
}

#[test]
fn with_automatic_off_the_first_seat_is_the_preferred_one_or_none() {
    let mut rig = manual();
    rig.fit(&["b"]);
    rig.answer("a", refused());
    assert_eq!(rig.state(), PoolState::Unknown);
    rig.answer("a2", refused());
    assert_eq!((rig.way("pg"), rig.state()), (String::new(), PoolState::Down));
    rig.order("a", AdminState::Drain);
    assert_eq!(rig.way("pg"), "");
    rig.order("a2", AdminState::Drain);
    assert_eq!(rig.way("pg"), "b", "people took the preferred tier out themselves");
}

#[test]
fn use_preferred_sends_to_the_preferred_backend_fit_or_not() {
    let mut rig = Rig::new(plan().pool("pg").use_preferred().backend("a", 1).backend("b", 2));
    assert_eq!(rig.way("pg"), "", "not before the first verdicts");
    rig.answer("a", refused());
    assert_eq!(rig.way("pg"), "");
    rig.answer("b", refused());
    assert_eq!((rig.way("pg"), rig.state()), ("a".to_owned(), PoolState::Down));
    rig.order("a", AdminState::Drain);
    assert_eq!(rig.way("pg"), "b", "the drained get none");
    rig.order("b", AdminState::Maintenance);
    assert_eq!(rig.way("pg"), "");
    rig.order("a", AdminState::Ready);
    rig.revive("a");
    assert_eq!((rig.way("pg"), rig.state()), ("a".to_owned(), PoolState::Degraded));
}

#[test]
fn use_preferred_keeps_to_the_active_tier_with_automatic_off() {
    let mut rig = Rig::new(plan().pool("pg").use_preferred().manual_failover().backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.kill("a");
    assert_eq!(rig.way("pg"), "a");
    rig.order("a", AdminState::Drain);
    assert_eq!(rig.way("pg"), "");
}

#[test]
fn use_preferred_routes_carry_the_epoch_of_the_fence() {
    let mut rig = Rig::new(plan().pool("pg").use_preferred().backend("a", 1));
    rig.fit(&["a"]);
    rig.kill("a");
    assert_eq!(rig.core.table().pools["pg"].pick(&Arrival::default()).unwrap().epoch, Epoch(1));
}

#[test]
fn a_failover_names_the_reason_for_which_the_seat_was_lost() {
    let mut rig = tiers(3);
    rig.fit(&["a", "b", "c"]);
    rig.kill("a");
    for _ in 0..3 {
        rig.answer("c", bad_answer());
    }
    rig.order("b", AdminState::Drain);
    assert!(rig.told.contains(&Change::PoolDown { reason: OutReason::Drained, note: None }));
    rig.kill("c");
    rig.revive("c");
    let last = failovers(&rig).pop().unwrap();
    assert_eq!(last, (OutReason::Drained, vec!["b".to_owned()], vec!["c".to_owned()]));
}

#[test]
fn losses_outside_the_seat_explain_nothing() {
    let mut rig = tiers(3);
    rig.fit(&["a", "b", "c"]);
    for _ in 0..3 {
        rig.answer("b", bad_answer());
    }
    rig.kill("c");
    rig.kill("a");
    for _ in 0..3 {
        rig.answer("b", super::rig::timed_out());
    }
    rig.revive("b");
    assert_eq!(failovers(&rig), [(OutReason::Dead, vec!["a".to_owned()], vec!["b".to_owned()])]);
}

#[test]
fn down_and_recovered_are_told_in_pairs() {
    let mut rig = tiers(1);
    rig.fit(&["a"]);
    rig.kill("a");
    let down = rig.now;
    assert!(rig.told.contains(&Change::PoolDown { reason: OutReason::Dead, note: None }));
    rig.now = rig.now + ms(500);
    rig.replan(plan().pool("pg").backend("a", 1).backend("n", 1));
    assert_eq!(rig.state(), PoolState::FailoverInProgress);
    rig.answer("n", refused());
    assert_eq!((rig.state(), rig.count("pool.down")), (PoolState::Down, 1), "told once an outage");
    rig.revive("a");
    let recovered = Change::PoolRecovered { downtime: rig.now.since(down) };
    assert!(rig.told.contains(&recovered));
    rig.kill("a");
    assert_eq!((rig.count("pool.down"), rig.count("pool.recovered")), (2, 1));
}

#[test]
fn a_pool_that_never_served_is_down_since_its_last_first_verdict() {
    let mut rig = tiers(1);
    rig.until_asked("a");
    rig.now = rig.now + ms(300);
    rig.answer("a", refused());
    assert_eq!(rig.state(), PoolState::Down);
    let down = rig.now;
    rig.now = rig.now + ms(700);
    rig.revive("a");
    let recovered = Change::PoolRecovered { downtime: rig.now.since(down) };
    assert!(rig.told.contains(&recovered), "{:?}", rig.told);
}

#[test]
fn a_pool_that_never_was_down_does_not_recover() {
    let mut rig = tiers(1);
    rig.fit(&["a"]);
    rig.replan(plan().pool("pg").backend("n", 1));
    assert_eq!(rig.state(), PoolState::FailoverInProgress);
    rig.fit(&["n"]);
    assert_eq!((rig.count("pool.down"), rig.count("pool.recovered")), (0, 0));
}

#[test]
fn a_drained_preferred_tier_is_not_waited_for() {
    let mut rig = tiers(2);
    rig.fit(&["a", "b"]);
    rig.order("a", AdminState::Drain);
    assert_eq!((rig.way("pg"), rig.state()), ("b".to_owned(), PoolState::Degraded));
    rig.answer("a", passed());
    assert_eq!(rig.way("pg"), "b");
    assert_eq!(rig.backend("a").reason, "drained by an operator");
}

#[test]
fn status_says_who_serves_and_why_not() {
    let mut rig = tiers(3);
    assert_eq!(rig.backend("a").reason, "no verdict yet");
    rig.fit(&["b"]);
    assert_eq!(rig.backend("b").reason, "waiting for first verdicts of a better tier");
    rig.fit(&["a"]);
    rig.answer("c", refused());
    let (a, b, c) = (rig.backend("a"), rig.backend("b"), rig.backend("c"));
    assert_eq!((a.active, a.eligible, a.reason.as_str()), (true, true, ""));
    assert_eq!((b.active, b.eligible, b.reason.as_str()), (false, true, "standby: priority 1 serves"));
    assert_eq!((c.active, c.eligible, c.reason.as_str()), (false, false, "dead: refused"));
    rig.order("c", AdminState::Maintenance);
    assert_eq!(rig.backend("c").reason, "in maintenance");
    assert_eq!(rig.status("pg").redundancy, Redundancy::Dual);
}
