//! Dialling from an address of one's own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use tokio::net::TcpSocket;

/// Has `socket` dial `to` from `source`, with a port that the kernel chooses only then: one that is in use to another
/// peer will do, so that there are as many connections to each peer as there are ports.
pub(super) fn dial_from(socket: &TcpSocket, source: IpAddr, to: SocketAddr) -> io::Result<()> {
    if source.is_ipv4() != to.is_ipv4() {
        // What bind(2) says of an address that this socket cannot have.
        return Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL));
    }
    let yes: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&yes)).unwrap_or_default();
    // SAFETY: setsockopt reads `length` bytes from the pointer, which is to a live int of that size; the
    // descriptor is open because `socket` is borrowed.
    #[expect(unsafe_code, reason = "no safe wrapper of IP_BIND_ADDRESS_NO_PORT exists")]
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const yes).cast(),
            length,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(SocketAddr::new(source, 0))
}
