//! How far standbys are behind: in bytes, and in time by the daemon's own samples of where the primary was when. No clock of
//! any server is asked, and an idle primary leaves nobody behind.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::{Lsn, MonoTime, PostgresPlan, ServerFacts};

use super::line::{Line, Relation};

/// The most samples that are kept of a primary.
const SAMPLES_MAX: usize = 1024;

/// A standby that lags is let in again when it is behind by at most one part in so many of the limit.
const LEAVE_SHARE: u32 = 2;

/// What was measured counts for so long at least: ten times as long as it takes to measure anew.
const COUNTS_MIN: Duration = Duration::from_secs(2);
/// And never for longer than this.
const COUNTS_MAX: Duration = Duration::from_secs(10);

/// How far a standby is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Lag {
    /// What was found when it last told how far it has replayed; nothing if that, or the primary's place, is not known (any more).
    pub(super) behind: Option<Behind>,
    /// When it was last measured, or what could not be measured since was excused.
    pub(super) as_of: MonoTime,
    /// Whether it is measured no more, and another standby is known to be near enough: who reads is sent there.
    pub(super) is_unknown: bool,
    /// Whether people were told that it is measured no more.
    pub(super) is_missed: bool,
    /// Whether that is too far for new sessions.
    pub(super) is_lagging: bool,
    /// Whether it is on another line than the primary, or has replayed what that never wrote: it cannot catch up.
    pub(super) has_diverged: bool,
    /// Whether its sessions were let go for that.
    pub(super) is_parted: bool,
}

/// A distance from the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Behind {
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

/// Where the primary was when.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// Growing in time and place.
    past: VecDeque<(MonoTime, Lsn)>,
    newest: Option<(MonoTime, Lsn)>,
    /// When the primary last told where it is, be it where it was before.
    told: MonoTime,
}

impl Samples {
    /// Takes one in. They are kept so far apart that all of them reach back twice `max_lag_time`.
    pub(super) fn take(&mut self, now: MonoTime, at: Lsn, max_lag_time: Duration) {
        self.told = now;
        if self.newest.is_some_and(|(_, newest)| newest >= at) {
            return;
        }
        self.newest = Some((now, at));
        let apart = max_lag_time / u32::try_from(SAMPLES_MAX / 2).unwrap_or(1);
        if self.past.back().is_some_and(|&(last, _)| now.since(last) < apart) {
            return;
        }
        if self.past.len() == SAMPLES_MAX {
            self.past.pop_front();
        }
        self.past.push_back((now, at));
    }

    /// Forgets them: another server, or another line of history, is the measure.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// That it was not told where the primary is until now was our own fault.
    pub(super) const fn excuse(&mut self, now: MonoTime) {
        self.told = now;
    }

    /// How far behind who has replayed up to `replayed` is; nothing if nothing is known of the primary.
    pub(super) fn behind(&self, now: MonoTime, replayed: Lsn) -> Option<Behind> {
        let (newest_at, newest) = self.newest?;
        if replayed >= newest {
            return Some(Behind::default());
        }
        let first = self.past.partition_point(|&(_, at)| at <= replayed);
        let since = self.past.get(first).map_or(newest_at, |&(at, _)| at);
        Some(Behind { bytes: newest.since(replayed), time: now.since(since) })
    }
}

impl Lag {
    /// Measures a standby that says `facts` against the primary's `samples`. Says whether it lags now, and by how much at
    /// least, if that is news.
    pub(super) fn measure(
        &mut self,
        now: MonoTime,
        facts: &ServerFacts,
        samples: &Samples,
        plan: &PostgresPlan,
    ) -> Option<(bool, Behind)> {
        let is_old = now.since(samples.told) > counts_for(plan);
        let behind = samples.behind(now, facts.replayed.or(facts.written)?).filter(|_| !is_old)?;
        self.as_of = now;
        // What it has received and may not have replayed is what it is behind by at least: enough to keep sessions away, and no
        // more.
        self.behind = facts.replayed.map(|_| behind);
        let share = if self.is_lagging { LEAVE_SHARE } else { 1 };
        let bytes = plan.max_lag > 0 && behind.bytes > plan.max_lag / u64::from(share);
        let time = !plan.max_lag_time.is_zero() && behind.time > plan.max_lag_time / share;
        let was = std::mem::replace(&mut self.is_lagging, bytes || time);
        let was_missed = std::mem::take(&mut self.is_missed) && !self.is_lagging;
        self.is_unknown = false;
        (was != self.is_lagging || was_missed).then_some((self.is_lagging, behind))
    }

    /// Until when what was measured counts; nothing without an end that matters.
    pub(super) fn counts_until(&self, plan: &PostgresPlan) -> Option<MonoTime> {
        self.behind.map(|_| self.as_of + counts_for(plan))
    }

    /// Forgets what was measured too long ago. Says whether that is so.
    pub(super) fn lapses(&mut self, now: MonoTime, plan: &PostgresPlan) -> bool {
        let lapses = now >= self.as_of + counts_for(plan);
        self.behind = self.behind.filter(|_| !lapses);
        lapses
    }
}

/// How long what was measured counts: no longer than the time that a standby may be behind.
fn counts_for(plan: &PostgresPlan) -> Duration {
    let limit = plan.max_lag_time;
    if limit.is_zero() { COUNTS_MIN } else { limit.clamp(COUNTS_MIN, COUNTS_MAX) }
}

/// Whether a standby that says `facts` is on another line than `primary`, or has replayed more of an older one than that has of it.
pub(super) fn has_diverged(facts: &ServerFacts, primary: &ServerFacts) -> bool {
    match Line::of(primary).relation(Line::of(facts)) {
        Relation::Same => false,
        Relation::Descends(left) => facts.replayed.or(facts.written).is_some_and(|replayed| replayed > left),
        Relation::Lower | Relation::Diverged => true,
        // What cannot be told is no reason to leave readers without a server.
        Relation::Higher | Relation::Unknown => false,
    }
}
