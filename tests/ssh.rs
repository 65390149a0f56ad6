//! Tunnels by a real OpenSSH, on loopback: to where nobody else can dial, and as they die.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest, Sha256};

use support::proc_tree::{command_line, is_alive};
use support::sshd::Sshd;
use support::{Backend, DEADLINE, Daemon, StopOnDrop, dial, pace, visit, wait_for, wait_until};

const MIB: usize = 1024 * 1024;

/// Asked each 100 ms for the name that the server behind the tunnels says first; out after three failures.
const CHECK: &str = "[listeners.home]\nbind = \"127.0.0.1:0\"\npool = \"home\"\n[pools.home]\nhold = \"10s\"\n\
                     [pools.home.check]\nkind = \"expect\"\nexpect = { send = \"\", answer = \"db\" }\n\
                     interval = \"100ms\"\ntimeout = \"300ms\"\nunhealthy_threshold = 3\nhealthy_threshold = 2\n\
                     [pools.home.failover]\nfailback_after = \"300ms\"\n";

/// A backend of pool `home` behind a tunnel by `sshd`, with these keys besides.
fn tunnel(name: &str, priority: u32, sshd: &Sshd, target: SocketAddr, keys: &str) -> String {
    tunnel_with(name, priority, &sshd.options("id"), target, keys)
}

fn tunnel_with(name: &str, priority: u32, options: &str, target: SocketAddr, keys: &str) -> String {
    format!(
        "[pools.home.backends.{name}]\npriority = {priority}\n[pools.home.backends.{name}.tunnel]\nprovider = \"ssh\"\n\
         target = \"{target}\"\noptions = {options}\n{keys}\n"
    )
}

fn state(daemon: &Daemon, backend: &str) -> Value {
    daemon.backend("home", backend)["tunnel"]["state"].clone()
}

#[track_caller]
fn wait_tunnel(daemon: &Daemon, backend: &str, wanted: &str) {
    wait_until(&format!("tunnel {backend} is {wanted}"), DEADLINE, || state(daemon, backend) == wanted);
}

/// The process of a tunnel's program, which is there.
#[track_caller]
fn program_of(daemon: &Daemon, backend: &str) -> Pid {
    wait_for(&format!("the program of {backend} runs"), DEADLINE, || {
        let pid = daemon.backend("home", backend)["tunnel"]["pid"].as_i64()?;
        Pid::from_raw(pid.try_into().ok()?).filter(|pid| is_alive(*pid))
    })
}

fn events(daemon: &Daemon, kind: &str) -> Vec<Value> {
    daemon.admin_get(&format!("/api/v1/pools/home/events?kind={kind}")).json()["events"].as_array().unwrap().clone()
}

/// Comes again and again, one client after another, until it is dropped. Counts who served and who did not.
fn stream_of_clients<T>(at: SocketAddr, while_they_come: impl FnOnce() -> T) -> (T, usize, Vec<String>) {
    let (stop, served, failed) = (AtomicBool::new(false), Mutex::new(0), Mutex::new(Vec::new()));
    let done = thread::scope(|scope| {
        let _stopped = StopOnDrop(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                let mut next = Instant::now();
                while !stop.load(Ordering::SeqCst) {
                    match visit(at) {
                        Ok(_) => *served.lock().unwrap() += 1,
                        Err(error) => failed.lock().unwrap().push(error.to_string()),
                    }
                    pace(&mut next, Duration::from_millis(10));
                }
            });
        }
        while_they_come()
    });
    (done, served.into_inner().unwrap(), failed.into_inner().unwrap())
}

