//! A backend that ended before its first byte, when nobody else is left to try: it is dying, and a verdict
//! will come in a moment; or it does that to everybody, and the client gets what it would get without us.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep_until;

use crate::failover::PoolRoutes;
use crate::model::MonoTime;

use super::Worker;
use super::dial::Established;

/// How long a verdict is waited for. A refused connection is asked again at once, so one that is due
/// comes within milliseconds; the rest is for a busy machine.
const VERDICT_WAIT: Duration = Duration::from_millis(250);

/// A backend that ended before its first byte.
pub(super) struct Silent {
    /// The connection, unless it was reset. It may still read.
    session: Option<Box<Established>>,
    /// Whether to ask for a verdict before anybody else is tried.
    is_late: bool,
    /// The routes in force when doubt began, and how long it may last.
    doubt: Option<(Arc<PoolRoutes>, MonoTime)>,
}

/// What a silent backend means in the light of the routes in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Others may be tried.
    NoDoubt,
    /// Nothing has changed since doubt began.
    SameDoubt,
    /// There are new routes: pick again as if nothing had happened.
    News,
}

impl Silent {
    pub(super) fn new(session: Option<Established>, is_late: bool) -> Self {
        Self { session: session.map(Box::new), is_late, doubt: None }
    }

    pub(super) fn look(&self, routes: &Arc<PoolRoutes>) -> Look {
        match &self.doubt {
            Some((before, _)) if Arc::ptr_eq(before, routes) => Look::SameDoubt,
            Some(_) => Look::News,
            None if self.is_late => Look::SameDoubt,
            None => Look::NoDoubt,
        }
    }

    /// Until when to wait for a verdict; none if that has passed.
    pub(super) fn doubt_until(&mut self, routes: &Arc<PoolRoutes>, now: MonoTime) -> Option<MonoTime> {
        let (_, until) = self.doubt.get_or_insert_with(|| (Arc::clone(routes), now + VERDICT_WAIT));
        (now < *until).then_some(*until)
    }

    /// The connection, unless it was reset.
    pub(super) fn into_session(self) -> Option<Box<Established>> {
        self.session
    }
}

/// Waits for new routes or until the time is up. `false`: the client has `left`.
pub(super) async fn wait(worker: &Worker, left: impl Future<Output = ()>, until: MonoTime) -> bool {
    // Cancel-safety: every branch only waits, and nothing is taken from the client.
    tokio::select! {
        () = left => false,
        () = worker.routes.next() => true,
        () = sleep_until(worker.clock.instant(until)) => true,
    }
}
