//! What both sides say until a session is open, followed for the one thing that is of use later: the key with which the
//! client may cancel.
//!
//! It is followed while it can be read. Encryption, an error, anything unexpected or too much of it is the end of that,
//! without a word: the session goes on as it does, and its key is not known.

use crate::model::CancelKey;

use super::startup::{FirstPacket, STARTUP_MAX, parse_first_packet};

/// So many bytes of a server are followed. A real one says less than a kilobyte before it is ready; a notice may be longer.
const FOLLOWED_MAX: usize = 64 * 1024;

/// The bytes of a message's type and length.
const HEADER: usize = 5;

/// What is known after some more bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tapped {
    /// Nothing yet.
    GoOn,
    /// There is nothing more to learn. This is the session's key, if it was seen.
    Over(Option<CancelKey>),
}

/// Follows one session from its `StartupMessage` to its first `ReadyForQuery`.
#[derive(Debug, Default)]
pub struct StartupTap {
    client: ClientSide,
    server: ServerSide,
}

/// What is expected of the client.
#[derive(Debug)]
enum ClientSide {
    /// A packet, of which so much has come.
    Packet(Vec<u8>),
    /// Whatever it takes to log in.
    LogsIn,
}

impl Default for ClientSide {
    fn default() -> Self {
        Self::Packet(Vec::new())
    }
}

/// Where in the server's messages we are.
#[derive(Debug, Default)]
struct ServerSide {
    seen: usize,
    /// The present message's header, as far as it has come.
    header: Vec<u8>,
    /// How much of its body is still to come.
    left: usize,
    /// The body, if it is the key.
    body: Option<Vec<u8>>,
    key: Option<CancelKey>,
}

impl StartupTap {
    /// The client has sent `bytes`.
    pub fn client(&mut self, bytes: &[u8]) -> Tapped {
        let packet = match &mut self.client {
            _ if bytes.is_empty() => return Tapped::GoOn,
            ClientSide::LogsIn => return Tapped::GoOn,
            ClientSide::Packet(packet) => packet,
        };
        if packet.len() + bytes.len() > 2 * STARTUP_MAX {
            return Tapped::Over(None);
        }
        packet.extend_from_slice(bytes);
        match parse_first_packet(packet) {
            Ok(None) => Tapped::GoOn,
            Ok(Some((FirstPacket::Startup, _))) => {
                self.client = ClientSide::LogsIn;
                Tapped::GoOn
            }
            // A server that refused to encrypt was told of the next packet alone: this one encrypts.
            Ok(Some((FirstPacket::Encryption | FirstPacket::Cancel(_) | FirstPacket::DirectTls, _))) | Err(_) => {
                Tapped::Over(None)
            }
        }
    }

    /// The server has sent `bytes`.
    pub fn server(&mut self, bytes: &[u8]) -> Tapped {
        match self.client {
            _ if bytes.is_empty() => Tapped::GoOn,
            ClientSide::LogsIn => self.server.follow(bytes),
            ClientSide::Packet(_) => Tapped::Over(None),
        }
    }
}

impl ServerSide {
    fn follow(&mut self, mut bytes: &[u8]) -> Tapped {
        self.seen += bytes.len();
        while !bytes.is_empty() {
            if self.header.len() < HEADER {
                let (header, rest) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
                self.header.extend_from_slice(header);
                bytes = rest;
                match self.begins() {
                    Some(Tapped::GoOn) => {}
                    Some(over) => return over,
                    None => continue,
                }
            }
            let (body, rest) = bytes.split_at(bytes.len().min(self.left));
            if let Some(key) = &mut self.body {
                key.extend_from_slice(body);
            }
            self.left -= body.len();
            bytes = rest;
            if self.left == 0 {
                if let Some(key) = self.body.take() {
                    self.key = CancelKey::parse(&key);
                }
                self.header.clear();
            }
        }
        if self.seen > FOLLOWED_MAX { Tapped::Over(None) } else { Tapped::GoOn }
    }

