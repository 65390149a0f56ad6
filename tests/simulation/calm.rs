//! The end of a run: all is quiet, and within a bound all is served.

use crate::*;

impl World {
    pub(crate) fn backends(&self) -> Vec<BackendStatus> {
        self.core.pool_statuses(self.now).into_iter().flat_map(|pool| pool.backends).collect()
    }

    pub(crate) fn all_are_fit(&self) -> bool {
        self.backends().iter().all(|backend| backend.eligible && !backend.slow)
    }

    /// Whether a pool will go back to a better tier by itself.
    pub(crate) fn returns(&self) -> bool {
        let returns = |pool: &PoolStatus| {
            let policy = self.plan.pools[&pool.name].failover;
            let is_back = pool.backends.iter().any(|b| b.active && b.priority == pool.backends[0].priority);
            policy.automatic && policy.failback == Failback::Automatic && !is_back
        };
        self.core.pool_statuses(self.now).iter().any(returns)
    }

    /// Everything is well again: within a bounded time the pools are too.
    pub(crate) fn calm(&mut self) {
        self.disk.change_mood(self.now, Mood::Well);
        self.be_quiet();
        self.all_is_served();
        self.check_kept();
        if self.rng.u8(..4) == 0 {
            let lost = self.disk.losses.1;
            self.restart(true);
            assert!(
                !self.disk.is_there() || lost == self.disk.losses.1,
                "a stop in good order lost what a disk could keep"
            );
            self.be_quiet();
            self.all_is_served();
        }
    }

    /// Nothing ails anybody any more, and people have taken all their orders back.
    fn be_quiet(&mut self) {
        self.hosts.clear();
        self.advice = Advice { admin: Some(AdminState::Ready), weight: Some(100) };
        for backend in self.backends() {
            self.order(backend.id, AdminState::Ready);
        }
        for status in self.core.pool_statuses(self.now) {
            let pool = status.name;
            if status.paused.is_some() {
                self.feed(Event::Ordered { actor: Actor::from("ops"), order: Order::Resume { pool: pool.clone() } });
            }
            if status.pinned.is_some() {
                self.feed(Event::Ordered { actor: Actor::from("ops"), order: Order::Failback { pool } });
            }
        }
        for pool in self.core.pool_statuses(self.now) {
            let order = Order::Reset { pool: pool.name, backend: None };
            self.feed(Event::Ordered { actor: Actor::from("ops"), order });
        }
    }

    /// Within a bound every backend is fit, and the preferred ones serve where they should.
    fn all_is_served(&mut self) {
        // A probe that hangs, the one after it, its thresholds, and the way back tier by tier. Returns that did not last
        // have made the next one wait.
        let (soon, most) = (self.now + ms(45_000), self.now + DAMPING_CAP * 2);
        // What was on its way when the trouble ended still comes, and may be bad news.
        self.pass(ms(1000));
        while self.now < soon && !self.all_are_fit() {
            self.pass(ms(1000));
        }
        assert!(self.all_are_fit(), "not all are fit again: {:#?}", self.core.pool_statuses(self.now));
        while self.now < most && self.returns() {
            self.pass(ms(1000));
        }
        // And it stays so.
        self.pass(ms(2000));
        for status in self.core.pool_statuses(self.now) {
            let policy = self.plan.pools[&status.name].failover;
            assert!(status.backends.iter().all(|b| b.eligible && !b.slow), "not all are fit again: {status:#?}");
            if policy.automatic && policy.failback == Failback::Automatic {
                assert_eq!(status.state, PoolState::Healthy, "{status:#?}");
                let active = status.backends.iter().find(|b| b.active).unwrap();
                assert_eq!(active.priority, status.backends[0].priority, "the preferred tier does not serve");
            } else {
                let serves = status.backends.iter().any(|b| b.active);
                assert!(serves, "nothing serves: {status:#?}");
            }
        }
        assert!(self.core.has_first_verdicts());
    }
}
