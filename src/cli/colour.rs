//! Colour, which says nothing that the words do not say as well: on a terminal, and never where `NO_COLOR` is set
//! (no-color.org).

use std::io::{self, IsTerminal};

/// What a word amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Odd,
    /// Out of order.
    Bad,
}

impl Tone {
    /// Of a word in a table; none where it is neither.
    pub(super) fn of(word: &str) -> Option<Self> {
        match word {
            "healthy" | "ok" | "ready" | "primary" | "connected" => Some(Self::Good),
            "degraded"
            | "failover_complete"
            | "failover_in_progress"
            | "recovery_in_progress"
            | "drain"
            | "maintenance"
            | "starting"
            | "draining"
            | "connecting"
            | "reconnecting"
            | "disconnected"
            | "warn"
            | "unknown" => Some(Self::Odd),
            "unhealthy" | "down" | "fail" | "failed" => Some(Self::Bad),
            _ => None,
        }
    }

    /// Its parameter of Select Graphic Rendition (ECMA-48, 8.3.117).
    const fn code(self) -> u8 {
        match self {
            Self::Good => 32,
            Self::Odd => 33,
            Self::Bad => 31,
        }
    }
}

/// Whether `NO_COLOR` asks for none.
pub(super) fn is_unwanted() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Whether standard output takes colour.
pub(super) fn is_wanted() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stdout().is_terminal() && !is_dumb && !is_unwanted()
}

/// `text` with its words of state in colour. Nothing moves: colours have no width.
pub(super) fn painted(text: &str) -> String {
    let mut painted = String::with_capacity(text.len());
    for piece in text.split_inclusive([' ', '\n', ':']) {
        let word = piece.trim_end_matches([' ', '\n', ':']);
        match Tone::of(word) {
            Some(tone) => {
                let rest = piece.get(word.len()..).unwrap_or_default();
                painted.push_str(&format!("\x1b[{}m{word}\x1b[0m{rest}", tone.code()));
            }
            None => painted.push_str(piece),
        }
    }
    painted
}

#[cfg(test)]
mod tests {
    use super::painted;

    #[test]
    fn colour_moves_nothing_and_marks_words_of_state_alone() {
        let table = "BACKEND  HEALTH     SERVES\nweb/one  healthy    yes\nweb/two  unhealthy  no\n";
        let shown = painted(table);
        assert!(
            shown.contains("\x1b[32mhealthy\x1b[0m    yes") && shown.contains("\x1b[31munhealthy\x1b[0m  no"),
            "{shown:?}"
        );
        let plain =
            ["\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[0m"].iter().fold(shown, |text, code| text.replace(code, ""));
        assert_eq!(plain, table);
    }
}
