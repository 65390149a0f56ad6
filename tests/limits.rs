//! Limits: reaching one is counted, costs nobody else, and passes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::time::{Duration, Instant};

use support::net::{echo, ends, meet};
use support::{Backend, DEADLINE, Daemon, dial, visit, wait_until};

fn config(daemon: &str, backend: &Backend) -> String {
    format!(
        "[daemon]\n{daemon}\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{}",
        backend.toml("orders", 1)
    )
}

#[test]
fn a_daemon_without_file_descriptors_neither_dies_nor_spins_and_recovers() {
    let backend = Backend::start("a");
    let mut daemon = Daemon::start_limited(&config("workers = 1\nmax_sessions = 100000", &backend), 64);
    let orders = daemon.listener("orders");
    let clients: Vec<_> = (0..200).map(|_| dial(orders).expect("accepted, or in the queue")).collect();
    // Judged over two seconds, from when it takes no more.
    let mut last = (0, Instant::now());
    wait_until("it takes no more", DEADLINE, || {
        let now = daemon.descriptors();
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > Duration::from_secs(2)
    });
    assert!((30..=64).contains(&last.0), "it has {} descriptors of 64 open", last.0);
    let (start, before) = (Instant::now(), daemon.cpu());
    wait_until("two seconds are over", DEADLINE, || start.elapsed() >= Duration::from_secs(2));
    let (used, over) = (daemon.cpu() - before, start.elapsed());
    println!("out of descriptors it used {used:?} of processor time in {over:?}");
    assert!(used < over / 2, "it spins: {used:?} of processor time in {over:?}");
    assert!(daemon.is_running());
    drop(clients);
    wait_until("a client is served again", DEADLINE, || visit(orders).is_ok_and(|name| name == "a"));
    daemon.wait_metric("listener_connections_active", &[("listener", "orders")], 0.0);
    for _ in 0..20 {
        assert_eq!(visit(orders).expect("served"), "a");
    }
}

#[test]
fn the_client_after_the_last_allowed_one_is_closed_at_once_and_counted() {
    let backend = Backend::start("a");
    let daemon = Daemon::start(&config("max_sessions = 5", &backend));
    let orders = daemon.listener("orders");
    let mut sessions: Vec<_> = (0..5).map(|_| meet(orders).expect("served").0).collect();
    ends(&mut dial(orders).expect("accepted"));
    assert_eq!(daemon.rejected("orders", "max_sessions"), 1.0);
    for session in &mut sessions {
        echo(session, b"not disturbed").expect("echoed");
    }
    sessions.pop();
    wait_until("there is room for one", DEADLINE, || visit(orders).is_ok());
    assert_eq!(daemon.admin_get("/healthz").status, 200);
}
