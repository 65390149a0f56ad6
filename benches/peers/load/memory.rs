//! What sessions at rest cost in the proxy's resident memory.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::pattern::Pattern;
use crate::process::Guarded;

use super::dial;
use super::echo::greet;

/// What each session carries each way in the second step.
const MUCH: usize = 64 * 1024;
/// Sessions that carry it at once.
const BATCH: usize = 64;
/// Resident memory is believed when it has stayed the same, within a hundredth, for so long. Longer than
/// four seconds: changeover puts 8,000 sessions to rest in that time, and gives memory back when half are.
const STEADY: Duration = Duration::from_secs(5);
/// It is read after so long at the latest.
const SETTLE_MAX: Duration = Duration::from_secs(15);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Resident memory in bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    /// More than at the start, when every session has carried one byte each way.
    pub(crate) one: i64,
    /// The same, when each has carried [`MUCH`].
    pub(crate) much: i64,
    /// The same, when all are closed.
    pub(crate) after: i64,
    pub(crate) errors: u64,
}

/// Opens `count` sessions through a proxy that has just been started, and closes them.
pub(crate) fn run(address: SocketAddr, count: usize, proxy: &Guarded) -> io::Result<Memory> {
    let pattern = Pattern::new();
    let mut errors = 0;
    let start = settled(proxy);
    let mut sessions = Vec::with_capacity(count);
    for _ in 0..count {
        match dial(address).and_then(|mut stream| greet(&mut stream).map(|()| stream)) {
            Ok(stream) => sessions.push(stream),
            Err(_) => errors += 1,
        }
        if errors > 100 {
            return Err(io::Error::other("more than 100 sessions were not let in"));
        }
    }
    let one = settled(proxy) - start;
    let mut buffer = vec![0; MUCH];
    for (number, batch) in sessions.chunks_mut(BATCH).enumerate() {
        let bytes = &pattern.from(u64::try_from(number).unwrap() * 4099)[..MUCH];
        // All send before the first reads, so that buffers are in use at the same time.
        for stream in batch.iter_mut() {
            errors += u64::from(stream.write_all(bytes).is_err());
        }
        for stream in batch.iter_mut() {
            errors += u64::from(!comes_back(stream, bytes, &mut buffer));
        }
    }
    let much = settled(proxy) - start;
    drop(sessions);
    Ok(Memory { one, much, after: settled(proxy) - start, errors })
}

/// Resident memory once it has come to rest: what was over has been noticed and put away.
fn settled(proxy: &Guarded) -> i64 {
    let begin = Instant::now();
    let (mut level, mut since) = (proxy.rss(), begin);
    loop {
        thread::sleep(LOOK);
        let (now, read) = (Instant::now(), proxy.rss());
        if read.abs_diff(level) > level / 100 {
            (level, since) = (read, now);
        }
        if now - since >= STEADY || now - begin >= SETTLE_MAX {
            return i64::try_from(read).unwrap();
        }
    }
}

fn comes_back(stream: &mut TcpStream, bytes: &[u8], buffer: &mut [u8]) -> bool {
    stream.read_exact(buffer).is_ok() && buffer == bytes
}
