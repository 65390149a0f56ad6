//! When targets are asked.

use std::collections::BTreeSet;

use super::build::{ms, plan};
use super::rig::{Rig, bad_answer, inconclusive, passed, refused};
use crate::failover::{Command, Event};
use crate::model::{AdminState, DialError, Epoch, HealthState, MonoTime, ProbeId};

fn one() -> Rig {
    Rig::new(plan().pool("pg").backend("a", 1))
}

#[test]
fn a_late_probe_answer_is_ignored() {
    let mut rig = one();
    rig.fit(&["a"]);
    rig.until_asked("a");
    let target = rig.target("a");
    let (old, _) = rig.open[&target].clone();
    rig.pass(ms(10_000));
    assert_ne!(rig.open[&target].0, old, "the question was put anew");
    for _ in 0..3 {
        rig.feed(Event::ProbeFinished { target, probe: old, outcome: refused() });
        rig.feed(Event::ProbeFinished { target, probe: ProbeId(0), outcome: refused() });
    }
    assert_eq!(rig.backend("a").consecutive_failures, 0);
    assert!(rig.last.is_empty());
    let open = rig.open[&target].0;
    rig.pass(ms(10_000));
    assert_ne!(rig.open[&target].0, open, "and the question goes on being put anew");
}

#[test]
fn an_answer_counts_once() {
    let mut rig = one();
    rig.fit(&["a"]);
    rig.until_asked("a");
    let target = rig.target("a");
    let (probe, _) = rig.open.remove(&target).unwrap();
    rig.feed(Event::ProbeFinished { target, probe, outcome: bad_answer() });
    rig.feed(Event::ProbeFinished { target, probe, outcome: bad_answer() });
    assert_eq!(rig.backend("a").consecutive_failures, 1);
}

#[test]
fn a_missing_answer_is_asked_again() {
    let mut rig = one();
    rig.until_asked("a");
    let began = rig.now;
    rig.pass(ms(9999));
    assert_eq!(rig.open.len(), 1);
    rig.now = rig.core.next_deadline().unwrap();
    assert_eq!(rig.now.since(began), ms(10_000), "twice the timeout");
    rig.tick();
    assert!(rig.started("a"));
}

#[test]
fn one_probe_per_target_however_many_backends_share_it() {
    let mut shared = plan();
    for pool in ["p1", "p2", "p3"] {
        shared = shared.pool(pool).backend("a", 1).at("same:1").backend("b", 2).at("same:1");
    }
    let mut rig = Rig::new(shared);
    rig.until_asked("a");
    assert_eq!(rig.open.len(), 1);
    rig.answer("a", passed());
    for status in rig.core.pool_statuses(rig.now) {
        assert!(status.backends.iter().all(|backend| backend.health == HealthState::Healthy), "{status:?}");
    }
}

#[test]
fn another_question_is_another_target() {
    let rig = Rig::new(
        plan()
            .pool("pg")
            .backend("a", 1)
            .at("same:1")
            .backend("b", 1)
            .at("same:1")
            .check(|check| check.timeout = ms(7)),
    );
    assert_ne!(rig.target("a"), rig.target("b"));
}

#[test]
fn the_first_probe_comes_at_a_random_offset() {
    let mut big = plan().pool("pg");
    for i in 0..100 {
        big = big.backend(&format!("b{i}"), 1);
    }
    let mut rig = Rig::new(big);
    let began = rig.now;
    let mut moments = BTreeSet::new();
    while rig.open.len() < 100 {
        rig.now = rig.core.next_deadline().unwrap();
        moments.insert(rig.now);
        rig.tick();
    }
    assert!(moments.len() > 90, "only {} different moments", moments.len());
    let last = moments.last().unwrap().since(began);
    assert!(last <= ms(10) && last > ms(7), "a tenth of a millisecond each: {last:?}");
}

#[test]
fn the_first_probes_come_within_one_interval() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).check(|check| check.interval = ms(0).max(ms(1) / 50)));
    let began = rig.now;
    rig.until_asked("a");
    assert!(rig.now.since(began) <= ms(1) / 50);
}

#[test]
fn each_wait_is_jittered() {
    let mut rig = one();
    rig.fit(&["a"]);
    let mut waits = BTreeSet::new();
    let mut last = rig.now;
    for _ in 0..200 {
        rig.until_asked("a");
        waits.insert(rig.now.since(last));
        last = rig.now;
        rig.answer("a", passed());
    }
    waits.pop_first();
    assert!(waits.iter().all(|&wait| wait >= ms(900) && wait <= ms(1100)), "{waits:?}");
    assert!(*waits.first().unwrap() < ms(920) && *waits.last().unwrap() > ms(1080), "{waits:?}");
}

