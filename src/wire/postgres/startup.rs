//! What a PostgreSQL client sends first, and the error that turns it away.
//!
//! Up to two requests for encryption, each of which the server may answer with `N` for no, come before the
//! `StartupMessage` (PostgreSQL's protocol, message formats; sent by libpq, 12 and later). None of these packets has a
//! type byte: their length, which counts itself, then a code.

use crate::model::CancelKey;

/// The longest packet that a server takes before a session is open (`MAX_STARTUP_PACKET_LENGTH`).
pub const STARTUP_MAX: usize = 10_000;

/// The bytes of the length and of the code.
const HEADER: usize = 8;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_ENC_REQUEST: u32 = 80_877_104;

/// `AuthenticationOk`.
const AUTHENTICATION_OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";

/// The type of a TLS record with a handshake (RFC 8446, 5.1). As the first byte of a length it would be beyond any.
const TLS_HANDSHAKE: u8 = 0x16;

/// A packet that comes before a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket {
    /// `SSLRequest` or `GSSENCRequest`: whether the server can encrypt, which it answers with one byte.
    Encryption,
    /// `CancelRequest`: it wants no session, and has the key of another.
    Cancel(CancelKey),
    /// `StartupMessage`, of whatever version: the server says which it knows.
    Startup,
    /// TLS without asking (`sslnegotiation=direct`).
    DirectTls,
}

impl FirstPacket {
    /// Whether what follows may be encrypted, so that a session cannot be told from a request to cancel one.
    #[must_use]
    pub const fn is_opaque(&self) -> bool {
        matches!(self, Self::Encryption | Self::DirectTls)
    }
}

/// It is none of them: no client of PostgreSQL sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAFirstPacket;

/// The packet at the beginning of `bytes` and its length (of TLS one byte); none while it is not whole.
///
/// # Errors
///
/// [`NotAFirstPacket`], as soon as that is clear.
pub fn parse_first_packet(bytes: &[u8]) -> Result<Option<(FirstPacket, usize)>, NotAFirstPacket> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Some((FirstPacket::DirectTls, 1)));
    }
    let Some((&length, rest)) = bytes.split_first_chunk() else {
        // The upper bytes of every length are small.
        let beyond = bytes.iter().zip([0, 0, 0x27]).any(|(&byte, most)| byte > most);
        return if beyond { Err(NotAFirstPacket) } else { Ok(None) };
    };
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| NotAFirstPacket)?;
    if !(HEADER..=STARTUP_MAX).contains(&length) {
        return Err(NotAFirstPacket);
    }
    let Some((&code, _)) = rest.split_first_chunk() else { return Ok(None) };
    let code = u32::from_be_bytes(code);
    let body = length - HEADER;
    let is_possible = match code {
        SSL_REQUEST | GSS_ENC_REQUEST => body == 0,
        CANCEL_REQUEST => body <= CancelKey::BYTES_MAX,
        _ => true,
    };
    if !is_possible {
        return Err(NotAFirstPacket);
    }
    let Some(body) = bytes.get(HEADER..length) else { return Ok(None) };
    let packet = match code {
        SSL_REQUEST | GSS_ENC_REQUEST => FirstPacket::Encryption,
        CANCEL_REQUEST => FirstPacket::Cancel(CancelKey::parse(body).ok_or(NotAFirstPacket)?),
        _ => FirstPacket::Startup,
    };
    Ok(Some((packet, length)))
}

/// The `CancelRequest` with `key`.
#[must_use]
pub fn cancel_request(key: &CancelKey) -> Vec<u8> {
    let key = key.expose();
    let length = u32::try_from(HEADER + key.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &CANCEL_REQUEST.to_be_bytes(), &key].concat()
}

/// The `ErrorResponse` FATAL 57P03, `cannot_connect_now`: the only one after which libpq goes on to its next host, and
/// `pg_isready` says that connections are rejected. Zero bytes, which end a field, are left out.
#[must_use]
pub fn cannot_connect_now(message: &str, hint: &str) -> Vec<u8> {
    let fields = [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "57P03"), (b'M', message), (b'H', hint)];
    let mut packet = vec![b'E', 0, 0, 0, 0];
    for (field, text) in fields {
        packet.push(field);
        packet.extend(text.bytes().filter(|&byte| byte != 0));
        packet.push(0);
    }
    packet.push(0);
    let length = u32::try_from(packet.len() - 1).unwrap_or(u32::MAX);
    if let Some(at) = packet.get_mut(1..5) {
        at.copy_from_slice(&length.to_be_bytes());
    }
    packet
}

/// Why a server lets a client in no further than to its first words. Nothing was done for that client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// It starts, stops or recovers: 57P03, or 57P01 for one that it had begun to let in.
    Down,
    /// It has as many sessions as it may: 53300.
    Full,
}

