//! Who waits for the end of a turn, and what they are answered.

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::failover::Refusal;
use crate::model::PoolName;
use crate::routing::Done;
use crate::store::{Applied, Refused};

use super::history::Reports;
use super::keep::{Keeper, Left};

/// Who waits for the end of a turn.
pub(super) enum Asker {
    Nobody,
    /// For a plan to be in force.
    Planner(oneshot::Sender<()>),
    /// For an order about a pool to be in force and, if it is one that is kept, to be that.
    Operator {
        pool: PoolName,
        is_kept: bool,
        reply: oneshot::Sender<Result<Done, Refusal>>,
    },
}

impl Asker {
    /// Answers, with what was reported in the turn; an operator once that is kept. An order that was in force already waits
    /// too: what it repeats may still be on its way to the disk. Whoever asked may have gone meanwhile, and is no error.
    pub(super) fn answer(self, keeper: &mut Keeper, left: Left, told: Reports) {
        match self {
            Self::Nobody => keeper.write(left),
            Self::Planner(reply) => {
                keeper.write(left);
                let _asker_gone = reply.send(());
            }
            Self::Operator { pool, is_kept, reply } => {
                let mut reports = told.transitions;
                reports.retain(|transition| transition.pool.as_ref() == Some(&pool));
                // Without ids, which the history gives.
                let events = left.events_of(&pool);
                if is_kept || left.is_change() {
                    let done = Done { reports, events, is_durable: false };
                    // The decision is in force: only its answer waits for the disk.
                    drop(spawn_local(answer_when_kept(pool, keeper.change(left), done, reply)));
                } else {
                    keeper.write(left);
                    drop(reply.send(Ok(Done { reports, events, is_durable: keeper.is_durable() })));
                }
            }
        }
    }
}

async fn answer_when_kept(
    pool: PoolName,
    kept: impl Future<Output = Result<Applied, Refused>>,
    mut done: Done,
    reply: oneshot::Sender<Result<Done, Refusal>>,
) {
    match kept.await {
        Ok(Applied { is_durable, mut events }) => {
            events.retain(|event| event.pool.as_ref() == Some(&pool));
            (done.events, done.is_durable) = (events, is_durable);
        }
        Err(error) => tracing::error!(%pool, %error, "an order is in force and is not kept"),
    }
    drop(reply.send(Ok(done)));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::Stuck;
    use crate::sys::Clock;

    /// Whether an order that changed nothing is answered before the store has come to it.
    async fn is_answered_at_once(is_kept: bool) -> bool {
        let (store, handle) = Stuck::new();
        let (mut keeper, _kept) = Keeper::new(handle, Clock::start());
        let (reply, mut answer) = oneshot::channel();
        Asker::Operator { pool: "p".into(), is_kept, reply }.answer(&mut keeper, Left::default(), Reports::default());
        tokio::task::yield_now().await;
        let early = answer.try_recv();
        // What waits is let go unwritten.
        let waited = store.take().is_some();
        assert_eq!(waited, is_kept);
        let done = match early {
            Ok(done) => done,
            Err(_) => answer.await.unwrap(),
        };
        assert!(!is_kept || !done.unwrap().is_durable, "it was never written");
        !waited
    }

    #[tokio::test]
    async fn an_order_that_repeats_one_is_answered_when_that_is_written() {
        let local = tokio::task::LocalSet::new();
        assert!(!local.run_until(is_answered_at_once(true)).await);
        assert!(local.run_until(is_answered_at_once(false)).await);
    }
}
