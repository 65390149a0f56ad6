//! Addresses on loopback for servers that come and go.
//!
//! Port 0 will not do for them: its ports come from the range of outgoing connections. While a
//! server is dead, one of the thousands of connections around it could be given its port, so that
//! it cannot return, or a probe could even connect to itself and find the dead server alive.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context;

/// Where the kernel keeps the ports of outgoing connections.
const OUTGOING: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The lowest port that is considered.
const LOWEST: u16 = 10_000;
/// How many ports are tried before it gives up.
const ATTEMPTS: usize = 1000;

/// `N` addresses on loopback where nothing listens, outside the range of outgoing connections.
pub(super) fn free<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let outgoing = fs::read_to_string(OUTGOING).ok().and_then(|text| range(&text)).unwrap_or((32_768, 60_999));
    let mut held: Vec<TcpListener> = Vec::with_capacity(N);
    for _ in 0..ATTEMPTS {
        if held.len() == N {
            break;
        }
        let port = fastrand::u16(LOWEST..);
        if !(outgoing.0..=outgoing.1).contains(&port)
            && let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        {
            held.push(listener);
        }
    }
    let found: Vec<SocketAddr> = held.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    found.try_into().ok().with_context(|| format!("no {N} free ports on loopback outside those of {OUTGOING}"))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn addresses_differ_and_are_free() {
        let addresses = super::free::<5>().unwrap();
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 5);
        for address in addresses {
            assert!(address.ip().is_loopback());
            assert!(std::net::TcpStream::connect(address).is_err());
        }
    }

    #[test]
    fn the_kernels_range_is_understood() {
        assert_eq!(super::range("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(super::range("nonsense"), None);
    }
}
