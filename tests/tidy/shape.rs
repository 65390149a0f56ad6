//! Sizes, headers, names, and the code map of the README.

use std::collections::BTreeSet;

use crate::Breach;
use crate::source::{Source, closing};

/// Lines a file may have, comments included, its tests not.
pub(crate) const FILE_LINES: usize = 400;
/// Lines the tests of a file may have, whether at its end or in a file of their own.
pub(crate) const TEST_LINES: usize = 800;
/// Lines a function may have, from its `fn` to its last brace.
pub(crate) const FUNCTION_LINES: usize = 70;

/// Names that say nothing of what is inside.
pub(crate) const EMPTY_NAMES: &[&str] =
    &["utils", "util", "common", "helpers", "helper", "manager", "managers", "handler", "handlers", "types"];

/// The rules for one file of `src/`.
pub(crate) fn check(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut breach = |line: usize, message: String| breaches.push(Breach::new(&source.path, line, message));
    if !source.text.starts_with("//!") {
        breach(1, "no `//!` header: say what lives here, and what may not".to_owned());
    }
    let (all, test) = source.lines();
    if all - test > FILE_LINES {
        breach(FILE_LINES + 1, format!("{} lines without tests; a file has at most {FILE_LINES}", all - test));
    }
    if test > TEST_LINES {
        breach(TEST_LINES + 1, format!("{test} lines of tests; a file has at most {TEST_LINES}"));
    }
    if let Some(name) = source.modules.iter().find(|name| EMPTY_NAMES.contains(&name.as_str())) {
        breach(1, format!("`{name}` says nothing of what is inside: name the module for what it does"));
    }
    for (index, token) in source.tokens.iter().enumerate() {
        if token.is("mod")
            && source.is(index + 2, "{")
            && let Some(name) = source.tokens.get(index + 1)
            && EMPTY_NAMES.contains(&name.text.as_str())
        {
            breach(token.line, format!("`{}` says nothing of what is inside", name.text));
        }
        if token.is("fn") && !source.in_test(index) {
            let lines = function_lines(source, index);
            if lines > FUNCTION_LINES {
                breach(token.line, format!("a function of {lines} lines; it has at most {FUNCTION_LINES}"));
            }
        }
    }
    breaches
}

/// The lines of the function whose `fn` is at `index`; none where it has no body.
fn function_lines(source: &Source, index: usize) -> usize {
    let mut at = index + 1;
    // `fn(` is a type.
    if source.is(at, "(") {
        return 0;
    }
    while at < source.tokens.len() && !source.is(at, ";") && !source.is(at, "}") {
        let end =
            if ["(", "[", "{"].iter().any(|mark| source.is(at, mark)) { closing(&source.tokens, at) } else { None };
        if source.is(at, "{") {
            let lines = |first: usize, last: usize| {
                Some(source.tokens.get(last)?.last_line + 1 - source.tokens.get(first)?.line)
            };
            return end.and_then(|end| lines(index, end)).unwrap_or(0);
        }
        at = end.unwrap_or(at) + 1;
    }
    0
}

/// Modules that the README's code map leaves out; nothing where there is no README.
pub(crate) fn check_readme(files: &[(String, String)], sources: &[Source]) -> Vec<Breach> {
    let Some((path, text)) = files.iter().find(|(path, _)| path == "README.md") else { return Vec::new() };
    let is_heading = |line: &str| line.starts_with('#');
    let is_map = |line: &str| is_heading(line) && line.to_lowercase().contains("code map");
    let Some(start) = text.lines().position(is_map) else {
        return vec![Breach::new(path, 1, "no section `Code map`".to_owned())];
    };
    let map = text.lines().skip(start + 1).take_while(|line| !is_heading(line));
    let words: BTreeSet<&str> = map.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_')).collect();
    let modules: BTreeSet<&str> =
        sources.iter().filter_map(|source| source.modules.first()).map(String::as_str).collect();
    let left_out = modules.into_iter().filter(|name| !words.contains(name));
    left_out.map(|name| Breach::new(path, start + 1, format!("the code map leaves out the module `{name}`"))).collect()
}
