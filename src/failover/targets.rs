//! Where sessions of a cluster go that want something else than the primary.

use std::collections::BTreeMap;

use crate::model::{HealthState, Target, WhenDown};

use super::availability::Availability;
use super::member::Member;
use super::pool::Pool;
use super::server::{Part, Server};
use super::table::{Route, TargetRoutes};
use super::tier::Tier;

impl Pool {
    /// Whether new sessions that read may go to `member`, a standby.
    pub(super) fn is_readable(&self, member: &Member) -> bool {
        let follows = |server: &Server| server.part == Part::Follows && server.is_good_standby();
        member.is_sound() && self.server_of(member).is_some_and(follows)
    }

    /// The standbys whose sessions go on though they get no new ones; none while new clients wait.
    pub(super) fn lingering(&self) -> Vec<Route> {
        let lingers = |member: &&Member| {
            let stays = |server: &Server| {
                let is_ousted = member.availability() == Availability::Draining || server.lag.is_lagging;
                server.part == Part::Follows && !server.lag.has_diverged && !server.is_suspect() && is_ousted
            };
            member.health.state == HealthState::Healthy
                && matches!(member.availability(), Availability::Draining | Availability::Standby)
                && self.server_of(member).is_some_and(stays)
        };
        let members = self.members.iter().filter(|_| self.pause.is_none());
        members.filter(lingers).map(Member::route).collect()
    }

    /// The routes by target; none in a pool that is no cluster.
    pub(super) fn other_routes(&self) -> BTreeMap<Target, TargetRoutes> {
        let mut others = BTreeMap::new();
        if self.cluster.is_none() {
            return others;
        }
        let doubted = |member: &Member| self.server_of(member).is_some_and(Server::is_suspect);
        let standbys: Vec<&Member> = self.members.iter().filter(|member| self.is_readable(member)).collect();
        let may_lead = |member: &&Member| member.is_eligible() && !doubted(member) && !self.is_withheld();
        let primary: Vec<&Member> = self.members.iter().filter(may_lead).collect();
        let open: Vec<&Member> = standbys.iter().copied().filter(|member| !doubted(member)).collect();
        // Whoever is in doubt, or has not said what it is, may be fit in a moment.
        let is_pending = open.len() < standbys.len()
            || self.members.iter().any(|member| member.availability() == Availability::Pending);
        let resort = self.plan.hold.when_down == WhenDown::UsePreferred && open.is_empty() && !is_pending;
        let standby = if resort { self.by_priority(&primary) } else { self.by_priority(&open) };
        let preferred = self.by_priority(&open).into_iter().chain(self.by_priority(&primary)).collect();
        let all: Vec<&Member> = self
            .members
            .iter()
            .filter(|m| [&open, &primary].iter().any(|of| of.iter().any(|o| o.id == m.id)))
            .collect();
        let any_pending = is_pending || self.is_pending() || self.is_withheld();
        for (target, tiers, pending) in [
            (Target::Standby, standby, is_pending),
            (Target::PreferStandby, preferred, any_pending),
            (Target::Any, self.by_priority(&all), any_pending),
        ] {
            let tiers: Vec<Tier> = if self.pause.is_some() { Vec::new() } else { tiers };
            let pending = pending && tiers.is_empty();
            others.insert(target, TargetRoutes { pending, tiers });
        }
        others
    }

    /// Those of one priority are a tier, as in any pool.
    fn by_priority(&self, members: &[&Member]) -> Vec<Tier> {
        let mut tiers: BTreeMap<u32, Vec<Route>> = BTreeMap::new();
        for member in members {
            tiers.entry(member.plan.priority).or_default().push(member.route());
        }
        tiers.into_values().map(|routes| Tier::new(self.plan.balance, routes)).collect()
    }
}
