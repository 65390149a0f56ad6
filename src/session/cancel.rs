//! Requests to cancel: each comes on a connection of its own, through whichever listener, and is for one session of one
//! server.
//!
//! The key that it has says which, if the session was opened through us and not encrypted. Else all servers of the listener's
//! pool are asked, those that are not fit too, since a session may be left there; a server that does not know the key does
//! nothing but log a line. Nobody is told an answer, but a client waits for the end, and may then take it that the request has
//! arrived: so it reads the end after all servers have ended. A request is never held: a late one would hit another query.
//!
//! One that is encrypted cannot be read, nor told from a session. It goes where the client's last session went, of those at
//! this listener that are open and whose key could not be read (`routing::Followed`), and so do a client's first few sessions.
//! A client is an IP address; one with more than four such sessions is not followed. Where many come from one address and
//! encrypted requests must arrive, `balance = "source-hash"` sends all that come from there to one server.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::failover::{PoolRoutes, PoolServer, Route};
use crate::model::{CancelKey, CancelWay, ListenerPlan, Place};
use crate::relay::FirstChunk;
use crate::sys::{DialOptions, Stream, connect_with};
use crate::wire::postgres::cancel_request;

use super::caller::{Caller, introduce};
use super::{Entrance, Worker};

/// How long servers may take. They fork, look, and end: two milliseconds.
const SERVERS_WAIT: Duration = Duration::from_secs(2);

/// Passes on that `client` cancels with `key`. When it returns, the servers have ended, or are not waited for any more.
pub(super) async fn pass_on(
    worker: &Rc<Worker>,
    entrance: &Entrance,
    client: &Stream,
    caller: &Caller,
    key: &CancelKey,
) {
    let (servers, way) = match worker.registry.cancel_keys().server(key) {
        Some(server) => (vec![(*server).clone()], CancelWay::Learned),
        None => {
            let published = worker.routes.load();
            let routes = published.table.pools.get(&entrance.plan().pool);
            let servers = routes.map(|routes| routes.servers.clone()).unwrap_or_default();
            let way = if servers.is_empty() { CancelWay::Nowhere } else { CancelWay::Broadcast };
            (servers, way)
        }
    };
    entrance.metrics.count_cancel(way);
    tracing::debug!(client = ?caller.source(), %way, servers = servers.len(), "a request to cancel");
    let mut asked = JoinSet::new();
    for server in servers {
        let header = caller.header(server.approach.send_proxy_protocol, client);
        let request = cancel_request(key);
        let worker = Rc::clone(worker);
        asked.spawn_local(async move { ask(&worker, &server, &header, &request).await });
    }
    // Cancel-safety: both branches only wait; what is asked still is dropped, and its connection closed.
    tokio::select! {
        biased;
        _ = timeout(SERVERS_WAIT, asked.join_all()) => {}
        () = worker.until_cut() => {}
    }
}

/// A place where the client at `ip` has its last session of those whose key could not be read, if there is room.
pub(super) fn follow<'r>(
    worker: &Worker,
    routes: &'r PoolRoutes,
    plan: &ListenerPlan,
    ip: IpAddr,
) -> Option<(&'r Route, Place)> {
    let last = worker.registry.followed().last(&plan.name, ip)?;
    // Only where a pick would look now: a session that was sent elsewhere for want of better keeps nobody there.
    let tier = routes.wanted(Some(plan.target)).1.iter().find(|tier| !tier.routes().iter().all(Route::is_full))?;
    let route = tier.routes().iter().find(|route| route.backend == last)?;
    Some((route, route.load.take(route.max_connections)?))
}

/// Sends `request` to `server` and waits until it ends. What goes wrong is nothing that the client could be told.
async fn ask(worker: &Worker, server: &PoolServer, header: &[u8], request: &[u8]) {
    let options = DialOptions { source: server.approach.source_address };
    let asked = async {
        let connection = connect_with(&server.address, SERVERS_WAIT, options).await?;
        introduce(&connection, header, SERVERS_WAIT).await?;
        connection.send_all(request).await?;
        while FirstChunk::default().receive(&connection, &worker.loans).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    if let Err(error) = asked.await {
        tracing::debug!(backend = %server.name, %error, "a request to cancel did not get through");
    }
}
