//! What a path names. One that names nothing that can be, such as bytes that are no text, names nothing that is.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use crate::model::{BackendName, PoolName};

use super::problem::Problem;

/// The pool in `/pools/{pool}/…`.
#[derive(Debug)]
pub(super) struct PoolPath(pub(super) PoolName);

impl<S: Send + Sync> FromRequestParts<S> for PoolPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(pool) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| Problem::PoolNotFound)?;
        Ok(Self(PoolName::from(pool.as_str())))
    }
}

/// The pool and the backend in `/pools/{pool}/backends/{backend}/…`.
#[derive(Debug)]
pub(super) struct BackendPath(pub(super) PoolName, pub(super) BackendName);

impl<S: Send + Sync> FromRequestParts<S> for BackendPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((pool, backend)) = path.map_err(|_| Problem::BackendNotFound)?;
        Ok(Self(PoolName::from(pool.as_str()), BackendName::from(backend.as_str())))
    }
}
