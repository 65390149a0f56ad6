//! A backend that ends before its first byte: its client has lost nothing and goes to another.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use support::net::{End, drain, reset};
use support::servers::Server;
use support::{Backend, DEADLINE, Daemon, dial, ends, fresh_addr, visit, wait_until};

/// `a` before `b`, probed once and when in doubt.
fn daemon(pool: &str, backends: &[SocketAddr]) -> Daemon {
    let tables = ["a", "b", "c"].iter().zip(backends).enumerate().map(|(tier, (name, addr))| {
        format!("[pools.orders.backends.{name}]\naddress = \"{addr}\"\npriority = {}\n", tier + 1)
    });
    Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders]\n{pool}\n\
         [pools.orders.check]\ninterval = \"1h\"\n{}",
        tables.collect::<String>(),
    ))
}

/// Closes each connection at once, in order.
fn closes_at_once() -> Server {
    Server::start(fresh_addr(), |_, _| Ok(()))
}

/// Resets each connection once something has come, and has read nothing of it.
fn resets_unread() -> Server {
    Server::start(fresh_addr(), |_, stream| {
        if stream.peek(&mut [0])? > 0 {
            reset(stream);
        }
        Ok(())
    })
}

/// Reads to the end of each connection, tells what came, and answers with its length.
fn listens() -> (Server, Receiver<Vec<u8>>) {
    let (heard, told): (Sender<Vec<u8>>, _) = channel();
    let server = Server::start(fresh_addr(), move |_, mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        // A probe has nothing to say.
        if !all.is_empty() {
            write!(stream, "{}", all.len())?;
            heard.send(all).map_err(io::Error::other)?;
        }
        Ok(())
    });
    (server, told)
}

fn unanswered(daemon: &Daemon) -> f64 {
    let labels = [("pool", "orders"), ("reason", "unanswered")];
    daemon.metric("backend_connect_failures_total", &labels).unwrap_or(0.0)
}

fn closed(daemon: &Daemon, reason: &str) -> f64 {
    daemon.metric("sessions_closed_total", &[("pool", "orders"), ("reason", reason)]).unwrap_or(0.0)
}

#[test]
fn a_backend_that_closes_before_its_first_byte_counts_as_a_failed_dial() {
    let (a, b) = (closes_at_once(), Server::echo("b"));
    let daemon = daemon("", &[a.addr, b.addr]);
    for _ in 0..20 {
        assert_eq!(visit(daemon.listener("orders")).expect("served"), "b");
    }
    assert_eq!(unanswered(&daemon), 20.0);
    // It can be connected to, and its check asks for no more than that.
    assert_eq!(daemon.backend("orders", "a")["health"], "healthy");
    wait_until("the sessions are over", DEADLINE, || closed(&daemon, "completed") == 20.0);
}

#[test]
fn what_a_client_sent_first_is_sent_again_if_the_backend_did_not_read_it() {
    let (a, (b, told)) = (resets_unread(), listens());
    let daemon = daemon("", &[a.addr, b.addr]);
    let mut client = dial(daemon.listener("orders")).unwrap();
    client.write_all(b"a startup message").unwrap();
    wait_until("the second backend has it", DEADLINE, || {
        daemon.metric("backend_bytes_total", &[("backend", "b")]) == Some(17.0)
    });
    client.write_all(b", and more").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(drain(&mut client), (b"27".to_vec(), End::Closed));
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), b"a startup message, and more");
}

#[test]
fn what_a_backend_has_read_is_never_sent_to_another() {
    // It reads the order and goes without an answer: it may have carried it out.
    let a = Server::start(fresh_addr(), |_, mut stream| stream.read_exact(&mut [0; 8]));
    let (b, told) = listens();
    let daemon = daemon("", &[a.addr, b.addr]);
    let mut client = dial(daemon.listener("orders")).unwrap();
    client.write_all(b"an order").unwrap();
    assert_eq!(ends(&mut client), End::Closed);
    drop(client);
    wait_until("the session is over", DEADLINE, || closed(&daemon, "completed") == 1.0);
    assert!(told.try_recv().is_err(), "nobody else got it");
    assert_eq!(unanswered(&daemon), 0.0);
}

#[test]
fn a_first_chunk_that_is_too_long_to_keep_is_not_sent_again() {
    let (reads, b) = (Arc::new(AtomicUsize::new(0)), listens());
    let count = Arc::clone(&reads);
    let a = Server::start(fresh_addr(), move |_, mut stream| {
        // More than is kept, and not all of what comes.
        stream.read_exact(&mut [0; 20_000])?;
        count.fetch_add(1, Ordering::SeqCst);
        reset(stream);
        Ok(())
    });
    let daemon = daemon("", &[a.addr, b.0.addr]);
    let mut client = dial(daemon.listener("orders")).unwrap();
    client.write_all(&[7; 40_000]).unwrap();
    assert_eq!(ends(&mut client), End::Reset);
    assert_eq!(reads.load(Ordering::SeqCst), 1);
    assert!(b.1.try_recv().is_err());
}

