//! The generator: one thread, nonblocking sockets, and a meter on the proxy. What comes back is checked, and
//! what is wrong is counted.

pub(crate) mod bulk;
pub(crate) mod connect;
pub(crate) mod echo;
pub(crate) mod memory;
pub(crate) mod steady;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::process::{CpuTime, Guarded};

/// Nothing at all for so long means that what is outstanding does not come any more.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What one load came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Requests, bytes or connections.
    pub(crate) units: u64,
    pub(crate) elapsed: Duration,
    /// Of the proxy, in the same time.
    pub(crate) cpu: CpuTime,
    /// Of each request, where they are measured.
    pub(crate) latencies: Vec<Duration>,
    /// Sessions cut off, answers that are wrong, answers that never came.
    pub(crate) errors: u64,
}

impl Outcome {
    /// The proxy's nanoseconds per unit.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn cpu_per_unit(&self) -> f64 {
        self.cpu.run_ns as f64 / self.units as f64
    }

    /// Units per second.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn rate(&self) -> f64 {
        self.units as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that `per_mille` of the requests do not exceed, in microseconds.
    pub(crate) fn latency_us(&mut self, per_mille: usize) -> Option<f64> {
        self.latencies.sort_unstable();
        let index = self.latencies.len() * per_mille / 1000;
        self.latencies.get(index).map(|latency| latency.as_secs_f64() * 1e6)
    }
}

/// Runs from its making to [`Meter::stop`].
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    proxy: Option<&'a Guarded>,
    cpu: CpuTime,
    since: Instant,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(proxy: Option<&'a Guarded>) -> Self {
        Self { proxy, cpu: proxy.map(Guarded::cpu).unwrap_or_default(), since: Instant::now() }
    }

    pub(crate) fn stop(self, outcome: &mut Outcome) {
        outcome.elapsed = self.since.elapsed();
        outcome.cpu = self.proxy.map(Guarded::cpu).unwrap_or_default().since(self.cpu);
    }
}

/// A blocking connection that says what it wants with its first byte, and gives up after [`PATIENCE`].
pub(crate) fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
