//! The header of the PROXY protocol with which a connection begins, read byte for byte no further than it goes: what
//! stands behind it stays in the socket for the session.

use std::time::Duration;

use tokio::time::timeout;

use crate::model::RejectReason;
use crate::sys::Stream;
use crate::wire::{Announced, PROXY_HEADER_MAX, parse_proxy_header};

/// How long a header may take. Proxies send it at once; a lost segment or two are sent again within this time.
const HEADER_WAIT: Duration = Duration::from_secs(5);

/// So many bytes hold nearly every header (a segment of any network, less its own headers).
const HEADER_USUAL: usize = 536;

/// What the header of `client` says.
///
/// # Errors
///
/// `ProxyProtocol` if there is none in time; `ClientLeft` if the other side went without a byte, as checks do that
/// only see whether somebody listens.
pub(super) async fn announcement(client: &Stream) -> Result<Announced, RejectReason> {
    timeout(HEADER_WAIT, read(client)).await.unwrap_or(Err(RejectReason::ProxyProtocol))
}

async fn read(client: &Stream) -> Result<Announced, RejectReason> {
    let (mut buffer, mut seen) = (vec![0; HEADER_USUAL], 0);
    loop {
        let left = if seen == 0 { RejectReason::ClientLeft } else { RejectReason::ProxyProtocol };
        seen = client.peek_more(&mut buffer, seen).await.map_err(|_| left)?;
        let parsed = parse_proxy_header(buffer.get(..seen).unwrap_or_default());
        match parsed.map_err(|_| RejectReason::ProxyProtocol)? {
            Some((says, length)) => return client.skip(length).map(|()| says).map_err(|_| RejectReason::ProxyProtocol),
            None if seen >= PROXY_HEADER_MAX => return Err(RejectReason::ProxyProtocol),
            None if seen == buffer.len() => buffer.resize(PROXY_HEADER_MAX, 0),
            None => {}
        }
    }
}
