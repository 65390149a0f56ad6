//! What is left of runs: members of a program's group, and descendants that left it, which are known by a mark in their
//! environment.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{BackendId, RunId};
use crate::sys::{GroupSignal, MARK_VARIABLE, ProcessStat, is_marked, marked, process, processes, signal_process};

/// What the values of all marks of one daemon begin with.
pub(super) fn daemon_mark(token: &str) -> String {
    format!("{token}.")
}

/// The value of the mark for the programs of one run.
pub(super) fn run_mark(token: &str, backend: BackendId, run: RunId) -> String {
    format!("{token}.{backend}.{run}.")
}

/// The value of the mark for programs that are run for one connection each.
pub(super) fn session_mark(token: &str) -> String {
    format!("{token}.session.")
}

/// A process that is no zombie, and the mark that it has if it is a descendant of ours.
#[derive(Debug)]
pub(super) struct Found {
    process: ProcessStat,
    mark: Option<String>,
}

/// All processes, and the marks of a daemon with this `token`. Takes as long as there are many.
pub(super) fn find(token: &str) -> Vec<Found> {
    let all = processes();
    let ours = descendants(&all, std::process::id());
    let sought = format!("{MARK_VARIABLE}={}", daemon_mark(token));
    let found = |process: ProcessStat| {
        let mark = ours.contains(&process.pid).then(|| marked(process.pid, &sought)).flatten();
        Found { process, mark }
    };
    all.into_iter().filter(|process| !process.is_zombie).map(found).collect()
}

/// Those of `found` that belong to the group or have the mark.
pub(super) fn remains(found: &[Found], group: Option<u32>, mark: &str) -> Vec<ProcessStat> {
    let is_marked = |found: &Found| {
        let value = found.mark.as_deref().and_then(|variable| variable.strip_prefix(MARK_VARIABLE)?.strip_prefix('='));
        value.is_some_and(|value| value.starts_with(mark))
    };
    let of_run = found.iter().filter(|found| Some(found.process.group) == group || is_marked(found));
    of_run.map(|found| found.process).collect()
}

/// Those that have `root` for an ancestor. Nobody who was started by us has another one for long: we take them in.
fn descendants(all: &[ProcessStat], root: u32) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let (mut found, mut open) = (BTreeSet::new(), vec![root]);
    while let Some(parent) = open.pop() {
        let new = children.get(&parent).into_iter().flatten().filter(|child| found.insert(**child));
        open.extend(new.copied());
    }
    found
}

/// Sends each of `these` a signal; how many were sent it.
pub(super) fn signal(these: &[ProcessStat], signal: GroupSignal) -> usize {
    these.iter().filter(|process| signal_process(process, signal)).count()
}

/// A program that was started, so that it is known when its daemon is no more: its number, and when it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(super) struct Leader {
    pub(super) pid: u32,
    pub(super) start: u64,
}

impl Leader {
    pub(super) fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start: process(pid)?.start })
    }

    fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// Kills what a daemon with this `token` has left: the groups of `leaders` that live, and whatever has its mark. How many
/// there were; to be called until there are none, for what was not killed yet may have begun others.
pub(super) fn sweep(token: &str, leaders: &BTreeSet<Leader>) -> usize {
    let groups: BTreeSet<u32> = leaders.iter().filter(|leader| leader.lives()).map(|leader| leader.pid).collect();
    let sought = format!("{MARK_VARIABLE}={}", daemon_mark(token));
    let own = std::process::id();
    let is_left = |process: &ProcessStat| {
        let is_other = !process.is_zombie && process.pid != own;
        is_other && (groups.contains(&process.group) || is_marked(process.pid, &sought))
    };
    let left: Vec<ProcessStat> = processes().into_iter().filter(is_left).collect();
    signal(&left, GroupSignal::Kill);
    left.len()
}
