//! One pool: its members, which tier is active, and when that changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    AdminState, BackendId, BackendName, Epoch, Loads, MonoTime, OutReason, PoolFigures, PoolPlan, PoolState,
    SessionPolicy, TargetId,
};

use super::availability::Availability;
use super::beyond::Targets;
use super::change::Change;
use super::damping::Damping;
use super::event::{Command, Sessions};
use super::gone::Former;
use super::lifecycle::{Failovers, Tenure};
use super::line::Lineage;
use super::member::Member;
use super::pause::Pause;
use super::pin::Pin;
use super::primary::Cluster;
use super::schedule::Again;

/// What a turn of the pool wants done besides the table.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) changes: Vec<Change>,
    pub(super) evictions: Vec<Eviction>,
    pub(super) returns: Vec<Return>,
    /// The line of history that is to be on disk before anybody is sent there.
    pub(super) lineage: Option<Lineage>,
    /// Tunnels that are to be started and stopped.
    pub(super) tunnels: Vec<Command>,
    /// What is asked at once and from now on, since the way there is open, and what is not asked any more.
    pub(super) ways: Vec<(TargetId, bool)>,
    /// What is to be asked soon.
    pub(super) suspects: Vec<(TargetId, Again)>,
}

/// A backend that is as it should be again: its sessions that were to go for the opposite may stay.
#[derive(Debug, Clone, Copy)]
pub(super) enum Return {
    /// It is healthy.
    Healthy(BackendId),
    /// Nobody wants it drained any more.
    Ready(BackendId),
    /// It is the primary again.
    Elected(BackendId),
    /// It is not too far behind any more.
    CaughtUp(BackendId),
}

/// Sessions of a backend that was taken out, and what is to become of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eviction {
    pub(super) backend: BackendId,
    /// The first epoch whose sessions stay.
    pub(super) epoch: Epoch,
    pub(super) reason: OutReason,
    /// Drain or close; what is kept is no eviction.
    pub(super) policy: SessionPolicy,
    pub(super) which: Sessions,
}

impl Eviction {
    /// Of those that write and have not begun, at a server that is no primary any more: they begin elsewhere.
    pub(super) const fn of_opening(backend: BackendId, epoch: Epoch) -> Self {
        let (reason, policy) = (OutReason::Demoted, SessionPolicy::Close);
        Self { backend, epoch, reason, policy, which: Sessions::Opening }
    }
}

/// The last change of the active tier.
#[derive(Debug, Clone)]
pub(super) struct Move {
    pub(super) at: MonoTime,
    pub(super) from: Vec<BackendName>,
    pub(super) to: Vec<BackendName>,
    pub(super) reason: OutReason,
}

/// Why and since when the pool is losing, or has lost, what serves.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    pub(super) reason: OutReason,
    pub(super) detect: Duration,
    /// What was seen or ordered, in words, if there is anything to say.
    pub(super) evidence: Option<Arc<str>>,
    /// What that means for more than one backend, if it does.
    pub(super) note: Option<Arc<str>>,
}

/// A pool.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) plan: Arc<PoolPlan>,
    /// By priority, then name.
    pub(super) members: Vec<Member>,
    by_id: BTreeMap<BackendId, usize>,
    /// The priority of the active tier; the last one while nothing serves.
    pub(super) active: Option<u32>,
    pub(super) state: PoolState,
    /// Makes what new members are counted by.
    pub(super) loads: Loads,
    pub(super) last_move: Option<Move>,
    /// What `next_deadline` said when the pool last decided.
    pub(super) deadline: Option<MonoTime>,
    /// Those that serve, or did last.
    pub(super) serving: Vec<BackendName>,
    /// Those of them that went with the last plan that took any out, until something serves.
    pub(super) departed: Vec<Former>,
    pub(super) loss: Loss,
    /// What an operator has bound it to.
    pub(super) pin: Option<Pin>,
    /// Whether new clients are made to wait.
    pub(super) pause: Option<Pause>,
    pub(super) damping: Damping,
    pub(super) failovers: Failovers,
    /// Since when those that serve do so, and by which rule; none while nothing serves.
    pub(super) tenure: Option<Tenure>,
    /// Whether one of its backends is slow, as of when it last decided.
    pub(super) has_slow: bool,
    /// Since when nothing serves, if people were told so.
    down_since: Option<MonoTime>,
    pub(super) empty_since: Option<MonoTime>,
    /// How often its backends are asked while nothing is fit, as the schedule allows.
    pub(super) hurry: Duration,
    /// What is known of the cluster, if its backends are one.
    pub(super) cluster: Option<Cluster>,
    /// What is known of the targets of its tunnels.
    pub(super) targets: Targets,
    pub(super) told: Option<PoolFigures>,
}