    /// A message's header is there, if it is; what it says of the whole.
    fn begins(&mut self) -> Option<Tapped> {
        let &[kind, a, b, c, d] = self.header.as_slice() else { return None };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let body = length.checked_sub(4).filter(|&body| body <= FOLLOWED_MAX);
        let Some(body) = body else { return Some(Tapped::Over(None)) };
        self.left = body;
        Some(match kind {
            b'Z' => Tapped::Over(self.key.take()),
            b'K' if body <= CancelKey::BYTES_MAX => {
                self.body = Some(Vec::new());
                Tapped::GoOn
            }
            // Authentication, ParameterStatus, NoticeResponse, NegotiateProtocolVersion.
            b'R' | b'S' | b'N' | b'v' => Tapped::GoOn,
            _ => Tapped::Over(None),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{FOLLOWED_MAX, StartupTap, Tapped};
    use crate::model::CancelKey;
    use proptest::prelude::*;

    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    const STARTUP: &[u8] = b"\0\0\0\x10\0\x03\0\0user\0a\0\0";
    const CANCEL: &[u8] = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07abcd";

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(4 + body.len()).unwrap();
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    fn opening(key: &[u8]) -> Vec<u8> {
        let messages = [
            message(b'R', &[0, 0, 0, 0]),
            message(b'v', b"\0\x03\0\0\0\0\0\0"),
            message(b'S', b"in_hot_standby\0off\0"),
            message(b'N', b"SWARNING\0\0"),
            message(b'K', key),
            message(b'Z', b"I"),
        ];
        messages.concat()
    }

    fn logged_in() -> StartupTap {
        let mut tap = StartupTap::default();
        assert_eq!(tap.client(STARTUP), Tapped::GoOn);
        tap
    }

    #[test]
    fn a_key_of_either_version_is_learned() {
        for secret in [4, 32, 256] {
            let key = [&[0, 0, 0, 7][..], &vec![3; secret]].concat();
            let mut tap = logged_in();
            assert_eq!(tap.server(&message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0")), Tapped::GoOn);
            assert_eq!(tap.client(b"p\0\0\0\x08abcd"), Tapped::GoOn, "whatever it answers");
            assert_eq!(tap.server(&opening(&key)), Tapped::Over(CancelKey::parse(&key)));
        }
    }

    #[test]
    fn what_cannot_be_followed_is_not() {
        for packet in [&SSL_REQUEST[..], CANCEL] {
            assert_eq!(StartupTap::default().client(packet), Tapped::Over(None), "{packet:?}");
        }
        let mut tap = StartupTap::default();
        assert_eq!([tap.client(&STARTUP[..9]), tap.server(b"E")], [Tapped::GoOn, Tapped::Over(None)]);
        let early = [&SSL_REQUEST[..], b"\x16\x03"].concat();
        assert_eq!(StartupTap::default().client(&early), Tapped::Over(None), "bytes that nobody asked for");
        assert_eq!(StartupTap::default().client(b"\x16\x03\x01"), Tapped::Over(None));
        for answer in [&b"HTTP/1.1 400"[..], b"E\0\0\0\x05\0", b"R\0\0\0\x03", b"S\xff\xff\xff\xff", b"K\0\0\x01\x09"] {
            assert_eq!(logged_in().server(answer), Tapped::Over(None), "{answer:?}");
        }
        assert_eq!(logged_in().server(&opening(b"\0\0\0\x07abc")), Tapped::Over(None), "no such key");
        let mut tap = logged_in();
        let notice = message(b'N', &vec![b'x'; FOLLOWED_MAX / 2]);
        assert_eq!([tap.server(&notice), tap.server(&notice)], [Tapped::GoOn, Tapped::Over(None)], "too much");
    }

    /// What comes of `bytes` in parts of these lengths.
    fn in_parts(mut tap: StartupTap, mut bytes: &[u8], lengths: &[usize]) -> Tapped {
        let mut lengths = lengths.iter().cycle();
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(*lengths.next().unwrap_or(&1)));
            match tap.server(part) {
                Tapped::GoOn => bytes = rest,
                over @ Tapped::Over(_) => return over,
            }
        }
        Tapped::GoOn
    }

    proptest! {
        #[test]
        fn the_key_is_the_same_however_it_is_split(lengths in prop::collection::vec(1..40_usize, 1..20)) {
            let key = b"\0\0\0\x07abcd";
            prop_assert_eq!(in_parts(logged_in(), &opening(key), &lengths), Tapped::Over(CancelKey::parse(key)));
        }

        #[test]
        fn no_bytes_make_it_panic(
            said in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            flips in prop::collection::vec((0..100_usize, any::<u8>()), 0..4),
            lengths in prop::collection::vec(1..40_usize, 1..20),
        ) {
            let mut tap = StartupTap::default();
            for (is_client, bytes) in said {
                let tapped = if is_client { tap.client(&bytes) } else { tap.server(&bytes) };
                if tapped != Tapped::GoOn {
                    break;
                }
            }
            let mut broken = opening(b"\0\0\0\x07abcd");
            for (at, byte) in flips {
                let at = at % broken.len();
                broken[at] = byte;
            }
            let whole = in_parts(logged_in(), &broken, &[broken.len()]);
            prop_assert_eq!(in_parts(logged_in(), &broken, &lengths), whole);
        }
    }
}
