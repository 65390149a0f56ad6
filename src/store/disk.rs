//! The database: its tables, what one transaction writes, and what is read back. It blocks, so only the
//! store's own disk thread and the start come here.
//!
//! A state that is written is written whole: a change and its event are one transaction, durable when it
//! returns. Retention is part of each transaction, a bounded piece at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend, Table, TableDefinition};

use crate::model::{EventRecord, WallTime};

use super::file::{Trouble, builder};
use super::history::Filter;
use super::state::{Row, Shelf, State, UnreadableRow};

/// What this version writes. A higher number on disk is a newer version's.
pub(super) const FORMAT: u64 = 1;
/// How far ahead of the ids in use those are that a process may give without asking the disk. One that ends
/// without saying so may have shown ids that never got to the disk; the next begins above all of them.
/// A disk that fails for a day under ten events a second does not use it up.
pub(super) const RESERVED: u64 = 1_000_000;
/// The most events that one transaction forgets: a millisecond or two.
const SWEEP_MAX: usize = 2000;

const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
const HISTORY: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("history");

const fn shelf(shelf: Shelf) -> TableDefinition<'static, (&'static str, &'static str), &'static str> {
    TableDefinition::new(shelf.name())
}

/// The bounds of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// None is for ever.
    pub(super) max_age: Option<Duration>,
    pub(super) max_bytes: u64,
}

/// What one transaction writes.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// Whether the rows are all there are, rather than what changed.
    pub(super) is_all: bool,
    pub(super) rows: Vec<Row>,
    pub(super) events: Vec<Arc<EventRecord>>,
    /// The id that the next event will get.
    pub(super) next_id: u64,
    /// Whether it is the last one.
    pub(super) is_last: bool,
    pub(super) now: WallTime,
}

/// What is on disk of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Kept {
    /// The id of the oldest event; none if there is no event.
    pub(super) oldest: Option<u64>,
    pub(super) events: u64,
    pub(super) bytes: u64,
    /// Whether there is more to forget.
    pub(super) has_overdue: bool,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) state: State,
    /// The id that the next event gets.
    pub(super) next_id: u64,
    /// Ids below this one may have been shown without having been written.
    pub(super) reserved: u64,
    pub(super) kept: Kept,
    /// The newest events, oldest first.
    pub(super) recent: Vec<EventRecord>,
}

/// A part of a search through the history.
#[derive(Debug, Clone)]
pub(super) struct Scan {
    /// From this id on.
    pub(super) from: u64,
    /// To the one before this.
    pub(super) to: u64,
    /// Whether the newest are wanted, rather than the oldest.
    pub(super) is_backward: bool,
    pub(super) filter: Filter,
    pub(super) limit: usize,
    /// What was found so far, in the order of search.
    pub(super) found: Vec<Arc<EventRecord>>,
    /// Events that could not be read.
    pub(super) unreadable: u64,
}

impl Scan {
    /// Whether there is nothing left to search, or to find.
    pub(super) fn is_done(&self) -> bool {
        self.from >= self.to || self.found.len() >= self.limit
    }
}

/// Runs what the database may panic over: a corrupt file can lead it astray.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Trouble::Corrupt("the database panicked over it".to_owned())))
}

/// Reads all that has to be in memory; `recent_bytes` of the newest events among it.
pub(super) fn load(database: &Database, recent_bytes: usize) -> Result<Found, Trouble> {
    let read = database.begin_read()?;
    let mut found = Found { next_id: 1, ..Found::default() };
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(found),
        Err(error) => return Err(error.into()),
    };
    let number = |name: &str| -> Result<Option<u64>, Trouble> { Ok(meta.get(name)?.map(|value| value.value())) };
    match number("format")? {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => return Err(Trouble::Newer(newer)),
        Some(_) | None => return Err(Trouble::Corrupt("it has no known format".to_owned())),
    }
    for kind in Shelf::ALL {
        let table = match read.open_table(shelf(*kind)) {
            // Files that were begun before there were clusters, webhooks or tunnels have no such table until something is put there.
            Err(redb::TableError::TableDoesNotExist(_)) if kind.came_later() => continue,
            table => table?,
        };
        for entry in table.iter()? {
            let (key, value) = entry?;
            let (pool, name) = key.value();
            let loaded = found.state.load(*kind, pool, name, value.value());
            loaded.map_err(|error: UnreadableRow| Trouble::Corrupt(error.to_string()))?;
        }
    }
    let history = read.open_table(HISTORY)?;
    found.kept = Kept {
        oldest: history.first()?.map(|(id, _)| id.value()),
        events: history.len()?,
        bytes: number("history_bytes")?.unwrap_or(0),
        has_overdue: false,
    };
    let mut bytes = 0;
    for entry in history.iter()?.rev() {
        let (_, json) = entry?;
        bytes += json.value().len();
        if bytes > recent_bytes {
            break;
        }
        // One that cannot be read is passed over: it is no reason to part with every order that is kept beside it.
        found.recent.extend(serde_json::from_slice::<EventRecord>(json.value()));
    }
    found.recent.reverse();
    let last = history.last()?.map_or(0, |(id, _)| id.value());
    // Whoever ended in good order has left the number to go on with; else those reserved may be in use.
    found.reserved = number("reserved")?.unwrap_or(1);
    found.next_id = number("clean")?.unwrap_or(found.reserved).max(last + 1);
    Ok(found)
}

