//! The same on io_uring: one multishot accept, one multishot receive per socket into buffers that all share, and
//! per round one system call that submits every send and waits for what comes next.
//!
//! A send is first tried without waiting, and says nothing where all went out: the round that submitted it has
//! then no completion to wake up for. Only where the socket is full it is made again as one that waits. What the
//! ring would hand to a thread of its own, `shutdown`, is called directly.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode};
use rustix::net::{Shutdown, SocketFlags};
use slab::Slab;

use super::buffers::{Buffers, GROUP, Piece};

/// As of submissions; the kernel makes room for twice as many completions.
const ENTRIES: u32 = 4096;

/// What a completion is of, in the lowest seven bits of its number; then comes the side, then the pair's key.
const ACCEPT: u64 = 0;
const CONNECT: u64 = 1;
const RECEIVE: u64 = 2;
const TRY: u64 = 3;
const SEND: u64 = 4;
const CLOSE: u64 = 5;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Sending {
    #[default]
    Nothing,
    /// Silent where it succeeds.
    Trying,
    Waiting,
}

/// The client has the index 0, the backend 1; what belongs to sending has the index of the socket that is sent to.
#[derive(Debug, Default)]
struct Pair {
    sockets: [RawFd; 2],
    pieces: [VecDeque<Piece>; 2],
    sending: [Sending; 2],
    /// Nothing more comes from this side.
    ended: [bool; 2],
    broken: bool,
    /// Operations that the kernel has not finished.
    under_way: usize,
}

struct Relay {
    ring: IoUring,
    /// The kernel reads it whenever a connection is made.
    backend: Box<libc::sockaddr_in>,
    buffers: Buffers,
    pairs: Slab<Pair>,
    /// Sends that were tried in the round that is being prepared.
    tried: Vec<(usize, usize)>,
    /// Sides whose receiving has stopped for want of a buffer.
    starved: Vec<(usize, usize)>,
    /// Pairs with nothing left to do; their keys are not used again before the round is over.
    done: Vec<usize>,
}

/// Relays until it is killed.
pub(super) fn run(listener: OwnedFd, backend: SocketAddr) -> io::Result<()> {
    let SocketAddr::V4(backend) = backend else { return Err(io::ErrorKind::Unsupported.into()) };
    let backend = Box::new(libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap(),
        sin_port: backend.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(backend.ip().octets()) },
        sin_zero: [0; 8],
    });
    let mut builder = IoUring::builder();
    let ring = builder.setup_single_issuer().setup_defer_taskrun().setup_no_sqarray().build(ENTRIES)?;
    let buffers = Buffers::register(&ring)?;
    let (tried, starved, done) = (Vec::new(), Vec::new(), Vec::new());
    let mut relay = Relay { ring, backend, buffers, pairs: Slab::new(), tried, starved, done };
    relay.accept(listener.as_raw_fd());
    let mut completions = Vec::new();
    loop {
        let wanted = usize::from(!relay.goes_on());
        match relay.ring.submit_and_wait(wanted) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(_) | Err(_) => {}
        }
        let tried = std::mem::take(&mut relay.tried);
        completions.extend(relay.ring.completion());
        for completion in completions.drain(..) {
            relay.complete(&completion, listener.as_raw_fd())?;
        }
        relay.settle(tried);
    }
}

impl Relay {
    /// Whether there is more to do once the tries of this round have gone out, though nothing may come any more.
    fn goes_on(&self) -> bool {
        let more = |&(key, side): &(usize, usize)| {
            let pair = &self.pairs[key];
            pair.broken || pair.pieces[side].len() > 1 || pair.ended[1 - side]
        };
        !self.tried.is_empty() && (!self.starved.is_empty() || self.tried.iter().any(more))
    }

