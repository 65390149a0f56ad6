//! Who is asking: what the kernel says of the other end of a connection, and what the caller presents.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header::AUTHORIZATION};

use crate::admin::problem::Problem;
use crate::model::{AccessRole, Actor, PoolName};
use crate::sys::{Stream, own_uid};

use super::Credentials;
use super::tokens::Holder;

/// The longest credential that is looked at, in bytes.
const CREDENTIAL_MAX: usize = 8 * 1024;

/// The bits of an IPv6 address that one who has a network cannot choose.
const NETWORK: u128 = (u64::MAX as u128) << 64;

/// Who is at the other end of a connection, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) enum Peer {
    /// Somebody who can connect over TCP.
    Tcp {
        /// From there.
        remote: Option<SocketAddr>,
        /// Whether it came to an address of loopback, so that it is a process of this host.
        is_loopback: bool,
    },
    /// A process of this host, over a Unix socket.
    Unix {
        /// Its user; none if the kernel does not say, and if it is this very process: what the daemon dials for others, a
        /// backend or a check, must not have its rights.
        uid: Option<u32>,
    },
}

impl Peer {
    pub(in crate::admin) fn of(stream: &Stream) -> Self {
        match stream {
            Stream::Tcp(tcp) => {
                let is_loopback = tcp.local_addr().is_ok_and(|local| local.ip().to_canonical().is_loopback());
                Self::Tcp { remote: tcp.peer_addr().ok(), is_loopback }
            }
            Stream::Unix(_) | Stream::Program(_) => Self::Unix { uid: stream.peer_uid() },
        }
    }

    /// The same without what it has by being of this host.
    pub(super) const fn without_rights(self) -> Self {
        match self {
            Self::Tcp { remote, .. } => Self::Tcp { remote, is_loopback: false },
            Self::Unix { .. } => Self::Unix { uid: None },
        }
    }

    /// Whether it came to an address of loopback or over a Unix socket, where to be connected gives rights.
    pub(in crate::admin) const fn is_of_this_host(&self) -> bool {
        matches!(self, Self::Tcp { is_loopback: true, .. } | Self::Unix { .. })
    }

    /// The IP address, if it has one.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp { remote, .. } => remote.map(|remote| remote.ip().to_canonical()),
            Self::Unix { .. } => None,
        }
    }

    /// The network that one caller may have all of: an IPv4 address, the /64 of an IPv6 one, or loopback, of which any
    /// process of this host may choose the address it comes from.
    pub(in crate::admin) fn network(&self) -> Option<IpAddr> {
        self.ip().map(|ip| match ip {
            _ if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V4(_) => ip,
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & NETWORK).into(),
        })
    }

    /// Where it comes from, without what is new with each connection: `192.0.2.7`, `unix:1000`.
    pub(super) fn host(&self) -> String {
        self.ip().map_or_else(|| self.address(), |ip| ip.to_string())
    }

    /// Where it comes from: `192.0.2.7:4711`, `unix:1000`.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Tcp { remote: Some(remote), .. } => {
                SocketAddr::new(remote.ip().to_canonical(), remote.port()).to_string()
            }
            Self::Tcp { remote: None, .. } => "tcp".to_owned(),
            Self::Unix { uid: Some(uid) } => format!("unix:{uid}"),
            Self::Unix { uid: None } => "unix".to_owned(),
        }
    }
}

/// Who asks, and what it may. Handlers take it; it is there for every request that gets as far as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin) struct Identity {
    /// The name under which it is known what they did: `token:ops`, `jwt:ann`, `uid:0`, `anonymous`.
    pub(in crate::admin) actor: Actor,
    /// Where it comes from.
    pub(in crate::admin) address: Arc<str>,
    /// What it may; none may only what is open to all.
    pub(in crate::admin) role: Option<AccessRole>,
    /// The only pools that it sees and changes; none is all.
    pub(in crate::admin) pools: Option<Arc<[PoolName]>>,
    /// Whether it has proved who it is, so that more of the same would not help.
    pub(super) is_proved: bool,
}

impl Identity {
    /// Whether it may know of something that belongs to `pool`, or to none.
    pub(in crate::admin) fn sees(&self, pool: Option<&PoolName>) -> bool {
        self.pools.as_ref().is_none_or(|pools| pool.is_some_and(|pool| pools.contains(pool)))
    }

    /// The name under which what it holds is counted: its own, or where it comes from if it has none.
    pub(in crate::admin) fn place(&self, peer: &Peer) -> String {
        match peer.network() {
            Some(network) if !self.is_proved => format!("{} at {network}", self.actor),
            _ => self.actor.to_string(),
        }
    }

    fn of_holder(holder: &Holder, peer: &Peer) -> Self {
        Self {
            actor: Actor::from(holder.actor.as_str()),
            address: peer.address().into(),
            role: Some(holder.role),
            pools: holder.pools.clone(),
            is_proved: true,
        }
    }

    /// Somebody who presents nothing.
    pub(super) fn of_peer(peer: &Peer) -> Self {
        let (actor, role, is_proved) = match peer {
            Peer::Tcp { is_loopback, .. } => ("anonymous".to_owned(), is_loopback.then_some(AccessRole::Viewer), false),
            Peer::Unix { uid: Some(uid) } => {
                let is_ours = *uid == 0 || *uid == own_uid();
                (format!("uid:{uid}"), Some(if is_ours { AccessRole::Admin } else { AccessRole::Viewer }), true)
            }
            Peer::Unix { uid: None } => ("anonymous".to_owned(), None, false),
        };
        let actor = Actor::from(actor.as_str());
        Self { actor, address: peer.address().into(), role, pools: None, is_proved }
    }
}

