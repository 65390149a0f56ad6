//! Who of a cluster is how far behind, and what follows for those who read. The figures are [`lag`](super::lag)'s.

use crate::model::{BackendId, MonoTime, OutReason, Role};

use super::change::Change;
use super::lag::has_diverged;
use super::member::Member;
use super::pool::{Effects, Pool, Return};
use super::server::Server;

impl Pool {
    /// Measures how far member `id` is behind, or, if it is the primary, by what others are measured.
    pub(super) fn measure(&mut self, now: MonoTime, id: BackendId, effects: &mut Effects) {
        let Some(plan) = self.plan.postgres.clone() else { return };
        let Some(cluster) = &mut self.cluster else { return };
        let elected = cluster.elected();
        let primary = elected.and_then(|id| self.members.iter().find(|member| member.id == id)?.server.as_ref());
        let Some(primary) = primary.and_then(|server| server.facts.as_ref()) else { return };
        if elected == Some(id) {
            primary.written.into_iter().for_each(|at| cluster.samples.take(now, at, plan.max_lag_time));
            return;
        }
        let primary = primary.clone();
        let samples = &cluster.samples;
        let Some(member) = self.members.iter_mut().find(|member| member.id == id) else { return };
        let Some(server) = member.server.as_mut().filter(|server| server.role() == Some(Role::Standby)) else { return };
        let Some(facts) = &server.facts else { return };
        server.lag.has_diverged = has_diverged(facts, &primary);
        let Some((lagging, behind)) = server.lag.measure(now, facts, samples, &plan) else { return };
        let backend = member.plan.name.clone();
        effects.changes.push(Change::BackendLagging { backend, lagging, behind: Some((behind.bytes, behind.time)) });
        if lagging {
            self.evict(id, OutReason::Lagging, effects);
        } else {
            effects.returns.push(Return::CaughtUp(id));
        }
    }

    /// Forgets what was measured too long ago: what is not known is not 0. Who is not measured any more gets no new readers
    /// while another standby is known to be near enough, and people are told once.
    pub(super) fn age_lags(&mut self, now: MonoTime, effects: &mut Effects) {
        let Some(plan) = self.plan.postgres.clone().filter(|_| self.cluster.is_some()) else { return };
        let is_limited = plan.max_lag > 0 || !plan.max_lag_time.is_zero();
        let lapsed: Vec<BackendId> = self
            .members
            .iter_mut()
            .filter_map(|member| member.server.as_mut()?.lag.lapses(now, &plan).then_some(member.id))
            .collect();
        let follows = |member: &Member| member.is_sound() && member.server.as_ref().is_some_and(is_standby);
        let is_known = |member: &Member| {
            let is_near =
                |server: &Server| server.lag.behind.is_some() && server.is_good_standby() && !server.is_suspect();
            follows(member) && !lapsed.contains(&member.id) && member.server.as_ref().is_some_and(is_near)
        };
        let has_known = is_limited && self.members.iter().any(is_known);
        for member in &mut self.members {
            let is_unknown = has_known && lapsed.contains(&member.id) && follows(member);
            let Some(server) = &mut member.server else { continue };
            server.lag.is_unknown = is_unknown;
            if is_unknown && !std::mem::replace(&mut server.lag.is_missed, true) && !server.lag.is_lagging {
                let backend = member.plan.name.clone();
                effects.changes.push(Change::BackendLagging { backend, lagging: true, behind: None });
            }
        }
    }

    /// When the next measurement counts no more.
    pub(super) fn next_lapse_of_lag(&self) -> Option<MonoTime> {
        let plan = self.plan.postgres.as_ref()?;
        self.members.iter().filter_map(|member| member.server.as_ref()?.lag.counts_until(plan)).min()
    }

    /// That nothing was measured until now was our own fault. Says whether anybody is measured here.
    pub(super) fn excuse_lags(&mut self, now: MonoTime) -> bool {
        self.cluster.iter_mut().for_each(|cluster| cluster.samples.excuse(now));
        self.members.iter_mut().filter_map(|member| member.server.as_mut()).for_each(|server| server.lag.as_of = now);
        self.cluster.is_some()
    }
}

fn is_standby(server: &Server) -> bool {
    server.role() == Some(Role::Standby)
}
