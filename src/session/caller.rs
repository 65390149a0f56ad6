//! Who a client is, and how a backend that wants to know is told before the client's first byte.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::timeout;

use crate::model::ProxyProtocol;
use crate::sys::Stream;
use crate::wire::proxy_header;

/// Who a client is.
#[derive(Debug)]
pub struct Caller {
    /// Its address; none if it is on a Unix socket.
    source: Option<SocketAddr>,
    /// Where it connected to, if a proxy has said so.
    destination: Option<Box<SocketAddr>>,
}

impl Caller {
    /// The other side of the connection, which is at `peer`.
    #[must_use]
    pub const fn peer(peer: Option<SocketAddr>) -> Self {
        Self { source: peer, destination: None }
    }

    /// A client at `source` that connected to `destination`, as a proxy announced it.
    #[must_use]
    pub fn announced(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { source: Some(source), destination: Some(Box::new(destination)) }
    }

    /// Its address; none if it is on a Unix socket.
    #[must_use]
    pub const fn source(&self) -> Option<SocketAddr> {
        self.source
    }

    /// The same without its port.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.source.map(|source| source.ip())
    }

    /// The header that tells a backend who it is. Empty, and nothing is asked for, if none is to be sent.
    pub(super) fn header(&self, version: ProxyProtocol, client: &Stream) -> Vec<u8> {
        if version == ProxyProtocol::None {
            return Vec::new();
        }
        let destination = self.destination.as_deref().copied();
        let destination = destination.or_else(|| client.ends().map(|(_, local)| local));
        proxy_header(version, self.source.zip(destination))
    }
}

/// Sends `header` to a backend that was just connected to, within `limit`. A connection that is broken already, and
/// so takes no byte any more, is left to the opening, which knows what to make of its end.
///
/// # Errors
///
/// Whatever else kept the whole header from being sent: without it the backend would take the client for us.
pub(super) async fn introduce(server: &Stream, header: &[u8], limit: Duration) -> io::Result<()> {
    if header.is_empty() {
        return Ok(());
    }
    match timeout(limit, server.send_all(header)).await {
        Ok(Err(error)) if is_broken(&error) => Ok(()),
        Ok(sent) => sent,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Whether it says that the other side is gone.
fn is_broken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
