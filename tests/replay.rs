//! A daemon's decisions are recorded, and decided again afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use changeover::config::OsSources;
use changeover::failover::recording::{FORMAT, Header, Scribe};
use changeover::failover::{Controller, Event};
use changeover::model::{Actor, Advice, MonoTime, ProbeId, ProbeOutcome, TargetId};
use rustix::process::Signal;
use serde_json::Value;
use support::process::Ended;
use support::{Backend, DEADLINE, Daemon, changeover, wait_until};
use tempfile::TempDir;

/// Two tiers and a check that is asked with a secret.
fn config(a: &Backend, b: &Backend) -> String {
    format!(
        "[listeners.orders]\nbind = \"127.0.0.1:0\"\npool = \"orders\"\n\
         [listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\
         [pools.orders.check]\ninterval = \"50ms\"\n[pools.orders.failover]\nfailback_after = \"0s\"\n{}{}\
         [pools.web]\nbackends = [\"{}\"]\n[pools.web.check]\nkind = \"http\"\ninterval = \"50ms\"\n\
         http = {{ path = \"/up?key=hunter3\", authorization = \"Bearer hunter2\" }}\n",
        a.toml("orders", 1),
        b.toml("orders", 2),
        a.addr,
    )
}

/// A recording in a directory that goes with it.
struct Recording {
    _dir: TempDir,
    file: PathBuf,
    text: String,
}

impl Recording {
    fn lines(&self) -> Vec<&str> {
        self.text.split_inclusive('\n').collect()
    }

    /// The same file with other contents.
    fn rewrite(&self, text: &str) {
        fs::write(&self.file, text).unwrap();
    }

    fn replay(&self, args: &[&str]) -> Ended {
        changeover(&[&["replay", self.file.to_str().unwrap()][..], args].concat())
    }

    /// How a message about line `number` begins.
    fn at(&self, number: usize) -> String {
        format!("{}:{number}: ", self.file.display())
    }
}

fn args(file: &Path) -> [&str; 2] {
    ["--record", file.to_str().unwrap()]
}

/// A daemon whose preferred backend dies and comes back, and that is then told to stop.
fn recorded() -> Recording {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("changeover.recording");
    let mut daemon = Daemon::start_args(&config(&a, &b), &args(&file));
    daemon.wait_active("orders", "a");
    a.kill();
    daemon.wait_active("orders", "b");
    a.restart();
    daemon.wait_active("orders", "a");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
    let text = fs::read_to_string(&file).unwrap();
    Recording { _dir: dir, file, text }
}

#[track_caller]
fn assert_says(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    let said = format!("{}{}", ended.stdout, ended.stderr);
    words.iter().for_each(|word| assert!(said.contains(word), "no `{word}` in\n{said}"));
}

#[test]
fn a_recording_is_decided_the_same_again_and_says_why() {
    let recording = recorded();
    let ended = recording.replay(&[]);
    let words = ["failover from a to b (dead)", "Connection refused", "failback from b to a", "orders serves from b"];
    assert_says(&ended, 0, &words);
    assert_says(
        &ended,
        0,
        &["all as recorded", "the daemon stopped", "probe", "changeover put a configuration in force"],
    );
    let last = ended.stdout.lines().last().unwrap();
    assert!(last.ends_with(" decisions, all as recorded") && !last.starts_with("0 "), "{last}");
    assert_eq!(fs::metadata(&recording.file).unwrap().permissions().mode() & 0o777, 0o600);

    let ended = recording.replay(&["--pool", "web"]);
    assert_says(&ended, 0, &["web", "all as recorded"]);
    assert!(!ended.stdout.contains("failover from a"), "another pool's: {ended:?}");
    let ended = recording.replay(&["--until", "0s"]);
    assert_says(&ended, 0, &["\n0 events, 0 decisions, all as recorded", "later was left out"]);
    let ended = recording.replay(&["--until", "2999-01-01T00:00:00Z"]);
    assert_says(&ended, 0, &["failback from b to a", "the daemon stopped"]);
    assert_says(&recording.replay(&["--until", "soon"]), 64, &["soon"]);
    for more in [&[][..], &["--json"]] {
        let ended = recording.replay(&[&["--pool", "ordres"][..], more].concat());
        assert_says(&ended, 64, &["has no pool `ordres`; did you mean `orders`?"]);
        assert!(!ended.stdout.contains("as recorded\n"), "{ended:?}");
    }
}

