//! What is so now: whether what an alert tells of still holds. The history says what has happened, and cannot say what came to its
//! end while nobody looked, or without an event.

use std::collections::BTreeMap;

use crate::model::{BackendStatus, EventRecord, HealthState, PoolName, PoolState, PoolStatus, TunnelState};

/// Whether what an event tells of still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    /// It does.
    Still,
    /// It is over.
    Over,
    /// Nobody can tell, as before the first verdicts.
    Untold,
}

/// How everything stands at one moment.
#[derive(Debug, Default)]
pub(super) struct Present {
    pools: BTreeMap<PoolName, PoolStatus>,
    is_store_degraded: bool,
}

impl Present {
    pub(super) fn new(pools: Vec<PoolStatus>, is_store_degraded: bool) -> Self {
        let pools = pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect();
        Self { pools, is_store_degraded }
    }

    /// Whether that still holds which began with `event`. What is gone is over.
    pub(super) fn stands(&self, event: &EventRecord) -> Stands {
        if event.kind == "store.degraded" {
            return either(self.is_store_degraded);
        }
        let Some(pool) = event.pool.as_ref().and_then(|name| self.pools.get(name)) else { return Stands::Over };
        let backend = || pool.backends.iter().find(|backend| Some(&backend.name) == event.backend.as_ref());
        match (event.kind.as_str(), pool.state) {
            // Orders outlive a restart, and are in force before the first verdicts.
            ("pool.paused", _) => either(pool.paused.is_some()),
            ("pool.split_brain", _) if !pool.contested.is_empty() => Stands::Still,
            ("backend.unhealthy", _) => match backend().map(|backend| backend.health) {
                Some(HealthState::Unhealthy) => Stands::Still,
                Some(HealthState::Unknown) => Stands::Untold,
                Some(HealthState::Healthy) | None => Stands::Over,
            },
            ("tunnel.failed", _) => either(backend().is_some_and(is_cut_off)),
            (_, PoolState::Unknown) => Stands::Untold,
            ("pool.down", PoolState::Down | PoolState::FailoverInProgress) => Stands::Still,
            ("pool.degraded", PoolState::Degraded) => Stands::Still,
            ("pool.degraded", PoolState::Healthy) => Stands::Over,
            // Another tier serves, or none: it may be all that there is to be said.
            ("pool.degraded", _) => either(pool.backends.iter().any(|backend| !backend.eligible || backend.slow)),
            ("pool.down" | "pool.split_brain", _) => Stands::Over,
            _ => Stands::Untold,
        }
    }
}

/// Whether a tunnel leads to `backend` that is wanted and not up: one that is tried again has not come through yet.
fn is_cut_off(backend: &BackendStatus) -> bool {
    backend.tunnel.as_ref().is_some_and(|tunnel| match tunnel.state {
        TunnelState::Failed | TunnelState::Connecting | TunnelState::Reconnecting => true,
        TunnelState::Connected | TunnelState::Disconnected => false,
    })
}

