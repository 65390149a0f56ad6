//! Backends that went with a plan. At another address, or by another name, a server is another backend and still the same process:
//! what it was known as has sessions that can write for as long as it is the primary, and takes no seat from itself.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{Address, BackendId, BackendName, Epoch, OutReason, Role, ServerFacts, SessionPolicy};

use super::availability::Availability;
use super::change::Change;
use super::cluster::has_all_of;
use super::event::Sessions;
use super::line::{Line, Relation};
use super::member::Member;
use super::pool::{Effects, Eviction, Pool};

/// The most backends of a cluster that are remembered for the sessions that are left there; those of the oldest are closed then.
const GONE_MAX: usize = 64;

/// What a backend was that is in the plan no more.
#[derive(Debug, Clone)]
pub(super) struct Former {
    backend: BackendId,
    name: BackendName,
    address: Address,
    /// What it said of itself last, if it was a server that does.
    facts: Option<ServerFacts>,
    /// The last backend that was there beside it: none of those is this server, but for one at the same address.
    newest: BackendId,
}

impl Former {
    fn of(member: &Member, newest: BackendId) -> Self {
        let (name, address) = (member.plan.name.clone(), member.plan.address.clone());
        Self { backend: member.id, name, address, facts: facts_of(member).cloned(), newest }
    }

    /// Whether `member` may be the same server.
    fn may_be(&self, member: &Member) -> bool {
        member.plan.address == self.address || member.id > self.newest
    }

    /// Whether `member` is the primary, and may be what this was before it was promoted: a promotion begins a line. One that was only
    /// started as a primary goes on with the line that it followed.
    fn may_have_become(&self, member: &Member) -> bool {
        let Some(facts) = facts_of(member).filter(|facts| facts.role == Role::Primary) else { return false };
        let relation = self.facts.as_ref().map_or(Relation::Unknown, |own| relation(facts, own));
        self.may_be(member) && !matches!(relation, Relation::Lower | Relation::Diverged)
    }

    /// Whether `now`, one of `members`, is the same server, as far as that is proven: a name alone proves nothing, since it may be
    /// given to another one.
    ///
    /// | its line, beside the one that this was on | at the same address | at another one, and it came later | it was there beside it |
    /// |---|---|---|---|
    /// | the same | it is | it is if it has all that was written, and no other one may be it | it is not |
    /// | cannot be told | it is | it is not | it is not |
    /// | another one | it is not: none is left without a promotion or a restart | it is not | it is not |
    fn is(&self, now: &Member, members: &[Member]) -> bool {
        self.is_on(self.facts.as_ref(), now, members)
    }

    /// The same, if it is on the line of `own` by now.
    fn is_on(&self, own: Option<&ServerFacts>, now: &Member, members: &[Member]) -> bool {
        let is_there = now.plan.address == self.address;
        let Some((own, facts)) = own.zip(facts_of(now)) else { return is_there };
        if own.system.zip(facts.system).is_some_and(|(own, other)| own != other) {
            return false;
        }
        let has_its_name = now.plan.name == self.name;
        let may_be_too = |other: &Member| match facts_of(other) {
            Some(facts) => facts.role == Role::Primary && relation(facts, own) == Relation::Same,
            None => !has_its_name,
        };
        let is_alone = || !members.iter().any(|other| other.id != now.id && self.may_be(other) && may_be_too(other));
        match relation(facts, own) {
            Relation::Same => {
                is_there || (now.id > self.newest && has_all_of(own.written, facts.written) && is_alone())
            }
            Relation::Unknown => is_there,
            Relation::Descends(_) | Relation::Higher | Relation::Lower | Relation::Diverged => false,
        }
    }
}

/// A server that is in the plan no more, with sessions that can write there, or could if it were promoted.
#[derive(Debug, Clone)]
pub(super) struct Gone {
    former: Former,
    /// The highest epoch of its sessions.
    routed: Epoch,
    /// The first epoch that none of them has.
    epoch: Epoch,
    can: Can,
}

/// What the sessions of a server that is gone can do there, as far as is known.
#[derive(Debug, Clone)]
enum Can {
    /// Read: it was a standby.
    Read,
    /// Write, if it is what this one is now, which has been the primary since, and this is what it said then.
    WriteIfIt(BackendId, ServerFacts),
    /// Write, as at the primary that it was; or several may be what it is now.
    Write,
}

impl Gone {
    /// Takes note of what `members` say: if one may be the same server, and was promoted, the sessions that are left can write.
    fn learn(&mut self, members: &[Member]) {
        for member in members.iter().filter(|member| self.former.may_have_become(member)) {
            let Some(facts) = facts_of(member) else { continue };
            let is_here = |id: BackendId| members.iter().any(|member| member.id == id);
            match &self.can {
                Can::Read => self.can = Can::WriteIfIt(member.id, facts.clone()),
                Can::WriteIfIt(id, _) if *id == member.id => {}
                // Given another name once more, or there are two of them.
                Can::WriteIfIt(id, line) if is_here(*id) || relation(facts, line) != Relation::Same => {
                    self.can = Can::Write;
                }
                Can::WriteIfIt(..) | Can::Write => {}
            }
        }
    }

