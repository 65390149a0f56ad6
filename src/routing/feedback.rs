//! What sessions report to the control plane: never waited for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::model::{BackendId, DialError, Epoch};

use super::live::BackendLive;
use super::message::Message;

/// Reports failed dials and sessions that ended early. A full queue drops them: the control plane has enough to think about, and
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

    /// What sessions of `backend`, admitted under `epoch`, have sent is not acknowledged, and nothing else has come from its
    /// host for the time `silent`.
    pub fn data_stalled(&self, backend: BackendId, epoch: Epoch, silent: Duration) {
        if self.queue.try_send(Message::DataStalled { backend, epoch, silent }).is_err() {
            tracing::trace!(%backend, "a connection that is stuck was not reported: the queue is full");
        }
    }

    /// A session of `backend`, admitted under `epoch`, was ended by it before its first byte. Counted where the backend
    /// is, and told once until that is taken in: ten thousand of them are one message.
    pub fn ended_early(&self, backend: BackendId, epoch: Epoch, live: &Arc<BackendLive>) {
        if !live.early_ends.add() {
            return;
        }
        let live = Arc::clone(live);
        if let Err(error) = self.queue.try_send(Message::EndedEarly { backend, epoch, live }) {
            if let Message::EndedEarly { live, .. } = error.into_inner() {
                // Or the next one would take it to be told already.
                live.early_ends.take();
            }
            tracing::trace!(%backend, "a session that ended early was not reported: the queue is full");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that cannot go on shall panic")]
mod tests {
    use super::*;
    use crate::model::Load;
    use crate::routing::mailbox;
    use crate::telemetry::Metrics;

    fn live() -> Arc<BackendLive> {
        let metrics = Metrics::new().unwrap().backend(&"orders".into(), &"pg1".into());
        let load = Arc::<Load>::default();
        Arc::new(BackendLive::new("orders".into(), "pg1".into(), metrics, load))
    }

    #[test]
    fn ten_thousand_early_ends_are_one_message_that_knows_their_number() {
        let (_handle, feedback, mut inbox) = mailbox();
        let live = live();
        for _ in 0..3 {
            for _ in 0..10_000 {
                feedback.ended_early(BackendId(1), Epoch(2), &live);
            }
            assert_eq!(inbox.len(), 1);
            match inbox.try_recv().unwrap() {
                Message::EndedEarly { backend: BackendId(1), epoch: Epoch(2), live } => {
                    assert_eq!(live.early_ends.take(), 10_000);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_finds_the_queue_full_is_lost_and_the_next_is_told_again() {
        let (_handle, feedback, mut inbox) = mailbox();
        while inbox.len() < inbox.max_capacity() {
            feedback.dial_failed(BackendId(7), Epoch(0), DialError::Refused);
        }
        let live = live();
        feedback.ended_early(BackendId(1), Epoch(2), &live);
        assert_eq!(live.early_ends.take(), 0);
        while inbox.try_recv().is_ok() {}
        feedback.ended_early(BackendId(1), Epoch(2), &live);
        assert_eq!(inbox.len(), 1);
    }
}
