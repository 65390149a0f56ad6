//! What sessions report to the control plane: never waited for.

use tokio::sync::mpsc;

use crate::model::{BackendId, DialError, Epoch};

use super::message::Message;

/// Reports failed dials. A full queue drops them: the control plane has enough to think about, and
/// its probes find out all the same.
#[derive(Debug, Clone)]
pub struct Feedback {
    queue: mpsc::Sender<Message>,
}

impl Feedback {
    pub(super) const fn new(queue: mpsc::Sender<Message>) -> Self {
        Self { queue }
    }

    /// A session could not connect to `backend`, whose route it had picked under `epoch`.
    pub fn dial_failed(&self, backend: BackendId, epoch: Epoch, error: DialError) {
        if self.queue.try_send(Message::DialFailed { backend, epoch, error }).is_err() {
            tracing::trace!(%backend, %error, "a failed dial was not reported: the queue is full");
        }
    }
}
