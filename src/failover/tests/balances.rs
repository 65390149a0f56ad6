//! Who gets a session by each of the balances, by weight, and what happens to those that are full.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::build::plan;
use super::pick::{pool, route};
use super::rig::Rig;
use crate::failover::{Arrival, EXACT_MAX, NoRoute, PoolRoutes, Route};
use crate::model::{BackendId, Balance, Loads, Place};

/// Backends of these weights, numbered from one.
fn backends(weights: &[u32]) -> Vec<Route> {
    (1..).zip(weights).map(|(id, &weight)| route(id, weight)).collect()
}

fn full_at(limit: u32, mut route: Route) -> Route {
    route.max_connections = limit;
    route
}

/// A crowd that comes and stays.
struct Crowd {
    routes: PoolRoutes,
    places: Vec<(u32, Place)>,
    rng: fastrand::Rng,
}

impl Crowd {
    fn new(balance: Balance, tiers: Vec<Vec<Route>>) -> Self {
        Self { routes: pool(balance, tiers, false), places: Vec::new(), rng: fastrand::Rng::with_seed(7) }
    }

    fn come(&mut self, tried: &[BackendId]) -> Result<u32, NoRoute> {
        let turn = self.places.len() as u64;
        let arrival =
            Arrival { target: None, turn, client: self.rng.u64(..), chance: self.rng.u64(..), tried, will_wait: false };
        let route = self.routes.pick(&arrival)?;
        let id = route.backend.0;
        self.places.push((id, route.load.take(route.max_connections).expect("picked, so there is room")));
        Ok(id)
    }

    fn of(mut self, sessions: usize) -> Self {
        for _ in 0..sessions {
            self.come(&[]).unwrap();
        }
        self
    }

    fn loads(&self) -> Vec<u32> {
        self.routes.tiers.iter().flat_map(|tier| tier.routes()).map(|route| route.load.sessions()).collect()
    }

    fn fullest(&self) -> u32 {
        self.loads().into_iter().max().unwrap()
    }
}

#[test]
fn least_connections_fills_evenly_and_by_weight() {
    assert_eq!(Crowd::new(Balance::LeastConnections, vec![backends(&[1; 10])]).of(1000).loads(), [100; 10]);
    assert_eq!(Crowd::new(Balance::LeastConnections, vec![backends(&[1, 2, 7])]).of(1000).loads(), [100, 200, 700]);
    assert_eq!(Crowd::new(Balance::LeastConnections, vec![backends(&[1, 1000])]).of(2002).loads(), [2, 2000]);
}

#[test]
fn least_connections_takes_turns_while_all_are_idle() {
    let routes = pool(Balance::LeastConnections, vec![backends(&[1, 1, 1])], false);
    let pick = |turn| routes.pick(&Arrival { target: None, turn, ..Arrival::default() }).unwrap().backend.0;
    assert_eq!((0..6).map(pick).collect::<Vec<_>>(), [1, 2, 3, 1, 2, 3]);
}

#[test]
fn least_connections_makes_up_for_sessions_that_ended() {
    let mut crowd = Crowd::new(Balance::LeastConnections, vec![backends(&[1; 4])]).of(400);
    crowd.places.retain(|(id, _)| *id != 2);
    assert_eq!(crowd.loads(), [100, 0, 100, 100]);
    for _ in 0..100 {
        assert_eq!(crowd.come(&[]), Ok(2));
    }
    assert_eq!(crowd.loads(), [100; 4]);
}

#[test]
fn least_connections_of_a_large_tier_is_close_to_even() {
    let crowd = Crowd::new(Balance::LeastConnections, vec![backends(&[1; 1000])]).of(100_000);
    assert!(crowd.fullest() <= 102, "{} at the fullest where 100 are due", crowd.fullest());
    let weights: Vec<u32> = (0..1000).map(|i| if i % 2 == 0 { 1 } else { 3 }).collect();
    let crowd = Crowd::new(Balance::LeastConnections, vec![backends(&weights)]).of(200_000);
    for (weight, load) in weights.iter().zip(crowd.loads()) {
        assert!(load.abs_diff(100 * weight) <= 3 * weight + 2, "weight {weight} carries {load}");
    }
}

#[test]
fn least_connections_is_exactly_even_among_as_many_as_are_all_looked_at() {
    let crowd = Crowd::new(Balance::LeastConnections, vec![backends(&[1; EXACT_MAX])]).of(100 * EXACT_MAX);
    assert_eq!(crowd.loads(), [100; EXACT_MAX]);
}

#[test]
fn two_choices_are_better_than_one() {
    let crowd = Crowd::new(Balance::Random, vec![backends(&[1; 100])]).of(10_000);
    let mut one = vec![0; 100];
    let mut rng = fastrand::Rng::with_seed(7);
    (0..10_000).for_each(|_| one[rng.usize(..100)] += 1);
    let one = one.into_iter().max().unwrap();
    assert!(crowd.fullest() <= 104 && one >= 115, "{} with two, {one} with one", crowd.fullest());
}

