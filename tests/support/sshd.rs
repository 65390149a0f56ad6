//! A real OpenSSH server of its own for a test, with its own keys and nobody's configuration, and those who may log in.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::net::fresh_addr;
use super::proc_tree::descendants;
use super::process::{Guarded, run};
use super::wait::{DEADLINE, wait_until};

/// Where Debian's server wants to find an empty directory when it is started by root.
const SEPARATION: &str = "/run/sshd";

/// A server. It and all its sessions are killed when it is dropped.
#[derive(Debug)]
pub struct Sshd {
    /// Where it listens, in all its lives.
    pub addr: SocketAddr,
    dir: TempDir,
    process: Option<Guarded>,
}

impl Sshd {
    /// Makes keys and starts it.
    #[track_caller]
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Self { addr: fresh_addr(), dir, process: None };
        for name in ["host", "id", "stranger"] {
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(server.path(name));
            let made = run(&mut command);
            assert_eq!(made.code, Some(0), "ssh-keygen, which ./tests/run installs: {made:?}");
        }
        fs::copy(server.path("id.pub"), server.path("authorized")).expect("copy");
        server.tell_known_hosts("host.pub");
        fs::write(server.path("config"), server.configuration()).expect("write");
        let mut server = server;
        server.restart();
        server
    }

    fn configuration(&self) -> String {
        format!(
            "ListenAddress {}:{}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nAllowTcpForwarding yes\n\
             MaxStartups 1000\nMaxSessions 1000\nUseDNS no\nLogLevel VERBOSE\n",
            self.addr.ip(),
            self.addr.port(),
            self.path("host").display(),
            self.path("authorized").display(),
        )
    }

    /// Has the clients' file of known hosts name this public key as the server's.
    #[track_caller]
    pub fn tell_known_hosts(&self, public_key: &str) {
        let key = fs::read_to_string(self.path(public_key)).expect("a key");
        let line = format!("[{}]:{} {key}", self.addr.ip(), self.addr.port());
        fs::write(self.path("known_hosts"), line).expect("write");
    }

    /// Starts it again where it was, and waits until it accepts.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all(SEPARATION).expect("the directory of privilege separation");
            fs::set_permissions(SEPARATION, Permissions::from_mode(0o755)).expect("chmod");
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("open");
        // It runs itself anew for each connection, and wants to know where it lies.
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(self.path("config"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}, which ./tests/run installs: {e}"));
        self.process = Some(Guarded(child));
        wait_until("sshd accepts", DEADLINE, || std::net::TcpStream::connect(self.addr).is_ok());
    }

    /// Kills it, and all of its sessions with it.
    #[track_caller]
    pub fn kill(&mut self) {
        let sessions = self.sessions();
        let mut process = self.process.take().expect("it runs");
        process.0.kill().expect("SIGKILL");
        process.0.wait().expect("reaped");
        for session in sessions {
            kill_process(session, Signal::KILL).ok();
        }
    }

    /// The processes that serve its sessions now.
    pub fn sessions(&self) -> Vec<Pid> {
        self.process.as_ref().map(|process| descendants(Pid::from_child(&process.0))).unwrap_or_default()
    }

    /// Sends all sessions a signal: `STOP` has them be there, and dead.
    pub fn signal_sessions(&self, signal: Signal) {
        for session in self.sessions() {
            kill_process(session, signal).ok();
        }
    }

    /// The key with which one may log in, or the one of somebody who may not.
    pub fn key(&self, name: &str) -> PathBuf {
        self.path(name)
    }

    /// The options of provider `ssh` that log in here with the key `name`.
    pub fn options(&self, name: &str) -> String {
        let user = run(Command::new("id").arg("-un")).stdout.trim().to_owned();
        format!(
            "{{ host = \"{}\", port = {}, user = \"{user}\", identity_file = \"{}\", known_hosts = \"{}\" }}",
            self.addr.ip(),
            self.addr.port(),
            self.path(name).display(),
            self.path("known_hosts").display(),
        )
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory of its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- sshd's log\n{}---", self.log());
        }
        if self.process.is_some() {
            self.kill();
        }
    }
}
