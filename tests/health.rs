//! What probes find out, and what becomes of sessions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::net::{End, echo, ends, meet};
use support::servers::{HttpServer, SILENCE, Server};
use support::{Backend, DEADLINE, Daemon, fresh_ip, visit, wait_until};

/// A pool of `backends`, asked over HTTP at `health` about the first of them.
fn asked(health: &HttpServer, first: &Backend, second: &Backend, http: &str) -> Daemon {
    let check = format!(
        "check = {{ kind = \"http\", interval = \"50ms\", timeout = \"300ms\", unhealthy_threshold = 3, \
         healthy_threshold = 4, http = {{ port = {}, {http} }} }}\n",
        health.addr().port()
    );
    Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.failover]\nfailback_after = \"0s\"\n{}{check}{}",
        first.toml("orders", 1),
        second.toml("orders", 2),
    ))
}

#[test]
fn an_unexpected_status_takes_a_backend_out_and_expected_ones_bring_it_back() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let health = HttpServer::start(a.addr.ip(), 200);
    let daemon = asked(&health, &a, &b, "method = \"GET\", path = \"/ready?deep=1\", expect = \"200-204,418\"");
    let orders = daemon.listener("orders");
    let (mut session, name) = meet(orders).expect("served");
    assert_eq!(name, "a");
    health.answer(205);
    let asked_before = health.requests();
    daemon.wait_health("orders", "a", "unhealthy");
    assert!(health.requests() - asked_before >= 3, "the threshold is three failures");
    let out = daemon.backend("orders", "a");
    assert!(out["reason"].as_str().unwrap().contains("check"), "{out}");
    assert!(out["last_error"].as_str().unwrap().contains("205"), "{out}");
    assert_eq!((&out["eligible"], &out["active"]), (&false.into(), &false.into()));
    assert_eq!(visit(orders).expect("served"), "b");
    echo(&mut session, b"a failed check is no reason to cut anybody off").expect("echoed");
    let asked_before = health.requests();
    health.answer(418);
    daemon.wait_health("orders", "a", "healthy");
    assert!(health.requests() - asked_before >= 4, "the threshold is four successes");
    daemon.wait_active("orders", "a");
    assert_eq!(visit(orders).expect("served"), "a");
    echo(&mut session, b"still there").expect("echoed");
}

#[test]
fn a_backend_that_accepts_but_never_answers_is_out_after_the_threshold() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let health = HttpServer::start(a.addr.ip(), 200);
    let daemon = asked(&health, &a, &b, "path = \"/\"");
    daemon.wait_active("orders", "a");
    let asked_before = health.requests();
    health.answer(SILENCE);
    daemon.wait_health("orders", "a", "unhealthy");
    assert!(health.requests() - asked_before >= 3, "the threshold is three failures");
    assert!(daemon.metric("check_failures_total", &[("pool", "orders"), ("backend", "a")]) >= Some(3.0));
    assert_eq!(visit(daemon.listener("orders")).expect("served"), "b");
}

#[test]
fn sessions_are_cut_by_a_failed_check_if_the_policy_says_so() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let health = HttpServer::start(a.addr.ip(), 200);
    let check = format!(
        "check = {{ kind = \"http\", interval = \"50ms\", http = {{ path = \"/\", port = {} }} }}\n",
        health.addr().port()
    );
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.failover.sessions]\ncheck_failed = \"close\"\n{}{check}{}",
        a.toml("orders", 1),
        b.toml("orders", 2),
    ));
    let (mut session, name) = meet(daemon.listener("orders")).expect("served");
    assert_eq!(name, "a");
    health.answer(500);
    assert_eq!(ends(&mut session), End::Reset);
    daemon.wait_closed("orders", "check_failed", 1);
}

#[test]
fn a_target_is_probed_once_however_many_pools_share_it() {
    const INTERVAL: Duration = Duration::from_millis(200);
    let target = HttpServer::start(fresh_ip(), 200);
    let pools: String = ["one", "two", "three"]
        .iter()
        .map(|pool| {
            format!(
                "[listeners.{pool}]\nbind = \"127.0.0.1:0\"\npool = \"{pool}\"\n\
                 [pools.{pool}.check]\nkind = \"http\"\ninterval = \"200ms\"\nhttp = {{ path = \"/\" }}\n\
                 [pools.{pool}.backends.shared-by-{pool}]\naddress = \"{}\"\n",
                target.addr()
            )
        })
        .collect();
    let daemon = Daemon::start(&pools);
    for pool in ["one", "two", "three"] {
        assert_eq!(daemon.pool(pool)["state"], "healthy", "one probe speaks for every pool");
    }
    let (start, before) = (Instant::now(), target.requests());
    wait_until("ten more probes have come", DEADLINE, || target.requests() >= before + 10);
    let (probes, intervals) = (target.requests() - before, start.elapsed().as_secs_f64() / INTERVAL.as_secs_f64());
    let probes = f64::from(u32::try_from(probes).unwrap());
    println!("{probes} probes in {intervals:.1} intervals");
    assert!(probes <= intervals + 2.0, "{probes} probes in {intervals:.1} intervals");
}

