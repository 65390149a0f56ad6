//! What an agent asks for, joined with what people say.

use super::build::{ms, plan};
use super::rig::{Rig, advised, failed, passed};
use crate::failover::{Arrival, Change};
use crate::model::{AdminState, AgentCheck, CheckError, CheckKind, HealthState, PoolName, ProbeError};

use AdminState::{Drain, Maintenance, Ready};

fn two() -> Rig {
    let plan = plan().pool("pg").failback_after(ms(0)).backend("a", 1).weight(10).backend("b", 2);
    let mut rig = Rig::new(plan);
    rig.fit(&["a", "b"]);
    rig
}

fn weight(rig: &Rig) -> u32 {
    let routes = &rig.core.table().pools[&PoolName::from("pg")];
    let arrival = Arrival { target: None, turn: 0, client: 0, chance: 0, tried: &[], will_wait: false };
    let route = routes.pick(&arrival).unwrap();
    assert_eq!(route.name.as_str(), "a");
    route.weight
}

#[test]
fn the_stricter_of_agent_and_operator_wins() {
    let mut rig = two();
    rig.answer("a", advised(Some(Drain), None));
    assert_eq!(rig.kinds(), ["backend.admin_state", "pool.failover", "pool.degraded"]);
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").reason.as_str()), ("b", "drained by its agent"));
    rig.order("a", Maintenance);
    assert_eq!((rig.backend("a").admin_state, rig.backend("a").reason.as_str()), (Maintenance, "in maintenance"));
    rig.answer("a", advised(Some(Ready), None));
    assert_eq!(rig.backend("a").admin_state, Maintenance);
    rig.order("a", Ready);
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").admin_state), ("a | b", Ready));
    rig.answer("a", advised(Some(Maintenance), None));
    assert_eq!(rig.backend("a").reason, "in maintenance by its agent");
    rig.order("a", Drain);
    assert_eq!(rig.backend("a").admin_state, Maintenance);
}

#[test]
fn nothing_said_leaves_what_was_said() {
    let mut rig = two();
    rig.answer("a", advised(Some(Drain), Some(50)));
    rig.answer("a", passed());
    assert_eq!(rig.backend("a").admin_state, Drain);
    assert!(rig.last.iter().all(|command| !matches!(command, crate::failover::Command::PublishTable(_))));
    rig.answer("a", advised(Some(Ready), None));
    assert_eq!(weight(&rig), 5, "the weight it asked for meanwhile");
}

#[test]
fn sessions_drain_by_the_agents_word_and_stay_when_it_takes_it_back() {
    let mut rig = two();
    rig.answer("a", advised(Some(Drain), None));
    assert_eq!(rig.core.departures.iter().count(), 1);
    rig.order("a", Drain);
    assert_eq!(rig.core.departures.iter().count(), 1, "drained once");
    rig.order("a", Ready);
    assert_eq!(rig.core.departures.iter().count(), 1, "the agent still wants it");
    rig.answer("a", advised(Some(Ready), None));
    assert_eq!(rig.core.departures.iter().count(), 0);
}

#[test]
fn weight_is_a_share_of_what_the_plan_says() {
    let mut rig = two();
    for (percent, expected) in [(50, 5), (44, 4), (45, 5), (1, 1), (100, 10), (250, 25)] {
        rig.answer("a", advised(None, Some(percent)));
        assert_eq!((weight(&rig), rig.backend("a").weight), (expected, expected), "{percent} %");
    }
}

#[test]
fn no_weight_gets_nothing_new_and_keeps_what_it_has() {
    let mut rig = two();
    rig.answer("a", advised(None, Some(0)));
    assert_eq!((rig.way("pg").as_str(), rig.backend("a").admin_state), ("b", Drain));
    assert_eq!(rig.core.departures.iter().count(), 0);
    rig.answer("a", advised(None, Some(30)));
    assert_eq!((rig.way("pg").as_str(), weight(&rig)), ("a | b", 3));
}

#[test]
fn an_agent_that_says_down_is_a_failed_probe() {
    let mut rig = two();
    for _ in 0..3 {
        rig.answer("a", failed(ProbeError::Check(CheckError::AgentDown)));
    }
    assert_eq!((rig.backend("a").health, rig.way("pg").as_str()), (HealthState::Unhealthy, "b"));
    assert_eq!(rig.backend("a").reason, "check_failed: agent_down");
}

#[test]
fn what_an_agent_asked_for_goes_with_the_agent() {
    let agent = || CheckKind::Agent(AgentCheck { port: 7, send: String::new() });
    let asked = |kind: CheckKind| {
        let pool = plan().pool("pg").failback_after(ms(0)).backend("a", 1);
        pool.check(move |check| check.kind = kind.clone()).backend("b", 2)
    };
    let mut rig = Rig::new(asked(agent()));
    rig.fit(&["a", "b"]);
    rig.answer("a", advised(Some(Drain), Some(10)));
    rig.replan(asked(agent()));
    assert_eq!(rig.way("pg"), "b");
    assert_eq!(rig.core.departures.iter().count(), 1);
    rig.replan(asked(CheckKind::Tcp));
    assert_eq!(rig.way("pg"), "a | b");
    assert_eq!(rig.core.departures.iter().count(), 0);
    assert!(rig.told.iter().any(|change| matches!(change, Change::BackendAdminState { to: Drain, .. })));
}
