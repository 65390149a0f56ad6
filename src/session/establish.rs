//! From an accepted client to a connected pair: pick, admit, dial, and the next backend if that
//! fails or if it ends before its first byte; hold while there is none.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::failover::{NoRoute, PoolRoutes, Route};
use crate::model::{BackendId, DialError, DialPlan, HoldEnd, HoldPlan, MonoTime, PoolName, WhenDown};
use crate::relay::FirstChunk;
use crate::routing::{Admission, BackendLive, PoolLive, SessionFacts, Stale};
use crate::sys::{DialOptions, Stream, connect_with, dial_error};

use super::caller::{Caller, introduce};
use super::doubt::{self, Look, Silent};
use super::hold::Hold;
use super::{Entrance, Worker};

/// When every dial failed but the table still holds the backends fit, a held client tries again after
/// this time; nearly always a verdict comes first and a new table with it.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// A listener's pool that is not in the table was just removed or is just coming by a reload: so
/// often, and so long each time, the next table is waited for.
const UNKNOWN_POOL_WAITS: u32 = 20;
const UNKNOWN_POOL_WAIT: Duration = Duration::from_millis(50);

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
}

/// Why a client got no backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing is fit, and the pool refuses.
    NoBackend,
    /// Every dial failed, and the pool refuses.
    DialFailed,
    /// Whoever could be dialled reset the connection before its first byte.
    Reset,
    /// It was held, in vain.
    Hold(HoldEnd),
}

/// With the client, unless it is gone: it is counted, and its places are free, before its socket closes.
pub(super) type Refused = (Refusal, Option<Arc<Stream>>);

/// What to do next with a client.
enum Choice {
    /// Try this backend.
    Dial { route: Route, plan: DialPlan, backend: Arc<BackendLive>, pool: Arc<PoolLive> },
    /// Nobody else is left: let the client have what this one does.
    LastResort(Box<Established>),
    /// Wait so long for a verdict on a backend that ended before its first byte.
    Doubt(MonoTime),
    /// Wait for a route or, if one is given, for the time to try again.
    Hold { plan: HoldPlan, pool: Arc<PoolLive>, retry_after: Option<Duration> },
    /// The table does not know the pool.
    UnknownPool,
    /// Turn it away.
    Refuse(Refusal),
}

/// What a client in search of a backend has been through so far.
pub(super) struct Search {
    /// When the client came.
    since: MonoTime,
    /// What it has sent already, to be sent to the next backend too.
    pub(super) first: FirstChunk,
    turn: Option<u64>,
    tried: Vec<BackendId>,
    /// Its place among those who wait; kept until a backend answers or the dial's time is over.
    pub(super) hold: Option<Hold>,
    unknown_pool: u32,
    silent: Option<Silent>,
}

impl Search {
    /// The search for a client that comes at `now`.
    pub(super) fn new(now: MonoTime) -> Self {
        Self {
            since: now,
            first: FirstChunk::default(),
            turn: None,
            tried: Vec::new(),
            hold: None,
            unknown_pool: 0,
            silent: None,
        }
    }

