//! The part that each server of a cluster gets, and what follows when the primary is another: the one before is demoted.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{
    BackendId, BackendName, Epoch, HealthState, MonoTime, OutReason, PoolState, Role, SessionPolicy, SystemId, Timeline,
};

use super::availability::Availability;
use super::change::Change;
use super::cluster::{Claim, Claims, Election, Lineage, majority};
use super::event::Sessions;
use super::lag::Samples;
use super::member::Member;
use super::pool::{Effects, Eviction, Pool, Return};
use super::server::{Part, Server};

/// What a pool knows of its cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    /// The highest that was ever routed to.
    pub(super) lineage: Option<Lineage>,
    pub(super) election: Election,
    /// Who was the write target last.
    pub(super) holder: Option<Holder>,
    /// Until when at the latest whoever is elected waits for that to be on disk.
    pub(super) kept_by: Option<MonoTime>,
    /// Where the primary was when.
    pub(super) samples: Samples,
    /// The primary that people were told of.
    told: Option<(BackendName, Option<Timeline>)>,
    /// The claimants that they were told of.
    contested: Vec<BackendName>,
}

/// Who may have sessions that write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) backend: BackendId,
    /// The epoch under which they were admitted last.
    pub(super) epoch: Epoch,
    /// Whether they were let go, because it is not the primary any more.
    demoted: bool,
}

impl Cluster {
    pub(super) fn new() -> Self {
        let (lineage, holder, kept_by, told) = (None, None, None, None);
        let (election, samples) = (Election::Open, Samples::default());
        Self { lineage, election, holder, kept_by, samples, told, contested: Vec::new() }
    }

    /// Gives back what was remembered.
    pub(super) fn recall(&mut self, lineage: Lineage) {
        self.told = Some((lineage.server.clone(), lineage.timeline));
        self.lineage = Some(lineage);
    }

    /// The primary, if one is proven.
    pub(super) const fn elected(&self) -> Option<BackendId> {
        match self.election {
            Election::Primary(id) => Some(id),
            Election::Nobody | Election::Contested(_) | Election::Open => None,
        }
    }

    /// Takes note of the write target that is to be published. Says whether it is another one than the last.
    pub(super) fn holds(&mut self, target: Option<(BackendId, Epoch)>) -> bool {
        let Some((backend, epoch)) = target else { return false };
        let before = self.holder.replace(Holder { backend, epoch, demoted: false });
        before.is_none_or(|before| before.backend != backend)
    }
}

