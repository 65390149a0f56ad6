//! Processes that are started, waited for and never left behind.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::model::spoken;
use crate::sys::Clock;

/// From one look at a running program to the next.
const LOOK: Duration = Duration::from_millis(2);

/// A process that dies with this value, and is reaped.
#[derive(Debug)]
pub(super) struct Guarded(Child);

impl Guarded {
    /// Starts `command` in a process group of its own, where a Ctrl-C at the terminal does not reach it.
    pub(super) fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.process_group(0).spawn();
        child.map(Self).with_context(|| format!("cannot start {}", command.get_program().display()))
    }

    /// SIGKILL; returns when it is dead.
    pub(super) fn kill(&mut self) {
        // It fails for one that is dead already and reaped, which is what was wanted.
        self.0.kill().ok();
        self.0.wait().ok();
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    /// Waits for its end up to `limit`.
    pub(super) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let clock = Clock::start();
        let deadline = clock.now() + limit;
        loop {
            match self.ended() {
                None if clock.now() < deadline => thread::park_timeout(LOOK),
                ended => return ended,
            }
        }
    }

    /// What it said on standard error, once it has ended.
    pub(super) fn complaint(&mut self) -> String {
        self.0.stderr.take().map(read).unwrap_or_default()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the program printed, if it ended well within `limit`; what went wrong, in one line, otherwise.
/// Only for programs that print less than a pipe holds.
pub(super) fn run(command: &mut Command, limit: Duration) -> anyhow::Result<String> {
    let name = command.get_program().display().to_string();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Guarded::spawn(command)?;
    match process.wait(limit) {
        None => bail!("{name} did not end within {}", spoken(limit)),
        Some(status) if status.success() => Ok(process.0.stdout.take().map(read).unwrap_or_default()),
        Some(status) => match one_line(&process.complaint()) {
            text if text.is_empty() => bail!("{name}: {status}"),
            text => bail!("{text}"),
        },
    }
}

fn read(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    // What came before an error is still worth reading.
    from.read_to_end(&mut bytes).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The lines of `text` as one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::run;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_that_fails_says_why_in_one_line() {
        assert_eq!(run(&mut shell("echo fine"), LIMIT).unwrap(), "fine\n");
        let error = run(&mut shell("echo one >&2; echo two >&2; exit 3"), LIMIT).unwrap_err();
        assert_eq!(error.to_string(), "one two");
        assert_eq!(run(&mut shell("exit 3"), LIMIT).unwrap_err().to_string(), "sh: exit status: 3");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let error = run(&mut shell("exec tail -f /dev/null"), Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.to_string(), "sh did not end within 20ms");
    }
}
