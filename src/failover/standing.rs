//! How a cluster stands, in words for people: as a whole, and why a server gets no sessions that write.

use crate::model::{Applied, ClusterState, Role, Rule, ServerFacts};

use super::availability::Availability;
use super::change::names;
use super::cluster::Election;
use super::member::Member;
use super::pool::Pool;
use super::server::{Part, Server};

impl Pool {
    /// What `member` claims, in words.
    pub(super) fn claim_of(&self, member: &Member) -> String {
        let name = &member.plan.name;
        let Some(facts) = facts_of(member) else { return format!("{name} says nothing") };
        let timeline =
            facts.timeline.map_or_else(|| "a timeline that it cannot tell".to_owned(), |n| format!("timeline {n}"));
        let left = facts
            .history
            .last()
            .map_or_else(String::new, |fork| format!(", which left timeline {} at {}", fork.timeline, fork.at));
        let role = if facts.role == Role::Standby { "a standby " } else { "" };
        format!("{name} is {role}on {timeline}{left}")
    }

    /// How the cluster stands, in one word; none if the pool is no cluster.
    pub(super) fn cluster_state(&self) -> Option<ClusterState> {
        let cluster = self.cluster.as_ref()?;
        let lives = |member: &Member| member.is_sound();
        let kept_out =
            |member: &Member| matches!(member.availability(), Availability::Draining | Availability::Maintained);
        Some(if self.pause.is_some() || self.members.iter().all(kept_out) {
            ClusterState::Maintenance
        } else if matches!(cluster.election, Election::Contested(_)) {
            ClusterState::TwoPrimaries
        } else if self.is_suspect() {
            ClusterState::Suspect
        } else if self.serves() {
            if self.members.iter().all(Member::is_well) { ClusterState::Healthy } else { ClusterState::Degraded }
        } else if cluster.election == Election::Open {
            ClusterState::Unknown
        } else if self.members.iter().any(lives) {
            ClusterState::NoPrimary
        } else {
            ClusterState::AllDown
        })
    }

    /// Why a server of a cluster gets no sessions that write, if that is because of its part in it.
    pub(super) fn why_no_primary(&self, member: &Member) -> Option<String> {
        let server = self.server_of(member)?;
        match member.availability() {
            Availability::Eligible | Availability::Slow if server.is_suspect() && self.is_seated(member) => {
                Some(format!("in doubt: {}", server.words()))
            }
            Availability::Pending if server.part == Part::Elected => {
                Some("the primary: that it is so is being written to disk".to_owned())
            }
            Availability::Pending if server.part == Part::Awaited && member.is_sound() => {
                Some("what it is in its cluster is waited for".to_owned())
            }
            Availability::Standby => Some(standby(server)),
            Availability::Barred => Some(self.why_barred(member, server)),
            Availability::Eligible
            | Availability::Slow
            | Availability::Pending
            | Availability::Unfit
            | Availability::Draining
            | Availability::Maintained => None,
        }
    }

    fn why_barred(&self, member: &Member, server: &Server) -> String {
        let claim = || self.claim_of(member);
        let cluster = self.cluster.as_ref();
        match server.plays() {
            Part::Shut => {
                format!("it is being shut down: those that it has stay, and nobody new is let in; {}", server.words())
            }
            Part::Foreign => {
                let system = server.facts.as_ref().and_then(|facts| facts.system);
                format!("of another cluster: its system identifier is {}", system.map_or(0, |system| system.0))
            }
            Part::Roleless => format!("nobody knows what it is; {}", server.words()),
            _ if cluster.is_some_and(|cluster| matches!(cluster.election, Election::Contested(_))) => {
                let pool = &self.plan.name;
                format!(
                    "it says that it is the primary and cannot prove it: {}; `changeover failover {pool} --to {}` takes its word",
                    claim(),
                    member.plan.name
                )
            }
            Part::Leads | Part::Elected | Part::Awaited | Part::Follows | Part::Refused => {
                let lineage = cluster.and_then(|cluster| cluster.lineage.as_ref());
                let served = lineage.and_then(|lineage| Some((&lineage.server, lineage.timeline?)));
                let since = served.map_or_else(String::new, |(server, timeline)| {
                    format!(", and {server} has served on timeline {timeline}")
                });
                format!("it says that it is the primary, and is not: {}{since}", claim())
            }
        }
    }

