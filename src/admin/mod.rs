//! Floor 5: the HTTP side door. Reads what the control plane answers, what is counted and who is connected;
//! passes on the orders of those who may give them, which `access` decides. Lives on a thread of its own: neither those who
//! decide nor those who move bytes wait for a signature to be checked or a page to be written.

mod access;
mod answer;
mod audit;
mod backends;
mod body;
mod dashboard;
mod events;
mod explain;
mod host;
mod json;
mod large;
mod lease;
mod listeners;
mod openapi;
mod orders;
mod path;
mod pick;
mod problem;
mod query;
mod routes;
mod sessions;
mod stream;
mod tag;
#[cfg(test)]
mod tests;
mod tunnels;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::routing::{ControlHandle, Readiness, Registry, RouteReader};
use crate::settings::Settings;
use crate::sys::{Clock, Listener, Stream, bound_unsent};
use crate::telemetry::Metrics;
use crate::tunnel::Outputs;

pub use access::{Access, Credentials, CredentialsError, Need, ROUTES, Route};
use access::{Ends, Peer};
use lease::{Lease, Timed};
pub use stream::Streams;

/// Admin clients served at once. One more, and one has to go that has asked for nothing of late: whoever only holds
/// connections open must not keep a health check from being answered. Streams of events have places of their own.
const CLIENTS_MAX: usize = 128;

/// A client that has not sent its request's head within this time is cut.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that has not agreed on TLS within this time is cut.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The first byte of a client that speaks TLS: a record of its handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// The longest head of a request, in bytes.
const HEAD_MAX: usize = 16 * 1024;

/// What the kernel keeps of a stream of events for a subscriber that does not read, in bytes: with more, it would be long
/// until that is noticed, and 512 of them would be much. Other answers end, and are as fast as the connection.
const UNSENT_MAX: usize = 128 * 1024;

/// After a failed accept, this long a pause: here nobody is in a hurry.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the admin server answers from.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Whom it asks.
    pub control: ControlHandle,
    /// What is counted live.
    pub routes: RouteReader,
    /// The sessions.
    pub registry: Registry,
    /// Where the daemon is in its life.
    pub readiness: Readiness,
    /// All series.
    pub metrics: Arc<Metrics>,
    /// The calendar.
    pub clock: Clock,
    /// What is in force, and where history is kept.
    pub settings: Settings,
    /// Who may what.
    pub access: Access,
    /// What happens, as it happens.
    pub streams: Streams,
    /// What the programs of tunnels have written.
    pub outputs: Outputs,
}

/// Serves at `listener` until `stop` turns true or its sender is gone.
pub async fn serve(admin: Admin, listener: Listener, mut stop: watch::Receiver<bool>) {
    let access = admin.access.clone();
    let router = routes::router(admin);
    let mut clients: VecDeque<Client> = VecDeque::new();
    loop {
        // Cancel-safety: accept leaves a client in the queue or returns it; the watch keeps its value.
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|&stop| stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                clients.retain(|client| !client.served.is_finished() && !client.lease.is_stream());
                if clients.len() >= CLIENTS_MAX
                    && let Some(client) = take_idlest(&mut clients)
                {
                    client.served.abort();
                }
                let lease = Lease::new(stop.clone());
                let served = spawn_local(serve_stream(router.clone(), stream, access.tls(), lease.clone()));
                clients.push_back(Client { served: served.abort_handle(), lease, asked: 0 });
            }
            Err(error) => {
                tracing::debug!(%error, "an admin client was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Somebody who is served.
struct Client {
    served: AbortHandle,
    lease: Lease,
    /// How many requests it had begun when it was last looked at.
    asked: u64,
}

/// Takes the first that waits for no answer and has asked for nothing since it was last looked at, or else the first of all:
/// whoever has an order under way is told what came of it, if anybody is.
fn take_idlest(clients: &mut VecDeque<Client>) -> Option<Client> {
    for _ in 0..clients.len() {
        let mut client = clients.pop_front()?;
        match client.lease.at_rest() {
            Some(asked) if asked == client.asked => return Some(client),
            Some(asked) => client.asked = asked,
            None => {}
        }
        clients.push_back(client);
    }
    clients.pop_front()
}

async fn serve_stream(router: axum::Router, stream: Stream, tls: Option<Arc<ServerConfig>>, lease: Lease) {
    let peer = Peer::of(&stream);
    let router = router.layer(Extension(lease.clone())).layer(Extension(Ends::of(&stream)));
    let served = async {
        match (stream, tls) {
            (Stream::Tcp(stream), None) => serve_client(router, peer, timed(stream, &lease), &lease).await,
            (Stream::Tcp(stream), Some(tls)) => match timeout(HANDSHAKE_TIMEOUT, secured(stream, tls, &lease)).await {
                Ok(Ok(Secured::Tls(stream))) => serve_client(router, peer, stream, &lease).await,
                Ok(Ok(Secured::Clear(stream))) => serve_client(routes::in_clear(), peer, stream, &lease).await,
                Ok(Err(error)) => tracing::debug!(%error, "an admin client agreed on no TLS"),
                Err(_) => tracing::debug!("an admin client took too long to agree on TLS"),
            },
            // The kernel keeps little for a Unix socket as it is.
            (stream @ (Stream::Unix(_) | Stream::Program(_)), _) => {
                serve_client(router, peer, Timed::new(stream, lease.clone()), &lease).await;
            }
        }
    };
    within(&lease, served).await;
}

/// Serves for as long as `lease` allows.
async fn within(lease: &Lease, served: impl Future<Output = ()>) {
    // Cancel-safety: whichever comes first is the end of the connection.
    tokio::select! {
        () = served => {}
        () = lease.overdue() => tracing::debug!("an admin client took too long"),
    }
}

/// How a client speaks where TLS is to be spoken.
enum Secured {
    Tls(Box<TlsStream<Timed<TcpStream>>>),
    Clear(Timed<TcpStream>),
}

/// Agrees on TLS, unless the client's first byte is of anything else.
async fn secured(stream: TcpStream, tls: Arc<ServerConfig>, lease: &Lease) -> std::io::Result<Secured> {
    let mut first = [0];
    let is_clear = stream.peek(&mut first).await? > 0 && first != [TLS_HANDSHAKE];
    let stream = timed(stream, lease);
    if is_clear {
        return Ok(Secured::Clear(stream));
    }
    Ok(Secured::Tls(Box::new(TlsAcceptor::from(tls).accept(stream).await?)))
}

/// `stream` under `lease`. If it is not bounded, it is as it was.
fn timed(stream: TcpStream, lease: &Lease) -> Timed<TcpStream> {
    Timed::new(stream, lease.clone()).bounded(|stream| {
        if let Err(error) = bound_unsent(stream, UNSENT_MAX) {
            tracing::debug!(%error, "what is kept for a subscriber was not bounded");
        }
    })
}

async fn serve_client<S>(router: axum::Router, peer: Peer, stream: S, lease: &Lease)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let (asking, answer) = (lease.ask(), router.call(request));
        async move {
            let answer = answer.await;
            drop(asking);
            answer
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an admin client was cut");
    }
}
