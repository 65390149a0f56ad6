//! Returns that do not last make the next one wait longer.

use std::time::Duration;

use super::build::{ms, plan};
use super::rig::Rig;
use crate::failover::damping::Damping;
use crate::failover::{DAMPING_CAP, DAMPING_FLOOR};
use crate::model::{AdminState, Applied, MonoTime, Rule};

fn nervous(failback_after: Duration) -> Rig {
    let quick = |check: &mut crate::model::CheckPlan| {
        (check.interval, check.unhealthy_threshold, check.healthy_threshold) = (ms(50), 1, 1);
    };
    let pool = plan().pool("pg").failback_after(failback_after);
    let mut rig = Rig::new(pool.backend("a", 1).check(quick).backend("b", 2).check(quick));
    rig.fit(&["a", "b"]);
    rig
}

/// The backend is gone for `down`, then there for `up`, for so long.
fn flap(rig: &mut Rig, down: Duration, up: Duration, time: Duration) {
    let end = rig.now + time;
    while rig.now < end {
        rig.live(down, &["a"]);
        rig.live(up, &[]);
    }
}

#[test]
fn a_backend_that_flaps_does_not_take_the_pool_along() {
    for failback_after in [ms(0), ms(100), ms(1000), ms(10_000)] {
        let mut rig = nervous(failback_after);
        flap(&mut rig, ms(200), ms(200), ms(10_000));
        assert!((1..=3).contains(&rig.count("pool.failover")), "{failback_after:?}: {:?}", rig.failovers());
    }
}

#[test]
fn each_return_that_does_not_last_doubles_the_wait_and_quiet_halves_it() {
    let mut rig = nervous(ms(1000));
    for wait in [1000, 2000, 4000] {
        rig.live(ms(200), &["a"]);
        assert!(rig.way("pg").starts_with('b'));
        rig.live(ms(wait - 1), &[]);
        assert!(rig.way("pg").starts_with('b'), "before {wait} ms");
        rig.live(ms(150), &[]);
        assert!(rig.way("pg").starts_with('a'), "after {wait} ms");
    }
    let bounces = |rig: &Rig| rig.core.pools["pg"].damping.bounces();
    assert_eq!(bounces(&rig), 2);
    // The quiet is reckoned when something happens.
    rig.live(ms(8000), &["b"]);
    assert_eq!(bounces(&rig), 2, "b's health breaks the quiet");
    rig.live(ms(8000 + 4000 + 500), &[]);
    rig.live(ms(200), &["a"]);
    assert_eq!(bounces(&rig), 0);
    rig.live(ms(1100), &[]);
    assert!(rig.way("pg").starts_with('a'));
}

#[test]
fn damping_that_is_over_is_not_told() {
    let told = |rig: &Rig| rig.core.explain(rig.now, &"pg".into()).unwrap().rules;
    let mut rig = nervous(ms(100));
    rig.live(ms(200), &["a"]);
    rig.live(ms(1000), &[]);
    assert!(rig.way("pg").starts_with('a'));
    rig.live(ms(200), &["a"]);
    let damped = |rules: &[Applied]| rules.iter().any(|applied| applied.rule == Rule::Damping);
    assert!(damped(&told(&rig)));
    // It returns after the two seconds that it has to wait, and nothing happens for long.
    rig.live(ms(2500), &[]);
    assert!(rig.way("pg").starts_with('a') && damped(&told(&rig)));
    rig.live(ms(9000), &[]);
    assert!(!damped(&told(&rig)), "{:?}", told(&rig));
    rig.live(ms(200), &["a"]);
    rig.live(ms(50), &[]);
    let returns = told(&rig).into_iter().find(|applied| applied.rule == Rule::StableTime).unwrap();
    assert_eq!(returns.detail, "a serves again once fit for 100ms");
}

#[test]
fn only_a_verdict_makes_a_bounce() {
    let mut rig = nervous(ms(1000));
    rig.live(ms(200), &["a"]);
    rig.live(ms(1500), &[]);
    assert!(rig.way("pg").starts_with('a'));
    rig.order("a", AdminState::Drain);
    assert!(rig.way("pg").starts_with('b'));
    assert_eq!(rig.core.pools["pg"].damping.bounces(), 0);
}

#[test]
fn the_wait_has_a_floor_and_a_cap() {
    let at = |nanos: Duration| MonoTime::ZERO + nanos;
    let bounced = |failback_after: Duration, times: u32| {
        let mut damping = Damping::default();
        for _ in 0..times {
            damping.returned(at(ms(0)), failback_after);
            damping.left(at(ms(1)), at(ms(1)), true, failback_after);
        }
        damping.stable_time(failback_after)
    };
    assert_eq!(bounced(ms(0), 0), ms(0), "as configured until something bounces");
    assert_eq!(bounced(ms(0), 1), DAMPING_FLOOR * 2);
    assert_eq!(bounced(ms(10_000), 3), ms(80_000));
    assert_eq!(bounced(ms(10_000), 1000), DAMPING_CAP);
    assert_eq!(bounced(DAMPING_CAP * 3, 2), DAMPING_CAP * 3, "never shorter than configured");
}

#[test]
fn however_often_it_bounced_the_first_quiet_brings_the_wait_down_from_the_cap() {
    let wait = ms(10_000);
    let mut damping = Damping::default();
    for _ in 0..1000 {
        damping.returned(MonoTime::ZERO, wait);
        damping.left(MonoTime::ZERO, MonoTime::ZERO, true, wait);
    }
    let quiet = MonoTime::ZERO + DAMPING_CAP * 2;
    damping.pass_time(MonoTime::from_nanos(quiet.as_nanos() - 1), wait);
    assert_eq!(damping.stable_time(wait), DAMPING_CAP);
    damping.pass_time(quiet, wait);
    assert_eq!(damping.stable_time(wait), wait * 32, "10 s doubled as often as it stays below 10 minutes");
}

#[test]
fn a_return_that_lasted_twice_its_wait_is_none() {
    let at = |millis: u64| MonoTime::ZERO + ms(millis);
    for (lost, bounces) in [(3999, 1), (4000, 0)] {
        let mut damping = Damping::default();
        damping.returned(at(0), ms(2000));
        damping.left(at(9000), at(lost), true, ms(2000));
        assert_eq!(damping.bounces(), bounces, "lost after {lost} ms");
    }
}
