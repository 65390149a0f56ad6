//! Floor 4: moves bytes between two sockets, and knows nothing else: not where the sockets came
//! from, nor whom to tell.
//!
//! A session opens first ([`open`]): until the backend's first byte, what the client sent can be sent
//! again to another backend. Then [`relay`] moves bytes to the end.
//!
//! One task polls both directions. A direction at rest holds nothing; when bytes come it borrows a
//! buffer of the thread, sends at once what it received, and gives the buffer back. What a short
//! write leaves stays in the buffer, and the direction reads no more until that is out: this is the
//! back-pressure. The end of one direction is passed on with `shutdown`, and the other goes on; the end of
//! both is left to the close of the sockets, which must follow at once. A
//! reset is passed on as a reset, after what came before it was delivered. A byte has one owner at
//! any time: a socket, the borrowed buffer, or the borrowed pipe. It is counted when a socket takes it.
//!
//! # Streams
//!
//! A direction whose reads stay large is a stream: the kernel moves it with splice(2), through a pipe that is
//! borrowed while it holds bytes. Small moves make it a copy again. [`Splicing`] has the numbers. A thread has few
//! pipes, the kernel may give none or small ones, and whoever gets none copies.
//!
//! Of splice(2) that is empty-handed nothing is believed. It says "would block" of an empty source, of a full
//! pipe and of an urgent byte, and zero at the end, or before an urgent byte if the end is in sight. So only an
//! empty pipe is filled, and when nothing came a read into a buffer asks the source itself: that alone clears
//! the runtime's readiness, and that alone sees the end, when the pipe is empty by then.
//!
//! Processor seconds of the relay's thread for a gigabyte, eight sessions over loopback, by `benches/relay.rs`
//! (Linux 6.18, two shared cores: lines can be compared with each other, and differences below a tenth mean nothing).
//! Copied with buffers of 64 KiB:
//!
//! | messages | copied | spliced | as it is |
//! |---|---|---|---|
//! | 2 KiB | 3.26 | 3.67 | 3.07 |
//! | 8 KiB | 0.78 | 0.89 | 0.78 |
//! | 16 KiB | 0.40 | 0.46 | 0.40 |
//! | 60 KiB | 0.137 | 0.140 | 0.139 |
//! | 256 KiB | 0.181 | 0.082 | 0.086 |
//! | no end | 0.442 | 0.205 | 0.191 |
//!
//! Half the threshold makes messages of 16 KiB dearer by a sixth; pipes of 128 KiB make streams dearer by a third to
//! a half, and pipes of 1 MiB make nothing cheaper beyond the noise.

mod buffer;
mod half;
mod listening;
mod loans;
mod opening;
mod pulse;
mod reset;
mod vigil;

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::model::{Direction, SessionEnd};
use crate::sys::{Gated, Stream};

use half::{Broken, Half, Sink, Way};
pub use listening::{Heard, listen};
pub use loans::{Loans, PIPES_MAX, PipeCounts, Splicing};
pub use opening::{FirstChunk, Opening, Start, open};
pub use pulse::Pulse;
pub use vigil::Vigil;

/// Why a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayEnd {
    /// The session is over.
    Over(SessionEnd),
    /// It may rest: nothing is on its way, and both directions go on when something comes.
    AtRest,
}

/// Relays from `start` until both directions ended, one side broke, or `pulse` says stop or rest. When it is over,
/// what is left to be told to the two sides is told by dropping the sockets, which ends or resets them as is right.
/// A client that is silenced ends it like a reset by its backend.
pub fn relay<'a>(
    client: &'a Gated,
    backend: &'a Stream,
    start: Start,
    pulse: &'a Pulse,
    loans: &'a Loans,
) -> impl Future<Output = RelayEnd> + 'a {
    let mut relay = Relay { up: Half::new(start.up), down: Half::new(start.down), broken: None };
    async move {
        pulse.is_relayed();
        let end = poll_fn(|cx| relay.poll(cx, client, backend, pulse, loans)).await;
        drop(relay);
        if let RelayEnd::Over(end) = end {
            tell(end, client, backend, pulse).await;
        }
        end
    }
}

/// Has the coming close of the two sockets say what is right after `end`.
async fn tell(end: SessionEnd, client: &Stream, backend: &Stream, pulse: &Pulse) {
    match end {
        SessionEnd::Completed => {}
        // Boxed, as a session at rest should not be larger for the timer that few need at their end.
        SessionEnd::ClientReset => Box::pin(reset::pass_on(backend, pulse)).await,
        SessionEnd::BackendReset => Box::pin(reset::pass_on(client, pulse)).await,
        // A stream that is cut short must not look complete.
        SessionEnd::IdleTimeout
        | SessionEnd::HalfCloseTimeout
        | SessionEnd::FencedDead
        | SessionEnd::FencedUnreachable
        | SessionEnd::FencedCheckFailed
        | SessionEnd::FencedDrained
        | SessionEnd::FencedFailedBack
        | SessionEnd::FencedDemoted
        | SessionEnd::FencedLagging
        | SessionEnd::FencedManual
        | SessionEnd::Closed
        | SessionEnd::DrainDeadline => {
            client.reset_on_close();
            backend.reset_on_close();
        }
    }
}

