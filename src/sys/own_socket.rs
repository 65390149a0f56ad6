//! Which connections are with this very process itself.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use socket2::SockAddr;

/// Where the kernel lists the descriptors of a process.
const DESCRIPTORS: &str = "/proc/self/fd";

/// Whether the other end of a TCP connection between `local` and `remote`, as this end has them, is a socket of this very process.
/// Looks at each descriptor of the process once. Both ends count: the kernel gives one port of an address to connections
/// to different places at once.
///
/// # Errors
///
/// If the kernel does not list them.
pub fn is_with_ourselves(local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
    let (here, there) = (canonical(remote), canonical(local));
    for entry in fs::read_dir(DESCRIPTORS)? {
        let name = entry?.file_name();
        let Some(descriptor) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let is = |call: Name, wanted| address(descriptor, call).map(canonical) == Some(wanted);
        if is(libc::getsockname, here) && is(libc::getpeername, there) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// getsockname(2) or getpeername(2).
type Name = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

/// What `call` says of the socket that `descriptor` is, as IP address and port; none if it is anything else, or closed by now.
#[expect(unsafe_code, reason = "what is no descriptor of ours to hold cannot be asked by a safe wrapper")]
fn address(descriptor: RawFd, call: Name) -> Option<SocketAddr> {
    // SAFETY: `try_init` gives room for an address and says how much, and on success either call has written one and its
    // length. The descriptor may have been closed or given to another file since it was listed: the call then fails or
    // tells of that one, and changes neither.
    let named = unsafe {
        SockAddr::try_init(|storage, len| match call(descriptor, storage.cast(), len) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    };
    named.ok().and_then(|((), address)| address.as_socket())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};

    use socket2::{Domain, Socket, Type};

    use super::is_with_ourselves;

    #[test]
    fn a_connection_with_ourselves_is_known_as_long_as_both_ends_are_open() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let here = listener.local_addr().unwrap();
        // From an address that no test beside this one has sockets at.
        let ours = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        ours.bind(&SocketAddr::from(([127, 83, 17, 9], 0)).into()).unwrap();
        ours.connect(&here.into()).unwrap();
        let (_accepted, remote) = listener.accept().unwrap();
        assert_eq!(Some(remote), ours.local_addr().unwrap().as_socket());
        assert!(is_with_ourselves(here, remote).unwrap());
        let mapped = |ip: Ipv4Addr, port| SocketAddr::new(ip.to_ipv6_mapped().into(), port);
        let (local, other) = (mapped(Ipv4Addr::LOCALHOST, here.port()), mapped([127, 83, 17, 9].into(), remote.port()));
        assert!(is_with_ourselves(local, other).unwrap(), "the same, as a socket of IPv6 says it");
        // A port of ours is another's as well, where that one is connected to somebody else.
        let elsewhere = SocketAddr::new(here.ip(), here.port().wrapping_add(1).max(1));
        assert!(!is_with_ourselves(elsewhere, remote).unwrap());
        drop(ours);
        assert!(!is_with_ourselves(here, remote).unwrap());
    }
}
