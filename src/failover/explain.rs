//! Why traffic goes where it goes: the rules that apply to a pool, with the evidence, and what they would have happen next.

use std::time::Duration;

use crate::model::{Applied, BackendName, Explanation, Failback, MonoTime, PoolName, Prospect, Rule, WhenDown, spoken};

use super::availability::Availability;
use super::change::names;
use super::controller::Controller;
use super::damping::Damping;
use super::lifecycle::Tenure;
use super::member::Member;
use super::pool::Pool;

impl Controller {
    /// Why traffic of the pool `name` goes where it goes; none if there is no such pool.
    #[must_use]
    pub fn explain(&self, now: MonoTime, name: &PoolName) -> Option<Explanation> {
        self.pools.get(name).map(|pool| pool.explain(now))
    }
}

fn applied(rule: Rule, at: Option<MonoTime>, detail: String) -> Applied {
    Applied { rule, detail, at, by: None }
}

impl Pool {
    fn explain(&self, now: MonoTime) -> Explanation {
        let serving = if self.serves() { self.serving.clone() } else { Vec::new() };
        let mut rules = Vec::new();
        match self.tenure {
            Some(tenure) => rules.push(self.seated_by(tenure)),
            None => rules.push(self.without_anybody(self.empty_since, self.is_pending())),
        }
        rules.extend(self.cluster_rules());
        rules.extend(self.bound());
        let damping = self.damping.as_of(now, self.plan.failover.failback_after);
        rules.extend(self.way_back(&damping));
        rules.extend(self.damped(&damping));
        rules.extend(self.slowed());
        rules.extend(self.tunnelled(now));
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
            Some(last) if !last.from.is_empty() && last.from != self.serving => {
                format!("{serving} took over from {} ({})", names(&last.from), last.reason)
            }
            Some(_) | None => format!("{serving} serves"),
        };
        applied(rule, Some(since), detail)
    }

    /// What clients get while nobody serves; `pending` is whether somebody may yet.
    fn without_anybody(&self, since: Option<MonoTime>, pending: bool) -> Applied {
        let hold = self.plan.hold;
        if pending && self.cluster.is_some() {
            return applied(Rule::Hold, since, format!("clients wait up to {} for a primary", spoken(hold.hold)));
        }
        if pending {
            return applied(Rule::NoVerdict, since, format!("clients wait up to {} for verdicts", spoken(hold.hold)));
        }
        match hold.when_down {
            WhenDown::Hold => applied(Rule::Hold, since, format!("clients wait up to {}", spoken(hold.hold))),
            WhenDown::UsePreferred if self.cluster.is_none() => {
                let detail = match self.last_resort() {
                    Some(backend) => format!("clients are sent to {}, fit or not", backend.plan.name),
                    None => {
                        "clients are closed: operators or agents have taken out every backend that may serve".to_owned()
                    }
                };
                applied(Rule::UsePreferred, since, detail)
            }
            // Nobody writes to a server of a cluster that is not the primary.
            WhenDown::Refuse | WhenDown::UsePreferred => {
                applied(Rule::Refuse, since, "clients are closed at once".to_owned())
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
                Some(until) => format!("for {:.0?} at most", until.since(pause.since)),
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
    fn way_back(&self, damping: &Damping) -> Option<Applied> {
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
                let wait = damping.stable_time(policy.failback_after);
                applied(
                    Rule::StableTime,
                    Some(since + wait),
                    format!("{who} serves again once fit for {}", spoken(wait)),
                )
            }
        })
    }

    fn damped(&self, damping: &Damping) -> Option<Applied> {
        let configured = self.plan.failover.failback_after;
        let wait: Duration = damping.stable_time(configured);
        let bounces = damping.bounces();
        let detail = format!(
            "{bounces} returns did not last: the stable time is {} instead of {}",
            spoken(wait),
            spoken(configured)
        );
        (bounces > 0).then(|| applied(Rule::Damping, None, detail))
    }

    /// What would happen if all that serve failed now.
    fn if_active_failed(&self) -> Prospect {
        let mut rules = self.bound();
        let serving = self.serving_ids();
        let others = || self.members().iter().filter(|m| !serving.contains(&m.id) && self.may_serve(m));
        let is_slow = |member: &&Member| member.availability() == Availability::Slow;
        let fit = others().find(|member| member.is_fit()).map(|member| member.tier);
        // With nothing fit left, no slow one is passed over, and those of the active tier keep the seat.
        let seated = others().filter(is_slow).find(|member| self.is_seated(member));
        let slow = seated.or_else(|| others().find(is_slow)).map(|member| member.tier);
        let Some(priority) = fit.or(slow) else {
            // Of a cluster another server that lives may be promoted.
            let lives = others().any(|member| member.availability().may_lead());
            rules.push(self.without_anybody(None, if self.cluster.is_some() { lives } else { self.is_pending() }));
            return Prospect { to: Vec::new(), rules };
        };
        let serves = |member: &&Member| {
            let joins = if fit.is_some() { member.is_eligible() } else { is_slow(member) };
            member.tier == priority && joins
        };
        let to: Vec<BackendName> = others().filter(serves).map(|member| member.plan.name.clone()).collect();
        rules.push(match fit {
            Some(_) => applied(Rule::EmptySeat, None, format!("{} is the best that is fit besides", names(&to))),
            None => applied(Rule::Slow, None, format!("{} is slow, and nothing fit is left", names(&to))),
        });
        Prospect { to, rules }
    }

    /// Which backends are slow, and whether that matters.
    fn slowed(&self) -> Vec<Applied> {
        let of = |passed_over: bool, what: &str| {
            let is_meant =
                |member: &&Member| member.availability() == Availability::Slow && member.passed_over == passed_over;
            let slow = self.members().iter().filter(is_meant).map(|member| member.plan.name.clone());
            let slow: Vec<BackendName> = slow.collect();
            (!slow.is_empty()).then(|| applied(Rule::Slow, None, format!("{} {what}", names(&slow))))
        };
        let passed_over = of(true, "is slow and passed over, because another that is fit is faster");
        let stays = of(false, "is slow and not passed over, because nothing fit that may serve is faster by enough");
        passed_over.into_iter().chain(stays).collect()
    }

    /// How its tunnels fare, and which of their targets are silent.
    fn tunnelled(&self, now: MonoTime) -> Vec<Applied> {
        let silences = self.silences().map(|(since, words, next)| {
            let detail = format!("{words}, for {:.0?} so far; one of them is set up anew to be sure", now.since(since));
            (detail, next)
        });
        let silences = silences.map(|(detail, next)| applied(Rule::TargetDown, Some(next), detail));
        let of = |member: &Member| {
            let next = member.tunnel.as_ref()?.phase.next_retry();
            Some(applied(Rule::Tunnel, next, member.tunnel_words()?))
        };
        silences.chain(self.members().iter().filter_map(of)).collect()
    }

    /// The best tier besides the active one, whatever binds the pool.
    pub(super) fn next_names(&self) -> Vec<BackendName> {
        self.next_tier().into_iter().flat_map(|priority| self.fit_names_of(priority)).collect()
    }
}
