//! What `/metrics` has: each family and label that is promised, nothing that callers can make grow, and a text and
//! alerts that Prometheus itself finds right.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use support::cluster::{Cluster, PASSWORD};
use support::net::{ends, meet};
use support::process::run_reading;
use support::{Backend, DEADLINE, Daemon, Site, dial, http, metrics, visit, wait_until};

/// Every family that is promised, with its labels and its type.
const PROMISED: &[(&str, &[&str], &str)] = &[
    ("listener_connections_total", &["listener"], "counter"),
    ("listener_connections_active", &["listener"], "gauge"),
    ("listener_rejected_total", &["listener", "reason"], "counter"),
    ("listener_held", &["listener"], "gauge"),
    ("hold_seconds", &["pool"], "histogram"),
    ("backend_connections_total", &["backend", "pool"], "counter"),
    ("backend_connections_active", &["backend", "pool"], "gauge"),
    ("backend_connect_failures_total", &["backend", "pool", "reason"], "counter"),
    ("backend_connect_seconds", &["backend", "pool"], "histogram"),
    ("backend_bytes_total", &["backend", "direction", "pool"], "counter"),
    ("backend_healthy", &["backend", "pool"], "gauge"),
    ("backend_eligible", &["backend", "pool"], "gauge"),
    ("backend_latency_seconds", &["backend", "pool"], "gauge"),
    ("backend_last_active_timestamp_seconds", &["backend", "pool"], "gauge"),
    ("check_total", &["backend", "pool", "result"], "counter"),
    ("check_failures_total", &["backend", "pool"], "counter"),
    ("check_seconds", &["backend", "pool"], "histogram"),
    ("replication_lag_bytes", &["backend", "pool"], "gauge"),
    ("replication_lag_seconds", &["backend", "pool"], "gauge"),
    ("primary_healthy", &["pool"], "gauge"),
    ("standby_healthy", &["backend", "pool"], "gauge"),
    ("pool_state", &["pool", "state"], "gauge"),
    ("pool_redundancy", &["pool"], "gauge"),
    ("failover_total", &["pool", "reason"], "counter"),
    ("recoveries_total", &["pool"], "counter"),
    ("failover_seconds", &["phase", "pool"], "histogram"),
    ("sessions_closed_total", &["pool", "reason"], "counter"),
    ("config_reloads_total", &["result"], "counter"),
    ("route_table_generation", &[], "gauge"),
    ("build_info", &["version"], "gauge"),
];

/// The phases of a failover.
const PHASES: [&str; 5] = ["decide", "detect", "first_session", "promote", "publish"];

/// A listener `web` and its pool of `backends`, where clients wait for 300 ms.
fn web(backends: &[&Backend]) -> String {
    let tables: String = (1..).zip(backends).map(|(priority, backend)| backend.toml("web", priority)).collect();
    format!(
        "[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n[pools.web]\nhold = \"300ms\"\n\
         [pools.web.check]\ninterval = \"50ms\"\n[pools.web.failover]\nfailback_after = \"0s\"\n{tables}"
    )
}

/// Sessions, a failover, a client that was held in vain, a failover back, a session that lasts, one that is held now.
fn live_through_it(daemon: &Daemon, a: &mut Backend, b: &mut Backend) -> Vec<std::net::TcpStream> {
    let web = daemon.listener("web");
    assert_eq!(visit(web).expect("served"), "a");
    a.kill();
    assert_eq!(visit(web).expect("served"), "b");
    daemon.wait_active("web", "b");
    b.kill();
    ends(&mut dial(web).expect("accepted"));
    b.restart();
    daemon.wait_active("web", "b");
    let (lasting, _) = meet(web).expect("served");
    vec![lasting]
}

/// Runs promtool, which must be content.
#[track_caller]
fn promtool(args: &[&str], input: &str) {
    let ended = run_reading(Command::new("promtool").args(args), input);
    assert_eq!(ended.code, Some(0), "promtool {args:?}: {}{}", ended.stdout, ended.stderr);
}

/// Every series, without its value.
fn series(daemon: &Daemon) -> BTreeSet<String> {
    let page = daemon.admin_get("/metrics").body;
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').expect("a value").0.to_owned()).collect()
}

/// The samples that the family `name` of this `kind` has on `page`, by which labels they have.
#[track_caller]
fn labels_of(page: &str, name: &str, kind: &str) -> BTreeSet<Vec<String>> {
    let full = format!("{}{name}", metrics::PREFIX);
    assert!(page.lines().any(|line| line == format!("# TYPE {full} {kind}")), "{name} is no {kind}");
    assert_eq!(page.matches(&format!("\n# HELP {full} ")).count(), 1, "{name} has no help, or two");
    let sampled = if kind == "histogram" { format!("{full}_count") } else { full };
    let samples = metrics::samples(page).into_iter().filter(|sample| sample.name == sampled);
    samples.map(|sample| sample.labels.into_keys().collect()).collect()
}

