//! Slow is not down.

use super::build::{PlanBuilder, check, ms, plan};
use super::rig::{Rig, bad_answer, passed_in, refused, timed_out};
use crate::failover::latency::Latency;
use crate::failover::{Change, SLOW_HOLD};
use crate::model::{AdminState, HealthState, MonoTime, OutReason, PoolState, SessionPolicy};

/// At most 100 ms; a spell lasts at least five seconds.
fn limited() -> PlanBuilder {
    let limit = |check: &mut crate::model::CheckPlan| check.max_latency = Some(ms(100));
    plan().pool("pg").failback_after(ms(0)).backend("a", 1).check(limit).backend("b", 2).check(limit)
}

fn two() -> Rig {
    let mut rig = Rig::new(limited());
    rig.answer("a", passed_in(50));
    rig.answer("b", passed_in(50));
    rig
}

fn answer(rig: &mut Rig, name: &str, times: usize, millis: u64) {
    for _ in 0..times {
        rig.answer(name, passed_in(millis));
    }
}

#[test]
fn answers_are_smoothed_as_rfc_6298_has_it() {
    let mut rig = two();
    let smoothed = rig.backend("a").smoothed.unwrap();
    assert_eq!((smoothed.mean, smoothed.deviation), (ms(50), ms(25)));
    rig.answer("a", passed_in(90));
    let smoothed = rig.backend("a").smoothed.unwrap();
    // 50 + (90 - 50) / 8, and 25 + (40 - 25) / 4.
    assert_eq!((smoothed.mean, smoothed.deviation), (ms(55), ms(25) + ms(15) / 4));
    rig.answer("a", passed_in(15));
    let smoothed = rig.backend("a").smoothed.unwrap();
    assert_eq!(smoothed.mean, ms(50));
    assert_eq!(rig.backend("a").latency, Some(ms(15)));
}

#[test]
fn slow_answers_in_a_row_make_it_slow_and_new_sessions_go_to_a_faster_one() {
    let mut rig = two();
    answer(&mut rig, "a", 2, 200);
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").consecutive_failures), ("a | b", 2));
    rig.answer("a", passed_in(200));
    assert_eq!(rig.way("pg"), "b");
    assert_eq!(rig.kinds(), ["backend.unhealthy", "latency.high", "pool.failover"]);
    assert!(rig.told.iter().any(|change| matches!(change, Change::PoolFailover { reason: OutReason::Slow, .. })));
    let status = rig.backend("a");
    assert_eq!((status.health, status.slow, status.eligible), (HealthState::Unhealthy, true, false));
    assert!(status.reason.starts_with("slow: answered in 200"), "{}", status.reason);
    answer(&mut rig, "a", 20, 200);
    assert_eq!(rig.count("latency.high"), 1, "once a spell");
}

#[test]
fn answers_that_take_all_the_time_that_they_may_are_in_time() {
    let mut rig = two();
    answer(&mut rig, "a", 10, 100);
    assert_eq!((rig.backend("a").slow, rig.backend("a").consecutive_failures), (false, 0));
}

#[test]
fn no_session_is_ever_closed_for_it() {
    let close = |policies: &mut crate::model::SessionPolicies| policies.check_failed = SessionPolicy::Close;
    let mut rig = Rig::new(limited().sessions(close));
    rig.answer("a", passed_in(50));
    rig.answer("b", passed_in(50));
    answer(&mut rig, "a", 10, 200);
    assert_eq!(rig.way("pg"), "b");
    assert_eq!((rig.epoch("a").0, rig.core.departures.iter().count()), (0, 0));
}

#[test]
fn a_slow_backend_without_a_better_one_goes_on_serving() {
    let mut rig = two();
    rig.kill("b");
    answer(&mut rig, "a", 10, 200);
    assert_eq!((rig.way("pg").as_str(), rig.state()), ("a", PoolState::Degraded));
    let status = rig.backend("a");
    assert!(status.slow && status.eligible && status.active && status.reason.is_empty(), "{status:?}");
    assert_eq!((rig.count("pool.down"), rig.count("latency.high")), (0, 1));
    for _ in 0..2 {
        rig.answer("b", passed_in(50));
    }
    assert_eq!(rig.way("pg"), "b", "now there is a better one");
}

#[test]
fn one_that_is_hardly_faster_is_no_better_one() {
    let mut rig = two();
    // The other is within its limit, and slow by the figures of the first.
    answer(&mut rig, "b", 100, 98);
    answer(&mut rig, "a", 100, 105);
    assert!(rig.backend("a").slow);
    assert_eq!((rig.way("pg").as_str(), rig.state()), ("a | b", PoolState::Degraded));
    answer(&mut rig, "a", 10, 130);
    assert_eq!(rig.way("pg"), "b");
    answer(&mut rig, "a", 100, 101);
    assert_eq!(rig.way("pg"), "b", "and once passed over, it does not come back for being nearly as good");
}

