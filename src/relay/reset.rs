//! Passing a reset on, after the flush.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::sys::Stream;

/// How long what the kernel has still to send may take before the reset overtakes it.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Resets `sink` on close, once the kernel has delivered what was sent to it before: a reset discards
/// the send queue, and bytes that came before the other side's reset were meant to arrive.
pub(super) async fn pass_on(sink: &Stream) {
    let flushed = async {
        let mut pause = Duration::from_millis(1);
        // The kernel tells nobody when the last byte is acknowledged, so it has to be asked.
        while sink.unsent() > 0 {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    };
    // What was not taken in that time is lost, and the reset says so.
    let _taken_too_late = timeout(FLUSH_MAX, flushed).await;
    sink.reset_on_close();
}