#[test]
fn a_replay_in_json_is_a_line_a_turn() {
    let ended = recorded().replay(&["--json"]);
    assert_says(&ended, 0, &[]);
    let lines: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (sum, turns) = lines.split_last().unwrap();
    assert_eq!(sum["as_recorded"], true);
    assert_eq!(sum["decisions"], turns.len());
    assert!(sum["events"].as_u64() > sum["decisions"].as_u64(), "{sum}");
    let failover =
        turns.iter().find(|turn| turn["commands"].to_string().contains("pool.failover")).expect("a failover");
    assert!(failover["event"].to_string().contains("refused"), "{failover}");
    assert!(failover["time"].as_str().unwrap().ends_with('Z'), "{failover}");
}

#[test]
fn no_secret_is_in_the_recording() {
    let recording = recorded();
    assert!(recording.text.contains("\"secret "), "it says that there was one");
    assert!(!recording.text.contains("hunter"), "{}", recording.text);
    assert!(!recording.replay(&[]).stdout.contains("hunter"));
}

#[test]
fn a_doctored_recording_is_found_out() {
    let recording = recorded();
    let lines = recording.lines();
    let line = lines.iter().position(|line| line.contains("failover from a to b")).expect("the failover");
    let mut doctored: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
    doctored[line] = doctored[line].replace("failover from a to b", "failover from a to c");
    recording.rewrite(&doctored.concat());
    let ended = recording.replay(&[]);
    assert_says(&ended, 1, &[&recording.at(line + 1), "otherwise than recorded", "to c (dead)", "to b (dead)"]);
    assert!(!ended.stdout.contains("all as recorded"), "{ended:?}");
    assert_says(&recording.replay(&["--json"]), 1, &["\"as_recorded\":false", "\"recorded\":["]);

    let without: Vec<&str> = lines.iter().enumerate().filter(|(at, _)| *at != line).map(|(_, line)| *line).collect();
    recording.rewrite(&without.concat());
    assert_says(&recording.replay(&[]), 1, &["otherwise than recorded"]);

    let header = lines[0].replace(env!("CARGO_PKG_VERSION"), "0.0.0-other");
    assert_ne!(header, lines[0]);
    doctored[0] = header;
    recording.rewrite(&doctored.concat());
    assert_says(&recording.replay(&[]), 1, &["recorded by changeover 0.0.0-other", "replay it with that version"]);
}

#[test]
fn a_recording_that_is_cut_off_is_replayed_as_far_as_it_goes() {
    let recording = recorded();
    let lines = recording.lines();
    let half = lines[lines.len() - 2];
    let whole: String = lines[..lines.len() - 2].concat();
    recording.rewrite(&format!("{whole}{}", &half[..half.len() / 2]));
    assert_says(&recording.replay(&[]), 0, &["cut off in the middle of a line", "all as recorded"]);
    recording.rewrite(&whole);
    assert_says(&recording.replay(&[]), 0, &["the recording has no end", "all as recorded"]);
    recording.rewrite(&lines[0][..20]);
    assert_says(&recording.replay(&[]), 78, &[&recording.at(1), "not whole"]);
    recording.rewrite("");
    assert_says(&recording.replay(&[]), 78, &[&recording.at(1)]);
}

#[test]
fn a_bad_line_is_named_with_its_place() {
    let recording = recorded();
    let lines = recording.lines();
    recording.rewrite(&[lines[0], lines[1], "{\"at\":1,\"event\":\"tock\"}\n"].concat());
    assert_says(&recording.replay(&[]), 78, &[&recording.at(3), "tock"]);
    recording.rewrite("[listeners.orders]\nbind = 1\n");
    assert_says(&recording.replay(&[]), 78, &[&recording.at(1), "not the first line of a recording"]);
    recording.rewrite(&lines[0].replace("\"recording\":1", "\"recording\":99"));
    assert_says(&recording.replay(&[]), 78, &["format 99"]);
    fs::remove_file(&recording.file).unwrap();
    assert_says(&recording.replay(&[]), 78, &["cannot be read", "No such file"]);
}

