//! HTTP's `CONNECT` (RFC 9110, section 9.3.6), as far as a client needs it that is let in without a password.
//!
//! The head of an answer is read from the first byte on, as often as more of it has come: nothing is kept between two looks. What
//! stands behind the head of a good answer is the target's, and of a bad one nobody's.

use crate::model::Address;

use super::printable;

/// The longest head of an answer, in bytes.
pub const HEAD_MAX: usize = 8 * 1024;
/// The most of an answer's own words that is repeated, in bytes.
const REASON_MAX: usize = 100;
/// `HTTP/1.1 200`, which is all that there must be of a first line.
const STATUS_END: usize = 12;

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its status, from 100 to 599.
    pub status: u16,
    /// What it says to that, if anything; without anything that cannot be printed.
    pub reason: String,
    /// Its length in bytes, with the empty line that ends it.
    pub length: usize,
}

/// Why bytes are no head of an HTTP answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAHead {
    /// It does not begin as one.
    #[error("its answer does not begin with `HTTP/1.0` or `HTTP/1.1` and a status")]
    Start,
    /// There is something in its first line that is no text.
    #[error("the first line of its answer has a character that cannot be printed")]
    Unprintable,
    /// It has no end.
    #[error("the head of its answer is longer than {HEAD_MAX} bytes")]
    TooLong,
}

/// The request for a connection to `target`; none if a proxy cannot be asked for that, as it is a Unix socket.
#[must_use]
pub fn connect_request(target: &Address) -> Option<Vec<u8>> {
    match target {
        Address::Ip(_) | Address::Name { .. } => {
            Some(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes())
        }
        Address::Unix(_) => None,
    }
}

/// The head that `bytes` begin with, if all of it is there. A line may end with a line feed alone.
///
/// # Errors
///
/// If it is none.
pub fn parse_head(bytes: &[u8]) -> Result<Option<Head>, NotAHead> {
    let within = bytes.get(..HEAD_MAX).unwrap_or(bytes);
    let status = status(within)?;
    let line = within.split(|&byte| byte == b'\n').next().unwrap_or_default();
    // A carriage return that is the last so far may end the line.
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let reason = line.get(STATUS_END..).unwrap_or_default();
    if reason.iter().any(|&byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
        return Err(NotAHead::Unprintable);
    }
    match (status, head_end(within)) {
        (Some(status), Some(length)) => {
            Ok(Some(Head { status, reason: printable(reason.trim_ascii(), REASON_MAX), length }))
        }
        (None, _) | (_, None) if bytes.len() < HEAD_MAX => Ok(None),
        (None, _) | (_, None) => Err(NotAHead::TooLong),
    }
}

/// The status, if all of it is there.
fn status(bytes: &[u8]) -> Result<Option<u16>, NotAHead> {
    const BEGIN: &[u8] = b"HTTP/1.";
    let shape = |at: usize, byte: u8| match at {
        0..=6 => BEGIN.get(at) == Some(&byte),
        7 => matches!(byte, b'0' | b'1'),
        8 => byte == b' ',
        9 => matches!(byte, b'1'..=b'5'),
        10 | 11 => byte.is_ascii_digit(),
        _ => matches!(byte, b' ' | b'\r' | b'\n'),
    };
    if !bytes.iter().take(STATUS_END + 1).enumerate().all(|(at, &byte)| shape(at, byte)) {
        return Err(NotAHead::Start);
    }
    let digits = bytes.get(9..STATUS_END);
    Ok(digits.map(|digits| digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'))))
}

/// Where the first empty line ends.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut line_is_empty = false;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if line_is_empty => return Some(at + 1),
            b'\n' => line_is_empty = true,
            b'\r' => {}
            _ => line_is_empty = false,
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_target_is_asked_for_by_host_and_port() {
        for (target, wanted) in
            [("db.internal:5432", "db.internal:5432"), ("[::1]:80", "[::1]:80"), ("10.0.0.1:1", "10.0.0.1:1")]
        {
            let request = connect_request(&target.parse().unwrap()).unwrap();
            assert_eq!(request, format!("CONNECT {wanted} HTTP/1.1\r\nHost: {wanted}\r\n\r\n").as_bytes());
        }
        assert_eq!(connect_request(&"unix:/run/db".parse().unwrap()), None);
    }

    #[test]
    fn a_head_is_read_to_its_end_and_no_further() {
        let head = |status, reason: &str, length| Ok(Some(Head { status, reason: reason.to_owned(), length }));
        for (bytes, wanted) in [
            ("HTTP/1.1 200 OK\r\n\r\nSSH-2.0", head(200, "OK", 19)),
            ("HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n", head(200, "Connection established", 47)),
            ("HTTP/1.1 503 no\ttime\n\n", head(503, "no\\ttime", 22)),
            ("HTTP/1.1 407\r\n\r\n", head(407, "", 16)),
            ("HTTP/1.1 200 \u{e9}t\u{e9}\u{202e}\r\n\r\n", head(200, "\u{e9}t\u{e9}\\u{202e}", 25)),
            ("HTTP/1.1 200 OK\r\nVia: x\r\n", Ok(None)),
            ("HTTP/1", Ok(None)),
            ("", Ok(None)),
            ("SSH-2.0-OpenSSH\r\n", Err(NotAHead::Start)),
            ("HTTP/2 200\r\n\r\n", Err(NotAHead::Start)),
            ("HTTP/1.1 600 x\r\n\r\n", Err(NotAHead::Start)),
            ("HTTP/1.1 2000 x\r\n\r\n", Err(NotAHead::Start)),
            ("HTTP/1.1\r\n\r\n", Err(NotAHead::Start)),
            ("HTTP/1.1 200 \x1b[2J", Err(NotAHead::Unprintable)),
            ("HTTP/1.1 200 a\rb", Err(NotAHead::Unprintable)),
        ] {
            assert_eq!(parse_head(bytes.as_bytes()), wanted, "{bytes:?}");
        }
        let endless = ["HTTP/1.1 200 OK\r\n".as_bytes(), &[b'x'; HEAD_MAX]].concat();
        assert_eq!(parse_head(&endless), Err(NotAHead::TooLong));
        assert_eq!(parse_head(&endless[..HEAD_MAX - 1]), Ok(None));
    }

    /// Bytes of which many are nearly a head.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        const WORDS: &[&str] =
            &["HTTP/1.1 200 OK", "HTTP/1.0 502", "\r\n", "\n", "\r", "Via: x", "\x1b", "\u{202e}", " ", "5"];
        let words = proptest::collection::vec(proptest::sample::select(WORDS), 0..12);
        words.prop_map(|words| words.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_bytes_give_the_same_however_they_are_split(bytes in nearly(), filler in 0..2_usize) {
            let mut bytes = bytes;
            bytes.extend(std::iter::repeat_n(b'x', filler * HEAD_MAX));
            let whole = parse_head(&bytes);
            let ends = (0..bytes.len().min(300)).chain(HEAD_MAX.saturating_sub(20)..bytes.len());
            for end in ends.take_while(|&end| end < bytes.len()) {
                let part = parse_head(&bytes[..end]);
                prop_assert!(part == Ok(None) || part == whole, "{:?} and {:?}", part, whole);
                if let Ok(Some(head)) = part {
                    prop_assert!(head.length <= end && head.length <= HEAD_MAX);
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let bytes = [b"HTTP/1.1 200 ".as_slice(), &bytes].concat();
            match parse_head(&bytes) {
                Ok(Some(head)) => prop_assert!(!head.reason.chars().any(char::is_control)),
                Ok(None) => {}
                Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control)),
            }
        }
    }
}
