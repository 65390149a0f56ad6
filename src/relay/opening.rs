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
use crate::wire::postgres::{FirstAnswer, FirstPacket, NotNow, first_answer, parse_first_packet};

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

    /// Whether `answer` is a server's no to the request for encryption that this is.
    fn is_refused(&self, answer: &[u8]) -> bool {
        let asks = |(packet, length)| packet == FirstPacket::Encryption && length == self.bytes.len();
        self.is_postgres && answer == NO && parse_first_packet(&self.bytes).ok().flatten().is_some_and(asks)
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
    let mut said = Vec::new();
    let opening = poll_fn(|cx| poll(cx, client, backend, first, &mut said, pulse, &loans.buffers)).await;
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
    said: &mut Vec<u8>,
    pulse: &Pulse,
    buffers: &BufferPool,
) -> Poll<Opening> {
    if let Some(end) = pulse.told_to_stop(cx) {
        return Poll::Ready(Opening::Ended(end));
    }
    loop {
        // The backend is looked at first: one that is gone should be sent nothing.
        while let Poll::Ready(heard) = poll_receive(cx, backend, buffers) {
            if let Some(opening) = heard_of_backend(heard, first, said, buffers) {
                return Poll::Ready(opening);
            }
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
                    let opening = heard_of_backend(last_words(backend, buffers), first, said, buffers);
                    return Poll::Ready(opening.unwrap_or_else(|| Opening::Opened(begun(said))));
                }
            }
        }
        match poll_receive(cx, client, buffers) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Some(filled))) if first.bytes.len() + filled.end > FIRST_CHUNK_MAX => {
                return Poll::Ready(Opening::Opened(Start { up: Some(filled), ..begun(said) }));
            }
            Poll::Ready(Ok(Some(filled))) => {
                first.bytes.extend_from_slice(filled.bytes());
                buffers.give_back(filled.buffer);
            }
            // Whoever ends now gets the backend's answer to that, whatever it is. The relay sees the end again.
            Poll::Ready(Ok(None)) => return Poll::Ready(Opening::Opened(begun(said))),
            Poll::Ready(Err(_)) => return Poll::Ready(Opening::Ended(SessionEnd::ClientReset)),
        }
    }
}

/// What the backend's next bytes, or its end, make of the opening. Nothing if they, with what it has `said` before, are the
/// beginning of an error that has to be read in full: the client may be given another backend for it.
fn heard_of_backend(
    heard: io::Result<Option<Filled>>,
    first: &FirstChunk,
    said: &mut Vec<u8>,
    buffers: &BufferPool,
) -> Option<Opening> {
    let filled = match heard {
        Ok(Some(filled)) => filled,
        // The relay sees the end again, after these bytes.
        Ok(None) | Err(_) if !said.is_empty() => return Some(Opening::Opened(begun(said))),
        Ok(None) if first.is_repeatable() => return Some(Opening::Unanswered { reset: false }),
        // It may still read: the relay sees the end again and passes it on.
        Ok(None) => return Some(Opening::Opened(Start { ended: true, ..Start::default() })),
        Err(_) if first.is_repeatable() => return Some(Opening::Unanswered { reset: true }),
        Err(_) => return Some(Opening::Ended(SessionEnd::BackendReset)),
    };
    if said.is_empty() && first.is_refused(filled.bytes()) {
        buffers.give_back(filled.buffer);
        return Some(Opening::NotEncrypted);
    }
    let may_go_elsewhere = first.is_postgres && first.is_repeatable();
    if said.is_empty() && !(may_go_elsewhere && first_answer(filled.bytes()) != FirstAnswer::Other) {
        return Some(Opening::Opened(Start { down: Some(filled), ..Start::default() }));
    }
    said.extend_from_slice(filled.bytes());
    buffers.give_back(filled.buffer);
    match first_answer(said) {
        FirstAnswer::NotNow(why) if may_go_elsewhere => Some(Opening::TurnedAway(why)),
        FirstAnswer::Begun if may_go_elsewhere => None,
        FirstAnswer::NotNow(_) | FirstAnswer::Begun | FirstAnswer::Other => Some(Opening::Opened(begun(said))),
    }
}

