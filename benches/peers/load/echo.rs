//! Requests that wait for their answer: the closed loop.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::backend::ECHO;
use crate::pattern::Pattern;
use crate::poller::{Interest, Poller, Ready};

use super::{Meter, Outcome, PATIENCE, dial};

/// Bytes of a request, and of its answer.
pub(crate) const REQUEST: usize = 64;

/// Sessions that are established: their first byte has come back.
pub(crate) struct Sessions {
    pub(super) sessions: Vec<Session>,
    pub(super) poller: Poller,
}

/// One of them; at most one request is under way.
#[derive(Debug)]
pub(super) struct Session {
    stream: TcpStream,
    request: [u8; REQUEST],
    answer: [u8; REQUEST],
    got: usize,
    sequence: u64,
    pub(super) since: Instant,
    pub(super) busy: bool,
    pub(super) alive: bool,
}

/// What a readable session turned out to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Whole,
    Partial,
    Wrong,
}

/// One byte to the backend and back.
pub(crate) fn once(address: SocketAddr) -> io::Result<()> {
    let mut stream = dial(address)?;
    greet(&mut stream)
}

/// Asks for an echo, and waits for it.
pub(super) fn greet(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[ECHO])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer == [ECHO] { Ok(()) } else { Err(io::Error::other("another byte came back")) }
}

impl Sessions {
    pub(crate) fn open(address: SocketAddr, count: usize) -> io::Result<Self> {
        let poller = Poller::new()?;
        let pattern = Pattern::new();
        let mut sessions = Vec::with_capacity(count);
        for index in 0..u64::try_from(count).unwrap() {
            let mut stream = dial(address)?;
            greet(&mut stream)?;
            stream.set_nonblocking(true)?;
            poller.add(&stream, index, Interest::Read)?;
            let mut request = [0; REQUEST];
            request.copy_from_slice(&pattern.from(index * 1009)[..REQUEST]);
            let (answer, since) = ([0; REQUEST], Instant::now());
            sessions.push(Session { stream, request, answer, got: 0, sequence: 0, since, busy: false, alive: true });
        }
        Ok(Self { sessions, poller })
    }

    /// Each session sends its next request when the answer is there, for `time`; ends when all have answered.
    pub(crate) fn closed_loop(&mut self, time: Duration, meter: Meter<'_>) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        let deadline = Instant::now() + time;
        for session in self.sessions.iter_mut().filter(|session| session.alive) {
            session.send(Instant::now());
        }
        let mut ready: Vec<Ready> = Vec::new();
        while self.sessions.iter().any(|session| session.busy) {
            self.poller.wait(Some(PATIENCE), &mut ready)?;
            if ready.is_empty() {
                outcome.errors += self.give_up();
            }
            let now = Instant::now();
            for event in &ready {
                let session = &mut self.sessions[usize::try_from(event.token).unwrap()];
                match session.receive() {
                    Answer::Partial => {}
                    Answer::Wrong => outcome.errors += session.fail(),
                    Answer::Whole => {
                        outcome.units += 1;
                        outcome.latencies.push(now - session.since);
                        if now < deadline {
                            session.send(now);
                        }
                    }
                }
            }
        }
        meter.stop(&mut outcome);
        Ok(outcome)
    }

    /// Nobody waits any longer. How many did.
    pub(super) fn give_up(&mut self) -> u64 {
        self.sessions.iter_mut().filter(|session| session.busy).map(Session::fail).sum()
    }
}

impl Session {
    /// Sends the next request, whose time counts from `since`.
    pub(super) fn send(&mut self, since: Instant) {
        // A number in it, so that an old answer is not taken for this one's.
        self.sequence += 1;
        self.request[..8].copy_from_slice(&self.sequence.to_le_bytes());
        self.since = since;
        self.got = 0;
        self.busy = true;
        // 64 bytes always fit while nothing else is under way. If not, the answer stays away and is counted.
        self.stream.write_all(&self.request).ok();
    }

    pub(super) fn receive(&mut self) -> Answer {
        if !self.alive {
            return Answer::Partial;
        }
        match self.stream.read(&mut self.answer[self.got..]) {
            Ok(count) if count > 0 && self.busy => self.got += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Answer::Partial,
            // Its end, an error, or bytes that nobody asked for.
            Ok(_) | Err(_) => return Answer::Wrong,
        }
        if self.got < REQUEST {
            return Answer::Partial;
        }
        self.busy = false;
        if self.answer == self.request { Answer::Whole } else { Answer::Wrong }
    }

    /// Takes it out of use. One error.
    pub(super) fn fail(&mut self) -> u64 {
        self.busy = false;
        self.alive = false;
        // Otherwise it would stay readable, and wake the poller for ever.
        let fresh = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        self.stream = fresh.into();
        1
    }
}
