//! One source file as the rules see it: where it stands among the modules, its tokens, and which
//! of them are tests.

use std::collections::BTreeSet;

use crate::lexer::{Comment, Kind, Token, lex};

/// Words after which `::name` begins a path, where after a name it would go on with one.
const KEYWORDS: &[&str] = &[
    "as", "await", "break", "const", "dyn", "else", "for", "if", "impl", "in", "match", "move", "mut", "pub", "ref",
    "return", "use", "where", "while",
];

/// A file under `src/`, or under `tests/`.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    /// The module below the crate's root: `src/failover/pool.rs` is `failover`, `pool`.
    pub(crate) modules: Vec<String>,
    pub(crate) tokens: Vec<Token>,
    pub(crate) comments: Vec<Comment>,
    /// Token ranges (first, last) of the items that exist in tests alone.
    tests: Vec<(usize, usize)>,
    all_test: bool,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (tokens, comments) = lex(text);
        let modules = modules(path);
        let all_test = modules.iter().any(|name| name == "tests") || whole_file_is_test(&tokens);
        let tests = test_items(&tokens);
        Self { path: path.to_owned(), text: text.to_owned(), modules, tokens, comments, tests, all_test }
    }

    /// The name by which the tables know this file: its top-level module, `main` or `lib`.
    pub(crate) fn room(&self) -> &str {
        match self.path.as_str() {
            "src/main.rs" => "main",
            "src/lib.rs" => "lib",
            _ => self.modules.first().map_or("", String::as_str),
        }
    }

    /// Whether this file is in `place`: `sys`, or `failover::schedule`.
    pub(crate) fn is_in(&self, place: &str) -> bool {
        let own = if self.modules.is_empty() { self.room().to_owned() } else { self.modules.join("::") };
        own.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    }

    /// Whether the token at `index` exists in tests alone.
    pub(crate) fn in_test(&self, index: usize) -> bool {
        self.all_test || self.tests.iter().any(|(first, last)| (*first..=*last).contains(&index))
    }

    /// How many lines there are, and how many of them belong to tests.
    pub(crate) fn lines(&self) -> (usize, usize) {
        let all = self.text.lines().count();
        if self.all_test {
            return (all, all);
        }
        let spans = self.tests.iter().filter_map(|(first, last)| {
            let (first, last) = (self.tokens.get(*first)?, self.tokens.get(*last)?);
            Some(last.last_line + 1 - first.line)
        });
        (all, spans.sum())
    }

    /// How many modules enclose the token at `index`, written out in this file or not.
    pub(crate) fn depth(&self, index: usize) -> usize {
        let written = (0..index).filter(|i| {
            self.is(*i, "mod") && self.is(i + 2, "{") && closing(&self.tokens, i + 2).is_some_and(|end| index < end)
        });
        self.modules.len() + written.count()
    }

    /// Whether the token at `index` is the code `text`.
    pub(crate) fn is(&self, index: usize, text: &str) -> bool {
        self.tokens.get(index).is_some_and(|token| token.is(text))
    }

    /// Whether a path begins at `index`: no `::` stands before it, or one with no name before that.
    pub(crate) fn begins_path(&self, index: usize) -> bool {
        let before = |back: usize| index.checked_sub(back).and_then(|at| self.tokens.get(at));
        if !before(1).is_some_and(|token| token.is("::")) {
            return true;
        }
        let arrow = before(3).is_some_and(|token| token.is("-") || token.is("="));
        !before(2).is_some_and(|token| {
            let name = token.kind == Kind::Word && !KEYWORDS.contains(&token.text.as_str());
            name || (token.is(">") && !arrow)
        })
    }

    /// The modules `#[cfg(test)] mod name;` that this file declares, as paths below the root.
    fn declared_tests(&self) -> impl Iterator<Item = Vec<String>> {
        self.tests.iter().filter_map(|(_, last)| {
            let name = last.checked_sub(1).and_then(|at| self.tokens.get(at))?;
            let is_mod = last.checked_sub(2).is_some_and(|at| self.is(at, "mod"));
            let own = self.modules.iter().cloned();
            (self.is(*last, ";") && is_mod).then(|| own.chain([name.text.clone()]).collect())
        })
    }
}

/// Every Rust file of the tree, each knowing whether another one declares it a test.
pub(crate) fn sources(files: &[(String, String)]) -> Vec<Source> {
    let rust = files.iter().filter(|(path, _)| path.ends_with(".rs"));
    let mut sources: Vec<Source> = rust.map(|(path, text)| Source::new(path, text)).collect();
    let declared: BTreeSet<Vec<String>> =
        sources.iter().filter(|source| source.path.starts_with("src/")).flat_map(Source::declared_tests).collect();
    for source in &mut sources {
        source.all_test |= declared.iter().any(|test| source.modules.starts_with(test));
    }
    sources
}

/// The index of the bracket that closes the one at `open`.
pub(crate) fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        if ["(", "[", "{"].iter().any(|mark| token.is(mark)) {
            depth += 1;
        } else if [")", "]", "}"].iter().any(|mark| token.is(mark)) {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some(index);
            }
        }
    }
    None
}

fn modules(path: &str) -> Vec<String> {
    let Some(inner) = path.strip_prefix("src/").and_then(|path| path.strip_suffix(".rs")) else { return Vec::new() };
    if ["lib", "main"].contains(&inner) {
        return Vec::new();
    }
    let mut modules: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if modules.last().is_some_and(|name| name == "mod") {
        modules.pop();
    }
    modules
}

/// Whether the attribute whose `[` is at `open` is `cfg(test)`, or `cfg(all(test, …))`.
fn is_cfg_test(tokens: &[Token], open: usize) -> bool {
    let Some(end) = closing(tokens, open) else { return false };
    let inner = tokens.get(open + 1..end).unwrap_or_default();
    let has = |word: &str| inner.iter().any(|token| token.is(word));
    inner.first().is_some_and(|token| token.is("cfg")) && has("test") && !has("not") && !has("any")
}

fn whole_file_is_test(tokens: &[Token]) -> bool {
    let at = |index: usize, mark: &str| tokens.get(index).is_some_and(|token| token.is(mark));
    (0..tokens.len()).any(|i| at(i, "#") && at(i + 1, "!") && at(i + 2, "[") && is_cfg_test(tokens, i + 2))
}

fn test_items(tokens: &[Token]) -> Vec<(usize, usize)> {
    let at = |index: usize, mark: &str| tokens.get(index).is_some_and(|token| token.is(mark));
    let mut items = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        if at(index, "#") && at(index + 1, "[") && is_cfg_test(tokens, index + 1) {
            let end = item_end(tokens, index);
            items.push((index, end));
            index = end;
        }
        index += 1;
    }
    items
}

/// The last token of the item that the attribute at `index` begins.
fn item_end(tokens: &[Token], mut index: usize) -> usize {
    let at = |index: usize, mark: &str| tokens.get(index).is_some_and(|token| token.is(mark));
    while index < tokens.len() {
        if at(index, ";") {
            return index;
        }
        if ["(", "[", "{"].iter().any(|mark| at(index, mark)) {
            let end = closing(tokens, index).unwrap_or(tokens.len() - 1);
            if at(index, "{") {
                return end;
            }
            index = end;
        }
        index += 1;
    }
    tokens.len().saturating_sub(1)
}
