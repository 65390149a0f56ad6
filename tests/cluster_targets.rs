//! Readers of a real PostgreSQL cluster: a primary and two standbys that fall behind, die and come back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::net::SocketAddr;
use std::thread;

use support::cluster::{Cluster, Node, PASSWORD};
use support::talker::Talker;
use support::{DEADLINE, Site, wait_until};

/// The address of the server that a session reaches.
const WHERE: &str = "SELECT host(inet_server_addr())";

/// A quarter of the log that [`site`] lets a standby be behind by.
const SOME: &str = "INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series(1, 1000) n";

/// The daemon in front of `cluster`, with `settings` of the pool, and its listeners for `standby` and for `prefer-standby`.
fn site(cluster: &Cluster, settings: &str) -> (Site, SocketAddr, SocketAddr) {
    cluster.nodes[0].psql("CREATE TABLE t (n int, filler text)");
    let tables = cluster.tables();
    let site = Site::with(&format!(
        "kind = \"postgres\"\nbalance = \"round-robin\"\n{settings}\n\
         [pools.orders.postgres]\npassword = \"{PASSWORD}\"\nmax_lag = \"1MiB\"\n{tables}\
         [listeners.standby]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\ntarget = \"standby\"\n\
         [listeners.prefers]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\ntarget = \"prefer-standby\"\n"
    ));
    site.daemon.wait_state("orders", "healthy");
    let (standby, prefers) = (site.daemon.listener("standby"), site.daemon.listener("prefers"));
    (site, standby, prefers)
}

fn reach(at: SocketAddr) -> Result<String, String> {
    Ok(Talker::open_patient(at)?.ask(WHERE)?.remove(0))
}

fn ip(node: &Node) -> String {
    node.addr.ip().to_string()
}

/// Where a few that come one after another get, each address once.
fn reached(at: SocketAddr) -> Vec<String> {
    let mut found: Vec<String> = (0..6).map(|_| reach(at).unwrap()).collect();
    found.sort();
    found.dedup();
    found
}

fn ips(nodes: &[&Node]) -> Vec<String> {
    let mut ips: Vec<String> = nodes.iter().map(|node| ip(node)).collect();
    ips.sort();
    ips
}

/// A session at each standby.
fn readers(at: SocketAddr, cluster: &Cluster) -> Vec<(Talker, String)> {
    let mut readers: Vec<(Talker, String)> = Vec::new();
    wait_until("there is a reader at each standby", DEADLINE, || {
        let mut talker = Talker::open(at).unwrap();
        let reached = talker.ask(WHERE).unwrap().remove(0);
        if readers.iter().all(|(_, known)| *known != reached) {
            readers.push((talker, reached));
        }
        readers.len() == cluster.nodes.len() - 1
    });
    readers
}

fn read_on(readers: &mut [(Talker, String)]) {
    for (talker, reached) in readers {
        assert_eq!(talker.ask(WHERE).as_ref().map(|rows| &rows[0]), Ok(&*reached), "its session goes on");
    }
}

fn wait_eligible(site: &Site, node: &Node, eligible: bool) {
    let is_so = || site.daemon.backend("orders", &node.name)["eligible"] == eligible;
    wait_until(&format!("{} is eligible: {eligible}", node.name), DEADLINE, is_so);
}

/// Whether readers may go to it; what the metric says of it.
fn wait_readable(site: &Site, node: &Node, readable: bool) {
    let labels = [("pool", "orders"), ("backend", &*node.name)];
    site.daemon.wait_metric("standby_healthy", &labels, f64::from(u8::from(readable)));
}

/// Stops what `standby` replays, and has the primary write more than it may be behind by.
fn falls_behind(site: &Site, cluster: &Cluster, standby: &Node) {
    standby.psql("SELECT pg_wal_replay_pause()");
    wait_until("replay is paused", DEADLINE, || standby.psql("SELECT pg_get_wal_replay_pause_state()") == "paused");
    // Twice what it may be behind by, and never so much at once that one that replays falls behind as well.
    for _ in 0..8 {
        cluster.nodes[0].psql(SOME);
        let written = cluster.nodes[0].psql("SELECT pg_current_wal_lsn()");
        let is_there = format!("SELECT pg_is_wal_replay_paused() OR pg_last_wal_replay_lsn() >= '{written}'");
        for other in &cluster.nodes[1..] {
            wait_until("whoever replays has caught up", DEADLINE, || other.psql(&is_there) == "t");
        }
    }
    wait_readable(site, standby, false);
}

fn catches_up(site: &Site, standby: &Node) {
    standby.psql("SELECT pg_wal_replay_resume()");
    wait_readable(site, standby, true);
}

