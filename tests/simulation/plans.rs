//! Plans by chance.

use crate::*;

pub(crate) fn question(backend: &BackendPlan) -> (String, CheckKind, Duration) {
    (backend.address.to_string(), backend.check.kind.clone(), backend.check.timeout)
}

/// All but `source-hash`, whose table takes milliseconds to lay out and is tested by itself.
pub(crate) const BALANCES: [Balance; 4] =
    [Balance::RoundRobin, Balance::LeastConnections, Balance::Random, Balance::Latency];

/// Backends may share hosts, pools may share backends, and the next plan is likely to keep some of each.
pub(crate) fn draw_plan(rng: &mut fastrand::Rng) -> Arc<Plan> {
    let mut pools = BTreeMap::new();
    for name in ["p", "q"].into_iter().take(rng.usize(1..=2)) {
        let automatic = rng.u8(..4) > 0;
        let failback = if rng.u8(..4) > 0 { Failback::Automatic } else { Failback::Manual };
        let mut names: Vec<&str> = ["a", "b", "c", "d", "e", "f"].into();
        rng.shuffle(&mut names);
        names.truncate(rng.usize(1..=4));
        names.sort_unstable();
        let backends = names.into_iter().map(|name| draw_backend(rng, name)).collect();
        let pool = PoolPlan {
            name: name.into(),
            kind: PoolKind::Tcp,
            balance: BALANCES[rng.usize(..BALANCES.len())],
            dial: DialPlan { connect_timeout: ms(500), connect_attempts: rng.usize(1..4), resend: Resend::Greeting },
            hold: HoldPlan { when_down: WhenDown::ALL[rng.usize(..3)], hold: ms(1000), hold_limit: 10 },
            failover: FailoverPlan {
                automatic,
                failback,
                failback_after: ms(rng.u64(0..4000)),
                sessions: draw_policies(rng),
            },
            postgres: None,
            backends,
        };
        pools.insert(PoolName::from(name), Arc::new(pool));
    }
    Arc::new(Plan {
        daemon: DaemonPlan {
            workers: 1,
            drain_timeout: ms(rng.u64(0..5000)),
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

pub(crate) fn draw_policies(rng: &mut fastrand::Rng) -> SessionPolicies {
    let mut policy = |_: OutReason| SessionPolicy::ALL[rng.usize(..3)];
    SessionPolicies {
        dead: policy(OutReason::Dead),
        unreachable: policy(OutReason::Unreachable),
        demoted: policy(OutReason::Demoted),
        lagging: policy(OutReason::Lagging),
        check_failed: policy(OutReason::CheckFailed),
        drained: policy(OutReason::Drained),
        failed_back: policy(OutReason::FailedBack),
    }
}

pub(crate) fn draw_backend(rng: &mut fastrand::Rng, name: &str) -> BackendPlan {
    let port = if rng.u8(..8) == 0 { 2 } else { 1 };
    let check = CheckPlan {
        kind: if rng.u8(..10) == 0 { CheckKind::None } else { CheckKind::Tcp },
        interval: if rng.u8(..4) == 0 { ms(250) } else { ms(1000) },
        timeout: if rng.u8(..8) == 0 { ms(300) } else { ms(800) },
        unhealthy_threshold: rng.u32(1..5),
        healthy_threshold: rng.u32(1..4),
        recovery_interval: (rng.u8(..4) == 0).then(|| ms(3000)),
        recovery_attempts: if rng.u8(..4) == 0 { rng.u32(1..6) } else { 0 },
        recovery_backoff: ms(rng.u64(100..2000)),
        max_latency: (rng.u8(..3) == 0).then_some(MAX_LATENCY),
    };
    let address = format!("{name}:{port}").parse().unwrap();
    let (priority, weight) = (rng.u32(1..4), rng.u32(1..=4));
    BackendPlan {
        name: name.into(),
        address,
        priority,
        weight,
        max_connections: 0,
        check,
        approach: Approach::PLAIN,
        tunnel: None,
    }
}
