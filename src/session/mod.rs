//! Floor 5: one client, from accept to end.
//!
//! The way of a session: `establish` picks a backend from the table, is admitted to the registry,
//! dials, goes on to the next backend if that fails, and holds while there is none. `open` waits for the
//! backend's first byte: if it ends before that, `establish` goes on to the next. Then `relay` moves
//! bytes until the end, whose reason is logged and counted once.

mod caller;
mod doubt;
mod establish;
mod hold;
mod worker;

use std::ops::ControlFlow;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::timeout_at;

use crate::model::{BackendName, Direction, HoldEnd, ListenerPlan, PoolName, RejectReason, SessionEnd};
use crate::relay::{Opening, Pulse, Start, open, relay};
use crate::sys::Stream;
use crate::telemetry::{Counted, ListenerMetrics};

pub use caller::Caller;
use establish::{Established, Refusal, Search};
pub use worker::{Seat, Seats, Worker};

/// What a session knows of the listener it came through. The plan may be replaced by a reload.
#[derive(Debug)]
pub struct Entrance {
    /// The listener's part of the plan.
    plan: std::cell::RefCell<Arc<ListenerPlan>>,
    /// Its series.
    pub metrics: ListenerMetrics,
}

impl Entrance {
    /// An entrance by this plan.
    #[must_use]
    pub const fn new(plan: Arc<ListenerPlan>, metrics: ListenerMetrics) -> Self {
        Self { plan: std::cell::RefCell::new(plan), metrics }
    }

    /// The plan now.
    #[must_use]
    pub fn plan(&self) -> Arc<ListenerPlan> {
        Arc::clone(&self.plan.borrow())
    }

    /// Goes by `plan` from now on.
    pub fn replace_plan(&self, plan: Arc<ListenerPlan>) {
        self.plan.replace(plan);
    }
}

/// Serves one client to its end. `places` are what it takes up until then, given back before its socket closes: a
/// client that comes again at once finds them free.
pub async fn run(worker: Rc<Worker>, entrance: Rc<Entrance>, client: Stream, caller: Caller, places: impl Sized) {
    entrance.metrics.connections.inc();
    let active = Counted::new(&entrance.metrics.active);
    let (mut search, mut client) = (Search::default(), Arc::new(client));
    loop {
        let session;
        (client, session) = match search.establish(&worker, &entrance, client, &caller).await {
            Ok(found) => found,
            Err((refusal, left)) => {
                refused(&entrance, &caller, refusal);
                drop((places, active));
                return drop(left);
            }
        };
        if serve(&worker, &entrance, &mut search, &client, session, &caller).await.is_break() {
            break;
        }
    }
    drop((places, active));
}

/// Turns a client away that was accepted and may not stay.
pub fn turn_away(entrance: &Entrance, client: Stream, caller: &Caller, reason: RejectReason) {
    entrance.metrics.connections.inc();
    entrance.metrics.count_rejected(reason);
    tracing::debug!(client = ?caller.source(), %reason, "client refused");
    drop(client);
}

/// What became of a client at a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Its session is over.
    Ended(SessionEnd),
    /// The backend ended before its first byte, by a reset or in order; the client may be given another.
    Unanswered { reset: bool },
    /// The backend was fenced before its first byte; the client may be given another.
    Fenced,
}

