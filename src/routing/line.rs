//! The line in front of a full pool: clients of every thread, in the order in which they came.
//!
//! Only the first in line may take a place, and whoever comes while there is a line goes to its end; one that had a
//! place and comes again, because nothing came of it, stands where it came first. The first is called whenever a place is given back, and whenever somebody leaves the line, so that a call is never lost: one that
//! leaves has either taken a place, and there may be another, or has not, and it is the next one's. No timer is involved,
//! and a place given back wakes one client, not all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::{Place, Target};

use super::live::PoolLive;

/// Those who wait for room, first come first.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// How many there are, to be looked at without the lock.
    length: AtomicUsize,
    /// In the order of their turns.
    waiting: Mutex<VecDeque<Waiting>>,
}

/// One of them.
#[derive(Debug)]
struct Waiting {
    turn: u64,
    called: Arc<Notify>,
}

impl Line {
    /// Has the first look again, if there is anybody. What it looks at must have been changed before.
    fn call_first(&self) {
        if self.length.load(Ordering::SeqCst) > 0
            && let Some(first) = self.waiting().front()
        {
            first.called.notify_one();
        }
    }

    /// A panic while the lock was held cannot have left the queue half changed: every change is one step.
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolLive {
    /// Whether anybody waits for room at what `target` wants. Each target has a line of its own: where there is room for
    /// one there may be none for another.
    #[must_use]
    pub fn has_line(&self, target: Target) -> bool {
        self.line(target).length.load(Ordering::SeqCst) > 0
    }

    fn line(&self, target: Target) -> &Line {
        &self.lines[target.index()]
    }

    /// There is room somewhere: has the first of each line look whether it is for them.
    fn call_first(&self) {
        self.lines.iter().for_each(Line::call_first);
    }

    /// Joins the line for `target`, behind all whose turn came before `turn`, which is one of [`Self::next_turn`]: the end, for
    /// one that has just come. Look for room once more before waiting: it may have been given back just now.
    #[must_use]
    pub fn stand_in_line(self: &Arc<Self>, target: Target, turn: u64) -> InLine {
        let called = Arc::new(Notify::new());
        let line = self.line(target);
        let mut waiting = line.waiting();
        let at = waiting.partition_point(|other| other.turn <= turn);
        waiting.insert(at, Waiting { turn, called: Arc::clone(&called) });
        line.length.store(waiting.len(), Ordering::SeqCst);
        drop(waiting);
        InLine { pool: Arc::clone(self), target, called }
    }
}

/// A client's place in the line. Left when dropped.
#[derive(Debug)]
pub struct InLine {
    pool: Arc<PoolLive>,
    target: Target,
    called: Arc<Notify>,
}

impl InLine {
    /// Whether it is in the line of `pool` for `target`.
    #[must_use]
    pub fn is_of(&self, pool: &Arc<PoolLive>, target: Target) -> bool {
        Arc::ptr_eq(&self.pool, pool) && self.target == target
    }

    fn line(&self) -> &Line {
        self.pool.line(self.target)
    }

    /// Whether nobody is before it.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.line().waiting().front().is_some_and(|first| Arc::ptr_eq(&first.called, &self.called))
    }

    /// Waits until there may be room. Cancel-safe: a call that was not heard is kept for the next time.
    pub async fn called(&self) {
        self.called.notified().await;
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let mut waiting = self.line().waiting();
        // Those who are served leave from the front.
        if let Some(at) = waiting.iter().position(|other| Arc::ptr_eq(&other.called, &self.called)) {
            waiting.remove(at);
        }
        self.line().length.store(waiting.len(), Ordering::SeqCst);
        drop(waiting);
        self.line().call_first();
    }
}

/// A session's place at a backend. When it is dropped the place is free, and the first in line is called.
#[derive(Debug)]
pub struct Room {
    place: Option<Place>,
    pool: Arc<PoolLive>,
}

impl Room {
    /// `place`, at a backend of `pool`.
    #[must_use]
    pub const fn new(place: Place, pool: Arc<PoolLive>) -> Self {
        Self { place: Some(place), pool }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.place.take());
        self.pool.call_first();
    }
}

