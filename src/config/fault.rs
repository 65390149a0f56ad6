//! Faults while they are collected, and errors as they are reported: located, sorted, each once.

use std::fmt;
use std::ops::Range;

use super::snippet::{Lines, lexical_masks};

/// How many errors are printed.
const PRINTED_MAX: usize = 100;
/// How many faults are kept; the rest is counted.
const KEPT_MAX: usize = 10_000;

/// One thing that is wrong in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub message: String,
    /// The line in question with a mark below it, for people; may be empty. Shows no secret.
    pub snippet: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, snippet } = self;
        write!(f, "{file}:{line}:{column}: {message}")?;
        if snippet.is_empty() { Ok(()) } else { write!(f, "\n{snippet}") }
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong in the configuration, by position. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    uncounted: usize,
}

impl ConfigErrors {
    /// An error that concerns the file as a whole.
    pub(super) fn whole(file: &str, message: String) -> Self {
        let file = file.to_owned();
        Self { errors: vec![ConfigError { file, line: 1, column: 1, message, snippet: String::new() }], uncounted: 0 }
    }

    /// The errors, by position; at most 10,000.
    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.errors.iter().take(PRINTED_MAX).enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        match self.errors.len().saturating_sub(PRINTED_MAX) + self.uncounted {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// What a fault is, as far as it matters beside a syntax error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    /// The text is no TOML.
    Syntax,
    /// Something that stands there is wrong.
    Wrong,
    /// Something is missing: beside a syntax error it may well be there, unread.
    Missing,
}

/// One fault at its place in the text, in bytes.
#[derive(Debug)]
pub(super) struct Fault {
    /// The place.
    pub(super) span: Range<usize>,
    nature: Nature,
    /// The key that the table at this place lacks, if that is the fault.
    pub(super) lacks: Option<&'static str>,
    /// What is wrong, and what would be right.
    pub(super) message: String,
}

/// The faults found so far, and the places that must not be shown.
#[derive(Debug, Default)]
pub(super) struct Faults {
    list: Vec<Fault>,
    masks: Vec<Range<usize>>,
    dropped: usize,
}

impl Faults {
    /// The text at `span` is no TOML.
    pub(super) fn syntax(&mut self, span: Range<usize>, message: String) {
        self.push(Fault { span, nature: Nature::Syntax, lacks: None, message });
    }

    /// What stands at `span` is wrong.
    pub(super) fn wrong(&mut self, span: Range<usize>, message: String) {
        self.push(Fault { span, nature: Nature::Wrong, lacks: None, message });
    }

    /// Something is missing in what stands at `span`.
    pub(super) fn missing(&mut self, span: Range<usize>, message: String) {
        self.push(Fault { span, nature: Nature::Missing, lacks: None, message });
    }

    /// The table that stands at `span` lacks `key`.
    pub(super) fn lacking(&mut self, span: Range<usize>, key: &'static str, message: String) {
        self.push(Fault { span, nature: Nature::Missing, lacks: Some(key), message });
    }

    /// No snippet may show what stands at `span`.
    pub(super) fn hide(&mut self, span: Range<usize>) {
        self.masks.push(span);
    }

    /// Whether there is nothing wrong.
    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many were found.
    pub(super) const fn count(&self) -> usize {
        self.list.len() + self.dropped
    }

    /// Whether further faults are only counted, so that no pains need be taken over them.
    pub(super) const fn is_full(&self) -> bool {
        self.list.len() >= KEPT_MAX
    }

    fn push(&mut self, fault: Fault) {
        if self.is_full() {
            self.dropped += 1;
        } else {
            self.list.push(fault);
        }
    }

    /// The faults, in the order in which they were found.
    pub(super) fn into_list(self) -> Vec<Fault> {
        self.list
    }

