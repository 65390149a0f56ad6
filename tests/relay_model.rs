//! A model of the relay: what goes in comes out, in order, and then the end, whatever the sizes and the timing.
//!
//! Both ends and the relay share one thread. A seed decides the sockets and their buffers, how bytes are moved,
//! and at every step who writes, who reads, how much, and for how long the relay runs. `RELAY_SEED=n` replays one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Instant;

use changeover::model::SessionEnd;
use changeover::relay::{Loans, Pulse, Splicing, Start, relay};
use changeover::sys::Gated;
use fastrand::Rng;
use socket2::SockRef;
use support::DEADLINE;
use support::relayed::{copied, pair, spliced, switching};
use support::sock::Sock;
use tokio::task::{LocalSet, spawn_local, yield_now};

const SEEDS: u64 = 400;
/// The longest direction.
const MOST: usize = 400_000;
/// The longest read or write.
const WIDEST: usize = 200_000;

/// What one end has done and is yet to do.
struct Peer<'a> {
    sock: Sock,
    /// What it will write, and how much of that is written.
    words: &'a [u8],
    written: usize,
    has_finished: bool,
    /// What it has read.
    heard: Vec<u8>,
    /// The other end's direction has ended, as this end saw it: in order or by a reset.
    end: Option<Result<(), ErrorKind>>,
}

impl<'a> Peer<'a> {
    fn new(sock: Sock, noise: &'a [u8], random: &mut Rng) -> Self {
        match &sock {
            Sock::Tcp(stream) => stream.set_nonblocking(true).unwrap(),
            Sock::Unix(stream) => stream.set_nonblocking(true).unwrap(),
        }
        let from = random.usize(..noise.len() - MOST);
        let words = &noise[from..from + [0, 1, 5_000, 70_000, MOST][random.usize(..5)]];
        Self { sock, words, written: 0, has_finished: false, heard: Vec::new(), end: None }
    }

    /// Writes some, or ends its direction once all is written.
    fn write(&mut self, random: &mut Rng) {
        let left = &self.words[self.written..];
        if left.is_empty() {
            // One that was reset, though it need not know that yet, has nobody to tell.
            if !self.has_finished {
                shut(&self.sock, Shutdown::Write).ok();
            }
            self.has_finished = true;
            return;
        }
        let some = left.len().min(size(random));
        match self.sock.write(&left[..some]) {
            Ok(written) => self.written += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The other end is gone.
            Err(error) => {
                self.words = &self.words[..self.written];
                self.has_finished = true;
                self.end.get_or_insert(Err(error.kind()));
            }
        }
    }

