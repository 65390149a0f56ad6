//! The pick from a table: turns, tiers, and why there is no route.

use super::build::{ms, plan};
use super::rig::Rig;
use crate::failover::tier::Tier;
use crate::failover::{Arrival, NoRoute, PoolRoutes, Route};
use crate::model::{Approach, BackendId, Balance, DialPlan, Epoch, HoldPlan, Resend, WhenDown};

pub(super) fn route(id: u32, weight: u32) -> Route {
    let name = format!("b{id}");
    let address = format!("{name}:1").parse().unwrap();
    Route {
        backend: BackendId(id),
        name: name.as_str().into(),
        address,
        weight,
        approach: Approach::PLAIN,
        max_connections: 0,
        epoch: Epoch::default(),
        load: Default::default(),
    }
}

/// A pool of these tiers, laid out.
pub(super) fn pool(balance: Balance, tiers: Vec<Vec<Route>>, pending: bool) -> PoolRoutes {
    let mut routes = PoolRoutes {
        name: "pg".into(),
        dial: DialPlan { connect_timeout: ms(1), connect_attempts: 3, resend: Resend::Greeting },
        hold: HoldPlan { when_down: WhenDown::Hold, hold: ms(1), hold_limit: 1 },
        pending,
        paused: false,
        others: Default::default(),
        kind: crate::model::PoolKind::Tcp,
        servers: Vec::new(),
        lingering: Vec::new(),
        tiers: tiers.into_iter().map(|routes| Tier::new(balance, routes)).collect(),
    };
    routes.lay_out(None);
    routes
}

fn routes(tiers: &[&[(u32, u32)]], pending: bool) -> PoolRoutes {
    let tier = |tier: &&[(u32, u32)]| tier.iter().map(|&(id, weight)| route(id, weight)).collect();
    pool(Balance::RoundRobin, tiers.iter().map(tier).collect(), pending)
}

fn pick(routes: &PoolRoutes, turn: u64, tried: &[u32]) -> Result<u32, NoRoute> {
    let tried: Vec<BackendId> = tried.iter().copied().map(BackendId).collect();
    routes.pick(&Arrival { turn, tried: &tried, ..Arrival::default() }).map(|route| route.backend.0)
}

#[test]
fn sessions_take_turns() {
    let routes = routes(&[&[(1, 2), (2, 1)], &[(3, 1)]], false);
    let order: Vec<u32> = (0..7).map(|turn| pick(&routes, turn, &[]).unwrap()).collect();
    assert_eq!(order, [1, 2, 1, 1, 2, 1, 1]);
    assert!(pick(&routes, u64::MAX, &[]).is_ok());
}

#[test]
fn what_was_tried_is_passed_over() {
    let routes = routes(&[&[(1, 1), (2, 1), (3, 1)]], false);
    assert_eq!(pick(&routes, 1, &[2]), Ok(3));
    assert_eq!(pick(&routes, 2, &[3]), Ok(1), "after the last comes the first");
    assert_eq!(pick(&routes, 1, &[2, 3]), Ok(1));
    assert_eq!(pick(&routes, 0, &[9]), Ok(1), "what is not in the tier is no hindrance");
}

#[test]
fn a_failed_dial_goes_on_to_the_next_tier() {
    let routes = routes(&[&[(1, 1), (2, 1)], &[(3, 1)], &[(4, 1)]], false);
    assert_eq!(pick(&routes, 0, &[1, 2]), Ok(3));
    assert_eq!(pick(&routes, 0, &[1, 2, 3]), Ok(4));
    assert_eq!(pick(&routes, 0, &[2, 1]), Ok(3));
    assert_eq!(pick(&routes, 0, &[3]), Ok(1), "the active tier goes first");
}

#[test]
fn no_route_says_why() {
    assert_eq!(pick(&routes(&[&[(1, 1)]], false), 0, &[1]), Err(NoRoute::Exhausted));
    assert_eq!(pick(&routes(&[&[(1, 1)]], true), 0, &[1]), Err(NoRoute::Exhausted));
    assert_eq!(pick(&routes(&[], true), 0, &[]), Err(NoRoute::Pending));
    assert_eq!(pick(&routes(&[], false), 0, &[]), Err(NoRoute::Down));
}

#[test]
fn an_empty_tier_is_passed_over() {
    assert_eq!(pick(&routes(&[&[], &[(1, 1)]], false), 5, &[]), Ok(1));
}

#[test]
fn weights_of_the_plan_reach_the_pick() {
    let mut rig = Rig::new(plan().pool("pg").backend("a", 1).weight(3).backend("b", 1));
    rig.fit(&["a", "b"]);
    let table = rig.core.table();
    let routes = &table.pools["pg"];
    let a = (0..400)
        .filter(|&turn| routes.pick(&Arrival { turn, ..Arrival::default() }).unwrap().name.as_str() == "a")
        .count();
    assert_eq!(a, 300);
}
