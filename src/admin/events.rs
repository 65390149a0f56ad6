//! The history, a page at a time.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use crate::model::{BackendName, PoolName, WallTime};
use crate::store::{Filter, PAGE_MAX};

use super::Admin;
use super::problem::Problem;

/// Events in one answer, unless the caller says otherwise.
const LIMIT: usize = 100;

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/api/v1/events", get(all)).route("/api/v1/pools/{pool}/events", get(of_pool))
}

/// Which events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    pool: Option<String>,
    backend: Option<String>,
    kind: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<usize>,
    /// Those with a higher number, oldest first; without it the newest.
    after: Option<u64>,
}

/// `GET /events`: newest last; `next` is what `after` is to be for what follows.
async fn all(State(admin): State<Admin>, wanted: Result<Query<Wanted>, QueryRejection>) -> Response {
    let Ok(Query(wanted)) = wanted else { return Problem::BadEventQuery.into_response() };
    find(&admin, wanted).await
}

/// `GET /pools/{pool}/events`: the same of one pool.
async fn of_pool(
    State(admin): State<Admin>,
    Path(pool): Path<String>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    match wanted {
        // History outlives pools, so that one that is gone can be asked for.
        Ok(Query(wanted)) if wanted.pool.is_none() => find(&admin, Wanted { pool: Some(pool), ..wanted }).await,
        Ok(_) | Err(_) => Problem::BadEventQuery.into_response(),
    }
}

async fn find(admin: &Admin, wanted: Wanted) -> Response {
    let Wanted { pool, backend, kind, since, until, limit, after } = wanted;
    let limit = limit.unwrap_or(LIMIT);
    let (since, until) = (since.map(|text| text.parse::<WallTime>()), until.map(|text| text.parse::<WallTime>()));
    let (Ok(since), Ok(until)) = (since.transpose(), until.transpose()) else {
        return Problem::BadEventQuery.into_response();
    };
    if limit == 0 || limit > PAGE_MAX {
        return Problem::BadEventQuery.into_response();
    }
    let (pool, backend) = (pool.as_deref().map(PoolName::from), backend.as_deref().map(BackendName::from));
    let filter = Filter { pool, backend, kind, since, until };
    match admin.settings.store().events(filter, after, limit).await {
        Ok(page) => {
            let events: Vec<&crate::model::EventRecord> = page.events.iter().map(AsRef::as_ref).collect();
            Json(json!({ "events": events, "next": page.next, "partial": page.is_partial })).into_response()
        }
        Err(refused) => Problem::from(refused).into_response(),
    }
}
