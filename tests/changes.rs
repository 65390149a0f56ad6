//! What a reload, a rejected one or a failed start may leave behind, and whom it must not leave behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::net::{echo, listen, meet, read_line};
use support::servers::{HttpServer, SILENCE};
use support::{Backend, DEADLINE, Daemon, dial, fresh_addr, fresh_ip, visit, wait_for, wait_until};

fn listener(name: &str, bind: &str, pool: &str) -> String {
    format!("[listeners.{name}]\nbind = \"{bind}\"\npool = \"{pool}\"\n")
}

#[test]
fn a_reload_before_the_first_verdicts_makes_nobody_ready() {
    const TIMEOUT: Duration = Duration::from_secs(3);
    let health = HttpServer::start(fresh_ip(), SILENCE);
    let start = Instant::now();
    let mut daemon = Daemon::spawn(&format!(
        "{}[pools.orders.check]\nkind = \"http\"\ninterval = \"1h\"\ntimeout = \"3s\"\nhttp = {{ path = \"/\" }}\n\
         [pools.orders.backends.a]\naddress = \"{}\"\n",
        listener("orders", "127.0.0.1:0", "orders"),
        health.addr()
    ));
    wait_until("it has asked", DEADLINE, || health.requests() > 0);
    daemon.signal(Signal::HUP);
    wait_until("it is ready", DEADLINE, || daemon.notified("READY=1") > 0);
    assert!(start.elapsed() >= TIMEOUT, "ready after {:?}, when nothing was known yet", start.elapsed());
    assert!(daemon.is_running());
}

#[test]
fn a_held_client_follows_its_listener_to_another_pool() {
    let (b, orders) = (Backend::start("b"), fresh_addr());
    let pools = format!(
        "[pools.down]\nhold = \"10m\"\nbackends = [\"{}\"]\n[pools.down.check]\ninterval = \"100ms\"\n\
         [pools.up.check]\ninterval = \"100ms\"\n{}",
        fresh_addr(),
        b.toml("up", 1)
    );
    let daemon = Daemon::start(&format!("{}{pools}", listener("orders", &orders.to_string(), "down")));
    let mut client = dial(orders).expect("accepted");
    daemon.wait_held("orders", 1);
    daemon.reload(&format!("{}{pools}", listener("orders", &orders.to_string(), "up"))).expect("taken");
    assert_eq!(visit(orders).expect("served"), "b");
    assert_eq!(read_line(&mut client).expect("served"), "b");
    echo(&mut client, b"thank you for waiting").expect("echoed");
    daemon.wait_held("orders", 0);
}

/// Listeners of which the first can be had and the last cannot.
fn half_possible(socket: &Path, taken: &TcpListener) -> String {
    let taken = taken.local_addr().expect("bound").to_string();
    listener("a", &format!("unix:{}", socket.display()), "orders") + &listener("z", &taken, "orders")
}

#[test]
fn a_rejected_reload_leaves_no_socket_file() {
    let (a, dir) = (Backend::start("a"), tempfile::tempdir().expect("a directory"));
    let taken = listen(fresh_addr());
    let text = listener("orders", "127.0.0.1:0", "orders") + &a.toml("orders", 1);
    let daemon = Daemon::start(&text);
    let socket = dir.path().join("new");
    daemon.reload(&format!("{text}{}", half_possible(&socket, &taken))).expect_err("rejected");
    wait_until("the socket file is gone", DEADLINE, || !socket.exists());
    assert_eq!(visit(daemon.listener("orders")).expect("served"), "a");
}

#[test]
fn a_failed_start_leaves_no_socket_file() {
    let (a, dir) = (Backend::start("a"), tempfile::tempdir().expect("a directory"));
    let taken = listen(fresh_addr());
    let socket = dir.path().join("new");
    let mut daemon = Daemon::spawn(&(half_possible(&socket, &taken) + &a.toml("orders", 1)));
    assert!(!daemon.wait_exit().success());
    assert!(!socket.exists(), "it left its socket file");
}

#[test]
fn the_signal_that_will_mean_a_handover_does_not_kill() {
    let a = Backend::start("a");
    let mut daemon = Daemon::start(&(listener("orders", "127.0.0.1:0", "orders") + &a.toml("orders", 1)));
    let (mut session, _) = meet(daemon.listener("orders")).expect("served");
    daemon.signal(Signal::USR2);
    wait_until("it has said so, or has ended", DEADLINE, || {
        let said = |line: &String| line.contains("hand") || line.contains("SIGUSR2");
        daemon.log().iter().any(said) || !daemon.is_running()
    });
    assert!(daemon.is_running(), "SIGUSR2 ended it");
    echo(&mut session, b"not disturbed").expect("echoed");
    assert_eq!(visit(daemon.listener("orders")).expect("served"), "a");
}

