//! What is changed at run time: what is accepted, what is refused and with which words, and what becomes
//! of it when the file changes.

use changeover::config::Document;
use changeover::config::overlay::{
    Change, Changed, Dropped, Overlay, Patch, PatchKey, Registration, RejectCode, Rejected, Request, at_run_time,
    effective, failover_config, shown,
};
use changeover::model::{Actor, BackendName, Plan, PoolName};
use serde_json::{Value, json};

use super::{Fake, SECRET};

const LISTENER: &str = "[listeners.l]\nbind = '127.0.0.1:1'\npool = 'p'\n";
const LONG: &str = "[pools.p.backends.pg1]\naddress = '10.0.0.1:5432'\nweight = 2\n\
    [pools.p.backends.pg2]\naddress = 'db:5432'\ncheck = { timeout = '2s' }\n";
const SHORT: &str = "[pools.p]\nbackends = ['10.0.0.1:5432', 'unix:/run/pg/sock']\n";

pub(crate) fn document(pools: &str) -> Document {
    let text = format!("{LISTENER}{pools}");
    Document::parse("test.toml", &text, &Fake).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// A document with what lies over it, as a daemon has them.
struct World {
    document: Document,
    overlay: Overlay,
    second: i64,
}

impl World {
    fn new(pools: &str) -> Self {
        Self { document: document(pools), overlay: Overlay::default(), second: 0 }
    }

    fn ask(&mut self, ask: impl Fn(&Request<'_>) -> Result<Changed, Rejected>) -> Result<Changed, Rejected> {
        self.second += 1;
        let pool = PoolName::from("p");
        let at = jiff::Timestamp::from_second(self.second).unwrap();
        let request =
            Request { document: &self.document, overlay: &self.overlay, pool: &pool, at, actor: Actor::from("ops") };
        let changed = ask(&request)?;
        self.overlay = changed.overlay.clone();
        Ok(changed)
    }

    fn register(&mut self, body: &Value) -> Result<Changed, Rejected> {
        self.ask(|request| request.register(body))
    }

    fn change(&mut self, backend: &str, body: &Value) -> Result<Changed, Rejected> {
        self.ask(|request| request.change(&BackendName::from(backend), body))
    }

    fn remove(&mut self, backend: &str) -> Result<Changed, Rejected> {
        self.ask(|request| request.remove(&BackendName::from(backend)))
    }

    fn patch(&mut self, body: &Value) -> Result<Changed, Rejected> {
        self.ask(|request| request.patch(body))
    }

    /// Reads another file; answers with the plan and why what was dropped.
    fn reload(&mut self, pools: &str) -> (Plan, Vec<String>) {
        self.document = document(pools);
        let result = effective(&self.document, &self.overlay);
        for change in &result.changes {
            self.overlay.apply(change.clone());
        }
        assert_eq!(self.overlay, result.overlay);
        (result.plan, result.notes.iter().map(ToString::to_string).collect())
    }

    fn config(&self) -> Value {
        failover_config(&self.document, &self.overlay, &PoolName::from("p")).unwrap()
    }
}

/// The fields that were refused, and the code.
fn fields(result: Result<Changed, Rejected>) -> (RejectCode, Vec<(String, String)>) {
    let rejected = result.unwrap_err();
    (rejected.code, rejected.faults.into_iter().map(|fault| (fault.field, fault.message)).collect())
}

#[track_caller]
fn refused(result: Result<Changed, Rejected>, code: RejectCode, wanted: &[(&str, &str)]) {
    let (found, faults) = fields(result);
    assert_eq!(found, code, "{faults:?}");
    for (field, words) in wanted {
        assert!(
            faults.iter().any(|(at, message)| at == field && message.contains(words)),
            "{field} {words}: {faults:?}"
        );
    }
    assert_eq!(faults.len(), wanted.len(), "{faults:?}");
}

fn backend<'p>(plan: &'p Plan, name: &str) -> &'p changeover::model::BackendPlan {
    plan.pools["p"].backends.iter().find(|backend| backend.name.as_str() == name).unwrap()
}

