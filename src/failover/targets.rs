//! Where sessions of a cluster go that want something else than the primary.

use std::collections::BTreeMap;

use crate::model::{BackendId, HealthState, Target, WhenDown};

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

    /// The routes by target; none in a pool that is no cluster. `writable` is whom those who write are led to, and
    /// `is_awaited` whether they wait for somebody. Nobody is led to a primary that they are not led to: whoever reached
    /// it could write there, while it is fenced or before those are who write elsewhere.
    ///
    /// | standbys that are fit | `standby` | `prefer-standby` | `any` |
    /// |---|---|---|---|
    /// | some | they | they, then `writable` | they and `writable`, by priority |
    /// | none, one is in doubt or not heard yet | waits for it | `writable`, else waits | the same |
    /// | none | by `when_down`; `use-preferred`: `writable`, else waits if `is_awaited` | `writable`, else waits if `is_awaited` | the same |
    pub(super) fn other_routes(&self, writable: &[BackendId], is_awaited: bool) -> BTreeMap<Target, TargetRoutes> {
        let mut others = BTreeMap::new();
        if self.cluster.is_none() {
            return others;
        }
        let doubted = |member: &Member| self.server_of(member).is_some_and(Server::is_suspect);
        let standbys: Vec<&Member> = self.members.iter().filter(|member| self.is_readable(member)).collect();
        let primary: Vec<&Member> = self.members.iter().filter(|member| writable.contains(&member.id)).collect();
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
        for (target, tiers, pending) in [
            (Target::Standby, standby, is_pending || (resort && is_awaited)),
            (Target::PreferStandby, preferred, is_pending || is_awaited),
            (Target::Any, self.by_priority(&all), is_pending || is_awaited),
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
