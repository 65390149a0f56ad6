//! A crowd of sessions loses its backend: they are silenced at once, and closed one lot after the other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::net::{End, listen};
use support::{Backend, Daemon, ends, fresh_addr, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Six lots.
const RESTING: u32 = 3000;

/// Three, of sessions that never rest.
const BUSY: u32 = 1500;

/// A client's pause before it asks again: too short for a rest, and enough for the machine to have time for all.
const PAUSE: Duration = Duration::from_millis(400);

/// A crowd takes its time on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// As many descriptors as this process may have.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("RLIMIT_NOFILE");
}

/// Greets whoever comes, until it has the crowd; then nobody is there any more but for the crowd's connections.
fn crowd_of(number: u32, listener: &TcpListener) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    while crowd.len() < number as usize {
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

/// A backend that serves a crowd, and a daemon in front of it and of another.
struct Stage {
    daemon: Daemon,
    other: Backend,
    /// Whoever drops it takes the backend from those who probe it, and from nobody else.
    listener: TcpListener,
    clients: Vec<TcpStream>,
    crowd: Vec<TcpStream>,
}

impl Stage {
    /// `number` clients that have been greeted.
    fn with(number: u32) -> Self {
        raise_descriptor_limit();
        let (at, other) = (fresh_addr(), Backend::start("b"));
        let listener = listen(at);
        let listening = listener.try_clone().expect("clone");
        let (hold, held) = mpsc::channel();
        thread::spawn(move || hold.send(crowd_of(number, &listening)).expect("wanted"));
        let daemon = Daemon::start(&format!(
            "[daemon]\nworkers = 2\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
             [pools.orders.check]\ninterval = \"1s\"\n\
             [pools.orders.backends.a]\naddress = \"{at}\"\npriority = 1\n{}",
            other.toml("orders", 2)
        ));
        let orders = daemon.listener("orders");
        let greeted = |_| {
            let mut client = support::dial(orders).expect("accepted");
            client.write_all(b"x").expect("sent");
            client.read_exact(&mut [0]).expect("greeted");
            client
        };
        let clients = (0..number).map(greeted).collect();
        let crowd = held.recv_timeout(PATIENCE).expect("all are there");
        Self { daemon, other, listener, clients, crowd }
    }

    /// How many sessions are in this state.
    fn count(&self, state: &str) -> usize {
        self.daemon.admin_get("/api/v1/sessions?limit=10000").body.matches(&format!("\"{state}\"")).count()
    }
}

/// Waits until all of `number` sessions of a dead backend are closed. Returns how many were after how many lots, as seen
/// from `begun`, which was before the first: time passes after the count and makes none look slower than it was.
fn closes(daemon: &Daemon, number: u32, begun: Instant) -> Vec<(u32, u32)> {
    let mut seen = Vec::new();
    wait_until("all are closed", PATIENCE, || {
        let closed = daemon.metric("sessions_closed_total", &[("pool", "orders"), ("reason", "dead")]);
        let lots = u32::try_from(begun.elapsed().as_millis() / 100).expect("in time") + 1;
        let closed = (0..=number).rev().find(|&count| closed.is_some_and(|closed| closed >= f64::from(count)));
        seen.push((lots, closed.unwrap_or(0)));
        closed == Some(number)
    });
    println!("{number} sessions were closed within {:?}", begun.elapsed());
    seen
}

#[test]
fn a_crowd_that_loses_its_backend_is_closed_at_a_pace() {
    let stage = Stage::with(RESTING);
    wait_until("all rest", PATIENCE, || stage.count("idle") == RESTING as usize);
    let Stage { daemon, other: _other, listener, clients, crowd } = stage;
    let begun = Instant::now();
    drop(listener);
    for (lots, closed) in closes(&daemon, RESTING, begun) {
        assert!(closed <= 500 * lots, "{closed} were closed within {lots} steps");
    }
    let fence = fence(&daemon, RESTING);
    assert_eq!((&fence["at_once"], &fence["over_ms"]), (&500.into(), &500.into()), "{fence}");
    for mut client in clients {
        assert_eq!(ends(&mut client), End::Reset);
    }
    // Nor did a byte reach the backend, which was told at once.
    for mut stream in crowd {
        assert_eq!(stream.read(&mut [0]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(daemon.metric("listener_connections_active", &[("listener", "orders")]), Some(0.0));
    assert_eq!(support::visit(daemon.listener("orders")).expect("served"), "b");
}

/// What is logged of the fence that closed `number` sessions.
fn fence(daemon: &Daemon, number: u32) -> serde_json::Value {
    let is_it = |line: &serde_json::Value| line["sessions"] == number;
    let said = daemon.wait_logged("sessions closed", |said| said.iter().any(is_it));
    said.into_iter().find(is_it).expect("waited for")
}

/// Asks and hears, again and again, until that fails.
async fn ask(mut stream: tokio::net::TcpStream) -> io::Error {
    loop {
        let heard = async {
            stream.write_all(b"?").await?;
            stream.read_exact(&mut [0]).await
        };
        if let Err(error) = heard.await {
            return error;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Gives each byte back until that fails.
async fn answer(mut stream: tokio::net::TcpStream) -> io::Error {
    let mut byte = [0];
    loop {
        let done = async {
            stream.read_exact(&mut byte).await?;
            stream.write_all(&byte).await
        };
        if let Err(error) = done.await {
            return error;
        }
    }
}

/// A thread on which all of `streams` `talk`, until each has failed.
fn all<F: Future<Output = io::Error> + Send + 'static>(
    streams: Vec<TcpStream>,
    talk: fn(tokio::net::TcpStream) -> F,
) -> thread::JoinHandle<Vec<ErrorKind>> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let talks = streams.into_iter().map(|stream| {
                stream.set_nonblocking(true).expect("O_NONBLOCK");
                tokio::spawn(talk(tokio::net::TcpStream::from_std(stream).expect("watched")))
            });
            let mut ends = Vec::new();
            for talk in talks.collect::<Vec<_>>() {
                ends.push(talk.await.expect("no panic").kind());
            }
            ends
        })
    })
}

#[test]
fn a_busy_crowd_that_loses_its_backend_is_closed_at_a_pace() {
    let mut stage = Stage::with(BUSY);
    let crowd = all(std::mem::take(&mut stage.crowd), answer);
    let clients = all(std::mem::take(&mut stage.clients), ask);
    let moved = |stage: &Stage| stage.daemon.metric("backend_bytes_total", &[("backend", "a")]).unwrap_or(0.0);
    let before = moved(&stage);
    wait_until("all talk", PATIENCE, || {
        stage.count("open") == BUSY as usize && moved(&stage) >= before + 2.0 * f64::from(BUSY)
    });
    let Stage { daemon, other: _other, listener, .. } = stage;
    let begun = Instant::now();
    drop(listener);
    let seen = closes(&daemon, BUSY, begun);
    let fence = fence(&daemon, BUSY);
    let at_once = u32::try_from(fence["at_once"].as_u64().expect("a number")).expect("a few");
    // Those to whom the kernel had still to send could not wait.
    let in_flight = at_once.checked_sub(500).expect("the first lot");
    println!("{in_flight} of the {} beyond the first 500 could not wait", BUSY - 500);
    assert!(in_flight <= (BUSY - 500) / 2, "{fence}");
    assert_eq!(fence["over_ms"], 200);
    for (lots, closed) in seen {
        assert!(
            closed <= 500 * lots + in_flight,
            "{closed} were closed within {lots} steps, {in_flight} of them in flight"
        );
    }
    // None was told an end that looks complete.
    let is_cut = |kind: &ErrorKind| matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    for ends in [clients.join().unwrap(), crowd.join().unwrap()] {
        assert!(ends.len() == BUSY as usize && ends.iter().all(is_cut), "{ends:?}");
    }
    assert_eq!(support::visit(daemon.listener("orders")).expect("served"), "b");
}

#[test]
fn the_crowds_of_one_pool_are_closed_at_one_pace() {
    const BACKENDS: usize = 6;
    const EACH: usize = 200;
    raise_descriptor_limit();
    let backends: Vec<Backend> = ["a", "b", "c", "d", "e", "f"].map(Backend::start).into();
    let other = Backend::start("other");
    let tier: String = backends.iter().map(|backend| backend.toml("orders", 1)).collect();
    let site = support::Site::with(&format!("{tier}{}", other.toml("orders", 2)));
    let orders = site.daemon.listener("orders");
    let mut clients: Vec<TcpStream> =
        (0..BACKENDS * EACH).map(|_| support::net::meet(orders).expect("served").0).collect();
    let begun = Instant::now();
    site.done("POST", "/orders/failover", r#"{"to": "other", "sessions": "close"}"#);
    // A lot is added for each step of the pace that the fences themselves take, on a loaded machine.
    let lots = 2 + u64::try_from(begun.elapsed().as_millis() / 100).expect("in time");
    for client in &mut clients {
        assert_eq!(ends(client), End::Reset);
    }
    let sum = |said: &[serde_json::Value], key: &str| {
        said.iter().map(|line| line[key].as_u64().expect("a number")).sum::<u64>()
    };
    let said = site.daemon.wait_logged("sessions closed", |said| sum(said, "sessions") >= (BACKENDS * EACH) as u64);
    assert_eq!(sum(&said, "sessions"), (BACKENDS * EACH) as u64, "{said:?}");
    assert!(sum(&said, "at_once") <= 500 * lots, "{lots} lots: {said:?}");
    assert!(said.iter().any(|line| sum(std::slice::from_ref(line), "over_ms") > 0), "{said:?}");
}

#[test]
fn a_crowd_that_has_sent_all_it_had_to_say_is_closed_at_a_pace() {
    let Stage { daemon, other: _other, listener, clients, mut crowd } = Stage::with(BUSY);
    for client in &clients {
        client.shutdown(Shutdown::Write).expect("SHUT_WR");
    }
    for stream in &mut crowd {
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0, "it was passed on, and the answer is waited for");
    }
    let begun = Instant::now();
    drop(listener);
    // A client that comes tells of the death at once: nothing is closed before, and no lot is late for want of a probe.
    assert_eq!(support::visit(daemon.listener("orders")).expect("served"), "b");
    let seen = closes(&daemon, BUSY, begun);
    let fence = fence(&daemon, BUSY);
    assert_eq!((&fence["at_once"], &fence["over_ms"]), (&500.into(), &200.into()), "{fence}");
    for (lots, closed) in seen {
        assert!(closed <= 500 * lots, "{closed} were closed within {lots} steps");
    }
    for mut client in clients {
        assert_eq!(ends(&mut client), End::Reset);
    }
}
