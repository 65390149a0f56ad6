//! Floor 3: dials backends, those behind tunnels too. Whoever wants a connection to a backend comes by here.
//!
//! A backend without a tunnel is dialled at its address, and this is no more than [`connect_with`]. One behind a tunnel is dialled
//! at the near end of its way, which is told here when it opens ([`Ways::open`]) and is where a program listens, or a proxy. What
//! the proxy is asked for and answers is `wire`'s. Or a program is started for each connection, and is the connection
//! ([`Ways::open_program`]). A way that is shut leads nowhere: the dial fails at once.
//!
//! Where a way leads that others say ([`Ways::open_found`]), nobody is led while we listen there ourselves: whoever came through it
//! would come to it again. That is told by its address, and so a name that stands for this host is not known for what it is, but for
//! `localhost`. What is written down may be a listener of ours: of another pool, such as one of proxies.
//!
//! What is asked over HTTP of whoever was dialled goes by [`ask_http`].
//!
//! A failure says who is at fault, as far as that can be told. [`ProbeError::is_of_target`] has the table.
//!
//! [`ProbeError::is_of_target`]: crate::model::ProbeError::is_of_target

mod http;
mod program;
mod proxy;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::model::{Address, Approach, Attach, BackendName, DialError, PoolName, Via, spoken};
use crate::sys::{DialOptions, Stream, connect_with, dial_error, graded_error, has_address};

pub use http::ask_http;
pub use program::{PROGRAMS_MAX, Programs, Said, launch};

/// A way is known by its pool and its backend.
type Key = (PoolName, BackendName);

/// Where each way stands now. A clone is the same ways.
#[derive(Debug, Clone)]
pub struct Ways {
    open: Arc<RwLock<BTreeMap<Key, Way>>>,
    /// Where we listen ourselves.
    ours: Arc<RwLock<Vec<Address>>>,
    /// Places for programs, of which each connection has one.
    places: Arc<Semaphore>,
}

/// A way that is open.
#[derive(Debug, Clone)]
enum Way {
    /// Its near end is there.
    At(Address),
    /// The same, as others say.
    Found(Address),
    /// Each connection is a program of its own.
    By(Arc<Programs>),
}

impl Default for Ways {
    /// All of them are shut.
    fn default() -> Self {
        Self { open: Arc::default(), ours: Arc::default(), places: Arc::new(Semaphore::new(PROGRAMS_MAX)) }
    }
}

impl Ways {
    /// The way of `via` is open: its near end is `at`.
    pub fn open(&self, via: &Via, at: Address) {
        self.set(via, Way::At(at));
    }

    /// The way of `via` is open, as others say: its near end is `at`, unless we listen there ourselves.
    pub fn open_found(&self, via: &Via, at: Address) {
        self.set(via, Way::Found(at));
    }

    /// The way of `via` is open: each connection is one of `programs`.
    pub fn open_program(&self, via: &Via, programs: Programs) {
        self.set(via, Way::By(Arc::new(programs)));
    }

    fn set(&self, via: &Via, way: Way) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(key(via), way);
    }

    /// The way of `via` leads nowhere from now on. Connections through it are left alone.
    pub fn shut(&self, via: &Via) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.remove(&key(via));
    }

    /// We listen ourselves at these, and nowhere else, from now on.
    pub fn keep_from(&self, ours: Vec<Address>) {
        *self.ours.write().unwrap_or_else(PoisonError::into_inner) = ours;
    }

    /// Whether who dials `at` comes to ourselves, as far as that address tells.
    #[must_use]
    pub fn lead_back(&self, at: &Address) -> bool {
        let ours = self.ours.read().unwrap_or_else(PoisonError::into_inner);
        ours.iter().any(|bind| at.reaches(bind) || is_taken_in(at, bind))
    }

    /// Connects to the backend at `address` within `limit`, as `approach` says: without a tunnel with [`connect_with`], and
    /// through one from its near end on, whatever the address. Cancel-safe: what was begun is undone.
    ///
    /// # Errors
    ///
    /// What the kernel or a proxy said, that the way is shut, or that the time was up; [`dial_error`] grades it.
    pub async fn dial(&self, address: &Address, limit: Duration, approach: &Approach) -> io::Result<Stream> {
        let options = DialOptions { source: approach.source_address };
        match &approach.via {
            None => connect_with(address, limit, options).await,
            // Boxed: every dial would have room for it.
            Some(via) => {
                let dialled = timeout(limit, Box::pin(self.go(via, limit, options))).await;
                dialled.unwrap_or_else(|_| Err(too_late(limit)))
            }
        }
    }

    async fn go(&self, via: &Via, limit: Duration, options: DialOptions) -> io::Result<Stream> {
        let at = match self.way(via) {
            Some(Way::Found(at)) if self.lead_back(&at) => {
                let detail = format!("its tunnel is down: it leads to {at}, where we listen ourselves");
                return Err(graded_error(DialError::TunnelDown, detail));
            }
            Some(Way::At(at) | Way::Found(at)) => at,
            Some(Way::By(programs)) => return programs.start(&self.places).await,
            None => return Err(graded_error(DialError::TunnelDown, "its tunnel is down")),
        };
        // Nobody reaches loopback from elsewhere.
        let options = if is_loopback(&at) { DialOptions::default() } else { options };
        let near = connect_with(&at, limit, options).await;
        match via.attach {
            Attach::Address => near,
            Attach::Listen | Attach::Stdio => near.map_err(|error| lost(&at, "its tunnel's port", error)),
            Attach::Socks5 => {
                let stream = near.map_err(|error| lost(&at, "its tunnel's proxy", error))?;
                proxy::socks5(stream, &via.target).await
            }
            Attach::HttpConnect => {
                let stream = near.map_err(|error| lost(&at, "its tunnel's proxy", error))?;
                proxy::http_connect(stream, &via.target).await
            }
        }
    }

    fn way(&self, via: &Via) -> Option<Way> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&key(via)).cloned()
    }
}

