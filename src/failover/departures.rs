//! Sessions that may go on for a while: which backend's, until when, and why.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{BackendId, Epoch, MonoTime, OutReason};

use super::event::Sessions;
use super::pool::Return;

/// Sessions of one backend, below one epoch, that are closed when the time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Departure {
    pub(super) at: MonoTime,
    pub(super) backend: BackendId,
    pub(super) epoch: Epoch,
    pub(super) reason: OutReason,
    pub(super) which: Sessions,
}

/// Every departure that is still to come, found by time and by backend.
#[derive(Debug, Default)]
pub(super) struct Departures {
    by_backend: BTreeMap<(BackendId, Epoch), (MonoTime, OutReason, Sessions)>,
    by_time: BTreeSet<(MonoTime, BackendId, Epoch)>,
}

impl Departures {
    /// Lets sessions go at `departure.at`.
    pub(super) fn add(&mut self, departure: Departure) {
        let Departure { at, backend, epoch, reason, which } = departure;
        if let Some((before, ..)) = self.by_backend.insert((backend, epoch), (at, reason, which)) {
            self.by_time.remove(&(before, backend, epoch));
        }
        self.by_time.insert((at, backend, epoch));
    }

    /// The sessions of `backend` may stay after all, if they were to go for such a reason.
    pub(super) fn cancel(&mut self, backend: BackendId, is_void: impl Fn(OutReason) -> bool) {
        self.remove(backend, Epoch(u64::MAX), |reason, _| is_void(reason));
    }

    /// The sessions of these may stay after all, as far as they were to go for what is over.
    pub(super) fn stay(&mut self, returns: &[Return]) {
        for back in returns {
            match *back {
                Return::Healthy(backend) => self.cancel(backend, is_of_health),
                Return::Elected(backend) => self.cancel(backend, |reason| reason == OutReason::Demoted),
                Return::CaughtUp(backend) => self.cancel(backend, |reason| reason == OutReason::Lagging),
                Return::Ready(backend) => self.cancel(backend, |reason| reason == OutReason::Drained),
            }
        }
    }

    /// Sessions of `backend` below `epoch` are closed already; a later fence for them would be idle.
    pub(super) fn are_fenced(&mut self, backend: BackendId, epoch: Epoch, which: Sessions) {
        self.remove(backend, epoch, |_, of| which == Sessions::All || of == which);
    }

    fn remove(&mut self, backend: BackendId, up_to: Epoch, is_void: impl Fn(OutReason, Sessions) -> bool) {
        let of_backend = self.by_backend.range((backend, Epoch::default())..=(backend, up_to));
        let void: Vec<_> =
            of_backend.filter(|(_, (_, reason, of))| is_void(*reason, *of)).map(|(&k, &(at, ..))| (k, at)).collect();
        for ((backend, epoch), at) in void {
            self.by_backend.remove(&(backend, epoch));
            self.by_time.remove(&(at, backend, epoch));
        }
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<MonoTime> {
        self.by_time.first().map(|&(at, ..)| at)
    }

    /// Takes one out that is due by `now`, with all that it makes idle.
    pub(super) fn pop_due(&mut self, now: MonoTime) -> Option<Departure> {
        let &(at, backend, epoch) = self.by_time.first().filter(|&&(at, ..)| at <= now)?;
        let &(_, reason, which) = self.by_backend.get(&(backend, epoch))?;
        self.are_fenced(backend, epoch, which);
        Some(Departure { at, backend, epoch, reason, which })
    }

    /// Every one that is to come.
    pub(super) fn iter(&self) -> impl Iterator<Item = Departure> {
        let departure = |(&(backend, epoch), &(at, reason, which))| Departure { at, backend, epoch, reason, which };
        self.by_backend.iter().map(departure)
    }

    /// Whether both indices tell the same.
    pub(super) fn is_consistent(&self) -> bool {
        self.by_backend.len() == self.by_time.len()
            && self.iter().all(|d| self.by_time.contains(&(d.at, d.backend, d.epoch)))
    }
}

/// Whether good health takes it back.
const fn is_of_health(reason: OutReason) -> bool {
    reason.is_verdict() && !matches!(reason, OutReason::Demoted | OutReason::Lagging)
}
