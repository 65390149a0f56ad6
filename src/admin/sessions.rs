//! The table of sessions, and closing one.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::model::{SessionId, SessionStatus};
use crate::sys::Clock;

use super::Admin;
use super::access::Identity;
use super::answer::Json;
use super::audit::{self, Action};
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
pub(super) async fn list(State(admin): State<Admin>, caller: Identity, pairs: Pairs) -> Result<Response, Refused> {
    let filter = Filter::read(pairs)?;
    let limit = filter.limit.unwrap_or(LIMIT);
    let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
    let sessions = admin.registry.sessions(SessionId(filter.after.unwrap_or(0)), limit, |facts| {
        caller.sees(Some(&facts.backend.pool))
            && is(&filter.listener, facts.listener.as_str())
            && is(&filter.pool, facts.backend.pool.as_str())
            && is(&filter.backend, facts.backend.name.as_str())
    });
    let next = sessions.last().filter(|_| sessions.len() == limit).map(|last| last.id.0);
    let views: Vec<SessionView> = sessions.iter().map(|session| SessionView::new(session, &admin.clock)).collect();
    Ok(Json(json!({ "sessions": views, "next": next })).into_response())
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
