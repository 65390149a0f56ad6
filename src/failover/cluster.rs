//! Who is the primary of a cluster: a pure function of what its servers say and of the lineage that was last routed to.
//!
//! It refuses rather than guesses. A claim is worth what its timeline's history proves, and a lineage that was once routed to is
//! never gone back behind, unless a person says so. This is the whole of it:
//!
//! | the claim, beside the lineage | alone | beside the incumbent | until all have had a first word |
//! |---|---|---|---|
//! | nothing is remembered | leads | | waits |
//! | goes on: at the address that was on the line last, or has all of it | leads | is the incumbent; of two, contested | waits; leads once this process has served |
//! | comes next: promoted from the line | leads | leads, but contested if it lacks too much | waits; leads once this process has served |
//! | untold: a higher number, or none, and no history | leads | contested | waits |
//! | behind: a lower number | refused | refused | waits |
//! | stray: on the line and never promoted, or on one that a person decided against | contested | refused | waits |
//! | other: on another line, or on who knows which | contested | contested | waits |
//!
//! The incumbent is a claim that goes on. Beside other claims than that, one has to come from the lines of all of them. And
//! whoever would lead is contested when a standby is on a line that left its own: somebody was promoted, and is not heard. Only who
//! leads already goes on then, since one standby that went astray is no reason to stop; people are told.

use crate::model::{BackendId, BackendPlan, Lsn, ServerFacts, SystemId};

use super::line::{Line, Lineage, Rejected, Relation, is_rejected};

/// A server that lives, is of the right cluster, and has said what it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word<'a> {
    pub(super) id: BackendId,
    pub(super) plan: &'a BackendPlan,
    pub(super) facts: &'a ServerFacts,
    /// Whether this process has heard it as a standby: on the same line it is the primary by no promotion.
    pub(super) was_standby: bool,
}

impl Word<'_> {
    fn line(&self) -> Line<'_> {
        Line::of(self.facts)
    }
}

/// What comes of the claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Election {
    /// This one is the primary.
    Primary(BackendId),
    /// Nobody who may be claims to be.
    Nobody,
    /// Several claim it, or one that may not be what it says: nothing proves which is right. These are they, and the standbys that
    /// speak against them.
    Contested(Vec<BackendId>),
    /// First words are waited for.
    Open,
}

/// How a claim stands to the lineage: the rows of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    First,
    GoesOn,
    Next,
    Untold,
    Behind,
    Stray,
    Other,
}

/// What the servers say, with what is remembered of the cluster.
#[derive(Debug)]
pub(super) struct Claims<'a> {
    /// Those that say that they are the primary.
    pub(super) all: Vec<Word<'a>>,
    /// The standbys.
    pub(super) standbys: Vec<Word<'a>>,
    pub(super) lineage: Option<&'a Lineage>,
    /// The lines that people have decided against.
    pub(super) rejected: &'a [Rejected],
    /// Whether a server's first word is waited for.
    pub(super) is_awaited: bool,
    /// Whether this process has routed to a primary, and has looked on since.
    pub(super) has_served: bool,
    /// Who leads so far.
    pub(super) leader: Option<BackendId>,
    /// The most bytes that the line of an incumbent that still claims may be ahead of where its successor left it.
    pub(super) lack_max: u64,
    /// Whom an operator has said to be the primary, over all proof.
    pub(super) overruled: Option<BackendId>,
}

