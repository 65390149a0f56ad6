//! The header of the PROXY protocol, versions 1 and 2 (its specification: "The PROXY protocol", HAProxy):
//! who the client is and where it connected to, said by a proxy before the client's first byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::ProxyProtocol;

/// The most bytes that a header may have: what stands behind the addresses of version 2 (authority, TLS, identifiers)
/// is small, and nobody may make us read for long.
pub const PROXY_HEADER_MAX: usize = 4096;

/// The most bytes of a version 1 line, with its end.
const V1_MAX: usize = 107;
const V1_START: &[u8] = b"PROXY ";

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const V2_FIXED: usize = 16;
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
/// No addresses; a stream over IPv4, IPv6, and between Unix sockets.
const V2_UNSPECIFIED: u8 = 0x00;
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;
const V2_UNIX: u8 = 0x31;
/// Two addresses and two ports; two paths.
const V2_TCP4_BYTES: usize = 12;
const V2_TCP6_BYTES: usize = 36;
const V2_UNIX_BYTES: usize = 216;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// A client over IP, and where it connected to.
    Client {
        /// The client's address.
        source: SocketAddr,
        /// The address that it connected to.
        destination: SocketAddr,
    },
    /// Nothing (`UNKNOWN`, `LOCAL`, a client on a Unix socket): the connection's own peer stands.
    Nothing,
}

/// Why bytes are no header, nor the beginning of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no PROXY header: {0}")]
pub struct NotAHeader(&'static str);

/// Reads the header at the beginning of `bytes`: what it says, and its length in bytes. None: more bytes are wanted.
///
/// # Errors
///
/// [`NotAHeader`] as soon as no further byte could make one of them, or one too long.
pub fn parse_proxy_header(bytes: &[u8]) -> Result<Option<(Announced, usize)>, NotAHeader> {
    if begins_alike(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else if begins_alike(bytes, V1_START) {
        parse_v1(bytes)
    } else {
        Err(NotAHeader("it begins with something else"))
    }
}

/// Whether one is the other's beginning.
fn begins_alike(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(a, b)| a == b)
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(Announced, usize)>, NotAHeader> {
    let window = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() < V1_MAX { Ok(None) } else { Err(NotAHeader("the line is too long")) };
    };
    let line = window.get(V1_START.len()..end).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| NotAHeader("the line is not text"))?;
    let mut words = line.split(' ');
    let says = match words.next() {
        Some("UNKNOWN") => Some(Announced::Nothing),
        Some("TCP4") => addresses::<Ipv4Addr>(words),
        Some("TCP6") => addresses::<Ipv6Addr>(words),
        Some(_) | None => return Err(NotAHeader("the family is none of TCP4, TCP6 and UNKNOWN")),
    };
    says.map(|says| Some((says, end + 2))).ok_or(NotAHeader("the line is not two addresses and two ports"))
}

/// Two addresses and two ports, and nothing behind them.
fn addresses<'a, Ip: std::str::FromStr + Into<IpAddr>>(mut words: impl Iterator<Item = &'a str>) -> Option<Announced> {
    let source = words.next()?.parse::<Ip>().ok()?.into();
    let destination = words.next()?.parse::<Ip>().ok()?.into();
    let (from, to) = (port(words.next()?)?, port(words.next()?)?);
    let rest = words.next();
    rest.is_none().then(|| Announced::Client {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    })
}

/// A port as the specification writes it: digits, without zeros before them.
fn port(word: &str) -> Option<u16> {
    let is_plain = word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| is_plain)
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(Announced, usize)>, NotAHeader> {
    // Told apart as early as possible: a wrong byte need not be waited for to its end.
    if bytes.get(12).is_some_and(|&byte| byte != V2_LOCAL && byte != V2_PROXY) {
        return Err(NotAHeader("neither version 2 nor one of its commands"));
    }
    let Some(&[.., command, family, high, low]) = bytes.get(..V2_FIXED) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if V2_FIXED + length > PROXY_HEADER_MAX {
        return Err(NotAHeader("it is too long"));
    }
    let wanted = match (command, family) {
        // Whatever stands in it is to be passed over.
        (V2_LOCAL, _) | (_, V2_UNSPECIFIED) => 0,
        (_, V2_TCP4) => V2_TCP4_BYTES,
        (_, V2_TCP6) => V2_TCP6_BYTES,
        (_, V2_UNIX) => V2_UNIX_BYTES,
        _ => return Err(NotAHeader("the family is none of a stream's")),
    };
    if length < wanted {
        return Err(NotAHeader("it is too short for its addresses"));
    }
    let Some(body) = bytes.get(V2_FIXED..V2_FIXED + length) else { return Ok(None) };
    let says = match wanted {
        V2_TCP4_BYTES => v2_addresses::<4>(body),
        V2_TCP6_BYTES => v2_addresses::<16>(body),
        _ => Some(Announced::Nothing),
    };
    says.map(|says| Some((says, V2_FIXED + length))).ok_or(NotAHeader("it is too short for its addresses"))
}

