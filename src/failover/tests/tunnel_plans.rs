//! Tunnels and new plans.

use super::build::{PlanBuilder, ms, plan};
use super::rig::Rig;
use crate::failover::{Command, Event, TunnelOrder};
use crate::model::{BackendId, HealthState, Part, ProgramPlan, Secret, Text, TunnelNews, TunnelState};

fn two() -> PlanBuilder {
    plan().pool("pg").backend("a", 1).tunnel("db:5432").backend("b", 2)
}

fn with_key(key: &str) -> PlanBuilder {
    let argv = vec![Text(vec![Part::Shown("ssh".into())]), Text(vec![Part::Hidden(Secret::new(key))])];
    let program = ProgramPlan { argv, env: Vec::new(), file: None };
    plan()
        .pool("pg")
        .backend("a", 1)
        .tunnel("db:5432")
        .tunnel_with(|plan| plan.program = Some(std::sync::Arc::new(program)))
        .backend("b", 2)
}

fn stopped(rig: &Rig) -> Vec<BackendId> {
    let of = |command: &Command| match command {
        Command::StopTunnel { backend } => Some(*backend),
        _ => None,
    };
    rig.last.iter().filter_map(of).collect()
}

#[test]
fn the_same_plan_keeps_the_run() {
    let mut rig = Rig::new(with_key("one"));
    rig.up("a");
    rig.replan(with_key("one"));
    assert!(stopped(&rig).is_empty());
    assert_eq!((rig.starts("a"), rig.tunnel("a").state), (1, TunnelState::Connected));
    assert_eq!(rig.way("pg"), "a");
}

#[test]
fn another_plan_is_another_run_after_the_end_of_the_old_one() {
    let mut rig = Rig::new(with_key("one"));
    rig.up("a");
    rig.fit(&["b"]);
    let id = rig.id("a");
    rig.replan(with_key("two"));
    assert_eq!((stopped(&rig), rig.id("a")), (vec![id], id));
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").health), ("b", HealthState::Unknown));
    rig.pass(ms(200));
    rig.has_stopped("a");
    assert_eq!(rig.starts("a"), 2);
    rig.up("a");
}

#[test]
fn another_plan_has_a_failed_one_tried_at_once() {
    let mut rig = Rig::new(with_key("one"));
    rig.news("a", TunnelNews::Fatal { line: "denied".to_owned() });
    rig.has_stopped("a");
    rig.pass(ms(1000));
    rig.replan(with_key("one"));
    assert_eq!(rig.starts("a"), 1);
    rig.replan(with_key("two"));
    assert_eq!((rig.starts("a"), rig.tunnel("a").state), (2, TunnelState::Connecting));
}

#[test]
fn a_tunnel_that_is_removed_is_stopped_after_all_else() {
    let mut rig = Rig::new(two());
    rig.up("a");
    rig.fit(&["b"]);
    let id = rig.id("a");
    rig.replan(plan().pool("pg").backend("b", 2));
    assert_eq!(stopped(&rig), [id]);
    // What it tells of itself then is nobody's.
    rig.feed(Event::Tunnel { backend: id, run: crate::model::RunId(1), news: TunnelNews::Open });
    assert!(rig.last.is_empty());
    assert_eq!(rig.way("pg"), "b");
}

#[test]
fn a_backend_that_gets_or_loses_a_tunnel_is_another_one() {
    let direct = || plan().pool("pg").backend("a", 1).backend("b", 2);
    let mut rig = Rig::new(direct());
    rig.fit(&["a", "b"]);
    let first = rig.id("a");
    rig.replan(two());
    let second = rig.id("a");
    assert_ne!(first, second);
    assert_eq!((rig.starts("a"), rig.way("pg").as_str()), (1, "b"));
    rig.up("a");
    rig.replan(direct());
    assert_eq!(stopped(&rig), [second]);
    assert_ne!(rig.id("a"), second);
}

#[test]
fn a_stopped_one_stays_stopped_over_any_plan_with_its_name() {
    let mut rig = Rig::new(with_key("one"));
    rig.up("a");
    rig.order_tunnel("a", TunnelOrder::Stop).unwrap();
    rig.has_stopped("a");
    rig.replan(with_key("two"));
    rig.replan(plan().pool("pg").backend("a", 1).at("elsewhere:5432").tunnel("db:5432").backend("b", 2));
    rig.pass(ms(60_000));
    assert_eq!((rig.starts("a"), rig.tunnel("a").state), (0, TunnelState::Disconnected));
}

#[test]
fn a_plan_that_differs_in_when_it_is_started_anew_is_no_other_run() {
    let patient = || {
        let tunnelled = plan().pool("pg").backend("a", 1).tunnel("db:5432").tunnel_with(|plan| {
            (plan.restart_after, plan.ready_timeout) = (8, ms(60_000));
            (plan.retry_initial, plan.retry_max, plan.retry_reset) = (ms(100), ms(60_000), ms(5000));
        });
        tunnelled.backend("b", 2)
    };
    let mut rig = Rig::new(two());
    rig.up("a");
    rig.fit(&["b"]);
    rig.replan(patient());
    assert!(stopped(&rig).is_empty());
    assert_eq!((rig.starts("a"), rig.tunnel("a").state, rig.way("pg").as_str()), (1, TunnelState::Connected, "a | b"));
    for _ in 0..7 {
        rig.answer("a", super::rig::timed_out());
        assert!(rig.hands.runs.contains_key(&rig.id("a")));
    }
    rig.answer("a", super::rig::timed_out());
    assert!(rig.hands.stopping.contains_key(&rig.id("a")), "and yet it is in force");
    // One that does not run is tried at once.
    rig.has_stopped("a");
    rig.until_started("a");
    rig.news("a", TunnelNews::Fatal { line: "denied".to_owned() });
    rig.has_stopped("a");
    rig.pass(ms(1000));
    let starts = rig.starts("a");
    rig.replan(two());
    assert_eq!(rig.starts("a"), starts + 1);
}
