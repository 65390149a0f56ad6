//! What is heard of a backend, point by point.

use super::build::{ms, plan};
use super::rig::{Rig, bad_answer, passed, refused};
use crate::failover::{Change, Event};
use crate::model::{DialError, Epoch, HealthState, OutReason};

/// Thresholds are 3 and 2: twelve points are enough.
fn two() -> Rig {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig
}

fn points(rig: &Rig) -> u32 {
    rig.backend("a").passive_points
}

#[test]
fn reported_failures_count_as_failed_probes_do() {
    let mut rig = two();
    rig.report_failure("a", "no route");
    rig.report_failure("a", "no route");
    assert_eq!((points(&rig), rig.backend("a").consecutive_failures), (8, 2));
    assert_eq!(rig.way("pg"), "a | b");
    rig.report_failure("a", "password rejected");
    assert_eq!(rig.way("pg"), "b");
    let out = rig.backend("a");
    assert_eq!(out.reason, "check_failed: 3 failures reported, last: password rejected");
    assert_eq!((out.health, out.consecutive_failures), (HealthState::Unhealthy, 3));
}

#[test]
fn a_reported_success_takes_one_failure_away_and_never_more_than_there_are() {
    let mut rig = two();
    rig.report_success("a");
    assert_eq!(points(&rig), 0);
    rig.report_failure("a", "x");
    rig.report_failure("a", "x");
    rig.report_success("a");
    assert_eq!((points(&rig), rig.backend("a").consecutive_failures), (4, 1));
}

#[test]
fn a_passing_probe_takes_one_failure_away_and_a_failing_one_adds_none() {
    let mut rig = two();
    rig.ended_early("a", 7);
    rig.answer("a", bad_answer());
    assert_eq!((points(&rig), rig.backend("a").consecutive_failures), (7, 2));
    rig.answer("a", passed());
    assert_eq!((points(&rig), rig.backend("a").consecutive_failures), (3, 0));
    rig.answer("a", passed());
    assert_eq!(points(&rig), 0);
}

#[test]
fn early_ends_and_failed_dials_count_a_quarter_each_and_ask_at_once() {
    let mut rig = two();
    rig.pass(ms(100));
    rig.ended_early("a", 1);
    assert!(rig.started("a"));
    rig.pass(ms(1000));
    rig.dial_failed("a", DialError::TimedOut);
    assert_eq!(points(&rig), 2);
    for ours in [DialError::Local, DialError::SourceAddress] {
        rig.dial_failed("a", ours);
        assert_eq!(points(&rig), 2, "our own fault: {ours}");
    }
    rig.ended_early("a", 9);
    assert_eq!((points(&rig), rig.way("pg")), (11, "a | b".to_owned()));
    rig.ended_early("a", 1);
    assert_eq!(rig.way("pg"), "b");
    let reason = rig.backend("a").reason;
    assert_eq!(reason, "check_failed: 11 sessions ended before the first answer, 1 dial failed");
}

#[test]
fn ten_thousand_early_ends_in_one_piece_are_one_verdict_and_no_more_than_enough() {
    let mut rig = two();
    rig.end_all_early("a");
    assert_eq!((points(&rig), rig.count("backend.unhealthy")), (16, 1));
    rig.revive("a");
}

#[test]
fn a_moments_trouble_decides_nothing_however_many_meet_it() {
    let mut rig = two();
    rig.pass(ms(100));
    rig.ended_early("a", 10_000);
    assert!(rig.started("a"));
    for _ in 0..500 {
        rig.now = rig.now + ms(1) / 10;
        rig.dial_failed("a", DialError::TimedOut);
    }
    assert_eq!((points(&rig), rig.way("pg")), (16, "a | b".to_owned()));
    for _ in 0..4 {
        rig.answer("a", passed());
    }
    rig.ended_early("a", 12);
    assert_eq!(rig.way("pg"), "a | b", "the time begins anew");
}

#[test]
fn sessions_that_end_early_take_nobody_out_who_answers_others() {
    let mut rig = two();
    for _ in 0..100 {
        rig.ended_early("a", 1000);
        rig.now = rig.now + ms(900);
        // Whoever answers anybody once in a second is there, and a stranger may send what he likes.
        rig.ended_early_among_others("a", 1000);
    }
    assert_eq!((points(&rig), rig.way("pg")), (16, "a | b".to_owned()));
    rig.dial_failed("a", DialError::TimedOut);
    assert_eq!(rig.way("pg"), "a | b", "nor do they together with what others meet");
    rig.now = rig.now + ms(999);
    rig.ended_early("a", 1);
    assert_eq!(rig.way("pg"), "a | b");
    rig.now = rig.now + ms(1);
    rig.ended_early("a", 1);
    assert_eq!(rig.way("pg"), "b", "nobody is answered any more");
}