    /// Whether its sessions are to go, `now` being the primary among `members`.
    fn has_lost_role(&self, now: &Member, members: &[Member]) -> bool {
        match &self.can {
            Can::Read => false,
            Can::WriteIfIt(id, line) => *id != now.id && !self.former.is_on(Some(line), now, members),
            Can::Write => !self.former.is(now, members),
        }
    }

    /// Whether its sessions below `epoch` being gone, none is left.
    pub(super) fn is_over(&self, backend: BackendId, epoch: Epoch) -> bool {
        self.former.backend == backend && epoch > self.routed
    }

    /// Has all of its sessions go.
    fn evict(&self, reason: OutReason, policy: SessionPolicy, effects: &mut Effects) {
        let (backend, epoch) = (self.former.backend, self.epoch);
        let may_go_on = policy != SessionPolicy::Close;
        effects.evictions.extend(may_go_on.then(|| Eviction::of_opening(backend, epoch)));
        effects.evictions.push(Eviction { backend, epoch, reason, policy, which: Sessions::All });
    }
}

impl Pool {
    /// Member `id` is no longer part of the plan, `newest` being the last that was there beside it. The caller takes it out.
    pub(super) fn retire(&mut self, id: BackendId, newest: BackendId, effects: &mut Effects) {
        let Some(member) = self.member(id) else { return };
        let tier = member.tier;
        let removed = Change::BackendRemoved { backend: member.plan.name.clone() };
        if self.serving.contains(&member.plan.name) {
            self.departed.push(Former::of(member, newest));
        }
        self.lose(tier, OutReason::Drained, Duration::ZERO, &removed.to_string());
        effects.changes.push(removed);
        self.evict(id, OutReason::Drained, effects);
        self.note_gone(id, newest, effects);
    }

    /// Whether `to`, which serve now, are those that served and went with a plan.
    pub(super) fn are_back(&self, to: &[BackendName]) -> bool {
        let is_back = |member: &Member| self.departed.iter().any(|former| former.is(member, &self.members));
        !to.is_empty() && to.iter().all(|name| self.named(name).is_some_and(is_back))
    }

    /// Whether one that has no verdict yet may be what served and went with a plan.
    pub(super) fn may_be_back(&self) -> bool {
        let places: BTreeSet<&Address> = self.departed.iter().map(|former| &former.address).collect();
        // Clusters are small; other pools need not be, and nobody in them says what it is.
        let servers: Vec<&Former> = self.departed.iter().filter(|former| former.facts.is_some()).collect();
        let mut pending = self.members.iter().filter(|member| member.availability() == Availability::Pending);
        pending
            .any(|member| places.contains(&member.plan.address) || servers.iter().any(|former| former.may_be(member)))
    }

    /// Member `id` goes with a plan: should another one be the primary later, sessions that are left there are to go.
    fn note_gone(&mut self, id: BackendId, newest: BackendId, effects: &mut Effects) {
        let Some(member) = self.member(id) else { return };
        let writes = self.is_written_to(member);
        let Some(server) = member.server.as_ref().filter(|server| server.may_have_sessions()) else { return };
        let former = Former::of(member, newest);
        let (routed, epoch) = (server.routed.unwrap_or_default(), member.epoch.next());
        let Some(cluster) = &mut self.cluster else { return };
        let can = if writes { Can::Write } else { Can::Read };
        cluster.gone.push(Gone { former, routed, epoch, can });
        if cluster.gone.len() > GONE_MAX {
            cluster.gone.remove(0).evict(OutReason::Drained, SessionPolicy::Close, effects);
        }
    }

    /// Lets the sessions go of those that are in the plan no more and were the primary, but for what `elected` was before.
    pub(super) fn demote_gone(&mut self, elected: Option<BackendId>, effects: &mut Effects) {
        let policy = self.plan.failover.sessions.demoted;
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| !cluster.gone.is_empty()) else { return };
        cluster.gone.iter_mut().for_each(|gone| gone.learn(&self.members));
        let Some(now) = self.members.iter().find(|member| elected == Some(member.id)) else { return };
        cluster.gone.retain(|gone| {
            let has_lost_role = gone.has_lost_role(now, &self.members);
            if has_lost_role {
                gone.evict(OutReason::Demoted, policy, effects);
            }
            !has_lost_role
        });
    }
}

fn facts_of(member: &Member) -> Option<&ServerFacts> {
    member.server.as_ref()?.facts.as_ref()
}

/// How the line of who says `facts` stands to that of who said `others`.
fn relation(facts: &ServerFacts, others: &ServerFacts) -> Relation {
    Line::of(facts).relation(Line::of(others))
}