/// Why `client` cannot be written to. One that is silenced is there, but its backend is lost to it.
fn unwritable(client: &Gated) -> SessionEnd {
    if client.is_silenced() { SessionEnd::BackendReset } else { SessionEnd::ClientReset }
}

/// Both directions, and what is known of the two sides.
struct Relay {
    up: Half,
    down: Half,
    /// The side that broke, while what it sent before is still being delivered.
    broken: Option<SessionEnd>,
}

impl Relay {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &Gated,
        backend: &Stream,
        pulse: &Pulse,
        loans: &Loans,
    ) -> Poll<RelayEnd> {
        if let Some(end) = pulse.told_to_stop(cx) {
            return Poll::Ready(RelayEnd::Over(end));
        }
        let up = Way { source: client, sink: Sink::Backend(backend), direction: Direction::ClientToBackend };
        let down = Way { source: backend, sink: Sink::Client(client), direction: Direction::BackendToClient };
        let had_ended = [self.up.has_ended(), self.down.has_ended()];
        let client_broke = self.broken == Some(SessionEnd::ClientReset);
        if let Poll::Ready(Err(broken)) = self.up.poll(cx, up, pulse, loans, client_broke) {
            self.note(match broken {
                Broken::Source => SessionEnd::ClientReset,
                Broken::Sink => SessionEnd::BackendReset,
            });
        }
        let backend_broke = self.broken == Some(SessionEnd::BackendReset);
        if let Poll::Ready(Err(broken)) = self.down.poll(cx, down, pulse, loans, backend_broke) {
            self.note(match broken {
                Broken::Source => SessionEnd::BackendReset,
                Broken::Sink => unwritable(client),
            });
        }
        pulse.set_half_closed(self.up.has_ended() || self.down.has_ended());
        if !self.has_ended() {
            self.pass_on_end(had_ended, client, backend);
        }
        if self.has_ended() {
            return Poll::Ready(RelayEnd::Over(self.broken.unwrap_or(SessionEnd::Completed)));
        }
        if self.up.is_at_rest() && self.down.is_at_rest() && pulse.takes_rest() {
            return Poll::Ready(RelayEnd::AtRest);
        }
        Poll::Pending
    }

    /// Tells a side that the other will send no more, if that has just turned out. Only while the other direction
    /// goes on: the end of both is told by the close that follows, for a system call less.
    fn pass_on_end(&mut self, had_ended: [bool; 2], client: &Gated, backend: &Stream) {
        // Once a side broke, whoever is left is told by its reset.
        if self.broken.is_some() {
            return;
        }
        if self.up.has_ended() && !had_ended[0] && backend.end_writing().is_err() {
            self.note(SessionEnd::BackendReset);
        } else if self.down.has_ended() && !had_ended[1] && client.end_writing().is_err() {
            self.note(unwritable(client));
        }
    }

    const fn has_ended(&self) -> bool {
        self.up.has_ended() && self.down.has_ended()
    }

    /// A side broke: nothing can be sent to it any more, but what came from it before still counts.
    fn note(&mut self, end: SessionEnd) {
        self.broken.get_or_insert(end);
        if end == SessionEnd::ClientReset { self.down.give_up() } else { self.up.give_up() }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::{LocalSet, spawn_local};

    use super::{Loans, Pulse, Start, relay};
    use crate::model::SessionEnd;
    use crate::sys::{Gated, Stream, connect, in_time, tally};

    /// One end of a connection for the relay, and the other end.
    pub(super) async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let ours = connect(&address, Duration::from_secs(10)).await.unwrap();
        let other = listener.accept().unwrap().0;
        other.set_nonblocking(true).unwrap();
        (ours, TcpStream::from_std(other).unwrap())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_message_costs_one_receive_and_one_send() {
        const MESSAGES: usize = 500;
        let ((client, mut person), (backend, mut server)) = (pair().await, pair().await);
        let (local, client) = (LocalSet::new(), Gated::new(client));
        let relayed = local.spawn_local(async move {
            relay(&client, &backend, Start::default(), &Pulse::new(0, 0), &Loans::new(65_536)).await
        });
        let spoken = local.run_until(in_time(async {
            let mut message = [7; 200];
            tally::take();
            for _ in 0..MESSAGES {
                person.write_all(&message).await.unwrap();
                server.read_exact(&mut message).await.unwrap();
                server.write_all(&message).await.unwrap();
                person.read_exact(&mut message).await.unwrap();
            }
            let counted = tally::take();
            spawn_local(async move {
                for end in [person, server] {
                    end.into_std().unwrap().shutdown(Shutdown::Write).unwrap();
                }
            });
            counted
        }));
        assert_eq!(spoken.await, [4 * MESSAGES, 0], "calls, and calls in vain");
        assert_eq!(local.run_until(in_time(relayed)).await.unwrap(), super::RelayEnd::Over(SessionEnd::Completed));
    }
}