fn v2_addresses<const N: usize>(body: &[u8]) -> Option<Announced>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let &[a, b, c, d, ..] = rest else { return None };
    Some(Announced::Client {
        source: SocketAddr::new((*source).into(), u16::from_be_bytes([a, b])),
        destination: SocketAddr::new((*destination).into(), u16::from_be_bytes([c, d])),
    })
}

/// The header for a client at `source` that connected to `destination`; without those, for a client on a Unix
/// socket (`UNKNOWN`, or `PROXY` without addresses). Empty if none is to be sent.
#[must_use]
pub fn proxy_header(version: ProxyProtocol, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let ends = ends.map(|(source, destination)| one_family(source, destination));
    match (version, ends) {
        (ProxyProtocol::None, _) => Vec::new(),
        (ProxyProtocol::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyProtocol::V1, Some((source, destination))) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.port(), destination.port());
            format!("PROXY {family} {} {} {from} {to}\r\n", source.ip(), destination.ip()).into_bytes()
        }
        (ProxyProtocol::V2, None) => v2(V2_PROXY, V2_UNSPECIFIED, &[]),
        (ProxyProtocol::V2, Some((source, destination))) => {
            let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
            match (source.ip(), destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    v2(V2_PROXY, V2_TCP4, &[&source.octets()[..], &destination.octets(), &ports].concat())
                }
                (source, destination) => {
                    let (source, destination) = (mapped(source), mapped(destination));
                    v2(V2_PROXY, V2_TCP6, &[&source.octets()[..], &destination.octets(), &ports].concat())
                }
            }
        }
    }
}

/// The header of a connection that is the proxy's own and no client's: a health check. Empty if none is to
/// be sent.
#[must_use]
pub fn own_proxy_header(version: ProxyProtocol) -> Vec<u8> {
    match version {
        ProxyProtocol::None | ProxyProtocol::V1 => proxy_header(version, None),
        ProxyProtocol::V2 => v2(V2_LOCAL, V2_UNSPECIFIED, &[]),
    }
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    // At most two IPv6 addresses and their ports.
    let length = u16::try_from(body.len()).unwrap_or(0);
    [V2_SIGNATURE, &[command, family], &length.to_be_bytes(), body].concat()
}

