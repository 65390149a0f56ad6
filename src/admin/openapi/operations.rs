//! What each route takes and answers. Who may is no part of it: that is in the table of `access`.

use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use crate::admin::access::Route;
use crate::admin::{events, pick, sessions, tunnels};

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// There is none, or one that says nothing.
    Nothing,
    /// An object of this shape, that may be left out if all its fields may.
    Shape(&'static str),
    /// The same, and it must be there.
    Required(&'static str),
}

/// What the answer is, if it is no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing but its status.
    Nothing,
    /// JSON of this shape.
    Shape(&'static str),
    /// This document.
    Document,
    /// Something else, of this type.
    Other(&'static str),
}

/// What a route takes and answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    /// What it is for, in a line.
    pub(super) summary: &'static str,
    /// What may be asked for.
    pub(super) query: fn() -> Vec<Parameter>,
    /// What it takes.
    pub(super) body: Body,
    /// The status if all is well.
    pub(super) status: u16,
    /// What it answers then.
    pub(super) answer: Answer,
    /// Whether the answer has an entity tag, by which it is not sent again.
    pub(super) is_tagged: bool,
    /// Whether it goes on after the event that is the last one known.
    pub(super) is_resumed: bool,
}

impl Operation {
    const fn reads(summary: &'static str, answer: Answer) -> Self {
        Self { summary, query: Vec::new, body: Body::Nothing, status: 200, answer, is_tagged: false, is_resumed: false }
    }

    const fn takes(self, body: Body) -> Self {
        Self { body, ..self }
    }

    const fn asks(self, query: fn() -> Vec<Parameter>) -> Self {
        Self { query, ..self }
    }

    const fn tagged(self) -> Self {
        Self { is_tagged: true, ..self }
    }

    const fn resumed(self) -> Self {
        Self { is_resumed: true, ..self }
    }

    const fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

fn events() -> Vec<Parameter> {
    events::Wanted::into_params(|| Some(ParameterIn::Query))
}

fn events_of_pool() -> Vec<Parameter> {
    events().into_iter().filter(|parameter| parameter.name != "pool").collect()
}

fn stream() -> Vec<Parameter> {
    events().into_iter().filter(|parameter| parameter.name != "limit").collect()
}

fn pick() -> Vec<Parameter> {
    pick::Asked::into_params(|| Some(ParameterIn::Query))
}

fn lines() -> Vec<Parameter> {
    tunnels::Wanted::into_params(|| Some(ParameterIn::Query))
}

fn sessions() -> Vec<Parameter> {
    sessions::Filter::into_params(|| Some(ParameterIn::Query))
}

/// What `route` takes and answers; none if nobody has said so.
pub(super) fn of(route: &Route) -> Option<Operation> {
    let rest = route.path.strip_prefix("/api/v1").unwrap_or(route.path);
    if let Some(path) = rest.strip_prefix("/pools/{pool}/backends") {
        return of_backend(route.method, path);
    }
    if let Some(path) = rest.strip_prefix("/pools/{pool}") {
        return of_pool(route.method, path);
    }
    let (json, other) = (Answer::Shape, Answer::Other);
    Some(match (route.method, rest) {
        ("GET", "/healthz") => Operation::reads("The process lives.", json("Status")),
        ("GET", "/readyz") => Operation::reads("Clients should be sent here.", json("Status")),
        ("GET", "/metrics") => Operation::reads("All series, for Prometheus.", other("text/plain")),
        ("GET", "/") => Operation::reads("The dashboard.", other("text/html")).tagged(),
        ("GET", "/dashboard/{file}") => Operation::reads("A file of the dashboard.", other("*/*")).tagged(),
        ("GET", "/openapi.json") => Operation::reads("This document.", Answer::Document),
        ("GET", "/listeners") => {
            Operation::reads("The listeners, with who is connected through them.", json("Listeners"))
        }
        ("GET", "/pools") => Operation::reads("All pools.", json("Pools")).tagged(),
        ("GET", "/events") => Operation::reads("History, newest last.", json("Events")).asks(events),
        ("GET", "/events/stream") => Operation::reads(
            "Events as they happen, as Server-Sent Events; 64 streams at most for one caller, 512 for all.",
            other("text/event-stream"),
        )
        .asks(stream)
        .resumed(),
        ("GET", "/sessions") => Operation::reads("Sessions, by number.", json("Sessions")).asks(sessions),
        ("DELETE", "/sessions/{id}") => {
            Operation::reads("Closes a session: both sides are reset.", Answer::Nothing).status(204)
        }
        _ => return None,
    })
}

fn of_pool(method: &str, path: &str) -> Option<Operation> {
    let json = Answer::Shape;
    let order = |summary| Operation::reads(summary, json("PoolDone"));
    Some(match (method, path) {
        ("GET", "") => Operation::reads("A pool and its backends.", json("PoolView")).tagged(),
        ("GET", "/explain") => Operation::reads("Why traffic goes where it goes.", json("Explanation")).tagged(),
        ("GET", "/pick") => {
            Operation::reads("The choice that a new session would get now, and why.", json("PickView")).asks(pick)
        }
        ("POST", "/evaluate") => {
            Operation::reads("Whether the pool should fail over; changes nothing.", json("Evaluation"))
        }
        ("GET", "/events") => Operation::reads("History of a pool, newest last.", json("Events")).asks(events_of_pool),
        ("POST", "/failover") => {
            Operation::reads("Another tier serves, and the pool is pinned to it.", json("EventDone"))
                .takes(Body::Shape("FailoverOrder"))
        }
        ("POST", "/failback") => {
            Operation::reads("The pool is pinned no more, and its best tier serves.", json("EventDone"))
        }
        ("POST", "/pause") => order("New clients wait.").takes(Body::Shape("Pause")),
        ("POST", "/resume") => order("New clients wait no more."),
        ("POST", "/reset") => order("Forgets what was found out about the backends of a pool."),
        ("POST", "/check") => order("Checks all backends of a pool now."),
        ("GET", "/failover-config") => {
            Operation::reads("How a pool checks and fails over.", json("FailoverConfig")).tagged()
        }
        ("PATCH", "/failover-config") => {
            Operation::reads("Changes how a pool checks and fails over: a JSON merge patch.", json("FailoverConfig"))
                .takes(Body::Required("FailoverPatch"))
        }
        _ => return None,
    })
}

fn of_backend(method: &str, path: &str) -> Option<Operation> {
    let order = |summary| Operation::reads(summary, Answer::Shape("BackendDone"));
    let edit = |summary| Operation::reads(summary, Answer::Shape("Backend"));
    Some(match (method, path) {
        ("POST", "") => edit("Registers a backend.").takes(Body::Required("Registration")).status(201),
        ("PATCH", "/{backend}") => {
            edit("Changes a backend's keys: a JSON merge patch.").takes(Body::Required("BackendPatch"))
        }
        ("DELETE", "/{backend}") => {
            Operation::reads("Removes a backend that was registered.", Answer::Shape("Durable"))
        }
        ("PUT", "/{backend}/health") => order("Pushes a verdict.").takes(Body::Required("PushedHealth")),
        ("POST", "/{backend}/failures") => {
            order("Reports that the use of a backend failed.").takes(Body::Required("FailureReport"))
        }
        ("POST", "/{backend}/successes") => order("Reports that the use of a backend succeeded."),
        ("POST", "/{backend}/reset") => order("Forgets what was found out about a backend."),
        ("POST", "/{backend}/check") => order("Checks a backend now."),
        ("POST", "/{backend}/drain") => order("The backend gets no new sessions; what happens to those it has is set."),
        ("POST", "/{backend}/ready") => order("The backend may serve."),
        ("POST", "/{backend}/tunnel/start") => {
            order("Starts a tunnel that was stopped, or tries one that failed again.")
        }
        ("POST", "/{backend}/tunnel/stop") => order("Stops a tunnel until it is started, also over restarts."),
        ("POST", "/{backend}/tunnel/restart") => order("Ends a tunnel's program and starts it anew."),
        ("GET", "/{backend}/tunnel/logs") => {
            Operation::reads("What a tunnel's program has written, newest last.", Answer::Shape("Lines")).asks(lines)
        }
        ("GET", "/{backend}/tunnel/explain") => {
            Operation::reads("What is run for a tunnel; secrets are not shown.", Answer::Shape("TunnelExplanation"))
        }
        ("POST", "/{backend}/maintenance") => order("The same as drain, and it is not checked."),
        _ => return None,
    })
}
