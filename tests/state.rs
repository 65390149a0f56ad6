//! What outlives a restart, and a SIGKILL: registrations, patches, admin states, pins, pauses and history.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use changeover::config::Document;
use changeover::daemon::{self, Options};
use changeover::failover::Order;
use changeover::model::{Actor, AdminState, MonoTime, PoolName, SessionPolicy};
use changeover::routing::Done;
use changeover::store::FILE_NAME;
use redb::{Database, ReadableDatabase, TableDefinition};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::callers::token_table;
use support::http::{self, Response};
use support::net::fresh_addr;
use support::{Backend, DEADLINE, Daemon, StopOnDrop, changeover, dial_unix, in_time, visit, wait_until};

/// A pool's place on disk and on the network, the same for each of its daemons.
struct World {
    dir: tempfile::TempDir,
    listener: SocketAddr,
    keeps: bool,
    /// Whether the daemon runs in this very process, which is nobody to it without a token.
    is_inside: bool,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), listener: fresh_addr(), keeps: true, is_inside: false }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A file with one pool, with `check` in its check's table.
    fn config(&self, check: &str, backends: &[&Backend]) -> String {
        std::fs::create_dir_all(self.state()).unwrap();
        let keep = if self.keeps { format!("state_dir = \"{}\"\n", self.state().display()) } else { String::new() };
        let token = if self.is_inside { token_table("reader", "tests-only", "viewer", "") } else { String::new() };
        let listed: String = backends.iter().zip(1..).map(|(b, priority)| b.toml("orders", priority)).collect();
        format!(
            "[daemon]\nworkers = 1\ndrain_timeout = \"1s\"\n{keep}\
             [admin]\nbind = [\"unix:{}\", \"127.0.0.1:0\"]\n{token}\
             [listeners.orders]\nbind = \"{}\"\npool = \"orders\"\n[pools.orders]\nhold = \"10m\"\n\
             [pools.orders.check]\n{check}\n{listed}",
            self.socket().display(),
            self.listener
        )
    }

    #[track_caller]
    fn send(&self, method: &str, path: &str, body: &Value) -> Response {
        http::send_unix(&self.socket(), method, &format!("/api/v1{path}"), &body.to_string()).expect("answered")
    }

    #[track_caller]
    fn register(&self, name: &str, address: SocketAddr, priority: u32) -> Response {
        let body = json!({ "name": name, "address": address.to_string(), "priority": priority });
        self.send("POST", "/pools/orders/backends", &body)
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        let socket = dial_unix(&self.socket()).expect("a daemon");
        let token = if self.is_inside { "Authorization: Bearer tests-only\r\n" } else { "" };
        let answer = http::send_with(socket, "GET", &format!("/api/v1{path}"), token, "");
        let answer = answer.expect("answered");
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    /// The backends' names.
    #[track_caller]
    fn names(&self) -> BTreeSet<String> {
        let pool = self.get("/pools/orders");
        pool["backends"].as_array().unwrap().iter().map(|b| b["name"].as_str().unwrap().to_owned()).collect()
    }

    /// All events that `query` asks for, in pages of `limit`.
    #[track_caller]
    fn events(&self, query: &str, limit: usize) -> Vec<Value> {
        let (mut events, mut after) = (Vec::new(), 0);
        loop {
            let page = self.get(&format!("/events?{query}&limit={limit}&after={after}"));
            let found = page["events"].as_array().unwrap();
            after = page["next"].as_u64().unwrap();
            events.extend(found.iter().cloned());
            if found.len() < limit {
                return events;
            }
        }
    }
}

