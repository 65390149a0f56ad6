//! One start of a program: what it is given, and what it must not inherit.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;

use rustix::fs::{Access, MemfdFlags, Mode, access, memfd_create};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getpid, getppid, getrlimit, pidfd_open, set_parent_process_death_signal,
    setrlimit, umask,
};
use rustix::thread::clear_ambient_capability_set;

use super::child::Leader;
use super::{Job, Launch, MARK_VARIABLE, Started};
use crate::sys::program::{PATH, graded, passed_on};
use crate::sys::{Descriptors, RunError};

/// Where a program has its file.
const FILE: RawFd = 3;
/// Of the daemon's own environment, beside what every program finds: whom `ssh` asks for keys, and as whom it logs in.
const PASSED_ON: &[&str] = &["SSH_AUTH_SOCK", "USER"];
/// How often descriptor 3 may be closed by others just when it is looked at.
const THIRD_TRIES: u32 = 8;
/// The highest number of a signal.
const LAST_SIGNAL: i32 = 64;

/// The size of a set of signals, in bytes, as the kernel wants it.
const SIGNAL_SET: usize = 8;

/// What the child does between `fork` and `exec`, made ready before: it may not allocate then.
#[derive(Clone, Copy)]
struct Preparation {
    daemon: Pid,
    descriptors: Option<Rlimit>,
    file: Option<Third>,
}

/// The file that becomes descriptor 3.
#[derive(Clone, Copy)]
enum Third {
    /// It is that already.
    IsThere,
    /// It takes the place of what the daemon has there.
    Moves {
        from: RawFd,
        /// The device and the number of what that is. If the child has something else there, it may be the standard
        /// library's own pipe, by which it tells that it could not execute.
        over: (u64, u64),
    },
}

/// Starts `launch`.
pub(super) fn start(launch: &Launch, descriptors: Option<Descriptors>, jobs: Sender<Job>) -> Result<Started, RunError> {
    let empty = || RunError::NotStarted(io::Error::new(io::ErrorKind::InvalidInput, "there is no program"));
    let (name, arguments) = launch.argv.split_first().ok_or_else(empty)?;
    let path = found(name).map_err(RunError::NotStarted)?;
    wait_for_disk(&path);
    let (reader, writer) = io::pipe().map_err(RunError::Local)?;
    let output = OwnedFd::from(reader);
    rustix::io::ioctl_fionbio(&output, true).map_err(local)?;
    let mut command = Command::new(path);
    command.arg0(name).args(arguments).env_clear().envs(passed_on()).envs(more_passed_on());
    command.envs(launch.env.iter().map(|(name, value)| (name, value))).env(MARK_VARIABLE, &launch.mark);
    command.current_dir("/").process_group(0);
    let connection = connect(launch.connects, writer, &mut command).map_err(RunError::Local)?;
    let file = launch.file.as_deref().map(|text| third(&in_memory(text)?)).transpose().map_err(RunError::Local)?;
    let limit = descriptors.map(|descriptors| {
        let maximum = getrlimit(Resource::Nofile).maximum;
        Rlimit { current: descriptors.started_with, maximum }
    });
    let third = file.as_ref().map(|(_, third)| *third);
    prepare(&mut command, Preparation { daemon: getpid(), descriptors: limit, file: third });
    let child = command.spawn().map_err(graded)?;
    // Until it is waited for, nobody else has its number.
    let pid = Pid::from_child(&child);
    let leader = Leader::new(child, jobs);
    let ended = pidfd_open(pid, PidfdFlags::empty()).map_err(local)?;
    Ok(Started { leader, ended, connection, output })
}

/// Waits for a disk that is slow to give the program's file: from `fork` until that is executed, the child has all sockets of the
/// daemon open as well, whoever closes them here.
fn wait_for_disk(path: &Path) {
    // Who opens a pipe may wait for ever. What may be executed need not be readable, and whatever else is wrong the child will say.
    if fs::metadata(path).is_ok_and(|found| found.is_file()) {
        drop(File::open(path).and_then(|mut file| file.read(&mut [0; 512])));
    }
}

fn local(error: rustix::io::Errno) -> RunError {
    RunError::Local(error.into())
}

/// Gives `command` its standard streams; the daemon's end of the connection, if they are one.
fn connect(connects: bool, writer: io::PipeWriter, command: &mut Command) -> io::Result<Option<UnixStream>> {
    if !connects {
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        return Ok(None);
    }
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    command.stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs)).stderr(writer);
    Ok(Some(ours))
}

