//! Sockets at rest: out of the runtime, which keeps several hundred bytes for each socket it watches and
//! more for the task that waits for it. Here a socket is a descriptor in an epoll set of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::attached::{Attached, Hold};
use super::stream::{Stream, abort, reset_on_close, unsent};

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// A connected socket that no runtime watches.
#[derive(Debug)]
pub struct Resting {
    fd: OwnedFd,
    is_unix: bool,
    /// The program at the other end, if one is there.
    program: Option<Hold>,
}

impl AsFd for Resting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Stream {
    /// Takes the socket out of the runtime.
    ///
    /// # Errors
    ///
    /// What the kernel said; the socket is closed then.
    pub fn rest(self) -> io::Result<Resting> {
        Ok(match self {
            Self::Tcp(stream) => Resting { fd: stream.into_std()?.into(), is_unix: false, program: None },
            Self::Unix(stream) => Resting { fd: stream.into_std()?.into(), is_unix: true, program: None },
            Self::Program(program) => {
                let (stream, hold) = program.into_parts();
                Resting { fd: stream.into_std()?.into(), is_unix: true, program: Some(hold) }
            }
        })
    }
}

impl Resting {
    /// Gives the socket back to the runtime.
    ///
    /// # Errors
    ///
    /// What the kernel said; the socket is closed then.
    pub fn wake(self) -> io::Result<Stream> {
        Ok(match self.program {
            Some(hold) => Stream::Program(Box::new(Attached::from_parts(UnixStream::from_std(self.fd.into())?, hold))),
            None if self.is_unix => Stream::Unix(UnixStream::from_std(self.fd.into())?),
            None => Stream::Tcp(TcpStream::from_std(self.fd.into())?),
        })
    }

    /// As [`Stream::abort`].
    pub fn abort(&self) {
        self.program.iter().for_each(Hold::kill);
        abort(self, !self.is_unix);
    }

    /// As [`Stream::unsent`].
    #[must_use]
    pub fn unsent(&self) -> usize {
        unsent(self, !self.is_unix)
    }

    /// As [`Stream::reset_on_close`].
    pub fn reset_on_close(&self) {
        self.program.iter().for_each(Hold::reset_on_close);
        reset_on_close(self, !self.is_unix);
    }

    /// Whether the other side will send no more, or the connection is cut. Does not wait.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.is(PollFlags::RDHUP)
    }

    /// Whether the connection is cut, or has ended in both directions. Does not wait.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is(PollFlags::empty())
    }

    /// Errors and hang-ups are told unasked.
    fn is(&self, this: PollFlags) -> bool {
        let mut asked = [PollFd::new(self, this)];
        retry_on_intr(|| poll(&mut asked, Some(&Timespec::default()))).is_ok_and(|told| told > 0)
    }
}

/// Watches sockets at rest: one descriptor for all of them.
#[derive(Debug)]
pub struct RestWatch {
    epoll: AsyncFd<OwnedFd>,
}

