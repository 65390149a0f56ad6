//! Postgres pools: what is right in them and nowhere else, and what is said about the rest.

use std::path::PathBuf;
use std::time::Duration;

use changeover::config::overlay::{Overlay, Request, effective, failover_config};
use changeover::config::{Document, describe, reference};
use changeover::model::{
    Actor, CheckKind, ListenerName, Plan, PoolKind, PoolName, Promotion, SessionPolicy, Target, TlsMode, WatchSession,
};
use serde_json::json;

use super::{Fake, SECRET, file, read};

/// Nine lines of a file that is right, whose last table is `[pools.p]`.
const CLUSTER: &str = "\
[listeners.l]
bind = '127.0.0.1:1000'
pool = 'p'
[pools.p.backends]
a = { address = '10.0.0.1:5432', priority = 1 }
b = { address = '10.0.0.2:5432', priority = 2 }

[pools.p]
kind = 'postgres'
";

fn errors(text: &str) -> Vec<String> {
    let Err(errors) = read(text) else { return Vec::new() };
    errors.errors().iter().map(|e| format!("{}:{} {}", e.line, e.column, e.message)).collect()
}

fn pool(plan: &Plan) -> &changeover::model::PoolPlan {
    &plan.pools[&PoolName::from("p")]
}

/// Each stands behind the file, from line 10 on; the words are all that is said.
const BEHIND: &[(&str, &[&str])] = &[
    (
        "check.kind = 'tcp'",
        &[
            "10:14 `kind`: a postgres pool is checked by \"postgres\" alone, and \"tcp\" does not know which server is the \
           primary; leave it out, or write kind = \"tcp\" for the pool",
        ],
    ),
    ("check = { kind = 'none', interval = '1s' }", &["10:18 `kind`: a postgres pool is checked by \"postgres\" alone"]),
    (
        "check = { http = { path = '/' } }",
        &["10:18 [pools.p.check.http] is given, but the check's kind is \"postgres\""],
    ),
    (
        "[pools.p.backends.c]\naddress = 'c:1'\ncheck = { kind = 'http', http = { port = 8008 } }",
        &["`kind`: a postgres pool is checked by \"postgres\" alone, and \"http\" does not know"],
    ),
    ("postgres.user = ''", &["10:17 `user` is empty or has a NUL in it; write a name"]),
    ("postgres.database = \"a\\u0000b\"", &["10:21 `database` is empty or has a NUL in it"]),
    ("postgres.user = { env = 'NO' }", &["10:17 `user`: the environment variable `NO` is not set"]),
    ("postgres.password = ''", &["10:21 `password`: the value (not shown) is empty; leave the key out"]),
    ("postgres.password = { file = '/no' }", &["10:21 `password`: the file `/no` cannot be read: No such file"]),
    ("postgres.password = \"a\\u0000b\"", &["10:21 `password`: the value (not shown) cannot be a password"]),
    ("postgres.pasword = 'x'", &["unknown key `pasword` in [pools.p.postgres]; did you mean `password`?"]),
    ("postgres.tls = 'verify'", &["10:16 `tls` takes one of \"disable\", \"prefer\", \"require\", \"verify-ca\" or"]),
    (
        "postgres.tls = 'verify'\npostgres.ca_file = '/etc/changeover/orders-ca.pem'",
        &["10:16 `tls` takes one of \"disable\""],
    ),
    (
        "postgres.ca_file = '/etc/changeover/orders-ca.pem'",
        &[
            "10:20 `ca_file` is given, but `tls` is \"prefer\", which looks at no certificate; write tls = \"verify-full\", or",
        ],
    ),
    (
        "postgres = { tls = 'verify-full', ca_file = 'ca.pem' }",
        &[
            "`ca_file`: `ca.pem` is no absolute path; write one that begins with /, such as \"/etc/changeover/orders-ca.pem\"",
        ],
    ),
    (
        "postgres = { tls = 'verify-ca', ca_file = '/no' }",
        &["`ca_file`: the file cannot be read: No such file or directory (os error 2); create it, or let"],
    ),
    (
        "postgres = { tls = 'verify-ca', ca_file = '/binary' }",
        &["`ca_file`: the file has no certificate in PEM in it, which begins with -----BEGIN CERTIFICATE-----"],
    ),
    (
        "postgres = { tls = 'verify-ca', ca_file = '/etc/changeover/orders.pw' }",
        &["`ca_file`: the file has no certificate in PEM in it"],
    ),
    ("postgres.heartbeat = '1ms'", &["10:22 `heartbeat`: `1ms` is too short; it must be at least \"2ms\""]),
    ("postgres.heartbeat = '2s'", &["10:22 `heartbeat` is too long; \"1s\" is the most"]),
    (
        "postgres.heartbeat = '200ms'",
        &[
            "10:22 `heartbeat_deadline` (250ms) is less than twice `heartbeat` (200ms), so that one late answer would be a \
           server's end; write at least 400ms for it",
        ],
    ),
    (
        "postgres.heartbeat_deadline = '19ms'",
        &["10:31 `heartbeat_deadline` (19ms) is less than twice `heartbeat` (10ms)"],
    ),
    ("postgres.heartbeat_deadline = '61s'", &["10:31 `heartbeat_deadline` is too long; \"60s\" is the most"]),
    ("postgres.session = 'logical'", &["10:20 `session` takes one of \"replication\" or \"plain\", not `logical`"]),
    ("postgres.max_lag = 0", &["10:20 `max_lag` takes a size in quotes with its unit"]),
    ("postgres.max_lag = '1025GiB'", &["10:20 `max_lag`: `1025GiB` is not between \"0B\" and \"1024GiB\""]),
    ("postgres.max_lag_time = 10", &["10:25 `max_lag_time`: `10` has no unit; write \"10s\""]),
    (
        "postgres.promotion = 'automatic'",
        &[
            "10:22 `promotion`: `automatic` cannot be had: this version promotes no server, and follows who does; write \
           \"never\", and let Patroni",
        ],
    ),
    ("postgres.promotion = 'command'", &["10:22 `promotion`: `command` cannot be had"]),
    ("postgres.promotion = 'nevr'", &["10:22 `promotion` takes one of \"never\"", "did you mean \"never\"?"]),
    (
        "failover.sessions.demoted = 'cut'",
        &["10:29 `demoted` takes one of \"keep\", \"drain\" or \"close\", not `cut`"],
    ),
    ("failover.sessions.lagging = 5", &["10:29 `lagging` takes one of"]),
    (
        "[listeners.m]\nbind = '127.0.0.1:2'\npool = 'p'\ntarget = 'replica'",
        &["13:10 `target` takes one of \"primary\", \"standby\", \"prefer-standby\" or \"any\", not `replica`"],
    ),
    (
        "[pools.q]\nbackends = ['q:1']\n[pools.q.postgres]\nuser = 'x'",
        &["12:1 [pools.q.postgres] is given, but the pool's kind is \"tcp\"; write kind = \"postgres\" in [pools.q]"],
    ),
    (
        "[pools.q]\nbackends = ['q:1']\n[listeners.m]\nbind = '127.0.0.1:2'\npool = 'q'\ntarget = 'standby'",
        &[
            "15:10 `target`: \"standby\" is for postgres pools, and [pools.q] is of kind \"tcp\", which does not know who is \
           primary; write kind = \"postgres\" there, or leave it out",
        ],
    ),
    ("[listeners.m]\nbind = '127.0.0.1:2'\npool = 'x'\ntarget = 'standby'", &["`pool`: there is no pool `x`"]),
];

