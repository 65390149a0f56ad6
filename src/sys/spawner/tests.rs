//! What holds of programs and of what they leave: with real ones.

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::*;
use crate::sys::{in_time, process, processes};

fn launch(argv: &[&str]) -> Launch {
    let argv = argv.iter().map(|&word| word.to_owned()).collect();
    Launch { argv, env: Vec::new(), file: None, connects: false, mark: "m".to_owned() }
}

fn shell(script: &str) -> Launch {
    launch(&["sh", "-c", script])
}

/// All that is written until nobody can write any more.
async fn said(child: &mut Child) -> String {
    let mut pipe = pipe::Receiver::from_owned_fd(child.output.take().unwrap()).unwrap();
    let mut said = String::new();
    in_time(pipe.read_to_string(&mut said)).await.unwrap();
    said
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn descriptors(pid: u32) -> Vec<String> {
    let names = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Has this thread, and those that it starts, not get `signal`.
fn block(signal: i32) {
    // SAFETY: all zeros is a set of signals for `sigaddset` to change, both functions get places on the stack, and what is blocked
    // is blocked for a thread of this test alone.
    #[expect(unsafe_code, reason = "no safe wrapper blocks a signal")]
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        assert_eq!(libc::sigaddset(&raw mut set, signal), 0);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()), 0);
    }
}

fn is_left(pid: u32) -> bool {
    process(pid).is_some()
}

#[tokio::test]
async fn a_program_has_its_own_descriptors_and_no_other() {
    let spawner = Spawner::start().unwrap();
    let _some_of_ours = fs::File::open("/").unwrap();
    let plain = spawner.spawn(launch(&["sleep", "1000"])).await.unwrap();
    // Of its libraries it opens some itself, and closes them.
    until("it has three", || descriptors(plain.pid()) == ["0", "1", "2"]).await;
    let fed = Launch { file: Some(b"secret".to_vec()), connects: true, ..launch(&["sleep", "1000"]) };
    let fed = spawner.spawn(fed).await.unwrap();
    until("it has four", || descriptors(fed.pid()) == ["0", "1", "2", "3"]).await;
}

#[tokio::test]
async fn a_program_starts_as_if_it_were_the_first_of_its_host() {
    let limit = Descriptors { limit: 0, started_with: Some(100) };
    // The thread that starts it has been left a signal that is blocked, as by whoever has started the daemon.
    let spawner = std::thread::spawn(|| {
        block(libc::SIGUSR1);
        Spawner::start().unwrap()
    });
    let spawner = spawner.join().unwrap().with_descriptors(limit);
    let child = spawner.spawn(launch(&["sleep", "1000"])).await.unwrap();
    let pid = child.pid();
    let about = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let status = about("status");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    for signals in ["SigBlk:", "SigIgn:", "SigCgt:", "CapAmb:"] {
        assert_eq!(field(signals).trim_matches('0'), "", "{signals} {}", field(signals));
    }
    assert_eq!(field("Umask:"), "0077");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    let seen = process(pid).unwrap();
    assert_eq!((seen.group, seen.parent), (pid, std::process::id()));
    let limits = about("limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("100"), "{files}");
}

#[tokio::test]
async fn a_program_reads_its_file_and_its_environment() {
    let spawner = Spawner::start().unwrap();
    let script = format!("cat {FILE_PATH}; cat <&3; echo $A $CHANGEOVER_TUNNEL >&2; echo $CARGO_MANIFEST_DIR");
    let env = vec![("A".to_owned(), "b".to_owned())];
    let mut child = spawner.spawn(Launch { file: Some(b"f".to_vec()), env, ..shell(&script) }).await.unwrap();
    assert_eq!(said(&mut child).await, "ffb m\n\n", "at its path, at its number, and what stands in the environment");
    assert!(in_time(child.ended()).await.unwrap().success());
}

#[tokio::test]
async fn the_connection_of_a_program_is_its_standard_input_and_output() {
    let spawner = Spawner::start().unwrap();
    let mut child = spawner.spawn(Launch { connects: true, ..shell("echo aside >&2; exec cat") }).await.unwrap();
    let connection = child.connection.take().unwrap();
    let mut connection = tokio::net::UnixStream::from_std(connection).unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut connection, b"there and back").await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut connection).await.unwrap();
    let mut back = String::new();
    in_time(connection.read_to_string(&mut back)).await.unwrap();
    assert_eq!(back, "there and back");
    assert_eq!(said(&mut child).await, "aside\n");
    assert!(in_time(child.ended()).await.unwrap().success());
}

