//! Backends behind tunnels, dialled through the near ends of their ways: listening ports, and proxies that the tests play.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use changeover::dial::Ways;
use changeover::model::{Address, Approach, Attach, BackendName, DialError, PoolName, Via};
use changeover::sys::{Stream, dial_error};
use support::hall::{Hall, way};
use support::servers::Server;
use support::{DEADLINE, fresh_addr, in_time};

const GRANTED: &[u8] = b"\x05\0\0\x01\0\0\0\0\0\0";

fn via(attach: Attach, target: &str) -> Arc<Via> {
    let (pool, backend) = (PoolName::from("orders"), BackendName::from("pg1"));
    Arc::new(Via { pool, backend, attach, target: target.parse().unwrap() })
}

fn through(via: &Arc<Via>) -> Approach {
    Approach { via: Some(Arc::clone(via)), ..Approach::PLAIN }
}

fn at(addr: SocketAddr) -> Address {
    Address::Ip(addr)
}

/// Dials the way of `via`, which is open at `near`.
async fn dial(via: &Arc<Via>, near: SocketAddr) -> io::Result<Stream> {
    let ways = Ways::default();
    ways.open(via, at(near));
    in_time("the dial is over", ways.dial(&via.target, DEADLINE, &through(via))).await
}

#[track_caller]
fn graded(dialled: io::Result<Stream>) -> (DialError, String) {
    let error = dialled.unwrap_err();
    (dial_error(&error), error.to_string())
}

