//! Words that belong in one room, or that some rooms must not know.
//!
//! Tests may read clocks, print and wait as they need; only what is `in_tests` holds for them too.

use crate::Breach;
use crate::lexer::{Token, lex};
use crate::source::Source;

/// Where a word may stand.
pub(crate) enum Place {
    /// In these and nowhere else.
    Only(&'static [&'static str]),
    /// Everywhere but in these.
    NotIn(&'static [&'static str]),
}

/// A word, and its place. One that ends in `::` is a crate (or `std`'s module) at a path's beginning.
pub(crate) struct Word {
    pub(crate) text: &'static str,
    pub(crate) place: Place,
    pub(crate) why: &'static str,
    pub(crate) in_tests: bool,
}

const fn only(text: &'static str, rooms: &'static [&'static str], why: &'static str) -> Word {
    Word { text, place: Place::Only(rooms), why, in_tests: false }
}

const fn not_in(text: &'static str, rooms: &'static [&'static str], why: &'static str) -> Word {
    Word { text, place: Place::NotIn(rooms), why, in_tests: false }
}

const CLOCK: &str = "time is read in `sys` alone, and handed on";
const KERNEL: &str = "the kernel is spoken to in `sys` alone";
const LEADERS: &str = "in a container it may be 0, which its wrapper does not allow for: `own_process` does";
const PEOPLE: &str = "only `cli`, `demo` and `main` speak to the terminal; the daemon logs";
const ENVIRONMENT: &str = "the environment is read where the configuration is read, and at the entry";
const ORDER: &str = "its order of iteration must decide nothing: use the ordered kind";
const CHANCE: &str = "chance enters decisions through the controller's seed alone";

/// The words.
pub(crate) const WORDS: &[Word] = &[
    Word {
        text: "unsafe",
        place: Place::Only(&["sys"]),
        why: "what the compiler cannot check is kept in `sys`",
        in_tests: true,
    },
    only("static", &[], "state has an owner, who hands it on; what never changes is a `const`"),
    only("Instant::now", &["sys"], CLOCK),
    only("SystemTime::now", &["sys"], CLOCK),
    only("Timestamp::now", &["sys"], CLOCK),
    only("Zoned::now", &["sys"], CLOCK),
    only("UNIX_EPOCH.elapsed", &["sys"], CLOCK),
    not_in("tokio::", &["model", "failover", "config", "telemetry"], "this room knows no runtime, task or socket"),
    only("arc_swap::", &["routing"], "`routing` is the one seam between the planes"),
    only("prometheus::", &["telemetry"], "metrics are defined in one place"),
    only("std::env", &["config", "sys", "cli", "main", "demo"], ENVIRONMENT),
    only("env::", &["config", "sys", "cli", "main", "demo"], ENVIRONMENT),
    only("thread::sleep", &["demo"], "wait for the event, with a deadline"),
    only("println!", &["cli", "demo", "main"], PEOPLE),
    only("eprintln!", &["cli", "demo", "main"], PEOPLE),
    only("print!", &["cli", "demo", "main"], PEOPLE),
    only("eprint!", &["cli", "demo", "main"], PEOPLE),
    only("process::exit", &["cli", "demo", "main"], "the daemon ends by coming to its end: a drain may be under way"),
    only("libc::", &["sys"], KERNEL),
    only("rustix::", &["sys"], KERNEL),
    only("signal_hook::", &["sys"], KERNEL),
    only("getpgrp", &[], LEADERS),
    only("getsid", &[], LEADERS),
    not_in("HashMap", &["failover"], ORDER),
    not_in("HashSet", &["failover"], ORDER),
    only("rand::", &["failover::schedule", "demo"], CHANCE),
    only("fastrand::", &["failover::schedule", "failover::tries", "demo"], CHANCE),
];

/// Words out of their place.
pub(crate) fn check(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for word in WORDS {
        let allowed = match word.place {
            Place::Only(rooms) => rooms.iter().any(|room| source.is_in(room)),
            Place::NotIn(rooms) => !rooms.iter().any(|room| source.is_in(room)),
        };
        if allowed {
            continue;
        }
        let (pattern, _) = lex(word.text);
        for (index, token) in source.tokens.iter().enumerate() {
            if stands_at(source, &pattern, index) && (word.in_tests || !source.in_test(index)) {
                let message = format!("`{}` has no place in `{}`: {}", word.text, source.room(), word.why);
                breaches.push(Breach::new(&source.path, token.line, message));
            }
        }
    }
    breaches
}

fn stands_at(source: &Source, pattern: &[Token], index: usize) -> bool {
    let matches =
        |count: usize| (0..count).all(|i| pattern.get(i).is_some_and(|token| source.is(index + i, &token.text)));
    if !pattern.last().is_some_and(|token| token.is("::")) {
        return matches(pattern.len());
    }
    let before = |back: usize, text: &str| index.checked_sub(back).is_some_and(|at| source.is(at, text));
    // `use libc;` and `extern crate libc;` bring the crate in without a path.
    source.begins_path(index) && (matches(2) || (matches(1) && (before(1, "use") || before(1, "crate"))))
}
