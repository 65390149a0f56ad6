//! Orders that are for a whole pool, and why an order is refused. A refused order changes nothing.

use crate::model::{BackendId, MonoTime, OutReason};

use super::controller::{Controller, Turn};
use super::order::{Order, Refusal};
use super::pin::{Pin, pinned_server};
use super::pool::{Effects, Pool};

impl Controller {
    /// Why `order` would not be carried out if it were given now; none if it would be.
    #[must_use]
    pub fn refusal(&self, now: MonoTime, order: &Order) -> Option<Refusal> {
        let name = order.pool();
        let Some(pool) = self.pools.get(name) else { return Some(Refusal::PoolNotFound(name.clone())) };
        if let Some(backend) = order.backend().filter(|backend| pool.named(backend).is_none()) {
            return Some(Refusal::BackendNotFound(name.clone(), backend.clone()));
        }
        match order {
            Order::Failover { to, .. } => pool.pin_target(to.as_ref()).err(),
            Order::Failback { .. } => pool.refuses_failback(),
            Order::Pause { until, .. } => pool.refuses_pause(now, *until),
            Order::Resume { .. } => pool.refuses_resume(),
            Order::Tunnel { backend, wanted, .. } => pool.refuses_tunnel(backend, *wanted),
            Order::SetAdminState { .. }
            | Order::PushHealth { .. }
            | Order::ReportFailure { .. }
            | Order::ReportSuccess { .. }
            | Order::Reset { .. }
            | Order::Probe { .. } => None,
        }
    }

    /// Carries out an order about who serves, which is not refused.
    pub(super) fn direct(&mut self, now: MonoTime, order: &Order, turn: &mut Turn) {
        let name = order.pool();
        let Some(pool) = self.pools.get_mut(name) else { return };
        let mut effects = Effects::default();
        for id in obey(pool, now, order, &mut effects) {
            // Whoever serves again keeps the sessions that an earlier order would have had go.
            self.departures.cancel(id, |reason| reason == OutReason::Manual);
        }
        turn.touched.insert(name.clone());
        self.take(now, name, effects, turn);
    }
}

/// Returns those that serve by this order.
fn obey(pool: &mut Pool, now: MonoTime, order: &Order, effects: &mut Effects) -> Vec<BackendId> {
    match order {
        Order::Failover { to, reason, sessions, .. } => {
            let Ok((backend, whole_tier)) = pool.pin_target(to.as_ref()) else { return Vec::new() };
            let claimant = pool.named(&backend).filter(|member| pool.is_refused_claimant(member));
            let overrules = claimant.map(pinned_server);
            let pin = Pin { backend, whole_tier, at: now, reason: reason.clone(), overrules };
            return pool.serve_pinned(now, pin, *sessions, effects);
        }
        Order::Failback { .. } => return pool.fail_back(now, effects),
        Order::Pause { until, .. } => pool.pause(now, *until, effects),
        Order::Resume { .. } => pool.resume(now, false, effects),
        Order::SetAdminState { .. }
        | Order::PushHealth { .. }
        | Order::ReportFailure { .. }
        | Order::ReportSuccess { .. }
        | Order::Reset { .. }
        | Order::Probe { .. }
        | Order::Tunnel { .. } => {}
    }
    Vec::new()
}
