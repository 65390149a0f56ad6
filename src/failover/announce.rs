//! What people are told of a cluster's primary, each thing once: who it is, that it cannot be told, and who claims it in vain.

use std::collections::BTreeSet;

use crate::model::{BackendId, BackendName};

use super::change::Change;
use super::cluster::Election;
use super::member::Member;
use super::pool::{Effects, Pool};
use super::primary::Told;
use super::server::{Part, Server};

impl Pool {
    /// Tells people who is the primary and what it has `lost`, or that it cannot be told, or who speaks `against` it, once.
    pub(super) fn tell(&mut self, lost: Option<u64>, against: &[BackendId], effects: &mut Effects) {
        let Some(cluster) = &self.cluster else { return };
        let meant: BTreeSet<BackendId> = match &cluster.election {
            Election::Contested(ids) => ids.iter().copied().collect(),
            Election::Primary(id) if !against.is_empty() => against.iter().chain([id]).copied().collect(),
            Election::Primary(_) => BTreeSet::new(),
            Election::Nobody | Election::Open => return,
        };
        let led = cluster.elected().and_then(|id| self.member(id));
        let facts = led.and_then(|member| self.server_of(member)?.facts.as_ref());
        let (timeline, left) =
            (facts.and_then(|facts| facts.timeline), facts.and_then(|facts| facts.history.last().copied()));
        let leads = led.map(|member| Told { server: member.plan.name.clone(), timeline, left });
        let all: Vec<&Member> = self.members.iter().filter(|member| meant.contains(&member.id)).collect();
        let names: Vec<BackendName> = all.iter().map(|member| member.plan.name.clone()).collect();
        let claims = |member: &&&Member| self.server_of(member).is_some_and(Server::says_primary);
        let claimants: Vec<BackendName> = all.iter().filter(claims).map(|member| member.plan.name.clone()).collect();
        let mut detail: Vec<String> = all.iter().map(|member| self.claim_of(member)).collect();
        detail.extend(leads.as_ref().map(|leads| format!("{} serves on", leads.server)));
        let Some(cluster) = &mut self.cluster else { return };
        if cluster.contested != names {
            let is_news = !names.is_empty();
            cluster.contested = names;
            let change = Change::SplitBrain { claimants, detail: detail.join("; ") };
            effects.changes.extend(is_news.then_some(change));
        }
        let is_news = |leads: &Told| cluster.told.as_ref().is_none_or(|told| !told.covers(leads));
        let Some(leads) = leads.filter(is_news) else { return };
        let to = leads.server.clone();
        let from = cluster.told.replace(leads).map(|before| before.server).filter(|from| *from != to);
        effects.changes.push(Change::PrimaryChanged { from, to, timeline, lost });
    }

    /// Tells people of each server that says that it is the primary and is refused, once: whoever writes to it past us writes what
    /// is lost.
    pub(super) fn tell_refused(&mut self, effects: &mut Effects) {
        let Some(cluster) = &self.cluster else { return };
        if matches!(cluster.election, Election::Open | Election::Contested(_)) {
            return;
        }
        let is_refused = |member: &&Member| {
            let is_out =
                |server: &Server| matches!(server.part, Part::Refused | Part::Foreign) && server.says_primary();
            member.is_sound() && self.server_of(member).is_some_and(is_out)
        };
        let refused: Vec<&Member> = self.members.iter().filter(is_refused).collect();
        let names: BTreeSet<BackendName> = refused.iter().map(|member| member.plan.name.clone()).collect();
        if names == cluster.refused {
            return;
        }
        let is_news = |member: &&&Member| !cluster.refused.contains(&member.plan.name);
        let told = |member: &&Member| {
            let (backend, detail) = (member.plan.name.clone(), self.claim_of(member));
            Change::PrimaryRefused { backend, detail }
        };
        effects.changes.extend(refused.iter().filter(is_news).map(told));
        self.cluster.iter_mut().for_each(|cluster| cluster.refused.clone_from(&names));
    }
}
