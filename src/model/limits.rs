//! Who may connect to a listener, how many at once and how fast; and how backends are approached.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Via;

labelled! {
    /// Which header of the PROXY protocol goes before a client's bytes.
    ProxyProtocol {
        /// None.
        None = "none",
        /// Version 1, a line of text.
        V1 = "v1",
        /// Version 2, binary.
        V2 = "v2",
    }
}

/// Who may connect to a listener, how many at once and how fast.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitsPlan {
    /// Clients at once; 0 is no limit.
    pub max_connections: usize,
    /// Of one client; 0 is no limit.
    pub max_connections_per_client: usize,
    /// How fast one client may come, if that is limited.
    pub rate: Option<Rate>,
    /// Only clients in these may connect; empty is all.
    pub allow: Networks,
    /// Clients in these may not, also if they are allowed.
    pub deny: Networks,
    /// Each connection begins with a header of the PROXY protocol, which says who the client is.
    pub accept_proxy_protocol: bool,
    /// Only peers in these may send such a header; empty is all.
    pub proxy_protocol_from: Networks,
}

impl LimitsPlan {
    /// Whether a client at `address` may connect. One without, on a Unix socket, may.
    #[must_use]
    pub fn admits(&self, address: Option<IpAddr>) -> bool {
        address.is_none_or(|ip| !self.deny.contains(ip) && (self.allow.is_empty() || self.allow.contains(ip)))
    }

    /// Whether a peer at `address` may say on whose behalf it comes. One without, on a Unix socket, may.
    #[must_use]
    pub fn believes(&self, address: Option<IpAddr>) -> bool {
        let from = &self.proxy_protocol_from;
        address.is_none_or(|ip| from.is_empty() || from.contains(ip))
    }

    /// Whether anything depends on who the client is, so that clients must be told apart.
    #[must_use]
    pub const fn counts_clients(&self) -> bool {
        self.max_connections_per_client > 0 || self.rate.is_some()
    }
}

/// So many connections in so much time. A burst of one second's worth, and of at least one, may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; at least one.
    pub count: u32,
    /// In this time.
    pub per: Duration,
}

impl Rate {
    /// From one to the next.
    #[must_use]
    pub fn gap(self) -> Duration {
        self.per / self.count.max(1)
    }

    /// How many may come at once.
    #[must_use]
    pub fn burst(self) -> u32 {
        let seconds = u32::try_from(self.per.as_secs()).unwrap_or(u32::MAX).max(1);
        (self.count / seconds).max(1)
    }
}

/// Networks and single addresses. An IPv4 address in IPv6 is that IPv4 address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// These networks.
    #[must_use]
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `ip` is in one of them.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }
}

impl std::fmt::Display for Networks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, network) in self.0.iter().enumerate() {
            write!(f, "{}{network}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// How a backend is approached, by clients' dials and by probes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Approach {
    /// The local address to dial from; none leaves it to the kernel.
    pub source_address: Option<IpAddr>,
    /// The header that is sent first.
    pub send_proxy_protocol: ProxyProtocol,
    /// The tunnel that it is behind, if it is behind one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Arc<Via>>,
}

impl Approach {
    /// From any address, without a header.
    pub const PLAIN: Self = Self { source_address: None, send_proxy_protocol: ProxyProtocol::None, via: None };
}

#[cfg(test)]
mod tests {
    use super::{LimitsPlan, Networks, Rate};
    use std::net::IpAddr;
    use std::time::Duration;

    fn networks(list: &[&str]) -> Networks {
        Networks::new(list.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn deny_wins_and_an_empty_allow_is_all() {
        let limits = LimitsPlan {
            allow: networks(&["10.0.0.0/8", "2001:db8::/32"]),
            deny: networks(&["10.1.0.0/16", "192.0.2.7/32"]),
            ..LimitsPlan::default()
        };
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for (address, allowed, by_default) in [
            ("10.0.0.1", true, true),
            ("10.1.2.3", false, false),
            ("::ffff:10.0.0.1", true, true),
            ("::ffff:10.1.0.1", false, false),
            ("192.0.2.7", false, false),
            ("192.0.2.8", false, true),
            ("2001:db8::1", true, true),
            ("2001:db9::1", false, true),
        ] {
            assert_eq!(limits.admits(ip(address)), allowed, "{address}");
            let denies_only = LimitsPlan { allow: Networks::default(), ..limits.clone() };
            assert_eq!(denies_only.admits(ip(address)), by_default, "{address}");
        }
        assert!(limits.admits(None), "a Unix socket has no address");
    }

    #[test]
    fn a_burst_is_one_seconds_worth_and_at_least_one() {
        for (count, seconds, burst) in [(100, 1, 100), (1, 1, 1), (30, 60, 1), (600, 60, 10)] {
            assert_eq!(Rate { count, per: Duration::from_secs(seconds) }.burst(), burst);
        }
    }
}
