//! Floor 3: state and history on disk, in one file of one embedded database.
//!
//! Two threads of its own: one owns what is kept and never waits for a disk (`keeper`), the other one does nothing
//! else (`disk`, `file`). Callers have a [`StoreHandle`]; none of its calls waits for a disk unless the caller asks
//! to. Nothing here knows what a registration or an event means, and nothing outside knows what a table is.
//!
//! What holds:
//! - What was said to be durable is there after a SIGKILL or a loss of power; a change and its event come together
//!   or not at all.
//! - An event's id is given once. Ids grow by one while the process runs, and go on after it ended in good order; after
//!   one that did not, they go on above all that it may have given, a million further on at most.
//! - A disk that is full, fails or hangs stops nobody: everything goes on in memory, and is written once the disk
//!   works again. What was on disk before stays.
//! - Everything is bounded: entries and their length, events in memory and on disk, requests, pages, listeners' queues.
//! - Without a directory all of it holds but that nothing outlives the process. Its ids begin where those of no process before
//!   it were, at the microseconds since 1970.

mod disk;
mod entries;
mod figures;
mod file;
mod handle;
mod history;
mod keeper;
mod pages;
mod request;
mod start;
mod state;
#[cfg(test)]
mod tests;
mod threads;

pub use entries::{AdminEntry, Patch, Pause, Pin, PoolCounters, StoppedTunnel};
pub use figures::StoreFigures;
pub use file::FILE_NAME;
#[cfg(test)]
pub(crate) use handle::Stuck;
pub use handle::{Follow, Followed, Looked, StoreHandle};
pub use history::{Filter, Page};
#[cfg(test)]
pub(crate) use pages::FIND_WITHIN;
pub use pages::PAGE_MAX;
pub use request::{Applied, Refused};
pub use start::{Opened, StoreError, open};
pub use state::{BackendKey, Change, State};
