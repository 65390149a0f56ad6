//! A pipe through which the kernel moves bytes from one socket to another without copying them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;

use super::Stream;

/// A pipe, and how many bytes it holds: they have left one socket and not yet reached the other.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty pipe for about `size` bytes.
    ///
    /// # Errors
    ///
    /// If there are no descriptors, or the kernel gives the user less than `least` bytes a pipe, as it does
    /// beyond `fs.pipe-user-pages-soft`.
    pub fn open(size: usize, least: usize) -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // What was not granted shows in the size.
        let granted = fcntl_setpipe_size(&writer, size).or_else(|_| fcntl_getpipe_size(&writer))?;
        if granted < least {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Self { reader, writer, held: 0 })
    }

    /// Whether it holds no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes up to `length` bytes of what `source` has received. It may hold more than its size says afterwards:
    /// a place in a pipe can take a fragment larger than a page.
    ///
    /// Only an empty pipe is filled, so it is never full. `WouldBlock` says even so little of `source` that
    /// readiness is left as it is: splice(2) says it of a socket whose next byte is an urgent one, and zero of
    /// one that has ended behind that. [`Stream::try_recv`] knows.
    ///
    /// # Errors
    ///
    /// What splice(2) said.
    pub fn fill(&mut self, source: &Stream, length: usize) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "bytes in the pipe");
        let moved = splice(source.as_fd(), None, &self.writer, None, length, flags())?;
        self.held += moved;
        Ok(moved)
    }

    /// Gives `sink` as much of what it holds as there is room for, waiting until there is some.
    ///
    /// # Errors
    ///
    /// What splice(2) said; what it holds then can go nowhere.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, sink: &Stream) -> Poll<io::Result<usize>> {
        loop {
            // Never more than it holds: asked for more, the kernel waits for the rest before it sends the last packet.
            let moved =
                sink.try_io(Interest::WRITABLE, |fd| Ok(splice(&self.reader, None, fd, None, self.held, flags())?));
            match moved {
                // There are bytes in the pipe, so this can only be the sink.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(sink.poll_writable(cx))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => {
                    self.held = self.held.saturating_sub(moved);
                    return Poll::Ready(Ok(moved));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}
