//! A watch over real PostgreSQL servers: what it tells of their roles, their ends, and why they do not let it in.

#![allow(unsafe_code, reason = "an allocator that counts can only be written with it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

#[path = "support/counting.rs"]
mod counting;
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use changeover::dial::Ways;
use changeover::model::{
    Address, Approach, CheckError, CheckKind, DialError, LoginError, Lsn, PostgresPlan, ProbeError, ProbeOutcome, Role,
    Secret, SystemId, Timeline, TlsMode, WatchEnd, WatchError, WatchNews, WatchSession, WatchSpec,
};
use changeover::probe::Prober;
use changeover::sys::Clock;
use changeover::watch::Watcher;
use counting::allocations;
use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use support::cluster::{Cluster, HBA, MONITOR, Node, PASSWORD, PLAIN, Stop};
use support::net::fresh_addr;
use support::servers::{HttpServer, Server};
use support::watched::{Watched, plan, thread_time};
use support::{DEADLINE, in_time, wait_until};

const NOT_AUTHORIZED: WatchError = WatchError::Login(LoginError::NotAuthorized);
const NOT_PERMITTED: WatchError = WatchError::Login(LoginError::NotPermitted);
const REFUSED: WatchError = WatchError::Dial(DialError::Refused);
const TLS: WatchError = WatchError::Login(LoginError::Tls);

fn plain() -> PostgresPlan {
    PostgresPlan { user: PLAIN.to_owned(), session: WatchSession::Plain, ..plan() }
}

fn lsn(text: &str) -> Lsn {
    changeover::wire::postgres::parse_lsn(text).expect("an LSN")
}

fn system(node: &Node) -> SystemId {
    SystemId(node.psql("SELECT system_identifier FROM pg_control_system()").parse().unwrap())
}

#[test]
fn a_primary_and_a_standby_say_what_they_are_and_how_far_they_have_come() {
    let cluster = Cluster::start(1);
    let [primary, standby] = &cluster.nodes[..] else { unreachable!() };
    let system = Some(system(primary));
    for (plan, tells) in [(plan(), true), (plain(), false)] {
        let facts = Watched::start(primary.addr, plan.clone()).opened();
        assert_eq!((facts.system, facts.timeline, facts.role), (system, Some(Timeline(1)), Role::Primary));
        assert!(facts.written.unwrap() > Lsn(0) && facts.replayed.is_none() && facts.history.is_empty());
        let facts = Watched::start(standby.addr, plan).opened();
        assert_eq!((facts.system, facts.role), (system, Role::Standby));
        assert_eq!(facts.timeline, tells.then_some(Timeline(1)), "a plain session cannot tell a standby's");
        assert!(facts.written.unwrap() > Lsn(0) && facts.replayed.unwrap() > Lsn(0));
    }
    standby.psql("SELECT pg_wal_replay_pause()");
    wait_until("replay is paused", DEADLINE, || standby.psql("SELECT pg_get_wal_replay_pause_state()") == "paused");
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 20000) AS n");
    let written = lsn(&primary.psql("SELECT pg_current_wal_lsn()"));
    for plan in [plan(), plain()] {
        let watched = Watched::start(standby.addr, plan);
        let (_, facts) = watched.seen("what was written has come", |facts| facts.written >= Some(written));
        assert!(written.since(facts.replayed.unwrap()) > 500_000, "received is not replayed: {facts:?}");
    }
    standby.psql("SELECT pg_wal_replay_resume()");
    let watched = Watched::start(standby.addr, plan());
    watched.seen("what was written is replayed", |facts| facts.replayed >= Some(written));
}

#[test]
fn a_promotion_is_told_with_its_timeline_and_history_and_the_old_primary_comes_back_without() {
    let mut cluster = Cluster::start(1);
    let old = Watched::start(cluster.nodes[0].addr, plan());
    let new = Watched::start(cluster.nodes[1].addr, plan());
    let first = old.opened();
    assert_eq!(new.opened().role, Role::Standby);
    cluster.nodes[0].kill();
    let (_, end, detail) = old.ended();
    assert!(matches!(end, WatchEnd::Terminated | WatchEnd::Closed), "{end} {detail}");
    cluster.nodes[1].promote();
    let (at, facts) = new.seen("it is the primary", |facts| facts.role == Role::Primary);
    cluster.nodes[1].wait_primary();
    println!("told {:?} before a query could see it", at.elapsed());
    assert_eq!((facts.system, facts.timeline, facts.replayed), (first.system, Some(Timeline(2)), None));
    let [fork] = facts.history[..] else { panic!("{facts:?}") };
    assert_eq!(fork.timeline, Timeline(1));
    assert!(fork.at > Lsn(0) && Some(fork.at) <= facts.written, "{facts:?}");
    cluster.nodes[0].start();
    let stale = old.opened();
    assert_eq!((stale.system, stale.timeline, stale.role), (first.system, Some(Timeline(1)), Role::Primary));
}