#[test]
fn a_registered_backend_is_one_of_the_pool_whatever_the_form_of_the_file() {
    for file in [LONG, SHORT] {
        let mut world = World::new(file);
        let body = json!({"name": "new", "address": "10.0.0.9:1", "priority": 7, "weight": null,
            "max_connections": 5, "send_proxy_protocol": "v2", "check": {"interval": "250ms", "kind": "http", "http": {"port": 8009}}});
        let changed = world.register(&body).unwrap();
        assert_eq!(changed.changes.len(), 1);
        let result = effective(&world.document, &world.overlay);
        assert_eq!((result.notes.len(), &result.plan.pools["p"]), (0, &changed.pool));
        assert_eq!(changed.pool.backends.len(), 3);
        let new = backend(&result.plan, "new");
        assert_eq!((new.priority, new.weight, new.max_connections), (7, 1, 5));
        assert_eq!(new.check.interval.as_millis(), 250);
        world.change("new", &json!({"weight": 9, "check": {"interval": null, "http": {"path": "/x"}}})).unwrap();
        let changed = world.change("new", &json!({"address": "10.0.0.10:1"})).unwrap();
        let new = &changed.pool.backends.iter().find(|backend| backend.name.as_str() == "new").unwrap();
        assert_eq!(
            (new.weight, new.check.interval.as_millis(), new.address.to_string().as_str()),
            (9, 1000, "10.0.0.10:1")
        );
        world.remove("new").unwrap();
        assert!(world.overlay.is_empty());
        refused(world.remove("new"), RejectCode::BackendNotFound, &[("", "has no backend `new`")]);
    }
}

#[test]
fn a_backend_of_the_file_is_changed_key_by_key_and_not_removed() {
    for (file, name) in [(LONG, "pg1"), (SHORT, "10.0.0.1:5432"), (SHORT, "unix:/run/pg/sock")] {
        let mut world = World::new(file);
        let changed = world.change(name, &json!({"weight": 9, "priority": 3, "check": {"interval": "3s"}})).unwrap();
        assert_eq!(changed.changes.len(), 3);
        let plan = effective(&world.document, &world.overlay).plan;
        let changed = backend(&plan, name);
        assert_eq!((changed.weight, changed.priority, changed.check.interval.as_secs()), (9, 3, 3));
        world.change(name, &json!({"weight": null, "check": null})).unwrap();
        assert_eq!(world.overlay.patches.len(), 1);
        refused(world.remove(name), RejectCode::BackendInFile, &[("", "stands in the file")]);
        let moved = world.change(name, &json!({"address": "10.0.0.7:1", "weight": 0}));
        refused(moved, RejectCode::InvalidValue, &[("address", "changed in the file"), ("weight", "from 1 to 1000")]);
    }
}

