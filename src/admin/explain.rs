//! Questions about a pool's choice, which change nothing: why it is so, and whether it should be another.

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};

use crate::failover::Refusal;
use crate::model::{Applied, BackendName, MonoTime};
use crate::sys::Clock;

use super::Admin;
use super::body::{Body, Fields, READ_MAX};
use super::json::BackendView;
use super::path::PoolPath;
use super::problem::{Problem, Refused};

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/api/v1/pools/{pool}/explain", get(explain))
        .route("/api/v1/pools/{pool}/evaluate", post(evaluate))
        .layer(DefaultBodyLimit::max(READ_MAX))
}

/// A rule as it applies.
#[derive(Debug, Serialize)]
struct RuleView {
    rule: &'static str,
    sentence: &'static str,
    detail: String,
    at: Option<String>,
}

fn rules(list: Vec<Applied>, clock: &Clock) -> Vec<RuleView> {
    let view = |applied: Applied| RuleView {
        rule: applied.rule.label(),
        sentence: applied.rule.sentence(),
        detail: applied.detail,
        at: applied.at.map(|at| clock.timestamp(at)),
    };
    list.into_iter().map(view).collect()
}

fn names(list: &[BackendName]) -> Vec<&str> {
    list.iter().map(BackendName::as_str).collect()
}

/// `GET /pools/{pool}/explain`.
async fn explain(State(admin): State<Admin>, PoolPath(pool): PoolPath) -> Result<Json<Value>, Refused> {
    let known = admin.control.explain(pool.clone()).await.ok_or(Problem::Internal)?;
    let known = known.ok_or(Refusal::PoolNotFound(pool))?;
    let (published, clock) = (admin.routes.load(), &admin.clock);
    let evidence: Vec<BackendView> =
        known.evidence.iter().map(|backend| BackendView::new(backend, &published.live, clock)).collect();
    let stamp = |at: MonoTime| clock.timestamp(at);
    let prospect = known.if_active_failed.map(|prospect| {
        let to = names(&prospect.to);
        json!({ "to": to, "rules": rules(prospect.rules, clock) })
    });
    Ok(Json(json!({
        "pool": known.pool.as_str(),
        "state": known.state.label(),
        "serving": names(&known.serving),
        "since": known.since.map(stamp),
        "rules": rules(known.rules, clock),
        "evidence": evidence,
        "runtime": admin.settings.at_run_time(&known.pool),
        "time": stamp(known.at),
        "if_active_failed": prospect,
    })))
}

/// `POST /pools/{pool}/evaluate`.
async fn evaluate(State(admin): State<Admin>, PoolPath(pool): PoolPath, body: Body) -> Result<Json<Value>, Refused> {
    Fields::none(body)?;
    let known = admin.control.evaluate(pool.clone()).await.ok_or(Problem::Internal)?;
    let known = known.ok_or(Refusal::PoolNotFound(pool))?;
    Ok(Json(json!({
        "should_failover": known.should_failover,
        "from": names(&known.from),
        "to": names(&known.to),
        "reason": known.reason,
    })))
}
