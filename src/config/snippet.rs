//! Positions in a text, and the line around one for people to look at, without its secrets.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::key::Kind;
use super::keys::KEYS;
use super::wording::is_unprintable;

/// How much of a long line is shown before and behind the place in question, in characters.
const BEFORE: usize = 60;
const BEHIND: usize = 120;
/// What stands for a value that is not shown.
const HIDDEN: &str = "[not shown]";

/// A text and where its lines begin.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// Finds the lines of `text`.
    pub(super) fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// The offset of the character at or before `offset`. The end of the text counts as the end of
    /// its last line, not as a line of its own.
    fn settle(&self, offset: usize) -> usize {
        if offset >= self.text.len() && self.text.ends_with('\n') {
            let end = self.text.len() - 1;
            return if self.text[..end].ends_with('\r') { end - 1 } else { end };
        }
        self.text.floor_char_boundary(offset)
    }

    fn line_index(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    fn start(&self, line: usize) -> usize {
        self.starts.get(line).copied().unwrap_or(self.text.len())
    }

    /// Line and column of a byte offset, both from 1, the column in characters.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let offset = self.settle(offset);
        let line = self.line_index(offset);
        let before = self.text.get(self.start(line)..offset).unwrap_or_default();
        (line + 1, before.trim_start_matches('\u{feff}').chars().count() + 1)
    }

    /// The line in which `span` begins, with a mark below what of `span` is in it.
    pub(super) fn snippet(&self, span: &Range<usize>, masks: &[Range<usize>]) -> String {
        let from = self.settle(span.start);
        let line = self.line_index(from);
        let start = self.start(line);
        let end = self.start(line + 1);
        let content = self.text.get(start..end).unwrap_or_default().trim_end_matches(['\n', '\r']);
        if content.trim().is_empty() {
            return String::new();
        }
        let masks: Vec<&Range<usize>> =
            masks.iter().filter(|mask| mask.start < start + content.len() && start < mask.end).collect();
        let before = content.get(..from - start).unwrap_or(content).chars().count();
        let skip = before.saturating_sub(BEFORE);
        let mut shown = String::from(if skip > 0 { "…" } else { "" });
        let mut mark = None;
        let mut mark_end = 0;
        let mut hidden = false;
        for (at, c) in content.char_indices().map(|(at, c)| (at + start, c)).skip(skip).take(before - skip + BEHIND) {
            if at >= from && mark.is_none() {
                mark = Some(shown.len());
            }
            let hide = masks.iter().any(|mask| mask.contains(&at));
            if !hide {
                shown.push(if is_unprintable(c) { ' ' } else { c });
            } else if !hidden {
                shown.push_str(HIDDEN);
            }
            hidden = hide;
            if at < span.end {
                mark_end = shown.len();
            }
        }
        let mark = mark.unwrap_or(shown.len());
        draw(&shown, line + 1, mark..mark_end.max(mark))
    }
}

fn draw(shown: &str, line: usize, mark: Range<usize>) -> String {
    let snippet = Snippet::source(shown).line_start(line).annotation(AnnotationKind::Primary.span(mark));
    let drawn = Renderer::plain().render(&[Group::with_level(Level::ERROR).element(snippet)]);
    drawn.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// What a snippet of a text that is no TOML must not show. With no tree to say where the secrets
/// are, the only values shown are those that stand, in one line, behind keys known to hold none.
pub(super) fn lexical_masks(text: &str) -> Vec<Range<usize>> {
    let mut masks = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if let Some(from) = secret_from(line) {
            masks.push(at + from..at + line.len());
        }
        at += line.len();
    }
    masks
}

