//! From an accepted client to a connected pair: pick, admit, dial, and the next backend if that
//! fails; hold while there is none.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::failover::{NoRoute, PoolRoutes, Route};
use crate::model::{BackendId, BackendName, DialPlan, HoldEnd, HoldPlan, PoolName, WhenDown};
use crate::routing::{Admission, BackendLive, PoolLive, Stale};
use crate::sys::{Stream, connect, dial_error};

use super::hold::Hold;
use super::{Entrance, Worker};

/// When every dial failed but the table still holds the backends fit, a held client tries again after
/// this time; nearly always a verdict comes first and a new table with it.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// A listener's pool that is not in the table was just removed or is just coming by a reload: so
/// often, and so long each time, the next table is waited for.
const UNKNOWN_POOL_WAITS: u32 = 20;
const UNKNOWN_POOL_WAIT: Duration = Duration::from_millis(50);

/// A client with its backend.
pub(super) struct Established {
    /// Its place in the registry; to be left before the sockets close.
    pub(super) admission: Admission,
    pub(super) client: Arc<Stream>,
    pub(super) backend: Arc<Stream>,
    pub(super) backend_live: Arc<BackendLive>,
    pub(super) pool_live: Arc<PoolLive>,
    pub(super) name: BackendName,
    pub(super) pool: PoolName,
}

/// Why a client got no backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing is fit, and the pool refuses.
    NoBackend,
    /// Every dial failed, and the pool refuses.
    DialFailed,
    /// It was held, in vain.
    Hold(HoldEnd),
}

/// What to do next with a client.
enum Choice {
    /// Try this backend.
    Dial { route: Route, plan: DialPlan, backend: Arc<BackendLive>, pool: Arc<PoolLive> },
    /// Wait for a route or, if one is given, for the time to try again.
    Hold { plan: HoldPlan, pool: Arc<PoolLive>, retry_after: Option<Duration> },
    /// The table does not know the pool.
    UnknownPool,
    /// Turn it away.
    Refuse(Refusal),
}

/// What a client has been through so far.
#[derive(Default)]
struct Attempt {
    turn: Option<u64>,
    tried: Vec<BackendId>,
    hold: Option<Hold>,
    unknown_pool: u32,
}

/// Finds `client` a backend.
pub(super) async fn establish(worker: &Worker, entrance: &Entrance, client: Stream) -> Result<Established, Refusal> {
    let mut client = Arc::new(client);
    let mut attempt = Attempt::default();
    loop {
        let pool_name = entrance.plan().pool.clone();
        match choose(worker, &pool_name, &mut attempt) {
            Choice::Refuse(refusal) => return Err(refusal),
            Choice::UnknownPool => {
                attempt.unknown_pool += 1;
                // Ready early or late, the table is looked at again.
                drop(timeout(UNKNOWN_POOL_WAIT, worker.routes.next()).await);
            }
            Choice::Hold { plan, pool, retry_after } => {
                // A reload may have given the listener another pool meanwhile.
                if attempt.hold.as_ref().is_none_or(|hold| !hold.is_for(&pool_name)) {
                    attempt.hold = None;
                    attempt.hold = worker.holds.begin(&pool_name, &plan, &pool, worker.clock, &entrance.metrics);
                }
                let Some(hold) = &attempt.hold else { return Err(Refusal::Hold(HoldEnd::LimitReached)) };
                let end = worker.holds.wait(hold, &client, retry_after).await;
                if end != HoldEnd::Released {
                    return Err(Refusal::Hold(end));
                }
                client = rearmed(client)?;
                attempt.tried.clear();
            }
            Choice::Dial { route, plan, backend, pool } => {
                match connect_to(worker, &route, plan, &client, &backend, &pool).await {
                    Ok((admission, stream)) => {
                        return Ok(Established {
                            admission,
                            client,
                            backend: stream,
                            backend_live: backend,
                            pool_live: pool,
                            name: route.name,
                            pool: pool_name,
                        });
                    }
                    Err(Failure::Stale) => {}
                    Err(Failure::Dial) => attempt.tried.push(route.backend),
                }
            }
        }
    }
}

/// Looks at the table once and decides what to do next. Everything that outlives the look is cloned out.
fn choose(worker: &Worker, pool_name: &PoolName, attempt: &mut Attempt) -> Choice {
    let published = worker.routes.load();
    let (routes, pool) = match (published.table.pools.get(pool_name), published.live.pools.get(pool_name)) {
        (Some(routes), Some(pool)) => (routes, Arc::clone(pool)),
        _ if attempt.unknown_pool < UNKNOWN_POOL_WAITS => return Choice::UnknownPool,
        _ => return Choice::Refuse(Refusal::NoBackend),
    };
    let turn = *attempt.turn.get_or_insert_with(|| pool.next_turn());
    let picked = if attempt.tried.len() < routes.dial.connect_attempts {
        routes.pick(turn, &attempt.tried)
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
        Err(why) => without_route(why, routes, pool),
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
    Dial,
}

impl From<Stale> for Failure {
    fn from(Stale: Stale) -> Self {
        Self::Stale
    }
}

/// Is admitted to `route`'s backend, dials it, and comes under the fence with both sockets.
async fn connect_to(
    worker: &Worker,
    route: &Route,
    plan: DialPlan,
    client: &Arc<Stream>,
    backend: &BackendLive,
    pool: &PoolLive,
) -> Result<(Admission, Arc<Stream>), Failure> {
    let admission = worker.registry.admit(worker.index, route.backend, route.epoch)?;
    let begun = worker.clock.now();
    let error = match connect(&route.address, plan.connect_timeout).await {
        Ok(stream) => {
            let stream = Arc::new(stream);
            admission.attach(client, &stream)?;
            let now = worker.clock.now();
            backend.metrics.connections.inc();
            backend.metrics.connect_seconds.observe(now.since(begun).as_secs_f64());
            backend.metrics.set_last_active(worker.clock.unix_seconds(now));
            if let Some(since) = pool.since_failover(now) {
                pool.metrics.first_session_seconds.observe(since.as_secs_f64());
            }
            return Ok((admission, stream));
        }
        Err(error) => dial_error(&error),
    };
    backend.metrics.count_connect_failure(error);
    worker.feedback.dial_failed(route.backend, route.epoch, error);
    Err(Failure::Dial)
}

/// A client that was held, with the runtime looking afresh at what it sent meanwhile.
fn rearmed(client: Arc<Stream>) -> Result<Arc<Stream>, Refusal> {
    let gone = Refusal::Hold(HoldEnd::ClientLeft);
    let client = Arc::into_inner(client).ok_or(gone)?;
    client.rearm().map(Arc::new).map_err(|_| gone)
}
