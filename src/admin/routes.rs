//! Which path answers what.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Extension, Router};
use hyper::body::Frame;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::routing::Phase;
use crate::store::StoreFigures;

use super::Admin;
use super::access::Identity;
use super::answer::Json;
use super::json::PoolView;
use super::large::{Turns, Unread, bounded};
use super::path::PoolPath;
use super::problem::{self, Problem};
use super::tag::Tagged;
use super::{
    access, backends, dashboard, events, explain, listeners, openapi, orders, pick, sessions, stream, tunnels,
};

/// The version of Prometheus' text format that is written.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// So many pieces of metrics may wait to be sent, each of 64 KiB or little more.
const PIECES: usize = 4;

/// The routes. Each of them wants a line in the table of `access`, which decides who gets as far as here.
pub(super) fn router(admin: Admin) -> Router {
    let unread = Unread::new(admin.clock);
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/pools", get(pools))
        .route("/api/v1/pools/{pool}", get(pool))
        .merge(backends::routes())
        .merge(events::routes())
        .merge(stream::routes())
        .route("/api/v1/sessions", get(sessions::list))
        .route("/api/v1/sessions/{id}", delete(sessions::close))
        .merge(orders::routes())
        .merge(tunnels::routes())
        .merge(explain::routes())
        .merge(pick::routes())
        .merge(listeners::routes())
        .merge(dashboard::routes())
        .merge(openapi::routes())
        .layer(from_fn_with_state(admin.clone(), access::guard))
        .with_state(admin)
        .layer(Extension(Turns::default()))
        .layer(from_fn(problem::only))
        .layer(from_fn_with_state(unread, bounded))
        .layer(map_response(guarded))
}

/// Has every answer say that it is what its type says, and that nobody in between is to keep it: what is shown depends on
/// who asks. One that has a tag may be kept by whoever asks whether it still holds.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let caching = if headers.contains_key(ETAG) { "private, no-cache" } else { "no-store" };
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static(caching));
    response
}

/// For whoever speaks in clear where TLS is spoken: nothing, but what would be right.
pub(super) fn in_clear() -> Router {
    Router::new().fallback(|| async { ([(CONNECTION, "close")], Problem::InClear) }).layer(map_response(guarded))
}

/// The process lives, since it answers.
async fn health() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// Whether clients should be sent here.
async fn ready(State(admin): State<Admin>) -> Response {
    match admin.readiness.phase() {
        Phase::Ready => Json(json!({ "status": "ready" })).into_response(),
        Phase::Starting => Problem::Starting.into_response(),
        Phase::Draining => Problem::Draining.into_response(),
    }
}

/// All series, as a stream of pieces that are made while the ones before are sent. Asks nobody, and holds no lock
/// that others want: what is shown is kept up to date by those whose it is.
async fn metrics(State(admin): State<Admin>) -> Response {
    let StoreFigures { is_degraded, failed_writes, history_events, .. } = admin.settings.store().figures();
    admin.metrics.show_store(is_degraded, failed_writes, history_events);
    let (pieces, mut text) = mpsc::channel(PIECES);
    // Many backends make much text, and the control plane has better things to do meanwhile. Whoever does not read, or
    // has gone, ends it with the connection.
    let written = spawn_blocking(move || {
        let written =
            admin.metrics.write(admin.clock.now(), &mut |piece| pieces.blocking_send(Bytes::from(piece)).is_ok());
        written.map_err(|error| error.to_string())
    });
    // The first piece comes once nothing can fail any more.
    let Some(first) = text.recv().await else {
        let error = written.await.map_err(|error| error.to_string());
        tracing::error!(?error, "the metrics could not be written");
        return Problem::Internal.into_response();
    };
    ([(CONTENT_TYPE, TEXT_FORMAT)], Body::new(Pieces { first: Some(first), text })).into_response()
}

/// A body that comes in pieces.
struct Pieces {
    first: Option<Bytes>,
    text: mpsc::Receiver<Bytes>,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.text.poll_recv(cx),
        };
        next.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// All pools that a caller sees.
#[derive(Serialize)]
struct Pools {
    pools: Vec<PoolView>,
}

async fn pools(
    State(admin): State<Admin>,
    Extension(turns): Extension<Turns>,
    caller: Identity,
    asked: HeaderMap,
) -> Response {
    let found = async {
        let pools = admin.control.pools().await?;
        let (published, clock, caller) = (Arc::clone(&admin.routes.load()), admin.clock, caller.clone());
        Some(move || {
            let seen = pools.iter().filter(|pool| caller.sees(Some(&pool.name)));
            let pools = seen.map(|pool| PoolView::new(pool, &published.live, &clock)).collect();
            Some(Tagged::new(published.table.generation, serde_json::to_string(&Pools { pools }).ok()?))
        })
    };
    match turns.once(format!("pools of {:?}", caller.pools), found).await {
        Some(pools) => pools.answer(&asked),
        None => Problem::Internal.into_response(),
    }
}

async fn pool(
    State(admin): State<Admin>,
    Extension(turns): Extension<Turns>,
    PoolPath(name): PoolPath,
    asked: HeaderMap,
) -> Response {
    let mut problem = Problem::Internal;
    let found = async {
        let Some(pool) = admin.control.pool(name.clone()).await? else {
            problem = Problem::PoolNotFound;
            return None;
        };
        let (published, clock) = (Arc::clone(&admin.routes.load()), admin.clock);
        Some(move || {
            let view = PoolView::new(&pool, &published.live, &clock);
            Some(Tagged::new(published.table.generation, serde_json::to_string(&view).ok()?))
        })
    };
    match turns.once(format!("pool {name}"), found).await {
        Some(pool) => pool.answer(&asked),
        None => problem.into_response(),
    }
}
