//! Who is served by whom: every balance on real sockets, and backends that may have only so many sessions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use support::net::{echo, ends, listen, meet, read_line, reset};
use support::servers::Server;
use support::{DEADLINE, Daemon, dial, dial_unix, fresh_addr, fresh_ip, visit, wait_until};

/// A daemon of two workers in front of these backends: name, address and what else stands in its table.
fn config(pool: &str, backends: &[(&str, SocketAddr, &str)]) -> String {
    let backends: String = backends
        .iter()
        .map(|(name, addr, more)| format!("[pools.orders.backends.{name}]\naddress = \"{addr}\"\n{more}\n"))
        .collect();
    format!(
        "[daemon]\nworkers = 2\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders]\n{pool}\n{backends}"
    )
}

/// Sessions that stay, and how many of them each backend has.
fn crowd(orders: SocketAddr, clients: usize) -> (Vec<TcpStream>, BTreeMap<String, usize>) {
    let mut by = BTreeMap::new();
    let sessions = (0..clients).map(|_| meet(orders).expect("served"));
    let sessions = sessions.map(|(session, name)| {
        *by.entry(name).or_default() += 1;
        session
    });
    (sessions.collect(), by)
}

/// A connection to `to` from an address of the caller's choice.
fn dial_from(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(from, 0).into()).expect("a loopback address");
    socket.connect(&to.into()).expect("accepted");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("SO_RCVTIMEO");
    stream
}

#[test]
fn round_robin_shares_by_weight() {
    let (a, b) = (Server::echo("a"), Server::echo("b"));
    let daemon = Daemon::start(&config("", &[("a", a.addr, "weight = 3"), ("b", b.addr, "")]));
    let (_sessions, by) = crowd(daemon.listener("orders"), 40);
    assert_eq!((by["a"], by["b"]), (30, 10));
}

#[test]
fn least_connections_fills_up_what_others_left() {
    let (a, b, c) = (Server::echo("a"), Server::echo("b"), Server::echo("c"));
    let backends = [("a", a.addr, ""), ("b", b.addr, ""), ("c", c.addr, "weight = 2")];
    let daemon = Daemon::start(&config("balance = \"least-connections\"", &backends));
    let orders = daemon.listener("orders");
    let mut sessions: Vec<(TcpStream, String)> = (0..40).map(|_| meet(orders).expect("served")).collect();
    let count = |sessions: &[(TcpStream, String)], who: &str| sessions.iter().filter(|(_, name)| name == who).count();
    assert_eq!([count(&sessions, "a"), count(&sessions, "b"), count(&sessions, "c")], [10, 10, 20]);
    sessions.retain(|(_, name)| name != "b");
    daemon.wait_metric("backend_connections_active", &[("backend", "b")], 0.0);
    // The gauge goes down a moment before the place is free.
    let next = || meet(orders).expect("served");
    sessions.extend((0..8).map(|_| next()));
    assert!(count(&sessions, "b") >= 7, "{} of 8 went to the one that is empty", count(&sessions, "b"));
}

#[test]
fn random_serves_from_all_by_weight_and_latency_serves_all() {
    for balance in ["random", "latency"] {
        let (a, b, c) = (Server::echo("a"), Server::echo("b"), Server::echo("c"));
        let backends = [("a", a.addr, ""), ("b", b.addr, ""), ("c", c.addr, "weight = 4")];
        let daemon = Daemon::start(&config(&format!("balance = \"{balance}\""), &backends));
        let (_sessions, by) = crowd(daemon.listener("orders"), 120);
        assert_eq!(by.values().sum::<usize>(), 120);
        // Latency depends on what else the machine does.
        assert!(balance == "latency" || (by["a"] > 4 && by["b"] > 4 && by["c"] > 40), "{by:?}");
    }
}

