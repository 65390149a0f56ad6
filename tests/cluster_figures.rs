//! What a failover of a real PostgreSQL cluster costs, in figures: printed by
//! `cargo test --test cluster_figures -- --nocapture`, of `CLUSTER_ROUNDS` kills and `CLUSTER_SWITCHES` switchovers.
//!
//! What must not happen at all is asserted exactly; times are held to bounds that a loaded machine keeps too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use support::cluster::{Cluster, PASSWORD, Stop};
use support::talker::{Talker, cancel};
use support::{DEADLINE, Daemon, Site, StopOnDrop, measured, pace, wait_for, wait_until};

/// How often, unless the environment says otherwise.
fn times(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |value| value.parse().expect("a number"))
}

/// Prints and returns the median of `taken`.
fn median(what: &str, mut taken: Vec<Duration>) -> Duration {
    taken.sort();
    let middle = taken[taken.len() / 2];
    println!("{what}: median {middle:.1?} of {}, {:.1?} to {:.1?}", taken.len(), taken[0], taken[taken.len() - 1]);
    middle
}

/// The backends of `pool` and its settings; all servers have the same priority.
fn settings(cluster: &Cluster) -> String {
    let servers = cluster.nodes.iter();
    let servers: String = servers
        .map(|node| format!("[pools.orders.backends.{}]\naddress = \"{}\"\npriority = 1\n", node.name, node.addr))
        .collect();
    format!(
        "kind = \"postgres\"\n[pools.orders.postgres]\npassword = \"{PASSWORD}\"\n{servers}\
         [listeners.reads]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\ntarget = \"standby\"\n"
    )
}

/// Waits until all servers are fit and one of them is the primary.
#[track_caller]
fn wait_whole(daemon: &Daemon) {
    wait_until("the pool is whole", DEADLINE, || {
        let pool = daemon.pool("orders");
        let backends = pool["backends"].as_array().unwrap();
        pool["state"] == "healthy" && backends.iter().all(|backend| backend["health"] == "healthy")
    });
}

fn last_event(daemon: &Daemon) -> u64 {
    daemon.admin_get("/api/v1/events?limit=1").json()["events"][0]["id"].as_u64().unwrap()
}

/// How long after `begun` the daemon noticed that `pg1` is not well, by the time that the event has, which comes after `before`.
#[track_caller]
fn noticed(daemon: &Daemon, before: u64, begun: Timestamp) -> Duration {
    let path = format!("/api/v1/events?after={before}&backend=pg1&kind=backend.unhealthy");
    wait_for("it is noticed", DEADLINE, || {
        let at: Timestamp = daemon.admin_get(&path).json()["events"][0]["time"].as_str()?.parse().unwrap();
        Some(at.duration_since(begun).unsigned_abs())
    })
}

