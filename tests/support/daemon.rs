//! The daemon as a child process, seen as its operators see it: log, notifications, HTTP, signals.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::http::{self, Response};
use super::metrics;
use super::namespace::Namespace;
use super::process::{Guarded, PROGRAM, bound_by_permissions, clean, program};
use super::wait::{DEADLINE, wait_for, wait_until};

/// Ticks of a second in /proc/PID/stat: `USER_HZ`, the same on every Linux.
const TICKS: f64 = 100.0;

type Lines = Arc<Mutex<Vec<String>>>;

/// A running daemon. Killed and reaped when dropped; its log is printed if the test failed.
#[derive(Debug)]
pub struct Daemon {
    process: Guarded,
    dir: TempDir,
    log: Lines,
    notices: Lines,
}

impl Daemon {
    /// Starts a daemon and waits until it is ready. What `config` leaves out of `[log]` and `[admin]` is added.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Self::start_with(config, program(), &[])
    }

    /// The same with more arguments to `run`.
    #[track_caller]
    pub fn start_args(config: &str, args: &[&str]) -> Self {
        Self::start_with(config, program(), args)
    }

    /// The same under a limit of `nofile` file descriptors.
    #[track_caller]
    pub fn start_limited(config: &str, nofile: usize) -> Self {
        Self::start_with(config, limited(nofile), &[])
    }

    /// The same by a parent that has made `SIGCHLD` be ignored, which is inherited.
    #[track_caller]
    pub fn start_deaf_to_children(config: &str) -> Self {
        // Not every shell passes this on; env(1) of coreutils does.
        let mut command = clean(Command::new("env"));
        command.args(["--ignore-signal=CHLD", PROGRAM]);
        Self::start_with(config, command, &[])
    }

    /// The same in a network of its own, where only its Unix sockets are reached.
    #[track_caller]
    pub fn start_inside(config: &str, namespace: &Namespace) -> Self {
        Self::start_with(config, clean(namespace.inside_of(&program())), &[])
    }

    /// One under such a limit that may never become ready.
    #[track_caller]
    pub fn spawn_limited(config: &str, nofile: usize) -> Self {
        Self::spawn_with(config, limited(nofile), &[])
    }

    /// One to whom permissions of files mean something, though it be root's, that may never become ready.
    #[track_caller]
    pub fn spawn_bound_by_permissions(config: &str) -> Self {
        Self::spawn_with(config, bound_by_permissions(), &[])
    }

    /// Starts a daemon that may never become ready.
    #[track_caller]
    pub fn spawn(config: &str) -> Self {
        Self::spawn_with(config, program(), &[])
    }

    #[track_caller]
    fn start_with(config: &str, command: Command, args: &[&str]) -> Self {
        let mut daemon = Self::spawn_with(config, command, args);
        wait_until("the daemon is ready", DEADLINE, || {
            let ended = daemon.process.0.try_wait().expect("wait");
            assert!(ended.is_none(), "the daemon ended before it was ready: {ended:?}");
            daemon.notified("READY=1") > 0
        });
        daemon
    }

    #[track_caller]
    fn spawn_with(config: &str, mut command: Command, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("changeover.toml"), complete(config)).expect("write");
        let notices = receive(&dir.path().join("notify"));
        command.arg("run").arg("--config").arg(dir.path().join("changeover.toml")).args(args);
        command.env("NOTIFY_SOCKET", dir.path().join("notify"));
        // It has nothing to say there. One that outlived a killed test would hold the pipe through which the tests are read.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let log = Lines::default();
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                kept.lock().expect("lock").push(line);
            }
        });
        Self { process: Guarded(child), dir, log, notices }
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("changeover.toml")
    }

    /// Every line it has logged.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("lock").clone()
    }

    /// The logged lines whose message begins with `start`.
    pub fn logged(&self, start: &str) -> Vec<Value> {
        let lines = self.log().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        lines.filter(|line| line["message"].as_str().is_some_and(|message| message.starts_with(start))).collect()
    }

    /// Waits until the logged lines whose message begins with `start` are as `are_so` says, and returns them. What is logged
    /// may be read later than its effects are seen.
    #[track_caller]
    pub fn wait_logged(&self, start: &str, are_so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        wait_for(&format!("\"{start}\" is logged"), DEADLINE, || Some(self.logged(start)).filter(|lines| are_so(lines)))
    }

    /// What it has told the service manager, one assignment an element.
    pub fn notices(&self) -> Vec<String> {
        self.notices.lock().expect("lock").clone()
    }

    /// How often it has told the service manager `assignment`.
    pub fn notified(&self, assignment: &str) -> usize {
        self.notices().iter().filter(|notice| *notice == assignment).count()
    }

    /// Where the listener `name` listens, as logged last of those addresses of which `wanted` makes something. It may listen at
    /// several, and what is logged may be read later than the daemon is ready.
    #[track_caller]
    fn listens<T>(&self, name: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        wait_for(&format!("listener {name} listens"), DEADLINE, || {
            let lines = self.logged("listening");
            let mut addresses = lines.iter().rev().filter(|line| line["listener"] == name);
            addresses.find_map(|line| wanted(line["address"].as_str().expect("an address in the line")))
        })
    }

    /// Where the listener `name` listens, as logged last.
    #[track_caller]
    pub fn listener_text(&self, name: &str) -> String {
        self.listens(name, |address| Some(address.to_owned()))
    }

    /// The same, for one that listens on TCP.
    #[track_caller]
    pub fn listener(&self, name: &str) -> SocketAddr {
        self.listens(name, |address| address.parse().ok())
    }

    /// The admin server's address.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        self.listener("admin")
    }

    /// GET from the admin server.
    #[track_caller]
    pub fn admin_get(&self, path: &str) -> Response {
        http::get(self.admin(), path).unwrap_or_else(|e| panic!("GET {path}: {e}"))
    }

    /// The sum of the samples of a family (its name without the prefix) that carry `labels`.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        metrics::sum(&self.admin_get("/metrics").body, name, labels)
    }

    /// Waits until `metric` is `value`; one that is not there yet counts as zero.
    #[track_caller]
    pub fn wait_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let mut last = None;
        let start = std::time::Instant::now();
        while last != Some(value) {
            assert!(start.elapsed() < DEADLINE, "{name}{labels:?} is {last:?}, not {value}");
            std::thread::park_timeout(Duration::from_millis(2));
            last = Some(self.metric(name, labels).unwrap_or(0.0));
        }
    }

    /// How many clients the listener has turned away for `reason`.
    #[track_caller]
    pub fn rejected(&self, listener: &str, reason: &str) -> f64 {
        self.metric("listener_rejected_total", &[("listener", listener), ("reason", reason)]).unwrap_or(0.0)
    }

    /// Waits until `held` clients of the listener are held.
    #[track_caller]
    pub fn wait_held(&self, listener: &str, held: u32) {
        self.wait_metric("listener_held", &[("listener", listener)], held.into());
    }

    /// Waits until `closed` sessions of the pool have ended for `reason`.
    #[track_caller]
    pub fn wait_closed(&self, pool: &str, reason: &str, closed: u32) {
        self.wait_metric("sessions_closed_total", &[("pool", pool), ("reason", reason)], closed.into());
    }

    /// A pool as the API shows it.
    #[track_caller]
    pub fn pool(&self, name: &str) -> Value {
        self.admin_get(&format!("/api/v1/pools/{name}")).json()
    }

    /// A backend as the API shows it.
    #[track_caller]
    pub fn backend(&self, pool: &str, name: &str) -> Value {
        let pool = self.pool(pool);
        let backends = pool["backends"].as_array().unwrap_or_else(|| panic!("no backends: {pool}"));
        backends.iter().find(|b| b["name"] == name).unwrap_or_else(|| panic!("no backend {name}: {pool}")).clone()
    }

    /// Waits until the pool's `state` is `state`.
    #[track_caller]
    pub fn wait_state(&self, pool: &str, state: &str) {
        wait_until(&format!("pool {pool} is {state}"), DEADLINE, || self.pool(pool)["state"] == state);
    }

    /// Waits until the backend's `health` is `health`.
    #[track_caller]
    pub fn wait_health(&self, pool: &str, backend: &str, health: &str) {
        let what = format!("{pool}/{backend} is {health}");
        wait_until(&what, DEADLINE, || self.backend(pool, backend)["health"] == health);
    }

    /// Waits until exactly the backend `name` is active.
    #[track_caller]
    pub fn wait_active(&self, pool: &str, name: &str) {
        let active = serde_json::json!([name]);
        wait_until(&format!("{name} is active in {pool}"), DEADLINE, || self.pool(pool)["active"] == active);
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.0), signal).expect("it runs");
    }

    /// Writes a new configuration file, has it read, and waits for the outcome: the logged line says why if it was
    /// rejected.
    #[track_caller]
    pub fn reload(&self, config: &str) -> Result<(), Value> {
        let outcomes = || (self.logged("reloaded").len(), self.logged("reload rejected"));
        let (taken, rejected) = outcomes();
        std::fs::write(self.config(), complete(config)).expect("write");
        self.signal(Signal::HUP);
        wait_for("the reload is done with", DEADLINE, || {
            let (now_taken, now_rejected) = outcomes();
            if now_taken > taken {
                return Some(Ok(()));
            }
            (now_rejected.len() > rejected.len()).then(|| Err(now_rejected[rejected.len()].clone()))
        })
    }

    /// Whether it lets a signal pass unheeded.
    #[track_caller]
    pub fn ignores(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(self.proc("status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("SigIgn");
        let ignored = u64::from_str_radix(line.trim(), 16).expect("a mask");
        ignored & (1 << (signal.as_raw() - 1)) != 0
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.0.try_wait().expect("wait").is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        self.process.wait()
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        self.process.0.kill().expect("it runs");
        self.wait_exit();
    }

    /// The memory it has in use, in bytes.
    #[track_caller]
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
        kib * 1024
    }

    /// The processor time it has used.
    #[track_caller]
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(self.proc("stat")).expect("it runs");
        // The name in parentheses may hold anything; utime and stime are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let ticks = fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<f64>().expect("a number"));
        Duration::from_secs_f64(ticks.sum::<f64>() / TICKS)
    }

    /// How often its threads have gone to sleep.
    #[track_caller]
    pub fn naps(&self) -> u64 {
        let threads = std::fs::read_dir(self.proc("task")).expect("it runs").map(|entry| entry.expect("listed").path());
        let naps = threads.map(|thread| {
            let status = std::fs::read_to_string(thread.join("status")).expect("it runs");
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.expect("a count").trim().parse::<u64>().expect("a number")
        });
        naps.sum()
    }

    /// The number of its thread `name`.
    #[track_caller]
    pub fn thread(&self, name: &str) -> i32 {
        let mut threads = std::fs::read_dir(self.proc("task")).expect("it runs").map(|entry| entry.expect("listed"));
        let thread = threads.find(|thread| {
            std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        });
        let thread = thread.unwrap_or_else(|| panic!("no thread {name}"));
        thread.file_name().to_string_lossy().parse().expect("a number")
    }

    /// How many file descriptors it has open.
    #[track_caller]
    pub fn descriptors(&self) -> usize {
        let numbers =
            std::fs::read_dir(self.proc("fd")).expect("it runs").map(|entry| entry.expect("listed").file_name());
        // What the test itself inherited has a number above any limit that is set here.
        numbers.filter(|number| number.to_string_lossy().parse::<usize>().is_ok_and(|number| number < 64)).count()
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.process.0.id()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}\n---", self.log().join("\n"));
        }
        // An empty datagram ends the thread that receives notices.
        let end = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"", self.dir.path().join("notify")));
        end.ok();
    }
}

/// The program under a limit of file descriptors.
fn limited(nofile: usize) -> Command {
    let mut command = clean(Command::new("prlimit"));
    command.args([&format!("--nofile={nofile}:{nofile}"), "--", PROGRAM]);
    command
}

/// Adds the tables that every test needs and few care for.
fn complete(config: &str) -> String {
    // Tests change more in a minute than people do.
    let unlimited = "[admin]\nrate_limit = \"0\"\n";
    let config =
        if config.contains("rate_limit") { config.to_owned() } else { config.replacen("[admin]\n", unlimited, 1) };
    let mut whole = format!("{config}\n");
    if !config.contains("[admin]") {
        whole.push_str("[admin]\nrate_limit = \"0\"\nbind = \"127.0.0.1:0\"\n");
    }
    if !config.contains("[log]") {
        whole.push_str("[log]\nformat = \"json\"\nlevel = \"info\"\n");
    }
    whole
}

/// Listens at `path` as a service manager does.
#[track_caller]
fn receive(path: &Path) -> Lines {
    let socket = UnixDatagram::bind(path).expect("bind");
    let notices = Lines::default();
    let kept = Arc::clone(&notices);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            kept.lock().expect("lock").extend(text.lines().map(str::to_owned));
        }
    });
    notices
}
