//! The admin server: what it says, and that no caller can stop it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use changeover::config::Document;
use changeover::daemon::{self, Options};
use support::callers::token_table;
use support::net::{ends, meet};
use support::{
    Backend, DEADLINE, Daemon, changeover, dial, dial_unix, fresh_addr, http, metrics, visit, wait_for, wait_until,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

fn config(backends: &[&Backend], more: &str) -> String {
    let backends: String = backends.iter().zip(1..).map(|(b, priority)| b.toml("orders", priority)).collect();
    format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"50ms\"\n[pools.orders.failover]\nfailback_after = \"0s\"\n{backends}{more}"
    )
}

#[test]
fn a_running_daemon_is_alive_and_ready() {
    let a = Backend::start("a");
    let daemon = Daemon::start(&config(&[&a], ""));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(daemon.admin_get(path).status, 200, "{path}");
    }
}

#[test]
fn what_is_not_there_is_a_problem_with_a_stable_code() {
    let a = Backend::start("a");
    let daemon = Daemon::start(&config(&[&a], ""));
    for (path, code) in [("/api/v1/pools/orderz", Some("pool_not_found")), ("/api/v1/nothing", None), ("/x", None)] {
        let answer = daemon.admin_get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        let problem = answer.json();
        let said = problem["code"].as_str().expect("a code");
        assert!(code.is_none_or(|code| code == said), "{path}: {problem}");
        assert_eq!(problem["status"], 404, "{path}");
    }
}

#[test]
fn a_page_whose_name_leads_to_loopback_reads_nothing() {
    let a = Backend::start("a");
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("admin.sock");
    let bind = format!("[admin]\nbind = [\"unix:{}\", \"127.0.0.1:0\"]\n", socket.display());
    let daemon = Daemon::start(&format!("{bind}{}", config(&[&a], "")));
    let get = |version: &str, host: &str| {
        let head = format!("GET /api/v1/pools {version}\r\n{host}");
        support::http::exchange_head(dial(daemon.admin()).expect("accepted"), &head).expect("answered")
    };
    for host in ["evil.example", "evil.example:7072", "localhost\r\nHost: evil.example"] {
        let answer = get("HTTP/1.1", &format!("Host: {host}\r\n"));
        assert_eq!((answer.status, answer.header("content-type")), (421, "application/problem+json"), "{host}");
        assert_eq!(answer.json()["code"], "misdirected_request", "{host}");
    }
    let to_another = "GET http://evil.example/api/v1/pools HTTP/1.1\r\nHost: localhost\r\n";
    let answer = support::http::exchange_head(dial(daemon.admin()).expect("accepted"), to_another).expect("answered");
    assert_eq!(answer.status, 421, "the request itself may name the host");
    for host in ["localhost", "127.0.0.1:7072", "[::1]"] {
        assert_eq!(get("HTTP/1.1", &format!("Host: {host}\r\n")).status, 200, "{host}");
    }
    assert_eq!(get("HTTP/1.0", "").status, 200, "no browser leaves it out");
    // A Unix socket may have been forwarded to a port of loopback.
    let over_unix = |host: &str| {
        let head = format!("GET /api/v1/pools HTTP/1.1\r\nHost: {host}\r\n");
        support::http::exchange_head(dial_unix(&socket).expect("accepted"), &head).expect("answered")
    };
    let answer = over_unix("evil.example:7072");
    assert_eq!((answer.status, &answer.json()["code"]), (421, &"misdirected_request".into()), "{answer:?}");
    for host in ["localhost", "localhost:7072", "127.0.0.1:7072"] {
        assert_eq!(over_unix(host).status, 200, "{host}");
    }
}

#[test]
fn no_answer_is_guessed_at_or_kept_by_those_in_between() {
    let a = Backend::start("a");
    let daemon = Daemon::start(&config(&[&a], ""));
    for (path, status, caching) in [
        ("/api/v1/pools", 200, "private, no-cache"),
        ("/api/v1/pools/orders/failover-config", 200, "private, no-cache"),
        ("/api/v1/sessions", 200, "no-store"),
        ("/metrics", 200, "no-store"),
        ("/healthz", 200, "no-store"),
        ("/api/v1/pools/nope", 404, "no-store"),
        ("/nothing", 404, "no-store"),
        ("/", 200, "no-cache"),
    ] {
        let answer = daemon.admin_get(path);
        let told = (answer.status, answer.header("x-content-type-options"), answer.header("cache-control"));
        assert_eq!(told, (status, "nosniff", caching), "{path}");
    }
    let known = support::http::exchange_head(
        dial(daemon.admin()).expect("accepted"),
        "GET /api/v1/pools/orders/failover-config HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: *\r\n",
    );
    let known = known.expect("answered");
    assert_eq!((known.status, known.header("cache-control")), (304, "private, no-cache"));
}

