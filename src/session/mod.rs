//! Floor 5: one client, from accept to end.
//!
//! The way of a session: `establish` picks a backend from the table, is
//! admitted to the registry, dials, goes on to the next backend if that fails, and holds while there
//! is none; then `relay` moves bytes until the end, whose reason is logged and counted once.

mod establish;
mod hold;
mod worker;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::model::{BackendName, Direction, HoldEnd, ListenerPlan, PoolName, RejectReason, SessionEnd};
use crate::relay::{Pulse, relay};
use crate::sys::Stream;
use crate::telemetry::{Counted, ListenerMetrics};

use establish::{Established, Refusal, establish};
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

/// Serves one client to its end. `seat` is its place among `max_sessions`.
pub async fn run(worker: Rc<Worker>, entrance: Rc<Entrance>, client: Stream, peer: Option<SocketAddr>, seat: Seat) {
    entrance.metrics.connections.inc();
    let active = Counted::new(&entrance.metrics.active);
    match establish(&worker, &entrance, client).await {
        Ok(session) => serve(&worker, &entrance, session, peer).await,
        Err(refusal) => refused(&entrance, peer, refusal),
    }
    drop((active, seat));
}

/// Turns a client away that came when every seat was taken.
pub fn turn_away(entrance: &Entrance, client: Stream) {
    entrance.metrics.connections.inc();
    entrance.metrics.count_rejected(RejectReason::MaxSessions);
    drop(client);
}

/// Relays an established session and says how it ended.
async fn serve(worker: &Worker, entrance: &Entrance, session: Established, peer: Option<SocketAddr>) {
    let Established { admission, client, backend, backend_live, pool_live, name, pool } = session;
    let plan = entrance.plan();
    let pulse = Rc::new(Pulse::new(worker.ticks(plan.idle_timeout), worker.ticks(plan.half_close_timeout)));
    let watched = worker.watch(&pulse, &backend_live);
    let active = Counted::new(&backend_live.metrics.active);
    let end = relay(&client, &backend, &pulse, &worker.buffers).await;
    // Out of the registry first: a fence must never touch a socket that is closed already.
    let end = admission.end().map_or(end, SessionEnd::from);
    drop((watched, client, backend, active));
    let [up, down] = pulse.take_moved();
    backend_live.metrics.count_bytes(Direction::ClientToBackend, up);
    backend_live.metrics.count_bytes(Direction::BackendToClient, down);
    pool_live.metrics.count_closed(end);
    log_end(&plan, &pool, &name, peer, end, &pulse);
}

fn log_end(
    plan: &ListenerPlan,
    pool: &PoolName,
    backend: &BackendName,
    peer: Option<SocketAddr>,
    end: SessionEnd,
    pulse: &Pulse,
) {
    let [to_backend, to_client] = pulse.total();
    let peer = peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
    tracing::debug!(
        listener = %plan.name, %pool, %backend, client = peer, reason = %end, to_backend, to_client, "session ended"
    );
}

/// Counts a client that never reached a backend. The log has no line for each: there may be many.
fn refused(entrance: &Entrance, peer: Option<SocketAddr>, refusal: Refusal) {
    let reason = match refusal {
        Refusal::NoBackend => RejectReason::NoEligibleBackend,
        Refusal::DialFailed => RejectReason::DialFailed,
        Refusal::Hold(HoldEnd::LimitReached) => RejectReason::HoldLimit,
        Refusal::Hold(HoldEnd::TimedOut) => RejectReason::HoldTimeout,
        Refusal::Hold(HoldEnd::ShuttingDown) => RejectReason::ShuttingDown,
        Refusal::Hold(HoldEnd::ClientLeft | HoldEnd::Released) => RejectReason::ClientLeft,
    };
    entrance.metrics.count_rejected(reason);
    tracing::debug!(client = ?peer, %reason, "client refused");
}
