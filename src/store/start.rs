//! The start: the file is opened and read, and whatever is wrong with it is told apart: what people have to mend,
//! what is moved out of the way, and what may mend itself.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::mpsc::{channel, sync_channel};
use std::thread::{Builder, park_timeout};
use std::time::Duration;

use redb::Database;
use tokio::sync::broadcast;

use crate::model::{StorePlan, WallTime};
use crate::sys::{Clock, own_uid};

use super::disk::{self, Bounds, Found, guarded};
use super::figures::Figures;
use super::file::{Medium, StateFile, Trouble};
use super::handle::{INBOX_MAX, LIVE_MAX, StoreHandle};
use super::keeper::{Keeper, RING_MAX, set_aside_event};
use super::state::State;
use super::threads::{DiskSide, keep, now, open_known};

/// The newest events that are read into memory at the start, in bytes: half of what may be there.
const RECENT: usize = RING_MAX / 4;
/// From one try to get the file to the next, while another process has it.
const LOCK_LOOK: Duration = Duration::from_millis(20);

/// A store that is open.
#[derive(Debug)]
pub struct Opened {
    /// The way to it.
    pub handle: StoreHandle,
    /// What outlived the last process.
    pub state: State,
}

/// Why the store cannot be opened, and what would help.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("{file} is in use by another process; stop that one, or give this one a `daemon.state_dir` of its own")]
    InUse {
        /// The file.
        file: String,
    },
    /// A newer version has written it.
    #[error(
        "{file} was written by a newer version (its format is {found}; this version knows up to {known}); \
         start that version, or move the file away to begin without it",
        known = disk::FORMAT
    )]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        found: u64,
    },
    /// It cannot be opened, and that will not mend itself.
    #[error(
        "cannot open {file}: {source}; let the daemon's user write there (this is uid {uid}), or set another `daemon.state_dir`",
        uid = own_uid()
    )]
    Open {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// No thread can be started.
    #[error("cannot start a thread for the state: {0}")]
    Thread(#[source] io::Error),
}

/// Opens the store that `plan` describes, and starts its threads. While another process has it, it is tried for
/// `lock_wait`: one that hands over may be about to close it. Blocks on the disk.
///
/// # Errors
///
/// [`StoreError`]. A full or failing disk is none: then all is kept in memory until it works again.
pub fn open(plan: &StorePlan, lock_wait: Duration, clock: Clock) -> Result<Opened, StoreError> {
    let medium = plan.state_dir.as_ref().map(|directory| Box::new(StateFile::new(directory)) as Box<dyn Medium>);
    open_on(medium, plan, lock_wait, clock)
}

/// What was made of what lies there.
struct Start {
    found: Found,
    database: Option<Database>,
    /// Why nothing can be written.
    failing: Option<String>,
    /// Where a corrupt file lies now.
    set_aside: Option<String>,
    /// Whether what is there must be moved out of the way before anything is written.
    is_corrupt: bool,
}

/// As [`open`], on any medium; without one, in memory only.
pub(super) fn open_on(
    medium: Option<Box<dyn Medium>>,
    plan: &StorePlan,
    lock_wait: Duration,
    clock: Clock,
) -> Result<Opened, StoreError> {
    let figures = Arc::new(Figures::default());
    let (live, _) = broadcast::channel(LIVE_MAX);
    let (inbox, requests) = sync_channel(INBOX_MAX);
    let handle = StoreHandle::new(inbox.clone(), &live, Arc::clone(&figures));
    let Some(mut medium) = medium else {
        let found = without_past(now(clock).wall);
        let keeper = Keeper::new(found, false, live, figures, now(clock));
        let thread = Builder::new().name("store".to_owned()).spawn(move || keep(keeper, &requests, None, clock));
        thread.map_err(StoreError::Thread)?;
        return Ok(Opened { handle, state: State::default() });
    };
    let Start { found, database, failing, set_aside, is_corrupt } = start(medium.as_mut(), lock_wait, clock)?;
    let state = found.state.clone();
    let moment = now(clock);
    let mut keeper = Keeper::new(found, true, live, figures, moment);
    if let Some(path) = set_aside {
        keeper.begin_with(moment, set_aside_event(moment.wall, path));
    }
    if let Some(reason) = failing {
        keeper.begin_failing(moment, &reason);
    }
    let bounds =
        Bounds { max_age: Some(plan.history_max_age).filter(|age| !age.is_zero()), max_bytes: plan.history_max_size };
    let side = DiskSide { medium, database, bounds, is_corrupt, clock };
    let (to_disk, jobs) = channel();
    let thread = Builder::new().name("store-disk".to_owned()).spawn(move || side.run(&jobs, &inbox));
    thread.map_err(StoreError::Thread)?;
    let thread = Builder::new().name("store".to_owned()).spawn(move || keep(keeper, &requests, Some(&to_disk), clock));
    thread.map_err(StoreError::Thread)?;
    Ok(Opened { handle, state })
}

fn start(medium: &mut dyn Medium, lock_wait: Duration, clock: Clock) -> Result<Start, StoreError> {
    let give_up = clock.now() + lock_wait;
    let trouble = loop {
        match read(medium) {
            Ok((found, database)) => return Ok(Start::well(found, database, None)),
            Err(Trouble::InUse) if clock.now() < give_up => park_timeout(LOCK_LOOK),
            Err(trouble) => break trouble,
        }
    };
    let file = medium.name();
    match trouble {
        Trouble::InUse => Err(StoreError::InUse { file }),
        Trouble::Newer(found) => Err(StoreError::Newer { file, found }),
        Trouble::Disk(source) if is_for_people(source.kind()) => Err(StoreError::Open { file, source }),
        Trouble::Disk(error) => Ok(start_failing(medium, &error.to_string(), clock)),
        Trouble::Corrupt(why) => Ok(start_anew(medium, &why, clock)),
    }
}

impl Start {
    fn well(found: Found, database: Database, set_aside: Option<String>) -> Self {
        Self { found, database: Some(database), failing: None, set_aside, is_corrupt: false }
    }

    fn failing(found: Found, reason: String, is_corrupt: bool) -> Self {
        Self { found, database: None, failing: Some(reason), set_aside: None, is_corrupt }
    }
}

/// Errors that no disk makes, and no time mends.
const fn is_for_people(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::PermissionDenied
            | ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
    )
}

