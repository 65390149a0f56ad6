//! Answers that come together: what they decide is what they would one by one, in one table.

use super::build::{ms, plan};
use super::rig::{Rig, passed, refused, replaced};
use crate::failover::{Command, Controller, Event, RouteTable};
use crate::model::{HealthState, MonoTime, PoolState, ProbeId, ProbeOutcome, TargetId};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A pool of two tiers in which everybody is being asked.
fn asked() -> Rig {
    let first = NAMES.iter().take(3).fold(plan().pool("p"), |plan, name| plan.backend(name, 1));
    let mut rig = Rig::new(NAMES.iter().skip(3).fold(first, |plan, name| plan.backend(name, 2)));
    NAMES.iter().for_each(|name| rig.until_asked(name));
    rig
}

fn answers(rig: &mut Rig, names: &[&str], outcome: fn() -> ProbeOutcome) -> Vec<(TargetId, ProbeId, ProbeOutcome)> {
    let mut answer = |name: &&str| {
        rig.until_asked(name);
        let target = rig.target(name);
        (target, rig.open.remove(&target).unwrap().0, outcome())
    };
    names.iter().map(&mut answer).collect()
}

fn together(rig: &mut Rig, names: &[&str], outcome: fn() -> ProbeOutcome) {
    let answers = answers(rig, names, outcome);
    rig.feed(Event::ProbesFinished { answers });
}

/// Who serves, by tiers.
fn served(table: &RouteTable) -> Vec<Vec<String>> {
    let tiers = table.pools["p"].tiers.iter();
    tiers.map(|tier| tier.routes().iter().map(|route| route.name.to_string()).collect()).collect()
}

#[test]
fn a_crowd_that_comes_or_dies_at_once_is_one_table() {
    let mut rig = asked();
    let before = rig.generation();
    together(&mut rig, &NAMES, passed);
    assert_eq!(rig.generation(), before.next());
    assert_eq!(served(rig.core.table()), [vec!["a", "b", "c"], vec!["d", "e"]]);
    together(&mut rig, &NAMES, refused);
    assert_eq!(rig.generation(), before.next(), "once is no proof");
    together(&mut rig, &NAMES, refused);
    assert_eq!((rig.generation(), rig.state()), (before.next().next(), PoolState::Down));
    assert!(NAMES.iter().all(|name| rig.backend(name).health == HealthState::Unhealthy));
}

#[test]
fn answers_that_come_together_decide_what_they_do_one_by_one() {
    let (mut rig, mut other) = (asked(), asked());
    for (names, outcome) in [
        (&NAMES[..], passed as fn() -> ProbeOutcome),
        (&NAMES[..3], refused),
        (&NAMES[..3], refused),
        (&NAMES[3..], passed),
        (&NAMES[1..3], passed),
        (&NAMES[1..3], passed),
    ] {
        together(&mut rig, names, outcome);
        for (target, probe, outcome) in answers(&mut other, names, outcome) {
            other.feed(Event::ProbeFinished { target, probe, outcome });
        }
        assert_eq!(served(rig.core.table()), served(other.core.table()));
        assert_eq!(rig.state(), other.state());
    }
    assert_eq!(rig.state(), PoolState::RecoveryInProgress);
}

#[test]
fn an_answer_that_is_late_counts_for_nothing_among_others() {
    let mut rig = asked();
    let mut all = answers(&mut rig, &NAMES, passed);
    let (target, probe, _) = all[0];
    all.insert(0, (target, probe.next(), refused()));
    all.push((target, probe, refused()));
    rig.feed(Event::ProbesFinished { answers: all });
    assert_eq!(rig.backend("a").health, HealthState::Healthy);
    assert_eq!(rig.backend("a").consecutive_failures, 0);
}

#[test]
fn a_crowd_in_need_is_asked_a_tenth_of_a_millisecond_apart() {
    let crowd = (0..2000).fold(plan().pool("p"), |plan, at| plan.backend(&format!("b{at}"), 1));
    let (mut core, mut now, mut commands) = (Controller::new(7), MonoTime::ZERO, Vec::new());
    let (dead, end) = (now + ms(3000), now + ms(5000));
    let (mut event, mut asked) = (replaced(crowd), 0);
    while now < end {
        core.handle(now, event, &mut commands);
        let refuse = |command| match command {
            Command::StartProbe { target, probe, .. } => Some((target, probe, refused())),
            _ => None,
        };
        let answers: Vec<_> = commands.drain(..).filter_map(refuse).collect();
        asked += if now > dead { answers.len() } else { 0 };
        if answers.is_empty() {
            now = core.next_deadline().unwrap();
            event = Event::Tick;
        } else {
            event = Event::ProbesFinished { answers };
        }
    }
    // Each once in 200 ms, a tenth more or less, for two seconds.
    assert!((18_000..=22_300).contains(&asked), "{asked} questions");
}
