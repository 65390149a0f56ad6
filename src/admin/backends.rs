//! Changes at run time: backends that are registered, changed and removed, and a pool's check and failover.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::model::{BackendName, PoolName};
use crate::settings::{Edit, EditError, FieldFault, RejectCode, Rejected};
use crate::store::Refused;

use super::Admin;
use super::audit::{self, Action};
use super::body::{READ_MAX, bounded};
use super::caller::Changer;
use super::json::BackendView;
use super::problem::Problem;

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/api/v1/pools/{pool}/backends", post(register))
        .route("/api/v1/pools/{pool}/backends/{backend}", patch(change).delete(remove))
        .route("/api/v1/pools/{pool}/failover-config", get(config).patch(configure))
        .layer(DefaultBodyLimit::max(READ_MAX))
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Busy => Self::StoreBusy,
            Refused::Closed => Self::Draining,
            Refused::TooLong(_) => Self::BadBody,
            Refused::Full => Self::StoreFull,
        }
    }
}

/// What came of a change: whether it is durable, or the answer that says why it was not made, and its code.
type Made = Result<bool, (Response, &'static str)>;

/// `POST /pools/{pool}/backends`: `{"name", "address", …}` as in the file.
async fn register(
    State(admin): State<Admin>,
    changer: Changer,
    Path(pool): Path<String>,
    Document(body): Document,
) -> Response {
    let pool = PoolName::from(pool.as_str());
    let edit = Edit::Register(body);
    let name = edit.backend();
    match make(&admin, &changer, &pool, edit).await {
        Ok(durable) => shown(&admin, &pool, name, StatusCode::CREATED, durable).await,
        Err((response, _)) => response,
    }
}

/// `PATCH /pools/{pool}/backends/{backend}`: a JSON merge patch of its table.
async fn change(
    State(admin): State<Admin>,
    changer: Changer,
    Path((pool, backend)): Path<(String, String)>,
    Document(body): Document,
) -> Response {
    let (pool, backend) = (PoolName::from(pool.as_str()), BackendName::from(backend.as_str()));
    match make(&admin, &changer, &pool, Edit::Change(backend.clone(), body)).await {
        Ok(durable) => shown(&admin, &pool, Some(backend), StatusCode::OK, durable).await,
        Err((response, _)) => response,
    }
}

/// `DELETE /pools/{pool}/backends/{backend}`: of one that was registered.
async fn remove(
    State(admin): State<Admin>,
    changer: Changer,
    Path((pool, backend)): Path<(String, String)>,
) -> Response {
    let (pool, backend) = (PoolName::from(pool.as_str()), BackendName::from(backend.as_str()));
    match make(&admin, &changer, &pool, Edit::Remove(backend)).await {
        Ok(durable) => Json(json!({ "durable": durable })).into_response(),
        Err((response, _)) => response,
    }
}

/// `GET /pools/{pool}/failover-config`.
async fn config(State(admin): State<Admin>, Path(pool): Path<String>) -> Response {
    match admin.settings.failover_config(PoolName::from(pool.as_str())).await {
        Some(config) => Json(config).into_response(),
        None => Problem::PoolNotFound.into_response(),
    }
}

/// `PATCH /pools/{pool}/failover-config`: a JSON merge patch of its `check` and `failover`.
async fn configure(
    State(admin): State<Admin>,
    changer: Changer,
    Path(pool): Path<String>,
    Document(body): Document,
) -> Response {
    let pool = PoolName::from(pool.as_str());
    match make(&admin, &changer, &pool, Edit::Patch(body)).await {
        Ok(durable) => {
            let Some(mut config) = admin.settings.failover_config(pool).await else {
                return Problem::PoolNotFound.into_response();
            };
            if let Some(config) = config.as_object_mut() {
                config.insert("durable".to_owned(), Value::from(durable));
            }
            Json(config).into_response()
        }
        Err((response, _)) => response,
    }
}

/// A body that is JSON.
struct Document(Value);

impl<S: Send + Sync> FromRequest<S> for Document {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = bounded(Bytes::from_request(request, state).await)?;
        serde_json::from_slice(&body).map(Self).map_err(|_| Problem::BadBody)
    }
}

/// Has it changed, and what came of it noted in the audit trail.
async fn make(admin: &Admin, changer: &Changer, pool: &PoolName, edit: Edit) -> Made {
    let action =
        Action { what: edit.action(), pool: Some(pool.clone()), backend: edit.backend(), session: None, said: None };
    let done = audit::entry(admin, changer, &action, "done");
    match admin.settings.edit(pool.clone(), changer.actor.clone(), edit, done).await {
        Ok(edited) => {
            tracing::info!(%pool, action = action.what, actor = %changer.actor, durable = edited.is_durable, "changed by the API");
            Ok(edited.is_durable)
        }
        Err(error) => {
            let (response, code) = refusal(error);
            audit::note(admin, changer, &action, code);
            Err((response, code))
        }
    }
}

fn refusal(error: EditError) -> (Response, &'static str) {
    match error {
        EditError::Rejected(rejected) => (rejection(&rejected), rejected.code.label()),
        EditError::Refused(refused) => {
            let problem = Problem::from(refused);
            (problem.into_response(), problem.code())
        }
        EditError::Stopping => (Problem::Draining.into_response(), Problem::Draining.code()),
    }
}

/// Everything that is wrong with a request, each fault with its field.
fn rejection(rejected: &Rejected) -> Response {
    let status = match rejected.code {
        RejectCode::PoolNotFound | RejectCode::BackendNotFound => StatusCode::NOT_FOUND,
        RejectCode::BackendExists | RejectCode::AddressInUse | RejectCode::BackendInFile | RejectCode::LimitReached => {
            StatusCode::CONFLICT
        }
        RejectCode::InvalidValue => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let fault = |fault: &FieldFault| json!({ "field": fault.field, "message": fault.message });
    let faults: Vec<Value> = rejected.faults.iter().map(fault).collect();
    let title = rejected.faults.first().map_or("", |fault| fault.message.as_str());
    let body = json!({
        "type": "about:blank", "title": title, "status": status.as_u16(), "code": rejected.code.label(), "errors": faults,
    });
    (status, [(CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

/// The backend as it stands now, and whether the change is durable.
async fn shown(
    admin: &Admin,
    pool: &PoolName,
    name: Option<BackendName>,
    status: StatusCode,
    durable: bool,
) -> Response {
    let Some(Some(pool)) = admin.control.pool(pool.clone()).await else { return Problem::Internal.into_response() };
    let published = admin.routes.load();
    let backend = pool.backends.iter().find(|backend| Some(&backend.name) == name.as_ref());
    let view = backend.map(|backend| BackendView::new(backend, &published.live, &admin.clock));
    (status, Json(json!({ "backend": view, "durable": durable }))).into_response()
}
