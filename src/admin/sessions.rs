//! The table of sessions, and closing one.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::model::{PoolName, SessionId, SessionStatus, meant, quote};
use crate::routing::SessionFacts;
use crate::sys::Clock;

use super::Admin;
use super::access::Identity;
use super::answer::Json;
use super::audit::{self, Action};
use super::large::Turns;
use super::problem::{Problem, Refused};
use super::query::{Asked, Pairs};

/// Sessions in one answer, unless the caller says otherwise.
const LIMIT: usize = 1_000;
/// The most there may be in one answer.
const LIMIT_MAX: usize = 10_000;

/// Which sessions.
#[derive(Debug, IntoParams)]
pub(super) struct Filter {
    /// Those that came through this listener.
    listener: Option<String>,
    /// Those of this pool.
    pool: Option<String>,
    /// Those of this backend.
    backend: Option<String>,
    /// Those with a higher number.
    after: Option<u64>,
    /// So many at most; 1000 unless it is said.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<usize>,
}

impl Filter {
    const KEYS: &[&str] = &["listener", "pool", "backend", "after", "limit"];

    fn read(pairs: Pairs) -> Result<Self, Refused> {
        let mut asked = Asked::read(pairs, Problem::BadQuery, Self::KEYS);
        let filter = Self {
            listener: asked.text("listener"),
            pool: asked.text("pool"),
            backend: asked.text("backend"),
            after: asked.number("after"),
            limit: asked.limit("limit", LIMIT_MAX),
        };
        asked.finish().map(|()| filter)
    }
}

/// A session as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionView {
    id: u64,
    listener: String,
    pool: String,
    backend: String,
    client: String,
    state: &'static str,
    since: String,
    age_seconds: f64,
    bytes_to_backend: u64,
    bytes_to_client: u64,
}

impl SessionView {
    fn new(session: &SessionStatus, clock: &Clock) -> Self {
        let age = clock.now().since(session.since);
        let [bytes_to_backend, bytes_to_client] = session.moved;
        Self {
            id: session.id.0,
            listener: session.listener.to_string(),
            pool: session.pool.to_string(),
            backend: session.backend.to_string(),
            client: session.client.map_or_else(|| "unix".to_owned(), |client| client.to_string()),
            state: session.state.label(),
            since: clock.timestamp(session.since),
            age_seconds: (age.as_secs_f64() * 1e3).round() / 1e3,
            bytes_to_backend,
            bytes_to_client,
        }
    }
}

/// `GET /sessions`: by number, a page at a time; `next` is what `after` is to be for the next page, or null.
pub(super) async fn list(
    State(admin): State<Admin>,
    Extension(turns): Extension<Turns>,
    caller: Identity,
    pairs: Pairs,
) -> Result<Response, Refused> {
    let filter = Filter::read(pairs)?;
    turns.write(move || page(&admin, &caller, &filter)).await.ok_or(Problem::Internal)?
}

/// The sessions of `filter` that `caller` sees.
fn page(admin: &Admin, caller: &Identity, filter: &Filter) -> Result<Response, Refused> {
    let limit = filter.limit.unwrap_or(LIMIT);
    let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
    let sessions = admin.registry.sessions(SessionId(filter.after.unwrap_or(0)), limit, |facts| {
        caller.sees(Some(&facts.backend.pool))
            && is(&filter.listener, facts.listener.as_str())
            && is(&filter.pool, facts.backend.pool.as_str())
            && is(&filter.backend, facts.backend.name.as_str())
    });
    let next = sessions.last().filter(|_| sessions.len() == limit).map(|last| last.id.0);
    if sessions.is_empty()
        && let Some(unknown) = unknown(admin, caller, filter)
    {
        return Err(Refused::because(Problem::BadQuery, unknown));
    }
    let views: Vec<SessionView> = sessions.iter().map(|session| SessionView::new(session, &admin.clock)).collect();
    Ok(Json(json!({ "sessions": views, "next": next })).into_response())
}

/// The name by which a session is filtered, if it comes into question.
type NameOf<'a> = &'a dyn Fn(&SessionFacts) -> Option<&str>;

/// What `filter` names that is not there, as far as `caller` sees: it is not in force, and has no session from when it was. The
/// names of a later page were right when the first was asked for, and what they name may have gone since.
fn unknown(admin: &Admin, caller: &Identity, filter: &Filter) -> Option<String> {
    if filter.after.is_some() {
        return None;
    }
    let plan = admin.settings.plan();
    let pools = || plan.pools.values().filter(|pool| caller.sees(Some(&pool.name)));
    let of_pool = |name: &PoolName| filter.pool.as_ref().is_none_or(|wanted| wanted == name.as_str());
    let listeners = plan.listeners.values().filter(|listener| caller.sees(Some(&listener.pool)));
    let backends = pools().filter(|pool| of_pool(&pool.name)).flat_map(|pool| &pool.backends);
    let known: [(&str, &Option<String>, Vec<&str>, NameOf<'_>); 3] = [
        ("listener", &filter.listener, listeners.map(|of| of.name.as_str()).collect(), &|of| {
            Some(of.listener.as_str())
        }),
        ("pool", &filter.pool, pools().map(|of| of.name.as_str()).collect(), &|of| Some(of.backend.pool.as_str())),
        ("backend", &filter.backend, backends.map(|of| of.name.as_str()).collect(), &|of| {
            of_pool(&of.backend.pool).then_some(of.backend.name.as_str())
        }),
    ];
    known.into_iter().find_map(|(what, name, known, of)| {
        let name = name.as_deref().filter(|name| !known.contains(name))?;
        let is_of = |facts: &SessionFacts| caller.sees(Some(&facts.backend.pool)) && of(facts) == Some(name);
        let is_gone = admin.registry.sessions(SessionId(0), 1, is_of).is_empty();
        is_gone.then(|| format!("there is no {what} {}{}", quote(name), meant(name, known.into_iter())))
    })
}

/// `DELETE /sessions/{id}`: both sides are reset.
pub(super) async fn close(
    State(admin): State<Admin>,
    caller: Identity,
    id: Result<Path<u64>, PathRejection>,
) -> Response {
    let Ok(Path(id)) = id else { return Problem::SessionNotFound.into_response() };
    // One of a pool that the caller does not own is not there for it.
    let mut found = admin.registry.sessions(SessionId(id.saturating_sub(1)), 1, |_| true);
    let found = found.pop().filter(|session| session.id.0 == id && caller.sees(Some(&session.pool)));
    let (pool, backend) = found.map(|session| (session.pool, session.backend)).unzip();
    let is_there = pool.is_some();
    let action = Action { what: "session.close", pool, backend, session: Some(id), said: None };
    if !is_there || !admin.registry.close(SessionId(id)) {
        audit::note(&admin, &caller, &action, Problem::SessionNotFound.code());
        return Refused::from(Problem::SessionNotFound).noted().into_response();
    }
    audit::note(&admin, &caller, &action, "done");
    tracing::info!(session = id, actor = %caller.actor, "a session was closed by an operator");
    StatusCode::NO_CONTENT.into_response()
}
