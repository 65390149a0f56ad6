//! What a server says of its place in its cluster: identity, log positions, the history of its timeline.

use crate::model::{Fork, Lsn, SystemId, Timeline};

use super::Row;

/// The longest history of a timeline that is read, in bytes: some ten thousand promotions.
pub const HISTORY_MAX: usize = 1024 * 1024;

/// The answer to `IDENTIFY_SYSTEM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub system: SystemId,
    /// The timeline.
    pub timeline: Timeline,
    /// How far it has written or, in recovery, received: not how far it has replayed.
    pub written: Lsn,
}

impl Identity {
    /// Reads the answer's row.
    #[must_use]
    pub fn parse(row: &Row) -> Option<Self> {
        let column = |index: usize| std::str::from_utf8(row.get(index)?.as_ref()?).ok();
        Some(Self {
            system: SystemId(column(0)?.parse().ok()?),
            timeline: Timeline(column(1)?.parse().ok()?),
            written: parse_lsn(column(2)?)?,
        })
    }
}

/// Reads a log position as PostgreSQL writes it.
#[must_use]
pub fn parse_lsn(text: &str) -> Option<Lsn> {
    let (high, low) = text.split_once('/')?;
    let half = |digits: &str| {
        let is_hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    };
    Some(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
}

/// Reads a timeline's history file: on each line a timeline, where it was left, and why. Nothing if a line is neither that
/// nor a comment: a history of which a part is missing would prove what is not so.
#[must_use]
pub fn parse_history(content: &[u8]) -> Option<Vec<Fork>> {
    if content.len() > HISTORY_MAX {
        return None;
    }
    // The reason is whatever the operator named a restore point.
    let lines = content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let told = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    let fork = |line: &[u8]| {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let mut word = || std::str::from_utf8(words.next()?).ok();
        Some(Fork { timeline: Timeline(word()?.parse().ok()?), at: parse_lsn(word()?)? })
    };
    let forks: Vec<Fork> = told.map(fork).collect::<Option<_>>()?;
    let grows = forks.windows(2).all(|pair| matches!(pair, [a, b] if a.timeline < b.timeline));
    grows.then_some(forks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_identity_is_three_columns() {
        let row = vec![Some("7710624570429696657".into()), Some("2".into()), Some("0/3364B18".into()), None];
        let identity = Identity::parse(&row).unwrap();
        assert_eq!(identity.system, SystemId(7_710_624_570_429_696_657));
        assert_eq!((identity.timeline, identity.written), (Timeline(2), Lsn(0x0336_4B18)));
        assert_eq!(Identity::parse(&row[..2].to_vec()), None);
        assert_eq!(Identity::parse(&vec![None; 4]), None);
    }

    #[test]
    fn a_history_is_all_of_its_lines_or_nothing() {
        let fork = |timeline, at| Fork { timeline: Timeline(timeline), at: Lsn(at) };
        let text = b"1\t0/6800AA8\tno recovery target specified\n\n# a comment\n2\t1/A0\tbefore \xff 3 o'clock\n";
        assert_eq!(parse_history(text).unwrap(), [fork(1, 0x0680_0AA8), fork(2, 0x1_0000_00A0)]);
        assert_eq!(parse_history(b"").unwrap(), []);
        for bad in
            [&b"1\t0/6800AA8\n2\n"[..], b"x\t0/1\n", b"1\t0-1\n", b"2\t0/1\n1\t0/2\n", b"1\t0/1\n1\t0/2\n", b"\xff\n"]
        {
            assert_eq!(parse_history(bad), None, "{bad:?}");
        }
        assert_eq!(parse_history(&vec![b'\n'; HISTORY_MAX + 1]), None);
    }

    #[test]
    fn a_log_position_is_two_halves() {
        assert_eq!(parse_lsn("16/B374D848"), Some(Lsn(0x16_B374_D848)));
        for bad in ["", "/", "1/", "/1", "1", "+1/0", "1/123456789", "g/0", "1/0 "] {
            assert_eq!(parse_lsn(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_log_position_is_read_as_it_is_written(lsn: u64) {
            prop_assert_eq!(parse_lsn(&Lsn(lsn).to_string()), Some(Lsn(lsn)));
        }
    }
}
