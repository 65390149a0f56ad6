//! Lines of history, and how one stands to another. A promotion begins a new line: it has a higher number (its timeline), and its
//! history says where it left the line before. What a pool remembers of the line that it served on is here too; who may lead
//! by it is [`cluster`](super::cluster)'s.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{Address, BackendName, BackendPlan, Fork, Lsn, ServerFacts, SystemId, Timeline};

/// The most lines that people have decided against and that are remembered; the oldest is forgotten then.
const REJECTED_MAX: usize = 16;

/// The line of history that was last routed to, which is the highest unless a person has said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The server that was on it last.
    pub server: BackendName,
    /// Where that was; none if it was written down by a version that did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Its cluster; none if it could not tell.
    pub system: Option<SystemId>,
    /// The timeline; none if it could not tell.
    pub timeline: Option<Timeline>,
    /// The timelines before, as its history had them: two lines of one number differ here.
    pub history: Arc<[Fork]>,
    /// How far the server had written when it said so last; on disk that may be some seconds old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Lsn>,
    /// The lines that people have decided against, oldest first, 16 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejected>,
}

/// A line that a person has decided against: neither it nor what comes from it is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Its number.
    pub timeline: Timeline,
    /// Where it left the line before; none if its server could not tell, and then its number alone says which one it is.
    pub left: Option<Fork>,
}

/// How a line of history stands to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// They are one.
    Same,
    /// It came later, and left the other one there.
    Descends(Lsn),
    /// Its number is higher, and that is all that is told.
    Higher,
    /// Its number is lower.
    Lower,
    /// It is another line: the numbers are equal, or its number is higher, and it does not come from there.
    Diverged,
    /// It cannot be told.
    Unknown,
}

/// A line of history.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    system: Option<SystemId>,
    pub(super) timeline: Option<Timeline>,
    history: &'a [Fork],
}

impl<'a> Line<'a> {
    pub(super) fn of(facts: &'a ServerFacts) -> Self {
        Self { system: facts.system, timeline: facts.timeline, history: &facts.history }
    }

    /// Whether the history of a line that has one is there.
    fn is_told(self) -> bool {
        !self.history.is_empty() || self.timeline.is_some_and(|timeline| timeline.0 <= 1)
    }

    /// How it stands to `other`. Numbers say nothing from one cluster to another.
    pub(super) fn relation(self, other: Self) -> Relation {
        if self.system.zip(other.system).is_some_and(|(own, others)| own != others) {
            return Relation::Unknown;
        }
        let (Some(own), Some(others)) = (self.timeline, other.timeline) else { return Relation::Unknown };
        if own < others {
            return Relation::Lower;
        }
        if own == others {
            return match (self.is_told(), other.is_told()) {
                (true, true) if self.history == other.history => Relation::Same,
                (true, true) => Relation::Diverged,
                (_, _) => Relation::Unknown,
            };
        }
        let left = self.history.iter().find(|fork| fork.timeline == others);
        let shares = other.history.iter().all(|fork| self.history.contains(fork));
        match (left.filter(|_| shares), self.is_told() && other.is_told()) {
            (Some(fork), _) => Relation::Descends(fork.at),
            (None, true) => Relation::Diverged,
            (None, false) => Relation::Higher,
        }
    }

    /// Whether it is one that was rejected, or comes from one.
    fn is_on(self, rejected: &Rejected) -> bool {
        // Each timeline of its past, and its own, with where that left the one before.
        let past = self.history.iter().map(|fork| fork.timeline).chain(self.timeline);
        let lefts = std::iter::once(None).chain(self.history.iter().copied().map(Some));
        let mut steps = past.zip(lefts);
        steps.any(|(timeline, left)| {
            let is_it = left == rejected.left || left.is_none() || rejected.left.is_none();
            timeline == rejected.timeline && is_it
        })
    }
}

impl Lineage {
    /// What is remembered once the server of `plan` leads and says `facts`, after `before`. What it cannot tell of the line that
    /// it was on already is still known.
    pub(super) fn after(before: Option<&Self>, plan: &BackendPlan, facts: &ServerFacts, rejected: &[Rejected]) -> Self {
        let goes_on = before.filter(|before| before.is_of(plan) && before.timeline == facts.timeline);
        let told = goes_on.filter(|before| facts.history.is_empty() && !before.history.is_empty());
        let history = told.map_or_else(|| Arc::clone(&facts.history), |before| Arc::clone(&before.history));
        Self {
            server: plan.name.clone(),
            address: Some(plan.address.clone()),
            system: facts.system.or_else(|| before?.system),
            timeline: facts.timeline,
            history,
            at: facts.written.or_else(|| goes_on?.at),
            rejected: rejected.to_vec(),
        }
    }

    pub(super) fn line(&self) -> Line<'_> {
        Line { system: self.system, timeline: self.timeline, history: &self.history }
    }

    /// Whether the server of `plan` is at the address of the one that was on it last; if that was not written down, whether it has
    /// its name.
    pub(super) fn is_at(&self, plan: &BackendPlan) -> bool {
        self.address.as_ref().map_or(plan.name == self.server, |address| *address == plan.address)
    }

    /// Whether the server of `plan` is at that address, or has that name: either may be given anew.
    pub(super) fn is_of(&self, plan: &BackendPlan) -> bool {
        plan.name == self.server || self.is_at(plan)
    }

    /// Whether `other` says the same but for how far it was written.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let Self { server, address, system, timeline, history, at: _, rejected } = self;
        let of = (&other.server, &other.address, &other.system, &other.timeline, &other.history, &other.rejected);
        (server, address, system, timeline, history, rejected) == of
    }

    /// How much of what was written on it is not on `line`, by what was heard; none if that cannot be told.
    pub(super) fn lacks(&self, line: Line<'_>, written: Option<Lsn>) -> Option<u64> {
        let end = match line.relation(self.line()) {
            Relation::Descends(left) => left,
            Relation::Same => written?,
            Relation::Higher | Relation::Lower | Relation::Diverged | Relation::Unknown => return None,
        };
        Some(self.at?.since(end))
    }
}

/// Whether `line` is one of those that people have decided against, or comes from one.
pub(super) fn is_rejected(all: &[Rejected], line: Line<'_>) -> bool {
    all.iter().any(|rejected| line.is_on(rejected))
}

/// A person has decided for line `chosen`, and against those of `others` that are not its past. What was rejected before and is
/// chosen now is so no more.
pub(super) fn choose(rejected: &mut Vec<Rejected>, chosen: Line<'_>, others: &[Line<'_>]) {
    rejected.retain(|of| !chosen.is_on(of));
    for line in others {
        let is_newer = matches!(line.relation(chosen), Relation::Descends(_) | Relation::Higher | Relation::Diverged);
        let Some(timeline) = line.timeline.filter(|_| is_newer) else { continue };
        let mark = Rejected { timeline, left: line.history.last().copied() };
        if !rejected.contains(&mark) && !chosen.is_on(&mark) {
            rejected.push(mark);
        }
    }
    let surplus = rejected.len().saturating_sub(REJECTED_MAX);
    rejected.drain(..surplus);
}
