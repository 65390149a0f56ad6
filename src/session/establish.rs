//! From an accepted client to a connected pair: pick, admit, dial, and the next backend if that
//! fails or if it ends before its first byte; hold while there is none.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::failover::{Arrival, NoRoute, PoolRoutes, Route, client_key};
use crate::model::{BackendId, BackendName, HoldEnd, HoldPlan, ListenerPlan, MonoTime, PoolKind, Target, WhenDown};
use crate::relay::FirstChunk;
use crate::routing::{InLine, PoolLive, Room, SessionFacts};
use crate::sys::{Gated, Stream};
use crate::wire::postgres::FirstPacket;

use super::caller::Caller;
use super::cancel::follow;
use super::dial::{Established, Failure, Picked, connect_to};
use super::doubt::{self, Look, Silent};
use super::first_packet::first_packet;
use super::hold::Hold;
use super::login::Login;
use super::refusal::{Refusal, Refused};
use super::{Entrance, Worker};

/// When every dial failed but the table still holds the backends fit, a held client tries again after
/// this time; nearly always a verdict comes first and a new table with it.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// A listener's pool that is not in the table was just removed or is just coming by a reload: so
/// often, and so long each time, the next table is waited for.
const UNKNOWN_POOL_WAITS: u32 = 20;
const UNKNOWN_POOL_WAIT: Duration = Duration::from_millis(50);

/// What to do next with a client.
pub(super) enum Choice {
    /// It is a postgres pool: hear first what the client wants.
    Hear,
    /// Try this backend.
    Dial(Picked),
    /// Nobody else is left: let the client have what this one does.
    LastResort(Box<Established>),
    /// Wait so long for a verdict on a backend that ended before its first byte.
    Doubt(MonoTime),
    /// Wait for a route, for room if there is none or, if one is given, for the time to try again.
    Hold { plan: HoldPlan, pool: Arc<PoolLive>, for_room: bool, retry_after: Option<Duration> },
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
    /// What a client of a postgres pool has begun with, once that was read.
    pub(super) packet: Option<FirstPacket>,
    /// How far its login is known.
    pub(super) login: Login,
    /// By which it is picked for, and stands in line, in this pool.
    turn: Option<(Arc<PoolLive>, u64)>,
    pub(super) tried: Vec<BackendId>,
    /// Who the client is to a pool that balances by that.
    client: u64,
    ip: Option<IpAddr>,
    /// Its place among those who wait for room.
    pub(super) line: Option<InLine>,
    /// The server that it tried last, if that said that it has as many sessions as it may.
    pub(super) full: Option<BackendName>,
    /// Its place among those who wait; kept until a backend answers or the dial's time is over.
    pub(super) hold: Option<Hold>,
    pub(super) unknown_pool: u32,
    /// How often a server was looked for, since it is known what the client wants.
    pub(super) looks: u32,
    pub(super) silent: Option<Silent>,
    /// An operator has closed it, at whichever backend it was then.
    pub(super) is_closed: bool,
}

impl Search {
    /// The search for `caller`, who comes at `now`.
    pub(super) fn new(caller: &Caller, now: MonoTime) -> Self {
        Self {
            client: client_key(caller.ip()),
            ip: caller.ip(),
            line: None,
            full: None,
            since: now,
            first: FirstChunk::default(),
            packet: None,
            login: Login::default(),
            turn: None,
            tried: Vec::new(),
            hold: None,
            unknown_pool: 0,
            looks: 0,
            silent: None,
            is_closed: false,
        }
    }

    /// Finds `client` a backend.
    pub(super) async fn establish(
        &mut self,
        worker: &Worker,
        entrance: &Entrance,
        mut client: Arc<Gated>,
        caller: &Caller,
    ) -> Result<(Arc<Gated>, Established), Refused> {
        loop {
            let plan = entrance.plan();
            let refusal = match self.choose(worker, &plan) {
                // Boxed: other pools' sessions should not be larger for it.
                Choice::Hear => match Box::pin(self.hear(worker, &client)).await {
                    Ok(()) => continue,
                    Err(refusal) => refusal,
                },
                Choice::Refuse(refusal) => {
                    // A client that is told why would not read that after a reset.
                    if refusal == Refusal::Closed || (refusal == Refusal::Reset && self.packet.is_none()) {
                        client.reset_on_close();
                    }
                    refusal
                }
                Choice::LastResort(session) => return Ok((client, *session)),
                Choice::Doubt(until) if doubt::wait(worker, self.left(&client, true), until).await => {
                    client = rearmed(client)?;
                    continue;
                }
                Choice::Doubt(_) => Refusal::Hold(HoldEnd::ClientLeft),
                Choice::UnknownPool => {
                    self.unknown_pool += 1;
                    // Ready early or late, the table is looked at again.
                    drop(timeout(UNKNOWN_POOL_WAIT, worker.routes.next()).await);
                    continue;
                }
                Choice::Hold { plan: hold, pool, for_room, retry_after } => {
                    let place = self.hold_place(worker, entrance, &plan, &hold, &pool);
                    if place && for_room && self.line.is_none() {
                        // Room that was given back before it stood in line is not told of: look once more.
                        self.line = Some(pool.stand_in_line(plan.target, self.turn(&pool)));
                        continue;
                    }
                    let end = self.wait(worker, &client, retry_after).await;
                    if end == HoldEnd::Released {
                        client = rearmed(client)?;
                        self.tried.clear();
                        continue;
                    }
                    Refusal::Hold(end)
                }
                Choice::Dial(picked) => {
                    let header = caller.header(picked.route.approach.send_proxy_protocol, &client);
                    let facts = self.facts(&plan, &picked, caller);
                    self.first.set_resend(picked.plan.resend);
                    match connect_to(worker, picked, facts, plan.pool.clone(), &header).await {
                        Ok(session) => {
                            self.forget_silent();
                            if !self.is_closed {
                                return Ok((client, session));
                            }
                        }
                        Err(Failure::Closed) => self.is_closed = true,
                        Err(Failure::Stale) => {}
                        Err(Failure::Dial(backend)) => self.tried.push(backend),
                    }
                    continue;
                }
            };
            return Err(Refused { refusal, client: Some(client) });
        }
    }