#[test]
fn latency_prefers_the_backend_whose_checks_answer_sooner() {
    // The slow one's check is answered 300 ms late; it serves as quickly as the other.
    let (a, b) = (Server::echo("a"), Server::echo("b"));
    let answer = |stream: &mut TcpStream| {
        let mut byte = [0];
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    };
    let quick = Server::start(SocketAddr::new(a.addr.ip(), 0), move |_, mut stream| answer(&mut stream));
    let slow = Server::start(SocketAddr::new(b.addr.ip(), 0), move |_, mut stream| {
        let mut last = std::time::Instant::now();
        support::pace(&mut last, std::time::Duration::from_millis(300));
        answer(&mut stream)
    });
    let check = |server: &Server| format!("check = {{ kind = \"http\", http = {{ port = {} }} }}", server.addr.port());
    let (quick, slow) = (check(&quick), check(&slow));
    let daemon = Daemon::start(&config("balance = \"latency\"", &[("a", a.addr, &quick), ("b", b.addr, &slow)]));
    let orders = daemon.listener("orders");
    let near = (0..100).filter(|_| visit(orders).expect("served") == "a").count();
    // Three of four are due: the slow one gets only those for whom it is drawn twice.
    assert!(near >= 58, "{near} of 100 went to the near one");
}

#[test]
fn source_hash_keeps_each_client_where_it_is() {
    let servers: Vec<Server> = ["a", "b", "c"].into_iter().map(Server::echo).collect();
    let backends = [("a", servers[0].addr, ""), ("b", servers[1].addr, ""), ("c", servers[2].addr, "")];
    let three = config("balance = \"source-hash\"", &backends);
    let daemon = Daemon::start(&three);
    let clients: Vec<IpAddr> = (0..60).map(|_| fresh_ip()).collect();
    let by = |daemon: &Daemon| -> Vec<String> {
        let orders = daemon.listener("orders");
        clients.iter().map(|&ip| read_line(&mut dial_from(ip, orders)).expect("served")).collect()
    };
    let first = by(&daemon);
    for name in ["a", "b", "c"] {
        assert!(first.iter().filter(|by| *by == name).count() >= 6, "{first:?}");
    }
    assert_eq!(by(&daemon), first, "from another port it is the same client");
    daemon.reload(&config("balance = \"source-hash\"", &backends[..2])).expect("taken");
    let second = by(&daemon);
    for (before, after) in first.iter().zip(&second) {
        assert!(before == after || before == "c", "one who was at {before} is at {after} now that c is gone");
    }
    daemon.reload(&three).expect("taken");
    wait_until("c is back", DEADLINE, || daemon.backend("orders", "c")["active"] == true);
    assert_eq!(by(&daemon), first, "who left because of c comes back with it");
    drop(daemon);
    assert_eq!(by(&Daemon::start(&three)), first, "another process chooses the same");
}

#[test]
fn clients_over_a_unix_socket_are_one_client() {
    let servers: Vec<Server> = ["a", "b", "c"].into_iter().map(Server::echo).collect();
    let backends = [("a", servers[0].addr, ""), ("b", servers[1].addr, ""), ("c", servers[2].addr, "")];
    let dir = tempfile::tempdir().expect("a directory");
    let front = dir.path().join("front");
    let config = config("balance = \"source-hash\"", &backends);
    let _daemon = Daemon::start(&config.replace("127.0.0.1:0", &format!("unix:{}", front.display())));
    let meet = || read_line(&mut dial_unix(&front).expect("accepted")).expect("served");
    let first = meet();
    assert!((0..10).all(|_| meet() == first));
}

/// Counts the connections that speak to it: a probe says nothing.
fn counting(most: &Arc<AtomicUsize>) -> Server {
    let (inside, most) = (AtomicUsize::new(0), Arc::clone(most));
    Server::start(fresh_addr(), move |_, mut stream| {
        let mut word = [0; 1];
        stream.read_exact(&mut word)?;
        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        stream.write_all(&word)?;
        let ended = stream.read(&mut word).map(drop);
        inside.fetch_sub(1, Ordering::SeqCst);
        ended
    })
}