/// When each of `clients`, who come 5 ms after one another through `at`, has written.
fn newcomers(at: SocketAddr, clients: usize) -> Vec<Result<Instant, String>> {
    thread::scope(|scope| {
        let mut last = Instant::now();
        let coming: Vec<_> = (0..clients)
            .map(|_| {
                pace(&mut last, Duration::from_millis(5));
                scope.spawn(move || {
                    Talker::open(at)?.ask("INSERT INTO t VALUES (1)")?;
                    Ok(Instant::now())
                })
            })
            .collect();
        coming.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

#[test]
fn a_promotion_is_followed_at_once_and_no_client_that_comes_after_the_kill_fails() {
    let mut cluster = Cluster::start(1);
    cluster.nodes[0].psql("CREATE TABLE t (n int)");
    let state = tempfile::tempdir().unwrap();
    // Who is the primary is on disk before anybody writes to it; `CLUSTER_STATE=0` shows what that costs.
    let kept = format!("state_dir = \"{}\"\n", state.path().display());
    let daemon = Daemon::start(&format!(
        "[daemon]\nworkers = 1\ndrain_timeout = \"300ms\"\n{}[admin]\nbind = \"127.0.0.1:0\"\n\
         [listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders]\nhold = \"10m\"\n{}\n",
        if times("CLUSTER_STATE", 1) > 0 { &kept } else { "" },
        settings(&cluster),
    ));
    let mut primary = 0;
    let is_good = |(promotion, kill): &(Duration, Duration)| {
        *promotion < Duration::from_millis(500) && *kill < Duration::from_millis(1500)
    };
    let taken = measured(|| promotions(&daemon, &mut cluster, &mut primary), is_good);
    assert!(is_good(&taken), "{taken:?}, twice");
}

/// Kills the primary, whose number is in `primary`, and promotes the other one, by turns: how long it took to the first
/// write through the proxy, from the moment that the standby was writable and from the kill.
#[track_caller]
fn promotions(daemon: &Daemon, cluster: &mut Cluster, primary: &mut usize) -> (Duration, Duration) {
    let writes = daemon.listener("orders");
    let (mut after_promotion, mut after_kill, mut promoting) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..times("CLUSTER_ROUNDS", 3) {
        let (old, new) = (*primary, 1 - *primary);
        *primary = new;
        wait_whole(daemon);
        let before = last_event(daemon);
        Talker::open(writes).unwrap().ask("INSERT INTO t VALUES (0)").unwrap();
        let mut promoter = Talker::open(cluster.nodes[new].addr).unwrap();
        let mut watcher = Talker::open(cluster.nodes[new].addr).unwrap();
        let killed = Instant::now();
        cluster.nodes[old].kill();
        let (writable, written) = thread::scope(|scope| {
            let clients = scope.spawn(|| newcomers(writes, 20));
            promoter.ask("SELECT pg_promote(false)").unwrap();
            let mut last = Instant::now();
            while watcher.ask("SELECT pg_is_in_recovery()").unwrap() != ["f"] {
                assert!(killed.elapsed() < DEADLINE, "it is never promoted");
                pace(&mut last, Duration::from_micros(500));
            }
            (Instant::now(), clients.join().unwrap())
        });
        let failed: Vec<_> = written.iter().filter_map(|written| written.as_ref().err()).collect();
        assert_eq!(failed, [""; 0], "round {round}");
        let first = written.into_iter().map(Result::unwrap).min().unwrap();
        let waited = first.saturating_duration_since(writable);
        if waited > Duration::from_millis(200) {
            let events = daemon.admin_get(&format!("/api/v1/events?after={before}")).json();
            println!("round {round}: {waited:?}, {events:#}");
            daemon.log().iter().rev().take(60).rev().for_each(|line| println!("{line}"));
        }
        after_promotion.push(waited);
        after_kill.push(first - killed);
        promoting.push(writable - killed);
        let (one, other) = cluster.nodes.split_at_mut(1);
        let (back, primary) = if old == 0 { (&mut one[0], &other[0]) } else { (&mut other[0], &one[0]) };
        back.rejoin(primary);
        cluster.wait_streaming(new, 1);
    }
    median("kill -9 to a standby that is writable", promoting);
    let promotion = median("writable to the first write through the proxy", after_promotion);
    (promotion, median("kill -9 to the first write through the proxy", after_kill))
}

#[test]
fn the_death_of_a_primary_is_noticed_at_once() {
    let mut cluster = Cluster::start(1);
    let site = Site::with(&settings(&cluster));
    for how in [None, Some(Stop::Immediate), Some(Stop::Fast)] {
        let what = how.map_or_else(|| "kill -9".to_owned(), |how| format!("stop -m {how:?}").to_lowercase());
        let limit = Duration::from_millis(500);
        let middle = measured(|| median_of_deaths(&site, &mut cluster, how, &what), |middle| *middle < limit);
        assert!(middle < limit, "{what}: {middle:?} in the median, twice");
    }
}

/// How long it takes in the median until the end of the first server, by `how`, is noticed, which `what` says.
#[track_caller]
fn median_of_deaths(site: &Site, cluster: &mut Cluster, how: Option<Stop>, what: &str) -> Duration {
    let mut taken = Vec::new();
    for _ in 0..times("CLUSTER_ROUNDS", 3) {
        wait_whole(&site.daemon);
        cluster.wait_streaming(0, 1);
        // A monitor whose session has lasted for a second is quick to ask for another one.
        let whole = Instant::now();
        wait_until("it has lasted", DEADLINE, || whole.elapsed() > Duration::from_millis(1200));
        let (before, begun) = (last_event(&site.daemon), Timestamp::now());
        match how {
            None => cluster.nodes[0].kill(),
            Some(how) => cluster.nodes[0].begin_stop(how),
        }
        taken.push(noticed(&site.daemon, before, begun));
        if how.is_some() {
            cluster.nodes[0].wait_end();
        }
        cluster.nodes[0].start();
    }
    median(&format!("{what} to its notice"), taken)
}

#[test]
fn a_frozen_primary_is_noticed_and_one_that_thaws_in_time_was_never_away() {
    let cluster = Cluster::start(1);
    let site = Site::with(&settings(&cluster));
    wait_whole(&site.daemon);
    let writes = site.daemon.listener("orders");
    Talker::open(writes).unwrap().ask("CREATE TABLE t (n int)").unwrap();
    // A machine that was busy with something else may have let the deadline pass: no answer then says anything.
    let brief = (0..10).find_map(|_| {
        wait_whole(&site.daemon);
        let (before, mut session) = (last_event(&site.daemon), Talker::open(writes).unwrap());
        let frozen = Instant::now();
        cluster.nodes[0].freeze();
        session.begin("INSERT INTO t VALUES (1)").unwrap();
        wait_until("it was frozen for a while", DEADLINE, || frozen.elapsed() > Duration::from_millis(100));
        cluster.nodes[0].thaw();
        let in_time = frozen.elapsed() < Duration::from_millis(180);
        let finished = session.finish();
        in_time.then(|| finished.expect("the session goes on"))?;
        Some(before)
    });
    let before = brief.expect("once it is frozen for less than 180 ms");
    // On a busy machine the daemon may say that it stood still itself; a stall is no pool's.
    let noise = site.daemon.admin_get(&format!("/api/v1/events?pool=orders&after={before}")).json();
    assert_eq!(noise["events"], serde_json::json!([]), "{noise:#}");
    let frozen = || {
        let mut taken = Vec::new();
        for _ in 0..times("CLUSTER_ROUNDS", 3) {
            wait_whole(&site.daemon);
            let (before, begun) = (last_event(&site.daemon), Timestamp::now());
            cluster.nodes[0].freeze();
            taken.push(noticed(&site.daemon, before, begun));
            cluster.nodes[0].thaw();
        }
        median("frozen to its notice", taken)
    };
    let middle = measured(frozen, |middle| *middle < Duration::from_secs(5));
    assert!(middle < Duration::from_secs(5), "{middle:?} in the median, twice");
}

/// Waits until the process sleeps in its query on the server that `watcher` talks to.
#[track_caller]
fn wait_asleep(watcher: &mut Talker, pid: u32) {
    let query = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'");
    wait_until("the query runs", DEADLINE, || watcher.ask(&query).unwrap() == ["1"]);
}

#[test]
fn each_cancel_through_the_read_listener_reaches_the_one_session_of_two_standbys() {
    const AT_ONCE: usize = 10;
    let cluster = Cluster::start(2);
    let site = Site::with(&settings(&cluster));
    wait_whole(&site.daemon);
    let reads = site.daemon.listener("reads");
    let mut watchers: Vec<_> = cluster.nodes[1..].iter().map(|node| Talker::open(node.addr).unwrap()).collect();
    let mut served = [0; 2];
    for _ in 0..100 / AT_ONCE {
        let mut sessions: Vec<_> = (0..AT_ONCE).map(|_| Talker::open(reads).unwrap()).collect();
        for session in &mut sessions {
            let ip = session.ask("SELECT host(inet_server_addr())").unwrap().remove(0);
            let node = cluster.nodes[1..].iter().position(|node| node.addr.ip().to_string() == ip).expect("a standby");
            served[node] += 1;
            session.begin("SELECT pg_sleep(60)").unwrap();
            wait_asleep(&mut watchers[node], session.pid());
        }
        for session in &mut sessions {
            cancel(reads, &session.key);
            // One that reached another session would leave this one asleep, beyond the deadline.
            let ended = session.finish().unwrap_err();
            assert!(ended.starts_with("57014 "), "{ended}");
        }
    }
    println!("100 of 100 cancelled, {} and {} of them at the two standbys", served[0], served[1]);
    assert!(served.iter().all(|&served| served > 0), "both serve: {served:?}");
    site.daemon.wait_metric("postgres_cancels_total", &[("listener", "reads"), ("way", "learned")], 100.0);
}

#[test]
fn a_cancel_whose_key_a_restarted_daemon_never_learned_is_told_to_all_servers() {
    let cluster = Cluster::start(2);
    let config = settings(&cluster);
    let mut site = Site::with(&config);
    wait_whole(&site.daemon);
    let mut session = Talker::open(site.daemon.listener("reads")).unwrap();
    let ip = session.ask("SELECT host(inet_server_addr())").unwrap().remove(0);
    let node = cluster.nodes.iter().find(|node| node.addr.ip().to_string() == ip).expect("a standby");
    let mut watcher = Talker::open(node.addr).unwrap();
    session.begin("SELECT pg_sleep(60)").unwrap();
    wait_asleep(&mut watcher, session.pid());
    site.daemon.kill();
    // The server does not look for its client while it sleeps.
    wait_asleep(&mut watcher, session.pid());
    let site = Site::with(&config);
    wait_whole(&site.daemon);
    cancel(site.daemon.listener("reads"), &session.key);
    wait_until("it is cancelled", DEADLINE, || node.log().contains("canceling statement due to user request"));
    site.daemon.wait_metric("postgres_cancels_total", &[("listener", "reads"), ("way", "broadcast")], 1.0);
}

/// What writers have been told is written, and how often a session of theirs was cut.
#[derive(Debug, Default)]
struct Written {
    next: AtomicUsize,
    acknowledged: Mutex<Vec<usize>>,
    /// Those of them that were written in a session with many.
    in_long: AtomicUsize,
    cut: AtomicUsize,
}

impl Written {
    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Writes one row.
    fn write(&self, session: &mut Talker) -> Result<(), String> {
        let row = self.next.fetch_add(1, Ordering::SeqCst);
        session.ask(&format!("INSERT INTO t VALUES ({row})"))?;
        self.acknowledged.lock().unwrap().push(row);
        Ok(())
    }

    /// Writes, a session for each row, none of which fails, or until it is cut.
    fn write_until(&self, at: SocketAddr, over: &AtomicBool, long: bool) {
        while !over.load(Ordering::SeqCst) {
            let mut session = Talker::open(at).expect("no new client fails");
            if !long {
                self.write(&mut session).expect("no session is cut that was to wait");
                continue;
            }
            while !over.load(Ordering::SeqCst) {
                if self.write(&mut session).is_err() {
                    self.cut.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                self.in_long.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

#[test]
fn switchovers_by_hand_under_load_lose_no_acknowledged_row_and_fail_no_new_client() {
    let mut cluster = Cluster::start(1);
    cluster.nodes[0].psql("CREATE TABLE t (n int)");
    let site = Site::with(&settings(&cluster));
    wait_whole(&site.daemon);
    let writes = site.daemon.listener("orders");
    let (over, written) = (AtomicBool::new(false), Written::default());
    let (mut switches, limit) = (0, Duration::from_millis(500));
    let ours = thread::scope(|scope| {
        let stop = StopOnDrop(&over);
        for long in [false, false, true] {
            scope.spawn({
                let (over, written) = (&over, &written);
                move || written.write_until(writes, over, long)
            });
        }
        let by_turns = || {
            let mut steps = Vec::new();
            for _ in 0..times("CLUSTER_SWITCHES", 5) {
                let (old, new) = (switches % 2, (switches + 1) % 2);
                let before = (written.count(), written.in_long.load(Ordering::SeqCst));
                wait_until("they write", DEADLINE, || {
                    written.count() > before.0 + 20 && written.in_long.load(Ordering::SeqCst) > before.1
                });
                steps.push(switch(&site, &mut cluster, old, new, &written));
                switches += 1;
            }
            for (step, what) in STEPS.into_iter().enumerate() {
                median(what, steps.iter().map(|taken| taken[step]).collect());
            }
            median("pause to the first write, without the server's own time", steps.iter().map(ours).collect())
        };
        let ours = measured(by_turns, |ours| *ours < limit);
        drop(stop);
        ours
    });
    let survivor = &cluster.nodes[switches % 2];
    let rows: HashSet<usize> = survivor.psql("SELECT n FROM t").lines().map(|row| row.parse().unwrap()).collect();
    let acknowledged = written.acknowledged.into_inner().unwrap();
    let missing = acknowledged.iter().filter(|row| !rows.contains(row)).count();
    let cut = written.cut.into_inner();
    println!(
        "{switches} switchovers: {missing} of {} acknowledged rows missing, {cut} sessions cut",
        acknowledged.len()
    );
    assert!(ours < limit, "{ours:?} in the median, twice");
    assert_eq!(missing, 0);
}

/// What a switchover by hand is made of.
const STEPS: [&str; 6] = [
    "pause to all new clients held",
    "failover ordered",
    "stop -m fast to its end",
    "promotion asked for to writable",
    "resume ordered",
    "resume to the first write of a client that was held",
];

/// What of a switchover's time is the daemon's: all but the stop and the promotion.
fn ours(taken: &[Duration; 6]) -> Duration {
    taken[0] + taken[1] + taken[4] + taken[5]
}

/// As the README has it, but that the promotion is waited for. How long each of [`STEPS`] took.
#[track_caller]
fn switch(site: &Site, cluster: &mut Cluster, old: usize, new: usize, written: &Written) -> [Duration; 6] {
    let to = cluster.nodes[new].name.clone();
    let (mut begun, mut taken) = (Instant::now(), Vec::new());
    let mut done = || {
        taken.push(begun.elapsed());
        begun = Instant::now();
    };
    site.done("POST", "/orders/pause", r#"{"timeout": "10m"}"#);
    // Those with a session for each row: one that has begun is let finish. The third is in its long session.
    wait_until("they wait", DEADLINE, || site.daemon.metric("listener_held", &[("listener", "orders")]) >= Some(2.0));
    done();
    site.done("POST", "/orders/failover", &format!(r#"{{"to": "{to}", "reason": "upgrade"}}"#));
    done();
    cluster.nodes[old].stop(Stop::Fast);
    done();
    cluster.nodes[new].promote();
    cluster.nodes[new].wait_primary();
    done();
    let before = written.count();
    site.done("POST", "/orders/resume", "");
    done();
    wait_until("those that were held write", DEADLINE, || written.count() > before);
    done();
    let (one, other) = cluster.nodes.split_at_mut(1);
    let (back, primary) = if old == 0 { (&mut one[0], &other[0]) } else { (&mut other[0], &one[0]) };
    back.rejoin_in_place(primary);
    cluster.wait_streaming(new, 1);
    site.done("POST", "/orders/failback", "");
    wait_whole(&site.daemon);
    taken.try_into().expect("each step")
}