#[test]
fn a_reset_long_after_the_dial_is_passed_on() {
    let (go, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let a = Server::start(fresh_addr(), move |_, stream| {
        if stream.peek(&mut [0])? > 0 {
            wait.lock().unwrap().recv_timeout(DEADLINE).map_err(io::Error::other)?;
            reset(stream);
        }
        Ok(())
    });
    let (b, told) = listens();
    let daemon = daemon("connect_timeout = \"50ms\"", &[a.addr, b.addr]);
    let mut client = dial(daemon.listener("orders")).unwrap();
    client.write_all(b"an order").unwrap();
    let begun = std::time::Instant::now();
    wait_until("the dial is long over", DEADLINE, || begun.elapsed() > std::time::Duration::from_millis(200));
    go.send(()).unwrap();
    assert_eq!(ends(&mut client), End::Reset);
    assert!(told.try_recv().is_err());
    assert_eq!(closed(&daemon, "backend_reset"), 1.0);
}

#[test]
fn a_client_that_ends_first_gets_the_end_and_nobody_else_is_tried() {
    let a = Server::start(fresh_addr(), |_, mut stream| stream.read_to_end(&mut Vec::new()).map(drop));
    let b = Server::echo("b");
    let daemon = daemon("", &[a.addr, b.addr]);
    let mut client = dial(daemon.listener("orders")).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ends(&mut client), End::Closed);
    assert_eq!(unanswered(&daemon), 0.0);
}

#[test]
fn a_backend_that_closes_on_purpose_is_believed_when_nobody_else_is_left() {
    let (a, b) = (closes_at_once(), closes_at_once());
    for pool in ["", "when_down = \"refuse\""] {
        let daemon = daemon(pool, &[a.addr, b.addr]);
        for visits in 1_u8..=3 {
            let mut client = dial(daemon.listener("orders")).unwrap();
            assert_eq!(ends(&mut client), End::Closed, "not held until the time is up");
            assert_eq!(unanswered(&daemon), 2.0 * f64::from(visits), "each was asked once");
        }
        assert_eq!(daemon.metric("listener_held", &[("listener", "orders")]), Some(0.0));
    }
}

#[test]
fn a_reset_is_passed_on_when_nobody_else_is_left() {
    let a = resets_unread();
    let daemon = daemon("", &[a.addr]);
    let mut client = dial(daemon.listener("orders")).unwrap();
    client.write_all(b"hello").unwrap();
    assert_eq!(ends(&mut client), End::Reset);
    assert_eq!(daemon.metric("listener_rejected_total", &[("reason", "dial_failed")]), Some(1.0));
}

#[test]
fn a_backend_that_only_listens_gets_everything_when_nobody_else_is_left() {
    let (heard, told) = channel();
    let a = Server::start(fresh_addr(), move |_, mut stream: TcpStream| {
        stream.shutdown(Shutdown::Write)?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        if all.is_empty() { Ok(()) } else { heard.send(all).map_err(io::Error::other) }
    });
    let daemon = daemon("", &[a.addr]);
    let mut client = dial(daemon.listener("orders")).unwrap();
    assert_eq!(ends(&mut client), End::Closed);
    client.write_all(b"to the record").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), b"to the record");
}

/// Accepts and says nothing, in this process, until it is closed.
fn silent() -> Server {
    Server::start(fresh_addr(), |_, mut stream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    })
}

#[test]
fn clients_that_have_not_been_answered_go_elsewhere_when_their_backend_is_fenced() {
    let (mut a, b) = (silent(), Server::echo("b"));
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"50ms\"\n\
         [pools.orders.backends.a]\naddress = \"{}\"\npriority = 1\n\
         [pools.orders.backends.b]\naddress = \"{}\"\npriority = 2\n",
        a.addr, b.addr
    ));
    let mut clients: Vec<TcpStream> = (0..20).map(|_| dial(daemon.listener("orders")).unwrap()).collect();
    let mut speaker = dial(daemon.listener("orders")).unwrap();
    speaker.write_all(b"an order").unwrap();
    let active = [("pool", "orders"), ("backend", "a")];
    wait_until("they are connected", DEADLINE, || {
        daemon.metric("backend_connections_active", &active) == Some(21.0)
            && daemon.metric("backend_bytes_total", &active) == Some(8.0)
    });
    // It listens no more, but lives: the connections go on, and the verdict closes them.
    a.close();
    for client in &mut clients {
        let mut name = [0; 2];
        client.read_exact(&mut name).expect("served");
        assert_eq!(&name, b"b\n");
    }
    // What it sent may have been acted on.
    assert_eq!(ends(&mut speaker), End::Reset);
    assert_eq!(closed(&daemon, "dead"), 1.0);
}

#[test]
fn clients_of_a_single_backend_wait_for_it_to_come_back() {
    let mut a = Backend::start("a");
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders]\nhold = \"30s\"\n\
         [pools.orders.check]\ninterval = \"50ms\"\nhealthy_threshold = 1\n{}",
        a.toml("orders", 1)
    ));
    let orders = daemon.listener("orders");
    for _ in 0..3 {
        let came = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        came.fetch_add(1, Ordering::SeqCst);
                        visit(orders)
                    })
                })
                .collect();
            wait_until("the clients come", DEADLINE, || came.load(Ordering::SeqCst) == 8);
            a.kill();
            let late = scope.spawn(|| visit(orders));
            daemon.wait_health("orders", "a", "unhealthy");
            a.restart();
            assert_eq!(late.join().unwrap().expect("served"), "a");
            // These may have been in conversation when it died.
            clients.into_iter().for_each(|client| drop(client.join().unwrap()));
        });
        daemon.wait_health("orders", "a", "healthy");
    }
}
