//! What others than probes find out: sessions that a backend ends before it answers, and a daemon that did not run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::net::{ends, reset};
use support::servers::{HttpServer, SILENCE, Server};
use support::{Backend, DEADLINE, Daemon, StopOnDrop, dial, fresh_addr, visit, wait_until};

/// Gives an order, on which a server may have acted, and waits for the end.
fn order(listener: SocketAddr) {
    let mut client = dial(listener).expect("accepted");
    // One that has been reset already need not be told.
    drop(client.write_all(b"do it\n"));
    ends(&mut client);
}

/// A daemon whose active backend is at `a`, whose checks `health` answers, seldom; `b` stands by.
fn seldom_asked(a: SocketAddr, health: &HttpServer, b: &Backend) -> Daemon {
    Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"1h\"\ntimeout = \"1h\"\n\
         [pools.orders.backends.a]\naddress = \"{}\"\npriority = 1\n\
         check = {{ kind = \"http\", http = {{ port = {}, path = \"/\" }} }}\n{}",
        a,
        health.addr().port(),
        b.toml("orders", 2)
    ))
}

#[test]
fn a_backend_that_ends_sessions_before_its_first_answer_is_taken_out() {
    let b = Backend::start("b");
    // By turns in order and by a reset.
    let server = Server::start(fresh_addr(), |number, mut stream| {
        if stream.read(&mut [0; 64])? > 0 && number % 2 == 0 {
            reset(stream);
        }
        Ok(())
    });
    let health = HttpServer::start(server.addr.ip(), 200);
    let daemon = seldom_asked(server.addr, &health, &b);
    let orders = daemon.listener("orders");
    daemon.wait_active("orders", "a");
    // Its own probes have nothing to say to it.
    health.answer(SILENCE);
    let asked = health.requests();
    order(orders);
    wait_until("it is asked at once", DEADLINE, || health.requests() > asked);
    assert_eq!(daemon.backend("orders", "a")["health"], "healthy", "one session is no verdict");
    let mut ordered = 1;
    wait_until("a is taken out", DEADLINE, || {
        order(orders);
        ordered += 1;
        daemon.backend("orders", "a")["health"] == "unhealthy"
    });
    assert!(ordered >= 12, "the threshold is twelve quarters: {ordered}");
    let reason = daemon.backend("orders", "a")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("sessions ended before the first answer"), "{reason}");
    assert_eq!(visit(orders).expect("served"), "b");
}

#[test]
fn a_stranger_takes_nobody_out_who_answers_others() {
    let b = Backend::start("b");
    // It ends without a word on whatever it does not understand.
    let server = Server::start(fresh_addr(), |_, mut stream| {
        let mut word = [0; 6];
        while stream.read_exact(&mut word).is_ok() && word == *b"hello\n" {
            stream.write_all(&word)?;
        }
        Ok(())
    });
    let health = HttpServer::start(server.addr.ip(), 200);
    let daemon = seldom_asked(server.addr, &health, &b);
    let orders = daemon.listener("orders");
    daemon.wait_active("orders", "a");
    // No probe takes anything away.
    health.answer(SILENCE);
    let (over, ordered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&over);
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    order(orders);
                    ordered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let (begun, mut client) = (Instant::now(), dial(orders).unwrap());
        while begun.elapsed() < Duration::from_secs(4) || ordered.load(Ordering::SeqCst) < 100 {
            assert!(begun.elapsed() < 2 * DEADLINE, "only {ordered:?} of them");
            let mut back = [0; 6];
            client.write_all(b"hello\n").unwrap();
            client.read_exact(&mut back).unwrap();
            assert_eq!(daemon.backend("orders", "a")["health"], "healthy", "after {ordered:?} of them");
        }
    });
    assert_eq!(daemon.pool("orders")["state"], "healthy");
}