/// A file that is on no disk.
fn in_memory(text: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("changeover", MemfdFlags::CLOEXEC)?);
    file.write_all(text)?;
    // Whoever reads descriptor 3 itself begins where we stopped to write, unless we go back.
    file.rewind()?;
    Ok(file.into())
}

/// Sees to it that something is open at descriptor 3 while the program is started: `file`, if nothing else is there.
fn third(file: &OwnedFd) -> io::Result<(OwnedFd, Third)> {
    for _ in 0..THIRD_TRIES {
        let file = rustix::io::fcntl_dupfd_cloexec(file, FILE)?;
        if file.as_raw_fd() == FILE {
            return Ok((file, Third::IsThere));
        }
        // Somebody might have closed it by now; in the next round it is ours then.
        if let Ok(there) = fs::metadata(format!("/proc/self/fd/{FILE}")) {
            let third = Third::Moves { from: file.as_raw_fd(), over: (there.dev(), there.ino()) };
            return Ok((file, third));
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// Has the child do what only it can, before it becomes the program.
fn prepare(command: &mut Command, preparation: Preparation) {
    let default = [0_u64; 8];
    // SAFETY: between fork(2) and execve(2) the closure makes system calls only, which are async-signal-safe: it takes no
    // lock and allocates nothing, and its errors are made of numbers. `rt_sigaction` reads the default, whose numbers are
    // all 0, from more bytes than its structure has on any machine; it is not called by the C library's own function, which
    // leaves out two signals. `rt_sigprocmask` reads a set of no signals, of as many bytes as it is told. `fstat` and `dup2`
    // get numbers and a place on the stack; `stat` is plain data, for which all zeros is a value.
    #[expect(unsafe_code, reason = "no safe wrapper of fork(2) lets the child set itself up")]
    unsafe {
        command.pre_exec(move || {
            for signal in 1..=LAST_SIGNAL {
                // Those that cannot be set are the default already.
                libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), SIGNAL_SET);
            }
            let none = 0_u64;
            let set = &raw const none;
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, set, std::ptr::null::<u64>(), SIGNAL_SET);
            // What the daemon was started with might be without the mark that all of its own have. A kernel before 5.11
            // says that it cannot; then the rest is passed on.
            libc::syscall(libc::SYS_close_range, FILE, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            match preparation.file {
                None => {}
                Some(Third::IsThere) if libc::fcntl(FILE, libc::F_SETFD, 0) < 0 => {
                    return Err(io::Error::last_os_error());
                }
                Some(Third::IsThere) => {}
                Some(Third::Moves { from, over }) => {
                    let mut there: libc::stat = std::mem::zeroed();
                    if libc::fstat(FILE, &raw mut there) < 0 || (there.st_dev, there.st_ino) != over {
                        return Err(io::Error::from_raw_os_error(libc::EAGAIN));
                    }
                    if libc::dup2(from, FILE) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
            }
            preparation.settle()
        });
    }
}

impl Preparation {
    /// The part of it that has safe wrappers, each of which is one system call.
    fn settle(self) -> io::Result<()> {
        if let Some(limit) = self.descriptors {
            setrlimit(Resource::Nofile, limit)?;
        }
        // A kernel that knows of none has none.
        let _none = clear_ambient_capability_set();
        umask(Mode::RWXG | Mode::RWXO);
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The daemon may have died before.
        if getppid() != Some(self.daemon) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    }
}

/// What of the daemon's environment a tunnel's program finds beside what every program does.
fn more_passed_on() -> impl Iterator<Item = (&'static str, OsString)> {
    PASSED_ON.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)))
}

/// Where the program `name` is: there, or in the first directory of the daemon's `PATH` that has it and lets it be run.
fn found(name: &str) -> io::Result<PathBuf> {
    if name.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no name"));
    }
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(PATH));
    let mut failed = None;
    // What is not absolute means another place with each working directory.
    for file in std::env::split_paths(&path).filter(|path| path.is_absolute()).map(|path| path.join(name)) {
        match may_run(&file) {
            Ok(()) => return Ok(file),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => failed = Some(error),
            Err(_) => {}
        }
    }
    Err(failed.unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOENT)))
}

/// Where the program `name` is that a [`super::Spawner`] would start, if it may be run.
///
/// # Errors
///
/// If there is none, or this process may not run it.
pub fn runnable(name: &str) -> io::Result<PathBuf> {
    let file = found(name)?;
    may_run(&file).map(|()| file)
}

fn may_run(file: &Path) -> io::Result<()> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
    Ok(access(file, Access::EXEC_OK)?)
}
