//! Sessions of a real PostgreSQL cluster: what becomes of them while their server stops and waits for its clients, and how
//! they are cancelled when nobody in between can read them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::net::SocketAddr;
use std::thread;

use rustix::process::Signal;
use support::cluster::{Cluster, Node, PASSWORD, Stop};
use support::postgres::client;
use support::process::{Running, run};
use support::talker::{Talker, Tls, cancel, cancel_encrypted};
use support::{DEADLINE, Site, wait_until};

/// The address of the server that a session reaches.
const WHERE: &str = "SELECT host(inet_server_addr())";

/// Never answered.
const LONG: &str = "SELECT 42, pg_sleep(600)";

/// The daemon in front of `cluster`, with listeners for its standbys and for any server besides.
fn site(cluster: &Cluster) -> Site {
    let tables = cluster.tables();
    let site = Site::with(&format!(
        "kind = \"postgres\"\nbalance = \"round-robin\"\n[pools.orders.postgres]\npassword = \"{PASSWORD}\"\n{tables}\
         [listeners.reads]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\ntarget = \"standby\"\n\
         [listeners.any]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\ntarget = \"any\"\n"
    ));
    site.daemon.wait_state("orders", "healthy");
    site
}

fn ip(node: &Node) -> String {
    node.addr.ip().to_string()
}

fn reach(at: SocketAddr) -> Result<String, String> {
    Ok(Talker::open(at)?.ask(WHERE)?.remove(0))
}

fn turned_away(at: SocketAddr) -> bool {
    Talker::open(at).is_err_and(|why| why.starts_with("57P03"))
}

#[test]
fn a_primary_that_waits_for_its_clients_keeps_them_and_nobody_new_fails() {
    let mut cluster = Cluster::start(2);
    cluster.nodes[0].psql("CREATE TABLE t (n int)");
    let site = site(&cluster);
    let (writes, any) = (site.daemon.listener("orders"), site.daemon.listener("any"));
    let last = site.daemon.admin_get("/api/v1/events?limit=1").json()["events"][0]["id"].as_u64().unwrap();
    let mut old = Talker::open(writes).unwrap();
    old.ask("INSERT INTO t VALUES (0)").unwrap();
    cluster.nodes[0].begin_stop(Stop::Smart);
    wait_until("it lets nobody in", DEADLINE, || turned_away(cluster.nodes[0].addr));

    // Whoever wants to write waits; whoever may go elsewhere does.
    let waits = thread::spawn(move || Talker::open_patient(writes)?.ask("INSERT INTO t VALUES (100) RETURNING n"));
    site.daemon.wait_held("orders", 1);
    let unanswered = [("backend", "pg1"), ("reason", "unanswered")];
    let tried = || site.daemon.metric("backend_connect_failures_total", &unanswered).unwrap_or(0.0);
    wait_until("it was tried in vain", DEADLINE, || tried() >= 1.0);
    // The monitor tries as well, and then nobody else does.
    site.daemon.wait_state("orders", "failover_in_progress");
    let pg1 = site.daemon.backend("orders", "pg1");
    assert!(pg1["meaning"].as_str().unwrap().starts_with("stopping: "), "{pg1:#}");
    assert!(pg1["reason"].as_str().unwrap().contains("57P03"), "{pg1:#}");
    assert_eq!((&pg1["active"], &pg1["eligible"]), (&false.into(), &false.into()));
    for _ in 0..6 {
        assert_ne!(reach(any).unwrap(), ip(&cluster.nodes[0]));
    }
    // What is encrypted nobody in between can read: the client is told by the server itself.
    for mode in ["disable", "require"] {
        let mut psql = client("psql", any, &[("PGSSLMODE", mode)]);
        let ended: Vec<_> = (0..6).map(|_| run(psql.args(["-XAtc", "SELECT 1"]))).collect();
        let failed = ended.iter().filter(|ended| ended.code != Some(0));
        let said: Vec<_> = failed.map(|ended| &*ended.stderr).collect();
        assert!(said.is_empty() || mode == "require", "{said:?}");
        assert!(said.iter().all(|said| said.contains("the database system is shutting down")), "{said:?}");
    }
    for n in 1..20 {
        assert_eq!(old.ask(&format!("INSERT INTO t VALUES ({n}) RETURNING n")), Ok(vec![n.to_string()]));
    }
    // A daemon that stood still, on a busy machine, says so of no pool.
    let told = || {
        let page = site.daemon.admin_get(&format!("/api/v1/events?pool=orders&after={last}&limit=1000"));
        page.json()["events"].clone()
    };
    let status = |event: &serde_json::Value| (event["kind"].clone(), event["status"].clone());
    let kinds: Vec<_> = told().as_array().unwrap().iter().map(status).collect();
    assert_eq!(kinds, [("pool.failover".into(), "pending".into())], "{:#}", told());
    assert_eq!(site.daemon.backend("orders", "pg1")["health"], "healthy");
    assert!(!waits.is_finished());

    // The last client goes, and the server with it.
    drop(old);
    cluster.nodes[0].wait_end();
    site.daemon.wait_health("orders", "pg1", "unhealthy");
    assert!(!waits.is_finished());
    cluster.nodes[1].promote();
    assert_eq!(waits.join().unwrap(), Ok(vec!["100".to_owned()]));
    assert_eq!(
        cluster.nodes[1].psql("SELECT count(*) FROM t"),
        "21",
        "all that was acknowledged, and the one who waited"
    );
    assert_eq!(reach(writes), Ok(ip(&cluster.nodes[1])));
    let kinds = told();
    let kinds: Vec<&str> = kinds.as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"pool.primary_changed") && !kinds.contains(&"pool.split_brain"), "{kinds:?}");
}

