//! The opening of a session: up to the backend's first byte nothing is lost if it ends, for what the
//! client sent so far is kept and can be sent again to another.
//!
//! A backend that ends in this time has
//! - heard nothing: the next one can be tried, whatever the protocol;
//! - heard something and reset the connection: it has not read it all (a kernel whose process had read
//!   everything ends the connection in order), so the next one can be tried;
//! - read all it was sent and ended in order: that may be its answer, or it may have acted on what it
//!   read. Nobody sends that again; the end is passed on.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;

use crate::model::{Direction, SessionEnd};
use crate::sys::Stream;

use super::buffer::{BufferPool, Filled};
use super::pulse::Pulse;
use super::tell;

/// So many bytes of a client are kept for another backend: more than any protocol's greeting.
const FIRST_CHUNK_MAX: usize = 16 * 1024;

/// How long it may take the network to tell whether bytes that crossed a backend's end were read.
const CROSSING_MAX: Duration = Duration::from_secs(1);

/// What a client has sent before any backend answered.
#[derive(Debug, Default)]
pub struct FirstChunk {
    bytes: Vec<u8>,
    /// How many of them the present backend's socket has taken.
    sent: usize,
}

impl FirstChunk {
    /// Whether the present backend has been sent anything.
    #[must_use]
    pub const fn is_sent(&self) -> bool {
        self.sent > 0
    }

    /// Is to be sent to another backend, from its first byte on.
    pub const fn rewind(&mut self) {
        self.sent = 0;
    }

    /// What the present backend has not been sent.
    fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// What is unsent, for the relay to send.
    fn into_unsent(self) -> Option<Filled> {
        let Self { bytes, sent } = self;
        (sent < bytes.len()).then(|| Filled { end: bytes.len(), start: sent, buffer: bytes.into_boxed_slice() })
    }
}

/// What is on its way when the relay begins.
#[derive(Debug, Default)]
pub struct Start {
    pub(super) up: Option<Filled>,
    pub(super) down: Option<Filled>,
}

impl Start {
    /// Whether it holds bytes of the client: they can go to no other backend any more.
    #[must_use]
    pub const fn holds_client_bytes(&self) -> bool {
        self.up.is_some()
    }

    /// Writes the backend's first bytes to `client`, as far as there is room for them now.
    pub fn deliver(&mut self, client: &Stream, pulse: &Pulse) {
        if let Some(filled) = &mut self.down
            // What cannot be written now the relay will write, or say why not.
            && let Ok(written) = client.try_send(filled.bytes())
        {
            pulse.moved(Direction::BackendToClient, written);
            filled.start += written;
        }
    }

    /// With what is left of `first` to be sent; from now on it can go to no other backend.
    #[must_use]
    pub fn after(self, first: FirstChunk) -> Self {
        Self { up: first.into_unsent().or(self.up), down: self.down }
    }
}

/// How a session opened.
#[derive(Debug)]
pub enum Opening {
    /// The backend has answered, or what the client sent is more than can be kept: relay on.
    Opened(Start),
    /// The backend ended before its first byte and has not acted on anything the client sent. `reset`: it
    /// did so by a reset, and is gone; else it may still read.
    Unanswered {
        /// Whether the connection was reset.
        reset: bool,
    },
    /// The client ended it, or it was told to stop. Both sides have been told.
    Ended(SessionEnd),
}

/// Sends `first` and what the client sends meanwhile to `backend`, until that answers or ends. When it is
/// to be tried again elsewhere, `first` holds all that the client has sent.
pub async fn open(
    client: &Stream,
    backend: &Stream,
    first: &mut FirstChunk,
    pulse: &Pulse,
    buffers: &BufferPool,
) -> Opening {
    let opening = poll_fn(|cx| poll(cx, client, backend, first, pulse, buffers)).await;
    match opening {
        Opening::Ended(end) => tell(end, client, backend, pulse).await,
        // Its end crossed our bytes on the way, if nobody acknowledges them.
        Opening::Unanswered { reset: false } if first.is_sent() && !is_reset_soon(backend, pulse).await => {
            return Opening::Opened(Start::default());
        }
        Opening::Unanswered { reset: false } if first.is_sent() => return Opening::Unanswered { reset: true },
        Opening::Unanswered { .. } | Opening::Opened(_) => {}
    }
    opening
}

