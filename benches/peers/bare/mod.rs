//! Relays with nothing in them: no limits, no timers, no checks of a backend, no counters. They are peers of the
//! comparison because they say how much of a figure is the kernel's: what a bare loop costs nobody can undercut
//! with the same system calls.
//!
//! This program once more, like the backend, with one of [`Loop::argument`] and the path of a file that says where
//! to listen and where to connect, a line each.

mod buffers;
mod epoll;
mod uring;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// As the other peers have it, so that none refuses a connection.
const BACKLOG: i32 = 4096;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loop {
    Epoll,
    Uring,
}

impl Loop {
    /// The argument that makes this program the relay.
    pub(crate) const fn argument(self) -> &'static str {
        match self {
            Self::Epoll => "bare-epoll-process",
            Self::Uring => "bare-uring-process",
        }
    }

    pub(crate) fn named(argument: &str) -> Option<Self> {
        [Self::Epoll, Self::Uring].into_iter().find(|kind| kind.argument() == argument)
    }

    /// Relays until it is killed.
    pub(crate) fn run(self, file: Option<OsString>) -> io::Result<()> {
        let text = std::fs::read_to_string(file.ok_or(io::ErrorKind::InvalidInput)?)?;
        let mut lines = text.lines().map(|line| line.parse::<SocketAddr>().map_err(io::Error::other));
        let mut next = || lines.next().ok_or(io::ErrorKind::UnexpectedEof)?;
        let (address, backend) = (next()?, next()?);
        match self {
            Self::Epoll => epoll::run(listen(address, SocketFlags::NONBLOCK)?, backend),
            Self::Uring => uring::run(listen(address, SocketFlags::empty())?, backend),
        }
    }
}

/// What is accepted inherits the listener's options, so that the client's socket needs no call of its own.
fn listen(address: SocketAddr, flags: SocketFlags) -> io::Result<OwnedFd> {
    let listener = socket(flags)?;
    rustix::net::bind(&listener, &address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}
