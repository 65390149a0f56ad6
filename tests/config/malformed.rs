//! Nonsense: a thousand files that were good once, and some that never were.

use std::fmt::Write;

use super::{SECRET, file, good_files, read};

const FILES: u64 = 1000;

/// Words to put where they do not belong.
const WORDS: &[&str] = &[
    "'",
    "\"",
    "'''",
    "\"\"\"",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    ".",
    ",",
    "#",
    "\n",
    "\\u0000",
    "\\",
    "-",
    "0x",
    "1e999",
    "99999999999999999999999999",
    "-1",
    "nan",
    "1979-05-27T07:32:00Z",
    "true",
    "é",
    "\u{feff}",
    "\u{202e}",
    "\0",
    "{ env = 'X' }",
    "{ file = '/x' }",
    "[pools.",
    "[listeners.",
    "\"0s\"",
    "\"-1s\"",
    "\"99999999999999999h\"",
    "\"unix:\"",
    "\":::\"",
];

/// One change of a text; the text may stop being UTF-8.
pub(super) fn mutate(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = random.usize(..bytes.len());
    let end = (at + random.usize(1..40)).min(bytes.len());
    match random.u8(..9) {
        0 => bytes[at] ^= 1 << random.u8(..8),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let copy = bytes[at..end].to_vec();
            let to = random.usize(..bytes.len());
            bytes.splice(to..to, copy);
        }
        3 => bytes.truncate(at),
        4 => drop(bytes.splice(at..at, random.choice(WORDS).unwrap().bytes())),
        5 => swap_lines(bytes, random),
        6 => {
            let value = bytes[at..].iter().position(|b| *b == b'=').map_or(at, |to| at + to + 1);
            let line = bytes[value..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |to| value + to);
            bytes.splice(value..line, random.choice(WORDS).unwrap().bytes());
        }
        7 => {
            let depth = random.usize(1..3000);
            let nest = random.choice(["[", "{ a = ", "a.", "[["]).unwrap().repeat(depth);
            bytes.splice(at..at, nest.bytes());
        }
        _ => bytes[at] = random.u8(..),
    }
}

fn swap_lines(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let mut words: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let (a, b) = (random.usize(..words.len()), random.usize(..words.len()));
    words.swap(a, b);
    *bytes = words.join(&b'\n');
}

/// Reads `text`; answers whether it was wrong.
fn judge(text: &str) -> Result<bool, String> {
    let Err(errors) = read(text) else { return Ok(false) };
    let lines = text.lines().count().max(1);
    let mut before = (0, 0);
    for error in errors.errors() {
        let width = text.lines().nth(error.line.saturating_sub(1)).map_or(0, |line| line.chars().count());
        // One column behind the last character is where something is missing.
        if error.line == 0 || error.line > lines || error.column == 0 || error.column > width + 2 {
            return Err(format!("{error} is not in the file"));
        }
        if error.message.is_empty() || error.message.contains('\n') || (error.line, error.column) < before {
            return Err(format!("{error} is no good error"));
        }
        before = (error.line, error.column);
    }
    let printed = errors.to_string();
    if errors.errors().is_empty() || !printed.starts_with("test.toml:") {
        return Err(format!("no located error: {printed}"));
    }
    Ok(true)
}

