//! The two echo servers as processes: started, killed and restored at the same address.

use std::env;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::sys::Clock;

use super::ports;
use super::process::Guarded;
use super::script::Servers;

/// Their names, in the order of preference.
pub(super) const NAMES: [&str; 2] = ["alpha", "beta"];
/// How long one may take until it accepts connections.
const START: Duration = Duration::from_secs(10);
/// From one try to reach it to the next.
const TRY: Duration = Duration::from_millis(5);

/// One of them.
#[derive(Debug)]
struct Server {
    name: &'static str,
    address: SocketAddr,
    process: Option<Guarded>,
}

/// Both.
#[derive(Debug)]
pub(super) struct EchoServers {
    program: PathBuf,
    servers: Vec<Server>,
}

impl EchoServers {
    /// Starts both, and waits until they accept connections.
    pub(super) fn start() -> anyhow::Result<Self> {
        let program = env::current_exe().context("cannot tell where this program's file is")?;
        let addresses = ports::free::<2>()?;
        let servers = NAMES.into_iter().zip(addresses).map(|(name, address)| Server { name, address, process: None });
        let mut all = Self { program, servers: servers.collect() };
        for server in &mut all.servers {
            server.start(&all.program)?;
        }
        Ok(all)
    }

    /// Names and addresses, in the order of preference.
    pub(super) fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        self.servers.iter().map(|server| (server.name, server.address)).collect()
    }
}

impl Servers for EchoServers {
    fn name(&self, index: usize) -> &'static str {
        self.servers.get(index).map_or("", |server| server.name)
    }

    fn kill(&mut self, index: usize) {
        if let Some(server) = self.servers.get_mut(index) {
            server.process = None;
        }
    }

    fn restore(&mut self, index: usize) -> anyhow::Result<()> {
        self.servers.get_mut(index).map_or(Ok(()), |server| server.start(&self.program))
    }
}

impl Server {
    fn start(&mut self, program: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(program);
        command.arg("demo-backend").arg("--bind").arg(self.address.to_string()).args(["--name", self.name]);
        // Its standard input ends with this process, however that ends.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Guarded::spawn(&mut command)?;
        let clock = Clock::start();
        let deadline = clock.now() + START;
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = process.ended() {
                bail!("echo server {} ended with {status}: {}", self.name, process.complaint().trim());
            }
            if clock.now() >= deadline {
                bail!("echo server {} does not accept connections at {}", self.name, self.address);
            }
            thread::park_timeout(TRY);
        }
        self.process = Some(process);
        Ok(())
    }
}
