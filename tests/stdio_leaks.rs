//! What is left of connections that were programs: nothing. Alone in its process, whose descriptors and children it counts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread;

use changeover::dial::{Programs, Ways};
use changeover::model::{Attach, Part, ProgramPlan, Text};
use changeover::sys::Spawner;
use support::hall::{Hall, way};
use support::net::read_line;
use support::{DEADLINE, dial, wait_until};

/// Sessions of each kind.
const ROUNDS: usize = 30;

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Processes whose parent this one is, ended or not.
fn children() -> usize {
    let own = std::process::id().to_string();
    let stats =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    stats.filter(|stat| stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(&own)).count()
}

#[test]
fn however_a_session_ends_no_process_and_no_descriptor_is_left() {
    let (ways, via) = (Ways::default(), way("pg1", Attach::Stdio));
    let script = "read what; case $what in echo) cat;; fail) exit 3;; hang) echo up; exec sleep 1000;; left) sleep 1000 & exit 0;; esac";
    let argv = ["sh", "-c", script].map(|word| Text(vec![Part::Shown(word.into())])).to_vec();
    let program = Arc::new(ProgramPlan { argv, env: Vec::new(), file: Some(Text(vec![Part::Shown("a file".into())])) });
    let (spawner, said) = (Spawner::start().unwrap(), Arc::new(|_: &str| {}));
    ways.open_program(&via, Programs { spawner, program, mark: "m".to_owned(), stop_grace: DEADLINE, said });
    let hall = Hall::start("", &[via], ways);
    let session = |what: &str| {
        let mut stream = dial(hall.front).unwrap();
        stream.write_all(format!("{what}\n").as_bytes()).unwrap();
        stream
    };
    let ended = |what: &str| {
        let mut stream = session(what);
        stream.shutdown(Shutdown::Write).unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    };
    ended("echo");
    wait_until("the first one is over", DEADLINE, || children() == 0);
    let before = descriptors();
    thread::scope(|scope| {
        for what in ["echo", "fail", "left"] {
            scope.spawn(move || (0..ROUNDS).for_each(|_| ended(what)));
        }
    });
    // They have to have answered: a client that waits for its first answer would go on to another backend.
    let hanging: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let mut stream = session("hang");
            assert_eq!(read_line(&mut stream).unwrap(), "up");
            stream
        })
        .collect();
    assert!(children() >= ROUNDS);
    hall.fence("pg1");
    drop(hanging);
    wait_until("no process is left", DEADLINE, || children() == 0);
    wait_until("no descriptor is left", DEADLINE, || descriptors() <= before);
}
