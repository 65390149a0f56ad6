//! Clients handed over from the thread that accepted them to one with fewer sessions: the kernel's choice of a
//! thread is blind, and database sessions are few and long.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::model::ListenerName;
use crate::sys::{Resting, Stream};

use super::{Caller, Places, Worker};

/// Clients that may be on their way to one thread. One more stays where it was accepted.
const ON_THE_WAY_MAX: usize = 1024;

/// A client on its way to another thread, let in already.
#[derive(Debug)]
pub struct Handed {
    /// The listener that it came through.
    pub listener: ListenerName,
    client: Resting,
    /// Who it is.
    pub caller: Caller,
    /// What it takes up.
    pub places: Places,
}

impl Handed {
    /// The client, watched by this thread from now on; none if that cannot be.
    #[must_use]
    pub fn arrive(self) -> Option<(Stream, Caller, Places)> {
        Some((self.client.wake().ok()?, self.caller, self.places))
    }
}

/// The ways to all threads, by number.
#[derive(Debug, Clone, Default)]
pub struct Threads(Arc<[mpsc::Sender<Handed>]>);

impl Threads {
    /// The ways to `count` threads, and where each finds who comes.
    #[must_use]
    pub fn new(count: usize) -> (Self, Vec<mpsc::Receiver<Handed>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(ON_THE_WAY_MAX)).unzip();
        (Self(senders.into()), receivers)
    }
}

impl Worker {
    /// Hands a client over that has just been let in, if a thread has fewer sessions by more than a little. Gives it back
    /// if it stays; nothing if it is on its way, or lost because it cannot be watched.
    #[must_use]
    pub fn hand_over(
        &self,
        listener: &ListenerName,
        client: Stream,
        caller: Caller,
        mut places: Places,
    ) -> Option<(Stream, Caller, Places)> {
        let Some(thread) = self.seats.lighter_than(self.index) else { return Some((client, caller, places)) };
        let Some(Ok(way)) = self.threads.0.get(thread).map(mpsc::Sender::try_reserve) else {
            return Some((client, caller, places));
        };
        let client = client.rest().ok()?;
        places.seat.move_to(thread);
        way.send(Handed { listener: listener.clone(), client, caller, places });
        None
    }
}
