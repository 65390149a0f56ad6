//! Verdicts from outside, and how they lapse.

use super::build::{ms, plan};
use super::rig::{Rig, bad_answer, passed};
use crate::model::{AdminState, HealthState, SessionPolicy};

use HealthState::{Healthy, Unhealthy, Unknown};

fn two() -> Rig {
    let plan = plan().pool("pg").failback_after(ms(0)).backend("a", 1).backend("b", 2);
    let mut rig = Rig::new(plan.sessions(|policies| policies.check_failed = SessionPolicy::Drain));
    rig.fit(&["a", "b"]);
    rig
}

#[test]
fn bad_news_from_outside_outvotes_good_probes_for_as_long_as_it_holds() {
    let mut rig = two();
    rig.push("a", Unhealthy, ms(5000));
    assert_eq!(rig.kinds(), ["backend.unhealthy", "pool.failover"]);
    assert_eq!(rig.way("pg"), "b");
    let status = rig.backend("a");
    assert_eq!((status.health, status.reason.as_str()), (Unhealthy, "reported unhealthy: disk full"));
    assert_eq!(status.reported, [("cpu_percent".to_owned(), 97.5)]);
    rig.live(ms(4999), &[]);
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").downtime), ("b", ms(4999)));
    rig.live(ms(1), &[]);
    assert_eq!(rig.way("pg"), "a | b", "probes alone decide, and they are content");
    let status = rig.backend("a");
    assert_eq!((status.health, status.reason.as_str(), status.reported.len()), (Healthy, "", 0));
    assert_eq!((rig.count("backend.unhealthy"), rig.count("backend.healthy")), (1, 3));
    rig.pass(ms(1000));
    assert_eq!(rig.backend("a").downtime, ms(5000));
}

#[test]
fn it_is_out_since_the_bad_news_and_fit_since_its_own_probes_said_so() {
    let mut rig = two();
    let fit = rig.backend("a").since;
    rig.live(ms(500), &[]);
    rig.push("a", Healthy, ms(60_000));
    assert_eq!(rig.backend("a").since, fit, "good news that changes nothing");
    rig.live(ms(500), &[]);
    rig.push("a", Unhealthy, ms(60_000));
    let out = rig.now;
    rig.live(ms(500), &[]);
    assert_eq!(rig.backend("a").since, out);
}

#[test]
fn a_source_that_goes_silent_is_no_failing_backend() {
    let mut rig = two();
    for _ in 0..10 {
        rig.push("a", Healthy, ms(1000));
        rig.live(ms(500), &[]);
    }
    rig.live(ms(60_000), &[]);
    assert_eq!(rig.way("pg"), "a | b");
    assert_eq!(rig.count("backend.unhealthy"), 0);
}

#[test]
fn bad_news_that_is_renewed_is_told_once_and_taken_back_by_unknown() {
    let mut rig = two();
    for _ in 0..5 {
        rig.push("a", Unhealthy, ms(2000));
        rig.live(ms(1000), &[]);
    }
    assert_eq!(rig.count("backend.unhealthy"), 1);
    assert_eq!(rig.backend("a").downtime, ms(5000));
    rig.push("a", Unknown, ms(2000));
    assert_eq!(rig.way("pg"), "a | b");
}

#[test]
fn a_verdict_that_comes_too_late_is_none() {
    let mut rig = two();
    rig.push("a", Unhealthy, ms(0));
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").reported.len()), ("a | b", 0));
    assert!(rig.kinds().is_empty(), "{:?}", rig.kinds());
}

#[test]
fn good_news_clears_what_was_counted_but_does_not_outvote_probes() {
    let mut rig = two();
    rig.answer("a", bad_answer());
    rig.answer("a", bad_answer());
    rig.report_failure("a", "x");
    rig.push("a", Healthy, ms(60_000));
    assert_eq!(rig.backend("a").consecutive_failures, 0);
    for _ in 0..3 {
        rig.push("a", Healthy, ms(60_000));
        rig.answer("a", bad_answer());
    }
    assert_eq!(rig.way("pg"), "b", "good words that are repeated do not keep it in");
    rig.push("a", Healthy, ms(60_000));
    assert_eq!(rig.way("pg"), "b");
    rig.revive("a");
}

#[test]
fn good_news_is_no_first_verdict() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1));
    rig.push("a", Healthy, ms(60_000));
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").health), ("", Unknown));
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1));
    rig.push("a", Unhealthy, ms(60_000));
    assert!(rig.core.has_first_verdicts(), "nobody need wait for what is out anyway");
    rig.answer("a", passed());
    assert_eq!((rig.way("pg").as_str(), rig.count("backend.healthy")), ("", 0));
    rig.live(ms(60_000), &[]);
    assert_eq!((rig.way("pg").as_str(), rig.count("backend.healthy")), ("a", 1));
}

#[test]
fn what_probes_find_meanwhile_holds_when_the_verdict_lapses() {
    let mut rig = two();
    rig.push("a", Unhealthy, ms(5000));
    rig.live(ms(5000), &["a"]);
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").reason.as_str()), ("b", "dead: refused"));
    assert_eq!(rig.count("backend.healthy"), 2);
}

#[test]
fn sessions_that_were_to_drain_stay_when_the_verdict_lapses() {
    let mut rig = two();
    rig.push("a", Unhealthy, ms(5000));
    rig.live(ms(60_000), &[]);
    assert_eq!(rig.count("pool.failover"), 1);
    assert!(rig.core.departures.iter().next().is_none());
}

#[test]
fn a_reset_takes_the_verdict_back() {
    let mut rig = two();
    rig.push("a", Unhealthy, ms(60_000));
    rig.reset("a");
    assert_eq!(rig.way("pg"), "a | b");
    assert!(rig.kinds().contains(&"backend.healthy"), "{:?}", rig.kinds());
}

#[test]
fn it_does_not_make_a_drained_backend_serve() {
    let mut rig = two();
    rig.order("a", AdminState::Drain);
    rig.push("a", Healthy, ms(60_000));
    assert_eq!(rig.way("pg"), "b");
}