#[test]
fn a_standby_that_lags_keeps_its_sessions_and_gets_no_new_ones_and_without_any_readers_wait() {
    let mut cluster = Cluster::start(2);
    let (site, standby, prefers) = site(&cluster, "");
    let mut old = readers(standby, &cluster);
    {
        let [primary, one, two] = &cluster.nodes[..] else { unreachable!() };
        assert_eq!(reached(prefers), ips(&[one, two]));

        falls_behind(&site, &cluster, one);
        assert_eq!((reached(standby), reached(prefers)), (ips(&[two]), ips(&[two])));
        read_on(&mut old);

        falls_behind(&site, &cluster, two);
        assert_eq!(reached(prefers), ips(&[primary]), "rather than none");
        let waits = thread::spawn(move || reach(standby));
        site.daemon.wait_held("standby", 1);
        read_on(&mut old);

        catches_up(&site, two);
        assert_eq!(waits.join().unwrap(), Ok(ip(two)), "who waited goes on");
        assert_eq!((reached(standby), reached(prefers)), (ips(&[two]), ips(&[two])));
        catches_up(&site, one);
        assert_eq!((reached(standby), reached(prefers)), (ips(&[one, two]), ips(&[one, two])));
        read_on(&mut old);
    }

    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    for number in [1, 2] {
        site.daemon.wait_health("orders", &cluster.nodes[number].name, "unhealthy");
    }
    assert!(old.iter_mut().all(|(talker, _)| talker.ask(WHERE).is_err()), "their servers are gone");
    assert_eq!(reached(prefers), ips(&[&cluster.nodes[0]]));
    let waits = thread::spawn(move || reach(standby));
    site.daemon.wait_held("standby", 1);
    cluster.nodes[2].start();
    assert_eq!(waits.join().unwrap(), Ok(ip(&cluster.nodes[2])));
    cluster.nodes[1].start();
    for number in [1, 2] {
        wait_readable(&site, &cluster.nodes[number], true);
    }
    let both = ips(&[&cluster.nodes[1], &cluster.nodes[2]]);
    assert_eq!((reached(standby), reached(prefers)), (both.clone(), both));
    wait_eligible(&site, &cluster.nodes[0], true);
}

#[test]
fn with_use_preferred_readers_of_standbys_that_lag_go_to_the_primary() {
    let cluster = Cluster::start(1);
    let (site, standby, prefers) = site(&cluster, "when_down = \"use-preferred\"");
    let [primary, one] = &cluster.nodes[..] else { unreachable!() };
    let mut old = readers(standby, &cluster);
    let pick = || site.done("GET", "/orders/pick?target=standby", "");
    assert_eq!(pick()["passed"][0]["reason"], "it is the primary");
    falls_behind(&site, &cluster, one);
    assert_eq!((reached(standby), reached(prefers)), (ips(&[primary]), ips(&[primary])));
    let why = pick()["reason"].to_string();
    assert!(why.contains("no standby is fit, and when_down of the pool is use-preferred"), "{why}");
    read_on(&mut old);
    catches_up(&site, one);
    assert_eq!((reached(standby), reached(prefers)), (ips(&[one]), ips(&[one])));
}

#[test]
fn with_refuse_readers_are_told_that_no_standby_is_fit() {
    let cluster = Cluster::start(1);
    let (site, standby, prefers) = site(&cluster, "when_down = \"refuse\"");
    let [primary, one] = &cluster.nodes[..] else { unreachable!() };
    let mut old = readers(standby, &cluster);
    falls_behind(&site, &cluster, one);
    let refused = reach(standby).unwrap_err();
    assert!(refused.contains("57P03 changeover: no standby is available in pool orders"), "{refused}");
    assert_eq!(reached(prefers), ips(&[primary]));
    read_on(&mut old);
    catches_up(&site, one);
    assert_eq!(reached(standby), ips(&[one]));
}

#[test]
fn with_close_the_sessions_of_a_standby_that_lags_are_closed_and_no_others() {
    let cluster = Cluster::start(2);
    let (site, standby, _) = site(&cluster, "[pools.orders.failover.sessions]\nlagging = \"close\"");
    let [_, one, two] = &cluster.nodes[..] else { unreachable!() };
    let mut old = readers(standby, &cluster);
    falls_behind(&site, &cluster, one);
    site.daemon.wait_closed("orders", "lagging", 1);
    for (talker, reached) in &mut old {
        assert_eq!(talker.ask(WHERE).is_err(), *reached == ip(one), "at {reached}");
    }
    assert_eq!(reached(standby), ips(&[two]));
}