/// Has `end` come about until the server's own words for it are heard. A process that is to go at once says so in its signal's
/// handler, and says nothing where the signal found it sending: a capture shows a FIN and no word before it.
#[track_caller]
fn heard_at_last(wanted: WatchEnd, mut end: impl FnMut() -> (WatchEnd, String)) {
    let wordless: Vec<_> = (0..8).map(|_| end()).take_while(|(end, _)| *end != wanted).collect();
    assert!(wordless.len() < 8 && wordless.iter().all(|(end, _)| *end == WatchEnd::Closed), "{wanted}: {wordless:?}");
}

#[test]
fn each_way_to_end_is_told_and_the_next_session_is_opened() {
    let mut cluster = Cluster::start(0);
    let node = &mut cluster.nodes[0];
    let watched = Watched::start(node.addr, plan());
    let by_sql = Watched::start(node.addr, plain());
    let facts = watched.opened();
    by_sql.opened();

    for (user, watched) in [(MONITOR, &watched), (PLAIN, &by_sql)] {
        node.psql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'"));
        let (_, end, detail) = watched.ended();
        assert_eq!(end, WatchEnd::Terminated, "{detail}");
        assert!(detail.contains("administrator command") && detail.contains("57P01"), "{detail}");
        assert_eq!(watched.opened().system, facts.system);
    }

    heard_at_last(WatchEnd::Crashed, || {
        node.crash_a_backend();
        let last = by_sql.ended();
        let (_, end, detail) = watched.ended();
        assert_eq!(end, WatchEnd::Closed, "{detail}");
        for watched in [&watched, &by_sql] {
            let facts = watched.opened();
            assert_eq!((facts.role, facts.timeline), (Role::Primary, Some(Timeline(1))), "it has recovered");
        }
        (last.1, last.2)
    });

    let mut stopped = |stop, wanted| {
        let begun = Instant::now();
        node.begin_stop(stop);
        let (at, end, detail) = watched.ended();
        assert_eq!(end, wanted, "{stop:?}: {detail}");
        println!("{stop:?} stop told after {:?}", at - begun);
        let last = by_sql.ended();
        node.wait_end();
        for watched in [&watched, &by_sql] {
            watched.until("it refuses", |news| matches!(news, WatchNews::Failed { error: REFUSED, .. }).then_some(()));
        }
        node.start();
        watched.opened();
        by_sql.opened();
        (last.1, last.2)
    };
    let (end, detail) = stopped(Stop::Fast, WatchEnd::Terminated);
    // A process that exits while a heartbeat is under way resets the connection, and its last words may be lost by it.
    assert!(end == WatchEnd::Terminated || detail.contains("reset"), "{end} {detail}");
    heard_at_last(WatchEnd::Terminated, || stopped(Stop::Immediate, WatchEnd::Closed));

    let begun = Instant::now();
    node.kill();
    let (at, end, detail) = watched.ended();
    assert!(matches!(end, WatchEnd::Terminated | WatchEnd::Closed), "{end} {detail}");
    println!("SIGKILL told after {:?}", at - begun);
    let refuses =
        |what| watched.until(what, |news| matches!(news, WatchNews::Failed { error: REFUSED, .. }).then_some(())).0;
    let (first, second) = (refuses("it refuses"), refuses("it refuses still"));
    assert!(second - first >= Duration::from_millis(900), "the same failure is told once a second");
}

