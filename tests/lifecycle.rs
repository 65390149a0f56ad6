//! Start and stop, as service managers and scripts count on them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::net::{echo, ends, listen, meet, read_line, refused};
use support::{Backend, DEADLINE, Daemon, changeover, fresh_addr, http, visit, wait_until};

/// Exit codes of the contract (sysexits.h).
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const CONFIG: i32 = 78;

fn config(bind: &str, backend: &Backend, drain_timeout: &str) -> String {
    format!(
        "[daemon]\ndrain_timeout = \"{drain_timeout}\"\n\
         [listeners.orders]\nbind = \"{bind}\"\npool = \"orders\"\n{}",
        backend.toml("orders", 1)
    )
}

#[test]
fn a_terminated_daemon_lets_its_sessions_end_and_takes_no_new_ones() {
    for signal in [Signal::TERM, Signal::INT] {
        let a = Backend::start("a");
        let mut daemon = Daemon::start(&config("127.0.0.1:0", &a, "10m"));
        let (orders, admin) = (daemon.listener("orders"), daemon.admin());
        let (mut session, _) = meet(orders).expect("served");
        daemon.signal(signal);
        wait_until("new clients are refused", DEADLINE, || refused(orders));
        wait_until("it is not ready", DEADLINE, || http::get(admin, "/readyz").is_ok_and(|r| r.status == 503));
        assert_eq!(http::get(admin, "/healthz").expect("answered").status, 200, "it lives still");
        wait_until("the service manager knows", DEADLINE, || daemon.notified("STOPPING=1") == 1);
        for _ in 0..20 {
            echo(&mut session, b"not done yet").expect("echoed");
        }
        assert!(daemon.is_running());
        drop(session);
        assert_eq!(daemon.wait_exit().code(), Some(0));
        assert!(refused(admin));
    }
}

#[test]
fn an_idle_daemon_stops_at_once() {
    let a = Backend::start("a");
    let mut daemon = Daemon::start(&config("127.0.0.1:0", &a, "10m"));
    assert_eq!(visit(daemon.listener("orders")).expect("served"), "a");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
    // It has no disk, so that nothing is missing there.
    assert_eq!(daemon.logged("not everything"), Vec::<serde_json::Value>::new());
}

