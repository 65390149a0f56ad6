//! The part that each server of a cluster gets. What becomes of the sessions of the one that was the primary before is in `demotion`.

use std::collections::BTreeSet;

use crate::model::{
    Address, BackendId, BackendName, Fork, HealthState, Lsn, MonoTime, OutReason, PoolState, Role, ServerFacts,
    SystemId, Timeline,
};

use super::cluster::{Claims, Election, Word, majority};
use super::gone::Gone;
use super::lag::{Samples, has_diverged};
use super::line::{Line, Lineage, Rejected, choose};
use super::member::Member;
use super::pool::{Effects, Pool, Return};
use super::server::{Part, Server};

/// The line of a primary that lives may be ahead of where another one left it by so many bytes, or by `max_lag` if that is more, for
/// the other one to take its place without a person: a segment of the log, which is what an asynchronous standby may well lack.
const LACK_MAX: u64 = 16 << 20;
/// Where so many standbys were heard, those places are forgotten that are in the plan no more.
const STANDBYS_MAX: usize = 1024;

/// What a pool knows of its cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    /// The highest that was ever routed to.
    pub(super) lineage: Option<Lineage>,
    /// The lines that people have decided against.
    pub(super) rejected: Vec<Rejected>,
    pub(super) election: Election,
    /// Who was the write target last.
    pub(super) holder: Option<Holder>,
    /// Whether this process has routed to a primary, and has looked on since.
    pub(super) has_served: bool,
    /// Until when at the latest whoever is elected waits for that to be on disk.
    pub(super) kept_by: Option<MonoTime>,
    /// Servers that went with a plan while there were sessions.
    pub(super) gone: Vec<Gone>,
    /// When it was last written down how far the primary had written, and what that was.
    pub(super) kept_at: Option<(MonoTime, Option<Lsn>)>,
    /// Where the primary was when.
    pub(super) samples: Samples,
    /// The primary that people were told of.
    pub(super) told: Option<Told>,
    /// The claimants that they were told of, and those who spoke against them.
    pub(super) contested: Vec<BackendName>,
    /// Those that say that they are the primary and are not, of whom they were told.
    pub(super) refused: BTreeSet<BackendName>,
    /// Where standbys were heard.
    standbys: BTreeSet<Address>,
}

/// A primary that people were told of.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) server: BackendName,
    pub(super) timeline: Option<Timeline>,
    /// Where its line left the one before, if that was told: one that was put back and promoted again has the same number.
    pub(super) left: Option<Fork>,
}

impl Told {
    /// Whether to tell `other` as well would be no news.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let is_same_line = self.left.zip(other.left).is_none_or(|(own, others)| own == others);
        self.server == other.server && self.timeline == other.timeline && is_same_line
    }
}

