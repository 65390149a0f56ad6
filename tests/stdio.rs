//! Backends whose every connection is a program of its own, with real programs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use changeover::dial::{Programs, Ways};
use changeover::model::{
    Approach, Attach, CheckError, CheckKind, DialError, ExpectCheck, Part, ProbeError, ProbeOutcome, ProgramPlan, Text,
    Via,
};
use changeover::probe::Prober;
use changeover::sys::{Clock, Spawner, Stream, dial_error};
use support::hall::{Hall, way};
use support::net::read_line;
use support::{DEADLINE, dial, in_time, wait_for, wait_until};

const MIB: usize = 1 << 20;

/// What programs have said to standard error.
type Heard = Arc<Mutex<Vec<String>>>;

fn plan(argv: &[&str]) -> Arc<ProgramPlan> {
    let argv = argv.iter().map(|&word| Text(vec![Part::Shown(word.into())])).collect();
    Arc::new(ProgramPlan { argv, env: Vec::new(), file: None })
}

fn programs(argv: &[&str], stop_grace: Duration) -> (Programs, Heard) {
    let heard = Heard::default();
    let kept = Arc::clone(&heard);
    let said = Arc::new(move |line: &str| kept.lock().unwrap().push(line.to_owned()));
    let spawner = Spawner::start().unwrap();
    (Programs { spawner, program: plan(argv), mark: "test".to_owned(), stop_grace, said }, heard)
}

/// A way to `pg1`, each connection of which is `script`.
fn shell(script: &str, stop_grace: Duration) -> (Ways, Arc<Via>, Heard) {
    let (ways, via) = (Ways::default(), way("pg1", Attach::Stdio));
    let (programs, heard) = programs(&["sh", "-c", script], stop_grace);
    ways.open_program(&via, programs);
    (ways, via, heard)
}

/// A hall in front of programs that are `script`.
fn hall(script: &str) -> Hall {
    let (ways, via, _) = shell(script, DEADLINE);
    Hall::start("", &[via], ways)
}

fn approach(via: &Arc<Via>) -> Approach {
    Approach { via: Some(Arc::clone(via)), ..Approach::PLAIN }
}

async fn dialled(ways: &Ways, via: &Arc<Via>) -> std::io::Result<Stream> {
    in_time("the dial is over", ways.dial(&via.target, DEADLINE, &approach(via))).await
}

/// Whether nothing is left of a process, not even for its parent.
fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

fn pid_of(stream: &mut TcpStream) -> u32 {
    read_line(stream).unwrap().trim().parse().unwrap()
}

/// The number that a program has written to `path`, with the end of its line.
fn pid_in(path: &Path) -> u32 {
    wait_for("the program has begun", DEADLINE, || fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok())
}

fn hash(pieces: impl Iterator<Item = Vec<u8>>) -> (usize, u64) {
    let (mut hasher, mut length) = (DefaultHasher::new(), 0);
    for byte in pieces.flatten() {
        hasher.write_u8(byte);
        length += 1;
    }
    (length, hasher.finish())
}

#[test]
fn a_program_is_a_connection_with_all_of_its_bytes_in_both_directions() {
    const LENGTH: usize = 64 * MIB;
    let hall = hall("cat");
    let stream = dial(hall.front).unwrap();
    let (mut to, mut from) = (stream.try_clone().unwrap(), stream);
    let piece =
        |number: usize| (0..MIB).map(|at| (at * 31 + number * 7 + (at >> 8)).to_le_bytes()[0]).collect::<Vec<u8>>();
    let writing = std::thread::spawn(move || {
        (0..LENGTH / MIB).for_each(|number| to.write_all(&piece(number)).unwrap());
        to.shutdown(Shutdown::Write).unwrap();
    });
    let read = std::iter::from_fn(|| {
        let mut part = vec![0; 256 * 1024];
        let length = from.read(&mut part).unwrap();
        part.truncate(length);
        (length > 0).then_some(part)
    });
    let got = hash(read);
    writing.join().unwrap();
    assert_eq!(got, hash((0..LENGTH / MIB).map(piece)));
}

#[test]
fn a_client_that_ends_first_gets_the_programs_whole_answer() {
    let hall = hall("n=$(wc -c); echo got $n; head -c 1000000 /dev/zero");
    let mut stream = dial(hall.front).unwrap();
    stream.write_all(&vec![7; 300_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"got 300000\n"));
    assert_eq!(answer.len(), 11 + 1_000_000);
}

