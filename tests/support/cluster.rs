//! A real PostgreSQL cluster: a primary and standbys that stream from it, each at an address of its own.
//!
//! Any node can be killed, stopped in each of PostgreSQL's ways, frozen and thawed, promoted, and started again where it was.
//! The superuser `postgres` is trusted; [`MONITOR`] and [`PLAIN`] have [`PASSWORD`]. All nodes have the primary's certificate,
//! which is signed by a CA of the cluster's own and is for the primary's address alone.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::namespace::Namespace;
use super::net::fresh_addr;
use super::postgres::{as_account, client, give_to_account, must, tool};
use super::process::{Guarded, run};
use super::wait::{DEADLINE, wait_until};

/// The password of the roles that have one.
pub const PASSWORD: &str = "open sesame";
/// A role with `LOGIN` and `REPLICATION`.
pub const MONITOR: &str = "changeover";
/// A role with `LOGIN` alone.
pub const PLAIN: &str = "watcher";

/// The lines of `pg_hba.conf` that [`Cluster::start`] gives, after those of the superuser.
pub const HBA: &str = "host postgres,replication changeover 127.0.0.0/8 scram-sha-256\n\
                       host postgres watcher 127.0.0.0/8 scram-sha-256\n";

/// Also from the networks of [`Namespace`].
const HBA_OF_SUPERUSER: &str = "host all,replication postgres 127.0.0.0/8 trust\n\
                                host all,replication postgres 198.18.0.0/15 trust\n";

/// The ways of `pg_ctl stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Whoever is there may stay, and nobody is let in any more.
    Smart,
    /// Sessions are ended in order.
    Fast,
    /// As after a crash.
    Immediate,
}

/// A primary and its standbys. Stopped and reaped when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The first began as the primary.
    pub nodes: Vec<Node>,
    // After the nodes, which are stopped before it goes.
    dir: TempDir,
}

impl Cluster {
    /// A primary and so many standbys, all of which stream.
    #[track_caller]
    pub fn start(standbys: usize) -> Self {
        Self::with_hba(standbys, HBA)
    }

    /// As [`Self::start`], with these lines in `pg_hba.conf`.
    #[track_caller]
    pub fn with_hba(standbys: usize, hba: &str) -> Self {
        Self::make(standbys, hba, "", None)
    }

    /// As [`Self::start`], with these lines at the end of every `postgresql.conf`.
    #[track_caller]
    pub fn with_settings(standbys: usize, settings: &str) -> Self {
        Self::make(standbys, HBA, settings, None)
    }

    /// As [`Self::start`], with the first primary in a network namespace.
    #[track_caller]
    pub fn apart(standbys: usize, namespace: Namespace) -> Self {
        Self::make(standbys, &HBA.replace("127.0.0.0/8", "all"), "", Some(namespace))
    }

    #[track_caller]
    fn make(standbys: usize, hba: &str, settings: &str, namespace: Option<Namespace>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        give_to_account(dir.path());
        let mut primary = Node::new(dir.path(), "pg1");
        if let Some(namespace) = namespace {
            primary.addr.set_ip(namespace.inside.into());
            primary.namespace = Some(namespace);
        }
        primary.init(hba);
        append(&primary.data().join("postgresql.conf"), settings);
        primary.start();
        primary.psql(&format!(
            "CREATE ROLE {MONITOR} LOGIN REPLICATION PASSWORD '{PASSWORD}'; CREATE ROLE {PLAIN} LOGIN PASSWORD '{PASSWORD}'"
        ));
        let mut cluster = Self { nodes: vec![primary], dir };
        for number in 0..standbys {
            let mut node = Node::new(cluster.dir.path(), &format!("pg{}", number + 2));
            node.copy(&cluster.nodes[0]);
            node.start();
            cluster.nodes.push(node);
        }
        cluster.wait_streaming(0, standbys);
        cluster
    }

    /// Each node as a server of pool `orders`, by its name, all of one priority.
    pub fn tables(&self) -> String {
        let table = |node: &Node| format!("[pools.orders.backends.{}]\naddress = \"{}\"\n", node.name, node.addr);
        self.nodes.iter().map(table).collect()
    }

    /// The certificate of the CA that has signed the nodes' own.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// Waits until so many standbys stream from the node.
    #[track_caller]
    pub fn wait_streaming(&self, node: usize, standbys: usize) {
        let query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        wait_until("the standbys stream", DEADLINE, || self.nodes[node].psql(query) == standbys.to_string());
    }
}

