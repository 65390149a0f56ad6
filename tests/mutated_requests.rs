//! Requests as nobody sends them: those of the real routes with their methods, paths, headers and bodies broken, and cut
//! short. The daemon answers each with a status that it has documented, panics at none, and the sessions that go on beside
//! lose no byte.
//!
//! `MUTATED_REQUESTS` says how many (as many as fit in a few seconds if it is left out), `MUTATED_SEED` from which seed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use changeover::admin::ROUTES;
use support::net::{self, meet};
use support::{Backend, Daemon, dial_unix, http};

/// Sessions that go on beside.
const SESSIONS: usize = 50;
/// Those who send requests, each on its own.
const SENDERS: u64 = 4;
/// For how long, unless a number is asked for.
const SHORT: Duration = Duration::from_secs(6);

/// Numbers by chance (`SplitMix64`): the same ones from the same seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

const METHODS: &[&str] = &[
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "BREW", "", "P\u{0}ST",
    "PRI",
];

/// Names of pools and backends, and what is none. The pool whose sessions are watched is not among them.
const NAMES: &[&str] = &[
    "victim",
    "victim",
    "victim",
    "v1",
    "v2",
    "v1",
    "nope",
    "",
    "..",
    "%2e%2e",
    "%FF",
    "%C0%80",
    "%zz",
    "%",
    "%00",
    "victim%00",
    "a b",
    "'",
    "{pool}",
    "*",
    "0",
    "-1",
    "%F0%9F%90%98",
    "victim/",
    "VICTIM",
    "victim.",
    "\u{1f418}",
    "%252e",
    "%0d%0aX-A:%201",
    "v1;x=1",
];

/// Numbers of sessions that there are none of.
const IDS: &[&str] =
    &["4000000000", "18446744073709551615", "18446744073709551616", "-1", "1e3", "0x10", "%31%FF", "", "NaN"];

const QUERIES: &[&str] = &[
    "limit=1",
    "limit=0",
    "limit=1000",
    "limit=1001",
    "limit=-1",
    "limit=1e9",
    "limit=99999999999999999999",
    "after=0",
    "after=18446744073709551615",
    "after=x",
    "kind=pool.*",
    "kind=*",
    "kind=,,,",
    "kind=%FF",
    "pool=victim",
    "pool=orders",
    "backend=v1",
    "since=2026-11-21T10:00:00Z",
    "since=0000-00-00T00:00:00Z",
    "since=9999-12-31T23:59:59.999999999Z",
    "since=-262144-01-01T00:00:00Z",
    "until=now",
    "listener=orders",
    "target=primary",
    "target=any",
    "target=%00",
    "client=10.0.0.7",
    "client=::1",
    "client=::ffff:1.2.3.4",
    "client=300.0.0.1",
    "client=fe80::1%25eth0",
    "&&&&",
    "=",
    "a[]=b",
    "limit=1&limit=2",
    "%",
    "+",
    "?",
    "kind=%zz&limit=",
];

const HEADERS: &[&str] = &[
    "Content-Type: application/json",
    "Content-Type: text/plain; charset=\"",
    "Content-Type: ",
    "Accept: */*;q=2",
    "Expect: 100-continue",
    "Expect: a miracle",
    "Authorization: Bearer x",
    "Authorization: Bearer ",
    "Authorization: Basic eDp5",
    "Authorization: \u{1f418}",
    "Authorization: Bearer eyJhbGciOiJub25lIn0.e30.",
    "Origin: http://evil.example",
    "Origin: null",
    "Host: evil.example",
    "Host: [::1",
    "If-None-Match: *",
    "If-None-Match: W/\"g1-0\", \"",
    "If-None-Match: \u{80}",
    "Last-Event-ID: 7",
    "Last-Event-ID: -7",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding: chunked, chunked",
    "Content-Length: 5",
    "Content-Length: -5",
    "Content-Length: 99999999999999999999",
    "Content-Encoding: gzip",
    "Connection: upgrade",
    "Upgrade: h2c",
    "Upgrade: websocket",
    "Range: bytes=0-",
    "Range: bytes=-",
    "X-A: \u{0}",
    ": nothing",
    "no colon",
    " folded",
    "Cookie: a=b",
    "X-Forwarded-For: 127.0.0.1",
    "Keep-Alive: timeout=999999999999",
    "TE: trailers",
];