fn read(medium: &mut dyn Medium) -> Result<(Found, Database), Trouble> {
    guarded(|| {
        let database = medium.open()?;
        let found = disk::load(&database, RECENT)?;
        disk::begin(&database, found.next_id)?;
        Ok((found, database))
    })
}

/// Nothing can be written. What is there may be readable; if it is not either, it is kept for people to look at.
fn start_failing(medium: &dyn Medium, why: &str, clock: Clock) -> Start {
    let reason = format!("{}: {why}", medium.name());
    match guarded(|| disk::load_copy(&medium.copy().map_err(Trouble::Disk)?, RECENT)) {
        Ok(found) => {
            let next_id = found.next_id.max(found.reserved);
            Start::failing(Found { next_id, ..found }, reason, false)
        }
        Err(trouble) => {
            let file = medium.name();
            tracing::error!(file, error = %trouble, "the state cannot be read either: begun without it");
            Start::failing(without_past(now(clock).wall), reason, true)
        }
    }
}

/// What is there makes no sense: it goes out of the way, for the daemon has to start.
fn start_anew(medium: &mut dyn Medium, why: &str, clock: Clock) -> Start {
    let wall = now(clock).wall;
    let (file, found) = (medium.name(), without_past(wall));
    let path = match medium.set_aside(wall) {
        Ok(path) => path,
        Err(error) => {
            tracing::error!(file, why, %error, "the state file is corrupt and cannot be moved away: begun without it");
            return Start::failing(found, format!("{file}: {error}"), true);
        }
    };
    tracing::error!(file, why, moved_to = path, "the state file is corrupt: it was moved away, and begun anew");
    match open_known(medium, found.next_id) {
        Ok(database) => Start::well(found, database, Some(path)),
        Err(trouble) => Start { set_aside: Some(path), ..Start::failing(found, format!("{file}: {trouble}"), false) },
    }
}

/// Nothing is known of what was. Ids begin at the microseconds since 1970: above any that were given before, unless there was
/// an event each microsecond since, so that whoever comes with one of those is known to come with one of another history. As a
/// number of JavaScript they are exact until 2255.
fn without_past(now: WallTime) -> Found {
    let micros = u64::try_from(now.as_micros()).unwrap_or(0);
    Found { next_id: micros.max(1), ..Found::default() }
}
