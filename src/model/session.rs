//! What there is to tell of one session.

use std::fmt;
use std::net::SocketAddr;

use super::{BackendName, ListenerName, MonoTime, PoolName};

/// A session's number: no other of the daemon's life has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

labelled! {
    /// How far a session is.
    SessionState {
        /// Its backend has been dialled, and has not answered yet.
        Opening = "opening",
        /// Bytes move, or did a moment ago.
        Open = "open",
        /// Nothing has moved for a second or more.
        Idle = "idle",
    }
}

/// A session as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStatus {
    /// Its number.
    pub id: SessionId,
    /// The listener that its client came through.
    pub listener: ListenerName,
    /// The backend's pool.
    pub pool: PoolName,
    /// The backend.
    pub backend: BackendName,
    /// Where its client comes from; none for Unix sockets.
    pub client: Option<SocketAddr>,
    /// How far it is.
    pub state: SessionState,
    /// When its client came.
    pub since: MonoTime,
    /// Bytes to the backend and to the client, to within a quarter of a second.
    pub moved: [u64; 2],
}
