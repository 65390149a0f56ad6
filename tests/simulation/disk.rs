//! A virtual disk, and the store over it: what is kept in one write is there together or not at all, one write is under
//! way at a time, and nobody waits. It may be slow, full, hang, or not be there.

use crate::*;

/// From a failed write to the next try, at first and at most.
const BACKOFF: (Duration, Duration) = (ms(1000), ms(30_000));
/// A change that is not on disk after so long is answered all the same, as one that is not kept.
const ANSWER_AFTER: Duration = ms(5000);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mood {
    Well,
    Slow,
    /// Every write fails.
    Full,
    /// No write comes back until this is over.
    Hangs,
}

/// What is kept of a pool: what it remembers, and on the calendar when its pause was asked for and when it ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) memory: PoolMemory,
    pub(crate) pause: Option<(WallTime, Option<WallTime>)>,
}

/// What is kept after so many records, and what people may then expect of a restart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    pub(crate) record: u64,
    pub(crate) rows: BTreeMap<PoolName, Row>,
    pub(crate) account: Account,
}

/// A write under way.
#[derive(Debug)]
struct Flight {
    since: MonoTime,
    /// None while the disk hangs.
    done: Option<MonoTime>,
    is_good: bool,
    image: Image,
}

#[derive(Debug)]
pub(crate) struct Disk {
    rng: fastrand::Rng,
    /// Whether there is one at all.
    is_there: bool,
    pub(crate) mood: Mood,
    /// What would be kept if the disk were quick.
    memory: Image,
    kept: Image,
    flight: Option<Flight>,
    /// When the next write may begin.
    free_at: MonoTime,
    /// When there was last something to be written.
    told_at: MonoTime,
    /// After a failure: how long it rests.
    backoff: Option<Duration>,
    /// Orders whose answers wait: the record, and when they are answered in any case.
    waiting: VecDeque<(u64, MonoTime)>,
    /// The last record that somebody was told is durable.
    promised: u64,
    /// Answers that said durable, and that did not.
    pub(crate) answers: (u64, u64),
    /// Writes that failed, and records that were lost by kills.
    pub(crate) losses: (u64, u64),
}

impl Disk {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let is_there = rng.u8(..16) > 0;
        Self {
            rng,
            is_there,
            mood: Mood::Well,
            memory: Image::default(),
            kept: Image::default(),
            flight: None,
            free_at: MonoTime::ZERO,
            told_at: MonoTime::ZERO,
            backoff: None,
            waiting: VecDeque::new(),
            promised: 0,
            answers: (0, 0),
            losses: (0, 0),
        }
    }

    pub(crate) const fn is_there(&self) -> bool {
        self.is_there
    }

    pub(crate) fn change_mood(&mut self, now: MonoTime, mood: Mood) {
        self.go_on(now);
        self.mood = mood;
        match &mut self.flight {
            Some(Flight { done: done @ None, is_good, .. }) => (*done, *is_good) = (Some(now), self.rng.bool()),
            // A disk that is well again is so at once.
            Some(Flight { done: Some(done), .. }) if mood == Mood::Well => *done = now.min(*done),
            _ => {}
        }
        self.go_on(now);
    }

    /// Whether it is known that writes fail or are overdue.
    fn is_degraded(&self, now: MonoTime) -> bool {
        self.backoff.is_some() || self.flight.as_ref().is_some_and(|flight| flight.since + ANSWER_AFTER <= now)
    }

    /// Takes `rows` in: none means that the pool is gone. An operator waits for it, or nobody; one whose order changed nothing
    /// waits for what others changed before.
    pub(crate) fn record(
        &mut self,
        now: MonoTime,
        rows: Vec<(PoolName, Option<Row>)>,
        account: &Account,
        somebody_waits: bool,
    ) {
        self.go_on(now);
        if !rows.is_empty() {
            (self.memory.record, self.told_at) = (self.memory.record + 1, now);
        }
        for (pool, row) in rows {
            match row {
                Some(row) => drop(self.memory.rows.insert(pool, row)),
                None => drop(self.memory.rows.remove(&pool)),
            }
        }
        self.memory.account.clone_from(account);
        if somebody_waits {
            if !self.is_there || self.is_degraded(now) {
                self.answers.1 += 1;
            } else {
                self.waiting.push_back((self.memory.record, now + ANSWER_AFTER));
            }
        }
        self.go_on(now);
    }

    /// Everything that the disk has done by `now`.
    fn go_on(&mut self, now: MonoTime) {
        while self.is_there {
            match &self.flight {
                Some(Flight { done: Some(done), .. }) if *done <= now => {
                    let done = *done;
                    self.finish(done);
                }
                None if self.memory.record > self.kept.record && self.free_at <= now => self.begin(),
                _ => break,
            }
            self.answer(now);
        }
        self.answer(now);
    }

    fn begin(&mut self) {
        let (since, micros) = (self.free_at.max(self.told_at), self.rng.u64(50..20_000));
        let (after, is_good) = match self.mood {
            Mood::Well => (Some(Duration::from_micros(micros)), true),
            Mood::Slow => (Some(Duration::from_micros(micros * 400)), true),
            Mood::Full => (Some(Duration::from_micros(micros)), false),
            Mood::Hangs => (None, false),
        };
        self.flight =
            Some(Flight { since, done: after.map(|after| since + after), is_good, image: self.memory.clone() });
    }

    fn finish(&mut self, done: MonoTime) {
        let Some(flight) = self.flight.take() else { return };
        if flight.is_good {
            (self.kept, self.free_at, self.backoff) = (flight.image, done, None);
            return;
        }
        let backoff = self.backoff.map_or(BACKOFF.0, |backoff| (backoff * 2).min(BACKOFF.1));
        (self.free_at, self.backoff) = (done + backoff, Some(backoff));
        self.losses.0 += 1;
        self.answers.1 += u64::try_from(self.waiting.drain(..).len()).unwrap();
    }

    /// Says to those who wait that their change is kept, or that it may not be.
    fn answer(&mut self, now: MonoTime) {
        while let Some(&(record, until)) = self.waiting.front() {
            if record <= self.kept.record {
                self.promised = self.promised.max(record);
                self.answers.0 += 1;
            } else if until <= now {
                self.answers.1 += 1;
            } else {
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// The process is killed, or it stopped in good order and had five seconds to write: what is there afterwards.
    pub(crate) fn restart(&mut self, now: MonoTime, in_good_order: bool) -> Image {
        self.go_on(now);
        if in_good_order {
            self.free_at = self.free_at.min(now);
            self.go_on(now + ANSWER_AFTER);
        } else if let Some(flight) = self.flight.take_if(|flight| flight.is_good) {
            // A write that is under way may have come through.
            if self.rng.bool() {
                self.kept = flight.image;
            }
        }
        assert!(self.promised <= self.kept.record, "{} is promised, and {} kept", self.promised, self.kept.record);
        self.losses.1 += self.memory.record - self.kept.record;
        self.memory = self.kept.clone();
        (self.flight, self.backoff) = (None, None);
        (self.free_at, self.told_at) = (MonoTime::ZERO, MonoTime::ZERO);
        self.waiting.clear();
        self.kept.clone()
    }
}
