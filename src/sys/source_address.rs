//! Dialling from an address of one's own, what it means if the host does not have it, and which it has.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use socket2::Socket;

/// The host does not have the address that it is to dial from. Kept apart from the kernel's errors by its type: of a
/// dial without such an address EADDRNOTAVAIL says that there is no port left.
#[derive(Debug, thiserror::Error)]
#[error("this host has no address {0}, which is the pool's source_address")]
pub(super) struct NoSuchAddress(IpAddr);

/// Has `socket` dial `to` from `source`, with a port that the kernel chooses only then: one that is in use to another
/// peer will do, so that there are as many connections to each peer as there are ports.
pub(super) fn dial_from(socket: &Socket, source: IpAddr, to: SocketAddr) -> io::Result<()> {
    if source.is_ipv4() != to.is_ipv4() {
        return Err(io::Error::other(NoSuchAddress(source)));
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
    socket.bind(&SocketAddr::new(source, 0).into()).map_err(|error| match error.raw_os_error() {
        // No port is chosen yet, so it is the address.
        Some(libc::EADDRNOTAVAIL) => io::Error::other(NoSuchAddress(source)),
        Some(_) | None => error,
    })
}

/// Whether this host has the address `ip`; so it is taken to have if that cannot be found out. Nothing is sent.
#[must_use]
pub fn has_address(ip: IpAddr) -> bool {
    let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    let socket = match UdpSocket::bind((ip, 0)) {
        Ok(socket) => socket,
        // An address of IPv6 that holds on one line alone wants that named, and is of such a line.
        Err(error) => return !matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)),
    };
    // Hosts that take over each other's addresses may bind those that they do not have now. Who dials one that they have does so from
    // it, but for those that stand beside a first one in its network.
    let binds_any = fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    if !binds_any.is_ok_and(|set| set.trim() != "0") {
        return true;
    }
    drop(socket);
    let wildcard = SocketAddr::new(if ip.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
    let from = UdpSocket::bind(wildcard).and_then(|socket| {
        socket.connect((ip, 1))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::{dial_from, has_address};
    use socket2::{Domain, Socket, Type};
    use std::net::{SocketAddr, TcpListener};

    #[test]
    fn the_port_is_chosen_only_when_it_is_known_who_is_dialled() {
        for (listens, source) in [("127.0.0.1:0", "127.9.8.7"), ("[::1]:0", "::1")] {
            let listener = TcpListener::bind(listens).unwrap();
            let to: SocketAddr = listener.local_addr().unwrap();
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            dial_from(&socket, source.parse().unwrap(), to).unwrap();
            let local = || socket.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(local().port(), 0);
            socket.connect(&to.into()).unwrap();
            let local = local();
            assert!(local.ip().to_string() == source && local.port() > 0, "{local}");
        }
    }

    #[test]
    fn an_address_is_the_hosts_or_it_is_not() {
        for (address, has) in [("127.0.0.1", true), ("192.0.2.1", false), ("2001:db8::1", false)] {
            assert_eq!(has_address(address.parse().unwrap()), has, "{address}");
        }
    }
}
