//! What `/proc` says of processes: whose child each is, in which group, and since when; and the marks in their environment.

use std::fs;
use std::io::{self, Read};

use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal, setsid};

use super::spawner::GroupSignal;

/// A process as `/proc/PID/stat` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// Its number.
    pub pid: u32,
    /// Whether it has ended, with all of its threads, and is only waited for.
    pub is_zombie: bool,
    /// Its parent.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// When it was started, in the kernel's ticks since the host's start: with the number it is known by that.
    pub start: u64,
}

/// The process `pid`, if there is one.
#[must_use]
pub fn process(pid: u32) -> Option<ProcessStat> {
    parse(pid, &stat_of(&pid.to_string())?)
}

/// A process's name may be cut in the middle of a character.
fn stat_of(process: &str) -> Option<String> {
    let stat = fs::read(format!("/proc/{process}/stat")).ok()?;
    Some(String::from_utf8_lossy(&stat).into_owned())
}

/// This process; none if `/proc` is that of others, as of those outside a container. Its group and its session are 0 if those
/// who lead them are outside of what it sees, as in most containers: system calls that answer the same have no wrapper that
/// allows for it.
#[must_use]
pub(super) fn own_process() -> Option<ProcessStat> {
    let stat = stat_of("self")?;
    let own = std::process::id();
    let number: u32 = stat.split_ascii_whitespace().next()?.parse().ok()?;
    (number == own).then(|| parse(own, &stat)).flatten()
}

/// All processes of the host, as far as they can be seen.
#[must_use]
pub fn processes() -> Vec<ProcessStat> {
    numbers().filter_map(process).collect()
}

/// The numbers of all processes.
fn numbers() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether the environment that `pid` was started with has a variable that begins with `mark`, its name and `=`
/// included. That of another user's is not seen, nor that of a zombie.
#[must_use]
pub fn is_marked(pid: u32, mark: &str) -> bool {
    marked(pid, mark).is_some()
}

/// That variable, its name and `=` included.
#[must_use]
pub fn marked(pid: u32, mark: &str) -> Option<String> {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let variable = environ.split(|byte| *byte == 0).find(|variable| variable.starts_with(mark.as_bytes()))?;
    Some(String::from_utf8_lossy(variable).into_owned())
}

/// Whom `pid` acts as, or may: its real, effective, saved and file system user.
#[must_use]
pub fn users(pid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    users.unwrap_or_default().split_ascii_whitespace().filter_map(|user| user.parse().ok()).collect()
}

/// What tells one run of the host from another.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Sends `process` a signal: that one, and no other that has its number by now. Whether it was sent.
#[must_use]
pub fn signal_process(process: &ProcessStat, signal: GroupSignal) -> bool {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    // Whoever is held now keeps its number until it is let go of.
    let is_it = self::process(process.pid).is_some_and(|now| now.start == process.start);
    is_it && pidfd_send_signal(&held, signal.number()).is_ok()
}

/// A word that nobody can guess, and that no two daemons have in common.
///
/// # Errors
///
/// If the host has no randomness to give.
pub fn token() -> io::Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Leaves the session and the group that this process was started in, so that what is sent to those does not reach it, and all
/// files but the first three, which others may wait for the end of. For a process that has opened none yet.
pub fn leave_all() {
    // A process that leads its group already is not reached by what is sent to others'.
    let _leads = setsid();
    // SAFETY: the call takes three numbers. Nothing in this process has one of those files yet; a kernel before 5.9 says that it
    // does not know the call.
    #[expect(unsafe_code, reason = "what is no descriptor of ours to hold cannot be closed by a safe wrapper")]
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
    }
}

/// The fields of `stat` behind the name, which stands in parentheses and may have some of its own.
fn parse(pid: u32, stat: &str) -> Option<ProcessStat> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    // Of the fields of proc(5), the 20th and the 22nd. While one of its threads lives, the process has all that it had.
    let threads: u64 = fields.nth(13)?.parse().ok()?;
    let start = fields.nth(1)?.parse().ok()?;
    let is_zombie = has_ended && threads <= 1;
    Some(ProcessStat { pid, is_zombie, parent, group, session, start })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{boot_id, own_process, parse, process, processes, users};

    #[test]
    fn we_are_among_all_processes_and_know_our_parent() {
        let us = process(std::process::id()).unwrap();
        assert_eq!(us.parent, std::os::unix::process::parent_id());
        assert_eq!(own_process(), Some(us));
        assert!(!us.is_zombie && us.start > 0);
        assert!(processes().contains(&us));
        assert_eq!(users(us.pid), [crate::sys::own_uid(); 4]);
        assert!(boot_id().len() > 30);
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_moves_no_field() {
        let stat = "7 (a) Z 1 (b) S 2 3 4 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987 1000 20";
        let seen = parse(7, stat).unwrap();
        assert_eq!((seen.parent, seen.group, seen.session, seen.start, seen.is_zombie), (2, 3, 4, 987, false));
        let stat = "7 (a) Z 2 3 4 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 2 0 987 1000 20";
        assert!(!parse(7, stat).unwrap().is_zombie, "its first thread has ended, another one has not");
        let stat = "7 (a) Z 2 3 4 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987 1000 20";
        assert!(parse(7, stat).unwrap().is_zombie);
        let stat = "7 (a) S 2 0 0 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987 1000 20";
        let seen = parse(7, stat).unwrap();
        assert_eq!((seen.group, seen.session), (0, 0), "those who lead them are in another container");
        for bad in ["", "7 (a)", "7 (a) S 1 2", "7 a S 1 2 3"] {
            assert_eq!(parse(7, bad), None, "{bad}");
        }
    }
}
