//! A doubt whether a server lives: what it is about, and when it becomes a verdict.

use std::time::Duration;

use crate::model::MonoTime;

/// A server may be silent for so many times the slowest of its recent answers. Who waits for a processor among others waits about
/// as long each time. Measured with four times 64 clients of pgbench on two cores beside builds: in 4 runs of 12 a server was taken
/// for frozen without this (251 to 377 ms of silence), in none of 12 with it.
const SLOWEST_TIMES: u32 = 4;
/// But for no more than so many tenths of its deadline: it may be frozen now, however slow it was before, and a deadline of 250 ms
/// is to say so within 500, unless the daemon itself did not run in time to judge (see [`LATE`]).
const PATIENCE_MAX: u32 = 18;

/// Whoever judges so much later than he should have did not run: a paused machine, a busy processor, a long turn. What allays the doubt
/// may have come meanwhile, and wait to be read.
const LATE: Duration = Duration::from_millis(10);

/// A doubt whether the server lives: it begins with an anomaly on the session path and ends with a sign of life there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubt {
    /// Since when.
    pub(super) since: MonoTime,
    /// The last sign of life on either path.
    pub(super) last_sign: MonoTime,
    /// Whether the accept path has answered since.
    pub(super) answered: bool,
    /// The longest that it took of late to answer on its session, if it began there.
    pub(super) slowest: Duration,
    /// The last sign of life when it came to judgement too late, if it ever did.
    excused: Option<MonoTime>,
}

impl Doubt {
    /// Something is wrong that may have been doubted `before`. What was allayed is open again.
    pub(super) fn begin(before: Option<Self>, now: MonoTime, last_sign: MonoTime, slowest: Duration) -> Self {
        let new = Self { since: now, last_sign, answered: false, slowest, excused: None };
        let Some(before) = before else { return new };
        Self {
            since: if before.answered { now } else { before.since },
            last_sign: before.last_sign.max(last_sign),
            answered: false,
            slowest: before.slowest.max(slowest),
            excused: before.excused,
        }
    }

    /// The same, with all of its time before it, as if there had been a sign of life now.
    pub(super) const fn from(self, now: MonoTime) -> Self {
        Self { since: now, last_sign: now, ..self }
    }

    /// For how long the server may be silent on both paths. One that was slow of late, for want of a processor or a disk, has more time.
    fn patience(&self, deadline: Duration) -> Duration {
        (self.slowest * SLOWEST_TIMES).clamp(deadline, deadline * PATIENCE_MAX / 10)
    }

    /// When it becomes a verdict on a server that may be silent for `deadline`: its patience after the last sign of life, but the
    /// accept path has half a deadline at least.
    pub(super) fn verdict_at(&self, deadline: Duration) -> MonoTime {
        (self.last_sign + self.patience(deadline)).max(self.since + deadline / 2)
    }

    /// Whether it comes to judgement so late that it is not to be judged. Then it has half a deadline more, once from one sign of life
    /// to the next: a machine that is always late must not keep a dead server in.
    pub(super) fn is_excused(&mut self, now: MonoTime, deadline: Duration) -> bool {
        let is_late = now.since(self.verdict_at(deadline)) >= LATE;
        if !is_late || self.excused == Some(self.last_sign) {
            return false;
        }
        (self.since, self.excused) = (now, Some(self.last_sign));
        true
    }
}