    /// Finds `client` a backend.
    pub(super) async fn establish(
        &mut self,
        worker: &Worker,
        entrance: &Entrance,
        mut client: Arc<Stream>,
        caller: &Caller,
    ) -> Result<(Arc<Stream>, Established), Refused> {
        loop {
            let pool_name = entrance.plan().pool.clone();
            match self.choose(worker, &pool_name) {
                Choice::Refuse(refusal) => {
                    if refusal == Refusal::Reset {
                        client.reset_on_close();
                    }
                    return Err((refusal, Some(client)));
                }
                Choice::LastResort(session) => return Ok((client, *session)),
                Choice::Doubt(until) => {
                    if !doubt::wait(worker, &client, until).await {
                        return Err((Refusal::Hold(HoldEnd::ClientLeft), Some(client)));
                    }
                    client = rearmed(client)?;
                }
                Choice::UnknownPool => {
                    self.unknown_pool += 1;
                    // Ready early or late, the table is looked at again.
                    drop(timeout(UNKNOWN_POOL_WAIT, worker.routes.next()).await);
                }
                Choice::Hold { plan, pool, retry_after } => {
                    let has_sent = !self.first.is_empty();
                    let hold = match self.hold_place(worker, entrance, &pool_name, &plan, &pool) {
                        Ok(hold) => hold,
                        Err(refusal) => return Err((refusal, Some(client))),
                    };
                    let end = worker.holds.wait(hold, &client, has_sent, retry_after).await;
                    if end != HoldEnd::Released {
                        return Err((Refusal::Hold(end), Some(client)));
                    }
                    client = rearmed(client)?;
                    self.tried.clear();
                }
                Choice::Dial { route, plan, backend, pool } => {
                    let header = caller.header(route.approach.send_proxy_protocol, &client);
                    let listener = entrance.plan().name.clone();
                    let facts = SessionFacts { listener, backend, client: caller.source(), since: self.since };
                    match connect_to(worker, route, plan, facts, pool, pool_name, &header).await {
                        Ok(session) => {
                            self.silent = None;
                            return Ok((client, session));
                        }
                        Err(Failure::Stale) => {}
                        Err(Failure::Dial(backend)) => self.tried.push(backend),
                    }
                }
            }
        }
    }

    /// The session was fenced before its backend's first byte. Its backend is not to blame, and it picks
    /// again as if it had just come.
    pub(super) fn was_fenced(&mut self) {
        self.tried.clear();
    }

    /// `session` ended before its backend's first byte, by a reset or in order: it counts as a failed dial.
    /// Later than that the backend is asked for first: servers close on those who stay silent for long.
    pub(super) fn was_unanswered(&mut self, worker: &Worker, session: Established, reset: bool) {
        let Route { backend, epoch, ref name, .. } = session.route;
        tracing::debug!(pool = %session.pool, backend = %name, reset, "a backend ended before its first byte");
        session.backend_live.metrics.count_connect_failure(DialError::Unanswered);
        worker.feedback.dial_failed(backend, epoch, DialError::Unanswered);
        let is_late = worker.clock.now() > session.answer_by;
        if is_late {
            self.tried.clear();
        }
        self.tried.push(backend);
        self.silent = Some(Silent::new(session, reset, is_late));
    }

    /// Its place among those who wait for `pool_name`.
    fn hold_place(
        &mut self,
        worker: &Worker,
        entrance: &Entrance,
        pool_name: &PoolName,
        plan: &HoldPlan,
        pool: &Arc<PoolLive>,
    ) -> Result<&Hold, Refusal> {
        // A reload may have given the listener another pool meanwhile.
        if self.hold.as_ref().is_none_or(|hold| !hold.is_for(pool_name)) {
            self.hold = None;
            self.hold = worker.holds.begin(pool_name, plan, pool, worker.clock, &entrance.metrics);
        }
        self.hold.as_ref().ok_or(Refusal::Hold(HoldEnd::LimitReached))
    }

    /// Looks at the table once and decides what to do next. Everything that outlives the look is cloned out.
    fn choose(&mut self, worker: &Worker, pool_name: &PoolName) -> Choice {
        let published = worker.routes.load();
        let (routes, pool) = match (published.table.pools.get(pool_name), published.live.pools.get(pool_name)) {
            (Some(routes), Some(pool)) => (routes, Arc::clone(pool)),
            _ if self.unknown_pool < UNKNOWN_POOL_WAITS => return Choice::UnknownPool,
            _ => return Choice::Refuse(Refusal::NoBackend),
        };
        match self.silent.as_ref().map(|silent| silent.look(routes)) {
            Some(Look::News) => {
                self.silent = None;
                self.tried.clear();
            }
            Some(Look::SameDoubt) => return self.doubt(routes, worker),
            Some(Look::NoDoubt) | None => {}
        }
        let turn = *self.turn.get_or_insert_with(|| pool.next_turn());
        let picked = if self.tried.len() < routes.dial.connect_attempts {
            routes.pick(turn, &self.tried)
        } else {
            Err(NoRoute::Exhausted)
        };
        match picked {
            Ok(route) => match published.live.backends.get(&route.backend) {
                Some(backend) => {
                    Choice::Dial { route: route.clone(), plan: routes.dial, backend: Arc::clone(backend), pool }
                }
                None => Choice::Refuse(Refusal::NoBackend),
            },
            Err(NoRoute::Exhausted) if self.silent.is_some() => self.doubt(routes, worker),
            Err(why) => {
                self.silent = None;
                without_route(why, routes, pool)
            }
        }
    }

