//! `changeover doctor`: what it finds on hosts, backends and real PostgreSQL servers, and what it leaves alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use support::cluster::{Cluster, MONITOR, PASSWORD};
use support::process::{Ended, bound_by_permissions};
use support::{Backend, Daemon, changeover, fresh_addr, run};

fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("changeover.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn doctor(config: &str) -> Ended {
    changeover(&["doctor", "--config", config])
}

/// The finding on `what`: its level, and all that is said.
#[track_caller]
fn on(ended: &Ended, what: &str) -> (String, String) {
    // A line that goes on is set in.
    let joined = ended.stdout.replace("\n        ", " ");
    let line = joined.lines().find(|line| line.get(6..).is_some_and(|said| said.starts_with(what)));
    let line = line.unwrap_or_else(|| panic!("nothing on {what} in\n{}\n{}", ended.stdout, ended.stderr));
    (line[..6].trim().to_owned(), line[6..].to_owned())
}

#[track_caller]
fn found(ended: &Ended, what: &str, level: &str, words: &[&str]) {
    let (is, said) = on(ended, what);
    assert_eq!(is, level, "{said}\n{}", ended.stdout);
    words.iter().for_each(|word| assert!(said.contains(word), "no `{word}` in: {said}"));
}

#[test]
fn what_works_is_ok_and_what_does_not_fails_with_what_to_do() {
    let (a, gone) = (Backend::start("a"), fresh_addr());
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "Basic hunter2").unwrap();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    held.set_nonblocking(true).unwrap();
    let config = file(
        dir.path(),
        &format!(
            "[daemon]\nstate_dir = \"{state}\"\nmax_sessions = 10000000\n[admin]\nbind = \"{admin}\"\n\
             [listeners.free]\nbind = \"{free}\"\npool = \"orders\"\n\
             [listeners.taken]\nbind = \"{taken}\"\npool = \"orders\"\n\
             [listeners.foreign]\nbind = \"192.0.2.7:1234\"\npool = \"orders\"\n\
             [pools.orders.check]\ntimeout = \"2s\"\n{a}[pools.orders.backends.gone]\naddress = \"{gone}\"\n\
             [pools.orders.backends.named]\naddress = \"no-such-host.invalid:1\"\n\
             [pools.web.backends.site]\naddress = \"{site}\"\n\
             [pools.web.check]\nkind = \"http\"\ntimeout = \"1s\"\nhttp = {{ authorization = {{ file = \"{secret}\" }} }}\n",
            a = a.toml("orders", 1),
            site = a.addr,
            secret = secret.display(),
            state = dir.path().join("state").display(),
            admin = fresh_addr(),
            free = fresh_addr(),
            taken = held.local_addr().unwrap(),
        ),
    );
    let ended = doctor(&config);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let wide = ended.stdout.lines().find(|line| line.chars().count() > 100);
    assert_eq!(wide, None);
    found(&ended, "configuration ", "ok", &["3 listeners, 2 pools, 4 backends"]);
    found(&ended, "admin ", "ok", &["can be bound"]);
    found(&ended, "listener free", "ok", &["can be bound"]);
    found(&ended, "listener taken", "fail", &["in use", "ss -tlnp"]);
    found(&ended, "listener foreign", "fail", &["192.0.2.7", "ip address"]);
    found(&ended, "state_dir ", "ok", &["the daemon makes it"]);
    found(&ended, "descriptors", "fail", &["max_sessions = 10000000", "LimitNOFILE"]);
    found(&ended, "clock", if on(&ended, "clock").0 == "ok" { "ok" } else { "warn" }, &["kernel"]);
    found(&ended, "backend orders/a", "ok", &["passes its check"]);
    found(&ended, "backend orders/gone", "fail", &["refused", "start it"]);
    found(&ended, "backend orders/named", "fail", &["no-such-host.invalid", "getent hosts"]);
    found(&ended, "backend web/site", "fail", &["check.http.expect"]);
    found(
        &ended,
        &format!("file {}", secret.display()),
        "warn",
        &["everybody on this host may read it", "chmod o-rwx"],
    );
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    assert!(held.accept().is_err(), "nobody has connected to who listens there");
    assert!(!dir.path().join("state").exists(), "nothing is made");
    let ended = changeover(&["doctor", "--json", "--config", &config]);
    let answer: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((ended.code, answer["failed"].as_u64()), (Some(1), Some(6)), "{answer:#}");
    assert!(answer["findings"].as_array().unwrap().iter().all(|one| one["level"] != "fail" || one["mend"].is_string()));
}

