//! A backend dies under load, or comes back: new clients do not notice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Backend, DEADLINE, Daemon, StopOnDrop, visit, wait_until};

/// Two tiers, `a` before `b`, probed often.
fn two_tiers(a: &Backend, b: &Backend, failover: &str) -> String {
    format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"50ms\"\nhealthy_threshold = 2\n\
         [pools.orders.failover]\n{failover}\n{}{}",
        a.toml("orders", 1),
        b.toml("orders", 2),
    )
}

#[test]
fn clients_that_come_one_after_another_never_notice_a_death() {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Daemon::start(&two_tiers(&a, &b, "failback_after = \"200ms\""));
    let orders = daemon.listener("orders");
    for round in 0..3 {
        for _ in 0..20 {
            assert_eq!(visit(orders).expect("served"), "a", "the preferred backend serves in round {round}");
        }
        a.kill();
        for _ in 0..20 {
            assert_eq!(visit(orders).expect("served"), "b", "the standby serves in round {round}");
        }
        wait_until("the death is known", DEADLINE, || daemon.pool("orders")["state"] == "failover_complete");
        assert_eq!(visit(orders).expect("served"), "b");
        a.restart();
        daemon.wait_active("orders", "a");
    }
    assert_eq!(daemon.metric("failover_total", &[("pool", "orders"), ("reason", "dead")]), Some(3.0));
}

#[test]
fn a_completed_failover_is_explained_by_its_event_alone() {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Daemon::start(&two_tiers(&a, &b, "failback_after = \"1h\""));
    a.kill();
    daemon.wait_state("orders", "failover_complete");
    let told =
        |kind: &str| daemon.admin_get(&format!("/api/v1/pools/orders/events?kind={kind}")).json()["events"].clone();
    let find = |status: &str| {
        let events = told("pool.failover");
        events.as_array().unwrap().iter().find(|event| event["status"] == status).cloned()
    };
    wait_until("it is in the history", DEADLINE, || find("completed").is_some());
    let event = find("completed").unwrap();
    let phases = event["detail"]["phases"].as_object().unwrap();
    assert!(phases.keys().eq(["decide_ms", "detect_ms", "publish_ms", "wait_ms"]), "{event}");
    let times: Vec<f64> = phases.values().map(|time| time.as_f64().unwrap()).collect();
    assert!(times.iter().all(|&time| time >= 0.0), "{event}");
    // They are shown to the microsecond.
    let whole = event["duration_ms"].as_f64().unwrap();
    assert!((times.iter().sum::<f64>() - whole).abs() < 0.0005, "{event}");
    assert!(phases["decide_ms"].as_f64() > Some(0.0) && phases["publish_ms"].as_f64() > Some(0.0), "{event}");
    let unhealthy = told("backend.unhealthy")[0].clone();
    let evidence = &event["detail"]["evidence"];
    assert!(evidence.as_str().unwrap().contains("Connection refused"), "{event}");
    assert_eq!(evidence, &unhealthy["detail"]["evidence"]);
    assert_eq!(phases["detect_ms"], unhealthy["duration_ms"]);
    for unfinished in ["pending", "in_progress"] {
        assert_eq!(find(unfinished).unwrap()["detail"]["phases"], serde_json::Value::Null, "{unfinished}");
    }
}

/// When a client came, when it left, and who served it or, if nobody did, how far it got.
type Visit = (Instant, Instant, Result<String, Mishap>);

/// How a client was let down.
#[derive(Debug)]
enum Mishap {
    /// It never heard a byte.
    Unanswered(#[expect(dead_code, reason = "printed")] std::io::Error),
    /// It was in the middle of a conversation.
    CutOff(#[expect(dead_code, reason = "printed")] std::io::Error),
}

fn visit_in_steps(orders: std::net::SocketAddr) -> Result<String, Mishap> {
    let (mut stream, name) = support::net::meet(orders).map_err(Mishap::Unanswered)?;
    support::net::echo(&mut stream, b"are you there?").map_err(Mishap::CutOff)?;
    Ok(name)
}

/// Fifty clients open connection after connection, at most a thousand a second in all, until `stop`.
fn fifty_clients(orders: std::net::SocketAddr, stop: &AtomicBool, visits: &Mutex<Vec<Visit>>) {
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let mut next = Instant::now();
                while !stop.load(Ordering::SeqCst) {
                    let came = Instant::now();
                    let outcome = visit_in_steps(orders);
                    visits.lock().unwrap().push((came, Instant::now(), outcome));
                    next = next.max(came);
                    support::pace(&mut next, Duration::from_millis(50));
                }
            });
        }
    });
}

