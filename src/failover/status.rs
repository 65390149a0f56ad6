//! What the core says of itself when asked.

use crate::model::{
    AdminState, BackendStatus, Generation, HealthState, LastFailover, MonoTime, OutReason, PoolName, PoolStatus,
    PushedVerdict, Role, ServerStatus,
};

use super::availability::Availability;
use super::controller::Controller;
use super::member::Member;
use super::pool::Pool;
use super::server::Server;
use super::tunnel::STOPPED;

impl Controller {
    /// The pool `name` as it stands.
    #[must_use]
    pub fn pool_status(&self, now: MonoTime, name: &PoolName) -> Option<PoolStatus> {
        self.pools.get(name).map(|pool| pool.status(now, self.table().generation))
    }

    /// Every pool as it stands, by name.
    #[must_use]
    pub fn pool_statuses(&self, now: MonoTime) -> Vec<PoolStatus> {
        self.pools.values().map(|pool| pool.status(now, self.table().generation)).collect()
    }
}

impl Pool {
    /// The pool as it stands.
    pub(super) fn status(&self, now: MonoTime, generation: Generation) -> PoolStatus {
        PoolStatus {
            name: self.plan.name.clone(),
            kind: self.plan.kind,
            state: self.state,
            redundancy: self.redundancy(),
            generation,
            pinned: self.pin.as_ref().map(|pin| pin.backend.clone()),
            pinned_by: None,
            paused: self.pause,
            paused_by: None,
            hold: self.plan.hold.hold,
            contested: self.cluster.as_ref().map(|cluster| cluster.contested.clone()).unwrap_or_default(),
            failovers: self.failovers.completed,
            recoveries: self.failovers.recoveries,
            last_failover: self.last_move.as_ref().map(|last| LastFailover {
                at: last.at,
                from: last.from.clone(),
                to: last.to.clone(),
                reason: last.reason,
            }),
            backends: self.members().iter().map(|member| self.backend_status(now, member)).collect(),
        }
    }

    pub(super) fn backend_status(&self, now: MonoTime, member: &Member) -> BackendStatus {
        let eligible = member.is_eligible();
        let active = self.gets_sessions(member);
        BackendStatus {
            id: member.id,
            name: member.plan.name.clone(),
            address: member.plan.address.clone(),
            priority: member.plan.priority,
            weight: member.advised.share_of(member.plan.weight),
            health: member.health.joined(),
            admin_state: member.admin_state(),
            eligible: eligible || self.is_readable(member),
            active,
            reason: self.why_not(member, active),
            slow: member.availability() == Availability::Slow,
            latency: member.health.latency.last,
            smoothed: member.health.latency.smoothed,
            consecutive_failures: member.health.consecutive_failures(),
            passive_points: member.health.passive.points(),
            gave_up: member.has_given_up(),
            consecutive_successes: member.health.successes,
            last_check: member.health.last_check,
            since: member.health.joined_since(),
            last_error: member.health.last_error.clone(),
            last_error_at: member.health.last_error_at,
            downtime: member.health.downtime(now),
            server: self.server_of(member).map(server_status),
            reported: member.health.pushed.as_ref().map(|pushed| pushed.verdict.figures.clone()).unwrap_or_default(),
            pushed: member.health.pushed.as_ref().map(|pushed| PushedVerdict {
                health: pushed.verdict.health,
                reason: pushed.verdict.reason.clone(),
                since: pushed.since,
                until: pushed.verdict.until,
            }),
            tunnel: member.tunnel_status(),
        }
    }

    /// Why `member` gets no new sessions; empty if it does.
    pub(super) fn why_not(&self, member: &Member, active: bool) -> String {
        if let Some(why) = self.why_no_primary(member) {
            return why;
        }
        match member.availability() {
            Availability::Eligible | Availability::Slow if active => String::new(),
            Availability::Slow if member.passed_over => format!("{}; another is faster", unfit(member)),
            Availability::Eligible | Availability::Slow if self.pin.is_some() => {
                format!("{}: {}", self.kept_waiting(), self.release_hint())
            }
            Availability::Eligible | Availability::Slow => match self.active {
                Some(_) if !self.may_serve(member) => format!("{}: automatic failover is off", self.kept_waiting()),
                Some(active) if member.tier < active && member.is_fit() => "fit again, waiting for failback".to_owned(),
                Some(active) => format!("standby: priority {active} serves"),
                None if !self.plan.failover.automatic => {
                    format!("{}: automatic failover is off", self.kept_waiting())
                }
                None => "waiting for first verdicts of a better tier".to_owned(),
            },
            Availability::Pending if member.health.has_no_way => {
                "no verdict yet: its tunnel is being set up".to_owned()
            }
            Availability::Pending => match &member.health.obstacle {
                Some(obstacle) => format!("no verdict yet: {obstacle}"),
                None => "no verdict yet".to_owned(),
            },
            Availability::Standby => "standby".to_owned(),
            Availability::Barred => "not the primary, and no standby".to_owned(),
            Availability::Unfit => match self.silence(member) {
                Some(words) => behind_silence(words, unfit(member)),
                None => unfit(member),
            },
            Availability::Draining if member.admin == AdminState::Drain => "drained by an operator".to_owned(),
            Availability::Draining => "drained by its agent".to_owned(),
            Availability::Maintained if member.is_cut_off() => STOPPED.to_owned(),
            Availability::Maintained if member.admin == AdminState::Maintenance => "in maintenance".to_owned(),
            Availability::Maintained => "in maintenance by its agent".to_owned(),
        }
    }

    /// What a backend is that could serve and may not. In a cluster that is no standby, but the primary.
    const fn kept_waiting(&self) -> &'static str {
        if self.cluster.is_some() { "the primary, and kept from clients" } else { "standby" }
    }

    /// What the pool is pinned to, and how it is released.
    pub(super) fn release_hint(&self) -> String {
        let Some(pin) = &self.pin else { return String::new() };
        let (backend, pool) = (&pin.backend, &self.plan.name);
        let what = if pin.whole_tier { "the tier of " } else { "" };
        format!("pinned to {what}{backend} until `changeover failback {pool}`")
    }
}

fn server_status(server: &Server) -> ServerStatus {
    let facts = server.facts.as_ref();
    let behind = server.lag.behind.filter(|_| server.role() == Some(Role::Standby));
    ServerStatus {
        role: server.role(),
        system: facts.and_then(|facts| facts.system),
        timeline: facts.and_then(|facts| facts.timeline),
        written: facts.and_then(|facts| facts.written),
        replayed: facts.and_then(|facts| facts.replayed),
        lag_bytes: behind.map(|behind| behind.bytes),
        lag_time: behind.map(|behind| behind.time),
        is_monitored: server.is_open(),
        meaning: server.words(),
    }
}

/// The same of one whose target is silent behind all of its tunnels.
fn behind_silence(words: &str, said: String) -> String {
    if said.contains(words) { said } else { format!("{words}; {said}") }
}

/// Why a backend is unhealthy, in words.
fn unfit(member: &Member) -> String {
    let health = &member.health;
    if let Some(pushed) = health.pushed.as_ref().filter(|_| health.said() == HealthState::Unhealthy) {
        return pushed.detail();
    }
    let reason = health.reason.map_or("unhealthy", OutReason::label);
    let said = match &health.last_error {
        Some(error) => format!("{reason}: {error}"),
        None => reason.to_owned(),
    };
    if !member.has_given_up() {
        return said;
    }
    let attempts = member.plan.check.recovery_attempts;
    format!("{said}; gave up after {attempts} attempts, until it is reset")
}