/// Whether a backend that ended in order has not read what it was sent. Then its kernel resets the connection.
async fn is_reset_soon(backend: &Stream, pulse: &Pulse) -> bool {
    let (mut pause, mut waited) = (Duration::from_millis(1), Duration::ZERO);
    // The kernel tells nobody of an acknowledgement, so it has to be asked.
    while backend.unsent() > 0 && !backend.is_closed() && waited < CROSSING_MAX && !pulse.is_stopped() {
        sleep(pause).await;
        waited += pause;
        pause *= 2;
    }
    backend.is_closed()
}

fn poll(
    cx: &mut Context<'_>,
    client: &Stream,
    backend: &Stream,
    first: &mut FirstChunk,
    pulse: &Pulse,
    buffers: &BufferPool,
) -> Poll<Opening> {
    if let Some(end) = pulse.told_to_stop(cx) {
        return Poll::Ready(Opening::Ended(end));
    }
    loop {
        // The backend is looked at first: one that is gone should be sent nothing.
        if let Poll::Ready(heard) = poll_receive(cx, backend, buffers) {
            return Poll::Ready(heard_of_backend(heard, backend, first));
        }
        while !first.unsent().is_empty() {
            match backend.poll_send(cx, first.unsent()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(written)) => {
                    first.sent += written;
                    pulse.moved(Direction::ClientToBackend, written);
                }
                // What it said before it went counts.
                Poll::Ready(Err(_)) => {
                    return Poll::Ready(match poll_receive(cx, backend, buffers) {
                        Poll::Ready(Ok(Some(filled))) => heard_of_backend(Ok(Some(filled)), backend, first),
                        Poll::Ready(_) | Poll::Pending => Opening::Unanswered { reset: true },
                    });
                }
            }
        }
        match poll_receive(cx, client, buffers) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Some(filled))) if first.bytes.len() + filled.end > FIRST_CHUNK_MAX => {
                return Poll::Ready(Opening::Opened(Start { up: Some(filled), down: None }));
            }
            Poll::Ready(Ok(Some(filled))) => {
                first.bytes.extend_from_slice(filled.bytes());
                buffers.give_back(filled.buffer);
            }
            // Whoever ends now gets the backend's answer to that, whatever it is. The relay sees the end again.
            Poll::Ready(Ok(None)) => return Poll::Ready(Opening::Opened(Start::default())),
            Poll::Ready(Err(_)) => return Poll::Ready(Opening::Ended(SessionEnd::ClientReset)),
        }
    }
}

fn heard_of_backend(heard: io::Result<Option<Filled>>, backend: &Stream, first: &FirstChunk) -> Opening {
    match heard {
        Ok(Some(filled)) => Opening::Opened(Start { up: None, down: Some(filled) }),
        Ok(None) if backend.is_closed() => Opening::Unanswered { reset: true },
        Ok(None) if !first.is_sent() || backend.unsent() > 0 => Opening::Unanswered { reset: false },
        Ok(None) => Opening::Opened(Start::default()),
        Err(_) => Opening::Unanswered { reset: true },
    }
}

/// Receives once. None is the end.
fn poll_receive(cx: &mut Context<'_>, source: &Stream, buffers: &BufferPool) -> Poll<io::Result<Option<Filled>>> {
    loop {
        if let Err(error) = std::task::ready!(source.poll_readable(cx)) {
            return Poll::Ready(Err(error));
        }
        let mut buffer = buffers.borrow();
        match source.try_recv(&mut buffer) {
            Ok(0) => {
                buffers.give_back(buffer);
                return Poll::Ready(Ok(None));
            }
            Ok(end) => return Poll::Ready(Ok(Some(Filled { buffer, start: 0, end }))),
            Err(error) => {
                buffers.give_back(buffer);
                if error.kind() != io::ErrorKind::WouldBlock && error.kind() != io::ErrorKind::Interrupted {
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}
