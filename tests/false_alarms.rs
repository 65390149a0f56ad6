//! What is no failure of a PostgreSQL server, though it looks like one from outside; and a partition, which is one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::cluster::{Cluster, PASSWORD};
use support::namespace::Namespace;
use support::postgres::{client, must};
use support::process::run;
use support::witness::{STARVED, Witness};
use support::{DEADLINE, Site, StopOnDrop, dial, wait_until};

/// How long each hardship lasts: many times what a server has to answer in.
const HARDSHIP: Duration = Duration::from_secs(4);
/// A verdict would have come by then.
const AFTERMATH: Duration = Duration::from_secs(1);

/// So many sessions that end before their first answer would be held against a server, were these such.
const REFUSED: usize = 12;

/// The superuser's startup message.
const STARTUP: &[u8] = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";

/// A conversation with a server, open from one question to the next.
struct Conversation(TcpStream);

impl Conversation {
    /// Logs in; what the server has against it.
    fn open(at: SocketAddr) -> Result<Self, String> {
        let mut stream = dial(at).map_err(|error| error.to_string())?;
        stream.write_all(STARTUP).map_err(|error| error.to_string())?;
        let mut conversation = Self(stream);
        conversation.read_answer().map(|_| conversation)
    }

    /// The last value that `query` returned.
    fn ask(&mut self, query: &str) -> Result<String, String> {
        let length = u32::try_from(query.len() + 5).unwrap().to_be_bytes();
        let message = [b"Q", &length[..], query.as_bytes(), b"\0"].concat();
        self.0.write_all(&message).map_err(|error| error.to_string())?;
        self.read_answer()
    }

    /// Reads until the server is ready for more, or has an error to tell.
    fn read_answer(&mut self) -> Result<String, String> {
        let mut value = String::new();
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head).map_err(|error| error.to_string())?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let mut body = vec![0; usize::try_from(length).unwrap() - 4];
            self.0.read_exact(&mut body).map_err(|error| error.to_string())?;
            match head[0] {
                b'Z' => return Ok(value),
                b'E' => return Err(String::from_utf8_lossy(&body).replace('\0', " ")),
                // One column: its number and its length come first.
                b'D' => value = String::from_utf8_lossy(body.get(6..).unwrap_or_default()).into_owned(),
                _ => {}
            }
        }
    }
}

/// A daemon in front of a cluster, with a client in conversation at each listener.
struct Watched {
    site: Site,
    writes: SocketAddr,
    reads: SocketAddr,
    clients: Vec<(Conversation, String)>,
    /// The last event before the hardship.
    before: u64,
}

/// The process that serves a conversation.
const SERVED_BY: &str = "SELECT inet_server_addr() || '/' || pg_backend_pid()";

impl Watched {
    /// With `settings` of the pool besides, and `login` of how it watches.
    #[track_caller]
    fn start(cluster: &Cluster, settings: &str, login: &str) -> Self {
        let servers: String = (1..)
            .zip(&cluster.nodes)
            .map(|(priority, node)| {
                format!("[pools.orders.backends.{}]\naddress = \"{}\"\npriority = {priority}\n", node.name, node.addr)
            })
            .collect();
        let site = Site::with(&format!(
            "kind = \"postgres\"\n{settings}\n[pools.orders.postgres]\npassword = \"{PASSWORD}\"\n{login}\n{servers}\
             [listeners.reads]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\ntarget = \"prefer-standby\"\n"
        ));
        let (writes, reads) = (site.daemon.listener("orders"), site.daemon.listener("reads"));
        site.daemon.wait_state("orders", "healthy");
        let clients = [writes, reads].map(|at| {
            let mut client = Conversation::open(at).unwrap();
            let server = client.ask(SERVED_BY).unwrap();
            (client, server)
        });
        let last = site.daemon.admin_get("/api/v1/events?limit=1").json();
        let before = last["events"][0]["id"].as_u64().unwrap();
        Self { site, writes, reads, clients: clients.into(), before }
    }

    fn events(&self) -> Vec<serde_json::Value> {
        let told = self.site.daemon.admin_get(&format!("/api/v1/events?after={}&limit=1000", self.before)).json();
        told["events"].as_array().unwrap().clone()
    }

