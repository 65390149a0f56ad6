//! The floor of epoll: edge-triggered, both sockets of a pair registered once, one `recv` and one `send` for each
//! message, one buffer for all.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};
use slab::Slab;

/// Large enough that bulk costs few calls; small enough for the second cache.
const BUFFER: usize = 128 * 1024;
const LISTENER: u64 = u64::MAX;

struct Side {
    socket: OwnedFd,
    readable: bool,
    writable: bool,
    /// The kernel has told of the end, and tells no second time: a short read says nothing any more.
    hung: bool,
    /// Its input has ended, and that was passed on.
    ended: bool,
    /// What this socket did not take.
    rest: Vec<u8>,
}

/// The client, and the backend.
type Pair = [Side; 2];

struct Relay {
    epoll: OwnedFd,
    backend: SocketAddr,
    pairs: Slab<Pair>,
    buffer: Vec<u8>,
}

/// Relays until it is killed.
pub(super) fn run(listener: OwnedFd, backend: SocketAddr) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut relay = Relay { epoll, backend, pairs: Slab::new(), buffer: vec![0; BUFFER] };
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&relay.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => relay.accept(&listener)?,
                token => relay.serve(token, event.flags),
            }
        }
    }
}

impl Relay {
    fn accept(&mut self, listener: &OwnedFd) -> io::Result<()> {
        loop {
            let client = match rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(client) => client,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let server = super::socket(SocketFlags::NONBLOCK)?;
            match rustix::net::connect(&server, &self.backend) {
                Ok(()) | Err(Errno::INPROGRESS) => {}
                Err(_) => continue,
            }
            let entry = self.pairs.vacant_entry();
            let token = 2 * u64::try_from(entry.key()).unwrap();
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            for (socket, side) in [(&client, 0), (&server, 1)] {
                epoll::add(&self.epoll, socket, EventData::new_u64(token + side), flags)?;
            }
            entry.insert([client, server].map(|socket| Side {
                socket,
                readable: false,
                writable: false,
                hung: false,
                ended: false,
                rest: Vec::new(),
            }));
        }
    }

    fn serve(&mut self, token: u64, flags: EventFlags) {
        let (key, side) = (usize::try_from(token / 2).unwrap(), usize::from(token % 2 == 1));
        // An event that was waiting while an earlier one of the same batch ended the pair.
        let Some(pair) = self.pairs.get_mut(key) else { return };
        let hung = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        pair[side].hung |= hung;
        pair[side].readable |= hung || flags.contains(EventFlags::IN);
        pair[side].writable |= flags.contains(EventFlags::OUT);
        let moved = (0..2).try_for_each(|from| pump(pair, from, &mut self.buffer));
        if moved.is_err() || pair.iter().all(|side| side.ended) {
            self.pairs.remove(key);
        }
    }
}

/// Moves what there is from the side `from` to the other, until one of them has to be waited for.
fn pump(pair: &mut Pair, from: usize, buffer: &mut [u8]) -> Result<(), Errno> {
    let [client, server] = pair;
    let (source, sink) = if from == 0 { (client, server) } else { (server, client) };
    while sink.writable && (source.readable || !sink.rest.is_empty()) && !source.ended {
        if !sink.rest.is_empty() {
            let sent = send(sink, None)?;
            sink.rest.drain(..sent);
            continue;
        }
        match rustix::net::recv(&source.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => {
                source.ended = true;
                // Where both have ended, closing says it.
                if !sink.ended {
                    rustix::net::shutdown(&sink.socket, Shutdown::Write)?;
                }
            }
            Ok((count, _)) => {
                source.readable = count == buffer.len() || source.hung;
                let sent = send(sink, Some(&buffer[..count]))?;
                sink.rest.extend_from_slice(&buffer[sent..count]);
            }
            Err(Errno::AGAIN) => source.readable = false,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends `bytes`, or the rest; how many the socket took. Where that is not all, it has to be waited for.
fn send(sink: &mut Side, bytes: Option<&[u8]>) -> Result<usize, Errno> {
    let bytes = bytes.unwrap_or(&sink.rest);
    let sent = match rustix::net::send(&sink.socket, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) => sent,
        Err(Errno::AGAIN) => 0,
        Err(error) => return Err(error),
    };
    sink.writable = sent == bytes.len();
    Ok(sent)
}