/// All that comes over `stream` until its end.
async fn heard(stream: &Stream) -> String {
    let mut heard = Vec::new();
    let listen = async {
        let mut buffer = [0; 512];
        loop {
            std::future::poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
            match stream.try_recv(&mut buffer) {
                Ok(0) => return,
                Ok(length) => heard.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    in_time("the other side has ended", listen).await;
    String::from_utf8(heard).unwrap()
}

/// Reads exactly `wanted`.
fn expect(stream: &mut TcpStream, wanted: &[u8]) -> io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut said = vec![0; wanted.len()];
    stream.read_exact(&mut said)?;
    if said == wanted { Ok(()) } else { Err(io::Error::other(format!("{said:?} is not {wanted:?}"))) }
}

/// A SOCKS5 proxy that is to be asked `request`, answers `answer` a byte at a time, and sends `rest` with the last.
fn socks(request: &'static [u8], answer: &'static [u8], rest: &'static [u8]) -> Server {
    Server::start(fresh_addr(), move |_, mut stream| {
        stream.set_nodelay(true)?;
        expect(&mut stream, &[5, 1, 0])?;
        for byte in [5, 0] {
            stream.write_all(&[byte])?;
        }
        expect(&mut stream, request)?;
        let (last, first) = answer.split_last().unwrap();
        for byte in first {
            stream.write_all(&[*byte])?;
        }
        stream.write_all(&[&[*last], rest].concat())?;
        stream.shutdown(Shutdown::Write)?;
        io::copy(&mut stream, &mut io::sink()).map(drop)
    })
}

/// An HTTP proxy that answers `answer` in pieces of `piece` bytes, and keeps the head that it was asked with.
fn http(answer: &'static [u8], piece: usize) -> (Server, Arc<Mutex<String>>) {
    let asked = Arc::<Mutex<String>>::default();
    let kept = Arc::clone(&asked);
    let server = Server::start(fresh_addr(), move |_, mut stream| {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        *kept.lock().unwrap() = String::from_utf8(head).unwrap();
        for piece in answer.chunks(piece) {
            stream.write_all(piece)?;
        }
        stream.shutdown(Shutdown::Write)?;
        io::copy(&mut stream, &mut io::sink()).map(drop)
    });
    (server, asked)
}

#[tokio::test]
async fn a_way_that_listens_is_dialled_where_it_stands_now() {
    let (old, new) = (Server::echo("old"), Server::echo("new"));
    let (ways, via) = (Ways::default(), via(Attach::Listen, "db.internal:5432"));
    let shared = ways.clone();
    for (server, name) in [(old, "old\n"), (new, "new\n")] {
        shared.open(&via, at(server.addr));
        let stream = ways.dial(&via.target, DEADLINE, &through(&via)).await.unwrap();
        stream.end_writing().unwrap();
        assert_eq!(heard(&stream).await, name);
    }
}

#[tokio::test]
async fn a_way_that_is_shut_leads_nowhere_and_others_are_left_alone() {
    let server = Server::echo("there");
    let ways = Ways::default();
    let (mine, other) =
        (via(Attach::Listen, "db:1"), Via { backend: "pg2".into(), ..(*via(Attach::Listen, "db:1")).clone() });
    let dial = || async { ways.dial(&mine.target, DEADLINE, &through(&mine)).await };
    let down = (DialError::TunnelDown, "its tunnel is down".to_owned());
    assert_eq!(graded(dial().await), down, "it was never open");
    ways.open(&mine, at(server.addr));
    ways.shut(&other);
    assert!(dial().await.is_ok());
    ways.shut(&mine);
    assert_eq!(graded(dial().await), down);
}

#[tokio::test]
async fn where_we_listen_ourselves_nobody_is_led_because_others_say_so() {
    let (ours, other) = (Server::echo("ours"), Server::echo("other"));
    let (ways, via) = (Ways::default(), via(Attach::Address, "db:1"));
    let dial = || async { in_time("the dial is over", ways.dial(&via.target, DEADLINE, &through(&via))).await };
    ways.keep_from(vec![at(ours.addr)]);
    ways.open_found(&via, at(ours.addr));
    let refused = format!("its tunnel is down: it leads to {}, where we listen ourselves", ours.addr);
    assert_eq!(graded(dial().await), (DialError::TunnelDown, refused));
    ways.open(&via, at(ours.addr));
    assert!(dial().await.is_ok(), "it is written down: another pool may be meant");
    ways.open_found(&via, at(other.addr));
    assert!(dial().await.is_ok());
    ways.open_found(&via, at(ours.addr));
    ways.keep_from(vec![at(other.addr)]);
    assert!(dial().await.is_ok(), "it is not ours any more");
}

#[tokio::test]
async fn nobody_at_the_near_end_is_the_tunnels_fault_and_at_an_address_the_backends() {
    let nobody = fresh_addr();
    for attach in [Attach::Listen, Attach::Socks5, Attach::HttpConnect] {
        let (grade, detail) = graded(dial(&via(attach, "db.internal:5432"), nobody).await);
        assert_eq!(grade, DialError::TunnelDown, "{attach}: {detail}");
        assert!(
            detail.starts_with("its tunnel is down: its tunnel's p") && detail.contains(&nobody.to_string()),
            "{detail}"
        );
    }
    assert_eq!(graded(dial(&via(Attach::Address, "db:1"), nobody).await).0, DialError::Refused);
    let server = Server::echo("there");
    assert!(dial(&via(Attach::Address, "db:1"), server.addr).await.is_ok());
}

#[tokio::test]
async fn a_socks5_proxy_is_asked_for_the_target_and_what_comes_behind_its_answer_is_the_targets() {
    const NAME: &[u8] = b"\x05\x01\0\x03\x0bdb.internal\x15\x38";
    const IPV4: &[u8] = b"\x05\x01\0\x01\x0a\x01\x02\x03\x15\x38";
    const IPV6: &[u8] = b"\x05\x01\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x15\x38";
    for (target, request, answer) in [
        ("db.internal:5432", NAME, GRANTED),
        ("10.1.2.3:5432", IPV4, b"\x05\0\0\x03\x02pg\x15\x38".as_slice()),
        ("[::1]:5432", IPV6, b"\x05\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x15\x38"),
    ] {
        let proxy = socks(request, answer, b"the target's banner");
        let stream = dial(&via(Attach::Socks5, target), proxy.addr).await.unwrap();
        assert_eq!(heard(&stream).await, "the target's banner", "{target}");
    }
}

#[tokio::test]
async fn what_a_socks5_proxy_answers_says_who_is_at_fault() {
    use DialError::{ProxyRefused, TargetRefused, TargetUnreachable};
    const ASKED: &[u8] = b"\x05\x01\0\x03\x02db\0\x01";
    const NO: [&[u8]; 9] = [
        b"\x05\x01\0\x01\0\0\0\0\0\0",
        b"\x05\x02\0\x01\0\0\0\0\0\0",
        b"\x05\x03\0\x01\0\0\0\0\0\0",
        b"\x05\x04\0\x01\0\0\0\0\0\0",
        b"\x05\x05\0\x01\0\0\0\0\0\0",
        b"\x05\x06\0\x01\0\0\0\0\0\0",
        b"\x05\x07\0\x01\0\0\0\0\0\0",
        b"\x05\x08\0\x01\0\0\0\0\0\0",
        b"\x05\x09\0\x01\0\0\0\0\0\0",
    ];
    let grades = [
        ProxyRefused,
        ProxyRefused,
        TargetUnreachable,
        TargetUnreachable,
        TargetRefused,
        TargetUnreachable,
        ProxyRefused,
        ProxyRefused,
        ProxyRefused,
    ];
    let words = ["general", "rules", "network", "host", "refused", "TTL", "command", "kind of", "reply 9"];
    for ((answer, wanted), word) in NO.into_iter().zip(grades).zip(words) {
        let proxy = socks(ASKED, answer, b"");
        let (grade, detail) = graded(dial(&via(Attach::Socks5, "db:1"), proxy.addr).await);
        assert_eq!(grade, wanted, "{detail}");
        assert!(detail.starts_with("the SOCKS5 proxy, of db:1: ") && detail.contains(word), "{detail}");
    }
    for (said, word) in [
        (b"\x05\xff".as_slice(), "wants authentication"),
        (b"SSH-2.0-x\r\n", "began with byte 83"),
        (b"\x05", "it ended"),
        (b"", "it ended"),
    ] {
        let proxy = Server::start(fresh_addr(), move |_, mut stream| {
            expect(&mut stream, &[5, 1, 0])?;
            stream.write_all(said)
        });
        let (grade, detail) = graded(dial(&via(Attach::Socks5, "db:1"), proxy.addr).await);
        assert_eq!(grade, ProxyRefused, "{said:?}: {detail}");
        assert!(detail.contains(word), "{detail}");
    }
    let (grade, detail) = graded(dial(&via(Attach::Socks5, "unix:/run/db"), socks(b"", b"x", b"").addr).await);
    assert_eq!((grade, detail.as_str()), (ProxyRefused, "the SOCKS5 proxy cannot be asked for unix:/run/db"));
}

#[tokio::test]
async fn an_http_proxy_is_asked_for_the_target_and_what_comes_behind_its_answer_is_the_targets() {
    const ANSWER: &[u8] = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 x\r\n\r\nthe target's banner";
    for (target, piece) in [("db.internal:5432", 1), ("10.1.2.3:5432", 7), ("[::1]:5432", 1000)] {
        let (proxy, asked) = http(ANSWER, piece);
        let stream = dial(&via(Attach::HttpConnect, target), proxy.addr).await.unwrap();
        assert_eq!(heard(&stream).await, "the target's banner", "{target}");
        assert_eq!(*asked.lock().unwrap(), format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    }
}

#[tokio::test]
async fn what_an_http_proxy_answers_says_who_is_at_fault() {
    use DialError::{ProxyRefused, TargetUnreachable};
    const ENDLESS: &[u8] = &{
        let mut head = [b'x'; 9000];
        let begin = b"HTTP/1.1 200 OK\r\n";
        let mut at = 0;
        while at < begin.len() {
            head[at] = begin[at];
            at += 1;
        }
        head
    };
    for (answer, wanted, words) in [
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n".as_slice(), TargetUnreachable, "of db:1: 502 Bad Gateway"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", TargetUnreachable, "503 Busy"),
        (b"HTTP/1.1 504\r\n\r\n", TargetUnreachable, "504"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", ProxyRefused, "407 Proxy Auth"),
        (b"HTTP/1.1 500 Oh\r\n\r\n", ProxyRefused, "500 Oh"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", ProxyRefused, "100 Continue"),
        (b"HTTP/1.1 200 \x1b[2J\r\n\r\n", ProxyRefused, "cannot be printed"),
        (b"SSH-2.0-x\r\n", ProxyRefused, "does not begin"),
        (b"HTTP/1.1 200 OK\r\n", ProxyRefused, "it ended"),
        (ENDLESS, ProxyRefused, "longer than 8192 bytes"),
    ] {
        let (proxy, _) = http(answer, 4096);
        let (grade, detail) = graded(dial(&via(Attach::HttpConnect, "db:1"), proxy.addr).await);
        assert_eq!(grade, wanted, "{detail}");
        assert!(detail.starts_with("the HTTP proxy") && detail.contains(words), "{detail}");
    }
}

#[tokio::test]
async fn all_of_a_dial_has_one_limit() {
    const LIMIT: Duration = Duration::from_millis(150);
    for attach in [Attach::Socks5, Attach::HttpConnect] {
        // Goes on saying a little, so that no single wait is long.
        let proxy = Server::start(fresh_addr(), move |_, mut stream| {
            stream.write_all(if attach == Attach::Socks5 { b"\x05\0\x05" } else { b"HTTP/1.1 200" })?;
            io::copy(&mut stream, &mut io::sink()).map(drop)
        });
        let (ways, via) = (Ways::default(), via(attach, "db:1"));
        ways.open(&via, at(proxy.addr));
        let (grade, detail) = graded(in_time("it gives up", ways.dial(&via.target, LIMIT, &through(&via))).await);
        assert_eq!((grade, detail.as_str()), (DialError::TimedOut, "no answer through its tunnel within 150ms"));
    }
}

#[test]
fn a_client_goes_to_the_next_backend_when_the_way_to_the_first_is_shut_and_back_through_it_when_it_is_open() {
    let (ways, vias) = (Ways::default(), [way("pg1", Attach::Socks5), way("pg2", Attach::Listen)]);
    let proxy = socks(b"\x05\x01\0\x03\x0cpg1.internal\x15\x38", GRANTED, b"through the proxy\n");
    let other = Server::echo("through the port");
    ways.open(&vias[1], at(other.addr));
    let hall = Hall::start("", &vias, ways.clone());
    let greeted = || support::net::read_line(&mut support::dial(hall.front).unwrap()).unwrap();
    assert_eq!(greeted(), "through the port");
    ways.open(&vias[0], at(proxy.addr));
    assert_eq!(greeted(), "through the proxy");
    ways.shut(&vias[0]);
    assert_eq!(greeted(), "through the port");
}