impl Pool {
    pub(super) fn new(plan: Arc<PoolPlan>) -> Self {
        let cluster = plan.postgres.as_ref().map(|_| Cluster::new());
        Self {
            cluster,
            plan,
            members: Vec::new(),
            by_id: BTreeMap::new(),
            active: None,
            state: PoolState::Unknown,
            loads: Loads::default(),
            last_move: None,
            deadline: None,
            serving: Vec::new(),
            departed: Vec::new(),
            loss: Loss { reason: OutReason::Unreachable, detect: Duration::ZERO, evidence: None, note: None },
            pin: None,
            pause: None,
            damping: Damping::default(),
            failovers: Failovers::default(),
            tenure: None,
            has_slow: false,
            down_since: None,
            empty_since: None,
            hurry: Duration::ZERO,
            targets: Targets::new(),
            told: None,
        }
    }

    /// Its backends by priority, then name.
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Takes these as its backends.
    pub(super) fn set_members(&mut self, mut members: Vec<Member>) {
        let is_cluster = self.cluster.is_some();
        for member in &mut members {
            // A server's number stays whatever else is in the plan, and no two servers may ever serve beside one another.
            member.tier = if is_cluster { member.id.0 } else { member.plan.priority };
        }
        members.sort_by(|a, b| (a.plan.priority, &a.plan.name).cmp(&(b.plan.priority, &b.plan.name)));
        self.by_id = members.iter().enumerate().map(|(index, member)| (member.id, index)).collect();
        self.members = members;
    }

    pub(super) fn take_members(&mut self) -> Vec<Member> {
        self.by_id.clear();
        std::mem::take(&mut self.members)
    }

    pub(super) fn member_mut(&mut self, id: BackendId) -> Option<&mut Member> {
        self.by_id.get(&id).and_then(|&index| self.members.get_mut(index))
    }

    pub(super) fn member(&self, id: BackendId) -> Option<&Member> {
        self.by_id.get(&id).and_then(|&index| self.members.get(index))
    }

    /// Acts on an operator's word for member `id`.
    pub(super) fn set_admin(&mut self, now: MonoTime, id: BackendId, to: AdminState, effects: &mut Effects) {
        let Some(member) = self.member_mut(id) else { return };
        let before = member.ordered();
        let from = std::mem::replace(&mut member.admin, to);
        if from == to {
            return;
        }
        let backend = member.plan.name.clone();
        effects.changes.push(Change::BackendAdminState { backend, from, to });
        self.was_ordered(now, id, before, effects);
    }

    /// Remembers why a backend was lost, and on which evidence, if that is why the seat may be empty: losses of other
    /// tiers explain nothing.
    pub(super) fn lose(&mut self, priority: u32, reason: OutReason, detect: Duration, evidence: &str) {
        if self.active.or_else(|| self.preferred()) == Some(priority) {
            let evidence = (!evidence.is_empty()).then(|| Arc::from(evidence));
            self.loss = Loss { reason, detect, evidence, note: None };
        }
    }

    /// The best tier there is, fit or not.
    pub(super) fn preferred(&self) -> Option<u32> {
        self.members.first().map(|member| member.tier)
    }

    /// The best tier that people let serve, fit or not.
    pub(super) fn preferred_of_allowed(&self) -> Option<u32> {
        let allowed = |member: &&Member| member.availability().is_allowed();
        self.members.iter().find(allowed).map(|member| member.tier)
    }

    /// Lets the sessions of member `id` go by the policy for `reason`.
    pub(super) fn evict(&mut self, id: BackendId, reason: OutReason, effects: &mut Effects) {
        self.evict_by(id, reason, self.plan.failover.sessions.policy(reason), effects);
    }

    /// Lets the sessions of member `id` go by this policy.
    pub(super) fn evict_by(&mut self, id: BackendId, reason: OutReason, policy: SessionPolicy, effects: &mut Effects) {
        // Who serves in its place is a matter of those who write: a standby's sessions cannot.
        let is_of_seat = matches!(reason, OutReason::Manual | OutReason::FailedBack) && self.cluster.is_some();
        let Some(member) = self.member(id) else { return };
        if policy == SessionPolicy::Keep || (is_of_seat && !self.is_written_to(member)) {
            return;
        }
        let Some(member) = self.member_mut(id) else { return };
        member.epoch = member.epoch.next();
        let epoch = member.epoch;
        let is_final = policy == SessionPolicy::Close || reason == OutReason::Demoted;
        if let Some(server) = member.server.as_mut().filter(|_| is_final) {
            server.cut = epoch;
        }
        effects.evictions.push(Eviction { backend: id, epoch, reason, policy, which: Sessions::All });
    }

