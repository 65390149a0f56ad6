//! `changeover doctor` on tunnels: by a real OpenSSH, which of their stages fails, and that nothing is started beside a daemon.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs::{Permissions, set_permissions, write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use changeover::sys::{is_marked, processes};
use serde_json::Value;
use support::cluster::{Cluster, MONITOR, PASSWORD};
use support::process::Ended;
use support::sshd::Sshd;
use support::{Backend, DEADLINE, Daemon, changeover, fresh_addr, wait_until};

/// A pool whose check wants the name of the backend, and who listens for it.
fn head() -> String {
    format!(
        "[admin]\nbind = \"{}\"\n[listeners.home]\nbind = \"{}\"\npool = \"home\"\n\
         [pools.home.check]\nkind = \"expect\"\nexpect = {{ send = \"\", answer = \"db\" }}\ninterval = \"100ms\"\ntimeout = \"10s\"\n",
        fresh_addr(),
        fresh_addr(),
    )
}

fn tunnel(name: &str, provider: &str, target: SocketAddr, keys: &str) -> String {
    format!("[pools.home.backends.{name}.tunnel]\nprovider = \"{provider}\"\ntarget = \"{target}\"\n{keys}\n")
}

fn by_ssh(name: &str, options: &str, target: SocketAddr) -> String {
    tunnel(name, "ssh", target, &format!("options = {options}\nready_timeout = \"60s\""))
}

/// What `doctor` says of `text`.
fn doctor(text: &str) -> (Ended, Value) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("changeover.toml");
    write(&path, text).unwrap();
    set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    asked(&path.display().to_string())
}

fn asked(config: &str) -> (Ended, Value) {
    let ended = changeover(&["doctor", "--json", "--config", config]);
    let told = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (ended, told)
}

/// The finding on `what` has this level and says all of these words.
#[track_caller]
fn found(told: &Value, what: &str, level: &str, words: &[&str]) {
    let all = told["findings"].as_array().unwrap();
    let finding = all.iter().find(|one| one["what"] == what).unwrap_or_else(|| panic!("nothing on {what}: {told:#}"));
    assert_eq!(finding["level"], level, "{told:#}");
    let said = finding.to_string();
    words.iter().for_each(|word| assert!(said.contains(word), "no `{word}` in {finding:#}"));
}

#[track_caller]
fn silent(told: &Value, what: &str) {
    let all = told["findings"].as_array().unwrap();
    assert!(all.iter().all(|one| one["what"] != what), "{told:#}");
}

#[test]
fn a_tunnel_that_works_is_tried_to_its_end_and_nothing_is_left_of_it() {
    let (sshd, db) = (Sshd::start(), Backend::start("db"));
    let options = sshd.options("id");
    let stdio = tunnel("each", "ssh", db.addr, &format!("attach = \"stdio\"\noptions = {options}"));
    let socks = tunnel("proxy", "ssh", db.addr, &format!("attach = \"socks5\"\noptions = {options}"));
    let (ended, told) = doctor(&(head() + &by_ssh("port", &options, db.addr) + &stdio + &socks));
    assert_eq!(ended.code, Some(0), "{told:#}");
    for name in ["port", "each", "proxy"] {
        found(&told, &format!("tunnel home/{name}, program"), "ok", &["/ssh, version "]);
        found(&told, &format!("tunnel home/{name}, identity_file"), "ok", &["mode 0600"]);
        found(&told, &format!("tunnel home/{name}, known_hosts"), "ok", &["is there"]);
        found(&told, &format!("tunnel home/{name}"), "ok", &["open after"]);
        found(&told, &format!("backend home/{name}"), "ok", &["passes its check"]);
    }
    let order: Vec<&str> = told["findings"].as_array().unwrap().iter().filter_map(|one| one["what"].as_str()).collect();
    let at = |what: &str| order.iter().position(|one| *one == what).unwrap();
    assert!(at("backend home/each") < at("tunnel home/port") && at("backend home/port") < at("tunnel home/proxy"));
    wait_until("the server has no session left", DEADLINE, || sshd.sessions().is_empty());
    let logins = sshd.log().matches("Accepted publickey").count();
    assert_eq!(logins, 3, "one of each: {}", sshd.log());
}

#[test]
fn what_ssh_refuses_says_what_to_do_about_it() {
    let (sshd, other, db) = (Sshd::start(), Sshd::start(), Backend::start("db"));
    other.tell_known_hosts("stranger.pub");
    let unknown = Sshd::start();
    write(unknown.dir().join("known_hosts"), "").unwrap();
    let each = tunnel("each", "ssh", db.addr, &format!("attach = \"stdio\"\noptions = {}", sshd.options("stranger")));
    let text = head()
        + &by_ssh("changed", &other.options("id"), db.addr)
        + &each
        + &by_ssh("key", &sshd.options("stranger"), db.addr)
        + &by_ssh("unknown", &unknown.options("id"), db.addr);
    let (ended, told) = doctor(&text);
    assert_eq!((ended.code, told["failed"].as_u64()), (Some(1), Some(4)), "{told:#}");
    let stranger = format!("{}.pub", sshd.key("stranger").display());
    let refused = ["Permission denied (publickey", &*stranger, "authorized_keys"];
    found(&told, "tunnel home/key", "fail", &refused);
    found(&told, "tunnel home/each", "fail", &refused);
    found(&told, "tunnel home/unknown", "fail", &["Host key verification failed", "ssh-keyscan -p "]);
    found(&told, "tunnel home/changed", "fail", &["ask the owner of 127."]);
    for name in ["changed", "each", "key", "unknown"] {
        silent(&told, &format!("backend home/{name}"));
    }
}

