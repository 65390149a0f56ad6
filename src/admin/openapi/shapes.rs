//! What goes over the wire beside the views: bodies, and the envelopes of answers. What a handler writes as a whole stands
//! beside that handler; nothing is read or written by what stands here. It is here to be described, and `tests/openapi.rs`
//! holds the answers and the bodies of a real daemon against it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::{OpenApi, ToSchema};

use crate::admin::events::Events;
use crate::admin::explain::{Evaluation, Explanation};
use crate::admin::json::{BackendView, PoolView};
use crate::admin::listeners::ListenerView;
use crate::admin::pick::PickView;
use crate::admin::problem::Fault;
use crate::admin::sessions::SessionView;
use crate::admin::tunnels::{Lines, TunnelExplanation};

/// All of them, with the views that they are made of.
#[derive(OpenApi)]
#[openapi(components(schemas(
    Backend,
    BackendDone,
    Durable,
    Evaluation,
    Event,
    EventDone,
    Events,
    Explanation,
    FailoverConfig,
    FailoverOrder,
    FailureReport,
    Lines,
    Listeners,
    Pause,
    PickView,
    PoolDone,
    PoolView,
    Pools,
    ProblemDetails,
    PushedHealth,
    Sessions,
    Status,
    TunnelExplanation
)))]
pub(super) struct Shapes;

/// That it is so.
#[derive(Serialize, ToSchema)]
struct Status {
    status: String,
}

/// All pools that the caller may see.
#[derive(Serialize, ToSchema)]
struct Pools {
    pools: Vec<PoolView>,
}

/// All listeners that the caller may see.
#[derive(Serialize, ToSchema)]
struct Listeners {
    listeners: Vec<ListenerView>,
}

/// Sessions by number.
#[derive(Serialize, ToSchema)]
struct Sessions {
    sessions: Vec<SessionView>,
    /// What `after` is to be for the next page; null after the last one.
    next: Option<u64>,
}

/// Something that happened.
#[derive(Serialize, ToSchema)]
pub(in crate::admin) struct Event {
    /// Its number, which grows; left out if history did not take it.
    id: Option<u64>,
    #[schema(format = DateTime)]
    time: String,
    kind: String,
    pool: Option<String>,
    backend: Option<String>,
    from: Option<String>,
    to: Option<String>,
    reason: Option<String>,
    status: Option<String>,
    duration_ms: Option<f64>,
    actor: String,
    /// The evidence, and whatever else belongs to it.
    #[schema(value_type = Object)]
    detail: Value,
}

/// What an order came to, as an event.
#[derive(Serialize, ToSchema)]
struct EventDone {
    #[serde(flatten)]
    event: Event,
    /// Whether it outlives a restart.
    durable: bool,
}

/// The pool after an order.
#[derive(Serialize, ToSchema)]
struct PoolDone {
    #[serde(flatten)]
    pool: PoolView,
    /// Whether the order outlives a restart.
    durable: bool,
}

/// The backend after an order.
#[derive(Serialize, ToSchema)]
struct BackendDone {
    #[serde(flatten)]
    backend: BackendView,
    /// Whether the order outlives a restart.
    durable: bool,
}

/// The backend after a change of its configuration.
#[derive(Serialize, ToSchema)]
struct Backend {
    backend: Option<BackendView>,
    /// Whether the change outlives a restart.
    durable: bool,
}

/// That it is done.
#[derive(Serialize, ToSchema)]
struct Durable {
    /// Whether it outlives a restart.
    durable: bool,
}

/// A pool's check and failover as they are in force, by the keys of the file.
#[derive(Serialize, ToSchema)]
struct FailoverConfig {
    #[schema(value_type = Object)]
    check: Value,
    #[schema(value_type = Object)]
    failover: Value,
    /// The keys that were set at run time.
    overridden: Vec<String>,
    /// After a change: whether it outlives a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    durable: Option<bool>,
}

/// An error (RFC 9457).
#[derive(Serialize, ToSchema)]
struct ProblemDetails {
    r#type: String,
    title: String,
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// Never changes, so that programs can go by it.
    code: String,
    /// What there is to say of this case.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// What is wrong with each field of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<Fault>>,
}

/// An order to fail over.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FailoverOrder {
    /// The backend that shall serve; the best of the other tiers if it is left out.
    #[schema(min_length = 1, max_length = 512)]
    to: Option<String>,
    /// Why, for the history.
    #[schema(min_length = 1, max_length = 512)]
    reason: Option<String>,
    /// What happens to the sessions that there are: `keep` unless it is said.
    sessions: Option<String>,
}

/// An order to have new clients wait.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Pause {
    /// For how long at most, such as `30s`; until `resume` if it is left out.
    #[schema(pattern = "[0-9] *[a-zµμ:]")]
    timeout: Option<String>,
}

/// That somebody's use of a backend failed.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FailureReport {
    /// What happened, in a line.
    #[schema(min_length = 1, max_length = 512)]
    error: String,
}

/// A verdict from outside.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PushedHealth {
    health: String,
    /// For how long it holds, such as `30s`: a day at most.
    #[schema(pattern = "[0-9] *[a-zµμ:]")]
    ttl: String,
    /// Why, in a line.
    #[schema(min_length = 1, max_length = 512)]
    reason: Option<String>,
    /// Numbers by name, such as `cpu_percent`.
    metrics: Option<BTreeMap<String, f64>>,
}
