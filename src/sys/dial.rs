//! Connecting to a backend, and what it means when that fails.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpStream, UnixStream, lookup_host};

use crate::model::{Address, DialError};

use super::Stream;

/// Connects to `address` with `TCP_NODELAY`. A host name is looked up now, and each of its addresses
/// is tried in turn. Has no limit of its own in time: the caller sets one.
///
/// # Errors
///
/// What the last address tried said; [`dial_error`] grades it.
pub async fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Ip(addr) => connect_tcp(*addr).await,
        Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(&**path).await?)),
        Address::Name { host, port } => {
            let mut last = unresolved(host, "it has no address");
            let found = lookup_host((&**host, *port)).await.map_err(|error| unresolved(host, &error.to_string()))?;
            for addr in found {
                match connect_tcp(addr).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

async fn connect_tcp(addr: SocketAddr) -> io::Result<Stream> {
    let stream = TcpStream::connect(addr).await?;
    // On loopback, dialling a free port of the ephemeral range can meet itself: the kernel picks the
    // very port it dials as its own and opens it from both sides. Nobody listens there.
    if stream.local_addr().ok() == stream.peer_addr().ok() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
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

/// What a failed dial proves.
#[must_use]
pub fn dial_error(error: &io::Error) -> DialError {
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
        None if error.kind() == io::ErrorKind::ConnectionRefused => DialError::Refused,
        None if error.kind() == io::ErrorKind::TimedOut => DialError::TimedOut,
        None => DialError::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::{connect, dial_error};
    use crate::model::DialError;

    #[tokio::test]
    async fn each_way_to_fail_has_its_grade() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap();
        for (address, grade) in [
            (free.to_string(), DialError::Refused),
            ("unix:/nonexistent/socket".to_owned(), DialError::Refused),
            ("no-such-host.invalid:1".to_owned(), DialError::Unresolved),
        ] {
            let error = connect(&address.parse().unwrap()).await.unwrap_err();
            assert_eq!(dial_error(&error), grade, "{address}: {error}");
        }
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_each_address_tried() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        assert!(connect(&address.parse().unwrap()).await.is_ok());
    }
}
