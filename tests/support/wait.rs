//! Waiting for conditions. The deadline is for a machine in trouble; a healthy one never meets it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take before the test gives up. What must not pass by itself meanwhile (clients that are held, a
/// pause) is given ten minutes.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// From one look at a condition to the next.
const LOOK: Duration = Duration::from_millis(2);

/// Waits until `condition` is true; panics with `what` after `deadline`.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}

/// Waits until `look` finds something, and returns it; panics with `what` after `deadline`.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain until {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// What `measure` finds, and what it finds once more if that is not `good`: what else a machine has to do may spoil one
/// measurement, but a daemon that is worse is worse in each.
pub fn measured<T>(mut measure: impl FnMut() -> T, good: impl Fn(&T) -> bool) -> T {
    let first = measure();
    if good(&first) { first } else { measure() }
}

/// What `work` comes to, on a runtime that has timers; panics with `what` after the deadline.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, work).await;
    done.unwrap_or_else(|_| panic!("waited {DEADLINE:?} in vain until {what}"))
}

/// The same on a runtime of its own.
pub fn block_on<T>(what: &str, work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(in_time(what, work))
}

/// Holds a generator of load to its rate: returns no earlier than `gap` after `last`, which it moves on.
pub fn pace(last: &mut Instant, gap: Duration) {
    *last += gap;
    while let Some(left) = last.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// Sets its flag when it goes out of scope, also by a panic: threads that look at it end, and are joined.
#[derive(Debug)]
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Waits until `written` has stood still for `still`: the reader does not read. What it is then.
#[track_caller]
pub fn wait_stalled(written: &AtomicUsize, still: Duration) -> usize {
    let mut last = (0, Instant::now());
    wait_until("the writer stands still", DEADLINE, || {
        let now = written.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
        now > 0 && last.1.elapsed() > still
    });
    last.0
}