/// Bodies that the routes take.
const BODIES: &[&str] = &[
    "",
    "{}",
    r#"{"to": "v2", "reason": "a test", "sessions": "close"}"#,
    r#"{"to": "v1", "sessions": "drain"}"#,
    r#"{"timeout": "1ms"}"#,
    r#"{"timeout": "10ms"}"#,
    r#"{"error": "it hung"}"#,
    r#"{"name": "v3", "address": "127.0.0.1:9", "priority": 3, "weight": 2}"#,
    r#"{"name": "v4", "address": "nowhere.invalid:9", "check": {"interval": "1s", "kind": "none"}}"#,
    r#"{"weight": 3, "priority": null}"#,
    r#"{"health": "unhealthy", "ttl": "1s", "reason": "disk full", "metrics": {"cpu_percent": 97.5, "memory_percent": 1}}"#,
    r#"{"health": "unknown", "ttl": "1s"}"#,
    r#"{"check": {"interval": "250ms", "timeout": "1s"}, "failover": {"automatic": false}}"#,
    r#"{"failover": {"failback_after": "1s", "sessions": {"dead": "keep"}}}"#,
    r#"{"check": {"interval": null}}"#,
];

/// What a value of a body may be replaced by.
const VALUES: &[&str] = &[
    "null",
    "true",
    "[]",
    "{}",
    "-1",
    "0",
    "1e999",
    "-1e-999",
    "18446744073709551616",
    "99999999999999999999999999999999999999999",
    "0.1",
    "NaN",
    "Infinity",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\uD83D\\uDC18\"",
    "\"\u{1f418}\"",
    "\"\u{202e}x\"",
    "\"1h 1h\"",
    "\"999999999999999h\"",
    "\"-1s\"",
    "\"0s\"",
    "\"1ns\"",
    "[[[[[[[[]]]]]]]]",
    "{\"env\": \"HOME\"}",
    "{\"file\": \"/etc/passwd\"}",
    "\"127.0.0.1:99999\"",
    "\"[::]:0\"",
    "\"unix:\"",
    "\"unix:/nowhere\"",
    "4294967296",
    "\"keep\"",
    "\"healthy\"",
];

/// A request, and where it is cut off.
struct Mutant {
    bytes: Vec<u8>,
    is_whole: bool,
}