    pub(super) fn report_state(&mut self, now: MonoTime, serves: bool, effects: &mut Effects) {
        let state = self.assess(serves);
        let before = std::mem::replace(&mut self.state, state);
        if serves {
            if let Some(since) = self.down_since.take() {
                self.failovers.recoveries += 1;
                effects.changes.push(Change::PoolRecovered { downtime: now.since(since) });
            }
            self.empty_since = None;
        } else if self.active.is_some() || state == PoolState::Down {
            self.empty_since.get_or_insert(now);
        }
        if state == before {
            return;
        }
        if state == PoolState::Down {
            // Told once an outage, though a backend that is still asked for the first time may interrupt it.
            if self.down_since.is_none() {
                self.down_since = self.empty_since;
                let note = self.loss.note.as_deref().map(str::to_owned);
                effects.changes.push(Change::PoolDown { reason: self.loss.reason, note });
            }
        } else if state == PoolState::Degraded && before == PoolState::Healthy {
            effects.changes.push(Change::PoolDegraded);
        }
    }

    /// The state as the contract words it.
    fn assess(&self, serves: bool) -> PoolState {
        let pending = self.is_pending();
        if !serves {
            if let Some(state) = self.cluster_state_unserved(pending) {
                return if self.has_served() { state } else { PoolState::Unknown };
            }
            return match (pending, self.active) {
                (true, None) => PoolState::Unknown,
                // A pool that was pinned before a restart has a tier before anything has served.
                (true, Some(_)) if self.serving.is_empty() => PoolState::Unknown,
                (true, Some(_)) => PoolState::FailoverInProgress,
                (false, _) => PoolState::Down,
            };
        }
        if let Some(is_preferred) = self.serves_from_preferred() {
            let all_well = self.members.iter().all(Member::is_well);
            return match (is_preferred, all_well) {
                (false, _) => PoolState::FailoverComplete,
                (true, true) => PoolState::Healthy,
                (true, false) => PoolState::Degraded,
            };
        }
        if self.active == self.preferred_of_allowed() {
            let all_fit = self.members.iter().all(Member::is_fit);
            return if all_fit { PoolState::Healthy } else { PoolState::Degraded };
        }
        let better_is_fit = self.fit_tiers().keys().next().copied() < self.active;
        if better_is_fit && self.pin.is_none() { PoolState::RecoveryInProgress } else { PoolState::FailoverComplete }
    }

    /// Whether anything has served, as far as is remembered: a failover is from something.
    fn has_served(&self) -> bool {
        let remembers = self.cluster.as_ref().is_some_and(|cluster| cluster.lineage.is_some());
        remembers || !self.serving.is_empty()
    }

    /// Whether a backend that could serve has no verdict yet. Without automatic failover, only the active tier counts.
    pub(super) fn is_pending(&self) -> bool {
        if self.cluster.is_some() {
            return self.lacks_primary();
        }
        self.members.iter().any(|member| member.availability() == Availability::Pending && self.may_serve(member))
    }

    /// Whether new sessions may go to `member`, be it fit.
    pub(super) fn may_serve(&self, member: &Member) -> bool {
        if self.pin.is_some() {
            return self.is_seated(member);
        }
        let ordered = self.active.or_else(|| self.served_last());
        self.plan.failover.automatic || ordered.is_none_or(|tier| member.tier == tier)
    }

    /// Whether nothing that may serve is fit, and some of it is known not to be.
    pub(super) fn is_empty_seat(&self) -> bool {
        matches!(self.state, PoolState::Down | PoolState::FailoverInProgress)
    }

    /// Whether something serves, as of the last turn.
    pub(super) fn serves(&self) -> bool {
        !matches!(self.state, PoolState::Unknown | PoolState::Down | PoolState::FailoverInProgress)
    }

    /// Whether every backend has had its first verdict or is not allowed to serve anyway.
    pub(super) fn has_first_verdicts(&self) -> bool {
        self.members.iter().all(|member| member.availability() != Availability::Pending)
    }
}
