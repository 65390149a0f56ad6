//! Tunnels by a real program from elsewhere, bore, and the ways in which it lives and leads nowhere.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use support::proc_tree::is_alive;
use support::process::Guarded;
use support::{Backend, DEADLINE, Daemon, fresh_addr, fresh_ip, visit, wait_for, wait_until};

/// The port at which a server of bore talks to its clients; it knows no other.
const CONTROL: u16 = 7835;

/// The program, which `tests/run` installs.
fn bore() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bore/bin/bore");
    assert!(path.is_file(), "{} is not there; run ./tests/run, which installs it", path.display());
    path
}

/// A server at an address of its own, which publishes the ports that its clients ask for.
struct Server {
    at: SocketAddr,
    process: Option<Guarded>,
}

impl Server {
    fn start() -> Self {
        let mut server = Self { at: SocketAddr::new(fresh_ip(), CONTROL), process: None };
        server.restart();
        server
    }

    fn restart(&mut self) {
        let mut command = Command::new(bore());
        let ip = self.at.ip().to_string();
        command.args(["server", "--min-port", "1024", "--bind-addr", &ip, "--bind-tunnels", &ip]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(Guarded(command.spawn().expect("bore starts")));
        wait_until("bore's server accepts", DEADLINE, || std::net::TcpStream::connect(self.at).is_ok());
    }

    fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.0.kill().unwrap();
        process.0.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.as_ref().expect("it runs").0), signal).unwrap();
    }
}

/// A daemon whose clients reach `db` by way of the server, at a port that a client of bore, run by the daemon, has published there;
/// and a second backend behind it.
fn through(server: &Server, db: &Backend, other: &Backend) -> Daemon {
    let published = SocketAddr::new(server.at.ip(), fresh_addr().port());
    let words = |list: &[&str]| list.iter().map(|word| format!("\"{word}\", ")).collect::<String>();
    let (bore, to, at) = (bore().display().to_string(), server.at.ip().to_string(), published.port().to_string());
    let (host, port) = (db.addr.ip().to_string(), db.addr.port().to_string());
    let command = words(&[&bore, "local", "--local-host", &host, "--to", &to, "--port", &at, &port]);
    let daemon = Daemon::start(&format!(
        "[listeners.home]\nbind = \"127.0.0.1:0\"\npool = \"home\"\n[pools.home]\nhold = \"10s\"\n\
         [pools.home.check]\nkind = \"expect\"\nexpect = {{ send = \"\", answer = \"db\" }}\ninterval = \"100ms\"\n\
         timeout = \"300ms\"\nhealthy_threshold = 2\n[pools.home.failover]\nfailback_after = \"300ms\"\n\
         [pools.home.backends.bore]\naddress = \"{published}\"\npriority = 1\n[pools.home.backends.bore.tunnel]\n\
         provider = \"command\"\nattach = \"address\"\ncommand = [{command}]\nready = \"listening at\"\n\
         retry_initial = \"100ms\"\nretry_max = \"500ms\"\nready_timeout = \"3s\"\n{}",
        other.toml("home", 2),
    ));
    wait_state(&daemon, "connected");
    daemon.wait_active("home", "bore");
    daemon
}

#[track_caller]
fn wait_state(daemon: &Daemon, wanted: &str) {
    let state = || daemon.backend("home", "bore")["tunnel"]["state"].clone();
    wait_until(&format!("the tunnel is {wanted}"), DEADLINE, || state() == wanted);
}

#[track_caller]
fn program(daemon: &Daemon) -> Pid {
    wait_for("its program runs", DEADLINE, || {
        let pid = daemon.backend("home", "bore")["tunnel"]["pid"].as_i64()?;
        Pid::from_raw(pid.try_into().ok()?).filter(|pid| is_alive(*pid))
    })
}

#[test]
fn a_client_that_ends_in_good_order_when_its_server_dies_has_failed_and_is_started_until_it_is_back() {
    let (mut server, db, other) = (Server::start(), Backend::start("db"), Backend::start("db2"));
    let daemon = through(&server, &db, &other);
    assert_eq!(visit(daemon.listener("home")).unwrap(), "db");
    server.kill();
    daemon.wait_active("home", "db2");
    assert_eq!(visit(daemon.listener("home")).unwrap(), "db2");
    let reason = wait_for("why is told", DEADLINE, || {
        daemon.backend("home", "bore")["tunnel"]["reason"].as_str().map(str::to_owned)
    });
    assert!(!reason.is_empty());
    server.restart();
    daemon.wait_active("home", "bore");
    wait_state(&daemon, "connected");
    assert_eq!(visit(daemon.listener("home")).unwrap(), "db");
}

#[test]
fn a_server_that_accepts_and_is_silent_is_out_though_its_client_notices_nothing() {
    let (server, db, other) = (Server::start(), Backend::start("db"), Backend::start("db2"));
    let daemon = through(&server, &db, &other);
    server.signal(Signal::STOP);
    daemon.wait_active("home", "db2");
    assert_eq!(visit(daemon.listener("home")).unwrap(), "db2");
    server.signal(Signal::CONT);
    daemon.wait_active("home", "bore");
    wait_state(&daemon, "connected");
    assert_eq!(visit(daemon.listener("home")).unwrap(), "db");
}

#[test]
fn a_client_that_lives_and_does_nothing_is_out_and_started_anew() {
    let (server, db, other) = (Server::start(), Backend::start("db"), Backend::start("db2"));
    let daemon = through(&server, &db, &other);
    let frozen = program(&daemon);
    kill_process(frozen, Signal::STOP).unwrap();
    daemon.wait_active("home", "db2");
    daemon.wait_active("home", "bore");
    assert_ne!(program(&daemon), frozen);
    assert!(!is_alive(frozen), "a stopped program heeds no request to end");
    assert_eq!(visit(daemon.listener("home")).unwrap(), "db");
}
