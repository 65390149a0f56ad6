//! A new plan over a running one.

use super::build::{ms, plan};
use super::rig::{Rig, bad_answer, passed, replaced};
use crate::failover::{Change, Command, Controller, Event, Order, Transition};
use crate::model::{Actor, AdminState, Epoch, HealthState, MonoTime, OutReason, PoolName, PoolState};

fn two() -> Rig {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig
}

#[test]
fn the_first_plan_is_no_news_and_later_ones_are() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1));
    assert_eq!(rig.count("backend.registered"), 0);
    rig.replan(plan().pool("pg").backend("a", 1).backend("b", 2));
    assert_eq!(rig.kinds(), ["backend.registered"]);
    rig.replan(plan());
    assert_eq!(rig.kinds(), ["backend.removed", "backend.removed"]);
    rig.replan(plan().pool("pg").backend("a", 1));
    assert_eq!(rig.kinds(), ["backend.registered"], "though there was no pool before");
}

#[test]
fn what_stays_the_same_keeps_its_health_its_number_and_its_orders() {
    let mut rig = two();
    rig.kill("a");
    rig.order("b", AdminState::Maintenance);
    let before = (rig.id("a"), rig.epoch("a"), rig.id("b"), rig.target("b"));
    rig.replan(
        plan().pool("pg").backend("a", 1).weight(9).check(|c| c.interval = ms(500)).backend("b", 2).backend("c", 3),
    );
    assert_eq!((rig.id("a"), rig.epoch("a"), rig.id("b"), rig.target("b")), before);
    assert_eq!(rig.backend("a").health, HealthState::Unhealthy);
    assert_eq!(rig.backend("b").admin_state, AdminState::Maintenance);
    assert_eq!((rig.way("pg"), rig.state()), (String::new(), PoolState::FailoverInProgress));
    rig.fit(&["c"]);
    assert_eq!(rig.way("pg"), "c");
}

#[test]
fn a_new_weight_is_published_and_nothing_is_asked_anew() {
    let mut rig = two();
    let before = rig.generation().0;
    rig.replan(plan().pool("pg").backend("a", 1).weight(5).backend("b", 2));
    assert_eq!(rig.generation().0, before + 1);
    assert_eq!(rig.core.table().pools["pg"].tiers[0].routes()[0].weight, 5);
    assert_eq!(rig.kinds(), Vec::<&str>::new());
}

#[test]
fn at_another_address_it_is_another_backend() {
    let mut rig = two();
    let (old, target) = (rig.id("a"), rig.target("a"));
    rig.replan(plan().pool("pg").backend("a", 1).at("elsewhere:1").backend("b", 2));
    assert_ne!((rig.id("a"), rig.target("a")), (old, target));
    assert_eq!((rig.backend("a").health, rig.epoch("a")), (HealthState::Unknown, Epoch(0)));
    assert_eq!(rig.way("pg"), "b");
    assert_eq!(rig.kinds(), ["backend.removed", "backend.registered", "pool.failover"]);
    assert!(matches!(rig.told.last(), Some(Change::PoolFailover { reason: OutReason::Drained, .. })));
}

#[test]
fn another_check_is_another_question_and_the_health_stays() {
    let mut rig = two();
    let (id, target) = (rig.id("a"), rig.target("a"));
    rig.replan(plan().pool("pg").backend("a", 1).check(|check| check.timeout = ms(77)).backend("b", 2));
    assert_eq!(rig.id("a"), id);
    assert_ne!(rig.target("a"), target);
    assert_eq!((rig.way("pg"), rig.generation().0), ("a | b".to_owned(), 3));
    rig.kill("a");
}