#[test]
fn random_goes_by_weight() {
    let loads = Crowd::new(Balance::Random, vec![backends(&[1, 2, 7])]).of(10_000).loads();
    for (load, due) in loads.iter().zip([1000u32, 2000, 7000]) {
        assert!(load.abs_diff(due) < due / 20, "{loads:?}");
    }
}

#[test]
fn latency_prefers_the_faster() {
    let routes = backends(&[1, 1, 1]);
    for (route, millis) in routes.iter().zip([1, 10, 10]) {
        route.load.measured(Duration::from_millis(millis));
    }
    let loads = Crowd::new(Balance::Latency, vec![routes]).of(3000).loads();
    // It gets every session for which it is drawn, five of nine, and nobody is left without any.
    assert!(loads[0].abs_diff(3000 * 5 / 9) < 60 && loads[1].abs_diff(loads[2]) < 60, "{loads:?}");
}

#[test]
fn latency_takes_the_faster_of_two_when_all_are_idle() {
    let routes = backends(&[1, 1]);
    routes[0].load.measured(Duration::from_millis(30));
    routes[1].load.measured(Duration::from_millis(3));
    let routes = pool(Balance::Latency, vec![routes], false);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut fast = 0;
    for _ in 0..4000 {
        let arrival = Arrival { chance: rng.u64(..), ..Arrival::default() };
        fast += u32::from(routes.pick(&arrival).unwrap().backend == BackendId(2));
    }
    // The slower one is chosen when both draws are of it: a quarter.
    assert!((2850..3150).contains(&fast), "{fast} of 4000");
}

#[test]
fn differences_of_latency_within_the_noise_weigh_little() {
    let routes = backends(&[1, 1]);
    routes[0].load.measured(Duration::from_micros(40));
    routes[1].load.measured(Duration::from_micros(60));
    let loads = Crowd::new(Balance::Latency, vec![routes]).of(2000).loads();
    assert!(loads[0].abs_diff(loads[1]) < 200, "{loads:?}");
}

#[test]
fn a_full_backend_is_passed_over_within_its_tier_and_then_for_the_next() {
    for &balance in Balance::ALL {
        let first = backends(&[1, 1, 1]).into_iter().map(|route| full_at(2, route)).collect();
        let mut crowd = Crowd::new(balance, vec![first, vec![full_at(3, route(9, 1))]]);
        let order: Vec<u32> = (0..9).map(|_| crowd.come(&[]).unwrap()).collect();
        assert!(order[..6].iter().all(|&id| id < 9) && order[6..] == [9, 9, 9], "{balance}: {order:?}");
        assert_eq!(crowd.loads(), [2, 2, 2, 3], "{balance}");
        assert_eq!(crowd.come(&[]), Err(NoRoute::Full), "{balance}");
        crowd.places.remove(order.iter().position(|&id| id == 2).unwrap());
        assert_eq!(crowd.come(&[]), Ok(2), "{balance}: the one with room is found");
    }
}

#[test]
fn what_was_tried_and_what_is_full_differ_as_reasons() {
    for &balance in Balance::ALL {
        let mut crowd = Crowd::new(balance, vec![vec![full_at(1, route(1, 1)), route(2, 1)]]);
        assert_eq!(crowd.come(&[BackendId(2)]), Ok(1), "{balance}");
        assert_eq!(crowd.come(&[BackendId(2)]), Err(NoRoute::Full), "{balance}");
        assert_eq!(crowd.come(&[BackendId(2), BackendId(1)]), Err(NoRoute::Exhausted), "{balance}");
        assert_eq!(crowd.come(&[BackendId(1)]), Ok(2), "{balance}");
    }
}

#[test]
fn every_balance_copes_with_none_and_with_one() {
    for &balance in Balance::ALL {
        assert_eq!(Crowd::new(balance, vec![]).come(&[]), Err(NoRoute::Down), "{balance}");
        assert_eq!(Crowd::new(balance, vec![vec![]]).come(&[]), Err(NoRoute::Exhausted), "{balance}");
        assert_eq!(Crowd::new(balance, vec![vec![route(1, 1000)]]).of(50).loads(), [50], "{balance}");
        let mut crowd = Crowd::new(balance, vec![vec![], vec![route(1, 1)]]);
        assert_eq!(crowd.come(&[]), Ok(1), "{balance}: an empty tier is passed over");
    }
}

