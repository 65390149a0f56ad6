//! Every listening socket of the daemon, by what it is for. The daemon keeps a handle of its own to
//! each, so that a reload can hand a socket from one listener to another without a gap.

use std::collections::BTreeMap;
use std::io;

use tokio::sync::watch;

use crate::model::{Address, ListenerName, Plan};
use crate::sys::{BoundSocket, SocketMode, bind, unbound};

use super::StartError;
use super::worker_thread::SocketKey;

/// One address of a listener: a socket for each worker.
pub(super) struct OpenListener {
    pub(super) sockets: Vec<BoundSocket>,
}

impl OpenListener {
    /// The address, as bound.
    fn address(&self) -> Option<&Address> {
        self.sockets.first().map(BoundSocket::address)
    }
}

/// One address of the admin server.
pub(super) struct OpenAdmin {
    pub(super) address: Address,
    /// Ends its service when dropped.
    _stop: watch::Sender<bool>,
}

/// All that is open.
#[derive(Default)]
pub(super) struct Sockets {
    pub(super) listeners: BTreeMap<SocketKey, OpenListener>,
    pub(super) admin: BTreeMap<Address, OpenAdmin>,
}

/// What a new plan opens.
#[derive(Default)]
pub(super) struct Opened {
    /// The daemon's own handles.
    pub(super) listeners: BTreeMap<SocketKey, OpenListener>,
    /// Each worker's handles, by its number.
    pub(super) shares: Vec<Shares>,
    pub(super) admin: Vec<(Address, BoundSocket)>,
}

/// One worker's handles.
pub(super) type Shares = Vec<(SocketKey, BoundSocket)>;

/// What a new plan is about to open. Nothing that is open already is touched by making it, and if it
/// is dropped before it is kept, nothing of it is left.
#[derive(Default)]
pub(super) struct Opening {
    opened: Opened,
    /// The files of Unix sockets that it made.
    files: Vec<Address>,
}

impl Opened {
    /// Where they listen, as bound.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        let admin = self.admin.iter().map(|(_, socket)| socket.address());
        self.listeners.values().filter_map(OpenListener::address).chain(admin)
    }
}

impl Opening {
    /// Takes what was opened.
    pub(super) fn keep(mut self) -> Opened {
        self.files.clear();
        std::mem::take(&mut self.opened)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.files.iter().for_each(remove_file);
    }
}

/// The sockets that `plan` wants for its listeners.
fn wanted(plan: &Plan) -> impl Iterator<Item = SocketKey> {
    plan.listeners.iter().flat_map(|(name, listener)| listener.bind.iter().map(|at| (name.clone(), at.clone())))
}

impl Sockets {
    /// Binds whatever `plan` wants that is not open yet, in `workers` copies.
    pub(super) fn open_missing(&self, plan: &Plan, workers: usize) -> Result<Opening, StartError> {
        let (mut opening, keepalive) = (Opening::default(), plan.daemon.tcp_keepalive);
        opening.opened.shares.resize_with(workers, Vec::new);
        for key in wanted(plan).filter(|key| !self.listeners.contains_key(key)) {
            let failed = |cause| self.cannot_bind(&format!("listener {}", key.0), &key.1, cause);
            let sockets: Vec<BoundSocket> = match self.to_hand_over(&key, plan) {
                Some(open) => open.sockets.iter().map(BoundSocket::share).collect::<Result<_, _>>().map_err(failed)?,
                None => {
                    let bound = bind(&key.1, workers, SocketMode::Everybody, keepalive).map_err(failed)?;
                    opening.files.push(key.1.clone());
                    bound
                }
            };
            for (worker, socket) in opening.opened.shares.iter_mut().zip(&sockets) {
                worker.push((key.clone(), socket.share().map_err(failed)?));
            }
            opening.opened.listeners.insert(key, OpenListener { sockets });
        }
        for address in plan.admin.bind.iter().filter(|address| !self.admin.contains_key(*address)) {
            let bound = bind(address, 1, SocketMode::UserAndGroup, keepalive)
                .map_err(|cause| self.cannot_bind("the admin server", address, cause))?;
            opening.files.push(address.clone());
            opening.opened.admin.extend(bound.into_iter().map(|socket| (address.clone(), socket)));
        }
        Ok(opening)
    }

    /// Says why and what to do about it, and if it is we ourselves who listen there in another way, that.
    fn cannot_bind(&self, what: &str, address: &Address, cause: io::Error) -> StartError {
        let port = |address: &Address| match address {
            Address::Ip(addr) => Some(addr.port()),
            Address::Name { .. } | Address::Unix(_) => None,
        };
        let ours = self.listeners.keys().map(|(_, at)| at).chain(self.admin.keys());
        let clash = ours.into_iter().find(|at| *at == address || (port(at).is_some() && port(at) == port(address)));
        let mend = match clash {
            Some(at) => format!("the running daemon itself listens at {at}: this change needs a restart"),
            None => unbound(address, &cause),
        };
        let cause = format!("{cause}; {mend}");
        StartError::Bind { what: what.to_owned(), address: address.clone(), cause }
    }

    /// The socket at `key`'s address, if another listener has it now and `plan` takes it from that one.
    fn to_hand_over(&self, key: &SocketKey, plan: &Plan) -> Option<&OpenListener> {
        let port_of_its_own = matches!(&key.1, Address::Ip(addr) if addr.port() == 0);
        if port_of_its_own {
            return None;
        }
        let given_up: Vec<SocketKey> = self.to_close(plan);
        let owner = given_up.into_iter().find(|(_, address)| *address == key.1)?;
        self.listeners.get(&owner)
    }

    /// The sockets of listeners that `plan` no longer wants.
    pub(super) fn to_close(&self, plan: &Plan) -> Vec<SocketKey> {
        let kept: Vec<SocketKey> = wanted(plan).collect();
        self.listeners.keys().filter(|key| !kept.contains(key)).cloned().collect()
    }

    /// Drops the handles to `keys`, and the files of Unix sockets that nobody listens at any more.
    pub(super) fn close(&mut self, keys: &[SocketKey]) {
        for key in keys {
            self.listeners.remove(key);
            let still_open = self.listeners.keys().any(|(_, address)| *address == key.1);
            if !still_open {
                remove_file(&key.1);
            }
        }
    }

    /// Ends the admin server's service at addresses that `plan` no longer wants.
    pub(super) fn close_admin(&mut self, plan: &Plan) {
        self.admin.retain(|address, _| {
            let keep = plan.admin.bind.contains(address);
            if !keep {
                remove_file(address);
            }
            keep
        });
    }

    /// Keeps the admin server's end of `stop` for `address`.
    pub(super) fn keep_admin(&mut self, address: Address, bound: Address, stop: watch::Sender<bool>) {
        self.admin.insert(address, OpenAdmin { address: bound, _stop: stop });
    }

    /// Where all of them listen, as bound.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        let admin = self.admin.values().map(|open| &open.address);
        self.listeners.values().filter_map(OpenListener::address).chain(admin)
    }

    /// Where listener `name` listens first, as bound.
    pub(super) fn listener_address(&self, name: &ListenerName) -> Option<Address> {
        let mut of_listener = self.listeners.iter().filter(|((listener, _), _)| listener == name);
        of_listener.find_map(|(_, open)| open.address().cloned())
    }
}

/// A Unix socket's file outlives the socket.
pub(super) fn remove_file(address: &Address) {
    if let Address::Unix(path) = address
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::debug!(path = %path.display(), %error, "a socket file could not be removed");
    }
}