/// Both in one family, IPv4 if both can be.
fn one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let (from, to) = if from.is_ipv4() && to.is_ipv4() { (from, to) } else { (mapped(from).into(), mapped(to).into()) };
    (SocketAddr::new(from, source.port()), SocketAddr::new(to, destination.port()))
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Announced, PROXY_HEADER_MAX, own_proxy_header, parse_proxy_header, proxy_header, v2};
    use crate::model::ProxyProtocol::{self, None as Plain, V1, V2};
    use proptest::prelude::*;
    use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader};
    use std::net::SocketAddr;

    fn client(source: &str, destination: &str) -> Announced {
        Announced::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    /// A version 2 header with whatever stands in it.
    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        v2(command, family, body)
    }

    const ADDRESSES: [u8; 12] = [10, 0, 0, 1, 10, 0, 0, 2, 0xc0, 0, 0x15, 0x38];

    #[test]
    fn what_proxies_send_is_understood() {
        let four = client("10.0.0.1:49152", "10.0.0.2:5432");
        for (bytes, says) in [
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 49152 5432\r\n".to_vec(), four),
            (b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n".to_vec(), client("[2001:db8::1]:0", "[::1]:65535")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Announced::Nothing),
            (b"PROXY UNKNOWN ffff::1 ::1 65535 1\r\n".to_vec(), Announced::Nothing),
            (binary(0x21, 0x11, &ADDRESSES), four),
            (binary(0x21, 0x11, &[&ADDRESSES[..], &[4, 0, 1, 9]].concat()), four),
            (binary(0x20, 0x11, &ADDRESSES), Announced::Nothing),
            (binary(0x20, 0xff, b"anything"), Announced::Nothing),
            (binary(0x21, 0x00, b""), Announced::Nothing),
            (binary(0x21, 0x31, &[b'/'; 216]), Announced::Nothing),
        ] {
            let length = bytes.len();
            let with_more = [&bytes[..], b"and what the client says"].concat();
            assert_eq!(parse_proxy_header(&with_more), Ok(Some((says, length))), "{bytes:?}");
            for end in 0..length {
                assert_eq!(parse_proxy_header(&bytes[..end]), Ok(None), "{:?}", &bytes[..end]);
            }
        }
    }

    #[test]
    fn what_is_no_header_is_told_as_soon_as_it_shows() {
        let long_line = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 93]].concat();
        for bytes in [
            b"G".as_slice(),
            b"PROXYTCP4",
            b"proxy TCP4 ",
            b"\r\n\r\n\0\r\nQUIT\r",
            b"\r\n\r\n\0\r\nQUIT\n\x11",
            b"\r\n\r\n\0\r\nQUIT\n\x22",
            b"PROXY \r\n",
            b"PROXY TCP5 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP4\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n",
            b"PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 10.0.0.1 ::1 1 2\r\n",
            b"PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 10.0.0.256 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 65536 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 -1 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 \xff\r\n",
            &long_line,
            &binary(0x21, 0x12, &ADDRESSES),
            &binary(0x21, 0x41, &ADDRESSES),
            &binary(0x21, 0x11, &ADDRESSES[..11]),
            &binary(0x21, 0x21, &[0; 35]),
            &binary(0x21, 0x31, &[0; 215]),
            &binary(0x20, 0, &[0; PROXY_HEADER_MAX - 15])[..16],
        ] {
            assert!(parse_proxy_header(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(parse_proxy_header(&long_line[..106]), Ok(None), "it could still end");
    }

    #[test]
    fn a_proxys_own_connections_and_unix_clients_are_announced_without_addresses() {
        for version in [V1, V2] {
            for header in [own_proxy_header(version), proxy_header(version, None)] {
                assert_eq!(parse_proxy_header(&header), Ok(Some((Announced::Nothing, header.len()))));
            }
        }
        assert_eq!(own_proxy_header(V2)[12], 0x20, "LOCAL");
        assert_eq!(proxy_header(V2, None)[12], 0x21, "PROXY");
        let ends = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        assert!(own_proxy_header(Plain).is_empty() && proxy_header(Plain, Some(ends)).is_empty());
    }

    #[test]
    fn an_ipv4_address_in_ipv6_is_ipv4_unless_the_other_is_ipv6() {
        let ends = |a: &str, b: &str| Some((a.parse().unwrap(), b.parse().unwrap()));
        for (ends, line) in [
            (ends("[::ffff:10.0.0.1]:1", "10.0.0.2:2"), "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"),
            (ends("[2001:db8::1]:1", "10.0.0.2:2"), "PROXY TCP6 2001:db8::1 ::ffff:10.0.0.2 1 2\r\n"),
        ] {
            assert_eq!(proxy_header(V1, ends), line.as_bytes());
        }
    }

    fn socket_addr() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| (ip, port).into()),
            (any::<[u8; 16]>(), any::<u16>()).prop_map(|(ip, port)| (ip, port).into()),
        ]
    }

    fn same_family() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let four = (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((ip, port)));
        // A first octet that makes it an IPv6 address and none that holds an IPv4 address.
        let six = (any::<[u8; 15]>(), any::<u16>()).prop_map(|(rest, port)| {
            let mut ip = [0x20; 16];
            ip[1..].copy_from_slice(&rest);
            SocketAddr::from((ip, port))
        });
        prop_oneof![(four.clone(), four), (six.clone(), six)]
    }

    fn version() -> impl Strategy<Value = ProxyProtocol> {
        prop_oneof![Just(V1), Just(V2)]
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(source in socket_addr(), destination in socket_addr(), version in version()) {
            let header = proxy_header(version, Some((source, destination)));
            let Ok(Some((Announced::Client { source: from, destination: to }, length))) = parse_proxy_header(&header)
            else { panic!("{header:?}") };
            prop_assert_eq!(length, header.len());
            prop_assert_eq!((from.ip().to_canonical(), from.port()), (source.ip().to_canonical(), source.port()));
            prop_assert_eq!((to.ip().to_canonical(), to.port()), (destination.ip().to_canonical(), destination.port()));
        }

        #[test]
        fn no_bytes_make_it_panic(start in 0..3_usize, noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let start: &[u8] = [b"".as_slice(), b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n\x21"][start];
            let bytes = [start, &noise].concat();
            if let Ok(Some((_, length))) = parse_proxy_header(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }

        #[test]
        fn another_implementation_reads_what_is_written((source, destination) in same_family(), version in version()) {
            let header = proxy_header(version, Some((source, destination)));
            let (read, length) = ProxyHeader::parse(&header, ParseConfig::default()).unwrap();
            prop_assert_eq!(length, header.len());
            prop_assert_eq!(read.proxied_address(), Some(&ProxiedAddress::stream(source, destination)));
        }

        #[test]
        fn what_another_implementation_writes_is_read((source, destination) in same_family(), version in version()) {
            let mut header = Vec::new();
            let other = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
            if version == V1 { other.encode_v1(&mut header).unwrap() } else { other.encode_v2(&mut header).unwrap() };
            let says = Announced::Client { source, destination };
            prop_assert_eq!(parse_proxy_header(&header), Ok(Some((says, header.len()))));
            prop_assert_eq!(proxy_header(version, Some((source, destination))), header);
        }
    }
}
