//! A connected socket, TCP or Unix, with just the operations that the relay needs.

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;
use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};

use super::attached::Attached;
use super::keepalive::set_keepalive;

/// A connected stream socket that belongs to a runtime.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
    /// With a program, over what is its standard input and output.
    Program(Box<Attached>),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Program(program) => program.stream().as_fd(),
        }
    }
}

impl Stream {
    /// Waits until a read may succeed, or the other side has stopped sending.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::Program(program) => program.poll_readable(cx),
        }
    }

    /// Reads once. A read that does not fill `buffer` has emptied the socket: readiness is cleared
    /// with it, which saves the read that would only say so.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is nothing to read; else what recv(2) said.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = self.try_once(Interest::READABLE, buffer.len(), |fd| {
            let (_, length) = rustix::net::recv(fd, &mut *buffer, RecvFlags::empty())?;
            Ok(length)
        });
        self.judged(received)
    }

    /// Reads once, whatever the runtime knows of readiness.
    ///
    /// # Errors
    ///
    /// As [`Self::try_recv`].
    pub fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, length) = rustix::net::recv(self, buffer, RecvFlags::DONTWAIT)?;
        self.judged(Ok(length))
    }

    /// Writes once. A write that does not take all of `bytes` has filled the socket: readiness is
    /// cleared with it.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is no room; else what send(2) said.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_once(Interest::WRITABLE, bytes.len(), |fd| Ok(rustix::net::send(fd, bytes, SendFlags::NOSIGNAL)?))
    }

    /// Waits until a write may succeed.
    ///
    /// # Errors
    ///
    /// If the runtime is going down.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
            Self::Program(program) => program.stream().poll_write_ready(cx),
        }
    }

    /// Writes as much of `bytes` as there is room for, waiting until there is some.
    ///
    /// # Errors
    ///
    /// What send(2) said.
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            // Optimistic: there nearly always is room, and then nothing need be waited for.
            match self.try_send(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_writable(cx))?,
                done => return Poll::Ready(done),
            }
        }
    }

    /// Writes all of `bytes`, waiting for room.
    ///
    /// # Errors
    ///
    /// What send(2) said.
    pub async fn send_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = poll_fn(|cx| self.poll_send(cx, rest)).await?;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// One call of `operation`, after which readiness is cleared if it moved less than `wanted`.
    fn try_once(
        &self,
        interest: Interest,
        wanted: usize,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut moved = None;
        let once = |fd: BorrowedFd<'_>| {
            let done = operation(fd);
            #[cfg(test)]
            tally::count(&done);
            let length = done?;
            if 0 < length && length < wanted {
                moved = Some(length);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(length)
        };
        let result = self.try_io(interest, once);
        moved.map_or(result, Ok)
    }

    /// One call of `operation`, unless the runtime knows that it would block; if it does, the runtime will know.
    pub(super) fn try_io(
        &self,
        interest: Interest,
        operation: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let once = || operation(self.as_fd());
        match self {
            Self::Tcp(stream) => stream.try_io(interest, once),
            Self::Unix(stream) => stream.try_io(interest, once),
            Self::Program(program) => program.stream().try_io(interest, once),
        }
    }

    /// Tells the other side that nothing more will come. One that is gone already need not be told.
    ///
    /// # Errors
    ///
    /// What shutdown(2) said, but for `NotConnected`.
    pub fn end_writing(&self) -> io::Result<()> {
        match SockRef::from(self).shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    /// Has the kernel ask whether the other side still lives once it has been silent for `idle`; never if that is
    /// zero, and never a Unix socket's, which is on this host. The kernel counts in seconds.
    pub fn keep_alive(&self, idle: Duration) {
        if let Self::Tcp(_) = self
            && !idle.is_zero()
            && let Err(error) = set_keepalive(&SockRef::from(self), idle)
        {
            tracing::debug!(%error, "a connection that is gone already cannot be kept alive");
        }
    }

    /// Bytes handed to the kernel that the other side has not acknowledged yet; none for Unix
    /// sockets, whose bytes arrive as they are written.
    #[must_use]
    pub fn unsent(&self) -> usize {
        unsent(self, matches!(self, Self::Tcp(_)))
    }

    /// For how long the other side has acknowledged nothing of what it was sent, and at least once again; none if all is
    /// acknowledged or on its way for the first time, and for Unix sockets.
    #[must_use]
    pub fn unheard(&self) -> Option<Duration> {
        let Self::Tcp(_) = self else { return None };
        let info = tcp_info(self)?;
        let is_stuck = info.tcpi_unacked > 0 && info.tcpi_retransmits > 0;
        is_stuck.then(|| Duration::from_millis(u64::from(info.tcpi_last_ack_recv)))
    }

    /// The user at the other end of a Unix socket, if the kernel says.
    #[must_use]
    pub fn peer_uid(&self) -> Option<u32> {
        let Self::Unix(stream) = self else { return None };
        let peer = stream.peer_cred().ok()?;
        let is_self = peer.pid().and_then(|pid| u32::try_from(pid).ok()) == Some(std::process::id());
        (!is_self).then(|| peer.uid())
    }

    /// Has the coming close reset the connection instead of ending it in order.
    pub fn reset_on_close(&self) {
        if let Self::Program(program) = self {
            program.hold().reset_on_close();
        }
        reset_on_close(self, matches!(self, Self::Tcp(_)));
    }

    /// Cuts the connection now, from any thread: a TCP peer gets a reset, and what the kernel had
    /// still to send is discarded (connect(2) with `AF_UNSPEC`); a Unix peer reads the end, and a program is killed with
    /// what it had still to pass on.
    pub fn abort(&self) {
        if let Self::Program(program) = self {
            program.hold().kill();
        }
        abort(self, matches!(self, Self::Tcp(_)));
    }

    /// Returns once the other side has gone away. One that has only finished sending, and left bytes
    /// for us to read or had sent some before (`has_sent`), has not. Takes no byte, but swallows readiness: call [`Self::rearm`] before reading.
    pub async fn gone(&self, has_sent: bool) {
        loop {
            let Ok(ready) = self.ready(Interest::READABLE).await else { return };
            if ready.is_read_closed() {
                if has_sent || self.has_bytes() {
                    // It waits for an answer; only an error can tell that it no longer does.
                    return match self.ready(Interest::ERROR).await {
                        Ok(_) | Err(_) => {}
                    };
                }
                return;
            }
            // Bytes came: wait for the next edge, not for this one again.
            self.swallow_readiness();
        }
    }

    /// Returns once the other side has ended its direction, or gone away, whatever it has left to be read. Takes no byte, but
    /// swallows readiness, as [`Self::gone`] does.
    pub async fn ended(&self) {
        while self.ready(Interest::READABLE).await.is_ok_and(|ready| !ready.is_read_closed()) {
            self.swallow_readiness();
        }
    }

    /// Has the runtime look at the socket afresh, so that bytes that came before are seen.
    ///
    /// # Errors
    ///
    /// If the runtime cannot watch it.
    pub fn rearm(self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => Ok(Self::Tcp(TcpStream::from_std(stream.into_std()?)?)),
            Self::Unix(stream) => Ok(Self::Unix(UnixStream::from_std(stream.into_std()?)?)),
            Self::Program(program) => {
                let (stream, hold) = program.into_parts();
                let stream = UnixStream::from_std(stream.into_std()?)?;
                Ok(Self::Program(Box::new(Attached::from_parts(stream, hold))))
            }
        }
    }

    /// Waits until there are more than `seen` bytes to read, or as many as `buffer` holds, and copies them there from
    /// the first on. They stay in the socket. Cancel-safe.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the other side has ended first; else what recv(2) said.
    pub async fn peek_more(&self, buffer: &mut [u8], seen: usize) -> io::Result<usize> {
        loop {
            let ready = self.ready(Interest::READABLE).await?;
            match rustix::net::recv(self, &mut *buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((_, length)) if length > seen || length == buffer.len() => return Ok(length),
                Ok(_) if ready.is_read_closed() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.swallow_readiness();
        }
    }

    /// Takes `length` bytes that [`Self::peek_more`] has shown out of the socket.
    ///
    /// # Errors
    ///
    /// What recv(2) said; `UnexpectedEof` if they are not there.
    pub fn skip(&self, length: usize) -> io::Result<()> {
        let mut rest = length;
        let mut buffer = [0; 512];
        while rest > 0 {
            let part = buffer.get_mut(..rest.min(512)).unwrap_or_default();
            match rustix::net::recv(self, part, RecvFlags::DONTWAIT)? {
                (_, 0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                (_, read) => rest = rest.saturating_sub(read),
            }
        }
        Ok(())
    }

    /// Has the next wait be for what is yet to come.
    fn swallow_readiness(&self) {
        let swallow = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
        let _would_block = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, swallow),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, swallow),
            Self::Program(program) => program.stream().try_io(Interest::READABLE, swallow),
        };
    }

    /// Where its two ends are, the other side's first; none for a Unix socket, or if it is gone.
    #[must_use]
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok().zip(stream.local_addr().ok()),
            Self::Unix(_) | Self::Program(_) => None,
        }
    }

    async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
            Self::Program(program) => program.stream().ready(interest).await,
        }
    }

    fn has_bytes(&self) -> bool {
        let mut byte = [0; 1];
        rustix::net::recv(self, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok_and(|(_, length)| length > 0)
    }
}

