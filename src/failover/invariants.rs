//! What must hold after every event, written down so that tests and simulations can ask.

use std::collections::BTreeSet;

use crate::model::{BackendId, HealthState, PoolName, WhenDown};

use super::controller::Controller;
use super::member::Member;
use super::pool::Pool;
use super::server::{Part, Server};
use super::table::{PoolRoutes, Route};

/// Fails with `broken` unless `holds`.
fn rule(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}

impl Controller {
    /// Looks through everything for what must never be so. Slow: for tests and simulations.
    ///
    /// # Errors
    ///
    /// Says in words which rule is broken, and where.
    pub fn check_invariants(&self) -> Result<(), String> {
        let mut backends = BTreeSet::new();
        for (name, pool) in &self.pools {
            let fail = |what: String| format!("pool {name}: {what}");
            pool.check_members().map_err(fail)?;
            pool.check_seat().map_err(fail)?;
            self.check_pool(name, pool).map_err(fail)?;
            for member in pool.members() {
                rule(backends.insert(member.id), || format!("backend {} is in two pools", member.id))?;
            }
        }
        let homes: BTreeSet<BackendId> = self.homes.keys().copied().collect();
        rule(homes == backends, || "homes are not those of the members".to_owned())?;
        rule(self.table().pools.keys().eq(self.pools.keys()), || "the table has other pools than the plan".to_owned())?;
        rule(self.departures.is_consistent(), || "departures differ by time and by backend".to_owned())?;
        let deadlines = self.pools.values().filter(|pool| pool.deadline.is_some()).count();
        rule(self.deadlines.len() == deadlines, || "a deadline is left over".to_owned())?;
        for departure in self.departures.iter() {
            let home = self.homes.get(&departure.backend).and_then(|name| self.pools.get(name));
            let epoch = home.and_then(|pool| pool.member(departure.backend)).map(|member| member.epoch);
            let to_come = epoch.is_some_and(|epoch| departure.epoch > epoch);
            rule(!to_come, || format!("sessions of {} to come are to be fenced", departure.backend))?;
        }
        self.schedule.check()
    }

    fn check_pool(&self, name: &PoolName, pool: &Pool) -> Result<(), String> {
        let published = self.table().pools.get(name).ok_or("not published")?;
        rule(**published == pool.routes(), || "the table published is not the table decided".to_owned())?;
        rule(pool.deadline == pool.next_deadline(), || "its deadline is out of date".to_owned())?;
        let known = pool.deadline.is_none_or(|at| self.deadlines.contains(&(at, name.clone())));
        rule(known, || "nobody waits for its deadline".to_owned())?;
        let is_told = self.untold.contains(name) || pool.is_told();
        rule(is_told, || "its figures have changed, and nobody would be told".to_owned())?;
        for member in pool.members() {
            let home = self.homes.get(&member.id) == Some(name);
            rule(home, || format!("backend {} has another home", member.plan.name))?;
            let rests = !member.is_checked() || self.schedule.rests(member.target) == member.health.has_no_way;
            rule(rests, || {
                format!("backend {} is asked without a way to it, or not though there is one", member.plan.name)
            })?;
            let asked = self.schedule.asks(member.target, member.id) == member.is_checked();
            rule(asked, || format!("backend {} is asked by nobody, or should not be", member.plan.name))?;
        }
        Ok(())
    }
}

impl Member {
    /// There is a way to it if its tunnel is open, and without one it is not healthy.
    fn check_tunnel(&self) -> Result<(), String> {
        let Self { health, plan, .. } = self;
        let Some(tunnel) = &self.tunnel else {
            let is_direct = plan.tunnel.is_none() && !health.has_no_way;
            return rule(is_direct, || format!("{} has a tunnel that is none", plan.name));
        };
        let is_open = tunnel.phase.is_open();
        rule(plan.tunnel.as_ref() == Some(&tunnel.plan), || format!("the tunnel of {} is of another plan", plan.name))?;
        rule(health.has_no_way != is_open, || format!("whether there is a way to {} is not known", plan.name))?;
        let is_healthy = health.state == HealthState::Healthy || health.is_slow();
        rule(is_open || !is_healthy, || format!("{} is healthy, and there is no way to it", plan.name))?;
        rule(tunnel.phase.is_verified() == is_healthy, || {
            format!("the tunnel of {} is {}, which is {}", plan.name, tunnel.state, health.state)
        })?;
        rule(tunnel.state == tunnel.fares(), || format!("how the tunnel of {} fares is not told", plan.name))?;
        rule(!self.is_eligible() || is_open, || format!("{} gets sessions without a way to it", plan.name))
    }
}

impl Pool {
    fn check_members(&self) -> Result<(), String> {
        let sorted = self.members().is_sorted_by_key(|m| (m.plan.priority, m.plan.name.clone()));
        rule(sorted, || "its members are out of order".to_owned())?;
        for member in self.members() {
            let Member { health, plan, .. } = member;
            let since = member.eligible_since.is_some() == member.is_fit();
            rule(since, || format!("{} has the wrong idea since when it is fit", plan.name))?;
            let reason = health.reason.is_some() == (health.state == HealthState::Unhealthy);
            rule(reason, || format!("{} is {} for {:?}", plan.name, health.state, health.reason))?;
            let slow = !member.passed_over || health.is_slow();
            rule(slow, || format!("{} is passed over and is not slow", plan.name))?;
            member.check_tunnel()?;
            let counts = health.failures == 0 || health.successes == 0;
            rule(counts, || format!("{} both fails and succeeds in a row", plan.name))?;
        }
        Ok(())
    }

