//! Bytes through the daemon, over every transport: what one side does, the other sees.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{Read, Write};
use std::thread;

use sha2::{Digest, Sha256};
use support::net::{End, drain, ends};
use support::sock::{Listening, Sock};
use support::{Daemon, fresh_ip};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A way for bytes to come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    UnixToTcp,
    TcpToUnix,
    Unix,
    Ipv6,
}

impl Transport {
    /// Whether a reset can travel all the way: only TCP has one.
    fn has_resets(self) -> bool {
        matches!(self, Self::Tcp | Self::Ipv6)
    }
}

/// A daemon in front of a backend that this test plays itself.
struct Rig {
    daemon: Daemon,
    backend: Listening,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// None where the machine does not have the transport.
    fn new(transport: Transport, settings: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let unix = |name: &str| format!("unix:{}", dir.path().join(name).display());
        let bind = match transport {
            Transport::Tcp | Transport::TcpToUnix => "127.0.0.1:0".to_owned(),
            Transport::UnixToTcp | Transport::Unix => unix("front"),
            Transport::Ipv6 => {
                if let Err(e) = std::net::TcpListener::bind("[::1]:0") {
                    println!("not tested over IPv6, as this machine has no ::1: {e}");
                    return None;
                }
                "[::1]:0".to_owned()
            }
        };
        let backend = match transport {
            Transport::Tcp | Transport::UnixToTcp => Listening::bind(&format!("{}:0", fresh_ip())),
            Transport::Ipv6 => Listening::bind("[::1]:0"),
            Transport::TcpToUnix | Transport::Unix => Listening::bind(&unix("back")),
        };
        // One probe, which is over when the daemon is ready: every later connection is a session.
        let daemon = Daemon::start(&format!(
            "[listeners.orders]\nbind = \"{bind}\"\npool = \"orders\"\n{settings}\n\
             [pools.orders.check]\ninterval = \"1h\"\n[pools.orders.backends.a]\naddress = \"{}\"\n",
            backend.address()
        ));
        backend.forget();
        Some(Self { daemon, backend, _dir: dir })
    }

    /// A session: the client's end and the backend's.
    #[track_caller]
    fn session(&self) -> (Sock, Sock) {
        let client = Sock::connect(&self.daemon.listener_text("orders")).expect("accepted");
        (client, self.backend.accept())
    }
}

/// Bytes without a pattern that a relay could repeat or swap unnoticed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Sends `bytes` and ends the direction, in a thread of its own.
fn send(sock: &Sock, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    let mut sock = sock.another();
    thread::spawn(move || {
        sock.write_all(&bytes).expect("sent");
        sock.finish();
    })
}

/// Reads to the end, in a thread of its own, and returns the digest.
fn receive(sock: &Sock) -> thread::JoinHandle<[u8; 32]> {
    let mut sock = sock.another();
    thread::spawn(move || {
        let (bytes, end) = drain(&mut sock);
        assert_eq!(end, End::Closed);
        digest(&bytes)
    })
}

fn one_side_may_end_first(rig: &Rig, client_ends: bool) {
    let (client, backend) = rig.session();
    let (mut first, mut last) = if client_ends { (client, backend) } else { (backend, client) };
    let answer = noise(MIB, 1);
    first.write_all(b"that is all").expect("sent");
    first.finish();
    let (question, end) = drain(&mut last);
    assert_eq!((question.as_slice(), end), (b"that is all".as_slice(), End::Closed));
    let sent = send(&last, answer.clone());
    let (got, end) = drain(&mut first);
    assert_eq!(end, End::Closed);
    assert_eq!(digest(&got), digest(&answer), "{} of {} bytes came", got.len(), answer.len());
    sent.join().unwrap();
    rig.daemon.wait_closed("orders", "completed", 1);
}

fn a_client_that_ends_first_gets_the_whole_answer(rig: &Rig, _: Transport) {
    one_side_may_end_first(rig, true);
}

fn a_backend_that_ends_first_gets_the_whole_request(rig: &Rig, _: Transport) {
    one_side_may_end_first(rig, false);
}

fn a_backend_that_speaks_first_is_heard(rig: &Rig, _: Transport) {
    let (mut client, mut backend) = rig.session();
    backend.write_all(b"220 welcome\r\n").expect("sent");
    let mut banner = [0; 13];
    client.read_exact(&mut banner).expect("received");
    assert_eq!(&banner, b"220 welcome\r\n");
    drop(client);
    ends(&mut backend);
}

fn much_goes_both_ways_at_once(rig: &Rig, transport: Transport) {
    let length = if transport == Transport::Tcp { 64 * MIB } else { 8 * MIB };
    let (client, backend) = rig.session();
    let (up, down) = (noise(length, 2), noise(length, 3));
    let due = (digest(&up), digest(&down));
    let sent = [send(&client, up), send(&backend, down)];
    let (got_up, got_down) = (receive(&backend), receive(&client));
    assert_eq!((got_up.join().unwrap(), got_down.join().unwrap()), due);
    sent.into_iter().for_each(|sent| sent.join().unwrap());
    rig.daemon.wait_closed("orders", "completed", 1);
    for (direction, name) in [("client_to_backend", "up"), ("backend_to_client", "down")] {
        let counted = rig.daemon.metric("backend_bytes_total", &[("backend", "a"), ("direction", direction)]);
        let length = u32::try_from(length).unwrap();
        assert_eq!(counted, Some(f64::from(length)), "bytes counted on the way {name}");
    }
}

