//! Which path answers what.

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::model::PoolName;
use crate::routing::Phase;
use crate::store::StoreFigures;

use super::Admin;
use super::json::PoolView;
use super::problem::Problem;
use super::{backends, events, explain, host, orders, sessions};

/// The version of Prometheus' text format that is written.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/pools", get(pools))
        .route("/api/v1/pools/{pool}", get(pool))
        .merge(backends::routes())
        .merge(events::routes())
        .route("/api/v1/sessions", get(sessions::list))
        .route("/api/v1/sessions/{id}", delete(sessions::close))
        .merge(orders::routes())
        .merge(explain::routes())
        .fallback(|| async { Problem::NotFound })
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        .with_state(admin)
        .layer(from_fn(host::check))
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

async fn metrics(State(admin): State<Admin>) -> Response {
    let Some(pools) = admin.control.pools().await else { return Problem::Internal.into_response() };
    let StoreFigures { is_degraded, failed_writes, history_events, .. } = admin.settings.store().figures();
    admin.metrics.show_store(is_degraded, failed_writes, history_events);
    // Many backends make much text, and the control plane has better things to do meanwhile.
    let encoded = spawn_blocking(move || admin.metrics.encode(&pools)).await;
    match encoded.map_err(|error| error.to_string()).and_then(|text| text.map_err(|error| error.to_string())) {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            Problem::Internal.into_response()
        }
    }
}

async fn pools(State(admin): State<Admin>) -> Response {
    let Some(pools) = admin.control.pools().await else { return Problem::Internal.into_response() };
    let published = admin.routes.load();
    let views: Vec<PoolView> = pools.iter().map(|pool| PoolView::new(pool, &published.live, &admin.clock)).collect();
    Json(json!({ "pools": views })).into_response()
}

async fn pool(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    match admin.control.pool(PoolName::from(name.as_str())).await {
        None => Problem::Internal.into_response(),
        Some(None) => Problem::PoolNotFound.into_response(),
        Some(Some(pool)) => {
            let published = admin.routes.load();
            Json(PoolView::new(&pool, &published.live, &admin.clock)).into_response()
        }
    }
}
