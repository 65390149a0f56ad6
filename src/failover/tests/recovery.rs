//! How an unhealthy backend is asked: its own interval, ever longer rests, and the end of all attempts.

use super::build::{PlanBuilder, ms, plan};
use super::clustered::{healthy, primary};
use super::rig::{Rig, bad_answer, passed, refused};
use crate::failover::Event;
use crate::model::{CheckPlan, HealthState, LoginError, MonoTime, WatchEnd, WatchError};

fn attempts(check: &mut CheckPlan) {
    check.recovery_attempts = 4;
    check.recovery_backoff = ms(3000);
}

fn two(change: impl Fn(&mut CheckPlan)) -> PlanBuilder {
    plan().pool("pg").backend("a", 1).check(change).backend("b", 2)
}

/// A rig in which `a` is unhealthy.
fn down(plan: PlanBuilder) -> Rig {
    let mut rig = Rig::new(plan);
    rig.fit(&["a", "b"]);
    rig.kill("a");
    rig
}

#[test]
fn each_failed_attempt_is_followed_by_twice_the_rest_until_none_is_left() {
    let mut rig = down(two(attempts));
    let mut waits = vec![rig.wait("a")];
    for _ in 0..3 {
        rig.answer("a", bad_answer());
        waits.push(rig.wait("a"));
    }
    for (wait, expected) in waits.iter().zip([1000, 3000, 6000, 12_000]) {
        assert!(*wait >= ms(expected) * 9 / 10 && *wait <= ms(expected) * 11 / 10, "{waits:?}");
    }
    assert!(!rig.backend("a").gave_up);
    rig.answer("a", bad_answer());
    let status = rig.backend("a");
    assert!(status.gave_up && status.reason.contains("gave up after 4 attempts"), "{status:?}");
    assert!(!rig.is_asked_within("a", ms(3_600_000)), "asked though all attempts are used up");
}

#[test]
fn the_rest_counts_from_the_answer() {
    let mut rig = down(two(attempts));
    rig.until_asked("a");
    rig.now = rig.now + ms(4000);
    rig.answer("a", bad_answer());
    assert!(rig.wait("a") >= ms(2700));
}

#[test]
fn a_rest_is_never_longer_than_ten_minutes() {
    let mut rig = down(two(|check| {
        check.recovery_attempts = 100;
        check.recovery_backoff = ms(60_000);
    }));
    for _ in 0..60 {
        rig.answer("a", bad_answer());
    }
    let wait = rig.wait("a");
    assert!(wait >= ms(540_000) && wait <= ms(660_000), "{wait:?}");
}

#[test]
fn a_success_gives_the_attempts_back() {
    let mut rig = down(two(attempts));
    for _ in 0..10 {
        rig.answer("a", bad_answer());
        rig.answer("a", bad_answer());
        rig.answer("a", passed());
    }
    assert!(!rig.backend("a").gave_up);
    rig.revive("a");
}

#[test]
fn an_empty_pool_does_not_override_the_attempts() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).check(attempts));
    rig.fit(&["a"]);
    rig.kill("a");
    assert!(rig.wait("a") >= ms(900));
    rig.answer("a", bad_answer());
    assert!(rig.wait("a") >= ms(2700));
    for _ in 0..3 {
        rig.answer("a", bad_answer());
    }
    assert!(!rig.is_asked_within("a", ms(3_600_000)));
}

/// A rig in which all attempts at `a` are used up.
fn given_up() -> Rig {
    let mut rig = down(two(attempts));
    for _ in 0..4 {
        rig.answer("a", bad_answer());
    }
    assert!(!rig.is_asked_within("a", ms(60_000)));
    rig
}

#[test]
fn a_reset_asks_anew_and_one_success_is_enough() {
    let mut rig = given_up();
    rig.reset("a");
    assert!(rig.started("a"), "asked at once");
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy, "not without a verdict");
    rig.answer("a", passed());
    assert_eq!(rig.backend("a").health, HealthState::Healthy);
}

#[test]
fn what_was_asked_before_a_reset_counts_for_nothing() {
    let mut rig = given_up();
    rig.probe_now("a");
    let target = rig.target("a");
    let (old, _) = rig.open[&target].clone();
    rig.pass(ms(100));
    rig.reset("a");
    assert!(rig.started("a"), "though it was being asked by order");
    rig.feed(crate::failover::Event::ProbeFinished { target, probe: old, outcome: bad_answer() });
    assert_eq!(rig.backend("a").consecutive_failures, 0);
    rig.answer("a", passed());
    assert_eq!(rig.backend("a").health, HealthState::Healthy);
}

#[test]
fn a_reset_backend_that_fails_again_has_all_its_attempts_and_no_favour_any_more() {
    let mut rig = given_up();
    rig.reset("a");
    rig.answer("a", bad_answer());
    rig.answer("a", passed());
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy, "one success is enough only at once");
    for _ in 0..3 {
        rig.answer("a", bad_answer());
    }
    assert!(!rig.backend("a").gave_up);
    rig.answer("a", bad_answer());
    assert!(rig.backend("a").gave_up);
}

