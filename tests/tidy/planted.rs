//! The test of the test: each rule is broken on purpose, in files that exist only here, and must be
//! found at its line; a file that only looks as if it broke them must pass.

use crate::comments::{MARKS, STUBS};
use crate::floors::{ROOMS, Room, table_faults};
use crate::shape::{EMPTY_NAMES, FILE_LINES, FUNCTION_LINES, TEST_LINES};
use crate::words::{Place, WORDS};
use crate::{Breach, check};

/// The breaches of a tree of files.
fn tree(files: &[(&str, &str)]) -> Vec<Breach> {
    let files: Vec<_> = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    check(&files)
}

/// The file `path`, with a header on line 1 and `body` from line 2 on.
fn file(path: &str, body: &str) -> Vec<Breach> {
    tree(&[(path, &format!("//! A header.\n{body}"))])
}

/// Holds that there is exactly one breach, at `line`, which says `words`.
#[track_caller]
fn assert_one(breaches: &[Breach], line: usize, words: &str) {
    assert!(
        matches!(breaches, [one] if one.line == line && one.message.contains(words)),
        "not the one breach at line {line} that says {words:?}: {breaches:#?}"
    );
}

#[track_caller]
fn assert_clean(breaches: &[Breach]) {
    assert!(breaches.is_empty(), "{breaches:#?}");
}

fn path_of(room: &str) -> String {
    if room == "main" { "src/main.rs".to_owned() } else { format!("src/{room}/mod.rs") }
}

#[test]
fn every_import_is_allowed_or_found_as_the_table_says() {
    for from in ROOMS {
        for to in ROOMS.iter().filter(|to| to.name != "main") {
            let root = if from.name == "main" { "changeover" } else { "crate" };
            let breaches = file(&path_of(from.name), &format!("\nuse {root}::{}::Thing;\n", to.name));
            if from.name == to.name || from.may_import.contains(&to.name) {
                assert_clean(&breaches);
            } else {
                assert_one(&breaches, 3, &format!("may not import `{}`", to.name));
            }
        }
    }
}

#[test]
fn an_import_is_found_however_it_is_written() {
    let cases = [
        ("an expression", "\n\nfn f() { crate::sys::now() }", 4),
        ("a path in a type", "\nstruct S(Vec<crate::sys::Clock>);", 3),
        (
            "a group over several lines",
            "use crate::{\n    model::{self, Thing},\n    sys::{\n        Clock,\n    },\n};",
            4,
        ),
        ("a group in a group", "use crate::{{model::Thing,\n{sys::Clock}}};", 3),
        ("a climb", "use super::sys::Clock;", 2),
        ("a climb by way of self", "use self::super::sys::Clock;", 2),
        ("a climb out of a nested module", "mod inner {\n    use super::super::sys::Clock;\n}", 3),
        ("a climb into a group", "use super::{\n    model::Thing,\n    sys::Clock,\n};", 4),
        (
            "a climb within a group",
            "mod inner {\n    use super::{\n        f,\n        super::sys::Clock,\n    };\n}",
            5,
        ),
        ("a macro's own path", "\n\nmacro_rules! m { () => { $crate::sys::now() } }", 4),
        ("the crate by its name", "use changeover::sys::Clock;", 2),
        ("the crate by its full name", "use ::changeover::sys::Clock;", 2),
        ("a test", "#[cfg(test)]\nmod tests {\n    use crate::sys::Clock;\n}", 4),
    ];
    for (what, body, line) in cases {
        let breaches = file("src/failover/mod.rs", body);
        assert!(breaches.len() == 1, "{what}: {breaches:#?}");
        assert_one(&breaches, line, "`failover` (floor 1) may not import `sys` (floor 2)");
    }
    assert_one(&file("src/failover/pool/tier.rs", "\nuse super::super::super::sys::Clock;"), 3, "may not import `sys`");
    assert_one(
        &file("src/relay.rs", "use super::probe::Thing;"),
        2,
        "`relay` (floor 4) may not import `probe` (floor 4)",
    );
}

#[test]
fn the_crate_root_cannot_be_taken_in_whole() {
    let cases = [
        "use crate::*;",
        "use crate as all;",
        "use crate::{self as all};",
        "use super::*;",
        "use super as all;",
        "use super::{model::Thing, self as all};",
        "extern crate self as all;",
    ];
    for body in cases {
        assert_one(&file("src/failover/mod.rs", body), 2, "the crate's root");
    }
    assert_one(&file("src/failover/mod.rs", "use crate::Thing;"), 2, "`crate::Thing` is no module");
}