    fn check_seat(&self) -> Result<(), String> {
        let routes = self.routes();
        let is_fit = |id: BackendId| self.member(id).is_some_and(Member::is_eligible);
        let priority = |id: BackendId| self.member(id).map(|m| m.tier);
        let all_fit = routes.tiers.iter().flat_map(|tier| tier.routes()).all(|route| is_fit(route.backend));
        let serves = self.serves();
        let seat_is_fit = self.members().iter().any(|m| self.is_seated(m) && m.is_eligible());
        rule(serves == seat_is_fit, || {
            format!("{} with the seat of {:?} fit: {seat_is_fit}", self.state, self.active)
        })?;
        let pin = self.pin.as_ref().map(|pin| self.named(&pin.backend).map(|member| member.tier));
        rule(pin.is_none_or(|pin| pin.is_some() && pin == self.active), || {
            "pinned to what is not its seat".to_owned()
        })?;
        let strays = |id: BackendId| self.member(id).is_none_or(|member| !self.is_within_pin(member));
        let leaves_pin = routes.tiers.iter().flat_map(|tier| tier.routes()).any(|route| strays(route.backend));
        rule(!leaves_pin && (self.pin.is_none() || routes.tiers.len() <= 1), || {
            "new sessions may leave what it is pinned to".to_owned()
        })?;
        self.check_cluster(&routes)?;
        if routes.paused {
            rule(routes.tiers.is_empty(), || "paused, and yet there are routes".to_owned())
        } else if self.is_withheld() {
            rule(routes.tiers.is_empty() && routes.pending, || {
                "new sessions go to who is in doubt, or not on disk".to_owned()
            })
        } else if serves {
            rule(all_fit && !routes.tiers.is_empty(), || "routes lead to what is not fit".to_owned())?;
            let first = routes.tiers.first().and_then(|tier| tier.routes().first());
            let seated = first.and_then(|route| priority(route.backend)) == self.active;
            rule(seated, || "another tier than the active one is tried first".to_owned())?;
            let leaves = !self.plan.failover.automatic && routes.tiers.len() > 1;
            rule(!leaves, || "new sessions may leave the active tier though automatic is off".to_owned())
        } else {
            let allowed = self.plan.hold.when_down == WhenDown::UsePreferred && !self.is_pending();
            rule(routes.tiers.is_empty() || allowed, || format!("{} and yet there are routes", self.state))?;
            let somebody_may =
                self.plan.failover.automatic && self.members().iter().any(|m| m.is_eligible() && self.may_serve(m));
            let waits = self.active.is_none() && self.is_pending();
            rule(!somebody_may || waits, || "a fit backend stands by while the seat is empty".to_owned())
        }
    }

    /// A cluster has one write target or none: the primary, on the line that is remembered.
    fn check_cluster(&self, routes: &PoolRoutes) -> Result<(), String> {
        let Some(cluster) = &self.cluster else {
            let alien = self.members().iter().any(|member| member.server.is_some());
            return rule(!alien && routes.others.is_empty(), || "no cluster, and yet there are servers".to_owned());
        };
        let targets: Vec<&Route> = routes.tiers.iter().flat_map(|tier| tier.routes()).collect();
        rule(targets.len() <= 1, || format!("{} write targets", targets.len()))?;
        if let Some(route) = targets.first() {
            rule(cluster.elected() == Some(route.backend), || format!("{} is not the primary", route.name))?;
            let holds = cluster.holder.is_some_and(|holder| holder.backend == route.backend);
            rule(holds, || format!("nobody knows that {} has sessions that write", route.name))?;
            let timeline = self.named(&route.name).and_then(|member| member.server.as_ref()?.facts.as_ref()?.timeline);
            let known = cluster.lineage.as_ref();
            let is_kept = known.is_some_and(|of| of.server == route.name && of.timeline == timeline);
            rule(is_kept, || format!("the timeline of {} is not remembered", route.name))?;
        }
        for (target, of) in &routes.others {
            for route in of.tiers.iter().flat_map(|tier| tier.routes()) {
                let reads = self.member(route.backend).is_some_and(|member| self.is_readable(member));
                let writes = targets.first().is_some_and(|target| target.backend == route.backend);
                rule(reads || writes, || {
                    format!(
                        "{target} leads to {}, which is neither a standby nor whom those who write reach",
                        route.name
                    )
                })?;
            }
        }
        for route in routes.all() {
            let server = self.member(route.backend).and_then(|member| member.server.as_ref());
            let is_noted = server.is_some_and(|server| server.routed == Some(route.epoch));
            rule(is_noted, || format!("nobody knows that {} has sessions", route.name))?;
        }
        for member in self.members() {
            let is_let_go = !member.server.as_ref().is_some_and(Server::may_have_sessions);
            rule(!self.has_lost_role(member) || is_let_go, || {
                format!("{} is not the primary, and may be written to", member.plan.name)
            })?;
        }
        let parts = self.members().iter().filter_map(|member| member.server.as_ref());
        let leads = parts.filter(|server| matches!(server.part, Part::Leads | Part::Elected)).count();
        rule(leads == usize::from(cluster.elected().is_some()), || format!("{leads} servers lead"))
    }
}
