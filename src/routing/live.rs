//! Counters that outlive tables: one set a pool and a backend, shared by every thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::model::{BackendId, BackendName, Direction, Load, MonoTime, PoolName, Target};
use crate::telemetry::{BackendMetrics, PoolMetrics};

use super::line::Line;

/// The counters of every pool and backend that is in the plan.
#[derive(Debug, Default)]
pub struct Live {
    /// By pool.
    pub pools: BTreeMap<PoolName, Arc<PoolLive>>,
    /// By backend.
    pub backends: BTreeMap<BackendId, Arc<BackendLive>>,
}

/// What is counted for one pool.
#[derive(Debug)]
pub struct PoolLive {
    /// Its series.
    pub metrics: PoolMetrics,
    /// Sessions that have come so far: whose turn it is to be picked for, and to stand in line.
    turn: AtomicU64,
    /// Clients that wait now, by what they want to reach.
    held: [AtomicUsize; Target::ALL.len()],
    /// When the last failover was published, in nanoseconds; zero once a session has followed it.
    failover_at: AtomicU64,
    /// Clients that wait for room at a backend, by what they want to reach.
    pub(super) lines: [Line; Target::ALL.len()],
}

impl PoolLive {
    /// Counters at zero.
    #[must_use]
    pub fn new(metrics: PoolMetrics) -> Self {
        let (turn, held, failover_at, lines) = Default::default();
        Self { metrics, turn, held, failover_at, lines }
    }

    /// The turn of the next session.
    #[must_use]
    pub fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// The turn that the next session will have, unless another one comes first.
    #[must_use]
    pub fn coming_turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Clients that wait now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.iter().map(|held| held.load(Ordering::Relaxed)).sum()
    }

    /// Takes one of `limit` places to wait in for what `target` wants, if there is one left. Give it back with [`Self::release`].
    /// Each target has as many of its own: those who wait for a standby are no reason to refuse one who waits for the primary.
    #[must_use]
    pub fn try_hold(&self, target: Target, limit: usize) -> bool {
        let more = |held| if held < limit { Some(held + 1) } else { None };
        self.held[target.index()].fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives a place back.
    pub fn release(&self, target: Target) {
        self.held[target.index()].fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that a failover took effect at `now`.
    pub fn failed_over(&self, now: MonoTime) {
        self.failover_at.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// For the first session after a failover: how long ago that was.
    #[must_use]
    pub fn since_failover(&self, now: MonoTime) -> Option<Duration> {
        // Nearly always zero: look before writing, so that the line stays shared among the threads.
        if self.failover_at.load(Ordering::Relaxed) == 0 {
            return None;
        }
        match self.failover_at.swap(0, Ordering::Relaxed) {
            0 => None,
            at => Some(now.since(MonoTime::from_nanos(at))),
        }
    }
}

/// What is counted for one backend.
#[derive(Debug)]
pub struct BackendLive {
    /// The pool it belongs to.
    pub pool: PoolName,
    /// Its name.
    pub name: BackendName,
    /// Its series.
    pub metrics: Arc<BackendMetrics>,
    /// What it carries: the count by which the table's picks go.
    pub load: Arc<Load>,
    /// Sessions that it ended before its first byte, and that the control plane has yet to be told of.
    pub early_ends: EarlyEnds,
    /// Of its sessions alone: its series are those of all that had its name while one of them has sessions.
    active: AtomicU64,
    /// Moved by them, by [`Direction`].
    moved: [AtomicU64; Direction::ALL.len()],
}

impl BackendLive {
    /// One that nothing was counted of yet, but for its series and what it carries.
    #[must_use]
    pub fn new(pool: PoolName, name: BackendName, metrics: Arc<BackendMetrics>, load: Arc<Load>) -> Self {
        let (early_ends, active, moved) = Default::default();
        Self { pool, name, metrics, load, early_ends, active, moved }
    }

    /// Its sessions that are open now.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Bytes that its sessions have moved in `direction`, as far as they are counted.
    #[must_use]
    pub fn moved(&self, direction: Direction) -> u64 {
        self.moved.get(direction.index()).map_or(0, |bytes| bytes.load(Ordering::Relaxed))
    }

    /// Counts bytes that were moved, by [`Direction`]: to the backend and to the client.
    pub fn count_moved(&self, moved: [u64; 2]) {
        self.metrics.count_moved(moved);
        for (counter, bytes) in self.moved.iter().zip(moved) {
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Whether it has sent clients anything since this was last asked: who answers some is not to blame for all that others
    /// meet. A session's bytes are counted a quarter of a second late at most.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        let sent = self.moved(Direction::BackendToClient);
        self.early_ends.sent.swap(sent, Ordering::Relaxed) != sent
    }
}

/// One more session at a backend, for as long as this lives.
#[derive(Debug)]
pub struct ActiveSession(Arc<BackendLive>);

impl ActiveSession {
    /// One more at `backend`.
    #[must_use]
    pub fn at(backend: &Arc<BackendLive>) -> Self {
        backend.metrics.session_begins();
        backend.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(backend))
    }
}

impl Drop for ActiveSession {
    fn drop(&mut self) {
        self.0.metrics.session_ends();
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A count that is told in one piece.
#[derive(Debug, Default)]
pub struct EarlyEnds {
    ended: AtomicU32,
    /// What the backend had sent to clients when they were last told of.
    sent: AtomicU64,
}

impl EarlyEnds {
    /// One more. Whether it is the first since they were last taken, so that it is to be told.
    pub(super) fn add(&self) -> bool {
        let more = |count: u32| Some(count.saturating_add(1));
        self.ended.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) == Ok(0)
    }

    /// How many there were since they were last taken.
    pub fn take(&self) -> u32 {
        self.ended.swap(0, Ordering::Relaxed)
    }
}