#[test]
fn a_climb_within_the_module_is_no_import() {
    assert_clean(&file("src/failover/pool/tier.rs", "use super::super::health::Health;\npub(super) fn f() {}"));
    assert_clean(&file("src/failover/mod.rs", "pub(super) fn f() {}\nmod tests { use super::*; }"));
    assert_clean(&file("src/failover/tests.rs", "use super::*;\npub(in crate::failover) fn f() {}"));
}

#[test]
fn an_unknown_module_is_found_once() {
    let header = "//! A header.\n";
    let breaches = tree(&[("src/gossip/mod.rs", header), ("src/gossip/peer.rs", header), ("src/lib.rs", header)]);
    assert_one(&breaches, 1, "unknown module `gossip`: add it to the table");
}

#[test]
fn a_table_that_goes_up_sideways_nowhere_or_round_is_found() {
    let room = |name, floor, may_import| Room { name, floor, may_import };
    let faults = |rooms: &[Room]| table_faults(rooms).join("\n");
    assert_eq!(faults(&[room("a", 1, &["b"]), room("b", 0, &[])]), "");
    assert!(faults(&[room("a", 0, &["b"]), room("b", 1, &[])]).contains("`b`, which is not below it"));
    assert!(faults(&[room("a", 1, &["b"]), room("b", 1, &[])]).contains("`b`, which is not below it"));
    assert!(faults(&[room("a", 1, &["b"])]).contains("`b`, which has no row"));
    assert!(faults(&[room("a", 1, &[]), room("a", 0, &[])]).contains("more than one row"));
    assert!(faults(&[room("a", 1, &["b"]), room("b", 0, &["a"])]).contains("`a` is on a cycle"));
}

#[test]
fn every_word_is_found_out_of_its_place_and_let_be_in_it() {
    for word in WORDS {
        let (inside, outside): (&[&str], &[&str]) = match word.place {
            Place::Only(rooms) => (rooms, &["model", "relay", "failover::pool", "lib"]),
            Place::NotIn(rooms) => (&["sys", "session"], rooms),
        };
        let body = format!("\nfn f() {{ {} }}", word.text);
        let path = |room: &str| match room {
            "main" | "lib" => format!("src/{room}.rs"),
            room => format!("src/{}/part.rs", room.replace("::", "/")),
        };
        for room in outside {
            assert_one(&file(&path(room), &body), 3, word.why);
        }
        for room in inside {
            assert_clean(&file(&path(room), &body));
        }
        let test = format!("#[cfg(test)]\nmod tests {{\n    fn f() {{ {} }}\n}}", word.text);
        assert_eq!(file("src/model/part.rs", &test).len(), usize::from(word.in_tests), "{}", word.text);
    }
}

#[test]
fn a_word_is_found_as_it_is_really_written() {
    let cases = [
        ("src/relay/mod.rs", "\nfn f() { let now = std::time::Instant::now(); }", 3, "Instant::now"),
        ("src/demo/mod.rs", "\nfn f() { let now = SystemTime::now(); }", 3, "SystemTime::now"),
        ("src/relay/mod.rs", "thread_local! {\n    static BUFFERS: u8 = const { 0 };\n}", 3, "static"),
        ("src/model/mod.rs", "#[tokio::main(flavor = \"current_thread\")]\nfn f() {}", 2, "tokio::"),
        ("src/model/mod.rs", "use ::tokio::net::TcpStream;", 2, "tokio::"),
        ("src/model/mod.rs", "\nfn f() -> ::tokio::net::TcpStream {}", 3, "tokio::"),
        ("src/relay/mod.rs", "use libc as c;", 2, "libc::"),
        ("src/relay/mod.rs", "extern crate libc;", 2, "libc::"),
        ("src/relay/mod.rs", "fn f() {\n    let home = std::env::var(\"HOME\");\n}", 3, "std::env"),
        ("src/relay/mod.rs", "fn f() {\n    let home = env::var(\"HOME\");\n}", 3, "env::"),
        ("src/daemon/mod.rs", "fn f() { std::process::exit(1) }", 2, "process::exit"),
        ("src/failover/health.rs", "fn f() -> u8 {\n    fastrand::u8(..)\n}", 3, "fastrand::"),
        ("src/failover/mod.rs", "use std::collections::{BTreeMap, HashMap};", 2, "HashMap"),
        ("src/model/mod.rs", "#[unsafe(no_mangle)]\nfn f() {}", 2, "unsafe"),
    ];
    for (path, body, line, word) in cases {
        assert_one(&file(path, body), line, &format!("`{word}` has no place"));
    }
}

