//! What the control plane can be told and asked.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::model::{BackendId, DialError, Epoch, Plan, PoolName, PoolStatus};

use super::live::BackendLive;

/// A message to the control plane.
#[derive(Debug)]
pub enum Message {
    /// A session could not connect to a backend.
    DialFailed {
        /// The backend.
        backend: BackendId,
        /// The epoch of the route that it had picked.
        epoch: Epoch,
        /// Why.
        error: DialError,
    },
    /// Sessions of a backend ended before its first byte: how many is noted there.
    EndedEarly {
        /// The backend.
        backend: BackendId,
        /// The epoch of the first of them.
        epoch: Epoch,
        /// Where they are counted.
        live: Arc<BackendLive>,
    },
    /// How does every pool stand?
    Pools(oneshot::Sender<Vec<PoolStatus>>),
    /// How does this pool stand?
    Pool(PoolName, oneshot::Sender<Option<PoolStatus>>),
    /// Go by this plan from now on; answered once it is in force.
    Replace(Arc<Plan>, oneshot::Sender<()>),
    /// Work no more.
    Stop,
}
