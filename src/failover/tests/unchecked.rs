//! Backends that nobody asks.

use std::time::Duration;

use super::build::{PlanBuilder, ms, plan};
use super::rig::{Rig, passed};
use crate::model::{CheckKind, DialError, HealthState, PoolState};

/// Twice the least stable time: a return that lasts so long is no bounce.
const LASTING: Duration = Duration::from_secs(2);

fn none() -> PlanBuilder {
    let unchecked = |check: &mut crate::model::CheckPlan| check.kind = CheckKind::None;
    plan().pool("pg").failback_after(ms(0)).backend("a", 1).check(unchecked).backend("b", 2).check(unchecked)
}

#[test]
fn it_is_fit_from_the_first_turn_and_never_asked() {
    let mut rig = Rig::new(none());
    assert_eq!((rig.way("pg").as_str(), rig.state()), ("a | b", PoolState::Healthy));
    assert_eq!(rig.kinds(), ["backend.healthy", "backend.healthy"]);
    assert!(rig.core.has_first_verdicts());
    assert_eq!(rig.core.next_deadline(), None);
    rig.reset("a");
    rig.probe_now("a");
    assert!(rig.open.is_empty() && !rig.core.has_open_questions());
}

#[test]
fn what_is_heard_takes_it_out_and_time_brings_it_back() {
    let mut rig = Rig::new(none());
    for _ in 0..11 {
        rig.dial_failed("a", DialError::Refused);
    }
    assert_eq!(rig.way("pg"), "a | b");
    rig.pass(ms(100));
    rig.dial_failed("a", DialError::Refused);
    assert_eq!(rig.way("pg"), "b");
    rig.pass(ms(9999));
    assert_eq!(rig.way("pg"), "b");
    rig.pass(ms(1));
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").passive_points), ("a | b", 0));
    rig.pass(LASTING);
    for _ in 0..3 {
        rig.report_failure("a", "x");
    }
    assert_eq!(rig.way("pg"), "b");
    rig.reset("a");
    assert_eq!(rig.way("pg"), "a | b");
}

#[test]
fn its_recovery_interval_says_when_it_comes_back() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).check(|check| {
        check.kind = CheckKind::None;
        check.recovery_interval = Some(ms(3000));
    }));
    rig.end_all_early("a");
    assert_eq!(rig.state(), PoolState::Down);
    rig.pass(ms(2999));
    assert_eq!(rig.state(), PoolState::Down);
    rig.pass(ms(1));
    assert_eq!(rig.state(), PoolState::Healthy);
}

#[test]
fn a_pushed_verdict_is_its_verdict() {
    let mut rig = Rig::new(none());
    rig.push("a", HealthState::Unhealthy, ms(1000));
    assert_eq!(rig.way("pg"), "b");
    rig.push("a", HealthState::Healthy, ms(1000));
    assert_eq!(rig.way("pg"), "a | b");
    rig.pass(LASTING);
    rig.end_all_early("a");
    assert_eq!(rig.way("pg"), "b");
    rig.push("a", HealthState::Healthy, ms(1000));
    assert_eq!(rig.way("pg"), "a | b", "good news is its verdict, too");
    rig.pass(LASTING);
    rig.push("a", HealthState::Unhealthy, ms(1000));
    rig.pass(ms(1000));
    assert_eq!(rig.way("pg"), "a | b", "forgotten");
    let kinds: Vec<_> =
        rig.told.iter().map(|change| change.kind()).filter(|kind| kind.starts_with("backend")).collect();
    assert_eq!(kinds.len(), 2 + 6, "{kinds:?}");
}

#[test]
fn an_unhealthy_backend_whose_check_is_taken_away_is_fit_and_one_that_gets_one_is_asked() {
    let checked = || plan().pool("pg").failback_after(ms(0)).backend("a", 1).backend("b", 2);
    let mut rig = Rig::new(checked());
    rig.fit(&["a", "b"]);
    rig.kill("a");
    rig.replan(none());
    assert_eq!(rig.way("pg"), "a | b");
    assert!(rig.open.is_empty());
    rig.replan(checked());
    assert_eq!(rig.way("pg"), "a | b", "fit until somebody says otherwise");
    rig.answer("a", passed());
    rig.kill("a");
    assert_eq!(rig.way("pg"), "b");
}