#[test]
fn every_family_that_is_promised_is_there_with_its_labels_and_prometheus_likes_them() {
    let cluster = Cluster::start(1);
    let (mut a, mut b) = (Backend::start("a"), Backend::start("b"));
    let (more, tables) = (web(&[&a, &b]), cluster.tables());
    let site =
        Site::with(&format!("kind = \"postgres\"\n[pools.orders.postgres]\npassword = \"{PASSWORD}\"\n{tables}{more}"));
    let daemon = &site.daemon;
    daemon.wait_state("orders", "healthy");
    let served = live_through_it(daemon, &mut a, &mut b);
    assert_eq!(site.send("POST", "/web/pause", "{}").status, 200);
    let held = dial(daemon.listener("web")).expect("accepted");
    daemon.wait_held("web", 1);
    wait_until("it is known how far the standby is behind", DEADLINE, || {
        daemon.metric("replication_lag_bytes", &[("backend", "pg2")]).is_some()
    });
    let page = format!("\n{}", daemon.admin_get("/metrics").body);
    for (name, labels, kind) in PROMISED {
        let wanted: Vec<String> = labels.iter().map(ToString::to_string).collect();
        assert_eq!(labels_of(&page, name, kind), BTreeSet::from([wanted]), "{name}");
    }
    let phases: BTreeSet<String> = metrics::samples(&page)
        .into_iter()
        .filter(|sample| sample.name == "changeover_failover_seconds_count" && sample.labels["pool"] == "orders")
        .map(|sample| sample.labels["phase"].clone())
        .collect();
    assert_eq!(phases, PHASES.iter().map(ToString::to_string).collect());
    let value = |name, labels: &[(&str, &str)]| metrics::sum(&page, name, labels);
    assert_eq!(value("failover_total", &[("pool", "web"), ("reason", "dead")]), Some(1.0));
    assert_eq!(value("listener_rejected_total", &[("reason", "hold_timeout")]), Some(1.0));
    assert_eq!(value("backend_connections_active", &[("backend", "b")]), Some(1.0));
    promtool(&["check", "metrics"], page.trim_start());
    drop((served, held));
}

#[test]
fn the_alerts_are_rules_that_prometheus_takes_and_fire_when_they_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus");
    let path = |name: &str| folder.join(name).display().to_string();
    promtool(&["check", "rules", &path("alerts.yml")], "");
    promtool(&["test", "rules", &path("alerts_test.yml")], "");
}

#[test]
fn no_caller_makes_a_series_and_a_backend_that_is_gone_leaves_none() {
    const COMERS: usize = 1000;
    let a = Backend::start("a");
    let site = Site::start("[pools.orders.check]\ninterval = \"50ms\"", &[&a]);
    let daemon = &site.daemon;
    daemon.wait_state("orders", "healthy");
    let before = series(daemon);
    for at in 0..50 {
        assert_eq!(visit(daemon.listener("orders")).expect("served"), "a");
        let name = format!("wrong{at}");
        for (method, path) in [
            ("POST", format!("/{name}/failover")),
            ("POST", format!("/orders/backends/{name}/drain")),
            ("GET", format!("/{name}")),
            ("DELETE", format!("/orders/backends/{name}")),
        ] {
            assert!(site.send(method, &path, "{}").status >= 400, "{method} {path}");
        }
        let answer = http::get(daemon.admin(), &format!("/{name}?{name}={name}")).expect("answered");
        assert_eq!(answer.status, 404);
        http::request(daemon.admin(), "BREW", &format!("/metrics/{name}")).expect("answered");
    }
    assert_eq!(series(daemon), before, "callers have made series");
    for at in 0..COMERS {
        let body = format!("{{\"name\": \"n{at}\", \"address\": \"127.0.0.1:1\", \"priority\": 9}}");
        let made = site.send("POST", "/orders/backends", &body);
        assert!(made.status < 300, "{}", made.body);
        if at % 100 == 0 {
            assert!(daemon.metric("backend_healthy", &[("backend", &format!("n{at}"))]).is_some());
        }
        let gone = site.send("DELETE", &format!("/orders/backends/n{at}"), "");
        assert!(gone.status < 300, "{}", gone.body);
    }
    let more = || series(daemon).symmetric_difference(&before).cloned().collect::<Vec<_>>();
    wait_until("nothing is left of those that came and went", DEADLINE, || {
        let more = more();
        println!("{} left, such as {:?}", more.len(), more.first());
        more.is_empty()
    });
}