impl Claims<'_> {
    /// Who is the primary.
    pub(super) fn elect(&self) -> Election {
        if let Some(id) = self.overruled {
            return if self.all.iter().any(|claim| claim.id == id) { Election::Primary(id) } else { Election::Nobody };
        }
        if self.is_awaited && !self.has_served {
            // What was true when the last process ended may be overtaken: then only what all of them say is an answer.
            return Election::Open;
        }
        let claims: Vec<(&Word<'_>, Standing)> = self.all.iter().map(|claim| (claim, self.standing(claim))).collect();
        let has_incumbent = claims.iter().any(|(_, standing)| *standing == Standing::GoesOn);
        let counts = |standing: Standing| match standing {
            Standing::Behind => false,
            Standing::Stray => !has_incumbent,
            Standing::First | Standing::GoesOn | Standing::Next | Standing::Untold | Standing::Other => true,
        };
        let may_lead = |standing: Standing| counts(standing) && !matches!(standing, Standing::Stray | Standing::Other);
        let contested = || {
            let counted = claims.iter().filter(|(_, standing)| counts(*standing));
            Election::Contested(counted.map(|(claim, _)| claim.id).collect())
        };
        let leading = claims.iter().filter(|(_, standing)| may_lead(*standing));
        let Some(&(best, standing)) = leading.max_by_key(|(claim, _)| claim.facts.timeline) else {
            return match claims.iter().any(|(_, standing)| counts(*standing)) {
                true => contested(),
                false if self.is_awaited => Election::Open,
                false => Election::Nobody,
            };
        };
        let yields = |(other, of): &(&Word<'_>, Standing)| {
            other.id == best.id || !counts(*of) || self.lacks(best, other, *of).is_some_and(|by| by <= self.lack_max)
        };
        if !claims.iter().all(yields) {
            return contested();
        }
        let against = self.standbys_against(best.id);
        if !against.is_empty() && self.leader != Some(best.id) {
            return Election::Contested(std::iter::once(best.id).chain(against).collect());
        }
        // Whoever has had no first word may have to say more than a number.
        let waits = self.is_awaited && matches!(standing, Standing::First | Standing::Untold);
        if waits { Election::Open } else { Election::Primary(best.id) }
    }

    /// The standbys on lines that left the one that `id` claims to lead, and that nobody has decided against.
    pub(super) fn standbys_against(&self, id: BackendId) -> Vec<BackendId> {
        let Some(claim) = self.all.iter().find(|claim| claim.id == id) else { return Vec::new() };
        let is_newer = |standby: &&Word<'_>| {
            let relation = standby.line().relation(claim.line());
            matches!(relation, Relation::Descends(_) | Relation::Higher) && !is_rejected(self.rejected, standby.line())
        };
        self.standbys.iter().filter(is_newer).map(|standby| standby.id).collect()
    }

    /// Which row of the table is that of `claim`.
    fn standing(&self, claim: &Word<'_>) -> Standing {
        if is_rejected(self.rejected, claim.line()) {
            return Standing::Stray;
        }
        let Some(lineage) = self.lineage else { return Standing::First };
        let is_there = lineage.is_at(claim.plan);
        let has_all = !claim.was_standby && has_all_of(lineage.at, claim.facts.written);
        // A name alone is no proof: it may be given to another server.
        let is_it = is_there || (has_all && lineage.is_of(claim.plan));
        match claim.line().relation(lineage.line()) {
            Relation::Same if is_there || has_all => Standing::GoesOn,
            Relation::Same => Standing::Stray,
            Relation::Descends(_) => Standing::Next,
            Relation::Higher => Standing::Untold,
            Relation::Lower => Standing::Behind,
            // What cannot be told of the very server that was on it last has not changed.
            Relation::Unknown if is_it && claim.facts.timeline == lineage.timeline => Standing::GoesOn,
            Relation::Unknown if lineage.timeline.is_none() => Standing::Untold,
            Relation::Diverged | Relation::Unknown => Standing::Other,
        }
    }

    /// How many bytes of what `other` has written `best` lacks, if it comes from there; none if that is not so.
    fn lacks(&self, best: &Word<'_>, other: &Word<'_>, standing: Standing) -> Option<u64> {
        let Relation::Descends(left) = best.line().relation(other.line()) else { return None };
        let seen = self.lineage.filter(|_| standing == Standing::GoesOn).and_then(|lineage| lineage.at);
        Some(other.facts.written.max(seen).map_or(0, |at| at.since(left)))
    }
}

/// Whether who has written as far as `at` has all up to `goal`, as far as both are known.
pub(super) fn has_all_of(goal: Option<Lsn>, at: Option<Lsn>) -> bool {
    goal.zip(at).is_none_or(|(goal, at)| at >= goal)
}

/// The cluster that most of these servers say they are of, if more than half do.
pub(super) fn majority(systems: &[SystemId]) -> Option<SystemId> {
    let count = |system: &SystemId| systems.iter().filter(|other| *other == system).count();
    systems.iter().find(|system| count(system) * 2 > systems.len()).copied()
}
