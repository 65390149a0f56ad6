//! The routes of a pool as they follow from what was decided.

use std::collections::BTreeMap;

use crate::model::{BackendId, PoolKind, WhenDown};

use super::member::Member;
use super::pool::Pool;
use super::table::{PoolRoutes, PoolServer, Route};
use super::tier::Tier;

impl Pool {
    /// Whom `use-preferred` sends clients to while nothing is fit: the best there is a way to, if there is one.
    pub(super) fn last_resort(&self) -> Option<&Member> {
        let may = |member: &&Member| member.availability().is_allowed() && self.may_serve(member);
        let mut allowed = self.members.iter().filter(may);
        allowed.clone().find(|member| !member.health.has_no_way).or_else(|| allowed.next())
    }

    /// Whether clients are sent to who is not fit rather than to nobody. Nobody writes to a server that is not the primary.
    fn resorts(&self) -> bool {
        self.plan.hold.when_down == WhenDown::UsePreferred && self.cluster.is_none()
    }

    /// The routes as they should be published now.
    pub(super) fn routes(&self) -> PoolRoutes {
        self.routes_with(false)
    }

    /// The same, but nobody reaches the primary of a cluster yet: those who write wait.
    pub(super) fn routes_before_fences(&self) -> PoolRoutes {
        self.routes_with(self.cluster.is_some())
    }

    fn routes_with(&self, is_withheld: bool) -> PoolRoutes {
        let mut tiers: BTreeMap<u32, Vec<Route>> = BTreeMap::new();
        if self.serves() {
            for member in self.members.iter().filter(|member| member.is_eligible() && self.may_serve(member)) {
                tiers.entry(member.tier).or_default().push(member.route());
            }
        } else if self.resorts() && !self.is_pending() {
            tiers.extend(self.last_resort().map(|member| (member.tier, vec![member.route()])));
        }
        let is_withheld = is_withheld || self.is_withheld();
        if self.pause.is_some() || is_withheld {
            tiers.clear();
        }
        let pending = self.is_pending() || is_withheld;
        let targets: Vec<BackendId> = tiers.values().flatten().map(|route| route.backend).collect();
        let active = self.active.and_then(|priority| tiers.remove_entry(&priority));
        let ordered = active.into_iter().chain(tiers);
        PoolRoutes {
            name: self.plan.name.clone(),
            dial: self.plan.dial,
            hold: self.plan.hold,
            pending,
            paused: self.pause.is_some(),
            others: self.other_routes(&targets, pending),
            kind: self.plan.kind,
            servers: self.servers(),
            lingering: self.lingering(),
            tiers: ordered.map(|(_, routes)| Tier::new(self.plan.balance, routes)).collect(),
        }
    }

    /// All servers of a postgres pool; none of another.
    fn servers(&self) -> Vec<PoolServer> {
        let members = self.members.iter().filter(|_| self.plan.kind == PoolKind::Postgres);
        members.map(Member::server).collect()
    }
}