#[test]
fn client_commands_are_answered_over_ipv6_too() {
    let a = Backend::start("a");
    let daemon = Daemon::start(&format!("[admin]\nbind = \"[::1]:0\"\n{}", config(&[&a], "")));
    let ended = changeover(&["status", "--admin", &format!("http://{}", daemon.admin())]);
    assert!(ended.code == Some(0) && ended.stdout.contains("orders"), "{ended:?}");
}

#[test]
fn a_pool_is_shown_with_everything_the_contract_names() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let daemon = Daemon::start(&config(&[&a, &b], ""));
    daemon.wait_state("orders", "healthy");
    let (_session, _) = meet(daemon.listener("orders")).expect("served");
    wait_until("the session is counted", DEADLINE, || daemon.backend("orders", "a")["sessions"] == 1);
    let answer = daemon.admin_get("/api/v1/pools/orders");
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let pool = answer.json();
    for (key, value) in [("name", "orders"), ("kind", "tcp"), ("state", "healthy"), ("redundancy", "dual")] {
        assert_eq!(pool[key], value, "{key}");
    }
    assert_eq!(pool["active"], serde_json::json!(["a"]));
    assert_eq!(pool["standby"], serde_json::json!(["b"]));
    assert_eq!((&pool["degraded"], &pool["held"]), (&false.into(), &0.into()));
    assert!(pool["generation"].as_u64() >= Some(1), "{pool}");
    let backend = &pool["backends"][0];
    let address = a.addr.to_string();
    for (key, value) in [("name", "a"), ("health", "healthy"), ("admin_state", "ready"), ("reason", "")] {
        assert_eq!(backend[key], value, "{key}");
    }
    assert_eq!(backend["address"], address.as_str());
    for (key, value) in [("priority", 1), ("weight", 1), ("sessions", 1), ("consecutive_failures", 0)] {
        assert_eq!(backend[key], value, "{key}");
    }
    assert_eq!((&backend["eligible"], &backend["active"]), (&true.into(), &true.into()));
    assert!(backend["latency_ms"].as_f64() > Some(0.0) && backend["downtime_seconds"] == 0.0, "{backend}");
    for key in ["last_check", "since"] {
        let time = backend[key].as_str().expect("a time");
        assert!(time.ends_with('Z') && time.contains('T'), "{key} is {time}");
    }
    assert_eq!(backend["last_error"], serde_json::Value::Null);
    assert_eq!(daemon.backend("orders", "b")["active"], false);
    assert!(daemon.admin_get("/api/v1/pools").body.contains("\"orders\""));
}

/// Each family, with its type.
const FAMILIES: &[(&str, &str)] = &[
    ("listener_connections_total", "counter"),
    ("pipe_refusals_total", "counter"),
    ("listener_connections_active", "gauge"),
    ("listener_rejected_total", "counter"),
    ("listener_held", "gauge"),
    ("postgres_cancels_total", "counter"),
    ("postgres_cancel_keys_refused_total", "counter"),
    ("hold_seconds", "histogram"),
    ("backend_connections_total", "counter"),
    ("backend_connections_active", "gauge"),
    ("backend_connect_failures_total", "counter"),
    ("backend_connect_seconds", "histogram"),
    ("backend_bytes_total", "counter"),
    ("backend_healthy", "gauge"),
    ("backend_eligible", "gauge"),
    ("backend_latency_seconds", "gauge"),
    ("backend_last_active_timestamp_seconds", "gauge"),
    ("check_total", "counter"),
    ("check_failures_total", "counter"),
    ("check_seconds", "histogram"),
    ("pool_state", "gauge"),
    ("pool_redundancy", "gauge"),
    ("failover_total", "counter"),
    ("recoveries_total", "counter"),
    ("failover_seconds", "histogram"),
    ("sessions_closed_total", "counter"),
    ("config_reloads_total", "counter"),
    ("route_table_generation", "gauge"),
    ("build_info", "gauge"),
    ("store_degraded", "gauge"),
    ("store_failed_writes_total", "counter"),
    ("history_events", "gauge"),
];

