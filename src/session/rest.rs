//! Conversations in which nothing moves: each costs its entry here and in the registry, and no task, no
//! timer and no place in the runtime, until there is something to read.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::rc::Rc;

use slab::Slab;
use tokio::task::{spawn_local, yield_now};

use crate::model::SessionEnd;
use crate::relay::Start;
use crate::routing::{Pair, Woken};
use crate::sys::{RestWatch, Resting, Stream};

use super::Worker;
use super::talk::{Talk, talk};

/// After so many ticks without a byte a session rests: one second. Putting it to rest and waking it costs
/// eight system calls, about as much as two messages, so those who only pause to think are spared it.
pub(super) const REST_AFTER: u32 = 4;

/// So many are put to rest in one tick: about three milliseconds of the thread's time.
pub(super) const RESTS_A_TICK: usize = 512;

/// A conversation at rest.
#[derive(Debug)]
struct Rested {
    talk: Talk,
    /// For how many ticks nothing has moved.
    quiet: u32,
    /// How many there may be; zero is any number.
    limit: u32,
    /// It was fenced, and its client had sent all that it had to say by then.
    sent_all: bool,
}

/// The conversations of one thread that are at rest.
#[derive(Debug, Default)]
pub(super) struct RestingTalks {
    /// None before the thread runs, or if there was no descriptor for it: then none rests.
    watch: OnceCell<RestWatch>,
    /// The watch has failed: none rests any more.
    has_failed: Cell<bool>,
    talks: RefCell<Slab<Rested>>,
    /// How many of them have a limit.
    limited: Cell<usize>,
}

impl RestingTalks {
    /// Whether sessions can rest here.
    pub(super) fn is_open(&self) -> bool {
        self.open_watch().is_some()
    }

    fn open_watch(&self) -> Option<&RestWatch> {
        self.watch.get().filter(|_| !self.has_failed.get())
    }

    /// How many are here.
    pub(super) fn len(&self) -> usize {
        self.talks.borrow().len()
    }

    /// Whether time matters to any of them.
    pub(super) const fn has_limits(&self) -> bool {
        self.limited.get() > 0
    }

    /// Keeps one that will not wake again but to its end, of which time is told elsewhere.
    pub(super) fn add_fenced(&self, talk: Talk, sent_all: bool) {
        self.add(Rested { talk, quiet: 0, limit: 0, sent_all });
    }

    /// Takes one out that was fenced.
    pub(super) fn take_fenced(&self, key: u64) -> Option<Talk> {
        self.take(key).map(|rested| rested.talk)
    }

    /// Has `client`'s end, and nothing else of it, be news under `key`; if it has `sent_all`, that it is cut.
    pub(super) fn await_end(&self, client: &Resting, key: u64, sent_all: bool) {
        if let Some(watch) = self.open_watch() {
            watch.await_end(client, key, sent_all);
        }
    }

    fn add(&self, rested: Rested) {
        self.limited.set(self.limited.get() + usize::from(rested.limit > 0));
        self.talks.borrow_mut().insert(rested);
    }

    /// The key of the next one that is added.
    pub(super) fn next_key(&self) -> u64 {
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
        self.wake_rested(async |keys| watch.news(keys).await).await;
    }

    /// Wakes the sessions that `news` tells of. Should that fail, all go on as they would have without a rest: what
    /// comes for them would reach nobody.
    pub(super) async fn wake_rested(self: &Rc<Self>, mut news: impl AsyncFnMut(&mut Vec<u64>) -> io::Result<()>) {
        let mut keys = Vec::new();
        let error = loop {
            if let Err(error) = news(&mut keys).await {
                break error;
            }
            for key in keys.drain(..) {
                self.wake(key, None);
            }
            // Those that were woken, and everybody else, before the next few.
            yield_now().await;
        };
        self.resting.has_failed.set(true);
        tracing::error!(
            %error,
            "sessions without traffic can no longer be watched together: those of this thread go on, and take more memory"
        );
        for key in self.resting.keys() {
            self.wake(key, None);
        }
    }

    /// Puts a conversation to rest. It goes on if that cannot be.
    pub(super) fn rest(self: &Rc<Self>, talk: Talk, both: Pair, quiet: u32) {
        let key = self.resting.next_key();
        match talk.admission.rest(both, |streams| self.take_out(streams, key)) {
            Ok(()) => {
                let limit = self.ticks(talk.plan.idle_timeout);
                self.resting.add(Rested { talk, quiet, limit, sent_all: false });
                self.first_session.notify_one();
            }
            Err(Some(both)) => self.go_on(talk, both, quiet, None),
            Err(None) => talk.lost(),
        }
    }

    /// Moves the sockets out of the runtime, or gives them back.
    fn take_out(&self, [client, server]: [Stream; 2], key: u64) -> Result<[Resting; 2], Option<[Stream; 2]>> {
        let (Ok(client), Ok(server)) = (client.rest(), server.rest()) else { return Err(None) };
        let both = [client, server];
        let Some(watch) = self.resting.open_watch() else { return Err(awake(both)) };
        match both.iter().try_for_each(|socket| watch.add(socket, key)) {
            Ok(()) => Ok(both),
            Err(error) => {
                tracing::debug!(%error, "a session cannot rest");
                both.iter().for_each(|socket| watch.remove(socket));
                Err(awake(both))
            }
        }
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

    /// Ends a rest.
    fn wake(self: &Rc<Self>, key: u64, stop: Option<SessionEnd>) {
        // Both its sockets may have had news.
        let Some(Rested { talk, quiet, sent_all, .. }) = self.resting.take(key) else { return };
        let woken = talk.admission.wake(|both| {
            if let Some(watch) = self.resting.watch.get() {
                both.iter().for_each(|socket| watch.remove(socket));
            }
            awake(both)
        });
        match woken {
            Woken::Streams(both) => self.go_on(talk, both, quiet, stop),
            Woken::Fenced(turn) => {
                let waits = self.turns.remove(turn, key).then_some(sent_all);
                self.wait_turn(talk, turn, waits, stop.is_some());
            }
            Woken::Lost => talk.lost(),
        }
    }

    /// Has a conversation go on, or stop.
    fn go_on(self: &Rc<Self>, on: Talk, both: Pair, quiet: u32, stop: Option<SessionEnd>) {
        let line = on.line(self, both, quiet);
        if let Some(end) = stop {
            line.pulse.stop(end);
        }
        drop(spawn_local(talk(Rc::clone(self), on, line, Start::default())));
    }
}

/// The sockets, given back to the runtime; none if it has no room for one.
fn awake([client, server]: [Resting; 2]) -> Option<[Stream; 2]> {
    match (client.wake(), server.wake()) {
        (Ok(client), Ok(server)) => Some([client, server]),
        // What is left of it must not look complete.
        (Ok(left), Err(_)) | (Err(_), Ok(left)) => {
            left.reset_on_close();
            None
        }
        (Err(_), Err(_)) => None,
    }
}
