//! What the store counts of itself, for the metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The counters and gauges, written by the store's own threads and by its callers.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) is_durable: AtomicBool,
    pub(super) is_degraded: AtomicBool,
    pub(super) failed_writes: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) commit_micros: AtomicU64,
    pub(super) events_lost: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) unreadable: AtomicU64,
    pub(super) history_events: AtomicU64,
    pub(super) history_bytes: AtomicU64,
    pub(super) file_bytes: AtomicU64,
}

/// What the store says of itself at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreFigures {
    /// Whether there is a directory to keep anything in.
    pub is_durable: bool,
    /// Whether the disk fails or does not answer, so that new things are in memory only.
    pub is_degraded: bool,
    /// Writes that failed.
    pub failed_writes: u64,
    /// Writes that did not.
    pub commits: u64,
    /// How long the writes that did not fail took in all, in microseconds.
    pub commit_micros: u64,
    /// Events that were never written, because more came than the memory for them holds.
    pub events_lost: u64,
    /// Changes and questions that were refused because a limit was reached.
    pub refused: u64,
    /// Events on disk that could not be read.
    pub unreadable: u64,
    /// Events on disk.
    pub history_events: u64,
    /// What they take, as JSON, in bytes.
    pub history_bytes: u64,
    /// The size of the file, in bytes.
    pub file_bytes: u64,
}

impl Figures {
    pub(super) fn read(&self) -> StoreFigures {
        let number = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        StoreFigures {
            is_durable: self.is_durable.load(Ordering::Relaxed),
            is_degraded: self.is_degraded.load(Ordering::Relaxed),
            failed_writes: number(&self.failed_writes),
            commits: number(&self.commits),
            commit_micros: number(&self.commit_micros),
            events_lost: number(&self.events_lost),
            refused: number(&self.refused),
            unreadable: number(&self.unreadable),
            history_events: number(&self.history_events),
            history_bytes: number(&self.history_bytes),
            file_bytes: number(&self.file_bytes),
        }
    }
}

/// Adds to a counter.
pub(super) fn count(figure: &AtomicU64, by: u64) {
    figure.fetch_add(by, Ordering::Relaxed);
}
