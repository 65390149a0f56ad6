//! The peers: where they are installed, how they are set up, how they are started.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tempfile::TempDir;

use crate::bare::Loop;
use crate::load;
use crate::process::{Guarded, PROXY_CPU, find};
use crate::setup;

/// How long a peer may take until it relays.
const START: Duration = Duration::from_secs(10);

/// Who is compared. The order is that of the table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// No proxy: the generator speaks to the backend.
    Direct,
    /// The release build of this package.
    Changeover,
    /// The same with `busy_poll`. Only where it is asked for.
    #[value(name = "chg-busy", alias = "changeover-busy")]
    ChangeoverBusy,
    /// HAProxy as Debian has it.
    Haproxy,
    /// HAProxy with splicing forced.
    #[value(name = "hap-splice", alias = "haproxy-splice")]
    HaproxySplice,
    /// nginx's stream module.
    Nginx,
    /// Envoy, where it is installed.
    Envoy,
    /// sozu, where it is installed.
    Sozu,
    /// A relay with nothing in it, on epoll. Only where it is asked for.
    BareEpoll,
    /// The same on `io_uring`. Only where it is asked for.
    BareUring,
}

impl Peer {
    /// Whether it takes part in a run that names nobody.
    pub(crate) fn is_usual(self) -> bool {
        !matches!(self, Self::ChangeoverBusy | Self::BareEpoll | Self::BareUring)
    }

    /// The column's name, by which it is also asked for.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().unwrap().get_name().to_owned()
    }

    /// This program itself, if it is one of its relays.
    pub(crate) fn bare(self) -> Option<Loop> {
        match self {
            Self::BareEpoll => Some(Loop::Epoll),
            Self::BareUring => Some(Loop::Uring),
            Self::Direct
            | Self::Changeover
            | Self::ChangeoverBusy
            | Self::Haproxy
            | Self::HaproxySplice
            | Self::Nginx
            | Self::Envoy
            | Self::Sozu => None,
        }
    }

    /// Where it is installed; `CHANGEOVER_ENVOY` and the like say it for a program out of the PATH.
    pub(crate) fn program(self) -> Option<PathBuf> {
        let (variable, program) = match self {
            Self::Direct => return None,
            Self::Changeover | Self::ChangeoverBusy => return Some(env!("CARGO_BIN_EXE_changeover").into()),
            Self::BareEpoll | Self::BareUring => return std::env::current_exe().ok(),
            Self::Haproxy | Self::HaproxySplice => ("CHANGEOVER_HAPROXY", "haproxy"),
            Self::Nginx => ("CHANGEOVER_NGINX", "nginx"),
            Self::Envoy => ("CHANGEOVER_ENVOY", "envoy"),
            Self::Sozu => ("CHANGEOVER_SOZU", "sozu"),
        };
        std::env::var_os(variable).map(PathBuf::from).or_else(|| find(program))
    }

    /// What it says of its version, in few words.
    pub(crate) fn version(self) -> Option<String> {
        let flag = if matches!(self, Self::Haproxy | Self::HaproxySplice | Self::Nginx) { "-v" } else { "--version" };
        let output = Command::new(self.program()?).arg(flag).stdin(Stdio::null()).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| line.chars().any(|c| c.is_ascii_digit()))?;
        let word =
            line.split([' ', '/']).find(|word| word.contains('.') && word.contains(|c: char| c.is_ascii_digit()));
        Some(word.unwrap_or(line).trim().to_owned())
    }

    /// The number of the backend's address that is its own.
    pub(crate) fn number(self) -> usize {
        Self::value_variants().iter().position(|&peer| peer == self).unwrap()
    }
}

/// A running peer, or the bare backend.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) peer: Peer,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// None for the bare backend.
    pub(crate) process: Option<Guarded>,
    _dir: TempDir,
}

impl Running {
    /// Starts `peer` in front of `backend`, and waits until a byte has gone through and come back.
    pub(crate) fn start(peer: Peer, backend: SocketAddr) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| format!("no temporary directory: {e}"))?;
        if peer == Peer::Direct {
            return Ok(Self { peer, address: backend, process: None, _dir: dir });
        }
        let program = peer.program().ok_or("not installed")?;
        let address = free_address().map_err(|e| format!("no free port: {e}"))?;
        let process = spawn(peer, &program, address, backend, dir.path()).map_err(|e| format!("cannot start: {e}"))?;
        let mut running = Self { peer, address, process: Some(process), _dir: dir };
        running.wait_until_it_relays().map_err(|what| format!("{what}; {}", running.last_words()))?;
        Ok(running)
    }

    fn wait_until_it_relays(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START;
        loop {
            let error = match load::echo::once(self.address) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if self.process.as_mut().is_some_and(Guarded::ended) {
                return Err("ended at once".to_owned());
            }
            if Instant::now() > deadline {
                return Err(format!("does not relay within {START:?}: {error}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self._dir.path().join("log")).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty());
        last.unwrap_or("it said nothing").chars().take(300).collect()
    }
}

fn spawn(peer: Peer, program: &Path, address: SocketAddr, backend: SocketAddr, dir: &Path) -> io::Result<Guarded> {
    let setup = setup::of(peer, address, backend, dir);
    let config = dir.join(setup.file);
    fs::write(&config, setup.text)?;
    let log = File::create(dir.join("log"))?;
    Guarded::spawn(program, PROXY_CPU, |command| {
        command.args(setup.arguments).arg(&config);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // What the environment says to the daemon is not said to the benchmark.
        command.env_remove("NOTIFY_SOCKET");
    })
}

/// A port nobody has just now; the kernel gives the same one out again only after the others.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