#[test]
fn a_killed_tunnel_lets_no_new_client_down_and_comes_back_by_itself() {
    let (a, b, db) = (Sshd::start(), Sshd::start(), Backend::start("db"));
    let daemon = Daemon::start(&format!(
        "{CHECK}{}{}{}",
        tunnel("a", 1, &a, db.addr, ""),
        tunnel("b", 2, &b, db.addr, ""),
        format_args!("[pools.home.backends.direct]\naddress = \"{}\"\npriority = 3\n", db.addr),
    ));
    for name in ["a", "b"] {
        wait_tunnel(&daemon, name, "connected");
    }
    daemon.wait_active("home", "a");
    let home = daemon.listener("home");
    assert_eq!(visit(home).unwrap(), "db");
    let killed = program_of(&daemon, "a");
    let mut held = dial(home).unwrap();
    assert_eq!(support::net::read_line(&mut held).unwrap(), "db");
    let ((), served, failed) = stream_of_clients(home, || {
        kill_process(killed, Signal::KILL).unwrap();
        daemon.wait_active("home", "b");
        wait_tunnel(&daemon, "a", "connected");
        daemon.wait_active("home", "a");
    });
    // Whoever was being served by the one that was killed is cut off; a client that comes anew is not.
    let cut_off =
        failed.iter().filter(|error| !error.contains("reset") && !error.contains("fill whole buffer")).count();
    assert_eq!(cut_off, 0, "{failed:?}");
    assert!(served > 20 && failed.len() <= 4, "{served} were served, and of those in mid-talk: {failed:?}");
    support::net::ends(&mut held);
    assert_ne!(program_of(&daemon, "a"), killed);
    assert_eq!(daemon.backend("home", "a")["tunnel"]["restarts"], 1);
    let told = events(&daemon, "tunnel.reconnecting");
    assert_eq!(told[0]["backend"], "a", "{told:?}");
    wait_until("the return is told", DEADLINE, || events(&daemon, "pool.failback").len() == 1);
    assert_eq!(events(&daemon, "tunnel.connected").len(), 3, "two at first, and one again");
}

#[test]
fn a_tunnel_that_lives_and_leads_nowhere_is_out_within_its_threshold_and_is_started_anew() {
    let (a, b, db) = (Sshd::start(), Sshd::start(), Backend::start("db"));
    let daemon =
        Daemon::start(&format!("{CHECK}{}{}", tunnel("a", 1, &a, db.addr, ""), tunnel("b", 2, &b, db.addr, "")));
    wait_tunnel(&daemon, "a", "connected");
    wait_tunnel(&daemon, "b", "connected");
    daemon.wait_active("home", "a");
    let first = program_of(&daemon, "a");
    a.signal_sessions(Signal::STOP);
    daemon.wait_active("home", "b");
    assert!(is_alive(first) || daemon.backend("home", "a")["tunnel"]["restarts"] != 0, "nobody ended it");
    assert_eq!(visit(daemon.listener("home")).unwrap(), "db");
    let unhealthy = events(&daemon, "backend.unhealthy");
    assert_eq!(unhealthy[0]["backend"], "a", "{unhealthy:?}");
    // What is frozen stays so; a new session of the server is another process.
    wait_until("it is started anew", DEADLINE, || daemon.backend("home", "a")["tunnel"]["restarts"] != 0);
    daemon.wait_active("home", "a");
    assert_ne!(program_of(&daemon, "a"), first);
    a.signal_sessions(Signal::CONT);
}

#[test]
fn a_target_that_refuses_behind_healthy_tunnels_moves_nobody_and_restarts_nothing() {
    let (a, b, mut db) = (Sshd::start(), Sshd::start(), Backend::start("db"));
    let daemon =
        Daemon::start(&format!("{CHECK}{}{}", tunnel("a", 1, &a, db.addr, ""), tunnel("b", 2, &b, db.addr, "")));
    wait_tunnel(&daemon, "a", "connected");
    wait_tunnel(&daemon, "b", "connected");
    daemon.wait_active("home", "a");
    let programs = ["a", "b"].map(|name| program_of(&daemon, name));
    db.kill();
    daemon.wait_state("home", "down");
    let told = wait_for("it is told", DEADLINE, || events(&daemon, "pool.down").first().cloned());
    assert!(told.to_string().contains("behind"), "the event says that it is the target: {told}");
    // Six failures in a row would have a tunnel started anew, were it at fault.
    let failures = || daemon.backend("home", "a")["consecutive_failures"].as_u64().unwrap();
    wait_until("it has failed many more checks", DEADLINE, || failures() >= 12);
    assert_eq!(["a", "b"].map(|name| program_of(&daemon, name)), programs, "nothing was started anew");
    let moved = events(&daemon, "pool.failover");
    assert!(moved.iter().all(|event| event["status"] != "completed"), "{moved:?}");
    db.restart();
    daemon.wait_active("home", "a");
    assert_eq!(visit(daemon.listener("home")).unwrap(), "db");
    assert_eq!(["a", "b"].map(|name| program_of(&daemon, name)), programs);
}

