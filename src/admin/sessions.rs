//! The table of sessions, and closing one.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::model::{SessionId, SessionStatus};
use crate::sys::Clock;

use super::Admin;
use super::audit::{self, Action};
use super::caller::Changer;
use super::problem::Problem;

/// Sessions in one answer, unless the caller says otherwise.
const LIMIT: usize = 1_000;
/// The most there may be in one answer.
const LIMIT_MAX: usize = 10_000;

/// Which sessions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    listener: Option<String>,
    pool: Option<String>,
    backend: Option<String>,
    /// Those with a higher number.
    after: Option<u64>,
    limit: Option<usize>,
}

/// A session as the API shows it.
#[derive(Debug, Serialize)]
struct SessionView {
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
pub(super) async fn list(State(admin): State<Admin>, filter: Result<Query<Filter>, QueryRejection>) -> Response {
    let Ok(Query(filter)) = filter else { return Problem::BadQuery.into_response() };
    let limit = filter.limit.unwrap_or(LIMIT);
    if limit == 0 || limit > LIMIT_MAX {
        return Problem::BadQuery.into_response();
    }
    let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
    let sessions = admin.registry.sessions(SessionId(filter.after.unwrap_or(0)), limit, |facts| {
        is(&filter.listener, facts.listener.as_str())
            && is(&filter.pool, facts.backend.pool.as_str())
            && is(&filter.backend, facts.backend.name.as_str())
    });
    let next = sessions.last().filter(|_| sessions.len() == limit).map(|last| last.id.0);
    let views: Vec<SessionView> = sessions.iter().map(|session| SessionView::new(session, &admin.clock)).collect();
    Json(json!({ "sessions": views, "next": next })).into_response()
}

/// `DELETE /sessions/{id}`: both sides are reset.
pub(super) async fn close(
    State(admin): State<Admin>,
    changer: Changer,
    id: Result<Path<u64>, PathRejection>,
) -> Response {
    let Ok(Path(id)) = id else { return Problem::SessionNotFound.into_response() };
    let action = Action { what: "session.close", pool: None, backend: None, session: Some(id), said: None };
    if !admin.registry.close(SessionId(id)) {
        audit::note(&admin, &changer, &action, Problem::SessionNotFound.code());
        return Problem::SessionNotFound.into_response();
    }
    audit::note(&admin, &changer, &action, "done");
    tracing::info!(session = id, actor = %changer.actor, "a session was closed by an operator");
    StatusCode::NO_CONTENT.into_response()
}