const fn either(stands: bool) -> Stands {
    if stands { Stands::Still } else { Stands::Over }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::{Present, Stands};
    use crate::model::{
        Attach, BackendStatus, EventRecord, Generation, HealthState, MonoTime, Paused, PoolKind, PoolState, PoolStatus,
        Redundancy, TunnelState, TunnelStatus, WallTime,
    };

    /// The pool `orders`, whose backend `pg1` is of this `health`.
    pub(in crate::webhook) fn orders(state: PoolState, health: HealthState) -> PoolStatus {
        let backend =
            BackendStatus { health, eligible: health == HealthState::Healthy, ..BackendStatus::healthy("pg1") };
        PoolStatus {
            name: "orders".into(),
            kind: PoolKind::Tcp,
            state,
            redundancy: Redundancy::Single,
            generation: Generation(1),
            pinned: None,
            pinned_by: None,
            paused: None,
            paused_by: None,
            hold: std::time::Duration::from_secs(10),
            contested: Vec::new(),
            failovers: 0,
            recoveries: 0,
            last_failover: None,
            backends: vec![backend],
        }
    }

    /// The same, and it is paused.
    pub(in crate::webhook) fn paused(state: PoolState) -> PoolStatus {
        let paused = Some(Paused { since: MonoTime::ZERO, until: None });
        PoolStatus { paused, ..orders(state, HealthState::Healthy) }
    }

    fn stands(pool: PoolStatus, kind: &str) -> Stands {
        let mut event = EventRecord::new(WallTime::from_micros(0), kind);
        (event.pool, event.backend) = (Some("orders".into()), Some("pg1".into()));
        Present::new(vec![pool], false).stands(&event)
    }

    #[test]
    fn each_state_says_what_still_holds() {
        use PoolState::{Degraded, Down, FailoverComplete, FailoverInProgress, Healthy, RecoveryInProgress, Unknown};
        use Stands::{Over, Still, Untold};
        let fit = |state| orders(state, HealthState::Healthy);
        for (state, down, degraded, split_brain) in [
            (Unknown, Untold, Untold, Untold),
            (Healthy, Over, Over, Over),
            (Degraded, Over, Still, Over),
            (FailoverInProgress, Still, Over, Over),
            (FailoverComplete, Over, Over, Over),
            (RecoveryInProgress, Over, Over, Over),
            (Down, Still, Over, Over),
        ] {
            let told = ["pool.down", "pool.degraded", "pool.split_brain"].map(|kind| stands(fit(state), kind));
            assert_eq!(told, [down, degraded, split_brain], "{state:?}");
            assert_eq!(stands(fit(state), "pool.paused"), Over, "{state:?}");
            assert_eq!(stands(paused(state), "pool.paused"), Still, "{state:?}");
            let contested = PoolStatus { contested: vec!["pg1".into()], ..fit(state) };
            assert_eq!(stands(contested, "pool.split_brain"), Still, "{state:?}");
        }
        assert_eq!(stands(orders(FailoverComplete, HealthState::Unhealthy), "pool.degraded"), Still);
        for (health, wanted) in
            [(HealthState::Unknown, Untold), (HealthState::Healthy, Over), (HealthState::Unhealthy, Still)]
        {
            assert_eq!(stands(orders(Healthy, health), "backend.unhealthy"), wanted, "{health:?}");
        }
        let without = PoolStatus { backends: Vec::new(), ..fit(Down) };
        assert_eq!(stands(without, "backend.unhealthy"), Over, "it was taken out");
    }

    #[test]
    fn a_tunnel_that_failed_has_until_it_is_up_or_not_wanted_any_more() {
        let behind = |state| {
            let mut pool = orders(PoolState::Unknown, HealthState::Unknown);
            pool.backends[0].tunnel = Some(TunnelStatus {
                state,
                since: MonoTime::ZERO,
                provider: "ssh".into(),
                attach: Attach::Listen,
                pid: None,
                restarts: 3,
                up_since: None,
                next_retry: None,
                reason: None,
            });
            stands(pool, "tunnel.failed")
        };
        for state in [TunnelState::Failed, TunnelState::Connecting, TunnelState::Reconnecting] {
            assert_eq!(behind(state), Stands::Still, "{state:?}");
        }
        for state in [TunnelState::Connected, TunnelState::Disconnected] {
            assert_eq!(behind(state), Stands::Over, "{state:?}");
        }
        let direct = orders(PoolState::Down, HealthState::Unhealthy);
        assert_eq!(stands(direct, "tunnel.failed"), Stands::Over, "it is reached without one now");
    }

    #[test]
    fn the_disk_says_of_itself_how_it_is_and_of_what_is_gone_nothing_lasts() {
        let event = |kind: &str| EventRecord::new(WallTime::from_micros(0), kind);
        for (is_degraded, wanted) in [(true, Stands::Still), (false, Stands::Over)] {
            assert_eq!(Present::new(Vec::new(), is_degraded).stands(&event("store.degraded")), wanted);
        }
        let mut down = event("pool.down");
        down.pool = Some("gone".into());
        let present = Present::new(vec![orders(PoolState::Down, HealthState::Unhealthy)], false);
        assert_eq!(present.stands(&down), Stands::Over);
    }
}
