//! What an agent on a backend's host says of it, in HAProxy's agent protocol: one line of words.
//!
//! `up` is good news; `down`, `fail` and `stopped` are bad, with what stands behind a `#` for a reason. `ready`,
//! `drain` and `maint` ask for an admin state, `NN%` for a share of the backend's weight. What is not said stays as it
//! was; a line without bad news is good news. `maxconn:NN` is understood and passed over: what a backend bears is
//! `max_connections`. More than 100 % is 100 %: the file's weight is the backend's whole share.

use crate::model::{AdminState, Advice};

use super::printable;

/// The longest line, in bytes.
pub const AGENT_LINE_MAX: usize = 1024;
/// The most of a reason that is kept, in bytes.
const REASON_MAX: usize = 200;
/// The most of a wrong word that is repeated, in bytes.
const WORD_MAX: usize = 40;

/// What an agent said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentAnswer {
    /// The backend is up.
    Up(Advice),
    /// It is not: the word that said so, and the reason if one was given.
    Down(String),
}

/// Why a line is no answer of an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAnswer {
    /// No word at all.
    #[error("the line is empty")]
    Empty,
    /// A word that is none of the protocol's.
    #[error("`{0}` is no word of an agent")]
    Word(String),
}

/// The line that `bytes` begin with, once its end has come.
#[must_use]
pub fn agent_line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'))?;
    bytes.get(..end)
}

/// What `line` says.
///
/// # Errors
///
/// If a word of it is none of the protocol's, or there is none.
pub fn parse_agent_answer(line: &[u8]) -> Result<AgentAnswer, NotAnAnswer> {
    let mut halves = line.splitn(2, |byte| *byte == b'#');
    let (words, reason) = (halves.next().unwrap_or_default(), halves.next());
    let mut advice = Advice::default();
    let (mut down, mut is_empty) = (None, true);
    for word in words.split(|byte| matches!(byte, b' ' | b'\t' | b',')).filter(|word| !word.is_empty()) {
        is_empty = false;
        match word.to_ascii_lowercase().as_slice() {
            b"up" => {}
            b"ready" => advice.admin = Some(stricter(advice.admin, AdminState::Ready)),
            b"drain" => advice.admin = Some(stricter(advice.admin, AdminState::Drain)),
            b"maint" => advice.admin = Some(stricter(advice.admin, AdminState::Maintenance)),
            // Of two pieces of bad news the first is told.
            b"down" => down = down.or(Some("down")),
            b"fail" => down = down.or(Some("fail")),
            b"stopped" => down = down.or(Some("stopped")),
            other => match (percent(other), other.strip_prefix(b"maxconn:")) {
                (Some(share), _) => advice.weight = Some(share),
                (None, Some(number)) if is_number(number) => {}
                (None, _) => return Err(NotAnAnswer::Word(printable(word, WORD_MAX))),
            },
        }
    }
    if is_empty {
        return Err(NotAnAnswer::Empty);
    }
    let Some(down) = down else { return Ok(AgentAnswer::Up(advice)) };
    let reason = reason.map(|reason| printable(reason.trim_ascii(), REASON_MAX)).unwrap_or_default();
    Ok(AgentAnswer::Down(if reason.is_empty() { down.to_owned() } else { format!("{down}: {reason}") }))
}

/// Of two states asked for in one line, the one that takes more away.
fn stricter(one: Option<AdminState>, other: AdminState) -> AdminState {
    match (one, other) {
        (Some(AdminState::Maintenance), _) | (_, AdminState::Maintenance) => AdminState::Maintenance,
        (Some(AdminState::Drain), _) | (_, AdminState::Drain) => AdminState::Drain,
        (Some(AdminState::Ready) | None, AdminState::Ready) => AdminState::Ready,
    }
}

