//! How messages put what comes from outside: quoted, on one line, and with a guess at what was meant; and durations as
//! people write them.

use std::time::Duration;

use jiff::fmt::friendly::{SpanParser, SpanPrinter};

/// The longest value that a message repeats, in characters.
const QUOTED_MAX: usize = 80;

/// A text from outside for a message: on one line, without control characters, not too long.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut quoted = String::from("`");
    for (at, c) in text.chars().enumerate() {
        if at == QUOTED_MAX {
            quoted.push('…');
            break;
        }
        if is_unprintable(c) {
            quoted.extend(c.escape_default());
        } else {
            quoted.push(c);
        }
    }
    quoted.push('`');
    quoted
}

/// Control characters, and those that turn the direction of a line round.
#[must_use]
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A duration as files say it and people read it, such as "1m 30s": what [`parse_duration`] reads.
#[must_use]
pub fn spoken(duration: Duration) -> String {
    SpanPrinter::new().unsigned_duration_to_string(&duration)
}

/// The candidate that `word` was probably meant to be.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.len() / 3).clamp(1, 3);
    candidates
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= limit)
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The end of a message about `word`, which is none of `candidates`: what was probably meant; empty if none of them is near.
#[must_use]
pub fn meant<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    nearest(word, candidates).map(|guess| format!("; did you mean `{guess}`?")).unwrap_or_default()
}

/// The duration that a text such as "1m 30s" means.
///
/// # Errors
///
/// Why it means none, to be put after the quoted text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    if !trimmed.is_empty() && trimmed.bytes().all(|b| b.is_ascii_digit()) {
        return Err("has no unit; write ms, s, m or h behind it, such as \"250ms\"".to_owned());
    }
    if trimmed.starts_with('-') || trimmed.ends_with("ago") {
        return Err("is negative; a duration is zero or more, such as \"250ms\"".to_owned());
    }
    SpanParser::new().parse_unsigned_duration(trimmed).map_err(|_| {
        "is no duration; write numbers with their units (ms, s, m, h; no days, months or years), \
         such as \"250ms\" or \"1m 30s\""
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{parse_duration, spoken};

    #[test]
    fn a_duration_is_said_as_files_say_it() {
        for text in ["0s", "10ms", "250ms", "30s", "5m", "1m 30s", "10h", "8760h"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(spoken(duration), text);
        }
        assert_eq!(spoken(Duration::from_secs(300)), "5m");
    }
}
