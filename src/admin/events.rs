//! The history, a page at a time.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::failover::Refusal;
use crate::model::{BackendName, EVENT_KINDS, EventRecord, PoolName, WallTime, is_of_kind, meant, quote};
use crate::store::{Filter, PAGE_MAX};

use super::Admin;
use super::access::Identity;
use super::openapi::shapes::Event;
use super::path::PoolPath;
use super::problem::{Problem, Refused};

/// Events in one answer, unless the caller says otherwise.
const LIMIT: usize = 100;

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/api/v1/events", get(all)).route("/api/v1/pools/{pool}/events", get(of_pool))
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Those of this pool.
    pool: Option<String>,
    /// Those of this backend.
    backend: Option<String>,
    /// One, or several with commas between them; `pool.*` is all that begin so.
    kind: Option<String>,
    /// Those from this time on, such as `2026-11-21T10:00:00Z`.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Those until this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// So many at most; 100 unless it is said. A stream takes none.
    #[param(minimum = 1, maximum = 1000)]
    pub(super) limit: Option<usize>,
    /// Those with a higher number, oldest first; without it the newest.
    pub(super) after: Option<u64>,
}

impl Wanted {
    /// The events that are meant and that `caller` may see, if the times are such.
    pub(super) fn filter(&self, caller: &Identity) -> Option<Filter> {
        let time = |text: &Option<String>| text.as_ref().map(|text| text.parse::<WallTime>()).transpose().ok();
        Some(Filter {
            pool: self.pool.as_deref().map(PoolName::from),
            pools: caller.pools.clone(),
            backend: self.backend.as_deref().map(BackendName::from),
            kinds: self.kind.iter().flat_map(|kinds| kinds.split(',')).map(str::to_owned).collect(),
            since: time(&self.since)?,
            until: time(&self.until)?,
        })
    }
}

/// `GET /events`: newest last; `next` is what `after` is to be for what follows.
async fn all(State(admin): State<Admin>, caller: Identity, wanted: Result<Query<Wanted>, QueryRejection>) -> Response {
    let Ok(Query(wanted)) = wanted else { return Problem::BadEventQuery.into_response() };
    find(&admin, &caller, wanted).await
}

/// `GET /pools/{pool}/events`: the same of one pool.
async fn of_pool(
    State(admin): State<Admin>,
    caller: Identity,
    PoolPath(pool): PoolPath,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    match wanted {
        // History outlives pools, so that one that is gone can be asked for.
        Ok(_) if !is_or_was(&admin, &pool).await => Refused::from(Refusal::PoolNotFound(pool)).into_response(),
        Ok(Query(wanted)) if wanted.pool.is_none() => {
            find(&admin, &caller, Wanted { pool: Some(pool.to_string()), ..wanted }).await
        }
        Ok(_) | Err(_) => Problem::BadEventQuery.into_response(),
    }
}

/// What in `filter` is of nothing that is or was: a kind, a pool or a backend. A pool that the caller does not see is as one of
/// which nothing is known to have happened.
///
/// # Errors
///
/// Says so, and what was probably meant.
pub(super) async fn check(admin: &Admin, caller: &Identity, filter: &Filter) -> Result<(), Refused> {
    let bad = |detail: String| Err(Refused::because(Problem::BadEventQuery, detail));
    for kind in &filter.kinds {
        if !EVENT_KINDS.iter().any(|known| is_of_kind(known, kind)) {
            // As all of a family are written: `pool.*`.
            let families: Vec<String> =
                EVENT_KINDS.iter().filter_map(|kind| Some(format!("{}.*", kind.split_once('.')?.0))).collect();
            let guess = meant(kind, EVENT_KINDS.iter().copied().chain(families.iter().map(String::as_str)));
            return bad(format!("no event is of the kind {}{guess}", quote(kind)));
        }
    }
    if filter.pool.as_ref().is_some_and(|pool| !caller.sees(Some(pool))) {
        return Ok(());
    }
    let plan = admin.settings.plan();
    let pools = || plan.pools.values().filter(|pool| caller.sees(Some(&pool.name)));
    if let Some(pool) = &filter.pool
        && !is_or_was(admin, pool).await
    {
        let guess = meant(pool.as_str(), pools().map(|pool| pool.name.as_str()));
        return bad(format!("there is no pool {}, nor was there one{guess}", quote(pool.as_str())));
    }
    if let Some(backend) = &filter.backend {
        let of = pools().filter(|pool| filter.pool.as_ref().is_none_or(|wanted| *wanted == pool.name));
        let names = || of.clone().flat_map(|pool| pool.backends.iter()).map(|backend| backend.name.as_str());
        let (pool, pools) = (filter.pool.clone(), caller.pools.clone());
        let of_backend = Filter { pool, pools, backend: Some(backend.clone()), ..Filter::default() };
        if !names().any(|name| name == backend.as_str()) && !has_happened(admin, of_backend).await {
            let guess = meant(backend.as_str(), names());
            return bad(format!("there is no backend {}, nor was there one{guess}", quote(backend.as_str())));
        }
    }
    Ok(())
}

/// Whether there is a pool of that name, or was one.
async fn is_or_was(admin: &Admin, pool: &PoolName) -> bool {
    admin.settings.plan().pools.contains_key(pool)
        || has_happened(admin, Filter { pool: Some(pool.clone()), ..Filter::default() }).await
}

/// Whether the history has anything of `filter`, or cannot say.
async fn has_happened(admin: &Admin, filter: Filter) -> bool {
    let page = admin.settings.store().events(filter, None, 1).await;
    page.map_or(true, |page| page.is_partial || !page.events.is_empty())
}

/// Events, newest last.
#[derive(Serialize, ToSchema)]
pub(super) struct Events<'a> {
    #[schema(value_type = Vec<Event>)]
    events: Vec<&'a EventRecord>,
    /// What `after` is to be for what follows.
    next: u64,
    /// Whether older ones are left out, since they are on a disk that does not answer.
    partial: bool,
}

async fn find(admin: &Admin, caller: &Identity, wanted: Wanted) -> Response {
    let limit = wanted.limit.unwrap_or(LIMIT);
    let Some(filter) = wanted.filter(caller).filter(|_| (1..=PAGE_MAX).contains(&limit)) else {
        return Problem::BadEventQuery.into_response();
    };
    if let Err(refused) = check(admin, caller, &filter).await {
        return refused.into_response();
    }
    match admin.settings.store().events(filter, wanted.after, limit).await {
        Ok(page) => {
            let events = page.events.iter().map(AsRef::as_ref).collect();
            Json(Events { events, next: page.next, partial: page.is_partial }).into_response()
        }
        Err(refused) => Problem::from(refused).into_response(),
    }
}
