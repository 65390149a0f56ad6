//! Floor 5: the HTTP side door. Reads what the control plane answers, what is counted and who is connected;
//! passes on the orders of those who may give them. Lives on the control plane's thread, never on a data-plane thread.

mod audit;
mod backends;
mod body;
mod caller;
mod events;
mod explain;
mod host;
mod json;
mod orders;
mod path;
mod problem;
mod routes;
mod sessions;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{sleep, timeout};

use crate::routing::{ControlHandle, Readiness, Registry, RouteReader};
use crate::settings::Settings;
use crate::sys::{Clock, Listener, Stream};
use crate::telemetry::Metrics;

use caller::Caller;

/// Admin clients served at once. One more, and the one that came first has to go: whoever only holds
/// connections open must not keep a health check from being answered.
const CLIENTS_MAX: usize = 128;

/// A client that has not been served within this time, from accept to the end of the answer, is cut.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that has not sent its request's head within this time is cut.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest head of a request, in bytes.
const HEAD_MAX: usize = 16 * 1024;

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
}

/// Serves at `listener` until `stop` turns true or its sender is gone.
pub async fn serve(admin: Admin, listener: Listener, mut stop: watch::Receiver<bool>) {
    let router = routes::router(admin);
    let mut clients: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        // Cancel-safety: accept leaves a client in the queue or returns it; the watch keeps its value.
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|&stop| stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                clients.retain(|client| !client.is_finished());
                if clients.len() >= CLIENTS_MAX
                    && let Some(oldest) = clients.pop_front()
                {
                    oldest.abort();
                }
                clients.push_back(spawn_local(serve_stream(router.clone(), stream)).abort_handle());
            }
            Err(error) => {
                tracing::debug!(%error, "an admin client was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_stream(router: axum::Router, stream: Stream) {
    let router = router.layer(Extension(Caller::of(&stream)));
    let served = async {
        match stream {
            Stream::Tcp(stream) => serve_client(router, stream).await,
            Stream::Unix(stream) => serve_client(router, stream).await,
        }
    };
    if timeout(CLIENT_TIMEOUT, served).await.is_err() {
        tracing::debug!("an admin client took too long");
    }
}

async fn serve_client<S>(router: axum::Router, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an admin client was cut");
    }
}