/// Opens an established session and relays it. Breaks when the client has been served, for good or ill;
/// goes on when it may be given another backend.
async fn serve(
    worker: &Worker,
    entrance: &Entrance,
    search: &mut Search,
    client: &Arc<Stream>,
    session: Established,
    caller: &Caller,
) -> ControlFlow<()> {
    let plan = entrance.plan();
    let pulse = Rc::new(Pulse::new(worker.ticks(plan.idle_timeout), worker.ticks(plan.half_close_timeout)));
    let watched = worker.watch(&pulse, &session.backend_live);
    let active = Counted::new(&session.backend_live.metrics.active);
    let outcome = converse(worker, search, client, &session, &pulse).await;
    drop((watched, active));
    let [up, down] = pulse.take_moved();
    session.backend_live.metrics.count_bytes(Direction::ClientToBackend, up);
    session.backend_live.metrics.count_bytes(Direction::BackendToClient, down);
    match outcome {
        Outcome::Unanswered { reset } => search.was_unanswered(worker, session, reset),
        Outcome::Fenced => search.was_fenced(),
        Outcome::Ended(end) => {
            // Out of the registry first: a fence must never touch a socket that is closed already.
            let end = session.admission.end().map_or(end, SessionEnd::from);
            session.pool_live.metrics.count_closed(end);
            log_end(&plan, &session.pool, &session.route.name, caller, end, &pulse);
            return ControlFlow::Break(());
        }
    }
    ControlFlow::Continue(())
}

/// Opens the session, unless it did that before, and relays it.
async fn converse(
    worker: &Worker,
    search: &mut Search,
    client: &Arc<Stream>,
    session: &Established,
    pulse: &Pulse,
) -> Outcome {
    let server = &session.server;
    let mut start = if session.is_last_resort {
        Start::default()
    } else {
        match opened(worker, search, client, session, pulse).await {
            Opening::Opened(start) => start,
            Opening::Ended(end) => return Outcome::Ended(end),
            Opening::Unanswered { .. } if session.admission.fenced().is_some() => return Outcome::Fenced,
            Opening::Unanswered { reset } => return Outcome::Unanswered { reset },
        }
    };
    if session.admission.attach_client(client, || start.deliver(client, pulse)).is_err() {
        if search.first.is_repeatable() && !start.holds_client_bytes() {
            return Outcome::Fenced;
        }
        // What it was sent it may have acted on. Which fence it was is told by the registry.
        client.reset_on_close();
        return Outcome::Ended(SessionEnd::BackendReset);
    }
    let Search { first, .. } = std::mem::take(search);
    Outcome::Ended(relay(client, server, start.after(first), pulse, &worker.buffers).await)
}

/// Waits for the backend's first byte. A client that was held keeps its place until then, but not for
/// longer than a dial may take.
async fn opened(
    worker: &Worker,
    search: &mut Search,
    client: &Stream,
    session: &Established,
    pulse: &Pulse,
) -> Opening {
    let Search { first, hold, .. } = search;
    let mut opening = pin!(open(client, &session.server, first, pulse, &worker.buffers));
    if hold.is_some() {
        let answer_by = worker.clock.instant(session.answer_by);
        if let Ok(opening) = timeout_at(answer_by, &mut opening).await {
            return opening;
        }
        *hold = None;
    }
    opening.await
}

fn log_end(
    plan: &ListenerPlan,
    pool: &PoolName,
    backend: &BackendName,
    caller: &Caller,
    end: SessionEnd,
    pulse: &Pulse,
) {
    let [to_backend, to_client] = pulse.total();
    let peer = caller.source().map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
    tracing::debug!(
        listener = %plan.name, %pool, %backend, client = peer, reason = %end, to_backend, to_client, "session ended"
    );
}

/// Counts a client that never reached a backend. The log has no line for each: there may be many.
fn refused(entrance: &Entrance, caller: &Caller, refusal: Refusal) {
    let reason = match refusal {
        Refusal::NoBackend => RejectReason::NoEligibleBackend,
        Refusal::DialFailed | Refusal::Reset => RejectReason::DialFailed,
        Refusal::Hold(HoldEnd::LimitReached) => RejectReason::HoldLimit,
        Refusal::Hold(HoldEnd::TimedOut) => RejectReason::HoldTimeout,
        Refusal::Hold(HoldEnd::ShuttingDown) => RejectReason::ShuttingDown,
        Refusal::Hold(HoldEnd::ClientLeft | HoldEnd::Released) => RejectReason::ClientLeft,
    };
    entrance.metrics.count_rejected(reason);
    tracing::debug!(client = ?caller.source(), %reason, "client refused");
}
