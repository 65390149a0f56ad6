//! What becomes of the sessions of a server that is the primary no more: all that could write there are gone before another one
//! is written to. Who the primary is, is found out elsewhere.

use std::time::Duration;

use crate::model::{BackendId, OutReason, SessionPolicy};

use super::cluster::Election;
use super::member::Member;
use super::pool::{Effects, Eviction, Pool};
use super::primary::{Cluster, Holder};
use super::server::Server;
use super::table::PoolRoutes;

impl Pool {
    /// Lets all sessions go of every server that has lost the role, or took it and is not held to have it.
    ///
    /// | the server, as far as sessions there may write | the primary is | its sessions |
    /// |---|---|---|
    /// | it was the write target last, or said last that it is the primary | it | stay |
    /// | the same | another one | go, whether it lives or not |
    /// | the same, and it lives | nobody, or several claim to be | go |
    /// | the same, and it is lost or out | nobody, or several claim to be | stay: it may come back, and its loss has policies of its own |
    /// | the same, and it says that it is the primary | not known before first words have come | stay |
    /// | the same, and it left the plan | another one, which is not proven to be this server by another name or at another address | go |
    /// | one that left the plan as a standby | another one, after a server that may be this one was it | go |
    /// | said last that it is a standby, and was not the write target | whoever | stay |
    ///
    /// All of them, whatever they came for: those that came to read from a standby can write since its promotion.
    pub(super) fn demote(&mut self, effects: &mut Effects) {
        let Some(elected) = self.cluster.as_ref().map(Cluster::elected) else { return };
        self.demote_gone(elected, effects);
        let holder = self.cluster.as_mut().and_then(|cluster| cluster.holder.as_mut());
        if let Some(holder) = holder.filter(|holder| elected == Some(holder.backend)) {
            holder.demoted = false;
        }
        let lost = self.members.iter().filter(|member| self.has_lost_role(member));
        let lost: Vec<BackendId> = lost.map(|member| member.id).collect();
        for id in lost {
            self.explain_loss(id);
            if self.member(id).and_then(|member| member.server.as_ref()).is_some_and(Server::may_have_sessions) {
                self.let_go(id, effects);
            }
        }
    }

    /// Lets the sessions of `id` go, which has lost the role. Whatever may go on there, nothing begins: also not with a dial
    /// that was under way.
    fn let_go(&mut self, id: BackendId, effects: &mut Effects) {
        let may_go_on = self.plan.failover.sessions.demoted != SessionPolicy::Close;
        if let Some(member) = self.member_mut(id).filter(|_| may_go_on) {
            member.epoch = member.epoch.next();
            let epoch = member.epoch;
            member.server.iter_mut().for_each(|server| server.cut = epoch);
            effects.evictions.push(Eviction::of_opening(id, epoch));
        }
        self.evict(id, OutReason::Demoted, effects);
    }

    /// Whether sessions that are at `member` can write, as far as is known.
    pub(super) fn is_written_to(&self, member: &Member) -> bool {
        let holder = self.cluster.as_ref().and_then(|cluster| cluster.holder);
        let held = holder.is_some_and(|holder| holder.backend == member.id && !holder.demoted);
        held || self.server_of(member).is_some_and(Server::was_primary)
    }

    /// Whether sessions at `member` can write, and it is not the primary.
    pub(super) fn has_lost_role(&self, member: &Member) -> bool {
        let (Some(cluster), Some(server)) = (&self.cluster, &member.server) else { return false };
        let is_awaited = cluster.election == Election::Open && server.says_primary();
        self.is_written_to(member)
            && match cluster.elected() {
                Some(primary) => primary != member.id,
                None => lives(member) && !is_awaited,
            }
    }

    /// That `id` has lost the role is why the seat is empty, if it was the write target and lives.
    fn explain_loss(&mut self, id: BackendId) {
        let holder = self.cluster.as_mut().and_then(|cluster| cluster.holder.as_mut());
        let Some(holder) = holder.filter(|holder| holder.backend == id && !holder.demoted) else { return };
        holder.demoted = true;
        let Some(member) = self.member(id).filter(|member| lives(member)) else { return };
        let (tier, evidence) = (member.tier, format!("{} is not the primary any more", member.plan.name));
        self.lose(tier, OutReason::Demoted, Duration::ZERO, &evidence);
    }

    /// Takes note of where new sessions are led by the table that is published.
    pub(super) fn note_routes(&mut self, routes: &PoolRoutes) {
        let Some(cluster) = &mut self.cluster else { return };
        if let Some((backend, _)) = routes.write_route() {
            cluster.holder = Some(Holder { backend, demoted: false });
            cluster.has_served = true;
        }
        for route in routes.all() {
            let server = self.member_mut(route.backend).and_then(|member| member.server.as_mut());
            server.into_iter().for_each(|server| server.routed = Some(route.epoch));
        }
    }
}

/// Whether a server lives and tells what it is.
fn lives(member: &Member) -> bool {
    let tells = |server: &Server| server.role().is_some() || server.is_foreign;
    member.is_sound() && member.server.as_ref().is_some_and(tells)
}
