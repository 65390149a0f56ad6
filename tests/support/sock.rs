//! Stream sockets of either family, so that one test serves every transport.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};

use super::net::dial;
use super::wait::DEADLINE;

/// A connection over TCP or a Unix socket, with deadlines.
#[derive(Debug)]
pub enum Sock {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Sock {
    /// Connects to an address as the configuration and the log write it.
    pub fn connect(address: &str) -> io::Result<Self> {
        match address.strip_prefix("unix:") {
            Some(path) => Self::unix(UnixStream::connect(path)?),
            None => dial(address.parse().map_err(io::Error::other)?).map(Self::Tcp),
        }
    }

    /// With deadlines.
    pub fn unix(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self::Unix(stream))
    }

    /// Another handle on the same connection.
    #[track_caller]
    pub fn another(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().expect("clone")),
            Self::Unix(stream) => Self::Unix(stream.try_clone().expect("clone")),
        }
    }

    /// Ends this side's direction.
    #[track_caller]
    pub fn finish(&self) {
        let done = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        done.expect("shutdown");
    }

    /// Closes with a reset. Only TCP has one.
    #[track_caller]
    pub fn reset(self) {
        match self {
            Self::Tcp(stream) => super::net::reset(stream),
            Self::Unix(_) => panic!("a Unix socket has no reset"),
        }
    }
}

impl Read for Sock {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Sock {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A listening socket over TCP or a Unix socket.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Listening {
    /// Listens at an address as the configuration writes it.
    #[track_caller]
    pub fn bind(address: &str) -> Self {
        match address.strip_prefix("unix:") {
            Some(path) => Self::Unix(UnixListener::bind(path).expect("bind")),
            None => Self::Tcp(TcpListener::bind(address).expect("bind")),
        }
    }

    /// Where it listens, as the configuration writes it.
    #[track_caller]
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().expect("bound").to_string(),
            Self::Unix(listener) => {
                let addr = listener.local_addr().expect("bound");
                format!("unix:{}", addr.as_pathname().expect("a path").display())
            }
        }
    }

    /// Forgets the connections that came so far: probes, whose verdict is in.
    #[track_caller]
    pub fn forget(&self) {
        self.nonblocking(true);
        while self.try_accept().is_ok() {}
        self.nonblocking(false);
    }

    /// The next connection.
    #[track_caller]
    pub fn accept(&self) -> Sock {
        let socket = match self {
            Self::Tcp(listener) => socket2::SockRef::from(listener),
            Self::Unix(listener) => socket2::SockRef::from(listener),
        };
        // accept(2) keeps to SO_RCVTIMEO as reads do.
        socket.set_read_timeout(Some(DEADLINE)).expect("SO_RCVTIMEO");
        self.try_accept().expect("a connection")
    }

    fn try_accept(&self) -> io::Result<Sock> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.set_write_timeout(Some(DEADLINE))?;
                stream.set_nodelay(true)?;
                Ok(Sock::Tcp(stream))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Sock::unix(stream)
            }
        }
    }

    #[track_caller]
    fn nonblocking(&self, on: bool) {
        let done = match self {
            Self::Tcp(listener) => listener.set_nonblocking(on),
            Self::Unix(listener) => listener.set_nonblocking(on),
        };
        done.expect("O_NONBLOCK");
    }
}
