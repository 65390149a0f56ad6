//! Tunnels' programs are started by one thread, which lives as long as there is a handle on it or a program.
//!
//! The kernel kills a program with the *thread* that started it (`PR_SET_PDEATHSIG`); so it must be one that ends with the
//! daemon and not before. What nobody waits for any more ends here as well: programs that were dropped, and processes that
//! were left to us by their parents, for the daemon is the reaper of all its descendants (`PR_SET_CHILD_SUBREAPER`).

mod child;
mod launch;
mod orphans;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Child as StdChild;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, Builder};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

pub use child::{Child, GroupSignal};
pub use launch::runnable;

use self::child::Leader;
use self::orphans::Orphans;
use super::{Descriptors, RunError};

/// Where a program finds the file that it is given.
pub const FILE_PATH: &str = "/dev/fd/3";
/// The variable by which the descendants of a program are found.
pub const MARK_VARIABLE: &str = "CHANGEOVER_TUNNEL";
/// From one look at programs that were killed to the next; it doubles up to [`LOOK_MAX`].
const LOOK: Duration = Duration::from_millis(5);
/// From one look at processes that were left to us to the next.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How long a start may take. Whoever cannot be executed for longer is on a disk that does not answer, and holds up all others.
const START_MAX: Duration = Duration::from_secs(10);
/// So many starts may wait for that.
const WAITING_MAX: usize = 1024;
/// How many looks the thread's end waits for programs that were killed.
const LAST_LOOKS: u32 = 200;

/// A program to start, and what it is given.
#[derive(Clone)]
pub struct Launch {
    /// Its path, or a name that is looked for in the daemon's `PATH`, and its arguments. No shell sees them.
    pub argv: Vec<String>,
    /// Its environment besides what every program finds.
    pub env: Vec<(String, String)>,
    /// What it reads at [`FILE_PATH`], from memory.
    pub file: Option<Vec<u8>>,
    /// Whether its standard input and output are one connection. Else it has nothing to read, and what it writes to either
    /// is output.
    pub connects: bool,
    /// The value of [`MARK_VARIABLE`], by which its descendants are found.
    pub mark: String,
}

impl fmt::Debug for Launch {
    /// Without what may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch").field("connects", &self.connects).field("mark", &self.mark).finish_non_exhaustive()
    }
}

/// What the thread is told.
enum Job {
    /// A program is wanted.
    Start {
        launch: Box<Launch>,
        descriptors: Option<Descriptors>,
        /// What the program tells the thread by, once nobody wants it.
        jobs: Sender<Self>,
        /// Its place among those that wait.
        place: OwnedSemaphorePermit,
        /// Set once its turn has come.
        is_begun: Arc<AtomicBool>,
        reply: oneshot::Sender<Result<Started, RunError>>,
    },
    /// Whoever had it has waited for it.
    Reaped(u32),
    /// It was killed, and nobody waits for it.
    Bury(StdChild),
}

/// A program that runs, without a runtime.
struct Started {
    leader: Leader,
    ended: OwnedFd,
    connection: Option<UnixStream>,
    output: OwnedFd,
}

/// A handle on the thread. It ends when the last one is gone, and the last program.
#[derive(Clone)]
pub struct Spawner {
    jobs: Sender<Job>,
    places: Arc<Semaphore>,
    descriptors: Option<Descriptors>,
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").field("descriptors", &self.descriptors).finish_non_exhaustive()
    }
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had.
    pub fn start() -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        Builder::new().name("spawner".to_owned()).spawn(move || run(&inbox))?;
        Ok(Self { jobs, places: Arc::new(Semaphore::new(WAITING_MAX)), descriptors: None })
    }

    /// The same, whose programs may have as many files open as this process might when it was started.
    #[must_use]
    pub fn with_descriptors(self, descriptors: Descriptors) -> Self {
        Self { descriptors: Some(descriptors), ..self }
    }

    /// Starts a program. From any thread, in a runtime with input, output and time. One that was started when nobody waits for
    /// it any more is killed.
    ///
    /// # Errors
    ///
    /// If it cannot be started, by its own fault or by ours. It is its own that it does not begin within ten seconds, and ours
    /// if its turn does not come in that time, or too many wait for theirs.
    pub async fn spawn(&self, launch: Launch) -> Result<Child, RunError> {
        let gone = || RunError::Local(io::Error::other("the thread that starts programs is gone"));
        let many = || RunError::Local(io::Error::other(format!("{WAITING_MAX} programs wait already to be started")));
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| many())?;
        let (reply, started) = oneshot::channel();
        let (jobs, descriptors, is_begun) = (self.jobs.clone(), self.descriptors, Arc::new(AtomicBool::new(false)));
        let turn = Arc::clone(&is_begun);
        let job = Job::Start { launch: Box::new(launch), descriptors, jobs, place, is_begun: turn, reply };
        self.jobs.send(job).map_err(|_| gone())?;
        match timeout(START_MAX, started).await {
            Ok(started) => Child::new(started.map_err(|_| gone())??),
            Err(_) => Err(held_up(is_begun.load(Ordering::Relaxed))),
        }
    }
}

/// Why a start takes too long whose turn has come, or has not.
fn held_up(is_begun: bool) -> RunError {
    let late = |detail: String| io::Error::new(io::ErrorKind::TimedOut, detail);
    if is_begun {
        return RunError::NotStarted(late(format!("it has not begun within {START_MAX:?}: can its file be read?")));
    }
    RunError::Local(late(format!("another program has not begun for {START_MAX:?}, and this one waits for it")))
}

fn run(inbox: &Receiver<Job>) {
    let mut orphans = Orphans::default();
    let mut killed: Vec<StdChild> = Vec::new();
    let mut look = LOOK;
    loop {
        let wait = if killed.is_empty() { orphans.next_look() } else { Some(look) };
        let job = match wait {
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wait) => inbox.recv_timeout(wait),
        };
        match job {
            // Nobody waits for it any more: the one before may have taken long.
            Ok(Job::Start { reply, .. }) if reply.is_closed() => {}
            Ok(Job::Start { launch, descriptors, jobs, place, is_begun, reply }) => {
                is_begun.store(true, Ordering::Relaxed);
                orphans.take_in();
                let started = launch::start(&launch, descriptors, jobs);
                if let Ok(started) = &started {
                    orphans.know(started.leader.pid());
                }
                drop(place);
                // Nobody wants it any more: with it goes the program.
                drop(reply.send(started));
            }
            Ok(Job::Reaped(pid)) => orphans.forget(pid),
            Ok(Job::Bury(child)) => {
                killed.push(child);
                look = LOOK;
            }
            Err(RecvTimeoutError::Timeout) => look = (look * 2).min(LOOK_MAX),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        bury(&mut killed, &mut orphans);
        orphans.reap();
    }
    for _ in 0..LAST_LOOKS {
        bury(&mut killed, &mut orphans);
        if killed.is_empty() {
            return;
        }
        thread::park_timeout(LOOK);
    }
}

/// Waits for those that have ended.
fn bury(killed: &mut Vec<StdChild>, orphans: &mut Orphans) {
    killed.retain_mut(|child| {
        // An error is that there is no such child.
        let is_left = matches!(child.try_wait(), Ok(None));
        if !is_left {
            orphans.forget(child.id());
        }
        is_left
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
