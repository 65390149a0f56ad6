//! The one clock.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::model::{MonoTime, WallTime};

/// Reads time as the rest of the program wants it. Built on tokio's clock, so that tests can pause it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    start_wall: SystemTime,
}

impl Clock {
    /// A clock that reads zero now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now(), start_wall: SystemTime::now() }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> MonoTime {
        MonoTime::ZERO + self.start.elapsed()
    }

    /// `time` as an instant to sleep until.
    #[must_use]
    pub fn instant(&self, time: MonoTime) -> Instant {
        self.start + Duration::from_nanos(time.as_nanos())
    }

    /// `time` on the calendar, as RFC 3339 in UTC with microseconds. Counted on from the daemon's
    /// start, so that a step of the system's clock never reorders events.
    #[must_use]
    pub fn timestamp(&self, time: MonoTime) -> String {
        let wall = self.start_wall + Duration::from_nanos(time.as_nanos());
        jiff::Timestamp::try_from(wall).map_or_else(|_| String::new(), |stamp| format!("{stamp:.6}"))
    }

    /// `time` on the calendar, to be kept beyond the process; with the same property.
    #[must_use]
    pub fn wall(&self, time: MonoTime) -> WallTime {
        let start = self.start_wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        WallTime::default() + start + Duration::from_nanos(time.as_nanos())
    }

    /// `time` as seconds since 1970.
    #[must_use]
    pub fn unix_seconds(&self, time: MonoTime) -> f64 {
        let wall = self.start_wall + Duration::from_nanos(time.as_nanos());
        wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
    }
}
