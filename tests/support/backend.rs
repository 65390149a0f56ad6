//! A backend in a process of its own, so that it can die as backends die.

use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Instant;

use super::net::fresh_addr;
use super::process::{Guarded, program};
use super::wait::{DEADLINE, wait_until};

/// Says its name to each client, then echoes. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Where it listens, in all its lives.
    pub addr: SocketAddr,
    process: Option<Guarded>,
}

impl Backend {
    /// Starts one at an address of its own, and waits until it accepts.
    #[track_caller]
    pub fn start(name: &str) -> Self {
        let mut backend = Self::absent(name);
        backend.restart();
        backend
    }

    /// One that is yet to be started.
    pub fn absent(name: &str) -> Self {
        Self { name: name.to_owned(), addr: fresh_addr(), process: None }
    }

    /// Starts it again where it was.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let mut command = program();
        command.args(["demo-backend", "--bind", &self.addr.to_string(), "--name", &self.name]);
        // The pipe that stays open in `Guarded` is its life line: it ends with this process.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
        self.process = Some(Guarded(command.spawn().expect("the program starts")));
        wait_until(&format!("backend {} accepts", self.name), DEADLINE, || TcpStream::connect(self.addr).is_ok());
    }

    /// SIGKILL. Returns the moment before it, and only once the kernel has closed everything the process had.
    #[track_caller]
    pub fn kill(&mut self) -> Instant {
        let mut process = self.process.take().expect("it runs");
        let before = Instant::now();
        process.0.kill().expect("SIGKILL");
        process.0.wait().expect("reaped");
        before
    }

    /// Its table in a configuration file.
    pub fn toml(&self, pool: &str, priority: u32) -> String {
        format!("[pools.{pool}.backends.{}]\naddress = \"{}\"\npriority = {priority}\n", self.name, self.addr)
    }
}
