//! When to try again, and which failures are worth telling. Pure.

use std::time::Duration;

use crate::model::{DialError, LoginError, MonoTime, WatchError};

/// The pause after the first attempt that failed; each one after it is twice as long.
const FIRST: Duration = Duration::from_millis(50);
/// No pause is longer.
const LONGEST: Duration = Duration::from_secs(1);
/// No pause is longer where nobody listens: such an attempt costs a packet each way, and no line in anybody's log. A server that is
/// back may be the next to be promoted.
const LONGEST_UNHEARD: Duration = Duration::from_millis(100);
/// Nor where a server says that it starts or stops: four lines a second in its log, for as long as that takes.
const LONGEST_STARTING: Duration = Duration::from_millis(250);
/// A session that lasted so long was no accident: the next one is tried at once, and no earlier trouble counts.
const LASTED: Duration = Duration::from_secs(1);
/// The same failure is told again after so long, and not before.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// The pauses between attempts at a session.
#[derive(Debug, Default)]
pub(super) struct Retry {
    /// The pause before the next attempt; none right after a session that lasted.
    pause: Duration,
    /// The pause before the next attempt after a session that did not last.
    after_brief: Duration,
    told: Option<(WatchError, MonoTime)>,
}

impl Retry {
    /// How long to wait before the next attempt, which is then counted.
    pub(super) fn pause(&mut self, now: MonoTime) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).clamp(FIRST, LONGEST);
        // Up to an eighth more, by whatever the clock's last digits are: so that those who failed together do not come together.
        pause + pause / 8 * u32::try_from(now.as_nanos() % 64).unwrap_or(0) / 64
    }

    /// A session is over that was open for `lasted`. After one that lasted the next is tried at once, after a brief one soon, and
    /// ever later if more of them follow.
    pub(super) fn ended(&mut self, lasted: Duration) {
        self.told = None;
        // Why the attempts before it failed is over: only that sessions do not last is a reason to wait.
        if lasted >= LASTED {
            (self.pause, self.after_brief) = Default::default();
        } else {
            self.after_brief = (self.after_brief * 2).clamp(FIRST, LONGEST);
            self.pause = self.after_brief;
        }
    }

    /// An attempt has failed like this.
    pub(super) fn failed(&mut self, error: WatchError) {
        let longest = match error {
            WatchError::Dial(DialError::Refused | DialError::TargetRefused | DialError::TunnelDown) => LONGEST_UNHEARD,
            WatchError::Login(LoginError::CannotConnectNow) => LONGEST_STARTING,
            WatchError::Dial(_) | WatchError::Login(_) => LONGEST,
        };
        self.pause = self.pause.min(longest);
    }

    /// Whether a failure is to be told: another than the last, or long after it.
    pub(super) fn is_news(&mut self, now: MonoTime, error: WatchError) -> bool {
        let known = self.told.is_some_and(|(told, at)| told == error && now.since(at) < TOLD_EVERY);
        if !known {
            self.told = Some((error, now));
        }
        !known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonoTime {
        MonoTime::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn the_first_attempt_is_made_at_once_and_the_pauses_grow_to_a_second() {
        let mut retry = Retry::default();
        let pauses: Vec<_> = (0..8).map(|_| retry.pause(MonoTime::ZERO).as_millis()).collect();
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1000, 1000]);
        let brief: Vec<_> = (0..7)
            .map(|_| {
                retry.ended(Duration::from_millis(300));
                retry.pause(MonoTime::ZERO).as_millis()
            })
            .collect();
        assert_eq!(brief, [50, 100, 200, 400, 800, 1000, 1000], "sessions that do not last are no reason to hurry");
        retry.ended(Duration::from_secs(20));
        assert_eq!(retry.pause(MonoTime::ZERO), Duration::ZERO);
        assert_eq!(retry.pause(MonoTime::from_nanos(63)), FIRST + FIRST / 8 * 63 / 64, "never the same for all");
    }

    #[test]
    fn a_server_that_comes_up_is_not_waited_for_as_long_as_it_was_away() {
        let pauses = |error| {
            let mut retry = Retry::default();
            let mut all = Vec::new();
            for _ in 0..8 {
                all.push(retry.pause(MonoTime::ZERO).as_millis());
                retry.failed(error);
            }
            all
        };
        assert_eq!(pauses(WatchError::Dial(DialError::Refused)), [0, 50, 100, 100, 100, 100, 100, 100]);
        let starting = WatchError::Login(LoginError::CannotConnectNow);
        assert_eq!(pauses(starting), [0, 50, 100, 200, 250, 250, 250, 250]);
        assert_eq!(pauses(WatchError::Login(LoginError::NotAuthorized)), [0, 50, 100, 200, 400, 800, 1000, 1000]);
        let mut retry = Retry::default();
        for _ in 0..8 {
            retry.pause(MonoTime::ZERO);
            retry.failed(WatchError::Dial(DialError::TimedOut));
        }
        retry.ended(Duration::from_millis(300));
        assert_eq!(retry.pause(MonoTime::ZERO), FIRST, "a young session owes nothing to what was before it");
    }

    #[test]
    fn the_same_failure_is_told_once_a_second_and_another_at_once() {
        let (refused, starting) =
            (WatchError::Dial(DialError::Refused), WatchError::Login(LoginError::CannotConnectNow));
        let mut retry = Retry::default();
        assert!(retry.is_news(at(0), refused));
        assert!(!retry.is_news(at(999), refused));
        assert!(retry.is_news(at(999), starting));
        assert!(retry.is_news(at(1000), refused));
        assert!(retry.is_news(at(2000), refused));
        retry.ended(Duration::ZERO);
        assert!(retry.is_news(at(2001), refused), "a session was open in between");
    }
}
