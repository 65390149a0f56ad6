//! Comments that must be there, and marks of unfinished work that must not.

use crate::Breach;
use crate::lexer::{Comment, Kind};
use crate::source::{Source, closing};

/// How far above a `select!` its comment may end, in lines.
const CANCEL_SAFETY_REACH: usize = 6;

/// Put together here, so that a search of the tree for them finds only what is meant.
pub(crate) const MARKS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
/// Macros that stand for code that is not there.
pub(crate) const STUBS: &[&str] = &[concat!("to", "do"), concat!("unimple", "mented")];

/// `SAFETY:` before each unsafe block, `Cancel-safety:` before each select.
pub(crate) fn check_reasons(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (index, token) in source.tokens.iter().enumerate() {
        let opens = source.is(index + 1, "{") || source.is(index + 1, "impl");
        if token.is("unsafe") && opens && !source.comments.iter().any(|comment| covers_unsafe(source, comment, index)) {
            let message = "unsafe without a `// SAFETY:` comment before its statement".to_owned();
            breaches.push(Breach::new(&source.path, token.line, message));
        }
        let selects = token.is("select") && source.is(index + 1, "!") && !source.in_test(index);
        let near = |comment: &Comment| {
            comment.text.contains("Cancel-safety:")
                && comment.line <= token.line
                && comment.last_line + CANCEL_SAFETY_REACH >= token.line
        };
        if selects && !source.comments.iter().any(near) {
            let message = format!("select without a `Cancel-safety:` comment in the {CANCEL_SAFETY_REACH} lines above");
            breaches.push(Breach::new(&source.path, token.line, message));
        }
    }
    breaches
}

/// Whether `comment` gives the reason for the unsafe block at `index`: it stands in the same statement.
fn covers_unsafe(source: &Source, comment: &Comment, index: usize) -> bool {
    let ends = |at: usize| [";", "{", "}"].iter().any(|mark| source.is(at, mark));
    comment.text.contains("SAFETY:") && comment.at <= index && !(comment.at..index).any(ends)
}

/// Marks of unfinished work. In `tests/` strings are let be: there they are what is tested.
pub(crate) fn check_marks(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut mark = |line: usize, what: &str| {
        breaches.push(Breach::new(&source.path, line, format!("`{what}`: finish it, or leave it out")));
    };
    for comment in &source.comments {
        for (line, word) in marks_in(&comment.text, comment.line) {
            mark(line, word);
        }
    }
    for (index, token) in source.tokens.iter().enumerate() {
        if token.kind == Kind::Text && source.path.starts_with("src/") {
            for (line, word) in marks_in(&token.text, token.line) {
                mark(line, word);
            }
        }
        if source.is(index + 1, "!")
            && let Some(stub) = STUBS.iter().find(|stub| token.is(stub))
        {
            mark(token.line, &format!("{stub}!"));
        }
        if token.is("#") && source.is(index + 1, "[") && ignores(source, index + 1) {
            mark(token.line, "#[ignore]");
        }
    }
    breaches
}

fn marks_in(text: &str, first: usize) -> impl Iterator<Item = (usize, &'static str)> {
    text.lines().enumerate().flat_map(move |(offset, line)| {
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.filter_map(move |word| MARKS.iter().find(|mark| **mark == word).map(|mark| (first + offset, *mark)))
    })
}

/// Whether the attribute whose `[` is at `open` keeps a test from running.
fn ignores(source: &Source, open: usize) -> bool {
    let end = closing(&source.tokens, open).unwrap_or(open);
    source.is(open + 1, "ignore") || (source.is(open + 1, "cfg_attr") && (open..end).any(|i| source.is(i, "ignore")))
}
