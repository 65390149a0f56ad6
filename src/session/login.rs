//! The login of a PostgreSQL client, as far as it is followed: to the key with which the client may cancel.

use crate::failover::PoolServer;
use crate::model::{CancelKey, SessionEnd};
use crate::relay::{FirstChunk, Heard, Pulse, Start, listen};
use crate::routing::{Follow, Learned};
use crate::sys::Gated;
use crate::wire::postgres::{StartupTap, Tapped};

use super::caller::Caller;
use super::dial::Established;
use super::meeting::Meeting;
use super::{Entrance, Worker};

/// What is kept of a session of a postgres pool for requests to cancel it, until its end.
#[derive(Debug)]
pub(super) enum CancelPlace {
    /// Its key is known.
    Learned { _key: Learned },
    /// It is not, and the client is followed.
    Followed { to: Follow },
}

impl CancelPlace {
    /// Goes by what `pulse` has moving from now on.
    pub(super) fn watch(&self, pulse: &Pulse) {
        match self {
            Self::Learned { .. } => {}
            Self::Followed { to } => pulse.tell_whether_it_awaits(to.awaits()),
        }
    }
}

/// What there is to be heard still, and what was.
#[derive(Debug, Default)]
pub(super) enum Login {
    /// It is no session of a postgres pool.
    #[default]
    None,
    /// Nothing is to be heard, or it was of no use.
    Unknown,
    /// It goes on.
    GoesOn(Box<StartupTap>),
    /// It is done, and the key is remembered.
    Done(Learned),
}

impl Login {
    /// What is known of the login of a client that has sent `first` to the server of `session`, and begins with `start`.
    pub(super) fn follow(
        worker: &Worker,
        entrance: &Entrance,
        session: &Established,
        first: &FirstChunk,
        start: &Start,
    ) -> Self {
        if start.holds_client_bytes() {
            return Self::Unknown;
        }
        let mut tap = StartupTap::default();
        let heard = match tap.client(first.bytes()) {
            Tapped::GoOn => tap.server(start.answer()),
            over @ Tapped::Over(_) => over,
        };
        match heard {
            Tapped::GoOn => Self::GoesOn(Box::new(tap)),
            Tapped::Over(key) => learn(worker, entrance, session, key).map_or(Self::Unknown, Self::Done),
        }
    }

    /// Whether there is nothing more to be heard.
    pub(super) const fn is_heard(&self) -> bool {
        !matches!(self, Self::GoesOn(_))
    }

    /// What is kept of the client of `meeting`, once everything is heard.
    pub(super) fn into_place(
        self,
        worker: &Worker,
        entrance: &Entrance,
        meeting: &Meeting,
        caller: &Caller,
    ) -> Option<Box<CancelPlace>> {
        let place = match self {
            Self::None => return None,
            Self::Done(key) => CancelPlace::Learned { _key: key },
            Self::Unknown | Self::GoesOn(_) => {
                let (listener, route, ip) = (&meeting.plan.name, &meeting.session.route, caller.ip()?);
                let followed = worker.registry.followed();
                if followed.last(listener, ip).is_some_and(|last| last.awaits && last.backend != route.backend) {
                    entrance.metrics.encrypted_elsewhere.inc();
                }
                CancelPlace::Followed { to: followed.enter(listener, ip, (route.backend, route.epoch)) }
            }
        };
        Some(Box::new(place))
    }

    /// Moves bytes until nothing more is to be heard. From where to relay on, or the end, which both sides have been told;
    /// and what was heard.
    pub(super) async fn listen(
        self,
        worker: &Worker,
        entrance: &Entrance,
        meeting: &Meeting,
        client: &Gated,
        start: Start,
    ) -> (Result<Start, SessionEnd>, Self) {
        let Self::GoesOn(tap) = self else { return (Ok(start), self) };
        let Meeting { session, pulse, .. } = meeting;
        match listen(client, &session.server, start, *tap, pulse, &worker.loans).await {
            Heard::On(start, key) => {
                (Ok(start), learn(worker, entrance, session, key).map_or(Self::Unknown, Self::Done))
            }
            Heard::Ended(end) => (Err(end), Self::None),
        }
    }
}

/// Remembers `key`, which the server of `session` has told its client, for as long as the result lives.
fn learn(worker: &Worker, entrance: &Entrance, session: &Established, key: Option<CancelKey>) -> Option<Learned> {
    let route = &session.route;
    let server =
        PoolServer { name: route.name.clone(), address: route.address.clone(), approach: route.approach.clone() };
    let learned = worker.registry.cancel_keys().learn(key?, server);
    if learned.is_none() {
        entrance.metrics.cancel_keys_refused.inc();
    }
    learned
}