#[test]
fn a_server_that_waits_for_its_clients_to_go_is_found_to_turn_others_away() {
    let mut cluster = Cluster::start(0);
    let node = &mut cluster.nodes[0];
    let (watched, client) = (Watched::start(node.addr, plan()), Watched::start(node.addr, plain()));
    watched.opened();
    client.opened();
    let knock = || {
        watched.knock();
        watched.until("it is known whether another is let in", |news| {
            let turned = if let WatchNews::TurnedAway { detail } = news { Some(detail.clone()) } else { None };
            (turned.is_some() || *news == WatchNews::LetIn).then_some(turned)
        })
    };
    assert_eq!(knock().1, None);
    node.begin_stop(Stop::Smart);
    // The postmaster has to take the order first.
    let begun = Instant::now();
    let words = loop {
        if let Some(words) = knock().1 {
            break words;
        }
        assert!(begun.elapsed() < DEADLINE, "it lets everybody in");
    };
    assert!(words.contains("57P03"), "{words}");
    watched.seen("its own session goes on", |_| true);
    client.seen("and so do others", |_| true);
    drop(client);
    watched.ended();
    node.wait_end();
}

#[test]
fn a_frozen_server_is_late_and_on_time_when_thawed_and_one_that_stays_so_is_given_up() {
    let mut cluster = Cluster::start(0);
    let node = &mut cluster.nodes[0];
    let patient = Watched::start(node.addr, PostgresPlan { heartbeat_deadline: DEADLINE, ..plan() });
    let hasty = Watched::start(node.addr, PostgresPlan { heartbeat_deadline: Duration::from_millis(100), ..plan() });
    patient.opened();
    hasty.opened();
    let late = |news: &WatchNews| {
        let WatchNews::Late { waited, .. } = news else { return None };
        Some(*waited)
    };
    let on_time = |news: &WatchNews| {
        let WatchNews::OnTime { took } = news else { return None };
        Some(*took)
    };
    node.freeze();
    let (_, waited) = patient.until("a heartbeat is late", late);
    assert!(waited >= Duration::from_millis(25), "{waited:?}");
    let (_, end, detail) = hasty.ended();
    assert_eq!(end, WatchEnd::Silent, "{detail}");
    node.thaw();
    let (_, took) = patient.until("it is answered", on_time);
    assert!(took >= waited);
    patient.seen("its facts", |facts| facts.role == Role::Primary);
    hasty.opened();
    let ends = |news: &WatchNews| matches!(news, WatchNews::Ended { .. });
    assert!(!patient.rest().iter().any(ends), "no session was lost by it");
}

#[test]
fn a_server_that_stops_and_cannot_end_yet_takes_no_session() {
    let mut cluster = Cluster::start(1);
    let (primary, standby) = cluster.nodes.split_at_mut(1);
    let watched = Watched::start(primary[0].addr, plan());
    watched.opened();
    // A stop waits until what was written has reached the standbys that are connected.
    standby[0].freeze();
    primary[0].psql("CREATE TABLE unsent (n int)");
    primary[0].begin_stop(Stop::Fast);
    assert_eq!(watched.ended().1, WatchEnd::Terminated);
    let (error, detail) = watched.failed();
    assert_eq!(error, WatchError::Login(LoginError::CannotConnectNow), "{detail}");
    assert!(detail.contains("shutting down"), "{detail}");
    standby[0].thaw();
    primary[0].wait_end();
}

#[track_caller]
fn fails(addr: SocketAddr, plan: PostgresPlan, error: WatchError, words: &str) {
    let (found, detail) = Watched::start(addr, plan).failed();
    assert_eq!(found, error, "{detail}");
    assert!(detail.contains(words), "`{words}` is not in `{detail}`");
    assert!(!detail.contains(PASSWORD) && !detail.contains("wrong password"), "{detail}");
}

#[test]
fn who_is_not_let_in_is_told_why() {
    let cluster = Cluster::start(0);
    let node = &cluster.nodes[0];
    let wrong = |text: &str| Some(Secret::new(text));
    fails(node.addr, PostgresPlan { password: wrong("wrong password"), ..plan() }, NOT_AUTHORIZED, "28P01");
    fails(node.addr, PostgresPlan { password: None, ..plan() }, NOT_AUTHORIZED, "none is configured");
    fails(node.addr, PostgresPlan { user: "nobody".to_owned(), ..plan() }, NOT_AUTHORIZED, "28");
    fails(node.addr, PostgresPlan { user: PLAIN.to_owned(), ..plan() }, NOT_AUTHORIZED, "pg_hba.conf");
    fails(node.addr, PostgresPlan { database: "nowhere".to_owned(), ..plain() }, NOT_AUTHORIZED, "pg_hba.conf");
    node.write_hba(&format!("{HBA}host all,replication {PLAIN} 127.0.0.0/8 scram-sha-256\n"));
    node.reload();
    fails(node.addr, PostgresPlan { user: PLAIN.to_owned(), ..plan() }, NOT_PERMITTED, "42501");
    let other = WatchError::Login(LoginError::Other);
    fails(node.addr, PostgresPlan { database: "nowhere".to_owned(), ..plain() }, other, "3D000");
    node.psql(&format!("ALTER ROLE {PLAIN} CONNECTION LIMIT 0"));
    fails(node.addr, plain(), WatchError::Login(LoginError::TooManyConnections), "53300");
}

