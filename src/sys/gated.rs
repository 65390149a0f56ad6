//! A stream that another thread can keep from being written to, without its other side being told.
//!
//! [`Stream::abort`] silences a connection by ending it. Here silence and end are apart, so that the end can wait. Of the
//! writes alone: whoever reads does so from the stream itself.

use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use super::{Pipe, Stream};

/// Nobody writes.
const OPEN: u8 = 0;
/// One thread writes now, or has ended the writing for good.
const TAKEN: u8 = 1;
/// Nobody writes any more.
const CLOSED: u8 = 2;

/// A stream that one thread writes to and any may silence.
///
/// The gate is a lock that is never waited for. A writer takes it for one system call, and gives up if it is closed; what
/// silences takes it for ever, and gives up if it is taken. So each change out of `OPEN` is a compare-exchange, of which
/// one of two succeeds, and the way back is a plain store: nobody else changes what is taken.
///
/// Orderings: the store is `Release` and the compare-exchange `Acquire`, so whoever closes the gate comes after every
/// write that passed it, in the kernel's count of what was written too, which is looked at next. Nothing stronger is
/// needed: there is one variable, whose changes have one order, and no write comes after `CLOSED` in that.
#[derive(Debug)]
pub struct Gated {
    stream: Stream,
    gate: AtomicU8,
}

impl Deref for Gated {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl Gated {
    /// `stream`, which may be written to.
    #[must_use]
    pub const fn new(stream: Stream) -> Self {
        Self { stream, gate: AtomicU8::new(OPEN) }
    }

    /// The stream alone.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// As [`Stream::try_send`].
    ///
    /// # Errors
    ///
    /// The same, and `ConnectionAborted` if it was silenced.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.take()?;
        let sent = self.stream.try_send(bytes);
        self.give_back();
        sent
    }

    /// As [`Stream::poll_send`].
    ///
    /// # Errors
    ///
    /// The same, and `ConnectionAborted` if it was silenced.
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take()?;
        let sent = self.stream.poll_send(cx, bytes);
        self.give_back();
        sent
    }

    /// As [`Pipe::poll_drain`].
    ///
    /// # Errors
    ///
    /// The same, and `ConnectionAborted` if it was silenced; what `pipe` holds then can go nowhere.
    pub fn poll_drain(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        self.take()?;
        let moved = pipe.poll_drain(cx, &self.stream);
        self.give_back();
        moved
    }

    /// As [`Stream::end_writing`]. It cannot be silenced any more: the other side has been told an end.
    ///
    /// # Errors
    ///
    /// The same, and `ConnectionAborted` if it was silenced.
    pub fn end_writing(&self) -> io::Result<()> {
        self.take()?;
        self.stream.end_writing()
    }

    /// Keeps it from being written to from now on, from any thread. Whether that could be: nothing was being written at
    /// the moment, and no end has been told. If not, only [`Stream::abort`] silences it.
    pub fn silence(&self) -> bool {
        self.gate.compare_exchange(OPEN, CLOSED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Whether all that was written has arrived; of a Unix socket, whether enough was read for another write. Asked of one
    /// that is silenced: nothing arrives after that.
    ///
    /// Whoever waits for room to write to it has been woken or will be: there is some.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.unsent() == 0 && self.has_room()
    }

    /// Whether it was kept from being written to. For whoever failed to.
    #[must_use]
    pub fn is_silenced(&self) -> bool {
        self.gate.load(Ordering::Relaxed) == CLOSED
    }

    /// The one writer's: it finds the gate open or closed, or it has ended the writing itself.
    fn take(&self) -> io::Result<()> {
        match self.gate.compare_exchange(OPEN, TAKEN, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    fn give_back(&self) {
        self.gate.store(OPEN, Ordering::Release);
    }

    /// Whether a write would not have to wait.
    fn has_room(&self) -> bool {
        let mut asked = [PollFd::new(&self.stream, PollFlags::OUT)];
        let told = retry_on_intr(|| poll(&mut asked, Some(&Timespec::default())));
        told.is_ok_and(|told| told > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Gated, Stream};
    use crate::sys::connect;
    use std::io::{ErrorKind, Read};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    async fn pair() -> (Gated, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let ours = connect(&address, Duration::from_secs(10)).await.unwrap();
        let theirs = listener.accept().unwrap().0;
        theirs.set_nonblocking(true).unwrap();
        (Gated::new(ours), theirs)
    }

    /// What has arrived, all of it.
    fn arrived(stream: &mut impl Read) -> usize {
        let (mut buffer, mut got) = ([0; 65_536], 0);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => panic!("an end was told"),
                Ok(length) => got += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return got,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// A thread writes without end, and at any moment it is silenced.
    #[tokio::test]
    async fn nothing_is_written_or_arrives_after_the_silence() {
        const ROUNDS: usize = 500;
        let mut silent = 0;
        for round in 0..ROUNDS {
            let (ours, mut theirs) = pair().await;
            let (ours, sent) = (Arc::new(ours), Arc::new(AtomicUsize::new(0)));
            let (writer, count) = (Arc::clone(&ours), Arc::clone(&sent));
            let writing = thread::spawn(move || {
                loop {
                    match writer.try_send(b"an answer") {
                        Ok(length) => _ = count.fetch_add(length, Ordering::SeqCst),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => return error.kind(),
                    }
                    thread::yield_now();
                }
            });
            while sent.load(Ordering::SeqCst) < 9 * (1 + round % 50) {
                assert!(!writing.is_finished(), "round {round}: {:?}", writing.join());
                thread::yield_now();
            }
            let is_silent = ours.silence() && ours.is_delivered();
            let got = if is_silent { arrived(&mut theirs) } else { 0 };
            if !is_silent {
                ours.abort();
            }
            writing.join().unwrap();
            if is_silent {
                silent += 1;
                assert_eq!(got, sent.load(Ordering::SeqCst), "round {round}: all that was written had arrived");
                assert_eq!(arrived(&mut theirs), 0);
            }
        }
        assert!(silent > 0);
    }

    #[tokio::test]
    async fn one_that_has_still_to_send_has_not_delivered_and_one_that_told_an_end_is_not_silenced() {
        let (behind, _theirs) = pair().await;
        while behind.try_send(&[7; 65_536]).is_ok() {}
        assert!(!behind.is_delivered());
        let (ended, _theirs) = pair().await;
        ended.end_writing().unwrap();
        assert!(!ended.silence() && !ended.is_silenced());
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let unread = Gated::new(Stream::Unix(tokio::net::UnixStream::from_std(ours).unwrap()));
        std::future::poll_fn(|cx| unread.poll_writable(cx)).await.unwrap();
        while unread.try_send(&[7; 65_536]).is_ok() {}
        assert!(!unread.is_delivered(), "nobody would be woken");
    }
}
