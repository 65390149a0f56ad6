//! What each command prints against a running daemon, word for word, as kept in `tests/snapshots`: each begins with the line that
//! was given. What differs from run to run is replaced, all of it in `redacted` and what that asks: addresses, times, directories,
//! versions, counts of what is under way, what the host is like, and the widths of columns that come of them.
//! `INSTA_UPDATE=always` writes them anew. A command that has none is named by `every_command_has_a_snapshot`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use insta::assert_snapshot;
use rustix::process::{Pid, Signal, kill_process};
use support::cluster::{Cluster, PASSWORD};
use support::net::{echo, meet};
use support::process::{Ended, Guarded, bound_by_permissions, program};
use support::terminal::Seat;
use support::{Backend, DEADLINE, Daemon, Site, changeover, fresh_addr, run, wait_for, wait_until};

/// One look at each backend, so that what is counted of checks is the same in each run.
const SETTINGS: &str = "[pools.orders.check]\ninterval = \"1h\"\n[pools.orders.failover]\nfailback_after = \"0s\"";

/// Beginnings of lines whose numbers count what is under way, or what the host allows.
const COUNTED: &[&str] = &["served ", "echo served by:", "  nc 127.0.0.1 "];
/// Parts of lines that are all counts.
const COUNTS: &[&str] = &[" which listens there, ", " decisions, all as recorded", " that fail", "probe "];
/// What `doctor` finds out about the host: there is a line, whatever it says.
const HOST: &[&str] = &["descriptors: ", "clock: ", " MiB are free"];
/// How a line of the log begins.
const LOGGED: &str = "{\"timestamp\":\"";
/// What it has to say only where systemd is.
const UNIT: &str = "changeover.service: ";

/// `word` as it stands in a snapshot, if it differs from run to run.
fn replaced(word: &str) -> Option<String> {
    let core = word.trim_matches(|c: char| "[](),;:`\"'".contains(c)).trim_end_matches('.');
    let is_digit = |at: usize| core.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    let new = match core {
        _ if core == env!("CARGO_PKG_VERSION") => "VERSION",
        _ if core.starts_with("127.") && core.contains(':') => "ADDRESS",
        _ if core.starts_with("http://127.") => "http://ADDRESS",
        _ if core.starts_with("uid:") => "uid:OWN",
        // 2026-11-21, 2026-11-21T10:00:00.123456Z, 11-21, 10:00:00
        _ if core.starts_with("20") && core.get(4..5) == Some("-") => "TIME",
        _ if core.len() == 5 && core.get(2..3) == Some("-") && is_digit(0) && is_digit(4) => "TIME",
        _ if core.get(2..3) == Some(":")
            && core.get(5..6) == Some(":")
            && core.starts_with(|c: char| c.is_ascii_digit()) =>
        {
            "TIME"
        }
        _ => {
            let digits = core.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == 'µ');
            let is_number = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
            let unit = core.get(digits.len()..).unwrap_or_default();
            if is_number && ["ms", "µs", "s"].contains(&unit) { "TIME" } else { return None }
        }
    };
    Some(word.replace(core, new))
}

/// A line without what differs, and with two blanks between columns; none if it is not there everywhere.
fn redacted(line: &str) -> Option<String> {
    let said = line.get(6..).unwrap_or_default();
    if said.starts_with(UNIT) {
        return None;
    }
    if let Some(what) = HOST.iter().find(|what| said.contains(**what)) {
        return Some(format!("HOST  …{what}…"));
    }
    if let Some((_, rest)) = line.strip_prefix(LOGGED).and_then(|line| line.split_once('"')) {
        return Some(format!("{LOGGED}TIME\"{rest}"));
    }
    let is_count = COUNTED.iter().any(|start| line.starts_with(start)) || COUNTS.iter().any(|part| line.contains(part));
    let line = if is_count { uncounted(line) } else { line.to_owned() };
    let margin = line.len() - line.trim_start().len();
    let mut new = " ".repeat(margin);
    let mut blanks = 0;
    for word in line.trim_start().split(' ') {
        if word.is_empty() {
            blanks += 1;
            continue;
        }
        if new.len() > margin {
            new.push_str(if blanks > 0 { "  " } else { " " });
        }
        new.push_str(&replaced(word).unwrap_or_else(|| word.to_owned()));
        blanks = 0;
    }
    Some(new)
}

