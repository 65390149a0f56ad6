//! SOCKS5 (RFC 1928), as far as a client needs it that asks for a connection and has no password.
//!
//! What a client says is made at once. What a proxy says is read from the first byte on, as often as more of it has come: nothing
//! is kept between two looks, and what stands behind an answer is not touched, since it is the target's.

use std::fmt;
use std::net::SocketAddr;

use crate::model::Address;

const VERSION: u8 = 5;
/// "No authentication", the one method that is offered.
const NO_AUTHENTICATION: u8 = 0;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// The first that a client says: one method, without authentication.
pub const GREETING: [u8; 3] = [VERSION, 1, NO_AUTHENTICATION];

/// The longest answer, in bytes: one with a name of 255 bytes in it.
pub const REPLY_MAX: usize = 4 + 1 + 255 + 2;

/// Why bytes are no answer of a SOCKS5 proxy that can be gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSocks {
    /// It speaks another version, or another protocol.
    #[error("it began with byte {0}, and a SOCKS5 proxy begins with 5")]
    Version(u8),
    /// It takes nobody without authentication.
    #[error("it wants authentication, of which there is none")]
    Authentication,
    /// It has chosen what was not offered.
    #[error("it chose method {0}, which was not offered")]
    Method(u8),
    /// What it names itself by is of no kind of address that there is.
    #[error("it answered with an address of kind {0}, and there are 1, 3 and 4")]
    AddressKind(u8),
}

/// What a proxy answers to a request (RFC 1928, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The connection is there.
    Granted,
    /// Something went wrong.
    GeneralFailure,
    /// Its rules do not allow it.
    NotAllowed,
    /// No way to the network.
    NetworkUnreachable,
    /// No way to the host; with many proxies that its name could not be looked up, too.
    HostUnreachable,
    /// Nobody listens there.
    ConnectionRefused,
    /// A packet went round in circles.
    TtlExpired,
    /// It does not connect for others at all.
    CommandNotSupported,
    /// It cannot go to addresses of this kind.
    AddressNotSupported,
    /// A number that means nothing.
    Unassigned(u8),
}

impl Reply {
    const fn of(code: u8) -> Self {
        match code {
            0 => Self::Granted,
            1 => Self::GeneralFailure,
            2 => Self::NotAllowed,
            3 => Self::NetworkUnreachable,
            4 => Self::HostUnreachable,
            5 => Self::ConnectionRefused,
            6 => Self::TtlExpired,
            7 => Self::CommandNotSupported,
            8 => Self::AddressNotSupported,
            other => Self::Unassigned(other),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Granted => "granted",
            Self::GeneralFailure => "general failure",
            Self::NotAllowed => "not allowed by its rules",
            Self::NetworkUnreachable => "network unreachable",
            Self::HostUnreachable => "host unreachable",
            Self::ConnectionRefused => "connection refused",
            Self::TtlExpired => "TTL expired",
            Self::CommandNotSupported => "command not supported",
            Self::AddressNotSupported => "kind of address not supported",
            Self::Unassigned(code) => return write!(f, "reply {code}"),
        })
    }
}

/// The request to connect to `target`; none if a proxy cannot be asked for that: it is a Unix socket, or a name of more than 255
/// bytes. A name is sent as it is, for the proxy to look up.
#[must_use]
pub fn connect_request(target: &Address) -> Option<Vec<u8>> {
    let mut request = vec![VERSION, CONNECT, 0];
    match target {
        Address::Ip(SocketAddr::V4(addr)) => {
            request.push(IPV4);
            request.extend_from_slice(&addr.ip().octets());
        }
        Address::Ip(SocketAddr::V6(addr)) => {
            request.push(IPV6);
            request.extend_from_slice(&addr.ip().octets());
        }
        Address::Name { host, .. } => {
            request.extend_from_slice(&[NAME, u8::try_from(host.len()).ok()?]);
            request.extend_from_slice(host.as_bytes());
        }
        Address::Unix(_) => return None,
    }
    request.extend_from_slice(&target.port()?.to_be_bytes());
    Some(request)
}

/// The answer to [`GREETING`] that `bytes` begin with: its length, if all of it is there.
///
/// # Errors
///
/// If there is no going on.
pub fn parse_method(bytes: &[u8]) -> Result<Option<usize>, NotSocks> {
    begins(bytes)?;
    match bytes.get(1) {
        None => Ok(None),
        Some(&NO_AUTHENTICATION) => Ok(Some(2)),
        Some(0xff) => Err(NotSocks::Authentication),
        Some(&method) => Err(NotSocks::Method(method)),
    }
}