#[test]
fn a_session_without_a_database_is_physical_and_each_way_to_log_in_works() {
    let cluster = Cluster::with_hba(1, "host replication changeover 127.0.0.0/8 trust\n");
    let [primary, standby] = &cluster.nodes[..] else { unreachable!() };
    let no_password = PostgresPlan { password: None, ..plan() };
    let watched = Watched::start(standby.addr, no_password.clone());
    let facts = watched.opened();
    assert_eq!((facts.role, facts.timeline, facts.replayed), (Role::Standby, Some(Timeline(1)), None));
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    let written = lsn(&primary.psql("SELECT pg_current_wal_lsn()"));
    watched.seen("what was written has come", |facts| facts.written >= Some(written));
    standby.promote();
    let (_, facts) = watched.seen("it is the primary", |facts| facts.role == Role::Primary);
    assert_eq!((facts.timeline, facts.history.len()), (Some(Timeline(2)), 1));

    primary.write_hba("host postgres,replication changeover 127.0.0.0/8 trust\n");
    primary.reload();
    assert_eq!(Watched::start(primary.addr, no_password).opened().role, Role::Primary);
    primary.psql(&format!("SET password_encryption = 'md5'; ALTER ROLE {MONITOR} PASSWORD '{PASSWORD}'"));
    primary.write_hba("host postgres changeover 127.0.0.0/8 md5\n");
    primary.reload();
    assert_eq!(Watched::start(primary.addr, plan()).opened().role, Role::Primary);
    primary.write_hba("host postgres changeover 127.0.0.0/8 password\n");
    primary.reload();
    let in_the_clear = PostgresPlan { tls: TlsMode::Disable, ..plan() };
    assert_eq!(
        Watched::start(primary.addr, in_the_clear).opened().role,
        Role::Primary,
        "nobody listens in on loopback"
    );
}

#[test]
fn tls_is_as_strict_as_its_mode() {
    let cluster = Cluster::with_hba(1, "hostssl postgres,replication changeover 127.0.0.0/8 scram-sha-256\n");
    let [primary, standby] = &cluster.nodes[..] else { unreachable!() };
    let ca_file = Some(cluster.ca_file());
    let with = |tls, ca_file: &Option<_>| PostgresPlan { tls, ca_file: ca_file.clone(), ..plan() };
    let modes = [TlsMode::Prefer, TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull];
    for tls in modes {
        let watched = Watched::start(primary.addr, with(tls, &ca_file));
        watched.opened();
        let used = "SELECT string_agg(ssl::text, '') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                    WHERE usename = 'changeover'";
        assert_eq!(primary.psql(used), "true", "{tls}");
        drop(watched);
        wait_until("the session is gone", DEADLINE, || primary.psql(used).is_empty());
    }
    // Its certificate is for the primary's address.
    Watched::start(standby.addr, with(TlsMode::VerifyCa, &ca_file)).opened();
    fails(standby.addr, with(TlsMode::VerifyFull, &ca_file), TLS, "not valid for");
    // Signed by itself, and so trusted as it is.
    let own = Some(primary.data().join("server.crt"));
    Watched::start(primary.addr, with(TlsMode::VerifyFull, &own)).opened();
    fails(standby.addr, with(TlsMode::VerifyFull, &own), TLS, "not valid for");
    let other = Cluster::start(0);
    let foreign = Some(other.ca_file());
    fails(primary.addr, with(TlsMode::VerifyFull, &foreign), TLS, "UnknownIssuer");
    fails(primary.addr, with(TlsMode::VerifyCa, &foreign), TLS, "UnknownIssuer");
    fails(primary.addr, with(TlsMode::VerifyFull, &Some("/nonexistent.pem".into())), TLS, "/nonexistent.pem");
    fails(primary.addr, with(TlsMode::Disable, &None), NOT_AUTHORIZED, "no encryption");
    other.nodes[0].psql("ALTER SYSTEM SET ssl = off");
    other.nodes[0].reload();
    fails(other.nodes[0].addr, with(TlsMode::Require, &None), TLS, "does not do TLS");
    Watched::start(other.nodes[0].addr, with(TlsMode::Prefer, &None)).opened();
}

