//! The relay by itself over real sockets: what is true of bytes that are copied is true of bytes that are
//! spliced, and of those on the way from one to the other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use changeover::model::SessionEnd;
use changeover::relay::Splicing;
use support::net::{End, drain, ends};
use support::relayed::{Ours, Relayed, copied, spliced, switching};
use support::sock::Sock;
use support::wait_stalled;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The kind of each side's socket, and how bytes are moved.
#[derive(Debug, Clone, Copy)]
struct Setting {
    client_is_unix: bool,
    backend_is_unix: bool,
    splicing: Splicing,
}

impl Setting {
    fn start(self) -> Relayed {
        Relayed::start(self.client_is_unix, self.backend_is_unix, self.splicing)
    }

    fn has_pipes(self) -> bool {
        self.splicing.pipes_max > 0
    }

    fn has_resets(self) -> bool {
        !self.client_is_unix && !self.backend_is_unix
    }
}

/// Bytes without a pattern that a relay could repeat or swap unnoticed.
fn noise() -> &'static [u8] {
    const LENGTH: usize = 24 * MIB;
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let mut bytes = vec![0; LENGTH];
        fastrand::Rng::with_seed(7).fill(&mut bytes);
        bytes
    })
}

/// Writes `bytes` on a thread of its own; how many were written is in the counter.
fn send(sock: &Sock, bytes: &'static [u8]) -> (thread::JoinHandle<io::Result<()>>, Arc<AtomicUsize>) {
    let (mut sock, written) = (sock.another(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&written);
    let writing = thread::spawn(move || {
        for chunk in bytes.chunks(64 * KIB) {
            sock.write_all(chunk)?;
            count.fetch_add(chunk.len(), Ordering::SeqCst);
        }
        Ok(())
    });
    (writing, written)
}

/// Panics unless `got` is what `sent` begins with, and says where it first is not.
#[track_caller]
fn is_beginning(got: &[u8], sent: &[u8]) {
    assert!(got.len() <= sent.len(), "{} bytes came of {}", got.len(), sent.len());
    let wrong = got.iter().zip(sent).position(|(got, sent)| got != sent);
    assert_eq!(wrong, None, "the first wrong byte of {}", got.len());
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap()
}

fn one_side_may_end_first(setting: Setting, client_ends: bool) {
    let mut relayed = setting.start();
    let (first, last) = if client_ends {
        (&mut relayed.client, &mut relayed.backend)
    } else {
        (&mut relayed.backend, &mut relayed.client)
    };
    let (question, answer) = (&noise()[..MIB], &noise()[MIB..5 * MIB]);
    let (asking, _) = send(first, question);
    let mut got = vec![0; question.len()];
    last.read_exact(&mut got).expect("received");
    is_beginning(&got, question);
    asking.join().unwrap().expect("sent");
    first.finish();
    assert_eq!(ends(last), End::Closed);
    let (answering, _) = send(last, answer);
    let mut got = vec![0; answer.len()];
    first.read_exact(&mut got).expect("received");
    is_beginning(&got, answer);
    answering.join().unwrap().expect("sent");
    last.finish();
    assert_eq!(ends(first), End::Closed);
    let (outcome, kept) = relayed.outcome();
    let mut moved = [count(question.len()), count(answer.len())];
    if !client_ends {
        moved.reverse();
    }
    assert_eq!((outcome.end, outcome.moved), (SessionEnd::Completed, moved));
    assert_eq!(kept > 0, setting.has_pipes(), "{kept} pipes were used");
}

fn a_client_may_end_first(setting: Setting) {
    one_side_may_end_first(setting, true);
}

fn a_backend_may_end_first(setting: Setting) {
    one_side_may_end_first(setting, false);
}

/// The client writes and is gone: nothing but the bytes and the end is left of it.
fn a_close_right_after_the_last_write_loses_nothing(setting: Setting) {
    for length in [1, 4 * KIB, 64 * KIB, 64 * KIB + 1, 300 * KIB, 3 * MIB] {
        let mut relayed = setting.start();
        let (writing, _) = send(&relayed.client, &noise()[..length]);
        // The writer has its own handle: the socket is closed with the last write.
        let Relayed { client, .. } = &mut relayed;
        let (_, unused) = support::relayed::pair(true);
        drop(std::mem::replace(client, unused));
        let (got, end) = drain(&mut relayed.backend);
        writing.join().unwrap().expect("sent");
        assert_eq!((got.len(), end), (length, End::Closed));
        is_beginning(&got, noise());
        assert_eq!(relayed.outcome().0.moved, [count(length), 0]);
    }
}

fn a_reader_that_stalls_holds_the_writer_back_and_misses_nothing(setting: Setting) {
    let mut relayed = setting.start();
    let (writing, written) = send(&relayed.backend, noise());
    let stalled_at = wait_stalled(&written, Duration::from_millis(250));
    assert!(stalled_at < noise().len(), "the writer was never held back");
    // Reads by bits and pieces after that, a pipe is left with bytes many times.
    let (mut got, mut sizes) = (Vec::with_capacity(noise().len()), fastrand::Rng::with_seed(1));
    while got.len() < noise().len() {
        let mut piece = vec![0; sizes.usize(1..200 * KIB)];
        let length = relayed.client.read(&mut piece).expect("received");
        assert!(length > 0, "the end came after {} bytes", got.len());
        got.extend_from_slice(&piece[..length]);
    }
    is_beginning(&got, noise());
    writing.join().unwrap().expect("sent");
    relayed.backend.finish();
    relayed.client.finish();
    assert_eq!((ends(&mut relayed.client), ends(&mut relayed.backend)), (End::Closed, End::Closed));
    let (outcome, _) = relayed.outcome();
    assert_eq!((outcome.end, outcome.moved), (SessionEnd::Completed, [0, count(noise().len())]));
}

/// What the kernel had taken from the one that resets is delivered, and nothing else is counted.
fn a_reset_of_the_source_in_mid_transfer_comes_after_what_was_moved(setting: Setting) {
    let mut relayed = setting.start();
    let (writing, written) = send(&relayed.client, noise());
    // The backend has not read: the relay holds bytes that have nowhere to go.
    wait_stalled(&written, Duration::from_millis(250));
    let Relayed { client, .. } = &mut relayed;
    let (_, unused) = support::relayed::pair(true);
    abort(&std::mem::replace(client, unused));
    writing.join().unwrap().expect_err("the connection is gone");
    let (got, end) = drain(&mut relayed.backend);
    is_beginning(&got, noise());
    let due = if setting.has_resets() { End::Reset } else { End::Closed };
    assert_eq!(end, due, "after {} bytes", got.len());
    let (outcome, _) = relayed.outcome();
    assert_eq!(outcome.moved, [count(got.len()), 0], "what is counted is what came");
    if setting.has_resets() {
        assert_eq!(outcome.end, SessionEnd::ClientReset);
    }
}

/// What is held for a side that is gone can go nowhere, and the writer is told.
fn a_reset_of_the_sink_in_mid_transfer_reaches_the_source(setting: Setting) {
    let mut relayed = setting.start();
    let (writing, written) = send(&relayed.client, noise());
    wait_stalled(&written, Duration::from_millis(250));
    let Relayed { backend, .. } = &mut relayed;
    let (_, unused) = support::relayed::pair(true);
    abort(&std::mem::replace(backend, unused));
    // A socket tells of a reset once: here to the writer.
    let told = writing.join().unwrap().expect_err("the connection is gone");
    let (got, end) = drain(&mut relayed.client);
    assert!(got.is_empty());
    if setting.has_resets() {
        assert!(told.kind() == io::ErrorKind::ConnectionReset || end == End::Reset, "{told}, {end:?}");
    }
    let (outcome, _) = relayed.outcome();
    assert_eq!(outcome.end, SessionEnd::BackendReset);
    assert!(outcome.moved[0] < count(noise().len()));
}

/// Cuts a connection while another thread is blocked in a write to it.
fn abort(sock: &Sock) {
    match sock {
        Sock::Tcp(stream) => rustix::net::connect_unspec(stream).expect("reset"),
        Sock::Unix(stream) => stream.shutdown(std::net::Shutdown::Both).expect("shutdown"),
    }
}

fn a_cut_in_mid_transfer_looks_cut(setting: Setting) {
    let mut relayed = setting.start();
    let (writing, written) = send(&relayed.backend, noise());
    wait_stalled(&written, Duration::from_millis(250));
    relayed.stop(SessionEnd::DrainDeadline);
    let (got, end) = drain(&mut relayed.client);
    is_beginning(&got, noise());
    assert!(got.len() < noise().len());
    if setting.has_resets() {
        assert_eq!(end, End::Reset);
    }
    writing.join().unwrap().expect_err("the connection is gone");
    let (outcome, _) = relayed.outcome();
    assert_eq!(outcome.end, SessionEnd::DrainDeadline);
    assert!(outcome.moved[1] >= count(got.len()) && outcome.moved[1] < count(noise().len()));
}

fn a_fence_in_mid_transfer_ends_it(setting: Setting) {
    let Setting { client_is_unix, backend_is_unix, splicing } = setting;
    let (mut relayed, inner) = Relayed::start_within_reach(client_is_unix, backend_is_unix, splicing);
    let (writing, written) = send(&relayed.backend, noise());
    wait_stalled(&written, Duration::from_millis(250));
    inner.iter().for_each(Ours::cut);
    drop(inner);
    let (got, end) = drain(&mut relayed.client);
    is_beginning(&got, noise());
    assert!(got.len() < noise().len());
    if setting.has_resets() {
        assert_eq!(end, End::Reset);
    }
    writing.join().unwrap().expect_err("the connection is gone");
    let (outcome, _) = relayed.outcome();
    assert!(outcome.moved[1] >= count(got.len()) && outcome.moved[1] < count(noise().len()));
}

fn a_backend_may_speak_first(setting: Setting) {
    let mut relayed = setting.start();
    let banner = &noise()[..MIB];
    let (speaking, _) = send(&relayed.backend, banner);
    let mut got = vec![0; banner.len()];
    relayed.client.read_exact(&mut got).expect("received");
    is_beginning(&got, banner);
    speaking.join().unwrap().expect("sent");
    relayed.client.write_all(b"thanks").expect("sent");
    relayed.client.finish();
    let (heard, end) = drain(&mut relayed.backend);
    assert_eq!((heard.as_slice(), end), (b"thanks".as_slice(), End::Closed));
    relayed.backend.finish();
    assert_eq!(ends(&mut relayed.client), End::Closed);
    let (outcome, _) = relayed.outcome();
    assert_eq!((outcome.end, outcome.moved), (SessionEnd::Completed, [6, count(banner.len())]));
}

/// splice(2) stops before an urgent byte, and says of what is behind it that there is nothing, or the end.
fn an_urgent_byte_stops_no_stream(setting: Setting) {
    let mut relayed = setting.start();
    let bytes = &noise()[..4 * MIB];
    let Sock::Tcp(client) = relayed.client.another() else { return };
    let writing = thread::spawn(move || {
        (&client).write_all(&bytes[..MIB]).expect("sent");
        socket2::SockRef::from(&client).send_out_of_band(b"!").expect("sent");
        (&client).write_all(&bytes[MIB..]).expect("sent");
        client.shutdown(std::net::Shutdown::Write).expect("shutdown");
    });
    let (got, end) = drain(&mut relayed.backend);
    writing.join().unwrap();
    assert_eq!(end, End::Closed);
    assert_eq!(got.len(), bytes.len());
    is_beginning(&got, bytes);
    let (outcome, _) = relayed.outcome();
    assert_eq!(outcome.moved, [count(bytes.len()), 0]);
}

/// One test for each rule, way of moving, and pair of sockets.
macro_rules! rules {
    ($($rule:ident),+ $(,)?) => {
        rules!(@sockets tcp false false $($rule)+);
        rules!(@sockets unix_to_tcp true false $($rule)+);
        rules!(@sockets tcp_to_unix false true $($rule)+);
        rules!(@sockets unix true true $($rule)+);
    };
    (@sockets $module:ident $client:literal $backend:literal $($rule:ident)+) => {
        mod $module {
            rules!(@manner copied $client $backend $($rule)+);
            rules!(@manner spliced $client $backend $($rule)+);
            rules!(@manner switching $client $backend $($rule)+);
        }
    };
    (@manner $manner:ident $client:literal $backend:literal $($rule:ident)+) => {
        mod $manner {
            $(
                #[test]
                fn $rule() {
                    super::super::$rule(crate::Setting {
                        client_is_unix: $client,
                        backend_is_unix: $backend,
                        splicing: crate::$manner(),
                    });
                }
            )+
        }
    };
}

rules! {
    a_client_may_end_first,
    a_backend_may_end_first,
    a_close_right_after_the_last_write_loses_nothing,
    a_reader_that_stalls_holds_the_writer_back_and_misses_nothing,
    a_reset_of_the_source_in_mid_transfer_comes_after_what_was_moved,
    a_reset_of_the_sink_in_mid_transfer_reaches_the_source,
    a_cut_in_mid_transfer_looks_cut,
    a_fence_in_mid_transfer_ends_it,
    a_backend_may_speak_first,
    an_urgent_byte_stops_no_stream,
}
