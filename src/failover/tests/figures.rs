//! The figures that are shown: what they say, and that they are told when they change and only then.

use super::build::{ms, plan};
use super::clustered::{facts, healthy, three};
use super::rig::Rig;
use crate::failover::Figures;
use crate::model::{BackendFigures, BackendId, PoolFigures, PoolState, Redundancy, Role, ServerFigures};

/// What is told of the pool, and of each backend.
fn news(rig: &mut Rig) -> (Option<PoolFigures>, Vec<(BackendId, BackendFigures)>) {
    let (mut pool, mut backends) = (None, Vec::new());
    rig.core.tell_figures(&mut |figures| match figures {
        Figures::Pool(_, figures) => assert!(pool.replace(figures).is_none(), "told twice"),
        Figures::Backend(id, figures) => backends.push((id, figures)),
    });
    (pool, backends)
}

#[test]
fn what_has_changed_is_told_once_and_nothing_else() {
    let mut rig = Rig::new(plan().pool("orders").backend("a", 1).backend("b", 2));
    let (pool, backends) = news(&mut rig);
    assert_eq!(pool.map(|pool| (pool.state, pool.redundancy)), Some((PoolState::Unknown, Redundancy::None)));
    let ids = [rig.id("a"), rig.id("b")];
    assert_eq!(backends.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids, "everything is news at first");
    rig.fit(&["a", "b"]);
    news(&mut rig);
    rig.tick();
    assert_eq!(news(&mut rig), (None, Vec::new()), "nothing happened");
    rig.kill("b");
    let (pool, backends) = news(&mut rig);
    assert_eq!(pool.map(|pool| pool.redundancy), Some(Redundancy::Single));
    let out = BackendFigures { is_healthy: false, is_eligible: false, server: None, tunnel: None };
    assert_eq!(backends, [(rig.id("b"), out)], "nothing of the other");
    assert_eq!(news(&mut rig), (None, Vec::new()), "it was told");
    rig.revive("b");
    let fit = BackendFigures { is_healthy: true, is_eligible: true, server: None, tunnel: None };
    assert_eq!(news(&mut rig).1, [(rig.id("b"), fit)]);
}

#[test]
fn only_a_cluster_says_whether_it_serves_writes() {
    let mut rig = Rig::new(plan().pool("orders").backend("a", 1));
    rig.fit(&["a"]);
    rig.replan(plan().pool("orders").backend("a", 2));
    let figures = |rig: &Rig| rig.core.pools.values().next().and_then(|pool| pool.told);
    news(&mut rig);
    assert_eq!(figures(&rig).map(|pool| pool.serves_writes), Some(None));
    let mut rig = healthy(three());
    news(&mut rig);
    assert_eq!(figures(&rig).map(|pool| pool.serves_writes), Some(Some(true)));
    rig.dies("a");
    news(&mut rig);
    assert_eq!(figures(&rig).map(|pool| pool.serves_writes), Some(Some(false)), "standbys take no writes");
    for _ in 0..2 {
        rig.sees("b", facts(Role::Primary, 2, 1200, &[1000]));
    }
    assert_eq!(rig.way("pg"), "b");
    news(&mut rig);
    assert_eq!(figures(&rig).map(|pool| pool.serves_writes), Some(Some(true)));
}

#[test]
fn a_server_shows_its_role_and_how_far_it_is_behind() {
    let mut rig = healthy(three());
    rig.sees("a", facts(Role::Primary, 1, 5000, &[]));
    rig.sees("b", facts(Role::Standby, 1, 4000, &[]));
    news(&mut rig);
    let told = |rig: &Rig, name: &str| {
        let id = rig.id(name);
        let mut members = rig.core.pools.values().flat_map(|pool| pool.members());
        members.find(|member| member.id == id).and_then(|member| member.told).and_then(|figures| figures.server)
    };
    let server = |is_standby, bytes| ServerFigures {
        is_standby,
        is_monitored: true,
        behind_bytes: Some(bytes),
        behind_time: Some(ms(0)),
    };
    assert_eq!((told(&rig, "a"), told(&rig, "b")), (Some(server(false, 0)), Some(server(true, 1000))));
}