#[test]
fn what_others_report_stands_whoever_is_answered() {
    let mut rig = two();
    rig.report_failure("a", "x");
    rig.report_failure("a", "x");
    rig.ended_early("a", 9);
    rig.ended_early_among_others("a", 1);
    assert_eq!((points(&rig), rig.way("pg")), (9, "a | b".to_owned()));
    rig.report_failure("a", "x");
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn early_ends_of_an_older_epoch_and_of_nobody_are_ignored() {
    let mut rig = two();
    rig.kill("a");
    rig.revive("a");
    let backend = rig.id("a");
    rig.feed(Event::EndedEarly { backend, epoch: Epoch(0), sessions: 99, answered: false });
    rig.feed(Event::EndedEarly {
        backend: crate::model::BackendId(99),
        epoch: Epoch(0),
        sessions: 99,
        answered: false,
    });
    rig.pass(ms(100));
    let deadline = rig.core.next_deadline();
    rig.ended_early("a", 0);
    assert_eq!(points(&rig), 0);
    assert!(rig.last.is_empty());
    assert_eq!(rig.core.next_deadline(), deadline, "nor is anything asked sooner");
}

#[test]
fn it_is_healthy_again_by_its_own_probes() {
    let mut rig = two();
    for _ in 0..20 {
        rig.report_failure("a", "x");
    }
    rig.answer("a", passed());
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy);
    rig.answer("a", passed());
    assert_eq!(rig.backend("a").health, HealthState::Healthy);
}

#[test]
fn not_while_those_outside_go_on_to_say_no() {
    let mut rig = two();
    for _ in 0..20 {
        rig.report_failure("a", "x");
    }
    for _ in 0..10 {
        rig.answer("a", passed());
        rig.report_failure("a", "x");
    }
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy);
    rig.answer("a", passed());
    rig.answer("a", passed());
    assert_eq!(rig.backend("a").health, HealthState::Healthy);
    let mut rig = two();
    rig.end_all_early("a");
    rig.answer("a", bad_answer());
    rig.answer("a", bad_answer());
    rig.answer("a", passed());
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy);
}

#[test]
fn what_is_heard_decides_nothing_before_the_first_verdict() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.ended_early("a", 100);
    rig.report_failure("a", "x");
    assert_eq!(rig.backend("a").health, HealthState::Unknown);
    rig.answer("a", passed());
    assert_eq!(rig.backend("a").health, HealthState::Healthy, "its own probe decides");
}

#[test]
fn sessions_go_by_the_policy_for_failed_checks_and_the_verdict_says_when_it_began() {
    let mut rig = Rig::new(
        plan()
            .pool("pg")
            .backend("a", 1)
            .backend("b", 2)
            .sessions(|policies| policies.check_failed = crate::model::SessionPolicy::Close),
    );
    rig.fit(&["a", "b"]);
    rig.ended_early("a", 1);
    rig.now = rig.now + ms(30);
    rig.report_failure("a", "x");
    rig.report_failure("a", "x");
    rig.report_failure("a", "x");
    assert_eq!(rig.fences().len(), 1);
    let detect = rig.told.iter().find_map(|change| match change {
        Change::BackendUnhealthy { detect, reason: OutReason::CheckFailed, .. } => Some(*detect),
        _ => None,
    });
    assert_eq!(detect, Some(ms(30)));
}

#[test]
fn worse_news_of_our_own_is_told_of_what_outsiders_took_out() {
    let mut rig = two();
    rig.end_all_early("a");
    rig.answer("a", refused());
    rig.answer("a", refused());
    assert_eq!(rig.backend("a").reason, "dead: refused");
}

#[test]
fn orders_for_nobody_change_nothing() {
    let mut rig = two();
    let (pool, backend) = ("pg".into(), "zz".into());
    rig.command(crate::failover::Order::ReportFailure { pool, backend, error: "x".to_owned() });
    assert!(rig.last.is_empty());
    let order = crate::failover::Order::Reset { pool: "nowhere".into(), backend: None };
    rig.command(order);
    assert!(rig.last.is_empty());
}

#[test]
fn who_has_points_enough_to_be_taken_out_is_not_let_in_again() {
    let mut rig =
        Rig::new(plan().pool("pg").backend("a", 1).check(|check| check.healthy_threshold = 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    for _ in 0..4 {
        rig.report_failure("a", "x");
    }
    assert_eq!((points(&rig), rig.backend("a").health), (16, HealthState::Unhealthy));
    rig.answer("a", passed());
    assert_eq!((points(&rig), rig.backend("a").health), (12, HealthState::Unhealthy), "twelve are enough");
    rig.answer("a", passed());
    assert_eq!((points(&rig), rig.backend("a").health), (8, HealthState::Healthy));
}
