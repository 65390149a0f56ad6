//! Orders about who serves: failover, failback, and the pin between them.

use super::build::{PlanBuilder, ms, plan};
use super::rig::{Rig, refused};
use crate::failover::{Arrival, Change, NoRoute, Order, Refusal};
use crate::model::{AdminState, Epoch, HealthState, OutReason, PoolState, SessionPolicy};

fn three() -> PlanBuilder {
    plan().pool("pg").backend("a", 1).backend("b", 2).backend("b2", 2).backend("c", 3)
}

fn rig() -> Rig {
    let mut rig = Rig::new(three());
    rig.fit(&["a", "b", "b2", "c"]);
    rig
}

fn text(refusal: Result<(), Refusal>) -> String {
    refusal.unwrap_err().to_string()
}

#[test]
fn a_pinned_backend_serves_alone_until_failback() {
    let mut rig = rig();
    rig.fail_over("pg", Some("b2")).unwrap();
    assert_eq!((rig.way("pg"), rig.state()), ("b2".to_owned(), PoolState::FailoverComplete));
    assert_eq!(rig.status("pg").pinned, Some("b2".into()));
    rig.live(ms(120_000), &[]);
    assert_eq!(rig.way("pg"), "b2", "not left for a better tier that is fit for ever so long");
    assert_eq!(rig.backend("a").reason, "standby: pinned to b2 until `changeover failback pg`");
    assert!(!rig.backend("b").active, "not even its own tier");
    rig.fail_back("pg").unwrap();
    assert_eq!((rig.way("pg"), rig.state()), ("a | b b2 | c".to_owned(), PoolState::Healthy), "at once");
    assert_eq!(rig.status("pg").pinned, None);
    assert_eq!(rig.kinds(), ["pool.unpinned", "pool.failback"]);
    let last = rig.status("pg").last_failover.unwrap();
    assert_eq!((last.reason, last.from, last.to), (OutReason::FailedBack, vec!["b2".into()], vec!["a".into()]));
}

#[test]
fn a_pool_whose_pinned_backend_is_lost_is_down() {
    let mut rig = rig();
    rig.fail_over("pg", Some("b")).unwrap();
    rig.kill("b");
    assert_eq!((rig.way("pg"), rig.state()), (String::new(), PoolState::Down));
    assert_eq!(rig.core.table().pools["pg"].pick(&Arrival::default()).err(), Some(NoRoute::Down));
    rig.live(ms(60_000), &["b"]);
    assert_eq!((rig.way("pg"), rig.failovers().len()), (String::new(), 3), "nobody tries to fail over");
    assert_eq!(rig.backend("b2").reason, "standby: pinned to b until `changeover failback pg`");
    rig.revive("b");
    assert_eq!(rig.way("pg"), "b");
    rig.kill("b");
    rig.fail_back("pg").unwrap();
    assert_eq!((rig.way("pg"), rig.state()), ("a | b2 | c".to_owned(), PoolState::Degraded));
    assert_eq!(rig.kinds(), ["pool.unpinned", "pool.failback", "pool.recovered"]);
}

#[test]
fn what_is_left_may_be_lost_when_the_pin_is_released() {
    for automatic in [true, false] {
        let plan = || plan().pool("pg").backend("a", 1).backend("b", 2).backend("c", 3);
        let plan = || if automatic { plan() } else { plan().manual_failover() };
        let mut rig = Rig::new(plan());
        rig.fit(&["a", "b", "c"]);
        rig.fail_over("pg", Some("b")).unwrap();
        rig.kill("a");
        rig.kill("b");
        assert_eq!(rig.state(), PoolState::Down);
        rig.fail_back("pg").unwrap();
        assert_eq!(rig.way("pg"), "c", "the best that is fit, also with automatic off");
        assert_eq!(rig.kinds(), ["pool.unpinned", "pool.failover", "pool.recovered"]);
        assert_eq!(rig.failovers().last().unwrap(), "2 completed: b > c (dead)");
    }
}

#[test]
fn releasing_a_pool_in_the_tier_of_the_lost_one_recovers_it_and_is_no_return() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("a2", 1));
    rig.fit(&["a", "a2"]);
    rig.fail_over("pg", Some("a2")).unwrap();
    rig.kill("a2");
    assert_eq!(rig.state(), PoolState::Down);
    rig.fail_back("pg").unwrap();
    assert_eq!((rig.way("pg").as_str(), rig.kinds()), ("a", vec!["pool.unpinned", "pool.recovered"]));
}

