//! Somebody else who asks a PostgreSQL server whether it lives. A server that a busy machine does not let run is silent to
//! everybody: what a daemon makes of that says nothing about the daemon.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::net::dial;
use super::talker::SSL_REQUEST;
use super::wait::pace;

/// Half of what a server may take to answer by default: one that was silent to the witness for longer may have been so, to
/// somebody who asks more often, for all of it.
pub const STARVED: Duration = Duration::from_millis(125);

/// From one question to the next: each is a process at the server.
const EVERY: Duration = Duration::from_millis(20);

/// Asks one server without pause, until it is dropped.
#[derive(Debug)]
pub struct Witness {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    longest_us: AtomicU64,
}

impl Witness {
    /// Of the server at `server`.
    pub fn of(server: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            // From before one question to the answer to the next: nothing in between was heard of the server.
            let mut heard = Instant::now();
            let mut last = heard;
            while !its.is_over.load(Ordering::SeqCst) {
                pace(&mut last, EVERY);
                let asked = Instant::now();
                drop(ask(server));
                let silence = u64::try_from(heard.elapsed().as_micros()).unwrap_or(u64::MAX);
                its.longest_us.fetch_max(silence, Ordering::SeqCst);
                heard = asked;
                last = last.max(asked);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// The longest that nothing was heard of the server since this was asked last.
    pub fn silence(&self) -> Duration {
        Duration::from_micros(self.shared.longest_us.swap(0, Ordering::SeqCst))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Whether the server at `server` encrypts, which it says before it asks who is there.
fn ask(server: SocketAddr) -> std::io::Result<()> {
    let mut stream = dial(server)?;
    stream.write_all(SSL_REQUEST)?;
    stream.read_exact(&mut [0])
}