/// Where in a line that which may be a secret begins.
fn secret_from(line: &str) -> Option<usize> {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ' | '\t');
    let trimmed = line.trim();
    if trimmed.starts_with('[') && trimmed.chars().all(|c| is_bare(c) || matches!(c, '[' | ']')) {
        return None;
    }
    let Some(first) = line.find('=') else { return Some(0) };
    if !line[..first].chars().all(is_bare) {
        return Some(0);
    }
    let unknown = line.match_indices('=').map(|(equals, _)| equals).find(|equals| {
        let key = line[..*equals].trim_end();
        let key = &key[key.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-').len()..];
        !is_open(key)
    });
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let words = line.split(|c: char| !is_part(c));
    // `key` is a secret in one table and a file in another; none is shown.
    let closed = words.filter(|word| is_closed(word)).filter_map(|word| line.find(word));
    closed.chain(unknown.map(|equals| equals + 1)).min()
}

/// Whether `key` is one whose value may be shown.
fn is_open(key: &str) -> bool {
    matches!(key, "env" | "file" | "credential") || (KEYS.iter().any(|known| known.name == key) && !is_closed(key))
}

/// Whether what stands behind `key` may be a secret, by mistake at least: on a command line, or in a table whose keys are the
/// user's.
fn is_closed(key: &str) -> bool {
    let is_secret = |kind| kind == Kind::Secret;
    let is_mixed = |kind| matches!(kind, Kind::Command | Kind::Argv | Kind::Texts(_));
    let mut of_name = KEYS.iter().filter(|known| known.name == key).map(|known| known.kind).peekable();
    of_name.peek().is_some() && (of_name.clone().any(is_secret) || of_name.all(is_mixed))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{HIDDEN, Lines, lexical_masks};

    #[test]
    fn positions_count_characters_from_one() {
        let lines = Lines::new("\u{feff}äb\r\nc = \"ü\" x\n");
        assert_eq!(lines.position(0), (1, 1));
        assert_eq!(lines.position(5), (1, 2));
        assert_eq!(lines.position(8), (2, 1));
        assert_eq!(lines.position(8 + "c = \"ü\" ".len()), (2, 9));
        assert_eq!(lines.position(1000), (2, 10));
        assert_eq!(Lines::new("").position(3), (1, 1));
        assert_eq!(Lines::new("\n\n").position(2), (2, 1));
    }

    #[test]
    fn a_snippet_marks_the_place() {
        let text = "[a]\nkey = \"valueé\" # x\n";
        let lines = Lines::new(text);
        assert_eq!(lines.snippet(&(10..19), &[]), "  |\n2 | key = \"valueé\" # x\n  |       ^^^^^^^^");
        assert_eq!(
            lines.snippet(&(4..7), std::slice::from_ref(&(10..19))),
            format!("  |\n2 | key = {HIDDEN} # x\n  | ^^^")
        );
        assert_eq!(Lines::new("").snippet(&(0..0), &[]), "");
    }

    #[test]
    fn a_snippet_of_a_long_line_is_short() {
        let text = "é".repeat(10_000);
        let snippet = Lines::new(&text).snippet(&(10_000..20_000), &[]);
        assert!(snippet.chars().count() < 500, "{snippet}");
        let strange = "a\u{1b}[31m\t\u{202e}\0b";
        let snippet = Lines::new(strange).snippet(&(0..strange.len() + 9), &[]);
        assert!(!snippet.contains(['\u{1b}', '\0', '\u{202e}']), "{snippet:?}");
    }

    #[test]
    fn in_a_broken_text_only_values_of_known_keys_are_shown() {
        for open in ["[pools.a]\n", "interval = 1s\n", "http = { path = \"/\", port = 1\n", "pool.kind = \n"] {
            assert!(lexical_masks(open).is_empty(), "{open}");
        }
        for closed in [
            "authorization = \"hunter2\n",
            "authorisation = \"hunter2\n",
            "http = { path = \"/\", authorization \"hunter2\"\n",
            "http = { pathh = \"hunter2\" }\n",
            "hunter2\"\"\"\n",
            "\"hunter2\" = \n",
            "# hunter2\n",
            "[\"hunter2\"\n",
        ] {
            let masks = lexical_masks(closed);
            let at = closed.find("hunter2").unwrap();
            assert!(masks.iter().any(|mask| mask.contains(&at) && mask.contains(&(at + 6))), "{closed}");
        }
    }
}
