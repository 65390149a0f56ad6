//! What is counted and shown of each backend: one piece of memory for all of its series, with the labels as they are
//! written. There may be ten thousand of them, and a series that stands alone takes more than all of this.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::{
    BackendFigures, BackendName, DialError, Direction, MonoTime, NotLetIn, PoolName, ProbeOutcome, ServerFigures,
};

use super::family::SECONDS;

/// How probes end, as the `result` label has it.
pub(super) const RESULTS: [&str; 3] = ["passed", "failed", "inconclusive"];

/// The place of `failed` among them.
const FAILED: usize = 1;

/// A figure that is not known, and has no line.
const UNKNOWN: u64 = u64::MAX;

/// So many backends are listed between two looks at whether somebody else wants to.
const PAGE: usize = 256;

/// Bits of what is shown as yes or no.
const HEALTHY: u8 = 1;
const ELIGIBLE: u8 = 1 << 1;
const IS_STANDBY: u8 = 1 << 2;
const IS_SERVER: u8 = 1 << 3;
const MONITORED: u8 = 1 << 4;

/// How often something took how long.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// For each bound those that took no longer, and longer than the one before; at last all others.
    counts: [AtomicU64; SECONDS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Histogram {
    fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let index = SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS.len());
        add(&self.counts, index, 1);
        self.sum_nanos.fetch_add(nanos(time), Ordering::Relaxed);
    }

    /// For each bound how often, not counting the bounds before it; then the sum in nanoseconds.
    pub(super) fn read(&self) -> ([u64; SECONDS.len() + 1], u64) {
        let sum = self.sum_nanos.load(Ordering::Relaxed);
        (self.counts.each_ref().map(|count| count.load(Ordering::Relaxed)), sum)
    }
}

/// A backend's series. Counted on by every thread, and read without a lock.
#[derive(Debug)]
pub struct BackendMetrics {
    labels: Box<str>,
    connections: AtomicU64,
    active: AtomicU64,
    bytes: [AtomicU64; Direction::ALL.len()],
    /// When a session last began, in nanoseconds since 1970; zero before the first.
    last_active: AtomicU64,
    connect_seconds: Histogram,
    connect_failures: [AtomicU64; DialError::ALL.len()],
    not_let_in: [AtomicU64; NotLetIn::ALL.len()],
    checks: [AtomicU64; RESULTS.len()],
    check_seconds: Histogram,
    /// How long the last good check took, in nanoseconds.
    latency: AtomicU64,
    flags: AtomicU8,
    behind_bytes: AtomicU64,
    /// In nanoseconds.
    behind_time: AtomicU64,
    /// One more than the place of its tunnel's state; zero without a tunnel.
    tunnel_state: AtomicU8,
    tunnel_restarts: AtomicU64,
    /// Since when its tunnel is up, in nanoseconds of the daemon's clock.
    tunnel_up_since: AtomicU64,
}

impl BackendMetrics {
    fn new(pool: &PoolName, backend: &BackendName) -> Self {
        let labels = format!("backend=\"{}\",pool=\"{}\"", escaped(backend.as_str()), escaped(pool.as_str()));
        let (connections, active, bytes, last_active, connect_seconds) = Default::default();
        let (connect_failures, not_let_in, checks, check_seconds, latency, flags) = Default::default();
        Self {
            labels: labels.into_boxed_str(),
            connections,
            active,
            bytes,
            last_active,
            connect_seconds,
            connect_failures,
            not_let_in,
            checks,
            check_seconds,
            latency,
            flags,
            behind_bytes: AtomicU64::new(UNKNOWN),
            behind_time: AtomicU64::new(UNKNOWN),
            tunnel_state: AtomicU8::default(),
            tunnel_restarts: AtomicU64::default(),
            tunnel_up_since: AtomicU64::new(UNKNOWN),
        }
    }