impl NotNow {
    /// Why, if `answer`, the server's first words to a `StartupMessage`, is an `ErrorResponse` that says so, all of which is
    /// there. Where nothing proves who the client is (`trust`), that it may come in is said in the same breath before it.
    #[must_use]
    pub fn of(answer: &[u8]) -> Option<Self> {
        let answer = answer.strip_prefix(AUTHENTICATION_OK).unwrap_or(answer);
        let [b'E', a, b, c, d, ..] = *answer else { return None };
        let end = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX).saturating_add(1);
        let code = answer.get(5..end)?.split(|&byte| byte == 0).find_map(|field| field.strip_prefix(b"C"))?;
        match code {
            b"57P03" | b"57P01" => Some(Self::Down),
            b"53300" => Some(Self::Full),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        FirstPacket, NotAFirstPacket, NotNow, STARTUP_MAX, cancel_request, cannot_connect_now, parse_first_packet,
    };
    use crate::model::CancelKey;
    use proptest::prelude::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(8 + body.len()).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
    }

    fn key(secret: usize) -> Vec<u8> {
        [&[0, 0, 1, 2][..], &vec![9; secret]].concat()
    }

    #[test]
    fn each_packet_is_known_by_its_code_and_its_length() {
        let whole = |bytes: &[u8]| parse_first_packet(bytes);
        for code in [80_877_103, 80_877_104] {
            assert_eq!(whole(&packet(code, b"")), Ok(Some((FirstPacket::Encryption, 8))));
            assert_eq!(whole(&packet(code, b"x")), Err(NotAFirstPacket));
        }
        for version in [3 << 16, (3 << 16) | 2, 4 << 16] {
            let startup = packet(version, b"user\0app\0\0");
            assert_eq!(whole(&startup), Ok(Some((FirstPacket::Startup, startup.len()))));
        }
        for secret in [4, 32, 256] {
            let parsed = CancelKey::parse(&key(secret)).unwrap();
            let request = packet(80_877_102, &key(secret));
            assert_eq!(cancel_request(&parsed), request);
            assert_eq!(whole(&request), Ok(Some((FirstPacket::Cancel(parsed), 12 + secret))));
        }
        for secret in [0, 3, 257] {
            assert_eq!(whole(&packet(80_877_102, &key(secret))), Err(NotAFirstPacket));
        }
        assert_eq!(whole(b"\x16"), Ok(Some((FirstPacket::DirectTls, 1))));
        let longest = packet(3 << 16, &vec![b'a'; STARTUP_MAX - 8]);
        assert_eq!(whole(&longest), Ok(Some((FirstPacket::Startup, STARTUP_MAX))));
        assert_eq!(whole(&packet(3 << 16, &vec![b'a'; STARTUP_MAX - 7])), Err(NotAFirstPacket));
    }

    #[test]
    fn what_is_no_packet_is_told_at_once() {
        for garbage in [&b"GET / HTTP/1.1"[..], b"G", b"\0\xff", b"\0\0\0\x07", b"\0\x01\0\0", b"\xff"] {
            assert_eq!(parse_first_packet(garbage), Err(NotAFirstPacket), "{garbage:?}");
        }
        for begun in [&b""[..], b"\0", b"\0\0\x27", b"\0\0\0\x08", b"\0\0\0\x09\0\x03\0\0"] {
            assert_eq!(parse_first_packet(begun), Ok(None), "{begun:?}");
        }
    }

    #[test]
    fn the_error_has_five_fields_and_its_length() {
        let error = cannot_connect_now("no\0 primary", "wait");
        assert_eq!(error[..5], [b'E', 0, 0, 0, 44]);
        assert_eq!(error[5..], *b"SFATAL\0VFATAL\0C57P03\0Mno primary\0Hwait\0\0");
        assert_eq!(error.len(), 1 + 44);
    }

    #[test]
    fn a_server_that_lets_nobody_in_now_says_why() {
        let stopping = cannot_connect_now("the database system is shutting down", "");
        assert_eq!(NotNow::of(&stopping), Some(NotNow::Down));
        let with = |code: &str| String::from_utf8(stopping.clone()).unwrap().replace("57P03", code).into_bytes();
        assert_eq!(NotNow::of(&with("57P01")), Some(NotNow::Down));
        assert_eq!(NotNow::of(&with("53300")), Some(NotNow::Full));
        let let_in = [&b"R\0\0\0\x08\0\0\0\0"[..], &with("53300")].concat();
        assert_eq!(NotNow::of(&let_in), Some(NotNow::Full));
        let asks = [&b"R\0\0\0\x08\0\0\0\x03"[..], &stopping].concat();
        for other in [with("28P01"), asks, stopping[..stopping.len() - 1].to_vec(), b"N".to_vec(), b"E\0".to_vec()] {
            assert_eq!(NotNow::of(&other), None, "{other:?}");
        }
        let quoted = cannot_connect_now("C53300", "").iter().map(|byte| byte.to_owned()).collect::<Vec<_>>();
        assert_eq!(NotNow::of(&quoted), Some(NotNow::Down), "the code and not the words");
    }

    proptest! {
        #[test]
        fn any_bytes_give_the_same_however_they_are_split(
            code in prop_oneof![80_877_100..80_877_107_u32, (3_u32 << 16)..(3 << 16) + 3, any::<u32>()],
            body in prop::collection::vec(any::<u8>(), 0..300),
            after in prop::collection::vec(any::<u8>(), 0..20),
            garbage in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            for bytes in [[packet(code, &body), after].concat(), garbage] {
                let whole = parse_first_packet(&bytes);
                for end in 0..bytes.len() {
                    let part = parse_first_packet(&bytes[..end]);
                    // A part says nothing yet, or what the whole says.
                    prop_assert!(part == Ok(None) || part == whole, "{part:?} of {whole:?}");
                    if let Ok(Some((_, length))) = part {
                        prop_assert!(length <= end);
                    }
                }
            }
        }
    }
}
