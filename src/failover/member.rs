//! One backend of a pool, with all that is known of it.

use std::sync::Arc;

use crate::model::{AdminState, BackendId, BackendPlan, Epoch, Load, MonoTime, TargetId};

use super::availability::Availability;
use super::health::Health;
use super::table::Route;

/// One backend with all that is known of it.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) id: BackendId,
    pub(super) plan: BackendPlan,
    pub(super) target: TargetId,
    pub(super) admin: AdminState,
    pub(super) health: Health,
    pub(super) epoch: Epoch,
    /// What it carries. Decisions do not look at it: it is handed on to those who pick.
    pub(super) load: Arc<Load>,
    /// Since when it has been eligible without a break.
    pub(super) eligible_since: Option<MonoTime>,
}

impl Member {
    pub(super) const fn availability(&self) -> Availability {
        Availability::of(self.health.state, self.admin)
    }

    pub(super) fn is_eligible(&self) -> bool {
        self.availability() == Availability::Eligible
    }

    pub(super) fn route(&self) -> Route {
        Route {
            backend: self.id,
            name: self.plan.name.clone(),
            address: self.plan.address.clone(),
            weight: self.plan.weight,
            approach: self.plan.approach,
            max_connections: self.plan.max_connections,
            epoch: self.epoch,
            load: Arc::clone(&self.load),
        }
    }

    /// Keeps `eligible_since` true to the availability after any change.
    pub(super) fn settle(&mut self, now: MonoTime) {
        self.eligible_since = if self.is_eligible() { self.eligible_since.or(Some(now)) } else { None };
    }
}