#[test]
fn the_interval_counts_from_the_beginning_of_the_last_probe() {
    let mut rig = one();
    rig.fit(&["a"]);
    rig.until_asked("a");
    let began = rig.now;
    rig.now = rig.now + ms(800);
    rig.answer("a", passed());
    rig.until_asked("a");
    assert!(rig.now.since(began) <= ms(1100));
    rig.now = rig.now + ms(4000);
    rig.answer("a", passed());
    assert!(rig.started("a"), "a probe longer than the interval is followed by the next at once");
}

#[test]
fn the_shortest_interval_of_those_who_share_a_target_counts() {
    let mut rig = Rig::new(
        plan()
            .pool("p")
            .backend("a", 1)
            .at("x:1")
            .check(|check| check.interval = ms(60_000))
            .pool("q")
            .backend("b", 1)
            .at("x:1"),
    );
    rig.fit(&["a"]);
    let began = rig.now;
    rig.until_asked("a");
    assert!(rig.now.since(began) <= ms(1100));
}

#[test]
fn a_failed_dial_hastens_the_probe() {
    let mut rig = one();
    rig.fit(&["a"]);
    rig.now = rig.now + ms(100);
    rig.dial_failed("a", DialError::TimedOut);
    assert!(rig.started("a"));
}

#[test]
fn suspicion_restarts_an_ordinary_probe_once_and_no_more() {
    let mut rig = one();
    rig.fit(&["a"]);
    rig.until_asked("a");
    rig.now = rig.now + ms(50);
    rig.dial_failed("a", DialError::Refused);
    assert!(rig.started("a"), "the open question may hang on what is no more");
    // One more, and what was heard would be enough by itself.
    for _ in 0..10 {
        rig.now = rig.now + ms(20);
        rig.dial_failed("a", DialError::Refused);
        assert!(rig.last.is_empty(), "a storm of failed dials must not keep the answer from coming");
    }
}

#[test]
fn suspicion_starts_no_more_than_one_probe_in_its_gap() {
    let mut rig = one();
    rig.fit(&["a"]);
    let mut starts: Vec<MonoTime> = Vec::new();
    for _ in 0..1000 {
        rig.now = rig.now + ms(1) / 10;
        rig.dial_failed("a", DialError::TimedOut);
        if rig.started("a") {
            starts.push(rig.now);
            rig.answer("a", passed());
        }
        if rig.core.next_deadline().unwrap() <= rig.now + ms(1) / 10 {
            rig.now = rig.core.next_deadline().unwrap();
            rig.tick();
            if rig.started("a") {
                starts.push(rig.now);
                rig.answer("a", passed());
            }
        }
    }
    assert!(starts.len() >= 9, "100 ms of failed dials start a probe each 10 ms: {starts:?}");
    assert!(starts.windows(2).all(|pair| pair[1].since(pair[0]) >= ms(10)), "{starts:?}");
}

#[test]
fn an_answer_older_than_the_suspicion_does_not_allay_it() {
    let mut rig = one();
    rig.fit(&["a"]);
    rig.until_asked("a");
    rig.now = rig.now + ms(3);
    rig.dial_failed("a", DialError::Refused);
    assert!(!rig.started("a"), "the gap holds");
    rig.now = rig.now + ms(2);
    rig.answer("a", passed());
    let before = rig.now;
    rig.until_asked("a");
    assert!(rig.now.since(before) <= ms(10), "asked again only after {:?}", rig.now.since(before));
    rig.kill("a");
}

#[test]
fn suspicion_never_puts_a_probe_off() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).check(|check| check.interval = ms(4)));
    rig.fit(&["a"]);
    let due = rig.core.next_deadline().unwrap();
    rig.dial_failed("a", DialError::TimedOut);
    assert!(rig.core.next_deadline().unwrap() <= due);
}

#[test]
fn a_failed_dial_of_an_older_epoch_is_ignored() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.kill("a");
    rig.revive("a");
    rig.now = rig.now + ms(100);
    let backend = rig.id("a");
    assert_eq!(rig.epoch("a"), Epoch(1));
    rig.feed(Event::DialFailed { backend, epoch: Epoch(0), error: DialError::Refused });
    rig.feed(Event::DialFailed { backend, epoch: Epoch(2), error: DialError::Refused });
    assert!(rig.last.is_empty());
    rig.dial_failed("a", DialError::Refused);
    assert!(rig.started("a"));
}

#[test]
fn our_own_fault_starts_no_probe() {
    let mut rig = one();
    rig.fit(&["a"]);
    rig.now = rig.now + ms(100);
    rig.dial_failed("a", DialError::Local);
    assert!(rig.last.is_empty());
}