#[test]
fn a_backend_that_is_put_back_has_nothing_of_the_sessions_of_the_one_before() {
    let (a, b, other) = (Backend::start("a"), Backend::start("b"), Backend::start("b"));
    let text = |backends: &str| {
        format!(
            "{}[pools.orders.check]\ninterval = \"100ms\"\n[pools.orders.failover.sessions]\ndrained = \"keep\"\n\
             [pools.orders.failover]\nfailback_after = \"0s\"\n{backends}",
            listener("orders", "127.0.0.1:0", "orders")
        )
    };
    let with = |b: &Backend| text(&(a.toml("orders", 2) + &b.toml("orders", 1)));
    let daemon = Daemon::start(&with(&b));
    let orders = daemon.listener("orders");
    let (mut session, served) = meet(orders).expect("served");
    assert_eq!(served, "b");
    let counts = || {
        let view = daemon.backend("orders", "b");
        ["sessions", "bytes_to_backend", "bytes_to_client"].map(|name| view[name].as_u64().expect("a number"))
    };
    echo(&mut session, b"counted").expect("echoed");
    wait_until("it is counted", DEADLINE, || counts().iter().all(|count| *count > 0));
    daemon.reload(&text(&a.toml("orders", 2))).expect("taken");
    daemon.reload(&with(&other)).expect("taken");
    let bytes = || daemon.metric("backend_bytes_total", &[("backend", "b")]).unwrap_or(0.0);
    let before = bytes();
    echo(&mut session, b"it goes on").expect("echoed");
    wait_until("the series go on", DEADLINE, || bytes() > before);
    assert_eq!(counts(), [0, 0, 0], "those of a server that it never was");
    daemon.wait_health("orders", "b", "healthy");
    let (_second, served) = wait_for("it serves", DEADLINE, || meet(orders).ok().filter(|(_, name)| name == "b"));
    assert_eq!(served, "b");
    wait_until("its own are counted", DEADLINE, || counts()[0] == 1);
    assert_eq!(daemon.metric("backend_connections_active", &[("backend", "b")]), Some(2.0));
}

#[test]
fn a_removed_backend_is_counted_as_long_as_it_has_sessions() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let text = |backends: &str| {
        format!(
            "{}[pools.orders.check]\ninterval = \"100ms\"\n[pools.orders.failover.sessions]\ndrained = \"keep\"\n\
             {backends}",
            listener("orders", "127.0.0.1:0", "orders")
        )
    };
    let (both, one) = (text(&(a.toml("orders", 1) + &b.toml("orders", 1))), text(&a.toml("orders", 1)));
    let daemon = Daemon::start(&both);
    let orders = daemon.listener("orders");
    let on_b = || meet(orders).ok().filter(|(_, name)| name == "b").map(|(session, _)| session);
    let mut session = wait_for("b serves", DEADLINE, on_b);
    daemon.wait_metric("backend_connections_active", &[("backend", "b")], 1.0);
    daemon.reload(&one).expect("taken");
    let bytes = || daemon.metric("backend_bytes_total", &[("pool", "orders"), ("backend", "b")]).unwrap_or(0.0);
    // They are counted once a tick, so not at once.
    wait_until("its first bytes are counted although it was removed", DEADLINE, || bytes() > 0.0);
    let before = bytes();
    for _ in 0..20 {
        echo(&mut session, b"it goes on").expect("echoed");
    }
    wait_until("its bytes are counted", DEADLINE, || bytes() >= before + 400.0);
    assert_eq!(daemon.metric("backend_connections_active", &[("pool", "orders"), ("backend", "b")]), Some(1.0));
    drop(session);
    // At the latest the next change of the configuration takes what is left of it.
    daemon.reload(&one).expect("taken");
    wait_until("it is forgotten", DEADLINE, || {
        let page = daemon.admin_get("/metrics").body;
        support::metrics::sum(&page, "backend_connections_active", &[("backend", "b")]).is_none()
            && support::metrics::sum(&page, "backend_bytes_total", &[("backend", "b")]).is_none()
    });
}