#[test]
fn without_automatic_failover_no_session_leaves_a_tier_that_is_full() {
    let plan = plan().pool("pg").manual_failover().backend("a", 1).max_connections(1).backend("b", 2);
    let mut rig = Rig::new(plan);
    rig.fit(&["a", "b"]);
    let table = Arc::clone(rig.core.table());
    let _place = table.pools["pg"].pick(&Arrival::default()).unwrap().load.take(1).unwrap();
    assert_eq!(table.pools["pg"].pick(&Arrival::default()).err(), Some(NoRoute::Full));
}

#[test]
fn a_count_outlives_tables_and_plans() {
    let first = plan().pool("pg").backend("a", 1).backend("b", 2);
    let second = plan().pool("pg").backend("a", 7).max_connections(2).backend("c", 2);
    let mut rig = Rig::new(first);
    rig.fit(&["a", "b"]);
    let _place = rig.core.table().pools["pg"].pick(&Arrival::default()).unwrap().load.take(0).unwrap();
    rig.kill("b");
    rig.replan(second);
    let table = Arc::clone(rig.core.table());
    let routes: Vec<&Route> = table.pools["pg"].tiers.iter().flat_map(|tier| tier.routes()).collect();
    let a = routes.iter().find(|route| route.name.as_str() == "a").unwrap();
    assert_eq!((a.load.sessions(), a.max_connections), (1, 2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the balance, weights and limits: nobody is ever beyond its limit, and nobody is refused while there is room.
    #[test]
    fn every_place_is_found_and_none_is_given_twice(
        balance in prop::sample::select(Balance::ALL),
        backends in prop::collection::vec((1u32..=1000, 1u32..4), 1..2 * EXACT_MAX),
    ) {
        let limit: u32 = backends.iter().map(|(_, limit)| limit).sum();
        let routes = (1..).zip(&backends).map(|(id, &(weight, limit))| full_at(limit, route(id, weight))).collect();
        let mut crowd = Crowd::new(balance, vec![routes]).of(limit as usize);
        prop_assert_eq!(crowd.loads(), backends.iter().map(|&(_, limit)| limit).collect::<Vec<_>>());
        prop_assert_eq!(crowd.come(&[]), Err(NoRoute::Full));
    }

    /// Sessions come and go, limits change by a reload, and some threads still look into the table before the last:
    /// while there is room somewhere, whoever comes is given some.
    #[test]
    fn room_in_a_large_tier_is_never_overlooked(
        balance in prop::sample::select(Balance::ALL),
        size in EXACT_MAX + 1..150,
        steps in prop::collection::vec((0u32..10, any::<u32>()), 1..200),
    ) {
        let mut loads = Loads::default();
        let tier: Vec<Route> = (1..).take(size).map(|id| Route { load: loads.make(), ..full_at(1, route(id, 1)) }).collect();
        let mut crowd = Crowd::new(balance, vec![tier.clone()]);
        while crowd.come(&[]).is_ok() {}
        let mut before = pool(balance, vec![tier], false);
        for (what, word) in steps {
            match what {
                0 => {
                    // One of 64 may have two.
                    let limit = |id: u32| 1 + u32::from((word ^ id).wrapping_mul(0x9e37_79b9) >> 26 == 0);
                    let limited = crowd.routes.tiers[0].routes().iter().cloned();
                    let limited = limited.map(|route| full_at(limit(route.backend.0), route)).collect();
                    before = std::mem::replace(&mut crowd.routes, pool(balance, vec![limited], false));
                }
                1..4 => drop(before.pick(&Arrival { target: None, turn: word.into(), client: word.into(), ..Arrival::default() })),
                4 if !crowd.places.is_empty() => {
                    crowd.places.swap_remove(word as usize % crowd.places.len());
                }
                _ => {
                    let has_room = crowd.routes.tiers[0].routes().iter().any(|route| route.load.sessions() < route.max_connections);
                    prop_assert_eq!(crowd.come(&[]).is_ok(), has_room);
                }
            }
        }
    }
}

/// A thread may be stopped between its note that a backend is full and its second look.
#[test]
fn one_who_would_wait_finds_room_that_a_note_hides() {
    let mut loads = Loads::default();
    let tier: Vec<Route> = (1..=300).map(|id| Route { load: loads.make(), ..full_at(1, route(id, 1)) }).collect();
    let _crowd = Crowd::new(Balance::RoundRobin, vec![tier.clone()]).of(300);
    let mut more = tier.clone();
    more[199].max_connections = 2;
    let routes = pool(Balance::RoundRobin, vec![more], false);
    // The same note as such a thread's: under the limit that was in force before.
    tier[199].load.set_limit(1);
    assert!(tier[199].is_full());
    let found = |will_wait| routes.pick(&Arrival { will_wait, ..Arrival::default() }).map(|route| route.backend.0);
    assert_eq!((found(false), found(true)), (Err(NoRoute::Full), Ok(200)));
    assert_eq!(found(false), Ok(200), "the note is gone");
}