#[test]
fn a_key_that_others_may_read_is_told_before_ssh_refuses_it() {
    let (sshd, db) = (Sshd::start(), Backend::start("db"));
    let key = sshd.key("id");
    set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let (ended, told) = doctor(&(head() + &by_ssh("a", &sshd.options("id"), db.addr)));
    assert_eq!(ended.code, Some(1), "{told:#}");
    let mend = format!("chmod 600 {}", key.display());
    found(&told, "tunnel home/a, identity_file", "fail", &["mode 0644", &mend]);
    found(&told, "tunnel home/a", "fail", &[&mend]);
    std::fs::remove_file(&key).unwrap();
    let (_, told) = doctor(&(head() + &by_ssh("a", &sshd.options("id"), db.addr)));
    found(&told, "tunnel home/a, identity_file", "fail", &["No such file", "name a key"]);
}

#[test]
fn a_target_that_refuses_is_named_as_the_far_end_sees_it() {
    let (sshd, nobody) = (Sshd::start(), fresh_addr());
    let options = sshd.options("id");
    let each = tunnel("each", "ssh", nobody, &format!("attach = \"stdio\"\noptions = {options}"));
    let proxy = tunnel("proxy", "ssh", nobody, &format!("attach = \"socks5\"\noptions = {options}"));
    let (ended, told) = doctor(&(head() + &by_ssh("port", &options, nobody) + &each + &proxy));
    assert_eq!((ended.code, told["failed"].as_u64()), (Some(1), Some(3)), "{told:#}");
    let words = format!("{nobody} as seen from the tunnel's far end");
    for name in ["port", "each", "proxy"] {
        found(&told, &format!("tunnel home/{name}"), "ok", &["open after"]);
        found(&told, &format!("backend home/{name}"), "fail", &[&words]);
    }
}

#[test]
fn what_is_not_there_is_told_by_its_stage() {
    let (sshd, nobody, db) = (Sshd::start(), fresh_addr(), Backend::start("db"));
    let options = sshd.options("id");
    let host = format!("host = \"{}\"", sshd.addr.ip());
    let gone = options.replace(&host, &format!("host = \"{}\"", nobody.ip()));
    let unnamed = options.replace(&host, "host = \"no-such-host.invalid\"");
    let missing = options.replacen('{', "{ program = \"/nowhere/ssh\",", 1);
    let says = |words: &str| format!("command = [\"/bin/sh\", \"-c\", \"echo {words}; exit 3\", \"{{local_port}}\"]");
    let mute = "command = [\"/bin/sleep\", \"600\", \"{local_port}\"]\n";
    let mute = tunnel("mute", "command", db.addr, &format!("{mute}ready_timeout = \"300ms\""));
    let text = head()
        + &by_ssh("gone", &gone, db.addr)
        + &by_ssh("missing", &missing, db.addr)
        + &mute
        + &tunnel("none", "command", db.addr, "attach = \"socks5\"\nproxy = \"127.0.0.1:1\"")
        + &tunnel("says", "command", db.addr, &says("I have had enough"))
        + &by_ssh("unnamed", &unnamed, db.addr);
    let (ended, told) = doctor(&text);
    assert_eq!(ended.code, Some(1), "{told:#}");
    let at = format!("whether {} port {} is where", nobody.ip(), nobody.port());
    found(&told, "tunnel home/gone", "fail", &["Connection refused", &at]);
    found(&told, "tunnel home/missing, program", "fail", &["`/nowhere/ssh` cannot be run", "`program`"]);
    silent(&told, "tunnel home/missing");
    found(&told, "tunnel home/mute, program", "ok", &["/bin/sleep"]);
    found(&told, "tunnel home/mute", "fail", &["not open within 300ms", "has not opened its port"]);
    silent(&told, "tunnel home/none, program");
    silent(&told, "tunnel home/none");
    found(&told, "backend home/none", "fail", &["tunnel_down", "start its proxy", "listens at 127.0.0.1:1"]);
    found(&told, "tunnel home/says", "fail", &["exit status: 3", "I have had enough", "run it by hand"]);
    found(&told, "tunnel home/unnamed, host", "fail", &["no-such-host.invalid", "getent hosts"]);
    found(&told, "tunnel home/unnamed", "fail", &["getent hosts no-such-host.invalid"]);
}