/// A session with a backend that then stops listening, yet does not let go of what it has accepted.
fn a_death_that_leaves_the_session_open(policy: &str) -> (Daemon, TcpStream) {
    let mut server = Server::echo("a");
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"100ms\"\nunhealthy_threshold = 50\n\
         [pools.orders.failover.sessions]\ndead = \"{policy}\"\n\
         [pools.orders.backends.a]\naddress = \"{}\"\n",
        server.addr
    ));
    let (mut session, _) = meet(daemon.listener("orders")).expect("served");
    echo(&mut session, b"hello").expect("echoed");
    server.close();
    // Refused twice is proof: it does not wait for the threshold.
    daemon.wait_health("orders", "a", "unhealthy");
    let dead = daemon.backend("orders", "a");
    assert!(dead["reason"].as_str().unwrap().contains("dead"), "{dead}");
    assert!(dead["consecutive_failures"].as_u64().unwrap() < 50, "{dead}");
    (daemon, session)
}

#[test]
fn the_sessions_of_a_dead_backend_are_reset() {
    let (daemon, mut session) = a_death_that_leaves_the_session_open("close");
    assert_eq!(ends(&mut session), End::Reset);
    daemon.wait_closed("orders", "dead", 1);
}

#[test]
fn the_sessions_of_a_dead_backend_go_on_if_the_policy_says_so() {
    let (daemon, mut session) = a_death_that_leaves_the_session_open("keep");
    for _ in 0..20 {
        echo(&mut session, b"it goes on").expect("echoed");
    }
    assert_eq!(daemon.metric("sessions_closed_total", &[("reason", "dead")]).unwrap_or(0.0), 0.0);
}

#[test]
fn sessions_on_the_standby_are_cut_by_failback_if_the_policy_says_so() {
    let (mut a, b) = (Backend::absent("a"), Backend::start("b"));
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"50ms\"\n[pools.orders.failover]\nfailback_after = \"0s\"\n\
         [pools.orders.failover.sessions]\nfailed_back = \"close\"\n{}{}",
        a.toml("orders", 1),
        b.toml("orders", 2),
    ));
    daemon.wait_active("orders", "b");
    let (mut session, name) = meet(daemon.listener("orders")).expect("served");
    assert_eq!(name, "b");
    a.restart();
    assert_eq!(ends(&mut session), End::Reset);
    daemon.wait_closed("orders", "failed_back", 1);
}

#[test]
fn one_backends_check_may_differ_from_its_pools() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let health = HttpServer::start(b.addr.ip(), 500);
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{}{}\
         check = {{ kind = \"http\", interval = \"50ms\", http = {{ path = \"/\", port = {} }} }}\n",
        a.toml("orders", 1),
        b.toml("orders", 2),
        health.addr().port(),
    ));
    daemon.wait_health("orders", "b", "unhealthy");
    assert_eq!(daemon.pool("orders")["state"], "degraded");
    assert_eq!(daemon.pool("orders")["redundancy"], "single");
    health.answer(200);
    daemon.wait_health("orders", "b", "healthy");
    assert_eq!(daemon.pool("orders")["state"], "healthy");
    assert_eq!(daemon.pool("orders")["redundancy"], "dual");
}

#[test]
fn an_unhealthy_backend_is_asked_at_the_recovery_interval() {
    // Another serves, so that nothing but this interval makes anybody ask before the hour is over.
    let (target, other) = (HttpServer::start(fresh_ip(), 500), HttpServer::start(fresh_ip(), 200));
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders]\nbackends = [\"{}\", \"{}\"]\n[pools.orders.check]\nkind = \"http\"\n\
         interval = \"1h\"\nrecovery_interval = \"50ms\"\nhttp = {{ path = \"/\" }}\n",
        target.addr(),
        other.addr(),
    ));
    let name = target.addr().to_string();
    assert_eq!(daemon.backend("orders", &name)["health"], "unhealthy");
    assert_eq!(daemon.pool("orders")["state"], "failover_complete");
    let before = target.requests();
    wait_until("it is asked again and again", DEADLINE, || target.requests() >= before + 5);
    target.answer(200);
    daemon.wait_health("orders", &name, "healthy");
}
