//! Bytes from outside as one line of text for logs and the API.

/// At most `max` bytes of `bytes` as one line: what is no UTF-8 is replaced; control characters, and those that turn
/// the direction of a line round, are escaped.
#[must_use]
pub fn printable(bytes: &[u8], max: usize) -> String {
    let kept = bytes.get(..max).unwrap_or(bytes);
    // A character that the limit cuts in two is left out, not replaced.
    let kept = match std::str::from_utf8(kept) {
        Err(error) if error.error_len().is_none() && kept.len() < bytes.len() => kept.get(..error.valid_up_to()),
        Ok(_) | Err(_) => Some(kept),
    };
    let mut text = String::new();
    for c in String::from_utf8_lossy(kept.unwrap_or_default()).chars() {
        if turns_or_controls(c) {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    if bytes.len() > max {
        text.push('…');
    }
    text
}

fn turns_or_controls(c: char) -> bool {
    let turns = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    c.is_control() || turns
}

#[cfg(test)]
mod tests {
    use super::printable;
    use proptest::prelude::*;

    #[test]
    fn what_would_move_the_cursor_is_escaped() {
        assert_eq!(printable(b"a\x1b[2J\tb\r\n", 80), "a\\u{1b}[2J\\tb\\r\\n");
        assert_eq!(printable("\u{202e}x".as_bytes(), 80), "\\u{202e}x");
        assert_eq!(printable(b"\xff\xfe", 80), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(printable("éé".as_bytes(), 3), "é…");
        assert_eq!(printable("éé".as_bytes(), 4), "éé");
        assert_eq!(printable(b"", 0), "");
    }

    proptest! {
        #[test]
        fn any_bytes_become_one_short_line(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            max in 0..100_usize,
        ) {
            let text = printable(&bytes, max);
            prop_assert!(!text.chars().any(char::is_control));
            // The most that one byte becomes is the escape of a control character.
            let longest = '\u{7f}'.escape_default().len();
            prop_assert!(text.len() <= max * longest + '…'.len_utf8(), "{}", text);
        }
    }
}