#[track_caller]
fn stop(mut daemon: Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

const FAST: &str = "interval = \"50ms\"";

#[test]
fn a_registered_backend_outlives_a_restart_and_serves() {
    let (world, mut a, b) = (World::new(), Backend::start("a"), Backend::start("b"));
    let text = world.config(FAST, &[&a]);
    let first = Daemon::start(&text);
    let answer = world.register("b", b.addr, 2);
    assert_eq!((answer.status, &answer.json()["durable"]), (201, &json!(true)), "{}", answer.body);
    assert_eq!(answer.json()["backend"]["address"], b.addr.to_string());
    first.wait_health("orders", "b", "healthy");
    stop(first);
    a.kill();
    let second = Daemon::start(&text);
    assert_eq!(visit(world.listener).expect("served"), "b");
    let kinds: Vec<Value> = world.events("pool=orders&backend=b", 100).iter().map(|e| e["kind"].clone()).collect();
    assert!(kinds.contains(&json!("backend.registered")) && kinds.contains(&json!("admin.action")), "{kinds:?}");
    for kind in ["daemon.started", "daemon.stopping"] {
        let is_told = || !world.events(&format!("kind={kind}"), 100).is_empty();
        wait_until(&format!("{kind} is told"), DEADLINE, is_told);
    }
    // A change, and the end of it.
    let changed = world.send("PATCH", "/pools/orders/backends/b", &json!({ "weight": 7 }));
    assert_eq!((changed.status, &changed.json()["backend"]["weight"]), (200, &json!(7)), "{}", changed.body);
    assert_eq!(world.send("DELETE", "/pools/orders/backends/b", &Value::Null).status, 200);
    assert_eq!(world.names(), BTreeSet::from(["a".to_owned()]));
    stop(second);
    let _third = Daemon::start(&text);
    assert_eq!(world.names(), BTreeSet::from(["a".to_owned()]), "what was removed stays removed");
}

#[test]
fn what_is_wrong_is_refused_with_code_and_field_and_changes_nothing() {
    let (world, a) = (World::new(), Backend::start("a"));
    let daemon = Daemon::start(&world.config(FAST, &[&a]));
    let b = fresh_addr();
    assert_eq!(world.register("b", b, 2).status, 201);
    let at = |address: &str| json!({ "name": "c", "address": address });
    for (method, path, body, status, code, field) in [
        ("POST", "/pools/nobody/backends", at("10.0.0.1:1"), 404, "pool_not_found", ""),
        ("POST", "/pools/orders/backends", at("10.0.0.1"), 422, "invalid_value", "address"),
        ("POST", "/pools/orders/backends", json!({ "address": "10.0.0.1:1" }), 422, "invalid_value", "name"),
        (
            "POST",
            "/pools/orders/backends",
            json!({ "name": "b", "address": "10.0.0.1:1" }),
            409,
            "backend_exists",
            "name",
        ),
        ("POST", "/pools/orders/backends", at(&b.to_string()), 409, "address_in_use", "address"),
        ("PATCH", "/pools/orders/backends/c", json!({ "weight": 2 }), 404, "backend_not_found", ""),
        ("PATCH", "/pools/orders/backends/b", json!({ "weight": -1 }), 422, "invalid_value", "weight"),
        (
            "PATCH",
            "/pools/orders/failover-config",
            json!({ "check": { "interval": "soon" } }),
            422,
            "invalid_value",
            "check.interval",
        ),
        ("DELETE", "/pools/orders/backends/a", Value::Null, 409, "backend_in_file", ""),
        ("DELETE", "/pools/orders/backends/c", Value::Null, 404, "backend_not_found", ""),
    ] {
        let answer = world.send(method, path, &body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let problem = answer.json();
        assert_eq!((&problem["code"], &problem["errors"][0]["field"]), (&json!(code), &json!(field)), "{problem}");
        assert!(!problem["errors"][0]["message"].as_str().unwrap().is_empty(), "{problem}");
    }
    assert_eq!(world.send("POST", "/pools/orders/backends", &json!([])).status, 422);
    let path = "/api/v1/pools/orders/backends";
    let too_long =
        http::send_unix(&world.socket(), "POST", path, &Value::from("x".repeat(100_000)).to_string()).unwrap();
    assert_eq!((too_long.status, &too_long.json()["code"]), (413, &json!("body_too_large")));
    assert_eq!(world.names(), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    let over_tcp = http::request(daemon.admin(), "DELETE", "/api/v1/pools/orders/backends/b").unwrap();
    assert_eq!((over_tcp.status, &over_tcp.json()["code"]), (403, &json!("not_authorized")));
    let told = |result: &str| world.events("kind=admin.action", 100).iter().any(|e| e["detail"]["result"] == result);
    for result in ["done", "backend_in_file", "backend_not_found", "invalid_value"] {
        wait_until(&format!("{result} is in the audit trail"), DEADLINE, || told(result));
    }
    for query in ["limit=0", "limit=1001", "since=yesterday", "what=ever"] {
        let answer = http::get_unix(&world.socket(), &format!("/api/v1/events?{query}")).unwrap();
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("bad_query")), "{query}");
    }
}

#[test]
fn a_patched_interval_outlives_a_restart_and_gives_way_to_a_changed_file() {
    let (world, a) = (World::new(), Backend::start("a"));
    let text = world.config("interval = \"1s\"", &[&a]);
    let first = Daemon::start(&text);
    let path = "/pools/orders/failover-config";
    let patched = world.send("PATCH", path, &json!({ "check": { "interval": "70ms" } }));
    assert_eq!((patched.status, &patched.json()["durable"]), (200, &json!(true)), "{}", patched.body);
    stop(first);
    let second = Daemon::start(&text);
    let config = world.get(path);
    assert_eq!((&config["check"]["interval"], &config["overridden"]), (&json!("70ms"), &json!(["check.interval"])));
    // The same file again takes nothing back.
    second.reload(&text).expect("taken");
    assert_eq!(world.get(path)["check"]["interval"], "70ms");
    second.reload(&world.config("interval = \"2s\"", &[&a])).expect("taken");
    let config = world.get(path);
    assert_eq!((&config["check"]["interval"], &config["overridden"]), (&json!("2s"), &json!([])));
    wait_until("both are told", DEADLINE, || world.events("kind=config.reloaded", 100).len() == 2);
    let told = world.events("kind=config.reloaded", 100);
    let note = &told.last().unwrap()["detail"]["notes"][0];
    assert_eq!((&note["dropped"], &note["key"]), (&json!("file_changed"), &json!("check.interval")), "{told:?}");
    second.reload("[listeners.x]\n").expect_err("rejected");
    wait_until("it is told", DEADLINE, || world.events("kind=config.rejected", 100).len() == 1);
    stop(second);
    let _third = Daemon::start(&text);
    assert_eq!(world.get(path)["check"]["interval"], "1s", "what was dropped does not come back");
}

#[test]
fn without_a_directory_all_of_it_works_until_the_end() {
    let (mut world, a) = (World::new(), Backend::start("a"));
    world.keeps = false;
    let text = world.config(FAST, &[&a]);
    let first = Daemon::start(&text);
    let answer = world.register("b", fresh_addr(), 2);
    assert_eq!((answer.status, &answer.json()["durable"]), (201, &json!(false)), "{}", answer.body);
    wait_until("it is told", DEADLINE, || world.events("kind=backend.registered&backend=b", 100).len() == 1);
    stop(first);
    let second = Daemon::start(&text);
    assert_eq!(world.names(), BTreeSet::from(["a".to_owned()]));
    assert_eq!(world.events("kind=backend.registered", 100).len(), 0);
    assert_eq!(second.metric("store_degraded", &[]), Some(0.0));
}

#[test]
fn history_comes_in_pages_of_every_size_and_outlives_a_restart() {
    let (world, a) = (World::new(), Backend::start("a"));
    let text = world.config(FAST, &[&a]);
    let first = Daemon::start(&text);
    for number in 0..20 {
        assert_eq!(world.register(&format!("b{number}"), fresh_addr(), 2).status, 201);
    }
    let registered = |limit| world.events("pool=orders&kind=backend.registered", limit);
    let ids = |events: &[Value]| events.iter().map(|event| event["id"].as_u64().unwrap()).collect::<Vec<_>>();
    // An event is shown once it is on disk, which is soon.
    wait_until("all are told", DEADLINE, || registered(1000).len() == 20);
    let all = registered(1000);
    stop(first);
    let second = Daemon::start(&text);
    for limit in [1, 7, 20, 1000] {
        assert_eq!(registered(limit), all, "in pages of {limit}");
    }
    let newest = world.get("/pools/orders/events?limit=3&kind=backend.registered");
    assert_eq!(ids(newest["events"].as_array().unwrap()), ids(&all)[17..], "the newest, newest last");
    let since = all[15]["time"].as_str().unwrap();
    assert!(world.events(&format!("kind=backend.registered&since={since}"), 100).len() <= 5);
    wait_until("it is counted", DEADLINE, || second.metric("history_events", &[]) >= Some(40.0));
}

#[test]
fn two_daemons_never_share_a_state() {
    let (world, a) = (World::new(), Backend::start("a"));
    let text = world.config(FAST, &[&a]);
    let _first = Daemon::start(&text);
    let other = World { listener: fresh_addr(), ..World::new() };
    let clash = other.config(FAST, &[&a]).replace(other.state().to_str().unwrap(), world.state().to_str().unwrap());
    let mut second = Daemon::spawn(&clash);
    assert_eq!(second.wait_exit().code(), Some(69));
    let said = |daemon: &Daemon| daemon.log().iter().any(|line| line.contains("in use by another process"));
    wait_until("it says why", DEADLINE, || said(&second));
}

#[test]
fn a_state_that_cannot_be_opened_exits_78_and_is_named() {
    let (world, a) = (World::new(), Backend::start("a"));
    let text = world.config(FAST, &[&a]);
    std::fs::remove_dir(world.state()).unwrap();
    std::fs::write(world.state(), "no directory").unwrap();
    let mut daemon = Daemon::spawn(&text);
    assert_eq!(daemon.wait_exit().code(), Some(78));
    let said = |daemon: &Daemon| daemon.log().iter().any(|line| line.contains(world.state().to_str().unwrap()));
    wait_until("it says which", DEADLINE, || said(&daemon));
}

#[test]
fn what_is_not_checked_and_drained_is_so_from_the_first_moment_after_a_restart_and_nobody_is_told() {
    let (world, a, b) = (World::new(), Backend::start("a"), Backend::start("b"));
    let text = world.config("kind = \"none\"", &[&a, &b]);
    let first = Daemon::start(&text);
    assert_eq!(world.send("POST", "/pools/orders/backends/a/drain", &json!({})).status, 200);
    stop(first);
    let recording = world.dir.path().join("second.recording");
    let second = Daemon::start_args(&text, &["--record", recording.to_str().unwrap()]);
    assert_eq!(visit(world.listener).expect("served"), "b");
    // What was told at its start comes before this.
    wait_until("it is told", DEADLINE, || world.events("kind=daemon.started", 100).len() == 2);
    let completed = |event: &&Value| event["status"] == "completed";
    assert_eq!(world.events("kind=pool.failover", 100).iter().filter(completed).count(), 1, "the drain's");
    stop(second);
    let replayed = changeover(&["replay", recording.to_str().unwrap()]);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    assert!(replayed.stdout.contains("all as recorded"), "{replayed:?}");
}

#[test]
fn a_state_that_a_newer_version_wrote_exits_78_and_is_left_alone() {
    const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    let (world, a) = (World::new(), Backend::start("a"));
    let text = world.config(FAST, &[&a]);
    stop(Daemon::start(&text));
    let file = world.state().join(FILE_NAME);
    let database = Database::open(&file).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(META).unwrap().insert("format", 999).unwrap();
    write.commit().unwrap();
    drop(database);
    let mut daemon = Daemon::spawn(&text);
    assert_eq!(daemon.wait_exit().code(), Some(78));
    let said = |daemon: &Daemon| daemon.log().iter().any(|line| line.contains("written by a newer version"));
    wait_until("it says why", DEADLINE, || said(&daemon));
    let read = Database::open(&file).unwrap().begin_read().unwrap();
    assert_eq!(read.open_table(META).unwrap().get("format").unwrap().unwrap().value(), 999);
}

#[test]
fn a_state_that_may_not_be_written_exits_77_and_is_named() {
    let (world, a) = (World::new(), Backend::start("a"));
    let text = world.config(FAST, &[&a]);
    std::fs::set_permissions(world.state(), Permissions::from_mode(0o555)).unwrap();
    let mut daemon = Daemon::spawn_bound_by_permissions(&text);
    assert_eq!(daemon.wait_exit().code(), Some(77));
    let state = world.state().display().to_string();
    let said = |line: &String| line.contains(&state) && line.contains("let the daemon's user write there");
    wait_until("it says which, and what would help", DEADLINE, || daemon.log().iter().any(said));
    // It is left as it was, for whoever mends it.
    std::fs::set_permissions(world.state(), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(std::fs::read_dir(world.state()).unwrap().count(), 0);
}

#[test]
fn reloads_and_changes_by_the_api_lose_nothing_of_each_other() {
    /// At least, and more until the file has been read twice meanwhile.
    const REGISTERED: usize = 40;
    let (world, a, b) = (World::new(), Backend::start("a"), Backend::start("b"));
    let texts = [world.config("interval = \"1s\"", &[&a]), world.config("interval = \"2s\"", &[&a, &b])];
    let daemon = Daemon::start(&texts[0]);
    let (over, reloads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let registered = std::thread::scope(|scope| {
        let _over = StopOnDrop(&over);
        let changes = scope.spawn(|| {
            let mut number = 0;
            while (number < REGISTERED || reloads.load(Ordering::SeqCst) < 2) && !over.load(Ordering::SeqCst) {
                assert_eq!(world.register(&format!("r{number}"), fresh_addr(), 9).status, 201);
                number += 1;
            }
            number
        });
        let mut reloaded = 0;
        while !changes.is_finished() || reloaded % 2 == 1 {
            daemon.reload(&texts[(reloaded + 1) % 2]).expect("taken");
            reloaded = reloads.fetch_add(1, Ordering::SeqCst) + 1;
        }
        changes.join().unwrap()
    });
    let mut expected: BTreeSet<String> = (0..registered).map(|number| format!("r{number}")).collect();
    expected.insert("a".to_owned());
    assert_eq!(world.names(), expected);
    stop(daemon);
    let _next = Daemon::start(&texts[0]);
    assert_eq!(world.names(), expected);
}

/// A daemon in this process, so that it can be given orders.
struct Ordered {
    daemon: daemon::Daemon,
    runtime: tokio::runtime::Runtime,
}

impl Ordered {
    fn start(text: &str) -> Self {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let daemon = daemon::start(Document::load(file.path()).unwrap(), Options::default()).unwrap();
        assert!(daemon.wait_ready(DEADLINE));
        Self { daemon, runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap() }
    }

    /// What the control plane answers.
    fn answered<T>(&self, asked: impl Future<Output = T>) -> T {
        self.runtime.block_on(in_time("the control plane answers", asked))
    }

    #[track_caller]
    fn give(&self, order: Order) -> Done {
        let done = self.answered(self.daemon.control().carry_out(Actor::from("ops"), order));
        done.expect("it works").expect("not refused")
    }

    /// The daemon's own time.
    fn now(&self) -> MonoTime {
        self.answered(self.daemon.control().explain(pool())).unwrap().unwrap().at
    }

    fn stop(self) {
        self.daemon.stop(Duration::ZERO);
    }
}

fn pool() -> PoolName {
    PoolName::from("orders")
}

#[test]
fn drains_pins_and_pauses_outlive_a_restart() {
    let (mut world, a, b) = (World::new(), Backend::start("a"), Backend::start("b"));
    world.is_inside = true;
    let text = world.config(FAST, &[&a, &b]);
    let first = Ordered::start(&text);
    let drained = first.give(Order::SetAdminState { pool: pool(), backend: "a".into(), state: AdminState::Drain });
    assert!(
        drained.is_durable && drained.events.iter().any(|event| event.kind == "backend.admin_state" && event.id > 0)
    );
    first.stop();
    let second = Ordered::start(&text);
    assert_eq!(visit(world.listener).expect("served"), "b", "a is drained still");
    assert_eq!(world.get("/pools/orders")["backends"][0]["admin_state"], "drain");
    second.give(Order::SetAdminState { pool: pool(), backend: "a".into(), state: AdminState::Ready });
    let (to, reason) = (Some("b".into()), Some("upgrade".to_owned()));
    let pinned = second.give(Order::Failover { pool: pool(), to, reason, sessions: SessionPolicy::Keep });
    let last = pinned.events.last().unwrap();
    assert_eq!(
        (last.kind.as_str(), last.status.as_deref(), last.to.as_deref()),
        ("pool.failover", Some("completed"), Some("b"))
    );
    second.stop();
    let failovers = |world: &World| world.events("kind=pool.failover&pool=orders", 100).len();
    let third = Ordered::start(&text);
    assert_eq!(visit(world.listener).expect("served"), "b", "it is pinned still");
    assert_eq!((&world.get("/pools/orders")["pinned"], failovers(&world)), (&json!("b"), 6), "and no new failover");
    // And who ordered it, and when: that of the event, and not of this process.
    let ordered = |world: &World, rule: &str| {
        let explained = world.get("/pools/orders/explain");
        let rules = explained["rules"].as_array().unwrap();
        let rule = rules.iter().find(|one| one["rule"] == rule).unwrap_or_else(|| panic!("no {rule}: {explained}"));
        (rule["by"].clone(), rule["ordered_at"].clone())
    };
    let when = |world: &World, kind: &str| world.events(&format!("kind={kind}"), 100).pop().unwrap()["time"].clone();
    let pin = world.get("/pools/orders");
    assert_eq!((&pin["pinned_by"], &pin["pinned_at"]), (&json!("ops"), &when(&world, "pool.failover")));
    assert_eq!(ordered(&world, "pinned"), (json!("ops"), pin["pinned_at"].clone()));
    third.give(Order::Failback { pool: pool() });
    assert_eq!(world.get("/pools/orders")["pinned_by"], Value::Null);
    let pause = Duration::from_secs(600);
    assert!(third.give(Order::Pause { pool: pool(), until: Some(third.now() + pause) }).is_durable);
    third.stop();
    let fourth = Ordered::start(&text);
    let paused = world.get("/pools/orders");
    assert_eq!((&paused["paused_by"], &paused["paused_at"]), (&json!("ops"), &when(&world, "pool.paused")));
    assert_eq!(ordered(&world, "paused"), (json!("ops"), paused["paused_at"].clone()));
    let status = fourth.answered(fourth.daemon.control().pool(pool())).unwrap().unwrap();
    let until = status.paused.expect("it is paused still").until.expect("for a time");
    let left = until.since(fourth.now());
    assert!(left < pause && left > pause / 2, "{left:?} are left");
    assert_eq!((status.pinned, status.failovers), (None, 2));
    fourth.give(Order::Resume { pool: pool() });
    fourth.stop();
    let fifth = Ordered::start(&text);
    assert_eq!(visit(world.listener).expect("served"), "a");
    assert_eq!(world.get("/pools/orders")["paused"], false);
    fifth.stop();
}

/// How often the daemon is killed.
const KILLS: usize = 50;

/// Registers and removes until the daemon is gone. Gives what it was told is durable: a name, and whether it is there.
fn change_until_killed(socket: &Path, prefix: &str, begun: &impl Fn()) -> (Vec<(String, bool)>, BTreeSet<String>) {
    let (mut acknowledged, mut in_doubt) = (Vec::new(), BTreeSet::new());
    for number in 0.. {
        let name = |number: usize| format!("{prefix}-{number}");
        let body = json!({ "name": name(number), "address": fresh_addr().to_string(), "priority": 9 });
        let mut steps = vec![("POST", "/api/v1/pools/orders/backends".to_owned(), body, name(number), true)];
        if number % 2 == 1 {
            let gone = name(number - 1);
            steps.push(("DELETE", format!("/api/v1/pools/orders/backends/{gone}"), Value::Null, gone, false));
        }
        for (method, path, body, name, is_there) in steps {
            match http::send_unix(socket, method, &path, &body.to_string()) {
                Ok(answer) => {
                    assert!(answer.status < 300 && answer.json()["durable"] == true, "{}", answer.body);
                    acknowledged.push((name, is_there));
                    begun();
                }
                Err(_) => {
                    // It was under way, or not.
                    in_doubt.insert(name);
                    return (acknowledged, in_doubt);
                }
            }
        }
    }
    (acknowledged, in_doubt)
}

#[test]
fn what_was_acknowledged_is_there_after_each_of_fifty_kills() {
    let (world, a, began) = (World::new(), Backend::start("a"), Instant::now());
    let text = world.config("interval = \"1s\"", &[&a]);
    let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (over, served, listener) = (Arc::clone(&over), Arc::clone(&served), world.listener);
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match visit(listener) {
                        Ok(_) => {
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) => std::thread::yield_now(),
                    }
                }
            })
        })
        .collect();
    let (mut there, mut in_doubt) = (BTreeMap::<String, bool>::new(), BTreeSet::<String>::new());
    let (mut acknowledged, mut last_id) = (0, 0);
    for round in 0..=KILLS {
        let mut daemon = Daemon::start(&text);
        let names = world.names();
        for (name, is_there) in there.iter().filter(|(name, _)| !in_doubt.contains(*name)) {
            assert_eq!(names.contains(name), *is_there, "round {round}: {name}");
        }
        last_id = check_history(&world, round, &there, last_id);
        if round == KILLS {
            break;
        }
        let (tell, begun) = channel();
        // Several at once, so that the kill finds changes at every stage of their way.
        let changes: Vec<_> = (0..3)
            .map(|caller| {
                let (socket, tell, prefix) = (world.socket(), tell.clone(), format!("r{round}-{caller}"));
                std::thread::spawn(move || {
                    change_until_killed(&socket, &prefix, &|| {
                        tell.send(()).ok();
                    })
                })
            })
            .collect();
        for _ in 0..3 + round % 7 {
            begun.recv_timeout(DEADLINE).expect("changes are acknowledged");
        }
        // Nothing is waited for: the kill is to come at any moment of a change, not only right after one.
        std::thread::park_timeout(Duration::from_micros(fastrand::u64(..10_000)));
        daemon.kill();
        for caller in changes {
            let (said, doubt) = caller.join().unwrap();
            acknowledged += said.len();
            there.extend(said);
            in_doubt.extend(doubt);
        }
    }
    over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    let served = served.load(Ordering::Relaxed);
    assert!(served > 0, "nobody was served meanwhile");
    println!("{KILLS} kills, {acknowledged} acknowledged, {served} served, {:?}", began.elapsed());
}

