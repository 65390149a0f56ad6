//! Sessions that were fenced and whose clients, silent since, are closed one lot after the other, so that they do not all
//! come back at once. One queue a thread and one timer; none has a task, and none goes on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::timeout_at;

use crate::model::MonoTime;
use crate::routing::Pair;

use super::Worker;
use super::talk::Talk;

/// So many are closed before others on the thread have their turn: about half a millisecond.
const CLOSED_AT_ONCE: usize = 32;

/// Whose turn comes when, by the keys of sessions at rest.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: RefCell<BTreeSet<(MonoTime, u64)>>,
    /// Another than before is the first.
    changed: Notify,
    /// Nobody waits any more.
    are_over: Cell<bool>,
}

impl Turns {
    fn first(&self) -> Option<MonoTime> {
        self.waiting.borrow().first().map(|&(turn, _)| turn)
    }

    fn add(&self, turn: MonoTime, key: u64) {
        let is_first = self.first().is_none_or(|first| turn < first);
        self.waiting.borrow_mut().insert((turn, key));
        if is_first {
            self.changed.notify_one();
        }
    }

    /// Whether it waited until now.
    pub(super) fn remove(&self, turn: MonoTime, key: u64) -> bool {
        self.waiting.borrow_mut().remove(&(turn, key))
    }

    /// The first, if its turn has come.
    fn take_due(&self, now: MonoTime) -> Option<u64> {
        let mut waiting = self.waiting.borrow_mut();
        let due = waiting.first().is_some_and(|&(turn, _)| turn <= now || self.are_over.get());
        if due { waiting.pop_first().map(|(_, key)| key) } else { None }
    }
}

impl Worker {
    /// Closes the clients of fenced sessions whose turn has come, for ever.
    pub async fn close_in_turn_forever(self: Rc<Self>) {
        loop {
            if self.close_due() {
                yield_now().await;
                continue;
            }
            let changed = self.turns.changed.notified();
            match self.turns.first() {
                None => changed.await,
                // Whichever it was, the queue is looked at again.
                Some(turn) => _ = timeout_at(self.clock.instant(turn), changed).await,
            }
        }
    }

    /// Closes some; whether there may be more.
    fn close_due(&self) -> bool {
        let now = self.clock.now();
        for _ in 0..CLOSED_AT_ONCE {
            let Some(key) = self.turns.take_due(now) else { return false };
            if let Some(talk) = self.resting.take_fenced(key) {
                talk.end_leaving();
            }
            if self.turns.first().is_none() {
                // A thread that is left without sessions looks once more, and gives their memory back.
                self.first_session.notify_one();
            }
        }
        true
    }

    /// Has nobody wait for a turn any more: the daemon stops, and nobody can come back to it.
    pub fn end_turns(&self) {
        self.turns.are_over.set(true);
        self.turns.changed.notify_one();
    }

    /// A session that was fenced while it moved bytes, and whose client has been silent since: from now on it costs no
    /// more than if it had rested.
    pub(super) fn leave_busy(&self, talk: Talk, Pair { client, server }: Pair, turn: MonoTime) {
        // The fence does so too, but perhaps only in a moment.
        server.abort();
        drop(server);
        talk.admission.keep_leaving(client, |client| client.rest().ok());
        self.wait_turn(talk, turn, None, self.has_been_cut());
    }

    /// A session that was fenced: closes its client when its `turn` comes, or it goes away by itself, or the session is
    /// to be `stopped` now. What the client still has to say is not read. If it `waits` already, whether its client had
    /// sent all when it began to.
    pub(super) fn wait_turn(&self, mut talk: Talk, turn: MonoTime, waits: Option<bool>, stopped: bool) {
        talk.leave_backend();
        let key = self.resting.next_key();
        let client = talk.admission.leaving(|client| {
            // One that has sent all it has to say waits for its answer like everybody else, and only what comes now is news.
            let sent_all = waits.unwrap_or_else(|| client.has_ended());
            self.resting.await_end(client, key, sent_all);
            (sent_all, if sent_all { client.is_cut() } else { client.has_ended() })
        });
        let (sent_all, has_left) = client.unwrap_or((false, true));
        if stopped || has_left || self.turns.are_over.get() || turn <= self.clock.now() {
            return talk.end_leaving();
        }
        self.resting.add_fenced(talk, sent_all);
        self.turns.add(turn, key);
    }
}