#[test]
fn unsafe_outside_sys_is_found_in_tests_too() {
    let body =
        "#[cfg(test)]\nmod tests {\n    // SAFETY: it is not.\n    fn f() { /* SAFETY: no. */ unsafe { g() } }\n}";
    assert_one(&file("src/relay/mod.rs", body), 5, "`unsafe` has no place in `relay`");
    assert_one(&file("src/relay/tests.rs", "\nunsafe fn f() {}"), 3, "`unsafe` has no place in `relay`");
}

#[test]
fn an_unsafe_block_gives_its_reason_each_one_its_own() {
    let clean = "fn f() {\n    // SAFETY: the descriptor is open,\n    // and stays so.\n    let n =\n        unsafe { g() };\n}";
    assert_clean(&file("src/sys/mod.rs", clean));
    assert_one(&file("src/sys/mod.rs", "fn f() {\n    unsafe { g() }\n}"), 3, "SAFETY");
    assert_one(&file("src/sys/mod.rs", "unsafe impl Send for S {}"), 2, "SAFETY");
    let shared = "fn f() {\n    // SAFETY: once.\n    unsafe { g() };\n    unsafe { g() };\n}";
    assert_one(&file("src/sys/mod.rs", shared), 5, "SAFETY");
}

#[test]
fn a_select_says_why_it_may_be_cancelled() {
    let select = "    tokio::select! {\n        _ = a => {}\n    }\n}";
    assert_clean(&file("src/relay/mod.rs", &format!("fn f() {{\n    // Cancel-safety: all of it.\n{select}")));
    assert_one(&file("src/relay/mod.rs", &format!("fn f() {{\n    // All of it.\n{select}")), 4, "Cancel-safety");
    let far = format!("fn f() {{\n    // Cancel-safety: too far up.\n{}{select}", "    g();\n".repeat(6));
    assert_one(&file("src/relay/mod.rs", &far), 10, "Cancel-safety");
}

#[test]
fn marks_of_unfinished_work_are_found_in_src_and_in_tests() {
    for path in ["src/model/mod.rs", "tests/relay.rs"] {
        for mark in MARKS {
            assert_one(&file(path, &format!("\n// Good so far.\n// {mark}: the rest.")), 4, mark);
            assert_one(&file(path, &format!("\n/* Good so far.\n   {mark} */")), 4, mark);
        }
        for stub in STUBS {
            assert_one(&file(path, &format!("\nfn f() {{\n    {stub}!()\n}}")), 4, stub);
        }
        let ignore = "ignore";
        assert_one(&file(path, &format!("\n#[test]\n#[{ignore} = \"slow\"]\nfn f() {{}}")), 4, "ignore");
        assert_one(&file(path, &format!("\n#[test]\n#[cfg_attr(unix, {ignore})]\nfn f() {{}}")), 4, "ignore");
    }
    let text = format!("\nfn f() {{ g(\"{}\") }}", MARKS.concat());
    assert_clean(&file("src/model/mod.rs", &text));
    for mark in MARKS {
        let text = format!("\nfn f() {{ g(\"{mark}: say it\") }}");
        assert_one(&file("src/model/mod.rs", &text), 3, mark);
        assert_clean(&file("tests/relay.rs", &text));
    }
}

#[test]
fn a_file_has_a_header_a_name_and_a_size() {
    assert_one(&tree(&[("src/model/mod.rs", "use std::fmt;\n")]), 1, "header");
    for name in EMPTY_NAMES {
        assert_one(&file(&format!("src/model/{name}.rs"), ""), 1, "says nothing");
        assert_one(&file("src/model/mod.rs", &format!("\nmod {name} {{}}")), 3, "says nothing");
    }
    let long = |lines: usize| "// A line.\n".repeat(lines);
    assert_clean(&file("src/model/mod.rs", &long(FILE_LINES - 1)));
    assert_one(&file("src/model/mod.rs", &long(FILE_LINES)), FILE_LINES + 1, "401 lines");
}

