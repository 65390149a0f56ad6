//! A thread that stays awake for a while after bytes have moved: it asks the kernel for news again and again instead
//! of going to sleep until there is some, and so spares a conversation in lockstep the time that waking up takes.
//!
//! One task does it for all sessions of its thread, and yields after every look: whatever news there is, of whichever
//! session, is dealt with before the next.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;

use crate::model::MonoTime;
use crate::sys::Clock;

/// How long a thread stays awake. Belongs to one thread.
#[derive(Debug, Default)]
pub struct Vigil {
    /// How much longer, as asked for since it was last looked at.
    asked: Cell<Duration>,
    called: Notify,
}

impl Vigil {
    /// Has the thread stay awake for `time` from now on.
    pub(super) fn keep(&self, time: Duration) {
        let asked = self.asked.get();
        if asked < time {
            self.asked.set(time);
        }
        if asked.is_zero() {
            self.called.notify_one();
        }
    }

    /// Stays awake whenever it is asked to, for ever.
    pub async fn keep_forever(&self, clock: Clock) {
        loop {
            self.called.notified().await;
            let mut until = MonoTime::ZERO;
            loop {
                let now = clock.now();
                until = until.max(now + self.asked.take());
                if until <= now {
                    break;
                }
                // The runtime runs what yields only after it has asked the kernel, without waiting there.
                yield_now().await;
            }
        }
    }
}
