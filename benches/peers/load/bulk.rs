//! As many bytes as go through: down, or both ways at once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::backend::{BOTH, DOWN};
use crate::pattern::Pattern;
use crate::poller::{Interest, Poller};
use crate::process::Guarded;

use super::{Meter, Outcome, PATIENCE, dial};

/// Connections at once.
const CONNECTIONS: usize = 4;
const CHUNK: usize = 256 * 1024;
/// Until windows and buffers have grown.
const WARM: Duration = Duration::from_millis(200);

struct Flow {
    stream: TcpStream,
    received: u64,
    sent: u64,
}

/// Bytes for `time`, once the flows are up to speed. Both ways they are added up: in that state what goes into
/// the socket has come out at the backend, which compares it and resets the session if it does not fit.
pub(crate) fn run(address: SocketAddr, up: bool, time: Duration, proxy: Option<&Guarded>) -> io::Result<Outcome> {
    let mut poller = Poller::new()?;
    let pattern = Pattern::new();
    let mut buffer = vec![0; CHUNK];
    let mut flows = Vec::new();
    for token in 0..CONNECTIONS {
        let mut stream = dial(address)?;
        stream.write_all(&[if up { BOTH } else { DOWN }])?;
        stream.set_nonblocking(true)?;
        let interest = if up { Interest::Both } else { Interest::Read };
        poller.add(&stream, u64::try_from(token).unwrap(), interest)?;
        flows.push(Some(Flow { stream, received: 0, sent: 0 }));
    }
    let moved = |flows: &[Option<Flow>]| flows.iter().flatten().map(|flow| flow.received + flow.sent).sum::<u64>();
    let mut outcome = Outcome::default();
    let mut warm = Some(Instant::now() + WARM);
    let mut meter = None;
    let mut ready = Vec::new();
    let mut before = 0;
    let mut end = Instant::now() + WARM + time;
    while Instant::now() < end && flows.iter().any(Option::is_some) {
        poller.wait(Some(PATIENCE), &mut ready)?;
        if ready.is_empty() {
            outcome.errors += 1;
            break;
        }
        for event in &ready {
            let slot = &mut flows[usize::try_from(event.token).unwrap()];
            let Some(flow) = slot else { continue };
            let read = !event.read || flow.receive(&mut buffer, &pattern);
            let wrote = !event.write || flow.send(&pattern);
            if !(read && wrote) {
                outcome.errors += 1;
                *slot = None;
            }
        }
        if warm.is_some_and(|warm| Instant::now() >= warm) {
            warm = None;
            before = moved(&flows);
            meter = Some(Meter::start(proxy));
            end = Instant::now() + time;
        }
    }
    outcome.units = moved(&flows).saturating_sub(before);
    if let Some(meter) = meter {
        meter.stop(&mut outcome);
    }
    Ok(outcome)
}

impl Flow {
    /// `false` where it has ended, or what came is wrong.
    fn receive(&mut self, buffer: &mut [u8], pattern: &Pattern) -> bool {
        match self.stream.read(buffer) {
            Ok(0) => false,
            Ok(count) => {
                let fits = pattern.fits(self.received, &buffer[..count]);
                self.received += u64::try_from(count).unwrap();
                fits
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    fn send(&mut self, pattern: &Pattern) -> bool {
        match self.stream.write(&pattern.from(self.sent)[..CHUNK]) {
            Ok(count) => {
                self.sent += u64::try_from(count).unwrap();
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}
