//! `busy_poll`: a thread that stays awake after bytes have moved, for no longer than it was told to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::net::{echo, meet};
use support::servers::Server;
use support::{DEADLINE, Daemon, wait_until};

const MESSAGES: u64 = 300;

/// So few that one try of some is disturbed by nothing else on the machine.
const FEW: u64 = 60;

/// One thread, so that every session is on the one that stays awake.
fn daemon_before(server: &Server, busy_poll: &str) -> Daemon {
    Daemon::start(&format!(
        "[daemon]\nworkers = 1\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         busy_poll = \"{busy_poll}\"\n[pools.orders.check]\ninterval = \"1h\"\n\
         [pools.orders.backends.a]\naddress = \"{}\"\n",
        server.addr
    ))
}

fn talk(client: &mut TcpStream, messages: u64) {
    for _ in 0..messages {
        echo(client, &[7; 64]).expect("an echo");
    }
}

#[test]
fn a_conversation_in_lockstep_is_not_slept_through() {
    let server = Server::echo("a");
    let (asleep, awake) = (daemon_before(&server, "0s"), daemon_before(&server, "1ms"));
    // On a machine with other things to do an answer may take longer than the thread stays awake.
    let mut tries = 0;
    wait_until("the thread sleeps less than half as often", 4 * DEADLINE, || {
        let [often, seldom] = [&asleep, &awake].map(|daemon| {
            let (mut client, _) = meet(daemon.listener("orders")).expect("served");
            let before = daemon.naps();
            talk(&mut client, FEW);
            daemon.naps() - before
        });
        tries += 1;
        println!("try {tries}: it slept {often} times, and {seldom} where it stays awake");
        often >= FEW && seldom < often / 2
    });
}

#[test]
fn it_sleeps_once_nothing_moves() {
    let server = Server::echo("a");
    let daemon = daemon_before(&server, "1ms");
    let mut clients: Vec<TcpStream> = (0..5).map(|_| meet(daemon.listener("orders")).expect("served").0).collect();
    clients.iter_mut().for_each(|client| talk(client, MESSAGES));
    let (start, before) = (Instant::now(), daemon.cpu());
    wait_until("a second is over", DEADLINE, || start.elapsed() >= Duration::from_secs(1));
    let (used, over) = (daemon.cpu() - before, start.elapsed());
    assert!(used < over / 10, "{used:?} of processor time in {over:?}");
}

#[test]
fn whoever_else_is_on_the_thread_is_served_meanwhile() {
    let server = Server::echo("a");
    let daemon = daemon_before(&server, "1ms");
    let orders = daemon.listener("orders");
    let (mut busy, _) = meet(orders).expect("served");
    let (is_over, start) = (AtomicBool::new(false), Instant::now());
    thread::scope(|scope| {
        let talking = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) && start.elapsed() < DEADLINE {
                talk(&mut busy, MESSAGES);
            }
        });
        // Old sessions and new ones, streams, and the tick, by which bytes are counted.
        let (mut other, _) = meet(orders).expect("served");
        talk(&mut other, MESSAGES);
        for _ in 0..20 {
            echo(&mut other, &[5; 100_000]).expect("an echo");
        }
        for _ in 0..20 {
            talk(&mut meet(orders).expect("served").0, MESSAGES);
        }
        let sent = [("direction", "client_to_backend")];
        wait_until("bytes are counted", DEADLINE, || {
            daemon.metric("backend_bytes_total", &sent).is_some_and(|bytes| bytes > 2e6)
        });
        is_over.store(true, Ordering::Relaxed);
        talking.join().expect("no echo was lost");
    });
}
