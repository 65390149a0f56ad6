//! What is left of tunnels' programs when something dies that had them in its hands: the daemon, its guard, or all at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use changeover::model::Attach;
use changeover::tunnel::FILE_NAME;
use support::cgroup::Cgroup;
use support::fake_tunnel;
use support::process::{Guarded, lines};
use support::tunnels::{Rig, bare, fake, guard, of, wait_gone};
use support::{DEADLINE, wait_until};

/// An address to which nothing is forwarded that anybody sends.
const NOWHERE: &str = "127.0.0.1:9";

#[test]
fn the_fake_tunnel_does_as_it_is_told() {
    fake_tunnel::act(daemon);
}

/// A name for the processes of one test.
fn id(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

#[test]
fn a_record_that_cannot_be_read_is_begun_anew() {
    let (dir, name) = (tempfile::tempdir().unwrap(), FILE_NAME);
    let path = dir.path().join(name);
    // As a host leaves it that lost its power.
    for left in ["", "{\"boot\": 7", "\0\0\0\0"] {
        std::fs::write(&path, left).unwrap();
        let mut rig = Rig::start(Some(dir.path().to_owned()), None);
        rig.begin(1, 1, &Arc::new(fake(1, "forward", &id("anew"), NOWHERE)));
        let pid = rig.started();
        wait_until("it is written down", DEADLINE, || {
            std::fs::read_to_string(&path).is_ok_and(|text| text.contains(&format!("\"pid\":{pid},")))
        });
        rig.end();
        assert!(!path.exists(), "nothing is left to sweep");
    }
}

/// A daemon that is to be killed: its hands have what is hardest to end, and it says when all of it runs.
fn daemon(mode: &str) {
    let id = std::env::var("DAEMON_ID").unwrap();
    let record = std::env::var("DAEMON_RECORD").unwrap();
    let mut rig = Rig::start(Some(record.into()), (mode == "guarded").then(guard));
    for (backend, mode) in [(1, "forward"), (2, "grandchild"), (3, "daemonized")] {
        rig.begin(backend, 1, &Arc::new(fake(backend, mode, &id, NOWHERE)));
    }
    for _ in 0..6 {
        rig.next();
    }
    println!("\nall run");
    loop {
        std::thread::park();
    }
}

fn a_daemon(mode: &str, id: &str, record: &Path) -> Command {
    let argv = fake_tunnel::argv();
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).env("FAKE_TUNNEL", mode).env("DAEMON_ID", id).env("DAEMON_RECORD", record);
    command
}

/// Starts it, and waits until all of its tunnels run.
fn start(mut command: Command) -> Guarded {
    let mut daemon = Guarded(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let said = lines(daemon.0.stdout.take().unwrap());
    let all_run = |line: String| line == "all run";
    while !said.recv_timeout(DEADLINE).is_ok_and(all_run) {}
    daemon
}

#[test]
fn the_guard_keeps_no_file_open_that_the_daemon_was_started_with() {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    let argv = guard();
    let mut guard = Guarded(Command::new(&argv[0]).args(&argv[1..]).stdin(Stdio::piped()).spawn().unwrap());
    drop(writer);
    // Whoever waits for the end of what the daemon writes sees it while the guard lives.
    let end = std::thread::spawn(move || BufReader::new(reader).lines().count());
    wait_until("the end is seen", DEADLINE, || end.is_finished());
    assert!(guard.0.try_wait().unwrap().is_none());
}

#[test]
fn nothing_is_left_two_seconds_after_a_daemon_was_killed() {
    let (id, dir) = (id("killed"), tempfile::tempdir().unwrap());
    let mut daemon = start(a_daemon("guarded", &id, dir.path()));
    assert!(of(&id).len() >= 5, "{:?}", of(&id));
    daemon.0.kill().unwrap();
    daemon.wait();
    let took = wait_gone(&id);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn what_a_daemon_left_that_was_killed_with_its_guard_is_swept_by_the_next() {
    let (id, dir) = (id("swept"), tempfile::tempdir().unwrap());
    let mut daemon = start(a_daemon("unguarded", &id, dir.path()));
    let (other, name) = (tempfile::tempdir().unwrap(), FILE_NAME);
    std::fs::copy(dir.path().join(name), other.path().join(name)).unwrap();
    let start_in = |dir: &Path| {
        let mut next = Rig::start(Some(dir.to_owned()), None);
        next.begin(9, 1, &Arc::new(bare(9, Attach::Address)));
        next.open(9);
        next
    };
    start_in(other.path()).end();
    assert!(of(&id).len() >= 5, "a daemon that lives keeps its own");
    daemon.0.kill().unwrap();
    daemon.wait();
    wait_until("the programs themselves are gone", DEADLINE, || of(&id).len() <= 2);
    assert_eq!(of(&id).len(), 2, "what they have started is left");
    let mut next = start_in(dir.path());
    assert_eq!(of(&id), [] as [u32; 0], "it is swept before anything is begun");
    next.end();
    assert!(!dir.path().join(name).exists(), "nothing is left to sweep");
}

/// As systemd does at last with what it finds in a unit's group.
#[test]
fn what_is_killed_with_its_whole_control_group_is_gone_and_the_next_daemon_begins_anew() {
    let Some(group) = Cgroup::make() else { return };
    let (id, dir) = (id("grouped"), tempfile::tempdir().unwrap());
    let mut daemon = start(group.inside_of(&a_daemon("guarded", &id, dir.path())));
    let (programs, inside) = (of(&id), group.processes());
    assert!(programs.len() >= 5, "{programs:?}");
    assert!(inside.contains(&daemon.0.id()) && programs.iter().all(|pid| inside.contains(pid)), "{inside:?}");
    assert_eq!(inside.len(), programs.len() + 2, "and the guard: {inside:?}");
    group.kill();
    daemon.wait();
    wait_gone(&id);
    wait_until("the group is empty", DEADLINE, || group.processes().is_empty());
    let record = dir.path().join(FILE_NAME);
    assert!(record.exists(), "nobody was left to write down that it is over");
    let mut next = Rig::start(Some(dir.path().to_owned()), Some(guard()));
    next.begin(1, 1, &Arc::new(fake(1, "forward", &id, NOWHERE)));
    let pid = next.started();
    next.open(1);
    assert_eq!(of(&id), [pid], "one that was not there before, and is left alone");
    assert!(!programs.contains(&pid));
    next.end();
    assert_eq!(of(&id), [] as [u32; 0]);
    assert!(!record.exists(), "nothing is left to sweep");
}
