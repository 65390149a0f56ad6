//! What operators order and ask of a running daemon, over its Unix socket and by the commands, and who may.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::net::{echo, meet};
use support::process::bound_by_permissions;
use support::servers::Server;
use support::{
    Backend, DEADLINE, Daemon, Site, changeover, dial, dial_unix, ends, fresh_addr, http, run, visit, wait_until,
};

const CHECK: &str = "[pools.orders.check]\ninterval = \"50ms\"";

fn visitor(address: SocketAddr) -> JoinHandle<std::io::Result<String>> {
    std::thread::spawn(move || visit(address))
}

fn lives(session: &mut TcpStream) -> bool {
    echo(session, b"still there?").is_ok()
}

#[test]
fn a_failover_by_command_moves_new_sessions_and_holds_until_failback() {
    for automatic in [true, false] {
        let (a, b) = (Backend::start("a"), Backend::start("b"));
        let failover = format!("[pools.orders.failover]\nautomatic = {automatic}\nfailback_after = \"0s\"");
        let site = Site::start(&format!("{CHECK}\n{failover}"), &[&a, &b]);
        let orders = site.daemon.listener("orders");
        let (mut session, name) = meet(orders).unwrap();
        assert_eq!(name, "a");
        let told = site.told(&["failover", "orders", "--to", "b", "--reason", "new kernel on a"]);
        for words in ["serves from b now", "pinned", "changeover failback orders", "Sessions on a go on"] {
            assert!(told.contains(words), "no `{words}` in\n{told}");
        }
        assert_eq!(visit(orders).unwrap(), "b", "automatic = {automatic}");
        assert!(lives(&mut session));
        // The better tier is fit, and the stable time is nothing; were it not pinned, it would be gone by now.
        let checked = || site.daemon.backend("orders", "a")["consecutive_successes"].as_u64().unwrap();
        let before = checked();
        wait_until("a was found fit some more", DEADLINE, || checked() > before + 3);
        assert_eq!((visit(orders).unwrap(), &site.daemon.pool("orders")["pinned"]), ("b".to_owned(), &json!("b")));
        let why = site.told(&["explain", "orders"]);
        assert!(why.contains("new kernel on a") && why.contains("An operator ordered it."), "{why}");
        let event: Value = serde_json::from_str(&site.told(&["failback", "orders", "--json"])).unwrap();
        assert_eq!((&event["kind"], &event["from"], &event["to"]), (&json!("pool.failback"), &json!("b"), &json!("a")));
        assert_eq!((visit(orders).unwrap(), &site.daemon.pool("orders")["pinned"]), ("a".to_owned(), &Value::Null));
    }
}

#[test]
fn a_failover_is_answered_with_its_event() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = Site::start(CHECK, &[&a, &b]);
    let event = site.done("POST", "/orders/failover", r#"{"reason": "drill", "sessions": null}"#);
    let uid = format!("uid:{}", rustix::process::geteuid().as_raw());
    for (field, value) in [
        ("kind", json!("pool.failover")),
        ("pool", json!("orders")),
        ("backend", json!("b")),
        ("from", json!("a")),
        ("to", json!("b")),
        ("reason", json!("manual")),
        ("status", json!("completed")),
        ("actor", json!(uid)),
    ] {
        assert_eq!(event[field], value, "{field} of {event}");
    }
    assert_eq!((&event["detail"]["number"], &event["detail"]["note"]), (&json!(1), &json!("drill")), "{event}");
    assert!(event["duration_ms"].as_f64().is_some() && event["time"].as_str().unwrap().ends_with('Z'), "{event}");
}

#[test]
fn sessions_of_those_that_served_go_by_the_policy() {
    for policy in ["keep", "drain", "close"] {
        let (a, b) = (Backend::start("a"), Backend::start("b"));
        let site = Site::start(CHECK, &[&a, &b]);
        let (mut session, _) = meet(site.daemon.listener("orders")).unwrap();
        site.told(&["failover", "orders", "--sessions", policy]);
        if policy == "keep" {
            // Longer than those would have that are drained.
            let since = Instant::now();
            wait_until("the drain would be over", DEADLINE, || since.elapsed() > Duration::from_millis(400));
            assert!(lives(&mut session));
        } else {
            ends(&mut session);
        }
        site.daemon.wait_closed("orders", "manual", u32::from(policy != "keep"));
    }
}