    /// Reads some.
    fn read(&mut self, random: &mut Rng, scratch: &mut [u8]) {
        if self.end.is_some() {
            return;
        }
        let some = &mut scratch[..size(random)];
        match self.sock.read(some) {
            Ok(0) => self.end = Some(Ok(())),
            Ok(read) => self.heard.extend_from_slice(&some[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.end = Some(Err(error.kind())),
        }
    }

    fn is_done(&self) -> bool {
        self.has_finished && self.end.is_some()
    }
}

/// Small, middling or large, as often as each other.
fn size(random: &mut Rng) -> usize {
    let most = [16, 2_000, 40_000, WIDEST][random.usize(..4)];
    random.usize(1..=most)
}

/// Small buffers in the kernel, so that everything blocks everywhere; or those that it likes.
fn limit(socket: &impl AsFd, random: &mut Rng) {
    if random.bool() {
        SockRef::from(socket).set_send_buffer_size(random.usize(2_000..60_000)).unwrap();
    }
    if random.bool() {
        // Not below two packets of loopback: the sender would wait for its persist timer each time the window is shut.
        SockRef::from(socket).set_recv_buffer_size(random.usize(150_000..400_000)).unwrap();
    }
}

fn splicing(random: &mut Rng) -> Splicing {
    let arbitrary = Splicing {
        large_read: random.usize(0..8_000),
        stream: random.usize(0..50_000),
        small_move: random.usize(0..100_000),
        small_moves: random.u8(1..6),
        pipe_size: 1 << random.u32(12..18),
        pipe_least: 0,
        pipes_max: random.usize(1..3),
    };
    [copied(), spliced(), switching(), Splicing::default(), arbitrary][random.usize(..5)]
}

/// What a seed does besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The client resets at some step.
    ClientResets,
    BackendResets,
    Cut,
}

async fn play(seed: u64, noise: &[u8]) {
    let mut scratch = vec![0; WIDEST];
    let mut random = Rng::with_seed(seed);
    let fault = [Fault::None, Fault::None, Fault::None, Fault::ClientResets, Fault::BackendResets, Fault::Cut];
    let (fault, fault_at) = (fault[random.usize(..6)], random.usize(..200));
    let ((ours, person), (theirs, server)) = (pair(random.bool()), pair(random.bool()));
    let (ours, theirs) = (ours.watched(), theirs.watched());
    limit(&ours, &mut random);
    limit(&theirs, &mut random);
    let loans = Loans::with([4096, 20_000, 65_536][random.usize(..3)], splicing(&mut random));
    let (loans, pulse) = (std::rc::Rc::new(loans), std::rc::Rc::new(Pulse::new(0, 0)));
    let (lent, counted) = (std::rc::Rc::clone(&loans), std::rc::Rc::clone(&pulse));
    let ours = Gated::new(ours);
    let relayed = spawn_local(async move { relay(&ours, &theirs, Start::default(), &counted, &lent).await });
    let mut peers = [Peer::new(person, noise, &mut random), Peer::new(server, noise, &mut random)];
    let (begin, mut step) = (Instant::now(), 0);
    while !(peers.iter().all(Peer::is_done) && relayed.is_finished()) {
        assert!(begin.elapsed() < DEADLINE, "stuck: {:?}", peers.map(|p| (p.written, p.heard.len(), p.end)));
        let peer = &mut peers[random.usize(..2)];
        if random.bool() {
            peer.write(&mut random)
        } else {
            peer.read(&mut random, &mut scratch)
        };
        for _ in 0..random.usize(..3) {
            yield_now().await;
        }
        if step == fault_at {
            match fault {
                Fault::None => {}
                Fault::Cut => pulse.stop(SessionEnd::DrainDeadline),
                Fault::ClientResets => reset(&mut peers[0]),
                Fault::BackendResets => reset(&mut peers[1]),
            }
        }
        step += 1;
    }
    let end = relayed.await.unwrap();
    assert_eq!(loans.pipes().lent, 0, "a pipe is still lent");
    let [person, server] = &peers;
    let faulty = fault != Fault::None && fault_at < step;
    for (from, to, moved) in [(person, server, pulse.total()[0]), (server, person, pulse.total()[1])] {
        let moved = usize::try_from(moved).unwrap();
        assert!(moved <= from.written, "{moved} bytes counted of {}", from.written);
        assert!(to.heard.len() <= moved, "{} bytes came, and {moved} are counted", to.heard.len());
        assert!(from.words.starts_with(&to.heard), "other bytes came than were sent");
        if !faulty {
            assert_eq!((to.heard.len(), moved, to.end), (from.words.len(), from.words.len(), Some(Ok(()))));
        }
    }
    if !faulty {
        assert_eq!(end, changeover::relay::RelayEnd::Over(SessionEnd::Completed));
    }
}

fn shut(sock: &Sock, how: Shutdown) -> io::Result<()> {
    match sock {
        Sock::Tcp(stream) => stream.shutdown(how),
        Sock::Unix(stream) => stream.shutdown(how),
    }
}

fn reset(peer: &mut Peer<'_>) {
    match &peer.sock {
        Sock::Tcp(stream) => rustix::net::connect_unspec(stream).unwrap(),
        Sock::Unix(_) => shut(&peer.sock, Shutdown::Both).unwrap(),
    }
    peer.words = &peer.words[..peer.written];
    peer.has_finished = true;
    peer.end.get_or_insert(Err(ErrorKind::ConnectionAborted));
}

fn run(seed: u64, noise: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, play(seed, noise));
}

#[test]
fn what_goes_in_comes_out_in_order_and_then_the_end() {
    let mut noise = vec![0; 2 * MOST];
    Rng::with_seed(1).fill(&mut noise);
    if let Ok(seed) = std::env::var("RELAY_SEED") {
        return run(seed.parse().expect("a number"), &noise);
    }
    for seed in 0..SEEDS {
        let seed = seed + fastrand::u64(..u64::MAX / 2) * u64::from(seed >= SEEDS / 2);
        let told = std::panic::catch_unwind(|| run(seed, &noise));
        assert!(told.is_ok(), "this goes wrong: RELAY_SEED={seed}");
    }
}
