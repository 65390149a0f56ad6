//! A client and its backend in conversation: relayed to the end, which is told once, or to the next rest.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::model::{BackendName, ListenerPlan, PoolName, SessionEnd};
use crate::relay::{Pulse, RelayEnd, Start, relay};
use crate::routing::{ActiveSession, Admission, BackendLive, Pair, PoolLive, Room};
use crate::sys::Gated;
use crate::telemetry::Counted;

use super::login::CancelPlace;
use super::meeting::Meeting;
use super::worker::Watch;
use super::{Places, Worker};

/// What a client takes up from its accept to its end.
#[derive(Debug)]
pub(super) struct Guest {
    /// Where it comes from; none for Unix sockets.
    pub(super) peer: Option<SocketAddr>,
    /// What it takes up.
    pub(super) places: Places,
    /// One more on the listener's gauge.
    pub(super) active: Counted,
}

/// What there is to know of a conversation, but for its sockets. This is all that one at rest costs, so it
/// holds no buffer and nothing that is of use only while bytes move.
#[derive(Debug)]
pub(super) struct Talk {
    guest: Guest,
    pub(super) plan: Arc<ListenerPlan>,
    pool: PoolName,
    backend: BackendName,
    pub(super) admission: Admission,
    pub(super) backend_live: Arc<BackendLive>,
    pool_live: Arc<PoolLive>,
    /// One more on the backend's gauge; none once it has left the backend.
    active: Option<ActiveSession>,
    /// Its place at the backend; the same.
    room: Option<Room>,
    /// For requests to cancel it, if it is of a postgres pool.
    cancel_place: Option<Box<CancelPlace>>,
    /// What was moved before the last rest, to the backend and to the client.
    moved: [u64; 2],
}

/// What a conversation needs while bytes move.
pub(super) struct Line {
    pub(super) pair: Pair,
    pub(super) pulse: Rc<Pulse>,
    pub(super) watch: Watch,
}

impl Talk {
    /// What goes on after a meeting that went well.
    pub(super) fn after(meeting: Meeting, guest: Guest, client: Arc<Gated>) -> (Self, Line) {
        let Meeting { session, plan, pulse, watch, active } = meeting;
        let line = Line { pair: Pair { client, server: session.server }, pulse, watch };
        let talk = Self {
            guest,
            plan,
            pool: session.pool,
            backend: session.route.name,
            admission: session.admission,
            backend_live: session.backend_live,
            pool_live: session.pool_live,
            active: Some(active),
            room: Some(session.room),
            cancel_place: None,
            moved: [0, 0],
        };
        (talk, line)
    }

    /// The same, to be found by requests to cancel it.
    pub(super) fn with_cancel_place(mut self, place: Option<Box<CancelPlace>>) -> Self {
        self.cancel_place = place;
        self
    }

    /// Its sockets, watched again after a rest.
    pub(super) fn line(&self, worker: &Worker, pair: Pair, quiet_ticks: u32) -> Line {
        let pulse = Rc::new(worker.pulse(&self.plan).quiet_for(quiet_ticks));
        let watch = worker.watch(&pulse, &self.backend_live, &self.admission, None);
        Line { pair, pulse, watch }
    }

    /// Counts what `pulse` has seen moving.
    pub(super) fn count(&mut self, pulse: &Pulse) {
        let moved = pulse.take_moved();
        self.admission.add_moved(moved);
        self.backend_live.count_moved(moved);
        let [up, down] = pulse.total();
        self.moved = [self.moved[0] + up, self.moved[1] + down];
    }

    /// Its end: told, unless it was fenced and its client is to be closed in its turn.
    pub(super) fn end(mut self, worker: &Worker, end: SessionEnd, pair: Pair) {
        match self.admission.end_unless_leaving() {
            Ok(fenced) => self.finish(fenced.unwrap_or(end), pair),
            Err(turn) => worker.leave_busy(self, pair, turn),
        }
    }

    /// The end of one that was fenced, and whose client was to be closed in its turn.
    pub(super) fn end_leaving(mut self) {
        let (fenced, client) = self.admission.end_leaving();
        if let Some(client) = &client {
            // What is cut short must not look complete.
            client.reset_on_close();
        }
        self.finish(fenced.unwrap_or(SessionEnd::BackendReset), client);
    }

    /// Counts for its backend no longer, which has been told.
    pub(super) fn leave_backend(&mut self) {
        self.active = None;
        self.room = None;
        self.cancel_place = None;
    }

    /// Says, once, for metric and log, how it ended, and closes its `sockets`. It is out of the registry before
    /// that: a fence must never touch a socket that is closed already. The client's places are free before its
    /// socket closes, so that it finds them free if it comes again at once; the place at the backend only when
    /// the backend has been told.
    fn finish<S>(self, end: SessionEnd, sockets: S) {
        drop((self.active, self.cancel_place));
        self.pool_live.metrics.count_closed(end);
        let [to_backend, to_client] = self.moved;
        let peer = self.guest.peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
        tracing::debug!(
            listener = %self.plan.name, pool = %self.pool, backend = %self.backend, client = peer, reason = %end,
            to_backend, to_client, "session ended"
        );
        drop((self.guest.places, self.guest.active));
        drop(sockets);
        drop(self.room);
    }
}

impl Talk {
    /// Its sockets are gone: the kernel had no memory to watch them.
    pub(super) fn lost(self) {
        let end = self.admission.end().unwrap_or(SessionEnd::BackendReset);
        tracing::warn!(pool = %self.pool, "a session was lost: the kernel had no memory to watch its sockets");
        self.pool_live.metrics.count_closed(end);
    }
}

/// Relays from `start` to the end or to the next rest.
pub(super) async fn talk(worker: Rc<Worker>, mut talk: Talk, line: Line, start: Start) {
    let Line { pair, pulse, watch } = line;
    if let Some(place) = &talk.cancel_place {
        place.watch(&pulse);
    }
    let end = relay(&pair.client, &pair.server, start, &pulse, &worker.loans).await;
    drop(watch);
    talk.count(&pulse);
    match end {
        RelayEnd::AtRest => worker.rest(talk, pair, pulse.quiet_ticks()),
        RelayEnd::Over(end) => talk.end(&worker, end, pair),
    }
}
