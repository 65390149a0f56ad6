//! Changes at run time: backends that are registered, changed and removed, and a pool's check and failover.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use serde_json::{Value, json};
use tokio::task::spawn_local;

use crate::model::{BackendName, PoolName};
use crate::settings::{Edit, EditError};
use crate::store;

use super::Admin;
use super::access::Identity;
use super::answer::Json;
use super::audit::{self, Action};
use super::body::{READ_MAX, bounded, not_json};
use super::json::BackendView;
use super::path::{BackendPath, PoolPath};
use super::problem::{Problem, Refused};
use super::tag::Tagged;

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/api/v1/pools/{pool}/backends", post(register))
        .route("/api/v1/pools/{pool}/backends/{backend}", patch(change).delete(remove))
        .route("/api/v1/pools/{pool}/failover-config", get(config).patch(configure))
        .layer(DefaultBodyLimit::max(READ_MAX))
}

impl From<store::Refused> for Problem {
    fn from(refused: store::Refused) -> Self {
        match refused {
            store::Refused::Busy => Self::StoreBusy,
            store::Refused::Closed => Self::Draining,
            store::Refused::TooLong(_) => Self::BadBody,
            store::Refused::Full => Self::StoreFull,
        }
    }
}

/// `POST /pools/{pool}/backends`: `{"name", "address", …}` as in the file.
async fn register(
    State(admin): State<Admin>,
    caller: Identity,
    PoolPath(pool): PoolPath,
    Document(body): Document,
) -> Result<Response, Refused> {
    let edit = Edit::Register(body);
    let name = edit.backend();
    let durable = make(&admin, &caller, &pool, edit).await?;
    shown(&admin, &pool, name, StatusCode::CREATED, durable).await
}

/// `PATCH /pools/{pool}/backends/{backend}`: a JSON merge patch of its table.
async fn change(
    State(admin): State<Admin>,
    caller: Identity,
    BackendPath(pool, backend): BackendPath,
    Document(body): Document,
) -> Result<Response, Refused> {
    let durable = make(&admin, &caller, &pool, Edit::Change(backend.clone(), body)).await?;
    shown(&admin, &pool, Some(backend), StatusCode::OK, durable).await
}

/// `DELETE /pools/{pool}/backends/{backend}`: of one that was registered.
async fn remove(
    State(admin): State<Admin>,
    caller: Identity,
    BackendPath(pool, backend): BackendPath,
) -> Result<Json<Value>, Refused> {
    let durable = make(&admin, &caller, &pool, Edit::Remove(backend)).await?;
    Ok(Json(json!({ "durable": durable })))
}

/// `GET /pools/{pool}/failover-config`.
async fn config(State(admin): State<Admin>, PoolPath(pool): PoolPath, asked: HeaderMap) -> Response {
    match admin.settings.failover_config(pool).await {
        Some(config) => Tagged::new(admin.routes.load().table.generation, config.to_string()).answer(&asked),
        None => Problem::PoolNotFound.into_response(),
    }
}

/// `PATCH /pools/{pool}/failover-config`: a JSON merge patch of its `check` and `failover`.
async fn configure(
    State(admin): State<Admin>,
    caller: Identity,
    PoolPath(pool): PoolPath,
    Document(body): Document,
) -> Result<Json<Value>, Refused> {
    let durable = make(&admin, &caller, &pool, Edit::Patch(body)).await?;
    configured(&admin, pool, durable).await
}

/// The tables as they are in force, once a change of them is in the audit trail.
async fn configured(admin: &Admin, pool: PoolName, durable: bool) -> Result<Json<Value>, Refused> {
    let config = admin.settings.failover_config(pool).await;
    let mut config = config.ok_or_else(|| Refused::from(Problem::PoolNotFound).noted())?;
    if let Some(config) = config.as_object_mut() {
        config.insert("durable".to_owned(), Value::from(durable));
    }
    Ok(Json(config))
}

/// A body that is JSON.
struct Document(Value);

impl<S: Send + Sync> FromRequest<S> for Document {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let body = bounded(Bytes::from_request(request, state).await)?;
        serde_json::from_slice(&body).map(Self).map_err(|error| not_json(&error))
    }
}

/// Has it changed, and what came of it noted in the audit trail. Whether it is durable.
async fn make(admin: &Admin, caller: &Identity, pool: &PoolName, edit: Edit) -> Result<bool, Refused> {
    let (admin, caller, pool) = (admin.clone(), caller.clone(), pool.clone());
    // It is noted also if it is refused and whoever wanted it hangs up.
    let made = spawn_local(async move { carry_out(&admin, &caller, &pool, edit).await });
    made.await.map_err(|_| Problem::Internal)?
}

async fn carry_out(admin: &Admin, caller: &Identity, pool: &PoolName, edit: Edit) -> Result<bool, Refused> {
    let said = |say: fn(&Value) -> Value| edit.document().map(say);
    let action = Action {
        what: edit.action(),
        pool: Some(pool.clone()),
        backend: edit.backend(),
        session: None,
        said: said(audit::taken),
    };
    let refused = Action { said: said(audit::refused), ..action.clone() };
    let done = audit::entry(admin, caller, &action, "done");
    match admin.settings.edit(pool.clone(), caller.actor.clone(), edit, done).await {
        Ok(edited) => {
            tracing::info!(%pool, action = action.what, actor = %caller.actor, durable = edited.is_durable, "changed by the API");
            Ok(edited.is_durable)
        }
        // The audit trail has it as done, which it is from the next start on.
        Err(EditError::Kept) => Err(Refused::from(Problem::Draining).noted()),
        Err(error) => {
            let problem = Refused::from(error);
            audit::note(admin, caller, &refused, problem.code());
            Err(problem.noted())
        }
    }
}

impl From<EditError> for Refused {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Rejected(rejected) => rejected.into(),
            EditError::Refused(refused) => Problem::from(refused).into(),
            EditError::Stopping | EditError::Kept => Problem::Draining.into(),
        }
    }
}

/// The backend as it stands now, and whether the change is durable. The change is in the audit trail by now.
async fn shown(
    admin: &Admin,
    pool: &PoolName,
    name: Option<BackendName>,
    status: StatusCode,
    durable: bool,
) -> Result<Response, Refused> {
    let pool = admin.control.pool(pool.clone()).await.flatten();
    let pool = pool.ok_or_else(|| Refused::from(Problem::Internal).noted())?;
    let published = admin.routes.load();
    let backend = pool.backends.iter().find(|backend| Some(&backend.name) == name.as_ref());
    let view = backend.map(|backend| BackendView::new(backend, &published.live, &admin.clock));
    Ok((status, Json(json!({ "backend": view, "durable": durable }))).into_response())
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;

    use super::{configured, shown};
    use crate::admin::problem::Code;
    use crate::admin::tests::admin;
    use crate::model::PoolName;

    #[tokio::test]
    async fn a_change_that_was_made_and_cannot_be_shown_is_not_noted_as_refused() {
        // Nobody is there who could say how the pool stands.
        let (admin, gone) = (admin(), PoolName::from("gone"));
        let shown = shown(&admin, &gone, None, StatusCode::OK, true).await.into_response();
        let configured = configured(&admin, gone, true).await.into_response();
        assert_eq!([shown.status(), configured.status()], [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::NOT_FOUND]);
        for response in [shown, configured] {
            assert_eq!(response.extensions().get::<Code>(), None, "the guard would write it down");
        }
    }
}
