//! Operators' orders: each is read in full, given to the control plane, and answered once it is in force.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{MethodRouter, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::failover::{Change, Order, Refusal, Transition};
use crate::model::{
    AdminState, BackendName, EventRecord, FailoverStatus, HealthState, PoolName, PoolStatus, PushedHealth,
    SessionPolicy,
};
use crate::routing::Done;

use super::Admin;
use super::audit::{self, Action};
use super::body::{Body, Fields, READ_MAX};
use super::caller::Changer;
use super::json::{BackendView, PoolView};
use super::path::{BackendPath, PoolPath};
use super::problem::{Problem, Refused};

/// The shortest pause.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// The longest time that is taken: a day.
const DAY: Duration = Duration::from_secs(86_400);
/// The shortest time for which a pushed verdict holds.
const TTL_MIN: Duration = Duration::from_secs(1);

type Answer = Result<Json<Value>, Refused>;

pub(super) fn routes() -> Router<Admin> {
    let pool = |path: &str| format!("/api/v1/pools/{{pool}}{path}");
    let backend = |path: &str| format!("/api/v1/pools/{{pool}}/backends/{{backend}}{path}");
    Router::new()
        .route(&pool("/failover"), post(fail_over))
        .route(&pool("/failback"), post(fail_back))
        .route(&pool("/pause"), post(pause))
        .route(&pool("/resume"), of_pool(|pool| Order::Resume { pool }))
        .route(&pool("/reset"), of_pool(|pool| Order::Reset { pool, backend: None }))
        .route(&pool("/check"), of_pool(|pool| Order::Probe { pool, backend: None }))
        .route(&backend("/drain"), to_state(AdminState::Drain))
        .route(&backend("/ready"), to_state(AdminState::Ready))
        .route(&backend("/maintenance"), to_state(AdminState::Maintenance))
        .route(&backend("/reset"), of_backend(|pool, backend| Order::Reset { pool, backend: Some(backend) }))
        .route(&backend("/check"), of_backend(|pool, backend| Order::Probe { pool, backend: Some(backend) }))
        .route(&backend("/successes"), of_backend(|pool, backend| Order::ReportSuccess { pool, backend }))
        .route(&backend("/failures"), post(failure))
        .route(&backend("/health"), put(health))
        .layer(DefaultBodyLimit::max(READ_MAX))
}

/// An order for a pool that takes no fields.
fn of_pool(order: fn(PoolName) -> Order) -> MethodRouter<Admin> {
    post(move |State(admin): State<Admin>, by: Changer, PoolPath(pool): PoolPath, body: Body| async move {
        Fields::none(body)?;
        let done = give(&admin, &by, order(pool.clone())).await?;
        pool_answer(&admin, pool, &done).await
    })
}

/// One for a backend.
fn of_backend(order: fn(PoolName, BackendName) -> Order) -> MethodRouter<Admin> {
    post(move |State(admin): State<Admin>, by: Changer, path: BackendPath, body: Body| async move {
        Fields::none(body)?;
        let BackendPath(pool, backend) = path;
        let done = give(&admin, &by, order(pool.clone(), backend.clone())).await?;
        backend_answer(&admin, pool, &backend, &done).await
    })
}

/// One that says what state a backend shall be in.
fn to_state(state: AdminState) -> MethodRouter<Admin> {
    post(move |State(admin): State<Admin>, by: Changer, path: BackendPath, body: Body| async move {
        Fields::none(body)?;
        let BackendPath(pool, backend) = path;
        let done =
            give(&admin, &by, Order::SetAdminState { pool: pool.clone(), backend: backend.clone(), state }).await?;
        backend_answer(&admin, pool, &backend, &done).await
    })
}

