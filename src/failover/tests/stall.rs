//! When we did not run ourselves, and when live sessions are stuck.

use std::time::Duration;

use super::build::{ms, plan};
use super::rig::{Rig, bad_answer, passed, refused, timed_out};
use crate::failover::{Change, Event};
use crate::model::{Epoch, HealthState, OutReason};

fn two() -> Rig {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig
}

/// The loop stands still for so long; with what it missed not yet told.
fn stall(rig: &mut Rig, time: Duration) {
    let since = rig.now;
    rig.now = rig.now + time;
    rig.feed(Event::WasStalled { since });
}

#[test]
fn the_answers_of_questions_that_were_open_are_void_and_they_are_put_anew() {
    let mut rig = two();
    rig.until_asked("a");
    rig.until_asked("b");
    let old = rig.open.clone();
    stall(&mut rig, ms(7000));
    let told = rig.told.last().unwrap().clone();
    assert_eq!(told, Change::WasStalled { lasted: ms(7000), probes: 2 });
    for (target, (probe, _)) in old {
        rig.feed(Event::ProbeFinished { target, probe, outcome: timed_out() });
    }
    let began = rig.now;
    assert_eq!(rig.backend("a").consecutive_failures, 0);
    rig.fit(&["a", "b"]);
    assert!(rig.now.since(began) <= ms(1), "at once: {:?}", rig.now.since(began));
    assert_eq!(rig.way("pg"), "a | b");
}

#[test]
fn what_was_counted_before_the_stall_was_noticed_is_taken_back() {
    let mut rig = two();
    rig.answer("a", bad_answer());
    rig.answer("a", bad_answer());
    rig.ended_early("a", 11);
    stall(&mut rig, ms(500));
    let status = rig.backend("a");
    assert_eq!((status.consecutive_failures, status.passive_points), (0, 0));
    rig.answer("a", refused());
    assert_eq!(rig.backend("a").health, HealthState::Healthy, "a refusal of before is not the first of two");
    rig.answer("a", refused());
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy);
}

#[test]
fn what_is_out_stays_out_and_the_stall_is_told_once_without_a_pool() {
    let mut rig = two();
    rig.kill("a");
    stall(&mut rig, ms(60_000));
    assert_eq!(rig.way("pg"), "b");
    assert_eq!((rig.kinds(), rig.count("daemon.stalled")), (vec!["daemon.stalled"], 1));
    let pool = rig.last.iter().find_map(|command| match command {
        crate::failover::Command::Report(transition) => Some(transition.pool.clone()),
        _ => None,
    });
    assert_eq!(pool, Some(None));
    assert_eq!(rig.words().len(), 1);
    rig.revive("a");
}

#[test]
fn what_is_overdue_after_a_stall_is_not_asked_in_one_moment() {
    let mut big = plan().pool("pg");
    let names: Vec<String> = (0..100).map(|i| format!("b{i}")).collect();
    for name in &names {
        big = big.backend(name, 1);
    }
    let mut rig = Rig::new(big);
    names.iter().for_each(|name| rig.answer(name, passed()));
    stall(&mut rig, ms(60_000));
    let began = rig.now;
    assert!(rig.open.len() < 20, "{} at once", rig.open.len());
    rig.pass(ms(10));
    assert_eq!(rig.open.len(), 100);
    assert!(rig.now.since(began) <= ms(10));
}

#[test]
fn stuck_sessions_ask_at_once_and_tell_when_it_began_but_decide_nothing() {
    let mut rig = two();
    rig.pass(ms(800));
    rig.open.clear();
    let (backend, epoch) = (rig.id("a"), rig.epoch("a"));
    for _ in 0..100 {
        rig.feed(Event::DataStalled { backend, epoch, silent: ms(300) });
    }
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").passive_points), ("a | b", 0));
    assert!(rig.open.contains_key(&rig.target("a")), "asked");
    rig.answer("a", refused());
    rig.answer("a", refused());
    let detect = rig.told.iter().find_map(|change| match change {
        Change::BackendUnhealthy { detect, reason: OutReason::Dead, .. } => Some(*detect),
        _ => None,
    });
    assert_eq!(detect, Some(ms(300)));
    rig.feed(Event::DataStalled { backend, epoch: Epoch(7), silent: ms(300) });
    assert!(rig.last.is_empty());
}

#[test]
fn a_passing_probe_allays_stuck_sessions() {
    let mut rig = two();
    rig.pass(ms(800));
    let (backend, epoch) = (rig.id("a"), rig.epoch("a"));
    rig.feed(Event::DataStalled { backend, epoch, silent: ms(300) });
    rig.answer("a", passed());
    rig.now = rig.now + ms(5000);
    rig.answer("a", refused());
    rig.answer("a", refused());
    let detect = rig.told.iter().find_map(|change| match change {
        Change::BackendUnhealthy { detect, .. } => Some(*detect),
        _ => None,
    });
    assert!(detect.unwrap() < ms(300), "{detect:?}");
}

#[test]
fn a_stall_that_goes_on_is_not_told_each_time_that_something_is_due() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1));
    rig.fit(&["a"]);
    let mut since = rig.now;
    for millis in std::iter::once(150).chain(std::iter::repeat_n(1, 1000)) {
        rig.now = rig.now + ms(millis);
        rig.feed(Event::WasStalled { since });
        since = rig.now;
    }
    assert_eq!(rig.count("daemon.stalled"), 1);
}