#[test]
fn no_evidence_is_asked_again_soon_but_not_at_once() {
    let mut rig = one();
    rig.fit(&["a"]);
    rig.until_asked("a");
    let began = rig.now;
    rig.answer("a", inconclusive());
    rig.until_asked("a");
    let wait = rig.now.since(began);
    assert!(wait >= ms(90) && wait <= ms(110), "{wait:?}");
}

#[test]
fn while_nothing_is_fit_backends_are_asked_often() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.kill("a");
    rig.kill("b");
    let began = rig.now;
    rig.until_asked("a");
    rig.until_asked("b");
    assert!(rig.now.since(began) <= ms(110), "{:?}", rig.now.since(began));
    rig.answer("a", bad_answer());
    let began = rig.now;
    rig.until_asked("a");
    assert!(rig.now.since(began) <= ms(110));
    rig.answer("a", passed());
    assert!(rig.started("a"), "a success is followed up at once");
    rig.answer("a", passed());
    assert_eq!(rig.way("pg"), "a");
    assert!(!rig.started("a"));
}

#[test]
fn while_something_serves_the_unfit_are_asked_as_usual() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.kill("a");
    rig.until_asked("a");
    let began = rig.now;
    rig.answer("a", passed());
    assert!(!rig.started("a"));
    rig.until_asked("a");
    assert!(rig.now.since(began) >= ms(900));
}

#[test]
fn the_recovery_interval_is_for_the_unhealthy() {
    let slow = |check: &mut crate::model::CheckPlan| check.recovery_interval = Some(ms(20_000));
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).check(slow).backend("b", 2));
    rig.fit(&["a", "b"]);
    let healthy = rig.now;
    rig.until_asked("a");
    assert!(rig.now.since(healthy) <= ms(1100));
    rig.kill("a");
    let began = rig.now;
    rig.until_asked("a");
    assert!(rig.now.since(began) >= ms(18_000));
}

#[test]
fn who_is_not_in_the_plan_is_asked_no_more() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 1));
    rig.until_asked("b");
    let target = rig.target("b");
    let (probe, _) = rig.open[&target].clone();
    rig.replan(plan().pool("pg").backend("a", 1));
    assert!(rig.last.iter().any(|command| matches!(command, Command::StopProbe { target: t } if *t == target)));
    rig.feed(Event::ProbeFinished { target, probe, outcome: passed() });
    assert!(rig.last.is_empty());
}

#[test]
fn an_unknown_backend_on_a_known_target_is_asked_soon() {
    let slow = |check: &mut crate::model::CheckPlan| check.interval = ms(60_000);
    let mut rig = Rig::new(plan().pool("p").backend("a", 1).at("x:1").check(slow));
    rig.fit(&["a"]);
    rig.now = rig.now + ms(100);
    rig.replan(plan().pool("q").backend("b", 1).at("x:1").check(slow));
    let began = rig.now;
    rig.until_asked("b");
    assert!(rig.now.since(began) <= ms(1));
}

#[test]
fn a_shortened_interval_takes_effect_at_once() {
    let mut rig = Rig::new(plan().pool("p").backend("a", 1).check(|check| check.interval = ms(60_000)));
    rig.fit(&["a"]);
    rig.replan(plan().pool("p").backend("a", 1));
    let began = rig.now;
    rig.until_asked("a");
    assert!(rig.now.since(began) <= ms(1000));
}

#[test]
fn a_thousand_backends_in_need_are_not_asked_in_one_moment() {
    let mut big = plan().pool("pg");
    let names: Vec<String> = (0..20).map(|i| format!("b{i}")).collect();
    for name in &names {
        big = big.backend(name, 1);
    }
    let mut rig = Rig::new(big);
    for name in &names {
        rig.answer(name, refused());
    }
    let mut moments = BTreeSet::new();
    for _ in 0..20 {
        rig.now = rig.core.next_deadline().unwrap();
        moments.insert(rig.now);
        rig.tick();
    }
    assert!(moments.len() > 15, "{} moments", moments.len());
}

#[test]
fn a_pool_in_need_does_not_break_off_the_questions_it_has_open() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.until_asked("a");
    let target = rig.target("a");
    let (probe, _) = rig.open[&target].clone();
    rig.order("b", AdminState::Drain);
    rig.order("a", AdminState::Drain);
    for _ in 0..10 {
        rig.pass(ms(200));
        rig.order("b", AdminState::Maintenance);
        rig.order("b", AdminState::Drain);
    }
    assert_eq!(rig.open[&target].0, probe);
}
