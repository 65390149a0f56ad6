//! How much the kernel keeps of what a socket's other side has not taken.

use std::io;
use std::os::fd::AsFd;

use socket2::SockRef;

/// Has the kernel keep no more than about `bytes` that were written to `socket` and not taken; it doubles the number, for
/// what it needs itself.
///
/// # Errors
///
/// What setsockopt(2) said.
pub fn bound_unsent<S: AsFd>(socket: &S, bytes: usize) -> io::Result<()> {
    SockRef::from(socket).set_send_buffer_size(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::bound_unsent;

    /// How much of what nobody reads is taken.
    fn taken(bound: Option<usize>) -> usize {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_reader, _) = listener.accept().unwrap();
        writer.set_nonblocking(true).unwrap();
        if let Some(bytes) = bound {
            bound_unsent(&writer, bytes).unwrap();
        }
        let mut taken = 0;
        loop {
            match writer.write(&[7; 4096]) {
                Ok(count) => taken += count,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    return taken;
                }
            }
        }
    }

    #[test]
    fn what_nobody_takes_is_kept_up_to_the_bound() {
        let (unbound, bound) = (taken(None), taken(Some(64 << 10)));
        assert!(bound < unbound, "{bound} of {unbound}");
    }
}
