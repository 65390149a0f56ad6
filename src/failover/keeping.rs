//! The line of history of a new primary is written down before anybody is sent there: whatever becomes of the daemon and its
//! machine after that, the primary of an older line is known for what it is. A disk that does not answer holds that up for
//! [`KEPT_WITHIN`], and no longer; who writes it down goes on trying.

use std::time::Duration;

use crate::model::{MonoTime, PoolName};

use super::availability::Availability;
use super::change::Change;
use super::controller::{Controller, Turn};
use super::line::Lineage;
use super::pool::{Effects, Pool};
use super::server::Part;

/// The longest that writers wait for the disk: some twenty times what a commit takes on one that works.
pub const KEPT_WITHIN: Duration = Duration::from_millis(100);
/// How far the primary has written is written down again when it is so much further: a segment of the log.
const PLACE_BYTES: u64 = 16 << 20;
/// Or after so long, if it is further at all: one small write in that time to each pool that is written to.
const PLACE_TIME: Duration = Duration::from_secs(10);
/// A primary that is back and has less than it had by more than this was put back to an older state: a crash leaves out a record.
const FELL_BACK_MIN: u64 = 16 << 20;

impl Controller {
    /// `lineage` of pool `name` is on disk, or it is known that it will not be for now: there is nothing to wait for.
    pub(super) fn lineage_kept(&mut self, name: PoolName, lineage: &Lineage, turn: &mut Turn) {
        let cluster = self.pools.get_mut(&name).and_then(|pool| pool.cluster.as_mut());
        if let Some(cluster) = cluster.filter(|cluster| cluster.lineage.as_ref().is_some_and(|of| of.is_like(lineage)))
        {
            cluster.kept_by = None;
            turn.touched.insert(name);
        }
    }
}

impl Pool {
    /// Whether what serves gets nobody new for now: it is in doubt, or on a line of history that is being written down.
    pub(super) fn is_withheld(&self) -> bool {
        self.is_suspect() || (self.serves() && self.cluster.as_ref().is_some_and(|cluster| cluster.kept_by.is_some()))
    }

    /// What is about to serve is the highest that was ever routed to; what a person bound the pool to over all proof is it from
    /// then on. Has it written down, and until it is, or the time is up, holds back who is new.
    pub(super) fn keep_lineage(&mut self, now: MonoTime, effects: &mut Effects) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.kept_by = cluster.kept_by.filter(|&by| now < by);
        let Some(id) = cluster.elected() else { return };
        let may_lead = |availability| matches!(availability, Availability::Eligible | Availability::Slow);
        let Some(member) = self.member(id).filter(|m| may_lead(m.availability()) && self.may_serve(m)) else { return };
        let Some(facts) = member.server.as_ref().and_then(|server| server.facts.as_ref()) else { return };
        let Some(cluster) = &self.cluster else { return };
        let before = cluster.lineage.as_ref();
        let lineage = Lineage::after(before, &member.plan, facts, &cluster.rejected);
        // Who serves and tells more of the line that it is on is written to already: to hold anybody back would undo nothing.
        let serves = self.serves() && self.is_seated(member);
        let is_it = before.is_some_and(|of| of.is_of(&member.plan));
        let is_known = |of: &Lineage| is_it && [None, lineage.timeline].contains(&of.timeline);
        let tells_more = serves && before.is_some_and(is_known);
        let is_new = before.is_none_or(|before| !before.is_like(&lineage));
        let fell_back =
            before.filter(|of| is_it && of.timeline == lineage.timeline).and_then(|of| Some(of.at?.since(lineage.at?)));
        if let Some(lost) = fell_back.filter(|lost| *lost > FELL_BACK_MIN) {
            let (to, timeline) = (lineage.server.clone(), lineage.timeline);
            effects.changes.push(Change::PrimaryChanged { from: None, to, timeline, lost: Some(lost) });
        }
        let Some(cluster) = &mut self.cluster else { return };
        if is_new {
            cluster.kept_by = (!tells_more).then(|| now + KEPT_WITHIN);
        }
        // Not while the line itself is on its way: what supersedes it would be waited for in its place.
        let went_on = cluster.kept_at.filter(|_| cluster.kept_by.is_none()).is_some_and(|(when, at)| {
            let bytes = at.zip(lineage.at).map_or(0, |(before, at)| at.since(before));
            bytes >= PLACE_BYTES || (bytes > 0 && now.since(when) >= PLACE_TIME)
        });
        if is_new || went_on || cluster.kept_at.is_none() {
            cluster.kept_at = Some((now, lineage.at));
        }
        effects.lineage = (is_new || went_on).then(|| lineage.clone()).or_else(|| effects.lineage.take());
        cluster.lineage = Some(lineage);
        if cluster.kept_by.is_some()
            && !serves
            && let Some(member) = self.member_mut(id)
        {
            member.server.iter_mut().for_each(|server| server.part = Part::Elected);
            member.settle(now);
        }
    }
}
