//! One session as the registry knows it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::{BackendId, Epoch, ListenerName, MonoTime, SessionEnd, SessionId, SessionState, SessionStatus};
use crate::sys::{Gated, Resting, Stream};

use super::live::BackendLive;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: SessionId,
    pub(super) backend: BackendId,
    pub(super) epoch: Epoch,
    pub(super) facts: SessionFacts,
    pub(super) moved: [u64; 2],
    pub(super) sockets: Sockets,
    pub(super) fenced: Option<SessionEnd>,
    /// When its client is to be closed, if it was fenced and has to wait for that.
    pub(super) turn: Option<MonoTime>,
}

/// What the session table tells of a session.
#[derive(Debug, Clone)]
pub struct SessionFacts {
    /// The listener that its client came through.
    pub listener: ListenerName,
    /// Its backend.
    pub backend: Arc<BackendLive>,
    /// Where its client comes from; none for Unix sockets.
    pub client: Option<SocketAddr>,
    /// When its client came.
    pub since: MonoTime,
}

/// The sockets of a session that are under the fence.
#[derive(Debug)]
pub(super) enum Sockets {
    /// It dials: its thread asks again before it moves a byte.
    None,
    /// Nothing may be written to its client yet: it can still be given another backend.
    Server(Arc<Stream>),
    /// Established: its client's and its backend's.
    Both(Pair),
    /// The same, kept here while nothing moves.
    Resting([Resting; 2]),
    /// It was fenced: its client's, kept here until that is closed.
    Leaving(Resting),
}

/// The sockets of an established session.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Its client's, which a fence may silence.
    pub client: Arc<Gated>,
    /// Its backend's.
    pub server: Arc<Stream>,
}

impl Pair {
    /// Of the client's socket and the backend's.
    #[must_use]
    pub fn new([client, server]: [Stream; 2]) -> Self {
        Self { client: Arc::new(Gated::new(client)), server: Arc::new(server) }
    }

    /// Cuts both, now.
    pub(super) fn abort(&self) {
        self.client.abort();
        self.server.abort();
    }
}

impl Entry {
    pub(super) fn status(&self) -> SessionStatus {
        SessionStatus {
            id: self.id,
            listener: self.facts.listener.clone(),
            pool: self.facts.backend.pool.clone(),
            backend: self.facts.backend.name.clone(),
            client: self.facts.client,
            state: match self.sockets {
                Sockets::None | Sockets::Server(_) => SessionState::Opening,
                Sockets::Both(_) => SessionState::Open,
                Sockets::Resting(_) | Sockets::Leaving(_) => SessionState::Idle,
            },
            since: self.facts.since,
            moved: self.moved,
        }
    }
}