/// `POST /pools/{pool}/failover`.
async fn fail_over(State(admin): State<Admin>, by: Changer, PoolPath(pool): PoolPath, body: Body) -> Answer {
    let mut fields = Fields::read(body, &["to", "reason", "sessions"])?;
    let to = fields.text("to", "\"to\": \"pg2\", or leave it out for the best of the other tiers");
    let reason = fields.text("reason", "\"reason\": \"kernel update of pg1\"");
    let sessions = fields.word("sessions", SessionPolicy::LABELS, SessionPolicy::from_label);
    fields.finish()?;
    let to = to.map(|name| BackendName::from(name.as_str()));
    let sessions = sessions.unwrap_or(SessionPolicy::Keep);
    let order = Order::Failover { pool, to, reason, sessions };
    event_answer(&give(&admin, &by, order).await?)
}

/// `POST /pools/{pool}/failback`.
async fn fail_back(State(admin): State<Admin>, by: Changer, PoolPath(pool): PoolPath, body: Body) -> Answer {
    Fields::none(body)?;
    event_answer(&give(&admin, &by, Order::Failback { pool }).await?)
}

/// `POST /pools/{pool}/pause`.
async fn pause(State(admin): State<Admin>, by: Changer, PoolPath(pool): PoolPath, body: Body) -> Answer {
    let mut fields = Fields::read(body, &["timeout"])?;
    let timeout = fields.duration("timeout", PAUSE_MIN, DAY);
    fields.finish()?;
    let until = timeout.map(|timeout| admin.clock.now() + timeout);
    let done = give(&admin, &by, Order::Pause { pool: pool.clone(), until }).await?;
    pool_answer(&admin, pool, &done).await
}

/// `POST /pools/{pool}/backends/{backend}/failures`.
async fn failure(State(admin): State<Admin>, by: Changer, path: BackendPath, body: Body) -> Answer {
    const EXAMPLE: &str = "\"error\": \"connection reset while reading\"";
    let mut fields = Fields::read(body, &["error"])?;
    let error = fields.text("error", EXAMPLE);
    let error = error.unwrap_or_else(|| {
        fields.missing("error", EXAMPLE);
        String::new()
    });
    fields.finish()?;
    let BackendPath(pool, backend) = path;
    let done = give(&admin, &by, Order::ReportFailure { pool: pool.clone(), backend: backend.clone(), error }).await?;
    backend_answer(&admin, pool, &backend, &done).await
}

/// `PUT /pools/{pool}/backends/{backend}/health`.
async fn health(State(admin): State<Admin>, by: Changer, path: BackendPath, body: Body) -> Answer {
    let mut fields = Fields::read(body, &["health", "ttl", "reason", "metrics"])?;
    let health = fields.word("health", HealthState::LABELS, HealthState::from_label);
    let health = health.unwrap_or_else(|| {
        fields.missing("health", "\"health\": \"unhealthy\", or \"healthy\", or \"unknown\" to take it back");
        HealthState::Unknown
    });
    let ttl = fields.duration("ttl", TTL_MIN, DAY);
    let ttl = ttl.unwrap_or_else(|| {
        fields.missing("ttl", "\"ttl\": \"30s\": for how long it holds unless it is said again");
        TTL_MIN
    });
    let reason = fields.text("reason", "\"reason\": \"disk full\"");
    let figures = fields.figures("metrics");
    fields.finish()?;
    let BackendPath(pool, backend) = path;
    let pushed = PushedHealth { health, until: admin.clock.now() + ttl, reason, figures };
    let done = give(&admin, &by, Order::PushHealth { pool: pool.clone(), backend: backend.clone(), pushed }).await?;
    backend_answer(&admin, pool, &backend, &done).await
}

/// What was said with an order, for the audit trail.
fn said(order: &Order) -> Option<Value> {
    match order {
        Order::Failover { to, reason, sessions, .. } => {
            Some(json!({ "to": to, "reason": reason, "sessions": sessions }))
        }
        Order::PushHealth { pushed, .. } => {
            let PushedHealth { health, until: _, reason, figures } = pushed;
            let metrics: BTreeMap<&String, f64> = figures.iter().map(|(name, figure)| (name, *figure)).collect();
            Some(json!({ "health": health, "reason": reason, "metrics": metrics }))
        }
        Order::ReportFailure { error, .. } => Some(json!({ "error": error })),
        Order::SetAdminState { .. }
        | Order::Failback { .. }
        | Order::Pause { .. }
        | Order::Resume { .. }
        | Order::ReportSuccess { .. }
        | Order::Reset { .. }
        | Order::Probe { .. } => None,
    }
}