/// As [`load`], from a copy in memory that nobody else sees: also from a file that would have to be repaired
/// where nothing can be written.
pub(super) fn load_copy(copy: &[u8], recent_bytes: usize) -> Result<Found, Trouble> {
    if copy.is_empty() {
        return Ok(Found { next_id: 1, ..Found::default() });
    }
    let memory = InMemoryBackend::new();
    memory.set_len(u64::try_from(copy.len()).unwrap_or(u64::MAX)).map_err(Trouble::Disk)?;
    memory.write(0, copy).map_err(Trouble::Disk)?;
    load(&builder().create_with_backend(memory)?, recent_bytes)
}

/// Makes every table, and notes that ids from `next_id` on are in use from now on.
pub(super) fn begin(database: &Database, next_id: u64) -> Result<(), Trouble> {
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("reserved", next_id + RESERVED)?;
        meta.remove("clean")?;
        for kind in Shelf::ALL {
            write.open_table(shelf(*kind))?;
        }
        write.open_table(HISTORY)?;
    }
    Ok(write.commit()?)
}

/// Writes `batch`; when it returns, all of it is durable. What is left of the history then.
pub(super) fn write(database: &Database, batch: &Batch, bounds: Bounds) -> Result<Kept, Trouble> {
    let write = database.begin_write()?;
    for kind in Shelf::ALL {
        let mut rows = batch.rows.iter().filter(|row| row.shelf == *kind).peekable();
        if batch.is_all {
            write.delete_table(shelf(*kind))?;
        } else if rows.peek().is_none() {
            continue;
        }
        let mut table = write.open_table(shelf(*kind))?;
        for row in rows {
            let key = (row.pool.as_str(), row.name.as_str());
            match &row.value {
                Some(value) => table.insert(key, value.as_str())?,
                None => table.remove(key)?,
            };
        }
    }
    let kept = {
        let mut meta = write.open_table(META)?;
        let mut history = write.open_table(HISTORY)?;
        let mut bytes = meta.get("history_bytes")?.map_or(0, |value| value.value());
        for event in &batch.events {
            let json = serde_json::to_vec(event.as_ref()).map_err(|error| Trouble::Disk(error.into()))?;
            // After a write of which it is not known whether it was one, the same event comes again.
            let before = history.insert(event.id, json.as_slice())?.map_or(0, |old| old.value().len());
            bytes = (bytes + len(json.len())).saturating_sub(len(before));
        }
        let has_overdue = forget(&mut history, &mut bytes, bounds, batch.now)?;
        meta.insert("history_bytes", bytes)?;
        let reserved = meta.get("reserved")?.map_or(0, |value| value.value());
        if batch.next_id + RESERVED / 2 > reserved {
            meta.insert("reserved", batch.next_id + RESERVED)?;
        }
        if batch.is_last {
            meta.insert("clean", batch.next_id)?;
        }
        let oldest = history.first()?.map(|(id, _)| id.value());
        Kept { oldest, events: history.len()?, bytes, has_overdue }
    };
    write.commit()?;
    Ok(kept)
}

/// Forgets the oldest events that are too many or too old, a bounded number of them. Whether there are more.
fn forget(
    history: &mut Table<'_, u64, &'static [u8]>,
    bytes: &mut u64,
    bounds: Bounds,
    now: WallTime,
) -> Result<bool, Trouble> {
    /// What of an event says how old it is.
    #[derive(serde::Deserialize)]
    struct Age {
        time: WallTime,
    }
    for _ in 0..SWEEP_MAX {
        let size = match history.first()? {
            None => return Ok(false),
            Some((_, json)) => {
                let is_old = |age: Duration| {
                    // One that cannot be read goes as soon as it is the oldest.
                    serde_json::from_slice::<Age>(json.value()).map_or(true, |event| event.time < now.before(age))
                };
                if *bytes <= bounds.max_bytes && !bounds.max_age.is_some_and(is_old) {
                    return Ok(false);
                }
                len(json.value().len())
            }
        };
        history.pop_first()?;
        *bytes = bytes.saturating_sub(size);
    }
    Ok(true)
}

/// Searches on through at most `rows` events.
pub(super) fn scan(database: &Database, scan: &mut Scan, rows: usize) -> Result<(), Trouble> {
    let read = database.begin_read()?;
    let history = read.open_table(HISTORY)?;
    let mut range = history.range(scan.from..scan.to)?;
    for _ in 0..rows {
        let entry = if scan.is_backward { range.next_back() } else { range.next() };
        let Some(entry) = entry else {
            scan.from = scan.to;
            return Ok(());
        };
        let (id, json) = entry?;
        match serde_json::from_slice::<EventRecord>(json.value()) {
            Ok(event) if scan.filter.matches(&event) => scan.found.push(Arc::new(event)),
            Ok(_) => {}
            Err(_) => scan.unreadable += 1,
        }
        if scan.is_backward {
            scan.to = id.value();
        } else {
            scan.from = id.value() + 1;
        }
        if scan.is_done() {
            return Ok(());
        }
    }
    Ok(())
}

fn len(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
