//! Errors as `application/problem+json` (RFC 9457), each with a code that never changes.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

/// An error that a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    /// No pool of that name.
    PoolNotFound,
    /// No session of that number, or it has ended.
    SessionNotFound,
    /// The query has a key or a value that nobody knows.
    BadQuery,
    /// The query for events has a key or a value that nobody knows.
    BadEventQuery,
    /// The request's body is too long, or no JSON.
    BadBody,
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
            Self::BadBody => (StatusCode::BAD_REQUEST, "bad_body", "the body is to be JSON of at most 64 KiB"),
            Self::StoreBusy => {
                (StatusCode::SERVICE_UNAVAILABLE, "store_busy", "too many changes are waiting to be kept; try again")
            }
            Self::StoreFull => {
                (StatusCode::CONFLICT, "limit_reached", "as much is kept as may be; remove something first")
            }
            Self::NotAuthorized => (
                StatusCode::FORBIDDEN,
                "not_authorized",
                "only root and the daemon's own user may change anything, over a Unix socket",
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
        let (status, code, title) = self.parts();
        let body =
            serde_json::json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "code": code });
        (status, [(CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
    }
}