    fn push(&mut self, entry: &Entry) {
        // SAFETY: what an entry points to lives as long as the kernel needs it: the backend's address and the
        // buffers for ever, and a piece of a buffer is given back only after its send is over.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit().unwrap();
        }
    }

    fn accept(&mut self, listener: RawFd) {
        let accept = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.push(&accept.user_data(ACCEPT));
    }

    fn receive(&mut self, key: usize, side: usize) {
        let pair = &mut self.pairs[key];
        pair.under_way += 1;
        let receive = opcode::RecvMulti::new(Fd(pair.sockets[side]), GROUP).build();
        self.push(&receive.user_data(number(key, side, RECEIVE)));
    }

    fn open(&mut self, client: RawFd) -> io::Result<()> {
        let server = super::socket(SocketFlags::empty())?.into_raw_fd();
        let key = self.pairs.insert(Pair { sockets: [client, server], ..Pair::default() });
        self.receive(key, 0);
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).unwrap();
        let connect = opcode::Connect::new(Fd(server), (&raw const *self.backend).cast(), length).build();
        // Receiving begins when the connection stands.
        self.push(&connect.flags(Flags::IO_LINK | Flags::SKIP_SUCCESS).user_data(number(key, 1, CONNECT)));
        self.receive(key, 1);
        Ok(())
    }

    fn complete(&mut self, completion: &cqueue::Entry, listener: RawFd) -> io::Result<()> {
        let result = completion.result();
        let more = cqueue::more(completion.flags());
        let data = completion.user_data();
        let (kind, side, key) = (data & 0x7f, usize::from(data & 0x80 != 0), usize::try_from(data >> 8).unwrap());
        match kind {
            ACCEPT => {
                if !more {
                    self.accept(listener);
                }
                // A client that has given up already.
                return if result >= 0 { self.open(result) } else { Ok(()) };
            }
            CONNECT => self.fail(key),
            RECEIVE => {
                self.pairs[key].under_way -= usize::from(!more);
                self.received(key, side, result, completion, more);
            }
            TRY | SEND => {
                self.pairs[key].under_way -= 1;
                self.pairs[key].sending[side] = Sending::Nothing;
                self.sent(key, side, result);
            }
            _ => return Ok(()),
        }
        self.check(key);
        Ok(())
    }

    fn received(&mut self, key: usize, side: usize, result: i32, completion: &cqueue::Entry, more: bool) {
        if let (Ok(end @ 1..), Some(buffer)) = (usize::try_from(result), cqueue::buffer_select(completion.flags())) {
            self.pairs[key].pieces[1 - side].push_back(self.buffers.take(buffer, end));
            self.send(key, 1 - side, Sending::Trying);
            if !more {
                self.receive(key, side);
            }
        } else if result == -libc::ENOBUFS {
            self.starved.push((key, side));
        } else {
            self.pairs[key].ended[side] = true;
            if result < 0 {
                self.fail(key);
            } else {
                self.pass_end(key, 1 - side);
            }
        }
    }

    /// Sends the first piece, unless another is under way.
    fn send(&mut self, key: usize, side: usize, how: Sending) {
        let pair = &mut self.pairs[key];
        let Some(piece) = pair.pieces[side].front() else { return };
        if pair.sending[side] != Sending::Nothing || pair.broken {
            return;
        }
        pair.sending[side] = how;
        pair.under_way += 1;
        let length = u32::try_from(piece.end - piece.start).unwrap();
        let send = opcode::Send::new(Fd(pair.sockets[side]), self.buffers.at(*piece), length);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        if how == Sending::Trying {
            self.tried.push((key, side));
            let send = send.flags(flags | libc::MSG_DONTWAIT).build().flags(Flags::SKIP_SUCCESS);
            self.push(&send.user_data(number(key, side, TRY)));
        } else {
            self.push(&send.flags(flags).build().user_data(number(key, side, SEND)));
        }
    }

    /// What a send came to that said so.
    fn sent(&mut self, key: usize, side: usize, result: i32) {
        let Some(piece) = self.pairs[key].pieces[side].front_mut() else { return };
        match usize::try_from(result) {
            Ok(count) if piece.start + count == piece.end => self.went(key, side),
            Err(_) if result != -libc::EAGAIN => self.fail(key),
            taken => {
                piece.start += taken.unwrap_or(0);
                self.send(key, side, Sending::Waiting);
            }
        }
    }

    /// The first piece has gone out whole.
    fn went(&mut self, key: usize, side: usize) {
        if let Some(piece) = self.pairs[key].pieces[side].pop_front() {
            self.buffers.give_back(piece.buffer);
        }
        self.send(key, side, Sending::Trying);
        self.pass_end(key, side);
    }

    /// Tells `side` that nothing more comes, once all is sent. Where both have ended, closing says it.
    fn pass_end(&mut self, key: usize, side: usize) {
        let pair = &self.pairs[key];
        if pair.ended[1 - side] && !pair.ended[side] && pair.pieces[side].is_empty() {
            shut(pair.sockets[side], Shutdown::Write);
        }
    }

    /// Everything that is under way comes to its end.
    fn fail(&mut self, key: usize) {
        let pair = &mut self.pairs[key];
        pair.broken = true;
        for socket in pair.sockets {
            shut(socket, Shutdown::Both);
        }
    }

    /// Marks the pair for closing once there is nothing left of it.
    fn check(&mut self, key: usize) {
        let pair = &self.pairs[key];
        let sent = pair.ended == [true; 2] && pair.pieces.iter().all(VecDeque::is_empty);
        if pair.under_way == 0 && (sent || pair.broken) {
            self.done.push(key);
        }
    }

    /// The end of a round: what was `tried` and said nothing has gone out.
    fn settle(&mut self, tried: Vec<(usize, usize)>) {
        for (key, side) in tried {
            let pair = &mut self.pairs[key];
            if pair.sending[side] == Sending::Trying {
                pair.sending[side] = Sending::Nothing;
                pair.under_way -= 1;
                self.went(key, side);
                self.check(key);
            }
        }
        for key in std::mem::take(&mut self.done) {
            let Some(pair) = self.pairs.try_remove(key) else { continue };
            for piece in pair.pieces.into_iter().flatten() {
                self.buffers.give_back(piece.buffer);
            }
            // The key may soon be another's.
            self.starved.retain(|&(starved, _)| starved != key);
            for socket in pair.sockets {
                self.push(&opcode::Close::new(Fd(socket)).build().flags(Flags::SKIP_SUCCESS).user_data(CLOSE));
            }
        }
        if !self.buffers.is_empty() {
            for (key, side) in std::mem::take(&mut self.starved) {
                if self.pairs.contains(key) {
                    self.receive(key, side);
                }
            }
        }
    }
}

const fn number(key: usize, side: usize, kind: u64) -> u64 {
    ((key as u64) << 8) | ((side as u64) << 7) | kind
}

/// An error is that of a socket which has ended already, and of which a completion tells.
fn shut(socket: RawFd, how: Shutdown) {
    // SAFETY: a pair's sockets are open until the pair is taken out.
    rustix::net::shutdown(unsafe { BorrowedFd::borrow_raw(socket) }, how).ok();
}
