//! The program itself, run to its end.

use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use super::wait::{DEADLINE, wait_for};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_changeover");

/// What a program left behind.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// A child that is killed and reaped when it is dropped.
#[derive(Debug)]
pub struct Guarded(pub Child);

impl Guarded {
    /// Waits for its end; panics if it does not come.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the process has ended", DEADLINE, || self.0.try_wait().expect("wait"))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A program that runs in the background, its output collected.
#[derive(Debug)]
pub struct Running {
    child: Guarded,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
}

impl Running {
    /// Starts it.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        Self::start_reading(command, Stdio::null())
    }

    /// Starts it with an input.
    #[track_caller]
    fn start_reading(command: &mut Command, input: Stdio) -> Self {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = collect(child.stdout.take().expect("piped"));
        let stderr = collect(child.stderr.take().expect("piped"));
        Self { child: Guarded(child), stdout, stderr }
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.0.try_wait().expect("wait").is_none()
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child.0), signal).expect("a signal");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let code = self.child.wait().code();
        let text = |thread: JoinHandle<String>| thread.join().expect("reads to the end");
        Ended { code, stdout: text(self.stdout), stderr: text(self.stderr) }
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The lines that come through a pipe, as they come. The pipe is closed with the first line that nobody is there to take.
pub fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    lines
}

/// The program under test, free of what the surroundings might tell it.
pub fn program() -> Command {
    clean(Command::new(PROGRAM))
}

/// Removes from `command` every variable that the program listens to.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CHANGEOVER_") {
            command.env_remove(name);
        }
    }
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "STATE_DIRECTORY"] {
        command.env_remove(name);
    }
    command
}

/// The program under test, with what lets root pass over permissions of files taken away.
pub fn bound_by_permissions() -> Command {
    if !rustix::process::geteuid().is_root() {
        return program();
    }
    let mut command = clean(Command::new("setpriv"));
    let without = "-dac_override,-dac_read_search";
    command.args([&format!("--inh-caps={without}"), &format!("--bounding-set={without}"), "--", PROGRAM]);
    command
}

/// Runs `command` to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Ended {
    Running::start(command).wait()
}

/// Runs `command` to its end, with `input` to read: all of it is there from the start, in a file, so that nobody waits for
/// a program to take it.
#[track_caller]
pub fn run_reading(command: &mut Command, input: &str) -> Ended {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(input.as_bytes()).and_then(|()| file.rewind()).expect("written");
    Running::start_reading(command, file.into()).wait()
}

/// What `script` prints of `input`, run by a Python that has `jsonschema`.
#[track_caller]
pub fn with_jsonschema(script: &str, input: &str) -> String {
    // Debian's module is its own Python's, which need not be the first in the PATH.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = std::env::split_paths(&path).map(|dir| dir.join("python3")).find(|file| file.is_file());
    let has_it = |python: &PathBuf| run(Command::new(python).args(["-c", "import jsonschema"])).code == Some(0);
    let mut pythons = first.into_iter().chain([PathBuf::from("/usr/bin/python3")]).filter(|file| file.is_file());
    let python = pythons.find(has_it).expect("Python's jsonschema (Debian: python3-jsonschema)");
    let ended = run_reading(Command::new(python).args(["-c", script]), input);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

/// Runs the program under test with `args` to its end.
#[track_caller]
pub fn changeover(args: &[&str]) -> Ended {
    run(program().args(args))
}