#[test]
fn a_limit_is_exact_under_200_clients_at_once() {
    const CLIENTS: usize = 200;
    let (a, b) = (Server::echo("a"), Server::echo("b"));
    let pool = "balance = \"least-connections\"\nwhen_down = \"refuse\"";
    let limit = "max_connections = 30";
    let daemon = Daemon::start(&config(pool, &[("a", a.addr, limit), ("b", b.addr, limit)]));
    let orders = daemon.listener("orders");
    let clients: Vec<_> = (0..CLIENTS).map(|_| std::thread::spawn(move || meet(orders))).collect();
    let mut served = BTreeMap::new();
    let sessions: Vec<_> = clients.into_iter().filter_map(|client| client.join().unwrap().ok()).collect();
    sessions.iter().for_each(|(_, name)| *served.entry(name.as_str()).or_insert(0) += 1);
    assert_eq!(served, BTreeMap::from([("a", 30), ("b", 30)]));
    let refused = [("listener", "orders"), ("reason", "backends_full")];
    daemon.wait_metric("listener_rejected_total", &refused, (CLIENTS - 60) as f64);
    assert_eq!(daemon.pool("orders")["state"], "healthy", "full is not down");
    drop(sessions);
    // Every place comes back.
    wait_until("sixty are served again", DEADLINE, || {
        let again: Vec<_> = (0..60).filter_map(|_| meet(orders).ok()).collect();
        again.len() == 60
    });
}

#[test]
fn a_limit_holds_while_clients_come_and_go_and_all_are_served() {
    const ROUNDS: usize = 8;
    let most = Arc::new(AtomicUsize::new(0));
    let a = counting(&most);
    let daemon = Daemon::start(&config("hold = \"10m\"", &[("a", a.addr, "max_connections = 5")]));
    let orders = daemon.listener("orders");
    let crowd = |resets: bool| {
        let client = move || {
            for _ in 0..ROUNDS {
                let mut stream = dial(orders).expect("accepted");
                echo(&mut stream, &[0]).expect("served");
                if resets {
                    reset(stream);
                }
            }
        };
        let clients: Vec<_> = (0..40).map(|_| std::thread::spawn(client)).collect();
        clients.into_iter().for_each(|client| client.join().expect("every one is served"));
        daemon.wait_held("orders", 0);
        daemon.wait_metric("backend_connections_active", &[("backend", "a")], 0.0);
    };
    crowd(false);
    // Who ends in order has been counted out by the backend before its place is free; after a reset that is a race.
    let most = most.load(Ordering::SeqCst);
    assert!((1..=5).contains(&most), "{most} at once");
    crowd(true);
    assert_eq!(daemon.rejected("orders", "backends_full"), 0.0);
}

#[test]
fn what_does_not_fit_spills_to_the_next_and_to_the_next_tier() {
    let (a, b, c) = (Server::echo("a"), Server::echo("b"), Server::echo("c"));
    let pool = "when_down = \"refuse\"";
    let backends = [
        ("a", a.addr, "priority = 1\nmax_connections = 2"),
        ("b", b.addr, "priority = 1\nmax_connections = 3"),
        ("c", c.addr, "priority = 2\nmax_connections = 1"),
    ];
    let daemon = Daemon::start(&config(pool, &backends));
    let orders = daemon.listener("orders");
    let (mut sessions, by) = crowd(orders, 5);
    assert_eq!((by["a"], by["b"], by.get("c")), (2, 3, None));
    let (spilled, by) = meet(orders).expect("served");
    assert_eq!(by, "c");
    ends(&mut dial(orders).expect("accepted"));
    daemon.wait_metric("listener_rejected_total", &[("listener", "orders"), ("reason", "backends_full")], 1.0);
    assert_eq!(daemon.pool("orders")["active"], serde_json::json!(["a", "b"]), "a spill is no failover");
    for session in &mut sessions {
        echo(session, b"not disturbed").expect("echoed");
    }
    drop(spilled);
    wait_until("c has room again", DEADLINE, || meet(orders).is_ok_and(|(_, name)| name == "c"));
}