    /// Waits until all that may follow has followed.
    fn settle(&self) {
        let over = Instant::now();
        wait_until("what may follow has followed", DEADLINE, || over.elapsed() >= AFTERMATH);
        self.site.daemon.wait_state("orders", "healthy");
    }

    /// Whether a server was found silent that was silent to its witness, too.
    fn is_starved(&self, witnesses: &[(&str, Witness)]) -> bool {
        self.settle();
        let events = self.events();
        let silent =
            |event: &&serde_json::Value| event["kind"] == "backend.unhealthy" && event["reason"] == "unreachable";
        let accused: Vec<_> = events.iter().filter(silent).map(|event| &event["backend"]).collect();
        let silences = witnesses.iter().map(|(name, witness)| (name, witness.silence()));
        let accused: Vec<_> = silences.filter(|(name, _)| accused.iter().any(|accused| accused == name)).collect();
        println!("found silent, and for how long at most to another: {accused:?}");
        accused.iter().any(|(_, silence)| *silence > STARVED)
    }

    /// Panics if anybody was told of a failure, or a conversation is over, once all that may follow has followed.
    #[track_caller]
    fn assert_calm(mut self) {
        self.settle();
        let events = self.events();
        let kinds: Vec<_> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
        // A standby may well fall behind under load, which is no failure; and a daemon may say that it stood still itself.
        let lags = kinds.contains(&"backend.lagging");
        let is_harmless = |kind: &str| {
            matches!(kind, "backend.lagging" | "daemon.stalled")
                || lags && matches!(kind, "pool.degraded" | "pool.recovered")
        };
        let alarms: Vec<_> = events.iter().filter(|event| !is_harmless(event["kind"].as_str().unwrap())).collect();
        println!("told: {kinds:?}");
        assert!(alarms.is_empty(), "{alarms:#?}");
        for (client, server) in &mut self.clients {
            assert_eq!(client.ask(SERVED_BY).as_ref(), Ok(&*server), "its conversation goes on");
        }
        for reason in ["dead", "unreachable", "check_failed", "demoted", "lagging", "drained", "manual"] {
            let closed = self.site.daemon.metric("sessions_closed_total", &[("reason", reason)]);
            assert_eq!(closed.unwrap_or(0.0), 0.0, "sessions closed: {reason}");
        }
        for at in [self.writes, self.reads] {
            Conversation::open(at).expect("whoever comes is served");
        }
    }
}

/// A server that a busy machine does not let run is silent to everybody, as a frozen one is. Such a round of `hardship`, with a
/// cluster of its own that `start` makes, says nothing of the daemon; all others have to be calm.
fn heard(start: impl Fn() -> Cluster, hardship: impl Fn(&Cluster, &Watched)) {
    const ROUNDS: usize = 5;
    for _ in 0..ROUNDS {
        let cluster = start();
        let watched = Watched::start(&cluster, "", "");
        let witnesses: Vec<_> = cluster.nodes.iter().map(|node| (node.name.as_str(), Witness::of(node.addr))).collect();
        let borne = catch_unwind(AssertUnwindSafe(|| hardship(&cluster, &watched)));
        if watched.is_starved(&witnesses) {
            continue;
        }
        return borne.map_or_else(|panic| resume_unwind(panic), |()| watched.assert_calm());
    }
    panic!("in none of {ROUNDS} rounds did the machine let the servers run");
}

/// Does `work` again and again in so many threads while `meanwhile` runs.
fn under<T>(threads: usize, work: impl Fn() + Sync, meanwhile: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&over);
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    work();
                }
            });
        }
        meanwhile()
    })
}

/// New clients come and are served for as long as a hardship lasts.
#[track_caller]
fn visit(watched: &Watched) {
    let begun = Instant::now();
    while begun.elapsed() < HARDSHIP {
        for at in [watched.writes, watched.reads] {
            assert_eq!(Conversation::open(at).and_then(|mut client| client.ask("SELECT 1")), Ok("1".to_owned()));
        }
    }
}

/// Takes every connection that the server at `at` has.
fn fill(at: SocketAddr) -> Vec<Conversation> {
    let mut taken = Vec::new();
    loop {
        match Conversation::open(at) {
            Ok(conversation) => taken.push(conversation),
            Err(why) if why.contains("53300") => return taken,
            Err(why) => panic!("{why}"),
        }
    }
}

