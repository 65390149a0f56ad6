//! Tunnels: orders to start and stop them, what their programs have written, and what is run for them.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{MethodRouter, get, post};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use crate::config::explain_tunnel;
use crate::failover::{Order, Refusal, TunnelOrder};
use crate::model::TunnelPlan;
use crate::tunnel::{Line, Page};

use super::Admin;
use super::access::Identity;
use super::answer::Json;
use super::body::{Body, Fields, READ_MAX};
use super::orders::{backend_answer, give};
use super::path::BackendPath;
use super::problem::{Problem, Refused};
use super::query::{self, Pairs};

/// Lines in one answer at most: no more are kept of a tunnel.
const LINES_MAX: usize = 500;
/// The same unless the caller says otherwise.
const LINES: usize = 100;

pub(super) fn routes() -> Router<Admin> {
    let tunnel = |path: &str| format!("/api/v1/pools/{{pool}}/backends/{{backend}}/tunnel/{path}");
    Router::new()
        .route(&tunnel("start"), ordered(TunnelOrder::Start))
        .route(&tunnel("stop"), ordered(TunnelOrder::Stop))
        .route(&tunnel("restart"), ordered(TunnelOrder::Restart))
        .route(&tunnel("logs"), get(logs))
        .route(&tunnel("explain"), get(explain))
        .layer(DefaultBodyLimit::max(READ_MAX))
}

/// `POST /pools/{pool}/backends/{backend}/tunnel/…`.
fn ordered(wanted: TunnelOrder) -> MethodRouter<Admin> {
    post(move |State(admin): State<Admin>, by: Identity, path: BackendPath, body: Body| async move {
        Fields::none(body)?;
        let BackendPath(pool, backend) = path;
        let order = Order::Tunnel { pool: pool.clone(), backend: backend.clone(), wanted };
        let done = give(&admin, &by, order).await?;
        backend_answer(&admin, pool, &backend, &done).await
    })
}

/// Which lines.
#[derive(Debug, IntoParams)]
pub(super) struct Wanted {
    /// So many at most; 100 unless it is said.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// Those with a higher number, oldest first; all if none has this number yet, since numbers begin anew with the daemon. Without
    /// it the newest.
    after: Option<u64>,
}

impl Wanted {
    const KEYS: &[&str] = &["limit", "after"];

    fn read(pairs: Pairs) -> Result<Self, Refused> {
        let mut asked = query::Asked::read(pairs, Problem::BadLogQuery, Self::KEYS);
        let wanted = Self { limit: asked.limit("limit", LINES_MAX), after: asked.number("after") };
        asked.finish().map(|()| wanted)
    }
}

/// What a tunnel's program has written, and when it was started and ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Lines {
    lines: Vec<LineView>,
    /// What `after` is to be for what follows.
    next: u64,
    /// Whether there was something between what `after` names and the first of these lines that is not kept any more.
    gap: bool,
}

/// A line.
#[derive(Debug, Serialize, ToSchema)]
struct LineView {
    /// Its number, which grows.
    id: u64,
    #[schema(format = DateTime)]
    time: String,
    text: String,
}

/// `GET /pools/{pool}/backends/{backend}/tunnel/logs`.
async fn logs(State(admin): State<Admin>, path: BackendPath, pairs: Pairs) -> Result<Json<Lines>, Refused> {
    let wanted = Wanted::read(pairs)?;
    let BackendPath(pool, backend) = path;
    let plan = plan_of(&admin, BackendPath(pool.clone(), backend.clone()))?;
    let via = &plan.via;
    let (limit, after) = (wanted.limit.unwrap_or(LINES), wanted.after);
    let of = (via.pool.clone(), via.backend.clone());
    let page = match after {
        Some(after) => match admin.outputs.lines(&of, after, limit) {
            Some(page) if page.next < after => {
                admin.outputs.lines(&of, 0, limit).map(|page| Page { is_gap: true, ..page })
            }
            page => page,
        },
        None => admin.outputs.last_lines(&of, limit),
    };
    // One that was never started has written nothing.
    let page = page.unwrap_or(Page { lines: Vec::new(), next: 0, is_gap: false });
    let line = |line: Line| LineView { id: line.seq, time: line.time.to_string(), text: line.text };
    Ok(Json(Lines {
        lines: page.lines.into_iter().map(line).collect(),
        next: page.next,
        gap: page.is_gap && after.is_some(),
    }))
}

/// What is run for a tunnel.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TunnelExplanation {
    provider: String,
    attach: &'static str,
    /// The tunnel's table with all that its provider adds, as TOML. Secrets are not shown.
    expansion: String,
}

/// `GET /pools/{pool}/backends/{backend}/tunnel/explain`.
async fn explain(State(admin): State<Admin>, path: BackendPath) -> Result<Json<TunnelExplanation>, Refused> {
    let plan = plan_of(&admin, path)?;
    Ok(Json(TunnelExplanation {
        provider: plan.provider.to_string(),
        attach: plan.via.attach.label(),
        expansion: explain_tunnel(&plan),
    }))
}

/// The tunnel of a backend, as it is in force.
fn plan_of(admin: &Admin, BackendPath(name, backend): BackendPath) -> Result<Arc<TunnelPlan>, Refused> {
    let plan = admin.settings.plan();
    let pool = plan.pools.get(&name).ok_or_else(|| Refusal::PoolNotFound(name.clone()))?;
    let found = pool.backends.iter().find(|one| one.name == backend);
    let found = found.ok_or_else(|| Refusal::BackendNotFound(name.clone(), backend.clone()))?;
    let none = || Refusal::Conflict(format!("backend {backend} of pool {name} has no tunnel"));
    Ok(found.tunnel.clone().ok_or_else(none)?)
}
