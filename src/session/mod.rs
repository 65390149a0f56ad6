//! Floor 5: one client, from accept to end.
//!
//! The way of a session: `establish` picks a backend from the table, is admitted to the registry,
//! dials, goes on to the next backend if that fails, and holds while there is none. `meeting` waits for the
//! backend's first byte: if it ends before that, `establish` goes on to the next with what `retry` takes along. `talk` has `relay` move
//! bytes until the end, whose reason is logged and counted once; `rest` is where it waits meanwhile, if
//! nothing moves. One that was fenced waits for its turn to be closed (`pace`).
//!
//! A client of a postgres pool is heard first (`first_packet`). If it cancels another session, `cancel` passes that on; if
//! it gets no server, `refusal` tells it so. Until its session is open `login` follows it, for the key with which it may
//! cancel.

mod caller;
mod cancel;
mod chance;
mod clients;
mod dial;
mod doubt;
mod establish;
mod first_packet;
mod guard;
mod hand_over;
mod hold;
mod login;
mod meeting;
mod pace;
mod refusal;
mod rest;
mod retry;
mod seats;
mod stuck;
mod talk;
mod worker;

use std::rc::Rc;
use std::sync::Arc;

use crate::model::{ListenerPlan, RejectReason, SessionEnd};
use crate::sys::{Gated, Stream};
use crate::telemetry::{Counted, ListenerMetrics};
use crate::wire::postgres::FirstPacket;

pub use caller::Caller;
pub use cancel::BROADCASTS_MAX;
use cancel::Request;
use establish::Search;
pub use guard::{Guard, Pass};
pub use hand_over::{Handed, Threads};
use meeting::{Meeting, Outcome};
use refusal::Refused;
pub use seats::{Seat, Seats};
use talk::{Guest, Talk, talk};
pub use worker::Worker;

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

/// What a client takes up until its end, given back before its socket closes: one that comes again at once
/// finds it free.
#[derive(Debug)]
pub struct Places {
    /// One of its listener's connections.
    pub pass: Pass,
    /// One of all sessions.
    pub seat: Seat,
}

/// Serves one client until its end or its first rest.
pub async fn run(worker: Rc<Worker>, entrance: Rc<Entrance>, client: Stream, caller: Caller, places: Places) {
    entrance.metrics.connections.inc();
    let guest = Guest { peer: caller.source(), places, active: Counted::new(&entrance.metrics.active) };
    let (mut search, mut client) = (Search::new(&caller, worker.clock.now()), Arc::new(Gated::new(client)));
    loop {
        let session;
        (client, session) = match search.establish(&worker, &entrance, client, &caller).await {
            Ok(found) => found,
            Err(refused) => return Box::pin(turned_away(worker, entrance, search, refused, &caller, guest)).await,
        };
        let meeting = Meeting::new(&worker, entrance.plan(), session);
        let outcome = meeting.open(&worker, &entrance, &mut search, &client).await;
        match outcome {
            Outcome::Opened(start) => {
                if start.backend_has_ended() {
                    meeting.ended_early(&worker);
                }
                let login = std::mem::take(&mut search.login);
                drop(search);
                let (start, login) = if login.is_heard() {
                    (Ok(start), login)
                } else {
                    Box::pin(login.listen(&worker, &entrance, &meeting, &client, start)).await
                };
                let place = login.into_place(&worker, &entrance, &meeting, &caller);
                let (mut on, line) = Talk::after(meeting, guest, client);
                let start = match start {
                    Ok(start) => start,
                    Err(end) => {
                        on.count(&line.pulse);
                        return on.end(&worker, end, line.pair);
                    }
                };
                return talk(worker, on.with_cancel_place(place), line, start).await;
            }
            Outcome::Ended(end) => {
                if end == SessionEnd::BackendReset {
                    meeting.ended_early(&worker);
                }
                let (mut over, line) = Talk::after(meeting, guest, client);
                over.count(&line.pulse);
                return over.end(&worker, end, line.pair);
            }
            Outcome::Fenced => search.was_fenced(meeting.part()),
            Outcome::TurnedAway(why) => search.was_turned_away(&worker, meeting.part(), why),
            Outcome::Cancels(key) => {
                let refused = search.cancels(meeting.part(), key, client);
                return Box::pin(turned_away(worker, entrance, search, refused, &caller, guest)).await;
            }
            Outcome::Unanswered { reset } => search.was_unanswered(&worker, meeting.part(), reset),
        }
    }
}

/// Turns a client away that was accepted and may not stay.
pub fn turn_away(entrance: &Entrance, client: Stream, caller: &Caller, reason: RejectReason) {
    entrance.metrics.connections.inc();
    entrance.metrics.count_rejected(reason);
    tracing::debug!(client = ?caller.source(), %reason, "client refused");
    drop(client);
}

/// The end of a client that never reached a backend. The log has no line for each: there may be many.
async fn turned_away(
    worker: Rc<Worker>,
    entrance: Rc<Entrance>,
    search: Search,
    refused: Refused,
    caller: &Caller,
    guest: Guest,
) {
    let Refused { refusal, client } = refused;
    if let Some(reason) = refusal.reason() {
        entrance.metrics.count_rejected(reason);
        tracing::debug!(client = ?caller.source(), %reason, "client refused");
    }
    // Its place among those who wait is free before it is told anything.
    let is_late = search.is_late();
    let Search { first, packet, hold, line, full, .. } = search;
    drop((hold, line));
    match (&client, packet) {
        (Some(client), Some(FirstPacket::Cancel(key))) => {
            cancel::pass_on(&worker, &entrance, client, caller, Request { key, is_late }).await;
        }
        (Some(client), Some(packet)) => {
            let why = (refusal, full.as_ref());
            refusal::tell(&worker, &entrance.plan(), client, &packet, first, why).await;
        }
        (_, None) | (None, _) => {}
    }
    // Its places too, before its socket closes.
    drop(guest);
    drop(client);
}
