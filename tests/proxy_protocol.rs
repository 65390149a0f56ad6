//! The PROXY protocol, read from clients' proxies and sent to backends, and the address that backends are dialled from.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use support::net::{drain, echo, read_line};
use support::servers::Server;
use support::sock::Sock;
use support::{DEADLINE, Daemon, dial, ends, fresh_addr, wait_until};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A little less than the daemon waits for a header: whatever ends sooner has not been waited for.
const HEADER_TIMEOUT: Duration = Duration::from_millis(4900);

/// A version 2 header.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

/// One for a client over TCP.
fn v2_of(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let octets = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let family = if source.is_ipv4() { 0x11 } else { 0x21 };
    v2(0x21, family, &[octets(source), octets(destination), ports].concat())
}

/// A listener that wants a header, with its own `limits`.
fn accepting(limits: &str, backend: SocketAddr) -> String {
    format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\naccept_proxy_protocol = true\n{limits}\n\
         [pools.orders]\nbackends = [\"{backend}\"]\n"
    )
}

/// One thread, so that whoever comes first is let in first.
const IN_ORDER: &str = "[daemon]\nworkers = 1\n";

/// A client that begins with `header`, and whether it gets to the backend.
fn is_served(orders: SocketAddr, header: &[u8]) -> bool {
    let mut client = dial(orders).expect("accepted");
    client.write_all(header).unwrap();
    read_line(&mut client).is_ok_and(|name| name == "a") && echo(&mut client, b"are you there?").is_ok()
}

/// What a client ends with.
const OVER: &[u8] = b" over";

/// A backend that tells all that came on a connection, up to the client's last word or its end, and answers the former.
fn hears() -> (Server, Receiver<Vec<u8>>) {
    let (heard, told): (Sender<Vec<u8>>, _) = channel();
    let server = Server::start(fresh_addr(), move |_, mut stream| {
        let (mut all, mut byte) = (Vec::new(), [0]);
        while !all.ends_with(OVER) && stream.read(&mut byte)? > 0 {
            all.extend(byte);
        }
        if all.ends_with(OVER) {
            stream.write_all(b"heard")?;
        }
        heard.send(all).map_err(std::io::Error::other)
    });
    (server, told)
}

/// What the next client's connection began with. Probes send no such word.
fn next_client(told: &Receiver<Vec<u8>>) -> Vec<u8> {
    loop {
        let all = told.recv_timeout(DEADLINE).expect("a client");
        if all.ends_with(OVER) {
            return all;
        }
    }
}

/// Says `hi over` and wants the answer.
fn greet(client: &mut (impl Read + Write)) {
    client.write_all(b"hi over").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"heard");
}

/// A pool of these, each sent a header of this version, probed once and when in doubt.
fn sending(version: &str, pool: &str, backends: &[SocketAddr]) -> String {
    let tables = ["a", "b", "c"].iter().zip(backends).enumerate().map(|(tier, (name, addr))| {
        format!(
            "[pools.orders.backends.{name}]\naddress = \"{addr}\"\npriority = {}\nsend_proxy_protocol = \"{version}\"\n",
            tier + 1
        )
    });
    format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders]\n{pool}\n\
         [pools.orders.check]\ninterval = \"1h\"\n{}",
        tables.collect::<String>()
    )
}

