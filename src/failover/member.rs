//! One backend of a pool, with all that is known of it.

use std::sync::Arc;

use crate::model::{
    AdminState, BackendFigures, BackendId, BackendPlan, CheckKind, Epoch, HealthState, Load, MonoTime, TargetId,
};

use super::advised::Advised;
use super::availability::{Availability, Voices, stricter};
use super::health::Health;
use super::latency::Latency;
use super::recovery::has_given_up;
use super::server::{Part, Server};
use super::table::{PoolServer, Route};
use super::tunnel::Tunnel;

/// One backend with all that is known of it.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) id: BackendId,
    pub(super) plan: BackendPlan,
    pub(super) target: TargetId,
    /// What the operator says.
    pub(super) admin: AdminState,
    /// What the agent on its host says.
    pub(super) advised: Advised,
    pub(super) health: Health,
    pub(super) epoch: Epoch,
    /// What it carries. Decisions do not look at it: it is handed on to those who pick.
    pub(super) load: Arc<Load>,
    /// Whether it is slow, and another is better by enough.
    pub(super) passed_over: bool,
    /// Since when it has been fit without a break.
    pub(super) eligible_since: Option<MonoTime>,
    /// Which tier it is of: that of its priority; in a cluster each server is one of its own.
    pub(super) tier: u32,
    /// What makes a PostgreSQL server of it, if it is one.
    pub(super) server: Option<Server>,
    /// The tunnel that leads to it, if one does.
    pub(super) tunnel: Option<Box<Tunnel>>,
    /// Its figures as they were told last.
    pub(super) told: Option<BackendFigures>,
}

impl Member {
    pub(super) fn availability(&self) -> Availability {
        Availability::of(Voices {
            health: self.health.state,
            slow: self.health.is_slow(),
            pushed: self.health.said(),
            operator: self.people_say(),
            agent: self.advised.amounts_to(),
            part: self.server.as_ref().map_or(Part::Leads, Server::plays),
        })
    }

    /// Whether it may serve as far as its health, people and its agent go, whatever its part in a cluster is.
    pub(super) fn is_sound(&self) -> bool {
        matches!(
            self.availability(),
            Availability::Eligible | Availability::Slow | Availability::Standby | Availability::Barred
        ) || (self.availability() == Availability::Pending && self.health.state != HealthState::Unknown)
    }

    /// Whether nothing at all is to be said against it in the part that it has.
    pub(super) fn is_well(&self) -> bool {
        match self.availability() {
            Availability::Eligible => true,
            Availability::Standby => self.server.as_ref().is_some_and(Server::is_good_standby),
            Availability::Slow
            | Availability::Pending
            | Availability::Barred
            | Availability::Unfit
            | Availability::Draining
            | Availability::Maintained => false,
        }
    }

    /// Whether nothing at all is to be said against it.
    pub(super) fn is_fit(&self) -> bool {
        self.availability() == Availability::Eligible
    }

    /// Whether it may get new sessions: it is fit, or slow and there is none that is better by enough.
    pub(super) fn is_eligible(&self) -> bool {
        match self.availability() {
            Availability::Eligible => true,
            Availability::Slow => !self.passed_over,
            Availability::Pending
            | Availability::Standby
            | Availability::Barred
            | Availability::Unfit
            | Availability::Draining
            | Availability::Maintained => false,
        }
    }

    /// What the operator and the agent say, by whom its sessions are judged.
    pub(super) fn ordered(&self) -> AdminState {
        stricter(self.admin, self.advised.admin)
    }

    /// What they say as far as new sessions go.
    pub(super) fn admin_state(&self) -> AdminState {
        stricter(self.admin, self.advised.amounts_to())
    }

    pub(super) const fn latency(&self) -> Latency {
        self.health.latency
    }

    /// Whether it is asked at all.
    pub(super) fn is_checked(&self) -> bool {
        self.plan.check.kind != CheckKind::None
    }

    /// Whether all attempts at asking it are used up.
    pub(super) const fn has_given_up(&self) -> bool {
        has_given_up(self.health.attempts, &self.plan.check)
    }

    /// How it is reached, fit or not.
    pub(super) fn server(&self) -> PoolServer {
        let BackendPlan { name, address, approach, .. } = &self.plan;
        PoolServer { name: name.clone(), address: address.clone(), approach: approach.clone() }
    }

    pub(super) fn route(&self) -> Route {
        Route {
            backend: self.id,
            name: self.plan.name.clone(),
            address: self.plan.address.clone(),
            weight: self.advised.share_of(self.plan.weight),
            approach: self.plan.approach.clone(),
            max_connections: self.plan.max_connections,
            epoch: self.epoch,
            load: Arc::clone(&self.load),
        }
    }

    /// Keeps `eligible_since` true to the availability after any change.
    pub(super) fn settle(&mut self, now: MonoTime) {
        self.eligible_since = if self.is_fit() { self.eligible_since.or(Some(now)) } else { None };
    }
}