impl Pool {
    /// Whether it is a cluster in which `member` is more than a backend.
    pub(super) fn server_of<'m>(&self, member: &'m Member) -> Option<&'m Server> {
        member.server.as_ref().filter(|_| self.cluster.is_some())
    }

    /// Finds out who is the primary, gives each server its part, and demotes who was the primary before.
    pub(super) fn elect(&mut self, now: MonoTime, effects: &mut Effects) {
        if self.cluster.is_none() {
            return;
        }
        for member in &mut self.members {
            let is_out = member.health.state == HealthState::Unhealthy && !member.health.is_slow();
            member.server.iter_mut().for_each(|server| server.review(now, is_out));
        }
        self.mark_foreign();
        let election = self.election();
        let elected = if let Election::Primary(id) = election { Some(id) } else { None };
        for member in &mut self.members {
            let Some(server) = &mut member.server else { continue };
            server.part = part(server, elected == Some(member.id), &election);
            member.settle(now);
        }
        if let Some(cluster) = &mut self.cluster {
            if cluster.elected() != elected {
                cluster.samples.clear();
            }
            cluster.election = election;
        }
        self.keep_lineage(now, effects);
        self.demote(effects);
        self.tell(effects);
    }

    /// Who is of another cluster than the one that is remembered, or that most are of.
    fn mark_foreign(&mut self) {
        let told: Vec<SystemId> =
            self.members.iter().filter_map(|m| m.server.as_ref()?.facts.as_ref()?.system).collect();
        let remembered = self.cluster.as_ref().and_then(|cluster| cluster.lineage.as_ref()?.system);
        let system = remembered.or_else(|| majority(&told));
        let overruled = self.overruled();
        for member in &mut self.members {
            let is_overruled = overruled == Some(member.id);
            let Some(server) = &mut member.server else { continue };
            let own = server.facts.as_ref().and_then(|facts| facts.system);
            server.is_foreign = !is_overruled && system.zip(own).is_some_and(|(system, own)| system != own);
        }
    }

    /// Whether `member` says that it is the primary, and is not taken for it: to serve from it is to say so over all proof.
    /// One that is proven needs no such word, and must not be held to it when it is overtaken.
    pub(super) fn is_refused_claimant(&self, member: &Member) -> bool {
        let elected = self.cluster.as_ref().and_then(Cluster::elected);
        elected != Some(member.id) && self.server_of(member).is_some_and(Server::says_primary)
    }

    /// Whom an operator has said to be the primary, over all proof.
    fn overruled(&self) -> Option<BackendId> {
        let pin = self.pin.as_ref().filter(|pin| pin.overrules)?;
        self.named(&pin.backend).map(|member| member.id)
    }

    fn election(&self) -> Election {
        let claims = |member: &Member| member.is_sound() && self.server_of(member).is_some_and(Server::claims);
        let awaited = |member: &Member| {
            let is_asked = member.availability().is_allowed() && !member.health.is_out();
            is_asked && member.server.as_ref().is_some_and(|server| server.is_awaited())
        };
        let claims = Claims {
            all: self.members.iter().filter(|member| claims(member)).filter_map(claim).collect(),
            lineage: self.cluster.as_ref().and_then(|cluster| cluster.lineage.as_ref()),
            is_awaited: self.members.iter().any(awaited),
            has_routed: self.cluster.as_ref().is_some_and(|cluster| cluster.holder.is_some()),
            overruled: self.overruled(),
        };
        claims.elect()
    }

    /// Lets the writing sessions of who was the write target go, if another one is the primary, or it is none itself.
    fn demote(&mut self, effects: &mut Effects) {
        let Some(cluster) = &mut self.cluster else { return };
        let elected = cluster.elected();
        let is_open = cluster.election == Election::Open;
        let Some(holder) = &mut cluster.holder else { return };
        let Holder { backend: id, epoch, demoted } = *holder;
        if elected == Some(id) {
            if std::mem::take(&mut holder.demoted) {
                effects.returns.push(Return::Elected(id));
            }
            return;
        }
        let member = self.members.iter().find(|member| member.id == id);
        let says = member.filter(|member| member.is_sound()).and_then(|member| member.server.as_ref());
        let lives = says.is_some_and(|server| server.role().is_some() || server.is_foreign);
        if demoted || !(elected.is_some() || (lives && !is_open)) {
            return;
        }
        holder.demoted = true;
        let Some(member) = member else {
            // It went with a plan, and its sessions were to go in peace.
            let (reason, policy) = (OutReason::Demoted, self.plan.failover.sessions.demoted);
            let (opening, epoch) = (epoch.next(), epoch.next().next());
            effects.evictions.extend((policy != SessionPolicy::Close).then(|| Eviction::of_opening(id, opening)));
            effects.evictions.push(Eviction { backend: id, epoch, reason, policy, which: Sessions::Writing });
            return;
        };
        let tier = member.tier;
        let is_cut = member.server.as_ref().is_some_and(|server| server.cut > epoch);
        if lives {
            let evidence = format!("{} is not the primary any more", member.plan.name);
            self.lose(tier, OutReason::Demoted, Duration::ZERO, &evidence);
        }
        if !is_cut {
            // Whatever may go on there, nothing begins: also with a dial that was under way.
            let may_go_on = self.plan.failover.sessions.demoted != SessionPolicy::Close;
            if let Some(member) = self.member_mut(id).filter(|_| may_go_on) {
                member.epoch = member.epoch.next();
                effects.evictions.push(Eviction::of_opening(id, member.epoch));
            }
            self.evict(id, OutReason::Demoted, effects);
        }
    }

    /// Member `id` goes with a plan: should it be demoted later, these are the sessions that are meant.
    pub(super) fn holder_goes(&mut self, id: BackendId) {
        let Some(epoch) = self.member(id).map(|member| member.epoch) else { return };
        let holder = self.cluster.as_mut().and_then(|cluster| cluster.holder.as_mut());
        holder.filter(|holder| holder.backend == id).into_iter().for_each(|holder| holder.epoch = epoch);
    }

    /// Tells people who is the primary, or that it cannot be told, once.
    fn tell(&mut self, effects: &mut Effects) {
        let Some(cluster) = &self.cluster else { return };
        match &cluster.election {
            Election::Primary(id) => {
                let Some(member) = self.member(*id) else { return };
                let timeline = self.server_of(member).and_then(|server| server.facts.as_ref()?.timeline);
                let told = Some((member.plan.name.clone(), timeline));
                let Some(cluster) = &mut self.cluster else { return };
                cluster.contested.clear();
                if cluster.told == told {
                    return;
                }
                let before = std::mem::replace(&mut cluster.told, told.clone());
                let Some((to, timeline)) = told else { return };
                let from = before.map(|(from, _)| from).filter(|from| *from != to);
                effects.changes.push(Change::PrimaryChanged { from, to, timeline });
            }
            Election::Contested(ids) => {
                let meant: BTreeSet<BackendId> = ids.iter().copied().collect();
                let all = self.members.iter().filter(|member| meant.contains(&member.id));
                let claimants: Vec<BackendName> = all.clone().map(|member| member.plan.name.clone()).collect();
                let detail: Vec<String> = all.map(|member| self.claim_of(member)).collect();
                let Some(cluster) = &mut self.cluster else { return };
                if cluster.contested != claimants {
                    cluster.contested.clone_from(&claimants);
                    effects.changes.push(Change::SplitBrain { claimants, detail: detail.join("; ") });
                }
            }
            Election::Nobody | Election::Open => {}
        }
    }

    /// Whether what serves is in doubt: then nobody new is sent there, and nothing else changes.
    pub(super) fn is_suspect(&self) -> bool {
        let doubted = |member: &Member| self.server_of(member).is_some_and(Server::is_suspect);
        self.serves()
            && self.members.iter().any(|member| self.is_seated(member) && member.is_eligible() && doubted(member))
    }

    /// Whether no server that may serve is the primary, and one of them lives: then who it is will turn out.
    pub(super) fn lacks_primary(&self) -> bool {
        let leads = |member: &Member| member.is_eligible() && self.may_serve(member);
        let lives = |member: &Member| {
            let word = member.availability();
            matches!(word, Availability::Pending | Availability::Standby | Availability::Barred)
                && self.may_serve(member)
        };
        !self.members.iter().any(leads) && self.members.iter().any(lives)
    }

    /// The state of a cluster without a primary; none if the pool is no cluster, or fares as any other pool.
    pub(super) fn cluster_state_unserved(&self, pending: bool) -> Option<PoolState> {
        let cluster = self.cluster.as_ref().filter(|_| pending)?;
        let is_open = cluster.election == Election::Open || cluster.kept_by.is_some();
        let is_first = self.serving.is_empty() && is_open;
        Some(if is_first { PoolState::Unknown } else { PoolState::FailoverInProgress })
    }

    /// Whether no server of a better priority than the primary's may serve; none if the pool is no cluster.
    pub(super) fn serves_from_preferred(&self) -> Option<bool> {
        self.cluster.as_ref()?;
        let allowed = |member: &&Member| member.availability().is_allowed();
        let best = self.members.iter().filter(allowed).map(|member| member.plan.priority).min();
        let own = self.members.iter().find(|member| self.is_seated(member)).map(|member| member.plan.priority);
        Some(own <= best)
    }
}

fn claim(member: &Member) -> Option<Claim<'_>> {
    let facts = member.server.as_ref()?.facts.as_ref()?;
    Some(Claim { id: member.id, name: &member.plan.name, facts })
}

/// The part of a server in this election.
fn part(server: &Server, is_elected: bool, election: &Election) -> Part {
    match server.role() {
        _ if is_elected => Part::Leads,
        _ if server.is_foreign => Part::Foreign,
        None if server.is_awaited() => Part::Awaited,
        None => Part::Roleless,
        Some(Role::Standby) => Part::Follows,
        Some(Role::Primary) if *election == Election::Open => Part::Awaited,
        Some(Role::Primary) => Part::Refused,
    }
}