/// One server.
#[derive(Debug)]
pub struct Node {
    /// Its name: `pg1` and so on.
    pub name: String,
    /// Where it listens, in all its lives.
    pub addr: SocketAddr,
    root: PathBuf,
    process: Option<Guarded>,
    /// What it is cut off by, if it can be.
    pub namespace: Option<Namespace>,
}

impl Node {
    fn new(root: &Path, name: &str) -> Self {
        Self { name: name.to_owned(), addr: fresh_addr(), root: root.to_owned(), process: None, namespace: None }
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.root.join(format!("{}.log", self.name))
    }

    fn tool(&self, name: &str) -> Command {
        as_account(&tool(name), &self.root)
    }

    #[track_caller]
    fn init(&self, hba: &str) {
        let mut initdb = self.tool("initdb");
        initdb.arg("-D").arg(self.data());
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        must(&run(&mut initdb), "initdb");
        let settings = "unix_socket_directories = ''\nfsync = off\nssl = on\npassword_encryption = 'scram-sha-256'\n\
             shared_buffers = '32MB'\nmax_connections = 30\nmax_wal_senders = 20\nwal_keep_size = '64MB'\n\
             wal_log_hints = on\nwal_retrieve_retry_interval = '50ms'\ninclude_if_exists = 'node.conf'\n";
        append(&self.data().join("postgresql.conf"), settings);
        self.write_hba(hba);
        self.certify();
    }

    /// A CA, and a certificate of it for this node's address.
    #[track_caller]
    fn certify(&self) {
        let openssl = |args: &[&str]| {
            let mut command = as_account("openssl".as_ref(), &self.root);
            must(&run(command.args(args)), "openssl");
        };
        let data = self.data();
        let (key, cert) = (data.join("server.key"), data.join("server.crt"));
        let (key, cert) = (key.to_str().expect("UTF-8"), cert.to_str().expect("UTF-8"));
        fs::write(self.root.join("san"), format!("subjectAltName=IP:{}\n", self.addr.ip())).expect("write");
        let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256"];
        openssl(
            &[
                &[
                    "req",
                    "-x509",
                    "-days",
                    "2",
                    "-subj",
                    &format!("/CN=the CA of {}", self.addr.ip()),
                    "-keyout",
                    "ca.key",
                    "-out",
                    "ca.crt",
                ],
                &new[..],
            ]
            .concat(),
        );
        openssl(&[&["req", "-subj", "/CN=pg", "-keyout", key, "-out", "server.csr"], &new[..]].concat());
        openssl(&[
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-sha256",
            "-extfile",
            "san",
            "-out",
            cert,
        ]);
        fs::set_permissions(key, Permissions::from_mode(0o600)).expect("chmod");
    }

    /// Replaces what `pg_hba.conf` says of all but the superuser; a server that runs reads it with [`Self::reload`].
    pub fn write_hba(&self, lines: &str) {
        fs::write(self.data().join("pg_hba.conf"), format!("{HBA_OF_SUPERUSER}{lines}")).expect("write");
    }

    /// Has it read its files again, and waits until it has.
    #[track_caller]
    pub fn reload(&self) {
        let loaded = || self.psql("SELECT pg_conf_load_time()");
        let before = loaded();
        self.signal(Signal::HUP);
        wait_until("the files are read again", DEADLINE, || loaded() != before);
    }

    /// Becomes a standby of `primary`, from a copy of it.
    #[track_caller]
    fn copy(&self, primary: &Self) {
        let mut copy = self.tool("pg_basebackup");
        copy.args(["-h", &primary.addr.ip().to_string(), "-p", &primary.addr.port().to_string(), "-U", "postgres"]);
        copy.args(["-R", "-X", "stream", "-c", "fast", "--no-sync"]).arg("-D").arg(self.data());
        must(&run(&mut copy), "pg_basebackup");
    }

    /// Has it follow `primary` from its next start on, or from [`Self::reload`].
    pub fn follow(&self, primary: &Self) {
        let (host, port) = (primary.addr.ip(), primary.addr.port());
        let line = format!("primary_conninfo = 'host={host} port={port} user=postgres'\n");
        append(&self.data().join("postgresql.auto.conf"), &line);
    }

    /// Makes a standby of `primary` of it, from a copy, and starts it. It has been killed or stopped.
    #[track_caller]
    pub fn rejoin(&mut self, primary: &Self) {
        fs::remove_dir_all(self.data()).expect("remove");
        self.copy(primary);
        self.start();
    }

    /// Makes a standby of `primary` of it where it is, and starts it. It has been stopped in order.
    #[track_caller]
    pub fn rejoin_in_place(&mut self, primary: &Self) {
        let signal = self.data().join("standby.signal");
        fs::write(&signal, "").expect("write");
        give_to_account(&signal);
        self.follow(primary);
        self.start();
    }