    /// Counts a session that was established after a dial of this length, at a time in seconds since 1970.
    pub fn count_session(&self, dial: Duration, unix_seconds: f64) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.connect_seconds.observe(dial);
        let since = Duration::try_from_secs_f64(unix_seconds).unwrap_or_default();
        self.last_active.store(nanos(since), Ordering::Relaxed);
    }

    /// Counts a dial that failed.
    pub fn count_connect_failure(&self, reason: DialError) {
        add(&self.connect_failures, reason.index(), 1);
    }

    /// Counts a client that was connected to it and not let in.
    pub fn count_not_let_in(&self, reason: NotLetIn) {
        add(&self.not_let_in, reason.index(), 1);
    }

    /// Counts bytes that were moved, by [`Direction`]: to the backend and to the client.
    pub fn count_moved(&self, moved: [u64; 2]) {
        for (counter, bytes) in self.bytes.iter().zip(moved) {
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Counts a probe's answer that took `time`, and shows how long a good one took.
    pub fn count_check(&self, outcome: &ProbeOutcome, time: Duration) {
        let index = match outcome {
            ProbeOutcome::Passed { latency, .. } => {
                self.latency.store(nanos(*latency), Ordering::Relaxed);
                0
            }
            ProbeOutcome::Failed { .. } => FAILED,
            ProbeOutcome::Inconclusive { .. } => 2,
        };
        add(&self.checks, index, 1);
        self.check_seconds.observe(time);
    }

    /// One more session is open.
    pub fn session_begins(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// A session that has begun is open no more.
    pub fn session_ends(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sessions that are open now.
    pub(super) fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Shows these figures from now on. What is not known is left out: one that stays where it was would be a lie.
    pub fn show(&self, figures: &BackendFigures) {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let mut flags = flag(figures.is_healthy, HEALTHY) | flag(figures.is_eligible, ELIGIBLE);
        let (mut bytes, mut time) = (UNKNOWN, UNKNOWN);
        if let Some(ServerFigures { is_standby, is_monitored, behind_bytes, behind_time }) = figures.server {
            flags |= IS_SERVER | flag(is_standby, IS_STANDBY) | flag(is_monitored, MONITORED);
            (bytes, time) = (behind_bytes.unwrap_or(UNKNOWN), behind_time.map_or(UNKNOWN, nanos));
        }
        let state = figures.tunnel.map_or(0, |tunnel| u8::try_from(tunnel.state.index() + 1).unwrap_or(0));
        let up_since = figures.tunnel.and_then(|tunnel| tunnel.up_since).map_or(UNKNOWN, MonoTime::as_nanos);
        self.tunnel_up_since.store(up_since, Ordering::Relaxed);
        let restarts = figures.tunnel.map_or(0, |tunnel| tunnel.restarts);
        self.tunnel_restarts.store(restarts, Ordering::Relaxed);
        self.tunnel_state.store(state, Ordering::Relaxed);
        self.behind_bytes.store(bytes, Ordering::Relaxed);
        self.behind_time.store(time, Ordering::Relaxed);
        self.flags.store(flags, Ordering::Relaxed);
    }

    /// It is in no plan any more: what is left of it is what its last sessions do.
    pub fn show_gone(&self) {
        self.show(&BackendFigures { is_healthy: false, is_eligible: false, server: None, tunnel: None });
    }
}

/// What is read of it when it is written.
impl BackendMetrics {
    pub(super) fn labels(&self) -> &str {
        &self.labels
    }

    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Bytes that were moved in `direction`, as far as they are counted.
    pub(super) fn moved(&self, direction: Direction) -> u64 {
        read(&self.bytes, direction.index())
    }

    /// By [`DialError`], then [`NotLetIn`].
    pub(super) fn connect_failures(&self, index: usize) -> u64 {
        match index.checked_sub(self.connect_failures.len()) {
            None => read(&self.connect_failures, index),
            Some(index) => read(&self.not_let_in, index),
        }
    }

    pub(super) fn checks(&self, result: usize) -> u64 {
        read(&self.checks, result)
    }

    pub(super) fn check_failures(&self) -> u64 {
        self.checks(FAILED)
    }

    pub(super) const fn connect_seconds(&self) -> &Histogram {
        &self.connect_seconds
    }

    pub(super) const fn check_seconds(&self) -> &Histogram {
        &self.check_seconds
    }

    pub(super) fn last_active_nanos(&self) -> u64 {
        self.last_active.load(Ordering::Relaxed)
    }

    pub(super) fn latency_nanos(&self) -> u64 {
        self.latency.load(Ordering::Relaxed)
    }

    pub(super) fn healthy(&self) -> u64 {
        u64::from(self.has(HEALTHY))
    }

    pub(super) fn eligible(&self) -> u64 {
        u64::from(self.has(ELIGIBLE))
    }

    pub(super) fn standby_healthy(&self) -> Option<u64> {
        self.has(IS_STANDBY).then(|| self.healthy() & self.eligible())
    }

    pub(super) fn monitor_connected(&self) -> Option<u64> {
        self.has(IS_SERVER).then(|| u64::from(self.has(MONITORED)))
    }

    pub(super) fn behind_bytes(&self) -> Option<u64> {
        Some(self.behind_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != UNKNOWN)
    }

    pub(super) fn behind_nanos(&self) -> Option<u64> {
        Some(self.behind_time.load(Ordering::Relaxed)).filter(|nanos| *nanos != UNKNOWN)
    }

    /// 1 for the state that its tunnel is in, 0 for the others, by [`TunnelState`](crate::model::TunnelState); none without one.
    pub(super) fn tunnel_state(&self, index: usize) -> Option<u64> {
        let state = usize::from(self.tunnel_state.load(Ordering::Relaxed)).checked_sub(1)?;
        Some(u64::from(state == index))
    }

    pub(super) fn tunnel_restarts(&self) -> Option<u64> {
        let has_tunnel = self.tunnel_state.load(Ordering::Relaxed) > 0;
        has_tunnel.then(|| self.tunnel_restarts.load(Ordering::Relaxed))
    }

    /// For how long its tunnel is up, in nanoseconds; zero while it is not.
    pub(super) fn tunnel_up_nanos(&self, now: MonoTime) -> Option<u64> {
        let has_tunnel = self.tunnel_state.load(Ordering::Relaxed) > 0;
        let since = self.tunnel_up_since.load(Ordering::Relaxed);
        let up = if since == UNKNOWN { 0 } else { now.as_nanos().saturating_sub(since) };
        has_tunnel.then_some(up)
    }

    fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }
}

type ByName = BTreeMap<(PoolName, BackendName), Arc<BackendMetrics>>;

/// All backends. The lock is for those who add, forget and list, never for those who count.
#[derive(Debug, Default)]
pub(super) struct Backends {
    by_name: Mutex<ByName>,
}

impl Backends {
    /// The series of that backend; made if there are none.
    pub(super) fn of(&self, pool: &PoolName, backend: &BackendName) -> Arc<BackendMetrics> {
        let make = || Arc::new(BackendMetrics::new(pool, backend));
        Arc::clone(self.lock().entry((pool.clone(), backend.clone())).or_insert_with(make))
    }

    pub(super) fn forget(&self, pool: &PoolName, backend: &BackendName) {
        self.lock().remove(&(pool.clone(), backend.clone()));
    }

    /// All of them, by name. The control plane adds and forgets: it waits for a page to be listed at the most.
    pub(super) fn list(&self) -> Vec<Arc<BackendMetrics>> {
        let mut all = Vec::new();
        let mut last = None;
        loop {
            let known = self.lock();
            let from = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let page = known.range::<(PoolName, BackendName), _>((from, Bound::Unbounded)).take(PAGE);
            let mut end = None;
            for (name, metrics) in page {
                all.push(Arc::clone(metrics));
                end = Some(name);
            }
            let Some(end) = end.cloned() else { return all };
            last = Some(end);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ByName> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(counters: &[AtomicU64], index: usize, number: u64) {
    if let Some(counter) = counters.get(index) {
        counter.fetch_add(number, Ordering::Relaxed);
    }
}

fn read(counters: &[AtomicU64], index: usize) -> u64 {
    counters.get(index).map_or(0, |counter| counter.load(Ordering::Relaxed))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1)
}

/// A label's value as it is written between quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
