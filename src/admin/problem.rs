//! Errors as `application/problem+json` (RFC 9457), each with a code that never changes.

use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::failover::Refusal;
use crate::model::{nearest, quote};
use crate::settings::{FieldFault, RejectCode, Rejected};

use super::answer;

/// The type of every error.
pub(super) const PROBLEM: &str = "application/problem+json";

/// The longest name of a field that is repeated, in characters.
const FIELD_MAX: usize = 80;

/// What the query for sessions takes.
const SESSION_QUERY: &str = "the query takes listener, pool, backend, after, and limit from 1 to 10000";

/// What the query for the lines of a tunnel takes.
const LOG_QUERY: &str = "the query takes limit from 1 to 500, and after";

/// What the query for events takes.
const EVENT_QUERY: &str = "the query takes pool, backend, kind, since and until (as 2026-11-21T10:00:00Z), after, and, unless it is a stream, limit from 1 to 1000";

/// Why nobody may change anything over TCP, and what would be right.
const NOBODY_MAY: &str = "over TCP nobody may, since no credentials are configured: write [admin.tokens.NAME] or [admin.jwt], or give [admin] bind a Unix socket, such as unix:/run/changeover/admin.sock, where root and the daemon's own user may";

/// What is said to whoever speaks in clear where TLS is spoken.
const IN_CLEAR: &str = "this address speaks TLS, since [admin.tls] is configured: write https:// instead of http://";

/// What is said to a caller who has as many streams as one may.
const TOO_MANY_STREAMS: &str =
    "this caller follows the events 64 times already, which is the most for one; end one of them";

/// What is said when there is no room for a large answer.
const TOO_MUCH_UNREAD: &str =
    "as much is being read by others as may be, which is 32 MiB; try again after Retry-After seconds";

/// What is said while the store has no room for a change.
const STORE_BUSY: &str = "too many changes are waiting to be kept; try again";

/// What is said once it has as many entries as it may.
const STORE_FULL: &str = "as much is kept as may be; remove something first";

