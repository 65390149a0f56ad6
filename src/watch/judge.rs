//! How late an answer may be: by this server's own answers so far. Pure.

use std::time::Duration;

use crate::model::MonoTime;

/// No answer is late before this.
const SOFT_MIN: Duration = Duration::from_millis(25);
/// And none before so many times what nearly all answers took.
const TIMES: u32 = 8;
/// So many answers are remembered.
const REMEMBERED: usize = 256;
/// The deadline is reckoned anew after so many answers.
const ANEW: usize = 32;

/// The slowest answer is remembered for so long, and for twice that at most.
const OF_LATE: Duration = Duration::from_secs(10);

/// The answer times of a server, and what follows from them.
#[derive(Debug)]
pub(super) struct Judge {
    slowest: Slowest,
    /// In microseconds.
    times: [u32; REMEMBERED],
    count: usize,
    soft: Duration,
    /// No soft deadline is longer than this.
    most: Duration,
}

impl Judge {
    /// One for a server that is given up as dead after `deadline` without any sign of life.
    pub(super) fn new(deadline: Duration) -> Self {
        let slowest = Slowest::default();
        Self { slowest, times: [0; REMEMBERED], count: 0, soft: SOFT_MIN.min(deadline), most: deadline }
    }

    /// After how long an answer is late.
    pub(super) const fn soft(&self) -> Duration {
        self.soft
    }

    /// Remembers that an answer took so long.
    pub(super) fn answered(&mut self, took: Duration) {
        if let Some(slot) = self.times.get_mut(self.count % REMEMBERED) {
            *slot = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        }
        self.count = self.count.wrapping_add(1);
        if self.count.is_multiple_of(ANEW) {
            self.reckon();
        }
    }

    /// Remembers that an answer that came `now` took so long, whether or not it was asked for at a fair moment.
    pub(super) fn came(&mut self, now: MonoTime, took: Duration) {
        let slowest = self.slowest.turn(now);
        slowest.current = slowest.current.max(took);
    }

    /// The longest that an answer took of late.
    pub(super) fn slowest(&mut self, now: MonoTime) -> Duration {
        let slowest = self.slowest.turn(now);
        slowest.current.max(slowest.before)
    }

    fn reckon(&mut self) {
        let mut times = self.times;
        let known = times.get_mut(..self.count.min(REMEMBERED)).unwrap_or_default();
        // The 99th percentile, rounded up: of 256 answers the third from above.
        let rank = known.len() - known.len() / 100;
        if let Some(last) = rank.checked_sub(1).filter(|last| *last < known.len()) {
            let (_, p99, _) = known.select_nth_unstable(last);
            self.soft = (Duration::from_micros(u64::from(*p99)) * TIMES).max(SOFT_MIN).min(self.most);
        }
    }
}

/// The slowest answer of this period, and of the one before it.
#[derive(Debug, Default)]
struct Slowest {
    since: MonoTime,
    current: Duration,
    before: Duration,
}

impl Slowest {
    /// Begins a new period if it is time.
    fn turn(&mut self, now: MonoTime) -> &mut Self {
        let periods = now.since(self.since).as_nanos() / OF_LATE.as_nanos();
        if periods > 0 {
            self.before = if periods == 1 { self.current } else { Duration::ZERO };
            (self.since, self.current) = (now, Duration::ZERO);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_answer_is_remembered_for_ten_seconds_and_forgotten_after_twenty() {
        let (mut judge, ms) = (Judge::new(DEADLINE), Duration::from_millis);
        let at = |millis| MonoTime::ZERO + ms(millis);
        assert_eq!(judge.slowest(at(5)), Duration::ZERO);
        judge.came(at(1000), ms(80));
        judge.came(at(1100), ms(20));
        assert_eq!(judge.slowest(at(9_000)), ms(80));
        judge.came(at(12_000), ms(30));
        assert_eq!(judge.slowest(at(21_000)), ms(80), "for as long as the period after it");
        assert_eq!(judge.slowest(at(22_000)), ms(30));
        assert_eq!(judge.slowest(at(60_000)), Duration::ZERO);
    }

    const DEADLINE: Duration = Duration::from_millis(250);

    fn after(answers: &[(usize, u64)]) -> Duration {
        let mut judge = Judge::new(DEADLINE);
        for (count, micros) in answers {
            for _ in 0..*count {
                judge.answered(Duration::from_micros(*micros));
            }
        }
        judge.soft()
    }

    #[test]
    fn a_fast_server_is_late_after_25_milliseconds() {
        assert_eq!(after(&[]), SOFT_MIN);
        assert_eq!(after(&[(1000, 40)]), SOFT_MIN);
    }

    #[test]
    fn a_slow_server_is_late_after_eight_times_what_its_answers_take() {
        assert_eq!(after(&[(256, 10_000)]), Duration::from_millis(80));
        assert_eq!(after(&[(31, 10_000)]), SOFT_MIN, "too few to go by");
    }

    #[test]
    fn two_slow_answers_of_256_change_nothing_and_three_do() {
        assert_eq!(after(&[(254, 40), (2, 20_000)]), SOFT_MIN);
        assert_eq!(after(&[(253, 40), (3, 20_000)]), Duration::from_millis(160));
        assert_eq!(after(&[(3, 20_000), (288, 40)]), SOFT_MIN, "and they are forgotten");
    }

    #[test]
    fn no_answer_is_waited_for_beyond_the_deadline_of_the_server_before_it_is_late() {
        assert_eq!(after(&[(256, 100_000)]), DEADLINE);
        assert_eq!(Judge::new(Duration::from_millis(10)).soft(), Duration::from_millis(10));
    }
}
