//! Evidence from sessions, and what becomes of sessions.

use super::build::{ms, plan};
use super::rig::{Rig, bad_answer, passed, refused, timed_out};
use crate::failover::{Command, Event, Order};
use crate::model::{
    Actor, AdminState, BackendId, BackendName, DialError, Epoch, Generation, OutReason, PoolName, SessionPolicy,
};

fn two() -> Rig {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig
}

#[test]
fn refused_twice_is_dead_at_once() {
    let mut rig = two();
    rig.answer("a", refused());
    assert!(rig.started("a"), "asked again in the same turn");
    rig.answer("a", refused());
    assert_eq!(rig.way("pg"), "b");
    assert_eq!(rig.fences(), [(rig.id("a"), Epoch(1), OutReason::Dead)]);
}

#[test]
fn a_refused_dial_and_a_refused_probe_are_death() {
    let mut rig = two();
    rig.now = rig.now + ms(50);
    rig.dial_failed("a", DialError::Refused);
    assert_eq!(rig.way("pg"), "a | b", "a dial alone decides nothing");
    rig.answer("a", refused());
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn failed_dials_alone_never_decide() {
    let mut rig = two();
    for _ in 0..100 {
        rig.dial_failed("a", DialError::Refused);
        rig.now = rig.now + ms(20);
        rig.answer("a", passed());
    }
    assert_eq!(rig.way("pg"), "a | b");
    assert_eq!(rig.generation(), Generation(3));
}

#[test]
fn the_table_is_published_before_sessions_are_fenced() {
    let mut rig = two();
    rig.kill("a");
    let kinds: Vec<u8> = rig
        .last
        .iter()
        .filter_map(|command| match command {
            Command::PublishTable(_) => Some(1),
            Command::FenceSessions { .. } => Some(2),
            Command::Report(_) => Some(3),
            _ => None,
        })
        .collect();
    assert_eq!(kinds, [1, 2, 3, 3, 3, 3], "{:?}", rig.last);
    let table = rig.published().unwrap();
    let routes = &table.pools["pg"];
    assert!(routes.tiers.iter().flat_map(|tier| tier.routes()).all(|route| route.backend != rig.id("a")));
}

#[test]
fn a_fenced_backend_comes_back_under_the_epoch_of_its_fence() {
    let mut rig = two();
    rig.kill("a");
    let (_, epoch, _) = rig.fences()[0];
    rig.revive("a");
    let table = rig.published().unwrap();
    let all: Vec<Epoch> = table.pools["pg"].tiers.iter().flat_map(|tier| tier.routes()).map(|r| r.epoch).collect();
    assert!(all.contains(&epoch), "{all:?}");
}

#[test]
fn a_publish_that_changes_nothing_does_not_happen() {
    let mut rig = two();
    let before = rig.generation();
    rig.tick();
    rig.answer("a", passed());
    rig.answer("b", bad_answer());
    rig.order("a", AdminState::Ready);
    rig.replan(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.replan(plan().pool("pg").backend("a", 1).backend("b", 7));
    rig.pass(ms(3000));
    assert_eq!(rig.generation(), before);
}

#[test]
fn generations_grow_by_one() {
    let mut rig = two();
    let before = rig.generation().0;
    rig.kill("a");
    assert_eq!(rig.generation().0, before + 1);
    rig.kill("b");
    rig.revive("a");
    assert_eq!(rig.generation().0, before + 3);
    assert_eq!(rig.status("pg").generation, rig.generation());
}

#[test]
fn two_pools_that_change_in_one_turn_are_one_publish() {
    let mut rig = Rig::new(plan().pool("p").backend("a", 1).at("x:1").pool("q").backend("b", 1).at("x:1"));
    let before = rig.generation().0;
    rig.fit(&["a"]);
    assert_eq!(rig.generation().0, before + 1);
    assert_eq!((rig.way("p"), rig.way("q")), ("a".to_owned(), "b".to_owned()));
}

#[test]
fn sessions_go_by_the_reason() {
    let mut rig = two();
    for _ in 0..3 {
        rig.answer("a", bad_answer());
    }
    assert_eq!((rig.way("pg"), rig.fences(), rig.epoch("a")), ("b".to_owned(), vec![], Epoch(0)), "check_failed: keep");
    for _ in 0..3 {
        rig.answer("a", timed_out());
    }
    assert_eq!(rig.fences(), [(rig.id("a"), Epoch(1), OutReason::Unreachable)], "unreachable: close");
}

#[test]
fn a_kept_backend_that_refuses_is_asked_again_at_once() {
    let mut rig = two();
    for _ in 0..3 {
        rig.answer("a", bad_answer());
    }
    rig.answer("a", refused());
    assert!(rig.started("a"));
    rig.answer("a", refused());
    assert_eq!(rig.fences(), [(rig.id("a"), Epoch(1), OutReason::Dead)]);
}

#[test]
fn drained_sessions_are_fenced_after_drain_timeout() {
    let mut rig = two();
    let id = rig.id("a");
    rig.order("a", AdminState::Drain);
    assert_eq!((rig.way("pg"), rig.fences()), ("b".to_owned(), vec![]));
    let began = rig.now;
    let mut fenced = Vec::new();
    while fenced.is_empty() {
        rig.open.clear();
        rig.now = rig.core.next_deadline().unwrap();
        rig.tick();
        fenced = rig.fences();
    }
    assert_eq!(rig.now.since(began), ms(30_000));
    assert_eq!(fenced, [(id, Epoch(1), OutReason::Drained)]);
}

fn fenced_within(rig: &mut Rig, time: std::time::Duration) -> Vec<(BackendId, Epoch, OutReason)> {
    let end = rig.now + time;
    let mut fenced = Vec::new();
    while let Some(at) = rig.core.next_deadline().filter(|&at| at <= end) {
        rig.now = at;
        rig.tick();
        fenced.extend(rig.fences());
    }
    fenced
}

#[test]
fn drained_sessions_stay_if_made_ready_again() {
    let mut rig = two();
    rig.order("a", AdminState::Drain);
    rig.pass(ms(29_000));
    rig.order("a", AdminState::Ready);
    assert_eq!(fenced_within(&mut rig, ms(60_000)), []);
}

#[test]
fn maintenance_after_drain_neither_shortens_nor_prolongs_it() {
    let mut rig = two();
    rig.order("a", AdminState::Drain);
    rig.pass(ms(20_000));
    rig.order("a", AdminState::Maintenance);
    assert_eq!(rig.epoch("a"), Epoch(1));
    assert_eq!(fenced_within(&mut rig, ms(10_000)).len(), 1);
}

#[test]
fn no_drain_timeout_is_at_once() {
    let mut rig = Rig::new(plan().drain_timeout(ms(0)).pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.order("a", AdminState::Drain);
    assert_eq!(rig.fences().len(), 1);
}

#[test]
fn death_closes_what_still_drains_and_no_fence_comes_after() {
    let mut rig = two();
    rig.order("a", AdminState::Drain);
    rig.kill("a");
    assert_eq!(rig.fences(), [(rig.id("a"), Epoch(2), OutReason::Dead)]);
    assert_eq!(fenced_within(&mut rig, ms(60_000)), []);
}

#[test]
fn sessions_that_drain_for_a_verdict_stay_if_the_backend_is_healthy_again() {
    let drains = plan().pool("pg").sessions(|s| s.dead = SessionPolicy::Drain).backend("a", 1).backend("b", 2);
    let mut rig = Rig::new(drains);
    rig.fit(&["a", "b"]);
    rig.kill("a");
    assert_eq!(rig.fences(), []);
    assert!(rig.core.departures.next_due().is_some());
    rig.revive("a");
    assert_eq!(rig.epoch("a"), Epoch(1));
    assert!(rig.core.departures.next_due().is_none());
}

#[test]
fn a_good_verdict_does_not_undo_an_operators_drain() {
    let mut rig = two();
    rig.order("a", AdminState::Drain);
    rig.answer("a", bad_answer());
    for _ in 0..2 {
        rig.answer("a", bad_answer());
    }
    rig.revive("a");
    assert!(rig.core.departures.next_due().is_some());
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn removed_backends_go_by_the_drained_policy() {
    let mut rig = two();
    let id = rig.id("a");
    rig.replan(plan().pool("pg").backend("b", 2));
    assert_eq!((rig.way("pg"), rig.fences()), ("b".to_owned(), vec![]));
    assert_eq!(rig.kinds(), ["backend.removed", "pool.failover"]);
    assert_eq!(fenced_within(&mut rig, ms(30_000)), [(id, Epoch(1), OutReason::Drained)]);
}

#[test]
fn removed_backends_go_by_the_policy_under_which_their_sessions_began() {
    let close = |s: &mut crate::model::SessionPolicies| s.drained = SessionPolicy::Close;
    let mut rig = Rig::new(plan().pool("pg").sessions(close).backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    let id = rig.id("a");
    rig.replan(plan().pool("pg").backend("b", 2));
    assert_eq!(rig.fences(), [(id, Epoch(1), OutReason::Drained)]);
}

#[test]
fn failback_leaves_sessions_where_they_are_or_drains_them_by_policy() {
    for (policy, now) in [(SessionPolicy::Keep, 0), (SessionPolicy::Drain, 0), (SessionPolicy::Close, 1)] {
        let set = move |s: &mut crate::model::SessionPolicies| s.failed_back = policy;
        let two = plan().pool("pg").sessions(set).failback_after(ms(0)).backend("a", 1).backend("b", 2);
        let mut rig = Rig::new(two);
        rig.fit(&["a", "b"]);
        rig.kill("a");
        rig.revive("a");
        assert_eq!(rig.way("pg"), "a | b");
        assert_eq!(rig.fences().len(), now, "{policy}");
        assert_eq!(rig.core.departures.next_due().is_some(), policy == SessionPolicy::Drain);
        assert_eq!(rig.epoch("b"), Epoch(u64::from(policy != SessionPolicy::Keep)));
    }
}

#[test]
fn without_a_drain_timeout_a_failback_closes_in_its_own_turn() {
    let drains = |s: &mut crate::model::SessionPolicies| s.failed_back = SessionPolicy::Drain;
    let two = plan().drain_timeout(ms(0)).pool("pg").sessions(drains).failback_after(ms(0));
    let mut rig = Rig::new(two.backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig.kill("a");
    rig.revive("a");
    assert_eq!((rig.way("pg").as_str(), rig.fences().len()), ("a | b", 1));
    assert_eq!(rig.core.departures.next_due(), None);
}

#[test]
fn a_backend_that_nobody_knows_is_ignored() {
    let mut rig = two();
    for event in [
        Event::Ordered {
            actor: Actor::from("ops"),
            order: Order::SetAdminState {
                pool: PoolName::from("p"),
                backend: BackendName::from("nobody"),
                state: AdminState::Drain,
            },
        },
        Event::DialFailed { backend: BackendId(99), epoch: Epoch(0), error: DialError::Refused },
    ] {
        rig.feed(event);
        assert!(rig.last.is_empty());
    }
}

#[test]
fn an_order_that_changes_nothing_is_not_told() {
    let mut rig = two();
    rig.order("a", AdminState::Drain);
    assert_eq!(rig.kinds(), ["backend.admin_state", "pool.failover", "pool.degraded"]);
    rig.order("a", AdminState::Drain);
    assert!(rig.last.is_empty());
}
