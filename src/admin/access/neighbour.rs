//! Whether somebody who came over loopback is this very process: what the daemon dials for others, by whatever name, must not have
//! the rights of its host. To find out takes a look at each descriptor of the process, so that it is done for those alone whose
//! rights depend on it, once for each connection, one after the other and on no thread that answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OnceCell, Semaphore};
use tokio::task::spawn_blocking;

use crate::sys::{Stream, is_with_ourselves};

/// Both ends of a TCP connection that came to an address of loopback, and what was found out of them.
#[derive(Debug, Clone)]
pub(in crate::admin) struct Ends {
    /// This one and the other; none of a connection that is not over loopback.
    ends: Option<(SocketAddr, SocketAddr)>,
    are_ours: Arc<OnceCell<bool>>,
}

impl Ends {
    pub(in crate::admin) fn of(stream: &Stream) -> Self {
        let ends = match stream {
            Stream::Tcp(tcp) => {
                let local = tcp.local_addr().ok().filter(|local| local.ip().to_canonical().is_loopback());
                local.zip(tcp.peer_addr().ok())
            }
            Stream::Unix(_) | Stream::Program(_) => None,
        };
        Self { ends, are_ours: Arc::default() }
    }

    /// Whether the other end is a socket of this process as well, or may be.
    pub(super) async fn are_ours(&self, looks: &Looks) -> bool {
        let Some((local, remote)) = self.ends else { return false };
        *self.are_ours.get_or_init(|| looks.look(local, remote)).await
    }
}

/// Whoever looks. All clones are one.
#[derive(Debug, Clone)]
pub(super) struct Looks {
    turn: Arc<Semaphore>,
    /// Whether it was said that there is nothing to be seen.
    is_told: Arc<AtomicBool>,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), is_told: Arc::default() }
    }

    /// Whether both ends are ours; if that cannot be told, they may be.
    async fn look(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        // Cancel-safety: whoever goes meanwhile leaves a look that ends by itself, and gives its turn back then.
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let looked = spawn_blocking(move || {
            let _turn = turn;
            is_with_ourselves(local, remote)
        });
        match looked.await.unwrap_or_else(|lost| Err(io::Error::other(lost))) {
            Ok(are_ours) => are_ours,
            Err(error) => {
                if !self.is_told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "which sockets are the daemon's own is unknown: over loopback, nobody may read without a credential");
                }
                true
            }
        }
    }
}