#[test]
fn a_thousand_malformed_files_never_panic_and_always_name_a_place() {
    let good = good_files();
    let rounds = std::env::var("CHANGEOVER_MALFORMED").ok().and_then(|count| count.parse().ok()).unwrap_or(FILES);
    let mut wrong = 0;
    for seed in 0..rounds {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = random.choice(&good).unwrap().1.clone().into_bytes();
        for _ in 0..random.usize(1..6) {
            mutate(&mut bytes, &mut random);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match std::panic::catch_unwind(|| judge(&text)) {
            Ok(Ok(is_wrong)) => wrong += u64::from(is_wrong),
            Ok(Err(message)) => panic!("seed {seed}: {message}\n{text}"),
            Err(_) => panic!("seed {seed}: a panic\n{text}"),
        }
    }
    assert!(wrong * 100 >= rounds * 60, "{wrong} of {rounds} files were wrong");
    assert!(wrong < rounds, "none of {rounds} files was right");
}

#[test]
fn a_secret_in_a_malformed_file_is_not_printed() {
    let looked_up = "{ file = \"/etc/changeover/patroni-authorization\" }";
    let text = file("http-check.toml").replace(looked_up, &format!("\"Bearer {SECRET}\""));
    let line = text.find("authorization = ").unwrap()..text.find(SECRET).unwrap() + SECRET.len() + 2;
    assert!(text.contains(SECRET) && read(&text).is_ok());
    for seed in 0..FILES {
        let mut random = fastrand::Rng::with_seed(seed);
        // The line itself stays, but for one byte of its key; all around it is changed.
        let (mut before, mut after) = (text.as_bytes()[..line.start].to_vec(), text.as_bytes()[line.end..].to_vec());
        mutate(&mut before, &mut random);
        mutate(&mut after, &mut random);
        let mut middle = text.as_bytes()[line.clone()].to_vec();
        if random.bool() {
            middle[random.usize(.."authorization".len())] ^= 1 << random.u8(..7);
        }
        let broken = [before, b"\n".to_vec(), middle, after].concat();
        if let Err(errors) = read(&String::from_utf8_lossy(&broken)) {
            assert!(!errors.to_string().contains(SECRET), "seed {seed}: {errors}");
        }
    }
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    let inline = |depth: usize, key: &str| format!("{}1{}", format!("{{ {key} = ").repeat(depth), " }".repeat(depth));
    let dotted = |depth: usize| vec!["a"; depth].join(".");
    for text in [
        "[".repeat(100_000),
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("x = {}", inline(100_000, "a")),
        format!("x = {}", inline(70, &dotted(70))),
        format!("[{}]\n", dotted(100_000)),
        format!("{} = 1\n", dotted(79)),
        format!("[{}]\n{} = {}", dotted(79), dotted(79), inline(79, &dotted(79))),
        format!("x = 1\nx = {}", inline(78, &dotted(79))),
        format!("x = [{}]\nx = 1", inline(77, &dotted(79))),
    ] {
        assert_eq!(judge(&text), Ok(true));
    }
}

#[test]
fn a_file_that_is_wrong_a_million_times_is_answered_in_time() {
    let mut text = String::from("[listeners.l]\nbind = '127.0.0.1:1'\npool = 'p'\n[pools.p]\nbackends = ['a:1']\n");
    for at in 0..200_000 {
        let _ = writeln!(text, "unknown-{at} = {at}");
    }
    let errors = read(&text).unwrap_err();
    assert_eq!(errors.errors().len(), 10_000);
    assert!(errors.to_string().ends_with("… and 199900 more"));
    assert!(read(&"= ".repeat(200_000)).is_err());
    assert!(read(&"x\n".repeat(200_000)).is_err());
    assert!(read(&format!("x = '{}", "y".repeat(1 << 20))).is_err());
}

#[test]
fn more_than_the_limits_is_refused() {
    let mut text = String::from("[listeners.l]\nbind = '127.0.0.1:1'\npool = 'p'\n[pools.p]\nbackends = [\n");
    for at in 0..20_001 {
        let _ = writeln!(text, "'b{at}:1',");
    }
    text.push(']');
    let message = read(&text).unwrap_err().errors()[0].message.clone();
    assert_eq!(message, "[pools.p] has 20001 backends; 20000 is the most");
    assert!(read(&text.replace("'b20000:1',", "")).is_ok());
    for (part, body) in [("pools", "backends = ['a:1']"), ("listeners", "bind = '127.0.0.1:0'\npool = 'p0'")] {
        let mut text = String::new();
        for at in 0..1001 {
            let _ = writeln!(text, "[{part}.p{at}]\n{body}");
        }
        let errors = read(&text).unwrap_err().to_string();
        assert!(errors.contains(&format!("[{part}] has 1001 entries; 1000 is the most")), "{errors}");
    }
}