#[test]
fn the_tests_of_a_file_have_a_size_of_their_own() {
    let code = "// A line.\n".repeat(FILE_LINES - 1);
    let block = |lines: usize| format!("{code}#[cfg(test)]\nmod tests {{\n{}}}\n", "// A line.\n".repeat(lines - 3));
    assert_clean(&file("src/model/mod.rs", &block(TEST_LINES)));
    assert_one(&file("src/model/mod.rs", &block(TEST_LINES + 1)), TEST_LINES + 1, "801 lines of tests");
    let alone = |lines: usize| "// A line.\n".repeat(lines - 1);
    for path in ["src/model/tests.rs", "src/model/tests/parse.rs"] {
        assert_clean(&file(path, &alone(TEST_LINES)));
        assert_one(&file(path, &alone(TEST_LINES + 1)), TEST_LINES + 1, "801 lines of tests");
    }
    let parent =
        ("src/model/mod.rs", "//! A header.\n#[cfg(test)]\n#[allow(missing_docs)]\npub(crate) mod simulation;\n");
    let child = format!("//! A header.\n{}", alone(TEST_LINES));
    assert_clean(&tree(&[parent, ("src/model/simulation.rs", &child)]));
    assert!(!tree(&[("src/model/simulation.rs", &child)]).is_empty());
}

#[test]
fn a_function_has_a_size() {
    let function =
        |lines: usize| format!("\nfn f(a: [u8; 2]) -> fn(u8) -> u8 {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    assert_clean(&file("src/model/mod.rs", &function(FUNCTION_LINES)));
    assert_one(&file("src/model/mod.rs", &function(FUNCTION_LINES + 1)), 3, "a function of 71 lines");
    let wrapped = format!("impl S {{{}}}\n", function(FUNCTION_LINES + 1));
    assert_one(&file("src/model/mod.rs", &wrapped), 3, "a function of 71 lines");
    let test = format!("#[cfg(test)]\nmod tests {{{}}}\n", function(FUNCTION_LINES + 1));
    assert_clean(&file("src/model/mod.rs", &test));
}

#[test]
fn the_readme_maps_every_module() {
    let source = [("src/model/mod.rs", "//! A header.\n"), ("src/sys.rs", "//! A header.\n")];
    let with = |readme| tree(&[source[0], source[1], ("README.md", readme)]);
    assert_clean(&with("# Name\n## Code map\n| `src/model` | words |\n| `sys` | the kernel |\n"));
    assert_one(&with("# Name\n## Code map\n- `src/model`\n## System\nsys\n"), 2, "leaves out the module `sys`");
    assert_one(&with("# Name\nmodel, sys\n"), 1, "no section");
}

#[test]
fn all_breaches_are_told_at_once_in_order() {
    let breaches = tree(&[
        ("src/relay/mod.rs", "//! A header.\nuse crate::probe::Thing;\nfn f() { println!() }\n"),
        ("src/model/mod.rs", "use crate::sys::Clock;\n"),
    ]);
    let told: Vec<String> = breaches.iter().map(Breach::to_string).collect();
    let begins =
        ["src/model/mod.rs:1: `model`", "src/model/mod.rs:1: no", "src/relay/mod.rs:2: ", "src/relay/mod.rs:3: "];
    assert_eq!(told.len(), begins.len(), "{told:#?}");
    assert!(told.iter().zip(begins).all(|(line, begin)| line.starts_with(begin)), "{told:#?}");
}

#[test]
fn what_only_looks_like_a_breach_passes() {
    let sample = r####"//! See [`crate::sys`] and `tokio::net`; unsafe, static, Instant::now().

use std::collections::BTreeMap;
use crate::model::{self, Address};

/// [links](crate::sys::Clock) do not count, nor does println!.
/* use crate::sys::Clock; /* unsafe { } */ static X: u8 = 0; */
pub(crate) const WORDS: &'static [&'static str] = &["unsafe", "tokio::", "use crate::sys;", r"static", b"libc::"];
const RAW: &str = r##"println!("use crate::sys::Clock"#); fastrand::u8(..)"##;
const ESCAPED: &str = "\" unsafe { \\";
const QUOTES: [char; 4] = ['"', '\'', '\u{22}', '{'];
const BYTES: [u8; 2] = [b'"', b'\''];

fn f<'a, T: ?Sized + 'static>(r#static: &'a T, range: std::ops::Range<u8>) -> &'a T {
    'unsafe_loop: loop {
        let _ = (0..10, 1.0e3, range.start, model::word(), tables::tokio::row(), <T>::tokio::row());
        break 'unsafe_loop;
    }
    r#static
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[tokio::test]
    async fn a_test_may_print_and_read_a_clock() {
        println!("{:?}", std::time::Instant::now());
    }
}
"####;
    assert_clean(&tree(&[("src/failover/mod.rs", sample)]));
}
