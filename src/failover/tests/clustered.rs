//! Clusters on the bench: what monitors tell, in a line.

use std::sync::Arc;
use std::time::Duration;

use super::build::{PlanBuilder, ms, plan};
use super::rig::Rig;
use crate::failover::{Command, Event, Order, PoolMemory, Refusal, Sessions, Tier};
use crate::model::{
    BackendId, Fork, LoginError, Lsn, OutReason, PoolName, Role, ServerFacts, SessionPolicy, SystemId, Target,
    Timeline, WatchEnd, WatchError, WatchId, WatchNews,
};

pub(super) const SYSTEM: SystemId = SystemId(7_000_000_000_000_000_001);

/// Three servers, of which `a` is preferred.
pub(super) fn three() -> PlanBuilder {
    plan().pool("pg").postgres().backend("a", 1).backend("b", 2).backend("c", 2)
}

/// What a server says: its role, its timeline, where it is, and where it left the timelines before.
pub(super) fn facts(role: Role, timeline: u32, at: u64, left: &[u64]) -> ServerFacts {
    let forks = (1..).zip(left).map(|(timeline, at)| Fork { timeline: Timeline(timeline), at: Lsn(*at) });
    let history: Vec<Fork> = forks.collect();
    assert_eq!(history.len() + 1, timeline as usize, "a history has every timeline before");
    let replayed = (role == Role::Standby).then_some(Lsn(at));
    let (system, timeline) = (Some(SYSTEM), Some(Timeline(timeline)));
    ServerFacts { system, timeline, role, written: Some(Lsn(at)), replayed, history: history.into() }
}

pub(super) fn primary(timeline: u32, left: &[u64]) -> ServerFacts {
    facts(Role::Primary, timeline, 1000, left)
}

pub(super) fn standby(timeline: u32, left: &[u64]) -> ServerFacts {
    facts(Role::Standby, timeline, 900, left)
}

pub(super) fn denied() -> WatchError {
    WatchError::Login(LoginError::NotAuthorized)
}

pub(super) fn turned_away() -> WatchError {
    WatchError::Login(LoginError::CannotConnectNow)
}

/// `a` is the primary on timeline 1, the others are its standbys, and all are well.
pub(super) fn healthy(plan: PlanBuilder) -> Rig {
    let mut rig = Rig::new(plan);
    rig.open_session("a", primary(1, &[]));
    rig.open_session("b", standby(1, &[]));
    rig.open_session("c", standby(1, &[]));
    rig.fit(&["a", "b", "c"]);
    rig.pass(ms(300));
    assert_eq!(rig.way("pg"), "a");
    rig
}

impl Rig {
    pub(super) fn tell(&mut self, name: &str, news: WatchNews) {
        let backend = self.id(name);
        let watch = self.watches[&backend];
        self.feed(Event::Watched { backend, watch, news });
    }

    pub(super) fn tell_as(&mut self, name: &str, watch: WatchId, news: WatchNews) {
        let backend = self.id(name);
        self.feed(Event::Watched { backend, watch, news });
    }

    pub(super) fn open_session(&mut self, name: &str, facts: ServerFacts) {
        self.tell(name, WatchNews::Opened(facts));
    }

    pub(super) fn sees(&mut self, name: &str, facts: ServerFacts) {
        self.tell(name, WatchNews::Seen(facts));
    }

    pub(super) fn late(&mut self, name: &str, waited: u64) {
        self.late_after(name, waited, 1);
    }

    /// The slowest of its answers of late took `slowest` milliseconds.
    pub(super) fn late_after(&mut self, name: &str, waited: u64, slowest: u64) {
        self.tell(name, WatchNews::Late { waited: ms(waited), slowest: ms(slowest) });
    }

    pub(super) fn on_time(&mut self, name: &str) {
        self.tell(name, WatchNews::OnTime { took: ms(30) });
    }

    pub(super) fn ends(&mut self, name: &str, end: WatchEnd) {
        self.tell(name, WatchNews::Ended { end, detail: end.label().to_owned() });
    }

    pub(super) fn fails(&mut self, name: &str, error: WatchError) {
        self.tell(name, WatchNews::Failed { error, detail: error.label().to_owned() });
    }

    /// Its session ends and its port refuses.
    pub(super) fn dies(&mut self, name: &str) {
        self.ends(name, WatchEnd::Closed);
        self.answer(name, super::rig::refused());
        assert_eq!(self.backend(name).health.label(), "unhealthy");
    }

    /// It accepts again, and says this.
    pub(super) fn comes_back(&mut self, name: &str, facts: ServerFacts) {
        self.open_session(name, facts);
        self.answer(name, super::rig::passed());
        assert_eq!(self.backend(name).health.label(), "healthy");
    }

