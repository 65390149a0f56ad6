//! The watches of PostgreSQL servers: each a task of its own, whose news go to the control task like probes' answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};

use crate::failover::Event;
use crate::model::{BackendId, WatchId, WatchNews, WatchSpec};
use crate::sys::Clock;
use crate::watch::watch;

/// News that wait for the control task at most; a watch with more to tell waits with it.
const UNHEARD_MAX: usize = 256;

/// The watches under way.
pub(super) struct Watches {
    clock: Clock,
    news: mpsc::Sender<Event>,
    running: BTreeMap<BackendId, AbortHandle>,
}

impl Watches {
    pub(super) fn new(clock: Clock) -> (Self, mpsc::Receiver<Event>) {
        let (news, receiver) = mpsc::channel(UNHEARD_MAX);
        (Self { clock, news, running: BTreeMap::new() }, receiver)
    }

    /// Watches a server; an older watch of it ends, and what it has told and was not heard yet carries its number.
    pub(super) fn start(&mut self, backend: BackendId, id: WatchId, spec: Arc<WatchSpec>) {
        self.stop(backend);
        let (clock, sender) = (self.clock, self.news.clone());
        let task = spawn_local(watch(spec, clock, async move |news: WatchNews| {
            // Nobody listens any more only when the daemon ends.
            drop(sender.send(Event::Watched { backend, watch: id, news }).await);
        }));
        self.running.insert(backend, task.abort_handle());
    }

    /// Watches it no more.
    pub(super) fn stop(&mut self, backend: BackendId) {
        if let Some(task) = self.running.remove(&backend) {
            task.abort();
        }
    }
}

impl Drop for Watches {
    /// Their servers are told that they go.
    fn drop(&mut self) {
        for task in self.running.values() {
            task.abort();
        }
    }
}