fn key(via: &Via) -> Key {
    (via.pool.clone(), via.backend.clone())
}

fn is_loopback(address: &Address) -> bool {
    match address {
        Address::Ip(addr) => IpAddr::is_loopback(&addr.ip().to_canonical()),
        Address::Name { .. } => false,
        Address::Unix(_) => true,
    }
}

/// Whether `bind` is all addresses of this host, and `at` one of them.
fn is_taken_in(at: &Address, bind: &Address) -> bool {
    let (Address::Ip(to), Address::Ip(on)) = (at, bind) else { return false };
    let ip = to.ip().to_canonical();
    to.port() == on.port() && on.ip().is_unspecified() && ip.is_ipv4() == on.is_ipv4() && has_address(ip)
}

fn too_late(limit: Duration) -> io::Error {
    let detail = format!("no answer through its tunnel within {}", spoken(limit));
    io::Error::new(io::ErrorKind::TimedOut, detail)
}

/// That nobody listens at the near end says nothing of the backend.
fn lost(at: &Address, what: &str, error: io::Error) -> io::Error {
    match dial_error(&error) {
        DialError::Refused => graded_error(DialError::TunnelDown, format!("its tunnel is down: {what} {at}: {error}")),
        DialError::TimedOut
        | DialError::Unreachable
        | DialError::Unresolved
        | DialError::SourceAddress
        | DialError::Local
        | DialError::TunnelDown
        | DialError::ProxyRefused
        | DialError::TargetRefused
        | DialError::TargetUnreachable
        | DialError::Other => error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{Part, ProgramPlan, Text};
    use crate::sys::{Spawner, in_time};

    #[tokio::test]
    async fn there_are_so_many_programs_at_once_and_a_place_is_free_when_nothing_is_left_of_one() {
        const PLACES: usize = 2;
        let ways = Ways { places: Arc::new(Semaphore::new(PLACES)), ..Ways::default() };
        let target: Address = "db.internal:1".parse().unwrap();
        let via =
            Arc::new(Via { pool: "p".into(), backend: "b".into(), attach: Attach::Stdio, target: target.clone() });
        let argv = vec![Text(vec![Part::Shown("cat".into())])];
        let program = Arc::new(ProgramPlan { argv, env: Vec::new(), file: None });
        let (spawner, said) = (Spawner::start().unwrap(), Arc::new(|_: &str| {}));
        let limit = Duration::from_secs(60);
        ways.open_program(&via, Programs { spawner, program, mark: "m".to_owned(), stop_grace: limit, said });
        let approach = Approach { via: Some(via), ..Approach::PLAIN };
        let mut streams = Vec::new();
        for _ in 0..PLACES {
            streams.push(in_time(ways.dial(&target, limit, &approach)).await.unwrap());
        }
        let error = in_time(ways.dial(&target, limit, &approach)).await.unwrap_err();
        assert_eq!(dial_error(&error), DialError::Local);
        assert_eq!(error.to_string(), "512 programs of tunnels are connections already, which is the most");
        drop(streams.pop());
        let freed = async {
            while ways.places.available_permits() == 0 {
                tokio::task::yield_now().await;
            }
        };
        in_time(freed).await;
        assert!(in_time(ways.dial(&target, limit, &approach)).await.is_ok());
    }

    #[test]
    fn a_dial_without_a_tunnel_has_room_for_no_tunnel() {
        let (ways, address) = (Ways::default(), Address::Ip(([127, 0, 0, 1], 1).into()));
        let plain = size_of_val(&connect_with(&address, Duration::ZERO, DialOptions::default()));
        let dial = size_of_val(&ways.dial(&address, Duration::ZERO, &Approach::PLAIN));
        assert!(dial <= plain + 128, "{dial} bytes, and {plain} are needed");
    }
}
