//! The handles of listeners, pools and threads that the rest of the program counts on.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::model::{CancelWay, ListenerName, PipeRefusal, RejectReason, SessionEnd};

use super::family::Maker;

/// Counts `number` on the one at `index`.
fn count(counters: &[IntCounter], index: usize, number: u64) {
    if let Some(counter) = counters.get(index) {
        counter.inc_by(number);
    }
}

/// One more on a gauge for as long as this lives.
#[derive(Debug)]
pub struct Counted(IntGauge);

impl Counted {
    /// Counts one more on `gauge`.
    #[must_use]
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A listener's series.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    /// Clients accepted.
    pub connections: IntCounter,
    /// Clients that are connected now.
    pub active: IntGauge,
    /// Clients that wait now.
    pub held: IntGauge,
    /// Sessions whose key for cancelling there was no place for.
    pub cancel_keys_refused: IntCounter,
    /// Encrypted connections that went to another server than the one where their address waits for an answer.
    pub encrypted_elsewhere: IntCounter,
    rejected: Vec<IntCounter>,
    cancels: Vec<IntCounter>,
}

impl ListenerMetrics {
    /// Counts a client that was turned away.
    pub fn count_rejected(&self, reason: RejectReason) {
        count(&self.rejected, reason.index(), 1);
    }

    /// How many clients were turned away, by the label of the reason.
    pub fn rejected(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        RejectReason::LABELS.iter().copied().zip(self.rejected.iter().map(IntCounter::get))
    }

    /// Counts a request to cancel.
    pub fn count_cancel(&self, way: CancelWay) {
        count(&self.cancels, way.index(), 1);
    }
}

/// What threads lend to streams.
#[derive(Debug, Clone)]
pub struct PipeMetrics {
    pub(super) refusals: Vec<IntCounter>,
}

impl PipeMetrics {
    /// Counts `number` pipes that were refused.
    pub fn count_refusals(&self, reason: PipeRefusal, number: u64) {
        count(&self.refusals, reason.index(), number);
    }
}

/// A pool's series.
#[derive(Debug, Clone)]
pub struct PoolMetrics {
    /// How long clients were held.
    pub hold_seconds: Histogram,
    /// From a failover to the first session after it.
    pub first_session_seconds: Histogram,
    pub(super) sessions_closed: Vec<IntCounter>,
}

impl PoolMetrics {
    /// Counts a session that ended.
    pub fn count_closed(&self, reason: SessionEnd) {
        count(&self.sessions_closed, reason.index(), 1);
    }
}

/// The families of listeners.
#[derive(Debug)]
pub(super) struct ListenerVecs {
    /// Those that have series, which are made and dropped under this lock.
    present: Mutex<BTreeSet<ListenerName>>,
    connections: IntCounterVec,
    active: IntGaugeVec,
    rejected: IntCounterVec,
    held: IntGaugeVec,
    cancels: IntCounterVec,
    cancel_keys_refused: IntCounterVec,
    encrypted_elsewhere: IntCounterVec,
}

impl ListenerVecs {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            present: Mutex::default(),
            connections: make.counters("listener_connections_total", "Number of clients accepted.", &["listener"])?,
            active: make.gauges("listener_connections_active", "Number of clients connected now.", &["listener"])?,
            rejected: make.counters(
                "listener_rejected_total",
                "Number of clients turned away before they reached a backend, by reason.",
                &["listener", "reason"],
            )?,
            held: make.gauges("listener_held", "Number of clients that wait for a backend now.", &["listener"])?,
            cancels: make.counters(
                "postgres_cancels_total",
                "Number of requests to cancel, by how their server was found.",
                &["listener", "way"],
            )?,
            cancel_keys_refused: make.counters(
                "postgres_cancel_keys_refused_total",
                "Number of sessions whose key for cancelling there was no place for, so that all servers are asked.",
                &["listener"],
            )?,
            encrypted_elsewhere: make.counters(
                "postgres_encrypted_elsewhere_total",
                "Number of encrypted connections that went to another server than the one where a session of their address waits for \
                 an answer: if one was a request to cancel that, it missed.",
                &["listener"],
            )?,
        })
    }

    fn present(&self) -> MutexGuard<'_, BTreeSet<ListenerName>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn handles(&self, name: &ListenerName) -> ListenerMetrics {
        let mut present = self.present();
        present.insert(name.clone());
        self.of(name)
    }

    /// The same, of one that has them.
    pub(super) fn known(&self, name: &ListenerName) -> Option<ListenerMetrics> {
        let present = self.present();
        present.contains(name).then(|| self.of(name))
    }

    fn of(&self, name: &ListenerName) -> ListenerMetrics {
        let name = name.as_str();
        ListenerMetrics {
            connections: self.connections.with_label_values(&[name]),
            active: self.active.with_label_values(&[name]),
            held: self.held.with_label_values(&[name]),
            cancel_keys_refused: self.cancel_keys_refused.with_label_values(&[name]),
            encrypted_elsewhere: self.encrypted_elsewhere.with_label_values(&[name]),
            rejected: RejectReason::LABELS
                .iter()
                .map(|reason| self.rejected.with_label_values(&[name, *reason]))
                .collect(),
            cancels: CancelWay::LABELS.iter().map(|way| self.cancels.with_label_values(&[name, *way])).collect(),
        }
    }

    pub(super) fn forget(&self, name: &ListenerName) {
        let mut present = self.present();
        present.remove(name);
        let name = name.as_str();
        drop(self.connections.remove_label_values(&[name]));
        drop(self.active.remove_label_values(&[name]));
        drop(self.held.remove_label_values(&[name]));
        for reason in RejectReason::LABELS {
            drop(self.rejected.remove_label_values(&[name, *reason]));
        }
        drop(self.cancel_keys_refused.remove_label_values(&[name]));
        drop(self.encrypted_elsewhere.remove_label_values(&[name]));
        for way in CancelWay::LABELS {
            drop(self.cancels.remove_label_values(&[name, *way]));
        }
    }
}