/// `line` with an `N` for each number that is a word of its own.
fn uncounted(line: &str) -> String {
    let is_number = |word: &&str| {
        let digits = word.trim_end_matches([',', ';', '.']);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let word = |word: &str| match Some(word).filter(is_number) {
        Some(number) => format!("N{}", number.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => word.to_owned(),
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// All of `text`, without what differs; `dir` is where the command found its files.
fn clean(text: &str, dir: &Path) -> String {
    let text = text.replace(&dir.display().to_string(), "DIR");
    text.lines().filter_map(redacted).map(|line| format!("{}\n", line.trim_end())).collect()
}

/// What the command `line` did, without what differs; `dir` is where it found its files.
fn shown(line: &[&str], ended: &Ended, dir: &Path) -> String {
    let code = ended.code.map_or_else(|| "none".to_owned(), |code| code.to_string());
    let (stdout, stderr) = (clean(&ended.stdout, dir), clean(&ended.stderr, dir));
    format!("{}exit {code}\n--- stdout\n{stdout}--- stderr\n{stderr}", given(line, dir))
}

/// The line by which a snapshot says whose it is.
fn given(line: &[&str], dir: &Path) -> String {
    let words = line.iter().map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() });
    clean(&format!("{GIVEN}{}\n", words.collect::<Vec<_>>().join(" ")), dir)
}

/// How that line begins.
const GIVEN: &str = "$ changeover ";

/// Lines that a terminal of 100 columns shows as they are.
#[track_caller]
fn narrow(text: &str) {
    let wide = text.lines().find(|line| line.chars().count() > 100);
    assert_eq!(wide, None);
}

/// Each column of the first table begins in the same place in all of its lines.
#[track_caller]
fn aligned(table: &str) {
    let lines: Vec<Vec<char>> =
        table.lines().take_while(|line| !line.is_empty()).map(|line| line.chars().collect()).collect();
    let header = &lines[0];
    let begins = |at: &usize| *at >= 2 && header[*at] != ' ' && header[at - 2..*at] == [' ', ' '];
    for at in (0..header.len()).filter(begins) {
        for line in &lines {
            let gap: String = line.iter().skip(at - 2).take(2).collect();
            assert!(gap.trim().is_empty(), "column {at} is not aligned in\n{table}");
        }
    }
}

/// Three backends, the third of which is not there.
fn site() -> (Site, [Backend; 2]) {
    let (a, b, c) = (Backend::start("pg1"), Backend::start("pg2"), Backend::absent("pg3"));
    let site = Site::start(SETTINGS, &[&a, &b, &c]);
    (site, [a, b])
}

fn directory(site: &Site) -> &Path {
    // Of both directories of a site, the socket's is the one that stands in the snapshots.
    Box::leak(site.socket().into_boxed_path()).parent().expect("a directory")
}

#[test]
fn tables() {
    let (site, _backends) = site();
    let orders = site.daemon.listener("orders");
    let (mut session, _name) = meet(orders).expect("served");
    echo(&mut session, b"how are you?").expect("answered");
    let moved = || site.command(&["sessions", "--json"]).stdout.contains("\"bytes_to_client\": 16");
    wait_until("the bytes are counted and the session rests", DEADLINE, || {
        moved() && site.command(&["sessions"]).stdout.contains("idle")
    });
    for command in ["status", "pools", "backends", "sessions"] {
        let line = [command];
        let ended = site.command(&line);
        narrow(&ended.stdout);
        aligned(ended.stdout.split("\n\n").find(|part| part.contains("  ")).expect("a table"));
        assert!(!ended.stdout.contains('\x1b'), "colours go to terminals only");
        assert_snapshot!(format!("table_{command}"), shown(&line, &ended, directory(&site)));
    }
    let line = ["explain", "orders"];
    let ended = site.command(&line);
    narrow(&ended.stdout);
    assert_snapshot!("page_explain", shown(&line, &ended, directory(&site)));
}

#[test]
fn orders() {
    let (site, _backends) = site();
    let orders: &[&[&str]] = &[
        &["drain", "orders/pg1"],
        &["ready", "orders/pg1"],
        &["maintenance", "orders/pg2"],
        &["ready", "orders/pg2"],
        &["failover", "orders", "--to", "pg2", "--reason", "kernel update"],
        &["failback", "orders"],
        &["pause", "orders", "--timeout", "5m"],
        &["resume", "orders"],
        &["reset", "orders/pg3"],
        &["probe", "orders"],
    ];
    for (at, order) in orders.iter().enumerate() {
        let ended = site.command(order);
        narrow(&ended.stdout);
        assert_snapshot!(format!("order_{at:02}_{}", order[0]), shown(order, &ended, directory(&site)));
    }
}

#[test]
fn tunnels() {
    let a = Backend::start("pg1");
    let site = Site::with(&format!(
        "{}[pools.orders.backends.far]\naddress = \"127.0.0.1:9\"\npriority = 2\n[pools.orders.backends.far.check]\n\
         kind = \"none\"\n[pools.orders.backends.far.tunnel]\nprovider = \"command\"\nattach = \"address\"\n\
         command = [\"sh\", \"-c\", \"echo here I am; exec sleep 1000\"]\n",
        a.toml("orders", 1),
    ));
    let logs = ["tunnel", "logs", "orders/far"];
    wait_until("it has spoken", DEADLINE, || site.command(&logs).stdout.contains("here I am"));
    let tell = |name: &str, line: &[&str], state: &str| {
        let ended = site.command(line);
        wait_until(state, DEADLINE, || site.daemon.backend("orders", "far")["tunnel"]["state"] == state);
        narrow(&ended.stdout);
        assert_snapshot!(name, without_numbers(&shown(line, &ended, directory(&site))));
    };
    tell("tunnel_list", &["tunnel", "list"], "connected");
    tell("tunnel_logs", &logs, "connected");
    tell("tunnel_explain", &["tunnel", "explain", "orders/far"], "connected");
    tell("tunnel_restart", &["tunnel", "restart", "orders/far"], "connected");
    tell("tunnel_stop", &["tunnel", "stop", "orders/far"], "disconnected");
    tell("tunnel_stop_again", &["tunnel", "stop", "orders/far"], "disconnected");
    tell("tunnel_start", &["tunnel", "start", "orders"], "connected");
    tell("tunnel_of_none", &["tunnel", "start", "orders/pg1"], "connected");
}

/// Without times, process numbers and whatever else is another one each time.
fn without_numbers(text: &str) -> String {
    let word = |word: &str| match word.starts_with(|first: char| first.is_ascii_digit()) {
        true if word != "127.0.0.1:9" => "N".to_owned(),
        // How far it has come by the time of the answer.
        _ if ["connecting.", "reconnecting.", "connected."].contains(&word) => "STATE.".to_owned(),
        _ => word.to_owned(),
    };
    let line = |line: &str| line.split(' ').filter(|part| !part.is_empty()).map(word).collect::<Vec<_>>().join(" ");
    let line = |text: &str| if text.starts_with("exit ") { text.to_owned() } else { line(text) };
    text.lines().map(|text| format!("{}\n", line(text))).collect()
}

#[test]
fn orders_that_leave_nobody_to_serve_are_warned_of_and_done() {
    let a = Backend::start("pg1");
    let site = Site::start(SETTINGS, &[&a, &Backend::absent("pg2")]);
    for (name, line) in [
        ("warned_drain", ["drain", "orders/pg1", "--yes"]),
        ("warned_maintenance", ["maintenance", "orders/pg1", "--yes"]),
    ] {
        let ended = site.command(&line);
        assert_snapshot!(name, shown(&line, &ended, directory(&site)));
        assert_eq!(site.command(&["ready", "orders/pg1"]).code, Some(0));
        site.command(&["probe", "orders/pg1"]);
        site.daemon.wait_active("orders", "pg1");
        let ended = site.command(&line[..2]);
        assert_eq!(ended.code, Some(0), "nobody is asked where there is no terminal: {ended:?}");
        assert!(ended.stderr.contains("nothing will serve orders after this"), "{ended:?}");
        assert_eq!(site.command(&["ready", "orders/pg1"]).code, Some(0));
        site.command(&["probe", "orders/pg1"]);
        site.daemon.wait_active("orders", "pg1");
    }
}

#[test]
fn orders_that_leave_a_cluster_without_a_primary_are_warned_of() {
    let cluster = Cluster::start(1);
    let site = Site::with(&format!(
        "kind = \"postgres\"\n[pools.orders.postgres]\npassword = \"{PASSWORD}\"\n{}",
        cluster.tables()
    ));
    site.daemon.wait_active("orders", "pg1");
    wait_until("the standby is known", DEADLINE, || site.daemon.backend("orders", "pg2")["role"] == "standby");
    let ended = site.command(&["drain", "orders/pg2"]);
    assert!(ended.code == Some(0) && !ended.stderr.contains("nobody can write"), "{ended:?}");
    for (name, line) in [
        ("warned_failover", &["failover", "orders", "--to", "pg2"][..]),
        ("warned_drain_primary", &["drain", "orders/pg1"]),
    ] {
        assert_eq!(site.command(&["ready", "orders/pg2"]).code, Some(0));
        site.daemon.wait_active("orders", "pg1");
        wait_until("the standby may serve", DEADLINE, || site.daemon.backend("orders", "pg2")["eligible"] == true);
        let ended = site.command(line);
        assert_snapshot!(name, shown(line, &ended, directory(&site)));
        site.command(&["failback", "orders"]);
    }
}

#[test]
fn on_a_terminal_they_are_asked_for() {
    let a = Backend::start("pg1");
    let site = Site::start(SETTINGS, &[&a]);
    let config = site.daemon.config().display().to_string();
    let state = || site.daemon.backend("orders", "pg1")["admin_state"].clone();
    for (answer, code, wanted) in [("\r", 1, "ready"), ("n\r", 1, "ready"), ("y\r", 0, "drain")] {
        let mut seat = Seat::start(program().args(["drain", "orders/pg1", "--config", &config]));
        seat.wait("nothing will serve orders after this");
        seat.wait("[y/N]");
        assert_eq!(state(), "ready", "nothing is done before the answer");
        seat.press(answer);
        assert_eq!(seat.process.wait().code(), Some(code));
        assert_eq!(state(), wanted, "{answer:?}");
    }
    assert_eq!(site.command(&["ready", "orders/pg1"]).code, Some(0));
    site.daemon.wait_active("orders", "pg1");
    let mut seat = Seat::start(program().args(["drain", "orders/pg1", "-y", "--config", &config]));
    assert_eq!(seat.process.wait().code(), Some(0), "nobody is asked");
    assert_eq!(state(), "drain");
    // Nor is one who reads what is printed with a program, though all the rest is a terminal.
    for script in [r#"said=$("$@")"#, r#""$@" --json"#] {
        assert_eq!(site.command(&["ready", "orders/pg1"]).code, Some(0));
        site.daemon.wait_active("orders", "pg1");
        let drain = program();
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "script"]).arg(drain.get_program()).args(drain.get_args());
        shell.envs(drain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut seat = Seat::start(shell.args(["drain", "orders/pg1", "--config", &config]));
        wait_until("it is drained, and nobody was asked", DEADLINE, || state() == "drain");
        assert_eq!(seat.process.wait().code(), Some(0), "{script}");
        wait_until("it is warned", DEADLINE, || seat.raw().contains("nothing will serve orders after this"));
        assert!(!seat.raw().contains("[y/N]"), "{script}");
    }
}

#[test]
fn a_backend_that_is_waited_for_is_told_when() {
    let (a, b) = (Backend::start("pg1"), Backend::start("pg2"));
    let settings = SETTINGS.replace("failback_after = \"0s\"", "failback_after = \"10h\"");
    let site = Site::start(&settings, &[&a, &b]);
    site.daemon.wait_active("orders", "pg1");
    assert_eq!(site.command(&["drain", "orders/pg1"]).code, Some(0));
    site.daemon.wait_active("orders", "pg2");
    let line = ["ready", "orders/pg1"];
    assert_snapshot!("order_ready_waits", shown(&line, &site.command(&line), directory(&site)));
}

#[test]
fn history() {
    let (site, _backends) = site();
    for order in ["drain", "ready"] {
        assert_eq!(site.command(&[order, "orders/pg1"]).code, Some(0));
    }
    let line = ["events", "--kind", "backend.admin_state", "--kind", "admin.action"];
    wait_until("they are in the history", DEADLINE, || site.command(&line).stdout.lines().count() == 5);
    let ended = site.command(&line);
    aligned(&ended.stdout);
    assert_snapshot!("table_events", shown(&line, &ended, directory(&site)));
    let reader = ["events", "--json", "--kind", "backend.admin_state", "--limit", "1"];
    let event: serde_json::Value = serde_json::from_str(&site.command(&reader).stdout).expect("JSON");
    let names: Vec<&str> = event.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_snapshot!("json_event", format!("{}{}\n", given(&reader, directory(&site)), names.join(" ")));
    for (name, line) in [
        ("table_events_none", &["events", "--pool", "orders", "--until", "1h"][..]),
        ("error_events_pool", &["events", "--pool", "ordres"]),
        ("error_events_backend", &["events", "--pool", "orders", "--backend", "gp1"]),
        ("error_events_any_backend", &["events", "--backend", "nobody"]),
        ("error_events_kind", &["events", "--kind", "pool.failvoer"]),
    ] {
        assert_snapshot!(name, shown(line, &site.command(line), directory(&site)));
    }
}

#[test]
fn live_events() {
    let (site, _backends) = site();
    let line = ["events", "--follow", "--kind", "backend.admin_state"];
    let mut command = program();
    command.args(line).arg("--config").arg(site.daemon.config());
    let mut process = Guarded(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started"));
    let mut lines = BufReader::new(process.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let mut stdout = vec![lines.next().expect("the head")];
    site.daemon.wait_metric("event_subscribers", &[], 1.0);
    for order in ["drain", "ready"] {
        assert_eq!(site.command(&[order, "orders/pg1"]).code, Some(0));
        stdout.push(lines.next().expect("an event"));
    }
    kill_process(Pid::from_child(&process.0), Signal::TERM).expect("it runs");
    let code = process.wait().code();
    stdout.extend(lines);
    let stderr = std::io::read_to_string(process.0.stderr.take().expect("piped")).expect("text");
    let ended = Ended { code, stdout: stdout.join("\n"), stderr };
    assert_snapshot!("table_events_follow", shown(&line, &ended, directory(&site)));
}

#[test]
fn on_a_terminal_events_are_as_wide_as_it_is() {
    let (site, _backends) = site();
    assert_eq!(site.command(&["drain", "orders/pg1"]).code, Some(0));
    let config = site.daemon.config().display().to_string();
    let line = ["events", "--kind", "backend.admin_state", "--config", &config];
    wait_until("it is in the history", DEADLINE, || site.command(&line[..3]).stdout.contains("drain"));
    let mut seat = Seat::start(program().args(line));
    assert_eq!(seat.process.wait().code(), Some(0));
    seat.wait("backend.ad");
    seat.wait("…");
    let raw = seat.raw();
    assert!(raw.lines().all(|line| line.trim_end().chars().count() <= 80), "{raw}");
}

#[test]
fn every_command_has_json_for_scripts() {
    let (site, _backends) = site();
    let commands: &[&[&str]] = &[
        &["status"],
        &["pools"],
        &["backends"],
        &["sessions"],
        &["explain", "orders"],
        &["failover", "orders"],
        &["failback", "orders"],
        &["drain", "orders/pg1"],
        &["ready", "orders/pg1"],
        &["maintenance", "orders/pg1"],
        &["pause", "orders"],
        &["resume", "orders"],
        &["reset", "orders"],
        &["probe", "orders/pg1"],
    ];
    let mut keys = String::new();
    for command in commands {
        let ended = site.command(&[*command, &["--json"]].concat());
        assert_eq!(ended.code, Some(0), "{command:?}: {ended:?}");
        let answer: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
        let names: Vec<&str> = answer.as_object().expect("an object").keys().map(String::as_str).collect();
        keys.push_str(&format!("{}: {}\n", command.join(" "), names.join(" ")));
    }
    assert_snapshot!("json_keys", keys);
}

/// Two backends and most of what a file may say, at addresses that are always the same.
const FILE: &str = "[admin]\nbind = \"127.0.0.1:7072\"\n[admin.tokens.ops]\nrole = \"operator\"\nsha256 = \"SHA\"\n\
                    [listeners.orders]\nbind = \"10.0.0.9:6432\"\npool = \"orders\"\nallow = [\"10.0.0.0/8\"]\n\
                    [pools.orders]\nwhen_down = \"refuse\"\nbackends = [\"10.0.0.1:5432\", \"10.0.0.2:5432\"]\n\
                    [pools.orders.check]\nkind = \"http\"\n[webhooks.pager]\nurl = \"https://hooks.example.net/secret\"\n";

#[test]
fn what_is_said_of_a_file() {
    let (a, dir) = (Backend::start("pg1"), tempfile::tempdir().unwrap());
    let path = dir.path().join("changeover.toml");
    std::fs::write(&path, FILE.replace("SHA", &"5e".repeat(32))).unwrap();
    let config = path.display().to_string();
    let line = ["check", "--config", &config];
    let ended = changeover(&line);
    narrow(&ended.stdout);
    assert_snapshot!("page_check", shown(&line, &ended, dir.path()));
    std::fs::write(&path, FILE.replace("SHA", "5e").replace("when_down", "when_dwn")).unwrap();
    assert_snapshot!("error_check", shown(&line, &changeover(&line), dir.path()));

    let (state, admin, listener) = (dir.path().join("state"), fresh_addr(), fresh_addr());
    let daemon = Daemon::start(&format!(
        "[daemon]\nstate_dir = \"{}\"\n[admin]\nbind = \"{admin}\"\n[listeners.orders]\nbind = \"{listener}\"\n\
         pool = \"orders\"\n{}{}",
        state.display(),
        a.toml("orders", 1),
        Backend::absent("pg2").toml("orders", 2),
    ));
    std::fs::set_permissions(daemon.config(), PermissionsExt::from_mode(0o600)).unwrap();
    let config = daemon.config().display().to_string();
    let line = ["doctor", "--config", &config];
    let mut ended = changeover(&line);
    // Of a line that is broken where it fills up, that depends on the length of a path.
    ended.stdout = ended.stdout.replace("\n        ", " ").replace(&dir.path().display().to_string(), "STATE");
    assert_snapshot!("page_doctor", shown(&line, &ended, daemon.config().parent().expect("a directory")));
}

/// A daemon of one backend that is told to stop once that serves, with its log and what it recorded.
fn short_life(recording: &str) -> String {
    let a = Backend::start("pg1");
    let config =
        format!("[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n{}{SETTINGS}\n", a.toml("orders", 1));
    let mut daemon = Daemon::start_args(&config, &["--record", recording]);
    daemon.wait_active("orders", "pg1");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
    let word = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or("-").to_owned();
    let lines = daemon.logged("");
    // Its threads speak in no order.
    let all: BTreeSet<String> =
        lines.iter().map(|line| format!("{} {}\n", word(line, "level"), word(line, "message"))).collect();
    all.into_iter().collect()
}

#[test]
fn what_a_daemon_logs_and_records() {
    let dir = tempfile::tempdir().unwrap();
    let recording = dir.path().join("recording").display().to_string();
    // A daemon that did not get to run for a while has more to tell, and the machine may be busy.
    let log = loop {
        let log = short_life(&recording);
        if !std::fs::read_to_string(&recording).unwrap().contains("stalled") {
            break log;
        }
        std::fs::remove_file(&recording).unwrap();
    };
    let line = ["run", "--record", &recording];
    assert_snapshot!("log_run", format!("{}{}", given(&line, dir.path()), clean(&log, dir.path())));
    let line = ["replay", &recording];
    assert_snapshot!("page_replay", shown(&line, &changeover(&line), dir.path()));
    let line = ["replay", "--json", &recording];
    let ended = changeover(&line);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let last: serde_json::Value = serde_json::from_str(ended.stdout.lines().last().expect("a sum")).expect("JSON");
    let names: Vec<&str> = last.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(names, ["as_recorded", "decisions", "end", "events"]);
}

#[test]
fn the_demo() {
    let dir = tempfile::tempdir().unwrap();
    // It ends before it kills for the first time: what comes then is in `tests/demo.rs`.
    let line = ["demo", "--for", "1s", "--no-postgres"];
    let mut ended = run(program().args(line).env("TMPDIR", dir.path()));
    let directory = ended.stdout.split_whitespace().find_map(|word| word.strip_suffix("/changeover.toml"));
    let directory = directory.expect("its configuration").to_owned();
    ended.stdout = ended.stdout.replace(&directory, "DIR/changeover-demo");
    assert_snapshot!("page_demo", shown(&line, &ended, dir.path()));
}

/// The screen as it stands once the next look at the daemon has been drawn: then the one before it was drawn to its end.
fn settled(seat: &Seat) -> String {
    let clock = || seat.text().lines().next().and_then(|title| title.split(' ').next_back().map(str::to_owned));
    let before = clock();
    wait_until("another look", DEADLINE, || clock() != before);
    seat.text()
}

#[test]
fn the_full_screen() {
    let (site, _backends) = site();
    let admin = format!("http://{}", site.daemon.admin());
    assert_eq!(site.command(&["drain", "orders/pg2"]).code, Some(0));
    let line = ["top", "--admin", &admin];
    let mut seat = Seat::start(program().args(line));
    let dir = directory(&site);
    for (keys, words, name) in [
        ("1", "q quit", "pools"),
        ("2", "orders/pg3", "backends"),
        ("3", "there are none", "sessions"),
        ("4/admin_state\r", "filter: admin_state", "events"),
        ("2\x1b", "orders/pg3", "backends_again"),
    ] {
        seat.press(keys);
        seat.wait(words);
        if name != "backends_again" {
            assert_snapshot!(format!("top_{name}"), format!("{}{}", given(&line, dir), clean(&settled(&seat), dir)));
        }
    }
    for (keys, words, name) in [("?", "Any key closes this", "help"), ("xd", "y does it", "drain")] {
        seat.press(keys);
        seat.wait(words);
        assert_snapshot!(format!("top_{name}"), format!("{}{}", given(&line, dir), clean(&settled(&seat), dir)));
    }
    seat.press("nq");
    assert_eq!(seat.wait_end(), Some(0));
}

/// What `shell` is told to offer for the last of `words`. Whoever presses Tab waits for half a second and no longer, so that a
/// busy machine may have nothing to offer at first.
fn offered(shell: &str, words: &[&str]) -> String {
    wait_for(&format!("{shell} is offered something for {words:?}"), DEADLINE, || {
        let mut command = program();
        command.env("CHANGEOVER_COMPLETE", shell).env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_COMP_TYPE", "9");
        command.env("_CLAP_COMPLETE_SPACE", "true").env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
        let ended = run(command.arg("--").args(words));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{shell} {words:?}");
        // Options are many, and are in the man pages.
        let lines = ended.stdout.lines().filter(|line| !line.starts_with('-'));
        Some(lines.map(|line| format!("{}\n", line.trim_end())).collect::<String>()).filter(|all| !all.is_empty())
    })
}

#[test]
fn completions() {
    let (site, _backends) = site();
    let admin = format!("--admin=unix:{}", site.socket().display());
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let line = ["completions", shell];
        assert_snapshot!(format!("completions_{shell}"), shown(&line, &changeover(&line), directory(&site)));
        if ["elvish", "powershell"].contains(&shell) {
            continue;
        }
        let mut all = String::new();
        for words in [
            &["changeover", ""][..],
            &["changeover", &admin, "explain", ""],
            &["changeover", "explain", &admin, ""],
            &["changeover", "drain", &admin, "orders/"],
            &["changeover", "probe", &admin, "o"],
            &["changeover", "failover", "orders", &admin, "--to", ""],
            &["changeover", "events", &admin, "--kind", "pool.f"],
            &["changeover", "events", &admin, "--pool", ""],
            &["changeover", "failover", "orders", "--sessions", ""],
        ] {
            all.push_str(&format!("> {} …\n{}\n", words[..words.len() - 1].join(" "), offered(shell, words)));
        }
        assert_snapshot!(format!("completed_{shell}"), clean(&all, directory(&site)));
    }
}

#[test]
fn the_man_pages() {
    let dir = tempfile::tempdir().unwrap();
    let line = ["man"];
    assert_snapshot!("page_man", shown(&line, &changeover(&line), dir.path()));
    let out = dir.path().join("man1").display().to_string();
    let line = ["man", "--out", &out];
    let told = shown(&line, &changeover(&line), dir.path());
    let files: Vec<String> = pages(Path::new(&out)).into_iter().collect();
    assert_snapshot!("man_out", format!("{told}--- files\n{}\n", files.join("\n")));
}

/// The names of the man pages in `dir`, of which there is one for each command.
fn pages(dir: &Path) -> BTreeSet<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| name.strip_suffix(".1").unwrap_or(&name).to_owned()).collect()
}

