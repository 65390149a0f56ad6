//! Connecting to a backend, and what it means when that fails.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::model::{Address, DialError, spoken};

use super::Stream;
use super::source_address::{NoSuchAddress, dial_from};

/// While a Unix socket's queue is full, it is tried again this often.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);

/// What a TCP connection is made with. By default nothing is.
#[derive(Debug, Clone, Copy, Default)]
pub struct DialOptions {
    /// The local address; none leaves it to the kernel.
    pub source: Option<IpAddr>,
}

/// Connects to `address` within `limit`. See [`connect_with`].
///
/// # Errors
///
/// As [`connect_with`].
pub async fn connect(address: &Address, limit: Duration) -> io::Result<Stream> {
    connect_with(address, limit, DialOptions::default()).await
}

/// Connects to `address` within `limit`, with `TCP_NODELAY` and as `options` say, which are for TCP. A host name is
/// looked up now, and its addresses are tried in turn, each for its share of the time that is left.
///
/// # Errors
///
/// What the last address tried said, or that the time was up; [`dial_error`] grades it.
pub async fn connect_with(address: &Address, limit: Duration, options: DialOptions) -> io::Result<Stream> {
    let deadline = Instant::now() + limit;
    let connected = timeout_at(deadline, async {
        match address {
            Address::Ip(addr) => connect_tcp(*addr, options).await,
            Address::Unix(path) => connect_unix(path).await,
            // Boxed: it is the largest by far, and every dial would have room for it.
            Address::Name { host, port } => Box::pin(connect_by_name(host, *port, deadline, options)).await,
        }
    });
    connected.await.unwrap_or_else(|_| Err(too_late(limit)))
}

fn too_late(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {}", spoken(limit)))
}

async fn connect_by_name(host: &str, port: u16, deadline: Instant, options: DialOptions) -> io::Result<Stream> {
    let found = lookup_host((host, port)).await.map_err(|error| unresolved(host, &error.to_string()))?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    if let Some(source) = options.source {
        addresses.retain(|addr| addr.is_ipv4() == source.is_ipv4());
    }
    let mut last = match options.source {
        Some(source) => unresolved(host, &format!("it has no address that source_address {source} can dial")),
        None => unresolved(host, "it has no address"),
    };
    for (tried, addr) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(1);
        match timeout(share, connect_tcp(*addr, options)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = too_late(share),
        }
    }
    Err(last)
}

/// A full queue is not an answer: the server is there and busy.
async fn connect_unix(path: &Path) -> io::Result<Stream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(QUEUE_FULL_PAUSE).await,
            connected => return connected.map(Stream::Unix),
        }
    }
}

async fn connect_tcp(addr: SocketAddr, options: DialOptions) -> io::Result<Stream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Before it connects: a peer that resets at once makes a socket that takes no options any more, and
    // that is the session's end, not a dial that failed.
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = options.source {
        dial_from(&socket, source, addr)?;
    }
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    let ready = stream.ready(Interest::WRITABLE | Interest::ERROR).await?;
    // The kernel says so with the event if there is an error to be asked for.
    if (ready.is_error() || ready.is_write_closed())
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    if is_met_by_itself(&stream, addr.port()) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(Stream::Tcp(stream))
}

/// On loopback, dialling a free port of the ephemeral range can meet itself: the kernel picks the
/// very port it dials as its own and opens it from both sides. Nobody listens there.
fn is_met_by_itself(stream: &TcpStream, dialled: u16) -> bool {
    let local = stream.local_addr().ok();
    // The address that was dialled may be another name for the one that was reached.
    local.is_none_or(|local| local.port() == dialled) && local == stream.peer_addr().ok()
}

/// A name that has no address now. Kept apart from the kernel's errors by its inner type.
#[derive(Debug, thiserror::Error)]
#[error("`{host}` could not be looked up: {cause}")]
struct Unresolved {
    host: String,
    cause: String,
}

fn unresolved(host: &str, cause: &str) -> io::Error {
    io::Error::other(Unresolved { host: host.to_owned(), cause: cause.to_owned() })
}

/// A failed dial that was graded where it failed.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
struct Graded {
    grade: DialError,
    detail: String,
}

