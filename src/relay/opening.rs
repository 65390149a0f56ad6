//! The opening of a session: up to the backend's first byte a client may be given another backend.
//!
//! That is so if nothing was sent to the backend, or a greeting, on which no server acts. Anything else may
//! be an order. How the connection ended does not tell whether it was read: a server that reads a part, or
//! all of it and closes hard, ends in a reset too. So an order is sent twice only if the pool's `resend` says that
//! this does no harm; else the end is passed on.
//!
//! Of a PostgreSQL server's answers those count as none that are no more than a no: that it lets nobody in now, of which the
//! client is not told, and that it does not encrypt, after which the client begins anew without.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use crate::model::{CancelKey, Direction, Resend, SessionEnd};
use crate::sys::{Gated, Stream};
use crate::wire::is_greeting;
use crate::wire::postgres::{FirstPacket, NotNow, parse_first_packet};

use super::buffer::{BufferPool, Filled};
use super::loans::Loans;
use super::pulse::Pulse;
use super::tell;

/// So many bytes of a client are kept for another backend: more than any protocol's greeting.
const FIRST_CHUNK_MAX: usize = 16 * 1024;

/// The answer of a PostgreSQL server that does not encrypt.
const NO: &[u8] = b"N";

/// What a client has sent before any backend answered.
#[derive(Debug)]
pub struct FirstChunk {
    bytes: Vec<u8>,
    /// How many of them the present backend's socket has taken.
    sent: usize,
    resend: Resend,
    /// Whether it is known to be PostgreSQL's.
    is_postgres: bool,
    /// So many requests for encryption came before it, and the client has been told of each that it is refused.
    refusals: usize,
}

impl Default for FirstChunk {
    fn default() -> Self {
        Self { bytes: Vec::new(), sent: 0, resend: Resend::Greeting, is_postgres: false, refusals: 0 }
    }
}

impl FirstChunk {
    /// Goes by `resend` from now on.
    pub const fn set_resend(&mut self, resend: Resend) {
        self.resend = resend;
    }

    /// The client speaks PostgreSQL's protocol, and so does its backend.
    pub const fn set_postgres(&mut self) {
        self.is_postgres = true;
    }

    /// Tells `client` that what it asked for is refused: there is no encryption. It begins anew, here or elsewhere: whoever goes
    /// on without at one server does so at any, as if it had not asked. Whether it could be told.
    pub fn refuse(&mut self, client: &Gated, pulse: &Pulse) -> bool {
        self.bytes.clear();
        (self.sent, self.refusals) = (0, self.refusals + 1);
        let told = client.try_send(NO);
        pulse.moved(Direction::BackendToClient, *told.as_ref().unwrap_or(&0));
        told.is_ok_and(|told| told == NO.len())
    }

    /// How many requests for encryption the client has been told are refused.
    #[must_use]
    pub const fn refusals(&self) -> usize {
        self.refusals
    }

    /// Whether the client has sent anything.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All that it has sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Waits for bytes of `client`, and keeps them. How many there were: none at its end, or if no more can be kept.
    /// Cancel-safe: what was taken is kept.
    ///
    /// # Errors
    ///
    /// What recv(2) said.
    pub async fn receive(&mut self, client: &Stream, loans: &Loans) -> io::Result<usize> {
        let most = FIRST_CHUNK_MAX - self.bytes.len().min(FIRST_CHUNK_MAX);
        loop {
            poll_fn(|cx| client.poll_readable(cx)).await?;
            let mut buffer = loans.buffers.borrow();
            let room = buffer.len().min(most);
            let received = client.try_recv(buffer.get_mut(..room).unwrap_or_default());
            if let Ok(length) = received {
                self.bytes.extend_from_slice(buffer.get(..length).unwrap_or_default());
            }
            loans.buffers.give_back(buffer);
            match received {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                received => return received,
            }
        }
    }

    /// Whether another backend may be sent all of it.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        match self.resend {
            _ if self.sent == 0 => true,
            Resend::Never => false,
            Resend::Greeting => is_greeting(&self.bytes),
            Resend::Always => true,
        }
    }

    /// What `answer` means if it is no more than a no.
    fn no(&self, answer: &[u8]) -> Option<Opening> {
        if !self.is_postgres {
            return None;
        }
        match parse_first_packet(&self.bytes) {
            Ok(Some((FirstPacket::Encryption, length))) if length == self.bytes.len() && answer == NO => {
                Some(Opening::NotEncrypted)
            }
            _ if self.is_repeatable() => NotNow::of(answer).map(Opening::TurnedAway),
            _ => None,
        }
    }

    /// Whether it may be sent as far as it is there. A PostgreSQL client's packet is sent whole: it may be a request to cancel,
    /// which is perhaps another server's.
    ///
    /// # Errors
    ///
    /// The key of such a request.
    fn may_be_sent(&self) -> Result<bool, CancelKey> {
        if !self.is_postgres || self.sent > 0 {
            return Ok(true);
        }
        match parse_first_packet(&self.bytes) {
            Ok(Some((FirstPacket::Cancel(key), _))) => Err(key),
            Ok(Some(_)) | Err(_) => Ok(true),
            Ok(None) => Ok(false),
        }
    }

    /// What the present backend has not been sent.
    fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// What is unsent, for the relay to send.
    fn into_unsent(self) -> Option<Filled> {
        let Self { bytes, sent, .. } = self;
        (sent < bytes.len()).then(|| Filled { end: bytes.len(), start: sent, buffer: bytes.into_boxed_slice() })
    }
}