#[tokio::test]
async fn what_cannot_be_started_says_why_and_whose_fault_it_is() {
    let spawner = Spawner::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    fs::write(&text, "no program").unwrap();
    let pipe = dir.path().join("pipe");
    let made = rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o700.into(), 0);
    made.unwrap();
    for (argv, words) in [
        (vec!["no-such-program-of-ours"], "No such file"),
        (vec!["/no/such/program"], "No such file"),
        (vec![text.to_str().unwrap()], "ermission denied"),
        (vec![pipe.to_str().unwrap()], "ermission denied"),
        (vec![""], "no name"),
        (vec!["/bin/true", "a\0b"], "nul byte"),
        (vec![], "no program"),
    ] {
        // With a file as well: its place may be where a failure to execute is told.
        for file in [None, Some(Vec::new())] {
            let error = spawner.spawn(Launch { file, ..launch(&argv) }).await.unwrap_err();
            let said = error.to_string();
            assert!(said.starts_with("cannot be started: ") && said.contains(words), "{argv:?}: {said}");
        }
    }
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group_until_it_was_waited_for() {
    let spawner = Spawner::start().unwrap();
    let mut child = spawner.spawn(shell("trap 'exit 3' TERM; sleep 1000 & echo $!; wait")).await.unwrap();
    let mut pipe = pipe::Receiver::from_owned_fd(child.output.take().unwrap()).unwrap();
    let mut line = [0; 32];
    let length = in_time(pipe.read(&mut line)).await.unwrap();
    let second: u32 = std::str::from_utf8(&line[..length]).unwrap().trim().parse().unwrap();
    child.signal_group(GroupSignal::Terminate).unwrap();
    in_time(child.exited()).await.unwrap();
    assert!(process(child.pid()).unwrap().is_zombie, "its number is not given to another yet");
    child.signal_group(GroupSignal::Kill).unwrap();
    let status = in_time(child.ended()).await.unwrap();
    assert_eq!(status.code(), Some(3));
    assert_eq!(in_time(child.ended()).await.unwrap().code(), Some(3), "it is known from then on");
    child.signal_group(GroupSignal::Kill).unwrap();
    until("the second one is gone", || !is_left(second)).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_program_that_nobody_wants_any_more() {
    let spawner = Spawner::start().unwrap();
    let child = spawner.spawn(shell("trap '' TERM INT HUP; sleep 1000 & wait")).await.unwrap();
    let group = child.pid();
    drop(child);
    until("the group is gone", || processes().iter().all(|process| process.group != group)).await;
    // One that is not taken: the future ends before the program is there.
    let mark = format!("unwanted-{group}");
    let mut wanted = Box::pin(spawner.spawn(Launch { mark: mark.clone(), ..launch(&["sleep", "1000"]) }));
    let polled = std::future::poll_fn(|context| std::task::Poll::Ready(wanted.as_mut().poll(context).is_pending()));
    polled.await;
    drop(wanted);
    // What was asked for later was started later.
    drop(spawner.spawn(launch(&["true"])).await.unwrap());
    let sought = format!("{MARK_VARIABLE}={mark}");
    until("it is gone", || processes().iter().all(|process| !crate::sys::is_marked(process.pid, &sought))).await;
}

#[tokio::test]
async fn a_process_that_was_left_to_us_does_not_stay_a_zombie_and_nobodys_child_is_taken() {
    let spawner = Spawner::start().unwrap();
    // In a session of its own, left by its parent, and it ends.
    let mut child = spawner.spawn(shell("setsid sh -c 'echo $$; exec sleep 0.1' & wait")).await.unwrap();
    let mut idle = spawner.spawn(launch(&["true"])).await.unwrap();
    let left: u32 = said(&mut child).await.trim().parse().unwrap();
    in_time(child.ended()).await.unwrap();
    let orphan = spawner.spawn(shell("(setsid sh -c 'echo $$; exec sleep 0.1' &) ; exit 0")).await;
    let mut orphan = orphan.unwrap();
    let lost: u32 = said(&mut orphan).await.trim().parse().unwrap();
    until("both are gone", || !is_left(left) && !is_left(lost)).await;
    // Meanwhile this one was a zombie for several looks.
    assert!(in_time(idle.ended()).await.unwrap().success(), "its end is for whoever started it");
    assert_eq!(in_time(orphan.ended()).await.unwrap().code(), Some(0));
}

#[test]
fn the_thread_ends_with_the_last_handle_and_the_last_program() {
    let threads = || {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks
            .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "spawner"))
            .count()
    };
    // Other tests have their own; what is held on to here is the program, which dies with the thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let spawner = Spawner::start().unwrap();
        let child = spawner.spawn(launch(&["sleep", "1000"])).await.unwrap();
        drop(spawner);
        assert!(threads() > 0);
        let mut other = String::new();
        fs::File::open(format!("/proc/{}/comm", child.pid())).unwrap().read_to_string(&mut other).unwrap();
        assert_eq!(other.trim(), "sleep", "it lives on without a handle");
        let pid = child.pid();
        drop(child);
        until("it is gone", || !is_left(pid)).await;
    });
}
