//! Who is let in: the limits of one listener, held for all threads together.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::model::{LimitsPlan, MonoTime, RejectReason};

use super::clients::Clients;

/// What one listener's limits count. The limits themselves are the plan's, so that a reload changes them and no count
/// is lost. Without limits it costs no lock and no allocation, only a count.
#[derive(Debug, Default)]
pub struct Guard {
    open: AtomicUsize,
    /// Made when clients are first told apart.
    clients: OnceLock<Clients>,
}

impl Guard {
    /// Takes one of the listener's connections.
    ///
    /// # Errors
    ///
    /// `max_connections` are taken.
    pub fn enter(self: &Arc<Self>, limits: &LimitsPlan) -> Result<Pass, RejectReason> {
        let most = if limits.max_connections == 0 { usize::MAX } else { limits.max_connections };
        let more = |open| if open < most { Some(open + 1) } else { None };
        let entered = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        entered.map_err(|_| RejectReason::MaxConnections)?;
        Ok(Pass { guard: Arc::clone(self), client: None })
    }
}

/// One connection that was let in. What it took is free again when this is dropped.
#[derive(Debug)]
pub struct Pass {
    guard: Arc<Guard>,
    /// The client that it is counted for, if clients are told apart.
    client: Option<Option<IpAddr>>,
}

impl Pass {
    /// Has the connection be of the client at `address`; none for one on a Unix socket. All those are one client.
    ///
    /// # Errors
    ///
    /// The limit that the client has reached.
    pub fn identify(
        &mut self,
        address: Option<IpAddr>,
        limits: &LimitsPlan,
        now: impl FnOnce() -> MonoTime,
    ) -> Result<(), RejectReason> {
        if limits.counts_clients() {
            let client = address.map(|ip| ip.to_canonical());
            self.guard.clients.get_or_init(Clients::new).enter(client, limits, now)?;
            self.client = Some(client);
        }
        Ok(())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.guard.open.fetch_sub(1, Ordering::Relaxed);
        if let (Some(client), Some(clients)) = (self.client, self.guard.clients.get()) {
            clients.leave(client);
        }
    }
}