/// Bytes that the other side of `socket` has not acknowledged.
pub(super) fn unsent(socket: &impl AsFd, is_tcp: bool) -> usize {
    if !is_tcp {
        return 0;
    }
    let mut queued: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ, tcp(7)) writes one int to the pointer, which is valid and
    // unaliased for the call; the descriptor is open because `socket` is borrowed.
    #[expect(unsafe_code, reason = "no safe wrapper of SIOCOUTQ exists")]
    let status = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) };
    let queued = if status == 0 { usize::try_from(queued).unwrap_or(0) } else { 0 };
    // Of a connection that was cut the kernel tells a number without meaning: nothing of it can arrive any more.
    if queued > 0 && rustix::net::getpeername(socket).is_err() { 0 } else { queued }
}

/// What the kernel knows of the connection `socket`.
fn tcp_info(socket: &impl AsFd) -> Option<libc::tcp_info> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which are as many as it has; the descriptor is open
    // because `socket` is borrowed.
    #[expect(unsafe_code, reason = "no safe wrapper of TCP_INFO exists")]
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    // SAFETY: a struct of integers, for which all zeros are valid; older kernels fill in less of it.
    #[expect(unsafe_code, reason = "as above")]
    let info = unsafe { info.assume_init() };
    (status == 0).then_some(info)
}

/// Has the close of `socket` reset the connection.
pub(super) fn reset_on_close(socket: &impl AsFd, is_tcp: bool) {
    if is_tcp && let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a socket cannot be reset");
    }
}

/// Cuts the connection `socket`.
pub(super) fn abort(socket: &impl AsFd, is_tcp: bool) {
    let reset = is_tcp && rustix::net::connect_unspec(socket).is_ok();
    if !reset && let Err(error) = SockRef::from(socket).shutdown(Shutdown::Both) {
        tracing::debug!(%error, "a connection that should be cut was gone already");
    }
}

/// How often this thread asked the kernel to receive or send.
#[cfg(test)]
pub(crate) mod tally {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static CALLS: Cell<[usize; 2]> = const { Cell::new([0; 2]) };
    }

    pub(super) fn count(done: &io::Result<usize>) {
        let would_block = done.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        CALLS.with(|calls| calls.set([calls.get()[0] + 1, calls.get()[1] + usize::from(would_block)]));
    }

    /// How often since it was last asked, and how often in vain.
    pub(crate) fn take() -> [usize; 2] {
        CALLS.with(Cell::take)
    }
}