fn many_small_messages_keep_their_order(rig: &Rig, _: Transport) {
    let (mut client, mut backend) = rig.session();
    let answering = thread::spawn(move || {
        let mut number = [0; 4];
        while backend.read_exact(&mut number).is_ok() {
            let next = u32::from_be_bytes(number) + 1;
            backend.write_all(&next.to_be_bytes()).expect("sent");
        }
    });
    for number in 0..2000_u32 {
        client.write_all(&number.to_be_bytes()).expect("sent");
        let mut answer = [0; 4];
        client.read_exact(&mut answer).expect("answered");
        assert_eq!(u32::from_be_bytes(answer), number + 1);
    }
    client.finish();
    ends(&mut client);
    answering.join().unwrap();
}

fn reset_travels(rig: &Rig, client_resets: bool) {
    let (mut client, mut backend) = rig.session();
    // A reset before the daemon has seen its dial succeed is a dial that failed: be sure that it has.
    client.write_all(b"!").expect("sent");
    backend.read_exact(&mut [0; 1]).expect("relayed");
    let (mut first, mut last) = if client_resets { (client, backend) } else { (backend, client) };
    let words = noise(16 * KIB, 4);
    first.write_all(&words).expect("sent");
    first.reset();
    let (got, end) = drain(&mut last);
    assert_eq!(end, End::Reset, "after {} bytes", got.len());
    assert!(got == words, "{} of {} bytes came before the reset", got.len(), words.len());
    let reason = if client_resets { "client_reset" } else { "backend_reset" };
    rig.daemon.wait_closed("orders", reason, 1);
}

fn a_reset_by_the_client_reaches_the_backend_after_the_bytes(rig: &Rig, transport: Transport) {
    if transport.has_resets() {
        reset_travels(rig, true);
    } else {
        a_client_that_vanishes_is_not_kept(rig);
    }
}

fn a_reset_by_the_backend_reaches_the_client_after_the_bytes(rig: &Rig, transport: Transport) {
    if transport.has_resets() {
        reset_travels(rig, false);
    } else {
        a_backend_that_vanishes_is_not_kept(rig);
    }
}

/// What is left of a reset where one side has none: the session ends on both sides.
fn a_client_that_vanishes_is_not_kept(rig: &Rig) {
    let (client, mut backend) = rig.session();
    drop(client);
    ends(&mut backend);
    drop(backend);
    rig.daemon.wait_metric("listener_connections_active", &[("listener", "orders")], 0.0);
}

/// The same from the other side.
fn a_backend_that_vanishes_is_not_kept(rig: &Rig) {
    let (mut client, backend) = rig.session();
    drop(backend);
    ends(&mut client);
    drop(client);
    rig.daemon.wait_metric("listener_connections_active", &[("listener", "orders")], 0.0);
}

fn an_idle_session_is_closed(rig: &Rig, _: Transport) {
    let (mut client, mut backend) = rig.session();
    client.write_all(b"hello").expect("sent");
    let mut hello = [0; 5];
    backend.read_exact(&mut hello).expect("received");
    ends(&mut client);
    ends(&mut backend);
    rig.daemon.wait_closed("orders", "idle_timeout", 1);
}

fn a_half_closed_session_does_not_stay_for_ever(rig: &Rig, _: Transport) {
    let (mut client, mut backend) = rig.session();
    client.finish();
    assert_eq!(ends(&mut backend), End::Closed, "the half-close comes through");
    ends(&mut client);
    rig.daemon.wait_closed("orders", "half_close_timeout", 1);
}

/// One test for each rule and transport.
macro_rules! rules {
    ($($settings:literal: $($rule:ident),+;)+) => {
        rules!(@transport tcp Tcp $($($rule $settings)+)+);
        rules!(@transport unix_to_tcp UnixToTcp $($($rule $settings)+)+);
        rules!(@transport tcp_to_unix TcpToUnix $($($rule $settings)+)+);
        rules!(@transport unix Unix $($($rule $settings)+)+);
        rules!(@transport ipv6 Ipv6 $($($rule $settings)+)+);
    };
    (@transport $module:ident $transport:ident $($rule:ident $settings:literal)+) => {
        mod $module {
            use super::{Rig, Transport};
            $(
                #[test]
                fn $rule() {
                    if let Some(rig) = Rig::new(Transport::$transport, $settings) {
                        super::$rule(&rig, Transport::$transport);
                    }
                }
            )+
        }
    };
}

rules! {
    "":
        a_client_that_ends_first_gets_the_whole_answer,
        a_backend_that_ends_first_gets_the_whole_request,
        a_backend_that_speaks_first_is_heard,
        much_goes_both_ways_at_once,
        many_small_messages_keep_their_order,
        a_reset_by_the_client_reaches_the_backend_after_the_bytes,
        a_reset_by_the_backend_reaches_the_client_after_the_bytes;
    "idle_timeout = \"3s\"": an_idle_session_is_closed;
    "half_close_timeout = \"300ms\"": a_half_closed_session_does_not_stay_for_ever;
}
