//! Streams side by side: none starves, none loses a byte, and pipes that run out are missed by nobody.

#![allow(unsafe_code, reason = "one thread changes its user, which only the system call itself does")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use changeover::model::{PipeRefusal, SessionEnd};
use changeover::relay::{Loans, PipeCounts, Pulse, RelayEnd, Splicing, Start, relay};
use changeover::sys::Gated;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use support::crowd::{count, hear, pour, say, sessions, split};
use support::relayed::{Relays, copied, pair, spliced, switching};
use support::sock::{Listening, Sock};
use support::{DEADLINE, Daemon, in_time, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// How long the largest crowds may take, all of whose sessions end near their common end.
const PATIENCE: Duration = DEADLINE.saturating_mul(4);

/// A user whom nobody else is, so that the pipes counted as his are ours alone.
const STRANGER: u32 = 61_873;

fn noise(length: usize) -> &'static [u8] {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(3).fill(&mut bytes);
    bytes.leak()
}

/// `number` sessions at once, with up to `most` bytes each way of which each must arrive, and be counted, once.
fn converse<T>(
    number: usize,
    most: usize,
    splicing: Splicing,
    first: impl FnOnce() -> T + Send + 'static,
) -> PipeCounts {
    let (relayed, talking) = sessions(number);
    let relays = Relays::start(relayed, splicing, first);
    let (noise, mut random) = (noise(2 * most), fastrand::Rng::with_seed(5));
    let mut words = || {
        let (from, length) = (random.usize(..most), random.usize(..most));
        &noise[from..from + length]
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut due = Vec::new();
    LocalSet::new().block_on(&runtime, async {
        let mut tasks = Vec::new();
        for (number, (client, server)) in talking.into_iter().enumerate() {
            let (up, down, seed) = (words(), words(), u64::try_from(number).unwrap());
            let ((client_reads, client_writes), (server_reads, server_writes)) = (split(client), split(server));
            tasks.push(spawn_local(say(client_writes, up, seed)));
            tasks.push(spawn_local(say(server_writes, down, seed)));
            tasks.push(spawn_local(hear(server_reads, up, number % 10 == 0)));
            tasks.push(spawn_local(hear(client_reads, down, number % 10 == 1)));
            due.push([up.len(), down.len()].map(|length| u64::try_from(length).unwrap()));
        }
        for task in tasks {
            tokio::time::timeout(PATIENCE, task).await.expect("in time").expect("no panic");
        }
    });
    let (outcomes, pipes) = relays.outcomes();
    assert!(outcomes.iter().all(|outcome| outcome.end == SessionEnd::Completed));
    assert!(outcomes.iter().map(|outcome| outcome.moved).eq(due), "the counters are not what was sent");
    assert_eq!(pipes.lent, 0, "pipes are still lent");
    pipes
}

fn three_thousand(splicing: Splicing) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("setrlimit");
    assert!(limit.maximum.is_none_or(|most| most >= 13_000), "this test wants 13000 open files: {limit:?}");
    let start = Instant::now();
    let pipes = converse(3000, 100 * KIB, splicing, || {});
    println!("{:?}, {pipes:?}", start.elapsed());
    assert!(pipes.kept <= splicing.pipes_max);
}

#[test]
fn three_thousand_sessions_at_once_get_every_byte() {
    // One after the other: together they would need too many descriptors.
    for splicing in [copied(), spliced(), switching()] {
        three_thousand(splicing);
    }
}

/// How many bytes each of `streams` endless streams moved while all of them together moved a share for each of `share`,
/// after they had moved as much before.
fn shares(streams: usize, share: usize, splicing: Splicing) -> Vec<usize> {
    let (relayed, talking) = sessions(streams);
    let relays = Relays::start(relayed, splicing, || {});
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let counts: Vec<Rc<Cell<usize>>> = (0..streams).map(|_| Rc::default()).collect();
    LocalSet::new().block_on(&runtime, async {
        for ((client, server), counted) in talking.into_iter().zip(&counts) {
            let ((reader, client_writes), (server_reads, writer)) = (split(client), split(server));
            let counted = Rc::clone(counted);
            spawn_local(async move {
                count(reader, counted).await;
                drop(client_writes);
            });
            spawn_local(async move {
                pour(writer).await;
                drop(server_reads);
            });
        }
        for _ in 0..2 {
            counts.iter().for_each(|count| count.set(0));
            let start = Instant::now();
            while counts.iter().map(|count| count.get()).sum::<usize>() < streams * share {
                assert!(start.elapsed() < PATIENCE, "so little in so long: {counts:?}");
                tokio::task::yield_now().await;
            }
        }
    });
    let (_, pipes) = relays.outcomes();
    assert_eq!(pipes.lent, 0, "pipes are still lent");
    counts.iter().map(|count| count.get()).collect()
}

