//! A crowd of sessions loses its backend: they are silenced at once, and closed one lot after the other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::net::{End, listen};
use support::{Backend, Daemon, ends, fresh_addr, wait_until};

/// Six lots.
const SESSIONS: u32 = 3000;

/// A crowd takes its time on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// As many descriptors as this process may have.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("RLIMIT_NOFILE");
}

/// Greets whoever comes, until it has the crowd; then nobody is there any more but for the crowd's connections.
fn crowd_of(listener: TcpListener) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    while crowd.len() < SESSIONS as usize {
        let (mut stream, _) = listener.accept().expect("a connection");
        // A probe leaves at once.
        if stream.write_all(b"a").is_ok() {
            let mut byte = [0];
            stream.set_read_timeout(Some(PATIENCE)).expect("SO_RCVTIMEO");
            if let Ok(1) = stream.read(&mut byte) {
                crowd.push(stream);
            }
        }
    }
    crowd
}

#[test]
fn a_crowd_that_loses_its_backend_is_closed_at_a_pace() {
    raise_descriptor_limit();
    let (at, b) = (fresh_addr(), Backend::start("b"));
    let listener = listen(at);
    let (hold, held) = mpsc::channel();
    let serving = thread::spawn(move || {
        let listening = listener.try_clone().expect("clone");
        hold.send(crowd_of(listening)).expect("wanted");
        listener
    });
    let daemon = Daemon::start(&format!(
        "[daemon]\nworkers = 2\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"1s\"\n\
         [pools.orders.backends.a]\naddress = \"{at}\"\npriority = 1\n{}",
        b.toml("orders", 2)
    ));
    let orders = daemon.listener("orders");
    let mut clients: Vec<TcpStream> = (0..SESSIONS)
        .map(|_| {
            let mut client = support::dial(orders).expect("accepted");
            client.write_all(b"x").expect("sent");
            client.read_exact(&mut [0]).expect("greeted");
            client
        })
        .collect();
    let crowd = held.recv_timeout(PATIENCE).expect("all are there");
    wait_until("all rest", PATIENCE, || {
        daemon.admin_get("/api/v1/sessions?limit=10000").body.matches("\"idle\"").count() == SESSIONS as usize
    });
    let begun = Instant::now();
    drop(serving.join().unwrap());
    let dead = [("pool", "orders"), ("reason", "dead")];
    wait_until("all are closed", PATIENCE, || {
        let closed = daemon.metric("sessions_closed_total", &dead).unwrap_or(0.0);
        // Time passes after the count and before the first was closed: neither makes it look slower than it was.
        let lots = u32::try_from(begun.elapsed().as_millis() / 100).expect("in time") + 1;
        assert!(closed <= f64::from(500 * lots), "{closed} were closed within {lots} steps");
        closed >= f64::from(SESSIONS)
    });
    println!("{SESSIONS} sessions were closed within {:?}", begun.elapsed());
    let said = daemon.logged("sessions closed");
    assert!(said.iter().any(|line| line["sessions"] == SESSIONS && line["over_ms"] == 500), "{said:?}");
    for client in &mut clients {
        assert_eq!(ends(client), End::Reset);
    }
    // Nor did a byte reach the backend, which was told at once.
    for mut stream in crowd {
        assert_eq!(stream.read(&mut [0]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(daemon.metric("listener_connections_active", &[("listener", "orders")]), Some(0.0));
    assert_eq!(support::visit(orders).expect("served"), "b");
}
