//! A session's sign of life: what it has moved, and whether it must stop. Shared between the relay
//! and the thread's one coarse tick, so that no session needs a timer of its own.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use crate::model::{Direction, SessionEnd};

use super::vigil::Vigil;

/// The limits of a session, in ticks; zero is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct TickLimits {
    /// Ticks without a byte.
    idle: u32,
    /// The same once one direction has ended.
    half_closed: u32,
}

/// One session's sign of life. Belongs to one thread.
#[derive(Debug, Default)]
pub struct Pulse {
    limits: TickLimits,
    moved: [Cell<u64>; 2],
    /// What was moved when somebody last looked.
    seen: [Cell<u64>; 2],
    quiet_ticks: Cell<u32>,
    /// Ticks in which nothing came from the backend, whatever went to it.
    unanswered_ticks: Cell<u32>,
    /// Of those, how many there were when it was last looked at whether the backend is still there; zero if it was not.
    looked_at: Cell<u32>,
    half_closed: Cell<bool>,
    /// It is relayed, so that it can be asked to rest.
    is_relayed: Cell<bool>,
    /// Nothing has moved for long: the session may rest.
    may_rest: Cell<bool>,
    stop: Cell<Option<SessionEnd>>,
    waker: RefCell<Option<Waker>>,
    /// Kept after each move, for so long.
    vigil: Option<(Rc<Vigil>, Duration)>,
    /// Set after each move to whether the client has spoken last, where somebody wants to know.
    awaits: OnceCell<Arc<AtomicBool>>,
}

impl Pulse {
    /// A pulse with these limits in ticks; zero is none.
    #[must_use]
    pub fn new(idle: u32, half_closed: u32) -> Self {
        Self { limits: TickLimits { idle, half_closed }, ..Self::default() }
    }

    /// One tick has passed: stops the session if it was quiet for too long. Gives what moved since
    /// the last tick, to the backend and to the client.
    pub fn tick(&self) -> [u64; 2] {
        let moved = self.take_moved();
        let quiet = if moved == [0, 0] { self.quiet_ticks.get().saturating_add(1) } else { 0 };
        self.quiet_ticks.set(quiet);
        if moved[Direction::BackendToClient.index()] == 0 {
            self.unanswered_ticks.set(self.unanswered_ticks.get().saturating_add(1));
        } else {
            self.unanswered_ticks.set(0);
            self.looked_at.set(0);
        }
        let passed = |limit: u32| limit > 0 && quiet >= limit;
        if self.half_closed.get() && passed(self.limits.half_closed) {
            self.stop(SessionEnd::HalfCloseTimeout);
        } else if passed(self.limits.idle) {
            self.stop(SessionEnd::IdleTimeout);
        }
        moved
    }

    /// Whether it is time to look whether the backend is still there: when nothing has come from it for `every` ticks, and for
    /// as many more since the last look; and once when nothing has moved at all for so long, for what was sent just before the
    /// last look was too young for it. What is sent counts as moved once our own kernel has it, and proves nothing.
    #[must_use]
    pub fn is_due(&self, every: u32) -> bool {
        let since_look = self.unanswered_ticks.get().saturating_sub(self.looked_at.get());
        let quiet = self.quiet_ticks.get();
        since_look >= every || quiet.checked_sub(every).is_some_and(|after| since_look > after)
    }

    /// That is being looked into.
    pub fn look_into(&self) {
        self.looked_at.set(self.unanswered_ticks.get());
    }

    /// Has the relay end, if nothing moves, so that the session can rest.
    pub fn let_rest(&self) {
        self.may_rest.set(true);
        self.wake();
    }

    /// Whether it can rest, if it is asked to: not before its first byte, nor once a direction has ended.
    #[must_use]
    pub fn can_rest(&self) -> bool {
        self.is_relayed.get() && !self.half_closed.get()
    }

    pub(super) fn is_relayed(&self) {
        self.is_relayed.set(true);
    }

    /// For how many ticks nothing has moved.
    #[must_use]
    pub fn quiet_ticks(&self) -> u32 {
        self.quiet_ticks.get()
    }

    /// A session that has been quiet for so many ticks already.
    #[must_use]
    pub fn quiet_for(self, ticks: u32) -> Self {
        self.quiet_ticks.set(ticks);
        self
    }

    /// A session after whose moves its thread stays awake for `time`.
    #[must_use]
    pub fn awake_for(mut self, time: Duration, vigil: &Rc<Vigil>) -> Self {
        self.vigil = (!time.is_zero()).then(|| (Rc::clone(vigil), time));
        self
    }

    /// Has `awaits` be set, after each move, to whether the client waits for an answer: whether it has spoken last.
    pub fn tell_whether_it_awaits(&self, awaits: &Arc<AtomicBool>) {
        self.awaits.get_or_init(|| Arc::clone(awaits));
    }