#[test]
fn a_daemon_that_stood_still_holds_that_against_nobody() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let health = HttpServer::start(a.addr.ip(), 200);
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"20ms\"\ntimeout = \"1500ms\"\nunhealthy_threshold = 1\n\
         {}check = {{ kind = \"http\", http = {{ port = {}, path = \"/\" }} }}\n{}",
        a.toml("orders", 1),
        health.addr().port(),
        b.toml("orders", 2)
    ));
    daemon.wait_active("orders", "a");
    let stalls = || daemon.logged("the daemon itself did not run").len();
    for _ in 0..2 {
        let before = stalls();
        daemon.signal(Signal::STOP);
        let stopped = Instant::now();
        // For longer than a check may take.
        wait_until("it has stood still for a while", DEADLINE, || stopped.elapsed() >= Duration::from_secs(3));
        daemon.signal(Signal::CONT);
        wait_until("it has noticed", DEADLINE, || stalls() > before);
        let asked = health.requests();
        wait_until("it asks again", DEADLINE, || health.requests() >= asked + 3);
    }
    let lost = daemon.logged("backend");
    let lost: Vec<_> = lost.iter().filter(|line| line["kind"] == "backend.unhealthy").collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(visit(daemon.listener("orders")).expect("served"), "a");
}

/// A host that went away without a word, as far as one connection can tell: all that comes for it is dropped unread.
fn goes_deaf(stream: &TcpStream) {
    const RETURN: u16 = 0x06;
    let drop_all = socket2::SockFilter::new(RETURN, 0, 0, 0);
    socket2::SockRef::from(stream).attach_filter(&[drop_all]).expect("a filter");
}

/// A client in conversation with a backend that hears nothing any more, in a daemon whose own probes come once an hour.
struct Deafened {
    daemon: Daemon,
    health: HttpServer,
    client: TcpStream,
    _server: Server,
    _open: TcpStream,
}

fn deafened() -> Deafened {
    let (deaf, is_deaf) = mpsc::channel();
    let server = Server::start(fresh_addr(), move |_, mut stream| {
        let mut word = [0; 6];
        // The second word acknowledges the answer to the first: afterwards the server has nothing to send again.
        if stream.read_exact(&mut word).is_ok() && stream.write_all(b"hello\n").is_ok() {
            stream.read_exact(&mut word)?;
            goes_deaf(&stream);
            deaf.send(stream).expect("the test waits");
        }
        Ok(())
    });
    let health = HttpServer::start(server.addr.ip(), 200);
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"1h\"\n\
         [pools.orders.backends.a]\naddress = \"{}\"\n\
         check = {{ kind = \"http\", http = {{ port = {}, path = \"/\" }} }}\n",
        server.addr,
        health.addr().port()
    ));
    let orders = daemon.listener("orders");
    daemon.wait_active("orders", "a");
    let mut client = dial(orders).expect("accepted");
    client.write_all(b"hello\n").expect("sent");
    client.read_exact(&mut [0; 6]).expect("answered");
    client.write_all(b"hello\n").expect("sent");
    let open = is_deaf.recv_timeout(DEADLINE).expect("deaf");
    Deafened { daemon, health, client, _server: server, _open: open }
}

#[test]
fn bytes_that_a_live_session_cannot_get_rid_of_have_its_backend_asked_at_once() {
    let Deafened { daemon, health, client, .. } = &mut deafened();
    let asked = health.requests();
    client.write_all(b"are you there?\n").expect("sent");
    wait_until("the backend is asked out of turn", DEADLINE, || health.requests() > asked);
    assert_eq!(daemon.backend("orders", "a")["health"], "healthy", "it is a suspicion and no verdict");
}

#[test]
fn a_client_that_goes_on_sending_hides_nothing() {
    let Deafened { daemon, health, client, .. } = &mut deafened();
    let asked = health.requests();
    let mut said = Instant::now();
    // More often than the daemon's tick, so that there is none without a byte.
    wait_until("the backend is asked out of turn", DEADLINE, || {
        if said.elapsed() >= Duration::from_millis(100) {
            client.write_all(b"0123456789").expect("sent");
            said = Instant::now();
        }
        health.requests() > asked
    });
    // And again, for as long as it lasts.
    let asked = health.requests();
    wait_until("the backend is asked once more", DEADLINE, || {
        if said.elapsed() >= Duration::from_millis(100) {
            client.write_all(b"0123456789").expect("sent");
            said = Instant::now();
        }
        health.requests() > asked
    });
    assert_eq!(daemon.backend("orders", "a")["health"], "healthy", "it is a suspicion and no verdict");
}