#[test]
fn releasing_a_pool_of_which_nothing_is_fit_leaves_it_down() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.fail_over("pg", Some("b")).unwrap();
    rig.kill("a");
    rig.kill("b");
    rig.fail_back("pg").unwrap();
    assert_eq!((rig.state(), rig.kinds()), (PoolState::Down, vec!["pool.unpinned"]));
    rig.revive("a");
    assert_eq!(rig.way("pg"), "a");
}

#[test]
fn a_failover_without_a_target_takes_the_best_other_tier_as_a_whole() {
    let mut rig = rig();
    rig.fail_over("pg", None).unwrap();
    assert_eq!(rig.way("pg"), "b b2");
    rig.kill("b");
    assert_eq!((rig.way("pg"), rig.status("pg").pinned), ("b2".to_owned(), Some("b".into())));
    rig.kill("b2");
    assert_eq!((rig.way("pg"), rig.state()), (String::new(), PoolState::Down));
    rig.revive("b2");
    assert_eq!(rig.way("pg"), "b2");
    rig.fail_over("pg", None).unwrap();
    assert_eq!(rig.way("pg"), "a", "from there the best other one");
}

#[test]
fn an_order_works_with_automatic_off_and_a_manual_failback() {
    let mut rig = Rig::new(three().manual_failover().manual_failback());
    rig.fit(&["a", "b", "b2", "c"]);
    rig.fail_over("pg", Some("c")).unwrap();
    assert_eq!(rig.way("pg"), "c");
    rig.fail_back("pg").unwrap();
    assert_eq!(rig.way("pg"), "a");
}