/// What a key of a JSON schema takes, in a word or a few.
fn takes(of: &serde_json::Value) -> String {
    if let Some(table) = of["$ref"].as_str() {
        return table.trim_start_matches("#/$defs/").to_owned();
    }
    if let Some(several) = of["anyOf"].as_array() {
        return several.iter().map(takes).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" | ");
    }
    if let Some(words) = of["enum"].as_array() {
        return words.iter().map(|word| word.to_string()).collect::<Vec<_>>().join(" | ");
    }
    match of["type"].as_str() {
        Some("array") => format!("list of {}", takes(&of["items"])),
        Some("object") => format!("NAME = {}", takes(&of["additionalProperties"])),
        Some(kind) => kind.to_owned(),
        None => "-".to_owned(),
    }
}

/// The tables of the schema, with their keys: what is said of them in prose may change, and is nobody's interface.
#[test]
fn the_schema() {
    let line = ["schema"];
    let ended = changeover(&line);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let schema: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let tables = std::iter::once(("the file", &schema))
        .chain(schema["$defs"].as_object().expect("tables").iter().map(|(name, table)| (name.as_str(), table)));
    let mut all = String::new();
    for (name, table) in tables {
        all.push_str(&format!("\n{name}: {}\n", takes(table)));
        for (key, of) in table["properties"].as_object().into_iter().flatten() {
            all.push_str(&format!("  {key}: {}\n", takes(of)));
        }
    }
    assert_snapshot!("schema_keys", format!("{}{all}", given(&line, Path::new("/no/such"))));
}