    /// What moved since it was last asked, to the backend and to the client.
    pub fn take_moved(&self) -> [u64; 2] {
        let moved = self.moved_since_tick();
        self.seen.iter().zip(&self.moved).for_each(|(seen, moved)| seen.set(moved.get()));
        moved
    }

    fn moved_since_tick(&self) -> [u64; 2] {
        let since = |index: usize| self.moved[index].get() - self.seen[index].get();
        [since(0), since(1)]
    }

    /// All that moved in the session's life, to the backend and to the client.
    #[must_use]
    pub fn total(&self) -> [u64; 2] {
        [self.moved[0].get(), self.moved[1].get()]
    }

    /// Has the relay end for this reason. The first reason counts.
    pub fn stop(&self, end: SessionEnd) {
        if self.stop.get().is_none() {
            self.stop.set(Some(end));
        }
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) fn moved(&self, direction: Direction, bytes: usize) {
        let total = &self.moved[direction.index()];
        total.set(total.get() + u64::try_from(bytes).unwrap_or(0));
        if let Some((vigil, time)) = &self.vigil {
            vigil.keep(*time);
        }
        if let Some(awaits) = self.awaits.get() {
            awaits.store(direction == Direction::ClientToBackend, Ordering::Relaxed);
        }
    }

    /// One direction has ended or not; the quiet before that does not count against the other.
    pub(super) fn set_half_closed(&self, half_closed: bool) {
        if half_closed && !self.half_closed.replace(true) {
            self.quiet_ticks.set(0);
        }
    }

    /// Whether the session may rest, if nothing moved since it was told so.
    pub(super) fn takes_rest(&self) -> bool {
        self.may_rest.take() && self.moved_since_tick() == [0, 0] && !self.half_closed.get()
    }

    /// Whether the relay has been told to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.get().is_some()
    }

    /// Why the relay must end, if it must; else it is woken when it must.
    pub(super) fn told_to_stop(&self, cx: &Context<'_>) -> Option<SessionEnd> {
        let stop = self.stop.get();
        if stop.is_none() {
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        stop
    }
}

#[cfg(test)]
mod tests {
    use super::Pulse;
    use crate::model::{Direction, SessionEnd};

    #[test]
    fn a_session_is_stopped_after_its_quiet_ticks_and_not_before() {
        let pulse = Pulse::new(3, 2);
        pulse.moved(Direction::ClientToBackend, 5);
        assert_eq!(pulse.tick(), [5, 0]);
        assert_eq!((pulse.tick(), pulse.tick()), ([0, 0], [0, 0]));
        assert_eq!(pulse.stop.get(), None);
        pulse.tick();
        assert_eq!(pulse.stop.get(), Some(SessionEnd::IdleTimeout));
        assert_eq!(pulse.total(), [5, 0]);
    }

    #[test]
    fn a_session_that_only_sends_is_unanswered_and_is_looked_into_again_and_again() {
        let pulse = Pulse::new(0, 0);
        let mut looked = Vec::new();
        for tick in 1..=20 {
            pulse.moved(Direction::ClientToBackend, 10);
            if tick == 13 {
                pulse.moved(Direction::BackendToClient, 1);
            }
            pulse.tick();
            // The one who looks has no time in the sixth tick.
            if pulse.is_due(3) && tick != 6 {
                pulse.look_into();
                looked.push(tick);
            }
        }
        assert_eq!(looked, [3, 7, 10, 16, 19], "an answer begins it anew");
        assert_eq!(pulse.quiet_ticks(), 0);
    }

    #[test]
    fn what_was_sent_just_before_a_look_is_looked_into_before_the_session_can_rest() {
        let pulse = Pulse::new(0, 0);
        let looked: Vec<u32> = (1..=12)
            .filter(|&tick| {
                if tick == 3 {
                    pulse.moved(Direction::ClientToBackend, 10);
                }
                pulse.tick();
                let is_due = pulse.is_due(4);
                if is_due {
                    pulse.look_into();
                }
                is_due
            })
            .collect();
        assert_eq!(looked, [4, 7, 11], "in the fourth quiet tick, and again when four more are over");
    }

    #[test]
    fn a_half_closed_session_has_its_own_limit_and_zero_is_none() {
        let pulse = Pulse::new(0, 2);
        for _ in 0..100 {
            pulse.tick();
        }
        assert_eq!(pulse.stop.get(), None);
        pulse.moved(Direction::BackendToClient, 1);
        pulse.tick();
        pulse.tick();
        pulse.tick();
        pulse.set_half_closed(true);
        pulse.tick();
        assert_eq!(pulse.stop.get(), None, "the quiet before the half-close does not count");
        pulse.tick();
        assert_eq!(pulse.stop.get(), Some(SessionEnd::HalfCloseTimeout));
    }
}
