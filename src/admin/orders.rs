//! Operators' orders: each is read in full, given to the control plane, and answered once it is in force.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{MethodRouter, post, put};
use serde_json::{Map, Value, json};

use crate::failover::{Change, Order, Refusal, Transition};
use crate::model::{
    AdminState, BackendName, EventRecord, FailoverStatus, HealthState, PoolName, PoolStatus, PushedHealth,
    SessionPolicy,
};
use crate::routing::Done;

use super::Admin;
use super::access::Identity;
use super::answer::Json;
use super::audit::{self, Action};
use super::body::{Body, Fields, READ_MAX};
use super::json::{BackendView, PoolView};
use super::path::{BackendPath, PoolPath};
use super::problem::{Problem, Refused};

/// The shortest pause.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// The longest time that is taken: a day.
const DAY: Duration = Duration::from_secs(86_400);
/// The shortest time for which a pushed verdict holds.
const TTL_MIN: Duration = Duration::from_secs(1);

type Answered = Result<Json<Value>, Refused>;

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
    post(move |State(admin): State<Admin>, by: Identity, PoolPath(pool): PoolPath, body: Body| async move {
        Fields::none(body)?;
        let done = give(&admin, &by, order(pool.clone())).await?;
        pool_answer(&admin, pool, &done).await
    })
}

/// One for a backend.
fn of_backend(order: fn(PoolName, BackendName) -> Order) -> MethodRouter<Admin> {
    post(move |State(admin): State<Admin>, by: Identity, path: BackendPath, body: Body| async move {
        Fields::none(body)?;
        let BackendPath(pool, backend) = path;
        let done = give(&admin, &by, order(pool.clone(), backend.clone())).await?;
        backend_answer(&admin, pool, &backend, &done).await
    })
}

/// One that says what state a backend shall be in.
fn to_state(state: AdminState) -> MethodRouter<Admin> {
    post(move |State(admin): State<Admin>, by: Identity, path: BackendPath, body: Body| async move {
        Fields::none(body)?;
        let BackendPath(pool, backend) = path;
        let done =
            give(&admin, &by, Order::SetAdminState { pool: pool.clone(), backend: backend.clone(), state }).await?;
        backend_answer(&admin, pool, &backend, &done).await
    })
}

/// `POST /pools/{pool}/failover`.
async fn fail_over(State(admin): State<Admin>, by: Identity, PoolPath(pool): PoolPath, body: Body) -> Answered {
    let mut fields = Fields::read(body, &["to", "reason", "sessions"])?;
    let to = fields.text("to", "\"to\": \"pg2\", or leave it out for the best of the other tiers");
    let reason = fields.text("reason", "\"reason\": \"kernel update of pg1\"");
    let sessions = fields.word("sessions", SessionPolicy::LABELS, SessionPolicy::from_label);
    fields.finish()?;
    let to = to.map(|name| BackendName::from(name.as_str()));
    let sessions = sessions.unwrap_or(SessionPolicy::Keep);
    let said = json!({ "to": to, "reason": reason, "sessions": sessions });
    let order = Order::Failover { pool, to, reason, sessions };
    event_answer(&give_saying(&admin, &by, order, Some(said)).await?)
}

/// `POST /pools/{pool}/failback`.
async fn fail_back(State(admin): State<Admin>, by: Identity, PoolPath(pool): PoolPath, body: Body) -> Answered {
    Fields::none(body)?;
    event_answer(&give(&admin, &by, Order::Failback { pool }).await?)
}

/// `POST /pools/{pool}/pause`.
async fn pause(State(admin): State<Admin>, by: Identity, PoolPath(pool): PoolPath, body: Body) -> Answered {
    let mut fields = Fields::read(body, &["timeout"])?;
    let timeout = fields.duration("timeout", PAUSE_MIN, DAY);
    fields.finish()?;
    let until = timeout.map(|timeout| admin.clock.now() + timeout);
    let said = timeout.map(|timeout| json!({ "timeout": format!("{timeout:?}") }));
    let done = give_saying(&admin, &by, Order::Pause { pool: pool.clone(), until }, said).await?;
    pool_answer(&admin, pool, &done).await
}

/// `POST /pools/{pool}/backends/{backend}/failures`.
async fn failure(State(admin): State<Admin>, by: Identity, path: BackendPath, body: Body) -> Answered {
    const EXAMPLE: &str = "\"error\": \"connection reset while reading\"";
    let mut fields = Fields::read(body, &["error"])?;
    let error = fields.text("error", EXAMPLE);
    let error = error.unwrap_or_else(|| {
        fields.missing("error", EXAMPLE);
        String::new()
    });
    fields.finish()?;
    let BackendPath(pool, backend) = path;
    let said = json!({ "error": error });
    let order = Order::ReportFailure { pool: pool.clone(), backend: backend.clone(), error };
    let done = give_saying(&admin, &by, order, Some(said)).await?;
    backend_answer(&admin, pool, &backend, &done).await
}

