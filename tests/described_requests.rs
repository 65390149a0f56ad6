//! Requests that are made from the API's own description, by a generator that is not ours (Schemathesis): those that the
//! description allows, those that it does not, and chains of them. The daemon's answers are what is described, never an error
//! of its own, and the sessions that go on beside lose no byte.
//!
//! `DESCRIBED_REQUESTS` says how many to each operation at most, `DESCRIBED_SEED` from which seed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use support::callers::token_table;
use support::net::{self, meet};
use support::process::Running;
use support::{Backend, Daemon, pace, wait_until};

/// Sessions that go on beside.
const SESSIONS: usize = 50;
/// How long the generator may take: some twenty times what it does.
const LIMIT: Duration = Duration::from_secs(400);
const TOKEN: &str = "t0ken-of-the-generator";
/// What it looks at in each answer. That whatever the schemas allow is taken (`positive_data_acceptance`) is not wanted: that
/// a duration has a unit, and a backend the name of one that is there, is more than a schema says.
const LEFT_OUT: &str = "positive_data_acceptance";

/// Two routes answer 503 because that is the answer: nobody would serve now. Everywhere else it is an error of the daemon's.
const SETTINGS: &str = r#"
[[operations]]
include-path = ["/api/v1/pools/{pool}/pick", "/readyz"]
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]
"#;

/// The generator: the one that `./tests/run` has put here, or one in the `PATH`.
fn generator() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/schemathesis/bin/schemathesis");
    if ours.exists() { ours } else { PathBuf::from("schemathesis") }
}

fn number(name: &str, otherwise: u64) -> String {
    let number: u64 = std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"));
    number.to_string()
}

/// The generator may do whatever it likes with one pool, and nothing with the one whose sessions are watched.
fn daemon(backends: &[Backend; 3]) -> Daemon {
    Daemon::start(&format!(
        "[admin]\nbind = \"127.0.0.1:0\"\nrate_limit = \"0\"\n{}\
         [listeners.untouched]\nbind = \"127.0.0.1:0\"\npool = \"untouched\"\n\
         [listeners.victim]\nbind = \"127.0.0.1:0\"\npool = \"victim\"\n{}{}{}",
        token_table("generator", TOKEN, "admin", "pools = [\"victim\"]"),
        backends[0].toml("untouched", 1),
        backends[1].toml("victim", 1),
        backends[2].toml("victim", 2),
    ))
}

/// Sessions that say something and wait for it to come back, for as long as they are wanted.
struct Beside {
    stop: Arc<AtomicBool>,
    echoed: Arc<AtomicU64>,
    sessions: Vec<JoinHandle<Result<(), String>>>,
}

impl Beside {
    fn start(daemon: &Daemon) -> Self {
        let (stop, echoed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let session = |number: usize| {
            let (mut stream, _) = meet(daemon.listener("untouched")).unwrap();
            let (stop, echoed) = (Arc::clone(&stop), Arc::clone(&echoed));
            thread::spawn(move || {
                let (bytes, mut last) = (vec![u8::try_from(number).unwrap(); 1000], Instant::now());
                while !stop.load(Ordering::Relaxed) {
                    net::echo(&mut stream, &bytes).map_err(|error| format!("session {number}: {error}"))?;
                    echoed.fetch_add(1, Ordering::Relaxed);
                    // They are there to be harmed, and not to keep the generator from its work.
                    pace(&mut last, Duration::from_millis(20));
                }
                Ok(())
            })
        };
        let sessions = (0..SESSIONS).map(session).collect();
        Self { stop, echoed, sessions }
    }

    /// What went wrong in any, and how often something came back.
    fn end(self) -> (Vec<String>, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.sessions.into_iter().filter_map(|session| session.join().unwrap().err()).collect();
        (ended, self.echoed.load(Ordering::Relaxed))
    }
}

#[test]
fn what_is_described_is_what_is_answered_and_nothing_is_harmed() {
    let backends = [Backend::start("o1"), Backend::start("v1"), Backend::start("v2")];
    let daemon = daemon(&backends);
    let beside = Beside::start(&daemon);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("schemathesis.toml"), SETTINGS).unwrap();
    let mut command = Command::new(generator());
    command
        .current_dir(&dir)
        .arg("run")
        .arg(format!("http://{}/api/v1/openapi.json", daemon.admin()))
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        // The stream of events has no end to wait for.
        .args(["--exclude-path", "/api/v1/events/stream"])
        .args(["--checks", "all", "--exclude-checks", LEFT_OUT])
        .args(["--max-examples", &number("DESCRIBED_REQUESTS", 10), "--seed", &number("DESCRIBED_SEED", 20_261_122)])
        .args(["--continue-on-failure", "--request-timeout", "30", "--no-color", "--warnings", "off"]);
    let mut running = Running::start(&mut command);
    wait_until("the generator has ended", LIMIT, || !running.is_running());
    let said = running.wait();
    let (ended, echoed) = beside.end();
    println!("{}\n{echoed} echoes beside", said.stdout);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("passed"), "it sent requests: {}", said.stdout);
    assert_eq!(ended, Vec::<String>::new());
    assert!(echoed > SESSIONS as u64);
    let log = daemon.log().join("\n");
    assert!(!log.contains("panic"), "{log}");
    assert_eq!(daemon.admin_get("/healthz").status, 200);
}