/// All connections are taken, and the monitor's own is ended meanwhile, `login` being how it logs in.
fn exhausted(login: &str, keeps_it_out: bool) {
    let cluster = Cluster::start(1);
    let watched = Watched::start(&cluster, "when_down = \"refuse\"", login);
    let primary = &cluster.nodes[0];
    let mut taken = fill(primary.addr);
    let first = taken.first_mut().unwrap();
    let monitors = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'changeover'";
    assert_eq!(first.ask(monitors), Ok("1".to_owned()));
    let meaning = || watched.site.daemon.backend("orders", "pg1")["meaning"].as_str().unwrap_or_default().to_owned();
    // What the superuser's reserve leaves is nothing to the monitor.
    let due = if keeps_it_out { "overloaded" } else { "alive" };
    wait_until("the monitor has tried", DEADLINE, || meaning().starts_with(due));
    let begun = Instant::now();
    let mut refused = 0;
    while begun.elapsed() < HARDSHIP || refused < REFUSED {
        match Conversation::open(watched.writes) {
            // The monitor's place may be free.
            Ok(client) => taken.push(client),
            Err(why) => {
                assert!(why.contains("57P03") && why.contains("pg1 has no free connection"), "{why}");
                refused += 1;
            }
        }
        assert_eq!(Conversation::open(watched.reads).and_then(|mut client| client.ask("SELECT 1")), Ok("1".to_owned()));
    }
    assert!(meaning().starts_with(due), "{}", meaning());
    println!("{login}: {refused} clients refused by the server; {}", meaning());
    drop(taken);
    wait_until("the monitor is in", DEADLINE, || meaning().starts_with("alive"));
    watched.assert_calm();
}

#[test]
fn a_server_without_a_free_connection_is_no_alarm() {
    exhausted("session = \"replication\"", false);
}

#[test]
fn a_server_without_a_free_connection_for_the_monitor_itself_is_no_alarm() {
    exhausted("session = \"plain\"", true);
}

#[test]
fn a_crowd_that_was_held_is_let_in_as_there_is_room() {
    const CROWD: u32 = 60;
    let cluster = Cluster::with_settings(1, "max_connections = 20\n");
    let watched = Watched::start(&cluster, "", "");
    watched.site.done("POST", "/orders/pause", r#"{"timeout": "10m"}"#);
    let full = [("backend", "pg1"), ("reason", "full")];
    let refused = || watched.site.daemon.metric("backend_connect_failures_total", &full).unwrap_or(0.0);
    let was_full = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&was_full);
        // Nobody goes before there were more of them than the server takes.
        let visit = || {
            let mut client = Conversation::open(watched.writes)?;
            while !was_full.load(Ordering::SeqCst) {
                client.ask("SELECT pg_sleep(0.01)")?;
            }
            client.ask("SELECT pg_sleep(0.05)").map(drop)
        };
        let crowd: Vec<_> = (0..CROWD).map(|_| scope.spawn(visit)).collect();
        watched.site.daemon.wait_held("orders", CROWD);
        watched.site.done("POST", "/orders/resume", "");
        wait_until("the server is full", DEADLINE, || refused() > 0.0);
        was_full.store(true, Ordering::SeqCst);
        for client in crowd {
            assert_eq!(client.join().unwrap(), Ok(()));
        }
    });
    println!("{CROWD} clients, {} dials that the server refused as too many", refused());
    let unanswered = [("backend", "pg1"), ("reason", "unanswered")];
    assert_eq!(watched.site.daemon.metric("backend_connect_failures_total", &unanswered).unwrap_or(0.0), 0.0);
    drop(watched);
}

/// A server with room for many, and its standby.
fn crowded() -> Cluster {
    Cluster::with_settings(1, "max_connections = 100\n")
}

/// TLS that nobody asked for: servers before version 17 end without a word.
const HELLO: &[u8] = &[0x16, 3, 1, 0, 7, 1, 0, 0, 3, 9, 9, 9];