#[test]
fn one_that_is_faster_by_a_tenth_is_a_better_one() {
    let taking = |millis| {
        let mut latency = Latency::default();
        latency.measure(ms(millis));
        latency
    };
    assert!(taking(90).is_better_than(&taking(100)));
    assert!(!taking(91).is_better_than(&taking(100)));
}

#[test]
fn when_only_slow_ones_are_left_they_serve() {
    let mut rig = two();
    answer(&mut rig, "a", 5, 300);
    assert_eq!(rig.way("pg"), "b");
    answer(&mut rig, "b", 5, 900);
    assert_eq!(rig.way("pg"), "b | a", "the seat is kept");
    assert_eq!(rig.count("pool.down"), 0);
    rig.kill("b");
    assert_eq!(rig.way("pg"), "a");
}

#[test]
fn the_fit_go_before_the_slow_when_the_seat_is_empty() {
    let limit = |check: &mut crate::model::CheckPlan| check.max_latency = Some(ms(100));
    let mut rig = Rig::new(limited().backend("c", 3).check(limit));
    for (name, millis) in [("a", 99), ("b", 104), ("c", 99)] {
        answer(&mut rig, name, 5, millis);
    }
    assert!(rig.backend("b").slow && rig.backend("b").eligible, "nobody is better by enough");
    rig.kill("a");
    assert_eq!(rig.way("pg"), "c | b");
    rig.kill("c");
    assert_eq!(rig.way("pg"), "b", "and the slow serve before nobody does");
}

/// How long a slow spell lasts if every later answer is quick.
fn spell(interval: u64) -> std::time::Duration {
    let mut rig = Rig::new(limited().backend("c", 3).check(|check| {
        check.max_latency = Some(ms(100));
        check.interval = ms(interval);
    }));
    answer(&mut rig, "c", 3, 200);
    let began = rig.now;
    while rig.backend("c").slow {
        rig.answer("c", passed_in(1));
    }
    rig.now.since(began)
}

#[test]
fn a_spell_lasts_five_seconds_and_five_intervals_at_least() {
    let (often, seldom) = (spell(100), spell(4000));
    assert!(often >= ms(5000) && often < ms(5200), "{often:?}");
    assert!(seldom >= ms(20_000) && seldom < ms(25_000), "{seldom:?}");
}

#[test]
fn a_spell_may_end_when_its_time_is_up_and_not_a_moment_before() {
    let latency = Latency { slow_since: MonoTime::ZERO, ..Latency::default() };
    let end = MonoTime::ZERO + SLOW_HOLD;
    assert!(latency.is_held(MonoTime::from_nanos(end.as_nanos() - 1), &check()));
    assert!(!latency.is_held(end, &check()));
}

#[test]
fn a_spell_ends_by_quick_answers_and_not_before_its_time() {
    let mut rig = two();
    answer(&mut rig, "a", 3, 200);
    let began = rig.now;
    answer(&mut rig, "a", 3, 10);
    assert!(rig.now.since(began) < ms(5000) && rig.backend("a").slow, "the hold");
    while rig.now.since(began) < ms(8000) {
        rig.answer("a", passed_in(90));
    }
    assert!(rig.backend("a").slow, "within the limit is not well within it");
    rig.answer("a", passed_in(80));
    rig.answer("a", passed_in(90));
    rig.answer("a", passed_in(80));
    assert!(rig.backend("a").slow, "not in a row");
    rig.answer("a", passed_in(80));
    assert_eq!((rig.backend("a").health, rig.way("pg").as_str()), (HealthState::Healthy, "a | b"));
    assert_eq!(rig.kinds(), ["backend.healthy", "pool.failback"]);
    answer(&mut rig, "a", 3, 200);
    assert_eq!(rig.count("latency.high"), 2, "a new spell");
}

#[test]
fn the_stable_time_of_a_better_tier_does_not_run_while_it_is_slow() {
    let mut rig = Rig::new(limited().failback_after(ms(20_000)));
    rig.answer("a", passed_in(50));
    rig.answer("b", passed_in(50));
    answer(&mut rig, "a", 3, 200);
    while rig.backend("a").slow {
        rig.answer("a", passed_in(10));
        rig.answer("b", passed_in(50));
    }
    let began = rig.now;
    while rig.way("pg") != "a | b" {
        rig.answer("a", passed_in(10));
        rig.answer("b", passed_in(50));
    }
    assert!(rig.now.since(began) >= ms(19_000), "{:?}", rig.now.since(began));
}