#[test]
fn new_thresholds_count_from_the_next_answer() {
    let mut rig = two();
    rig.answer("a", bad_answer());
    rig.answer("a", bad_answer());
    rig.replan(plan().pool("pg").backend("a", 1).check(|check| check.unhealthy_threshold = 1).backend("b", 2));
    assert_eq!(rig.way("pg"), "a | b");
    rig.answer("a", bad_answer());
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn a_reload_that_renumbers_tiers_moves_nothing() {
    for (a, b) in [(10, 20), (1, 3), (3, 4), (2, 20)] {
        let mut rig = two();
        rig.replan(plan().pool("pg").backend("a", a).backend("b", b));
        assert_eq!((rig.way("pg"), rig.kinds()), ("a | b".to_owned(), Vec::<&str>::new()), "{a} {b}");
        assert_eq!(rig.state(), PoolState::Healthy);
    }
}

#[test]
fn a_reload_that_turns_the_order_round_returns_like_any_other() {
    let mut rig = two();
    rig.replan(plan().pool("pg").failback_after(ms(60_000)).backend("a", 2).backend("b", 1));
    assert_eq!((rig.way("pg"), rig.state()), ("a | b".to_owned(), PoolState::RecoveryInProgress));
    rig.live(ms(60_000), &[]);
    assert_eq!(rig.way("pg"), "b | a");
    assert_eq!(rig.count("pool.failback"), 1);
}

#[test]
fn a_reload_that_turns_the_order_round_moves_nothing_with_automatic_off() {
    let mut rig = Rig::new(plan().pool("pg").manual_failover().backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.replan(plan().pool("pg").manual_failover().backend("a", 5).backend("b", 2));
    rig.live(ms(60_000), &[]);
    assert_eq!(rig.way("pg"), "a");
}

#[test]
fn a_split_tier_follows_those_that_serve() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 1));
    rig.fit(&["a", "b"]);
    rig.kill("a");
    rig.replan(plan().pool("pg").backend("a", 1).backend("b", 2));
    assert_eq!((rig.way("pg"), rig.count("pool.failover")), ("b".to_owned(), 0));
    assert_eq!(rig.state(), PoolState::FailoverComplete);
}

#[test]
fn with_automatic_off_and_the_active_tier_gone_the_seat_is_given_anew() {
    let mut rig = Rig::new(plan().pool("pg").manual_failover().backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.replan(plan().pool("pg").manual_failover().backend("n", 3).backend("b", 4));
    assert_eq!((rig.way("pg"), rig.state()), (String::new(), PoolState::Unknown));
    rig.fit(&["n"]);
    assert_eq!(rig.way("pg"), "n");
}

#[test]
fn with_automatic_on_a_lost_seat_does_not_wait_for_newcomers() {
    let mut rig = two();
    rig.replan(plan().pool("pg").backend("n", 1).backend("b", 4));
    assert_eq!((rig.way("pg"), rig.count("pool.failover")), ("b".to_owned(), 1));
    rig.fit(&["n"]);
    assert_eq!(rig.way("pg"), "b | n");
    rig.live(ms(10_000), &[]);
    assert_eq!(rig.way("pg"), "n | b");
}

#[test]
fn turning_automatic_off_and_on_takes_effect_at_once() {
    let mut rig = two();
    rig.replan(plan().pool("pg").manual_failover().backend("a", 1).backend("b", 2));
    assert_eq!(rig.way("pg"), "a");
    rig.kill("a");
    assert_eq!(rig.way("pg"), "");
    rig.replan(plan().pool("pg").backend("a", 1).backend("b", 2));
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn a_pool_removed_and_added_again_is_a_new_one() {
    let mut rig = two();
    let old = rig.id("a");
    rig.kill("a");
    rig.revive("a");
    assert!(rig.core.deadlines.first().is_some());
    rig.replan(plan().pool("other").backend("x", 1));
    assert!(!rig.core.table().pools.contains_key("pg"));
    assert_eq!(rig.core.pool_status(rig.now, &PoolName::from("pg")), None);
    rig.replan(plan().pool("pg").backend("a", 1).backend("b", 2));
    assert_ne!(rig.id("a"), old);
    assert_eq!((rig.way("pg"), rig.state()), (String::new(), PoolState::Unknown));
    rig.fit(&["b", "a"]);
    assert_eq!(rig.way("pg"), "a | b");
}

#[test]
fn a_backend_that_moves_to_another_pool_is_asked_as_before_and_judged_anew() {
    let mut rig = Rig::new(plan().pool("p").backend("a", 1).pool("q").backend("b", 1));
    rig.fit(&["a", "b"]);
    rig.until_asked("a");
    let (id, target) = (rig.id("a"), rig.target("a"));
    rig.replan(plan().pool("p").backend("c", 1).pool("q").backend("b", 2).backend("a", 1));
    assert_ne!(rig.id("a"), id);
    assert_eq!(rig.target("a"), target);
    assert_eq!(rig.way("q"), "b");
    let (probe, _) = rig.open.remove(&target).unwrap();
    rig.feed(Event::ProbeFinished { target, probe, outcome: passed() });
    assert_eq!((rig.backend("a").health, rig.way("q")), (HealthState::Healthy, "b | a".to_owned()));
}

#[test]
fn new_policies_hold_for_what_comes_after() {
    let mut rig = two();
    let keep = |s: &mut crate::model::SessionPolicies| s.dead = crate::model::SessionPolicy::Keep;
    rig.replan(plan().pool("pg").sessions(keep).backend("a", 1).backend("b", 2));
    rig.kill("a");
    assert_eq!((rig.fences(), rig.epoch("a")), (vec![], Epoch(0)));
}

#[test]
fn reloading_all_the_time_starves_no_probe() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1));
    rig.until_asked("a");
    let asked = rig.open.clone();
    for _ in 0..100 {
        rig.replan(plan().pool("pg").backend("a", 1));
        rig.now = rig.now + ms(1);
        rig.tick();
    }
    assert_eq!(rig.open, asked, "the open question stays open");
    rig.answer("a", passed());
    let mut starts = 0;
    for _ in 0..50 {
        rig.now = rig.now + ms(100);
        rig.replan(plan().pool("pg").backend("a", 1));
        if rig.started("a") {
            starts += 1;
            rig.answer("a", passed());
        }
    }
    assert!((4..=6).contains(&starts), "{starts} probes in 5 s");
}

