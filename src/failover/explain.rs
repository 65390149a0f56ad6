//! Why traffic goes where it goes: the rules that apply to a pool, with the evidence, and what they would have happen next.

use std::time::Duration;

use crate::model::{Applied, BackendName, Explanation, Failback, MonoTime, PoolName, Prospect, Rule, WhenDown};

use super::controller::Controller;
use super::event::names;
use super::lifecycle::Tenure;
use super::pool::Pool;

impl Controller {
    /// Why traffic of the pool `name` goes where it goes; none if there is no such pool.
    #[must_use]
    pub fn explain(&self, now: MonoTime, name: &PoolName) -> Option<Explanation> {
        self.pools.get(name).map(|pool| pool.explain(now))
    }
}

fn applied(rule: Rule, at: Option<MonoTime>, detail: String) -> Applied {
    Applied { rule, detail, at }
}

impl Pool {
    fn explain(&self, now: MonoTime) -> Explanation {
        let serving = if self.serves() { self.serving.clone() } else { Vec::new() };
        let mut rules = Vec::new();
        match self.tenure {
            Some(tenure) => rules.push(self.seated_by(tenure)),
            None => rules.push(self.without_anybody(self.empty_since)),
        }
        rules.extend(self.bound());
        rules.extend(self.way_back());
        rules.extend(self.damped());
        Explanation {
            pool: self.plan.name.clone(),
            at: now,
            state: self.state,
            since: self.tenure.map(|tenure| tenure.since),
            rules,
            evidence: self.members().iter().map(|member| self.backend_status(now, member)).collect(),
            if_active_failed: (!serving.is_empty()).then(|| self.if_active_failed()),
            serving,
        }
    }

    /// How those that serve came to it.
    fn seated_by(&self, Tenure { since, rule }: Tenure) -> Applied {
        let serving = names(&self.serving);
        let last = self.last_move.as_ref().filter(|last| last.at == since);
        let detail = match last {
            Some(last) if !last.from.is_empty() => {
                format!("{serving} took over from {} ({})", names(&last.from), last.reason)
            }
            Some(_) | None => format!("{serving} serves"),
        };
        applied(rule, Some(since), detail)
    }

    /// What clients get while nobody serves.
    fn without_anybody(&self, since: Option<MonoTime>) -> Applied {
        let hold = self.plan.hold;
        if self.is_pending() {
            return applied(Rule::NoVerdict, since, format!("clients wait up to {:?} for verdicts", hold.hold));
        }
        match hold.when_down {
            WhenDown::Hold => applied(Rule::Hold, since, format!("clients wait up to {:?}", hold.hold)),
            WhenDown::Refuse => applied(Rule::Refuse, since, "clients are closed at once".to_owned()),
            WhenDown::UsePreferred => {
                let detail = match self.last_resort() {
                    Some(backend) => format!("clients are sent to {}, fit or not", backend.plan.name),
                    None => "clients are closed: operators have taken out every backend that may serve".to_owned(),
                };
                applied(Rule::UsePreferred, since, detail)
            }
        }
    }

    /// What operators and the plan have bound it to.
    fn bound(&self) -> Vec<Applied> {
        let mut rules = Vec::new();
        if let Some(pin) = &self.pin {
            let why = pin.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            rules.push(applied(Rule::Pinned, Some(pin.at), format!("{}{why}", self.release_hint())));
        }
        if let Some(pause) = self.pause {
            let limit = match pause.until {
                Some(until) => format!("for {:?} at most", until.since(pause.since)),
                None => format!("until `changeover resume {}`", self.plan.name),
            };
            rules.push(applied(Rule::Paused, Some(pause.since), format!("new clients wait, {limit}")));
        }
        if !self.plan.failover.automatic {
            rules.push(applied(Rule::AutomaticOff, None, "no session leaves the active tier".to_owned()));
        }
        rules
    }

    /// What keeps it from a better tier that is fit.
    fn way_back(&self) -> Option<Applied> {
        let better = self.fit_tiers().into_iter().next().filter(|&(best, _)| Some(best) < self.active);
        let (best, since) = better.filter(|_| self.serves() && self.pin.is_none())?;
        let policy = &self.plan.failover;
        if !policy.automatic {
            return None;
        }
        let who = names(&self.fit_names(best));
        Some(match policy.failback {
            Failback::Manual => {
                let pool = &self.plan.name;
                applied(Rule::ManualFailback, None, format!("{who} is fit and waits for `changeover failback {pool}`"))
            }
            Failback::Automatic => {
                let wait = self.damping.stable_time(policy.failback_after);
                applied(Rule::StableTime, Some(since + wait), format!("{who} serves again once fit for {wait:?}"))
            }
        })
    }

    fn damped(&self) -> Option<Applied> {
        let configured = self.plan.failover.failback_after;
        let wait: Duration = self.damping.stable_time(configured);
        let bounces = self.damping.bounces();
        let detail = format!("{bounces} returns did not last: the stable time is {wait:?} instead of {configured:?}");
        (bounces > 0).then(|| applied(Rule::Damping, None, detail))
    }

    /// What would happen if all that serve failed now.
    fn if_active_failed(&self) -> Prospect {
        let mut rules = self.bound();
        let to = if rules.iter().any(|rule| matches!(rule.rule, Rule::Pinned | Rule::AutomaticOff)) {
            Vec::new()
        } else {
            self.next_names()
        };
        if to.is_empty() {
            rules.push(self.without_anybody(None));
        } else {
            rules.push(applied(Rule::EmptySeat, None, format!("{} is the best that is fit besides", names(&to))));
        }
        Prospect { to, rules }
    }

    /// The best tier that is fit besides the active one, whatever binds the pool.
    pub(super) fn next_names(&self) -> Vec<BackendName> {
        let next = self.fit_tiers().into_keys().find(|&priority| Some(priority) != self.active);
        next.into_iter().flat_map(|priority| self.fit_names_of(priority)).collect()
    }
}