#[test]
fn the_announced_client_is_the_one_that_limits_and_lists_are_for() {
    let backend = Server::echo("a");
    let limits = "allow = [\"192.0.2.0/24\", \"2001:db8::/32\"]\nmax_connections_per_client = 1";
    let daemon = Daemon::start(&accepting(limits, backend.addr));
    let orders = daemon.listener("orders");
    let to = "198.51.100.1:80".parse().unwrap();
    assert!(is_served(orders, b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 80\r\n"));
    assert!(is_served(orders, b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 80\r\n"));
    assert!(is_served(orders, &v2_of("192.0.2.8:4000".parse().unwrap(), to)));
    assert!(is_served(orders, &v2_of("[2001:db8::9]:4000".parse().unwrap(), "[2001:db8::2]:80".parse().unwrap())));
    let long = v2(0x21, 0x11, &[&[192, 0, 2, 9, 198, 51, 100, 1, 0, 1, 0, 80][..], &[0; 4000]].concat());
    assert!(is_served(orders, &long), "with much behind the addresses");
    assert!(!is_served(orders, &v2_of("203.0.113.1:4000".parse().unwrap(), to)));
    assert!(!is_served(orders, &v2(0x20, 0, b"")), "the proxy itself is not on the list");
    assert_eq!(daemon.rejected("orders", "not_allowed"), 2.0);
    let mut first = dial(orders).unwrap();
    first.write_all(&v2_of("192.0.2.50:1".parse().unwrap(), to)).unwrap();
    read_line(&mut first).expect("served");
    assert!(!is_served(orders, &v2_of("192.0.2.50:2".parse().unwrap(), to)));
    assert_eq!(daemon.rejected("orders", "max_connections_per_client"), 1.0);
    assert!(is_served(orders, &v2_of("192.0.2.51:3".parse().unwrap(), to)), "another client of the same proxy");
    drop(first);
    wait_until("the place is free again", DEADLINE, || is_served(orders, &v2_of("192.0.2.50:4".parse().unwrap(), to)));
}

#[test]
fn without_an_announced_client_the_peer_is_the_client() {
    let backend = Server::echo("a");
    let daemon = Daemon::start(&accepting("allow = [\"127.0.0.0/8\"]", backend.addr));
    let orders = daemon.listener("orders");
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0, b""), v2(0x21, 0, b"tlv"), v2(0x21, 0x31, &[b'x'; 216])] {
        assert!(is_served(orders, &header), "{header:?}");
    }
}

#[test]
fn a_proxy_on_a_unix_socket_announces_clients_too() {
    let (backend, dir) = (Server::echo("a"), tempfile::tempdir().unwrap());
    let address = format!("unix:{}", dir.path().join("orders").display());
    let config = accepting("allow = [\"192.0.2.0/24\"]\nproxy_protocol_from = [\"192.0.2.1\"]", backend.addr);
    let daemon = Daemon::start(&config.replace("127.0.0.1:0", &address));
    let is_served = |header: &[u8]| {
        let mut client = Sock::connect(&address).expect("accepted");
        client.write_all(header).unwrap();
        read_line(&mut client).is_ok()
    };
    assert!(is_served(b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 80\r\n"));
    assert!(!is_served(b"PROXY TCP4 203.0.113.1 198.51.100.1 4000 80\r\n"));
    assert!(is_served(b"PROXY UNKNOWN\r\n"), "the proxy itself is under no list");
    assert_eq!(daemon.rejected("orders", "not_allowed"), 1.0);
}

#[test]
fn what_follows_the_header_arrives_however_both_are_cut() {
    let (backend, told) = hears();
    let daemon = Daemon::start(&accepting("", backend.addr));
    let orders = daemon.listener("orders");
    let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 80\r\n".to_vec();
    let v2 = v2_of("192.0.2.7:4000".parse().unwrap(), "198.51.100.1:80".parse().unwrap());
    for header in [v1, v2] {
        let mut client = dial(orders).unwrap();
        let whole = [&header[..], b"in one segment over"].concat();
        client.write_all(&whole).unwrap();
        assert_eq!(next_client(&told), b"in one segment over");
        let mut client = dial(orders).unwrap();
        for byte in [&header[..], b"byte for byte over"].concat() {
            client.write_all(&[byte]).unwrap();
        }
        assert_eq!(next_client(&told), b"byte for byte over");
        // The last byte of the header and what follows it together, once what came before has been looked at.
        let mut client = dial(orders).unwrap();
        let (start, end) = header.split_at(header.len() - 1);
        client.write_all(start).unwrap();
        wait_until("it was read, or lies there", DEADLINE, || daemon.admin_get("/healthz").status == 200);
        client.write_all(&[end, b"cut over"].concat()).unwrap();
        assert_eq!(next_client(&told), b"cut over");
    }
}

#[test]
fn what_is_no_header_is_refused_at_once_and_counted() {
    let backend = Server::echo("a");
    let daemon = Daemon::start(&accepting("", backend.addr));
    let orders = daemon.listener("orders");
    let wrong = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4000\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 ::1 4000 80\r\n".to_vec(),
        [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(),
        v2(0x11, 0x11, &[0; 12]),
        v2(0x21, 0x12, &[0; 12]),
        v2(0x21, 0x11, &[0; 11]),
        v2(0x20, 0x00, &[0; 4081]),
    ];
    for (count, bytes) in (1_u8..).zip(&wrong) {
        let mut client = dial(orders).unwrap();
        let begun = Instant::now();
        client.write_all(bytes).unwrap();
        ends(&mut client);
        assert!(begun.elapsed() < HEADER_TIMEOUT, "it waits for more: {bytes:?}");
        assert_eq!(daemon.rejected("orders", "proxy_protocol"), f64::from(count), "{bytes:?}");
    }
    // The end within a header is no good either; a connection without one byte is a check, and no fault of a proxy's.
    let mut client = dial(orders).unwrap();
    client.write_all(b"PROXY TCP4").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    ends(&mut client);
    assert_eq!(daemon.rejected("orders", "proxy_protocol"), 9.0);
    drop(dial(orders).unwrap());
    wait_until("it is counted", DEADLINE, || daemon.rejected("orders", "client_left") == 1.0);
    assert_eq!(daemon.rejected("orders", "proxy_protocol"), 9.0);
    assert_eq!(daemon.metric("backend_connections_total", &[("pool", "orders")]), Some(0.0));
}

#[test]
fn a_header_that_does_not_come_is_waited_for_five_seconds_and_holds_a_place() {
    let backend = Server::echo("a");
    let daemon = Daemon::start(&format!("{IN_ORDER}{}", accepting("max_connections = 2", backend.addr)));
    let orders = daemon.listener("orders");
    let begun = Instant::now();
    let (mut silent, mut slow) = (dial(orders).unwrap(), dial(orders).unwrap());
    slow.write_all(b"PROXY ").unwrap();
    ends(&mut dial(orders).unwrap());
    assert_eq!(daemon.rejected("orders", "max_connections"), 1.0);
    for client in [&mut silent, &mut slow] {
        ends(client);
        assert!(begun.elapsed() >= HEADER_TIMEOUT, "{:?}", begun.elapsed());
    }
    assert_eq!(daemon.rejected("orders", "proxy_protocol"), 2.0);
    assert!(is_served(orders, b"PROXY UNKNOWN\r\n"), "the places are free again");
}

#[test]
fn a_header_is_believed_only_from_the_proxies() {
    let backend = Server::echo("a");
    let from = |who: &str| accepting(&format!("proxy_protocol_from = [\"{who}\"]"), backend.addr);
    let daemon = Daemon::start(&from("192.0.2.1"));
    let orders = daemon.listener("orders");
    assert!(!is_served(orders, b"PROXY UNKNOWN\r\n"));
    assert_eq!(daemon.rejected("orders", "proxy_protocol"), 1.0);
    daemon.reload(&from("127.0.0.0/8")).unwrap();
    assert!(is_served(orders, b"PROXY UNKNOWN\r\n"));
}

#[test]
fn a_backend_is_told_who_the_client_is_before_its_first_byte() {
    for version in ["v1", "v2"] {
        let (backend, told) = hears();
        let daemon = Daemon::start(&sending(version, "", &[backend.addr]));
        // A probe comes as the proxy's own connection.
        let own = if version == "v1" { b"PROXY UNKNOWN\r\n".to_vec() } else { v2(0x20, 0, b"") };
        assert_eq!(told.recv_timeout(DEADLINE).unwrap(), own);
        let orders = daemon.listener("orders");
        let mut client = dial(orders).unwrap();
        greet(&mut client);
        let (source, destination) = (client.local_addr().unwrap(), orders);
        let header = if version == "v1" {
            format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", source.port(), destination.port()).into_bytes()
        } else {
            v2_of(source, destination)
        };
        assert_eq!(next_client(&told), [&header[..], b"hi over"].concat());
        drop(client);
        daemon.wait_closed("orders", "completed", 1);
        let sent = [("backend", "a"), ("direction", "client_to_backend")];
        assert_eq!(daemon.metric("backend_bytes_total", &sent), Some(7.0), "the header is none of the client's bytes");
    }
}

#[test]
fn a_client_on_a_unix_socket_is_announced_without_an_address() {
    for (version, header) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", v2(0x21, 0, b""))] {
        let ((backend, told), dir) = (hears(), tempfile::tempdir().unwrap());
        let address = format!("unix:{}", dir.path().join("orders").display());
        let daemon = Daemon::start(&sending(version, "", &[backend.addr]).replace("127.0.0.1:0", &address));
        greet(&mut Sock::connect(&daemon.listener_text("orders")).unwrap());
        assert_eq!(next_client(&told), [&header[..], b"hi over"].concat());
    }
}

#[test]
fn the_first_proxy_of_a_chain_announces_the_client_to_the_last_backend() {
    let (backend, told) = hears();
    let last = Daemon::start(
        &sending("v1", "", &[backend.addr])
            .replace("pool = \"orders\"", "pool = \"orders\"\naccept_proxy_protocol = true"),
    );
    let first = Daemon::start(&sending("v2", "", &[last.listener("orders")]));
    let orders = first.listener("orders");
    let mut client = dial(orders).unwrap();
    greet(&mut client);
    let from = client.local_addr().unwrap();
    let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhi over", from.port(), orders.port());
    assert_eq!(String::from_utf8(next_client(&told)).unwrap(), line);
    assert_eq!(last.rejected("orders", "proxy_protocol"), 0.0, "the first one's probes have a header too");
}

#[test]
fn each_backend_that_is_tried_is_told_and_the_header_is_no_order() {
    // One closes once it has read the header, one resets with it unread.
    let a = Server::start(fresh_addr(), |_, mut stream| stream.read_exact(&mut [0; 28]));
    let b = Server::start(fresh_addr(), |_, stream| {
        if stream.peek(&mut [0])? > 0 {
            support::net::reset(stream);
        }
        Ok(())
    });
    let (c, told) = hears();
    let daemon = Daemon::start(&sending("v2", "", &[a.addr, b.addr, c.addr]));
    let orders = daemon.listener("orders");
    for _ in 0..10 {
        let mut client = dial(orders).unwrap();
        wait_until("the third backend has the client", DEADLINE, || {
            daemon.metric("backend_connections_active", &[("backend", "c")]) == Some(1.0)
        });
        greet(&mut client);
        let header = v2_of(client.local_addr().unwrap(), orders);
        assert_eq!(next_client(&told), [&header[..], b"hi over"].concat());
        assert_eq!(drain(&mut client).0, b"");
        drop(client);
        daemon.wait_metric("listener_connections_active", &[("listener", "orders")], 0.0);
    }
    let unanswered = daemon.metric("backend_connect_failures_total", &[("reason", "unanswered")]);
    assert_eq!(unanswered, Some(20.0));
}

/// What PostgreSQL's clients send first.
const STARTUP: &[u8] = b"\0\0\0\x11\0\x03\0\0user\0app\0";

#[test]
fn behind_the_header_a_greeting_is_sent_again_and_an_order_is_not() {
    for (says, is_repeated) in [(STARTUP, true), (b"order #1 and some".as_slice(), false)] {
        let a = Server::start(fresh_addr(), |_, mut stream| stream.read_exact(&mut [0; 28 + STARTUP.len()]));
        let (b, told) = hears();
        let daemon = Daemon::start(&sending("v2", "", &[a.addr, b.addr]));
        let orders = daemon.listener("orders");
        let mut client = dial(orders).unwrap();
        client.write_all(says).unwrap();
        if is_repeated {
            wait_until("the second backend has it", DEADLINE, || {
                daemon.metric("backend_bytes_total", &[("backend", "b")]) == Some(17.0)
            });
            client.write_all(OVER).unwrap();
            let header = v2_of(client.local_addr().unwrap(), orders);
            assert_eq!(next_client(&told), [&header[..], says, OVER].concat());
        } else {
            ends(&mut client);
            drop(client);
            daemon.wait_closed("orders", "completed", 1);
            assert_eq!(daemon.metric("backend_connections_total", &[("backend", "b")]), Some(0.0));
        }
    }
}

#[test]
fn a_second_signal_does_not_wait_for_a_header() {
    let backend = Server::echo("a");
    // A machine with other things to do may take as long as the header may: another round is then the one that tells.
    let ends_early = || {
        let mut daemon = Daemon::start(&format!("{IN_ORDER}{}", accepting("max_connections = 1", backend.addr)));
        let orders = daemon.listener("orders");
        let begun = Instant::now();
        let mut silent = dial(orders).unwrap();
        ends(&mut dial(orders).unwrap());
        daemon.signal(rustix::process::Signal::TERM);
        wait_until("it drains", DEADLINE, || daemon.admin_get("/readyz").status == 503);
        daemon.signal(rustix::process::Signal::TERM);
        ends(&mut silent);
        let is_early = begun.elapsed() < HEADER_TIMEOUT;
        assert!(daemon.wait_exit().success());
        is_early
    };
    assert!((0..5).any(|_| ends_early()), "it waits for the header each time");
}

#[test]
fn an_http_check_of_a_backend_that_wants_a_header_sends_one() {
    let (heads, told): (Sender<Vec<u8>>, _) = channel();
    let backend = Server::start(fresh_addr(), move |_, mut stream| {
        let (mut all, mut byte) = (Vec::new(), [0]);
        while !all.ends_with(b"\r\n\r\n") || all.len() < 28 {
            stream.read_exact(&mut byte)?;
            all.extend(byte);
        }
        heads.send(all).map_err(std::io::Error::other)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    });
    let check = "[pools.orders.check]\nkind = \"http\"\n";
    let config = sending("v2", "", &[backend.addr]).replace("[pools.orders.check]\n", check);
    let daemon = Daemon::start(&config);
    daemon.wait_health("orders", "a", "healthy");
    let all = told.recv_timeout(DEADLINE).unwrap();
    let own = v2(0x20, 0, b"");
    assert!(all.starts_with(&own) && all[own.len()..].starts_with(b"HEAD /health HTTP/1.1\r\n"), "{all:?}");
}

#[test]
fn backends_are_dialled_and_probed_from_the_source_address() {
    let (peers, told): (Sender<IpAddr>, _) = channel();
    let backend = Server::start(fresh_addr(), move |_, mut stream: TcpStream| {
        peers.send(stream.peer_addr()?.ip()).map_err(std::io::Error::other)?;
        stream.write_all(b"a\n")
    });
    let daemon = Daemon::start(&sending("none", "source_address = \"127.9.8.7\"", &[backend.addr]));
    let expected: IpAddr = "127.9.8.7".parse().unwrap();
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), expected, "a probe");
    assert_eq!(read_line(&mut dial(daemon.listener("orders")).unwrap()).unwrap(), "a");
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), expected, "a client");
    // One that is not this machine's is our own fault, and says nothing of the backend.
    daemon.reload(&sending("none", "source_address = \"192.0.2.1\"\nwhen_down = \"refuse\"", &[backend.addr])).unwrap();
    ends(&mut dial(daemon.listener("orders")).unwrap());
    assert!(daemon.metric("backend_connect_failures_total", &[("reason", "source_address")]).unwrap() >= 1.0);
    assert_eq!(daemon.backend("orders", "a")["health"], "healthy");
}