impl RestWatch {
    /// A watch over nothing yet. Belongs to the runtime it is made in.
    ///
    /// # Errors
    ///
    /// If there is no descriptor for it.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        // SAFETY: an `OwnedFd` is one open descriptor, the same for as long as it lives, and it is never
        // taken out of the `AsyncFd`.
        #[expect(unsafe_code, reason = "AsyncFd has no safe constructor")]
        let registered = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) };
        Ok(Self { epoll: registered.map_err(|error| error.into_parts().1)? })
    }

    /// Watches `socket` until there is something to read or it ends, and tells it once, under `key`.
    ///
    /// # Errors
    ///
    /// What epoll_ctl(2) said.
    pub fn add(&self, socket: &Resting, key: u64) -> io::Result<()> {
        let events = EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT;
        Ok(epoll::add(self.epoll.get_ref(), socket, EventData::new_u64(key), events)?)
    }

    /// Has the watch over `socket` tell of its end alone, once, under `key`. It need not be watched yet. If the other side
    /// sends no more as it is (`sent_all`), that is no news, and only that the connection is cut is told.
    pub fn await_end(&self, socket: &Resting, key: u64, sent_all: bool) {
        let events = if sent_all { EventFlags::ONESHOT } else { EventFlags::RDHUP | EventFlags::ONESHOT };
        let (epoll, data) = (self.epoll.get_ref(), EventData::new_u64(key));
        let asked = match epoll::modify(epoll, socket, data, events) {
            Err(Errno::NOENT) => epoll::add(epoll, socket, data, events),
            asked => asked,
        };
        if let Err(error) = asked {
            tracing::debug!(%error, "the end of a socket at rest will not be noticed");
        }
    }

    /// Watches `socket` no longer.
    pub fn remove(&self, socket: &Resting) {
        if let Err(error) = epoll::delete(self.epoll.get_ref(), socket) {
            tracing::debug!(%error, "a socket at rest was not watched");
        }
    }

    /// Waits until some sockets have news and adds their keys to `keys`. Cancel-safe: nothing is taken
    /// before it returns.
    ///
    /// # Errors
    ///
    /// What epoll_wait(2) said, but for EINTR, after which it is asked again. None of the others passes by itself.
    pub async fn news(&self, keys: &mut Vec<u64>) -> io::Result<()> {
        let mut guard = self.epoll.readable().await?;
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        let count = retry_on_intr(|| {
            epoll::wait(self.epoll.get_ref(), spare_capacity(&mut events), Some(&Timespec::default()))
        })?;
        keys.extend(events.iter().map(|event| event.data.u64()));
        if count < EVENTS {
            guard.clear_ready();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::RestWatch;
    use crate::sys::{connect, in_time};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    #[tokio::test]
    async fn a_socket_at_rest_wakes_with_its_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let watch = RestWatch::new().unwrap();
        let mut resting = Vec::new();
        let mut peers = Vec::new();
        for key in 0..100 {
            let stream = connect(&address, Duration::from_secs(10)).await.unwrap();
            let socket = stream.rest().unwrap();
            watch.add(&socket, key).unwrap();
            resting.push(socket);
            peers.push(listener.accept().unwrap().0);
        }
        // More than are taken at once; one of them ends.
        for peer in &mut peers[1..] {
            peer.write_all(b"news").unwrap();
        }
        let first = peers.remove(0);
        drop(first);
        let mut keys = Vec::new();
        while keys.len() < 100 {
            in_time(watch.news(&mut keys)).await.unwrap();
        }
        keys.sort_unstable();
        assert!(keys.iter().copied().eq(0..100), "each once");
        let socket = resting.remove(1);
        watch.remove(&socket);
        let stream = socket.wake().unwrap();
        in_time(std::future::poll_fn(|cx| stream.poll_readable(cx))).await.unwrap();
        let mut buffer = [0; 16];
        assert_eq!(stream.try_recv(&mut buffer).unwrap(), 4);
        resting[1].abort();
        assert!(peers[1].read(&mut buffer).is_err());
        assert_eq!(resting[1].unsent(), 0, "nothing is waited for that cannot arrive");
    }

    #[tokio::test]
    async fn bytes_are_no_news_to_a_watch_that_awaits_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let socket = connect(&address, Duration::from_secs(10)).await.unwrap().rest().unwrap();
        let mut peer = listener.accept().unwrap().0;
        let watch = RestWatch::new().unwrap();
        watch.add(&socket, 1).unwrap();
        peer.write_all(b"news").unwrap();
        let mut keys = Vec::new();
        in_time(watch.news(&mut keys)).await.unwrap();
        watch.await_end(&socket, 2, false);
        assert!(!socket.has_ended());
        drop(peer);
        while keys.len() < 2 {
            in_time(watch.news(&mut keys)).await.unwrap();
        }
        assert_eq!(keys, [1, 2]);
        assert!(socket.has_ended());
    }

    #[tokio::test]
    async fn that_all_is_sent_is_no_news_a_second_time_and_a_cut_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let watch = RestWatch::new().unwrap();
        let (mut sockets, mut peers) = (Vec::new(), Vec::new());
        for key in 0..2 {
            let socket = connect(&address, Duration::from_secs(10)).await.unwrap().rest().unwrap();
            let peer = listener.accept().unwrap().0;
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            // Told of it once, so that it is known to have come.
            watch.add(&socket, key).unwrap();
            sockets.push(socket);
            peers.push(peer);
        }
        let mut keys = Vec::new();
        while keys.len() < 2 {
            in_time(watch.news(&mut keys)).await.unwrap();
        }
        assert!(sockets.iter().all(|socket| socket.has_ended() && !socket.is_cut()));
        watch.await_end(&sockets[0], 2, true);
        watch.await_end(&sockets[1], 3, true);
        socket2::SockRef::from(&peers[1]).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peers.remove(1));
        keys.clear();
        while keys.is_empty() {
            in_time(watch.news(&mut keys)).await.unwrap();
        }
        assert_eq!(keys, [3], "the other still waits for its answer");
        assert!(sockets[1].is_cut() && !sockets[0].is_cut());
    }
}
