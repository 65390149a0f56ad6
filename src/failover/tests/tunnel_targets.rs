//! A target that does not answer behind any of its tunnels, and tunnels that only seem to share that fate.

use super::build::{PlanBuilder, ms, plan};
use super::rig::{Rig, bad_answer, closed_early, passed, timed_out};
use crate::failover::{Change, SILENCE_RESTART, SILENCE_RESTART_MAX};
use crate::model::{FailoverStatus, HealthState, PoolState, TunnelState};

fn two() -> PlanBuilder {
    plan().pool("pg").backend("a", 1).tunnel("db:5432").backend("b", 2).tunnel("db:5432")
}

fn up(plan: PlanBuilder, names: &[&str]) -> Rig {
    let mut rig = Rig::new(plan);
    names.iter().for_each(|name| rig.up(name));
    rig
}

/// Each question that is open or comes up within `millis` has this answer for these, and a good one for others.
fn live(rig: &mut Rig, millis: u64, silent: &[&str], answer: &dyn Fn() -> crate::model::ProbeOutcome) {
    let end = rig.now + ms(millis);
    loop {
        while let Some((target, (probe, spec))) = rig.open.pop_first() {
            let outcome = if silent.contains(&spec.address.host().as_str()) { answer() } else { passed() };
            rig.feed(crate::failover::Event::ProbeFinished { target, probe, outcome });
        }
        let Some(at) = rig.core.next_deadline().filter(|&at| at <= end) else { break };
        rig.now = at;
        rig.tick();
    }
    rig.now = end;
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

fn words(rig: &Rig) -> Vec<String> {
    let rules = rig.core.explain(rig.now, &"pg".into()).unwrap().rules;
    rules.into_iter().filter(|rule| rule.rule.label() == "target_down").map(|rule| rule.detail).collect()
}

#[test]
fn a_dead_target_is_one_outage_and_no_rotation() {
    let mut rig = up(two(), &["a", "b"]);
    live(&mut rig, 100_000, &["a", "b"], &closed_early);
    assert_eq!((rig.state(), rig.way("pg").as_str()), (PoolState::Down, ""));
    assert_eq!(rig.count("backend.unhealthy"), 2);
    assert_eq!((rig.count("pool.down"), rig.count("pool.failover")), (1, 1));
    let note = "target db:5432 does not answer behind all 2 tunnels";
    let told = |change: &Change| match change {
        Change::PoolFailover { status: FailoverStatus::Failed, note, .. } => note.clone(),
        _ => None,
    };
    assert_eq!(rig.told.iter().find_map(told).as_deref(), Some(note));
    let down = |change: &Change| if let Change::PoolDown { note, .. } = change { note.clone() } else { None };
    assert_eq!(rig.told.iter().find_map(down).as_deref(), Some(note));
    assert_eq!((rig.starts("a"), rig.starts("b")), (1, 1), "another run would not help");
    assert!(words(&rig)[0].starts_with(note), "{:?}", words(&rig));
    assert!(rig.backend("b").reason.contains(note));
    assert_eq!(rig.tunnel("a").reason.as_deref(), Some(note));
}

#[test]
fn all_of_them_go_in_one_turn() {
    let mut rig = up(two(), &["a", "b"]);
    let end = rig.now + ms(10_000);
    while rig.now < end {
        live(&mut rig, 1, &["a", "b"], &bad_answer);
        let states: Vec<_> = ["a", "b"].map(|name| rig.backend(name).health).into();
        assert!(states[0] == states[1], "one before the other: {states:?}");
        assert_ne!(rig.way("pg"), "b", "clients are sent from one to the next");
    }
    assert_eq!(rig.state(), PoolState::Down);
}

#[test]
fn the_first_pass_ends_it_and_starts_nothing_anew() {
    let mut rig = up(two(), &["a", "b"]);
    live(&mut rig, 100_000, &["a", "b"], &closed_early);
    assert_eq!(words(&rig).len(), 1);
    live(&mut rig, 300, &["b"], &closed_early);
    assert!(words(&rig).is_empty());
    assert_eq!(rig.way("pg"), "a");
    live(&mut rig, 4000, &["b"], &closed_early);
    let runs = ["a", "b"].map(|name| rig.hands.runs.contains_key(&rig.id(name)));
    assert_eq!((runs, rig.starts("a"), rig.starts("b")), ([true; 2], 1, 1), "b's checks are counted from here");
    live(&mut rig, 30_000, &["b"], &closed_early);
    assert!(rig.starts("b") > 1, "and then judged as ever");
}

#[test]
fn a_healthy_sibling_that_answers_refutes_it() {
    let mut rig = up(two(), &["a", "b"]);
    live(&mut rig, 3500, &["a"], &closed_early);
    assert_eq!((rig.way("pg").as_str(), rig.state()), ("b", PoolState::FailoverComplete));
    assert!(words(&rig).is_empty());
    live(&mut rig, 5000, &["a"], &closed_early);
    assert!(rig.hands.stopping.contains_key(&rig.id("a")), "it is a's own fault");
}

#[test]
fn a_direct_backend_that_is_healthy_refutes_it() {
    let mut rig = up(two().backend("c", 3), &["a", "b"]);
    live(&mut rig, 5000, &["a", "b"], &closed_early);
    assert_eq!(rig.way("pg"), "c");
    assert!(words(&rig).is_empty());
    live(&mut rig, 60_000, &["a", "b"], &closed_early);
    assert!(rig.starts("a") > 1 && rig.starts("b") > 1);
}

#[test]
fn one_stray_failure_of_a_standby_does_not_do_it() {
    let mut rig = up(two(), &["a", "b"]);
    rig.pass(ms(10));
    // The standby has one, the active all that it takes.
    let mut once = true;
    for _ in 0..3 {
        rig.answer("a", closed_early());
        let target = rig.target("b");
        if rig.open.contains_key(&target) {
            rig.answer("b", if std::mem::take(&mut once) { closed_early() } else { passed() });
        }
    }
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy);
    assert_eq!(rig.backend("b").health, HealthState::Healthy);
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn failures_of_the_way_itself_are_no_targets() {
    let mut rig = up(two(), &["a", "b"]);
    live(&mut rig, 12_000, &["a", "b"], &timed_out);
    assert!(words(&rig).is_empty());
    assert!(rig.hands.stopping.len() == 2, "both are set up anew");
}

#[test]
fn siblings_are_asked_at_once_and_not_over_and_over() {
    let mut rig = up(two(), &["a", "b"]);
    rig.until_asked("a");
    if rig.open.contains_key(&rig.target("b")) {
        rig.fit(&["b"]);
    }
    rig.pass(ms(20));
    rig.answer("a", closed_early());
    assert!(rig.started("b"), "the standby is asked at once");
    rig.answer("b", closed_early());
    assert!(!rig.started("a"), "which is no reason to ask the first again");
    assert_eq!(rig.backend("a").health, HealthState::Healthy);
}

#[test]
fn siblings_are_asked_again_no_sooner_than_half_an_interval_later() {
    for (wait, is_asked) in [(ms(499), false), (ms(500), true)] {
        let mut rig = up(two().backend("c", 3).tunnel("db:5432"), &["a", "b", "c"]);
        for name in ["a", "b", "c"] {
            rig.until_asked(name);
        }
        rig.answer("a", closed_early());
        rig.answer("b", passed());
        rig.now = rig.now + wait;
        rig.answer("c", closed_early());
        assert_eq!(rig.started("b"), is_asked, "after {wait:?}");
    }
}

#[test]
fn a_quick_one_does_not_go_before_a_slow_one_that_shares_its_fate() {
    let mixed = plan()
        .pool("pg")
        .backend("a", 1)
        .tunnel("db:5432")
        .check(|check| (check.interval, check.unhealthy_threshold) = (ms(500), 2))
        .backend("b", 2)
        .tunnel("db:5432")
        .check(|check| check.interval = ms(2000));
    let mut rig = up(mixed, &["a", "b"]);
    live(&mut rig, 10_000, &["a", "b"], &closed_early);
    assert_eq!((rig.count("pool.down"), rig.count("pool.failover")), (1, 1), "{:?}", rig.failovers());
    assert_eq!(words(&rig).len(), 1);
}

#[test]
fn a_blip_shorter_than_the_thresholds_is_none() {
    let mut rig = up(two(), &["a", "b"]);
    rig.pass(ms(400));
    let end = rig.now + ms(1100);
    while rig.now < end {
        live(&mut rig, 50, &["a", "b"], &closed_early);
    }
    live(&mut rig, 3000, &[], &passed);
    assert_eq!((rig.count("backend.unhealthy"), rig.way("pg").as_str()), (0, "a | b"));
}

#[test]
fn the_only_tunnel_is_not_started_without_end_for_a_dead_target() {
    let mut rig = up(plan().pool("pg").backend("a", 1).tunnel("db:5432"), &["a"]);
    live(&mut rig, 115_000, &["a"], &closed_early);
    assert_eq!(rig.starts("a"), 1);
    assert!(words(&rig)[0].starts_with("target db:5432 does not answer behind its only tunnel"), "{:?}", words(&rig));
}

#[test]
fn a_target_that_is_dead_from_the_start_has_no_tunnel_started_anew() {
    let mut rig = Rig::new(two());
    for name in ["a", "b"] {
        if rig.starts(name) == 0 {
            rig.until_started(name);
        }
        rig.news(name, crate::model::TunnelNews::Open);
    }
    live(&mut rig, 110_000, &["a", "b"], &closed_early);
    assert!(rig.core.has_first_verdicts());
    assert_eq!((rig.starts("a"), rig.starts("b")), (1, 1));
    assert_eq!(words(&rig).len(), 1);
    assert_eq!(rig.tunnel("a").state, TunnelState::Connecting);
    live(&mut rig, 12_000, &[], &passed);
    assert_eq!(rig.way("pg"), "a | b");
}

#[test]
fn one_at_a_time_is_set_up_anew_ever_more_rarely() {
    let mut rig = up(two(), &["a", "b"]);
    live(&mut rig, 5000, &["a", "b"], &closed_early);
    let began = rig.now;
    let mut moments = Vec::new();
    let mut who = Vec::new();
    for _ in 0..200_000 {
        live(&mut rig, 1000, &["a", "b"], &closed_early);
        for name in ["a", "b"] {
            if rig.hands.stopping.contains_key(&rig.id(name)) {
                assert_eq!(rig.hands.stopping.len(), 1, "one at a time");
                moments.push(rig.now.since(began));
                who.push(name);
                rig.has_stopped(name);
                rig.until_started(name);
            }
            if rig.hands.runs.contains_key(&rig.id(name)) {
                rig.news(name, crate::model::TunnelNews::Open);
            }
        }
        if moments.len() == 7 {
            break;
        }
    }
    let gaps: Vec<_> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let slack = ms(3000);
    assert!(moments[0] >= SILENCE_RESTART - slack && moments[0] < SILENCE_RESTART + slack, "{moments:?}");
    let mut expected = SILENCE_RESTART * 2;
    for gap in gaps {
        assert!(gap + slack >= expected && gap <= expected + slack, "{gap:?} instead of {expected:?}");
        expected = (expected * 2).min(SILENCE_RESTART_MAX);
    }
    assert_eq!(who[..4], ["a", "b", "a", "b"]);
    assert_eq!(words(&rig).len(), 1, "it is the same outage all the time");
}

#[test]
fn a_changed_network_has_one_set_up_anew_at_once() {
    let mut rig = up(two(), &["a", "b"]);
    live(&mut rig, 5000, &["a", "b"], &closed_early);
    let began = rig.now;
    rig.world_changes();
    assert_eq!(rig.hands.stopping.len(), 1);
    rig.world_changes();
    assert_eq!(rig.hands.stopping.len(), 1);
    rig.has_stopped("a");
    // The next one is no sooner set up anew for that than half a minute later.
    for (since, is_stopped) in [(29_999, false), (30_000, true)] {
        let left = since - millis(rig.now.since(began));
        live(&mut rig, left, &["a", "b"], &closed_early);
        rig.world_changes();
        assert_eq!(rig.hands.stopping.contains_key(&rig.id("b")), is_stopped, "{since}");
    }
}

#[test]
fn the_tunnels_of_another_target_take_over() {
    let other = two().backend("c", 3).tunnel("replica:5432");
    let mut rig = up(other, &["a", "b", "c"]);
    live(&mut rig, 5000, &["a", "b"], &closed_early);
    assert_eq!(rig.way("pg"), "c");
    let note = |change: &Change| match change {
        Change::PoolFailover { status: FailoverStatus::Completed, from, note, .. } => Some((from.len(), note.clone())),
        _ => None,
    };
    let told: Vec<_> = rig.told.iter().filter_map(note).collect();
    assert_eq!(told, [(1, Some("target db:5432 does not answer behind all 2 tunnels".to_owned()))]);
}

#[test]
fn a_direct_backend_that_recovers_ends_it_and_each_is_judged_for_itself() {
    let mut rig = up(two().backend("c", 3), &["a", "b"]);
    live(&mut rig, 5000, &["a", "b", "c"], &closed_early);
    assert_eq!((words(&rig).len(), rig.way("pg").as_str()), (1, ""));
    live(&mut rig, 1000, &["a", "b"], &closed_early);
    assert_eq!((words(&rig).len(), rig.way("pg").as_str()), (0, "c"));
    assert_eq!((rig.starts("a"), rig.starts("b")), (1, 1), "what failed meanwhile is not held against them");
    live(&mut rig, 60_000, &["a", "b"], &closed_early);
    assert!(rig.starts("a") > 1 && rig.starts("b") > 1);
}

/// Two tunnels to one target that are up, and asked: how many failures `a` takes, and `b`, which serves.
fn asked(a: u32, b: u32) -> Rig {
    let takes = |threshold: u32| move |check: &mut crate::model::CheckPlan| check.unhealthy_threshold = threshold;
    let both = plan().pool("pg").backend("a", 2).tunnel("db:5432").check(takes(a));
    let mut rig = up(both.backend("b", 1).tunnel("db:5432").check(takes(b)), &["a", "b"]);
    for name in ["a", "b"] {
        rig.until_asked(name);
    }
    rig
}

#[test]
fn the_failure_for_which_the_others_are_asked_is_evidence_itself() {
    let mut rig = asked(2, 1);
    for name in ["a", "b"] {
        rig.answer(name, closed_early());
    }
    assert_eq!((rig.state(), words(&rig).len()), (PoolState::Down, 1), "one more of a would be enough");
}

#[test]
fn one_that_takes_many_failures_shares_the_fate_of_the_others_after_two() {
    for failures in 1..=2 {
        let mut rig = asked(9, 2);
        rig.answer("b", closed_early());
        for _ in 0..failures {
            rig.answer("a", closed_early());
        }
        rig.answer("b", closed_early());
        assert_eq!(words(&rig).len(), usize::from(failures == 2), "after {failures}");
    }
}

#[test]
fn a_target_that_was_never_reached_is_known_to_be_down_by_as_many_failures_as_any_backend() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).tunnel("db:5432"));
    rig.news("a", crate::model::TunnelNews::Open);
    for failures in 1..=3 {
        rig.answer("a", closed_early());
        assert_eq!(words(&rig).len(), usize::from(failures == 3), "after {failures}");
    }
}

#[test]
fn one_that_is_to_be_set_up_anew_early_is_so_once_it_is_known_that_its_target_answers_others() {
    let early = plan().pool("pg").backend("a", 1).tunnel("db:5432").tunnel_with(|plan| plan.restart_after = 1);
    let mut rig = up(early.backend("c", 2), &["a"]);
    rig.fit(&["c"]);
    for failures in 1..=3 {
        assert!(rig.hands.runs.contains_key(&rig.id("a")), "after {failures}");
        rig.answer("a", closed_early());
    }
    assert!(rig.hands.stopping.contains_key(&rig.id("a")), "by then it would have been seen to be down");
}