    /// Hears what a client of a postgres pool wants.
    async fn hear(&mut self, worker: &Worker, client: &Stream) -> Result<(), Refusal> {
        let packet = first_packet(worker, client, &mut self.first).await.map_err(Refusal::FirstPacket)?;
        let cancels = matches!(packet, FirstPacket::Cancel(_));
        self.packet = Some(packet);
        self.first.set_postgres();
        if cancels { Err(Refusal::Cancels) } else { Ok(()) }
    }

    /// What the session table tells of it at the backend that was `picked`.
    fn facts(&self, plan: &ListenerPlan, picked: &Picked, caller: &Caller) -> SessionFacts {
        let (listener, backend) = (plan.name.clone(), Arc::clone(&picked.backend));
        SessionFacts { listener, backend, client: caller.source(), since: self.since }
    }

    /// Waits in the place that it holds.
    async fn wait(&self, worker: &Worker, client: &Stream, retry_after: Option<Duration>) -> HoldEnd {
        let Some(hold) = &self.hold else { return HoldEnd::LimitReached };
        let left = self.left(client, !self.first.is_empty());
        worker.holds.wait(hold, left, self.line.as_ref(), retry_after).await
    }

    /// Waits until `client` has given up. One that has spoken (`has_sent`) and ends its half may wait for the answer; one of
    /// PostgreSQL's does not, before it is let in.
    async fn left(&self, client: &Stream, has_sent: bool) {
        if self.packet.is_some() { client.ended().await } else { client.gone(has_sent).await }
    }

    /// Takes a place among those who wait for what `plan` says, unless it has one. Whether there was one left.
    fn hold_place(
        &mut self,
        worker: &Worker,
        entrance: &Entrance,
        plan: &ListenerPlan,
        hold: &HoldPlan,
        pool: &Arc<PoolLive>,
    ) -> bool {
        // A reload may have given the listener another pool meanwhile.
        if self.hold.as_ref().is_none_or(|hold| !hold.is_for(plan)) {
            self.hold = None;
            self.hold = worker.holds.begin(plan, hold, pool, worker.clock, &entrance.metrics);
        }
        self.hold.is_some()
    }

    /// Looks at the table once and decides what to do next. Everything that outlives the look is cloned out.
    fn choose(&mut self, worker: &Worker, plan: &ListenerPlan) -> Choice {
        let published = worker.routes.load();
        let (routes, pool) = match (published.table.pools.get(&plan.pool), published.live.pools.get(&plan.pool)) {
            (Some(routes), Some(pool)) => (routes, Arc::clone(pool)),
            _ if self.unknown_pool < UNKNOWN_POOL_WAITS => return Choice::UnknownPool,
            _ => return Choice::Refuse(Refusal::NoBackend),
        };
        if routes.kind == PoolKind::Postgres && self.packet.is_none() {
            return Choice::Hear;
        }
        self.looks = self.looks.saturating_add(1);
        let look = self.silent.as_ref().map(|silent| silent.look(routes));
        if look == Some(Look::News) {
            self.forget_silent();
            self.tried.clear();
        }
        if self.is_closed {
            return Choice::Refuse(Refusal::Closed);
        }
        if look == Some(Look::SameDoubt) {
            return self.doubt(routes, worker);
        }
        match self.take_place(worker, routes, &pool, plan) {
            Ok((route, room)) => match published.live.backends.get(&route.backend) {
                Some(backend) => {
                    let backend = Arc::clone(backend);
                    Choice::Dial(Picked { route, plan: routes.dial, backend, pool, room })
                }
                None => Choice::Refuse(Refusal::NoBackend),
            },
            Err(NoRoute::Exhausted | NoRoute::Full) if self.silent.is_some() => self.doubt(routes, worker),
            Err(why) => {
                self.forget_silent();
                if self.is_closed {
                    return Choice::Refuse(Refusal::Closed);
                }
                without_route(why, routes, pool, !self.tried.is_empty())
            }
        }
    }

