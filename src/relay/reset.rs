//! Passing a reset on, after the flush.

use std::time::Duration;

use tokio::time::sleep;

use crate::sys::Stream;

use super::pulse::Pulse;

/// How long the other side may take nothing of what the kernel has still to send before the reset
/// overtakes it. One that goes on reading, however slowly, gets everything.
const STALLED_MAX: Duration = Duration::from_secs(5);

/// The longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Resets `sink` on close, once the kernel has delivered what was sent to it before: a reset discards
/// the send queue, and bytes that came before the other side's reset were meant to arrive.
pub(super) async fn pass_on(sink: &Stream, pulse: &Pulse) {
    let (mut pause, mut stalled, mut left) = (Duration::from_millis(1), Duration::ZERO, sink.unsent());
    // The kernel tells nobody when the last byte is acknowledged, so it has to be asked.
    while left > 0 && stalled < STALLED_MAX && !pulse.is_stopped() {
        sleep(pause).await;
        let now = sink.unsent();
        stalled = if now < left { Duration::ZERO } else { stalled + pause };
        left = now;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    sink.reset_on_close();
}