    /// Starts it where it was, and waits until it takes sessions.
    #[track_caller]
    pub fn start(&mut self) {
        let listen = format!("listen_addresses = '{}'\nport = {}\n", self.addr.ip(), self.addr.port());
        fs::write(self.data().join("node.conf"), listen).expect("write");
        // A killed server's children may hold its shared memory for a moment more, and it then refuses to start.
        wait_until("PostgreSQL answers", DEADLINE, || {
            if !self.is_running() {
                self.process = Some(Guarded(self.spawn()));
            }
            self.is_ready()
        });
    }

    fn spawn(&self) -> std::process::Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("open");
        let mut command = self.tool("postgres");
        command.arg("-D").arg(self.data());
        let mut command = self.namespace.iter().fold(command, |command, namespace| namespace.inside_of(&command));
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("clone")).stderr(log);
        command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))
    }

    /// Whether its postmaster has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.0.try_wait().expect("wait").is_none())
    }

    /// Whether it takes sessions.
    pub fn is_ready(&self) -> bool {
        let mut command = Command::new(tool("pg_isready"));
        command.args(["-q", "-t", "5", "-h", &self.addr.ip().to_string(), "-p", &self.addr.port().to_string()]);
        run(&mut command).code == Some(0)
    }

    /// What the superuser is answered, without the last end of line.
    #[track_caller]
    pub fn psql(&self, query: &str) -> String {
        let ended = run(client("psql", self.addr, &[]).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", query]));
        must(&ended, query);
        ended.stdout.trim_end().to_owned()
    }

    fn postmaster(&self) -> Pid {
        Pid::from_child(&self.process.as_ref().expect("it runs").0)
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.postmaster(), signal).expect("kill");
    }

    /// SIGKILL to the postmaster, which its other processes notice by themselves.
    #[track_caller]
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_end();
    }

    /// `pg_ctl stop`, without the wait for its end: [`Self::wait_end`].
    pub fn begin_stop(&self, how: Stop) {
        self.signal(match how {
            Stop::Smart => Signal::TERM,
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        });
    }

    /// Waits for the postmaster's end.
    #[track_caller]
    pub fn wait_end(&mut self) {
        self.process.take().expect("it runs").wait();
    }

    /// `pg_ctl stop`.
    #[track_caller]
    pub fn stop(&mut self, how: Stop) {
        self.begin_stop(how);
        self.wait_end();
    }

    /// SIGKILL to one of its backends, which has all others end and the server recover.
    #[track_caller]
    pub fn crash_a_backend(&self) {
        // The background writer is never anybody's session.
        let pid = self.psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'background writer'");
        let pid = Pid::from_raw(pid.parse().expect("a number")).expect("a process");
        kill_process(pid, Signal::KILL).expect("kill");
    }

    /// SIGSTOP to all of its processes.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// SIGCONT to all of its processes.
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        let Some(process) = &self.process else { return };
        let parent = process.0.id();
        // The postmaster first: it starts no more of them.
        kill_process(Pid::from_child(&process.0), signal).ok();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            kill_process(child, signal).ok();
        }
    }

    /// Waits until it has replayed all that `primary` has written by now.
    #[track_caller]
    pub fn wait_replayed(&self, primary: &Self) {
        let written = primary.psql("SELECT pg_current_wal_lsn()");
        let asked = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
        wait_until("what was written is replayed", DEADLINE, || self.psql(&asked) == "t");
    }

    /// `SELECT pg_promote(false)`: returns before it is the primary.
    #[track_caller]
    pub fn promote(&self) {
        self.psql("SELECT pg_promote(false)");
    }

    /// Whether it takes writes.
    #[track_caller]
    pub fn is_primary(&self) -> bool {
        self.psql("SELECT pg_is_in_recovery()") == "f"
    }

    /// Waits until it takes writes.
    #[track_caller]
    pub fn wait_primary(&self) {
        wait_until("it is the primary", DEADLINE, || self.is_primary());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of {}\n{}\n---", self.name, self.log());
        }
        self.thaw();
        if let Some(process) = &mut self.process {
            // Its "immediate shutdown", which takes its children along; the guard is for one that does not heed it.
            kill_process(Pid::from_child(&process.0), Signal::QUIT).ok();
            let start = std::time::Instant::now();
            while start.elapsed() < DEADLINE && matches!(process.0.try_wait(), Ok(None)) {
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
        }
    }
}

fn append(file: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(file).expect("open");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("write");
}
