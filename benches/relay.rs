//! What moving a gigabyte costs the relay's thread in processor time, by the size of messages: copied, spliced,
//! and as the relay chooses.
//!
//! `cargo bench --bench relay` prints the table in the header of `src/relay/mod.rs`, each figure the median of
//! some rounds that take turns. The other ends are threads that share the machine: compare figures of one table
//! only. Arguments (after `--`): rounds, and the seconds of one measurement.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for the terminal that gives up at a fault")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use changeover::relay::{Loans, Pulse, Splicing, Start, relay};
use changeover::sys::{Gated, Stream, connect};
use tokio::task::{LocalSet, spawn_local};

const KIB: usize = 1024;
/// Sessions side by side.
const SESSIONS: usize = 8;
/// The sizes of messages; zero is a stream without end.
const SIZES: [usize; 6] = [2 * KIB, 8 * KIB, 16 * KIB, 60 * KIB, 256 * KIB, 0];
const WAYS: [&str; 3] = ["copy", "splice", "adaptive"];

fn splicing(way: &str) -> Splicing {
    let adaptive = Splicing::default();
    match way {
        "copy" => Splicing { pipes_max: 0, ..adaptive },
        "splice" => Splicing { large_read: 0, stream: 0, small_move: 0, ..adaptive },
        _ => adaptive,
    }
}

/// A socket of the relay's, and its other end.
async fn pair() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours =
        connect(&listener.local_addr().unwrap().to_string().parse().unwrap(), Duration::from_secs(10)).await.unwrap();
    let other = listener.accept().unwrap().0;
    other.set_nodelay(true).unwrap();
    (ours, other)
}

/// Sends messages of `size` and waits for each to come back, until told to stop.
fn ask(mut socket: TcpStream, size: usize, stop: &AtomicBool) {
    let (message, mut answer) = (vec![7; size], vec![0; size]);
    while !stop.load(Ordering::Relaxed) {
        socket.write_all(&message).unwrap();
        socket.read_exact(&mut answer).unwrap();
    }
    socket.shutdown(Shutdown::Write).unwrap();
    socket.read_to_end(&mut answer).unwrap();
}

fn answer(mut socket: TcpStream, size: usize) {
    let mut message = vec![0; size];
    while socket.read_exact(&mut message).is_ok() {
        socket.write_all(&message).unwrap();
    }
}

fn pour(mut socket: TcpStream, stop: &AtomicBool) {
    let bytes = vec![7; 1024 * KIB];
    while !stop.load(Ordering::Relaxed) {
        socket.write_all(&bytes).unwrap();
    }
}

fn swallow(mut socket: TcpStream) {
    let mut bytes = vec![0; 256 * KIB];
    while socket.read(&mut bytes).unwrap() > 0 {}
}

/// The processor time this thread has used, in nanoseconds: the first field of schedstat.
fn used() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Seconds of processor time for a gigabyte moved.
fn measure(way: &str, size: usize, seconds: f64) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (local, stop) = (LocalSet::new(), Arc::new(AtomicBool::new(false)));
    let loans = std::rc::Rc::new(Loans::with(64 * KIB, splicing(way)));
    let (mut threads, mut relays) = (Vec::new(), Vec::new());
    for _ in 0..SESSIONS {
        let ((client, person), (backend, server)) = runtime.block_on(async { (pair().await, pair().await) });
        let (loans, stop) = (std::rc::Rc::clone(&loans), Arc::clone(&stop));
        if size == 0 {
            threads.push(thread::spawn(move || pour(server, &stop)));
            threads.push(thread::spawn(move || swallow(person)));
        } else {
            threads.push(thread::spawn(move || answer(server, size)));
            threads.push(thread::spawn(move || ask(person, size, &stop)));
        }
        relays.push(local.spawn_local(async move {
            let (client, pulse) = (Gated::new(client), Pulse::new(0, 0));
            relay(&client, &backend, Start::default(), &pulse, &loans).await;
            pulse.total().iter().sum::<u64>()
        }));
    }
    let before = used();
    local.block_on(&runtime, async {
        spawn_local(async move {
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            stop.store(true, Ordering::Relaxed);
        });
        let mut moved = 0;
        for relay in relays {
            moved += relay.await.unwrap();
        }
        let spent = used() - before;
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let moved = moved as f64;
        spent / moved
    })
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<f64>().ok());
    let (rounds, seconds) = (numbers.next().unwrap_or(5.0), numbers.next().unwrap_or(0.5));
    println!("processor seconds per GB; {SESSIONS} sessions, median of {rounds} rounds of {seconds} s");
    println!("{:>8} {:>8} {:>8} {:>8}", "message", WAYS[0], WAYS[1], WAYS[2]);
    for size in SIZES {
        let mut found = [const { Vec::new() }; 3];
        let mut round = 0.0;
        while round < rounds {
            for (found, way) in found.iter_mut().zip(WAYS) {
                found.push(measure(way, size, seconds));
            }
            round += 1.0;
        }
        let median = |found: &mut Vec<f64>| {
            found.sort_by(f64::total_cmp);
            found[found.len() / 2]
        };
        let name = if size == 0 { "stream".to_owned() } else { format!("{}K", size / KIB) };
        let [copy, splice, adaptive] = found.each_mut().map(median);
        println!("{name:>8} {copy:>8.3} {splice:>8.3} {adaptive:>8.3}");
    }
}