fn is_number(digits: &[u8]) -> bool {
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// A share in percent, at most 100.
fn percent(word: &[u8]) -> Option<u8> {
    let digits = word.strip_suffix(b"%").filter(|digits| is_number(digits))?;
    let share = digits.iter().fold(0_u8, |share, digit| share.saturating_mul(10).saturating_add(digit - b'0'));
    Some(share.min(100))
}

#[cfg(test)]
mod tests {
    use super::{AgentAnswer, NotAnAnswer, agent_line, parse_agent_answer};
    use crate::model::{AdminState, Advice};
    use proptest::prelude::*;

    const fn up(admin: Option<AdminState>, weight: Option<u8>) -> AgentAnswer {
        AgentAnswer::Up(Advice { admin, weight })
    }

    #[test]
    fn what_agents_say_is_understood() {
        use AdminState::{Drain, Maintenance, Ready};
        for (line, wanted) in [
            ("up", up(None, None)),
            ("UP", up(None, None)),
            ("ready", up(Some(Ready), None)),
            ("drain", up(Some(Drain), None)),
            ("Maint", up(Some(Maintenance), None)),
            ("75%", up(None, Some(75))),
            ("0%", up(None, Some(0))),
            ("100%", up(None, Some(100))),
            ("256%", up(None, Some(100))),
            ("99999999999999999999%", up(None, Some(100))),
            ("007%", up(None, Some(7))),
            ("maxconn:30", up(None, None)),
            ("up ready 50% maxconn:10", up(Some(Ready), Some(50))),
            (" ,\tup,,ready\t50%, ", up(Some(Ready), Some(50))),
            ("50% 60%", up(None, Some(60))),
            ("drain ready", up(Some(Drain), None)),
            ("ready maint drain", up(Some(Maintenance), None)),
            ("up # all is well", up(None, None)),
        ] {
            assert_eq!(parse_agent_answer(line.as_bytes()), Ok(wanted), "{line}");
        }
    }

    #[test]
    fn bad_news_wins_and_says_why() {
        for (line, wanted) in [
            ("down", "down"),
            ("STOPPED", "stopped"),
            ("fail#disk full", "fail: disk full"),
            ("fail # disk full, or so ", "fail: disk full, or so"),
            ("up down", "down"),
            ("stopped up 50% drain", "stopped"),
            ("down fail", "down"),
            ("down#", "down"),
            ("down#a#b\x1b", "down: a#b\\u{1b}"),
        ] {
            assert_eq!(parse_agent_answer(line.as_bytes()), Ok(AgentAnswer::Down(wanted.to_owned())), "{line}");
        }
    }

    #[test]
    fn what_is_no_answer_is_named() {
        let word = |word: &str| Err(NotAnAnswer::Word(word.to_owned()));
        for (line, wanted) in [
            ("", Err(NotAnAnswer::Empty)),
            (" \t,", Err(NotAnAnswer::Empty)),
            ("#down", Err(NotAnAnswer::Empty)),
            ("uup", word("uup")),
            ("up HTTP/1.1", word("HTTP/1.1")),
            ("100", word("100")),
            ("%", word("%")),
            ("-5%", word("-5%")),
            ("1.5%", word("1.5%")),
            ("maxconn:", word("maxconn:")),
            ("maxconn:x", word("maxconn:x")),
            ("down;", word("down;")),
            ("\x07", word("\\u{7}")),
        ] {
            assert_eq!(parse_agent_answer(line.as_bytes()), wanted, "{line}");
        }
        assert_eq!(parse_agent_answer(&[b'x'; 1000]), word(&format!("{}…", "x".repeat(40))));
        assert_eq!(parse_agent_answer(b"\xff"), word("\u{fffd}"));
    }

    #[test]
    fn a_line_ends_at_the_first_end_of_a_line() {
        assert_eq!(agent_line(b"up"), None);
        assert_eq!(agent_line(b"up\r\ndown\n"), Some(b"up".as_slice()));
        assert_eq!(agent_line(b"\nup"), Some(b"".as_slice()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(line) = agent_line(&bytes) {
                prop_assert!(line.len() < bytes.len());
            }
            match parse_agent_answer(&bytes) {
                Ok(AgentAnswer::Up(advice)) => prop_assert!(advice.weight.is_none_or(|share| share <= 100)),
                Ok(AgentAnswer::Down(text)) => prop_assert!(!text.chars().any(char::is_control)),
                Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control)),
            }
        }

        #[test]
        fn words_may_come_in_any_order_and_case(
            words in proptest::sample::subsequence(vec!["up", "drain", "40%", "maxconn:7"], 1..=4).prop_shuffle(),
            between in "[ \t,]{1,3}",
            shout in any::<bool>(),
        ) {
            let line = words.join(&between);
            let line = if shout { line.to_ascii_uppercase() } else { line };
            let admin = words.contains(&"drain").then_some(AdminState::Drain);
            let weight = words.contains(&"40%").then_some(40);
            prop_assert_eq!(parse_agent_answer(line.as_bytes()), Ok(up(admin, weight)));
        }
    }
}
