//! How often a caller may change something, and what of the refusals is written down: nobody floods the history.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock as Reading;
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{NotUntil, Quota, RateLimiter};

use crate::model::{Actor, MonoTime, Rate};
use crate::sys::Clock;

/// Callers that are remembered one by one. Who comes beyond it shares one share with all others who do.
const CALLERS_MAX: usize = 4096;
/// Refusals that are written down one by one in a minute of a known caller's, or in an hour of all strangers': of those there is
/// no end, and what they have written down pushes out what others did. The rest is counted.
const SINGLY_MAX: u32 = 60;
/// Callers, and addresses, that are told by name of those that are counted.
const TOLD_MAX: usize = 10;
/// Others that are told apart, to count them.
const OTHERS_MAX: usize = 1000;
/// For how long a known caller's are counted together.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// For how long those of strangers have their number.
const STRANGERS_WINDOW: Duration = Duration::from_secs(3600);
/// From one count of strangers' to the next; the first of an hour comes as soon as a known caller's.
const STRANGERS_TOLD: Duration = Duration::from_secs(600);

/// Who is limited.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// One who is known.
    Actor(Actor),
    /// Whoever comes from that network with wrong credentials.
    Stranger(Option<IpAddr>),
    /// All who are too many to be told apart.
    Others,
}

/// The daemon's clock as the limiter reads it.
struct Ticking(Clock);

impl Reading for Ticking {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.now().as_nanos())
    }
}

type Limiter = RateLimiter<Key, HashMapStateStore<Key>, Ticking, StateInformationMiddleware>;

/// The limit, and who has how much of it left.
pub(super) struct Limits {
    clock: Clock,
    rate: Option<Rate>,
    /// From one to the next that there is again.
    refill: Duration,
    known: Option<Limiter>,
    /// Apart from those who are known, so that however many they are they take nothing of theirs.
    strangers: Option<Limiter>,
}

impl Limits {
    pub(super) fn new(rate: Option<Rate>, clock: Clock) -> Self {
        let quota = rate.and_then(|rate| {
            let count = NonZeroU32::new(rate.count)?;
            // All of it may be had in one moment.
            Some(Quota::with_period(rate.per / count.get())?.allow_burst(count))
        });
        let limiter = || quota.map(|quota| Limiter::new(quota, HashMapStateStore::default(), Ticking(clock)));
        let refill = quota.map_or(Duration::ZERO, |quota| quota.replenish_interval());
        Self { clock, rate, refill, known: limiter(), strangers: limiter() }
    }

    /// The limit.
    pub(super) const fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// Takes one from `key`'s share.
    ///
    /// # Errors
    ///
    /// The whole seconds, at least one, after which there is one again.
    pub(super) fn take(&self, key: Key) -> Result<(), u64> {
        let now = self.clock.now();
        self.take_one(key).map(drop).map_err(|until| whole_seconds(until.since(now)))
    }

    /// The same. If it was the last one, it is said when there is the next one.
    ///
    /// # Errors
    ///
    /// When there is the next one.
    pub(super) fn take_one(&self, key: Key) -> Result<Option<MonoTime>, MonoTime> {
        let limiter = match key {
            Key::Actor(_) => &self.known,
            Key::Stranger(_) | Key::Others => &self.strangers,
        };
        let Some(limiter) = limiter else { return Ok(None) };
        if limiter.len() >= CALLERS_MAX {
            limiter.retain_recent();
        }
        let key = if limiter.len() >= CALLERS_MAX { Key::Others } else { key };
        let until = |refused: NotUntil<Duration>| MonoTime::ZERO + refused.earliest_possible();
        let taken = limiter.check_key(&key).map_err(until)?;
        if taken.remaining_burst_capacity() > 0 {
            return Ok(None);
        }
        // Only a refusal says when the next one is free, and it costs nothing. If that is so by now, the next one is taken
        // too, and the one after it is a refill away at most.
        Ok(Some(limiter.check_key(&key).map_or_else(until, |_| self.clock.now() + self.refill)))
    }

    /// How many are remembered.
    #[cfg(test)]
    fn remembered(&self) -> usize {
        [&self.known, &self.strangers].into_iter().flatten().map(RateLimiter::len).max().unwrap_or(0)
    }
}

/// `wait` in seconds, at least one.
pub(super) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// So many known callers have a share of their own for their refusals.
const KNOWN_MAX: usize = 256;

/// What becomes of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    /// It is written down.
    Singly,
    /// It is the first that is only counted: after this long the count is to be asked for.
    FirstOfMany(Whose, Duration),
    /// It is counted.
    Counted,
}

/// Whose refusals are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Of callers who proved who they are.
    Known,
    /// Of those who presented nothing, or what is not right.
    Strangers,
}

