//! The key with which a PostgreSQL client may cancel what one of its sessions is doing.

use std::fmt;

/// The shortest and the longest secret that a server gives (protocol 3.0 has 4 bytes, 3.2 up to 256).
const SECRET: std::ops::RangeInclusive<usize> = 4..=256;

/// A server process, and the secret that it has told its client. Whoever knows both may cancel.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    pid: u32,
    secret: Box<[u8]>,
}

impl CancelKey {
    /// The bytes of the longest one, its process number included.
    pub const BYTES_MAX: usize = 4 + *SECRET.end();

    /// As both `BackendKeyData` and `CancelRequest` have it: a process number, then a secret of 4 to 256 bytes; none if it is
    /// no such thing.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&pid, secret) = bytes.split_first_chunk()?;
        SECRET.contains(&secret.len()).then(|| Self { pid: u32::from_be_bytes(pid), secret: secret.into() })
    }

    /// As [`Self::parse`] takes it.
    #[must_use]
    pub fn expose(&self) -> Vec<u8> {
        [&self.pid.to_be_bytes()[..], &self.secret].concat()
    }
}

/// Without the secret.
impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelKey").field("pid", &self.pid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::CancelKey;

    #[test]
    fn a_key_has_a_secret_of_four_to_256_bytes_and_never_shows_it() {
        for (length, is_key) in [(0, false), (3, false), (4, true), (32, true), (256, true), (257, false)] {
            let bytes = [&[0, 0, 0, 77][..], &vec![b'x'; length]].concat();
            assert_eq!(CancelKey::parse(&bytes).is_some(), is_key, "{length}");
        }
        assert_eq!(CancelKey::parse(&[1, 2, 3]), None);
        let key = CancelKey::parse(b"\0\0\0\x4dsecret").unwrap();
        assert_eq!(key.expose(), b"\0\0\0\x4dsecret");
        assert_eq!(format!("{key:?}"), "CancelKey { pid: 77, .. }");
        assert_ne!(Some(key), CancelKey::parse(b"\0\0\0\x4dsecreT"));
    }
}