#[test]
fn of_fifty_concurrent_clients_only_those_in_conversation_with_the_dying_one_fail() {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Daemon::start(&two_tiers(&a, &b, "failback_after = \"200ms\""));
    let orders = daemon.listener("orders");
    let (stop, visits) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let deaths = std::thread::scope(|scope| {
        scope.spawn(|| fifty_clients(orders, &stop, &visits));
        let _stop = StopOnDrop(&stop);
        let served = |name: &str| {
            visits.lock().unwrap().iter().filter(|(_, _, who)| who.as_ref().is_ok_and(|who| who == name)).count()
        };
        let mut deaths = Vec::new();
        for _ in 0..3 {
            let by_a = served("a");
            wait_until("a serves many", DEADLINE, || served("a") > by_a + 100);
            let (before, by_b) = (a.kill(), served("b"));
            deaths.push((before, Instant::now()));
            wait_until("b serves many", DEADLINE, || served("b") > by_b + 200);
            a.restart();
            daemon.wait_active("orders", "a");
        }
        deaths
    });
    // Whoever was talking to the process when it died went down with it: no proxy can save half a conversation.
    // All others had nothing to lose, whenever they came.
    let visits = visits.into_inner().unwrap();
    let (mut cut, mut wrong) = (0, Vec::new());
    for (came, left, outcome) in &visits {
        let overlapped = deaths.iter().any(|(before, after)| came <= after && left >= before);
        match outcome {
            Ok(_) => {}
            Err(Mishap::CutOff(_)) if overlapped => cut += 1,
            Err(mishap) => wrong.push(format!("{mishap:?}")),
        }
    }
    println!("{} clients, {cut} cut off in conversation by one of {} deaths", visits.len(), deaths.len());
    assert_eq!(wrong, Vec::<String>::new(), "clients failed that had nothing to lose");
}

#[test]
fn with_manual_failback_the_standby_goes_on_after_a_recovery() {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Daemon::start(&two_tiers(&a, &b, "failback = \"manual\"\nfailback_after = \"0s\""));
    let orders = daemon.listener("orders");
    a.kill();
    daemon.wait_active("orders", "b");
    a.restart();
    daemon.wait_health("orders", "a", "healthy");
    wait_until("a has been healthy for a while", DEADLINE, || {
        daemon.backend("orders", "a")["consecutive_successes"].as_u64().unwrap() >= 8
    });
    assert_eq!(daemon.pool("orders")["active"], serde_json::json!(["b"]));
    assert_eq!(visit(orders).expect("served"), "b");
}

#[test]
fn without_automatic_failover_no_client_leaves_the_active_tier() {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Daemon::start(&two_tiers(&a, &b, "automatic = false"));
    let orders = daemon.listener("orders");
    a.kill();
    let waiting = std::thread::spawn(move || visit(orders));
    daemon.wait_held("orders", 1);
    daemon.wait_health("orders", "a", "unhealthy");
    daemon.wait_held("orders", 1);
    let served_by_b = daemon.metric("backend_connections_total", &[("pool", "orders"), ("backend", "b")]);
    assert_eq!(served_by_b.unwrap_or(0.0), 0.0);
    a.restart();
    assert_eq!(waiting.join().unwrap().expect("served"), "a");
}

#[test]
fn a_pool_fails_back_only_after_the_stable_time() {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Daemon::start(&two_tiers(&a, &b, "failback_after = \"700ms\""));
    a.kill();
    daemon.wait_active("orders", "b");
    let back = Instant::now();
    a.restart();
    daemon.wait_active("orders", "a");
    let took = back.elapsed();
    assert!(took >= Duration::from_millis(700), "back after {took:?}");
    assert_eq!(daemon.metric("recoveries_total", &[("pool", "orders")]), Some(1.0));
}

#[test]
fn a_tier_is_shared_by_weight() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let weighted = |backend: &Backend, weight: u32| format!("{}weight = {weight}\n", backend.toml("orders", 1));
    let daemon = Daemon::start(&format!(
        "[daemon]\nworkers = 1\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{}{}",
        weighted(&a, 3),
        weighted(&b, 1),
    ));
    wait_until("both are active", DEADLINE, || daemon.pool("orders")["active"] == serde_json::json!(["a", "b"]));
    let orders = daemon.listener("orders");
    let served = (0..40).map(|_| visit(orders).expect("served")).filter(|name| name == "a").count();
    assert_eq!(served, 30, "of forty clients, three in four");
}
