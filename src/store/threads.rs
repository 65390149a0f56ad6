//! The store's two threads: one owns what is kept and waits for nothing but requests, the other one blocks on the disk.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError};
use std::time::Duration;

use redb::Database;

use crate::sys::Clock;

use super::disk::{self, Batch, Bounds, Kept, Scan, guarded};
use super::file::{Medium, Trouble};
use super::keeper::Keeper;
use super::request::{Answer, Job, Now, Request};

/// Without anything to wait for, the keeper looks up as seldom as this.
const LOOK_UP: Duration = Duration::from_secs(3600);
/// Events that are searched before the disk thread looks whether there is something to write: a millisecond or two.
const SLICE: usize = 1024;

/// The time on both clocks.
pub(super) fn now(clock: Clock) -> Now {
    let mono = clock.now();
    Now { mono, wall: clock.wall(mono) }
}

/// Runs the keeper until it is closed.
pub(super) fn keep(mut keeper: Keeper, inbox: &Receiver<Request>, disk: Option<&Sender<Job>>, clock: Clock) {
    loop {
        for job in keeper.take_jobs() {
            let gone = disk.is_some_and(|disk| disk.send(job).is_err());
            if gone {
                let answer = Answer::Failed { reason: "its thread has ended".to_owned(), set_aside: None };
                keeper.handle(now(clock), Request::Disk(answer));
            }
        }
        if keeper.is_over() {
            return;
        }
        let wait = keeper.deadline().map_or(LOOK_UP, |deadline| deadline.since(clock.now()));
        match inbox.recv_timeout(wait) {
            Ok(request) => {
                keeper.handle(now(clock), request);
                // A deadline must not wait behind a flood of requests.
                keeper.tick(now(clock));
            }
            Err(RecvTimeoutError::Timeout) => keeper.tick(now(clock)),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The disk's side: the database while it is open, and what it lies on.
pub(super) struct DiskSide {
    pub(super) medium: Box<dyn Medium>,
    pub(super) database: Option<Database>,
    pub(super) bounds: Bounds,
    /// Whether what is there made no sense when it was last looked at.
    pub(super) is_corrupt: bool,
    pub(super) clock: Clock,
}

impl DiskSide {
    /// Carries out jobs until it is told to close. Writing goes before searching.
    pub(super) fn run(mut self, jobs: &Receiver<Job>, answers: &SyncSender<Request>) {
        let mut scans: VecDeque<(u64, Scan)> = VecDeque::new();
        loop {
            let job = if scans.is_empty() {
                match jobs.recv() {
                    Ok(job) => Some(job),
                    Err(_) => return,
                }
            } else {
                match jobs.try_recv() {
                    Ok(job) => Some(job),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return,
                }
            };
            let answer = match job {
                Some(Job::Write(batch)) => Some(self.write(&batch)),
                Some(Job::Scan { key, scan }) => {
                    scans.push_back((key, scan));
                    None
                }
                Some(Job::Close) => {
                    let _may_panic = guarded(|| {
                        self.database = None;
                        Ok(())
                    });
                    Some(Answer::Closed)
                }
                None => self.search(&mut scans),
            };
            if let Some(answer) = answer
                && answers.send(Request::Disk(answer)).is_err()
            {
                return;
            }
        }
    }

    fn write(&mut self, batch: &Batch) -> Answer {
        let begun = self.clock.now();
        let mut set_aside = None;
        match self.try_write(batch, &mut set_aside) {
            Ok(kept) => {
                let took = self.clock.now().since(begun);
                Answer::Written { kept, took, file_bytes: self.medium.bytes(), set_aside }
            }
            Err(trouble) => Answer::Failed { reason: self.broken(&trouble), set_aside },
        }
    }

    fn try_write(&mut self, batch: &Batch, set_aside: &mut Option<String>) -> Result<Kept, Trouble> {
        let bounds = self.bounds;
        if self.database.is_none() {
            self.reopen(batch, set_aside)?;
        }
        let Some(database) = &self.database else { return Err(Trouble::InUse) };
        guarded(|| disk::write(database, batch, bounds))
    }

    /// Opens again after a failure, and begins anew if what is there makes no sense.
    fn reopen(&mut self, batch: &Batch, set_aside: &mut Option<String>) -> Result<(), Trouble> {
        if !self.is_corrupt {
            match open_known(self.medium.as_mut(), batch.next_id) {
                Ok(database) => {
                    self.database = Some(database);
                    return Ok(());
                }
                Err(Trouble::Corrupt(_)) => self.is_corrupt = true,
                Err(trouble) => return Err(trouble),
            }
        }
        let path = self.medium.set_aside(batch.now).map_err(Trouble::Disk)?;
        tracing::error!(
            file = self.medium.name(),
            moved_to = path,
            "the state file is corrupt: begun anew from memory"
        );
        self.is_corrupt = false;
        *set_aside = Some(path);
        self.database = Some(open_known(self.medium.as_mut(), batch.next_id)?);
        Ok(())
    }

    /// Searches a slice of the first search.
    fn search(&mut self, scans: &mut VecDeque<(u64, Scan)>) -> Option<Answer> {
        let (key, mut scan) = scans.pop_front()?;
        let result = match &self.database {
            Some(database) => guarded(|| disk::scan(database, &mut scan, SLICE)),
            None => return Some(Answer::Scanned { key, result: Err("it is not open".to_owned()) }),
        };
        match result {
            Ok(()) if scan.is_done() => Some(Answer::Scanned { key, result: Ok(scan) }),
            Ok(()) => {
                // The others get their turn.
                scans.push_back((key, scan));
                None
            }
            // The next write finds out whether it is more than that; a read changes nothing.
            Err(trouble) => Some(Answer::Scanned { key, result: Err(trouble.to_string()) }),
        }
    }

    /// Closes what failed: the database takes nothing more after an error.
    fn broken(&mut self, trouble: &Trouble) -> String {
        self.is_corrupt |= matches!(trouble, Trouble::Corrupt(_));
        let _may_panic = guarded(|| {
            self.database = None;
            Ok(())
        });
        format!("{}: {trouble}", self.medium.name())
    }
}

/// Opens what is there and makes sure that this version may write to it.
pub(super) fn open_known(medium: &mut dyn Medium, next_id: u64) -> Result<Database, Trouble> {
    guarded(|| {
        let database = medium.open()?;
        disk::load(&database, 0)?;
        disk::begin(&database, next_id)?;
        Ok(database)
    })
}
