//! Requests to cancel: each comes on a connection of its own, through whichever listener, and is for one session of one
//! server.
//!
//! The key that it has says which, if the session was opened through us and not encrypted. Else all servers of the listener's
//! pool are asked, those that are not fit too, since a session may be left there; a server that does not know the key does
//! nothing but log a line. Nobody is told an answer, but a client waits for the end, and may then take it that the request has
//! arrived: so it reads the end after all servers have ended. One that has gone is not waited for.
//!
//! Anybody may ask with a key that nobody knows, and it costs every server a process: so there is a limit to how many such
//! requests are under way at once, and to how fast they may come from one address ([`Broadcasts`]). What is beyond it is passed
//! on to nobody; it does not wait. What has the key of a session reaches its server whatever others do.
//!
//! A request is never held: a late one would hit another query. One that comes after a request for encryption cannot be told
//! from a session before a server has answered that: if it was held meanwhile, or had to go on to a second server, it ends here.
//! If the server does encrypt, nobody can see that it is a request to cancel, and what was held arrives late.
//!
//! One that is encrypted cannot be read, nor told from a session. It goes where the client's last session went, of those at
//! this listener that are open, whose key could not be read and, if there are such, that wait for an answer
//! (`routing::Followed`); and so do a client's first few sessions.
//! A client is an IP address; one with more than four such sessions is not followed. Where many come from one address and
//! encrypted requests must arrive, `balance = "source-hash"` sends all that come from there to one server.

use std::cell::Cell;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::failover::{PoolRoutes, PoolServer, Route, Tier};
use crate::model::{CancelKey, CancelWay, LimitsPlan, ListenerPlan, MonoTime, Place, Rate, Target};
use crate::relay::FirstChunk;
use crate::sys::Stream;
use crate::wire::postgres::cancel_request;

use super::caller::{Caller, introduce};
use super::clients::Clients;
use super::establish::Search;
use super::{Entrance, Worker};

/// How long servers may take. They fork, look, and end: two milliseconds.
const SERVERS_WAIT: Duration = Duration::from_secs(2);

/// The same where nobody is sent, since the server is out: it may hang, and a client that cancels waits for all of them.
const OUT_WAIT: Duration = Duration::from_millis(250);

/// So many requests with keys that nobody knows are under way at once in one thread.
pub const BROADCASTS_MAX: usize = 128;

/// So many of them may be of one address, which so leaves room for others while a server hangs.
const BROADCASTS_OF_ONE: usize = 64;

/// How fast they may come from one address, in one thread; as many come at once. No application cancels faster for long, and
/// the processes that they cost servers are fewer than a stranger could have by connecting.
const BROADCAST_RATE: Rate = Rate { count: 128, per: Duration::from_secs(1) };

/// A request to cancel.
pub(super) struct Request {
    pub(super) key: CancelKey,
    /// Its client was held or delayed before it could say what it wants.
    pub(super) is_late: bool,
}

impl Search {
    /// Whether the client has waited here, or was at a server in vain: not all went well at the first look. If it should turn out
    /// to cancel, that is not passed on, and while it cannot be known it is led to no server that it could mean.
    pub(super) const fn is_late(&self) -> bool {
        self.looks > 1 || self.unknown_pool > 0
    }
}

/// The limits of requests with keys that nobody knows, in one thread.
#[derive(Debug)]
pub(super) struct Broadcasts {
    under_way: Cell<usize>,
    clients: Clients,
    limits: LimitsPlan,
}

impl Default for Broadcasts {
    fn default() -> Self {
        let limits = LimitsPlan {
            rate: Some(BROADCAST_RATE),
            max_connections_per_client: BROADCASTS_OF_ONE,
            ..LimitsPlan::default()
        };
        Self { under_way: Cell::default(), clients: Clients::new(), limits }
    }
}

impl Broadcasts {
    /// Lets one more of a client at `ip` be under way for as long as the result lives; none if that is too many.
    fn begin(&self, ip: Option<IpAddr>, now: MonoTime) -> Option<Broadcast<'_>> {
        let under_way = Some(self.under_way.get()).filter(|&under_way| under_way < BROADCASTS_MAX)?;
        let client = ip.map(|ip| ip.to_canonical());
        self.clients.enter(client, &self.limits, || now).ok()?;
        self.under_way.set(under_way + 1);
        Some(Broadcast { of: self, client })
    }
}

/// One that is under way.
struct Broadcast<'a> {
    of: &'a Broadcasts,
    client: Option<IpAddr>,
}

impl Drop for Broadcast<'_> {
    fn drop(&mut self) {
        self.of.under_way.set(self.of.under_way.get().saturating_sub(1));
        self.of.clients.leave(self.client);
    }
}

