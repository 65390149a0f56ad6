//! Programs that are run to their end: each in a process group of its own, which is killed as a whole.
//!
//! Each has a thread of its own, for what it does is to wait: a `vfork` until the program is read from a disk that may
//! hang, then output, then the end. The runtime's own support for processes is left alone: with it every turn of every
//! runtime takes two locks that all of them share, those that move bytes included.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::sync::oneshot;

/// The stack of a thread that waits for a program, in bytes.
const STACK: usize = 128 << 10;
/// What a program finds of the daemon's own environment.
const PASSED_ON: &[&str] = &["PATH", "HOME", "LANG"];
/// Where it looks for programs if the daemon itself does not know.
pub(super) const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A program to run.
#[derive(Debug)]
pub struct Program {
    /// Its absolute path and its arguments. No shell sees them.
    pub argv: Vec<String>,
    /// Its environment besides `PATH`, `HOME` and `LANG`.
    pub variables: Vec<(&'static str, String)>,
    /// The most of its output that is kept, in bytes; the rest is read and forgotten.
    pub kept: usize,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code or the signal.
    pub status: ExitStatus,
    /// What it wrote first, to standard output and standard error as they came.
    pub output: Vec<u8>,
}

/// Why a program was not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It cannot be started at all.
    #[error("cannot be started: {0}")]
    NotStarted(io::Error),
    /// We are short of something ourselves.
    #[error("could not be run: {0}")]
    Local(io::Error),
}

/// A process group and whether it may be killed.
#[derive(Debug)]
enum Life {
    Starting,
    Running(Pid),
    /// Killed on request, perhaps before it ran.
    Unwanted,
    /// The number of the group may be another's by now.
    Over,
}

/// A program that runs. When it is dropped, it is killed with all that it has started and that stayed in its group.
#[derive(Debug)]
pub struct Running {
    end: oneshot::Receiver<Result<Ended, RunError>>,
    life: Arc<Mutex<Life>>,
}