#[test]
fn a_storm_of_what_servers_do_not_understand_is_no_alarm() {
    heard(crowded, |_, watched| {
        let ended = AtomicUsize::new(0);
        let storm = || {
            for at in [watched.writes, watched.reads] {
                let mut stream = dial(at).unwrap();
                stream.write_all(HELLO).unwrap();
                // In order or by a reset.
                drop(stream.read_to_end(&mut Vec::new()));
                ended.fetch_add(1, Ordering::SeqCst);
            }
        };
        under(120, storm, || {
            // Those in conversation are silent meanwhile: nobody is answered.
            let begun = Instant::now();
            wait_until("it has lasted", DEADLINE, || begun.elapsed() >= HARDSHIP);
            visit(watched);
        });
        println!("{ended:?} hellos");
        assert!(ended.load(Ordering::SeqCst) > REFUSED);
    });
}

#[test]
fn a_saturated_server_is_no_alarm() {
    let bench = |at: SocketAddr, args: &[&str]| {
        let ended = run(client("pgbench", at, &[("PGSSLMODE", "disable")]).args(args));
        must(&ended, "pgbench");
        ended.stdout
    };
    let start = || {
        let cluster = crowded();
        bench(cluster.nodes[0].addr, &["-i", "-q", "-s", "1"]);
        cluster
    };
    heard(start, |_, watched| {
        let told = bench(watched.writes, &["-n", "-c", "64", "-j", "4", "-T", "4"]);
        println!("{told}");
        assert!(told.contains("number of failed transactions: 0"), "{told}");
        println!("{}", bench(watched.writes, &["-n", "-S", "-c", "64", "-j", "4", "-T", "4"]));
    });
}

#[test]
fn a_server_of_logins_without_end_is_no_alarm() {
    heard(crowded, |_, watched| {
        let logins = AtomicUsize::new(0);
        let log_in = || {
            // Each is a process of its own.
            Conversation::open(watched.writes).expect("served");
            logins.fetch_add(1, Ordering::SeqCst);
        };
        under(32, log_in, || visit(watched));
        println!("{logins:?} logins");
    });
}

#[test]
fn a_processor_that_is_never_idle_is_no_alarm() {
    let busy = thread::available_parallelism().unwrap().get() * 8;
    let work = || {
        std::hint::black_box((0..100_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n)));
    };
    heard(|| Cluster::start(1), |_, watched| under(busy, work, || visit(watched)));
}

#[test]
fn a_storm_of_checkpoints_is_no_alarm() {
    let start = || {
        let cluster = Cluster::with_settings(1, "fsync = on\nmax_wal_size = '64MB'\n");
        cluster.nodes[0].psql("CREATE TABLE t (n int, filler text)");
        cluster
    };
    heard(start, |cluster, watched| {
        let (written, checkpoints) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let write = || {
            let mut client = Conversation::open(watched.writes).unwrap();
            let rows = "INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series(1, 5000) n";
            client.ask(rows).unwrap();
            written.fetch_add(5000, Ordering::SeqCst);
            Conversation::open(cluster.nodes[0].addr).unwrap().ask("CHECKPOINT").unwrap();
            checkpoints.fetch_add(1, Ordering::SeqCst);
        };
        under(4, write, || visit(watched));
        println!("{checkpoints:?} checkpoints, {written:?} rows");
        assert!(checkpoints.load(Ordering::SeqCst) >= 4, "{checkpoints:?}");
    });
}

#[test]
fn a_daemon_that_stood_still_is_no_alarm() {
    for login in ["session = \"replication\"", "session = \"plain\""] {
        let cluster = Cluster::start(1);
        let watched = Watched::start(&cluster, "", login);
        for _ in 0..5 {
            watched.site.daemon.signal(Signal::STOP);
            let stopped = Instant::now();
            wait_until("it has stood still for a second", DEADLINE, || stopped.elapsed() >= Duration::from_secs(1));
            watched.site.daemon.signal(Signal::CONT);
            Conversation::open(watched.writes).expect("served");
        }
        watched.assert_calm();
    }
}