/// `PUT /pools/{pool}/backends/{backend}/health`.
async fn health(State(admin): State<Admin>, by: Identity, path: BackendPath, body: Body) -> Answered {
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
    let metrics: Map<String, Value> = figures.iter().map(|(name, figure)| (name.clone(), json!(figure))).collect();
    let said = json!({ "health": health, "ttl": format!("{ttl:?}"), "reason": reason, "metrics": metrics });
    let pushed = PushedHealth { health, until: admin.clock.now() + ttl, reason, figures };
    let order = Order::PushHealth { pool: pool.clone(), backend: backend.clone(), pushed };
    let done = give_saying(&admin, &by, order, Some(said)).await?;
    backend_answer(&admin, pool, &backend, &done).await
}

/// Gives an order with which nothing is said. See [`give_saying`].
pub(super) async fn give(admin: &Admin, by: &Identity, order: Order) -> Result<Done, Refused> {
    give_saying(admin, by, order, None).await
}

/// Gives the order and waits until it is in force. What was `said` with it is for the audit trail.
async fn give_saying(admin: &Admin, by: &Identity, order: Order, said: Option<Value>) -> Result<Done, Refused> {
    tracing::debug!(actor = %by.actor, ?order, "ordered");
    let (admin, by) = (admin.clone(), by.clone());
    // It goes to its end and into the audit trail, though whoever gave it may hang up.
    let given = tokio::task::spawn_local(async move {
        let backend = order.backend().cloned();
        let action = Action { what: order.label(), pool: Some(order.pool().clone()), backend, session: None, said };
        let outcome = admin.control.carry_out(by.actor.clone(), order).await.ok_or(Problem::Internal)?;
        let done = outcome.map_err(Refused::from);
        audit::note(&admin, &by, &action, done.as_ref().map_or_else(Refused::code, |_| "done"));
        done.map_err(Refused::noted)
    });
    given.await.map_err(|_| Problem::Internal)?
}

/// How the pool stands after an order, which is in the audit trail by now.
async fn status(admin: &Admin, pool: PoolName) -> Result<PoolStatus, Refused> {
    let known = admin.control.pool(pool.clone()).await.ok_or_else(|| Refused::from(Problem::Internal).noted())?;
    known.ok_or_else(|| Refused::from(Refusal::PoolNotFound(pool)).noted())
}

/// How the pool stands now.
async fn pool_answer(admin: &Admin, pool: PoolName, done: &Done) -> Answered {
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
pub(super) async fn backend_answer(admin: &Admin, pool: PoolName, name: &BackendName, done: &Done) -> Answered {
    let known = status(admin, pool.clone()).await?;
    let backend = known.backends.iter().find(|backend| backend.name == *name);
    let backend = backend.ok_or_else(|| Refused::from(Refusal::BackendNotFound(pool, name.clone())).noted())?;
    Ok(with_durable(json!(BackendView::new(backend, &admin.routes.load().live, &admin.clock)), done))
}

/// What the order came to, as an event; without a number if the history did not take it. The move itself is what is told,
/// and the release of the pool if nothing moved.
fn event_answer(done: &Done) -> Answered {
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
        | Change::Tunnel { .. }
        | Change::WasStalled { .. } => 0,
    };
    // One for each report, in the same order.
    let told = done.reports.iter().zip(&done.events);
    let (_, event) = told.max_by_key(weight).ok_or_else(|| Refused::from(Problem::Internal).noted())?;
    let mut answer = json!(**event);
    if let (Value::Object(fields), 0) = (&mut answer, event.id) {
        fields.remove("id");
    }
    Ok(with_durable(answer, done))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;

    use super::{backend_answer, event_answer, pool_answer};
    use crate::admin::problem::Code;
    use crate::admin::tests::admin;
    use crate::model::{BackendName, PoolName};
    use crate::routing::Done;

    #[tokio::test]
    async fn an_order_that_was_carried_out_and_cannot_be_shown_is_not_noted_as_refused() {
        // Nobody is there who could say how the pool stands.
        let (admin, pool) = (admin(), PoolName::from("p"));
        let done = Done { reports: Vec::new(), events: Vec::new(), is_durable: true };
        let of_backend = backend_answer(&admin, pool.clone(), &BackendName::from("a"), &done).await;
        for answer in [pool_answer(&admin, pool, &done).await, of_backend, event_answer(&done)] {
            let response = answer.into_response();
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(response.extensions().get::<Code>(), None, "the guard would write it down");
        }
    }
}
