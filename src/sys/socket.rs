//! Listening sockets.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::model::Address;

use super::Stream;
use super::keepalive::set_keepalive;

/// Connections that may wait to be accepted, per socket; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A socket that listens already but belongs to no runtime yet, so that it can be handed to a thread.
#[derive(Debug)]
pub struct BoundSocket {
    socket: Socket,
    address: Address,
}

impl BoundSocket {
    /// Where it listens, with the port that was really taken.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Another handle to the same socket and the same queue.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn share(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, address: self.address.clone() })
    }
}

/// Who may connect to a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketMode {
    /// Everybody who can reach its directory, as with a TCP port on loopback.
    Everybody,
    /// The daemon's user and group.
    UserAndGroup,
}

impl SocketMode {
    const fn bits(self) -> u32 {
        match self {
            Self::Everybody => 0o666,
            Self::UserAndGroup => 0o660,
        }
    }
}

/// Binds `address` and listens, in `copies` sockets among which the kernel spreads new connections.
/// A Unix socket has one queue only: its copies share it.
///
/// Nobody else may listen there, not even another process of the same user with `SO_REUSEPORT`. TCP connections are
/// kept alive after a silence of `keepalive`; zero is never.
///
/// # Errors
///
/// If the address is taken, not ours, or not allowed; the first socket's error.
pub fn bind(address: &Address, copies: usize, mode: SocketMode, keepalive: Duration) -> io::Result<Vec<BoundSocket>> {
    match address {
        Address::Ip(addr) => bind_tcp(*addr, copies, keepalive),
        Address::Unix(path) => bind_unix(path, copies, mode),
        Address::Name { .. } => Err(io::Error::new(io::ErrorKind::InvalidInput, "a host name cannot be bound")),
    }
}

fn bind_tcp(addr: SocketAddr, copies: usize, keepalive: Duration) -> io::Result<Vec<BoundSocket>> {
    // The first socket binds without SO_REUSEPORT, which fails if anybody at all listens there, and
    // takes the option up only then, so that its siblings can join it.
    let first = tcp_socket(addr, keepalive)?;
    first.bind(&addr.into())?;
    let bound = first.local_addr()?.as_socket().unwrap_or(addr);
    first.set_reuse_port(true)?;
    let mut sockets = vec![first];
    while sockets.len() < copies {
        let socket = tcp_socket(addr, keepalive)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound.into())?;
        sockets.push(socket);
    }
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    Ok(sockets.into_iter().map(|socket| BoundSocket { socket, address: Address::Ip(bound) }).collect())
}

fn tcp_socket(addr: SocketAddr, keepalive: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Accepted sockets inherit both, which saves two calls for each.
    socket.set_tcp_nodelay(true)?;
    set_keepalive(&SockRef::from(&socket), keepalive)?;
    Ok(socket)
}

fn bind_unix(path: &Path, copies: usize, mode: SocketMode) -> io::Result<Vec<BoundSocket>> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Before anybody can connect, and whatever the umask: a service's is usually too strict for clients.
    std::fs::set_permissions(path, Permissions::from_mode(mode.bits()))?;
    socket.listen(BACKLOG)?;
    let mut sockets = vec![BoundSocket { socket, address: Address::Unix(Arc::from(path)) }];
    while sockets.len() < copies {
        let copy = sockets[0].share()?;
        sockets.push(copy);
    }
    Ok(sockets)
}

/// Removes a socket file that a killed predecessor left. One that somebody answers at stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is no socket"));
        }
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// A listening socket that belongs to the runtime of the present thread.
#[derive(Debug)]
pub enum Listener {
    /// At an IP address.
    Tcp(TcpListener),
    /// At a path.
    Unix(UnixListener),
}

impl Listener {
    /// Brings `bound` into the present runtime.
    ///
    /// # Errors
    ///
    /// If the runtime cannot watch it.
    pub fn from_bound(bound: BoundSocket) -> io::Result<Self> {
        match bound.address {
            Address::Unix(_) => Ok(Self::Unix(UnixListener::from_std(bound.socket.into())?)),
            Address::Ip(_) | Address::Name { .. } => Ok(Self::Tcp(TcpListener::from_std(bound.socket.into())?)),
        }
    }

    /// Waits for the next client; with it comes its address, none if it is on a Unix socket.
    /// Cancel-safe: a client is either returned or still in the queue.
    ///
    /// # Errors
    ///
    /// What accept(2) said.
    pub async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Tcp(stream), Some(peer)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), None))
            }
        }
    }
}

impl Listener {
    /// The next client in the queue, asked of the kernel itself: the runtime may not have been told yet.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the queue is empty; else what accept(2) said.
    pub fn accept_now(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        let (socket, peer) = match self {
            Self::Tcp(listener) => SockRef::from(listener).accept()?,
            Self::Unix(listener) => SockRef::from(listener).accept()?,
        };
        socket.set_nonblocking(true)?;
        let stream = match self {
            Self::Tcp(_) => Stream::Tcp(TcpStream::from_std(socket.into())?),
            Self::Unix(_) => Stream::Unix(UnixStream::from_std(socket.into())?),
        };
        Ok((stream, peer.as_socket()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Listener, SocketMode, Stream, bind};
    use crate::model::Address;
    use std::time::Duration;

    fn any_port() -> Address {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn a_bound_port_is_ours_alone_and_free_again_afterwards() {
        let sockets = bind(&any_port(), 3, SocketMode::Everybody, Duration::ZERO).unwrap();
        let address = sockets[0].address().clone();
        assert!(sockets.iter().all(|socket| *socket.address() == address));
        assert_eq!(
            bind(&address, 2, SocketMode::Everybody, Duration::ZERO).unwrap_err().kind(),
            std::io::ErrorKind::AddrInUse
        );
        drop(sockets);
        assert!(bind(&address, 2, SocketMode::Everybody, Duration::ZERO).is_ok());
    }

    #[tokio::test]
    async fn every_copy_is_served_and_accepted_sockets_inherit_their_options() {
        let mut sockets = bind(&any_port(), 2, SocketMode::Everybody, Duration::from_secs(60)).unwrap();
        let address = sockets[0].address().to_string();
        let b = Listener::from_bound(sockets.pop().unwrap()).unwrap();
        let a = Listener::from_bound(sockets.pop().unwrap()).unwrap();
        let clients: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
        let mut counts = [0, 0];
        for _ in &clients {
            let (index, accepted) = tokio::select! {
                accepted = a.accept() => (0, accepted),
                accepted = b.accept() => (1, accepted),
            };
            let Stream::Tcp(stream) = accepted.unwrap().0 else { panic!("not TCP") };
            assert!(stream.nodelay().unwrap());
            assert!(socket2::SockRef::from(&stream).keepalive().unwrap());
            counts[index] += 1;
        }
        assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
    }

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let address: Address = format!("unix:{}", path.display()).parse().unwrap();
        let first = bind(&address, 2, SocketMode::Everybody, Duration::ZERO).unwrap();
        assert_eq!(
            bind(&address, 1, SocketMode::Everybody, Duration::ZERO).unwrap_err().kind(),
            std::io::ErrorKind::AddrInUse
        );
        drop(first);
        assert!(path.exists());
        assert!(bind(&address, 1, SocketMode::Everybody, Duration::ZERO).is_ok());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(
            bind(&address, 1, SocketMode::Everybody, Duration::ZERO).unwrap_err().kind(),
            std::io::ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
