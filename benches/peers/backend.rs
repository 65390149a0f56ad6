//! The backend: this program once more, on the generator's CPU. A process of its own, because both ends of
//! 8,000 sessions would not fit into one limit of descriptors.
//!
//! A session's first byte says what it wants: [`ECHO`], [`DOWN`] or [`BOTH`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use clap::ValueEnum;
use slab::Slab;

use crate::pattern::Pattern;
use crate::peer::Peer;
use crate::poller::{Interest, Poller, Ready};

/// Everything comes back, this byte included.
pub(crate) const ECHO: u8 = b'e';
/// The pattern comes, without end.
pub(crate) const DOWN: u8 = b'd';
/// The pattern comes, and after this byte the pattern is expected; a wrong byte resets the session.
pub(crate) const BOTH: u8 = b'b';

/// The argument that makes this program the backend.
pub(crate) const ARGUMENT: &str = "backend-process";

const STDIN: u64 = u64::MAX;
const LISTENERS: u64 = 1 << 32;
/// More than a socket takes at once would only be offered in vain.
const CHUNK: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Unasked,
    Echo,
    Down,
    Both,
}

struct Session {
    stream: TcpStream,
    mode: Mode,
    received: u64,
    sent: u64,
    /// Of an echo: what a short write left over.
    pending: Vec<u8>,
}

/// Serves until standard input ends, which it does when the harness is gone.
pub(crate) fn run() -> io::Result<()> {
    let mut server =
        Server { poller: Poller::new()?, sessions: Slab::new(), pattern: Pattern::new(), buffer: vec![0; CHUNK] };
    let mut listeners = Vec::new();
    // An address for each peer: with one for all, the ports that closed sessions of one peer leave behind would be
    // in the way of the next.
    for number in 0..u8::try_from(Peer::value_variants().len()).unwrap() {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 10 + number), 0))?;
        listener.set_nonblocking(true)?;
        println!("{}", listener.local_addr()?);
        server.poller.add(&listener, LISTENERS + u64::from(number), Interest::Read)?;
        listeners.push(listener);
    }
    io::stdout().flush()?;
    server.poller.add(io::stdin(), STDIN, Interest::Read)?;
    let mut ready = Vec::new();
    loop {
        server.poller.wait(None, &mut ready)?;
        for &event in &ready {
            match event.token {
                STDIN => return Ok(()),
                token if token >= LISTENERS => {
                    server.accept(&listeners[usize::try_from(token - LISTENERS).unwrap()])?;
                }
                _ => server.serve(event)?,
            }
        }
    }
}

struct Server {
    poller: Poller,
    sessions: Slab<Session>,
    pattern: Pattern,
    buffer: Vec<u8>,
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The client's fault, or a shortage that passes: the harness sees it from its side.
                Err(_) => return Ok(()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let entry = self.sessions.vacant_entry();
            self.poller.add(&stream, u64::try_from(entry.key()).unwrap(), Interest::Read)?;
            entry.insert(Session { stream, mode: Mode::Unasked, received: 0, sent: 0, pending: Vec::new() });
        }
    }

    fn serve(&mut self, event: Ready) -> io::Result<()> {
        let key = usize::try_from(event.token).unwrap();
        // An event that was waiting while an earlier one of the same batch ended the session.
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        let before = session.interest();
        let mut goes_on = true;
        if event.read {
            goes_on = session.read(&mut self.buffer, &self.pattern);
        }
        if goes_on && (event.write || !session.pending.is_empty()) {
            goes_on = session.write(&self.pattern);
        }
        if !goes_on {
            self.sessions.remove(key);
            return Ok(());
        }
        let after = session.interest();
        if after != before {
            self.poller.change(&session.stream, event.token, after)?;
        }
        Ok(())
    }
}

impl Session {
    fn interest(&self) -> Interest {
        match self.mode {
            Mode::Unasked => Interest::Read,
            Mode::Echo if self.pending.is_empty() => Interest::Read,
            Mode::Echo => Interest::Write,
            // Its client says nothing more, but its end is still noticed, by the write that fails.
            Mode::Down => Interest::Write,
            Mode::Both => Interest::Both,
        }
    }

    /// `false` when the session is over.
    fn read(&mut self, buffer: &mut [u8], pattern: &Pattern) -> bool {
        let count = match self.stream.read(buffer) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        };
        let mut bytes = &buffer[..count];
        if self.mode == Mode::Unasked {
            self.mode = match bytes[0] {
                DOWN => Mode::Down,
                BOTH => Mode::Both,
                _ => Mode::Echo,
            };
            if self.mode != Mode::Echo {
                bytes = &bytes[1..];
            }
        }
        match self.mode {
            Mode::Echo => self.echo(bytes),
            Mode::Unasked | Mode::Down => true,
            Mode::Both => {
                let fits = pattern.fits(self.received, bytes);
                self.received += u64::try_from(bytes.len()).unwrap();
                if !fits {
                    // A reset is what the generator counts as an error; a plain end might pass for the proxy's.
                    socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).ok();
                }
                fits
            }
        }
    }

    fn echo(&mut self, bytes: &[u8]) -> bool {
        let sent = if self.pending.is_empty() {
            match self.stream.write(bytes) {
                Ok(sent) => sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return false,
            }
        } else {
            0
        };
        self.pending.extend_from_slice(&bytes[sent..]);
        true
    }

    fn write(&mut self, pattern: &Pattern) -> bool {
        let bytes = if self.mode == Mode::Echo { &self.pending[..] } else { &pattern.from(self.sent)[..CHUNK] };
        match self.stream.write(bytes) {
            Ok(sent) if self.mode == Mode::Echo => {
                self.pending.drain(..sent);
                if self.pending.is_empty() {
                    // 8,000 sessions that keep what they once needed would be a burden to the machine.
                    self.pending = Vec::new();
                }
                true
            }
            Ok(sent) => {
                self.sent += u64::try_from(sent).unwrap();
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}
