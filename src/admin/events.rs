//! The history, a page at a time.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use crate::failover::Refusal;
use crate::model::{BackendName, EVENT_KINDS, EventRecord, PoolName, WallTime, is_of_kind, meant, quote};
use crate::store::{Filter, PAGE_MAX};

use super::Admin;
use super::access::Identity;
use super::answer::Json;
use super::large::Turns;
use super::openapi::shapes::Event;
use super::path::PoolPath;
use super::problem::{Problem, Refused};
use super::query::{Asked, Pairs};

/// Events in one answer, unless the caller says otherwise.
const LIMIT: usize = 100;

/// For so long it is searched whether what is named ever was. Whatever is not known by then may have been: a disk that hangs is
/// answered of by what is looked for itself, which takes longer.
const NAMES_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/api/v1/events", get(all)).route("/api/v1/pools/{pool}/events", get(of_pool))
}

/// Which events.
#[derive(Debug, IntoParams)]
pub(super) struct Wanted {
    /// Those of this pool.
    pool: Option<String>,
    /// Those of this backend.
    backend: Option<String>,
    /// One, or several with commas between them; `pool.*` is all that begin so.
    kind: Option<String>,
    /// Those from this time on, such as `2026-11-21T10:00:00Z`.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<WallTime>,
    /// Those until this time.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<WallTime>,
    /// So many at most; 100 unless it is said. A stream takes none.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Those with a higher number, oldest first; without it the newest.
    pub(super) after: Option<u64>,
}

impl Wanted {
    const KEYS: &[&str] = &["pool", "backend", "kind", "since", "until", "limit", "after"];

    /// All keys but `without`.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub(super) fn read(pairs: Pairs, without: Option<&str>) -> Result<Self, Refused> {
        let known: Vec<&str> = Self::KEYS.iter().copied().filter(|key| Some(*key) != without).collect();
        let mut asked = Asked::read(pairs, Problem::BadEventQuery, &known);
        let wanted = Self {
            pool: asked.text("pool"),
            backend: asked.text("backend"),
            kind: asked.text("kind"),
            since: asked.time("since"),
            until: asked.time("until"),
            limit: asked.limit("limit", PAGE_MAX),
            after: asked.number("after"),
        };
        asked.finish().map(|()| wanted)
    }

    /// The events that are meant and that `caller` may see.
    pub(super) fn filter(&self, caller: &Identity) -> Filter {
        Filter {
            pool: self.pool.as_deref().map(PoolName::from),
            pools: caller.pools.clone(),
            backend: self.backend.as_deref().map(BackendName::from),
            kinds: self.kind.iter().flat_map(|kinds| kinds.split(',')).map(str::to_owned).collect(),
            since: self.since,
            until: self.until,
            is_done: false,
        }
    }
}

/// `GET /events`: newest last; `next` is what `after` is to be for what follows.
async fn all(
    State(admin): State<Admin>,
    Extension(turns): Extension<Turns>,
    caller: Identity,
    pairs: Pairs,
) -> Result<Response, Refused> {
    find(&admin, &turns, &caller, Wanted::read(pairs, None)?, None).await
}

/// `GET /pools/{pool}/events`: the same of one pool.
async fn of_pool(
    State(admin): State<Admin>,
    Extension(turns): Extension<Turns>,
    caller: Identity,
    PoolPath(pool): PoolPath,
    pairs: Pairs,
) -> Result<Response, Refused> {
    let wanted = Wanted::read(pairs, Some("pool"))?;
    let wanted = Wanted { pool: Some(pool.to_string()), ..wanted };
    find(&admin, &turns, &caller, wanted, Some(pool)).await
}

/// What in `filter` is of nothing that is or was: a kind, a pool or a backend; and before that `path`, the pool that the path
/// names. Takes no longer than [`NAMES_WITHIN`].
///
/// # Errors
///
/// Says so, and what was probably meant.
pub(super) async fn check(
    admin: &Admin,
    caller: &Identity,
    filter: &Filter,
    path: Option<PoolName>,
) -> Result<(), Refused> {
    let checked = async {
        // History outlives pools, so that one that is gone can be asked for.
        match path {
            Some(pool) if !is_or_was(admin, &pool).await => Err(Refusal::PoolNotFound(pool).into()),
            Some(_) | None => check_names(admin, caller, filter).await,
        }
    };
    timeout(NAMES_WITHIN, checked).await.unwrap_or(Ok(()))
}

/// The names in `filter`. A pool that the caller does not see is as one of which nothing is known to have happened.
async fn check_names(admin: &Admin, caller: &Identity, filter: &Filter) -> Result<(), Refused> {
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

/// Whether the history has anything of `filter` that was more than asked for in vain, or cannot say.
async fn has_happened(admin: &Admin, filter: Filter) -> bool {
    let page = admin.settings.store().events(Filter { is_done: true, ..filter }, None, 1).await;
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

async fn find(
    admin: &Admin,
    turns: &Turns,
    caller: &Identity,
    wanted: Wanted,
    path: Option<PoolName>,
) -> Result<Response, Refused> {
    let filter = wanted.filter(caller);
    check(admin, caller, &filter, path).await?;
    let limit = wanted.limit.unwrap_or(LIMIT);
    let page = admin.settings.store().events(filter, wanted.after, limit).await.map_err(Problem::from)?;
    let written = turns.write(move || {
        let events = page.events.iter().map(AsRef::as_ref).collect();
        Json(Events { events, next: page.next, partial: page.is_partial }).into_response()
    });
    written.await.ok_or_else(|| Problem::Internal.into())
}