#[test]
fn every_fault_names_its_field_and_what_would_be_right() {
    let new = |more: Value| {
        let mut body = json!({"name": "new", "address": "10.0.0.9:1"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (body, wanted) in [
        (json!({"name": "new"}), &[("address", "has no `address`; write address = ")][..]),
        (json!({"address": "a:1"}), &[("name", "has no `name`")]),
        (json!({"name": 5, "address": "a:0"}), &[("name", "takes a text"), ("address", "has port 0")]),
        (json!({"name": "a/b", "address": "a:1"}), &[("name", "is no name for an entry")]),
        (new(json!({"wieght": 3})), &[("wieght", "did you mean `weight`?")]),
        (new(json!({"weight": 0, "priority": "x"})), &[("weight", "not `0`"), ("priority", "whole number")]),
        (new(json!({"weight": 1.5})), &[("weight", "not a float")]),
        (new(json!({"weight": 99999999999999999999.0})), &[("weight", "whole number")]),
        (new(json!({"weight": u64::MAX})), &[("weight", "not `18446744073709551615`")]),
        (new(json!({"check": 5})), &[("check", "is a table, not an integer")]),
        (new(json!({"check": {"interval": "5"}})), &[("check.interval", "has no unit")]),
        (new(json!({"check": {"interval": 5}})), &[("check.interval", "write \"5s\" for seconds")]),
        (new(json!({"check": {"intervall": "5s"}})), &[("check.intervall", "did you mean `interval`?")]),
        (new(json!({"check": {"http": {"port": 1}}})), &[("check.http", "kind is \"tcp\"")]),
        (new(json!({"check": {"kind": "http", "http": {"expect": []}}})), &[("check.http.expect", "not an array")]),
        (new(json!({"address": "127.0.0.1:1"})), &[("address", "would connect to itself")]),
        (json!([]), &[("", "is no object")]),
    ] {
        let mut world = World::new(LONG);
        refused(world.register(&body), RejectCode::InvalidValue, wanted);
        assert!(world.overlay.is_empty());
    }
    for (body, wanted) in [
        (
            json!({"check": {"interval": "1ms", "timeout": true}}),
            &[("check.interval", "10ms"), ("check.timeout", "a duration")][..],
        ),
        (json!({"failover": {"sessions": {"dead": "kil"}}}), &[("failover.sessions.dead", "not `kil`")]),
        (json!({"failover": {"sesions": null}}), &[("failover.sesions", "did you mean `sessions`?")]),
        (json!({"failover": 5}), &[("failover", "is a table")]),
        (
            json!({"hold": "5s", "chek": {}}),
            &[("hold", "`check` and `failover` can"), ("chek", "did you mean `check`?")],
        ),
        (json!({"check": {"http.port": 1}}), &[("check.http.port", "unknown key `http.port`")]),
        (json!({"check": {"http": {"port": 1}}}), &[("check.http.port", "kind is \"tcp\"")]),
    ] {
        let mut world = World::new(LONG);
        refused(world.patch(&body), RejectCode::InvalidValue, wanted);
        assert!(world.overlay.is_empty());
    }
}

#[test]
fn names_and_addresses_are_taken_once() {
    for (file, name) in [(LONG, "pg1"), (SHORT, "10.0.0.1:5432")] {
        let mut world = World::new(file);
        let exists = world.register(&json!({"name": name, "address": "10.0.0.9:1"}));
        refused(exists, RejectCode::BackendExists, &[("name", "the file has it")]);
        let used = world.register(&json!({"name": "new", "address": "10.0.0.1:5432"}));
        refused(used, RejectCode::AddressInUse, &[("address", &format!("the address of backend `{name}`"))]);
        world.register(&json!({"name": "new", "address": "New:1"})).unwrap();
        let exists = world.register(&json!({"name": "new", "address": "10.0.0.9:2"}));
        refused(exists, RejectCode::BackendExists, &[("name", "change it, or remove it first")]);
        let used = world.register(&json!({"name": "newer", "address": "nEW:1"}));
        refused(used, RejectCode::AddressInUse, &[("address", "backend `new`")]);
        world.register(&json!({"name": "newer", "address": "newer:1"})).unwrap();
        let used = world.change("newer", &json!({"address": "new:1"}));
        refused(used, RejectCode::AddressInUse, &[("address", "backend `new`")]);
        refused(world.change("old", &json!({})), RejectCode::BackendNotFound, &[("", "`old`")]);
    }
    let mut world = World::new(LONG);
    let elsewhere = world.ask(|request| Request { pool: &PoolName::from("pp"), ..request.clone() }.patch(&json!({})));
    refused(elsewhere, RejectCode::PoolNotFound, &[("", "did you mean `p`?")]);
}

#[test]
fn no_caller_reads_the_daemons_files_or_runs_a_program_or_sets_a_secret() {
    let file = "{ file = '/etc/changeover/patroni-authorization' }";
    let mut world = World::new(&format!(
        "{LONG}[pools.p.check]\nkind = 'http'\ninterval = '1s'\nhttp = {{ authorization = {file} }}\n"
    ));
    for (address, word) in [(json!({"file": "/etc/passwd"}), "file"), (json!({"env": "DATABASE_URL"}), "env")] {
        let rejected = world.register(&json!({"name": "new", "address": address})).unwrap_err();
        assert_eq!(rejected.faults[0].field, "address");
        assert!(rejected.to_string().contains("are for the file alone"), "{rejected}");
        let interval = world.patch(&json!({"check": {"interval": {word: "DATABASE_URL"}}}));
        refused(interval, RejectCode::InvalidValue, &[("check.interval", "are for the file alone")]);
    }
    let program = json!({"check": {"kind": "command", "command": ["/bin/sh", "-c", "id"]}});
    let wanted = &[("check.kind", "daemon's rights"), ("check.command", "daemon's rights")];
    refused(world.patch(&program), RejectCode::InvalidValue, wanted);
    refused(world.change("pg1", &program), RejectCode::InvalidValue, wanted);
    let mut new = program.clone();
    new.as_object_mut().unwrap().extend([("name".to_owned(), json!("new")), ("address".to_owned(), json!("a:1"))]);
    refused(world.register(&new), RejectCode::InvalidValue, wanted);
    let secret = json!({"check": {"http": {"authorization": SECRET}}});
    for result in [world.patch(&secret), world.change("pg1", &secret)] {
        let (_, faults) = fields(result);
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].0, "check.http.authorization");
        assert!(faults[0].1.contains("is a secret") && !faults[0].1.contains(SECRET), "{faults:?}");
    }
    assert!(world.overlay.is_empty());
    let config = world.config();
    assert_eq!(config["check"]["http"]["authorization"], json!("[not shown]"));
    assert!(!format!("{config} {:?}", world.document).contains(SECRET));
    // Nor if a store has it from wherever: it is dropped, and what is told of it shows nothing of the file.
    let value = |value: Value| Patch { value, base: None, at: jiff::Timestamp::UNIX_EPOCH, actor: Actor::from("x") };
    for (path, to) in [
        ("check.http.authorization", json!(SECRET)),
        ("check.command", json!(["/bin/sh"])),
        ("check.kind", json!("command")),
        ("check.http.method", json!("POST")),
        ("check.timeout", json!({"env": "DATABASE_URL"})),
        ("hold", json!("1s")),
        ("check", json!({"timeout": "1s"})),
    ] {
        let mut overlay = Overlay::default();
        overlay.apply(Change::Patch(PoolName::from("p"), PatchKey::of_pool(path), Some(value(to))));
        let result = effective(&world.document, &overlay);
        assert_eq!((&result.plan, result.overlay.is_empty()), (world.document.plan(), true), "{path}");
        assert_eq!(result.notes.len(), 1, "{path}");
        assert!(!format!("{:?} {}", result.notes, result.notes[0].to_json()).contains(SECRET), "{path}");
    }
}

#[test]
fn no_caller_has_the_daemon_dial_a_unix_socket() {
    let mut world = World::new(SHORT);
    let wanted = &[("address", "is a Unix socket, which would be dialled with the daemon's rights")];
    for socket in
        ["unix:/run/docker.sock", "unix:/run/x/../docker.sock", "unix:/run/pg/sock", "unix:x", "unix:", "/run/x"]
    {
        let new = json!({"name": "new", "address": socket, "check": {"kind": "none"}});
        refused(world.register(&new), RejectCode::InvalidValue, wanted);
        assert!(world.overlay.is_empty());
    }
    world.register(&json!({"name": "new", "address": "new:1"})).unwrap();
    refused(world.change("new", &json!({"address": "unix:/run/pg/sock"})), RejectCode::InvalidValue, wanted);
    assert_eq!(backend(&world.reload(SHORT).0, "unix:/run/pg/sock").address.to_string(), "unix:/run/pg/sock");
    // As it was kept when it still could be registered.
    let kept = world.overlay.registrations.values_mut().next().unwrap();
    kept.table.insert("address".to_owned(), json!("unix:/run/docker.sock"));
    let (plan, notes) = world.reload(SHORT);
    assert_eq!(notes.len(), 1);
    assert!(
        notes[0]
            .starts_with("pool p: the registration of backend new is dropped: `address`: `unix:/run/docker.sock` is a")
    );
    assert!(notes[0].contains("belongs in the file"), "{notes:?}");
    assert_eq!(plan.pools["p"].backends.len(), 2);
    assert!(world.overlay.is_empty());
}

#[test]
fn a_patch_holds_until_the_file_says_something_else() {
    let check = |interval: &str| format!("{LONG}[pools.p.check]\n{interval}\n");
    let mut world = World::new(&check("interval = '1s'"));
    world
        .patch(&json!({"check": {"interval": "250ms", "timeout": "3s"}, "failover": {"sessions": {"dead": "drain"}}}))
        .unwrap();
    let (plan, notes) = world.reload(&format!("{}[pools.p.failover]\nfailback = 'manual'\n", check("interval = '1s'")));
    assert_eq!(notes, Vec::<String>::new());
    assert_eq!(backend(&plan, "pg1").check.interval.as_millis(), 250);
    assert_eq!(backend(&plan, "pg2").check.timeout.as_secs(), 2, "what a backend has of its own goes before");
    let (plan, notes) = world.reload(&check("interval = '2s'"));
    assert_eq!(backend(&plan, "pg1").check.interval.as_secs(), 2);
    let wanted = "pool p: the change of `check.interval` is dropped: \
        the file now says `\"2s\"`, and said `\"1s\"` when it was set to `\"250ms\"`";
    assert_eq!(notes, [wanted]);
    assert_eq!(world.reload(&check("interval = '1s'")).1, Vec::<String>::new(), "what is dropped stays dropped");
    assert_eq!(world.overlay.patches.len(), 2);
    let (_, notes) = world.reload(&check("timeout = '3s'"));
    assert!(notes[0].contains("said nothing when it was set to `\"3s\"`"), "{notes:?}");
    let (plan, notes) = world.reload(LONG);
    assert!(notes.is_empty());
    assert_eq!(plan.pools["p"].failover.sessions.dead.label(), "drain");
}

#[test]
fn the_file_wins_over_registrations_of_the_same_name_or_address() {
    let mut world = World::new(LONG);
    for (name, address) in [("pg3", "10.0.0.3:1"), ("pg4", "Ten:4"), ("pg5", "10.0.0.5:1")] {
        world.register(&json!({"name": name, "address": address, "weight": 5})).unwrap();
    }
    let more = "[pools.p.backends.pg3]\naddress = '10.0.0.30:1'\n[pools.p.backends.other]\naddress = 'tEN:4'\n";
    let (plan, notes) = world.reload(&format!("{LONG}{more}"));
    assert_eq!(notes.len(), 2);
    assert!(notes[0].contains("registration of backend pg3 is dropped: the file now has a backend of that name"));
    assert!(notes[1].contains("pg4 is dropped: the file now has backend other at its address"));
    assert_eq!((plan.pools["p"].backends.len(), backend(&plan, "pg3").weight, backend(&plan, "pg5").weight), (5, 1, 5));
    world.change("pg1", &json!({"weight": 50})).unwrap();
    let (_, notes) = world.reload("[pools.p.backends.pg2]\naddress = 'db:5432'\n");
    assert_eq!(
        notes,
        ["pool p: the change of `backends.pg1.weight` is dropped: the file has no such backend any more"]
    );
    let (plan, notes) = world.reload("[pools.q]\nbackends = ['a:1']\n[listeners.m]\nbind = '127.0.0.1:2'\npool = 'q'\n[pools.p]\nbackends = ['db:1']\n");
    assert_eq!((notes.len(), plan.pools["p"].backends.len()), (0, 2));
    let moved = LISTENER.replace("'p'", "'q'");
    world.document = Document::parse("f", &format!("{moved}[pools.q]\nbackends = ['a:1']\n"), &Fake).unwrap();
    let result = effective(&world.document, &world.overlay);
    assert_eq!(result.notes.len(), 1);
    assert_eq!(result.notes[0].dropped, Dropped::PoolGone);
    assert!(result.overlay.is_empty());
    assert_eq!(&result.plan, world.document.plan());
}

#[test]
fn in_a_list_the_place_is_the_priority_that_the_file_says() {
    let mut world = World::new("[pools.p]\nbackends = ['a:1', 'b:1', 'c:1']\n");
    world.change("b:1", &json!({"priority": 9, "weight": 3})).unwrap();
    let (plan, notes) = world.reload("[pools.p]\nbackends = ['a:1', 'b:1']\n");
    assert_eq!((notes.len(), backend(&plan, "b:1").priority, backend(&plan, "b:1").weight), (0, 9, 3));
    let (plan, notes) = world.reload("[pools.p]\nbackends = ['b:1', 'a:1']\n");
    assert_eq!(notes.len(), 1);
    assert_eq!((backend(&plan, "b:1").priority, backend(&plan, "b:1").weight), (1, 3));
}

#[test]
fn what_is_valid_no_more_is_dropped_and_nothing_else() {
    let http = "[pools.p.check]\nkind = 'http'\n";
    let mut world = World::new(&format!("{LONG}{http}"));
    world
        .patch(&json!({"check": {"timeout": "3s", "http": {"port": 8009}}, "failover": {"automatic": false}}))
        .unwrap();
    world.register(&json!({"name": "new", "address": "[::1]:9"})).unwrap();
    world.register(&json!({"name": "newer", "address": "127.0.0.1:9"})).unwrap();
    let (plan, notes) = world.reload(&format!("[pools.p]\nsource_address = '10.0.0.9'\n{LONG}"));
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("`check.http.port` is dropped: [pools.p.check.http] is given")));
    assert!(notes.iter().any(|note| note.contains("backend new is dropped") && note.contains("one is IPv4")));
    assert_eq!(backend(&plan, "pg1").check.timeout.as_secs(), 3);
    assert!(!plan.pools["p"].failover.automatic && plan.pools["p"].backends.len() == 3);
    // What is wrong may stand in the file, and only because of a change.
    let mut world = World::new(&format!("{LONG}{http}"));
    world.change("pg1", &json!({"check": {"kind": "tcp", "timeout": "3s"}})).unwrap();
    let own = LONG.replacen("weight = 2\n", "weight = 2\ncheck = { http = { port = 8009 } }\n", 1);
    let (plan, notes) = world.reload(&format!("{own}{http}"));
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("`backends.pg1.check.kind` is dropped: [pools.p.backends.pg1.check.http] is given"));
    assert_eq!(backend(&plan, "pg1").check.timeout.as_secs(), 3);
    let asked = world.patch(&json!({"check": {"kind": "tcp", "interval": "2s"}}));
    refused(asked, RejectCode::InvalidValue, &[("check.kind", "[pools.p.backends.pg1.check.http] is given")]);
    // A listener that now stands where a registered backend is.
    world.register(&json!({"name": "new", "address": "127.0.0.1:7"})).unwrap();
    let (_, notes) = world.reload(&format!("{own}{http}[listeners.m]\nbind = '127.0.0.1:7'\npool = 'p'\n"));
    assert!(notes.len() == 1 && notes[0].contains("it would connect to itself"), "{notes:?}");
    // And the admin server, which listens at its default address and then where another one is.
    let own = world.register(&json!({"name": "door", "address": "localhost:7072"}));
    refused(own, RejectCode::AddressInUse, &[("address", "where [admin] itself listens")]);
    world.register(&json!({"name": "new", "address": "127.0.0.1:8"})).unwrap();
    let own = world.change("new", &json!({"address": "127.0.0.1:7072"}));
    refused(own, RejectCode::AddressInUse, &[("address", "where [admin] itself listens")]);
    let (_, notes) = world.reload(&format!("{LONG}{http}[admin]\nbind = '0.0.0.0:8'\n"));
    assert!(notes.len() == 1 && notes[0].contains("backend new is dropped"), "{notes:?}");
}