#[test]
fn a_bad_file_is_told_as_check_tells_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = file(dir.path(), "[listeners.a]\nbind = \"127.0.0.1\"\npool = \"a\"\n");
    let (ended, check) = (doctor(&config), changeover(&["check", "--config", &config]));
    assert_eq!((ended.code, &ended.stderr), (Some(78), &check.stderr), "{ended:?}");
    let ended = changeover(&["doctor", "--json", "--config", &config]);
    let answer: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((ended.code, &answer["failed"]), (Some(78), &1.into()), "{answer:#}");
}

#[test]
fn a_running_daemon_holds_its_addresses_and_loses_no_client() {
    let a = Backend::start("a");
    let (admin, listener) = (fresh_addr(), fresh_addr());
    let daemon = Daemon::start(&format!(
        "[admin]\nbind = \"{admin}\"\n[listeners.orders]\nbind = \"{listener}\"\npool = \"orders\"\n{}",
        a.toml("orders", 1)
    ));
    let ended = doctor(&daemon.config().display().to_string());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    found(&ended, "admin ", "ok", &["a daemon answers: ready"]);
    found(&ended, "listener orders", "ok", &["in use, by the daemon that runs"]);
    assert_eq!(daemon.metric("listener_connections_total", &[("listener", "orders")]).unwrap_or(0.0), 0.0);
}

#[test]
fn a_state_directory_that_may_not_be_written_to_fails() {
    let a = Backend::start("a");
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o500)).unwrap();
    let config = file(
        dir.path(),
        &format!(
            "[daemon]\nstate_dir = \"{}\"\n[admin]\nbind = \"{}\"\n[listeners.a]\nbind = \"{}\"\npool = \"a\"\n{}",
            state.display(),
            fresh_addr(),
            fresh_addr(),
            a.toml("a", 1)
        ),
    );
    let ended = run(bound_by_permissions().args(["doctor", "--config", &config]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    found(&ended, "state_dir ", "fail", &["you may not write to it", "chown"]);
}

#[test]
fn the_servers_of_a_cluster_are_logged_in_to_as_the_monitor() {
    let cluster = Cluster::start(1);
    let dir = tempfile::tempdir().unwrap();
    let config = |postgres: &str| {
        let servers = cluster.tables();
        let (admin, listener) = (fresh_addr(), fresh_addr());
        file(
            dir.path(),
            &format!(
                "[admin]\nbind = \"{admin}\"\n[listeners.orders]\nbind = \"{listener}\"\npool = \"orders\"\n\
                 [pools.orders]\nkind = \"postgres\"\n[pools.orders.postgres]\n{postgres}\n{servers}"
            ),
        )
    };
    let good = format!("user = \"{MONITOR}\"\npassword = \"{PASSWORD}\"");
    let ended = doctor(&config(&good));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    found(&ended, "server orders/pg1", "ok", &["primary, timeline 1, PostgreSQL"]);
    found(&ended, "server orders/pg2", "ok", &["standby, timeline 1"]);
    found(&ended, "cluster orders", "ok", &["pg1 is the primary"]);
    // The server's default, unless the cluster's own settings say otherwise.
    cluster.nodes[1].psql("ALTER SYSTEM SET wal_retrieve_retry_interval = '5s'");
    cluster.nodes[1].psql("SELECT pg_reload_conf()");
    support::wait_until("it is told", support::DEADLINE, || {
        doctor(&config(&good)).stdout.contains("wal_retrieve_retry_interval is 5s")
    });
    let ended = doctor(&config(&format!("user = \"{MONITOR}\"\npassword = \"hunter2\"")));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    found(&ended, "server orders/pg1", "fail", &["is not let in", "ALTER ROLE", "postgres.password"]);
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    let ended = doctor(&config("user = \"nobody_of_that_name\"\npassword = \"x\""));
    found(&ended, "server orders/pg1", "fail", &["is not let in"]);
    let ended = doctor(&config("user = \"postgres\""));
    found(&ended, "server orders/pg2: the role", "warn", &["superuser", "NOSUPERUSER"]);
    let ended = doctor(&config("user = \"postgres\"\ndatabase = \"no_such\"\nsession = \"plain\""));
    found(&ended, "server orders/pg2", "fail", &["3D000", "no_such"]);
    // No line of pg_hba.conf lets the monitor in any more.
    cluster.nodes[0].write_hba("");
    cluster.nodes[0].reload();
    let ended = doctor(&config(&good));
    found(&ended, "server orders/pg1", "fail", &["pg_hba.conf", "SELECT pg_reload_conf()"]);
}
