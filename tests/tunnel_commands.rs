//! What `tunnel` says, and how it ends, for people and for scripts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs::{Permissions, set_permissions, write};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::process::{Guarded, lines, program};
use support::{Backend, DEADLINE, Daemon, changeover, visit, wait_for, wait_until};

/// A pool with tunnels of these names, which lead nowhere, and a backend without one; orders come by `socket`.
fn config(socket: &str, names: &[&str]) -> String {
    let tunnel = |name: &&str| {
        format!(
            "[pools.home.backends.{name}.tunnel]\nprovider = \"command\"\ntarget = \"127.0.0.1:9\"\n\
             command = [\"/bin/sh\", \"-c\", \"echo hello from {{local_port}}; exec sleep 1000\"]\n\
             ready = \"never said\"\nready_timeout = \"1s\"\nretry_initial = \"30s\"\n"
        )
    };
    format!(
        "[admin]\nbind = [\"{socket}\", \"127.0.0.1:0\"]\n[listeners.home]\nbind = \"127.0.0.1:0\"\npool = \"home\"\n{}\
         [pools.home.backends.direct]\naddress = \"127.0.0.1:9\"\npriority = 9\n",
        names.iter().map(tunnel).collect::<String>()
    )
}

/// A daemon with two tunnels, and where it listens.
fn site() -> (Daemon, tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", dir.path().join("admin.sock").display());
    (Daemon::start(&config(&socket, &["far", "farther"])), dir, socket)
}

/// The lines of the tunnel of `far`, once one has this text.
fn lines_with(daemon: &Daemon, text: &str) -> Vec<String> {
    wait_for(text, DEADLINE, || {
        let answer = daemon.admin_get("/api/v1/pools/home/backends/far/tunnel/logs?limit=500").json();
        let lines: Vec<String> = answer["lines"].as_array()?.iter().map(|line| line["text"].to_string()).collect();
        lines.iter().any(|line| line.contains(text)).then_some(lines)
    })
}

#[test]
fn orders_for_one_and_for_all_end_as_scripts_need_it() {
    let (daemon, _dir, socket) = site();
    let give = |args: &[&str]| changeover(&[&["tunnel"], args, &["--admin", &socket]].concat());
    let states = || {
        let list: Value = serde_json::from_str(&give(&["list", "--json"]).stdout).unwrap();
        let all = list["tunnels"].as_array().unwrap().clone();
        all.iter().map(|one| one["tunnel"]["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (order, code, said) in [
        (&["stop", "home/far"][..], 0, "is stopped"),
        (&["stop", "home/far"], 1, "is stopped already"),
        // One is so already, and the other is not.
        (&["stop", "home"], 0, "The tunnel of home/farther is stopped"),
        (&["stop", "home/direct"], 1, "has no tunnel"),
        (&["logs", "home/direct"], 1, "has no tunnel"),
        (&["explain", "home/direct"], 1, "has no tunnel"),
        (&["restart", "home/nobody"], 1, "backend_not_found"),
        (&["start", "nowhere"], 1, "pool_not_found"),
        (&["stop", "home/"], 64, "POOL/BACKEND"),
    ] {
        let ended = give(order);
        assert_eq!(ended.code, Some(code), "{order:?}: {ended:?}");
        assert!(ended.stdout.contains(said) || ended.stderr.contains(said), "{order:?}: {ended:?}");
    }
    assert_eq!(states(), ["disconnected", "disconnected"]);
    let ended = give(&["start", "home"]);
    assert_eq!((ended.code, states().contains(&"disconnected".to_owned())), (Some(0), false), "{ended:?}");
    assert!(daemon.admin_get("/readyz").status == 200);
}

#[test]
fn lines_after_a_number_that_is_not_reached_yet_are_all_there_are() {
    let (daemon, _dir, socket) = site();
    let of = |query: &str| daemon.admin_get(&format!("/api/v1/pools/home/backends/far/tunnel/logs{query}")).json();
    lines_with(&daemon, "hello from");
    let known = of("");
    assert_eq!(known["gap"], json!(false));
    let first = of("?after=1000000&limit=1");
    assert_eq!((&first["gap"], &first["lines"][0]["id"], &first["next"]), (&json!(true), &json!(1), &json!(1)));
    let next = known["next"].as_u64().unwrap();
    let after = of(&format!("?after={next}"));
    assert!(after["gap"] == json!(false) && after["next"].as_u64().unwrap() >= next, "{after}");
    let ended = changeover(&["tunnel", "logs", "home/far", "--admin", &socket]);
    assert!(ended.code == Some(0) && ended.stdout.contains("hello from"), "{ended:?}");
}

/// What is answered to the n-th request; none is a connection that is lost.
type Script = fn(usize) -> Option<Value>;

/// One that answers by `script`, and what it was asked.
fn scripted(script: Script) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, (asked, requests)) = (listener.local_addr().unwrap(), channel());
    std::thread::spawn(move || {
        for (number, mut stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let head = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let head: Vec<String> = head.take_while(|line| !line.is_empty()).collect();
            let Some(first) = head.first() else { continue };
            if asked.send(first.clone()).is_err() {
                return;
            }
            if let Some(body) = script(number).map(|body| body.to_string()) {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok();
            }
        }
    });
    (address, requests)
}