impl Whose {
    pub(super) const ALL: [Self; 2] = [Self::Known, Self::Strangers];

    fn of(actor: &Actor) -> Self {
        if matches!(actor.as_str(), "unknown" | "anonymous") { Self::Strangers } else { Self::Known }
    }

    const fn window(self) -> Duration {
        match self {
            Self::Known => WINDOW,
            Self::Strangers => STRANGERS_WINDOW,
        }
    }

    /// When, in a window that began `since` ago, those are told that were only counted.
    fn told_after(self, since: Duration) -> Duration {
        let is_later = self == Self::Strangers && since >= WINDOW;
        let parts = since.as_nanos() / STRANGERS_TOLD.as_nanos() + 1;
        let at = if is_later { STRANGERS_TOLD * u32::try_from(parts).unwrap_or(u32::MAX) } else { WINDOW };
        at.saturating_sub(since)
    }
}

/// The refusals of late: those of each known caller, of the known callers who are too many for that, and of all strangers
/// together, so that no flood of one's hides another's.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    known: BTreeMap<Actor, Share>,
    others: Share,
    strangers: Share,
    /// Those that were counted only.
    counted: [Many; 2],
}

/// Refusals that are told together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Many {
    pub(super) count: u64,
    /// Whose they are.
    pub(super) actors: Several,
    /// From where.
    pub(super) addresses: Several,
}

/// The first of many names, and how many others there are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Several {
    first: Vec<String>,
    others: BTreeSet<String>,
}

impl Several {
    fn add(&mut self, name: &str) {
        if self.first.iter().any(|known| known == name) {
            return;
        }
        if self.first.len() < TOLD_MAX {
            self.first.push(name.to_owned());
        } else if self.others.len() < OTHERS_MAX {
            self.others.insert(name.to_owned());
        }
    }

    /// Those that came first, in that order.
    pub(super) fn first(&self) -> &[String] {
        &self.first
    }

    /// How many others; of more than 1000, that number.
    pub(super) fn more(&self) -> usize {
        self.others.len()
    }
}

/// What is written down singly in a window.
#[derive(Debug, Default)]
struct Share {
    begun: Option<MonoTime>,
    noted: u32,
}

impl Share {
    /// Whether there is one more in a window of this length; else when it began.
    fn take(&mut self, window: Duration, now: MonoTime) -> Result<(), MonoTime> {
        let begun = match self.begun {
            Some(begun) if now.since(begun) < window => begun,
            _ => {
                (self.begun, self.noted) = (Some(now), 0);
                now
            }
        };
        if self.noted < SINGLY_MAX {
            self.noted += 1;
            return Ok(());
        }
        Err(begun)
    }

    fn is_over(&self, now: MonoTime) -> bool {
        self.begun.is_none_or(|begun| now.since(begun) >= WINDOW)
    }
}

impl Refusals {
    /// There is one more, of `actor`, from `address`.
    pub(super) fn add(&mut self, actor: &Actor, address: &str, now: MonoTime) -> Noted {
        if self.known.len() >= KNOWN_MAX {
            self.known.retain(|_, share| !share.is_over(now));
        }
        let whose = Whose::of(actor);
        let has_room = self.known.len() < KNOWN_MAX || self.known.contains_key(actor);
        let share = match whose {
            Whose::Strangers => &mut self.strangers,
            Whose::Known if has_room => self.known.entry(actor.clone()).or_default(),
            Whose::Known => &mut self.others,
        };
        match share.take(whose.window(), now) {
            Ok(()) => Noted::Singly,
            Err(begun) => {
                let counted = self.counted(whose);
                counted.count += 1;
                counted.actors.add(actor.as_str());
                counted.addresses.add(address);
                let is_first = counted.count == 1;
                if is_first { Noted::FirstOfMany(whose, whose.told_after(now.since(begun))) } else { Noted::Counted }
            }
        }
    }

    fn counted(&mut self, whose: Whose) -> &mut Many {
        let [known, strangers] = &mut self.counted;
        match whose {
            Whose::Known => known,
            Whose::Strangers => strangers,
        }
    }

