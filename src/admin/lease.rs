//! What a connection of the admin server may: each request has half a minute, and one that asks for nothing ends. One that has
//! become a stream of events may stay as long as it reads, is not counted with the others, and has a place of its own.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use super::stream::Place;

/// A client that has not been served within this time, from its request's head to the end of the answer, is cut; one that has
/// not asked, from accept, and a subscriber, from the end of its stream.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that has taken nothing of what is written to it for so long is cut.
const STUCK_TIMEOUT: Duration = Duration::from_secs(30);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Requests, of which so many have begun.
    Requests(u64),
    /// A stream of events.
    Stream,
    /// What is left to be sent of one that has ended.
    Ended,
    /// Nothing any more: what it does not read is needed for others.
    Cut,
}

/// A connection's lease. Its clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    used_for: watch::Sender<Use>,
    /// Whether a request waits for its answer to be made.
    is_busy: AtomicBool,
    /// Until the connection has ended: one whose stream has ended may still have much to send to somebody who reads slowly.
    place: Mutex<Option<Place>>,
    /// Turns true, or its sender goes, when the server ends.
    stop: watch::Receiver<bool>,
}

impl Lease {
    /// That of a new connection to a server that `stop` ends.
    pub(super) fn new(stop: watch::Receiver<bool>) -> Self {
        let (used_for, is_busy) = (watch::Sender::new(Use::Requests(0)), AtomicBool::new(false));
        Self { inner: Arc::new(Inner { used_for, is_busy, place: Mutex::new(None), stop }) }
    }

    /// Another request has begun, with time of its own. Its answer is being made until what is returned is dropped.
    pub(super) fn ask(&self) -> Asking {
        self.inner.is_busy.store(true, Ordering::Relaxed);
        self.inner.used_for.send_if_modified(|used| match used {
            Use::Requests(count) => {
                *count += 1;
                true
            }
            Use::Stream | Use::Ended | Use::Cut => false,
        });
        Asking { lease: self.clone() }
    }

    /// How many requests have begun; none while the answer to one is being made.
    pub(super) fn at_rest(&self) -> Option<u64> {
        match *self.inner.used_for.borrow() {
            Use::Requests(count) if !self.inner.is_busy.load(Ordering::Relaxed) => Some(count),
            Use::Requests(_) | Use::Stream | Use::Ended | Use::Cut => None,
        }
    }

    /// It is to end at once.
    pub(super) fn cut(&self) {
        self.inner.used_for.send_replace(Use::Cut);
    }

    /// From now on it is a stream's, until what is returned is dropped.
    pub(super) fn stream(&self, place: Place) -> StreamLease {
        *self.place() = Some(place);
        self.inner.used_for.send_replace(Use::Stream);
        StreamLease { lease: self.clone() }
    }

    /// Whether it is or was a stream's: those have places of their own.
    pub(super) fn is_stream(&self) -> bool {
        matches!(*self.inner.used_for.borrow(), Use::Stream | Use::Ended)
    }

    /// Resolves when the connection has been there for too long for what it is used for.
    pub(super) async fn overdue(&self) {
        let mut used_for = self.inner.used_for.subscribe();
        loop {
            let used = *used_for.borrow_and_update();
            // Cancel-safety: what it is used for is there until it is looked at, and what is left of the time goes with the loop.
            tokio::select! {
                biased;
                _never_gone = used_for.changed() => {}
                () = self.lasts(used) => return,
            }
        }
    }

    /// As long as a connection may be used for `used`.
    async fn lasts(&self, used: Use) {
        match used {
            Use::Requests(_) | Use::Ended => sleep(CLIENT_TIMEOUT).await,
            Use::Stream => pending().await,
            Use::Cut => {}
        }
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Option<Place>> {
        self.inner.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_dropped(&self) {
        if let Some(place) = self.place().as_ref().filter(|_| *self.inner.used_for.borrow() == Use::Stream) {
            place.count_dropped();
        }
    }
}

/// A request whose answer is being made.
#[derive(Debug)]
pub(super) struct Asking {
    lease: Lease,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.lease.inner.is_busy.store(false, Ordering::Relaxed);
    }
}

/// The part of a lease that a stream has.
#[derive(Debug)]
pub(super) struct StreamLease {
    lease: Lease,
}

impl StreamLease {
    /// Counts that its subscriber did not read.
    pub(super) fn count_dropped(&self) {
        self.lease.count_dropped();
    }

    /// Resolves when the server ends.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.lease.inner.stop.clone();
        async move {
            let _or_its_sender_has_gone = stop.wait_for(|&stop| stop).await;
        }
    }
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        self.lease.inner.used_for.send_replace(Use::Ended);
    }
}

/// A connection whose writes fail when the other side has taken nothing for too long.
#[derive(Debug)]
pub(super) struct Timed<S> {
    stream: S,
    lease: Lease,
    /// Runs while a write waits.
    stuck: Option<Pin<Box<Sleep>>>,
    /// How the kernel is told to keep less for it, until that was done.
    bound: Option<fn(&S)>,
}

