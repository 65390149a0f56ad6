//! Whoever reads what the daemon says may be full, slow or gone: that is no reason not to serve.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs::File;
use std::io::{ErrorKind, PipeWriter, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Signal;
use support::bare::Bare;
use support::process::{Guarded, program};
use support::{Backend, DEADLINE, fresh_addr, http, run, visit, wait_until};

/// The exit code of a panic.
const PANICKED: i32 = 101;

fn config(listener: SocketAddr, a: &Backend, b: &Backend) -> String {
    format!(
        "[log]\nformat = \"json\"\nlevel = \"info\"\n[listeners.orders]\nbind = \"{listener}\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"50ms\"\n[pools.orders.failover]\nfailback_after = \"0s\"\n{}{}",
        a.toml("orders", 1),
        b.toml("orders", 2)
    )
}

/// Panics unless the daemon, whose log nobody reads, follows `a` through its deaths, and then stops in good order.
#[track_caller]
fn serves_fails_over_and_stops(stderr: Stdio, then: impl FnOnce()) {
    let (mut a, b, orders) = (Backend::start("a"), Backend::start("b"), fresh_addr());
    let mut daemon = Bare::start(&config(orders, &a, &b), stderr);
    then();
    let served_by = |name: &str| {
        wait_until(&format!("{name} serves"), DEADLINE, || visit(orders).is_ok_and(|by| by == name));
    };
    for _ in 0..3 {
        served_by("a");
        a.kill();
        served_by("b");
        daemon.must_run();
        assert_eq!(http::get(daemon.admin, "/healthz").expect("answered").status, 200);
        a.restart();
    }
    served_by("a");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn a_daemon_whose_log_is_a_full_disk_goes_on() {
    let full = File::options().write(true).open("/dev/full").expect("Linux");
    serves_fails_over_and_stops(full.into(), || ());
}

#[test]
fn a_daemon_whose_log_reader_is_gone_goes_on() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    serves_fails_over_and_stops(writer.into(), move || drop(reader));
}

/// Fills a pipe to its last byte.
#[track_caller]
fn fill(mut pipe: &PipeWriter) {
    let flags = fcntl_getfl(pipe).expect("flags");
    fcntl_setfl(pipe, flags | OFlags::NONBLOCK).expect("O_NONBLOCK");
    for chunk in [&[b'.'; 4096][..], b".\n"] {
        loop {
            match pipe.write(chunk) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
    }
    fcntl_setfl(pipe, flags).expect("flags");
}

#[test]
fn a_daemon_whose_log_reader_reads_nothing_goes_on() {
    let (_reader, writer) = std::io::pipe().expect("a pipe");
    let ours = writer.try_clone().expect("clone");
    serves_fails_over_and_stops(writer.into(), move || fill(&ours));
}

/// Sends notifications of its own to `path` until no more are taken.
#[track_caller]
fn crowd(path: &Path) {
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.set_nonblocking(true).expect("O_NONBLOCK");
    let mut sent = 0;
    while sender.send_to(b"STATUS=not yours", path).is_ok() {
        sent += 1;
        assert!(sent < 1_000_000, "the queue has no end");
    }
}

#[test]
fn a_service_manager_that_reads_nothing_delays_no_signal() {
    let (a, b, orders) = (Backend::start("a"), Backend::start("b"), fresh_addr());
    let mut daemon = Bare::start(&config(orders, &a, &b), Stdio::null());
    crowd(&daemon.notify_path());
    for reloads in 1..=3 {
        daemon.signal(Signal::HUP);
        wait_until("it has reloaded", DEADLINE, || {
            daemon.metric("config_reloads_total", &[("result", "reloaded")]) >= f64::from(reloads)
        });
    }
    assert_eq!(visit(orders).expect("served"), "a");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_panic() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = program();
    command.arg("schema").stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let mut process = Guarded(command.spawn().expect("the program starts"));
    // What it complains of is little, and the pipe has room for it.
    assert_ne!(process.wait().code(), Some(PANICKED));
    let mut said = String::new();
    process.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(said, "");
    assert_eq!(run(program().arg("schema")).code, Some(0), "with a reader it is as ever");
}