    /// The meaning of what the two paths to it say.
    pub(super) fn meaning(&self, name: &str) -> String {
        self.server_words(name).split(':').next().unwrap().to_owned()
    }

    /// What the two paths to it say, in words.
    pub(super) fn server_words(&self, name: &str) -> String {
        self.backend(name).server.unwrap().meaning
    }

    /// The published tiers for a target, and whether a verdict is out on them.
    pub(super) fn way_to(&self, target: Target) -> (String, bool) {
        let routes = &self.core.table().pools[&PoolName::from("pg")];
        let (pending, tiers) = routes.wanted(Some(target));
        (tiers.iter().map(names_in).collect::<Vec<_>>().join(" | "), pending)
    }

    /// Whether clients that write wait.
    pub(super) fn holds(&self) -> bool {
        let routes = &self.core.table().pools[&PoolName::from("pg")];
        routes.tiers.is_empty() && routes.pending
    }

    /// What is written down, the tables and the fences of the last turn, in order: `keep:b [-] a:all(demoted) [b]`.
    pub(super) fn deeds(&self) -> String {
        let deed = |command: &Command| match command {
            Command::KeepLineage { lineage, .. } => Some(format!("keep:{}", lineage.server)),
            Command::PublishTable(table) => {
                let tiers = &table.pools[&PoolName::from("pg")].tiers;
                let target = tiers.first().map_or("-".to_owned(), |tier| tier.routes()[0].name.to_string());
                Some(format!("[{target}]"))
            }
            Command::FenceSessions { backend, reason, which, .. } => {
                let what = match which {
                    Sessions::All => "all",
                    Sessions::Opening => "opening",
                };
                Some(format!("{}:{what}({reason})", self.name_of(*backend)))
            }
            _ => None,
        };
        self.last.iter().filter_map(deed).collect::<Vec<_>>().join(" ")
    }

    /// Where each table of the last turn leads for a target: `b c, b c | a`.
    pub(super) fn ways_to(&self, target: Target) -> String {
        let way = |command: &Command| match command {
            Command::PublishTable(table) => {
                let (_, tiers) = table.pools[&PoolName::from("pg")].wanted(Some(target));
                Some(tiers.iter().map(names_in).collect::<Vec<_>>().join(" | "))
            }
            _ => None,
        };
        self.last.iter().filter_map(way).collect::<Vec<_>>().join(", ")
    }

    fn name_of(&self, id: BackendId) -> String {
        let named = self.core.backends().find(|(known, ..)| *known == id);
        named.map_or_else(|| format!("#{id}"), |(_, _, name, _)| name.to_string())
    }

    pub(super) fn server_reason(&self, name: &str) -> String {
        self.backend(name).reason
    }

    pub(super) fn remembered(&self) -> PoolMemory {
        self.core.memory(&PoolName::from("pg")).unwrap()
    }

    /// A process after this one, with the same servers.
    pub(super) fn restarted(&self, plan: PlanBuilder) -> Self {
        self.after_restart(plan, self.remembered())
    }

    /// The same, which remembers this.
    pub(super) fn after_restart(&self, plan: PlanBuilder, memory: PoolMemory) -> Self {
        let mut next = Self::new(plan);
        next.feed(Event::Restored { pools: [("pg".into(), memory)].into() });
        next
    }

    pub(super) fn point_to(&mut self, name: &str, sessions: SessionPolicy) -> Result<(), Refusal> {
        self.say(Order::Failover { pool: "pg".into(), to: Some(name.into()), reason: None, sessions })
    }

    /// Why the backend was taken out last.
    pub(super) fn out_for(&self, name: &str) -> Option<OutReason> {
        self.told.iter().rev().find_map(|change| match change {
            crate::failover::Change::BackendUnhealthy { backend, reason, .. } if backend.as_str() == name => {
                Some(*reason)
            }
            _ => None,
        })
    }

    pub(super) fn after(&mut self, time: Duration) {
        self.pass(time);
    }
}

fn names_in(tier: &Tier) -> String {
    tier.routes().iter().map(|route| route.name.to_string()).collect::<Vec<_>>().join(" ")
}

/// Shares facts between tests that change one of them.
pub(super) fn of_system(facts: ServerFacts, system: u64) -> ServerFacts {
    ServerFacts { system: Some(SystemId(system)), ..facts }
}

/// A plain session that can tell neither cluster nor history.
pub(super) fn plain(role: Role, at: u64) -> ServerFacts {
    let replayed = (role == Role::Standby).then_some(Lsn(at));
    ServerFacts { system: None, timeline: None, role, written: Some(Lsn(at)), replayed, history: Arc::from([]) }
}