/// What is on its way when the relay begins.
#[derive(Debug, Default)]
pub struct Start {
    pub(super) up: Option<Filled>,
    pub(super) down: Option<Filled>,
    /// The backend has ended its half before its first byte.
    pub(super) ended: bool,
}

impl Start {
    /// Whether the backend has ended its half before its first byte.
    #[must_use]
    pub const fn backend_has_ended(&self) -> bool {
        self.ended
    }

    /// The backend's first bytes, as far as they have not been delivered.
    #[must_use]
    pub fn answer(&self) -> &[u8] {
        self.down.as_ref().map(Filled::bytes).unwrap_or_default()
    }

    /// Whether it holds bytes of the client: they can go to no other backend any more.
    #[must_use]
    pub const fn holds_client_bytes(&self) -> bool {
        self.up.is_some()
    }

    /// Writes the backend's first bytes to `client`, as far as there is room for them now.
    pub fn deliver(&mut self, client: &Gated, pulse: &Pulse) {
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
        Self { up: first.into_unsent().or(self.up), ..self }
    }
}

/// How a session opened.
#[derive(Debug)]
pub enum Opening {
    /// The backend has answered, or what the client sent is more than can be kept: relay on.
    Opened(Start),
    /// The backend ended before its first byte, and the client may be given another.
    Unanswered {
        /// Whether the connection was reset; else the backend may still read.
        reset: bool,
    },
    /// The backend, PostgreSQL's, has said that it lets nobody in now. The client was not told, and may be given another.
    TurnedAway(NotNow),
    /// The backend, PostgreSQL's, has said `N`, no, to a request for encryption. Tell the client with
    /// [`FirstChunk::refuse`], then open again, with this backend or another.
    NotEncrypted,
    /// The client, told that there is no encryption, wants no session, but to cancel another one. The backend was not told.
    Cancels(CancelKey),
    /// It is over. Both sides have been told.
    Ended(SessionEnd),
}

/// Sends `first`, from its beginning, and what the client sends meanwhile to `backend`, until that answers
/// or ends. When the client is to be given another, `first` holds all that it has sent.
pub async fn open(client: &Stream, backend: &Stream, first: &mut FirstChunk, pulse: &Pulse, loans: &Loans) -> Opening {
    first.sent = 0;
    let opening = poll_fn(|cx| poll(cx, client, backend, first, pulse, &loans.buffers)).await;
    if let Opening::Ended(end) = opening {
        tell(end, client, backend, pulse).await;
    }
    opening
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
            return Poll::Ready(heard_of_backend(heard, first, buffers));
        }
        let may_be_sent = match first.may_be_sent() {
            Ok(may_be_sent) => may_be_sent,
            Err(key) => return Poll::Ready(Opening::Cancels(key)),
        };
        while may_be_sent && !first.unsent().is_empty() {
            match backend.poll_send(cx, first.unsent()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(written)) => {
                    first.sent += written;
                    pulse.moved(Direction::ClientToBackend, written);
                }
                Poll::Ready(Err(_)) => {
                    return Poll::Ready(heard_of_backend(last_words(backend, buffers), first, buffers));
                }
            }
        }
        match poll_receive(cx, client, buffers) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Some(filled))) if first.bytes.len() + filled.end > FIRST_CHUNK_MAX => {
                return Poll::Ready(Opening::Opened(Start { up: Some(filled), ..Start::default() }));
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

fn heard_of_backend(heard: io::Result<Option<Filled>>, first: &FirstChunk, buffers: &BufferPool) -> Opening {
    match heard {
        Ok(Some(filled)) => match first.no(filled.bytes()) {
            Some(no) => {
                buffers.give_back(filled.buffer);
                no
            }
            None => Opening::Opened(Start { down: Some(filled), ..Start::default() }),
        },
        Ok(None) if first.is_repeatable() => Opening::Unanswered { reset: false },
        // It may still read: the relay sees the end again and passes it on.
        Ok(None) => Opening::Opened(Start { ended: true, ..Start::default() }),
        Err(_) if first.is_repeatable() => Opening::Unanswered { reset: true },
        Err(_) => Opening::Ended(SessionEnd::BackendReset),
    }
}

/// What a backend that takes nothing more had said before, though the runtime may not know of it yet.
fn last_words(backend: &Stream, buffers: &BufferPool) -> io::Result<Option<Filled>> {
    let mut buffer = buffers.borrow();
    match backend.recv_now(&mut buffer) {
        Ok(end) if end > 0 => Ok(Some(Filled { buffer, start: 0, end })),
        Ok(_) | Err(_) => {
            buffers.give_back(buffer);
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
}

/// Receives once. None is the end.
pub(super) fn poll_receive(
    cx: &mut Context<'_>,
    source: &Stream,
    buffers: &BufferPool,
) -> Poll<io::Result<Option<Filled>>> {
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
