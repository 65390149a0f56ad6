//! What a failed accept(2) means for the listener.

use std::io;

/// Classes of accept error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptErrorClass {
    /// That one connection is gone, or had a network error pending (accept(2)); go on at once.
    Client,
    /// The host is short of something; pause, then go on.
    Exhausted,
    /// The listening socket itself is broken; nothing more will come of it.
    Fatal,
}

impl AcceptErrorClass {
    /// The class of `error`.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EFAULT) => Self::Fatal,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Self::Exhausted,
            Some(_) | None => Self::Client,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AcceptErrorClass;
    use std::io;

    #[test]
    fn every_accept_error_has_its_class() {
        let class = |code| AcceptErrorClass::of(&io::Error::from_raw_os_error(code));
        for code in [libc::ECONNABORTED, libc::EINTR, libc::EPROTO, libc::EPERM, libc::EHOSTUNREACH, libc::ENETDOWN] {
            assert_eq!(class(code), AcceptErrorClass::Client, "{code}");
        }
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(class(code), AcceptErrorClass::Exhausted, "{code}");
        }
        for code in [libc::EBADF, libc::EINVAL, libc::ENOTSOCK] {
            assert_eq!(class(code), AcceptErrorClass::Fatal, "{code}");
        }
    }
}