#[test]
fn every_metric_of_the_contract_is_there_with_its_help_and_type() {
    let (mut a, mut b) = (Backend::start("a"), Backend::start("b"));
    let text = config(&[&a, &b], "[pools.orders]\nhold = \"300ms\"\n");
    let daemon = Daemon::start(&text);
    let orders = daemon.listener("orders");
    // A life with everything in it: sessions, a failover, a failed dial, a held and a refused client, a way back.
    assert_eq!(visit(orders).expect("served"), "a");
    a.kill();
    assert_eq!(visit(orders).expect("served"), "b");
    daemon.wait_active("orders", "b");
    b.kill();
    ends(&mut dial(orders).expect("accepted"));
    a.restart();
    b.restart();
    daemon.wait_active("orders", "a");
    assert_eq!(visit(orders).expect("served"), "a");
    daemon.reload(&text).expect("taken");
    let answer = daemon.admin_get("/metrics");
    assert!(answer.header("content-type").starts_with("text/plain"), "{:?}", answer.headers);
    let (text, samples) = (answer.body.as_str(), metrics::samples(&answer.body));
    for (family, kind) in FAMILIES {
        let name = format!("{}{family}", metrics::PREFIX);
        let type_line = format!("# TYPE {name} {kind}");
        assert!(text.lines().any(|line| line == type_line), "no `{type_line}`");
        let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
        assert!(help.is_some_and(|help| help.len() > 10), "{name} has no help");
        let sampled = if *kind == "histogram" { format!("{name}_count") } else { name };
        assert!(samples.iter().any(|sample| sample.name == sampled), "no sample of {sampled}");
    }
    let one = |family, labels: &[(&str, &str)]| metrics::sum(text, family, labels);
    let of_a = [("pool", "orders"), ("backend", "a")];
    assert_eq!((one("backend_healthy", &of_a), one("backend_eligible", &of_a)), (Some(1.0), Some(1.0)));
    assert_eq!(one("pool_state", &[("pool", "orders")]), Some(1.0), "one state at a time");
    assert_eq!(one("listener_rejected_total", &[("reason", "hold_timeout")]), Some(1.0));
    assert!(one("failover_total", &[("pool", "orders"), ("reason", "dead")]) >= Some(1.0));
    let build = samples.iter().find(|sample| sample.name == "changeover_build_info").unwrap();
    assert_eq!((build.labels["version"].as_str(), build.value), (env!("CARGO_PKG_VERSION"), 1.0));
}

#[test]
fn a_slow_caller_stops_no_other() {
    let a = Backend::start("a");
    let daemon = Daemon::start(&config(&[&a], ""));
    let slow: Vec<_> = (0..50)
        .map(|_| {
            let mut caller = dial(daemon.admin()).expect("accepted");
            caller.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").expect("sent");
            caller
        })
        .collect();
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(daemon.admin_get("/healthz").status, 200);
    }
    // The heads of those requests are waited for for ten seconds.
    assert!(start.elapsed() < Duration::from_secs(8), "ten answers took {:?}", start.elapsed());
    assert_eq!(visit(daemon.listener("orders")).expect("served"), "a");
    drop(slow);
}

#[test]
fn garbage_does_not_kill_the_admin_server() {
    let a = Backend::start("a");
    let mut daemon = Daemon::start(&config(&[&a], ""));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    let garbage: [&[u8]; 9] = [
        b"\0\x01\x02\xff\xfe\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /api/v1/pools/%ff%00%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /api/v1/pools/../../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /api/v1/pools HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551616\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ];
    for request in garbage {
        let mut caller = dial(daemon.admin()).expect("accepted");
        // The server may hang up before it has read it all.
        caller.write_all(request).ok();
        caller.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = Vec::new();
        caller.read_to_end(&mut answer).ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer} to {:?}", &request[..request.len().min(60)]);
        assert_eq!(daemon.admin_get("/healthz").status, 200);
    }
    assert!(daemon.is_running());
    assert_eq!(visit(daemon.listener("orders")).expect("served"), "a");
}

