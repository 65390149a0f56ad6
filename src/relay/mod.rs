//! Floor 4: moves bytes between two sockets, and knows nothing else: not where the sockets came
//! from, nor whom to tell.
//!
//! A session opens first ([`open`]): until the backend's first byte, what the client sent can be sent
//! again to another backend. Then [`relay`] moves bytes to the end.
//!
//! One task polls both directions. A direction at rest holds nothing; when bytes come it borrows a
//! buffer of the thread, sends at once what it received, and gives the buffer back. What a short
//! write leaves stays in the buffer, and the direction reads no more until that is out: this is the
//! back-pressure. The end of one direction is passed on with `shutdown`, and the other goes on. A
//! reset is passed on as a reset, after what came before it was delivered. A byte has one owner at
//! any time: a socket or the borrowed buffer.

mod buffer;
mod half;
mod opening;
mod pulse;
mod reset;

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::model::{Direction, SessionEnd};
use crate::sys::Stream;

pub use buffer::BufferPool;
use half::{Broken, Half};
pub use opening::{FirstChunk, Opening, Start, open};
pub use pulse::Pulse;

/// Why a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayEnd {
    /// The session is over.
    Over(SessionEnd),
    /// It may rest: nothing is on its way, and both directions go on when something comes.
    AtRest,
}

/// Relays from `start` until both directions ended, one side broke, or `pulse` says stop or rest. What had to be told
/// to the two sides has been told when it is over: dropping the sockets ends or resets them as is right.
pub async fn relay(client: &Stream, backend: &Stream, start: Start, pulse: &Pulse, buffers: &BufferPool) -> RelayEnd {
    let mut relay = Relay {
        up: Half::new(client, backend, Direction::ClientToBackend, start.up),
        down: Half::new(backend, client, Direction::BackendToClient, start.down),
        broken: None,
    };
    let end = poll_fn(|cx| relay.poll(cx, pulse, buffers)).await;
    drop(relay);
    if let RelayEnd::Over(end) = end {
        tell(end, client, backend, pulse).await;
    }
    end
}

/// Has the coming close of the two sockets say what is right after `end`.
async fn tell(end: SessionEnd, client: &Stream, backend: &Stream, pulse: &Pulse) {
    match end {
        SessionEnd::Completed => {}
        SessionEnd::ClientReset => reset::pass_on(backend, pulse).await,
        SessionEnd::BackendReset => reset::pass_on(client, pulse).await,
        // A stream that is cut short must not look complete.
        SessionEnd::IdleTimeout
        | SessionEnd::HalfCloseTimeout
        | SessionEnd::FencedDead
        | SessionEnd::FencedUnreachable
        | SessionEnd::FencedCheckFailed
        | SessionEnd::FencedDrained
        | SessionEnd::FencedFailedBack
        | SessionEnd::Closed
        | SessionEnd::DrainDeadline => {
            client.reset_on_close();
            backend.reset_on_close();
        }
    }
}

/// Both directions, and what is known of the two sides.
struct Relay<'a> {
    up: Half<'a>,
    down: Half<'a>,
    /// The side that broke, while what it sent before is still being delivered.
    broken: Option<SessionEnd>,
}

impl Relay<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, pulse: &Pulse, buffers: &BufferPool) -> Poll<RelayEnd> {
        if let Some(end) = pulse.told_to_stop(cx) {
            return Poll::Ready(RelayEnd::Over(end));
        }
        // Up: reads from the client, writes to the backend. Down: the reverse.
        let client_broke = self.broken == Some(SessionEnd::ClientReset);
        if let Poll::Ready(Err(broken)) = self.up.poll(cx, pulse, buffers, client_broke) {
            self.note(match broken {
                Broken::Source => SessionEnd::ClientReset,
                Broken::Sink => SessionEnd::BackendReset,
            });
        }
        let backend_broke = self.broken == Some(SessionEnd::BackendReset);
        if let Poll::Ready(Err(broken)) = self.down.poll(cx, pulse, buffers, backend_broke) {
            self.note(match broken {
                Broken::Source => SessionEnd::BackendReset,
                Broken::Sink => SessionEnd::ClientReset,
            });
        }
        pulse.set_half_closed(self.up.has_ended() || self.down.has_ended());
        if self.up.has_ended() && self.down.has_ended() {
            return Poll::Ready(RelayEnd::Over(self.broken.unwrap_or(SessionEnd::Completed)));
        }
        if self.up.is_at_rest() && self.down.is_at_rest() && pulse.takes_rest() {
            return Poll::Ready(RelayEnd::AtRest);
        }
        Poll::Pending
    }

    /// A side broke: nothing can be sent to it any more, but what came from it before still counts.
    fn note(&mut self, end: SessionEnd) {
        self.broken.get_or_insert(end);
        if end == SessionEnd::ClientReset { self.down.give_up() } else { self.up.give_up() }
    }
}