    /// Why the pool has the primary that it has, or none, and what each server says.
    pub(super) fn cluster_rules(&self) -> Vec<Applied> {
        let Some(cluster) = &self.cluster else { return Vec::new() };
        let applied = |rule, detail| Applied { rule, detail, at: None, by: None };
        let state = self.cluster_state().map_or("", ClusterState::label);
        let mut rules = Vec::new();
        match &cluster.election {
            Election::Primary(id) => {
                let claim = self.member(*id).map(|member| self.claim_of(member)).unwrap_or_default();
                rules.push(applied(Rule::Primary, format!("{state}: {claim}")));
            }
            Election::Contested(ids) => {
                let of = ids.iter().filter_map(|id| self.member(*id));
                let claims: Vec<String> = of.map(|member| self.claim_of(member)).collect();
                rules.push(applied(Rule::SplitBrain, format!("{state}: {}", claims.join("; "))));
            }
            Election::Nobody | Election::Open => {
                rules.push(applied(Rule::NoPrimary, format!("{state}: {}", self.without_primary())));
            }
        }
        if self.is_suspect() {
            rules.push(applied(Rule::Suspect, "clients that write wait for the answer of the accept path".to_owned()));
        }
        for member in &self.members {
            let Some(server) = &member.server else { continue };
            rules.push(applied(Rule::Server, format!("{} is {}", member.plan.name, said(server))));
        }
        rules
    }
}

impl Pool {
    /// Who else is there while there is no primary, and what may be done about it.
    fn without_primary(&self) -> String {
        let those = |is_meant: &dyn Fn(&Member) -> bool| {
            let of = self.members.iter().filter(|member| is_meant(member));
            of.map(|member| member.plan.name.clone()).collect::<Vec<_>>()
        };
        let is = |member: &Member, part: Part| {
            member.availability() == Availability::Barred && self.server_of(member).is_some_and(|s| s.part == part)
        };
        let standbys = those(&|member| member.availability() == Availability::Standby);
        let (claimants, roleless) = (those(&|m| is(m, Part::Refused)), those(&|m| is(m, Part::Roleless)));
        let fit = if standbys.is_empty() {
            "no standby is fit".to_owned()
        } else {
            format!("standby is {}", names(&standbys))
        };
        let mut said = vec![fit];
        if !claimants.is_empty() {
            said.push(format!("{} would be the primary and is not believed", names(&claimants)));
        }
        if !roleless.is_empty() {
            said.push(format!("nobody knows what {} is, and why stands below", names(&roleless)));
        } else if !standbys.is_empty() {
            said.push("it goes on once one is promoted, or the primary is back".to_owned());
        }
        said.join("; ")
    }
}

fn facts_of(member: &Member) -> Option<&ServerFacts> {
    member.server.as_ref().and_then(|server| server.facts.as_ref())
}

/// What a standby is, besides that.
fn standby(server: &Server) -> String {
    if server.lag.has_diverged {
        return "standby: it is on another line of history than the primary, or has replayed what that never wrote"
            .to_owned();
    }
    match server.lag.behind {
        Some(behind) if server.lag.is_lagging => {
            format!("standby: behind by {} bytes and {:.1?}", behind.bytes, behind.time)
        }
        None if server.lag.is_lagging || server.lag.is_unknown => {
            "standby: how far it is behind is not known, and another is near enough".to_owned()
        }
        Some(_) | None => "standby".to_owned(),
    }
}

/// What a server says of itself, and what its two paths mean.
fn said(server: &Server) -> String {
    let role = server.role().map_or("of no known role", Role::label);
    let facts = server.facts.as_ref();
    let timeline = facts.and_then(|facts| facts.timeline).map(|of| format!(", timeline {of}")).unwrap_or_default();
    let place = facts.and_then(|facts| facts.replayed.or(facts.written)).map(|at| format!(", at {at}"));
    format!("{role}{timeline}{}; {}", place.unwrap_or_default(), server.words())
}