#[test]
fn the_admin_server_listens_on_a_unix_socket_and_replaces_a_stale_one() {
    let a = Backend::start("a");
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    // What a killed daemon leaves: a file that nobody listens at.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists() && http::get_unix(&socket, "/healthz").is_err());
    let both = format!("[admin]\nbind = [\"unix:{}\", \"127.0.0.1:0\"]\n", socket.display());
    let daemon = Daemon::start(&config(&[&a], &both));
    let answer = http::get_unix(&socket, "/api/v1/pools/orders").expect("answered");
    assert_eq!((answer.status, &answer.json()["name"]), (200, &"orders".into()));
    assert_eq!(http::get_unix(&socket, "/metrics").expect("answered").status, 200);
    drop(daemon);
}

#[test]
fn a_daemon_whose_backend_never_answered_says_so_in_words() {
    let addr = fresh_addr();
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders.check]\ninterval = \"50ms\"\n\
         [pools.orders.backends.a]\naddress = \"{addr}\"\n"
    ));
    daemon.wait_health("orders", "a", "unhealthy");
    wait_until("its downtime grows", DEADLINE, || {
        daemon.backend("orders", "a")["downtime_seconds"].as_f64() > Some(0.1)
    });
    let backend = daemon.backend("orders", "a");
    assert_ne!(backend["reason"], "", "{backend}");
    assert!(backend["last_error"].as_str().is_some_and(|error| error.contains("refused")), "{backend}");
    let times = ["since", "last_error_at", "last_check"].map(|key| backend[key].as_str().unwrap_or_default());
    assert!(!times[0].is_empty() && times.is_sorted(), "the last failure is no older than the first: {backend}");
    assert_eq!(backend["latency_ms"], serde_json::Value::Null, "{backend}");
}

/// A log that has whoever writes that a second admin socket is open wait for what a client of the first one got.
struct SecondSocket {
    sockets: AtomicUsize,
    answered: Mutex<mpsc::Receiver<()>>,
}

/// Whether an event is of the admin server's listening.
#[derive(Default)]
struct IsAdmin(bool);

impl Visit for IsAdmin {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0 |= field.name() == "listener" && value == "admin";
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl Subscriber for SecondSocket {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut is_admin = IsAdmin::default();
        event.record(&mut is_admin);
        if is_admin.0 && self.sockets.fetch_add(1, Ordering::Relaxed) == 1 {
            self.answered.lock().unwrap().recv_timeout(DEADLINE).expect("the first socket answers");
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn nobody_is_answered_before_the_first_plan_is_in_force() {
    let (a, dir) = (Backend::start("a"), tempfile::tempdir().unwrap());
    let (socket, file) = (dir.path().join("admin.sock"), dir.path().join("changeover.toml"));
    let admin = format!("[admin]\nbind = [\"unix:{}\", \"127.0.0.1:0\"]\n", socket.display());
    // The daemon runs in this very process, which is nobody to it without a token.
    let admin = admin + &token_table("ops", "tests-only", "admin", "");
    std::fs::write(&file, format!("[daemon]\nworkers = 1\n{admin}{}", config(&[&a], ""))).unwrap();
    let document = Document::load(&file).unwrap();
    let (answer, answered) = mpsc::channel();
    let at = socket.clone();
    let ask = |at: &Path, method: &str, path: &str, body: &str| {
        http::send_with(dial_unix(at).ok()?, method, path, "Authorization: Bearer tests-only\r\n", body).ok()
    };
    let client = std::thread::spawn(move || {
        let body = format!("{{\"name\": \"b\", \"address\": \"{}\", \"priority\": 2}}", fresh_addr());
        let response = wait_for("an answer", DEADLINE, || ask(&at, "POST", "/api/v1/pools/orders/backends", &body));
        answer.send(()).unwrap();
        response
    });
    let log = SecondSocket { sockets: AtomicUsize::new(0), answered: Mutex::new(answered) };
    let start = || daemon::start(document, Options::default()).unwrap();
    let daemon = tracing::subscriber::with_default(log, start);
    let registered = client.join().unwrap();
    assert_eq!(registered.status, 201, "{}", registered.body);
    let pool = ask(&socket, "GET", "/api/v1/pools/orders", "").unwrap().json();
    let names: Vec<_> = pool["backends"].as_array().unwrap().iter().map(|b| b["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b"], "what was changed meanwhile stays");
    daemon.stop(Duration::ZERO);
}
