//! Slow readers and many sessions: what the relay may not pay for them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sha2::{Digest, Sha256};
use support::net::{echo, ends, meet};
use support::servers::Server;
use support::{Backend, DEADLINE, Daemon, dial, fresh_addr, http, wait_stalled};

const MIB: usize = 1024 * 1024;

/// More than the kernel can hold for four sockets, so that a relay that buffered would have to hold it itself.
const STREAM: usize = 64 * MIB;

/// The largest growth of the daemon's memory while it holds a stream back.
const GROWTH_LIMIT: u64 = 16 * 1024 * 1024;

fn in_front_of(addr: std::net::SocketAddr) -> Daemon {
    Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"1h\"\n[pools.orders.backends.a]\naddress = \"{addr}\"\n"
    ))
}

/// A chunk of the stream: its bytes depend on its number.
fn chunk(number: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(u64::try_from(number).unwrap());
    let mut bytes = vec![0; MIB / 16];
    random.fill(&mut bytes);
    bytes
}

/// The digest of the whole stream.
fn due() -> [u8; 32] {
    let mut digest = Sha256::new();
    (0..STREAM / chunk(0).len()).for_each(|number| digest.update(chunk(number)));
    digest.finalize().into()
}

#[test]
fn a_reader_that_does_not_read_costs_the_daemon_no_memory_and_no_byte() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let server = Server::start(fresh_addr(), move |_, mut stream| {
        // A probe says nothing and goes.
        stream.read_exact(&mut [0])?;
        for number in 0..STREAM / chunk(0).len() {
            stream.write_all(&chunk(number))?;
            count.fetch_add(chunk(number).len(), Ordering::SeqCst);
        }
        Ok(())
    });
    let daemon = in_front_of(server.addr);
    let before = daemon.resident();
    let mut client = dial(daemon.listener("orders")).expect("accepted");
    client.write_all(b"!").expect("sent");
    let stalled_at = wait_stalled(&written, Duration::from_millis(500));
    let growth = daemon.resident().saturating_sub(before);
    println!("the backend stood still after {stalled_at} of {STREAM} bytes; the daemon had grown by {growth}");
    assert!(stalled_at < STREAM, "the backend was never held back");
    assert!(growth < GROWTH_LIMIT, "the daemon has grown by {growth} bytes");
    let (mut digest, mut length, mut buffer) = (Sha256::new(), 0, vec![0; MIB]);
    loop {
        let read = client.read(&mut buffer).expect("received");
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        length += read;
    }
    assert_eq!(length, STREAM);
    assert_eq!(<[u8; 32]>::from(digest.finalize()), due());
}

#[test]
fn two_thousand_sessions_are_open_at_once() {
    const SESSIONS: u32 = 2000;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("setrlimit");
    assert!(limit.maximum.is_none_or(|most| most >= 5000), "this test wants a limit of 5000 open files: {limit:?}");
    let backend = Backend::start("a");
    let daemon = in_front_of(backend.addr);
    let orders = daemon.listener("orders");
    let mut clients: Vec<_> = (0..SESSIONS).map(|_| meet(orders).expect("served").0).collect();
    daemon.wait_metric("listener_connections_active", &[("listener", "orders")], SESSIONS.into());
    for (number, client) in clients.iter_mut().enumerate() {
        echo(client, format!("session {number}").as_bytes()).expect("echoed");
    }
    let active = daemon.metric("backend_connections_active", &[("pool", "orders"), ("backend", "a")]);
    assert_eq!(active, Some(f64::from(SESSIONS)), "all are still open");
    for client in &clients {
        client.shutdown(std::net::Shutdown::Write).expect("shutdown");
    }
    clients.iter_mut().for_each(|client| assert_eq!(ends(client), support::net::End::Closed));
    daemon.wait_metric("listener_connections_active", &[("listener", "orders")], 0.0);
    daemon.wait_closed("orders", "completed", SESSIONS);
}

#[test]
fn large_answers_that_nobody_reads_cost_little_memory_and_hold_nobody_up() {
    const BACKENDS: usize = 5000;
    const DEAF: usize = 120;
    let all: Vec<String> = (0..BACKENDS).map(|at| format!("\"127.1.{}.{}:9\"", at / 250, at % 250 + 1)).collect();
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders]\nbackends = [{}]\n\
         check = {{ kind = \"none\" }}\n",
        all.join(", ")
    ));
    let admin = daemon.admin();
    let whole = daemon.admin_get("/api/v1/pools").body.len();
    assert!(whole > MIB, "{whole} bytes");
    let before = daemon.resident();
    let mut deaf: Vec<_> = (0..DEAF)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
            socket.connect(&admin.into()).expect("accepted");
            let mut stream = std::net::TcpStream::from(socket);
            stream.set_read_timeout(Some(Duration::from_millis(1))).expect("SO_RCVTIMEO");
            stream.write_all(b"GET /api/v1/pools HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
            stream
        })
        .collect();
    // Until each has the beginning of its answer, or was cut.
    let mut waits: Vec<Duration> = Vec::new();
    let (start, mut grown, mut held) = (Instant::now(), 0, Vec::new());
    while !deaf.is_empty() {
        assert!(start.elapsed() < DEADLINE, "{} of {DEAF} have no answer", deaf.len());
        for path in ["/healthz", "/readyz"] {
            let asked = Instant::now();
            assert_eq!(daemon.admin_get(path).status, 200);
            waits.push(asked.elapsed());
        }
        let asked = Instant::now();
        let order = http::request(admin, "POST", "/api/v1/pools/orders/evaluate").expect("answered");
        assert_eq!(order.status, 200, "{}", order.body);
        waits.push(asked.elapsed());
        grown = grown.max(daemon.resident().saturating_sub(before));
        let waiting = |stream: &std::net::TcpStream| {
            stream
                .peek(&mut [0])
                .is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
        };
        let answered: Vec<_> = deaf.extract_if(.., |stream| !waiting(stream)).collect();
        held.extend(answered);
    }
    grown = grown.max(daemon.resident().saturating_sub(before));
    waits.sort();
    let longest = waits.last().expect("some");
    println!(
        "{DEAF} answers of {whole} bytes that nobody reads: {} KiB more, others wait {longest:?} at most",
        grown >> 10
    );
    assert!(grown < 128 * MIB as u64, "{} KiB more", grown >> 10);
    assert!(*longest < Duration::from_secs(5), "{longest:?}");
    assert_eq!(daemon.admin_get("/api/v1/pools").body.len() / MIB, whole / MIB, "who reads gets all");
}
