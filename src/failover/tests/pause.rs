//! Pools that are paused.

use super::build::{ms, plan};
use super::rig::Rig;
use crate::failover::{Arrival, Change, NoRoute, Refusal};
use crate::model::{Actor, PoolState, WhenDown};

fn rig() -> Rig {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).backend("b", 2));
    rig.fit(&["a", "b"]);
    rig
}

fn pick(rig: &Rig) -> Option<NoRoute> {
    rig.core.table().pools["pg"].pick(&Arrival::default()).err()
}

#[test]
fn a_paused_pool_has_no_routes_until_it_is_resumed() {
    let mut rig = rig();
    rig.pause("pg", None).unwrap();
    assert_eq!((rig.way("pg"), pick(&rig), rig.state()), (String::new(), Some(NoRoute::Paused), PoolState::Healthy));
    assert_eq!(rig.fences(), [], "sessions go on");
    let paused = rig.status("pg").paused.unwrap();
    assert_eq!((paused.since, paused.until), (rig.now, None));
    rig.live(ms(60_000), &[]);
    assert_eq!(rig.way("pg"), "");
    rig.resume("pg").unwrap();
    assert_eq!((rig.way("pg"), rig.status("pg").paused), ("a | b".to_owned(), None));
    assert_eq!(rig.told.last(), Some(&Change::PoolResumed { paused: ms(60_000), timed_out: false }));
    assert!(matches!(rig.resume("pg"), Err(Refusal::Conflict(_))));
}

#[test]
fn a_pause_ends_by_itself_to_the_moment() {
    let mut rig = rig();
    rig.pause("pg", Some(ms(3000))).unwrap();
    assert_eq!(rig.told.last(), Some(&Change::PoolPaused { timeout: Some(ms(3000)) }));
    rig.live(ms(1000), &[]);
    rig.pause("pg", Some(ms(5000))).unwrap();
    rig.live(ms(4999), &[]);
    assert_eq!(rig.way("pg"), "");
    rig.live(ms(1), &[]);
    assert_eq!(rig.way("pg"), "a | b");
    assert_eq!(rig.told.last(), Some(&Change::PoolResumed { paused: ms(6000), timed_out: true }));
    rig.pause("pg", Some(ms(5000))).unwrap();
    rig.pause("pg", None).unwrap();
    rig.live(ms(60_000), &[]);
    assert_eq!(rig.way("pg"), "", "the end is taken back");
    assert!(matches!(rig.pause("pg", Some(ms(0))), Err(Refusal::Conflict(_))), "over before it begins");
}

#[test]
fn decisions_go_on_and_are_published_at_the_end() {
    let mut rig = rig();
    rig.pause("pg", None).unwrap();
    let generation = rig.generation();
    rig.kill("a");
    assert_eq!((rig.count("pool.failover"), rig.state()), (1, PoolState::FailoverComplete));
    assert_eq!((rig.way("pg"), rig.generation()), (String::new(), generation), "nothing to publish");
    rig.resume("pg").unwrap();
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn use_preferred_is_no_way_around_a_pause() {
    let mut rig = Rig::new(plan().pool("pg").use_preferred().backend("a", 1));
    rig.fit(&["a"]);
    rig.pause("pg", None).unwrap();
    rig.kill("a");
    assert_eq!((rig.way("pg"), pick(&rig)), (String::new(), Some(NoRoute::Paused)));
    rig.resume("pg").unwrap();
    assert_eq!(rig.way("pg"), "a");
    assert_eq!(rig.core.table().pools["pg"].hold.when_down, WhenDown::UsePreferred);
}

#[test]
fn a_pause_outlives_a_reload() {
    let mut rig = rig();
    rig.pause("pg", Some(ms(3000))).unwrap();
    rig.replan(plan().pool("pg").backend("a", 1));
    assert_eq!(rig.way("pg"), "");
    rig.live(ms(3000), &[]);
    assert_eq!(rig.way("pg"), "a");
}

#[test]
fn what_comes_of_itself_is_nobodys_order() {
    let mut rig = Rig::new(plan().pool("p").backend("a", 1).pool("q").backend("b", 1));
    rig.fit(&["a", "b"]);
    rig.pause("q", Some(ms(100))).unwrap();
    rig.now = rig.now + ms(100);
    let order = crate::failover::Order::Pause { pool: "p".into(), until: None };
    rig.feed(crate::failover::Event::Ordered { actor: Actor::from("ops"), order });
    let told = rig.last.iter().filter_map(|command| match command {
        crate::failover::Command::Report(told) => Some((told.pool.as_ref()?.to_string(), told.actor.to_string())),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told, [("p".to_owned(), "ops".to_owned()), ("q".to_owned(), "changeover".to_owned())]);
}
