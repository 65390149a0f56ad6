//! A backend that ends before its first byte: its client has lost nothing and goes to another.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use support::net::{End, drain, listen, reset, stop_listening};
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

/// What PostgreSQL's clients send first.
const STARTUP: &[u8] = b"\0\0\0\x11\0\x03\0\0user\0app\0";

#[test]
fn a_greeting_that_was_not_answered_is_sent_again() {
    // One resets it unread, one reads it and closes in order.
    let a = resets_unread();
    let b = Server::start(fresh_addr(), |_, mut stream| stream.read_exact(&mut [0; STARTUP.len()]));
    let (c, told) = listens();
    let daemon = daemon("", &[a.addr, b.addr, c.addr]);
    let mut client = dial(daemon.listener("orders")).unwrap();
    client.write_all(STARTUP).unwrap();
    wait_until("the third backend has it", DEADLINE, || {
        daemon.metric("backend_bytes_total", &[("backend", "c")]) == Some(17.0)
    });
    client.write_all(b", and more").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(drain(&mut client), (b"27".to_vec(), End::Closed));
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), [STARTUP, b", and more"].concat());
    assert_eq!(unanswered(&daemon), 2.0);
}

#[test]
fn what_may_be_an_order_is_never_sent_twice() {
    // They may have carried it out: one reads it and closes in order, one reads a part of it, one closes hard.
    let reads = Server::start(fresh_addr(), |_, mut stream| stream.read_exact(&mut [0; 18]));
    let reads_a_part = Server::start(fresh_addr(), |_, mut stream| stream.read_exact(&mut [0; 9]));
    let closes_hard = Server::start(fresh_addr(), |_, mut stream| {
        stream.read_exact(&mut [0; 18])?;
        reset(stream);
        Ok(())
    });
    for (a, end) in [(reads, End::Closed), (reads_a_part, End::Reset), (closes_hard, End::Reset)] {
        let (b, told) = listens();
        let daemon = daemon("", &[a.addr, b.addr]);
        let mut client = dial(daemon.listener("orders")).unwrap();
        client.write_all(b"order #1\norder #2\n").unwrap();
        assert_eq!(ends(&mut client), end);
        drop(client);
        let reason = if end == End::Closed { "completed" } else { "backend_reset" };
        wait_until("the session is over", DEADLINE, || closed(&daemon, reason) == 1.0);
        assert!(told.try_recv().is_err(), "nobody else got it");
        assert_eq!(unanswered(&daemon), 0.0);
    }
}

#[test]
fn a_pool_may_have_anything_sent_again_or_nothing() {
    let reads = Server::start(fresh_addr(), |_, mut stream| stream.read_exact(&mut [0; 8]));
    let (b, told) = listens();
    let always = daemon("resend = \"always\"", &[reads.addr, b.addr]);
    let mut client = dial(always.listener("orders")).unwrap();
    client.write_all(b"an order").unwrap();
    wait_until("the second backend has it", DEADLINE, || {
        always.metric("backend_bytes_total", &[("backend", "b")]) == Some(8.0)
    });
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(drain(&mut client), (b"8".to_vec(), End::Closed));
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), b"an order");

    let resets = resets_unread();
    let never = daemon("resend = \"never\"", &[resets.addr, b.addr]);
    let mut client = dial(never.listener("orders")).unwrap();
    client.write_all(STARTUP).unwrap();
    assert_eq!(ends(&mut client), End::Reset);
    assert!(told.try_recv().is_err());
}

#[test]
fn a_first_chunk_that_is_too_long_to_keep_is_not_sent_again() {
    let (a, (b, told)) = (resets_unread(), listens());
    let daemon = daemon("", &[a.addr, b.addr]);
    let mut client = dial(daemon.listener("orders")).unwrap();
    // A greeting by its first bytes.
    client.write_all(&[b"SSH-2.0-".as_slice(), &[b'x'; 40_000]].concat()).unwrap();
    assert_eq!(ends(&mut client), End::Reset);
    assert!(told.try_recv().is_err());
}

