//! Who is asking.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::model::Actor;
use crate::sys::{Stream, own_uid};

use super::problem::Problem;

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

    /// As whom it may change things, if it may: root and the daemon's own user may, over a Unix socket.
    fn changes_as(self) -> Option<Actor> {
        match self {
            Self::Tcp | Self::Loopback => None,
            Self::Local { uid } => {
                let uid = uid.filter(|&uid| uid == 0 || uid == own_uid())?;
                Some(Actor::from(format!("uid:{uid}").as_str()))
            }
        }
    }
}

/// Who changes something. Every route that does takes one, so that nobody gets as far as its body who may not; what
/// else is to let a caller through is asked here, and nowhere else.
#[derive(Debug, Clone)]
pub(super) struct Changer {
    /// The name under which it is known what they did.
    pub(super) actor: Actor,
    /// Where it comes from.
    pub(super) address: &'static str,
}

impl<S: Sync> FromRequestParts<S> for Changer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Caller>().copied();
        let actor = caller.and_then(Caller::changes_as).ok_or(Problem::NotAuthorized)?;
        // Nobody else may yet.
        Ok(Self { actor, address: "unix" })
    }
}
