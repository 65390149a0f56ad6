//! A daemon whose operators reach it by a Unix socket, as they must to change anything.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use super::http::{self, Response};
use super::process::{Ended, changeover};
use super::{Backend, Daemon};

/// A pool `orders`, a listener of that name, and an admin socket.
#[derive(Debug)]
pub struct Site {
    /// The daemon.
    pub daemon: Daemon,
    dir: TempDir,
}

impl Site {
    /// Over `backends`, in order of preference, with `settings` in `[pools.orders]` and below.
    #[track_caller]
    pub fn start(settings: &str, backends: &[&Backend]) -> Self {
        let tables: String = (1..).zip(backends).map(|(priority, backend)| backend.toml("orders", priority)).collect();
        Self::with(&format!("{settings}\n{tables}"))
    }

    /// With `pool` behind the head of `[pools.orders]`.
    #[track_caller]
    pub fn with(pool: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("admin.sock");
        let daemon = Daemon::start(&format!(
            "[daemon]\nworkers = 1\ndrain_timeout = \"300ms\"\n[admin]\nbind = [\"unix:{}\", \"127.0.0.1:0\"]\n\
             [listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n[pools.orders]\nhold = \"10m\"\n{pool}\n",
            socket.display(),
        ));
        Self { daemon, dir }
    }

    /// Its admin socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    /// A request to it; `path` begins below `/api/v1/pools`.
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, body: &str) -> Response {
        let path = format!("/api/v1/pools{path}");
        http::send_unix(&self.socket(), method, &path, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// The same, which must be answered with 200.
    #[track_caller]
    pub fn done(&self, method: &str, path: &str, body: &str) -> Value {
        let answer = self.send(method, path, body);
        assert_eq!(answer.status, 200, "{method} {path} {body}: {}", answer.body);
        answer.json()
    }

    /// Runs a client command, which finds the socket by the daemon's configuration.
    #[track_caller]
    pub fn command(&self, args: &[&str]) -> Ended {
        let config = self.daemon.config().display().to_string();
        changeover(&[args, &["--config", &config]].concat())
    }

    /// The same, which must succeed with narrow lines. What it printed.
    #[track_caller]
    pub fn told(&self, args: &[&str]) -> String {
        let ended = self.command(args);
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        let wide = ended.stdout.lines().find(|line| line.chars().count() > 100);
        assert_eq!(wide, None, "{args:?}");
        ended.stdout
    }
}