    /// Nobody else is to be tried for now: waits for a verdict on the silent backend or, when it has waited
    /// long enough, believes it.
    fn doubt(&mut self, routes: &Arc<PoolRoutes>, worker: &Worker) -> Choice {
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

fn without_route(why: NoRoute, routes: &PoolRoutes, pool: Arc<PoolLive>) -> Choice {
    let plan = routes.hold;
    match (why, plan.when_down) {
        // Nothing is known to be down yet: wait, whatever the policy for being down says.
        (NoRoute::Pending, _) | (NoRoute::Down, WhenDown::Hold) => Choice::Hold { plan, pool, retry_after: None },
        (NoRoute::Exhausted, WhenDown::Hold) => Choice::Hold { plan, pool, retry_after: Some(RETRY_AFTER) },
        (NoRoute::Down, WhenDown::Refuse | WhenDown::UsePreferred) => Choice::Refuse(Refusal::NoBackend),
        (NoRoute::Exhausted, WhenDown::Refuse | WhenDown::UsePreferred) => Choice::Refuse(Refusal::DialFailed),
    }
}

/// Why a backend that was picked did not become the client's.
enum Failure {
    /// It was fenced since it was picked.
    Stale,
    /// It could not be connected to; reported and counted already.
    Dial(BackendId),
}

impl From<Stale> for Failure {
    fn from(Stale: Stale) -> Self {
        Self::Stale
    }
}

/// Is admitted to `route`'s backend, dials it, comes under the fence with its socket, and sends it `header`.
async fn connect_to(
    worker: &Worker,
    route: Route,
    plan: DialPlan,
    facts: SessionFacts,
    pool_live: Arc<PoolLive>,
    pool: PoolName,
    header: &[u8],
) -> Result<Established, Failure> {
    let backend_live = Arc::clone(&facts.backend);
    let admission = worker.registry.admit(worker.index, route.backend, route.epoch, facts)?;
    let begun = worker.clock.now();
    let options = DialOptions { source: route.approach.source_address, keepalive: worker.keepalive };
    let dialled = match connect_with(&route.address, plan.connect_timeout, options).await {
        Ok(server) => {
            let server = Arc::new(server);
            admission.attach_server(&server)?;
            introduce(&server, header, plan.connect_timeout).await.map(|()| server)
        }
        Err(error) => Err(error),
    };
    let error = match dialled {
        Ok(server) => {
            let now = worker.clock.now();
            backend_live.metrics.connections.inc();
            backend_live.metrics.connect_seconds.observe(now.since(begun).as_secs_f64());
            backend_live.metrics.set_last_active(worker.clock.unix_seconds(now));
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
            });
        }
        Err(error) => dial_error(&error),
    };
    backend_live.metrics.count_connect_failure(error);
    worker.feedback.dial_failed(route.backend, route.epoch, error);
    Err(Failure::Dial(route.backend))
}

/// A client that was held, with the runtime looking afresh at what it sent meanwhile.
fn rearmed(client: Arc<Stream>) -> Result<Arc<Stream>, Refused> {
    let gone = || (Refusal::Hold(HoldEnd::ClientLeft), None);
    let client = Arc::into_inner(client).ok_or_else(gone)?;
    client.rearm().map(Arc::new).map_err(|_| gone())
}
