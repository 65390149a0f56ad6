//! The figures of pools and backends, told when they change: whoever shows them need not ask for all of them.

use std::time::Duration;

use crate::model::{
    BackendFigures, BackendId, HealthState, PoolFigures, PoolKind, PoolName, Redundancy, Role, ServerFigures,
};

use super::controller::Controller;
use super::member::Member;
use super::pool::Pool;
use super::server::Server;

/// Figures that are not what they were when they were told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figures<'a> {
    /// Those of a pool.
    Pool(&'a PoolName, PoolFigures),
    /// Those of a backend.
    Backend(BackendId, BackendFigures),
}

impl Controller {
    /// Tells what has changed since this was last called. Looks at the pools alone that had something to decide since.
    pub fn tell_figures(&mut self, tell: &mut dyn FnMut(Figures<'_>)) {
        for name in std::mem::take(&mut self.untold) {
            if let Some(pool) = self.pools.get_mut(&name) {
                pool.tell_figures(&name, tell);
            }
        }
    }
}

impl Pool {
    fn tell_figures(&mut self, name: &PoolName, tell: &mut dyn FnMut(Figures<'_>)) {
        let figures = self.figures();
        if self.told.replace(figures) != Some(figures) {
            tell(Figures::Pool(name, figures));
        }
        for index in 0..self.members.len() {
            let Some(member) = self.members.get(index) else { continue };
            let figures = self.figures_of(member);
            let Some(member) = self.members.get_mut(index) else { continue };
            if member.told.replace(figures) != Some(figures) {
                tell(Figures::Backend(member.id, figures));
            }
        }
    }

    fn figures(&self) -> PoolFigures {
        let is_primary =
            |member: &Member| self.server_of(member).and_then(|server| server.role()) == Some(Role::Primary);
        let writes = |member: &Member| {
            is_primary(member) && member.health.joined() == HealthState::Healthy && self.gets_sessions(member)
        };
        let is_cluster = self.plan.kind == PoolKind::Postgres;
        PoolFigures {
            state: self.state,
            redundancy: self.redundancy(),
            is_paused: self.pause.is_some(),
            is_pinned: self.pin.is_some(),
            serves_writes: is_cluster.then(|| self.members().iter().any(writes)),
        }
    }

    /// How many healthy backends it has, in words.
    pub(super) fn redundancy(&self) -> Redundancy {
        let is_healthy = |member: &&Member| member.health.joined() == HealthState::Healthy;
        // More than two are one word, so that a large pool is not looked through.
        match self.members().iter().filter(is_healthy).take(3).count() {
            0 => Redundancy::None,
            1 => Redundancy::Single,
            2 => Redundancy::Dual,
            _ => Redundancy::Multi,
        }
    }

    /// Whether `member` gets new sessions now.
    pub(super) fn gets_sessions(&self, member: &Member) -> bool {
        member.is_eligible() && !self.is_empty_seat() && self.is_seated(member)
    }

    fn figures_of(&self, member: &Member) -> BackendFigures {
        BackendFigures {
            is_healthy: member.health.joined() == HealthState::Healthy,
            is_eligible: member.is_eligible() || self.is_readable(member),
            server: self.server_of(member).map(server_figures),
            tunnel: member.tunnel.as_ref().map(|tunnel| tunnel.figures()),
        }
    }

    /// Whether what was told last is what is so now.
    pub(super) fn is_told(&self) -> bool {
        let is_told = |member: &Member| member.told == Some(self.figures_of(member));
        self.told == Some(self.figures()) && self.members().iter().all(is_told)
    }
}

fn server_figures(server: &Server) -> ServerFigures {
    let (behind_bytes, behind_time) = match server.role() {
        Some(Role::Primary) => (Some(0), Some(Duration::ZERO)),
        Some(Role::Standby) => (server.lag.behind.map(|of| of.bytes), server.lag.behind.map(|of| of.time)),
        None => (None, None),
    };
    let is_standby = server.role() == Some(Role::Standby);
    ServerFigures { is_standby, is_monitored: server.is_open(), behind_bytes, behind_time }
}
