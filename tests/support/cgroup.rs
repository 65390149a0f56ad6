//! A control group of a test's own, such as a service manager has for each service.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use super::process::run;
use super::wait::DEADLINE;

/// A control group (cgroup v2). When it is dropped, whatever is left in it is killed, and it is removed.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A group inside the one that we are in; none, which is printed, where there is none to be had that can be killed.
    pub fn make() -> Option<Self> {
        Self::try_make().map_err(|why| eprintln!("skipped: control groups are not to be had here: {why}")).ok()
    }

    fn try_make() -> Result<Self, String> {
        let read = |file: &str| fs::read_to_string(file).map_err(|error| format!("{file}: {error}"));
        let mounts = read("/proc/self/mounts")?;
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts.find(|fields| fields.get(2) == Some(&"cgroup2")).ok_or("cgroup2 is not mounted")?;
        let ours = read("/proc/self/cgroup")?;
        let ours = ours.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("we are in no group of cgroup2")?;
        if ours.split('/').any(|part| part == "..") {
            return Err("our group is not below what is mounted".to_owned());
        }
        let path = PathBuf::from(mount[1]).join(ours).join(format!("changeover-test-{:08x}", fastrand::u32(..)));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let made = Self { path };
        if !made.file("cgroup.kill").exists() {
            return Err("there is no cgroup.kill, which Linux has since 5.14".to_owned());
        }
        let tried = run(&mut made.inside_of(&Command::new("true")));
        if tried.code == Some(0) { Ok(made) } else { Err(tried.stderr.trim().to_owned()) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// `command` in this group, with all that it will start, and with the same variables.
    pub fn inside_of(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        // It joins, and then becomes the program: that is never anywhere else.
        inside.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.file("cgroup.procs"));
        inside.arg(command.get_program()).args(command.get_args());
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inside
    }

    /// The processes in it, other than zombies.
    #[track_caller]
    pub fn processes(&self) -> Vec<u32> {
        let listed = fs::read_to_string(self.file("cgroup.procs")).expect("it is there");
        listed.lines().map(|line| line.parse().expect("a number")).collect()
    }

    fn try_kill(&self) -> std::io::Result<()> {
        OpenOptions::new().write(true).open(self.file("cgroup.kill"))?.write_all(b"1")
    }

    /// Has the kernel kill all that are in it, at once.
    #[track_caller]
    pub fn kill(&self) {
        self.try_kill().expect("it can be killed");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let begun = Instant::now();
        // What is killed takes a while to be gone, and until then the group stays.
        self.try_kill().ok();
        while let Err(error) = fs::remove_dir(&self.path) {
            if begun.elapsed() > DEADLINE {
                eprintln!("{} stays: {error}", self.path.display());
                return;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(2));
        }
    }
}