fn page(id: u64, gap: bool) -> Value {
    json!({"lines": [{"id": id, "time": "2026-11-21T10:00:00.123456Z", "text": format!("line {id}")}], "next": id, "gap": gap})
}

fn follow(address: SocketAddr) -> Child {
    let mut command = program();
    command.args(["tunnel", "logs", "home/far", "--follow", "--admin", &format!("http://{address}")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn lines_are_followed_over_a_restart_of_the_daemon_until_interrupted() {
    let (address, requests) = scripted(|number| match number {
        0 => Some(page(400, false)),
        // It goes, and is there again; its tunnel says nothing at first.
        1 => None,
        2 => Some(json!({"lines": [], "next": 0, "gap": false})),
        3 => Some(page(1, false)),
        // It is started anew once more, and has said something before it is asked.
        4 => Some(page(2, true)),
        _ => Some(json!({"lines": [], "next": 2, "gap": false})),
    });
    let mut child = follow(address);
    let (told, warned) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
    let mut child = Guarded(child);
    let said: Vec<String> = (0..4).map(|_| told.recv_timeout(DEADLINE).unwrap()).collect();
    let texts = ["line 400", "line 1", "not kept any more", "line 2"];
    assert!(said.iter().zip(texts).all(|(said, text)| said.ends_with(text)), "{said:?}");
    let words: Vec<String> = (0..2).map(|_| warned.recv_timeout(DEADLINE).unwrap()).collect();
    assert!(words[0].contains("the connection is lost") && words[1].contains("connected again"), "{words:?}");
    let asked: Vec<String> = (0..6).map(|_| requests.recv_timeout(DEADLINE).unwrap()).collect();
    let after = ["limit=100", "after=400", "after=400", "after=0", "after=1", "after=2"];
    assert!(asked.iter().zip(after).all(|(asked, after)| asked.contains(&format!("{after} "))), "{asked:?}");
    kill_process(Pid::from_child(&child.0), Signal::INT).unwrap();
    assert_eq!(child.wait().code(), Some(0));
}

#[test]
fn lines_that_nobody_reads_are_not_followed() {
    let (address, _requests) = scripted(|number| Some(page(number as u64 + 1, false)));
    let mut child = follow(address);
    let mut told = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    told.read_line(&mut first).unwrap();
    assert!(first.ends_with("line 1\n"), "{first}");
    drop(told);
    assert_eq!(Guarded(child).wait().code(), Some(0));
}

#[test]
fn what_a_tunnel_has_said_goes_with_it() {
    let (daemon, _dir, socket) = site();
    let first = lines_with(&daemon, "hello from").remove(0);
    assert!(first.contains("started with pid"), "{first}");
    daemon.reload(&config(&socket, &["farther"])).unwrap();
    daemon.reload(&config(&socket, &["far", "farther"])).unwrap();
    let lines = lines_with(&daemon, "hello from");
    assert!(!lines.contains(&first), "{lines:?}");
}

#[test]
fn a_program_that_is_missing_or_may_not_be_run_has_failed_at_once_and_leads_somewhere_once_that_is_mended() {
    let (db, dir) = (Backend::start("db"), tempfile::tempdir().unwrap());
    let (socket, program) = (format!("unix:{}", dir.path().join("admin.sock").display()), dir.path().join("relay"));
    let daemon = Daemon::start(&format!(
        "[admin]\nbind = [\"{socket}\", \"127.0.0.1:0\"]\n[listeners.home]\nbind = \"127.0.0.1:0\"\npool = \"home\"\n\
         [pools.home.check]\ninterval = \"100ms\"\n[pools.home.backends.far]\naddress = \"{}\"\n\
         [pools.home.backends.far.tunnel]\nprovider = \"command\"\nattach = \"address\"\ncommand = [\"{}\"]\n\
         ready = \"it is up\"\nretry_initial = \"300ms\"\nretry_max = \"300ms\"\n",
        db.addr,
        program.display()
    ));
    let tunnel = || daemon.backend("home", "far")["tunnel"].clone();
    let has_failed_for = |why: &str| {
        let says = |tunnel: &Value| tunnel["reason"].as_str().is_some_and(|reason| reason.contains(why));
        let found = wait_for(why, DEADLINE, || Some(tunnel()).filter(says));
        assert_eq!(found["state"], "failed", "{found}");
        wait_until("it is tried again before long", DEADLINE, || tunnel()["next_retry"].is_string());
    };
    let failed = || daemon.admin_get("/api/v1/events?kind=tunnel.failed").json()["events"].as_array().unwrap().clone();
    has_failed_for("No such file");
    wait_until("people are told", DEADLINE, || failed().len() == 1);
    assert_eq!(failed()[0]["reason"], "not_started");
    let said = changeover(&["tunnel", "list", "--admin", &socket]).stdout;
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("home/far failed command") && said.contains("install it"), "{said}");
    write(&program, "#!/bin/sh\necho it is up\nexec sleep 1000\n").unwrap();
    has_failed_for("Permission denied");
    set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    wait_until("it is connected", DEADLINE, || tunnel()["state"] == "connected");
    daemon.wait_active("home", "far");
    assert_eq!((visit(daemon.listener("home")).unwrap().as_str(), failed().len()), ("db", 1));
}
