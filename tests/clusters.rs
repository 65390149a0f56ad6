//! A real PostgreSQL cluster behind the real daemon: who is primary is found out, and clients wait instead of failing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::cluster::{Cluster, Node, PASSWORD, Stop};
use support::postgres::client;
use support::process::run;
use support::talker::{SSL_REQUEST, Talker};
use support::witness::{STARVED, Witness};
use support::{DEADLINE, Site, StopOnDrop, dial, wait_until};

/// The daemon in front of `cluster`, with `settings` of the pool besides, and its write and read listeners.
fn site(cluster: &Cluster, settings: &str) -> (Site, SocketAddr, SocketAddr) {
    let servers: String = (1..)
        .zip(&cluster.nodes)
        .map(|(priority, node)| {
            format!("[pools.orders.backends.{}]\naddress = \"{}\"\npriority = {priority}\n", node.name, node.addr)
        })
        .collect();
    let site = Site::with(&format!(
        "kind = \"postgres\"\n{settings}\n[pools.orders.postgres]\npassword = \"{PASSWORD}\"\n{servers}\
         [listeners.reads]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\ntarget = \"standby\"\n\
         [listeners.any]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\ntarget = \"any\"\n"
    ));
    let (writes, reads) = (site.daemon.listener("orders"), site.daemon.listener("reads"));
    (site, writes, reads)
}

/// A configuration with `cluster` alone, which keeps its state in `directory` and lets nobody wait for long.
fn lone_pool(cluster: &Cluster, directory: &Path) -> String {
    let server = |node: &Node| format!("[pools.orders.backends.{}]\naddress = \"{}\"\n", node.name, node.addr);
    let servers: String = cluster.nodes.iter().map(server).collect();
    format!(
        "[daemon]\nstate_dir = \"{}\"\n[admin]\nbind = \"127.0.0.1:0\"\n\
         [listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders]\nkind = \"postgres\"\nhold = \"500ms\"\n[pools.orders.check]\ninterval = \"100ms\"\n\
         [pools.orders.postgres]\npassword = \"{PASSWORD}\"\n{servers}",
        directory.display()
    )
}

/// What `query` is answered through a listener.
fn ask(at: SocketAddr, query: &str) -> Result<String, String> {
    ask_as("disable", at, query)
}

