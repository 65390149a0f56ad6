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

/// The longest error of a server that is looked at, in bytes. Those before a session is open have a few hundred.
const ERROR_MAX: usize = 8 * 1024;

/// Why a server lets a client in no further than to its first words. Nothing was done for that client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// It starts, stops or recovers: 57P03, or 57P01 for one that it had begun to let in.
    Down,
    /// It has as many sessions as it may: 53300.
    Full,
}

/// What the first bytes of a server tell of whether it takes sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstAnswer {
    /// An error: it lets nobody in now.
    NotNow(NotNow),
    /// What may be an error, of which the rest is still to come.
    Begun,
    /// Anything else.
    Other,
}

/// Reads the beginning of a server's answer to a `StartupMessage`. Where nothing proves who the client is (`trust`), that it may
/// come in is said in the same breath before an error.
#[must_use]
pub fn first_answer(answer: &[u8]) -> FirstAnswer {
    if !answer.is_empty() && AUTHENTICATION_OK.starts_with(answer) {
        return FirstAnswer::Begun;
    }
    let answer = answer.strip_prefix(AUTHENTICATION_OK).unwrap_or(answer);
    let Some((b'E', rest)) = answer.split_first() else { return FirstAnswer::Other };
    let Some((&length, fields)) = rest.split_first_chunk() else { return FirstAnswer::Begun };
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    // Text of servers that cannot fork, or of something else, is a length of many megabytes.
    let Some(length) = length.checked_sub(4).filter(|&length| length <= ERROR_MAX) else { return FirstAnswer::Other };
    let Some(fields) = fields.get(..length) else { return FirstAnswer::Begun };
    match fields.split(|&byte| byte == 0).find_map(|field| field.strip_prefix(b"C")) {
        Some(b"57P03" | b"57P01") => FirstAnswer::NotNow(NotNow::Down),
        Some(b"53300") => FirstAnswer::NotNow(NotNow::Full),
        Some(_) | None => FirstAnswer::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        ERROR_MAX, FirstAnswer, FirstPacket, NotAFirstPacket, NotNow, STARTUP_MAX, cancel_request, cannot_connect_now,
        first_answer, parse_first_packet,
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
    fn an_error_is_known_when_all_of_it_is_there() {
        let error = cannot_connect_now("the database system is shutting down", "");
        for end in 0..error.len() {
            let due = if end == 0 { FirstAnswer::Other } else { FirstAnswer::Begun };
            assert_eq!(first_answer(&error[..end]), due, "{end} bytes");
        }
        assert_eq!(first_answer(&error), FirstAnswer::NotNow(NotNow::Down));
        assert_eq!(first_answer(&[&error[..], b"and more"].concat()), FirstAnswer::NotNow(NotNow::Down));
        let other = [&b"E\0\0\0\x1aSFATAL\0C28000\0MC57P03"[..], b"\0\0\0"].concat();
        assert_eq!(first_answer(&other), FirstAnswer::Other, "words are no code");
        for never in [&b"Ecould not fork new process"[..], b"E\0\0\0\x03", b"R\0\0\0\x0c", b"N", b"S", b"HTTP"] {
            assert_eq!(first_answer(never), FirstAnswer::Other, "{never:?}");
        }
        let long = |length: usize| [&b"E"[..], &u32::try_from(4 + length).unwrap().to_be_bytes()].concat();
        assert_eq!(first_answer(&long(ERROR_MAX)), FirstAnswer::Begun);
        assert_eq!(first_answer(&long(ERROR_MAX + 1)), FirstAnswer::Other, "too much to wait for");
    }

    #[test]
    fn a_server_that_lets_nobody_in_now_says_why() {
        let stopping = cannot_connect_now("the database system is shutting down", "");
        let with = |code: &str| String::from_utf8(stopping.clone()).unwrap().replace("57P03", code).into_bytes();
        assert_eq!(first_answer(&with("57P01")), FirstAnswer::NotNow(NotNow::Down));
        assert_eq!(first_answer(&with("53300")), FirstAnswer::NotNow(NotNow::Full));
        let let_in = [&b"R\0\0\0\x08\0\0\0\0"[..], &with("53300")].concat();
        assert_eq!(first_answer(&let_in), FirstAnswer::NotNow(NotNow::Full));
        for end in 1..let_in.len() {
            assert_eq!(first_answer(&let_in[..end]), FirstAnswer::Begun, "{end} bytes");
        }
        let asks = [&b"R\0\0\0\x08\0\0\0\x03"[..], &stopping].concat();
        for other in [with("28P01"), asks] {
            assert_eq!(first_answer(&other), FirstAnswer::Other, "{other:?}");
        }
        let quoted = cannot_connect_now("C53300", "");
        assert_eq!(first_answer(&quoted), FirstAnswer::NotNow(NotNow::Down), "the code and not the words");
    }

    proptest! {
        #[test]
        fn an_answer_is_waited_for_to_an_end(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            length in prop_oneof![0..80_u32, any::<u32>()],
            fields in prop::collection::vec(prop_oneof![Just(b"C57P03\0".to_vec()), Just(b"C28000\0".to_vec()), Just(vec![0])], 0..8),
        ) {
            for bytes in [bytes.clone(), [&b"E"[..], &length.to_be_bytes(), &fields.concat(), &bytes].concat()] {
                let whole = first_answer(&bytes);
                for end in 1..bytes.len() {
                    let part = first_answer(&bytes[..end]);
                    prop_assert!(part == FirstAnswer::Begun || part == whole, "{part:?} of {whole:?}");
                }
                prop_assert!(whole != FirstAnswer::Begun || bytes.len() < 5 + ERROR_MAX);
            }
        }

        #[test]
        fn an_error_has_its_length_whatever_it_says(message: String, hint: String) {
            let error = cannot_connect_now(&message, &hint);
            let length = u32::from_be_bytes(*error[1..].first_chunk().unwrap());
            prop_assert_eq!(usize::try_from(length).unwrap(), error.len() - 1);
            prop_assert!(error.len() > ERROR_MAX || first_answer(&error) == FirstAnswer::NotNow(NotNow::Down));
        }

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
