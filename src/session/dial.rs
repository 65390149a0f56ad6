//! Dialling one backend that was picked: admitted to the registry first, under the fence as soon as there is
//! a socket.

use std::sync::Arc;

use crate::failover::Route;
use crate::model::{BackendId, DialPlan, MonoTime, NotLetIn, PoolName, SessionEnd};
use crate::routing::{Admission, BackendLive, PoolLive, Room, SessionFacts, Stale};
use crate::sys::{Stream, dial_error};

use super::Worker;
use super::caller::introduce;

/// A backend that was picked, with a place taken there.
pub(super) struct Picked {
    pub(super) route: Route,
    pub(super) plan: DialPlan,
    pub(super) backend: Arc<BackendLive>,
    pub(super) pool: Arc<PoolLive>,
    pub(super) room: Room,
}

/// A client's backend.
pub(super) struct Established {
    /// Its place in the registry; to be left before the sockets close.
    pub(super) admission: Admission,
    pub(super) server: Arc<Stream>,
    pub(super) backend_live: Arc<BackendLive>,
    pub(super) pool_live: Arc<PoolLive>,
    pub(super) route: Route,
    pub(super) pool: PoolName,
    /// Until when an answer belongs to the dial.
    pub(super) answer_by: MonoTime,
    /// It has ended without a word, and nobody else is there for the client: whatever it does is passed on.
    pub(super) is_last_resort: bool,
    /// Its place among the backend's sessions; given back last, when the sockets are closed.
    pub(super) room: Room,
}

impl Established {
    /// Counts that the backend let the client in no further than this, and has the control plane told.
    pub(super) fn count_unanswered(&self, worker: &Worker) {
        self.backend_live.metrics.count_not_let_in(NotLetIn::Unanswered);
        worker.feedback.ended_early(self.route.backend, self.route.epoch, &self.backend_live);
    }
}

/// Why a backend that was picked did not become the client's.
pub(super) enum Failure {
    /// It was fenced since it was picked.
    Stale,
    /// The client was closed by an operator.
    Closed,
    /// It could not be connected to; reported and counted already.
    Dial(BackendId),
}

impl From<Stale> for Failure {
    fn from(Stale: Stale) -> Self {
        Self::Stale
    }
}

/// Is admitted to `route`'s backend, dials it, comes under the fence with its socket, and sends it `header`.
pub(super) async fn connect_to(
    worker: &Worker,
    picked: Picked,
    facts: SessionFacts,
    pool: PoolName,
    header: &[u8],
) -> Result<Established, Failure> {
    let Picked { route, plan, backend: backend_live, pool: pool_live, room } = picked;
    let admission = worker.registry.admit(worker.index, route.backend, route.epoch, facts)?;
    let begun = worker.clock.now();
    let dialled = match worker.ways.dial(&route.address, plan.connect_timeout, &route.approach).await {
        Ok(server) => {
            let server = Arc::new(server);
            if admission.attach_server(&server).is_err() {
                return Err(cut(admission.end()).unwrap_or(Failure::Stale));
            }
            introduce(&server, header, plan.connect_timeout).await.map(|()| server)
        }
        Err(error) => Err(error),
    };
    let error = match dialled {
        Ok(server) => {
            let now = worker.clock.now();
            backend_live.metrics.count_session(now.since(begun), worker.clock.unix_seconds(now));
            if let Some(since) = pool_live.since_failover(now) {
                pool_live.metrics.first_session_seconds.observe(since.as_secs_f64());
            }
            let answer_by = now + plan.connect_timeout;
            return Ok(Established {
                admission,
                server,
                backend_live,
                pool_live,
                route,
                pool,
                answer_by,
                is_last_resort: false,
                room,
            });
        }
        Err(error) => dial_error(&error),
    };
    // Cut by us, it is no failure of the backend's.
    if let Some(failure) = cut(admission.end()) {
        return Err(failure);
    }
    backend_live.metrics.count_connect_failure(error);
    worker.feedback.dial_failed(route.backend, route.epoch, error);
    Err(Failure::Dial(route.backend))
}

/// What a dial came to that ended in the registry as `end`, if it was cut there.
fn cut(end: Option<SessionEnd>) -> Option<Failure> {
    end.map(|end| if end == SessionEnd::Closed { Failure::Closed } else { Failure::Stale })
}
