//! Errors as `application/problem+json` (RFC 9457), each with a code that never changes.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::failover::Refusal;
use crate::model::quote;

/// The longest name of a field that is repeated, in characters.
const FIELD_MAX: usize = 80;

/// An error that a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    /// No pool of that name.
    PoolNotFound,
    /// The pool has no backend of that name.
    BackendNotFound,
    /// Nothing, or not the one that was asked for, is fit to serve.
    NoEligibleBackend,
    /// It is so already, or makes no sense as things stand.
    Conflict,
    /// The body is no JSON object.
    BadBody,
    /// A field of the body is wrong, missing or unknown.
    InvalidBody,
    /// The body is longer than is read.
    BodyTooLarge,
    /// No session of that number, or it has ended.
    SessionNotFound,
    /// The query has a key or a value that nobody knows.
    BadQuery,
    /// The query for events has a key or a value that nobody knows.
    BadEventQuery,
    /// The store takes no more at the moment.
    StoreBusy,
    /// The store has as many entries as it may.
    StoreFull,
    /// The caller may read, not change.
    NotAuthorized,
    /// It came over loopback and was meant for a name that is not of loopback.
    MisdirectedRequest,
    /// No such route.
    NotFound,
    /// The route is there, the method is not.
    MethodNotAllowed,
    /// First verdicts are still out.
    Starting,
    /// The daemon is going down.
    Draining,
    /// The daemon could not answer.
    Internal,
}

impl Problem {
    /// Its stable code.
    pub(super) const fn code(self) -> &'static str {
        self.parts().1
    }

    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::PoolNotFound => (StatusCode::NOT_FOUND, "pool_not_found", "no pool of that name"),
            Self::BackendNotFound => {
                (StatusCode::NOT_FOUND, "backend_not_found", "the pool has no backend of that name")
            }
            Self::NoEligibleBackend => {
                (StatusCode::CONFLICT, "no_eligible_backend", "there is no backend that may serve instead")
            }
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "this makes no sense as things stand"),
            Self::BadBody => (StatusCode::BAD_REQUEST, "bad_body", "the body is no JSON object"),
            Self::InvalidBody => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", "a field of the body is not right"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "a body has 64 KiB at most"),
            Self::SessionNotFound => (StatusCode::NOT_FOUND, "session_not_found", "no session of that number is open"),
            Self::BadQuery => (
                StatusCode::BAD_REQUEST,
                "bad_query",
                "the query takes listener, pool, backend, after, and limit from 1 to 10000",
            ),
            Self::BadEventQuery => (
                StatusCode::BAD_REQUEST,
                "bad_query",
                "the query takes pool, backend, kind, since and until (as 2026-11-21T10:00:00Z), after, and limit from 1 to 1000",
            ),
            Self::StoreBusy => {
                (StatusCode::SERVICE_UNAVAILABLE, "store_busy", "too many changes are waiting to be kept; try again")
            }
            Self::StoreFull => {
                (StatusCode::CONFLICT, "limit_reached", "as much is kept as may be; remove something first")
            }
            Self::NotAuthorized => (
                StatusCode::FORBIDDEN,
                "not_authorized",
                "only root and the daemon's own user may change anything, over a Unix socket: give [admin] bind one, such as unix:/run/changeover/admin.sock",
            ),
            Self::MisdirectedRequest => (
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected_request",
                "over loopback the Host of a request is an IP address or localhost",
            ),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "nothing at this path"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not take that method")
            }
            Self::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting", "first verdicts are still out"),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining", "the daemon is going down"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "the daemon could not answer"),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        Refused::from(self).into_response()
    }
}

/// What is wrong with one field of a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Fault {
    /// Its name.
    pub(super) field: String,
    /// What is wrong, and what would be right.
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(field: &str, message: String) -> Self {
        Self { field: field.chars().take(FIELD_MAX).collect(), message }
    }
}

/// A problem with what there is to say of this case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    problem: Problem,
    detail: Option<String>,
    faults: Vec<Fault>,
}

impl Refused {
    /// The stable code of its problem.
    pub(super) const fn code(&self) -> &'static str {
        self.problem.code()
    }

    /// For the reason `detail`.
    pub(super) const fn because(problem: Problem, detail: String) -> Self {
        Self { problem, detail: Some(detail), faults: Vec::new() }
    }

    /// For what is wrong with fields of the body.
    pub(super) fn of(faults: Vec<Fault>) -> Self {
        let all: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
        Self { problem: Problem::InvalidBody, detail: Some(all.join("; ")), faults }
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { problem, detail: None, faults: Vec::new() }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        match &refusal {
            // The names came with the request, and may be anything.
            Refusal::PoolNotFound(pool) => {
                Self::because(Problem::PoolNotFound, format!("there is no pool {}", quote(pool.as_str())))
            }
            Refusal::BackendNotFound(pool, backend) => {
                let backend = quote(backend.as_str());
                Self::because(Problem::BackendNotFound, format!("pool {pool} has no backend {backend}"))
            }
            Refusal::NoEligibleBackend(_) => Self::because(Problem::NoEligibleBackend, refusal.to_string()),
            Refusal::Conflict(_) => Self::because(Problem::Conflict, refusal.to_string()),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, code, title) = self.problem.parts();
        let mut body =
            serde_json::json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "code": code });
        if let Some(detail) = self.detail {
            body["detail"] = detail.into();
        }
        if !self.faults.is_empty() {
            body["errors"] = serde_json::json!(self.faults);
        }
        (status, [(CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
    }
}
