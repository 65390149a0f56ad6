//! Greetings: what the clients of some protocols send first, and which no server acts on. One that got no
//! answer can be sent to another server without harm.
//!
//! Recognised are PostgreSQL (startup, and the requests for TLS and GSSAPI that come before it; a request to
//! cancel is none), TLS (a hello without early data) and SSH (whatever comes before keys are exchanged).
//! Anything else may be an order.

/// `SSLRequest` and `GSSENCRequest` (PostgreSQL's protocol, message formats).
const POSTGRES_REQUESTS: [u32; 2] = [80_877_103, 80_877_104];
/// The major version of every `StartupMessage` since PostgreSQL 7.4.
const POSTGRES_MAJOR: u32 = 3;

/// TLS: the types of a record (RFC 8446, 5.1) and of a handshake message (4).
const TLS_HANDSHAKE: u8 = 22;
const TLS_CLIENT_HELLO: u8 = 1;
/// The bytes before a record's payload: type, version, length.
const TLS_HEADER: usize = 5;

/// Whether `first`, all that a client has sent so far, is a greeting and nothing more.
#[must_use]
pub fn is_greeting(first: &[u8]) -> bool {
    is_postgres(first) || is_tls(first) || first.starts_with(b"SSH-2.0-") || first.starts_with(b"SSH-1.99-")
}

/// One whole message without a type byte: its length, then a code.
fn is_postgres(first: &[u8]) -> bool {
    let [a, b, c, d, e, f, g, h, ..] = *first else { return false };
    let (length, code) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    let is_whole = usize::try_from(length).is_ok_and(|length| length == first.len());
    is_whole && (code >> 16 == POSTGRES_MAJOR || (first.len() == 8 && POSTGRES_REQUESTS.contains(&code)))
}

/// A hello, perhaps cut short or in several records, and no record of another kind after it: early data is
/// sent in the same breath.
fn is_tls(first: &[u8]) -> bool {
    if first.get(TLS_HEADER) != Some(&TLS_CLIENT_HELLO) {
        return false;
    }
    let mut rest = first;
    while let [kind, major, _, high, low, ..] = *rest {
        if kind != TLS_HANDSHAKE || major != 3 {
            return false;
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        rest = rest.get(TLS_HEADER + length..).unwrap_or_default();
    }
    rest.first().is_none_or(|&kind| kind == TLS_HANDSHAKE)
}

#[cfg(test)]
mod tests {
    use super::is_greeting;

    fn postgres(code: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(8 + body.len()).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
    }

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap();
        [&[kind, 3, 1][..], &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn what_postgres_clients_send_first_is_a_greeting_but_for_a_cancel() {
        let startup = postgres(3 << 16, b"user\0app\0\0");
        assert!(is_greeting(&startup));
        assert!(is_greeting(&postgres((3 << 16) | 2, b"user\0app\0\0")));
        assert!(is_greeting(&postgres(80_877_103, b"")) && is_greeting(&postgres(80_877_104, b"")));
        assert!(!is_greeting(&postgres(80_877_102, &[0; 8])), "a cancel request is an order");
        assert!(!is_greeting(&startup[..12]), "not whole");
        assert!(!is_greeting(&[startup, b"Q\0\0\0\x05;".to_vec()].concat()), "a query after it");
    }

    #[test]
    fn a_tls_hello_is_a_greeting_without_early_data() {
        let hello = record(22, &[1, 0, 0, 3, 9, 9, 9]);
        assert!(is_greeting(&hello) && is_greeting(&hello[..9]), "whole or cut short");
        assert!(is_greeting(&[record(22, &[1, 0]), record(22, &[0, 3, 9, 9, 9])].concat()), "in two records");
        for after in [record(23, b"early data"), record(20, &[1]), vec![23]] {
            assert!(!is_greeting(&[hello.clone(), after].concat()));
        }
        assert!(!is_greeting(&record(22, &[2, 0, 0, 0])), "a server's hello");
        assert!(!is_greeting(&record(23, &[1, 0, 0, 0])));
    }

    #[test]
    fn an_ssh_version_is_a_greeting_and_anything_unknown_is_not() {
        assert!(is_greeting(b"SSH-2.0-OpenSSH_9.2p1\r\n"));
        for order in [&b""[..], b"SSH-1.5-old\n", b"GET / HTTP/1.1\r\n\r\n", b"INCR x\r\n", b"\x16", &[22, 3, 1, 0]] {
            assert!(!is_greeting(order), "{order:?}");
        }
    }
}