/// Whom those who write were led to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) backend: BackendId,
    /// Whether it has lost the role since.
    pub(super) demoted: bool,
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self {
            lineage: None,
            rejected: Vec::new(),
            election: Election::Open,
            holder: None,
            gone: Vec::new(),
            has_served: false,
            kept_by: None,
            kept_at: None,
            samples: Samples::default(),
            told: None,
            contested: Vec::new(),
            refused: BTreeSet::new(),
            standbys: BTreeSet::new(),
        }
    }

    /// What stays of it while it is in no plan: what it was routed to, and whose sessions may be left.
    pub(super) fn at_rest(self) -> Self {
        let Self { lineage, rejected, holder, gone, told, .. } = self;
        Self { lineage, rejected, holder, gone, told, ..Self::new() }
    }

    /// Gives back what was remembered.
    pub(super) fn recall(&mut self, lineage: Lineage) {
        let (server, timeline, left) = (lineage.server.clone(), lineage.timeline, lineage.history.last().copied());
        self.told = Some(Told { server, timeline, left });
        self.rejected.clone_from(&lineage.rejected);
        self.lineage = Some(lineage);
    }

    /// The primary, if one is proven.
    pub(super) const fn elected(&self) -> Option<BackendId> {
        match self.election {
            Election::Primary(id) => Some(id),
            Election::Nobody | Election::Contested(_) | Election::Open => None,
        }
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
        self.review_pin();
        self.mark_foreign();
        let (election, against) = self.election();
        let elected = if let Election::Primary(id) = election { Some(id) } else { None };
        for member in &mut self.members {
            let Some(server) = &mut member.server else { continue };
            server.part = part(server, elected == Some(member.id), &election);
            member.settle(now);
        }
        self.part_standbys(elected, effects);
        let lost = elected.and_then(|id| self.lost_by(id));
        if let Some(cluster) = &mut self.cluster {
            if cluster.elected() != elected {
                cluster.samples.clear();
                effects.returns.extend(elected.map(Return::Elected));
                // Sessions that were only to drain stay, and are there to be let go again.
                let back = self.members.iter_mut().filter(|member| elected == Some(member.id));
                let servers = back.filter_map(|member| member.server.as_mut());
                servers.for_each(|server| server.routed = server.routed.map(|epoch| epoch.max(server.cut)));
            }
            cluster.election = election;
            // Who leads is no standby any more: under another address and back, it is what it was.
            if let Some(leader) = self.members.iter().find(|member| elected == Some(member.id)) {
                cluster.standbys.remove(&leader.plan.address);
            }
        }
        self.keep_lineage(now, effects);
        self.demote(effects);
        self.tell(lost, &against, effects);
        self.tell_refused(effects);
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
    pub(super) fn overruled(&self) -> Option<BackendId> {
        let pin = self.pin.as_ref().filter(|pin| pin.overrules.is_some())?;
        self.named(&pin.backend).map(|member| member.id)
    }

    /// Who is the primary, and which standbys speak against it.
    fn election(&mut self) -> (Election, Vec<BackendId>) {
        let Some(cluster) = &mut self.cluster else { return (Election::Nobody, Vec::new()) };
        for member in &self.members {
            if member.server.as_ref().is_some_and(|server| server.role() == Some(Role::Standby)) {
                cluster.standbys.insert(member.plan.address.clone());
            }
        }
        if cluster.standbys.len() > STANDBYS_MAX {
            let is_here = |address: &Address| self.members.iter().any(|member| member.plan.address == *address);
            cluster.standbys.retain(is_here);
        }
        let Some(cluster) = &self.cluster else { return (Election::Nobody, Vec::new()) };
        let awaited = |member: &Member| {
            let is_asked = member.availability().is_allowed() && !member.health.is_out();
            is_asked && member.server.as_ref().is_some_and(|server| server.is_awaited())
        };
        let words = |role: Role| {
            let says = move |server: &Server| match role {
                Role::Primary => server.claims(),
                Role::Standby => server.role() == Some(role) && !server.is_foreign,
            };
            let heard = self.members.iter().filter(|member| member.is_sound());
            heard
                .filter_map(|member| word(member, member.server.as_ref().filter(|server| says(server))?, cluster))
                .collect()
        };
        let max_lag = self.plan.postgres.as_ref().map_or(0, |postgres| postgres.max_lag);
        let claims = Claims {
            all: words(Role::Primary),
            standbys: words(Role::Standby),
            lineage: cluster.lineage.as_ref(),
            rejected: &cluster.rejected,
            is_awaited: self.members.iter().any(awaited),
            has_served: cluster.has_served,
            leader: cluster.elected(),
            lack_max: max_lag.max(LACK_MAX),
            overruled: self.overruled(),
        };
        let election = claims.elect();
        let against = match (&election, claims.overruled) {
            (Election::Primary(id), None) => claims.standbys_against(*id),
            _ => Vec::new(),
        };
        (election, against)
    }

    /// Lets nobody read from the standbys that are on another line than the primary.
    fn part_standbys(&mut self, elected: Option<BackendId>, effects: &mut Effects) {
        let leads = elected.and_then(|id| self.member(id)?.server.as_ref()?.facts.clone());
        let Some(primary) = leads else { return };
        let (mut gone, mut back) = (Vec::new(), Vec::new());
        for member in &mut self.members {
            let Some(server) = member.server.as_mut().filter(|server| server.role() == Some(Role::Standby)) else {
                continue;
            };
            let Some(facts) = &server.facts else { continue };
            let has_diverged = has_diverged(facts, &primary);
            server.lag.has_diverged = has_diverged;
            if std::mem::replace(&mut server.lag.is_parted, has_diverged) != has_diverged {
                if has_diverged { gone.push(member.id) } else { back.push(member.id) }
            }
        }
        gone.into_iter().for_each(|id| self.evict(id, OutReason::Lagging, effects));
        effects.returns.extend(back.into_iter().map(Return::CaughtUp));
    }

    /// How much of what was written on the line that was routed to is not on the one of `id`, by what was heard.
    fn lost_by(&self, id: BackendId) -> Option<u64> {
        let facts = self.member(id)?.server.as_ref()?.facts.as_ref()?;
        self.cluster.as_ref()?.lineage.as_ref()?.lacks(Line::of(facts), facts.written)
    }

    /// A person has just said that `id` is the primary: whatever line is newer than its own is not followed any more.
    pub(super) fn reject_others(&mut self, id: BackendId, effects: &mut Effects) {
        let facts_of = |member: &Member| member.server.as_ref().filter(|server| !server.is_foreign)?.facts.clone();
        let Some(chosen) = self.member(id).and_then(|member| member.server.as_ref()?.facts.clone()) else { return };
        let others: Vec<ServerFacts> =
            self.members.iter().filter(|member| member.id != id).filter_map(facts_of).collect();
        let Some(cluster) = &mut self.cluster else { return };
        let remembered = cluster.lineage.as_ref().map(Lineage::line);
        let lines: Vec<Line<'_>> = others.iter().map(Line::of).chain(remembered).collect();
        choose(&mut cluster.rejected, Line::of(&chosen), &lines);
        // It was decided now, whether or not the chosen one ever serves.
        if let Some(lineage) = cluster.lineage.as_mut().filter(|lineage| lineage.rejected != cluster.rejected) {
            lineage.rejected.clone_from(&cluster.rejected);
            effects.lineage = Some(lineage.clone());
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
        let lives = |member: &Member| member.availability().may_lead() && self.may_serve(member);
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

/// What `member` says of itself; `server` is what makes a server of it.
fn word<'m>(member: &'m Member, server: &'m Server, cluster: &Cluster) -> Option<Word<'m>> {
    let was_standby = cluster.standbys.contains(&member.plan.address);
    Some(Word { id: member.id, plan: &member.plan, facts: server.facts.as_ref()?, was_standby })
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
