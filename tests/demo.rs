//! `changeover demo`, run as people run it: nobody fails, and nothing stays behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::process::{Ended, Guarded, lines, program};
use support::{DEADLINE, wait_until};

/// How long the demo that ends by itself is asked to run, and what the set-up and the end may take beside that.
const TIME: &str = "25s";
const WHOLE: Duration = DEADLINE.saturating_mul(2);

/// A running demo, and its lines as they come.
struct Demo {
    process: Guarded,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Demo {
    /// Starts it with `dir` for its temporary directory.
    fn start(dir: &Path, args: &[&str]) -> Self {
        let mut command: Command = program();
        command.arg("demo").args(args).env("TMPDIR", dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = Guarded(command.spawn().expect("the demo starts"));
        let lines = lines(process.0.stdout.take().expect("piped"));
        Self { process, lines, seen: Vec::new() }
    }

    /// Waits for a line with `text` in it. Others come for as long as the demo runs, so that the limit is for all of them.
    #[track_caller]
    fn wait_line(&mut self, text: &str) {
        let begun = Instant::now();
        loop {
            match self.lines.recv_timeout(WHOLE.saturating_sub(begun.elapsed())) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("no line with `{text}`: {error}\n{}", self.seen.join("\n")),
            }
            if self.seen.last().is_some_and(|line| line.contains(text)) {
                return;
            }
        }
    }

    /// Waits for its end.
    #[track_caller]
    fn end(mut self) -> Ended {
        let mut code = None;
        wait_until("the demo has ended", WHOLE, || {
            self.seen.extend(self.lines.try_iter());
            let ended = self.process.0.try_wait().expect("wait");
            code = ended.and_then(|status| status.code());
            ended.is_some()
        });
        self.seen.extend(self.lines.iter());
        Ended { code, stdout: self.seen.join("\n"), stderr: String::new() }
    }
}

/// A directory for temporary files that PostgreSQL's account may pass through.
fn scratch() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("co-demo-test-").permissions(mode).tempdir().expect("a directory")
}

/// Every process whose command line, environment or working directory speaks of `dir`.
fn processes_of(dir: &Path) -> Vec<String> {
    let of_dir = |process: &Path| {
        let says = |file: &str| {
            let text = fs::read(process.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&text).contains(dir.to_str().expect("text"))
        };
        let inside = fs::read_link(process.join("cwd")).is_ok_and(|cwd: PathBuf| cwd.starts_with(dir));
        inside || says("cmdline") || says("environ")
    };
    let all = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    let ours = all.filter(|path| path.join("cmdline").exists() && of_dir(path));
    ours.map(|path| String::from_utf8_lossy(&fs::read(path.join("cmdline")).unwrap_or_default()).into_owned()).collect()
}

/// Served, failed and the longest wait in milliseconds, by the last line.
#[track_caller]
fn summary(ended: &Ended) -> [u64; 3] {
    let last = ended.stdout.lines().last().unwrap_or_default();
    let numbers: Vec<u64> = last.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
    let numbers: [u64; 3] = numbers.try_into().unwrap_or_else(|_| panic!("no summary: {last}\n{}", ended.stdout));
    let [served, failed, wait] = numbers;
    assert_eq!(last, format!("served {served}, failed {failed}, longest wait {wait} ms"));
    numbers
}

#[track_caller]
fn left_nothing(dir: &Path) {
    // The children of a killed PostgreSQL notice its death by themselves.
    wait_until("no process is left", DEADLINE, || processes_of(dir).is_empty());
    let files: Vec<_> = fs::read_dir(dir).expect("the directory").flatten().map(|entry| entry.path()).collect();
    assert!(files.is_empty(), "left behind: {files:?}");
}

#[test]
fn nobody_fails_while_servers_are_killed_and_restored() {
    let dir = scratch();
    let mut demo = Demo::start(dir.path(), &["--for", TIME]);
    demo.wait_line("SIGKILL to alpha");
    assert!(!processes_of(dir.path()).is_empty(), "the search for what is left finds nothing even now");
    let ended = demo.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    let [served, failed, _] = summary(&ended);
    assert!(served > 100 && failed == 0, "{}", ended.stdout);
    for text in ["failover from alpha to beta", "failback from beta to alpha", "restored alpha", "SIGKILL to beta"] {
        assert!(ended.stdout.contains(text), "no `{text}` in\n{}", ended.stdout);
    }
    assert!(ended.stdout.contains("SIGKILL to primary"), "PostgreSQL took no part:\n{}", ended.stdout);
    assert!(ended.stdout.contains("failover from primary to standby1"), "{}", ended.stdout);
    let widest =
        ended.stdout.lines().skip_while(|line| !line.contains("what happened")).map(|line| line.chars().count());
    assert!(widest.max().is_some_and(|width| width <= 100), "{}", ended.stdout);
    left_nothing(dir.path());
}

#[test]
fn an_interrupt_ends_it_cleanly_while_a_server_is_dead() {
    let dir = scratch();
    let mut demo = Demo::start(dir.path(), &[]);
    demo.wait_line("failover from");
    kill_process(Pid::from_child(&demo.process.0), Signal::INT).expect("SIGINT");
    let ended = demo.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    let [served, failed, _] = summary(&ended);
    assert!(served > 0 && failed == 0, "{}", ended.stdout);
    left_nothing(dir.path());
}

#[test]
fn a_demo_that_is_killed_takes_its_servers_along() {
    let dir = scratch();
    let mut demo = Demo::start(dir.path(), &[]);
    demo.wait_line("failover from");
    demo.process.0.kill().expect("SIGKILL");
    demo.process.0.wait().expect("reaped");
    wait_until("no process is left", DEADLINE, || processes_of(dir.path()).is_empty());
}
