//! The listeners, with who is connected through them.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::model::{Address, ListenerPlan};
use crate::telemetry::ListenerMetrics;

use super::Admin;
use super::access::Identity;
use super::answer::Json;

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/api/v1/listeners", get(list))
}

/// A listener as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ListenerView {
    name: String,
    /// As configured.
    binds: Vec<String>,
    pool: String,
    target: &'static str,
    /// Clients connected now; those that wait for a backend are among them.
    connections: i64,
    held: i64,
    /// Clients that came since it is in the configuration.
    accepted: u64,
    /// Those of them that were turned away, by reason; a reason that nobody met is left out.
    rejected: BTreeMap<&'static str, u64>,
}

impl ListenerView {
    /// Without `metrics` it is coming or going at this moment, and nobody is connected.
    fn new(plan: &ListenerPlan, metrics: Option<&ListenerMetrics>) -> Self {
        let rejected = metrics.into_iter().flat_map(ListenerMetrics::rejected);
        Self {
            name: plan.name.to_string(),
            binds: plan.bind.iter().map(Address::to_string).collect(),
            pool: plan.pool.to_string(),
            target: plan.target.label(),
            connections: metrics.map_or(0, |metrics| metrics.active.get()),
            held: metrics.map_or(0, |metrics| metrics.held.get()),
            accepted: metrics.map_or(0, |metrics| metrics.connections.get()),
            rejected: rejected.filter(|&(_, count)| count > 0).collect(),
        }
    }
}

/// `GET /listeners`.
async fn list(State(admin): State<Admin>, caller: Identity) -> Json<Value> {
    let plan = admin.settings.plan();
    let mine = plan.listeners.values().filter(|plan| caller.sees(Some(&plan.pool)));
    let view = |plan: &ListenerPlan| ListenerView::new(plan, admin.metrics.known_listener(&plan.name).as_ref());
    let views: Vec<ListenerView> = mine.map(|plan| view(plan)).collect();
    Json(json!({ "listeners": views }))
}