/// Keeps each connection until it is told to let all go.
fn keeps() -> (Server, Arc<Mutex<Vec<TcpStream>>>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeping = Arc::clone(&kept);
    let server = Server::start(fresh_addr(), move |_, stream| {
        keeping.lock().unwrap().push(stream);
        Ok(())
    });
    (server, kept)
}

#[test]
fn a_server_that_closes_on_a_silent_client_much_later_is_believed() {
    let (a, kept) = keeps();
    let b = Server::echo("b");
    let daemon = daemon("connect_timeout = \"50ms\"", &[a.addr, b.addr]);
    let mut client = dial(daemon.listener("orders")).unwrap();
    let begun = std::time::Instant::now();
    wait_until("the dial is long over", DEADLINE, || begun.elapsed() > std::time::Duration::from_millis(200));
    kept.lock().unwrap().clear();
    assert_eq!(ends(&mut client), End::Closed, "the standby is nobody's business while the first is fit");
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
    client.write_all(STARTUP).unwrap();
    assert_eq!(ends(&mut client), End::Reset);
    assert_eq!(daemon.metric("listener_rejected_total", &[("reason", "dial_failed")]), Some(1.0));
}

#[test]
fn a_backend_that_only_listens_gets_everything_when_nobody_else_is_left() {
    for pool in ["", "hold_limit = 0", "hold = \"10ms\"", "when_down = \"refuse\""] {
        only_listens(pool);
    }
}

fn only_listens(pool: &str) {
    let (heard, told) = channel();
    let a = Server::start(fresh_addr(), move |_, mut stream: TcpStream| {
        stream.shutdown(Shutdown::Write)?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        if all.is_empty() { Ok(()) } else { heard.send(all).map_err(io::Error::other) }
    });
    let daemon = daemon(pool, &[a.addr]);
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
    wait_until("it is counted", DEADLINE, || closed(&daemon, "dead") == 1.0);
}

#[test]
fn clients_of_a_single_backend_wait_for_it_to_come_back() {
    let mut a = Backend::start("a");
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders]\nhold = \"10m\"\n\
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

#[test]
fn a_session_keeps_nothing_of_a_backend_that_did_not_answer() {
    let (a, b) = (closes_at_once(), Server::echo("b"));
    let daemon = daemon("", &[a.addr, b.addr]);
    let before = daemon.descriptors();
    let clients: Vec<_> = (0..20).map(|_| support::net::meet(daemon.listener("orders")).expect("served")).collect();
    wait_until("each has two descriptors", DEADLINE, || daemon.descriptors() <= before + 2 * clients.len());
}

#[test]
fn a_client_that_has_ended_its_order_is_held_with_it() {
    let listener = listen(fresh_addr());
    let addr = listener.local_addr().unwrap();
    // Listens no more once a client has said something, and then resets it.
    let dying = std::thread::spawn(move || {
        let said = listener.incoming().map_while(Result::ok).find(|stream| stream.peek(&mut [0]).is_ok_and(|n| n > 0));
        stop_listening(&listener);
        drop(said);
    });
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders]\nhold = \"10m\"\n\
         [pools.orders.check]\ninterval = \"50ms\"\n[pools.orders.backends.a]\naddress = \"{addr}\"\n"
    ));
    let mut client = dial(daemon.listener("orders")).unwrap();
    client.write_all(STARTUP).unwrap();
    wait_until("the backend dies", DEADLINE, || dying.is_finished());
    dying.join().unwrap();
    daemon.wait_held("orders", 1);
    client.shutdown(Shutdown::Write).unwrap();
    let back = Server::start(addr, |_, mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        write!(stream, "{}", all.len())
    });
    assert_eq!(drain(&mut client), (b"17".to_vec(), End::Closed));
    drop(back);
}