#[test]
fn without_automatic_failover_a_full_tier_keeps_its_clients() {
    let (a, b) = (Server::echo("a"), Server::echo("b"));
    let backends = [("a", a.addr, "priority = 1\nmax_connections = 1"), ("b", b.addr, "priority = 2")];
    let manual = "hold = \"10m\"\n[pools.orders.failover]\nautomatic = false";
    let daemon = Daemon::start(&config(manual, &backends));
    let orders = daemon.listener("orders");
    let (first, by) = meet(orders).expect("served");
    assert_eq!(by, "a");
    let mut second = dial(orders).expect("accepted");
    daemon.wait_held("orders", 1);
    drop(first);
    assert_eq!(read_line(&mut second).expect("served"), "a");
}

/// A backend that tells of each client's first byte, and holds it until the client ends.
fn telling() -> (Server, mpsc::Receiver<u8>) {
    let (tell, told) = mpsc::channel();
    let server = Server::start(fresh_addr(), move |_, mut stream| {
        let mut word = [0];
        stream.read_exact(&mut word)?;
        tell.send(word[0]).expect("heard");
        stream.write_all(&word)?;
        stream.read_exact(&mut word)
    });
    (server, told)
}

#[test]
fn clients_wait_for_room_in_the_order_of_their_arrival() {
    const CLIENTS: u8 = 12;
    let (a, told) = telling();
    let daemon = Daemon::start(&config("hold = \"10m\"", &[("a", a.addr, "max_connections = 1")]));
    let orders = daemon.listener("orders");
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = dial(orders).expect("accepted");
        client.write_all(&[number]).expect("sent");
        clients.push(client);
        daemon.wait_held("orders", number.into());
    }
    // One gives up; nobody behind it waits longer for that.
    let leaver = usize::from(CLIENTS / 2);
    reset(clients.remove(leaver));
    daemon.wait_held("orders", u32::from(CLIENTS) - 2);
    for (client, number) in clients.into_iter().zip((0..CLIENTS).filter(|&number| usize::from(number) != leaver)) {
        assert_eq!(told.recv_timeout(DEADLINE).expect("served"), number);
        assert!(told.try_recv().is_err(), "two at once");
        drop(client);
    }
    daemon.wait_held("orders", 0);
    assert_eq!(daemon.rejected("orders", "hold_timeout"), 0.0);
}

#[test]
fn one_whose_backend_is_lost_before_it_answered_keeps_its_turn_among_those_who_wait_for_room() {
    let (a, told) = telling();
    // It accepts, and says nothing until the client ends.
    let b = Server::start(fresh_addr(), |_, mut stream| stream.read_to_end(&mut Vec::new()).map(drop));
    let pool = "hold = \"10m\"\n[pools.orders.failover.sessions]\ndrained = \"close\"";
    let a = ("a", a.addr, "priority = 1\nmax_connections = 1");
    let daemon = Daemon::start(&config(pool, &[a, ("b", b.addr, "priority = 2\nmax_connections = 1")]));
    let orders = daemon.listener("orders");
    let mut first = dial(orders).expect("accepted");
    first.write_all(&[0]).expect("sent");
    assert_eq!(told.recv_timeout(DEADLINE).expect("served"), 0);
    let mut clients = vec![dial(orders).expect("accepted")];
    daemon.wait_metric("backend_connections_total", &[("backend", "b")], 1.0);
    for held in 1..=3 {
        clients.push(dial(orders).expect("accepted"));
        daemon.wait_held("orders", held);
    }
    daemon.reload(&config(pool, &[a])).expect("taken");
    daemon.wait_held("orders", 4);
    drop(first);
    for (mut client, number) in clients.into_iter().zip(1..) {
        client.write_all(&[number]).expect("sent");
        assert_eq!(told.recv_timeout(DEADLINE).expect("in its turn"), number);
    }
}

#[test]
fn one_who_waits_for_room_is_held_no_longer_than_hold_and_counted() {
    let a = Server::echo("a");
    let daemon = Daemon::start(&config("hold = \"200ms\"\nhold_limit = 1", &[("a", a.addr, "max_connections = 1")]));
    let orders = daemon.listener("orders");
    let (_session, _) = meet(orders).expect("served");
    ends(&mut dial(orders).expect("accepted"));
    daemon.wait_metric("listener_rejected_total", &[("listener", "orders"), ("reason", "hold_timeout")], 1.0);
}