#[test]
fn a_reset_takes_back_every_count_of_a_healthy_backend_and_leaves_it_healthy() {
    let mut rig = Rig::new(two(|_| ()));
    rig.fit(&["a", "b"]);
    rig.answer("a", bad_answer());
    rig.answer("a", bad_answer());
    rig.report_failure("a", "no");
    assert_eq!(rig.backend("a").consecutive_failures, 3);
    rig.pass(ms(50));
    rig.reset("a");
    let status = rig.backend("a");
    assert_eq!((status.consecutive_failures, status.passive_points), (0, 0));
    assert_eq!(status.health, HealthState::Healthy);
    rig.answer("a", bad_answer());
    rig.answer("a", bad_answer());
    assert_eq!(rig.backend("a").health, HealthState::Healthy, "it takes three again");
}

#[test]
fn a_changed_check_asks_anew_and_an_unchanged_one_does_not() {
    let mut rig = given_up();
    rig.replan(two(attempts));
    assert!(!rig.is_asked_within("a", ms(60_000)), "a reload that changes nothing asks nothing");
    rig.replan(two(|check| {
        attempts(check);
        check.interval = ms(500);
    }));
    assert!(!rig.backend("a").gave_up);
    assert!(rig.is_asked_within("a", ms(600)));
}

#[test]
fn good_words_from_outside_ask_anew() {
    let mut rig = given_up();
    rig.push("a", HealthState::Healthy, ms(60_000));
    assert!(rig.started("a"));
    rig.revive("a");
}

#[test]
fn an_order_asks_once_whatever_the_schedule_says() {
    let mut rig = given_up();
    rig.probe_now("a");
    assert!(rig.started("a"));
    rig.answer("a", bad_answer());
    assert!(!rig.is_asked_within("a", ms(60_000)));
    rig.probe_now("b");
    assert!(rig.started("b") || rig.is_asked_within("b", ms(10)));
}

#[test]
fn an_order_that_is_repeated_does_not_keep_the_answer_from_coming() {
    let mut rig = Rig::new(two(|_| ()));
    rig.fit(&["a", "b"]);
    rig.pass(ms(100));
    rig.probe_now("a");
    assert!(rig.started("a"));
    for _ in 0..100 {
        rig.now = rig.now + ms(1);
        rig.probe_now("a");
        assert!(!rig.started("a"), "asked twice at once");
    }
}

#[test]
fn a_whole_pool_that_is_asked_is_not_asked_in_one_moment() {
    let mut big = plan().pool("pg");
    let names: Vec<String> = (0..50).map(|i| format!("b{i}")).collect();
    for name in &names {
        big = big.backend(name, 1);
    }
    let mut rig = Rig::new(big);
    names.iter().for_each(|name| rig.answer(name, passed()));
    rig.pass(ms(50));
    rig.open.clear();
    let order = crate::failover::Order::Probe { pool: "pg".into(), backend: None };
    rig.command(order);
    let began = rig.now;
    let mut moments: std::collections::BTreeSet<MonoTime> = std::collections::BTreeSet::new();
    while rig.now.since(began) < ms(20) {
        moments.insert(rig.now);
        rig.now = rig.core.next_deadline().unwrap();
        rig.tick();
    }
    assert!(moments.len() > 25, "{} moments", moments.len());
    assert_eq!(rig.open.len(), 50);
}

#[test]
fn what_its_monitor_hears_of_a_server_that_is_given_up_is_no_reset() {
    let twice = |check: &mut CheckPlan| {
        (check.recovery_attempts, check.recovery_backoff, check.healthy_threshold) = (2, ms(100), 1);
    };
    let mut rig = healthy(plan().pool("pg").postgres().backend("a", 1).check(twice).backend("b", 2).backend("c", 2));
    rig.dies("a");
    rig.answer("a", refused());
    rig.answer("a", refused());
    assert!(rig.backend("a").gave_up);
    rig.open_session("a", primary(1, &[]));
    assert!(!rig.started("a"));
    rig.late("a", 30);
    rig.feed(Event::WasStalled { since: rig.now });
    rig.on_time("a");
    rig.ends("a", WatchEnd::Closed);
    rig.fails("a", WatchError::Login(LoginError::TimedOut));
    rig.feed(Event::WasStalled { since: rig.now });
    rig.open_session("a", primary(1, &[]));
    assert!(!rig.is_asked_within("a", ms(60_000)), "asked though all attempts are used up");
    let status = rig.backend("a");
    assert!(status.gave_up && rig.holds(), "{status:?}");
    rig.reset("a");
    rig.answer("a", passed());
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").gave_up), ("a", false));
}