impl<S> Timed<S> {
    pub(super) const fn new(stream: S, lease: Lease) -> Self {
        Self { stream, lease, stuck: None, bound: None }
    }

    /// The same, which is given to `bound` once it is a stream of events.
    pub(super) fn bounded(self, bound: fn(&S)) -> Self {
        Self { bound: Some(bound), ..self }
    }

    fn keep_less(&mut self) {
        if self.bound.is_some()
            && self.lease.is_stream()
            && let Some(bound) = self.bound.take()
        {
            bound(&self.stream);
        }
    }

    /// `written` as it is, or the end of the wait for it.
    fn within<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(STUCK_TIMEOUT)));
        ready!(stuck.as_mut().poll(cx));
        self.lease.count_dropped();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.keep_less();
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.within(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.keep_less();
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.within(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.within(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::sync::watch;
    use tokio::time::{Instant, sleep};

    use super::{CLIENT_TIMEOUT, Lease, STUCK_TIMEOUT, Timed};
    use crate::admin::Streams;
    use crate::model::StorePlan;
    use crate::store::{Opened, open};
    use crate::sys::Clock;
    use crate::telemetry::{Metrics, SubscriberMetrics};

    fn streams() -> (Streams, SubscriberMetrics) {
        let Opened { handle, .. } = open(&StorePlan::default(), Duration::ZERO, Clock::start()).unwrap();
        let metrics = Metrics::new().unwrap().subscribers();
        (Streams::new(handle, metrics.clone()), metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_of_which_nothing_is_taken_fails_and_one_that_goes_on_slowly_does_not() {
        let (streams, metrics) = streams();
        let lease = Lease::new(watch::channel(false).1);
        let _stream = lease.stream(streams.place("anonymous").unwrap());
        let (ours, mut theirs) = duplex(16);
        let mut timed = Timed::new(ours, lease);
        let reading = tokio::spawn(async move {
            let mut some = [0; 8];
            for _ in 0..8 {
                sleep(STUCK_TIMEOUT - Duration::from_secs(1)).await;
                theirs.read_exact(&mut some).await.unwrap();
            }
            theirs
        });
        timed.write_all(&[7; 80]).await.unwrap();
        let _theirs = reading.await.unwrap();
        assert_eq!(metrics.dropped.get(), 0);
        let before = Instant::now();
        assert_eq!(timed.write_all(&[7; 80]).await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!((before.elapsed(), metrics.dropped.get()), (STUCK_TIMEOUT, 1));
    }

    #[tokio::test]
    async fn less_is_kept_for_a_stream_and_for_nothing_else() {
        let (streams, _) = streams();
        let lease = Lease::new(watch::channel(false).1);
        let (ours, _theirs) = duplex(1024);
        let told = Arc::new(AtomicU32::new(0));
        let mut timed = Timed::new((ours, Arc::clone(&told)), lease.clone()).bounded(|(_, told)| {
            told.fetch_add(1, Ordering::Relaxed);
        });
        timed.keep_less();
        assert_eq!(told.load(Ordering::Relaxed), 0, "a request");
        let _stream = lease.stream(streams.place("anonymous").unwrap());
        timed.keep_less();
        timed.keep_less();
        assert_eq!(told.load(Ordering::Relaxed), 1, "once");
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_has_half_a_minute_of_its_own() {
        let lease = Lease::new(watch::channel(false).1);
        let (start, gap) = (Instant::now(), CLIENT_TIMEOUT - Duration::from_secs(1));
        let asking = async {
            for _ in 0..10 {
                sleep(gap).await;
                let asking = lease.ask();
                assert_eq!(lease.at_rest(), None);
                drop(asking);
            }
        };
        tokio::join!(lease.overdue(), asking);
        assert_eq!((start.elapsed(), lease.at_rest()), (gap * 10 + CLIENT_TIMEOUT, Some(10)));
        let start = Instant::now();
        tokio::join!(lease.overdue(), async { lease.cut() });
        assert_eq!(start.elapsed(), Duration::ZERO, "one that has to go goes");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_have_half_a_minute_and_a_stream_as_long_as_it_lasts() {
        let (streams, metrics) = streams();
        let start = Instant::now();
        Lease::new(watch::channel(false).1).overdue().await;
        assert_eq!(start.elapsed(), CLIENT_TIMEOUT);
        let lease = Lease::new(watch::channel(false).1);
        let stream = lease.stream(streams.place("anonymous").unwrap());
        let (start, lasted) = (Instant::now(), Duration::from_secs(3600));
        let ending = async {
            sleep(lasted).await;
            drop(stream);
        };
        tokio::join!(lease.overdue(), ending);
        assert_eq!(start.elapsed(), lasted + CLIENT_TIMEOUT, "what is left may take as long as a request");
        assert_eq!(metrics.present.get(), 1, "until then it has its place");
        drop(lease);
        assert_eq!(metrics.present.get(), 0);
    }
}
