//! How TCP connections are kept alive.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// How often a silent peer is asked before it is given up. All of it takes as long as the silence before it did.
const TRIES: u32 = 4;

/// Has `socket` asked whether its peer still lives once it has been silent for `idle`; never if that is zero.
/// Sockets that it accepts inherit this.
pub(super) fn set_keepalive(socket: &SockRef<'_>, idle: Duration) -> io::Result<()> {
    if idle.is_zero() {
        return socket.set_keepalive(false);
    }
    // The kernel counts in seconds.
    let every = (idle / TRIES).max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(every).with_retries(TRIES))
}