fn path(chance: &mut Chance) -> String {
    let route = ROUTES[chance.below(ROUTES.len())].path;
    let mut path: String = route
        .split('/')
        .map(|part| match part {
            "{id}" => chance.of(IDS).to_owned(),
            "{file}" => chance.of(&["style.css", "..", "%2e%2e%2fmod.rs", "index.html", "%FF", ""]).to_owned(),
            "{pool}" if !chance.one_in(3) => "victim".to_owned(),
            "{backend}" if !chance.one_in(3) => chance.of(&["v1", "v2", "v3"]).to_owned(),
            _ if part.starts_with('{') => chance.of(NAMES).to_owned(),
            _ if chance.one_in(40) => chance.of(NAMES).to_owned(),
            _ => part.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("/");
    if chance.one_in(12) {
        let at = chance.below(path.len() + 1);
        if path.is_char_boundary(at) {
            path.insert_str(
                at,
                chance.of(&["/", "%", "%2F", "?", "#", "\u{0}", " ", "\u{e9}", "//", "%ff", "\\", "@", ":"]),
            );
        }
    }
    if chance.one_in(3) {
        let queries: Vec<&str> = (0..=chance.below(3)).map(|_| chance.of(QUERIES)).collect();
        path = format!("{path}?{}", queries.join("&"));
    }
    match chance.below(200) {
        0 => "*".to_owned(),
        1 => format!("http://localhost{path}"),
        2 => format!("{path}{}", "x".repeat(20_000)),
        3 => "localhost:1".to_owned(),
        _ => path,
    }
}

fn body(chance: &mut Chance) -> Vec<u8> {
    let mut body = chance.of(BODIES).to_owned();
    if chance.one_in(3)
        && let Some((head, tail)) = body.split_once(": ")
    {
        let rest = tail.find([',', '}']).map_or("", |end| &tail[end..]);
        body = format!("{head}: {}{rest}", chance.of(VALUES));
    }
    match chance.below(60) {
        0 => body = format!("{}1{}", "[".repeat(chance.below(500)), "]".repeat(chance.below(500))),
        1 => body = format!("{}1{}", "{\"to\":".repeat(chance.below(500)), "}".repeat(chance.below(500))),
        2 => body = format!("{{\"reason\": \"{}\"}}", "x".repeat(chance.below(70_000))),
        3 => body = format!("{{{}}}", vec!["\"to\": \"v1\""; 1 + chance.below(50)].join(", ")),
        4 => body = format!("\u{feff}{body}"),
        5 => body = " ".repeat(chance.below(70_000)),
        _ => {}
    }
    let mut bytes = body.into_bytes();
    for _ in 0..chance.of(&[&0_usize, &0, &0, &1, &3]).to_owned() {
        if !bytes.is_empty() {
            let at = chance.below(bytes.len());
            match chance.below(3) {
                0 => bytes[at] = chance.next().to_le_bytes()[0],
                1 => bytes.truncate(at),
                _ => bytes.insert(at, chance.next().to_le_bytes()[0]),
            }
        }
    }
    bytes
}

fn mutant(chance: &mut Chance) -> Mutant {
    let mut method = ROUTES[chance.below(ROUTES.len())].method;
    let path = path(chance);
    if let Some(route) = ROUTES.iter().find(|route| is_at(route.path, &path))
        && !chance.one_in(4)
    {
        method = route.method;
    }
    if chance.one_in(20) {
        method = chance.of(METHODS);
    }
    let body = body(chance);
    let version =
        if chance.one_in(50) { chance.of(&["HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "http/1.1", ""]) } else { "HTTP/1.1" };
    let mut head = format!("{method} {path} {version}\r\n");
    if !chance.one_in(50) {
        head.push_str("Host: localhost\r\n");
    }
    if !chance.one_in(30) {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for _ in 0..chance.of(&[&0_usize, &0, &1, &1, &3]).to_owned() {
        head.push_str(&format!("{}\r\n", chance.of(HEADERS)));
    }
    match chance.below(300) {
        0 => head.push_str(&format!("X-Long: {}\r\n", "x".repeat(chance.below(40_000)))),
        1 => head.push_str(&"X-Many: 1\r\n".repeat(chance.below(200))),
        _ => {}
    }
    head.push_str("Connection: close\r\n\r\n");
    let mut bytes = [head.into_bytes(), body].concat();
    // A byte of the head changed may make any name of another, but none so long as the one that must not come out.
    if chance.one_in(25) {
        let at = chance.below(bytes.len());
        bytes[at] = chance.next().to_le_bytes()[0];
    }
    let is_whole = !chance.one_in(15);
    if !is_whole {
        bytes.truncate(chance.below(bytes.len()));
    }
    Mutant { bytes, is_whole }
}

/// Whether `path` is one of the route's, by its parts.
fn is_at(route: &str, path: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let (route, path): (Vec<&str>, Vec<&str>) = (route.split('/').collect(), path.split('/').collect());
    route.len() == path.len() && route.iter().zip(path).all(|(wanted, part)| wanted.starts_with('{') || *wanted == part)
}

/// What came of the requests.
#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    statuses: BTreeMap<u16, u64>,
    /// Connections that were closed without an answer.
    silent: u64,
    faults: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.silent += other.silent;
        self.faults.extend(other.faults);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }

    /// Sends one and notes what came of it.
    fn send(&mut self, socket: &Path, mutant: &Mutant) {
        self.sent += 1;
        let Some(answer) = exchange(socket, mutant) else {
            self.silent += 1;
            return;
        };
        let text = String::from_utf8_lossy(&answer);
        let told = || {
            let sent: String = String::from_utf8_lossy(&mutant.bytes).chars().take(600).collect();
            let got: String = text.chars().take(600).collect();
            format!("{sent:?}\n  -> {got:?}")
        };
        let Some(status) = text.get(9..12).and_then(|status| status.parse::<u16>().ok()) else {
            self.silent += 1;
            if !answer.is_empty() {
                self.faults.push(format!("no HTTP: {}", told()));
            }
            return;
        };
        *self.statuses.entry(status).or_default() += 1;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let is_problem = head.to_ascii_lowercase().contains("content-type: application/problem+json");
        // What the library cannot read it answers itself, without a body.
        let is_bare = [400, 431, 414].contains(&status) && head.contains("content-length: 0");
        if status >= 400 && !is_problem && !is_bare {
            self.faults.push(format!("no problem: {}", told()));
        }
        let codes = ["starting", "draining", "no_eligible_backend", "too_many_subscribers", "store_busy"];
        let is_known =
            status == 503 && (body.is_empty() || codes.iter().any(|code| body.contains(&format!("\"{code}\""))));
        if status >= 500 && !is_known {
            self.faults.push(format!("the daemon's fault: {}", told()));
        }
    }
}

/// What is answered, up to where it is plain that it goes on for ever; none if the daemon hangs up without a word.
fn exchange(socket: &Path, mutant: &Mutant) -> Option<Vec<u8>> {
    let mut stream = dial_unix(socket).unwrap();
    // It may have answered, and hung up, before it has read all of it.
    stream.write_all(&mutant.bytes).ok();
    // Nothing more comes: what waits for the rest of a request gives up.
    stream.shutdown(Shutdown::Write).ok();
    let (mut answer, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("no end: {:?}\n{:?}", String::from_utf8_lossy(&mutant.bytes), String::from_utf8_lossy(&answer))
            }
            Err(_) => break,
        }
        let head = answer.windows(4).position(|end| end == b"\r\n\r\n").map(|end| &answer[..end]);
        if head.is_some_and(|head| String::from_utf8_lossy(head).contains("text/event-stream")) {
            break;
        }
    }
    (!answer.is_empty() || !mutant.is_whole).then_some(answer)
}

/// How many in all, if it is said.
fn wanted() -> Option<u64> {
    std::env::var("MUTATED_REQUESTS").ok().map(|count| count.parse().expect("MUTATED_REQUESTS is a number"))
}

fn seed() -> u64 {
    std::env::var("MUTATED_SEED").map_or(20_261_121, |seed| seed.parse().expect("MUTATED_SEED is a number"))
}

struct World {
    daemon: Daemon,
    socket: PathBuf,
    _backends: [Backend; 3],
}

fn world(dir: &Path) -> World {
    let backends = [Backend::start("o1"), Backend::start("v1"), Backend::start("v2")];
    let socket = dir.join("admin.sock");
    let daemon = Daemon::start(&format!(
        "[admin]\nbind = \"unix:{}\"\nrate_limit = \"0\"\n\
         [listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [listeners.victim]\nbind = \"127.0.0.1:0\"\npool = \"victim\"\n{}{}{}",
        socket.display(),
        backends[0].toml("orders", 1),
        backends[1].toml("victim", 1),
        backends[2].toml("victim", 2),
    ));
    World { daemon, socket, _backends: backends }
}

#[test]
fn no_request_however_broken_harms_anything() {
    let (count, seed) = (wanted(), seed());
    println!("seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let listener = world.listener();
    let (stop, echoed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let (mut stream, _) = meet(listener).unwrap();
        let (stop, echoed) = (Arc::clone(&stop), Arc::clone(&echoed));
        sessions.push(std::thread::spawn(move || {
            let bytes = vec![u8::try_from(number).unwrap(); 1000];
            while !stop.load(Ordering::Relaxed) {
                net::echo(&mut stream, &bytes).map_err(|error| format!("session {number}: {error}"))?;
                echoed.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, String>(())
        }));
    }
    let (before, begun) = (world.daemon.resident(), Instant::now());
    let senders: Vec<_> = (0..SENDERS)
        .map(|number| {
            let (socket, mut chance, mut tally) =
                (world.socket.clone(), Chance(seed.wrapping_mul(SENDERS) + number), Tally::default());
            std::thread::spawn(move || {
                let goes_on = |sent: u64| count.map_or(begun.elapsed() < SHORT, |count| sent < count.div_ceil(SENDERS));
                while goes_on(tally.sent) {
                    tally.send(&socket, &mutant(&mut chance));
                }
                tally
            })
        })
        .collect();
    let mut all = Tally::default();
    senders.into_iter().for_each(|sender| all.add(sender.join().unwrap()));
    let after = world.daemon.resident();
    stop.store(true, Ordering::Relaxed);
    let ended: Vec<String> = sessions.into_iter().filter_map(|session| session.join().unwrap().err()).collect();
    println!(
        "{} requests in {:.1?}: {:?}, {} without an answer; {} echoes; {} KiB before, {} KiB after",
        all.sent,
        begun.elapsed(),
        all.statuses,
        all.silent,
        echoed.load(Ordering::Relaxed),
        before / 1024,
        after / 1024,
    );
    assert!(ended.is_empty(), "{ended:?}");
    assert!(
        all.faults.is_empty(),
        "{} faults, such as\n{}",
        all.faults.len(),
        all.faults[..all.faults.len().min(5)].join("\n")
    );
    for status in [200, 400, 404, 405, 422] {
        assert!(all.statuses.contains_key(&status), "nobody got as far as {status}: {:?}", all.statuses);
    }
    assert!(echoed.load(Ordering::Relaxed) >= SESSIONS as u64, "the sessions went on");
    let panics: Vec<String> = world.daemon.log().into_iter().filter(|line| line.contains("panicked")).collect();
    assert!(panics.is_empty(), "{panics:?}");
    let health = http::get_unix(&world.socket, "/readyz").unwrap();
    assert_eq!(health.status, 200, "{health:?}");
    let orders = http::get_unix(&world.socket, "/api/v1/pools/orders").unwrap().json();
    assert_eq!(
        (&orders["state"], &orders["backends"][0]["address"]),
        (&"healthy".into(), &world._backends[0].addr.to_string().into())
    );
    assert!(after < before + 128 * 1024 * 1024, "memory is bounded");
}

impl World {
    fn listener(&self) -> std::net::SocketAddr {
        self.daemon.listener("orders")
    }
}