#[test]
fn a_check_that_is_set_at_run_time_asks_and_orders_nothing() {
    let check = |method: &str| json!({"kind": "http", "http": {"method": method}});
    let new = |method: &str| json!({"name": "new", "address": "new:1", "check": check(method)});
    let mut world = World::new(LONG);
    for method in ["POST", "DELETE", "OPTIONS"] {
        let wanted = &[("check.http.method", "GET and HEAD may be set")];
        refused(world.register(&new(method)), RejectCode::InvalidValue, wanted);
        refused(world.change("pg1", &json!({"check": check(method)})), RejectCode::InvalidValue, wanted);
        refused(world.patch(&json!({"check": check(method)})), RejectCode::InvalidValue, wanted);
    }
    assert!(world.overlay.is_empty());
    world.register(&new("GET")).unwrap();
    world.patch(&json!({"check": check("HEAD")})).unwrap();
}

#[test]
fn what_is_in_force_is_told_with_what_comes_from_run_time() {
    let looked_up = "timeout = { env = 'TIMEOUT' }";
    let mut world = World::new(&format!("{LONG}[pools.p.check]\ninterval = '1m 30s'\n{looked_up}\n"));
    let config = world.config();
    assert_eq!(config["check"]["interval"], "1m 30s");
    assert_eq!((&config["check"]["timeout"], &config["check"]["healthy_threshold"]), (&json!("7s"), &json!(2)));
    assert_eq!(config["check"]["recovery_interval"], Value::Null);
    assert_eq!(config["failover"]["sessions"]["dead"], "close");
    assert_eq!((config["check"].get("http"), &config["overridden"]), (None, &json!([])));
    let body =
        json!({"check": {"kind": "http", "interval": "2s", "http": {"port": 8009}}, "failover": {"automatic": false}});
    world.patch(&body).unwrap();
    world.change("pg1", &json!({"weight": 7})).unwrap();
    let config = world.config();
    assert_eq!((&config["check"]["interval"], &config["check"]["http"]["port"]), (&json!("2s"), &json!(8009)));
    assert_eq!(config["check"]["http"]["path"], "/health");
    assert_eq!(config["overridden"], json!(["check.http.port", "check.interval", "check.kind", "failover.automatic"]));
    world.patch(&json!({"check": {"interval": null}})).unwrap();
    assert_eq!(world.config()["check"]["interval"], "1m 30s");
    world.patch(&json!({"check": null, "failover": null})).unwrap();
    assert_eq!(world.config()["overridden"], json!([]));
    assert_eq!(world.overlay.patches.len(), 1);
    assert_eq!(failover_config(&world.document, &world.overlay, &PoolName::from("x")), None);
}

