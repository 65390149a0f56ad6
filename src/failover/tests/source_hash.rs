//! `source-hash`: shares, and how few clients move when a backend comes or goes.

use std::sync::Arc;

use super::build::plan;
use super::pick::{pool, route};
use super::rig::Rig;
use crate::failover::slots::slots;
use crate::failover::{Arrival, Route, client_key};
use crate::model::{BackendId, Balance};

fn backends(ids: impl Iterator<Item = u32>) -> Vec<Route> {
    ids.map(|id| route(id, 1)).collect()
}

/// The owner of each slot, by number and not by place.
fn owners(routes: &[Route]) -> Vec<u32> {
    slots(routes).into_iter().map(|index| routes[index as usize].backend.0).collect()
}

/// The part of the slots whose owner differs.
fn moved(before: &[Route], after: &[Route]) -> f64 {
    let (before, after) = (owners(before), owners(after));
    before.iter().zip(&after).filter(|(a, b)| a != b).count() as f64 / before.len() as f64
}

fn shares(routes: &[Route]) -> Vec<f64> {
    let owners = owners(routes);
    let share = |route: &Route| owners.iter().filter(|&&id| id == route.backend.0).count() as f64 / owners.len() as f64;
    routes.iter().map(share).collect()
}

#[test]
fn a_backend_that_goes_or_comes_moves_its_share_of_the_clients_and_hardly_more() {
    for count in [2u32, 3, 10, 100] {
        let all = backends(1..=count);
        let due = 1.0 / f64::from(count);
        for gone in [1, count / 2 + 1, count] {
            let rest: Vec<Route> = all.iter().filter(|route| route.backend != BackendId(gone)).cloned().collect();
            let share = shares(&all)[gone as usize - 1];
            for moved in [moved(&all, &rest), moved(&rest, &all)] {
                assert!((share..share + 0.002).contains(&moved), "{gone} of {count} had {share}, and {moved} moved");
                assert!((moved - due).abs() < 0.3 * due + 0.002, "{gone} of {count} moves {moved}");
            }
        }
    }
}

#[test]
fn slots_that_nobody_hits_are_somebodys_too() {
    // No shot of a backend of this name hits the last slot. One name in 3,000 is like that.
    assert!(owners(&backends(3977..=3977)).iter().all(|&owner| owner == 3977));
}

#[test]
fn a_weight_that_changes_moves_the_difference() {
    let before = backends(1..=10);
    let mut after = before.clone();
    after[3].weight = 2;
    let moved = moved(&before, &after);
    let due = 2.0 / 11.0 - 1.0 / 10.0;
    assert!((moved - due).abs() < 0.02, "{moved} moved where {due} were due");
}

#[test]
fn shares_go_by_weight() {
    for weights in [&[1u32, 1, 1][..], &[1, 2, 7], &[1, 1000], &[400, 1000, 3], &[5; 50]] {
        let routes: Vec<Route> = (1..).zip(weights).map(|(id, &weight)| route(id, weight)).collect();
        let total: u32 = weights.iter().sum();
        for (&weight, share) in weights.iter().zip(shares(&routes)) {
            let due = f64::from(weight) / f64::from(total);
            // Three standard deviations of a draw of so many slots, and the few that are never hit.
            let spread = 3.0 * (due / 65_536.0).sqrt() + 0.001;
            assert!((share - due).abs() < spread, "{weights:?}: weight {weight} has {share} where {due} is due");
        }
    }
}

#[test]
fn ten_thousand_backends_have_their_shares_too() {
    let weights = (1..=10_000).map(|id| route(id, if id % 2 == 0 { 300 } else { 100 }));
    let routes: Vec<Route> = weights.collect();
    let heavy: f64 = shares(&routes[..]).iter().skip(1).step_by(2).sum();
    assert!((heavy - 0.75).abs() < 0.01, "{heavy}");
}

/// The very slots and keys: they must be the same in every process, on every machine and in every version.
#[test]
fn a_client_stays_with_its_backend_across_restarts_and_versions() {
    let routes = pool(Balance::SourceHash, vec![backends(1..=5)], false);
    let served = |ip: &str| {
        let client = client_key(Some(ip.parse().unwrap()));
        routes
            .pick(&Arrival {
                target: None,
                turn: fastrand::u64(..),
                chance: fastrand::u64(..),
                client,
                ..Arrival::default()
            })
            .unwrap()
            .backend
            .0
    };
    let ips = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "192.168.1.77", "2001:db8::1", "::1", "127.0.0.1"];
    assert_eq!(ips.map(served), [1, 1, 1, 3, 2, 1, 1]);
    assert_eq!(served("::ffff:10.0.0.1"), served("10.0.0.1"), "the same client over either protocol");
    assert_ne!(client_key(None), client_key(Some("0.0.0.0".parse().unwrap())));
}

#[test]
fn clients_are_spread_although_their_addresses_are_neighbours() {
    let routes = pool(Balance::SourceHash, vec![backends(1..=4)], false);
    let mut counts = [0; 4];
    for host in 0..=u16::MAX {
        let [a, b] = host.to_be_bytes();
        let client = client_key(Some([10, 0, a, b].into()));
        let route = routes.pick(&Arrival { client, ..Arrival::default() }).unwrap();
        counts[route.backend.0 as usize - 1] += 1;
    }
    assert!(counts.iter().all(|count| (15_000..18_000).contains(count)), "{counts:?}");
}

#[test]
fn a_client_whose_backend_is_passed_over_keeps_to_its_second() {
    let routes = pool(Balance::SourceHash, vec![backends(1..=5)], false);
    let mut seconds = std::collections::BTreeSet::new();
    for client in (0..200).map(|host: u8| client_key(Some([10, 0, 0, host].into()))) {
        let first = routes.pick(&Arrival { client, ..Arrival::default() }).unwrap().backend;
        let next = |turn| {
            routes
                .pick(&Arrival { target: None, client, turn, chance: turn, tried: &[first], will_wait: false })
                .unwrap()
                .backend
        };
        assert!(next(1) != first && next(1) == next(2));
        seconds.insert((first, next(1)));
    }
    assert_eq!(seconds.len(), 20, "the clients of one go to all others");
}

/// Laying out a tier of 10,000 takes milliseconds of the control plane's time: only one whose members change is.
#[test]
fn a_tier_whose_members_stay_is_not_laid_out_again() {
    let pools = plan().pool("pg").balance(Balance::SourceHash).backend("a", 1).backend("b", 2).backend("c", 2);
    let mut rig = Rig::new(pools.pool("web").backend("d", 1).backend("e", 1));
    rig.fit(&["a", "b", "c", "d", "e"]);
    let before = Arc::clone(rig.core.table());
    rig.kill("d");
    let after = Arc::clone(rig.core.table());
    assert!(after.generation > before.generation && Arc::ptr_eq(&before.pools["pg"], &after.pools["pg"]));
    rig.kill("a");
    let last = Arc::clone(rig.core.table());
    let (stayed, now) = (&after.pools["pg"].tiers[1], &last.pools["pg"].tiers[0]);
    assert!(stayed.routes().len() == 2 && Arc::ptr_eq(stayed.order(), now.order()));
    rig.kill("b");
    assert!(!Arc::ptr_eq(now.order(), rig.core.table().pools["pg"].tiers[0].order()), "its members are others");
}
