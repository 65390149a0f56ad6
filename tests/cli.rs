//! The commands: what they print, for people and for scripts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use serde_json::Value;
use support::process::{Ended, program};
use support::{Backend, Daemon, changeover, fresh_addr, run};

/// The widest that a table may be, in columns.
const WIDTH: usize = 100;

const GOOD: &str = "[listeners.orders]\nbind = \"127.0.0.1:6432\"\npool = \"orders\"\n\
                    [pools.orders]\nbackends = [\"10.0.0.1:5432\", \"10.0.0.2:5432\"]\n";

/// Runs `check` on a file with this text; its path is returned too.
fn check(text: &str) -> (Ended, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("changeover.toml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (changeover(&["check", "--config", &file]), file)
}

#[track_caller]
fn narrow(text: &str) {
    let widest = text.lines().max_by_key(|line| line.chars().count()).unwrap_or("");
    assert!(widest.chars().count() <= WIDTH, "wider than {WIDTH} columns: {widest}");
}

#[test]
fn a_good_file_is_shown_as_understood() {
    let (ended, _) = check(GOOD);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for word in ["orders", "127.0.0.1:6432", "10.0.0.1:5432", "10.0.0.2:5432"] {
        assert!(ended.stdout.contains(word), "no {word} in\n{}", ended.stdout);
    }
    narrow(&ended.stdout);
}

#[test]
fn every_error_of_a_bad_file_is_shown_with_its_place() {
    let (ended, file) = check(
        "[listeners.orders]\nbind = \"127.0.0.1\"\npool = \"ordres\"\n\
         [pools.orders]\nwhen_dwn = \"hold\"\nhold = 10\nbackends = [\"10.0.0.1:5432\"]\n\
         [pools.orders.check]\ninterval = \"1 fortnight\"\n",
    );
    assert_eq!(ended.code, Some(78), "{ended:?}");
    let places: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with(&format!("{file}:"))).collect();
    for (at, words) in [
        ("2:8", &["127.0.0.1", "port"][..]),
        ("3:8", &["ordres", "orders"]),
        ("5:1", &["when_dwn", "when_down"]),
        ("6:8", &["hold"]),
        ("9:12", &["fortnight"]),
    ] {
        let start = format!("{file}:{at}: ");
        let error = places.iter().find(|line| line.starts_with(&start));
        let error = error.unwrap_or_else(|| panic!("no error at {at} in\n{}", ended.stderr));
        words.iter().for_each(|word| assert!(error.contains(word), "no `{word}` in {error}"));
    }
    assert_eq!(places.len(), 5, "{}", ended.stderr);
}

