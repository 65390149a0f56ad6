//! Conversations in which nothing moves: each costs its entry here and in the registry, and no task, no
//! timer and no place in the runtime, until there is something to read.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use slab::Slab;
use tokio::task::spawn_local;

use crate::model::SessionEnd;
use crate::relay::Start;
use crate::sys::{RestWatch, Resting, Stream};

use super::Worker;
use super::talk::{Talk, talk};

/// After so many ticks without a byte a session rests: one second. Putting it to rest and waking it costs
/// eight system calls, about as much as two messages, so those who only pause to think are spared it.
pub(super) const REST_AFTER: u32 = 4;

/// A conversation at rest.
#[derive(Debug)]
struct Rested {
    talk: Talk,
    /// For how many ticks nothing has moved.
    quiet: u32,
    /// How many there may be; zero is any number.
    limit: u32,
}

/// The conversations of one thread that are at rest.
#[derive(Debug, Default)]
pub(super) struct RestingTalks {
    /// None before the thread runs, or if there was no descriptor for it: then none rests.
    watch: OnceCell<RestWatch>,
    talks: RefCell<Slab<Rested>>,
    /// How many of them have a limit.
    limited: Cell<usize>,
}

impl RestingTalks {
    /// Whether sessions can rest here.
    pub(super) fn is_open(&self) -> bool {
        self.watch.get().is_some()
    }

    /// How many are here.
    pub(super) fn len(&self) -> usize {
        self.talks.borrow().len()
    }

    /// Whether time matters to any of them.
    pub(super) const fn has_limits(&self) -> bool {
        self.limited.get() > 0
    }

    fn add(&self, rested: Rested) {
        self.limited.set(self.limited.get() + usize::from(rested.limit > 0));
        self.talks.borrow_mut().insert(rested);
    }

    /// The key of the next one that is added.
    fn next_key(&self) -> u64 {
        u64::try_from(self.talks.borrow().vacant_key()).unwrap_or(u64::MAX)
    }

    fn take(&self, key: u64) -> Option<Rested> {
        let rested = self.talks.borrow_mut().try_remove(usize::try_from(key).ok()?)?;
        self.limited.set(self.limited.get() - usize::from(rested.limit > 0));
        Some(rested)
    }

    /// One tick has passed: those whose time is up.
    fn tick(&self) -> Vec<u64> {
        if !self.has_limits() {
            return Vec::new();
        }
        let mut talks = self.talks.borrow_mut();
        let due = talks.iter_mut().filter_map(|(key, rested)| {
            rested.quiet = rested.quiet.saturating_add(1);
            (rested.limit > 0 && rested.quiet >= rested.limit).then(|| u64::try_from(key).ok())?
        });
        due.collect()
    }

    fn keys(&self) -> Vec<u64> {
        self.talks.borrow().iter().filter_map(|(key, _)| u64::try_from(key).ok()).collect()
    }
}

impl Worker {
    /// Wakes sessions at rest when something comes for them, for ever.
    pub async fn wake_rested_forever(self: Rc<Self>) {
        let watch = match RestWatch::new() {
            Ok(watch) => self.resting.watch.get_or_init(|| watch),
            Err(error) => {
                tracing::warn!(%error, "sessions without traffic will take more memory");
                return;
            }
        };
        let mut keys = Vec::new();
        while let Ok(()) = watch.news(&mut keys).await {
            for key in keys.drain(..) {
                self.wake(key, None);
            }
        }
    }

    /// Puts a conversation to rest.
    pub(super) fn rest(&self, talk: Talk, client: Arc<Stream>, server: Arc<Stream>, quiet: u32) {
        talk.admission.detach();
        match self.take_out(&talk, client, server) {
            Some(()) => {
                let limit = self.ticks(talk.plan.idle_timeout);
                self.resting.add(Rested { talk, quiet, limit });
                self.first_session.notify_one();
            }
            // Fenced on the way, or out of the kernel's memory.
            None => talk.finish(SessionEnd::BackendReset),
        }
    }

    /// Moves the sockets out of the runtime and into the registry.
    fn take_out(&self, talk: &Talk, client: Arc<Stream>, server: Arc<Stream>) -> Option<()> {
        let watch = self.resting.watch.get()?;
        // A fence that is just cutting them holds a handle.
        let both = [Arc::into_inner(client)?.rest().ok()?, Arc::into_inner(server)?.rest().ok()?];
        let key = self.resting.next_key();
        both.iter().try_for_each(|socket| watch.add(socket, key)).ok()?;
        talk.admission.rest(both).ok()
    }

    /// Ends those at rest whose time is up.
    pub(super) fn tick_rested(self: &Rc<Self>) {
        for key in self.resting.tick() {
            self.wake(key, Some(SessionEnd::IdleTimeout));
        }
    }

    /// Ends all that are at rest.
    pub(super) fn cut_rested(self: &Rc<Self>) {
        for key in self.resting.keys() {
            self.wake(key, Some(SessionEnd::DrainDeadline));
        }
    }

    /// Has a conversation go on, or stop.
    fn wake(self: &Rc<Self>, key: u64, stop: Option<SessionEnd>) {
        // Both its sockets may have had news.
        let Some(Rested { talk, quiet, .. }) = self.resting.take(key) else { return };
        let Some(both) = talk.admission.wake() else { return talk.finish(SessionEnd::BackendReset) };
        if let Some(watch) = self.resting.watch.get() {
            both.iter().for_each(|socket| watch.remove(socket));
        }
        drop(spawn_local(resume(Rc::clone(self), talk, both, quiet, stop)));
    }
}

/// Goes on with a conversation after its rest.
async fn resume(worker: Rc<Worker>, talk_on: Talk, both: [Resting; 2], quiet: u32, stop: Option<SessionEnd>) {
    let [client, server] = both.map(Resting::wake);
    let (Ok(client), Ok(server)) = (client, server) else { return talk_on.finish(SessionEnd::BackendReset) };
    let (client, server) = (Arc::new(client), Arc::new(server));
    if talk_on.admission.attach_client(&client, &server, || ()).is_err() {
        // Cut while it rested.
        talk_on.finish(SessionEnd::BackendReset);
        return drop((client, server));
    }
    let line = talk_on.line(&worker, client, server, quiet);
    if let Some(end) = stop {
        line.pulse.stop(end);
    }
    talk(worker, talk_on, line, Start::default()).await;
}