/// The words by which the command of the man page `name` is called: `changeover-tunnel-start` is `tunnel start` where there is a
/// `changeover-tunnel`.
fn words(all: &BTreeSet<String>, name: &str) -> Vec<String> {
    let above = all.iter().filter(|other| name.starts_with(&format!("{other}-"))).max_by_key(|other| other.len());
    above.map_or_else(Vec::new, |above| [words(all, above), vec![name[above.len() + 1..].to_owned()]].concat())
}

/// The definition of the command line is walked by what is made of it: a man page for each command, also those below others.
#[test]
fn every_command_has_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(changeover(&["man", "--out", dir.path().to_str().unwrap()]).code, Some(0));
    let all = pages(dir.path());
    let is_leaf = |name: &&String| !all.iter().any(|other| other.starts_with(&format!("{name}-")));
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        // A command that was given wrongly has shown nothing.
        let line = text.lines().find_map(|line| line.strip_prefix(GIVEN).map(|line| format!("{line} ")));
        lines.extend(line.filter(|_| !text.contains("\nexit 64\n")));
    }
    let leaves: Vec<String> = all.iter().filter(is_leaf).map(|leaf| words(&all, leaf).join(" ")).collect();
    let without: Vec<&String> =
        leaves.iter().filter(|leaf| !lines.iter().any(|line| line.starts_with(&format!("{leaf} ")))).collect();
    assert!(without.is_empty(), "no snapshot of {without:?}: show in one of the tests of this file what they print");
    assert!(leaves.len() > 20, "{all:?}");
}

