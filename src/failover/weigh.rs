//! Slow is not down: whether a slow backend is passed over, which depends on what else there is.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{MonoTime, OutReason};

use super::latency::Latency;
use super::member::Member;
use super::pool::{Loss, Pool};

impl Pool {
    /// Decides for each slow backend whether it is passed over.
    ///
    /// It is from when a fit backend is better by enough, and until it is not slow any more or nothing fit is left. That
    /// the others have become less good meanwhile does not bring it back: it would come and go with every answer.
    pub(super) fn weigh(&mut self, now: MonoTime) {
        let has_slow = self.members().iter().any(|member| member.health.is_slow());
        if !std::mem::replace(&mut self.has_slow, has_slow) && !has_slow {
            return;
        }
        let best = self.fastest();
        let active = self.active;
        let mut left = None;
        for member in &mut self.members {
            let is_better = |best: &Latency| member.passed_over || best.is_better_than(&member.health.latency);
            let passed_over = member.health.is_slow() && best.as_ref().is_some_and(is_better);
            if passed_over && !member.passed_over && Some(member.tier) == active {
                left = Some(member.health.last_error.as_deref().map(Arc::from));
            }
            member.passed_over = passed_over;
            member.settle(now);
        }
        if let Some(evidence) = left
            && self.loss.reason != OutReason::Slow
        {
            self.loss = Loss { reason: OutReason::Slow, detect: Duration::ZERO, evidence, note: None };
        }
    }

    /// How fast the fastest of the fit ones is that may serve; nothing if none is fit.
    fn fastest(&self) -> Option<Latency> {
        let fit = self.members().iter().filter(|member| member.is_fit() && self.may_serve(member));
        fit.map(Member::latency).min_by_key(Latency::mean)
    }
}
