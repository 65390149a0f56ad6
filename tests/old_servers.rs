//! Servers before PostgreSQL 14, which do not report that they are in recovery: their role is asked for instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::net::SocketAddr;
use std::thread;

use changeover::model::{Lsn, PostgresPlan, Role, Timeline, TlsMode, WatchNews, WatchSession};
use support::cluster::{Cluster, HBA, PASSWORD, PLAIN};
use support::old_server::before_14;
use support::servers::Server;
use support::talker::Talker;
use support::watched::{Watched, plan};
use support::{DEADLINE, Site, wait_until};

/// Lines of `pg_hba.conf` that let the monitor in by the line `replication` alone.
const PHYSICAL: &str = "host replication changeover 127.0.0.0/8 scram-sha-256\n";

fn replication() -> PostgresPlan {
    PostgresPlan { tls: TlsMode::Disable, ..plan() }
}

fn plain() -> PostgresPlan {
    PostgresPlan { user: PLAIN.to_owned(), session: WatchSession::Plain, ..replication() }
}

/// What a promotion looks like to a monitor that logs in as `plan` says.
fn is_promoted(hba: &str, plan: PostgresPlan, tells_replayed: bool) {
    let is_plain = plan.session == WatchSession::Plain;
    let cluster = Cluster::with_hba(1, hba);
    let [primary, standby] = &cluster.nodes[..] else { unreachable!() };
    let (old_primary, old_standby) = (before_14(primary.addr), before_14(standby.addr));
    let facts = Watched::start(old_primary.addr, plan.clone()).opened();
    assert_eq!((facts.role, facts.timeline), (Role::Primary, Some(Timeline(1))));
    assert!(facts.written.unwrap() > Lsn(0) && facts.replayed.is_none());
    let watched = Watched::start(old_standby.addr, plan);
    let facts = watched.opened();
    assert_eq!((facts.role, facts.timeline), (Role::Standby, (!is_plain).then_some(Timeline(1))));
    assert_eq!((facts.written.is_some(), facts.replayed.is_some()), (true, tells_replayed), "{facts:?}");
    standby.promote();
    let mut told = Vec::new();
    let (at, facts) = watched.until("it is the primary", |news| {
        if let WatchNews::Seen(facts) = news {
            told.push((facts.role, facts.timeline));
            return (facts.role == Role::Primary).then(|| facts.clone());
        }
        None
    });
    standby.wait_primary();
    println!("told {:?} before a query could see it", at.elapsed());
    assert_eq!(facts.timeline, Some(Timeline(2)));
    assert_eq!(facts.history.len(), usize::from(!is_plain), "a plain session cannot read it");
    assert!(facts.written.unwrap() > Lsn(0) && facts.replayed.is_none());
    // Never as a primary of the timeline that it has left.
    assert!(!told.contains(&(Role::Primary, Some(Timeline(1)))), "{told:?}");
}

#[test]
fn a_promotion_is_noticed_by_a_replication_session() {
    is_promoted(HBA, replication(), true);
}

#[test]
fn a_promotion_is_noticed_by_a_physical_session() {
    is_promoted(PHYSICAL, replication(), false);
}

#[test]
fn a_promotion_is_noticed_by_a_plain_session() {
    is_promoted(HBA, plain(), true);
}

/// How often the facts of a server have come when so many of the other's have.
fn told(other: &Watched, times: usize, counted: &Watched) -> usize {
    counted.rest();
    for _ in 0..times {
        other.seen("its facts", |_| true);
    }
    counted.rest().iter().filter(|news| matches!(news, WatchNews::Seen(_))).count()
}

#[test]
fn one_that_does_not_report_its_role_is_asked_for_it_four_times_as_often() {
    let cluster = Cluster::start(0);
    let real = &cluster.nodes[0];
    let old = before_14(real.addr);
    for plan in [replication(), plain()] {
        let (reports, silent) = (Watched::start(real.addr, plan.clone()), Watched::start(old.addr, plan));
        reports.opened();
        silent.opened();
        // On a busy machine it is less often, but never so where both are asked every 200 ms.
        wait_until("twice as often at the least", DEADLINE, || told(&reports, 5, &silent) >= 10);
    }
}

/// The daemon in front of go-betweens to `cluster`.
fn site(cluster: &Cluster, login: &str) -> (Site, Vec<Server>) {
    let servers: Vec<Server> = cluster.nodes.iter().map(|node| before_14(node.addr)).collect();
    let tables: String = cluster
        .nodes
        .iter()
        .zip(&servers)
        .map(|(node, server)| format!("[pools.orders.backends.{}]\naddress = \"{}\"\n", node.name, server.addr))
        .collect();
    let site = Site::with(&format!(
        "kind = \"postgres\"\n[pools.orders.postgres]\npassword = \"{PASSWORD}\"\ntls = \"disable\"\n{login}\n{tables}\
         [listeners.reads]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\ntarget = \"standby\"\n"
    ));
    site.daemon.wait_state("orders", "healthy");
    (site, servers)
}

fn reach(at: SocketAddr) -> Result<String, String> {
    Ok(Talker::open(at)?.ask("SELECT host(inet_server_addr())")?.remove(0))
}

#[test]
fn a_promotion_beside_a_primary_that_lives_moves_those_who_write() {
    let cluster = Cluster::start(1);
    cluster.nodes[0].psql("CREATE TABLE t (n int)");
    let (site, _servers) = site(&cluster, "");
    let (writes, reads) = (site.daemon.listener("orders"), site.daemon.listener("reads"));
    let ip = |node: usize| cluster.nodes[node].addr.ip().to_string();
    assert_eq!((reach(writes), reach(reads)), (Ok(ip(0)), Ok(ip(1))));
    let mut writer = Talker::open(writes).unwrap();
    writer.ask("INSERT INTO t VALUES (1)").unwrap();
    cluster.nodes[1].wait_replayed(&cluster.nodes[0]);
    cluster.nodes[1].promote();
    wait_until("the new one serves", DEADLINE, || reach(writes) == Ok(ip(1)));
    writer.ask("INSERT INTO t VALUES (2)").expect_err("its session is cut");
    assert_eq!(cluster.nodes[0].psql("SELECT count(*) FROM t"), "1");
}

#[test]
fn without_a_history_a_promotion_counts_once_the_old_primary_is_gone() {
    let mut cluster = Cluster::start(1);
    let (site, mut servers) = site(&cluster, &format!("session = \"plain\"\nuser = \"{PLAIN}\""));
    let writes = site.daemon.listener("orders");
    assert_eq!(reach(writes), Ok(cluster.nodes[0].addr.ip().to_string()));
    servers[0].close();
    cluster.nodes[0].kill();
    site.daemon.wait_health("orders", "pg1", "unhealthy");
    let waits = thread::spawn(move || reach(writes));
    site.daemon.wait_held("orders", 1);
    cluster.nodes[1].promote();
    assert_eq!(waits.join().unwrap(), Ok(cluster.nodes[1].addr.ip().to_string()));
}