#[test]
fn a_deadline_that_passed_while_the_daemon_stood_still_for_a_moment_is_no_alarm() {
    let cluster = Cluster::start(1);
    let mut watched = Watched::start(&cluster, "", "");
    let mut in_time = 0;
    // A machine that was busy with something else may have let the deadline pass: no answer then says anything.
    for _ in 0..20 {
        watched.site.daemon.wait_state("orders", "healthy");
        let last = watched.site.daemon.admin_get("/api/v1/events?limit=1").json();
        watched.before = last["events"][0]["id"].as_u64().unwrap();
        let begun = Instant::now();
        let until = |millis| {
            wait_until("it has lasted", DEADLINE, || begun.elapsed() >= Duration::from_millis(millis));
        };
        cluster.nodes[0].freeze();
        until(195);
        watched.site.daemon.signal(Signal::STOP);
        until(205);
        cluster.nodes[0].thaw();
        let was_brief = begun.elapsed() < Duration::from_millis(220);
        until(320);
        watched.site.daemon.signal(Signal::CONT);
        let over = Instant::now();
        wait_until("what may follow has followed", DEADLINE, || over.elapsed() >= Duration::from_millis(500));
        if was_brief {
            in_time += 1;
            let events = watched.events();
            let alarms: Vec<_> = events.iter().filter(|event| event["kind"] != "daemon.stalled").collect();
            assert!(alarms.is_empty(), "{alarms:#?}");
        }
    }
    println!("{in_time} of 20 in time");
    assert!(in_time > 0, "it never thawed in time");
}

#[test]
fn a_partitioned_primary_is_noticed_and_its_sessions_are_cut() {
    let Some(namespace) = Namespace::make() else { return };
    let cluster = Cluster::apart(1, namespace);
    cluster.nodes[0].psql("CREATE TABLE t (n int)");
    let settings = "[pools.orders.failover.sessions]\nunreachable = \"close\"\n";
    let mut watched = Watched::start(&cluster, settings, "heartbeat_deadline = \"250ms\"");
    let cut = Instant::now();
    cluster.nodes[0].namespace.as_ref().unwrap().cut();
    watched.site.daemon.wait_health("orders", "pg1", "unhealthy");
    let noticed = cut.elapsed();
    // Its server cannot have said so.
    watched.clients[0].0.ask("SELECT 1").expect_err("its session is cut");
    println!("partitioned: noticed {noticed:?} and its session cut {:?} after", cut.elapsed());
    let backend = watched.site.daemon.backend("orders", "pg1");
    assert!(backend["reason"].as_str().unwrap().starts_with("unreachable"), "{backend:#}");
    watched.site.daemon.wait_closed("orders", "unreachable", 1);
    let (reader, server) = &mut watched.clients[1];
    assert_eq!(reader.ask(SERVED_BY).as_ref(), Ok(&*server), "who reads from the standby reads on");
    // Whoever writes waits for a primary, and goes on with the one that is promoted.
    let writes = watched.writes;
    let waits = thread::spawn(move || Conversation::open(writes)?.ask("INSERT INTO t VALUES (1) RETURNING n"));
    watched.site.daemon.wait_held("orders", 1);
    cluster.nodes[1].promote();
    assert_eq!(waits.join().unwrap(), Ok("1".to_owned()));
    // Back again, it still says that it is the primary, and gets nobody.
    cluster.nodes[0].namespace.as_ref().unwrap().mend();
    wait_until("it is seen", DEADLINE, || watched.site.daemon.backend("orders", "pg1")["role"] == "primary");
    for n in 2..20 {
        let written =
            Conversation::open(watched.writes).unwrap().ask(&format!("INSERT INTO t VALUES ({n}) RETURNING n"));
        assert_eq!(written, Ok(n.to_string()));
    }
    assert_eq!(cluster.nodes[0].psql("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_partition_that_is_over_within_the_deadline_is_no_alarm() {
    let Some(namespace) = Namespace::make() else { return };
    let cluster = Cluster::apart(1, namespace);
    let watched = Watched::start(&cluster, "", "heartbeat_deadline = \"20s\"");
    let namespace = cluster.nodes[0].namespace.as_ref().unwrap();
    for _ in 0..3 {
        namespace.cut();
        let meaning = || watched.site.daemon.backend("orders", "pg1")["meaning"].as_str().unwrap().to_owned();
        wait_until("it is in doubt", DEADLINE, || !meaning().starts_with("alive"));
        namespace.mend();
        wait_until("it is in doubt no more", DEADLINE, || meaning().starts_with("alive"));
    }
    watched.assert_calm();
}
