//! Where a tunnel stands, what follows from that alone, and what a step from there to elsewhere has done.

use std::time::Duration;

use crate::model::MonoTime;

/// What is to be done after a step.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// A run to start, or to stop.
    pub(super) act: Option<Act>,
    /// The way is closed by it, or stays so for a reason that is news.
    pub(super) closed: Option<Closed>,
}

/// What is to be done to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Start the present one.
    Start,
    /// Stop it.
    Stop,
}

/// Why a way is closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// It is not there any more, or could not be set up: in these words.
    Lost(String),
    /// People want it closed, or closed and set up anew: in these words.
    Ordered(&'static str),
}

/// What comes after the end of a run that is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing, until an operator wants it.
    Rest,
    /// The next one, at that time.
    Start(MonoTime),
}

/// Where a tunnel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// An operator does not want it.
    Stopped,
    /// It is started then.
    Waiting {
        /// Then.
        until: MonoTime,
    },
    /// Its program is being started.
    Starting {
        /// When a check must have come through.
        ready_by: MonoTime,
    },
    /// It can be dialled.
    Open {
        /// The same; none once one has.
        ready_by: Option<MonoTime>,
    },
    /// Its backend is healthy.
    Verified {
        /// Since then.
        since: MonoTime,
    },
    /// Its program is being stopped.
    Stopping {
        /// When its end must have been told.
        by: MonoTime,
        /// What comes after.
        then: Then,
    },
}

impl Phase {
    /// Whether it can be dialled.
    pub(super) const fn is_open(self) -> bool {
        matches!(self, Self::Open { .. } | Self::Verified { .. })
    }

    /// Whether it can be dialled, and a check is yet to come through it.
    pub(super) const fn is_to_be_ready(self) -> bool {
        matches!(self, Self::Open { ready_by: Some(_) })
    }

    /// Whether its backend is healthy.
    pub(super) const fn is_verified(self) -> bool {
        matches!(self, Self::Verified { .. })
    }

    /// Whether an operator does not want it.
    pub(super) const fn is_stopped(self) -> bool {
        matches!(self, Self::Stopped | Self::Stopping { then: Then::Rest, .. })
    }

    /// Whether it is up, or about to be.
    pub(super) const fn is_wanted_up(self) -> bool {
        matches!(self, Self::Starting { .. } | Self::Open { .. } | Self::Verified { .. })
    }

    /// Since when its backend is healthy.
    pub(super) const fn up_since(self) -> Option<MonoTime> {
        match self {
            Self::Verified { since } => Some(since),
            Self::Stopped
            | Self::Waiting { .. }
            | Self::Starting { .. }
            | Self::Open { .. }
            | Self::Stopping { .. } => None,
        }
    }

    /// When it is tried again, if it waits for that.
    pub(super) const fn next_retry(self) -> Option<MonoTime> {
        match self {
            Self::Waiting { until } | Self::Stopping { then: Then::Start(until), .. } => Some(until),
            Self::Stopped
            | Self::Starting { .. }
            | Self::Open { .. }
            | Self::Verified { .. }
            | Self::Stopping { then: Then::Rest, .. } => None,
        }
    }

    /// Has it tried again at that time, if it waits for that.
    pub(super) const fn try_at(&mut self, soon: MonoTime) {
        match self {
            Self::Waiting { until } | Self::Stopping { then: Then::Start(until), .. } => *until = soon,
            Self::Stopped
            | Self::Starting { .. }
            | Self::Open { .. }
            | Self::Verified { .. }
            | Self::Stopping { then: Then::Rest, .. } => {}
        }
    }

    /// Gives what has to happen in time so much more of it.
    pub(super) fn excuse(&mut self, lasted: Duration) {
        match self {
            Self::Starting { ready_by: by } | Self::Open { ready_by: Some(by) } | Self::Stopping { by, .. } => {
                *by = *by + lasted;
            }
            Self::Stopped | Self::Waiting { .. } | Self::Open { ready_by: None } | Self::Verified { .. } => {}
        }
    }

    /// When it ends though nothing happens.
    pub(super) const fn deadline(self) -> Option<MonoTime> {
        match self {
            Self::Waiting { until: at } | Self::Starting { ready_by: at } | Self::Stopping { by: at, .. } => Some(at),
            Self::Open { ready_by } => ready_by,
            Self::Stopped | Self::Verified { .. } => None,
        }
    }
}