/// The answer to a request that `bytes` begin with, and its length, if all of it is there.
///
/// # Errors
///
/// If it is none.
pub fn parse_reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, NotSocks> {
    begins(bytes)?;
    let Some(&[code, _reserved, kind]) = bytes.get(1..4) else { return Ok(None) };
    let address = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => match bytes.get(4) {
            Some(&length) => 1 + usize::from(length),
            None => return Ok(None),
        },
        // A proxy that says no may have nothing to name: then it is the whole answer.
        _ if code != 0 => return Ok(Some((Reply::of(code), 4))),
        other => return Err(NotSocks::AddressKind(other)),
    };
    let length = 4 + address + 2;
    Ok((bytes.len() >= length).then_some((Reply::of(code), length)))
}

fn begins(bytes: &[u8]) -> Result<(), NotSocks> {
    match bytes.first() {
        Some(&version) if version != VERSION => Err(NotSocks::Version(version)),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(target: &str) -> Option<Vec<u8>> {
        connect_request(&target.parse().unwrap())
    }

    #[test]
    fn a_target_is_asked_for_as_what_it_is() {
        assert_eq!(request("10.1.2.3:5432").unwrap(), [5, 1, 0, 1, 10, 1, 2, 3, 0x15, 0x38]);
        assert_eq!(request("[2001:db8::1]:1").unwrap()[3..6], [4, 0x20, 1]);
        assert_eq!(request("[2001:db8::1]:1").unwrap().len(), 22);
        assert_eq!(request("db.internal:80").unwrap(), [b"\x05\x01\0\x03\x0bdb.internal\0\x50".as_slice()].concat());
        assert_eq!(request("unix:/run/db"), None);
        let long = Address::Name { host: "x".repeat(256).into(), port: 1 };
        assert_eq!(connect_request(&long), None);
    }

    #[test]
    fn what_a_proxy_answers_is_understood() {
        assert_eq!(parse_method(&[5]), Ok(None));
        assert_eq!(parse_method(&[5, 0, 7]), Ok(Some(2)));
        assert_eq!(parse_method(&[5, 0xff]), Err(NotSocks::Authentication));
        assert_eq!(parse_method(&[5, 2]), Err(NotSocks::Method(2)));
        assert_eq!(parse_method(b"HTTP"), Err(NotSocks::Version(b'H')));
        assert_eq!(parse_reply(b"\x05\0\0\x01\0\0\0\0\0\0and more"), Ok(Some((Reply::Granted, 10))));
        assert_eq!(parse_reply(b"\x05\x05\0\x03\x01a\0\0"), Ok(Some((Reply::ConnectionRefused, 8))));
        assert_eq!(parse_reply(&[5, 4, 0, 4]), Ok(None));
        assert_eq!(parse_reply(&[5, 1, 0, 0]), Ok(Some((Reply::GeneralFailure, 4))));
        assert_eq!(parse_reply(&[5, 0, 0, 0]), Err(NotSocks::AddressKind(0)));
        assert_eq!(parse_reply(&[5, 77, 0, 1, 0, 0, 0, 0, 0, 0]), Ok(Some((Reply::Unassigned(77), 10))));
        assert_eq!(Reply::Unassigned(77).to_string(), "reply 77");
        assert_eq!(Reply::TtlExpired.to_string(), "TTL expired");
    }

    proptest! {
        #[test]
        fn any_bytes_give_the_same_however_they_are_split(
            code in 0..10_u8,
            kind in 0..6_u8,
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [[5, code, 0, kind].as_slice(), &rest].concat();
            let whole = parse_reply(&bytes);
            for end in 0..bytes.len() {
                let part = parse_reply(&bytes[..end]);
                prop_assert!(part == Ok(None) || part == whole, "{:?} and {:?}", part, whole);
                if let Ok(Some((_, length))) = part {
                    prop_assert!(length <= end && length <= REPLY_MAX);
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let whole = (parse_method(&bytes), parse_reply(&bytes));
            for end in 0..bytes.len() {
                let (method, reply) = (parse_method(&bytes[..end]), parse_reply(&bytes[..end]));
                prop_assert!(method == Ok(None) || method == whole.0);
                prop_assert!(reply == Ok(None) || reply == whole.1);
            }
        }
    }
}