#[test]
fn what_was_dead_and_answers_slowly_serves_if_nothing_else_does() {
    let mut rig = two();
    rig.kill("b");
    rig.kill("a");
    assert_eq!(rig.state(), PoolState::Down);
    answer(&mut rig, "a", 1, 300);
    assert_eq!(rig.state(), PoolState::Down, "better news is earned");
    answer(&mut rig, "a", 1, 300);
    assert_eq!((rig.way("pg").as_str(), rig.state()), ("a", PoolState::Degraded));
}

#[test]
fn a_single_failure_among_slow_answers_is_not_held_for_worse_than_slow() {
    let mut rig = two();
    answer(&mut rig, "a", 2, 200);
    rig.answer("a", timed_out());
    let status = rig.backend("a");
    assert!(status.slow, "{status:?}");
    assert_eq!(rig.epoch("a").0, 0, "no session is closed for one timeout");
    rig.answer("a", timed_out());
    rig.answer("a", timed_out());
    assert!(rig.backend("a").reason.starts_with("unreachable"), "{}", rig.backend("a").reason);
    let mut rig = two();
    answer(&mut rig, "a", 3, 200);
    rig.answer("a", refused());
    rig.answer("a", refused());
    assert!(rig.backend("a").reason.starts_with("dead"));
}

#[test]
fn failed_checks_among_slow_answers_still_add_up() {
    let mut rig = two();
    for _ in 0..3 {
        rig.answer("a", bad_answer());
        rig.answer("a", passed_in(200));
    }
    let status = rig.backend("a");
    assert_eq!(status.health, HealthState::Unhealthy);
}

#[test]
fn a_first_answer_that_is_slow_is_an_answer() {
    let mut rig = Rig::new(limited());
    rig.answer("a", passed_in(5000));
    assert_eq!((rig.backend("a").health, rig.way("pg").as_str()), (HealthState::Healthy, "a"));
    answer(&mut rig, "a", 2, 5000);
    assert!(rig.backend("a").slow);
}

#[test]
fn within_a_tier_the_slow_one_is_left_out_while_another_is_faster() {
    let limit = |check: &mut crate::model::CheckPlan| check.max_latency = Some(ms(100));
    let plan = plan().pool("pg").backend("a", 1).check(limit).backend("b", 1).check(limit);
    let mut rig = Rig::new(plan);
    rig.fit(&["a", "b"]);
    answer(&mut rig, "a", 3, 200);
    assert_eq!((rig.way("pg").as_str(), rig.count("pool.failover")), ("b", 0));
    rig.order("b", AdminState::Drain);
    assert_eq!(rig.way("pg"), "a");
    rig.order("b", AdminState::Ready);
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn what_goes_on_serving_though_slow_is_left_for_being_slow_and_not_for_what_was_lost_before() {
    let limit = |check: &mut crate::model::CheckPlan| check.max_latency = Some(ms(100));
    let tier = plan().pool("pg").backend("a", 1).check(limit).backend("a2", 1).check(limit);
    let mut rig = Rig::new(tier.backend("b", 2).check(limit));
    rig.fit(&["a", "a2"]);
    rig.kill("b");
    answer(&mut rig, "a", 3, 200);
    assert_eq!(rig.way("pg"), "a2");
    rig.kill("a2");
    assert_eq!(rig.way("pg"), "a");
    rig.revive("b");
    assert_eq!(rig.way("pg"), "b");
    assert_eq!(rig.failovers().last().unwrap(), "1 completed: a > b (slow)");
}

#[test]
fn without_automatic_failover_another_tier_is_no_alternative() {
    let mut rig = Rig::new(limited().manual_failover());
    rig.answer("a", passed_in(50));
    rig.answer("b", passed_in(50));
    answer(&mut rig, "a", 10, 500);
    assert_eq!((rig.way("pg").as_str(), rig.state()), ("a", PoolState::Degraded));
}

#[test]
fn a_reset_lets_one_answer_within_the_limit_end_the_spell() {
    let mut rig = two();
    answer(&mut rig, "a", 3, 200);
    rig.reset("a");
    assert!(rig.backend("a").slow);
    rig.answer("a", passed_in(95));
    assert_eq!((rig.backend("a").health, rig.way("pg").as_str()), (HealthState::Healthy, "a | b"));
}

#[test]
fn in_a_pool_that_is_down_a_slow_backend_is_asked_at_its_pace() {
    let mut rig = two();
    answer(&mut rig, "a", 3, 200);
    assert!(rig.backend("a").slow);
    rig.order("a", AdminState::Drain);
    rig.kill("b");
    assert_eq!(rig.state(), PoolState::Down);
    // Each answer is a good one, and none of them brings it back: followed up at once, they would be a storm.
    for _ in 0..5 {
        rig.answer("a", passed_in(200));
        assert!(!rig.started("a"), "asked again in the same turn");
    }
}