#[test]
fn a_pause_holds_clients_and_resume_lets_them_go_in_order() {
    let order: Arc<Mutex<Vec<(usize, u8)>>> = Arc::default();
    let kept = Arc::clone(&order);
    let server = Server::start(fresh_addr(), move |number, mut stream| {
        let mut byte = [0];
        if stream.read(&mut byte)? > 0 {
            kept.lock().unwrap().push((number, byte[0]));
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let site = Site::with(&format!("{CHECK}\n[pools.orders.backends.a]\naddress = \"{}\"", server.addr));
    let told = site.told(&["pause", "orders"]);
    assert!(told.contains("None waits longer than orders's `hold`, 10m"), "{told}");
    assert!(told.contains("new clients wait") && told.contains("changeover resume orders"), "{told}");
    let mut clients = Vec::new();
    for byte in 1..=5_u8 {
        let mut client = dial(site.daemon.listener("orders")).unwrap();
        client.write_all(&[byte]).unwrap();
        clients.push(client);
        site.daemon.wait_held("orders", byte.into());
    }
    assert_eq!(site.daemon.pool("orders")["paused"], true);
    assert!(order.lock().unwrap().is_empty());
    site.told(&["resume", "orders"]);
    for client in &mut clients {
        client.read_exact(&mut [0]).unwrap();
    }
    let mut order = order.lock().unwrap().clone();
    order.sort_unstable();
    let bytes: Vec<u8> = order.into_iter().map(|(_, byte)| byte).collect();
    assert_eq!(bytes, [1, 2, 3, 4, 5]);
    // And by itself when the time is up.
    let began = Instant::now();
    site.told(&["pause", "orders", "--timeout", "300ms"]);
    let mut client = dial(site.daemon.listener("orders")).unwrap();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert_eq!(site.daemon.pool("orders")["paused"], false);
}

#[test]
fn drained_and_maintained_backends_serve_nobody_until_they_are_ready() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = Site::start(&format!("{CHECK}\n[pools.orders.failover]\nfailback_after = \"0s\""), &[&a, &b]);
    let orders = site.daemon.listener("orders");
    for (command, state, word) in [("drain", "drain", "drains"), ("maintenance", "maintenance", "in maintenance")] {
        assert_eq!(visit(orders).unwrap(), "a");
        let told = site.told(&[command, "orders/a"]);
        assert!(told.contains(word) && told.contains("changeover ready orders/a"), "{told}");
        assert!(told.contains("orders serves from b now"), "{told}");
        assert_eq!(visit(orders).unwrap(), "b");
        assert_eq!(site.daemon.backend("orders", "a")["admin_state"], state);
        let told = site.told(&["ready", "orders/a"]);
        assert!(told.contains("orders/a is ready"), "{told}");
        site.daemon.wait_active("orders", "a");
    }
    let backend: Value = serde_json::from_str(&site.told(&["drain", "orders/b", "--json"])).unwrap();
    assert_eq!((&backend["name"], &backend["admin_state"]), (&json!("b"), &json!("drain")));
}

#[test]
fn a_pushed_verdict_takes_a_backend_out_for_its_time() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = Site::start(&format!("{CHECK}\n[pools.orders.failover]\nfailback_after = \"0s\""), &[&a, &b]);
    let orders = site.daemon.listener("orders");
    let began = Instant::now();
    let body = r#"{"health": "unhealthy", "ttl": "5s", "reason": "disk full", "metrics": {"cpu_percent": 97.5}}"#;
    let backend = site.done("PUT", "/orders/backends/a/health", body);
    assert_eq!((&backend["health"], &backend["reported"]), (&json!("unhealthy"), &json!({ "cpu_percent": 97.5 })));
    assert_eq!(backend["reason"], "reported unhealthy: disk full");
    assert_eq!(visit(orders).unwrap(), "b");
    // The figures are kept over time, with who reported them.
    let said = json!({ "health": "unhealthy", "ttl": "5s", "reason": "disk full", "metrics": { "cpu_percent": 97.5 } });
    let trail = || site.done("GET", "/orders/events?kind=admin.action", "")["events"].clone();
    wait_until("the report is in the history", DEADLINE, || trail()[0]["detail"]["said"] == said);
    site.daemon.wait_active("orders", "a");
    assert!(began.elapsed() >= Duration::from_secs(5), "back after {:?}", began.elapsed());
    assert_eq!(visit(orders).unwrap(), "a");
    // What was pushed can be taken back before.
    site.done("PUT", "/orders/backends/a/health", r#"{"health": "unhealthy", "ttl": "24h"}"#);
    site.daemon.wait_active("orders", "b");
    site.done("PUT", "/orders/backends/a/health", r#"{"health": "unknown", "ttl": "1s"}"#);
    site.daemon.wait_active("orders", "a");
}

#[test]
fn three_reported_failures_take_a_backend_out_and_a_reset_brings_it_back() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    // No check of our own comes between.
    let settings = "[pools.orders.check]\ninterval = \"600s\"\n[pools.orders.failover]\nfailback_after = \"0s\"";
    let site = Site::start(settings, &[&a, &b]);
    let orders = site.daemon.listener("orders");
    let report = || site.done("POST", "/orders/backends/a/failures", r#"{"error": "reset while reading"}"#);
    report();
    assert_eq!(report()["health"], "healthy");
    site.done("POST", "/orders/backends/a/successes", "");
    assert_eq!(report()["health"], "healthy", "a success takes one back");
    let backend = report();
    assert_eq!(backend["health"], "unhealthy", "{backend}");
    assert!(backend["reason"].as_str().unwrap().contains("reset while reading"), "{backend}");
    assert_eq!(visit(orders).unwrap(), "b");
    let told = site.told(&["reset", "orders/a"]);
    assert!(told.contains("forgotten"), "{told}");
    site.daemon.wait_active("orders", "a");
    assert_eq!(visit(orders).unwrap(), "a");
}

#[test]
fn a_probe_on_order_does_not_wait_for_the_interval() {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let site = Site::start("[pools.orders.check]\ninterval = \"600s\"", &[&a, &b]);
    a.kill();
    assert_eq!(site.daemon.backend("orders", "a")["health"], "healthy");
    site.told(&["probe", "orders/a"]);
    site.daemon.wait_active("orders", "b");
    a.restart();
    let pool = site.done("POST", "/orders/check", "{}");
    assert_eq!(pool["name"], "orders");
    wait_until("a is checked again", DEADLINE, || {
        site.told(&["probe", "orders"]);
        site.daemon.backend("orders", "a")["health"] == "healthy"
    });
}

#[test]
fn what_cannot_be_is_refused_with_a_code_and_changes_nothing() {
    let (a, b) = (Backend::start("a"), Backend::absent("b"));
    let site = Site::start(CHECK, &[&a, &b]);
    site.daemon.wait_health("orders", "b", "unhealthy");
    let generation = || site.daemon.pool("orders")["generation"].clone();
    let before = generation();
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let long = format!(r#"{{"reason": "{}"}}"#, "x".repeat(600));
    let huge = format!(r#"{{"reason": "{}"}}"#, "x".repeat(70_000));
    let figures: Vec<String> = (0..33).map(|n| format!("\"f{n}\": 1")).collect();
    let figures = format!(r#"{{"health": "healthy", "ttl": "5s", "metrics": {{{}}}}}"#, figures.join(","));
    let health = "/orders/backends/a/health";
    for (method, path, body, status, code, words) in [
        ("POST", "/nope/failover", "", 404, "pool_not_found", "`nope`"),
        ("POST", "/nope/evaluate", "", 404, "pool_not_found", "`nope`"),
        ("GET", "/nope/explain", "", 404, "pool_not_found", "`nope`"),
        ("POST", "/%ff/pause", "", 404, "pool_not_found", ""),
        ("POST", "/orders/failover", r#"{"to": "c"}"#, 404, "backend_not_found", "no backend `c`"),
        ("POST", "/orders/backends/c/drain", "", 404, "backend_not_found", "no backend `c`"),
        ("POST", "/orders/failover", r#"{"to": "b"}"#, 409, "no_eligible_backend", "b of pool orders is not eligible"),
        ("POST", "/orders/failover", "", 409, "no_eligible_backend", "no other tier"),
        ("POST", "/orders/failback", "", 409, "conflict", "not pinned"),
        ("POST", "/orders/resume", "", 409, "conflict", "not paused"),
        ("POST", "/orders/failover", "{", 400, "bad_body", "no JSON"),
        ("POST", "/orders/failover", "[]", 400, "bad_body", "no object"),
        ("POST", "/orders/failover", &deep, 400, "bad_body", "recursion limit"),
        ("POST", "/orders/failover", &huge, 413, "body_too_large", "64 KiB"),
        ("POST", "/orders/failover", &long, 422, "invalid_body", "512 is the most"),
        ("POST", "/orders/failover", r#"{"reson": "x"}"#, 422, "invalid_body", "did you mean `reason`?"),
        ("POST", "/orders/failover", r#"{"to": 7}"#, 422, "invalid_body", "`to`: `7` is no text"),
        ("POST", "/orders/failover", r#"{"reason": "a\u001bb"}"#, 422, "invalid_body", "\\u{1b}"),
        ("POST", "/orders/failover", r#"{"sessions": "clos"}"#, 422, "invalid_body", "did you mean `close`?"),
        ("POST", "/orders/pause", r#"{"timeout": "5"}"#, 422, "invalid_body", "has no unit"),
        ("POST", "/orders/pause", r#"{"timeout": "0s"}"#, 422, "invalid_body", "is too short"),
        ("POST", "/orders/resume", r#"{"timeout": "5s"}"#, 422, "invalid_body", "this takes no fields"),
        ("POST", "/orders/backends/a/failures", "", 422, "invalid_body", "`error` is missing"),
        ("PUT", health, "", 422, "invalid_body", "`health` is missing"),
        (
            "PUT",
            health,
            r#"{"health": "sick", "ttl": "5s"}"#,
            422,
            "invalid_body",
            "`sick` is none of unknown, healthy",
        ),
        ("PUT", health, r#"{"health": "healthy"}"#, 422, "invalid_body", "`ttl` is missing"),
        ("PUT", health, r#"{"health": "healthy", "ttl": "10ms"}"#, 422, "invalid_body", "is too short"),
        ("PUT", health, r#"{"health": "healthy", "ttl": "25h"}"#, 422, "invalid_body", "is too long"),
        ("PUT", health, r#"{"health": "healthy", "ttl": "5s", "metrics": 5}"#, 422, "invalid_body", "is no object"),
        (
            "PUT",
            health,
            r#"{"health": "healthy", "ttl": "5s", "metrics": {"c": "x"}}"#,
            422,
            "invalid_body",
            "no number",
        ),
        ("PUT", health, r#"{"health": "healthy", "ttl": "5s", "metrics": {"C": 1}}"#, 422, "invalid_body", "a-z"),
        ("PUT", health, &figures, 422, "invalid_body", "32 is the most"),
        ("GET", "/orders/failover", "", 405, "method_not_allowed", ""),
    ] {
        let answer = site.send(method, path, body);
        let shown: String = body.chars().take(80).collect();
        assert_eq!(answer.status, status, "{method} {path} {shown}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.json()["code"], code, "{method} {path} {shown}: {}", answer.body);
        assert!(answer.body.replace("\\\\", "\\").contains(words), "no `{words}`: {}", answer.body);
    }
    let both = site.send("PUT", health, r#"{"helth": "healthy", "ttl": 5}"#).json();
    let fields: Vec<&Value> = both["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
    assert_eq!(fields, ["helth", "health", "ttl"], "all at once");
    assert_eq!(generation(), before);
    let refused = site.command(&["failover", "orders", "--to", "b"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("not eligible") && refused.stderr.contains("no_eligible_backend"), "{refused:?}");
    assert_eq!(site.command(&["drain", "orders"]).code, Some(64));
    let nobody = format!("http://{}", fresh_addr());
    assert_eq!(changeover(&["drain", "orders/a", "--admin", &nobody]).code, Some(69));
}

#[test]
fn callers_over_tcp_can_change_nothing() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = Site::start(CHECK, &[&a, &b]);
    let before = site.daemon.pool("orders")["generation"].clone();
    for (method, path) in [
        ("POST", "failover"),
        ("POST", "failback"),
        ("POST", "pause"),
        ("POST", "resume"),
        ("POST", "check"),
        ("POST", "reset"),
        ("POST", "backends/a/drain"),
        ("POST", "backends/a/ready"),
        ("POST", "backends/a/maintenance"),
        ("POST", "backends/a/reset"),
        ("POST", "backends/a/check"),
        ("POST", "backends/a/failures"),
        ("POST", "backends/a/successes"),
        ("PUT", "backends/a/health"),
    ] {
        for pool in ["orders", "nope"] {
            let stream = dial(site.daemon.admin()).unwrap();
            let answer = http::send(stream, method, &format!("/api/v1/pools/{pool}/{path}"), "{}").unwrap();
            assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("not_authorized")), "{method} {path}");
        }
    }
    let admin = format!("http://{}", site.daemon.admin());
    for args in [&["failover", "orders"][..], &["pause", "orders"], &["maintenance", "orders/a"]] {
        let ended = changeover(&[args, &["--admin", &admin]].concat());
        assert_eq!(ended.code, Some(77), "{ended:?}");
        assert!(ended.stderr.contains("Unix socket"), "{ended:?}");
    }
    let pool = site.daemon.pool("orders");
    assert_eq!((&pool["generation"], &pool["paused"], &pool["pinned"]), (&before, &json!(false), &Value::Null));
    // To read is allowed, and to ask.
    let stream = dial(site.daemon.admin()).unwrap();
    let asked = http::send(stream, "POST", "/api/v1/pools/orders/evaluate", "").unwrap();
    let wanted = json!({ "should_failover": false, "from": ["a"], "to": ["b"], "reason": "a can serve" });
    assert_eq!((asked.status, asked.json()), (200, wanted));
    assert_eq!(changeover(&["explain", "orders", "--admin", &admin]).code, Some(0));
}

#[test]
fn what_explain_foretells_is_what_happens() {
    for (settings, would) in
        [("", "b would serve"), ("[pools.orders.failover]\nautomatic = false", "nothing would serve")]
    {
        let (mut a, b) = (Backend::start("a"), Backend::start("b"));
        let site = Site::start(&format!("{CHECK}\n{settings}"), &[&a, &b]);
        let foretold = site.done("GET", "/orders/explain", "");
        let to = foretold["if_active_failed"]["to"].clone();
        assert_eq!(foretold["serving"], json!(["a"]));
        assert_eq!(foretold["evidence"].as_array().unwrap().len(), 2, "{foretold}");
        let page = site.told(&["explain", "orders"]);
        let at = |words: &str| page.find(words).unwrap_or_else(|| panic!("no `{words}` in\n{page}"));
        let order =
            ["orders: a serves, since ", "BY WHICH RULE", "ON WHICH EVIDENCE", "AS OF ", "IF a FAILED NOW", would];
        assert!(order.map(at).is_sorted(), "{page}");
        a.kill();
        if to == json!([]) {
            site.daemon.wait_state("orders", "down");
            let client = visitor(site.daemon.listener("orders"));
            site.daemon.wait_held("orders", 1);
            let page = site.told(&["explain", "orders"]);
            assert!(page.contains("NOTHING SERVES") && page.contains("clients wait up to 10m"), "{page}");
            a.restart();
            assert_eq!(client.join().unwrap().unwrap(), "a");
        } else {
            assert_eq!(to, json!(["b"]));
            assert_eq!(visit(site.daemon.listener("orders")).unwrap(), "b");
            site.daemon.wait_active("orders", "b");
            let page = site.told(&["explain", "orders"]);
            assert!(page.contains("b took over from a (dead)") && page.contains("Connection refused"), "{page}");
        }
    }
}

/// What the contract shows of a pool and of a backend. `role`, `lag_bytes`, `lag_seconds` and `timeline` are of
/// PostgreSQL pools.
const POOL: &[&str] = &[
    "name",
    "kind",
    "state",
    "redundancy",
    "degraded",
    "generation",
    "active",
    "standby",
    "paused",
    "held",
    "pinned",
    "last_failover",
    "backends",
];
const BACKEND: &[&str] = &[
    "name",
    "address",
    "priority",
    "weight",
    "health",
    "admin_state",
    "eligible",
    "active",
    "reason",
    "latency_ms",
    "sessions",
    "consecutive_failures",
    "consecutive_successes",
    "last_check",
    "since",
    "last_error",
    "last_error_at",
    "downtime_seconds",
    "reported",
    "tunnel",
];

#[track_caller]
fn has_all(object: &Value, fields: &[&str]) {
    let missing: Vec<_> = fields.iter().filter(|field| object.get(**field).is_none()).collect();
    assert!(missing.is_empty(), "no {missing:?} in {object}");
}

#[test]
fn a_pool_has_every_field_of_the_contract() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = Site::start(CHECK, &[&a, &b]);
    let pool = site.daemon.pool("orders");
    has_all(&pool, POOL);
    let known = [
        ("state", json!("healthy")),
        ("redundancy", json!("dual")),
        ("degraded", json!(false)),
        ("active", json!(["a"])),
        ("standby", json!(["b"])),
        ("paused", json!(false)),
        ("paused_until", Value::Null),
        ("hold_seconds", json!(600.0)),
        ("held", json!(0)),
        ("pinned", Value::Null),
        ("last_failover", json!({})),
    ];
    known.iter().for_each(|(field, value)| assert_eq!(&pool[*field], value, "{field} of {pool}"));
    for backend in pool["backends"].as_array().unwrap() {
        has_all(backend, BACKEND);
        let known = [("last_error", Value::Null), ("reported", json!({})), ("tunnel", Value::Null)];
        known.iter().for_each(|(field, value)| assert_eq!(&backend[*field], value, "{field} of {backend}"));
    }
    // And what they turn into.
    site.done("POST", "/orders/failover", "");
    site.done("POST", "/orders/pause", r#"{"timeout": "1h"}"#);
    site.done("PUT", "/orders/backends/a/health", r#"{"health": "unhealthy", "ttl": "1h", "metrics": {"load": 9}}"#);
    let pool = site.daemon.pool("orders");
    assert_eq!((&pool["pinned"], &pool["paused"], &pool["degraded"]), (&json!("b"), &json!(true), &json!(true)));
    assert!(pool["paused_until"].as_str().is_some_and(|until| until.ends_with('Z')), "{pool}");
    for table in ["status", "pools"] {
        let told = site.told(&[table]).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.contains(" UTC at most") && told.contains("`hold` (10m)"), "{told}");
    }
    assert_eq!((&pool["state"], &pool["redundancy"]), (&json!("failover_complete"), &json!("single")));
    has_all(&pool["last_failover"], &["time", "from", "to", "reason"]);
    assert_eq!(pool["last_failover"]["reason"], "manual");
    assert_eq!(pool["backends"][0]["reported"], json!({ "load": 9.0 }));
}

#[test]
fn an_order_that_a_restart_would_forget_is_carried_out_with_a_word_on_that() {
    const NOTE: &str = "not written to disk";
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = Site::start(CHECK, &[&a, &b]);
    for (args, is_kept) in [
        (&["drain", "orders/b"][..], true),
        (&["ready", "orders/b"], true),
        (&["failover", "orders"], true),
        (&["failback", "orders", "--json"], true),
        (&["pause", "orders"], true),
        (&["resume", "orders"], true),
        // Of these there is nothing to keep.
        (&["reset", "orders"], false),
        (&["probe", "orders/a"], false),
    ] {
        let ended = site.command(args);
        assert_eq!((ended.code, ended.stderr.contains(NOTE)), (Some(0), is_kept), "{args:?}: {ended:?}");
        assert!(!ended.stdout.contains(NOTE), "a script reads the answer alone: {ended:?}");
    }
    let kept = tempfile::tempdir().unwrap();
    let state = format!("[daemon]\nstate_dir = \"{}\"\n", kept.path().display());
    let socket = kept.path().join("admin.sock").display().to_string();
    let _daemon = Daemon::start(&format!(
        "{state}[admin]\nbind = [\"unix:{socket}\", \"127.0.0.1:0\"]\n[listeners.orders]\nbind = \"127.0.0.1:0\"\n\
         pool = \"orders\"\n{CHECK}\n{}",
        a.toml("orders", 1)
    ));
    let ended = changeover(&["pause", "orders", "--admin", &format!("unix:{socket}")]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
}

#[test]
fn whoever_may_not_reach_the_socket_is_told_so_and_the_command_exits_77() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = Site::start(CHECK, &[&a, &b]);
    std::fs::set_permissions(site.socket(), Permissions::from_mode(0o000)).unwrap();
    let admin = format!("unix:{}", site.socket().display());
    for args in [&["status"][..], &["pause", "orders"]] {
        let ended = run(bound_by_permissions().args(args).args(["--admin", &admin]));
        assert_eq!(ended.code, Some(77), "{ended:?}");
        assert!(ended.stderr.contains("no permission") && ended.stderr.contains(&admin), "{ended:?}");
    }
    assert_eq!(site.daemon.pool("orders")["paused"], false);
}

#[test]
fn an_order_whose_giver_hangs_up_is_carried_out_and_in_the_audit_trail() {
    const ORDERS: usize = 20;
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = Site::start(CHECK, &[&a, &b]);
    let told = |kind: &str| {
        let events = site.daemon.admin_get(&format!("/api/v1/events?kind={kind}&limit=1000")).json();
        events["events"].as_array().unwrap().clone()
    };
    // Of some it is noticed that nobody is there any more before they are read; those are never begun.
    let mut given = 0;
    while told("pool.paused").len() < ORDERS {
        given += 1;
        assert!(given < 100 * ORDERS, "of {given} orders too few are begun");
        let mut stream = dial_unix(&site.socket()).unwrap();
        let head = "POST /api/v1/pools/orders/pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
    }
    let is_whole = || told("pool.paused").len() == told("admin.action").len();
    wait_until("each that is in force is in the audit trail", DEADLINE, is_whole);
    assert!(told("admin.action").iter().all(|event| event["detail"]["result"] == "done"));
}

#[test]
fn explain_shows_what_goes_before_the_file_and_for_how_long() {
    let (a, b, c) = (Backend::start("a"), Backend::start("b"), Backend::start("c"));
    let site = Site::start(CHECK, &[&a, &b]);
    let runtime = || site.done("GET", "/orders/explain", "")["runtime"].clone();
    assert_eq!(runtime(), json!({ "registered": [], "patched": [], "pushed": [] }));
    assert!(!site.told(&["explain", "orders"]).contains("SET AT RUN TIME"), "the file alone is in force");

    let register = json!({ "name": "c", "address": c.addr.to_string(), "priority": 3 });
    assert_eq!(site.send("POST", "/orders/backends", &register.to_string()).status, 201);
    site.done("PATCH", "/orders/failover-config", r#"{"check": {"interval": "70ms", "timeout": "2s"}}"#);
    site.done("PATCH", "/orders/backends/b", r#"{"weight": 7}"#);
    let mut shown = runtime();
    for entry in ["registered", "patched"].map(|list| shown[list].as_array_mut().unwrap().clone()).concat() {
        assert!(entry["by"].as_str().unwrap().starts_with("uid:"), "{entry}");
        assert!(entry["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{entry}");
    }
    let without = |list: &str| -> Vec<Value> {
        let mut entries = shown[list].as_array().unwrap().clone();
        for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
            entry.retain(|key, _| key != "at" && key != "by");
        }
        entries
    };
    assert_eq!(without("registered"), [json!({ "name": "c" })]);
    assert_eq!(
        without("patched"),
        [
            json!({ "backend": null, "key": "check.interval", "value": "70ms", "file": "50ms" }),
            json!({ "backend": null, "key": "check.timeout", "value": "2s", "file": null }),
            json!({ "backend": "b", "key": "weight", "value": 7, "file": null }),
        ]
    );
    let page = site.told(&["explain", "orders"]);
    for words in [
        "SET AT RUN TIME",
        "goes before the file, until the file says something else",
        "backend c is registered, by uid:",
        "check.interval = \"70ms\" (the file: \"50ms\"), by uid:",
        "check.timeout = \"2s\" (the file: nothing)",
        "b: weight = 7 (the file: nothing)",
    ] {
        assert!(page.contains(words), "no `{words}` in\n{page}");
    }

    let verdict = r#"{"health": "unhealthy", "ttl": "1h", "reason": "disk full"}"#;
    site.done("PUT", "/orders/backends/b/health", verdict);
    let pushed = runtime()["pushed"][0].clone();
    assert_eq!([&pushed["backend"], &pushed["health"], &pushed["reason"]], ["b", "unhealthy", "disk full"]);
    let page = site.told(&["explain", "orders"]);
    assert!(page.contains("\n    b is reported unhealthy (disk full) ["), "{page}");
    site.done("PUT", "/orders/backends/b/health", r#"{"health": "unknown", "ttl": "1h"}"#);
    assert_eq!(runtime()["pushed"], json!([]), "taken back");

    // The file says something else for one key, and for no other.
    let file = std::fs::read_to_string(site.daemon.config()).unwrap();
    site.daemon.reload(&file.replace("interval = \"50ms\"", "interval = \"60ms\"")).unwrap();
    shown = runtime();
    let keys: Vec<&Value> = shown["patched"].as_array().unwrap().iter().map(|entry| &entry["key"]).collect();
    assert_eq!(keys, ["check.timeout", "weight"]);
    assert_eq!(shown["registered"][0]["name"], "c");
}
