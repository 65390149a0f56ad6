//! How late an answer may be: by this server's own answers so far. Pure.

use std::time::Duration;

/// No answer is late before this.
const SOFT_MIN: Duration = Duration::from_millis(25);
/// And none before so many times what nearly all answers took.
const TIMES: u32 = 8;
/// So many answers are remembered.
const REMEMBERED: usize = 256;
/// The deadline is reckoned anew after so many answers.
const ANEW: usize = 32;

/// The answer times of a server, and what follows from them.
#[derive(Debug)]
pub(super) struct Judge {
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
        Self { times: [0; REMEMBERED], count: 0, soft: SOFT_MIN.min(deadline), most: deadline }
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

#[cfg(test)]
mod tests {
    use super::*;

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