/// An error that a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    /// No pool of that name.
    PoolNotFound,
    /// The pool has no backend of that name.
    BackendNotFound,
    /// Nothing, or not the one that was asked for, is fit to serve.
    NoEligibleBackend,
    /// No new session would get a backend now.
    NothingServes,
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
    /// The query for the next choice has a key or a value that nobody knows.
    BadPickQuery,
    /// The query for a tunnel's lines is wrong.
    BadLogQuery,
    /// The query for events has a key or a value that nobody knows.
    BadEventQuery,
    /// As many follow the events as may.
    TooManySubscribers,
    /// The caller follows them on as many connections as one may.
    TooManyStreams,
    /// Others read as much as may be.
    TooMuchUnread,
    /// There is a backend of that name.
    BackendExists,
    /// Another backend is at that address, or the daemon itself.
    AddressInUse,
    /// The backend stands in the file.
    BackendInFile,
    /// What is to be changed would not be right in the file either.
    InvalidValue,
    /// As much is registered or patched as may be.
    LimitReached,
    /// The store takes no more at the moment.
    StoreBusy,
    /// The store has as many entries as it may.
    StoreFull,
    /// What the caller has presented is not right, or nothing, and something is needed.
    NotAuthenticated,
    /// The caller's role does not suffice.
    NotAuthorized,
    /// The caller owns other pools.
    NotOwner,
    /// It takes a credential, and none is configured.
    NobodyMay,
    /// The caller has changed too much of late, or guessed too often.
    RateLimited,
    /// It came over loopback or a Unix socket and was meant for a name that is not of loopback.
    MisdirectedRequest,
    /// A page of another server has a browser ask for a change.
    OtherPage,
    /// It came in clear to an address where TLS is spoken.
    InClear,
    /// It is nothing that can be read.
    BadRequest,
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
    /// All of them.
    pub(super) const ALL: &[Self] = &[
        Self::PoolNotFound,
        Self::BackendNotFound,
        Self::NoEligibleBackend,
        Self::NothingServes,
        Self::Conflict,
        Self::BadBody,
        Self::InvalidBody,
        Self::BodyTooLarge,
        Self::SessionNotFound,
        Self::BadQuery,
        Self::BadPickQuery,
        Self::BadLogQuery,
        Self::BadEventQuery,
        Self::TooManySubscribers,
        Self::TooManyStreams,
        Self::TooMuchUnread,
        Self::BackendExists,
        Self::AddressInUse,
        Self::BackendInFile,
        Self::InvalidValue,
        Self::LimitReached,
        Self::StoreBusy,
        Self::StoreFull,
        Self::NotAuthenticated,
        Self::NotAuthorized,
        Self::NotOwner,
        Self::NobodyMay,
        Self::RateLimited,
        Self::MisdirectedRequest,
        Self::OtherPage,
        Self::InClear,
        Self::BadRequest,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Starting,
        Self::Draining,
        Self::Internal,
    ];

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
            Self::NothingServes => {
                (StatusCode::SERVICE_UNAVAILABLE, "no_eligible_backend", "no new session would get a backend now")
            }
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "this makes no sense as things stand"),
            Self::BadBody => (StatusCode::BAD_REQUEST, "bad_body", "the body is no JSON object"),
            Self::InvalidBody => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", "a field of the body is not right"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "a body has 64 KiB at most"),
            Self::SessionNotFound => (StatusCode::NOT_FOUND, "session_not_found", "no session of that number is open"),
            Self::BadQuery => (StatusCode::BAD_REQUEST, "bad_query", SESSION_QUERY),
            Self::BadLogQuery => (StatusCode::BAD_REQUEST, "bad_query", LOG_QUERY),
            Self::BadPickQuery => (StatusCode::BAD_REQUEST, "bad_query", "the query takes target and client"),
            Self::BadEventQuery => (StatusCode::BAD_REQUEST, "bad_query", EVENT_QUERY),
            Self::TooManySubscribers => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_subscribers",
                "512 follow the events already, which is the most",
            ),
            Self::TooManyStreams => (StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", TOO_MANY_STREAMS),
            Self::TooMuchUnread => (StatusCode::SERVICE_UNAVAILABLE, "too_much_unread", TOO_MUCH_UNREAD),
            Self::BackendExists => (StatusCode::CONFLICT, "backend_exists", "the pool has a backend of that name"),
            Self::AddressInUse => (StatusCode::CONFLICT, "address_in_use", "that address is taken"),
            Self::BackendInFile => (StatusCode::CONFLICT, "backend_in_file", "the backend stands in the file"),
            Self::InvalidValue => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", "this cannot be set, or not so"),
            Self::LimitReached => (StatusCode::CONFLICT, "limit_reached", "as much is changed at run time as may be"),
            Self::StoreBusy => (StatusCode::SERVICE_UNAVAILABLE, "store_busy", STORE_BUSY),
            Self::StoreFull => (StatusCode::CONFLICT, "limit_reached", STORE_FULL),
            Self::NotAuthenticated => (
                StatusCode::UNAUTHORIZED,
                "not_authenticated",
                "this takes a credential that is right: a token or a JWT, sent as Authorization: Bearer",
            ),
            Self::NotAuthorized => {
                (StatusCode::FORBIDDEN, "not_authorized", "the caller's role does not suffice for this")
            }
            Self::NotOwner => (StatusCode::FORBIDDEN, "not_authorized", "the caller is kept to other pools"),
            Self::NobodyMay => (StatusCode::FORBIDDEN, "not_authorized", NOBODY_MAY),
            Self::RateLimited => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many calls; try again after Retry-After seconds")
            }
            Self::OtherPage => {
                (StatusCode::FORBIDDEN, "cross_origin", "a page of another server may change nothing here")
            }
            Self::MisdirectedRequest => (
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected_request",
                "over loopback and Unix sockets the Host of a request is an IP address or localhost",
            ),
            Self::InClear => (StatusCode::BAD_REQUEST, "tls_required", IN_CLEAR),
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad_request", "the request cannot be read"),
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