#[test]
fn the_drain_timeout_cuts_what_is_left() {
    let a = Backend::start("a");
    let mut daemon = Daemon::start(&config("127.0.0.1:0", &a, "500ms"));
    let (mut session, _) = meet(daemon.listener("orders")).expect("served");
    let start = Instant::now();
    daemon.signal(Signal::TERM);
    ends(&mut session);
    assert!(start.elapsed() >= Duration::from_millis(480), "cut after {:?}", start.elapsed());
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_daemon_at_once() {
    let a = Backend::start("a");
    let mut daemon = Daemon::start(&config("127.0.0.1:0", &a, "10m"));
    let orders = daemon.listener("orders");
    let (mut session, _) = meet(orders).expect("served");
    daemon.signal(Signal::TERM);
    wait_until("it drains", DEADLINE, || refused(orders));
    assert!(daemon.is_running());
    daemon.signal(Signal::TERM);
    ends(&mut session);
    daemon.wait_exit();
}

#[test]
fn a_held_client_is_still_served_while_the_daemon_drains() {
    let mut backend = Backend::absent("a");
    let mut daemon =
        Daemon::start(&format!("{}[pools.orders]\nhold = \"10m\"\n", config("127.0.0.1:0", &backend, "10m")));
    let mut client = support::dial(daemon.listener("orders")).expect("accepted");
    daemon.wait_held("orders", 1);
    daemon.signal(Signal::TERM);
    wait_until("it is stopping", DEADLINE, || daemon.notified("STOPPING=1") == 1);
    backend.restart();
    assert_eq!(read_line(&mut client).expect("served"), "a");
    drop(client);
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn held_clients_are_let_go_when_the_drain_timeout_is_up() {
    let absent = Backend::absent("a");
    let mut daemon =
        Daemon::start(&format!("{}[pools.orders]\nhold = \"10m\"\n", config("127.0.0.1:0", &absent, "300ms")));
    let mut client = support::dial(daemon.listener("orders")).expect("accepted");
    daemon.wait_held("orders", 1);
    daemon.signal(Signal::TERM);
    ends(&mut client);
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn a_killed_daemon_can_be_started_again_where_it_was() {
    let (a, bind) = (Backend::start("a"), fresh_addr());
    let text = config(&bind.to_string(), &a, "30s");
    let mut first = Daemon::start(&text);
    let sessions: Vec<_> = (0..10).map(|_| meet(bind).expect("served")).collect();
    first.kill();
    let second = Daemon::start(&text);
    assert_eq!(second.listener("orders"), bind);
    assert_eq!(visit(bind).expect("served"), "a");
    drop(sessions);
}

#[test]
fn a_stale_listener_socket_is_replaced_and_a_live_one_is_not() {
    let a = Backend::start("a");
    let dir = tempfile::tempdir().unwrap();
    let bind = format!("unix:{}", dir.path().join("front").display());
    let text = config(&bind, &a, "30s");
    Daemon::start(&text).kill();
    assert!(dir.path().join("front").exists(), "a killed daemon leaves its socket file");
    let second = Daemon::start(&text);
    let mut third = Daemon::spawn(&text);
    assert_eq!(third.wait_exit().code(), Some(UNAVAILABLE));
    let mut client = support::sock::Sock::connect(&second.listener_text("orders")).expect("accepted");
    assert_eq!(support::net::read_line(&mut client).expect("served"), "a");
}

/// A daemon that cannot have what it is to bind ends with the right code and names the address.
fn cannot_bind(text: &str, address: SocketAddr) {
    let mut daemon = Daemon::spawn(text);
    let status = daemon.wait_exit();
    assert_eq!(status.code(), Some(UNAVAILABLE), "signal {:?}: {:?}", status.signal(), daemon.log());
    wait_until("it has said which address", DEADLINE, || {
        daemon.log().iter().any(|line| line.contains(&address.to_string()))
    });
}

#[test]
fn an_address_in_use_is_named_and_exits_69() {
    let a = Backend::start("a");
    let taken = listen(fresh_addr());
    let address = taken.local_addr().unwrap();
    cannot_bind(&config(&address.to_string(), &a, "30s"), address);
    let admin = format!("[admin]\nbind = \"{address}\"\n");
    cannot_bind(&format!("{}{admin}", config("127.0.0.1:0", &a, "30s")), address);
}

#[test]
fn two_daemons_never_share_a_port() {
    let (a, bind) = (Backend::start("a"), fresh_addr());
    let text = config(&bind.to_string(), &a, "30s");
    let first = Daemon::start(&text);
    cannot_bind(&text, bind);
    for _ in 0..20 {
        assert_eq!(visit(bind).expect("served"), "a");
    }
    assert_eq!(first.metric("listener_connections_total", &[("listener", "orders")]), Some(20.0));
}

#[test]
fn a_bad_or_missing_file_exits_78_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml");
    let bad = dir.path().join("bad.toml");
    std::fs::write(&bad, "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"nobody\"\n").unwrap();
    for (file, place) in [(&missing, String::new()), (&bad, ":3:8: ".to_owned())] {
        let file = file.to_str().unwrap();
        let ended = changeover(&["run", "--config", file]);
        assert_eq!(ended.code, Some(CONFIG), "{ended:?}");
        assert!(ended.stderr.contains(&format!("{file}{place}")), "{ended:?}");
    }
}

#[test]
fn a_usage_error_exits_64() {
    for args in [&["no-such-command"][..], &["run", "--no-such-flag"], &["check", "one", "two"], &[]] {
        let ended = changeover(args);
        assert_eq!(ended.code, Some(USAGE), "{args:?}: {ended:?}");
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{args:?}: {ended:?}");
    }
}

#[test]
fn a_client_command_without_a_daemon_exits_69() {
    let nobody = fresh_addr();
    let url = format!("http://{nobody}");
    for args in
        [["status", "--admin", &url], ["pools", "--admin", &url], ["backends", "--admin", "unix:/nowhere/at/all"]]
    {
        let ended = changeover(&args);
        assert_eq!(ended.code, Some(UNAVAILABLE), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(args[2].trim_start_matches("http://")), "{args:?}: {ended:?}");
    }
}

#[test]
fn ready_comes_after_the_first_verdicts() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Daemon::start(&format!("{}{}", config("127.0.0.1:0", &a, "30s"), b.toml("orders", 2)));
    let pool = daemon.pool("orders");
    assert_eq!((&pool["state"], &pool["active"]), (&"healthy".into(), &serde_json::json!(["a"])));
    assert!(daemon.notices().iter().any(|notice| notice.starts_with("STATUS=")), "{:?}", daemon.notices());
}
