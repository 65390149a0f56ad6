//! A process beside the daemon that outlives it, if that is killed, by as long as it takes to kill what it has left.
//!
//! The kernel kills the programs themselves with their daemon. It does not kill their descendants, nor programs that
//! became another user. The guard holds the end of a pipe whose other end is the daemon's alone: when that is gone, so is
//! the daemon.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread::park_timeout;
use std::time::Duration;

use tokio::net::unix::pipe;

use super::remains::{Leader, sweep};
use crate::sys::leave_all;

/// From one look at what is left to the next.
const LOOK: Duration = Duration::from_millis(20);
/// How many looks there are at most.
const LOOKS: u32 = 100;
/// After so many looks at nothing there is nothing: who is just being started may be missed by one.
const LOOKS_AT_NOTHING: u32 = 3;

/// What the daemon has of it.
#[derive(Debug)]
pub(super) struct Guard {
    process: Child,
    /// Does not block: a line is less than what a pipe takes whole or not at all.
    pipe: File,
}

impl Guard {
    /// Starts `argv`, which must come to [`guard`].
    pub(super) fn start(argv: &[String], token: &str) -> io::Result<Self> {
        let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir("/");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let input = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let pipe = pipe::Sender::from_owned_fd(OwnedFd::from(input))?.into_nonblocking_fd()?;
        let guard = Self { process, pipe: File::from(pipe) };
        guard.say(&format!("token {token}\n"));
        Ok(guard)
    }

    /// Tells it of a program.
    pub(super) fn started(&self, leader: Leader) {
        self.say(&format!("run {} {}\n", leader.pid, leader.start));
    }

    /// Tells it that nothing is left of one.
    pub(super) fn ended(&self, leader: Leader) {
        self.say(&format!("over {} {}\n", leader.pid, leader.start));
    }

    /// A guard that does not read knows less: it finds by their marks those that it was not told of.
    fn say(&self, line: &str) {
        drop((&self.pipe).write(line.as_bytes()));
    }

    /// Whether it has ended, which it should not have.
    pub(super) fn is_gone(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Lets it go: nothing is left.
    pub(super) async fn end(self) {
        self.say("end\n");
        let Self { mut process, pipe } = self;
        drop(pipe);
        for _ in 0..LOOKS {
            if !matches!(process.try_wait(), Ok(None)) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
        tracing::warn!(pid = process.id(), "the guard of the tunnels does not end");
    }
}

/// What the guard has been told.
#[derive(Debug, Default)]
struct Told {
    token: String,
    leaders: BTreeSet<Leader>,
    is_over: bool,
}

impl Told {
    fn take(&mut self, line: &str) {
        let mut words = line.split(' ');
        let what = words.next().unwrap_or_default();
        let mut leader = || Some(Leader { pid: words.next()?.parse().ok()?, start: words.next()?.parse().ok()? });
        match what {
            "token" => self.token = line.strip_prefix("token ").unwrap_or_default().to_owned(),
            "run" => self.leaders.extend(leader()),
            "over" => drop(leader().map(|leader| self.leaders.remove(&leader))),
            "end" => self.is_over = true,
            _ => {}
        }
    }
}

/// The guard itself: waits for the daemon's end, which `input` tells, and kills what that leaves.
///
/// # Errors
///
/// None that would leave anything undone.
pub fn guard(input: impl BufRead) -> io::Result<()> {
    leave_all();
    let mut told = Told::default();
    for line in input.lines() {
        match line {
            Ok(line) => told.take(&line),
            // What was said before is known all the same.
            Err(_) => break,
        }
        if told.is_over {
            return Ok(());
        }
    }
    if told.token.is_empty() {
        return Ok(());
    }
    let mut nothing = 0;
    for _ in 0..LOOKS {
        nothing = if sweep(&told.token, &told.leaders) == 0 { nothing + 1 } else { 0 };
        if nothing == LOOKS_AT_NOTHING {
            break;
        }
        park_timeout(LOOK);
    }
    Ok(())
}