/// Has every error be a problem, also one that is not of ours: what the library says of a request that it cannot read.
pub(super) async fn only(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM) {
        return response;
    }
    let problem = match status {
        StatusCode::NOT_FOUND => Problem::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Problem::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => Problem::BodyTooLarge,
        _ if status.is_client_error() => Problem::BadRequest,
        _ => Problem::Internal,
    };
    problem.into_response()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        Refused::from(self).into_response()
    }
}

/// The code of a problem that the audit trail does not know of yet, in the extensions of its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) &'static str);

/// What is wrong with one field of a body, or one key of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
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

    /// There is no `field` among those that are `known`.
    pub(super) fn unknown(field: &str, known: &[&str]) -> Self {
        let guess = match nearest(field, known.iter().copied()) {
            Some(guess) => format!("did you mean `{guess}`?"),
            None if known.is_empty() => "this takes no fields".to_owned(),
            None => format!("known are {}", known.join(", ")),
        };
        Self::new(field, format!("{} is unknown; {guess}", quote(field)))
    }
}

/// A problem with what there is to say of this case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    problem: Problem,
    detail: Option<String>,
    faults: Vec<Fault>,
    is_noted: bool,
}

impl Refused {
    /// The stable code of its problem.
    pub(super) const fn code(&self) -> &'static str {
        self.problem.code()
    }

    /// For the reason `detail`.
    pub(super) const fn because(problem: Problem, detail: String) -> Self {
        Self { problem, detail: Some(detail), faults: Vec::new(), is_noted: false }
    }

    /// The same, once the audit trail has it.
    pub(super) fn noted(self) -> Self {
        Self { is_noted: true, ..self }
    }

    /// For what is wrong with fields of the body or keys of the query.
    pub(super) fn of(problem: Problem, faults: Vec<Fault>) -> Self {
        let all: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
        Self { problem, detail: Some(all.join("; ")), faults, is_noted: false }
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { problem, detail: None, faults: Vec::new(), is_noted: false }
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

impl From<Rejected> for Refused {
    fn from(rejected: Rejected) -> Self {
        let problem = match rejected.code {
            RejectCode::PoolNotFound => Problem::PoolNotFound,
            RejectCode::BackendNotFound => Problem::BackendNotFound,
            RejectCode::BackendExists => Problem::BackendExists,
            RejectCode::AddressInUse => Problem::AddressInUse,
            RejectCode::BackendInFile => Problem::BackendInFile,
            RejectCode::InvalidValue => Problem::InvalidValue,
            RejectCode::LimitReached => Problem::LimitReached,
        };
        let fault = |FieldFault { field, message }| Fault::new(&field, message);
        Self::of(problem, rejected.faults.into_iter().map(fault).collect())
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
        let mut response = (status, answer::of_type(PROBLEM, body.to_string())).into_response();
        if !self.is_noted {
            response.extensions_mut().insert(Code(code));
        }
        if self.problem == Problem::NotAuthenticated {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"changeover\""));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::{Problem, Refused};
    use crate::settings::{FieldFault, RejectCode, Rejected};

    #[test]
    fn what_the_configuration_rejects_is_a_problem_of_the_same_code() {
        for code in RejectCode::ALL {
            let fault = |field: &str| FieldFault { field: field.to_owned(), message: format!("{field} is wrong") };
            let refused = Refused::from(Rejected { code: *code, faults: vec![fault("weight"), fault("check.kind")] });
            assert_eq!(refused.code(), code.label());
            assert_eq!(refused.detail.as_deref(), Some("weight is wrong; check.kind is wrong"));
            assert_eq!(refused.faults.len(), 2);
        }
    }

    #[test]
    fn every_problem_is_among_all_of_them() {
        assert_eq!(Problem::ALL.len(), Problem::Internal as usize + 1);
        for (place, problem) in Problem::ALL.iter().enumerate() {
            assert_eq!(*problem as usize, place);
        }
    }
}