/// The same, in this `sslmode`.
fn ask_as(mode: &str, at: SocketAddr, query: &str) -> Result<String, String> {
    let mut psql = client("psql", at, &[("PGSSLMODE", mode)]);
    let ended = run(psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", query]));
    if ended.code == Some(0) { Ok(ended.stdout.trim_end().to_owned()) } else { Err(ended.stderr) }
}

/// How clients ask for encryption: never, and as they do unless they are told otherwise.
const MODES: [&str; 2] = ["disable", "prefer"];

/// The port of the server that a session reaches, and whether that is a standby.
const WHO: &str = "SELECT inet_server_addr() || ' ' || pg_is_in_recovery()";

fn who(cluster: &Cluster, node: usize, standby: bool) -> String {
    format!("{}/32 {standby}", cluster.nodes[node].addr.ip())
}

#[test]
fn writers_reach_the_primary_and_readers_the_standbys() {
    let cluster = Cluster::start(2);
    let (site, writes, reads) = site(&cluster, "");
    for mode in [MODES; 2].concat() {
        assert_eq!(ask_as(mode, writes, WHO), Ok(who(&cluster, 0, false)));
    }
    let mut read: Vec<String> = [MODES; 2].concat().iter().map(|mode| ask_as(mode, reads, WHO).unwrap()).collect();
    read.sort();
    read.dedup();
    assert_eq!(read, [who(&cluster, 1, true)], "the standby of the better number");
    let pool = site.daemon.pool("orders");
    assert_eq!((&pool["state"], &pool["kind"]), (&"healthy".into(), &"postgres".into()), "{pool:#}");
    let roles: Vec<_> = pool["backends"].as_array().unwrap().iter().map(|backend| backend["role"].clone()).collect();
    assert_eq!(roles, ["primary", "standby", "standby"]);
}

/// It serves on, and everything looks healthy until it restarts: the log and the table have to say it before.
#[test]
fn a_server_that_lets_the_monitor_in_no_more_is_told_of_while_it_serves() {
    let cluster = Cluster::start(0);
    let (site, writes, _) = site(&cluster, "");
    assert_eq!(ask(writes, WHO), Ok(who(&cluster, 0, false)));
    let warned = || site.daemon.logged("the server does not let the monitor in").len();
    assert_eq!(warned(), 0);
    let node = &cluster.nodes[0];
    let lock = |option: &str| {
        node.psql(&format!("ALTER ROLE changeover {option}"));
        node.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'changeover'");
    };
    lock("NOLOGIN");
    let shown = || site.told(&["backends"]).contains("no_permission: the session is denied");
    wait_until("it is told of", DEADLINE, || warned() == 1 && shown());
    assert_eq!(ask(writes, WHO), Ok(who(&cluster, 0, false)));
    lock("LOGIN");
    let again = || !site.daemon.logged("the server lets the monitor in again").is_empty();
    wait_until("it is let in", DEADLINE, || again() && !shown());
    assert_eq!(warned(), 1, "{:#?}", site.daemon.log());
}

#[test]
fn a_killed_primary_costs_no_client_and_the_promoted_standby_has_its_writers() {
    let mut cluster = Cluster::start(2);
    cluster.nodes[0].psql("CREATE TABLE t (n int)");
    let (site, writes, _) = site(&cluster, "");
    assert_eq!(ask(writes, "INSERT INTO t VALUES (0)"), Ok(String::new()));
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let stop = StopOnDrop(&over);
        let (over, served) = (&over, &served);
        let writers = MODES.map(|mode| {
            scope.spawn(move || {
                let mut failed = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    match ask_as(mode, writes, "INSERT INTO t VALUES (1)") {
                        Ok(_) => _ = served.fetch_add(1, Ordering::SeqCst),
                        Err(why) => failed.push(why),
                    }
                }
                failed
            })
        });
        wait_until("it writes", DEADLINE, || served.load(Ordering::SeqCst) > 3);
        let begun = Instant::now();
        cluster.nodes[0].kill();
        cluster.nodes[1].promote();
        let before = served.load(Ordering::SeqCst);
        wait_until("it writes again", DEADLINE, || served.load(Ordering::SeqCst) > before + 3);
        println!("three writes {:?} after the kill", begun.elapsed());
        drop(stop);
        for writer in writers {
            let failed = writer.join().unwrap();
            // One that was in mid-conversation lost its server; whoever came was served.
            assert!(failed.len() <= 1, "{failed:?}");
        }
    });
    assert_eq!(ask(writes, WHO), Ok(who(&cluster, 1, false)));
    let events = site.daemon.admin_get("/api/v1/events?pool=orders&limit=1000").json();
    let kinds: Vec<_> = events["events"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
    assert!(kinds.contains(&"pool.primary_changed".into()) && kinds.contains(&"pool.failover".into()), "{kinds:?}");
}

