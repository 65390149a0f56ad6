//! What the clients of one pool saw: counted by the client threads, read by the report.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The clients of one pool since the start.
#[derive(Debug, Default)]
pub(super) struct Tally {
    served: AtomicU64,
    failed: AtomicU64,
    cut: AtomicU64,
    longest_nanos: AtomicU64,
    /// The longest since somebody last asked for a window.
    window_nanos: AtomicU64,
    by_name: Mutex<BTreeMap<String, u64>>,
    kills_begun: AtomicU64,
    kills_done: AtomicU64,
}

/// A tally at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Clients that got what they came for.
    pub(super) served: u64,
    /// Clients that did not.
    pub(super) failed: u64,
    /// Conversations that died with the server they were with; their clients came again and are counted above.
    pub(super) cut: u64,
    /// The longest that one client waited, reconnecting included.
    pub(super) longest: Duration,
}

impl Count {
    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            served: self.served + other.served,
            failed: self.failed + other.failed,
            cut: self.cut + other.cut,
            longest: self.longest.max(other.longest),
        }
    }
}

impl Tally {
    /// A client was served by `name` after `wait`.
    pub(super) fn serve(&self, name: &str, wait: Duration) {
        self.waited(wait);
        let mut names = self.names();
        match names.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(names.insert(name.to_owned(), 1)),
        }
        drop(names);
        self.served.fetch_add(1, Ordering::SeqCst);
    }

    /// A client gave up after `wait`. Whether it is the first.
    pub(super) fn fail(&self, wait: Duration) -> bool {
        self.waited(wait);
        self.failed.fetch_add(1, Ordering::SeqCst) == 0
    }

    /// A session died with its server.
    pub(super) fn cut(&self) {
        self.cut.fetch_add(1, Ordering::SeqCst);
    }

    /// Kills a server by `act`, which returns when it is dead. One thread kills at a time.
    pub(super) fn kill<T>(&self, act: impl FnOnce() -> T) -> T {
        let number = self.kills_begun.fetch_add(1, Ordering::SeqCst) + 1;
        let result = act();
        self.kills_done.store(number, Ordering::SeqCst);
        result
    }

    /// How many kills are over.
    pub(super) fn kills(&self) -> u64 {
        self.kills_done.load(Ordering::SeqCst)
    }

    /// Whether a server was being killed at some moment since [`Tally::kills`] said `kills`.
    pub(super) fn killed_since(&self, kills: u64) -> bool {
        self.kills_begun.load(Ordering::SeqCst) > kills
    }

    /// Everything so far.
    pub(super) fn count(&self) -> Count {
        Count {
            served: self.served.load(Ordering::SeqCst),
            failed: self.failed.load(Ordering::SeqCst),
            cut: self.cut.load(Ordering::SeqCst),
            longest: Duration::from_nanos(self.longest_nanos.load(Ordering::SeqCst)),
        }
    }

    /// Everything since `before`, which becomes now. One caller only: the longest wait is taken out.
    pub(super) fn window(&self, before: &mut Count) -> Count {
        let now = self.count();
        let window = Count {
            served: now.served - before.served,
            failed: now.failed - before.failed,
            cut: now.cut - before.cut,
            longest: Duration::from_nanos(self.window_nanos.swap(0, Ordering::SeqCst)),
        };
        *before = now;
        window
    }

    /// Who served how many.
    pub(super) fn served_by(&self) -> Vec<(String, u64)> {
        self.names().iter().map(|(name, count)| (name.clone(), *count)).collect()
    }

    fn waited(&self, wait: Duration) {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.longest_nanos.fetch_max(nanos, Ordering::SeqCst);
        self.window_nanos.fetch_max(nanos, Ordering::SeqCst);
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Count, Tally};

    #[test]
    fn a_window_holds_what_came_since_the_last_one() {
        let (tally, mut before) = (Tally::default(), Count::default());
        tally.serve("alpha", Duration::from_millis(7));
        tally.serve("alpha", Duration::from_millis(3));
        let first = Count { served: 2, failed: 0, cut: 0, longest: Duration::from_millis(7) };
        assert_eq!(tally.window(&mut before), first);
        tally.cut();
        assert!(tally.fail(Duration::from_millis(2)));
        assert!(!tally.fail(Duration::from_millis(1)));
        let second = Count { served: 0, failed: 2, cut: 1, longest: Duration::from_millis(2) };
        assert_eq!(tally.window(&mut before), second);
        assert_eq!(tally.count(), first.plus(second));
        assert_eq!(tally.served_by(), [("alpha".to_owned(), 2)]);
    }

    #[test]
    fn only_a_session_that_was_open_during_a_kill_is_cut_by_it() {
        let tally = Tally::default();
        let before = tally.kills();
        assert!(!tally.killed_since(before));
        let during = tally.kill(|| {
            assert!(tally.killed_since(before));
            tally.kills()
        });
        assert!(tally.killed_since(before) && tally.killed_since(during));
        assert!(!tally.killed_since(tally.kills()));
    }
}