#[test]
fn what_is_wrong_in_a_postgres_pool_is_at_its_place_and_says_what_would_be_right() {
    assert_eq!(errors(CLUSTER), Vec::<String>::new());
    let mut wrong = Vec::new();
    for (text, wanted) in BEHIND {
        let found = errors(&format!("{CLUSTER}{text}"));
        let matched = wanted.iter().all(|part| found.iter().any(|error| error.contains(part)));
        if !matched || found.len() != 1 {
            wrong.push(format!("{text}\n  wanted {wanted:#?}\n  found {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_left_out_has_the_contracts_defaults() {
    let plan = read(CLUSTER).unwrap();
    let pool = pool(&plan);
    let postgres = pool.postgres.as_deref().unwrap();
    assert_eq!(
        (pool.kind, postgres.user.as_str(), postgres.database.as_str()),
        (PoolKind::Postgres, "changeover", "postgres")
    );
    assert_eq!((postgres.password.as_ref(), postgres.ca_file.as_ref()), (None, None));
    let beats = (postgres.heartbeat, postgres.heartbeat_deadline);
    assert_eq!(beats, (Duration::from_millis(10), Duration::from_millis(250)));
    assert_eq!((postgres.max_lag, postgres.max_lag_time), (16 << 20, Duration::from_secs(10)));
    let words = (postgres.tls, postgres.session, postgres.promotion);
    assert_eq!(words, (TlsMode::Prefer, WatchSession::Replication, Promotion::Never));
    let sessions = pool.failover.sessions;
    assert_eq!((sessions.demoted, sessions.lagging), (SessionPolicy::Close, SessionPolicy::Keep));
    assert!(pool.backends.iter().all(|backend| backend.check.kind == CheckKind::Postgres));
    assert_eq!(plan.listeners[&ListenerName::from("l")].target, Target::Primary);
    let tcp = read(&CLUSTER.replace("kind = 'postgres'", "")).unwrap();
    assert_eq!(tcp.pools[&PoolName::from("p")].postgres, None);
    assert_eq!(tcp.listeners[&ListenerName::from("l")].target, Target::Any);
}

#[test]
fn what_is_given_is_what_is_understood() {
    for target in Target::ALL {
        let text = CLUSTER.replace("pool = 'p'\n", &format!("pool = 'p'\ntarget = '{target}'\n"));
        let plan = read(&text).unwrap();
        assert_eq!(plan.listeners[&ListenerName::from("l")].target, *target);
        let says = describe(&plan);
        let wanted = match target {
            Target::Primary => "-> pool p, its primary\n",
            Target::Standby => "-> pool p, its standbys\n",
            Target::PreferStandby => "-> pool p, its standbys or else its primary\n",
            Target::Any => "-> pool p\n",
        };
        assert!(says.contains(wanted), "{says}");
    }
    let text = format!(
        "{CLUSTER}failover.sessions = {{ demoted = 'drain', lagging = 'close' }}\ncheck = {{ kind = 'postgres' }}\n\
         postgres = {{ password = '{SECRET} é', tls = 'verify-full', ca_file = '/etc/ssl/bundle.pem', session = 'plain', \
         max_lag = '0B', max_lag_time = '2s', heartbeat = '125ms', promotion = 'never' }}"
    );
    let plan = read(&text).unwrap();
    let postgres = pool(&plan).postgres.as_deref().unwrap();
    assert_eq!(postgres.password.as_ref().map(|secret| secret.expose().to_owned()), Some(format!("{SECRET} é")));
    assert_eq!(postgres.ca_file, Some(PathBuf::from("/etc/ssl/bundle.pem")));
    assert_eq!((postgres.session, postgres.max_lag), (WatchSession::Plain, 0));
    let sessions = pool(&plan).failover.sessions;
    assert_eq!((sessions.demoted, sessions.lagging), (SessionPolicy::Drain, SessionPolicy::Close));
    assert!(!format!("{plan:?}").contains(SECRET));
}

#[test]
fn a_cluster_is_described_and_its_password_is_not() {
    let described = describe(&read(&file("postgres.toml")).unwrap());
    let wanted = "\
  failover: automatic, to whoever is promoted
  sessions: dead close, unreachable close, check failed keep, drained drain, left by failback keep
  sessions: demoted close, lagging keep
  watched by \"changeover\", password [secret], logged in to \"postgres\" for replication
  watched over TLS: prefer
  heartbeat: every 10ms, deadline 250ms; promotion: never
  standbys may be behind by 16MiB and by 10s
";
    assert!(described.contains(wanted), "{described}");
    assert!(described.contains(
        "pg1 at 10.0.0.1:5432, at most 90 sessions; check: postgres every 1s, timeout 1s, unhealthy after 3"
    ));
    assert!(!described.contains(SECRET));
    let idle = file("postgres.toml").replace(
        "[pools.orders.postgres]",
        "[pools.orders.failover]\nfailback = 'manual'\nfailback_after = '1m'\n\n[pools.orders.postgres]",
    );
    let idle = describe(&read(&idle).unwrap());
    let said = "promoted; no effect: failback, failback_after, for it follows the primary, whatever its priority\n";
    assert!(idle.contains(said), "{idle}");
    let (_, of_pool) = described.split_once("\npool orders: ").unwrap();
    assert!(of_pool.lines().all(|line| line.chars().count() <= 120), "{of_pool}");
    for (limits, wanted) in [
        ("max_lag = '0B'", "by 10s\n"),
        ("max_lag_time = '0s'", "by 16MiB\n"),
        ("max_lag = '0B'\nmax_lag_time = '0s'", "without a limit\n"),
    ] {
        let says = describe(&read(&format!("{CLUSTER}[pools.p.postgres]\n{limits}")).unwrap());
        assert!(says.contains(&format!("standbys may be behind {wanted}")), "{limits}: {says}");
    }
}

#[test]
fn the_example_writes_at_one_port_and_reads_at_another() {
    let plan = read(&file("postgres.toml")).unwrap();
    let targets: Vec<_> = plan.listeners.values().map(|of| (of.bind[0].to_string(), of.target)).collect();
    assert!(targets.contains(&("127.0.0.1:6432".to_owned(), Target::Primary)), "{targets:?}");
    assert!(targets.contains(&("127.0.0.1:6433".to_owned(), Target::PreferStandby)), "{targets:?}");
    assert_eq!(plan.pools.values().map(|pool| pool.backends.len()).collect::<Vec<_>>(), [3]);
}

#[test]
fn the_reference_of_a_postgres_pool_changes_nothing() {
    let text = reference();
    let (before, part) = text.split_once("\n# With kind = \"postgres\" above:\n# [pools.orders.postgres]\n").unwrap();
    let (part, after) = part.split_once("\n\n").unwrap();
    let keys = [
        "user",
        "database",
        "tls",
        "session",
        "heartbeat",
        "heartbeat_deadline",
        "max_lag",
        "max_lag_time",
        "promotion",
    ];
    let given = keys.iter().fold(part.to_owned(), |part, key| {
        assert!(part.contains(&format!("\n# {key} = ")) || part.contains(&format!("# {key} = ")), "{key} of {part}");
        part.replace(&format!("\n# {key} = "), &format!("\n{key} = "))
    });
    // The default of the pool's kind, and of its check, is tcp.
    let before = before.replacen("\nkind = \"tcp\"\n# How new", "\nkind = \"postgres\"\n# How new", 1);
    let before = before.replacen("\nkind = \"tcp\"\n# From one", "\nkind = \"postgres\"\n# From one", 1);
    let full =
        format!("{before}\n[pools.orders.postgres]\n{given}\n\n{after}").replacen("\n# target = ", "\ntarget = ", 1);
    let left_out = "
        [listeners.orders]
        bind = '127.0.0.1:6432'
        pool = 'orders'
        [pools.orders]
        kind = 'postgres'
        [pools.orders.backends.pg1]
        address = '10.0.0.1:5432'
    ";
    assert_eq!(read(&full).map_err(|e| e.to_string()), read(left_out).map_err(|e| e.to_string()));
}

/// Asks for a change of the pool `p` of `document`, with nothing over it.
fn ask<T>(document: &Document, ask: impl FnOnce(&Request<'_>) -> T) -> T {
    let (overlay, pool, at) = (Overlay::default(), PoolName::from("p"), jiff::Timestamp::UNIX_EPOCH);
    ask(&Request { document, overlay: &overlay, pool: &pool, at, actor: Actor::from("ops") })
}

#[test]
fn at_run_time_a_cluster_gets_servers_and_policies_and_no_other_way_to_be_watched() {
    let document = Document::parse("test.toml", CLUSTER, &Fake).unwrap();
    let new = json!({"name": "c", "address": "10.0.0.3:5432", "priority": 3, "check": {"interval": "2s"}});
    let changed = ask(&document, |request| request.register(&new)).unwrap();
    let server = changed.pool.backends.iter().find(|backend| backend.name.as_str() == "c").unwrap();
    assert_eq!((&server.check.kind, server.check.interval), (&CheckKind::Postgres, Duration::from_secs(2)));
    assert_eq!(changed.pool.postgres, pool(document.plan()).postgres);

    let body = json!({"failover": {"sessions": {"demoted": "drain", "lagging": "close"}}, "check": {"interval": "3s"}});
    let changed = ask(&document, |request| request.patch(&body)).unwrap();
    let sessions = changed.pool.failover.sessions;
    assert_eq!((sessions.demoted, sessions.lagging), (SessionPolicy::Drain, SessionPolicy::Close));
    assert_eq!(effective(&document, &changed.overlay).plan.pools[&PoolName::from("p")], changed.pool);

    let shown = failover_config(&document, &changed.overlay, &PoolName::from("p")).unwrap();
    assert_eq!((&shown["check"]["kind"], &shown["check"]["interval"]), (&json!("postgres"), &json!("3s")));
    assert_eq!(shown["failover"]["sessions"]["demoted"], "drain");
    assert!(shown.get("postgres").is_none() && shown["check"].get("http").is_none(), "{shown}");

    for (body, field, words) in [
        (json!({"check": {"kind": "tcp"}}), "check.kind", "a postgres pool is checked by \"postgres\" alone"),
        (json!({"check": {"http": {"path": "/"}}}), "check.http.path", "the check's kind is \"postgres\""),
        (json!({"postgres": {"max_lag": "1MiB"}}), "postgres", "cannot be set at run time; `check` and `failover` can"),
    ] {
        let rejected = ask(&document, |request| request.patch(&body)).unwrap_err();
        let found: Vec<_> =
            rejected.faults.iter().map(|fault| (fault.field.as_str(), fault.message.as_str())).collect();
        assert!(found.len() == 1 && found[0].0 == field && found[0].1.contains(words), "{body}: {found:?}");
    }
    let body = json!({"name": "c", "address": "10.0.0.3:5432", "check": {"kind": "http"}});
    let rejected = ask(&document, |request| request.register(&body)).unwrap_err();
    assert!(rejected.faults[0].message.contains("checked by \"postgres\" alone"), "{rejected:?}");
}

#[test]
fn a_patched_check_goes_when_the_file_makes_a_cluster_of_its_pool() {
    let tcp = Document::parse("test.toml", &CLUSTER.replace("kind = 'postgres'", "balance = 'random'"), &Fake).unwrap();
    let changed = ask(&tcp, |request| request.patch(&json!({"check": {"kind": "http", "interval": "3s"}}))).unwrap();
    let cluster = Document::parse("test.toml", CLUSTER, &Fake).unwrap();
    let now = effective(&cluster, &changed.overlay);
    let notes: Vec<String> = now.notes.iter().map(ToString::to_string).collect();
    assert!(notes.len() == 1 && notes[0].contains("checked by \"postgres\" alone"), "{notes:?}");
    let check = &now.plan.pools[&PoolName::from("p")].backends[0].check;
    assert_eq!((&check.kind, check.interval), (&CheckKind::Postgres, Duration::from_secs(3)));
}
