//! What moving bytes costs inside the process, counted, not timed.
#![allow(unsafe_code, reason = "an allocator that counts can only be written with it")]
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

#[path = "support/counting.rs"]
mod counting;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use changeover::model::SessionEnd;
use changeover::relay::{Loans, Pulse, RelayEnd, Start, relay};
use changeover::sys::{Gated, Stream, connect};
use counting::allocations;
use tokio::task::{LocalSet, spawn_local};

/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A socket of the relay's, and its other end.
async fn pair() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours =
        connect(&listener.local_addr().unwrap().to_string().parse().unwrap(), Duration::from_secs(10)).await.unwrap();
    let other = listener.accept().unwrap().0;
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    other.set_write_timeout(Some(PATIENCE)).unwrap();
    (ours, other)
}

/// `rounds` messages there and back through both ends, as a client and a backend would.
fn converse(client: &mut TcpStream, backend: &mut TcpStream, rounds: usize) {
    let mut message = [7; 200];
    for _ in 0..rounds {
        client.write_all(&message).unwrap();
        backend.read_exact(&mut message).unwrap();
        backend.write_all(&message).unwrap();
        client.read_exact(&mut message).unwrap();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_byte_path_allocates_nothing() {
    let local = LocalSet::new();
    let counted = local.run_until(async {
        let ((client, mut person), (backend, mut server)) = (pair().await, pair().await);
        let (ask, asked) = mpsc::channel::<usize>();
        let (told, mut done) = tokio::sync::mpsc::channel(1);
        let talker = thread::spawn(move || {
            for rounds in asked {
                converse(&mut person, &mut server, rounds);
                told.blocking_send(()).unwrap();
            }
            person.shutdown(Shutdown::Write).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            // Kept open until the relay has seen both ends.
            (person, server)
        });
        let relayed = spawn_local(async move {
            let (client, pulse, loans) = (Gated::new(client), Pulse::new(0, 0), Loans::new(64 * 1024));
            let end = relay(&client, &backend, Start::default(), &pulse, &loans).await;
            (end, pulse.total())
        });
        ask.send(10).unwrap();
        done.recv().await.expect("the talker is alive");
        let before = allocations();
        ask.send(1000).unwrap();
        done.recv().await.expect("the talker is alive");
        let after = allocations();
        drop(ask);
        let relayed = tokio::time::timeout(PATIENCE, relayed).await.expect("the relay ends");
        assert_eq!(relayed.unwrap(), (RelayEnd::Over(SessionEnd::Completed), [202_000, 202_000]));
        talker.join().unwrap();
        after - before
    });
    // The test itself sends one message and waits for one.
    let counted = counted.await;
    assert!(counted <= 8, "2,000 messages cost {counted} allocations");
}

#[tokio::test]
async fn a_session_at_rest_is_small() {
    let ((client, _person), (backend, _server)) = (pair().await, pair().await);
    let (client, pulse, loans) = (Gated::new(client), Pulse::new(0, 0), Loans::new(64 * 1024));
    let relayed = relay(&client, &backend, Start::default(), &pulse, &loans);
    let size = size_of_val(&relayed);
    assert!(size <= 192, "a relay is {size} bytes");
}
