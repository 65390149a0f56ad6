//! What the core says of itself when asked.

use crate::model::{BackendStatus, Generation, HealthState, LastFailover, MonoTime, PoolStatus, Redundancy};

use super::availability::Availability;
use super::member::Member;
use super::pool::Pool;

impl Pool {
    /// The pool as it stands.
    pub(super) fn status(&self, now: MonoTime, generation: Generation) -> PoolStatus {
        let healthy = self.members().iter().filter(|member| member.health.state == HealthState::Healthy).count();
        PoolStatus {
            name: self.plan.name.clone(),
            kind: self.plan.kind,
            state: self.state,
            redundancy: match healthy {
                0 => Redundancy::None,
                1 => Redundancy::Single,
                2 => Redundancy::Dual,
                _ => Redundancy::Multi,
            },
            generation,
            pinned: self.pin.as_ref().map(|pin| pin.backend.clone()),
            paused: self.pause,
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
        let eligible = member.availability() == Availability::Eligible;
        let active = eligible && !self.is_empty_seat() && self.is_seated(member);
        BackendStatus {
            id: member.id,
            name: member.plan.name.clone(),
            address: member.plan.address.clone(),
            priority: member.plan.priority,
            weight: member.plan.weight,
            health: member.health.state,
            admin_state: member.admin,
            eligible,
            active,
            reason: self.why_not(member, active),
            latency: member.health.latency,
            consecutive_failures: member.health.failures,
            consecutive_successes: member.health.successes,
            last_check: member.health.last_check,
            since: member.health.since,
            last_error: member.health.last_error.clone(),
            downtime: member.health.downtime(now),
        }
    }

    /// Why `member` gets no new sessions; empty if it does.
    pub(super) fn why_not(&self, member: &Member, active: bool) -> String {
        let health = &member.health;
        match member.availability() {
            Availability::Eligible if active => String::new(),
            Availability::Eligible if self.pin.is_some() => format!("standby: {}", self.release_hint()),
            Availability::Eligible => match self.active {
                Some(_) if !self.may_serve(member) => "standby: automatic failover is off".to_owned(),
                Some(active) if member.plan.priority < active => "fit again, waiting for failback".to_owned(),
                Some(active) => format!("standby: priority {active} serves"),
                None if !self.plan.failover.automatic => "standby: automatic failover is off".to_owned(),
                None => "waiting for first verdicts of a better tier".to_owned(),
            },
            Availability::Pending => match &health.obstacle {
                Some(obstacle) => format!("no verdict yet: {obstacle}"),
                None => "no verdict yet".to_owned(),
            },
            Availability::Unfit => {
                let reason = health.reason.map_or("unhealthy", |reason| reason.label());
                match &health.last_error {
                    Some(error) => format!("{reason}: {error}"),
                    None => reason.to_owned(),
                }
            }
            Availability::Draining => "drained by an operator".to_owned(),
            Availability::Maintained => "in maintenance".to_owned(),
        }
    }

    /// What the pool is pinned to, and how it is released.
    pub(super) fn release_hint(&self) -> String {
        let Some(pin) = &self.pin else { return String::new() };
        let (backend, pool) = (&pin.backend, &self.plan.name);
        let what = if pin.whole_tier { "the tier of " } else { "" };
        format!("pinned to {what}{backend} until `changeover failback {pool}`")
    }
}