#[test]
fn a_standby_that_waits_for_its_clients_keeps_them_and_new_ones_go_to_the_other() {
    let mut cluster = Cluster::start(2);
    let site = site(&cluster);
    let reads = site.daemon.listener("reads");
    let mut old = Talker::open(reads).unwrap();
    let own = old.ask(WHERE).unwrap().remove(0);
    let stopping = (1..3).find(|&node| ip(&cluster.nodes[node]) == own).unwrap();
    cluster.nodes[stopping].begin_stop(Stop::Smart);
    wait_until("it lets nobody in", DEADLINE, || turned_away(cluster.nodes[stopping].addr));
    for _ in 0..6 {
        assert_eq!(reach(reads), Ok(ip(&cluster.nodes[3 - stopping])));
    }
    assert_eq!(old.ask(WHERE), Ok(vec![own]), "its session goes on");
    drop(old);
    cluster.nodes[stopping].wait_end();
    site.daemon.wait_health("orders", &cluster.nodes[stopping].name, "unhealthy");
}

/// Waits until a session at `node` is in the middle of [`LONG`].
fn wait_running(node: &Node) {
    let asked = format!("SELECT count(*) FROM pg_stat_activity WHERE query = '{LONG}' AND state = 'active'");
    wait_until("the query runs", DEADLINE, || node.psql(&asked) == "1");
}

/// Sessions of one client, each cancelled by `cancels` in the middle of a query; the servers that they were at.
fn cancelled(cluster: &Cluster, site: &Site, tls: &Tls, cancels: impl Fn(SocketAddr, &[u8])) -> Vec<String> {
    let reads = site.daemon.listener("reads");
    let mut servers = Vec::new();
    for round in 0..10 {
        // Two turns to a round would be the same server every time.
        if round % 2 == 0 {
            reach(reads).unwrap();
        }
        let mut talker = Talker::open_encrypted(reads, tls).unwrap();
        let server = talker.ask(WHERE).unwrap().remove(0);
        talker.begin(LONG).unwrap();
        wait_running(cluster.nodes.iter().find(|node| ip(node) == server).unwrap());
        cancels(reads, &talker.key);
        assert_eq!(talker.finish(), Err("57014 canceling statement due to user request".to_owned()));
        assert_eq!(talker.ask(WHERE), Ok(vec![server.clone()]), "its session goes on");
        servers.push(server);
        drop(talker);
        // While it is there, the next goes where it is.
        site.daemon.wait_metric("listener_connections_active", &[("listener", "reads")], 0.0);
    }
    servers.sort();
    servers.dedup();
    servers
}