#[test]
fn failback_without_a_pin_does_not_wait_for_the_stable_time() {
    for manual in [false, true] {
        let plan = || if manual { three().manual_failback() } else { three() };
        let mut rig = Rig::new(plan());
        rig.fit(&["a", "b", "b2", "c"]);
        rig.kill("a");
        assert!(text(rig.fail_back("pg")).contains("no better tier"), "nothing better is fit");
        rig.revive("a");
        assert_eq!(rig.state(), PoolState::RecoveryInProgress);
        rig.fail_back("pg").unwrap();
        assert_eq!((rig.way("pg"), rig.kinds()), ("a | b b2 | c".to_owned(), vec!["pool.failback"]));
        assert!(matches!(rig.fail_back("pg"), Err(Refusal::Conflict(_))));
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let mut rig = rig();
    assert_eq!(rig.fail_over("nope", None), Err(Refusal::PoolNotFound("nope".into())));
    assert_eq!(rig.fail_over("pg", Some("x")), Err(Refusal::BackendNotFound("pg".into(), "x".into())));
    let order = Order::SetAdminState { pool: "pg".into(), backend: "x".into(), state: AdminState::Drain };
    assert_eq!(rig.say(order), Err(Refusal::BackendNotFound("pg".into(), "x".into())));
    rig.answer("c", refused());
    rig.answer("c", refused());
    assert_eq!(text(rig.fail_over("pg", Some("c"))), "backend c of pool pg is not eligible: dead: refused");
    rig.order("b", AdminState::Drain);
    assert_eq!(text(rig.fail_over("pg", Some("b"))), "backend b of pool pg is not eligible: drained by an operator");
    rig.replan(three().backend("n", 4));
    assert_eq!(text(rig.fail_over("pg", Some("n"))), "backend n of pool pg is not eligible: no verdict yet");
    rig.fail_over("pg", Some("a")).unwrap();
    assert_eq!(text(rig.fail_over("pg", Some("a"))), "pool pg is pinned to a already");
    let mut one = Rig::new(plan().pool("pg").backend("a", 1).backend("a2", 1));
    one.fit(&["a", "a2"]);
    assert!(text(one.fail_over("pg", None)).contains("--to"));
    one.fail_over("pg", Some("a2")).unwrap();
    assert_eq!(one.way("pg"), "a2", "one of the tier that serves");
    assert_eq!(one.failovers().last().unwrap(), "1 completed: a a2 > a2 (manual)");
}

#[test]
fn sessions_go_by_the_order_and_stay_if_it_is_taken_back() {
    for (policy, closed) in [(SessionPolicy::Keep, false), (SessionPolicy::Drain, false), (SessionPolicy::Close, true)]
    {
        let mut rig = rig();
        let order =
            |to: &str| Order::Failover { pool: "pg".into(), to: Some(to.into()), reason: None, sessions: policy };
        rig.say(order("b")).unwrap();
        let fence = (rig.id("a"), Epoch(1), OutReason::Manual);
        assert_eq!(rig.fences(), if closed { vec![fence] } else { Vec::new() });
        if policy == SessionPolicy::Drain {
            rig.live(ms(29_999), &[]);
            assert_eq!(rig.fences(), []);
            rig.now = rig.now + ms(1);
            rig.tick();
            assert_eq!(rig.fences(), [fence], "after drain_timeout");
            rig.say(order("c")).unwrap();
            rig.live(ms(1000), &[]);
            rig.say(order("b")).unwrap();
            for _ in 0..40 {
                rig.live(ms(1000), &[]);
                assert!(rig.fences().iter().all(|(id, ..)| *id != rig.id("b")), "b serves again");
            }
        }
    }
}

#[test]
fn sessions_of_those_that_are_lost_already_go_by_the_order_too() {
    // What failed its check keeps its sessions, and they would go on beside those of the one that serves now.
    let mut rig = Rig::new(three().manual_failover());
    rig.fit(&["a", "b", "b2", "c"]);
    rig.push("a", HealthState::Unhealthy, ms(60_000));
    assert!(rig.way("pg").is_empty(), "nothing serves: {}", rig.way("pg"));
    let (pool, to) = ("pg".into(), Some("b".into()));
    rig.say(Order::Failover { pool, to, reason: None, sessions: SessionPolicy::Close }).unwrap();
    let fenced: Vec<_> = rig.fences().into_iter().map(|(id, _, reason)| (id, reason)).collect();
    assert_eq!(fenced, [(rig.id("a"), OutReason::Manual)]);
}

#[test]
fn failback_closes_by_its_own_policy_whom_it_leaves() {
    let mut rig = Rig::new(three().sessions(|policies| policies.failed_back = SessionPolicy::Close));
    rig.fit(&["a", "b", "b2", "c"]);
    rig.fail_over("pg", None).unwrap();
    rig.fail_back("pg").unwrap();
    let ids: Vec<_> = rig.fences().into_iter().map(|(id, _, reason)| (id, reason)).collect();
    assert_eq!(ids, [(rig.id("b"), OutReason::FailedBack), (rig.id("b2"), OutReason::FailedBack)]);
}

#[test]
fn whoever_serves_on_after_a_release_is_not_told_to_have_failed_back() {
    let mut rig = rig();
    rig.fail_over("pg", Some("a")).unwrap();
    rig.fail_back("pg").unwrap();
    assert_eq!((rig.way("pg"), rig.kinds()), ("a | b b2 | c".to_owned(), vec!["pool.unpinned"]));
}

#[test]
fn a_pin_outlives_a_reload_while_its_backend_does() {
    let mut rig = rig();
    rig.fail_over("pg", Some("b")).unwrap();
    rig.replan(plan().pool("pg").backend("a", 1).backend("c", 3).backend("b", 9));
    assert_eq!(rig.way("pg"), "b", "in another tier");
    rig.replan(plan().pool("pg").backend("a", 1).backend("b", 9).at("elsewhere:1"));
    assert_eq!((rig.way("pg"), rig.state()), (String::new(), PoolState::FailoverInProgress), "asked anew");
    rig.fit(&["b"]);
    assert_eq!(rig.way("pg"), "b", "at another address");
    rig.replan(plan().pool("pg").backend("a", 1).backend("c", 3));
    let unpinned = Change::PoolUnpinned { backend: "b".into(), removed: true };
    assert!(rig.told.contains(&unpinned));
    assert_eq!((rig.way("pg"), rig.status("pg").pinned), ("a".to_owned(), None));
}

#[test]
fn a_pinned_tier_outlives_the_removal_of_one_of_its_backends() {
    let mut rig = rig();
    rig.fail_over("pg", None).unwrap();
    rig.replan(plan().pool("pg").backend("a", 1).backend("b2", 2).backend("c", 3));
    assert_eq!((rig.way("pg"), rig.status("pg").pinned), ("b2".to_owned(), Some("b2".into())));
    rig.replan(plan().pool("pg").backend("a", 1).backend("c", 3));
    assert_eq!((rig.way("pg"), rig.status("pg").pinned), ("a | c".to_owned(), None));
}

#[test]
fn a_pinned_backend_gets_the_clients_of_use_preferred_alone() {
    let mut rig = Rig::new(plan().pool("pg").use_preferred().backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.fail_over("pg", Some("b")).unwrap();
    rig.kill("b");
    assert_eq!((rig.way("pg"), rig.state()), ("b".to_owned(), PoolState::Down));
}
