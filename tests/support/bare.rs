//! A daemon whose log and notifications go where the test says, and may go nowhere: it is seen over HTTP alone.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::process::{Guarded, program};
use super::wait::{DEADLINE, wait_until};
use super::{fresh_addr, http, metrics};

/// A running daemon. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Bare {
    /// Its admin server's address.
    pub admin: SocketAddr,
    /// Where it sends its notifications. Nobody reads them but the test.
    pub notices: UnixDatagram,
    process: Guarded,
    dir: TempDir,
}

impl Bare {
    /// Starts a daemon that logs to `stderr`, and waits until its admin server says that it is ready.
    #[track_caller]
    pub fn start(config: &str, stderr: Stdio) -> Self {
        let (dir, admin) = (tempfile::tempdir().expect("a directory"), fresh_addr());
        let file = dir.path().join("changeover.toml");
        std::fs::write(&file, format!("{config}\n[admin]\nbind = \"{admin}\"\n")).expect("write");
        let notices = UnixDatagram::bind(dir.path().join("notify")).expect("bind");
        let mut command = program();
        command.arg("run").arg("--config").arg(&file).env("NOTIFY_SOCKET", dir.path().join("notify"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let process = Guarded(command.spawn().expect("the program starts"));
        let mut bare = Self { admin, notices, process, dir };
        wait_until("the daemon is ready", DEADLINE, || {
            bare.must_run();
            http::get(admin, "/readyz").is_ok_and(|answer| answer.status == 200)
        });
        bare
    }

    /// Where its notifications go.
    pub fn notify_path(&self) -> PathBuf {
        self.dir.path().join("notify")
    }

    /// Panics if it has ended.
    #[track_caller]
    pub fn must_run(&mut self) {
        let ended = self.process.0.try_wait().expect("wait");
        assert!(ended.is_none(), "the daemon has ended: {ended:?}");
    }

    /// The sum of the samples of a family that carry `labels`; zero if there are none.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let page = http::get(self.admin, "/metrics").expect("answered").body;
        metrics::sum(&page, name, labels).unwrap_or(0.0)
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.0), signal).expect("it runs");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        self.process.wait()
    }
}
