//! The thresholds: every state against every piece of evidence.

use std::time::Duration;

use super::build::{check, ms};
use super::rig::{bad_answer, inconclusive, passed, refused, timed_out};
use crate::failover::health::{Health, Verdict};
use crate::model::{DialError, HealthState, MonoTime, OutReason, ProbeOutcome};

use HealthState::{Healthy, Unhealthy, Unknown};
use OutReason::{CheckFailed, Dead, Unreachable};

fn at(millis: u64) -> MonoTime {
    MonoTime::ZERO + ms(millis)
}

/// Evidence in a letter: pass, refused, timed out, bad answer, inconclusive, dial refused, dial timed out.
fn feed(health: &mut Health, evidence: &str) -> Verdict {
    let mut verdict = Verdict::None;
    for letter in evidence.chars() {
        let now = at(u64::from(health.failures + health.successes));
        let outcome = match letter {
            'p' => passed(),
            'r' => refused(),
            't' => timed_out(),
            'b' => bad_answer(),
            'i' => inconclusive(),
            'D' | 'T' => {
                health.suspect(now, if letter == 'D' { DialError::Refused } else { DialError::TimedOut });
                verdict = Verdict::None;
                continue;
            }
            _ => unreachable!("no evidence is called {letter}"),
        };
        verdict = health.observe(now, &outcome, &check());
    }
    verdict
}

fn after(evidence: &str) -> (HealthState, Option<OutReason>) {
    let mut health = Health::new(at(0));
    feed(&mut health, evidence);
    (health.state, health.reason)
}

#[test]
fn health_goes_as_the_evidence_says() {
    // With unhealthy_threshold 3 and healthy_threshold 2.
    let table = [
        ("", Unknown, None),
        ("i", Unknown, None),
        ("iii", Unknown, None),
        ("p", Healthy, None),
        ("ip", Healthy, None),
        ("r", Unhealthy, Some(Dead)),
        ("t", Unhealthy, Some(Unreachable)),
        ("b", Unhealthy, Some(CheckFailed)),
        ("D", Unknown, None),
        // flaky evidence waits for its threshold
        ("pb", Healthy, None),
        ("pbb", Healthy, None),
        ("pbbb", Unhealthy, Some(CheckFailed)),
        ("pttt", Unhealthy, Some(Unreachable)),
        ("pbbt", Unhealthy, Some(Unreachable)),
        ("pttb", Unhealthy, Some(CheckFailed)),
        ("pbbpbb", Healthy, None),
        ("pbibib", Unhealthy, Some(CheckFailed)),
        // proof does not
        ("pr", Healthy, None),
        ("prr", Unhealthy, Some(Dead)),
        ("prir", Unhealthy, Some(Dead)),
        ("prpr", Healthy, None),
        ("prtr", Unhealthy, Some(Dead)),
        ("prbp", Healthy, None),
        ("pDr", Unhealthy, Some(Dead)),
        ("pDir", Unhealthy, Some(Dead)),
        ("pDpr", Healthy, None),
        ("pDtr", Healthy, None),
        ("pDDDDDD", Healthy, None),
        ("prDDD", Healthy, None),
        ("pTTTTT", Healthy, None),
        ("pTr", Healthy, None),
        ("pDTr", Unhealthy, Some(Dead)),
        ("pTTTbb", Healthy, None),
        ("ptDr", Unhealthy, Some(Dead)),
        ("ptDt", Healthy, None),
        // better news is earned
        ("rp", Unhealthy, Some(Dead)),
        ("rpp", Healthy, None),
        ("rpip", Healthy, None),
        ("rpbp", Unhealthy, Some(Dead)),
        ("rpbpp", Healthy, None),
        // worse news is told, and better reasons do not replace worse ones
        ("br", Unhealthy, Some(CheckFailed)),
        ("brr", Unhealthy, Some(Dead)),
        ("btt", Unhealthy, Some(CheckFailed)),
        ("bttt", Unhealthy, Some(Unreachable)),
        ("btttrr", Unhealthy, Some(Dead)),
        ("btbtbt", Unhealthy, Some(CheckFailed)),
        ("rbbb", Unhealthy, Some(Dead)),
        ("tbbb", Unhealthy, Some(Unreachable)),
        ("rppr", Healthy, None),
        ("bDr", Unhealthy, Some(CheckFailed)),
    ];
    for (evidence, state, reason) in table {
        assert_eq!(after(evidence), (state, reason), "after `{evidence}`");
    }
}