#[test]
fn a_key_that_is_not_let_in_is_a_failure_in_words_and_no_storm() {
    let (sshd, db) = (Sshd::start(), Backend::start("db"));
    let daemon = Daemon::start(&format!(
        "{CHECK}{}[pools.home.backends.direct]\naddress = \"{}\"\npriority = 3\n",
        tunnel_with("a", 1, &sshd.options("stranger"), db.addr, ""),
        db.addr
    ));
    wait_tunnel(&daemon, "a", "failed");
    let backend = daemon.backend("home", "a");
    let reason = backend["tunnel"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("Permission denied"), "{backend}");
    assert!(backend["tunnel"]["next_retry"].is_string(), "it is tried again some time: {backend}");
    let told = wait_for("it is told", DEADLINE, || events(&daemon, "tunnel.failed").first().cloned());
    assert!(told.to_string().contains("Permission denied"), "{told}");
    daemon.wait_active("home", "direct");
    assert_eq!(visit(daemon.listener("home")).unwrap(), "db");
    // Other tunnels would have been tried thrice in the time of ten checks.
    let checks = || daemon.metric("check_total", &[("backend", "direct")]).unwrap();
    let so_far = checks();
    wait_until("time has passed", DEADLINE, || checks() > so_far + 20.0);
    let logins = sshd.log().matches("Connection closed by authenticating user").count();
    assert!(logins <= 1, "{logins} logins\n{}", sshd.log());
}

#[test]
fn a_host_that_is_not_the_one_that_is_known_is_a_failure_in_words() {
    let (sshd, db) = (Sshd::start(), Backend::start("db"));
    sshd.tell_known_hosts("stranger.pub");
    let daemon = Daemon::start(&format!(
        "{CHECK}{}[pools.home.backends.direct]\naddress = \"{}\"\npriority = 3\n",
        tunnel("a", 1, &sshd, db.addr, ""),
        db.addr
    ));
    wait_tunnel(&daemon, "a", "failed");
    let reason = daemon.backend("home", "a")["tunnel"]["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains("Host key verification failed") || reason.contains("IDENTIFICATION HAS CHANGED"),
        "{reason}"
    );
}

#[test]
fn a_bastion_that_is_away_is_tried_until_it_is_back() {
    let (mut sshd, db) = (Sshd::start(), Backend::start("db"));
    sshd.kill();
    let daemon = Daemon::start(&format!(
        "{CHECK}{}[pools.home.backends.direct]\naddress = \"{}\"\npriority = 3\n",
        tunnel("a", 1, &sshd, db.addr, ""),
        db.addr
    ));
    daemon.wait_active("home", "direct");
    assert_ne!(state(&daemon, "a"), "failed", "it may come back at any moment");
    sshd.restart();
    wait_tunnel(&daemon, "a", "connected");
    daemon.wait_active("home", "a");
}

/// Sends so much each way at once, and compares what arrives. The backend ends its direction once all has come: OpenSSH with
/// `-W` reads no more of its input once the far end has ended.
#[track_caller]
fn carries(daemon: &Daemon, backend: &TcpListener, length: usize) {
    let mut seeds = [1_u64, 2].map(fastrand::Rng::with_seed);
    let [up, down] = seeds.each_mut().map(|rng| {
        let mut bytes = vec![0; length];
        rng.fill(&mut bytes);
        bytes
    });
    let client = dial(daemon.listener("home")).unwrap();
    let read = |mut from: &std::net::TcpStream| {
        let mut all = Vec::new();
        from.read_to_end(&mut all).expect("in order");
        Sha256::digest(&all)
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            (&client).write_all(&up).expect("written");
            client.shutdown(Shutdown::Write).expect("ended");
        });
        // Probes come, too, and say nothing.
        let server = wait_for("a client that speaks", DEADLINE, || {
            let (server, _) = backend.accept().ok()?;
            server.set_nonblocking(false).unwrap();
            server.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut first = [0];
            (server.peek(&mut first).ok()? > 0).then_some(server)
        });
        let arrived = scope.spawn(move || {
            thread::scope(|scope| {
                let written = scope.spawn(|| (&server).write_all(&down).expect("written"));
                let arrived = read(&server);
                written.join().unwrap();
                server.shutdown(Shutdown::Write).expect("ended");
                (arrived, Sha256::digest(&down))
            })
        });
        let got = read(&client);
        let (arrived, sent) = arrived.join().unwrap();
        assert_eq!(got, sent, "down");
        assert_eq!(arrived, Sha256::digest(&up), "up");
    });
}