/// Gives the order and waits until it is in force.
async fn give(admin: &Admin, by: &Changer, order: Order) -> Result<Done, Refused> {
    tracing::debug!(actor = %by.actor, ?order, "ordered");
    let (admin, by) = (admin.clone(), by.clone());
    // It goes to its end and into the audit trail, though whoever gave it may hang up.
    let given = tokio::task::spawn_local(async move {
        let backend = order.backend().cloned();
        let action = Action {
            what: order.label(),
            pool: Some(order.pool().clone()),
            backend,
            session: None,
            said: said(&order),
        };
        let outcome = admin.control.carry_out(by.actor.clone(), order).await.ok_or(Problem::Internal)?;
        let done = outcome.map_err(Refused::from);
        audit::note(&admin, &by, &action, done.as_ref().map_or_else(Refused::code, |_| "done"));
        done
    });
    given.await.map_err(|_| Problem::Internal)?
}

async fn status(admin: &Admin, pool: PoolName) -> Result<PoolStatus, Refused> {
    let known = admin.control.pool(pool.clone()).await.ok_or(Problem::Internal)?;
    Ok(known.ok_or(Refusal::PoolNotFound(pool))?)
}

/// How the pool stands now.
async fn pool_answer(admin: &Admin, pool: PoolName, done: &Done) -> Answer {
    let pool = status(admin, pool).await?;
    Ok(with_durable(json!(PoolView::new(&pool, &admin.routes.load().live, &admin.clock)), done))
}

/// An answer, with whether what was changed outlives a restart.
fn with_durable(mut answer: Value, done: &Done) -> Json<Value> {
    if let Value::Object(fields) = &mut answer {
        fields.insert("durable".to_owned(), json!(done.is_durable));
    }
    Json(answer)
}

/// How the backend stands now.
async fn backend_answer(admin: &Admin, pool: PoolName, name: &BackendName, done: &Done) -> Answer {
    let known = status(admin, pool.clone()).await?;
    let backend = known.backends.iter().find(|backend| backend.name == *name);
    let backend = backend.ok_or_else(|| Refusal::BackendNotFound(pool, name.clone()))?;
    Ok(with_durable(json!(BackendView::new(backend, &admin.routes.load().live, &admin.clock)), done))
}

/// What the order came to, as an event; without a number if the history did not take it. The move itself is what is told,
/// and the release of the pool if nothing moved.
fn event_answer(done: &Done) -> Answer {
    let weight = |(transition, _): &(&Transition, &Arc<EventRecord>)| match &transition.change {
        Change::PoolFailover { status: FailoverStatus::Completed, .. } | Change::PoolFailback { .. } => 2,
        Change::PoolFailover { .. } | Change::PoolUnpinned { .. } => 1,
        Change::BackendHealthy { .. }
        | Change::BackendUnhealthy { .. }
        | Change::BackendAdminState { .. }
        | Change::BackendRegistered { .. }
        | Change::BackendRemoved { .. }
        | Change::PoolDegraded
        | Change::PoolDown { .. }
        | Change::PoolRecovered { .. }
        | Change::PoolPaused { .. }
        | Change::PoolResumed { .. }
        | Change::LatencyHigh { .. }
        | Change::PrimaryChanged { .. }
        | Change::PrimaryRefused { .. }
        | Change::SplitBrain { .. }
        | Change::BackendLagging { .. }
        | Change::WasStalled { .. } => 0,
    };
    // One for each report, in the same order.
    let told = done.reports.iter().zip(&done.events);
    let (_, event) = told.max_by_key(weight).ok_or(Problem::Internal)?;
    let mut answer = json!(**event);
    if let (Value::Object(fields), 0) = (&mut answer, event.id) {
        fields.remove("id");
    }
    Ok(with_durable(answer, done))
}