#[test]
fn what_may_hold_a_key_of_a_check_is_not_shown_to_all() {
    let http = |path: &str| format!("{SHORT}[pools.p.check]\nkind = 'http'\n[pools.p.check.http]\npath = {path}\n");
    let agent = |send: &str| format!("{SHORT}[pools.p.check]\nkind = 'agent'\n[pools.p.check.agent]\nsend = {send}\n");
    let expect =
        |answer: &str| format!("{SHORT}[pools.p.check]\nkind = 'expect'\n[pools.p.check.expect]\nanswer = {answer}\n");
    let told = World::new(&expect(&format!("'{SECRET}'"))).config();
    assert_eq!(told.pointer("/check/expect/answer"), Some(&json!("[not shown]")));
    let p = PoolName::from("p");
    let (file, looked_up) = ("{ file = '/etc/changeover/orders.pw' }", "{ env = 'DATABASE_URL' }");
    for (text, after, pointer, wanted, body) in [
        (http(&format!("'/up?{SECRET}'")), http("'/other'"), "/check/http/path", "/up?[not shown]", "path"),
        (agent(&format!("'{SECRET}'")), agent("''"), "/check/agent/send", "[not shown]", "send"),
        (agent(file), agent("''"), "/check/agent/send", "[not shown]", "send"),
        (agent(looked_up), agent("''"), "/check/agent/send", "[not shown]", "send"),
    ] {
        let mut world = World::new(&text);
        assert_eq!(world.config().pointer(pointer), Some(&json!(wanted)), "{text}");
        let (table, own) =
            if body == "path" { ("http", format!("/mine?{SECRET}")) } else { ("agent", format!("mine {SECRET}")) };
        let patch = json!({"check": {table: {body: own}}});
        assert!(!shown(&patch).to_string().contains(SECRET), "{}", shown(&patch));
        world.patch(&patch).unwrap();
        let runtime = at_run_time(&world.overlay, &p);
        let (_, notes) = world.reload(&after);
        assert_eq!(notes.len(), 1, "{notes:?}");
        for told in [world.config().to_string(), runtime.to_string(), notes.concat()] {
            assert!(!told.contains(SECRET), "{told}");
        }
        // Whoever writes back what was shown is refused, and loses nothing.
        let field = format!("check.{table}.{body}");
        let back = json!({"check": {"kind": table, table: {body: wanted}}});
        refused(world.patch(&back), RejectCode::InvalidValue, &[(&field, "stands for what is not shown")]);
    }
    let mut world = World::new(&http("'/up'"));
    world.patch(&json!({"check": {"http": {"path": "/mine"}}})).unwrap();
    assert_eq!(world.config()["check"]["http"]["path"], "/mine");
    let said = json!({"name": "new", "address": "a:1", "check": {"interval": "1s", "http": {"path": "/up"}}});
    assert_eq!(shown(&said), said);
}

