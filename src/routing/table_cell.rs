//! The one place where the table in force is kept: written by one, read by all, never waited for.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use crate::failover::RouteTable;
use crate::model::Generation;

use super::live::Live;

/// A table with the counters that go with it.
#[derive(Debug, Default)]
pub struct Published {
    /// Where sessions go.
    pub table: Arc<RouteTable>,
    /// What is counted on the way.
    pub live: Arc<Live>,
}

/// The writing end. There is one, and it cannot be cloned.
#[derive(Debug)]
pub struct RouteWriter {
    cell: Arc<ArcSwap<Published>>,
    generation: watch::Sender<Generation>,
}

/// A reading end.
#[derive(Debug, Clone)]
pub struct RouteReader {
    cell: Arc<ArcSwap<Published>>,
    generation: watch::Receiver<Generation>,
}

/// The two ends of a cell that holds an empty table.
#[must_use]
pub fn route_cell() -> (RouteWriter, RouteReader) {
    let cell = Arc::new(ArcSwap::from_pointee(Published::default()));
    let (sender, receiver) = watch::channel(Generation::default());
    (RouteWriter { cell: Arc::clone(&cell), generation: sender }, RouteReader { cell, generation: receiver })
}

impl RouteWriter {
    /// Puts `published` in force and wakes those who wait for a change.
    pub fn publish(&self, published: Published) {
        let generation = published.table.generation;
        self.cell.store(Arc::new(published));
        self.generation.send_replace(generation);
    }
}

impl RouteReader {
    /// The table in force. Takes no lock. A reader that keeps it keeps its own snapshot.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Published>> {
        self.cell.load()
    }

    /// Waits for the next table after the one in force now. Cancel-safe.
    pub async fn next(&self) {
        let mut generation = self.generation.clone();
        generation.mark_unchanged();
        // An error means that there will be none; the caller looks at the present one again.
        drop(generation.changed().await);
    }

    /// Waits for the next table that this reader has not been told of. `false`: there will be none.
    /// Cancel-safe: a change that was not returned is told the next time.
    pub async fn changed(&mut self) -> bool {
        self.generation.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Published, route_cell};
    use crate::failover::RouteTable;
    use crate::model::Generation;
    use std::sync::Arc;

    fn published(generation: u64) -> Published {
        let table = RouteTable { generation: Generation(generation), ..RouteTable::default() };
        Published { table: Arc::new(table), ..Published::default() }
    }

    #[tokio::test]
    async fn a_reader_keeps_its_own_snapshot_and_is_told_of_the_next() {
        let (writer, mut reader) = route_cell();
        writer.publish(published(1));
        let kept = reader.load();
        writer.publish(published(2));
        assert_eq!(kept.table.generation, Generation(1));
        assert!(reader.changed().await);
        assert_eq!(reader.load().table.generation, Generation(2));
        drop(writer);
        assert!(!reader.changed().await);
    }
}
