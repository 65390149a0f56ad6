//! A real PostgreSQL of its own for a test: TLS, SCRAM, and an address that nobody else has.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::net::fresh_addr;
use super::process::{Ended, Guarded, run};
use super::wait::{DEADLINE, wait_until};

/// The superuser's password.
const PASSWORD: &str = "open sesame";

/// The account that runs the server where the tests run as root, which PostgreSQL refuses to.
const ACCOUNT: &str = "postgres";

/// A server. Stopped and reaped when dropped.
#[derive(Debug)]
pub struct Postgres {
    /// Where it listens, in all its lives.
    pub addr: SocketAddr,
    dir: TempDir,
    process: Option<Guarded>,
}

impl Postgres {
    /// Makes a cluster and starts it.
    #[track_caller]
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut server = Self { addr: fresh_addr(), dir, process: None };
        server.create();
        server.restart();
        server
    }

    /// Starts it again where it was, and waits until it answers queries.
    #[track_caller]
    pub fn restart(&mut self) {
        // A killed server's children may hold its shared memory for a moment more, and it then refuses to start.
        wait_until("PostgreSQL answers", DEADLINE, || {
            let ended = self.process.as_mut().is_none_or(|process| process.0.try_wait().expect("wait").is_some());
            if ended {
                self.process = Some(Guarded(self.spawn()));
            }
            self.is_ready()
        });
    }

    /// SIGKILL to the server.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.0.kill().expect("SIGKILL");
        process.0.wait().expect("reaped");
    }

    /// Whether it answers queries, asked directly.
    pub fn is_ready(&self) -> bool {
        let (host, port) = (self.addr.ip().to_string(), self.addr.port().to_string());
        let mut command = Command::new(tool("pg_isready"));
        command.args(["-q", "-h", &host, "-p", &port, "-t", "5"]);
        run(&mut command).code == Some(0)
    }

    fn create(&self) {
        let path = self.dir.path();
        give_to_account(path);
        fs::write(path.join("password"), PASSWORD).expect("write");
        fs::set_permissions(path.join("password"), Permissions::from_mode(0o644)).expect("chmod");
        let (data, password) = (self.data(), path.join("password"));
        let mut initdb = self.as_server("initdb");
        initdb.arg("-D").arg(&data).arg("--pwfile").arg(&password);
        initdb.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]);
        must(&run(&mut initdb), "initdb");
        let mut openssl = self.as_account("openssl".as_ref());
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256"]);
        openssl.args(["-days", "2", "-subj", "/CN=localhost"]);
        openssl.arg("-keyout").arg(data.join("server.key")).arg("-out").arg(data.join("server.crt"));
        must(&run(&mut openssl), "openssl");
        fs::set_permissions(data.join("server.key"), Permissions::from_mode(0o600)).expect("chmod");
        let settings = format!(
            "listen_addresses = '{}'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n\
             full_page_writes = off\nssl = on\npassword_encryption = 'scram-sha-256'\nmax_connections = 50\n\
             shared_buffers = '32MB'\n",
            self.addr.ip(),
            self.addr.port(),
            path.display(),
        );
        let mut file = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).expect("open");
        std::io::Write::write_all(&mut file, settings.as_bytes()).expect("write");
    }

    fn spawn(&self) -> std::process::Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).expect("open");
        let mut command = self.as_server("postgres");
        command.arg("-D").arg(self.data()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("clone")).stderr(log);
        command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn as_server(&self, name: &str) -> Command {
        self.as_account(&tool(name))
    }

    fn as_account(&self, program: &Path) -> Command {
        as_account(program, self.dir.path())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("--- PostgreSQL's log\n{log}\n---");
        }
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

/// Gives `path` to the account that runs servers.
#[track_caller]
pub fn give_to_account(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let id = |flag| run(Command::new("id").args([flag, ACCOUNT])).stdout.trim().parse::<u32>().ok();
        let (user, group) = (id("-u"), id("-g"));
        assert!(user.is_some(), "there is no account {ACCOUNT}; run ./tests/run, which says how to get one");
        chown(path, user, group).expect("chown");
    }
}

/// `program` under an account that PostgreSQL accepts, in `dir`, which this account may read.
pub fn as_account(program: &Path, dir: &Path) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={ACCOUNT}"), &format!("--regid={ACCOUNT}"), "--clear-groups", "--"]);
        command.arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir(dir).env("LC_ALL", "C");
    command
}

/// A client program of PostgreSQL that talks to `addr` as the superuser, with `options` in its connection string.
pub fn client(name: &str, addr: SocketAddr, options: &[(&str, &str)]) -> Command {
    let mut command = Command::new(tool(name));
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("PG") {
            command.env_remove(variable);
        }
    }
    command.env("PGHOST", addr.ip().to_string()).env("PGPORT", addr.port().to_string());
    command.env("PGUSER", "postgres").env("PGDATABASE", "postgres").env("PGPASSWORD", PASSWORD).env("LC_ALL", "C");
    for (variable, value) in options {
        command.env(variable, value);
    }
    command
}

/// One of PostgreSQL's programs, from Debian's package or the path.
#[track_caller]
pub fn tool(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut packaged: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(name)).collect();
    packaged.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join(name));
    let found = packaged.into_iter().rev().chain(in_path).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("PostgreSQL's {name} is not installed; run ./tests/run, which installs it"))
}

/// Panics unless the program ended well.
#[track_caller]
pub fn must(ended: &Ended, what: &str) {
    assert_eq!(ended.code, Some(0), "{what} failed\n{}\n{}", ended.stdout, ended.stderr);
}
