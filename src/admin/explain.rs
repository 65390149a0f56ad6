//! Questions about a pool's choice, which change nothing: why it is so, and whether it should be another.

use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::failover::Refusal;
use crate::model::{Applied, BackendName, BackendStatus, Explanation as Known, MonoTime, PushedVerdict, Rule};
use crate::sys::Clock;

use super::Admin;
use super::answer::Json;
use super::body::{Body, Fields, READ_MAX};
use super::json::BackendView;
use super::large::Turns;
use super::path::PoolPath;
use super::problem::{Problem, Refused};
use super::tag::Tagged;

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/api/v1/pools/{pool}/explain", get(explain))
        .route("/api/v1/pools/{pool}/evaluate", post(evaluate))
        .layer(DefaultBodyLimit::max(READ_MAX))
}

/// Whether the pool should fail over.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Evaluation {
    should_failover: bool,
    from: Vec<String>,
    to: Vec<String>,
    reason: String,
}

/// Why traffic goes where it goes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Explanation {
    pool: String,
    state: &'static str,
    serving: Vec<String>,
    since: Option<String>,
    rules: Vec<RuleView>,
    evidence: Vec<BackendView>,
    #[schema(value_type = AtRunTime)]
    runtime: Value,
    time: String,
    if_active_failed: Option<Prospect>,
}

/// What would happen if all that serve failed now.
#[derive(Debug, Serialize, ToSchema)]
struct Prospect {
    to: Vec<String>,
    rules: Vec<RuleView>,
}

/// What was set at run time, and goes before the file. The first two are the configuration's own to write.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it is here to be described")]
struct AtRunTime {
    #[schema(value_type = Vec<Object>)]
    registered: Vec<Value>,
    #[schema(value_type = Vec<Object>)]
    patched: Vec<Value>,
    /// Verdicts from outside that hold.
    #[schema(value_type = Vec<Object>)]
    pushed: Vec<Value>,
}

/// A rule as it applies.
#[derive(Debug, Serialize, ToSchema)]
struct RuleView {
    rule: &'static str,
    sentence: &'static str,
    detail: String,
    at: Option<String>,
    /// Who ordered it, and when, be it before a restart; null of what nobody ordered.
    by: Option<String>,
    ordered_at: Option<String>,
}

fn rules(list: Vec<Applied>, clock: &Clock) -> Vec<RuleView> {
    let view = |applied: Applied| {
        let ordered_at = applied.by.as_ref().map(|by| by.at.to_string());
        // What is left of a pause counts from the start of the process, a pin from the order.
        let since = ordered_at.clone().filter(|_| applied.rule == Rule::Pinned);
        RuleView {
            rule: applied.rule.label(),
            sentence: applied.rule.sentence(),
            detail: applied.detail,
            at: since.or_else(|| applied.at.map(|at| clock.timestamp(at))),
            by: applied.by.map(|by| by.actor.to_string()),
            ordered_at,
        }
    };
    list.into_iter().map(view).collect()
}

fn names(list: &[BackendName]) -> Vec<String> {
    list.iter().map(BackendName::to_string).collect()
}

/// The verdicts from outside that hold.
fn pushed(backends: &[BackendStatus], clock: &Clock) -> Value {
    let held = backends.iter().filter_map(|backend| Some((backend, backend.pushed.as_ref()?)));
    let view = |(backend, verdict): (&BackendStatus, &PushedVerdict)| {
        json!({
            "backend": backend.name.as_str(),
            "health": verdict.health.label(),
            "reason": verdict.reason,
            "since": clock.timestamp(verdict.since),
            "until": clock.timestamp(verdict.until),
        })
    };
    held.map(view).collect()
}

/// `GET /pools/{pool}/explain`.
async fn explain(
    State(admin): State<Admin>,
    Extension(turns): Extension<Turns>,
    PoolPath(pool): PoolPath,
    asked: HeaderMap,
) -> Result<Response, Refused> {
    let known = admin.control.explain(pool.clone()).await.ok_or(Problem::Internal)?;
    let known = known.ok_or(Refusal::PoolNotFound(pool))?;
    let written = turns.write(move || written(&admin, known));
    Ok(written.await.ok_or(Problem::Internal)?.answer(&asked))
}

/// What is known, as it is answered.
fn written(admin: &Admin, known: Known) -> Tagged {
    let (published, clock) = (admin.routes.load(), &admin.clock);
    let evidence: Vec<BackendView> =
        known.evidence.iter().map(|backend| BackendView::new(backend, &published.live, clock)).collect();
    let stamp = |at: MonoTime| clock.timestamp(at);
    let prospect = known
        .if_active_failed
        .map(|prospect| Prospect { to: names(&prospect.to), rules: rules(prospect.rules, clock) });
    let mut runtime = admin.settings.at_run_time(&known.pool);
    runtime["pushed"] = pushed(&known.evidence, clock);
    let mut answer = Explanation {
        pool: known.pool.to_string(),
        state: known.state.label(),
        serving: names(&known.serving),
        since: known.since.map(stamp),
        rules: rules(known.rules, clock),
        evidence,
        runtime,
        time: String::new(),
        if_active_failed: prospect,
    };
    // The time of the answer makes it no other one.
    let telling = json!(answer).to_string();
    answer.time = stamp(known.at);
    Tagged::by(published.table.generation, &telling, json!(answer).to_string())
}

/// `POST /pools/{pool}/evaluate`.
async fn evaluate(
    State(admin): State<Admin>,
    PoolPath(pool): PoolPath,
    body: Body,
) -> Result<Json<Evaluation>, Refused> {
    Fields::none(body)?;
    let known = admin.control.evaluate(pool.clone()).await.ok_or(Problem::Internal)?;
    let known = known.ok_or(Refusal::PoolNotFound(pool))?;
    Ok(Json(Evaluation {
        should_failover: known.should_failover,
        from: names(&known.from),
        to: names(&known.to),
        reason: known.reason,
    }))
}
