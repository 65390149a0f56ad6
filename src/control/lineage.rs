//! The way of a new line of history to the disk, before a cluster's clients are sent there. It goes by itself, never in a batch
//! that might be refused for something else, and is tried until the store has it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::failover::{Event, KEPT_WITHIN, Lineage};
use crate::model::PoolName;
use crate::store::{Applied, Change, Refused, StoreHandle};

/// From one try to the next while too many requests to the store wait: it takes thousands of them in that time.
const AGAIN_AFTER: Duration = Duration::from_millis(5);
/// Lines that wait to be told to the core at most; each pool has one at a time.
const UNHEARD_MAX: usize = 64;

/// Said when writers wait for the disk no longer.
const LATE: &str = "clients are sent to a new primary before the disk has who that is: it does not answer";
/// Said when the disk is known to fail.
const IN_MEMORY: &str = "who is the primary is in memory only: after a restart before the disk works again an older one could be \
    taken for it";

/// A write that is under way.
type Begun = Result<Pin<Box<dyn Future<Output = Result<Applied, Refused>>>>, Refused>;

/// The lines of history that are on their way to the disk.
pub(super) struct Lineages {
    store: StoreHandle,
    kept: mpsc::Sender<Event>,
    /// What the store has not taken yet.
    left: Rc<RefCell<BTreeMap<PoolName, Lineage>>>,
}

impl Lineages {
    /// Where the core is told is what comes with it.
    pub(super) fn new(store: StoreHandle) -> (Self, mpsc::Receiver<Event>) {
        let (kept, receiver) = mpsc::channel(UNHEARD_MAX);
        (Self { store, kept, left: Rc::default() }, receiver)
    }

    /// Has `lineage` written down. When this returns the store has it, unless it has no room for a moment. The core is told
    /// when it is on disk, or when it is known that it will not be for now: the store then goes on trying.
    pub(super) fn keep(&self, pool: PoolName, lineage: Lineage) {
        self.left.borrow_mut().insert(pool.clone(), lineage.clone());
        let begun = begin(&self.store, &pool, &lineage);
        let (store, left, kept) = (self.store.clone(), Rc::clone(&self.left), self.kept.clone());
        drop(spawn_local(async move {
            let is_durable = {
                let mut written = pin!(written(&store, &left, (&pool, &lineage), begun));
                match timeout(KEPT_WITHIN, &mut written).await {
                    Ok(is_durable) => is_durable,
                    Err(_) => {
                        tracing::warn!(%pool, primary = %lineage.server, "{LATE}");
                        written.await
                    }
                }
            };
            if !is_durable && store.figures().is_durable {
                tracing::warn!(%pool, primary = %lineage.server, "{IN_MEMORY}");
            }
            // Nobody listens any more only when the daemon ends.
            drop(kept.send(Event::LineageKept { pool, lineage }).await);
        }));
    }

    /// The pool is gone, and nothing of it is kept any more.
    pub(super) fn forget(&self, pool: &PoolName) {
        self.left.borrow_mut().remove(pool);
    }

    /// What the store has had no room for so far.
    pub(super) fn left(&self) -> Vec<Change> {
        self.left.borrow().iter().map(|(pool, lineage)| change(pool, lineage)).collect()
    }
}

/// Tries until the store has taken it, or another line has come meanwhile; `begun` is the first try. Whether it is on disk.
async fn written(
    store: &StoreHandle,
    left: &RefCell<BTreeMap<PoolName, Lineage>>,
    (pool, lineage): (&PoolName, &Lineage),
    mut begun: Begun,
) -> bool {
    let answer = loop {
        match begun {
            Err(Refused::Busy) => sleep(AGAIN_AFTER).await,
            taken => break taken,
        }
        if left.borrow().get(pool) != Some(lineage) {
            return true;
        }
        begun = begin(store, pool, lineage);
    };
    if left.borrow().get(pool) == Some(lineage) {
        left.borrow_mut().remove(pool);
    }
    let applied = match answer {
        Ok(answer) => answer.await,
        Err(refused) => Err(refused),
    };
    let applied = applied.inspect_err(|error| tracing::error!(%pool, %error, "who is the primary is not kept"));
    applied.is_ok_and(|applied| applied.is_durable)
}

fn begin(store: &StoreHandle, pool: &PoolName, lineage: &Lineage) -> Begun {
    let begun = store.begin(vec![change(pool, lineage)], Vec::new())?;
    Ok(Box::pin(begun))
}

/// Names, numbers and places: there is always a JSON of them.
fn change(pool: &PoolName, lineage: &Lineage) -> Change {
    Change::Lineage(pool.clone(), Some(serde_json::to_string(lineage).unwrap_or_default()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::task::{LocalSet, yield_now};

    use super::*;
    use crate::model::EventRecord;
    use crate::model::{Timeline, WallTime};
    use crate::store::Stuck;

    fn lineage(timeline: u32) -> Lineage {
        Lineage {
            server: "b".into(),
            address: None,
            system: None,
            timeline: Some(Timeline(timeline)),
            history: [].into(),
            at: None,
            rejected: Vec::new(),
        }
    }

    /// What the store has been told by the time that it is told something.
    async fn taken(store: &Stuck) -> Vec<Change> {
        loop {
            match store.take() {
                Some(changes) if !changes.is_empty() => return changes,
                Some(_) | None => sleep(Duration::from_millis(1)).await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_without_room_is_told_until_it_has_it_and_of_the_last_line_alone() {
        let work = async {
            let (store, handle) = Stuck::new();
            let (lineages, mut kept) = Lineages::new(handle.clone());
            let pool = PoolName::from("p");
            handle.append(EventRecord::new(WallTime::from_micros(1), "in.the.way"));
            lineages.keep(pool.clone(), lineage(2));
            lineages.keep(pool.clone(), lineage(3));
            assert_eq!(lineages.left(), [change(&pool, &lineage(3))], "the daemon may end now");
            sleep(AGAIN_AFTER * 3).await;
            assert_eq!(store.take(), Some(Vec::new()), "what was in the way");
            assert_eq!(taken(&store).await, [change(&pool, &lineage(3))]);
            assert!(lineages.left().is_empty());
            // The store answered neither; nobody who waits is left waiting.
            let mut told = [kept.recv().await.unwrap(), kept.recv().await.unwrap()];
            told.sort_by_key(|event| format!("{event:?}"));
            let event = |timeline| Event::LineageKept { pool: pool.clone(), lineage: lineage(timeline) };
            assert_eq!(told, [event(2), event(3)]);
            sleep(AGAIN_AFTER * 3).await;
            assert!(store.take().is_none(), "and not once more");
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_not_brought_back() {
        let work = async {
            let (store, handle) = Stuck::new();
            let (lineages, mut kept) = Lineages::new(handle.clone());
            handle.append(EventRecord::new(WallTime::from_micros(1), "in.the.way"));
            lineages.keep("p".into(), lineage(2));
            lineages.forget(&"p".into());
            yield_now().await;
            assert_eq!(store.take(), Some(Vec::new()));
            assert_eq!(kept.recv().await, Some(Event::LineageKept { pool: "p".into(), lineage: lineage(2) }));
            assert!(store.take().is_none() && lineages.left().is_empty());
        };
        LocalSet::new().run_until(work).await;
    }
}