#[test]
fn the_first_verdict_needs_one_answer_only() {
    let mut health = Health::new(at(0));
    assert_eq!(feed(&mut health, "p"), Verdict::Healthy { downtime: None });
    assert_eq!(feed(&mut health, "p"), Verdict::None);
    let mut health = Health::new(at(0));
    assert_eq!(feed(&mut health, "b"), Verdict::Unhealthy { reason: CheckFailed, detect: Duration::ZERO });
}

#[test]
fn a_refusal_is_asked_again_at_once() {
    for (evidence, verdict) in [
        ("pr", Verdict::AskAgain),
        ("pbr", Verdict::AskAgain),
        ("pb", Verdict::None),
        ("pt", Verdict::None),
        ("br", Verdict::AskAgain),
        ("tr", Verdict::AskAgain),
        ("rr", Verdict::None),
        ("rbr", Verdict::None),
        ("pi", Verdict::None),
    ] {
        assert_eq!(feed(&mut Health::new(at(0)), evidence), verdict, "after `{evidence}`");
    }
}

#[test]
fn thresholds_of_one_decide_at_once() {
    let mut plan = check();
    plan.unhealthy_threshold = 1;
    plan.healthy_threshold = 1;
    let mut health = Health::new(at(0));
    for (outcome, state) in
        [(passed(), Healthy), (bad_answer(), Unhealthy), (passed(), Healthy), (refused(), Unhealthy)]
    {
        health.observe(at(1), &outcome, &plan);
        assert_eq!(health.state, state);
    }
}

fn observe(health: &mut Health, millis: u64, outcome: &ProbeOutcome) -> Verdict {
    health.observe(at(millis), outcome, &check())
}

#[test]
fn detection_counts_from_the_first_evidence() {
    let mut health = Health::new(at(0));
    observe(&mut health, 0, &passed());
    assert!(health.suspect(at(100), DialError::TimedOut));
    observe(&mut health, 200, &timed_out());
    observe(&mut health, 300, &timed_out());
    let verdict = observe(&mut health, 400, &timed_out());
    assert_eq!(verdict, Verdict::Unhealthy { reason: Unreachable, detect: ms(300) });
    observe(&mut health, 60_000, &refused());
    let verdict = observe(&mut health, 60_001, &refused());
    assert_eq!(verdict, Verdict::Unhealthy { reason: Dead, detect: ms(1) }, "worse news has its own evidence");
}

#[test]
fn downtime_adds_up_and_worse_news_does_not_restart_it() {
    let mut health = Health::new(at(0));
    observe(&mut health, 100, &bad_answer());
    observe(&mut health, 200, &refused());
    observe(&mut health, 300, &refused());
    assert_eq!((health.since, health.downtime(at(400))), (at(100), ms(300)));
    observe(&mut health, 500, &passed());
    assert_eq!(observe(&mut health, 600, &passed()), Verdict::Healthy { downtime: Some(ms(500)) });
    assert_eq!(health.downtime(at(9000)), ms(500));
    observe(&mut health, 9000, &refused());
    observe(&mut health, 9100, &refused());
    assert_eq!(health.downtime(at(9200)), ms(600));
}

#[test]
fn our_own_faults_are_no_suspicion() {
    let mut health = Health::new(at(0));
    assert!(!health.suspect(at(0), DialError::Refused), "before the first verdict there is nothing to doubt");
    feed(&mut health, "p");
    for &error in DialError::ALL {
        let is_own = matches!(error, DialError::Local | DialError::SourceAddress);
        assert_eq!(health.suspect(at(0), error), !is_own, "{error}");
    }
    feed(&mut health, "rr");
    assert!(!health.suspect(at(0), DialError::Refused), "what is out already is not doubted");
}

#[test]
fn inconclusive_changes_nothing() {
    for evidence in ["", "p", "pr", "pbb", "r", "rp"] {
        let mut health = Health::new(at(0));
        feed(&mut health, evidence);
        let before = format!("{health:?}");
        assert_eq!(observe(&mut health, 77, &inconclusive()), Verdict::None);
        assert_eq!(health.obstacle.take().as_deref(), Some("no descriptor"), "it is told, and that is all");
        assert_eq!(format!("{health:?}"), before, "after `{evidence}`");
    }
}