/// A session that goes on from what the backend has `said`.
fn begun(said: &mut Vec<u8>) -> Start {
    let (end, buffer) = (said.len(), std::mem::take(said).into_boxed_slice());
    let down = (end > 0).then_some(Filled { buffer, start: 0, end });
    Start { down, ..Start::default() }
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

#[cfg(test)]
mod tests {
    use crate::wire::postgres::NotNow;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::{FirstChunk, Opening, open};
    use crate::model::Resend;
    use crate::relay::tests::pair;
    use crate::relay::{Loans, Pulse};
    use crate::sys::in_time;
    use crate::wire::postgres::cannot_connect_now;

    const STARTUP: &[u8] = b"\0\0\0\x10\0\x03\0\0user\0a\0\0";
    const DENIED: &[u8] = b"E\0\0\0\x17SFATAL\0C28000\0Mno\0\0";

    /// How a session opens whose server says `answer`, each of these pieces after the one before has been read, and what it
    /// has to tell its client then.
    async fn opened(pieces: &[&[u8]], then: impl AsyncFnOnce(&mut TcpStream, &mut TcpStream)) -> (Opening, Vec<u8>) {
        let ((client, mut person), (backend, mut server)) = (pair().await, pair().await);
        let (pulse, loans) = (Pulse::new(0, 0), Loans::new(65_536));
        let mut first = FirstChunk::default();
        first.set_postgres();
        first.set_resend(Resend::Greeting);
        person.write_all(STARTUP).await.unwrap();
        let spoken = async {
            server.read_exact(&mut [0; STARTUP.len()]).await.unwrap();
            for piece in pieces {
                server.write_all(piece).await.unwrap();
                let is_read = || rustix::io::ioctl_fionread(&backend).unwrap() == 0;
                while !is_read() {
                    tokio::task::yield_now().await;
                }
            }
            then(&mut person, &mut server).await;
            std::future::pending::<()>().await;
        };
        let opened = async {
            tokio::select! {
                opening = open(&client, &backend, &mut first, &pulse, &loans) => opening,
                () = spoken => unreachable!("it waits for ever"),
            }
        };
        let opening = in_time(opened).await;
        let said = if let Opening::Opened(start) = &opening { start.answer().to_vec() } else { Vec::new() };
        assert_eq!(pulse.total()[1], 0, "nothing is told before it is known");
        (opening, said)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_lets_nobody_in_now_is_understood_however_it_is_said() {
        let error = cannot_connect_now("the database system is shutting down", "");
        let bytes: Vec<&[u8]> = error.chunks(1).collect();
        let (first, second) = error.split_at(20);
        for pieces in [&[&error[..]][..], &[first, second], &bytes] {
            let (opening, _) = opened(pieces, async |_, _| {}).await;
            assert!(matches!(opening, Opening::TurnedAway(NotNow::Down)), "{opening:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn any_other_error_reaches_the_client_in_full_however_it_is_said() {
        let bytes: Vec<&[u8]> = DENIED.chunks(1).collect();
        for pieces in [&[DENIED][..], &bytes] {
            let (_, said) = opened(pieces, async |_, _| {}).await;
            assert_eq!(said, DENIED);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_beginning_of_an_error_is_delivered_when_no_more_comes_of_it() {
        let begun = &DENIED[..9];
        let (_, said) = opened(&[begun], async |_, server| server.shutdown().await.unwrap()).await;
        assert_eq!(said, begun, "the server ends");
        let (_, said) = opened(&[begun], async |person, _| person.shutdown().await.unwrap()).await;
        assert_eq!(said, begun, "the client ends its half");
        let (opening, said) = opened(&[begun], async |person, _| person.write_all(&[7; 20_000]).await.unwrap()).await;
        let Opening::Opened(start) = opening else { panic!("{opening:?}") };
        assert!(said == begun && start.holds_client_bytes(), "the client says more than is kept");
    }
}