#[test]
fn an_address_that_is_looked_up_is_told_and_so_is_one_that_is_not_found() {
    let db = Backend::start("db");
    let lookup = |name: &str, words: &str| {
        format!(
            "[pools.home.backends.{name}.tunnel]\nprovider = \"command\"\nattach = \"address\"\n\
             lookup = {{ command = [\"/bin/echo\", \"{words}\"] }}\n"
        )
    };
    let head = head();
    // The second is the listener's.
    let own = head.split('"').nth(3).unwrap().to_owned();
    let text = head + &lookup("found", &db.addr.to_string()) + &lookup("lost", "nothing") + &lookup("own", &own);
    let (ended, told) = doctor(&text);
    assert_eq!((ended.code, told["failed"].as_u64()), (Some(1), Some(2)), "{told:#}");
    found(&told, "tunnel home/found, lookup", "ok", &[&format!("it is at {}", db.addr)]);
    found(&told, "backend home/found", "ok", &["passes its check"]);
    found(&told, "tunnel home/lost, lookup", "fail", &["its address is not found", "`nothing` is no address"]);
    found(&told, "tunnel home/own, lookup", "fail", &[&format!("{own} is where we listen ourselves")]);
}

#[test]
fn a_daemon_that_runs_is_asked_and_no_second_program_is_started() {
    let (sshd, db) = (Sshd::start(), Backend::start("db"));
    let daemon = Daemon::start(
        &(head() + &by_ssh("a", &sshd.options("id"), db.addr) + &by_ssh("bad", &sshd.options("stranger"), db.addr)),
    );
    let state = |backend: &str| daemon.backend("home", backend)["tunnel"]["state"].clone();
    wait_until("both are as they will be", DEADLINE, || state("a") == "connected" && state("bad") == "failed");
    let logins = sshd.log().matches("Accepted publickey").count();
    let (ended, told) = asked(&daemon.config().display().to_string());
    assert_eq!((ended.code, told["failed"].as_u64()), (Some(1), Some(1)), "{told:#}");
    found(&told, "tunnel home/a", "ok", &["the daemon that runs says that it is connected, for "]);
    found(
        &told,
        "tunnel home/bad",
        "fail",
        &["it is failed: ", "Permission denied", "tried again at 20", "authorized_keys"],
    );
    found(&told, "tunnel home/a, program", "ok", &["/ssh, version "]);
    silent(&told, "backend home/a");
    assert_eq!(sshd.log().matches("Accepted publickey").count(), logins, "nobody has logged in beside it");
    assert_eq!(state("a"), "connected");
    assert_eq!(daemon.backend("home", "a")["tunnel"]["restarts"], 0);
}

#[test]
fn a_server_behind_a_tunnel_is_logged_in_to_while_that_is_up() {
    let (sshd, cluster) = (Sshd::start(), Cluster::start(1));
    let tables = cluster.tables();
    let standby = tables.find("[pools.orders.backends.pg2]").unwrap();
    let text = format!(
        "[admin]\nbind = \"{}\"\n[listeners.orders]\nbind = \"{}\"\npool = \"orders\"\n[pools.orders]\nkind = \"postgres\"\n\
         [pools.orders.postgres]\nuser = \"{MONITOR}\"\npassword = \"{PASSWORD}\"\n{}\
         [pools.orders.backends.pg2.tunnel]\nprovider = \"ssh\"\ntarget = \"{}\"\nready_timeout = \"60s\"\noptions = {}\n",
        fresh_addr(),
        fresh_addr(),
        &tables[..standby],
        cluster.nodes[1].addr,
        sshd.options("id"),
    );
    let (ended, told) = doctor(&text);
    assert_eq!(ended.code, Some(0), "{told:#}");
    found(&told, "tunnel orders/pg2", "ok", &["open after"]);
    found(&told, "server orders/pg1", "ok", &["primary, timeline 1"]);
    found(&told, "server orders/pg2", "ok", &["standby, timeline 1"]);
    found(&told, "cluster orders", "ok", &["pg1 is the primary"]);
    assert_eq!(sshd.log().matches("Accepted publickey").count(), 1, "{}", sshd.log());
}

#[test]
fn nothing_is_left_of_programs_that_leave_others_behind() {
    let dir = tempfile::tempdir().unwrap();
    let id = format!("DOCTOR_TEST={}", dir.path().display());
    let (name, value) = id.split_once('=').unwrap();
    let script = "echo db; sleep 600 & setsid sleep 600 >/dev/null 2>&1 <&1 & wait";
    let nobody = fresh_addr();
    let keys = format!(
        "command = [\"/bin/sh\", \"-c\", \"{script}\"]\nenv = {{ {name} = \"{value}\" }}\nstop_grace = \"100ms\"\nattach = \"stdio\""
    );
    let (_, told) = doctor(&(head() + &tunnel("a", "command", nobody, &keys)));
    found(&told, "backend home/a", "ok", &["passes its check"]);
    // What was killed may still be on its way.
    wait_until("nobody is left", DEADLINE, || {
        !processes().iter().any(|process| !process.is_zombie && is_marked(process.pid, &id))
    });
}
