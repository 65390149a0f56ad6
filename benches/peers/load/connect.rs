//! Connections: connect, one byte and back, close.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::backend::ECHO;
use crate::poller::{Interest, Poller};

use super::{Meter, Outcome, PATIENCE};

/// Connections at once.
const CONCURRENT: usize = 32;

/// [`CONCURRENT`] at once, a new one for each that has closed, for `time`.
pub(crate) fn run(address: SocketAddr, time: Duration, meter: Meter<'_>) -> io::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut poller = Poller::new()?;
    let mut slots: Vec<Option<TcpStream>> = Vec::new();
    for token in 0..CONCURRENT {
        slots.push(open(address, token, &poller, &mut outcome)?);
    }
    let deadline = Instant::now() + time;
    let mut ready = Vec::new();
    while slots.iter().any(Option::is_some) {
        poller.wait(Some(PATIENCE), &mut ready)?;
        if ready.is_empty() {
            outcome.errors += slots.drain(..).flatten().map(|_| 1).sum::<u64>();
        }
        for event in &ready {
            let token = usize::try_from(event.token).unwrap();
            let slot = &mut slots[token];
            let Some(stream) = slot else { continue };
            let mut answer = [0; 2];
            match stream.read(&mut answer) {
                Ok(1) if answer[0] == ECHO => outcome.units += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(_) | Err(_) => outcome.errors += 1,
            }
            // The client closes first, as most do.
            *slot = None;
            if Instant::now() < deadline {
                *slot = open(address, token, &poller, &mut outcome)?;
            }
        }
    }
    meter.stop(&mut outcome);
    Ok(outcome)
}

/// A connection that has sent its byte; none if it was refused. The handshake is done by the kernel alone, and at
/// once on loopback, so that waiting for it costs the others nothing.
fn open(address: SocketAddr, token: usize, poller: &Poller, outcome: &mut Outcome) -> io::Result<Option<TcpStream>> {
    let opened = TcpStream::connect(address).and_then(|mut stream| {
        stream.write_all(&[ECHO])?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    let Ok(stream) = opened else {
        outcome.errors += 1;
        return Ok(None);
    };
    poller.add(&stream, u64::try_from(token).unwrap(), Interest::Read)?;
    Ok(Some(stream))
}