/// Passes on the `request` of `client`, unless it is late or one too many. When it returns, the servers have ended, or are not
/// waited for any more.
pub(super) async fn pass_on(
    worker: &Rc<Worker>,
    entrance: &Entrance,
    client: &Stream,
    caller: &Caller,
    request: Request,
) {
    let Request { key, is_late } = &request;
    // Counts until all is over.
    let mut broadcast = None;
    let (servers, way) = match worker.registry.cancel_keys().server(key) {
        _ if *is_late => (Vec::new(), CancelWay::Late),
        Some(server) => (vec![((*server).clone(), SERVERS_WAIT)], CancelWay::Learned),
        None => {
            broadcast = worker.broadcasts.begin(caller.ip(), worker.clock.now());
            match all(worker, &entrance.plan()) {
                none if none.is_empty() => (none, CancelWay::Nowhere),
                servers if broadcast.is_some() => (servers, CancelWay::Broadcast),
                _ => (Vec::new(), CancelWay::Limited),
            }
        }
    };
    entrance.metrics.count_cancel(way);
    tracing::debug!(client = ?caller.source(), %way, servers = servers.len(), "a request to cancel");
    let (left, has_left) = watch::channel(false);
    let mut asked = JoinSet::new();
    for (server, wait) in servers {
        let header = caller.header(server.approach.send_proxy_protocol, client);
        let (request, worker, has_left) = (cancel_request(key), Rc::clone(worker), has_left.clone());
        asked.spawn_local(async move {
            if timeout(wait, ask(&worker, &server, [&header, &request], has_left)).await.is_err() {
                tracing::debug!(backend = %server.name, "a server has not ended after a request to cancel");
            }
        });
    }
    let mut asked = pin!(asked.join_all());
    let mut stays = true;
    loop {
        // Cancel-safety: all branches only wait; what is asked still is dropped at the cut, and its connection closed.
        tokio::select! {
            biased;
            _ = &mut asked => break,
            () = worker.until_cut() => break,
            () = client.gone(false), if stays => stays = false,
        }
        left.send_replace(true);
    }
    drop(broadcast);
}

/// All servers of the listener's pool, and how long each may take.
fn all(worker: &Worker, plan: &ListenerPlan) -> Vec<(PoolServer, Duration)> {
    let published = worker.routes.load();
    let Some(routes) = published.table.pools.get(&plan.pool) else { return Vec::new() };
    let others = routes.others.values().flat_map(|other| &other.tiers);
    let routed = routes.tiers.iter().chain(others).flat_map(Tier::routes);
    let routed: Vec<&Route> = routed.chain(&routes.lingering).collect();
    let wait = |server: &PoolServer| {
        let is_in = routed.iter().any(|route| route.name == server.name);
        if is_in { SERVERS_WAIT } else { OUT_WAIT }
    };
    routes.servers.iter().map(|server| (server.clone(), wait(server))).collect()
}

/// A place where the client at `ip` has its last session of those whose key could not be read, if there is room.
///
/// Without a doubt that is only where a pick would look now: a session that was sent elsewhere for want of better keeps nobody
/// there. But one that waits for an answer may be what is cancelled: then it may be any server that the listener leads to, and a
/// standby that is drained or too far behind. Who is sent there goes with the session that it came after.
pub(super) fn follow(worker: &Worker, routes: &PoolRoutes, plan: &ListenerPlan, ip: IpAddr) -> Option<(Route, Place)> {
    let last = worker.registry.followed().last(&plan.name, ip)?;
    let is_there = |route: &&Route| route.backend == last.backend;
    let tiers = routes.wanted(Some(plan.target)).1;
    let now = tiers.iter().find(|tier| !tier.routes().iter().all(Route::is_full)).map_or(&[][..], Tier::routes);
    let found = now.iter().find(is_there).cloned().or_else(|| {
        let lingering = routes.lingering.iter().filter(|_| plan.target != Target::Primary);
        let lingering = lingering.map(|route| Route { epoch: last.epoch, ..route.clone() });
        let mut any = tiers.iter().flat_map(Tier::routes).cloned().chain(lingering);
        any.find(|route| last.awaits && is_there(&route))
    });
    let route = found?;
    let place = route.load.take(route.max_connections)?;
    Some((route, place))
}

/// Sends `header` and `request` to `server` and waits until it ends or, once it has been sent that, until the client has left.
/// What goes wrong is nothing that the client could be told.
async fn ask(worker: &Worker, server: &PoolServer, [header, request]: [&[u8]; 2], mut has_left: watch::Receiver<bool>) {
    let asked = async {
        let connection = worker.ways.dial(&server.address, SERVERS_WAIT, &server.approach).await?;
        introduce(&connection, header, SERVERS_WAIT).await?;
        connection.send_all(request).await?;
        let end = async {
            while FirstChunk::default().receive(&connection, &worker.loans).await? > 0 {}
            Ok::<_, std::io::Error>(())
        };
        // Cancel-safety: both branches only wait, and what a server says here is of no interest.
        tokio::select! {
            ended = end => ended,
            _ = has_left.wait_for(|left| *left) => Ok(()),
        }
    };
    if let Err(error) = asked.await {
        tracing::debug!(backend = %server.name, %error, "a request to cancel did not get through");
    }
}

#[cfg(test)]
mod tests {
    use super::{BROADCASTS_OF_ONE, Broadcasts};
    use crate::model::MonoTime;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    #[test]
    fn so_many_are_under_way_at_once_and_no_address_comes_faster_for_long() {
        let address = |last| Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
        let (broadcasts, start) = (&Broadcasts::default(), MonoTime::ZERO + Duration::from_secs(9));
        let begin = |last: u8, many: usize| (0..many).filter_map(move |_| broadcasts.begin(address(last), start));
        let one: Vec<_> = begin(1, 100).collect();
        let other: Vec<_> = begin(2, 100).collect();
        assert_eq!([one.len(), other.len(), begin(3, 1).count()], [BROADCASTS_OF_ONE, BROADCASTS_OF_ONE, 0]);
        drop((one, other));
        assert_eq!(begin(1, 100).count(), 64, "the rest of what may come at once");
        assert_eq!([begin(1, 1).count(), begin(3, 1).count()], [0, 1], "too fast is one, which is nobody else's fault");
        let later = |number: u32| start + Duration::from_millis(100) * number;
        let over_time = (0..2000).filter(|&number| broadcasts.begin(address(1), later(number / 20)).is_some());
        let over_time = over_time.count();
        assert!((1260..=1270).contains(&over_time), "{over_time}: 128 a second over 9.9 seconds");
    }
}
