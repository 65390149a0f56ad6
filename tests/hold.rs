//! What clients get while nothing is fit to serve them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use support::net::{echo, read_line};
use support::servers::{HttpServer, Server};
use support::{Backend, DEADLINE, Daemon, dial, ends, fresh_addr, fresh_ip, visit};

/// A pool of backends that are all absent, with `settings` for the pool itself.
fn nobody(settings: &str, addrs: &[SocketAddr]) -> String {
    let backends: String = addrs
        .iter()
        .enumerate()
        .map(|(i, addr)| format!("[pools.orders.backends.b{i}]\naddress = \"{addr}\"\npriority = {}\n", i + 1))
        .collect();
    format!(
        "[daemon]\nworkers = 1\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders]\n{settings}\n[pools.orders.check]\ninterval = \"50ms\"\n{backends}"
    )
}

#[test]
fn held_clients_are_served_in_the_order_of_their_arrival() {
    const CLIENTS: u8 = 20;
    let (mut a, mut b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Daemon::start(&nobody("hold = \"10m\"", &[a.addr, b.addr]));
    let orders = daemon.listener("orders");
    assert_eq!(visit(orders).expect("served"), "a");
    a.kill();
    b.kill();
    daemon.wait_state("orders", "down");
    let mut held = Vec::new();
    for index in 0..CLIENTS {
        let mut client = dial(orders).expect("accepted");
        client.write_all(&[index]).expect("sent");
        held.push(client);
        daemon.wait_held("orders", u32::from(index) + 1);
    }
    let (tell, told) = mpsc::channel();
    let _back = Server::start(b.addr, move |number, mut stream| {
        let mut index = [0];
        // A probe says nothing and goes.
        stream.read_exact(&mut index)?;
        tell.send((number, index[0])).expect("heard");
        stream.write_all(&index)
    });
    let mut order: Vec<(usize, u8)> = (0..CLIENTS).map(|_| told.recv_timeout(DEADLINE).expect("all come")).collect();
    order.sort_unstable();
    let order: Vec<u8> = order.into_iter().map(|(_, index)| index).collect();
    assert_eq!(order, (0..CLIENTS).collect::<Vec<u8>>());
    for (client, index) in held.iter_mut().zip(0..) {
        let mut back = [u8::MAX];
        client.read_exact(&mut back).expect("served");
        assert_eq!(back, [index]);
    }
    daemon.wait_held("orders", 0);
    assert!(daemon.metric("hold_seconds_count", &[("pool", "orders")]) >= Some(f64::from(CLIENTS)));
}

#[test]
fn a_second_without_any_backend_costs_no_client() {
    let (mut a, mut b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Daemon::start(&nobody("hold = \"10m\"", &[a.addr, b.addr]));
    let orders = daemon.listener("orders");
    a.kill();
    b.kill();
    // Some come before the deaths are known, and are held after their dials have failed.
    let early: Vec<_> = (0..10).map(|_| std::thread::spawn(move || visit(orders))).collect();
    daemon.wait_state("orders", "down");
    let late: Vec<_> = (0..10).map(|_| std::thread::spawn(move || visit(orders))).collect();
    daemon.wait_held("orders", 20);
    b.restart();
    for client in early.into_iter().chain(late) {
        assert_eq!(client.join().unwrap().expect("served"), "b");
    }
}

#[test]
fn a_client_is_held_no_longer_than_hold() {
    let hold = Duration::from_millis(400);
    let daemon = Daemon::start(&nobody("hold = \"400ms\"", &[fresh_addr()]));
    let came = Instant::now();
    let mut client = dial(daemon.listener("orders")).expect("accepted");
    ends(&mut client);
    // The daemon's clock starts a little later than ours, and its ticks may be a little coarse.
    assert!(came.elapsed() >= hold - Duration::from_millis(20), "let go after {:?}", came.elapsed());
    assert_eq!(daemon.rejected("orders", "hold_timeout"), 1.0);
    daemon.wait_held("orders", 0);
}

#[test]
fn a_client_beyond_the_hold_limit_is_closed_at_once() {
    let daemon = Daemon::start(&nobody("hold = \"10m\"\nhold_limit = 2", &[fresh_addr()]));
    let orders = daemon.listener("orders");
    let _held: Vec<_> = (0..2).map(|_| dial(orders).expect("accepted")).collect();
    daemon.wait_held("orders", 2);
    ends(&mut dial(orders).expect("accepted"));
    assert_eq!(daemon.rejected("orders", "hold_limit"), 1.0);
    daemon.wait_held("orders", 2);
}

#[test]
fn a_held_client_that_goes_away_is_noticed() {
    let daemon = Daemon::start(&nobody("hold = \"10m\"", &[fresh_addr()]));
    let orders = daemon.listener("orders");
    let (closes, resets, mut resets_late) = (dial(orders).unwrap(), dial(orders).unwrap(), dial(orders).unwrap());
    resets_late.write_all(b"a request that nobody will read").expect("sent");
    daemon.wait_held("orders", 3);
    drop(closes);
    daemon.wait_held("orders", 2);
    support::net::reset(resets);
    daemon.wait_held("orders", 1);
    support::net::reset(resets_late);
    daemon.wait_held("orders", 0);
}

#[test]
fn a_client_that_is_held_when_the_daemon_stops_is_told_why_also_after_it_asked_for_encryption() {
    let config =
        nobody("kind = \"postgres\"\nhold = \"10m\"\n[pools.orders.postgres]\npassword = \"x\"", &[fresh_addr()]);
    let daemon = Daemon::start(&config.replace("workers = 1", "workers = 1\ndrain_timeout = \"100ms\""));
    let mut client = dial(daemon.listener("orders")).expect("accepted");
    client.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").expect("sent");
    daemon.wait_held("orders", 1);
    daemon.signal(rustix::process::Signal::TERM);
    let mut no = [0];
    client.read_exact(&mut no).expect("an answer");
    assert_eq!(no, *b"N");
    client.write_all(b"\0\0\0\x10\0\x03\0\0user\0a\0\0").expect("sent");
    let mut error = Vec::new();
    client.read_to_end(&mut error).expect("an error and the end");
    let error = String::from_utf8_lossy(&error).into_owned();
    assert!(error.contains("C57P03") && error.contains("is going down"), "{error:?}");
}

#[test]
fn what_a_held_client_has_sent_reaches_the_backend() {
    let mut a = Backend::absent("a");
    let daemon = Daemon::start(&nobody("hold = \"10m\"", &[a.addr]));
    let mut client = dial(daemon.listener("orders")).expect("accepted");
    let request: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    client.write_all(&request).expect("sent");
    daemon.wait_held("orders", 1);
    a.restart();
    assert_eq!(read_line(&mut client).expect("served"), "a");
    let mut back = vec![0; request.len()];
    client.read_exact(&mut back).expect("echoed");
    assert!(back == request, "what came back is not what was sent");
    echo(&mut client, b"and it goes on").expect("echoed");
}

#[test]
fn a_pool_that_refuses_closes_its_clients_at_once() {
    let daemon = Daemon::start(&nobody("when_down = \"refuse\"\nhold = \"10m\"", &[fresh_addr()]));
    daemon.wait_state("orders", "down");
    ends(&mut dial(daemon.listener("orders")).expect("accepted"));
    assert_eq!(daemon.rejected("orders", "no_eligible_backend"), 1.0);
    assert_eq!(daemon.rejected("orders", "hold_timeout"), 0.0);
}

#[test]
fn a_pool_that_refuses_does_so_when_every_dial_failed() {
    // The verdict is out of date until the next probe, an hour away.
    let mut a = Server::echo("a");
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders]\nwhen_down = \"refuse\"\n[pools.orders.check]\ninterval = \"1h\"\n\
         [pools.orders.backends.a]\naddress = \"{}\"\n",
        a.addr
    ));
    let orders = daemon.listener("orders");
    assert_eq!(visit(orders).expect("served"), "a");
    a.close();
    ends(&mut dial(orders).expect("accepted"));
    assert_eq!(daemon.rejected("orders", "dial_failed"), 1.0);
    // The failed dial was reason enough to ask at once, and a second refusal is proof.
    daemon.wait_health("orders", "a", "unhealthy");
}

#[test]
fn use_preferred_dials_the_preferred_backend_fit_or_not() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let (bad_a, bad_b) = (HttpServer::start(a.addr.ip(), 503), HttpServer::start(b.addr.ip(), 503));
    let check = |addr: SocketAddr| {
        format!(
            "check = {{ kind = \"http\", interval = \"50ms\", http = {{ path = \"/\", port = {} }} }}\n",
            addr.port()
        )
    };
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders]\nwhen_down = \"use-preferred\"\n{}{}{}{}",
        a.toml("orders", 1),
        check(bad_a.addr()),
        b.toml("orders", 2),
        check(bad_b.addr()),
    ));
    daemon.wait_state("orders", "down");
    assert_eq!(visit(daemon.listener("orders")).expect("served"), "a");
}

#[test]
fn a_daemon_is_ready_although_nothing_is_fit() {
    let daemon = Daemon::start(&nobody("hold = \"1s\"", &[SocketAddr::new(fresh_ip(), 1)]));
    assert_eq!(daemon.admin_get("/readyz").status, 200);
    daemon.wait_state("orders", "down");
    assert_eq!(daemon.pool("orders")["redundancy"], "none");
}
