//! Floor 6: accept. One loop for each listening socket of each thread: accepts, sees whether the client may come in
//! (by `session::Guard`) and, where a proxy announces it, who it is (`announcement`), and starts a session. Errors are
//! classed; none of them ends the daemon or makes it spin.

mod announcement;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::model::{LimitsPlan, RejectReason};
use crate::session::{Caller, Entrance, Guard, Places, Worker, run, turn_away};
use crate::sys::{AcceptErrorClass, Listener, Stream};
use crate::wire::Announced;

use announcement::announcement;

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
    guard: Arc<Guard>,
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
                start(&worker, &entrance, &guard, client, peer);
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
    accept_queued(&worker, &entrance, &guard, &listener);
    ListenerEnd::Stopped
}

/// Closing a socket resets whoever is in its queue: they are accepted first.
fn accept_queued(worker: &Rc<Worker>, entrance: &Rc<Entrance>, guard: &Arc<Guard>, listener: &Listener) {
    loop {
        match listener.accept_now() {
            Ok((client, peer)) => start(worker, entrance, guard, client, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if AcceptErrorClass::of(&error) == AcceptErrorClass::Client => {}
            Err(_) => return,
        }
    }
}

fn start(worker: &Rc<Worker>, entrance: &Rc<Entrance>, guard: &Arc<Guard>, client: Stream, peer: Option<SocketAddr>) {
    let plan = entrance.plan();
    let caller = Caller::peer(peer);
    match let_in(worker, guard, &plan.limits, &caller) {
        Err(reason) => turn_away(entrance, client, &caller, reason),
        Ok(places) => {
            if let Some((client, caller, places)) = worker.hand_over(&plan.name, client, caller, places) {
                serve(worker, entrance, client, caller, places);
            }
        }
    }
}

/// Starts the session of a client that was let in, here or by another thread.
pub fn serve(worker: &Rc<Worker>, entrance: &Rc<Entrance>, client: Stream, caller: Caller, places: Places) {
    let is_announced = entrance.plan().limits.accept_proxy_protocol;
    let (worker, entrance) = (Rc::clone(worker), Rc::clone(entrance));
    // Nobody waits for these tasks: each holds its seat until it ends, and the daemon waits for the seats.
    if is_announced {
        drop(spawn_local(start_announced(worker, entrance, client, caller, places)));
    } else {
        drop(spawn_local(run(worker, entrance, client, caller, places)));
    }
}

/// Takes the places of a connection: in its listener's limits, and among all sessions.
fn let_in(worker: &Worker, guard: &Arc<Guard>, limits: &LimitsPlan, caller: &Caller) -> Result<Places, RejectReason> {
    let pass = if limits.accept_proxy_protocol {
        if !limits.believes(caller.ip()) {
            return Err(RejectReason::ProxyProtocol);
        }
        guard.enter(limits)?
    } else {
        if !limits.admits(caller.ip()) {
            return Err(RejectReason::NotAllowed);
        }
        let mut pass = guard.enter(limits)?;
        pass.identify(caller.ip(), limits, || worker.clock.now())?;
        pass
    };
    let seat = worker.seats.take(worker.index).ok_or(RejectReason::MaxSessions)?;
    Ok(Places { pass, seat })
}

/// Starts the session of a client that a proxy announces, once it has.
async fn start_announced(worker: Rc<Worker>, entrance: Rc<Entrance>, client: Stream, peer: Caller, mut places: Places) {
    // Cancel-safety: an announcement that is not taken stays in a socket that is closed then.
    let announced = tokio::select! {
        biased;
        announced = announcement(&client) => announced,
        () = worker.until_cut() => Err(RejectReason::ShuttingDown),
    };
    let caller = match announced {
        Ok(Announced::Client { source, destination }) => Caller::announced(source, destination),
        Ok(Announced::Nothing) => peer,
        Err(reason) => return turn_away(&entrance, client, &peer, reason),
    };
    let plan = entrance.plan();
    let admitted = if plan.limits.admits(caller.ip()) {
        places.pass.identify(caller.ip(), &plan.limits, || worker.clock.now())
    } else {
        Err(RejectReason::NotAllowed)
    };
    match admitted {
        Ok(()) => drop(spawn_local(run(worker, entrance, client, caller, places))),
        Err(reason) => turn_away(&entrance, client, &caller, reason),
    }
}