#[test]
fn a_program_that_fails_halfway_is_a_reset_after_its_bytes() {
    for script in ["head -c 100000 /dev/zero; exit 3", "head -c 100000 /dev/zero; kill -9 $$"] {
        let hall = hall(script);
        let mut stream = dial(hall.front).unwrap();
        let mut answer = Vec::new();
        let error = stream.read_to_end(&mut answer).unwrap_err();
        assert_eq!((error.kind(), answer.len()), (ErrorKind::ConnectionReset, 100_000), "{script}");
    }
    let hall = hall("head -c 100000 /dev/zero");
    let mut answer = Vec::new();
    dial(hall.front).unwrap().read_to_end(&mut answer).unwrap();
    assert_eq!(answer.len(), 100_000, "and one that ends as it should is an end in order");
}

#[test]
fn a_program_that_is_killed_while_bytes_move_is_a_reset() {
    let hall = hall("echo $$; exec cat /dev/zero");
    let mut stream = dial(hall.front).unwrap();
    let pid = pid_of(&mut stream);
    stream.read_exact(&mut vec![0; MIB]).unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let error = std::io::copy(&mut stream, &mut std::io::sink()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    wait_until("nothing is left of it", DEADLINE, || is_gone(pid));
}

#[test]
fn a_fence_kills_the_program_with_what_it_had_still_to_pass_on() {
    let dir = tempfile::tempdir().unwrap();
    let (go, passed_on) = (dir.path().join("go"), dir.path().join("passed on"));
    let script =
        format!("echo $$; while [ ! -e '{}' ]; do sleep 0.01; done; cat > '{}'", go.display(), passed_on.display());
    let hall = hall(&script);
    let mut stream = dial(hall.front).unwrap();
    let pid = pid_of(&mut stream);
    stream.write_all(b"an order").unwrap();
    hall.fence("pg1");
    fs::write(&go, "").unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    wait_until("nothing is left of it", DEADLINE, || is_gone(pid));
    assert!(!passed_on.exists(), "what was queued for it is lost");
}

#[test]
fn a_program_that_fails_before_its_first_byte_leaves_the_client_to_the_next_backend() {
    for failing in [&["sh", "-c", "cat >/dev/null & exit 1"][..], &["sh", "-c", "kill -9 $$"], &["/nonexistent/ssh"]] {
        let (ways, vias) = (Ways::default(), [way("pg1", Attach::Stdio), way("pg2", Attach::Stdio)]);
        ways.open_program(&vias[0], programs(failing, DEADLINE).0);
        ways.open_program(&vias[1], programs(&["cat"], DEADLINE).0);
        let hall = Hall::start("resend = \"always\"", &vias, ways);
        let mut stream = dial(hall.front).unwrap();
        stream.write_all(b"hello\n").unwrap();
        assert_eq!(read_line(&mut stream).unwrap(), "hello", "{failing:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_started_is_the_tunnels_fault() {
    let (ways, via) = (Ways::default(), way("pg1", Attach::Stdio));
    ways.open_program(&via, programs(&["/nonexistent/ssh"], DEADLINE).0);
    let error = dialled(&ways, &via).await.unwrap_err();
    assert_eq!(dial_error(&error), DialError::TunnelDown);
    assert!(error.to_string().starts_with("its tunnel's program: cannot be started: "), "{error}");
    ways.shut(&via);
    assert_eq!(dial_error(&dialled(&ways, &via).await.unwrap_err()), DialError::TunnelDown);
}

#[tokio::test]
async fn a_connection_that_ends_in_order_leaves_its_program_time_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, done) = (dir.path().join("begun"), dir.path().join("done"));
    let script = format!("n=$(wc -c); sleep 0.1; echo $n > '{}'", done.display());
    let (ways, via, _) = shell(&script, DEADLINE);
    let stream = dialled(&ways, &via).await.unwrap();
    stream.send_all(&[7; 100_000]).await.unwrap();
    drop(stream);
    let passed_on = || tokio::task::yield_now();
    in_time("all has been passed on", async {
        while fs::read_to_string(&done).unwrap_or_default() != "100000\n" {
            passed_on().await;
        }
    })
    .await;
    let script = format!("echo $$ > '{}'; cat > /dev/null; exec sleep 1000", begun.display());
    let (ways, via, _) = shell(&script, Duration::from_millis(50));
    let stream = dialled(&ways, &via).await.unwrap();
    let pid = pid_in(&begun);
    drop(stream);
    in_time("nothing is left of it", async {
        while !is_gone(pid) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_program_that_lives_on_after_its_output_is_killed_and_no_end_in_order() {
    // It closes its output, and will never end: nobody can tell whether that was all.
    let (ways, via, _) = shell("echo $$; exec <&- >&-; exec sleep 1000", DEADLINE);
    let stream = dialled(&ways, &via).await.unwrap();
    let mut said = Vec::new();
    let error = in_time("it is over", async {
        let mut part = [0; 64];
        loop {
            match stream.receive(&mut part).await {
                Ok(0) => panic!("an end in order"),
                Ok(length) => said.extend_from_slice(&part[..length]),
                Err(error) => return error,
            }
        }
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let pid: u32 = String::from_utf8(said).unwrap().trim().parse().unwrap();
    in_time("nothing is left of it", async {
        while !is_gone(pid) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
fn what_programs_say_to_standard_error_is_always_read_and_told_line_by_line() {
    let script =
        "i=0; while [ $i -lt 20000 ]; do echo warning $i of many >&2; i=$((i+1)); done; echo ok; printf last >&2";
    let (ways, via, heard) = shell(script, DEADLINE);
    let hall = Hall::start("", &[via], ways);
    let mut said = String::new();
    dial(hall.front).unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "ok\n");
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 20_001);
    assert_eq!((heard[19_999].as_str(), heard[20_000].as_str()), ("warning 19999 of many", "last"));
}

#[tokio::test]
async fn what_programs_say_is_for_people_to_read_and_not_too_long() {
    let script = r"printf '\033[1;31mred\033[0m and plain\r\n\n' >&2; printf '\033]0;a title\007%02000d\n' 1 >&2
        printf 'in col' >&2; sleep 0.05; printf 'our \033[3' >&2; sleep 0.05; printf '1mlast' >&2";
    let (ways, via, heard) = shell(script, DEADLINE);
    let stream = dialled(&ways, &via).await.unwrap();
    assert_eq!(in_time("its end", stream.receive(&mut [0; 1])).await.unwrap(), 0);
    let long = format!("{}…", "0".repeat(1024));
    assert_eq!(*heard.lock().unwrap(), ["red and plain", &long, "in colour last"]);
}

#[test]
fn of_a_flood_on_standard_error_all_is_read_and_some_is_told() {
    const LINE: &str = "warnings";
    const ALL: usize = (LINE.len() + 1) * (2 << 20);
    let script = format!("yes {LINE} | head -c {ALL} >&2; echo ok; exec sleep 0.1");
    let (ways, via, heard) = shell(&script, DEADLINE);
    let hall = Hall::start("", &[via], ways);
    let mut said = String::new();
    dial(hall.front).unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "ok\n");
    let heard = heard.lock().unwrap();
    assert!(heard.contains(&"… and more than can be told".to_owned()));
    let is_whole_or_cut = |line: &&String| match line.strip_suffix('…') {
        Some(begun) => LINE.starts_with(begun),
        None => *line == LINE || *line == "… and more than can be told",
    };
    assert_eq!(heard.iter().find(|line| !is_whole_or_cut(line)), None);
    let told = heard.iter().filter(|line| *line == LINE).count() * (LINE.len() + 1);
    assert!((1 << 19..ALL / 2).contains(&told), "{told} bytes");
}

#[tokio::test]
async fn checks_go_through_a_program_to_the_end_of_the_way() {
    let expect = CheckKind::Expect(ExpectCheck { send: "PING\n".to_owned(), answer: "PING".to_owned() });
    for (script, kind, wanted) in [
        ("cat", &CheckKind::Tcp, None),
        ("cat", &expect, None),
        ("exit 255", &CheckKind::Tcp, Some(CheckError::ClosedEarly)),
        ("exit 0", &CheckKind::Tcp, Some(CheckError::ClosedEarly)),
        ("exit 255", &expect, Some(CheckError::ClosedEarly)),
    ] {
        let (ways, via, _) = shell(script, DEADLINE);
        let (prober, approach) = (Prober::new(Clock::start(), ways), approach(&via));
        let answer = prober.probe(&via.target, kind, DEADLINE, &approach);
        let found = match in_time("the answer", answer).await.outcome {
            ProbeOutcome::Passed { .. } => None,
            ProbeOutcome::Failed { error: ProbeError::Check(error), .. } => Some(error),
            other @ (ProbeOutcome::Failed { .. } | ProbeOutcome::Inconclusive { .. }) => panic!("{script}: {other:?}"),
        };
        assert_eq!(found, wanted, "{script}");
    }
}