/// A server that reads `wants` bytes, says `says`, and ends.
fn fake(wants: usize, says: &'static [u8]) -> Server {
    Server::start(fresh_addr(), move |_, mut stream| {
        let mut read = vec![0; wants];
        stream.read_exact(&mut read)?;
        stream.write_all(says)?;
        stream.shutdown(Shutdown::Write)?;
        // Closed with unread bytes it would be reset, and what it said might be lost.
        stream.read_to_end(&mut Vec::new()).map(drop)
    })
}

const SILENT: Duration = Duration::from_millis(300);

#[test]
fn what_is_no_postgres_is_told_so_whatever_it_says() {
    let not_postgres = WatchError::Login(LoginError::NotPostgres);
    let echo =
        Server::start(fresh_addr(), |_, mut stream| std::io::copy(&mut stream.try_clone()?, &mut stream).map(drop));
    let in_the_clear = || PostgresPlan { tls: TlsMode::Disable, ..plan() };
    for tls in [TlsMode::Prefer, TlsMode::Require] {
        fails(echo.addr, PostgresPlan { tls, ..plan() }, not_postgres, "0x00");
    }
    fails(echo.addr, in_the_clear(), not_postgres, "not PostgreSQL's protocol");
    let closed = WatchError::Login(LoginError::ClosedEarly);
    fails(fake(8, b"HTTP/1.1 400 Bad Request\r\n\r\n").addr, plan(), not_postgres, "0x48");
    fails(fake(8, b"HTTP/1.1 400 Bad Request\r\n\r\n").addr, in_the_clear(), not_postgres, "not PostgreSQL's protocol");
    fails(fake(8, b"R\0\0\0\x08\0\0\0\0D\0\0\0\x06\0\0").addr, in_the_clear(), not_postgres, "before it was asked");
    fails(fake(8, b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0").addr, in_the_clear(), closed, "");
    fails(fake(8, b"").addr, plan(), closed, "");
    let silent = Server::start(fresh_addr(), |_, mut stream| stream.read_to_end(&mut Vec::new()).map(drop));
    // It waits for the end of the request's head.
    let http = HttpServer::start(support::fresh_ip(), 200);
    for (addr, plan) in [(silent.addr, plan()), (silent.addr, in_the_clear()), (http.addr(), plan())] {
        let watched = Watched::start_at(Address::Ip(addr), plan, SILENT);
        assert_eq!(watched.failed().0, WatchError::Login(LoginError::TimedOut));
    }
    fails(fresh_addr(), plan(), REFUSED, "connecting to");
}

fn probe(addr: SocketAddr, limit: Duration) -> Result<(), ProbeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let prober = Prober::new(Clock::start(), Ways::default());
    let address = Address::Ip(addr);
    // One that came to nothing because this machine was late itself is asked again.
    for _ in 0..20 {
        let asked = prober.probe(&address, &CheckKind::Postgres, limit, &Approach::PLAIN);
        match runtime.block_on(asked).outcome {
            ProbeOutcome::Passed { .. } => return Ok(()),
            ProbeOutcome::Failed { error, .. } => return Err(error),
            ProbeOutcome::Inconclusive { detail, .. } => assert!(detail.contains("late ourselves"), "{detail}"),
        }
    }
    panic!("late twenty times in a row");
}

#[test]
fn a_check_asks_for_one_byte_and_leaves_no_line_in_the_log() {
    let mut cluster = Cluster::start(0);
    let node = &mut cluster.nodes[0];
    let lines = node.log().lines().count();
    for _ in 0..20 {
        assert_eq!(probe(node.addr, DEADLINE), Ok(()));
    }
    // Whatever it had to say of them it has said before it answers this.
    node.psql("SELECT 1");
    assert_eq!(node.log().lines().count(), lines, "{}", node.log());
    node.freeze();
    assert_eq!(probe(node.addr, SILENT), Err(ProbeError::Check(CheckError::AnswerTimedOut)));
    node.thaw();
    assert_eq!(probe(node.addr, DEADLINE), Ok(()));
    node.stop(Stop::Fast);
    assert_eq!(probe(node.addr, DEADLINE), Err(ProbeError::Dial(DialError::Refused)));
    let error = |says| probe(fake(8, says).addr, DEADLINE).map_err(|error| error.label());
    assert_eq!(error(b"E\0\0\0\x1dSFATAL\0C57P03\0Mstarting\0\0"), Err("cannot_connect_now"));
    assert_eq!(error(b"E\0\0\0\x1dSFATAL\0C53300\0Mtoo many\0\0"), Ok(()), "full is not dead");
    assert_eq!(error(b"HTTP/1.1 400"), Err("malformed"));
    assert_eq!(error(b"Eh?"), Err("malformed"));
    assert_eq!(error(b""), Err("closed_early"));
}

/// What a watch over the server allocates from facts to facts, at the least of some rounds.
fn allocated(addr: SocketAddr, heartbeat: Duration) -> u64 {
    let postgres = Arc::new(PostgresPlan { heartbeat, tls: TlsMode::Disable, ..plan() });
    let spec = WatchSpec { address: Address::Ip(addr), approach: Approach::PLAIN, timeout: DEADLINE, postgres };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (rounds, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut before = None;
    let watched =
        Watcher::new(Clock::start(), Ways::default()).watch(Arc::new(spec), Arc::default(), async move |news| {
            let now = allocations();
            if let (WatchNews::Seen(_), Some(before)) = (&news, before) {
                rounds.send(now - before).ok();
            }
            before = Some(allocations());
        });
    runtime.block_on(in_time("facts come", async {
        let enough = async {
            let mut least = Vec::new();
            while least.len() < 8 {
                least.extend(told.recv().await);
            }
            least.into_iter().min().expect("some")
        };
        tokio::select! { least = enough => least, () = watched => unreachable!("it watches for ever") }
    }))
}

#[test]
fn a_heartbeat_allocates_nothing() {
    let cluster = Cluster::start(0);
    let addr = cluster.nodes[0].addr;
    // Ten heartbeats between two facts, and a hundred.
    let (few, many) = (allocated(addr, Duration::from_millis(20)), allocated(addr, Duration::from_millis(2)));
    assert!(many < few + 20, "{few} and {many}");
}

#[test]
fn a_watch_takes_leave() {
    let cluster = Cluster::start(0);
    let node = &cluster.nodes[0];
    for plan in [plan(), plain(), PostgresPlan { tls: TlsMode::Disable, ..plan() }] {
        let watched = Watched::start(node.addr, plan);
        watched.opened();
        watched.stop();
    }
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'changeover'";
    wait_until("the sessions are gone", DEADLINE, || node.psql(sessions) == "0");
    let log = node.log();
    assert!(!log.contains("unexpected EOF") && !log.contains("could not receive"), "{log}");
}

/// A loop that makes the same system calls for its heartbeats as a watch over the servers at `addrs`, and nothing else: what it
/// takes of a core is what a watch takes at the least.
fn bare_loop(addrs: &[SocketAddr], heartbeat: Duration, beats: u32) -> f64 {
    let sessions: Vec<TcpStream> = addrs.iter().map(|addr| superuser(*addr)).collect();
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK).expect("a timer");
    let every = Timespec::try_from(heartbeat).expect("a time");
    let ticks = Itimerspec { it_interval: every, it_value: every };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticks).expect("set");
    let epoll = epoll::create(epoll::CreateFlags::empty()).expect("epoll");
    epoll::add(&epoll, &timer, epoll::EventData::new_u64(0), epoll::EventFlags::IN).expect("added");
    let (begun, spent) = (Instant::now(), thread_time());
    let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 4];
    for beat in 0..beats {
        epoll::wait(&epoll, &mut events[..], None).expect("a tick");
        rustix::io::read(&timer, &mut [0_u8; 8]).expect("a tick");
        for mut session in &sessions {
            if beat > 0 {
                session.read_exact(&mut [0; 6]).expect("the answer to the last one");
            }
            session.write_all(b"S\0\0\0\x04").expect("sent");
        }
    }
    (thread_time() - spent).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0
}