    /// Picks a backend and takes a place there; whoever waits in line for room does not do so before its turn.
    fn take_place(
        &mut self,
        worker: &Worker,
        routes: &PoolRoutes,
        pool: &Arc<PoolLive>,
        plan: &ListenerPlan,
    ) -> Result<(Route, Room), NoRoute> {
        let target = plan.target;
        self.line = self.line.take().filter(|line| line.is_of(pool, target));
        // Before it queues, so that its turn is the order of its arrival.
        let turn = self.turn(pool);
        if self.must_queue(routes, pool, target) {
            return Err(NoRoute::Full);
        }
        let may_follow = !self.is_late() && self.packet.as_ref().is_some_and(FirstPacket::is_opaque);
        if let Some((route, place)) = self.ip.filter(|_| may_follow).and_then(|ip| follow(worker, routes, plan, ip)) {
            (self.line, self.full) = (None, None);
            return Ok((route, Room::new(place, Arc::clone(pool))));
        }
        let taken = loop {
            if self.tried.len() >= routes.dial.connect_attempts {
                break Err(NoRoute::Exhausted);
            }
            let chance = worker.chance.next();
            let will_wait = self.line.is_some();
            let (target, client, tried) = (Some(target), self.client, &self.tried);
            let arrival = Arrival { target, turn, client, chance, tried, will_wait };
            let route = match routes.pick(&arrival) {
                Ok(route) => route,
                Err(why) => break Err(why),
            };
            // Somebody else may have taken the last place since the pick saw it; then there is no more to see there.
            if let Some(place) = route.load.take(route.max_connections) {
                break Ok((route.clone(), Room::new(place, Arc::clone(pool))));
            }
        };
        let taken = match taken {
            // The last of them has said so itself.
            Err(NoRoute::Exhausted) if self.full.is_some() => Err(NoRoute::Full),
            taken => taken,
        };
        match &taken {
            // One that was refused as one too many before tries for those behind it: they wait until it has an answer.
            Ok(_) if self.full.take().is_some() => {}
            Err(NoRoute::Full) => {}
            Ok(_) | Err(_) => self.line = None,
        }
        taken
    }

    /// Its turn in `pool`, the same however often it comes back.
    fn turn(&mut self, pool: &Arc<PoolLive>) -> u64 {
        match &self.turn {
            Some((of, turn)) if Arc::ptr_eq(of, pool) => *turn,
            // A reload may have given the listener another pool meanwhile.
            Some(_) | None => self.turn.insert((Arc::clone(pool), pool.next_turn())).1,
        }
    }

    /// Whether others have waited longer for room. One whose dial failed has had its turn, and goes on at once.
    fn must_queue(&self, routes: &PoolRoutes, pool: &PoolLive, target: Target) -> bool {
        let (_, tiers) = routes.wanted(Some(target));
        let waits = routes.hold.when_down == WhenDown::Hold && !tiers.is_empty() && self.tried.is_empty();
        waits && pool.has_line(target) && !self.line.as_ref().is_some_and(InLine::is_first)
    }
}

fn without_route(why: NoRoute, routes: &PoolRoutes, pool: Arc<PoolLive>, has_tried: bool) -> Choice {
    let plan = routes.hold;
    let hold = |for_room, retry_after| Choice::Hold { plan, pool, for_room, retry_after };
    match (why, plan.when_down) {
        // Nothing is known to be down, or it is an operator's will: wait, whatever the policy for being down says.
        (NoRoute::Pending | NoRoute::Paused, _) | (NoRoute::Down, WhenDown::Hold) => hold(false, None),
        (NoRoute::Exhausted, WhenDown::Hold) => hold(false, Some(RETRY_AFTER)),
        (NoRoute::Full, WhenDown::Hold) => hold(true, has_tried.then_some(RETRY_AFTER)),
        (NoRoute::Full, WhenDown::Refuse | WhenDown::UsePreferred) => Choice::Refuse(Refusal::Full),
        (NoRoute::Down, WhenDown::Refuse | WhenDown::UsePreferred) => Choice::Refuse(Refusal::NoBackend),
        (NoRoute::Exhausted, WhenDown::Refuse | WhenDown::UsePreferred) => Choice::Refuse(Refusal::DialFailed),
    }
}

/// A client that was held, with the runtime looking afresh at what it sent meanwhile.
fn rearmed(client: Arc<Gated>) -> Result<Arc<Gated>, Refused> {
    let rearmed = Arc::into_inner(client).and_then(|client| client.into_stream().rearm().ok());
    rearmed
        .map(|client| Arc::new(Gated::new(client)))
        .ok_or(Refused { refusal: Refusal::Hold(HoldEnd::ClientLeft), client: None })
}