/// A tunnel of this shape to a backend that this test plays itself.
fn carried_by(attach: &str) {
    let (sshd, backend) = (Sshd::start(), TcpListener::bind("127.0.0.1:0").unwrap());
    backend.set_nonblocking(true).unwrap();
    let tunnel = tunnel("a", 1, &sshd, backend.local_addr().unwrap(), &format!("attach = \"{attach}\""));
    let daemon = Daemon::start(&format!(
        "[listeners.home]\nbind = \"127.0.0.1:0\"\npool = \"home\"\n[pools.home]\nhold = \"10s\"\n\
         [pools.home.check]\nkind = \"none\"\n{tunnel}"
    ));
    wait_tunnel(&daemon, "a", "connected");
    carries(&daemon, &backend, 64 * MIB);
    let moved = |direction| daemon.metric("backend_bytes_total", &[("backend", "a"), ("direction", direction)]);
    let all = |direction| moved(direction).is_some_and(|bytes| bytes >= 64.0 * 1024.0 * 1024.0);
    wait_until("all is counted", DEADLINE, || all("client_to_backend") && all("backend_to_client"));
}

#[test]
fn sixty_four_mebibytes_each_way_arrive_through_a_port_of_ssh() {
    carried_by("listen");
}

#[test]
fn sixty_four_mebibytes_each_way_arrive_through_a_socks_proxy_of_ssh() {
    carried_by("socks5");
}

#[test]
fn sixty_four_mebibytes_each_way_arrive_through_standard_input_and_output_of_ssh() {
    carried_by("stdio");
}

#[test]
fn nothing_is_left_of_tunnels_after_the_daemon() {
    let (sshd, db) = (Sshd::start(), Backend::start("db"));
    let config = format!("{CHECK}{}", tunnel("a", 1, &sshd, db.addr, ""));
    for signal in [Signal::TERM, Signal::KILL] {
        let mut daemon = Daemon::start(&config);
        wait_tunnel(&daemon, "a", "connected");
        let program = program_of(&daemon, "a");
        assert!(command_line(program).iter().any(|word| word == "-L"), "{:?}", command_line(program));
        let key = sshd.key("id").display().to_string();
        assert!(command_line(program).contains(&key), "the key is named, and not shown");
        daemon.signal(signal);
        daemon.wait_exit();
        wait_until("its program is gone", Duration::from_secs(2), || !is_alive(program));
    }
}

/// A server that says its name to all who come, and takes its time for that if it is to.
fn slow_if(name: &'static str, is_slow: &'static AtomicBool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || {
                let answer_at = Instant::now() + Duration::from_secs(1);
                while is_slow.load(Ordering::SeqCst) && Instant::now() < answer_at {
                    thread::park_timeout(answer_at.saturating_duration_since(Instant::now()));
                }
                client.write_all(format!("{name}\n").as_bytes()).ok();
                // Until the client goes.
                client.read_to_end(&mut Vec::new()).ok();
            });
        }
    });
    at
}

#[test]
fn a_tunnel_whose_far_end_answers_late_gets_no_new_session_and_keeps_those_it_has() {
    let is_slow: &'static AtomicBool = Box::leak(Box::default());
    let is_never: &'static AtomicBool = Box::leak(Box::default());
    let (a, b) = (Sshd::start(), Sshd::start());
    let daemon = Daemon::start(&format!(
        "[listeners.home]\nbind = \"127.0.0.1:0\"\npool = \"home\"\n[pools.home.check]\nkind = \"expect\"\n\
         expect = {{ send = \"\", answer = \"db\" }}\ninterval = \"200ms\"\ntimeout = \"10s\"\nmax_latency = \"500ms\"\n{}{}",
        tunnel("a", 1, &a, slow_if("db-a", is_slow), ""),
        tunnel("b", 2, &b, slow_if("db-b", is_never), ""),
    ));
    wait_tunnel(&daemon, "b", "connected");
    daemon.wait_active("home", "a");
    let home = daemon.listener("home");
    let mut held = dial(home).unwrap();
    assert_eq!(support::net::read_line(&mut held).unwrap(), "db-a");
    let program = program_of(&daemon, "a");
    is_slow.store(true, Ordering::SeqCst);
    daemon.wait_active("home", "b");
    let mut anew = dial(home).unwrap();
    assert_eq!(support::net::read_line(&mut anew).unwrap(), "db-b");
    wait_until("it is told", DEADLINE, || events(&daemon, "latency.high").iter().any(|event| event["backend"] == "a"));
    held.set_nonblocking(true).unwrap();
    let still = held.read(&mut [0]).unwrap_err();
    assert_eq!(still.kind(), std::io::ErrorKind::WouldBlock, "who is there stays");
    assert_eq!(program_of(&daemon, "a"), program, "it is not started anew for being slow");
}