#[test]
fn no_secret_is_printed_by_check() {
    let secret = "Bearer hunter2";
    let http = format!("{{ path = \"/\", authorization = \"{secret}\" }}");
    let (ended, _) = check(&format!("{GOOD}[pools.orders.check]\nkind = \"http\"\nhttp = {http}\n"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    let cluster = GOOD.replace("[pools.orders]\n", "[pools.orders]\nkind = \"postgres\"\n");
    let password = "[pools.orders.postgres]\npassword = \"hunter2\"\n";
    let (ended, _) = check(&format!("{cluster}{password}"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("its primary") && ended.stdout.contains("password [secret]"), "{ended:?}");
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    let (ended, _) = check(&format!("{cluster}{password}heartbeat = 1\npasword = \"hunter2\"\n"));
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    let (ended, _) = check(&format!("{GOOD}[pools.orders.check]\nkind = \"htp\"\nhttp = {http}\n"));
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
}

#[test]
fn an_unset_variable_or_unreadable_file_is_an_error_of_the_file() {
    for value in ["{ env = \"NO_SUCH_VARIABLE_AT_ALL\" }", "{ file = \"/no/such/file\" }"] {
        let text = GOOD.replace("\"127.0.0.1:6432\"", value);
        let (ended, file) = check(&text);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stderr.contains(&format!("{file}:2:")), "{ended:?}");
    }
}

/// A daemon with one pool of two backends, one of them absent.
fn daemon() -> (Daemon, Backend) {
    let a = Backend::start("a-backend-with-a-rather-long-name");
    let daemon = Daemon::start(&format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [pools.orders.check]\ninterval = \"50ms\"\n{}[pools.orders.backends.absent]\naddress = \"{}\"\npriority = 2\n",
        a.toml("orders", 1),
        fresh_addr(),
    ));
    daemon.wait_health("orders", "absent", "unhealthy");
    (daemon, a)
}

#[test]
fn tables_are_for_people_and_json_is_for_scripts() {
    let (daemon, a) = daemon();
    let url = format!("http://{}", daemon.admin());
    for (command, words) in [
        ("status", &["orders", "degraded"][..]),
        ("pools", &["orders", "degraded", &a.name]),
        ("backends", &["orders", &a.name, "absent", "healthy", "unhealthy"]),
    ] {
        let ended = changeover(&[command, "--admin", &url]);
        assert_eq!(ended.code, Some(0), "{command}: {ended:?}");
        words.iter().for_each(|word| assert!(ended.stdout.contains(word), "no {word} in\n{}", ended.stdout));
        assert!(!ended.stdout.contains('\x1b'), "colours go to terminals only: {ended:?}");
        narrow(&ended.stdout);
        let ended = changeover(&[command, "--json", "--admin", &url]);
        assert_eq!(ended.code, Some(0), "{command}: {ended:?}");
        let json: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{command}: {e}: {ended:?}"));
        assert!(json.to_string().contains("\"orders\""), "{command}: {json}");
    }
}

#[test]
fn client_commands_find_the_daemon_by_flag_then_environment_then_file() {
    let (daemon, _a) = daemon();
    let (right, wrong) = (format!("http://{}", daemon.admin()), format!("http://{}", fresh_addr()));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("changeover.toml");
    std::fs::write(&file, format!("{GOOD}[admin]\nbind = \"{}\"\n", daemon.admin())).unwrap();
    let file = file.to_str().unwrap();
    let code = |args: &[&str], variable: Option<&str>| {
        let mut command = program();
        command.arg("pools").args(args);
        if let Some(value) = variable {
            command.env("CHANGEOVER_ADMIN", value);
        }
        run(&mut command).code
    };
    assert_eq!(code(&["--admin", &right], Some(&wrong)), Some(0), "the flag goes before the environment");
    assert_eq!(code(&["--admin", &wrong], Some(&right)), Some(69), "the flag goes before the environment");
    assert_eq!(code(&[], Some(&right)), Some(0));
    assert_eq!(code(&["--config", file], None), Some(0));
    assert_eq!(code(&["--config", file], Some(&wrong)), Some(69), "the environment goes before the file");
}

#[test]
fn client_commands_talk_over_a_unix_socket() {
    let a = Backend::start("a");
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", dir.path().join("admin.sock").display());
    let _daemon = Daemon::start(&format!(
        "[admin]\nbind = \"{socket}\"\n[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{}",
        a.toml("orders", 1)
    ));
    let ended = changeover(&["backends", "--admin", &socket]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains(&a.addr.to_string()), "{ended:?}");
}

#[test]
fn the_schema_is_json_and_knows_the_tables() {
    let ended = changeover(&["schema"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let schema: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    for table in ["daemon", "admin", "listeners", "pools", "log"] {
        assert!(schema["properties"].get(table).is_some(), "no {table}");
    }
}

#[test]
fn every_command_explains_itself() {
    let all = changeover(&["--help"]);
    assert_eq!(all.code, Some(0), "{all:?}");
    let orders = ["failover", "failback", "drain", "ready", "maintenance", "pause", "resume", "reset", "probe"];
    let all_commands = ["run", "check", "status", "pools", "backends", "sessions", "explain", "replay", "schema"];
    for command in all_commands.into_iter().chain(orders) {
        assert!(all.stdout.contains(command), "no {command} in\n{}", all.stdout);
        let one = changeover(&[command, "--help"]);
        assert_eq!(one.code, Some(0), "{command}: {one:?}");
        assert!(one.stdout.contains("Usage:"), "{command}: {one:?}");
        narrow(&one.stdout);
    }
    assert!(!all.stdout.contains("demo-backend"), "hidden");
    narrow(&all.stdout);
    let version = changeover(&["--version"]);
    assert_eq!(version.stdout.trim(), concat!("changeover ", env!("CARGO_PKG_VERSION")));
}
