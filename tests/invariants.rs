//! The invariants that `src/lib.rs` lists: each has tests, and those tests exist.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::fs;
use std::path::Path;

/// Every line of Rust below `folder`.
fn lines_below(folder: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            lines_below(&path, lines);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            lines.extend(fs::read_to_string(&path).unwrap().lines().map(str::to_owned));
        }
    }
}

/// What stands in backticks after `Tests:`, for each numbered invariant of `text`.
fn named_tests(text: &str) -> Vec<(u32, Vec<String>)> {
    let mut invariants: Vec<(u32, Vec<String>)> = Vec::new();
    let mut naming = false;
    for line in text.lines().filter_map(|line| line.strip_prefix("//!")).map(str::trim) {
        if let Some((number, _)) = line.split_once(". ")
            && let Ok(number) = number.parse()
        {
            invariants.push((number, Vec::new()));
            naming = false;
        }
        naming |= line.starts_with("Tests:");
        if naming && let Some((_, tests)) = invariants.last_mut() {
            tests.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    invariants
}

#[test]
fn every_invariant_is_followed_by_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut lines = Vec::new();
    lines_below(&root.join("src"), &mut lines);
    lines_below(&root.join("tests"), &mut lines);
    let defined = |name: &str| lines.iter().any(|line| line.contains(&format!("fn {name}(")));
    let invariants = named_tests(&fs::read_to_string(root.join("src/lib.rs")).unwrap());
    assert!(invariants.len() >= 10, "{invariants:?}");
    for (number, tests) in &invariants {
        assert!(!tests.is_empty(), "invariant {number} names no test");
        let missing: Vec<&String> = tests.iter().filter(|name| !defined(name)).collect();
        assert!(missing.is_empty(), "invariant {number} names tests that do not exist: {missing:?}");
    }
}

#[test]
fn an_invariant_without_a_test_is_found() {
    let text = "//! 1. Holds.\n//!    Tests: `a`,\n//!    `b`.\n//! 2. Holds too,\n//!    says `nobody`.\n";
    assert_eq!(named_tests(text), [(1, vec!["a".to_owned(), "b".to_owned()]), (2, Vec::new())]);
}
