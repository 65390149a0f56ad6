//! Who may connect, how fast, and from where one dials: networks, rates and IP addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;

use crate::model::{LimitsPlan, Networks, Rate};

use super::key::Key;
use super::keys;
use super::read::Reader;
use super::value::{Given, Value};
use super::view::View;

/// The most networks in a list, which is gone through for each client. More is a firewall's work.
const NETWORKS_MAX: usize = 1000;
/// The most connections in a rate.
const RATE_MAX: u32 = 1_000_000;
/// The bits before the IPv4 address in an IPv6 address that holds one.
const MAPPED_BITS: u8 = 96;

/// The limits of a listener.
pub(super) fn limits(reader: &mut Reader<'_>, view: &View<'_>) -> LimitsPlan {
    let limits = LimitsPlan {
        max_connections: reader.get(view, &keys::MAX_CONNECTIONS),
        max_connections_per_client: reader.get(view, &keys::MAX_CONNECTIONS_PER_CLIENT),
        rate: reader.get(view, &keys::CONNECTION_RATE),
        allow: networks(reader, view, &keys::ALLOW),
        deny: networks(reader, view, &keys::DENY),
        accept_proxy_protocol: reader.get(view, &keys::ACCEPT_PROXY_PROTOCOL),
        proxy_protocol_from: networks(reader, view, &keys::PROXY_PROTOCOL_FROM),
    };
    if !limits.accept_proxy_protocol && !limits.proxy_protocol_from.is_empty() {
        let message = format!(
            "`{}` is given, but no header is expected; write {} = true, or leave it out",
            keys::PROXY_PROTOCOL_FROM.name,
            keys::ACCEPT_PROXY_PROTOCOL.name
        );
        reader.faults.wrong(view.place(&keys::PROXY_PROTOCOL_FROM), message);
    }
    limits
}

/// The networks under `key`, none if it is absent.
fn networks(reader: &mut Reader<'_>, view: &View<'_>, key: &Key) -> Networks {
    let list = reader.list(view, key, NETWORKS_MAX, "networks");
    Networks::new(list.iter().filter_map(|item| reader.convert(item, key)).collect())
}

impl Value for IpNet {
    fn blank() -> Self {
        Self::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let text = given.text(key)?;
        let single = text.parse::<IpAddr>().map(|ip| Self::from(ip.to_canonical())).ok();
        let network = single.or_else(|| text.parse().ok().map(canonical)).ok_or_else(|| {
            given.but(key, "is neither a network such as \"10.0.0.0/8\" nor an IP address such as \"192.0.2.7\"")
        })?;
        if network.addr() != network.network() {
            let why = match given.origin {
                Some(_) => "has bits set behind its prefix".to_owned(),
                None => format!("has bits set behind its prefix; write \"{}\"", network.trunc()),
            };
            return Err(given.but(key, &why));
        }
        Ok(network)
    }
}

/// A network of IPv4 addresses in IPv6 as what it is.
fn canonical(network: IpNet) -> IpNet {
    let prefix = network.prefix_len().checked_sub(MAPPED_BITS);
    match (network.addr().to_canonical(), prefix) {
        (IpAddr::V4(ip), Some(prefix)) if matches!(network, IpNet::V6(_)) => {
            IpNet::new(IpAddr::V4(ip), prefix).unwrap_or(network)
        }
        _ => network,
    }
}

impl Value for Option<Rate> {
    fn blank() -> Self {
        None
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let text = given.text(key)?.trim();
        if text == "0" {
            return Ok(None);
        }
        let wrong = |why: &str| given.but(key, why);
        let Some((count, unit)) = text.split_once('/') else {
            return Err(wrong("has no time; write \"100/s\" or \"100/min\", or \"0\" for none"));
        };
        let per = match unit.trim() {
            "s" => Duration::from_secs(1),
            "min" => Duration::from_secs(60),
            _ => return Err(wrong("is no rate; behind the / stands s or min, as in \"100/s\"")),
        };
        let count = count.trim();
        let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
        match count.parse::<u32>().ok().filter(|_| digits) {
            Some(0) => Err(wrong("would let nobody in; write \"0\" for no limit")),
            Some(count) if count <= RATE_MAX => Ok(Some(Rate { count, per })),
            Some(_) | None => {
                Err(wrong("is no rate; before the / stands a whole number from 1 to 1000000, as in \"100/s\""))
            }
        }
    }
}

impl Value for IpAddr {
    fn blank() -> Self {
        Self::V4(Ipv4Addr::UNSPECIFIED)
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let text = given.text(key)?;
        let ip = text.parse::<Self>().map_err(|_| {
            given.but(key, "is no IP address; write one of this machine, without a port, such as \"10.0.0.9\"")
        })?;
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(given.but(key, "is no address of a machine; leave the key out to let the kernel choose"));
        }
        Ok(ip.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::{IpNet, Rate};
    use crate::config::keys;
    use crate::config::value::{Given, Value};
    use std::time::Duration;

    #[test]
    fn a_network_is_what_it_means() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(IpNet::read(&Given::literal(text), &keys::ALLOW), Ok(network.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_rate_has_a_time() {
        let second = Duration::from_secs(1);
        for (text, rate) in [
            ("0", None),
            ("100/s", Some(Rate { count: 100, per: second })),
            (" 5 / min ", Some(Rate { count: 5, per: second * 60 })),
        ] {
            assert_eq!(Option::<Rate>::read(&Given::literal(text), &keys::CONNECTION_RATE), Ok(rate), "{text}");
        }
    }
}