#[test]
fn bulk_streams_side_by_side_get_alike() {
    for (name, splicing) in [("copied", copied()), ("as it is", Splicing::default())] {
        let counts = shares(64, 12 * MIB, splicing);
        // Each kind of socket by itself: the kernel holds less for a Unix socket than for TCP.
        for kind in 0..4 {
            let alike = counts.iter().skip(kind).step_by(4);
            let (least, most) = (alike.clone().min().unwrap(), alike.max().unwrap());
            println!("{name}, kind {kind}: the least {least} bytes, the most {most}");
            assert!(*most < 3 * least, "{name}, kind {kind}: one got {most} bytes while another got {least}");
        }
    }
}

/// What a relay moves when it is polled once, with more to move than that.
async fn moved_by_one_poll(splicing: Splicing) -> u64 {
    let ((ours, mut client), (theirs, _server)) = (pair(false), pair(false));
    let (ours, theirs) = (ours.watched(), theirs.watched());
    // Room for everything in the kernel, so that nothing but the relay itself ends a poll.
    SockRef::from(&ours).set_recv_buffer_size(8 * MIB).unwrap();
    SockRef::from(&theirs).set_send_buffer_size(8 * MIB).unwrap();
    let Sock::Tcp(stream) = &client else { panic!("not TCP") };
    stream.set_nonblocking(true).unwrap();
    SockRef::from(stream).set_send_buffer_size(8 * MIB).unwrap();
    let mut sent = 0;
    while let Ok(length) = client.write(&[7; 256 * KIB]) {
        sent += length;
    }
    poll_fn(|cx| ours.poll_readable(cx)).await.unwrap();
    let (loans, pulse) = (Loans::with(64 * KIB, splicing), Pulse::new(0, 0));
    let ours = Gated::new(ours);
    let mut relayed = std::pin::pin!(relay(&ours, &theirs, Start::default(), &pulse, &loans));
    let polled = poll_fn(|cx| Poll::Ready(relayed.as_mut().poll(cx))).await;
    assert!(polled.is_pending(), "it is over: {polled:?}");
    let [moved, _] = pulse.total();
    println!("{moved} of {sent} bytes in one poll");
    assert!(moved < u64::try_from(sent).unwrap(), "there was no more to move");
    moved
}

#[tokio::test]
async fn a_busy_direction_lets_others_run() {
    for splicing in [copied(), spliced(), switching(), Splicing::default()] {
        let moved = moved_by_one_poll(splicing).await;
        assert!((1..=768 * 1024).contains(&moved), "{moved} bytes in one go");
    }
}

/// `rounds` messages there and back.
async fn converse_in_messages(client: &mut TcpStream, server: &mut TcpStream, rounds: usize) {
    let mut message = [7; 2 * KIB];
    for _ in 0..rounds {
        client.write_all(&message).await.unwrap();
        server.read_exact(&mut message).await.unwrap();
        server.write_all(&message).await.unwrap();
        client.read_exact(&mut message).await.unwrap();
    }
}