/// A plan, a question and its answer, as a controller of this seed takes them.
fn three_turns(seed: u64) -> String {
    let toml = "[listeners.x]\nbind = \"127.0.0.1:0\"\npool = \"x\"\n[pools.x]\nbackends = [\"127.0.0.1:1\"]\n";
    let plan = Arc::new(changeover::config::parse("x.toml", toml, &OsSources).expect("a good file"));
    let (mut core, mut scribe) = (Controller::new(seed), Scribe::default());
    let header =
        Header { format: FORMAT, changeover: "0.1.0".to_owned(), seed, started: "2026-11-21T00:00:00Z".to_owned() };
    let mut text = header.line().unwrap();
    let outcome = ProbeOutcome::Passed { latency: Duration::ZERO, advice: Advice::default() };
    let answer = Event::ProbeFinished { target: TargetId(1), probe: ProbeId(1), outcome };
    let events = [Event::PlanReplaced { plan, actor: Actor::changeover() }, Event::Tick, answer];
    for (at, event) in (0..).map(|turn| MonoTime::ZERO + Duration::from_millis(turn * 10)).zip(events) {
        let mut commands = Vec::new();
        core.handle(at, event.clone(), &mut commands);
        text.push_str(&scribe.line(at, &event, &commands).unwrap());
    }
    text
}

#[test]
fn a_turn_that_cannot_be_decided_at_all_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut died = 0;
    for seed in 0..8 {
        // No file of configuration may say this, and half of the seeds make it a little longer still, which is beyond all time.
        let recorded = three_turns(seed);
        let endless = recorded.replace("\"interval\":{\"secs\":1,", &format!("\"interval\":{{\"secs\":{},", u64::MAX));
        assert_ne!(endless, recorded);
        let file = dir.path().join(seed.to_string());
        fs::write(&file, endless).unwrap();
        let ended = changeover(&["replay", file.to_str().unwrap()]);
        if ended.code != Some(0) {
            assert_says(&ended, 70, &[&format!("{}:4: to decide this again panics", file.display())]);
            died += 1;
        }
    }
    assert!((1..8).contains(&died), "{died} of 8");
}

#[test]
fn a_daemon_that_is_killed_leaves_what_it_had_recorded() {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recording");
    let mut daemon = Daemon::start_args(&config(&a, &b), &args(&file));
    a.kill();
    daemon.wait_active("orders", "b");
    let is_written = || fs::read_to_string(&file).unwrap().contains("failover from a to b");
    wait_until("the failover is in the file", DEADLINE, is_written);
    daemon.kill();
    let ended = changeover(&["replay", file.to_str().unwrap()]);
    assert_says(&ended, 0, &["failover from a to b (dead)", "all as recorded"]);
}

#[test]
fn a_file_that_is_there_is_not_written_over() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let dir = tempfile::tempdir().unwrap();
    let (file, toml) = (dir.path().join("recording"), dir.path().join("changeover.toml"));
    fs::write(&file, "mine").unwrap();
    fs::write(&toml, format!("{}[admin]\nbind = \"127.0.0.1:0\"\n", config(&a, &b))).unwrap();
    let run = |more: &[&str]| changeover(&[&["run", "--config", toml.to_str().unwrap()][..], more].concat());
    assert_says(&run(&args(&file)), 64, &["is there already", file.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert_says(&run(&args(&dir.path().join("no/such/place"))), 64, &["No such file"]);
    assert_says(&run(&["--record", "/tmp/x", "--record-max", "much"]), 64, &["much", "is no size"]);
    assert_says(&run(&["--record-max", "1MiB"]), 64, &["--record"]);
}

#[test]
fn a_daemon_whose_recording_is_full_goes_on() {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recording");
    let more = [&args(&file)[..], &["--record-max", "8KiB"]].concat();
    let daemon = Daemon::start_args(&config(&a, &b), &more);
    daemon.wait_metric("recording_active", &[], 0.0);
    let ended = daemon.wait_logged("the recording has ended", |said| !said.is_empty());
    assert_eq!(ended.len(), 1, "{:?}", daemon.log());
    a.kill();
    daemon.wait_active("orders", "b");
    assert!(fs::metadata(&file).unwrap().len() <= 8192);
    assert_says(&changeover(&["replay", file.to_str().unwrap()]), 0, &["--record-max was reached", "all as recorded"]);

    let full = Daemon::start_args(&config(&a, &b), &args(&dir.path().join("other")));
    full.wait_metric("recording_active", &[], 1.0);
}