#[test]
fn a_cancel_of_an_encrypted_session_reaches_its_server_encrypted_or_not() {
    let cluster = Cluster::start(2);
    let site = site(&cluster);
    let tls = Tls::trusting(&cluster.ca_file(), cluster.nodes[0].addr);
    let mut standbys = [ip(&cluster.nodes[1]), ip(&cluster.nodes[2])];
    standbys.sort();
    let encrypted = cancelled(&cluster, &site, &tls, |at, key| cancel_encrypted(at, key, &tls));
    assert_eq!(encrypted, standbys, "at both");
    let count =
        |way| site.daemon.metric("postgres_cancels_total", &[("listener", "reads"), ("way", way)]).unwrap_or(0.0);
    assert_eq!((count("learned"), count("broadcast")), (0.0, 0.0), "they were taken for sessions");
    // As libpq does before version 17: in the clear, whatever the session is.
    assert_eq!(cancelled(&cluster, &site, &tls, cancel), standbys, "at both");
    assert_eq!((count("learned"), count("broadcast")), (0.0, 10.0));
}

#[test]
fn an_encrypted_cancel_follows_the_clients_last_session() {
    let cluster = Cluster::start(2);
    let site = site(&cluster);
    let reads = site.daemon.listener("reads");
    let tls = Tls::trusting(&cluster.ca_file(), cluster.nodes[0].addr);
    let mut first = Talker::open_encrypted(reads, &tls).unwrap();
    let server = first.ask(WHERE).unwrap().remove(0);
    let node = cluster.nodes.iter().find(|node| ip(node) == server).unwrap();
    // The others of one address go where the first is, so that each of them can be cancelled there.
    let mut second = Talker::open_encrypted(reads, &tls).unwrap();
    assert_eq!(second.ask(WHERE), Ok(vec![server.clone()]));
    for talker in [&mut first, &mut second] {
        talker.begin(LONG).unwrap();
        wait_running(node);
        cancel_encrypted(reads, &talker.key, &tls);
        assert_eq!(talker.finish(), Err("57014 canceling statement due to user request".to_owned()));
    }
    // A key that is nobody's hits nobody.
    first.begin("SELECT 42, pg_sleep(0.05)").unwrap();
    let mut wrong = first.key.clone();
    *wrong.last_mut().unwrap() ^= 1;
    cancel_encrypted(reads, &wrong, &tls);
    assert_eq!(first.finish(), Ok(vec!["42".to_owned()]));
}

#[test]
fn psql_cancels_its_encrypted_query_through_two_standbys() {
    let cluster = Cluster::start(2);
    let site = site(&cluster);
    let reads = site.daemon.listener("reads");
    let running = || {
        let asked = format!("SELECT count(*) FROM pg_stat_activity WHERE query = '{LONG}' AND state = 'active'");
        cluster.nodes[1..].iter().any(|node| node.psql(&asked) == "1")
    };
    for round in 1..=4 {
        let psql = Running::start(client("psql", reads, &[("PGSSLMODE", "require")]).args(["-XAtc", LONG]));
        wait_until("the query runs", DEADLINE, running);
        psql.signal(Signal::INT);
        let ended = psql.wait();
        assert!(ended.stderr.contains("canceling statement due to user request"), "{round}: {}", ended.stderr);
    }
}
