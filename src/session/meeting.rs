//! A client and a backend that was dialled for it, until the backend's first byte.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::timeout_at;

use crate::model::{CancelKey, ListenerPlan, SessionEnd};
use crate::relay::{Opening, Pulse, Start, open};
use crate::routing::ActiveSession;
use crate::sys::{Gated, Stream};
use crate::wire::postgres::NotNow;

use super::dial::Established;
use super::establish::Search;
use super::login::Login;
use super::worker::Watch;
use super::{Entrance, Worker};

/// What became of a client at a backend.
pub(super) enum Outcome {
    /// They talk: relay on from here.
    Opened(Start),
    /// It is over.
    Ended(SessionEnd),
    /// The backend ended before its first byte, by a reset or in order; the client may be given another.
    Unanswered { reset: bool },
    /// The backend lets nobody in now; the client may be given another.
    TurnedAway(NotNow),
    /// The client wants no session, but to cancel another one; the backend was not told.
    Cancels(CancelKey),
    /// The backend was fenced before its first byte; the client may be given another.
    Fenced,
}

/// A session before its backend's first byte. Counts as active at the backend, and is under the eye of the tick.
pub(super) struct Meeting {
    pub(super) session: Established,
    pub(super) plan: Arc<ListenerPlan>,
    pub(super) pulse: Rc<Pulse>,
    pub(super) watch: Watch,
    pub(super) active: ActiveSession,
}

impl Meeting {
    pub(super) fn new(worker: &Worker, plan: Arc<ListenerPlan>, session: Established) -> Self {
        let pulse = Rc::new(worker.pulse(&plan));
        let watch = worker.watch(&pulse, &session.backend_live, &session.admission, Some(&session.server));
        let active = ActiveSession::at(&session.backend_live);
        Self { session, plan, pulse, watch, active }
    }

    /// Opens the session, unless it did that before, and puts its client under the fence.
    pub(super) async fn open(
        &self,
        worker: &Worker,
        entrance: &Entrance,
        search: &mut Search,
        client: &Arc<Gated>,
    ) -> Outcome {
        let Established { admission, server, is_last_resort, .. } = &self.session;
        let mut start = if *is_last_resort {
            Start::default()
        } else {
            match self.answer(worker, search, client).await {
                Ok(start) => start,
                Err(outcome) => return outcome,
            }
        };
        // Before a byte of it is delivered: a client may cancel as soon as it knows how.
        if search.packet.is_some() {
            search.login = Login::follow(worker, entrance, &self.session, &search.first, &start);
        }
        if admission.attach_client(client, server, || start.deliver(client, &self.pulse)).is_ok() {
            return Outcome::Opened(start.after(std::mem::take(&mut search.first)));
        }
        let is_repeatable = search.first.is_repeatable() && !start.holds_client_bytes();
        if is_repeatable && admission.fenced() != Some(SessionEnd::Closed) {
            return Outcome::Fenced;
        }
        closed(client)
    }

    /// Waits for an answer of the backend that is more than a no. Until then the client is not under the fence, and may be given
    /// another.
    async fn answer(&self, worker: &Worker, search: &mut Search, client: &Arc<Gated>) -> Result<Start, Outcome> {
        let outcome = loop {
            break match self.first_byte(worker, search, client).await {
                Opening::Opened(start) => return Ok(start),
                Opening::Ended(end) => return Err(Outcome::Ended(end)),
                Opening::Cancels(key) => return Err(Outcome::Cancels(key)),
                Opening::NotEncrypted => {
                    match self.session.admission.unless_fenced(|| search.first.refuse(client, &self.pulse)) {
                        Ok(true) => continue,
                        Ok(false) => return Err(Outcome::Ended(SessionEnd::ClientReset)),
                        Err(_) => Outcome::Fenced,
                    }
                }
                Opening::TurnedAway(why) => Outcome::TurnedAway(why),
                Opening::Unanswered { reset } => Outcome::Unanswered { reset },
            };
        };
        Err(match self.session.admission.fenced() {
            None => outcome,
            Some(SessionEnd::Closed) => closed(client),
            Some(_) => Outcome::Fenced,
        })
    }

    /// Waits for the backend's first byte. A client that was held keeps its places until then, but not for
    /// longer than a dial may take.
    async fn first_byte(&self, worker: &Worker, search: &mut Search, client: &Stream) -> Opening {
        let Search { first, hold, line, .. } = search;
        let mut opening = pin!(open(client, &self.session.server, first, &self.pulse, &worker.loans));
        if hold.is_some() {
            let answer_by = worker.clock.instant(self.session.answer_by);
            if let Ok(opening) = timeout_at(answer_by, &mut opening).await {
                return opening;
            }
            (*hold, *line) = (None, None);
        }
        opening.await
    }

    /// The backend ended it after it was sent an order, and before its first byte: told, unless the session was cut.
    pub(super) fn ended_early(&self, worker: &Worker) {
        let Established { admission, backend_live, route, .. } = &self.session;
        if admission.fenced().is_none() {
            worker.feedback.ended_early(route.backend, route.epoch, backend_live);
        }
    }

    /// The backend did not answer: what is left of the meeting.
    pub(super) fn part(self) -> Established {
        self.session.backend_live.count_moved(self.pulse.take_moved());
        self.session
    }
}

/// The client is cut off too. Why is told by the registry.
fn closed(client: &Stream) -> Outcome {
    client.reset_on_close();
    Outcome::Ended(SessionEnd::BackendReset)
}