/// Every acknowledged change has its event, ids only grow, and what one daemon gave out has no gap up to the last
/// that it acknowledged. Returns the newest id.
#[track_caller]
fn check_history(world: &World, round: usize, there: &BTreeMap<String, bool>, last_id: u64) -> u64 {
    let events = world.events("", 1000);
    let id = |event: &Value| event["id"].as_u64().unwrap();
    assert!(events.windows(2).all(|pair| id(&pair[0]) < id(&pair[1])), "round {round}: none twice, and in order");
    let done: Vec<&Value> =
        events.iter().filter(|e| e["kind"] == "admin.action" && e["detail"]["result"] == "done").collect();
    let of = |name: &str, what: &str| done.iter().any(|e| e["backend"] == name && e["detail"]["action"] == what);
    for (name, is_there) in there {
        assert!(of(name, "backend.register"), "round {round}: {name} was registered");
        assert!(*is_there || of(name, "backend.remove"), "round {round}: {name} was removed");
    }
    let newer: Vec<u64> = done.iter().map(|event| id(event)).filter(|id| *id > last_id).collect();
    if let (Some(first), Some(last)) = (newer.first(), newer.last()) {
        let between = events.iter().filter(|event| (*first..=*last).contains(&id(event))).count() as u64;
        assert_eq!(between, last - first + 1, "round {round}: no gap");
    }
    events.last().map_or(last_id, id)
}
