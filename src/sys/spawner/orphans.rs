//! Processes that were left to us when their parents ended: they are waited for, and nobody else's children are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, getpid, set_child_subreaper, waitid, waitpid};

use crate::sys::processes::{ProcessStat, own_process, processes};

/// From one look to the next.
const LOOK: Duration = Duration::from_secs(1);
/// If there was no look for so long, the daemon stood still, and those who wait for their own children have had no time either.
const STOOD_STILL: Duration = Duration::from_secs(3);
/// For so many looks in a row a zombie that cannot be a child of the daemon's own is nobody's.
const LOOKS: u32 = 2;
/// The same for one that leads a group in the daemon's session, as the programs of checks do. Whoever has started those
/// waits for them within moments.
const LOOKS_AT_LEADERS: u32 = 60;

/// What is known of the daemon's children.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// Those that somebody waits for, by number, and how many of that number in turn.
    known: BTreeMap<u32, u32>,
    /// Zombies of whom nobody is known to wait for, by number and start, and for how many looks they have been there.
    suspects: BTreeMap<(u32, u64), u32>,
    /// When the last look was; none while nothing was started.
    last: Option<Instant>,
}

impl Orphans {
    /// Becomes the one to whom the daemon's descendants are left. Before the first of them is started.
    pub(super) fn take_in(&mut self) {
        if self.last.is_none() {
            self.last = Some(Instant::now());
            // Without it they are left to the first process, which waits for them as well.
            let _kept = set_child_subreaper(Some(getpid()));
        }
    }

    /// Somebody waits for the child `pid`.
    pub(super) fn know(&mut self, pid: u32) {
        *self.known.entry(pid).or_default() += 1;
    }

    /// Somebody has waited for it.
    pub(super) fn forget(&mut self, pid: u32) {
        if let Some(count) = self.known.get_mut(&pid) {
            *count -= 1;
            if *count == 0 {
                self.known.remove(&pid);
            }
        }
    }

    /// In how long the next look is; never while nothing was started.
    pub(super) fn next_look(&self) -> Option<Duration> {
        Some(LOOK.saturating_sub(self.last?.elapsed()))
    }

    /// Looks if it is time, and waits for those that nobody else waits for.
    pub(super) fn reap(&mut self) {
        let Some(since) = self.last.map(|last| last.elapsed()).filter(|since| *since >= LOOK) else { return };
        self.last = Some(Instant::now());
        if since >= STOOD_STILL {
            self.suspects.clear();
        }
        let Some(own) = is_any_zombie().then(own_process).flatten() else {
            self.suspects.clear();
            return;
        };
        let zombies = processes().into_iter().filter(|process| process.is_zombie && process.parent == own.pid);
        // A child of the daemon's own group was started by it in another way.
        let is_suspect = |zombie: &ProcessStat| zombie.group != own.group && !self.known.contains_key(&zombie.pid);
        let mut suspects = BTreeMap::new();
        for zombie in zombies.filter(is_suspect) {
            let looks = self.suspects.get(&(zombie.pid, zombie.start)).map_or(1, |looks| looks + 1);
            let leads = zombie.group == zombie.pid && zombie.session == own.session;
            if looks >= if leads { LOOKS_AT_LEADERS } else { LOOKS } {
                let pid = i32::try_from(zombie.pid).ok().and_then(Pid::from_raw);
                let _gone = pid.map(|pid| waitpid(Some(pid), WaitOptions::NOHANG));
            } else {
                suspects.insert((zombie.pid, zombie.start), looks);
            }
        }
        self.suspects = suspects;
    }
}

/// Whether any child of ours has ended and was not waited for: most of the time none has, and the kernel says so at once.
fn is_any_zombie() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::All, options), Ok(Some(_)))
}
