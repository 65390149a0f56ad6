//! Wrong credentials, by where they come from: how many there may be, and who goes on from there once they were too many.
//!
//! Whoever guesses must not learn that a guess is right while it would be told to come later if it were wrong. Many may share
//! an address with somebody who guesses, behind a proxy or on this host: those who were right from there before go on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::{Actor, MonoTime};

use super::rate::{Key, Limits, whole_seconds};

/// Networks that are remembered, and callers of them.
const REMEMBERED_MAX: usize = 4096;
/// Whoever was not there for so long is forgotten when room is needed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

type Network = Option<IpAddr>;

/// What is remembered of those who present something.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    /// From where there were too many wrong ones, and until when none is looked at. More networks than are remembered are
    /// slowed down together, by the limit alone.
    over: HashMap<Network, MonoTime>,
    /// Who was right from where, and when last.
    right: HashMap<(Network, Actor), MonoTime>,
}

impl Guesses {
    /// One that is wrong has come from `network`.
    ///
    /// # Errors
    ///
    /// The whole seconds, at least one, after which it may try again.
    pub(super) fn wrong(&mut self, network: Network, limits: &Limits, now: MonoTime) -> Result<(), u64> {
        let (taken, next) = match limits.take_one(Key::Stranger(network)) {
            Ok(next) => (Ok(()), next),
            Err(next) => (Err(whole_seconds(next.since(now))), Some(next)),
        };
        if let Some(next) = next {
            make_room(&mut self.over, |until| *until > now);
            if self.over.len() < REMEMBERED_MAX || self.over.contains_key(&network) {
                self.over.insert(network, next);
            }
        }
        taken
    }

    /// One that is right, `actor`'s, has come from `network`.
    ///
    /// # Errors
    ///
    /// The whole seconds, at least one, after which it may try again: there were too many wrong ones, and it was never right
    /// from there before.
    pub(super) fn right(&mut self, network: Network, actor: &Actor, now: MonoTime) -> Result<(), u64> {
        let who = (network, actor.clone());
        if let Some(seen) = self.right.get_mut(&who) {
            *seen = now;
            return Ok(());
        }
        if let Some(until) = self.over.get(&network).filter(|until| **until > now) {
            return Err(whole_seconds(until.since(now)));
        }
        make_room(&mut self.right, |seen| now.since(*seen) < FORGOTTEN_AFTER);
        if self.right.len() < REMEMBERED_MAX {
            self.right.insert(who, now);
        }
        Ok(())
    }
}

/// Takes out what is not to stay if there is no room for one more.
fn make_room<K>(of: &mut HashMap<K, MonoTime>, stays: impl Fn(&MonoTime) -> bool) {
    if of.len() >= REMEMBERED_MAX {
        of.retain(|_, at| stays(at));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::{Guesses, REMEMBERED_MAX};
    use crate::admin::access::rate::Limits;
    use crate::model::{Actor, Rate};
    use crate::sys::Clock;

    #[tokio::test(start_paused = true)]
    async fn a_right_one_is_not_looked_at_where_too_many_were_wrong() {
        let (clock, mut guesses) = (Clock::start(), Guesses::default());
        let limits = Limits::new(Some(Rate { count: 3, per: Duration::from_secs(60) }), clock);
        let (here, there) = (Some("192.0.2.1".parse().unwrap()), Some("192.0.2.2".parse().unwrap()));
        let (ann, bob) = (Actor::from("token:ann"), Actor::from("token:bob"));
        assert_eq!(guesses.right(here, &ann, clock.now()), Ok(()));
        for _ in 0..3 {
            assert_eq!(guesses.wrong(here, &limits, clock.now()), Ok(()));
        }
        // The next one would be too many, and is not to know that it is right.
        assert_eq!(guesses.right(here, &bob, clock.now()), Err(20));
        assert_eq!(guesses.wrong(here, &limits, clock.now()), Err(20));
        assert_eq!(guesses.right(here, &ann, clock.now()), Ok(()), "she was right from there before");
        assert_eq!(guesses.right(there, &bob, clock.now()), Ok(()), "elsewhere nobody guesses");
        tokio::time::advance(Duration::from_secs(21)).await;
        assert_eq!(guesses.right(here, &bob, clock.now()), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_one_is_looked_at_again_when_a_wrong_one_is() {
        let (clock, mut guesses) = (Clock::start(), Guesses::default());
        let limits = Limits::new(Some(Rate { count: 30, per: Duration::from_secs(60) }), clock);
        let here = Some("192.0.2.1".parse().unwrap());
        for _ in 0..30 {
            assert_eq!(guesses.wrong(here, &limits, clock.now()), Ok(()));
        }
        // One has come back, and half of another: that one is free a second later.
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(guesses.wrong(here, &limits, clock.now()), Ok(()));
        let mut taken_after = None;
        for seen in 0..20 {
            let right = guesses.right(here, &Actor::from(format!("token:{seen}").as_str()), clock.now());
            let wrong = guesses.wrong(here, &limits, clock.now());
            assert_eq!(right, wrong, "after {seen} tenths of a second");
            if wrong.is_ok() {
                taken_after = Some(seen);
                break;
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(taken_after, Some(10), "tenths of a second");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_remembered_than_may_be() {
        let (clock, mut guesses) = (Clock::start(), Guesses::default());
        let limits = Limits::new(Some(Rate { count: 1, per: Duration::from_secs(60) }), clock);
        for number in 0..2 * u32::try_from(REMEMBERED_MAX).unwrap() {
            let network = Some(std::net::Ipv4Addr::from_bits(number).into());
            let _limited = guesses.wrong(network, &limits, clock.now());
            let _over = guesses.right(
                Some("192.0.2.1".parse().unwrap()),
                &Actor::from(number.to_string().as_str()),
                clock.now(),
            );
        }
        assert_eq!((guesses.over.len(), guesses.right.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        tokio::time::advance(Duration::from_secs(7200)).await;
        assert_eq!(guesses.right(None, &Actor::from("token:new"), clock.now()), Ok(()));
        assert_eq!(guesses.right.len(), 1, "who has long gone makes room");
    }
}