#[test]
fn ten_thousand_backends_are_reloaded_and_judged_in_time() {
    let build = |shift: usize| {
        let mut big = plan().pool("pg");
        for i in 0..10_000 {
            big = big.backend(&format!("b{}", i + shift), 1);
        }
        big
    };
    let mut core = Controller::new(1);
    let mut out = Vec::new();
    core.handle(MonoTime::ZERO, replaced(build(0)), &mut out);
    core.handle(MonoTime::ZERO, replaced(build(5_000)), &mut out);
    assert_eq!(core.homes.len(), 10_000);
    let mut verdicts = 0;
    while verdicts < 100 {
        out.clear();
        let now = core.next_deadline().unwrap();
        core.handle(now, Event::Tick, &mut out);
        for command in std::mem::take(&mut out) {
            if let Command::StartProbe { target, probe, .. } = command {
                core.handle(now, Event::ProbeFinished { target, probe, outcome: passed() }, &mut out);
                verdicts += 1;
            }
        }
    }
    core.check_invariants().unwrap();
}

#[test]
fn a_backend_that_is_moved_while_it_is_maintained_stays_so() {
    let moved = |address: &str| plan().pool("p").backend("a", 1).at(address).backend("b", 2);
    let mut rig = Rig::new(moved("10.0.0.1:1"));
    rig.fit(&["a", "b"]);
    rig.order("a", AdminState::Maintenance);
    rig.replan(moved("10.0.0.2:1"));
    assert_eq!(rig.backend("a").admin_state, AdminState::Maintenance);
}

#[test]
fn what_happens_in_other_pools_when_one_is_changed_is_nobodys_order() {
    let one = || plan().pool("one").backend("a", 1);
    let mut rig = Rig::new(one().pool("two").backend("b", 1).backend("c", 2));
    rig.fit(&["a", "b", "c"]);
    rig.say(Order::Pause { pool: "two".into(), until: Some(rig.now + ms(500)) }).unwrap();
    rig.now = rig.now + ms(500);
    let plan = one().backend("d", 2).pool("two").backend("b", 1).backend("c", 2).build();
    rig.feed(Event::PlanReplaced { plan, actor: Actor::from("ops") });
    let told = rig.last.iter().filter_map(|command| match command {
        Command::Report(Transition { pool, actor, change }) => {
            Some((pool.as_ref().unwrap().to_string(), actor.to_string(), change.kind()))
        }
        _ => None,
    });
    let told: Vec<_> = told.collect();
    let ordered = |kind| ("one".to_owned(), "ops".to_owned(), kind);
    let due = ("two".to_owned(), Actor::changeover().to_string(), "pool.resumed");
    assert_eq!(told, [ordered("backend.registered"), ordered("pool.degraded"), due]);
}