#[test]
fn what_the_file_looked_up_is_what_it_was_when_it_was_read() {
    let mut world = World::new(
        "[pools.p]\nbackends = ['a:1']\nkind = 'tcp'\n[pools.p.check]\nkind = 'http'\n\
        http = { authorization = { file = '/etc/changeover/patroni-authorization' } }\n",
    );
    let changed = world.register(&json!({"name": "new", "address": "b:1"})).unwrap();
    let of =
        |name: &str| changed.pool.backends.iter().find(|backend| backend.name.as_str() == name).unwrap().check.clone();
    assert_eq!(of("new"), of("a:1"));
    assert!(matches!(of("new").kind, changeover::model::CheckKind::Http(http) if http.authorization.is_some()));
}

#[test]
fn more_backends_than_a_pool_may_have_are_refused_and_the_youngest_dropped() {
    let list = |count: usize| {
        let names: Vec<String> = (0..count).map(|at| format!("'b{at}:1'")).collect();
        format!("[pools.p]\nbackends = [{}]\n", names.join(","))
    };
    let mut world = World::new(&list(19_998));
    world.register(&json!({"name": "old", "address": "old:1"})).unwrap();
    world.register(&json!({"name": "a-young", "address": "young:1"})).unwrap();
    let over = world.register(&json!({"name": "c", "address": "c:1"}));
    refused(over, RejectCode::LimitReached, &[("", "20000 is the most")]);
    let (plan, notes) = world.reload(&list(19_999));
    assert_eq!(notes, ["pool p: the registration of backend a-young is dropped: there may be 20000 at most"]);
    assert_eq!(plan.pools["p"].backends.len(), 20_000);
}

#[test]
fn a_registration_reads_back_as_it_was_kept() {
    let mut world = World::new(LONG);
    world.register(&json!({"name": "new", "address": "a:1", "check": {"interval": "3s"}})).unwrap();
    let kept = world.overlay.registrations.values().next().unwrap();
    assert_eq!(Registration::from_json(&kept.to_json()).as_ref(), Some(kept));
    assert_eq!(kept.actor.as_str(), "ops");
    assert_eq!(Registration::from_json(&json!({"table": []})), None);
}