#[test]
fn a_source_address_that_the_host_does_not_have_is_told_once_and_named_by_the_status() {
    let (a, b) = (Server::echo("a"), Server::echo("b"));
    let of = |source: &str| {
        let more = format!("source_address = \"{source}\"");
        sending("none", &more, &[a.addr, b.addr]).replace("interval = \"1h\"", "interval = \"20ms\"")
    };
    let daemon = Daemon::spawn(&of("192.0.2.1"));
    for backend in ["a", "b"] {
        let labels = [("backend", backend), ("result", "inconclusive")];
        wait_until("it is probed", DEADLINE, || {
            daemon.metric("check_total", &labels).is_some_and(|checks| checks > 3.0)
        });
        let reason = daemon.backend("orders", backend)["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("no verdict yet: ") && reason.contains("source_address"), "{reason}");
        assert!(reason.contains("192.0.2.1"), "{reason}");
    }
    let told = daemon.wait_logged("this host has no address 192.0.2.1", |told| !told.is_empty());
    assert!(told.len() == 1 && told[0]["message"].as_str().unwrap().contains("change source_address"), "{told:?}");
    assert_eq!(daemon.notified("READY=1"), 0);
    daemon.reload(&of("127.9.8.7")).unwrap();
    wait_until("it is ready", DEADLINE, || daemon.notified("READY=1") == 1);
}