    /// Those of `whose` that were only counted since this was asked last.
    pub(super) fn take_counted(&mut self, whose: Whose) -> Many {
        std::mem::take(self.counted(whose))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::{
        CALLERS_MAX, Clock, Duration, Key, Limits, Many, MonoTime, Noted, OTHERS_MAX, Rate, Refusals, SINGLY_MAX,
        Several, WINDOW, Whose,
    };
    use crate::model::Actor;

    fn actor(number: usize) -> Key {
        Key::Actor(Actor::from(number.to_string().as_str()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_its_share_at_once_and_then_bit_by_bit() {
        let limits = Limits::new(Some(Rate { count: 3, per: Duration::from_secs(60) }), Clock::start());
        for _ in 0..3 {
            assert_eq!(limits.take(actor(1)), Ok(()));
        }
        assert_eq!(limits.take(actor(1)), Err(20));
        assert_eq!(limits.take(actor(2)), Ok(()), "each has its own");
        tokio::time::advance(Duration::from_millis(19_500)).await;
        assert_eq!(limits.take(actor(1)), Err(1));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(limits.take(actor(1)), Ok(()));
        assert_eq!(limits.take(actor(1)), Err(20));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_callers_are_remembered_than_there_may_be() {
        let limits = Limits::new(Some(Rate { count: 2, per: Duration::from_secs(1) }), Clock::start());
        for number in 0..3 * CALLERS_MAX {
            assert!(limits.take(actor(number)).is_ok() || number >= CALLERS_MAX, "{number}");
        }
        assert!(limits.remembered() <= CALLERS_MAX + 1, "{}", limits.remembered());
        assert!(limits.take(actor(usize::MAX)).is_err(), "the others share what there is");
        assert_eq!(
            limits.take(Key::Stranger(None)),
            Ok(()),
            "strangers and those who are known take nothing of each other"
        );
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(limits.take(actor(usize::MAX)), Ok(()));
        assert!(limits.remembered() < 3, "who was long gone is forgotten: {}", limits.remembered());
    }

    #[test]
    fn without_a_limit_nobody_is_limited_or_remembered() {
        let limits = Limits::new(None, Clock::start());
        assert!((0..10_000).all(|number| limits.take(actor(number)).is_ok()) && limits.remembered() == 0);
    }

    #[test]
    fn a_flood_of_refusals_is_a_few_and_a_count() {
        let (mut refusals, anonymous) = (Refusals::default(), Actor::from("anonymous"));
        let at = |seconds: u64| MonoTime::ZERO + Duration::from_secs(seconds);
        for _ in 0..SINGLY_MAX {
            assert_eq!(refusals.add(&anonymous, "192.0.2.1", at(5)), Noted::Singly);
        }
        let soon = Noted::FirstOfMany(Whose::Strangers, WINDOW - Duration::from_secs(20));
        assert_eq!(refusals.add(&anonymous, "192.0.2.1", at(25)), soon);
        assert_eq!(refusals.add(&Actor::from("unknown"), "192.0.2.2", at(26)), Noted::Counted);
        let ann = Actor::from("jwt:ann");
        assert_eq!(refusals.add(&ann, "192.0.2.1", at(26)), Noted::Singly, "of one who is known");
        let Many { count, actors, addresses } = refusals.take_counted(Whose::Strangers);
        assert_eq!((count, actors.first(), actors.more()), (2, &["anonymous".to_owned(), "unknown".to_owned()][..], 0));
        assert_eq!(addresses.first(), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(refusals.take_counted(Whose::Strangers), Many::default());
        assert_eq!(refusals.add(&anonymous, "192.0.2.1", at(3605)), Noted::Singly);
    }

    #[test]
    fn strangers_without_end_push_nothing_out_of_the_history() {
        let (mut refusals, anonymous, ann) = (Refusals::default(), Actor::from("anonymous"), Actor::from("jwt:ann"));
        let (mut written, mut told, mut due) = (0, 0, None);
        let day = 24 * 3600;
        for second in 0..day {
            let now = MonoTime::ZERO + Duration::from_secs(second);
            if due.take_if(|due| *due <= now).is_some() {
                told += refusals.take_counted(Whose::Strangers).count;
                written += 1;
            }
            match refusals.add(&anonymous, "192.0.2.1", now) {
                Noted::Singly => (written, told) = (written + 1, told + 1),
                Noted::FirstOfMany(Whose::Strangers, after) => due = Some(now + after),
                Noted::FirstOfMany(Whose::Known, _) => panic!("whose are they?"),
                Noted::Counted => {}
            }
        }
        told += refusals.take_counted(Whose::Strangers).count;
        assert_eq!(told, day, "each is told, singly or with others");
        assert!(written <= 24 * 68, "{written} events in a day");
        assert_eq!(refusals.add(&ann, "192.0.2.1", MonoTime::ZERO), Noted::Singly, "and hide nobody's");
    }

    #[test]
    fn of_many_names_the_first_are_told_and_the_others_counted() {
        let mut several = Several::default();
        for number in (0..13).chain(0..13) {
            several.add(&number.to_string());
        }
        assert_eq!((several.first().len(), several.first().last().unwrap().as_str(), several.more()), (10, "9", 3));
        (0..5000).for_each(|number| several.add(&number.to_string()));
        assert_eq!(several.more(), OTHERS_MAX);
    }
}