#[tokio::test]
async fn messages_are_copied_a_stream_is_spliced_and_messages_after_it_are_copied_again() {
    let ((ours, client), (theirs, server)) = (pair(false), pair(false));
    let (ours, theirs) = (ours.watched(), theirs.watched());
    let [mut client, mut server] = [client, server].map(|sock| {
        let Sock::Tcp(stream) = sock else { panic!("not TCP") };
        stream.set_nonblocking(true).unwrap();
        TcpStream::from_std(stream).unwrap()
    });
    let loans = Rc::new(Loans::new(64 * KIB));
    let lent = Rc::clone(&loans);
    let (local, ours) = (LocalSet::new(), Gated::new(ours));
    let relayed =
        local.spawn_local(async move { relay(&ours, &theirs, Start::default(), &Pulse::new(0, 0), &lent).await });
    let talk = async {
        converse_in_messages(&mut client, &mut server, 100).await;
        assert_eq!(loans.pipes().borrowed, 0, "messages were spliced");
        let (stream, mut got) = (noise(16 * MIB), vec![0; 16 * MIB]);
        let (sent, received) = tokio::join!(server.write_all(stream), client.read_exact(&mut got));
        sent.and(received).unwrap();
        assert!(got == stream);
        let pipes = loans.pipes();
        assert!(pipes.borrowed > 10, "the stream was copied: {pipes:?}");
        assert_eq!(pipes.lent, 0, "a direction at rest has a pipe");
        // The first few show that it is a stream no more.
        converse_in_messages(&mut client, &mut server, 10).await;
        let before = loans.pipes().borrowed;
        converse_in_messages(&mut client, &mut server, 100).await;
        assert_eq!(loans.pipes().borrowed, before, "messages were spliced");
        drop((client, server));
        relayed.await.unwrap()
    };
    assert_eq!(local.run_until(in_time("all is said", talk)).await, RelayEnd::Over(SessionEnd::Completed));
}

#[test]
fn one_pipe_does_for_many_streams() {
    let pipes = converse(40, 2 * MIB, Splicing { pipes_max: 1, ..spliced() }, || {});
    assert_eq!(pipes.kept, 1);
    assert!(pipes.refused[PipeRefusal::Limit.index()] > 0, "all of them had it");
}

#[test]
fn a_user_who_may_have_no_more_pipes_has_streams_all_the_same() {
    let first = || {
        // SAFETY: the raw call, unlike setresuid(3), changes this thread alone; it takes numbers only.
        let status = unsafe { libc::syscall(libc::SYS_setresuid, STRANGER, STRANGER, STRANGER) };
        // Whoever may not change his user has a limit of his own to reach.
        println!("as another user: {}", status == 0);
        let mut pipes: Vec<(OwnedFd, OwnedFd)> = Vec::new();
        loop {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
            // Refused beyond the limit, where a new pipe has a page or two.
            fcntl_setpipe_size(&writer, MIB).ok();
            let size = fcntl_getpipe_size(&writer).expect("a size");
            pipes.push((reader, writer));
            if size < 16 * KIB {
                return pipes;
            }
            assert!(pipes.len() < 2000, "this user may have any number of pipes");
        }
    };
    let pipes = converse(20, 2 * MIB, spliced(), first);
    assert_eq!(pipes.kept, 0, "pipes of a page were used");
    assert!(pipes.refused[PipeRefusal::Quota.index()] > 0, "nobody asked for one: {pipes:?}");
}

#[test]
fn a_client_on_a_unix_socket_that_vanishes_from_a_stream_does_not_end_the_daemon() {
    let dir = tempfile::tempdir().expect("a directory");
    let front = format!("unix:{}", dir.path().join("front").display());
    let backend = Listening::bind(&format!("unix:{}", dir.path().join("back").display()));
    let mut daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"{front}\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"1h\"\n[pools.orders.backends.a]\naddress = \"{}\"\n",
        backend.address()
    ));
    assert!(daemon.ignores(rustix::process::Signal::PIPE), "splice(2) has no MSG_NOSIGNAL");
    backend.forget();
    for round in 1..=5_u32 {
        let mut client = Sock::connect(&front).expect("accepted");
        let mut server = backend.accept();
        let pouring = std::thread::spawn(move || while server.write_all(&[7; 256 * KIB]).is_ok() {});
        client.read_exact(&mut vec![0; 8 * MIB]).expect("received");
        drop(client);
        pouring.join().unwrap();
        wait_until("the session is over", DEADLINE, || {
            assert!(daemon.is_running(), "the daemon has ended");
            daemon.metric("listener_connections_active", &[("listener", "orders")]) == Some(0.0)
        });
        println!("round {round}");
    }
}