impl<S: Sync> FromRequestParts<S> for Identity {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Whoever let a request through has put it there.
        parts.extensions.get::<Self>().cloned().ok_or(Problem::Internal)
    }
}

/// Who sends a request with `headers` from `peer`.
///
/// # Errors
///
/// Why what is presented is not taken; for the log alone, and without a word of it.
pub(super) fn identify(credentials: &Credentials, peer: &Peer, headers: &HeaderMap) -> Result<Identity, String> {
    let mut presented = headers.get_all(AUTHORIZATION).iter();
    let Some(first) = presented.next() else { return Ok(Identity::of_peer(peer)) };
    if presented.next().is_some() {
        return Err("there are several".to_owned());
    }
    let text = first.to_str().map_err(|_| "it is no text".to_owned())?;
    let (scheme, credential) = text.split_once(' ').ok_or_else(|| "it has no scheme".to_owned())?;
    let credential = credential.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err("its scheme is not Bearer".to_owned());
    }
    if credential.is_empty() || credential.len() > CREDENTIAL_MAX {
        return Err(format!("it has not from 1 to {CREDENTIAL_MAX} bytes"));
    }
    if let Some(holder) = credentials.tokens.holder(credential) {
        return Ok(Identity::of_holder(holder, peer));
    }
    match &credentials.jwt {
        Some(jwt) => jwt.holder(credential).map(|holder| Identity::of_holder(&holder, peer)),
        None => Err("it is nobody's token".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

    use super::{Credentials, Identity, Peer, identify};
    use crate::model::{AccessRole, AdminPlan, PoolName, Secret, TokenPlan};

    const REMOTE: Peer = Peer::Tcp { remote: None, is_loopback: false };
    const LOCAL: Peer = Peer::Tcp { remote: None, is_loopback: true };

    /// One token, `abc`, that owns `orders`.
    fn credentials() -> Credentials {
        let token = TokenPlan {
            name: "ops".into(),
            role: AccessRole::Operator,
            sha256: Secret::new("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            pools: Some([PoolName::from("orders")].into()),
        };
        Credentials::of(&AdminPlan { tokens: vec![token], ..AdminPlan::default() }).unwrap()
    }

    fn presenting(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn who_presents_nothing_is_what_the_kernel_says() {
        let role = |peer: Peer| identify(&credentials(), &peer, &HeaderMap::new()).unwrap().role;
        assert_eq!(role(REMOTE), None);
        assert_eq!(role(LOCAL), Some(AccessRole::Viewer));
        assert_eq!(role(Peer::Unix { uid: Some(0) }), Some(AccessRole::Admin));
        assert_eq!(role(Peer::Unix { uid: Some(crate::sys::own_uid()) }), Some(AccessRole::Admin));
        assert_eq!(role(Peer::Unix { uid: Some(65_534) }), Some(AccessRole::Viewer));
        assert_eq!(role(Peer::Unix { uid: None }), None);
    }

    #[test]
    fn what_is_presented_goes_before_what_the_kernel_says() {
        for peer in [REMOTE, LOCAL, Peer::Unix { uid: Some(0) }] {
            for right in ["Bearer abc", "bearer   abc "] {
                let known = identify(&credentials(), &peer, &presenting(&[right])).unwrap();
                assert_eq!((known.actor.as_str(), known.role), ("token:ops", Some(AccessRole::Operator)), "{right}");
            }
            for wrong in ["Bearer abd", "Basic abc", "abc", "Bearer ", "Bearer", ""] {
                assert!(identify(&credentials(), &peer, &presenting(&[wrong])).is_err(), "{wrong}");
            }
            assert!(identify(&credentials(), &peer, &presenting(&["Bearer abc", "Bearer abc"])).is_err());
            let long = format!("Bearer {}", "x".repeat(9000));
            assert!(identify(&credentials(), &peer, &presenting(&[&long])).is_err());
        }
    }

    #[test]
    fn whoever_proves_nothing_is_counted_by_network() {
        let at = |ip: &str| Peer::Tcp {
            remote: Some((ip.parse::<std::net::IpAddr>().unwrap(), 4711).into()),
            is_loopback: true,
        };
        let place = |ip: &str, headers: &HeaderMap| identify(&credentials(), &at(ip), headers).unwrap().place(&at(ip));
        let nothing = HeaderMap::new();
        assert_eq!(place("192.0.2.7", &nothing), "anonymous at 192.0.2.7");
        assert_eq!(place("::ffff:192.0.2.7", &nothing), "anonymous at 192.0.2.7");
        assert_eq!(place("2001:db8:1:2:3:4:5:6", &nothing), "anonymous at 2001:db8:1:2::");
        for loopback in ["127.0.0.1", "127.9.8.7", "::ffff:127.0.0.2", "::1"] {
            assert_eq!(place(loopback, &nothing), "anonymous at 127.0.0.1", "{loopback} is chosen by whoever comes");
        }
        assert_eq!(place("192.0.2.7", &presenting(&["Bearer abc"])), "token:ops");
        assert_eq!(Identity::of_peer(&Peer::Unix { uid: Some(7) }).place(&Peer::Unix { uid: Some(7) }), "uid:7");
    }

    #[test]
    fn an_owner_sees_its_own_pools_and_nothing_that_belongs_to_none() {
        let owner = identify(&credentials(), &LOCAL, &presenting(&["Bearer abc"])).unwrap();
        let (orders, other) = (PoolName::from("orders"), PoolName::from("other"));
        assert!(owner.sees(Some(&orders)) && !owner.sees(Some(&other)) && !owner.sees(None));
        let anybody = Identity::of_peer(&LOCAL);
        assert!(anybody.sees(Some(&other)) && anybody.sees(None));
    }
}
