//! What a listener lets in: how many, how fast, and from where. Whoever it does not is closed at once and counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use socket2::{Domain, Socket, Type};

use support::net::{echo, meet, read_line};
use support::servers::Server;
use support::sock::Sock;
use support::{DEADLINE, Daemon, dial, ends, visit, wait_until};

/// Four threads, so that one client's connections are spread over several.
fn config(bind: &str, limits: &str, backend: &Server) -> String {
    format!(
        "[daemon]\nworkers = 4\n[listeners.orders]\nbind = {bind}\npool = \"orders\"\n{limits}\n\
         [pools.orders]\nbackends = [\"{}\"]\n",
        backend.addr
    )
}

const LOOPBACK: &str = "\"127.0.0.1:0\"";

/// A connection from an address of one's own choice.
fn dial_from(source: &str, to: SocketAddr) -> TcpStream {
    let source: IpAddr = source.parse().unwrap();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.connect(&to.into()).expect("accepted, or in the queue");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Whether a client from `source` gets to the backend.
fn is_served(source: &str, to: SocketAddr) -> bool {
    read_line(&mut dial_from(source, to)).is_ok_and(|name| name == "a")
}

#[test]
fn a_listener_has_as_many_clients_as_it_may_and_a_place_is_free_again_after_the_end() {
    let backend = Server::echo("a");
    let daemon = Daemon::start(&config(LOOPBACK, "max_connections = 3", &backend));
    let orders = daemon.listener("orders");
    let mut sessions: Vec<_> = (0..3).map(|_| meet(orders).expect("served").0).collect();
    for refused in 1_u8..=5 {
        ends(&mut dial(orders).expect("accepted"));
        assert_eq!(daemon.rejected("orders", "max_connections"), f64::from(refused));
    }
    for session in &mut sessions {
        echo(session, b"not disturbed").expect("echoed");
    }
    sessions.pop();
    wait_until("there is room for one", DEADLINE, || visit(orders).is_ok());
    drop(sessions);
    daemon.wait_metric("listener_connections_active", &[("listener", "orders")], 0.0);
    let again: Vec<_> = (0..3).map(|_| meet(orders).expect("every place is free")).collect();
    drop(again);
    // Each that was accepted is counted once, and so is each that was turned away.
    let total = daemon.metric("listener_connections_total", &[("listener", "orders")]).unwrap();
    assert!(total >= 12.0, "{total}");
}

#[test]
fn one_client_reaches_its_limit_on_all_threads_together_and_others_are_served() {
    let backend = Server::echo("a");
    let daemon = Daemon::start(&config(LOOPBACK, "max_connections_per_client = 4", &backend));
    let orders = daemon.listener("orders");
    let mut crowd: Vec<TcpStream> = (0..40).map(|_| dial_from("127.1.1.1", orders)).collect();
    let served = crowd.iter_mut().filter_map(|client| read_line(client).ok()).count();
    assert_eq!(served, 4);
    assert_eq!(daemon.rejected("orders", "max_connections_per_client"), 36.0);
    assert!(is_served("127.1.1.2", orders), "another client");
    drop(crowd);
    daemon.wait_metric("listener_connections_active", &[("listener", "orders")], 0.0);
    let mut again: Vec<TcpStream> = (0..4).map(|_| dial_from("127.1.1.1", orders)).collect();
    assert!(again.iter_mut().all(|client| read_line(client).is_ok()), "every place is free again");
}

#[test]
fn one_client_comes_no_faster_than_its_rate_and_others_are_served() {
    let backend = Server::echo("a");
    let daemon = Daemon::start(&config(LOOPBACK, "connection_rate_per_client = \"600/min\"", &backend));
    let orders = daemon.listener("orders");
    let begun = std::time::Instant::now();
    let served = (0..100_u32).filter(|_| is_served("127.1.1.1", orders)).count();
    // A burst of ten, and one more each tenth of a second.
    let most = 11 + begun.elapsed().as_millis() / 100;
    assert!(served >= 10 && served as u128 <= most, "{served} of at most {most}");
    assert_eq!(daemon.rejected("orders", "connection_rate"), 100.0 - f64::from(u32::try_from(served).unwrap()));
    assert!(is_served("127.1.1.2", orders), "another client");
    wait_until("the next one may come", DEADLINE, || is_served("127.1.1.1", orders));
}

#[test]
fn only_who_is_allowed_and_not_denied_is_let_in() {
    let backend = Server::echo("a");
    let limits = "allow = [\"127.1.0.0/16\", \"::1\"]\ndeny = [\"127.1.1.0/24\"]\n";
    let daemon = Daemon::start(&config(LOOPBACK, limits, &backend));
    let orders = daemon.listener("orders");
    for (source, served) in [("127.1.2.1", true), ("127.1.1.1", false), ("127.2.0.1", false), ("127.1.255.255", true)] {
        assert_eq!(is_served(source, orders), served, "{source}");
    }
    assert_eq!(daemon.rejected("orders", "not_allowed"), 2.0);
}

#[test]
fn clients_over_ipv6_go_by_the_same_lists() {
    let backend = Server::echo("a");
    for (limits, served) in
        [("allow = [\"::1\"]", true), ("deny = [\"::/64\"]", false), ("allow = [\"0.0.0.0/0\"]", false)]
    {
        let daemon = Daemon::start(&config("\"[::1]:0\"", limits, &backend));
        assert_eq!(is_served("::1", daemon.listener("orders")), served, "{limits}");
        assert_eq!(daemon.rejected("orders", "not_allowed"), f64::from(u8::from(!served)));
    }
}

#[test]
fn clients_on_a_unix_socket_are_one_client_and_under_no_list() {
    let (backend, dir) = (Server::echo("a"), tempfile::tempdir().unwrap());
    let path = dir.path().join("orders");
    let bind = format!("\"unix:{}\"", path.display());
    let limits = "allow = [\"192.0.2.1\"]\nmax_connections_per_client = 2";
    let daemon = Daemon::start(&config(&bind, limits, &backend));
    let meet = || {
        let mut client = Sock::connect(&format!("unix:{}", path.display())).expect("accepted");
        read_line(&mut client).map(|_| client)
    };
    let first = [meet().expect("served"), meet().expect("served")];
    assert!(meet().is_err());
    assert_eq!(daemon.rejected("orders", "max_connections_per_client"), 1.0);
    assert_eq!(daemon.rejected("orders", "not_allowed"), 0.0);
    drop(first);
    wait_until("there is room", DEADLINE, || meet().is_ok());
    assert!(UnixStream::connect(path).is_ok());
}

#[test]
fn a_reload_changes_limits_and_loses_no_count() {
    let backend = Server::echo("a");
    let daemon = Daemon::start(&config("\"127.0.0.1:0\"", "", &backend));
    let orders = daemon.listener("orders");
    let mut sessions: Vec<_> = (0..3).map(|_| meet(orders).expect("served").0).collect();
    daemon.reload(&config("\"127.0.0.1:0\"", "max_connections = 3\nmax_connections_per_client = 2", &backend)).unwrap();
    assert_eq!(daemon.listener("orders"), orders);
    ends(&mut dial(orders).expect("accepted"));
    assert_eq!(daemon.rejected("orders", "max_connections"), 1.0, "those who were there before count");
    sessions.pop();
    wait_until("there is room for one", DEADLINE, || {
        let met = meet(orders);
        let is_served = met.is_ok();
        sessions.extend(met.map(|(stream, _)| stream));
        is_served
    });
    daemon.reload(&config("\"127.0.0.1:0\"", "max_connections_per_client = 1", &backend)).unwrap();
    ends(&mut dial(orders).expect("accepted"));
    assert_eq!(daemon.rejected("orders", "max_connections_per_client"), 1.0, "it was counted under the last limit");
    daemon.reload(&config("\"127.0.0.1:0\"", "deny = [\"127.0.0.1\"]", &backend)).unwrap();
    ends(&mut dial(orders).expect("accepted"));
    assert_eq!(daemon.rejected("orders", "not_allowed"), 1.0);
    for session in &mut sessions {
        echo(session, b"not disturbed").expect("whoever is in stays");
    }
    daemon.reload(&config("\"127.0.0.1:0\"", "", &backend)).unwrap();
    assert_eq!(visit(orders).expect("served"), "a");
}
