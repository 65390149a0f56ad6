//! A TCP socket with a low-water mark (`SO_RCVLOWAT`): its reader is not woken for less than so many bytes.
//!
//! For a dialogue whose usual answer is short, always the same, and nothing to hurry for: whoever reads looks for it when it is
//! awake anyway, and is woken by anything longer, by the end of the connection and by a reset. A mark that is lowered wakes for
//! what is there already (tcp(7): the kernel looks again when it is set). Unix sockets take the option and do not heed it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A look takes so many bytes at most: whatever is longer wakes the reader, which then reads with all the room it has.
const LOOK: usize = 256;

/// A TCP socket that can be told from how many bytes on to wake.
#[derive(Debug)]
pub struct MarkedStream {
    stream: TcpStream,
    /// Zero until one is set.
    mark: u32,
    /// Whether the next read asks the kernel, whatever the runtime knows: it is told nothing of what is below the mark.
    looks: bool,
    received: u64,
}

impl MarkedStream {
    /// Wakes for every byte, as any socket does.
    #[must_use]
    pub const fn new(stream: TcpStream) -> Self {
        Self { stream, mark: 0, looks: false, received: 0 }
    }

    /// Has it wake from `bytes` bytes on. Nothing is asked of the kernel if they were as many before.
    ///
    /// # Errors
    ///
    /// What setsockopt(2) said; then the mark is what it was.
    pub fn wake_from(&mut self, bytes: u32) -> io::Result<()> {
        if self.mark == bytes {
            return Ok(());
        }
        set_low_water_mark(&self.stream, bytes)?;
        self.mark = bytes;
        Ok(())
    }

    /// Has the next read take what is there, be it below the mark.
    pub const fn look(&mut self) {
        self.looks = true;
    }

    /// How many bytes have come so far.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }
}

impl AsyncRead for MarkedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if std::mem::take(&mut self.looks) {
            let room = buffer.initialize_unfilled_to(buffer.remaining().min(LOOK));
            match rustix::net::recv(&self.stream, room, RecvFlags::DONTWAIT) {
                Ok((_, length)) => {
                    buffer.advance(length);
                    self.received += length as u64;
                    return Poll::Ready(Ok(()));
                }
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        let done = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.received += (buffer.filled().len() - before) as u64;
        done
    }
}

impl AsyncWrite for MarkedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn set_low_water_mark(socket: &impl AsFd, bytes: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes from the pointer, which is valid for the call and to as many; the descriptor is
    // open because `socket` is borrowed.
    #[expect(unsafe_code, reason = "no safe wrapper of SO_RCVLOWAT exists")]
    let status = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            length,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn pair() -> (MarkedStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let mut near = MarkedStream::new(near.unwrap());
        near.wake_from(7).unwrap();
        (near, far.unwrap().0)
    }

    /// Whether the runtime, which has had time to hear of all that has come, knows of anything to read.
    async fn is_woken(near: &mut MarkedStream) -> Option<usize> {
        let mut bytes = [0; 64];
        timeout(Duration::from_millis(50), near.read(&mut bytes)).await.ok().map(Result::unwrap)
    }

    /// Looks until `count` bytes have come, which is at once on loopback.
    async fn looked(near: &mut MarkedStream) -> usize {
        let mut bytes = [0; 64];
        let looking = poll_fn(|cx| {
            near.look();
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *near).poll_read(cx, &mut buffer) {
                Poll::Ready(done) => Poll::Ready(done.map(|()| buffer.filled().len())),
                Poll::Pending => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        });
        timeout(PATIENCE, looking).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn what_is_below_the_mark_wakes_nobody_and_is_there_for_whoever_looks() {
        let (mut near, mut far) = pair().await;
        far.write_all(b"123456").await.unwrap();
        assert_eq!(is_woken(&mut near).await, None);
        assert_eq!(looked(&mut near).await, 6);
        assert_eq!(near.received(), 6);
        far.write_all(b"1234567").await.unwrap();
        assert_eq!(timeout(PATIENCE, near.read(&mut [0; 64])).await.unwrap().unwrap(), 7);
        assert_eq!(near.received(), 13);
    }

    #[tokio::test]
    async fn a_mark_that_is_lowered_wakes_for_what_is_there_already() {
        let (mut near, mut far) = pair().await;
        far.write_all(b"123456").await.unwrap();
        assert_eq!(is_woken(&mut near).await, None);
        near.wake_from(1).unwrap();
        assert_eq!(timeout(PATIENCE, near.read(&mut [0; 64])).await.unwrap().unwrap(), 6);
    }

    #[tokio::test]
    async fn the_end_and_a_reset_wake_whatever_the_mark() {
        let (mut near, mut far) = pair().await;
        far.write_all(b"123456").await.unwrap();
        drop(far);
        let mut read = Vec::new();
        timeout(PATIENCE, near.read_to_end(&mut read)).await.unwrap().unwrap();
        assert_eq!(read, b"123456");
        let (mut near, far) = pair().await;
        socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
        drop(far);
        let reset = timeout(PATIENCE, near.read(&mut [0; 64])).await.unwrap();
        assert_eq!(reset.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
