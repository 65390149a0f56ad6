//! Whether the pool should fail over, asked from outside. Nothing changes by the question.

use crate::model::{Evaluation, MonoTime, OutReason, PoolName};

use super::change::names;
use super::controller::Controller;
use super::pool::Pool;

impl Controller {
    /// Whether the pool `name` should fail over now; none if there is no such pool. Its decisions are made in the turn in
    /// which they are due, so that the answer is no more often than not, with what stands in the way.
    #[must_use]
    pub fn evaluate(&self, now: MonoTime, name: &PoolName) -> Option<Evaluation> {
        self.pools.get(name).map(|pool| pool.evaluate(now))
    }
}

impl Pool {
    pub(super) fn evaluate(&self, now: MonoTime) -> Evaluation {
        let chosen = self.choose(now);
        let obstacle = self.obstacle(chosen);
        let should_failover = obstacle.is_none();
        let to = match chosen.filter(|_| should_failover) {
            Some(priority) => self.fit_names(priority),
            None => self.next_names(),
        };
        let reason = obstacle.unwrap_or_else(|| {
            let (from, to) = (names(&self.serving), names(&to));
            let lost = self.loss.reason;
            if lost == OutReason::Slow {
                format!("{from} is slow, and {to} is faster")
            } else {
                format!("{from} cannot serve ({lost}), and {to} can")
            }
        });
        Evaluation { should_failover, from: self.serving.clone(), to, reason }
    }

    /// What stands in the way of a failover to the tier `chosen`.
    fn obstacle(&self, chosen: Option<u32>) -> Option<String> {
        let serving = self.serving_ids();
        if !serving.is_empty() {
            let who = names(&self.serving);
            let is_slow = serving.iter().all(|&id| self.member(id).is_some_and(|member| !member.is_fit()));
            return Some(match is_slow {
                true => format!("{who} is slow and can serve, and nothing fit that may serve is faster by enough"),
                false => format!("{who} can serve"),
            });
        }
        if self.pin.is_some() {
            return Some(self.release_hint());
        }
        if !self.plan.failover.automatic {
            return Some("automatic failover is off".to_owned());
        }
        match chosen {
            Some(priority) if Some(priority) != self.active => None,
            Some(_) | None if self.lacks_primary() && self.cluster.is_some() => {
                Some("no server proves that it is the primary".to_owned())
            }
            Some(_) | None if self.is_pending() => Some("first verdicts are still out".to_owned()),
            Some(_) | None => Some("no other backend is eligible".to_owned()),
        }
    }
}