/// A session that is ready for questions.
fn superuser(addr: SocketAddr) -> TcpStream {
    let mut stream = support::dial(addr).expect("connected");
    stream.set_nodelay(true).expect("set");
    stream.write_all(b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0").expect("sent");
    let mut said = Vec::new();
    while !said.ends_with(b"Z\0\0\0\x05I") {
        let mut bytes = [0; 1024];
        let length = stream.read(&mut bytes).expect("read");
        assert!(length > 0, "it hung up: {said:?}");
        said.extend_from_slice(&bytes[..length]);
    }
    stream
}

/// What a watch over the servers at `addrs` takes of a core, in percent.
fn cost(addrs: &[SocketAddr], tls: TlsMode) -> f64 {
    let addresses = addrs.iter().map(|addr| Address::Ip(*addr)).collect();
    let watched = Watched::start_all(addresses, PostgresPlan { tls, ..plan() }, DEADLINE);
    addrs.iter().for_each(|_| drop(watched.opened()));
    let begun = Instant::now();
    for _ in 0..25 * addrs.len() {
        watched.seen("its facts", |_| true);
    }
    let lasted = begun.elapsed();
    watched.stop().as_secs_f64() / lasted.as_secs_f64() * 100.0
}

#[test]
fn a_heartbeat_costs_little() {
    let cluster = Cluster::start(2);
    let all: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.addr).collect();
    for addrs in [&all[..1], &all[..]] {
        let (clear, tls) = (cost(addrs, TlsMode::Disable), cost(addrs, TlsMode::Require));
        let (bare, count) = (bare_loop(addrs, plan().heartbeat, 500), addrs.len());
        println!("{count} servers, of a core: {clear:.2} %, over TLS {tls:.2} %, a bare loop {bare:.2} %");
        // Ten times what it may take: a loop that does not wait takes all.
        assert!(clear < 5.0 * count as f64 && tls < 5.0 * count as f64, "{clear} {tls}");
    }
}

