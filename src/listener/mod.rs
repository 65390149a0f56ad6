//! Floor 6: accept. One loop for each listening socket of each thread: takes a seat, accepts, and
//! starts a session. Errors are classed; none of them ends the daemon or makes it spin.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::session::{Entrance, Worker, run, turn_away};
use crate::sys::{AcceptErrorClass, Listener, Stream};

/// The first pause after the host ran short; doubled each time, up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// After so many clients' errors in a row, something else is wrong: pause, as when the host is short.
const CLIENT_ERRORS_MAX: u32 = 64;

/// Why a loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerEnd {
    /// It was told to; whoever was in the queue has been accepted.
    Stopped,
    /// The socket is broken.
    Broken,
}

/// Accepts clients until `stop` turns true or its sender is gone, then those that are in the queue already.
pub async fn accept_until_stopped(
    worker: Rc<Worker>,
    entrance: Rc<Entrance>,
    listener: Listener,
    mut stop: watch::Receiver<bool>,
) -> ListenerEnd {
    let (mut pause, mut in_a_row) = (None, 0);
    loop {
        // Cancel-safety: accept leaves a client in the queue or returns it; the watch keeps its value.
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|&stop| stop) => break,
            accepted = listener.accept() => accepted,
        };
        let error = match accepted {
            Ok((client, peer)) => {
                (pause, in_a_row) = (None, 0);
                start(&worker, &entrance, client, peer);
                continue;
            }
            Err(error) => error,
        };
        match AcceptErrorClass::of(&error) {
            AcceptErrorClass::Client if in_a_row < CLIENT_ERRORS_MAX => in_a_row += 1,
            AcceptErrorClass::Fatal => {
                tracing::error!(listener = %entrance.plan().name, %error, "the listening socket is broken");
                return ListenerEnd::Broken;
            }
            AcceptErrorClass::Client | AcceptErrorClass::Exhausted => {
                if pause.is_none() {
                    tracing::warn!(listener = %entrance.plan().name, %error, "no client can be accepted for now");
                }
                let length = pause.map_or(PAUSE_FIRST, |last: Duration| (last * 2).min(PAUSE_MAX));
                pause = Some(length);
                // Cancel-safety: both branches only wait.
                tokio::select! {
                    _ = stop.wait_for(|&stop| stop) => break,
                    () = sleep(length) => {}
                }
            }
        }
    }
    accept_queued(&worker, &entrance, &listener);
    ListenerEnd::Stopped
}

/// Closing a socket resets whoever is in its queue: they are accepted first.
fn accept_queued(worker: &Rc<Worker>, entrance: &Rc<Entrance>, listener: &Listener) {
    loop {
        match listener.accept_now() {
            Ok((client, peer)) => start(worker, entrance, client, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if AcceptErrorClass::of(&error) == AcceptErrorClass::Client => {}
            Err(_) => return,
        }
    }
}

fn start(worker: &Rc<Worker>, entrance: &Rc<Entrance>, client: Stream, peer: Option<SocketAddr>) {
    match worker.seats.take() {
        // Nobody waits for it: it holds its seat until it ends, and the daemon waits for the seats.
        Some(seat) => drop(spawn_local(run(Rc::clone(worker), Rc::clone(entrance), client, peer, seat))),
        None => turn_away(entrance, client),
    }
}
