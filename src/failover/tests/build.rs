//! Plans in a line: `plan().pool("pg").backend("a", 1).backend("b", 2)`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    AdminPlan, Approach, Attach, BackendPlan, Balance, CheckKind, CheckPlan, DaemonPlan, DialPlan, Failback,
    FailoverPlan, HoldPlan, LogFormat, LogLevel, LogPlan, Part, Plan, PoolKind, PoolName, PoolPlan, PostgresPlan,
    ProgramPlan, Promotion, Resend, SessionPolicies, SessionPolicy, StorePlan, Text, TlsMode, TunnelPlan, Via,
    WatchSession, WhenDown,
};

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The contract's defaults.
pub(super) fn check() -> CheckPlan {
    CheckPlan {
        kind: CheckKind::Tcp,
        interval: ms(1000),
        timeout: ms(5000),
        unhealthy_threshold: 3,
        healthy_threshold: 2,
        recovery_interval: None,
        recovery_attempts: 0,
        recovery_backoff: Duration::from_secs(5),
        max_latency: None,
    }
}

/// The contract's defaults.
pub(super) const fn policies() -> SessionPolicies {
    SessionPolicies {
        dead: SessionPolicy::Close,
        unreachable: SessionPolicy::Close,
        demoted: SessionPolicy::Close,
        lagging: SessionPolicy::Keep,
        check_failed: SessionPolicy::Keep,
        drained: SessionPolicy::Drain,
        failed_back: SessionPolicy::Keep,
    }
}

pub(super) struct PlanBuilder {
    drain_timeout: Duration,
    pools: Vec<PoolPlan>,
}

pub(super) fn plan() -> PlanBuilder {
    PlanBuilder { drain_timeout: ms(30_000), pools: Vec::new() }
}

impl PlanBuilder {
    pub(super) fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Begins a pool; what follows is about it.
    pub(super) fn pool(mut self, name: &str) -> Self {
        self.pools.push(PoolPlan {
            name: PoolName::from(name),
            kind: PoolKind::Tcp,
            balance: Balance::RoundRobin,
            dial: DialPlan { connect_timeout: ms(2000), connect_attempts: 3, resend: Resend::Greeting },
            hold: HoldPlan { when_down: WhenDown::Hold, hold: ms(10_000), hold_limit: 1000 },
            failover: FailoverPlan {
                automatic: true,
                failback: Failback::Automatic,
                failback_after: ms(10_000),
                sessions: policies(),
            },
            postgres: None,
            backends: Vec::new(),
        });
        self
    }

    /// Makes a cluster of the pool, before it has backends.
    pub(super) fn postgres(mut self) -> Self {
        let pool = self.last();
        pool.kind = PoolKind::Postgres;
        pool.postgres = Some(Arc::new(PostgresPlan {
            user: "changeover".to_owned(),
            password: None,
            database: "postgres".to_owned(),
            tls: TlsMode::Prefer,
            ca_file: None,
            session: WatchSession::Replication,
            heartbeat: ms(10),
            heartbeat_deadline: ms(250),
            max_lag: 16 << 20,
            max_lag_time: ms(10_000),
            promotion: Promotion::Never,
        }));
        self
    }

    pub(super) fn postgres_with(mut self, set: impl FnOnce(&mut PostgresPlan)) -> Self {
        set(Arc::make_mut(self.last().postgres.as_mut().unwrap()));
        self
    }

    fn last(&mut self) -> &mut PoolPlan {
        self.pools.last_mut().unwrap()
    }

    /// Adds a backend at its own address; what follows may be about it.
    pub(super) fn backend(mut self, name: &str, priority: u32) -> Self {
        let address = format!("{name}:5432").parse().unwrap();
        let name = name.into();
        let mut check = check();
        if self.last().postgres.is_some() {
            check.kind = CheckKind::Postgres;
        }
        self.last().backends.push(BackendPlan {
            name,
            address,
            priority,
            weight: 1,
            max_connections: 0,
            check,
            approach: Approach::PLAIN,
            tunnel: None,
        });
        self
    }

    pub(super) fn at(mut self, address: &str) -> Self {
        self.last().backends.last_mut().unwrap().address = address.parse().unwrap();
        self
    }

    /// Puts the backend behind a tunnel that leads to `target`.
    pub(super) fn tunnel(mut self, target: &str) -> Self {
        let pool = self.last();
        let name = pool.name.clone();
        let backend = pool.backends.last_mut().unwrap();
        let (backend_name, target) = (backend.name.clone(), target.parse().unwrap());
        let via = Arc::new(Via { pool: name, backend: backend_name, attach: Attach::Listen, target });
        backend.approach.via = Some(Arc::clone(&via));
        backend.tunnel = Some(Arc::new(TunnelPlan {
            via,
            provider: "ssh".into(),
            program: Some(Arc::new(ProgramPlan {
                argv: vec![Text(vec![Part::Shown("ssh".into())])],
                env: Vec::new(),
                file: None,
            })),
            proxy: None,
            lookup: None,
            ready: None,
            ready_timeout: ms(20_000),
            fatal: Vec::new(),
            restart_after: 6,
            retry_initial: ms(500),
            retry_max: ms(30_000),
            retry_reset: ms(60_000),
            stop_grace: ms(5000),
        }));
        self
    }

    pub(super) fn tunnel_with(mut self, set: impl FnOnce(&mut TunnelPlan)) -> Self {
        let backend = self.last().backends.last_mut().unwrap();
        set(Arc::make_mut(backend.tunnel.as_mut().unwrap()));
        self
    }

    pub(super) fn weight(mut self, weight: u32) -> Self {
        self.last().backends.last_mut().unwrap().weight = weight;
        self
    }

    pub(super) fn max_connections(mut self, limit: u32) -> Self {
        self.last().backends.last_mut().unwrap().max_connections = limit;
        self
    }

    pub(super) fn check(mut self, change: impl Fn(&mut CheckPlan)) -> Self {
        change(&mut self.last().backends.last_mut().unwrap().check);
        self
    }

    pub(super) fn sessions(mut self, change: impl Fn(&mut SessionPolicies)) -> Self {
        change(&mut self.last().failover.sessions);
        self
    }

    pub(super) fn balance(mut self, balance: Balance) -> Self {
        self.last().balance = balance;
        self
    }

    pub(super) fn manual_failover(mut self) -> Self {
        self.last().failover.automatic = false;
        self
    }

    pub(super) fn manual_failback(mut self) -> Self {
        self.last().failover.failback = Failback::Manual;
        self
    }

    pub(super) fn failback_after(mut self, time: Duration) -> Self {
        self.last().failover.failback_after = time;
        self
    }

    pub(super) fn use_preferred(mut self) -> Self {
        self.last().hold.when_down = WhenDown::UsePreferred;
        self
    }

    pub(super) fn refuse(mut self) -> Self {
        self.last().hold.when_down = WhenDown::Refuse;
        self
    }

    pub(super) fn build(self) -> Arc<Plan> {
        let pools: BTreeMap<PoolName, Arc<PoolPlan>> =
            self.pools.into_iter().map(|pool| (pool.name.clone(), Arc::new(pool))).collect();
        Arc::new(Plan {
            daemon: DaemonPlan {
                workers: 0,
                drain_timeout: self.drain_timeout,
                max_sessions: 0,
                relay_buffer: 65_536,
                tcp_keepalive: ms(60_000),
                store: StorePlan::default(),
            },
            admin: AdminPlan::default(),
            log: LogPlan { format: LogFormat::Auto, level: LogLevel::Info },
            listeners: BTreeMap::new(),
            webhooks: BTreeMap::new(),
            pools,
        })
    }
}