/// A message of PostgreSQL's protocol.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind][..], &length, body].concat()
}

/// A row of an answer, and the end of it.
fn row(columns: &[Option<&str>]) -> Vec<u8> {
    let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for column in columns {
        let length = column.map_or(-1, |text| i32::try_from(text.len()).unwrap());
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(column.unwrap_or_default().as_bytes());
    }
    [message(b'D', &body), READY.to_vec()].concat()
}

const READY: &[u8] = b"Z\0\0\0\x05I";

/// Stands in for a primary that lets everybody in. What it does with a heartbeat is `beat`, which is told how many there were.
fn stand_in(beat: impl Fn(usize, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Server {
    Server::start(fresh_addr(), move |_, mut stream| {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        stream.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize - 4])?;
        stream.write_all(&[message(b'R', &[0; 4]), READY.to_vec()].concat())?;
        let mut beats = 0;
        loop {
            let mut head = [0; 5];
            stream.read_exact(&mut head)?;
            let mut body = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4];
            stream.read_exact(&mut body)?;
            match head[0] {
                b'S' => {
                    beats += 1;
                    beat(beats, &mut stream)?;
                }
                b'Q' if body.starts_with(b"SELECT system_identifier") => stream.write_all(&row(&[Some("7")]))?,
                b'Q' => {
                    let file = "000000010000000000000001";
                    stream.write_all(&row(&[Some("f"), Some("0/1000000"), None, Some(file)]))?;
                }
                _ => return Ok(()),
            }
        }
    })
}

fn stand_in_plan() -> PostgresPlan {
    PostgresPlan { tls: TlsMode::Disable, heartbeat_deadline: Duration::from_millis(100), ..plain() }
}

#[test]
fn a_server_that_floods_its_monitor_is_left() {
    for begins_at in [1, 3] {
        let server = stand_in(move |beats, stream| {
            stream.write_all(READY)?;
            let flood = message(b'N', b"SWARNING\0C01000\0Mand on\0\0").repeat(1000);
            if beats < begins_at {
                return Ok(());
            }
            loop {
                stream.write_all(&flood)?;
            }
        });
        let watched = Watched::start(server.addr, stand_in_plan());
        watched.opened();
        let (_, end, detail) = watched.ended();
        assert_eq!(end, WatchEnd::Malformed, "{detail}");
        assert!(detail.contains("more than 128 things"), "{detail}");
    }
}

