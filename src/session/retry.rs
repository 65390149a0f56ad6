//! A meeting that came to nothing: what the client's search takes along from it to the next backend.

use std::sync::Arc;

use crate::failover::{PoolRoutes, Route};
use crate::model::{CancelKey, NotLetIn, SessionEnd};
use crate::sys::Gated;
use crate::wire::postgres::{FirstPacket, NotNow};

use super::Worker;
use super::dial::Established;
use super::doubt::Silent;
use super::establish::{Choice, Search};
use super::refusal::{Refusal, Refused};

impl Search {
    /// `session` was fenced before its backend's first byte. Its backend is not to blame, and it picks
    /// again as if it had just come.
    pub(super) fn was_fenced(&mut self, session: Established) {
        self.leave(session);
        self.tried.clear();
    }

    /// Leaves `session` behind, the registry first. Whoever closed it there meant the client.
    pub(super) fn leave(&mut self, session: Established) {
        self.is_closed |= session.admission.end() == Some(SessionEnd::Closed);
    }

    /// Nobody waits for the silent backend any more.
    pub(super) fn forget_silent(&mut self) {
        if let Some(session) = self.silent.take().and_then(Silent::into_session) {
            self.leave(*session);
        }
    }

    /// `session` ended before its backend's first byte, by a reset or in order: it counts as a failed dial.
    /// Later than that the backend is asked for first: servers close on those who stay silent for long.
    pub(super) fn was_unanswered(&mut self, worker: &Worker, session: Established, reset: bool) {
        let Route { backend, ref name, .. } = session.route;
        tracing::debug!(pool = %session.pool, backend = %name, reset, "a backend ended before its first byte");
        session.count_unanswered(worker);
        let is_late = worker.clock.now() > session.answer_by;
        if is_late {
            self.tried.clear();
        }
        self.tried.push(backend);
        self.forget_silent();
        let session = if reset {
            self.leave(session);
            None
        } else {
            Some(session)
        };
        self.silent = Some(Silent::new(session, is_late));
    }

    /// The server of `session` lets nobody in now: it goes on as after a failed dial, and there is no doubt about it. Of a server
    /// that is full it waits for room, in line.
    pub(super) fn was_turned_away(&mut self, worker: &Worker, session: Established, why: NotNow) {
        match why {
            NotNow::Down => session.count_unanswered(worker),
            NotNow::Full => {
                session.backend_live.metrics.count_not_let_in(NotLetIn::Full);
                self.full = Some(session.route.name.clone());
            }
        }
        self.tried.push(session.route.backend);
        // Before its room is given back: that calls the first in line, and there is no room but what was refused.
        self.line = None;
        self.leave(session);
    }

    /// The client that was to be given `session` wants none, but to cancel another one with `key`.
    pub(super) fn cancels(&mut self, session: Established, key: CancelKey, client: Arc<Gated>) -> Refused {
        self.packet = Some(FirstPacket::Cancel(key));
        self.leave(session);
        Refused { refusal: Refusal::Cancels, client: Some(client) }
    }

    /// Nobody else is to be tried for now: waits for a verdict on the silent backend or, when it has waited
    /// long enough, believes it.
    pub(super) fn doubt(&mut self, routes: &Arc<PoolRoutes>, worker: &Worker) -> Choice {
        let Some(mut silent) = self.silent.take() else { return Choice::Refuse(Refusal::DialFailed) };
        if let Some(until) = silent.doubt_until(routes, worker.clock.now()) {
            self.silent = Some(silent);
            return Choice::Doubt(until);
        }
        silent.into_session().map_or(Choice::Refuse(Refusal::Reset), |mut session| {
            session.is_last_resort = true;
            Choice::LastResort(session)
        })
    }
}
