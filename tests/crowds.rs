//! Crowds at the admin server, and a daemon that is given hardly any file descriptors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use support::{Backend, DEADLINE, Daemon, dial, http, visit, wait_until};

/// How many come to the admin server at once.
const CROWD: usize = 200;

/// How long an answer may take all the same. The daemon waits ten seconds for the head of a request, and longer for a reader:
/// an answer that had to wait for that comes later.
const PATIENCE: Duration = Duration::from_secs(8);

fn config(backend: &Backend, more: &str) -> String {
    format!("[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{}{more}", backend.toml("orders", 1))
}

/// Panics unless the daemon says soon that it lives.
#[track_caller]
fn says_that_it_lives(daemon: &Daemon) {
    let start = Instant::now();
    assert_eq!(daemon.admin_get("/healthz").status, 200);
    assert!(start.elapsed() < PATIENCE, "it took {:?}", start.elapsed());
}

#[test]
fn silent_connections_do_not_shut_the_admin_server() {
    let a = Backend::start("a");
    let daemon = Daemon::start(&config(&a, ""));
    let admin = daemon.admin();
    let _silent: Vec<_> = (0..CROWD).map(|_| dial(admin).expect("accepted, or in the queue")).collect();
    says_that_it_lives(&daemon);
}

#[test]
fn connections_that_ask_and_never_read_do_not_shut_the_admin_server() {
    let (a, dir) = (Backend::start("a"), tempfile::tempdir().expect("a directory"));
    let path = dir.path().join("admin");
    // A Unix socket buffers little, so that the answers soon have nowhere to go.
    let _daemon = Daemon::start(&config(&a, &format!("[admin]\nbind = \"unix:{}\"\n", path.display())));
    let question = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(60);
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut client = UnixStream::connect(&path).expect("accepted, or in the queue");
        client.set_nonblocking(true).expect("O_NONBLOCK");
        match client.write(question.as_bytes()) {
            Err(e) if e.kind() != ErrorKind::WouldBlock && e.kind() != ErrorKind::BrokenPipe => panic!("{e}"),
            Ok(_) | Err(_) => crowd.push(client),
        }
    }
    let start = Instant::now();
    assert_eq!(http::get_unix(&path, "/healthz").expect("answered").status, 200);
    assert!(start.elapsed() < PATIENCE, "it took {:?}", start.elapsed());
    drop(crowd);
}

#[test]
fn a_daemon_with_too_few_file_descriptors_does_not_start_or_serves() {
    const UNAVAILABLE: i32 = 69;
    const INTERNAL: i32 = 70;
    let a = Backend::start("a");
    for nofile in 14..=18 {
        let mut daemon = Daemon::spawn_limited(&config(&a, "[daemon]\nworkers = 2\n"), nofile);
        wait_until("it is ready or has ended", DEADLINE, || daemon.notified("READY=1") > 0 || !daemon.is_running());
        if !daemon.is_running() {
            let code = daemon.wait_exit().code();
            assert!(matches!(code, Some(UNAVAILABLE | INTERNAL)), "{nofile} descriptors: exit {code:?}");
            continue;
        }
        let orders = daemon.listener("orders");
        for client in 0..6 {
            let served = dial(orders).and_then(|mut stream| support::net::read_line(&mut stream));
            assert!(served.as_ref().is_ok_and(|by| by == "a"), "{nofile} descriptors, client {client}: {served:?}");
        }
        assert_eq!(visit(orders).expect("served"), "a");
    }
}
