//! Evidence that our own probes did not bring: counted apart from theirs, in points.

use std::time::Duration;

use crate::model::{CheckPlan, MonoTime};

/// The points of one failed probe's worth: so many times `unhealthy_threshold` make a backend unhealthy.
pub const POINTS_PER_FAILURE: u32 = 4;

/// A failure that somebody outside reports is worth one failed probe.
pub const REPORTED_POINTS: u32 = POINTS_PER_FAILURE;

/// A session that the backend ended before it answered.
pub const ENDED_POINTS: u32 = 1;

/// A client's dial that failed.
pub const DIAL_POINTS: u32 = 1;

/// What a passing probe, or a success that somebody outside reports, takes away.
pub const SUCCESS_POINTS: u32 = POINTS_PER_FAILURE;

/// What sessions and dials tell decides nothing before this time has passed since the first of it: a moment's trouble is over
/// when the question that it makes us ask is answered, and many clients may have met it at once.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// Sessions that end before they are answered decide nothing unless nobody at all was answered for so long. Any client can bring
/// such ends about, by sending what a server does not understand; while others are served, they say nothing about the server.
/// Bytes are counted four times in this time.
pub const UNANSWERED_FOR: Duration = Duration::from_secs(1);

/// The longest text of a reported failure that is kept, in characters.
const TEXT_MAX: usize = 200;

/// Something that was heard of a backend.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hearsay<'a> {
    /// Somebody outside could not use it.
    Reported(&'a str),
    /// So many sessions ended before it answered.
    Ended {
        sessions: u32,
        /// It has answered others since such sessions were last told of.
        answered: bool,
    },
    /// A client could not connect to it.
    Dial,
}

/// What was heard, since there was last nothing to be said against the backend.
#[derive(Debug, Clone, Default)]
pub(super) struct Passive {
    /// From others than ended sessions. Together with those of ended sessions, which give way, never more than a failure above
    /// what makes the backend unhealthy: what has decided need not be outweighed.
    told: u32,
    /// From sessions that ended.
    ends: u32,
    reported: u32,
    ended: u32,
    dials: u32,
    last: Option<String>,
    /// When the first of it was heard.
    began: Option<MonoTime>,
    /// When the first of those sessions ended that nobody was answered after.
    unanswered_since: Option<MonoTime>,
}

impl Passive {
    /// Counts it. Says whether there is enough, by now, to call the backend unhealthy.
    pub(super) fn add(&mut self, now: MonoTime, hearsay: Hearsay<'_>, check: &CheckPlan) -> bool {
        if let Hearsay::Ended { answered: true, .. } = hearsay {
            self.forget_ends();
        }
        let began = *self.began.get_or_insert(now);
        let is_word = matches!(hearsay, Hearsay::Reported(_));
        let points = match hearsay {
            Hearsay::Reported(error) => {
                self.reported = self.reported.saturating_add(1);
                self.last = Some(error.chars().take(TEXT_MAX).collect());
                REPORTED_POINTS
            }
            Hearsay::Ended { sessions, .. } => {
                self.unanswered_since.get_or_insert(now);
                self.ended = self.ended.saturating_add(sessions);
                ENDED_POINTS.saturating_mul(sessions)
            }
            Hearsay::Dial => {
                self.dials = self.dials.saturating_add(1);
                DIAL_POINTS
            }
        };
        let most = limit(check).saturating_add(POINTS_PER_FAILURE);
        let sum = if let Hearsay::Ended { .. } = hearsay { &mut self.ends } else { &mut self.told };
        *sum = sum.saturating_add(points).min(most);
        self.ends = self.ends.min(most - self.told);
        self.decisive(now) >= limit(check) && (is_word || now.since(began) >= PATIENCE)
    }

    /// What it all is worth.
    pub(super) const fn points(&self) -> u32 {
        self.told.saturating_add(self.ends)
    }

    /// The points that may decide now.
    fn decisive(&self, now: MonoTime) -> u32 {
        match self.unanswered_since {
            Some(since) if now.since(since) < UNANSWERED_FOR => self.told,
            Some(_) | None => self.points(),
        }
    }

    /// It answers others: what was heard of sessions that ended is void.
    fn forget_ends(&mut self) {
        (self.ends, self.ended, self.unanswered_since) = (0, 0, None);
        if self.told == 0 {
            *self = Self::default();
        }
    }

    /// A success, of whatever kind.
    pub(super) fn lower(&mut self) {
        let from_told = SUCCESS_POINTS.saturating_sub(self.ends);
        self.ends = self.ends.saturating_sub(SUCCESS_POINTS);
        self.told = self.told.saturating_sub(from_told);
        if self.points() == 0 {
            *self = Self::default();
        }
    }

    /// Whether it is too much for the backend to be called healthy again.
    pub(super) const fn is_enough(&self, check: &CheckPlan) -> bool {
        self.points() >= limit(check)
    }

    /// How many failed probes it is worth.
    pub(super) const fn failures(&self) -> u32 {
        self.points() / POINTS_PER_FAILURE
    }

    /// What was heard, in words.
    pub(super) fn detail(&self) -> String {
        let mut parts = Vec::new();
        let plural = |count: u32, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        if self.ended > 0 {
            parts.push(plural(self.ended, "session ended", "sessions ended") + " before the first answer");
        }
        if self.dials > 0 {
            parts.push(plural(self.dials, "dial failed", "dials failed"));
        }
        if self.reported > 0 {
            let last = self.last.as_deref().unwrap_or_default();
            parts.push(plural(self.reported, "failure", "failures") + " reported, last: " + last);
        }
        parts.join(", ")
    }
}

const fn limit(check: &CheckPlan) -> u32 {
    POINTS_PER_FAILURE.saturating_mul(check.unhealthy_threshold)
}