impl Running {
    /// Starts `program`. `turn` is dropped when there is nothing left of it but what left its group.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had. Whether the program can be started is told at [`Self::end`].
    pub fn start(program: Program, turn: impl Send + 'static) -> Result<Self, RunError> {
        let (told, end) = oneshot::channel();
        let life = Arc::new(Mutex::new(Life::Starting));
        let shared = Arc::clone(&life);
        let run = move || {
            let ended = run(&program, &shared);
            drop(turn);
            // Nobody waits for the end of one that was killed because nobody waits.
            drop(told.send(ended));
        };
        thread::Builder::new().name("command".to_owned()).stack_size(STACK).spawn(run).map_err(RunError::Local)?;
        Ok(Self { end, life })
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// If it could not be run, by its own fault or by ours.
    pub async fn end(&mut self) -> Result<Ended, RunError> {
        let lost = || RunError::Local(io::Error::other("the thread that waited for it is gone"));
        (&mut self.end).await.unwrap_or_else(|_| Err(lost()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        match *life {
            Life::Running(group) => {
                kill(group);
                *life = Life::Unwanted;
            }
            Life::Starting => *life = Life::Unwanted,
            Life::Unwanted | Life::Over => {}
        }
    }
}

/// Kills a group that is known to have a member: one that was not waited for yet counts.
fn kill(group: Pid) {
    // The only other answer is that all of it is gone.
    let _gone = kill_process_group(group, Signal::KILL);
}

fn run(program: &Program, life: &Mutex<Life>) -> Result<Ended, RunError> {
    if matches!(*life.lock().unwrap_or_else(PoisonError::into_inner), Life::Unwanted) {
        return Err(RunError::Local(io::Error::other("nobody wants it any more")));
    }
    let (mut child, output) = spawn(program)?;
    let group = Pid::from_child(&child);
    {
        let mut life = life.lock().unwrap_or_else(PoisonError::into_inner);
        match *life {
            Life::Unwanted => kill(group),
            Life::Starting | Life::Running(_) | Life::Over => *life = Life::Running(group),
        }
    }
    let watched = pidfd_open(group, PidfdFlags::empty())
        .map_err(io::Error::from)
        .and_then(|process| watch(&process, output, program.kept));
    {
        let mut life = life.lock().unwrap_or_else(PoisonError::into_inner);
        // What it has left behind would pile up, check after check. Until it is waited for, the number is its own.
        kill(group);
        *life = Life::Over;
    }
    let status = child.wait().map_err(RunError::Local)?;
    Ok(Ended { status, output: watched.map_err(RunError::Local)? })
}

fn spawn(program: &Program) -> Result<(Child, File), RunError> {
    let (reader, writer) = io::pipe().map_err(RunError::Local)?;
    let second = writer.try_clone().map_err(RunError::Local)?;
    let output = File::from(OwnedFd::from(reader));
    rustix::io::ioctl_fionbio(&output, true).map_err(|error| RunError::Local(error.into()))?;
    let empty = || RunError::NotStarted(io::Error::new(io::ErrorKind::InvalidInput, "there is no program"));
    let (path, arguments) = program.argv.split_first().ok_or_else(empty)?;
    // All of this is what `posix_spawn` can do, so that no page of ours is copied.
    let mut command = Command::new(path);
    command
        .args(arguments)
        .env_clear()
        .envs(passed_on())
        .envs(program.variables.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").process_group(0).stdin(Stdio::null()).stdout(writer).stderr(second);
    let child = command.spawn().map_err(graded)?;
    // With `command` go our ends of the pipe for writing.
    Ok((child, output))
}

/// What every program finds of the daemon's own environment; `PATH` in any case.
pub(super) fn passed_on() -> Vec<(&'static str, OsString)> {
    let set = |name: &&'static str| Some((*name, std::env::var_os(name)?));
    let preset = ("PATH", OsString::from(PATH));
    // Of two values for one name the later one counts.
    std::iter::once(preset).chain(PASSED_ON.iter().filter_map(set)).collect()
}

/// Whose fault it is that a program could not be started. Its file is written to just for a moment, as while it is replaced.
pub(super) fn graded(error: io::Error) -> RunError {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ETXTBSY) => RunError::Local(error),
        Some(_) | None => RunError::NotStarted(error),
    }
}

/// Reads `output` until `process` has ended: what it has started may hold the pipe for much longer. The first `kept`
/// bytes of it.
fn watch(process: &impl AsFd, output: File, kept: usize) -> io::Result<Vec<u8>> {
    let mut output = Some(output);
    let mut read = Vec::new();
    loop {
        let mut watched = vec![PollFd::new(process, PollFlags::IN)];
        watched.extend(output.as_ref().map(|output| PollFd::new(output, PollFlags::IN)));
        match poll(&mut watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has_ended = watched.first().is_some_and(|process| !process.revents().is_empty());
        let has_output = watched.get(1).is_some_and(|output| !output.revents().is_empty());
        drop(watched);
        if has_output && let Some(pipe) = &mut output {
            let goes_on = take(pipe, &mut read, kept)?;
            if !goes_on {
                output = None;
            }
            // The end may come in between, and with it no more than the pipe holds.
            if has_ended && goes_on && read.len() < kept {
                continue;
            }
        }
        if has_ended {
            return Ok(read);
        }
    }
}

/// Reads once, and keeps what there is room for. Whether there may be more.
fn take(pipe: &mut File, read: &mut Vec<u8>, kept: usize) -> io::Result<bool> {
    let mut part = [0; 16 << 10];
    match pipe.read(&mut part) {
        Ok(0) => Ok(false),
        Ok(length) => {
            let room = kept.saturating_sub(read.len()).min(length);
            read.extend_from_slice(part.get(..room).unwrap_or_default());
            Ok(true)
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
        Err(error) => Err(error),
    }
}
