//! Who is asking.

use std::fmt;

use crate::sys::{Stream, own_uid};

/// Who is at the other end of an admin connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// Somebody who can connect over TCP.
    Tcp,
    /// The same, to a loopback address.
    Loopback,
    /// A process of this host, of this user.
    Local {
        /// Its user; none if the kernel does not say.
        uid: Option<u32>,
    },
}

impl Caller {
    pub(super) fn of(stream: &Stream) -> Self {
        match stream {
            Stream::Tcp(tcp) => match tcp.local_addr() {
                Ok(local) if local.ip().to_canonical().is_loopback() => Self::Loopback,
                Ok(_) | Err(_) => Self::Tcp,
            },
            Stream::Unix(_) => Self::Local { uid: stream.peer_uid() },
        }
    }

    /// Whether it may change anything: root and the daemon's own user may, over a Unix socket.
    pub(super) fn may_change(self) -> bool {
        match self {
            Self::Tcp | Self::Loopback => false,
            Self::Local { uid } => uid.is_some_and(|uid| uid == 0 || uid == own_uid()),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp | Self::Loopback => f.write_str("tcp"),
            Self::Local { uid: Some(uid) } => write!(f, "uid {uid}"),
            Self::Local { uid: None } => f.write_str("unknown uid"),
        }
    }
}