#[test]
fn an_old_primary_that_comes_back_gets_not_one_write_also_after_a_restart_of_the_daemon() {
    let mut cluster = Cluster::start(1);
    cluster.nodes[0].psql("CREATE TABLE t (n int)");
    let state = tempfile::tempdir().unwrap();
    let config = lone_pool(&cluster, state.path());
    let mut daemon = support::Daemon::start(&config);
    let orders = daemon.listener("orders");
    assert_eq!(ask(orders, WHO), Ok(who(&cluster, 0, false)));
    cluster.nodes[0].kill();
    cluster.nodes[1].promote();
    wait_until("the promoted one serves", DEADLINE, || ask(orders, WHO) == Ok(who(&cluster, 1, false)));
    cluster.nodes[0].start();
    wait_until("the old one is seen", DEADLINE, || daemon.backend("orders", "pg1")["role"] == "primary");
    for n in 0..20 {
        assert_eq!(ask(orders, &format!("INSERT INTO t VALUES ({n})")), Ok(String::new()));
    }
    assert_eq!(cluster.nodes[0].psql("SELECT count(*) FROM t"), "0");
    // Alone, and to a daemon that has never seen the other.
    cluster.nodes[1].stop(Stop::Fast);
    daemon.kill();
    drop(daemon);
    let daemon = support::Daemon::spawn(&config);
    let orders = daemon.listener("orders");
    wait_until("the old one is seen", DEADLINE, || daemon.backend("orders", "pg1")["role"] == "primary");
    let refused = ask(orders, "INSERT INTO t VALUES (100)").unwrap_err();
    assert!(refused.contains("no primary is available in pool orders"), "{refused}");
    assert_eq!(cluster.nodes[0].psql("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_daemon_that_is_killed_right_after_the_first_write_to_a_new_primary_knows_the_old_one_for_what_it_is() {
    const ROUNDS: usize = 3;
    let mut cluster = Cluster::start(1);
    cluster.nodes[0].psql("CREATE TABLE t (n int)");
    let state = tempfile::tempdir().unwrap();
    let config = lone_pool(&cluster, state.path());
    for round in 0..ROUNDS {
        let (old, new) = (round % 2, (round + 1) % 2);
        let mut daemon = support::Daemon::start(&config);
        let orders = daemon.listener("orders");
        wait_until("the primary serves", DEADLINE, || ask(orders, WHO) == Ok(who(&cluster, old, false)));
        let rows = cluster.nodes[old].psql("SELECT count(*) FROM t");
        cluster.nodes[old].kill();
        cluster.nodes[new].promote();
        // The first write of all is the last thing that this process does.
        wait_until("it is written to", DEADLINE, || ask(orders, "INSERT INTO t VALUES (1)").is_ok());
        daemon.kill();
        drop(daemon);
        cluster.nodes[new].stop(Stop::Fast);
        cluster.nodes[old].start();
        assert!(cluster.nodes[old].is_primary(), "it believes so itself");
        let daemon = support::Daemon::spawn(&config);
        let (orders, name) = (daemon.listener("orders"), cluster.nodes[old].name.clone());
        wait_until("the old one is seen", DEADLINE, || daemon.backend("orders", &name)["role"] == "primary");
        let writers: Vec<_> = (0..4).map(|_| thread::spawn(move || ask(orders, "INSERT INTO t VALUES (2)"))).collect();
        for writer in writers {
            let refused = writer.join().unwrap().unwrap_err();
            assert!(refused.contains("no primary is available in pool orders"), "round {round}: {refused}");
        }
        assert_eq!(cluster.nodes[old].psql("SELECT count(*) FROM t"), rows, "round {round}: not one write reaches it");
        drop(daemon);
        // The next round begins with the one that was promoted, and the other as its standby.
        cluster.nodes[old].kill();
        cluster.nodes[new].start();
        let (one, other) = cluster.nodes.split_at_mut(1);
        let (back, primary) = if old == 0 { (&mut one[0], &other[0]) } else { (&mut other[0], &one[0]) };
        back.rejoin(primary);
        cluster.wait_streaming(new, 1);
    }
}

/// The kinds of all events of the pool.
fn kinds(daemon: &support::Daemon) -> Vec<String> {
    let events = daemon.admin_get("/api/v1/events?pool=orders&limit=1000").json();
    events["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

/// The daemon remembers nothing, and who was promoted is down: its standby alone tells of the newer line.
#[test]
fn an_old_primary_gets_no_write_while_a_standby_of_a_newer_line_lives() {
    let mut cluster = Cluster::start(2);
    cluster.nodes[0].psql("CREATE TABLE t (n int)");
    cluster.nodes[1].wait_replayed(&cluster.nodes[0]);
    cluster.nodes[0].kill();
    cluster.nodes[1].promote();
    cluster.nodes[1].wait_primary();
    cluster.nodes[2].follow(&cluster.nodes[1]);
    cluster.nodes[2].reload();
    cluster.wait_streaming(1, 1);
    cluster.nodes[1].psql("INSERT INTO t VALUES (1)");
    cluster.nodes[2].wait_replayed(&cluster.nodes[1]);
    cluster.nodes[1].stop(Stop::Fast);
    cluster.nodes[0].start();
    assert!(cluster.nodes[0].is_primary(), "it believes so itself");
    let state = tempfile::tempdir().unwrap();
    let reads = "[listeners.reads]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\ntarget = \"standby\"\n";
    let daemon = support::Daemon::start(&format!("{}{reads}", lone_pool(&cluster, state.path())));
    let (writes, reads) = (daemon.listener("orders"), daemon.listener("reads"));
    let refused = ask(writes, "INSERT INTO t VALUES (100)").unwrap_err();
    assert!(refused.contains("no primary is available in pool orders"), "{refused}");
    assert_eq!(ask(reads, "SELECT count(*) FROM t"), Ok("1".to_owned()), "those that read go on");
    assert_eq!(cluster.nodes[0].psql("SELECT count(*) FROM t"), "0");
    assert!(kinds(&daemon).contains(&"pool.split_brain".to_owned()), "{:?}", kinds(&daemon));
    // It was promoted, and is back.
    cluster.nodes[1].start();
    wait_until("it serves", DEADLINE, || ask(writes, WHO) == Ok(who(&cluster, 1, false)));
}

#[test]
fn a_standby_that_was_started_as_a_primary_gets_no_write() {
    let mut cluster = Cluster::start(2);
    cluster.nodes[0].psql("CREATE TABLE t (n int)");
    let state = tempfile::tempdir().unwrap();
    let daemon = support::Daemon::start(&lone_pool(&cluster, state.path()));
    let writes = daemon.listener("orders");
    let insert = |rows: usize| ask(writes, &format!("INSERT INTO t SELECT generate_series(1, {rows})"));
    assert_eq!(insert(10), Ok(String::new()));
    cluster.nodes[2].wait_replayed(&cluster.nodes[0]);
    cluster.nodes[2].stop(Stop::Fast);
    assert_eq!(insert(1000), Ok(String::new()));
    cluster.nodes[1].wait_replayed(&cluster.nodes[0]);
    cluster.nodes[0].kill();
    std::fs::remove_file(cluster.nodes[2].data().join("standby.signal")).unwrap();
    cluster.nodes[2].start();
    wait_until("it is seen", DEADLINE, || daemon.backend("orders", "pg3")["role"] == "primary");
    assert!(insert(1).is_err(), "1000 rows that were acknowledged are not there");
    assert_eq!(cluster.nodes[2].psql("SELECT count(*) FROM t"), "10");
    assert!(kinds(&daemon).contains(&"pool.split_brain".to_owned()), "{:?}", kinds(&daemon));
    // Whoever is promoted is served from at once, with the other one beside it.
    cluster.nodes[1].promote();
    wait_until("it serves", DEADLINE, || ask(writes, WHO) == Ok(who(&cluster, 1, false)));
    assert_eq!(ask(writes, "SELECT count(*) FROM t"), Ok("1010".to_owned()));
    assert!(kinds(&daemon).contains(&"backend.primary_refused".to_owned()), "{:?}", kinds(&daemon));
}

#[test]
fn nobody_writes_beside_the_primary_whatever_a_session_came_for() {
    const INSERT: &str = "INSERT INTO t VALUES (1)";
    let cluster = Cluster::start(2);
    let [pg1, pg2, pg3] = &cluster.nodes[..] else { panic!("three") };
    pg1.psql("CREATE TABLE t (n int)");
    // Each is promoted from the one before it, while that one lives.
    pg3.follow(pg2);
    pg3.reload();
    cluster.wait_streaming(1, 1);
    let (site, writes, reads) = site(&cluster, "");
    let any = site.daemon.listener("any");
    assert_eq!(ask(any, WHO), Ok(who(&cluster, 0, false)));
    site.done("POST", "/orders/failover", r#"{"to": "pg2", "sessions": "keep"}"#);
    assert_eq!(ask(any, WHO), Ok(who(&cluster, 1, true)), "those who write are not led to pg1 any more");
    let mut reader = Talker::open(reads).unwrap();
    assert_eq!(reader.ask(WHO), Ok(vec![who(&cluster, 1, true)]));
    pg2.promote();
    wait_until("pg2 serves", DEADLINE, || ask(writes, WHO) == Ok(who(&cluster, 1, false)));
    assert_eq!(reader.ask(INSERT), Ok(Vec::new()), "it goes on through the promotion");
    site.done("POST", "/orders/failback", "");
    wait_until("pg3 has it", DEADLINE, || pg3.psql("SELECT count(*) FROM t") == "1");
    let mut other = Talker::open(reads).unwrap();
    assert_eq!(other.ask(WHO), Ok(vec![who(&cluster, 2, true)]));
    pg3.promote();
    wait_until("pg3 serves", DEADLINE, || ask(writes, WHO) == Ok(who(&cluster, 2, false)));
    assert!(reader.ask(INSERT).is_err(), "pg2 lives, and its session is cut");
    assert_eq!((pg2.psql("SELECT count(*) FROM t").as_str(), other.ask(INSERT)), ("1", Ok(Vec::new())));
    assert_eq!((pg1.psql("SELECT count(*) FROM t").as_str(), ask(any, WHO)), ("0", Ok(who(&cluster, 2, false))));
}

#[test]
fn ending_the_monitors_session_is_no_alarm() {
    let cluster = Cluster::start(1);
    let (site, writes, _) = site(&cluster, "");
    let last = || site.daemon.admin_get("/api/v1/events?limit=1").json()["events"][0]["id"].as_u64().unwrap();
    // A machine that does not let the server run for so long has it silent to all who ask: that round says nothing.
    let witness = Witness::of(cluster.nodes[0].addr);
    wait_until("a round in which the server was let run", DEADLINE, || {
        site.daemon.wait_state("orders", "healthy");
        let before = last();
        witness.silence();
        for _ in 0..5 {
            cluster.nodes[0]
                .psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'changeover'");
            assert_eq!(ask(writes, WHO), Ok(who(&cluster, 0, false)));
        }
        let noise = site.daemon.admin_get(&format!("/api/v1/events?after={before}")).json();
        // On a busy machine the daemon may say that it stood still itself.
        let kinds = noise["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap());
        let is_calm = kinds.clone().all(|kind| kind == "daemon.stalled");
        let silence = witness.silence();
        assert!(is_calm || silence > STARVED, "the server was silent for {silence:?} at most: {noise:#}");
        silence <= STARVED
    });
}

#[test]
fn a_frozen_primary_is_noticed_in_half_a_second_and_a_thawed_one_loses_nobody() {
    let cluster = Cluster::start(1);
    let (site, writes, _) = site(&cluster, "");
    assert_eq!(ask(writes, WHO), Ok(who(&cluster, 0, false)));
    let begun = Instant::now();
    cluster.nodes[0].freeze();
    site.daemon.wait_health("orders", "pg1", "unhealthy");
    println!("frozen and noticed after {:?}", begun.elapsed());
    cluster.nodes[0].thaw();
    wait_until("it serves again", DEADLINE, || ask(writes, WHO) == Ok(who(&cluster, 0, false)));
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_switchover_by_hand_fails_no_client() {
    let mut cluster = Cluster::start(2);
    cluster.nodes[0].psql("CREATE TABLE t (n int)");
    let (site, writes, _) = site(&cluster, "");
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let stop = StopOnDrop(&over);
        let (over, served) = (&over, &served);
        let writers = MODES.map(|mode| {
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    ask_as(mode, writes, "INSERT INTO t VALUES (1)").expect("no client fails");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        wait_until("it writes", DEADLINE, || served.load(Ordering::SeqCst) > 3);
        site.done("POST", "/orders/pause", r#"{"timeout": "10m"}"#);
        site.daemon.wait_held("orders", 2);
        cluster.nodes[0].stop(Stop::Fast);
        cluster.nodes[1].promote();
        site.done("POST", "/orders/failover", r#"{"to": "pg2", "reason": "switchover by hand"}"#);
        site.done("POST", "/orders/resume", "");
        let before = served.load(Ordering::SeqCst);
        wait_until("it writes again", DEADLINE, || served.load(Ordering::SeqCst) > before + 3);
        drop(stop);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    let rows = cluster.nodes[1].psql("SELECT count(*) FROM t");
    assert_eq!(rows, served.load(Ordering::SeqCst).to_string());
}

/// The superuser's startup message.
const STARTUP: &[u8] = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";

/// Logs in, after these requests for encryption, all of which are to be refused. What came that was no session.
fn log_in(at: SocketAddr, requests: &[&[u8]]) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    let mut stream = dial(at).map_err(told)?;
    for request in requests {
        stream.write_all(request).map_err(told)?;
        let mut answer = [0];
        stream.read_exact(&mut answer).map_err(told)?;
        assert_eq!(answer, *b"N");
    }
    stream.write_all(STARTUP).map_err(told)?;
    let mut kind = [0; 5];
    stream.read_exact(&mut kind).map_err(told)?;
    if kind[0] == b'R' { Ok(()) } else { Err(format!("{:?}", String::from_utf8_lossy(&kind))) }
}

#[test]
fn a_server_that_stops_in_order_refuses_nobody_who_was_told_that_it_does_not_encrypt() {
    let mut cluster = Cluster::with_settings(1, "ssl = off\nmax_connections = 100\n");
    let (site, writes, _) = site(&cluster, "");
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ways: [&[&[u8]]; 2] = [&[SSL_REQUEST], &[]];
    let failed: Vec<String> = thread::scope(|scope| {
        let stop = StopOnDrop(&over);
        let (over, served) = (&over, &served);
        let clients: Vec<_> = (0..24)
            .map(|number| {
                scope.spawn(move || {
                    let mut failed = Vec::new();
                    while !over.load(Ordering::SeqCst) {
                        match log_in(writes, ways[number % 2]) {
                            Ok(()) => _ = served.fetch_add(1, Ordering::SeqCst),
                            Err(why) => failed.push(format!("{} requests: {why}", ways[number % 2].len())),
                        }
                    }
                    failed
                })
            })
            .collect();
        let go_on = || {
            let before = served.load(Ordering::SeqCst);
            wait_until("they are served", DEADLINE, || served.load(Ordering::SeqCst) > before + 200);
        };
        go_on();
        cluster.nodes[0].stop(Stop::Fast);
        cluster.nodes[1].promote();
        go_on();
        drop(stop);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    println!("{served:?} served");
    assert!(failed.is_empty(), "{} of {served:?}: {failed:?}", failed.len());
    drop(site);
}