#[test]
fn those_who_wait_for_room_cost_no_time() {
    let a = Server::echo("a");
    let daemon = Daemon::start(&config("hold = \"10m\"", &[("a", a.addr, "max_connections = 1")]));
    let orders = daemon.listener("orders");
    let (_session, _) = meet(orders).expect("served");
    let _held: Vec<_> = (0..200).map(|_| dial(orders).expect("accepted")).collect();
    daemon.wait_held("orders", 200);
    let (start, before) = (std::time::Instant::now(), daemon.cpu());
    wait_until("a second is over", DEADLINE, || start.elapsed().as_secs() >= 1);
    let (used, over) = (daemon.cpu() - before, start.elapsed());
    assert!(used < over / 10, "{used:?} of processor time in {over:?}");
}

#[test]
fn room_that_a_reload_makes_is_taken_by_those_who_wait() {
    let (a, b) = (Server::echo("a"), Server::echo("b"));
    let one = config("hold = \"10m\"", &[("a", a.addr, "max_connections = 1")]);
    let daemon = Daemon::start(&one);
    let orders = daemon.listener("orders");
    let (_session, _) = meet(orders).expect("served");
    let mut held: Vec<_> = (0..10).map(|_| dial(orders).expect("accepted")).collect();
    daemon.wait_held("orders", 10);
    let backends = [("a", a.addr, "max_connections = 3"), ("b", b.addr, "")];
    daemon.reload(&config("hold = \"10m\"", &backends)).expect("taken");
    let mut by = BTreeMap::new();
    for client in &mut held {
        *by.entry(read_line(client).expect("served")).or_insert(0) += 1;
    }
    assert!(by["a"] == 2 && by["b"] == 8, "{by:?}");
}

#[test]
fn a_client_whose_backend_dies_finds_room_elsewhere() {
    let mut a = support::Backend::start("a");
    let b = Server::echo("b");
    let backends =
        [("a", a.addr, "priority = 1\nmax_connections = 5"), ("b", b.addr, "priority = 2\nmax_connections = 5")];
    let daemon = Daemon::start(&config("hold = \"10m\"", &backends));
    let orders = daemon.listener("orders");
    let (lost, _) = crowd(orders, 5);
    let (spilled, by) = crowd(orders, 5);
    assert_eq!(by["b"], 5);
    let mut held = dial(orders).expect("accepted");
    daemon.wait_held("orders", 1);
    a.kill();
    drop(lost);
    drop(spilled);
    assert_eq!(read_line(&mut held).expect("served"), "b");
}

#[test]
fn a_full_backend_is_told_of_an_end_before_it_is_given_the_next() {
    let backend = listen(fresh_addr());
    let daemon = Daemon::start(&format!(
        "[daemon]\nworkers = 2\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders]\nhold = \"3s\"\n\
         [pools.orders.check]\ninterval = \"1h\"\n[pools.orders.backends.a]\naddress = \"{}\"\nmax_connections = 1\n",
        backend.local_addr().unwrap()
    ));
    let orders = daemon.listener("orders");
    // accept(2) keeps to it as reads do. Checks come once an hour: a backend that is taken out gets nobody for so long.
    socket2::SockRef::from(&backend).set_read_timeout(Some(DEADLINE)).unwrap();
    // The probe.
    drop(backend.accept().unwrap());
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = support::StopOnDrop(&over);
        for _ in 0..6 {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::SeqCst) {
                    // One that is served crashes.
                    if let Ok(mut client) = dial(orders)
                        && client.read(&mut [0]).is_ok_and(|length| length == 1)
                    {
                        support::net::reset(client);
                    }
                }
            });
        }
        let mut last: Option<std::net::TcpStream> = None;
        for number in 0..500 {
            let (mut next, _) = backend.accept().unwrap();
            if let Some(last) = &last {
                last.set_nonblocking(true).unwrap();
                let peeked = last.peek(&mut [0]);
                let lives = peeked.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
                assert!(!lives, "number {number} came while the one before was there");
            }
            next.write_all(b"h").unwrap();
            last = Some(next);
        }
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        // Those who wait are let go.
        drop((last, backend));
    });
}
