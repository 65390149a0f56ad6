//! Processes that are pinned to one CPU, never left behind, and looked at through `/proc`.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPU of the proxy.
pub(crate) const PROXY_CPU: usize = 0;
/// The CPU of the generator and the backend.
pub(crate) const LOAD_CPU: usize = 1;

/// A process, and those it starts: all killed when this is dropped, also by a panic.
#[derive(Debug)]
pub(crate) struct Guarded {
    child: Child,
}

impl Guarded {
    /// Starts `program` on `cpu`. Where `setpriv` is installed it also dies with this process, however that dies.
    pub(crate) fn spawn(program: &Path, cpu: usize, prepare: impl FnOnce(&mut Command)) -> io::Result<Self> {
        let mut command = match find("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        prepare(&mut command);
        let own = sched_getaffinity(None)?;
        pin(cpu)?;
        // A group of its own, so that what it forks can be killed with it.
        let child = command.process_group(0).spawn();
        sched_setaffinity(None, &own)?;
        Ok(Self { child: child? })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn pids(&self) -> Vec<u32> {
        family(self.child.id())
    }

    /// Time on the CPU, and time spent waiting for it, of all its threads so far, in nanoseconds.
    pub(crate) fn cpu(&self) -> CpuTime {
        let mut time = CpuTime::default();
        for pid in self.pids() {
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(0_u64));
                time.run_ns += numbers.next().unwrap_or(0);
                time.wait_ns += numbers.next().unwrap_or(0);
            }
        }
        time
    }

    /// Resident memory in bytes. From `smaps_rollup`, which counts; `status` estimates.
    pub(crate) fn rss(&self) -> u64 {
        let rss = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap_or_default();
            line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        self.pids().into_iter().map(rss).sum()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.child.wait().ok();
    }
}

/// What the scheduler has counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CpuTime {
    pub(crate) run_ns: u64,
    pub(crate) wait_ns: u64,
}

impl CpuTime {
    /// From `earlier` to this.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            run_ns: self.run_ns.saturating_sub(earlier.run_ns),
            wait_ns: self.wait_ns.saturating_sub(earlier.wait_ns),
        }
    }
}

/// `pid` and its descendants. Of the peers only one forks, but what a fork does must be counted too.
fn family(pid: u32) -> Vec<u32> {
    let parent_of = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in brackets and may hold anything.
        let rest = text.rsplit_once(')')?.1;
        rest.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let all: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

/// Binds the calling thread, and what it starts, to `cpu`.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    Ok(sched_setaffinity(None, &cpus)?)
}

/// Raises the limit of descriptors as far as it goes, for this process and those it starts.
pub(crate) fn raise_descriptors() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Where `program` is installed. Servers are often where only root looks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    places.map(|place| place.join(program)).find(|file| file.is_file())
}