#[test]
fn a_heartbeat_that_nobody_answers_is_late_whether_it_was_quiet_or_not() {
    for (silent_from, heartbeat) in [(1, 10), (4, 10), (2, 40), (20, 1)] {
        let server = stand_in(move |beats, stream| if beats < silent_from { stream.write_all(READY) } else { Ok(()) });
        let heartbeat = Duration::from_millis(heartbeat);
        let watched = Watched::start(server.addr, PostgresPlan { heartbeat, ..stand_in_plan() });
        watched.opened();
        let (_, waited) = watched.until("it is late", |news| {
            let WatchNews::Late { waited, .. } = news else { return None };
            Some(*waited)
        });
        assert!(waited >= Duration::from_millis(25), "{waited:?}");
        let (_, end, detail) = watched.ended();
        assert_eq!(end, WatchEnd::Silent, "{detail}");
    }
}

#[test]
fn the_end_of_a_session_is_no_answer_to_its_late_heartbeat() {
    let last_words = message(b'E', b"SFATAL\0C57P01\0Mgo away\0\0");
    for (words, wanted) in [(Vec::new(), WatchEnd::Closed), (last_words, WatchEnd::Terminated)] {
        let (is_late, was_late) = channel::<()>();
        let was_late = Mutex::new(was_late);
        let server = stand_in(move |_, stream| {
            was_late.lock().unwrap().recv().map_err(std::io::Error::other)?;
            stream.write_all(&words)?;
            stream.shutdown(Shutdown::Both)
        });
        let watched = Watched::start(server.addr, PostgresPlan { tls: TlsMode::Disable, ..plain() });
        watched.opened();
        watched.until("it is late", |news| matches!(news, WatchNews::Late { .. }).then_some(()));
        is_late.send(()).unwrap();
        let (_, end) = watched.until("it is on time, or over", |news| {
            let end = if let WatchNews::Ended { end, .. } = news { Some(*end) } else { None };
            (end.is_some() || matches!(news, WatchNews::OnTime { .. })).then_some(end)
        });
        assert_eq!(end, Some(wanted));
    }
}

#[test]
fn a_server_that_does_not_report_its_role_is_asked_for_it_soon_from_the_first_time_on() {
    // It answers heartbeats for twice the time after which it is to be asked, half of that of the others, and then nothing.
    let server = stand_in(|beats, stream| if beats <= 10 { stream.write_all(READY) } else { Ok(()) });
    let watched = Watched::start(server.addr, PostgresPlan { tls: TlsMode::Disable, ..plain() });
    watched.opened();
    let (_, was_asked) = watched.until("it is asked, or given up", |news| {
        let is_facts = matches!(news, WatchNews::Seen(_));
        (is_facts || matches!(news, WatchNews::Ended { .. })).then_some(is_facts)
    });
    assert!(was_asked, "not before the eleventh heartbeat");
}

#[test]
fn an_answer_in_pieces_is_one() {
    let server = stand_in(|_, stream| {
        for byte in READY {
            stream.write_all(&[*byte])?;
        }
        Ok(())
    });
    let watched = Watched::start(server.addr, PostgresPlan { heartbeat: Duration::from_millis(1), ..stand_in_plan() });
    watched.opened();
    for _ in 0..5 {
        watched.seen("its facts", |facts| facts.role == Role::Primary);
    }
    let ends = |news: &WatchNews| matches!(news, WatchNews::Ended { .. });
    assert!(!watched.rest().iter().any(ends));
}

#[test]
fn what_comes_between_two_heartbeats_is_heard_at_once() {
    // A heartbeat so rare that what is heard at the next one would be heard too late.
    const RARE: Duration = Duration::from_secs(60);
    let plan = || PostgresPlan { heartbeat: RARE, heartbeat_deadline: RARE * 2, ..stand_in_plan() };
    let last_words = message(b'E', b"SFATAL\0C57P01\0Mgo away\0\0");
    for (words, wanted) in [(last_words, WatchEnd::Terminated), (Vec::new(), WatchEnd::Closed)] {
        let server = stand_in(move |_, stream| {
            stream.write_all(READY)?;
            stream.write_all(&words)?;
            stream.shutdown(Shutdown::Both)
        });
        let watched = Watched::start(server.addr, plan());
        watched.opened();
        assert_eq!(watched.ended().1, wanted);
    }
}

#[test]
fn a_heartbeat_without_a_timer_is_our_own_failure() {
    let server = stand_in(|_, stream| stream.write_all(READY));
    let watched = Watched::start(server.addr, PostgresPlan { heartbeat: Duration::ZERO, ..stand_in_plan() });
    let (error, detail) = watched.failed();
    assert_eq!(error, WatchError::Dial(DialError::Local), "{detail}");
    assert!(detail.contains("no timer"), "{detail}");
}