/// The error of a dial that failed in a way that no error of the kernel stands for. [`dial_error`] gives back `grade`.
#[must_use]
pub fn graded_error(grade: DialError, detail: impl Into<String>) -> io::Error {
    io::Error::other(Graded { grade, detail: detail.into() })
}

/// What a failed dial proves.
#[must_use]
pub fn dial_error(error: &io::Error) -> DialError {
    if let Some(graded) = error.get_ref().and_then(|inner| inner.downcast_ref::<Graded>()) {
        return graded.grade;
    }
    match error.raw_os_error() {
        // A socket path that is not there is as final as a port that nobody listens on.
        Some(libc::ECONNREFUSED | libc::ENOENT) => DialError::Refused,
        Some(libc::ETIMEDOUT) => DialError::TimedOut,
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN) => DialError::Unreachable,
        Some(
            libc::EMFILE
            | libc::ENFILE
            | libc::ENOBUFS
            | libc::ENOMEM
            | libc::EADDRNOTAVAIL
            | libc::EACCES
            | libc::EPERM,
        ) => DialError::Local,
        Some(_) => DialError::Other,
        None if error.get_ref().is_some_and(|inner| inner.is::<Unresolved>()) => DialError::Unresolved,
        None if error.get_ref().is_some_and(|inner| inner.is::<NoSuchAddress>()) => DialError::SourceAddress,
        None if error.kind() == io::ErrorKind::ConnectionRefused => DialError::Refused,
        None if error.kind() == io::ErrorKind::TimedOut => DialError::TimedOut,
        None => DialError::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::{DialOptions, connect, connect_with, dial_error, is_met_by_itself};
    use crate::model::{Address, DialError};
    use crate::sys::refusing;
    use socket2::{Domain, Socket, Type};
    use std::net::SocketAddr;
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn each_way_to_fail_has_its_grade() {
        let (_refusing, address) = refusing();
        for (address, grade) in [
            (address.to_string(), DialError::Refused),
            ("unix:/nonexistent/socket".to_owned(), DialError::Refused),
            ("no-such-host.invalid:1".to_owned(), DialError::Unresolved),
        ] {
            let error = connect(&address.parse().unwrap(), LIMIT).await.unwrap_err();
            assert_eq!(dial_error(&error), grade, "{address}: {error}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_has_met_itself_is_known() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let own = socket.local_addr().unwrap();
        socket.connect(&own).unwrap();
        socket.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(socket.into()).unwrap();
        assert!(is_met_by_itself(&stream, own.as_socket().unwrap().port()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        // The same port at another address is somebody else.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 9, 8, 7], to.port())).into()).unwrap();
        socket.connect(&to.into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        assert!(!is_met_by_itself(&tokio::net::TcpStream::from_std(socket.into()).unwrap(), to.port()));
    }

    #[tokio::test]
    async fn a_source_address_is_dialled_from_and_a_foreign_one_is_our_own_fault() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let from = |source: &str| DialOptions { source: Some(source.parse().unwrap()) };
        let _ours = connect_with(&address, LIMIT, from("127.9.8.7")).await.unwrap();
        assert_eq!(listener.accept().unwrap().1.ip().to_string(), "127.9.8.7");
        for foreign in ["192.0.2.1", "::1"] {
            let error = connect_with(&address, LIMIT, from(foreign)).await.unwrap_err();
            assert_eq!(dial_error(&error), DialError::SourceAddress, "{foreign}: {error}");
            assert!(error.to_string().contains(&format!("no address {foreign}, which is the pool's source_address")));
        }
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_each_address_tried() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        assert!(connect(&address.parse().unwrap(), LIMIT).await.is_ok());
        // One that has IPv4 addresses only.
        let address = Address::Name { host: "127.0.0.1".into(), port: 1 };
        let options = DialOptions { source: Some("::1".parse().unwrap()) };
        let error = connect_with(&address, LIMIT, options).await.unwrap_err();
        assert!(error.to_string().contains("no address that source_address ::1 can dial"), "{error}");
        assert_eq!(dial_error(&error), DialError::Unresolved, "{error}");
    }
}