#[test]
fn errors_say_what_to_do_next() {
    let (site, _backends) = site();
    let admin = format!("http://{}", site.daemon.admin());
    let nobody = format!("http://{}", fresh_addr());
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (empty, bad) = (file("empty", "\n"), file("bad.toml", "[admin]\nbind = \"127.0.0.1\"\n"));
    let missing = dir.path().join("missing").display().to_string();
    let cases: &[(&str, &[&str])] = &[
        ("unreachable", &["pools", "--admin", &nobody]),
        ("no_such_socket", &["pools", "--admin", "unix:/no/such/socket"]),
        ("address", &["pools", "--admin", "127.0.0.1:7072"]),
        ("unknown_pool", &["explain", "ordres", "--admin", &admin]),
        ("unknown_pool_far", &["explain", "invoices", "--admin", &admin]),
        ("unknown_sessions", &["sessions", "--pool", "ordres", "--admin", &admin]),
        ("no_permission", &["drain", "orders/pg1", "--admin", &admin]),
        ("no_token", &["pools", "--admin", &admin, "--token-file", &missing]),
        ("empty_token", &["pools", "--admin", &admin, "--token-file", &empty]),
        ("no_ca", &["pools", "--admin", "https://127.0.0.1:7072", "--ca-file", &missing]),
        ("usage_target", &["drain", "orders"]),
        ("usage_command", &["polls"]),
        ("usage_option", &["pools", "--jsn"]),
        ("bad_config", &["pools", "--config", &bad]),
        ("no_terminal", &["top", "--admin", &admin]),
    ];
    for (name, command) in cases {
        assert_snapshot!(format!("error_{name}"), shown(command, &changeover(command), dir.path()));
    }
    for (name, line) in [
        ("error_unknown_backend", &["drain", "orders/gp1"][..]),
        ("error_not_eligible", &["failover", "orders", "--to", "pg3"]),
        ("error_run_in_use", &["run"]),
    ] {
        let mut ended = site.command(line);
        ended.stderr = ended.stderr.replace(&site.daemon.config().display().to_string(), "FILE");
        assert_snapshot!(name, shown(line, &ended, directory(&site)));
    }
    // A socket that only its owner may connect to.
    let locked = tempfile::tempdir().unwrap();
    let socket = locked.path().join("admin.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let admin = format!("unix:{}", socket.display());
    let line = ["pools", "--admin", &admin];
    assert_snapshot!("error_locked_socket", shown(&line, &run(bound_by_permissions().args(line)), locked.path()));
}

#[test]
fn a_token_is_in_no_message_and_no_argument() {
    let (site, _backends) = site();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "hunter2-hunter2\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let admin = format!("unix:{}", site.socket().display());
    let ended = changeover(&["pools", "--admin", &admin, "--token-file", path.to_str().unwrap()]);
    assert!(ended.stderr.contains("everybody on this host may read the token file"), "{ended:?}");
    assert!(ended.stderr.contains("chmod 600"), "{ended:?}");
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    for (token, code) in [("hunter2 hunter2", 64), ("", 64)] {
        let ended = run(program().args(["pools", "--admin", &admin]).env("CHANGEOVER_TOKEN", token));
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stderr.contains("CHANGEOVER_TOKEN") && !ended.stderr.contains("hunter2"), "{ended:?}");
    }
    let far = run(program().args(["pools", "--admin", "http://192.0.2.1:1"]).env("CHANGEOVER_TOKEN", "hunter2"));
    assert!(far.stderr.contains("unencrypted") && !far.stderr.contains("hunter2"), "{far:?}");
}