#[cfg(test)]
mod tests {
    use super::{InLine, Room};
    use crate::model::{Load, Target};
    use crate::routing::PoolLive;
    use crate::sys::in_time;
    use crate::telemetry::Metrics;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn pool() -> Arc<PoolLive> {
        Arc::new(PoolLive::new(Metrics::new().unwrap().pool(&"p".into())))
    }

    #[tokio::test]
    async fn a_place_given_back_calls_the_first_in_line() {
        let (pool, load) = (pool(), Arc::new(Load::default()));
        let room = Room::new(load.take(1).unwrap(), Arc::clone(&pool));
        assert!(!pool.has_line(Target::Any));
        let (first, second) = (pool.stand_in_line(Target::Any, 1), pool.stand_in_line(Target::Any, 2));
        assert!(first.is_first() && !second.is_first() && pool.has_line(Target::Any));
        drop(room);
        first.called().await;
        let room = Room::new(load.take(1).unwrap(), Arc::clone(&pool));
        drop(first);
        second.called().await;
        assert!(second.is_first() && load.take(1).is_none(), "called in vain, because there might have been more");
        drop(room);
        second.called().await;
        drop(second);
        assert!(!pool.has_line(Target::Any));
    }

    #[tokio::test]
    async fn a_call_to_one_who_left_goes_to_the_next() {
        let (pool, load) = (pool(), Arc::new(Load::default()));
        let room = Room::new(load.take(1).unwrap(), Arc::clone(&pool));
        let (first, second) = (pool.stand_in_line(Target::Any, 1), pool.stand_in_line(Target::Any, 2));
        drop(room);
        drop(first);
        second.called().await;
        assert!(second.is_first() && load.take(1).is_some());
    }

    #[tokio::test]
    async fn one_that_comes_again_stands_where_it_came_first() {
        let (pool, load) = (pool(), Arc::new(Load::default()));
        let room = Room::new(load.take(1).unwrap(), Arc::clone(&pool));
        let turns = [pool.next_turn(), pool.next_turn(), pool.next_turn()];
        let [first, second, third] = turns.map(|turn| pool.stand_in_line(Target::Any, turn));
        drop(room);
        first.called().await;
        // It takes the place, and gives it back when the dial has failed: that calls the second.
        let room = Room::new(load.take(1).unwrap(), Arc::clone(&pool));
        drop(first);
        drop(room);
        let again = pool.stand_in_line(Target::Any, turns[0]);
        second.called().await;
        assert!(again.is_first() && !second.is_first() && !third.is_first());
        drop(again);
        second.called().await;
        assert!(second.is_first() && !third.is_first());
    }

    /// Many threads' clients for few places: nobody waits for ever, and the limit holds.
    #[test]
    fn no_call_is_lost_between_threads() {
        const LIMIT: u32 = 3;
        let (pool, load) = (pool(), Arc::new(Load::default()));
        let served = AtomicU32::new(0);
        let client = async |pool: &Arc<PoolLive>, load: &Arc<Load>| {
            let (turn, mut line): (_, Option<InLine>) = (pool.next_turn(), None);
            let place = loop {
                let may_take = !pool.has_line(Target::Any) || line.as_ref().is_some_and(InLine::is_first);
                if may_take && let Some(place) = load.take(LIMIT) {
                    break place;
                }
                match &line {
                    None => line = Some(pool.stand_in_line(Target::Any, turn)),
                    Some(line) => line.called().await,
                }
            };
            let room = Room::new(place, Arc::clone(pool));
            drop(line);
            tokio::task::yield_now().await;
            assert!(load.sessions() <= LIMIT);
            drop(room);
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    let local = tokio::task::LocalSet::new();
                    local.block_on(&runtime, async {
                        let (pool, load) = (Arc::clone(&pool), Arc::clone(&load));
                        let clients: Vec<_> = (0..500)
                            .map(|_| {
                                let (pool, load) = (Arc::clone(&pool), Arc::clone(&load));
                                tokio::task::spawn_local(async move { client(&pool, &load).await })
                            })
                            .collect();
                        for client in clients {
                            // One whose call is lost would wait for ever.
                            in_time(client).await.unwrap();
                            served.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                });
            }
        });
        assert_eq!((served.load(Ordering::SeqCst), load.sessions(), pool.has_line(Target::Any)), (2000, 0, false));
    }
}