    /// The faults as errors in `file`, whose content is `text`.
    pub(super) fn into_errors(mut self, file: &str, text: &str) -> ConfigErrors {
        let lines = Lines::new(text);
        let broken: std::collections::BTreeSet<usize> = self
            .list
            .iter()
            .filter(|fault| fault.nature == Nature::Syntax)
            .map(|fault| lines.position(fault.span.start).0)
            .collect();
        if !broken.is_empty() {
            // The tree of a broken text is a guess: what it lacks proves nothing, and what stands in
            // a broken line is reported as broken. Nor does it know where the secrets are.
            self.list.retain(|fault| match fault.nature {
                Nature::Syntax => true,
                Nature::Wrong => !broken.contains(&lines.position(fault.span.start).0),
                Nature::Missing => false,
            });
            self.masks = lexical_masks(text);
        }
        self.list.sort_by(|a, b| (a.span.start, &a.message).cmp(&(b.span.start, &b.message)));
        let mut errors: Vec<ConfigError> = Vec::with_capacity(self.list.len());
        for Fault { span, message, .. } in self.list {
            let (line, column) = lines.position(span.start);
            if errors.last().is_some_and(|e| (e.line, e.column, &e.message) == (line, column, &message)) {
                continue;
            }
            let wanted = errors.len() < PRINTED_MAX;
            let snippet = if wanted { lines.snippet(&span, &self.masks) } else { String::new() };
            errors.push(ConfigError { file: file.to_owned(), line, column, message, snippet });
        }
        ConfigErrors { errors, uncounted: self.dropped }
    }
}

#[cfg(test)]
mod tests {
    use super::Faults;
    use crate::config::wording::{nearest, quote};

    #[test]
    fn the_nearest_word_is_near() {
        let words = ["interval", "timeout", "http", "kind"];
        assert_eq!(nearest("intervall", words.into_iter()), Some("interval"));
        assert_eq!(nearest("tiemout", words.into_iter()), Some("timeout"));
        assert_eq!(nearest("tls", words.into_iter()), None);
        assert_eq!(nearest("", words.into_iter()), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), words.into_iter()), None);
    }

    #[test]
    fn a_quoted_value_stays_on_its_line() {
        assert_eq!(quote("a\nb\u{1b}[31m\u{202e}"), "`a\\nb\\u{1b}[31m\\u{202e}`");
        assert_eq!(quote(&"x".repeat(100)), format!("`{}…`", "x".repeat(80)));
    }

    #[test]
    fn errors_come_by_position_each_once() {
        let mut faults = Faults::default();
        faults.wrong(4..5, "second".into());
        faults.wrong(0..1, "first".into());
        faults.wrong(4..5, "second".into());
        let errors = faults.into_errors("f", "a\nb\nc");
        let found: Vec<_> = errors.errors().iter().map(|e| (e.line, e.column, e.message.as_str())).collect();
        assert_eq!(found, [(1, 1, "first"), (3, 1, "second")]);
    }

    #[test]
    fn no_more_than_a_hundred_errors_are_printed() {
        let mut faults = Faults::default();
        for at in 0..20_000 {
            faults.wrong(at..at, format!("fault {at}"));
        }
        assert!(faults.is_full());
        let errors = faults.into_errors("f", &"x\n".repeat(10_000));
        assert_eq!(errors.errors().len(), 10_000);
        let printed = errors.to_string();
        assert!(printed.ends_with("\n… and 19900 more"), "{}", &printed[printed.len() - 100..]);
        assert_eq!(printed.lines().filter(|line| line.starts_with("f:")).count(), 100);
    }

    #[test]
    fn beside_a_syntax_error_nothing_is_said_to_be_missing() {
        let mut faults = Faults::default();
        faults.syntax(2..3, "broken".into());
        faults.missing(0..1, "no pool".into());
        faults.wrong(3..4, "in the broken line".into());
        faults.wrong(5..6, "elsewhere".into());
        let errors = faults.into_errors("f", "a\nbb\nc");
        let found: Vec<_> = errors.errors().iter().map(|e| e.message.as_str()).collect();
        assert_eq!(found, ["broken", "elsewhere"]);
    }
}
