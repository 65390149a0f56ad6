//! Who is the primary of a cluster: a pure function of what its servers claim and of the lineage that was last routed to.
//!
//! It refuses rather than guesses. A claim is worth what its timeline's history proves, and a lineage that was once routed to is
//! never gone back behind, unless a person says so.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{BackendId, BackendName, Fork, ServerFacts, SystemId, Timeline};

/// The highest line of history that was ever routed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The server that was on it last.
    pub server: BackendName,
    /// Its cluster; none if it could not tell.
    pub system: Option<SystemId>,
    /// The timeline; none if it could not tell.
    pub timeline: Option<Timeline>,
    /// The timelines before, as its history had them: two lines of one number differ here.
    pub history: Arc<[Fork]>,
}

/// A server that says it is the primary, and may be believed as far as its health and people go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) id: BackendId,
    pub(super) name: &'a BackendName,
    pub(super) facts: &'a ServerFacts,
}

/// What comes of the claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Election {
    /// This one is the primary.
    Primary(BackendId),
    /// Nobody who may be claims to be.
    Nobody,
    /// Several claim it, or one on a line that was never seen to come from ours: nothing proves which is right.
    Contested(Vec<BackendId>),
    /// First words are waited for.
    Open,
}

/// How a line of history stands to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// They are one.
    Same,
    /// It came later, and comes from it.
    Descends,
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
struct Line<'a> {
    timeline: Option<Timeline>,
    history: &'a [Fork],
}

impl<'a> Line<'a> {
    fn of(facts: &'a ServerFacts) -> Self {
        Self { timeline: facts.timeline, history: &facts.history }
    }

    /// Whether the history of a line that has one is there.
    fn is_told(self) -> bool {
        !self.history.is_empty() || self.timeline.is_some_and(|timeline| timeline.0 <= 1)
    }

    fn relation(self, other: Self) -> Relation {
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
        let left = self.history.iter().any(|fork| fork.timeline == others);
        let shares = other.history.iter().all(|fork| self.history.contains(fork));
        match (left && shares, self.is_told() && other.is_told()) {
            (true, _) => Relation::Descends,
            (false, true) => Relation::Diverged,
            (false, false) => Relation::Higher,
        }
    }
}

impl Lineage {
    pub(super) fn of(name: &BackendName, facts: &ServerFacts) -> Self {
        let (system, timeline, history) = (facts.system, facts.timeline, Arc::clone(&facts.history));
        Self { server: name.clone(), system, timeline, history }
    }

    fn line(&self) -> Line<'_> {
        Line { timeline: self.timeline, history: &self.history }
    }

    /// How what `claim` says stands to it. What cannot be told of the very server that was on it last has not changed.
    fn relation(&self, claim: &Claim<'_>) -> Relation {
        let relation = Line::of(claim.facts).relation(self.line());
        let is_it = *claim.name == self.server && claim.facts.timeline == self.timeline;
        let is_taken_for_it = relation == Relation::Unknown && (is_it || self.timeline.is_none());
        if is_taken_for_it { Relation::Same } else { relation }
    }
}

/// The claims with what is remembered of the cluster.
#[derive(Debug)]
pub(super) struct Claims<'a> {
    pub(super) all: Vec<Claim<'a>>,
    pub(super) lineage: Option<&'a Lineage>,
    /// Whether a server's first word is waited for.
    pub(super) is_awaited: bool,
    /// Whether this process has routed to a primary before.
    pub(super) has_routed: bool,
    /// Whom an operator has said to be the primary, over all proof.
    pub(super) overruled: Option<BackendId>,
}

impl Claims<'_> {
    /// Who is the primary.
    pub(super) fn elect(&self) -> Election {
        if let Some(id) = self.overruled {
            return if self.all.iter().any(|claim| claim.id == id) { Election::Primary(id) } else { Election::Nobody };
        }
        let may_lead = |claim: &&Claim<'_>| self.is_current(claim);
        let current: Vec<&Claim<'_>> = self.all.iter().filter(may_lead).collect();
        let Some(first) = current.first() else {
            let strays: Vec<BackendId> = self.all.iter().filter(|claim| self.is_stray(claim)).map(|c| c.id).collect();
            return if strays.is_empty() { self.nobody() } else { Election::Contested(strays) };
        };
        let best = current
            .iter()
            .fold(first, |best, claim| if claim.facts.timeline > best.facts.timeline { claim } else { best });
        let beats = |other: &Claim<'_>| other.id == best.id || self.beats(best, other);
        if !self.all.iter().all(beats) {
            return Election::Contested(self.all.iter().map(|claim| claim.id).collect());
        }
        let is_known =
            self.lineage.is_some_and(|lineage| matches!(lineage.relation(best), Relation::Same | Relation::Descends));
        // What was true when the last process ended may be overtaken: then only what all of them say is an answer.
        if self.is_awaited && !(is_known && self.has_routed) { Election::Open } else { Election::Primary(best.id) }
    }

    const fn nobody(&self) -> Election {
        if self.is_awaited { Election::Open } else { Election::Nobody }
    }

    /// Whether `claim` is not behind what was routed to.
    fn is_current(&self, claim: &Claim<'_>) -> bool {
        self.lineage.is_none_or(|lineage| {
            matches!(lineage.relation(claim), Relation::Same | Relation::Descends | Relation::Higher)
        })
    }

    /// Whether `claim` is on another line than what was routed to, and not just behind it.
    fn is_stray(&self, claim: &Claim<'_>) -> bool {
        let relation = self.lineage.map(|lineage| lineage.relation(claim));
        matches!(relation, Some(Relation::Diverged | Relation::Unknown))
    }

    /// Whether it is proven that `best` is the primary and `other` is not.
    fn beats(&self, best: &Claim<'_>, other: &Claim<'_>) -> bool {
        // Numbers of timelines say nothing from one cluster to another.
        let systems = best.facts.system.zip(other.facts.system);
        if systems.is_some_and(|(own, others)| own != others) {
            return false;
        }
        let is_behind =
            |lineage: &Lineage| lineage.relation(best) == Relation::Same && lineage.relation(other) == Relation::Lower;
        Line::of(best.facts).relation(Line::of(other.facts)) == Relation::Descends
            || self.lineage.is_some_and(is_behind)
    }
}

/// The cluster that most of these servers say they are of, if more than half do.
pub(super) fn majority(systems: &[SystemId]) -> Option<SystemId> {
    let count = |system: &SystemId| systems.iter().filter(|other| *other == system).count();
    systems.iter().find(|system| count(system) * 2 > systems.len()).copied()
}
