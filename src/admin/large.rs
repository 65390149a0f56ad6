//! Answers that may be large. They are written one at a time, on no thread that answers, so that small ones do not wait behind
//! many of them; and no more of them wait to be read than may.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Buf, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::lease::Lease;
use super::problem::Problem;
use super::tag::Tagged;
use crate::model::MonoTime;
use crate::sys::Clock;

/// An answer that is as long as this is large, in bytes.
const LARGE: usize = 256 << 10;
/// The large ones that are read, in bytes, unless it is one alone: that one is as long as it is. As many may wait for room.
const UNREAD_MAX: usize = 32 << 20;
/// Whoever has taken nothing for so long does not read, and goes when others want the room.
const STUCK: Duration = Duration::from_secs(1);
/// An answer waits for room for so long.
const ROOM_WITHIN: Duration = Duration::from_secs(5);
/// What is handed on of one at once, in bytes.
const PIECE: usize = 64 << 10;
/// Answers that are kept for those who asked before they were made.
const KEPT_MAX: usize = 8;

/// What was made, and when.
#[derive(Debug)]
struct Made {
    turn: u64,
    answer: Tagged,
}

/// The turns in which large answers are made. All clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    inner: Arc<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// Counts whoever asks, and whatever is made.
    turns: AtomicU64,
    waiting: AtomicUsize,
    /// Held while one of those is made that are made once. Whoever has it may wait for the control plane.
    once: tokio::sync::Mutex<()>,
    kept: Mutex<BTreeMap<String, Made>>,
    /// Held while any is written. Whoever has it waits for nothing.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl Line {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Made>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits.
struct Waiting<'a>(&'a Line);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Whoever comes from now on has another one made.
        if self.0.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.kept().clear();
        }
    }
}

impl Turns {
    /// What `write` comes to in its turn, on no thread that answers; none if it panics.
    pub(super) async fn write<T: Send + 'static>(&self, write: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let turn = Arc::clone(&self.inner.writing).lock_owned().await;
        // Cancel-safety: whoever goes meanwhile leaves what ends by itself, and gives the turn back then.
        let written = spawn_blocking(move || {
            let written = write();
            drop(turn);
            written
        });
        written.await.ok()
    }

    /// The answer to `asked`, as it was made after this call: by this one, or by one that came before it and had its turn later. It is
    /// written by what `found` comes to; none if that is none.
    pub(super) async fn once<W>(&self, asked: String, found: impl Future<Output = Option<W>>) -> Option<Tagged>
    where
        W: FnOnce() -> Option<Tagged> + Send + 'static,
    {
        let line = &self.inner;
        let came = line.turns.fetch_add(1, Ordering::Relaxed);
        line.waiting.fetch_add(1, Ordering::Relaxed);
        // Goes after what is held for it, so that it finds what was kept.
        let _waiting = Waiting(line);
        let _once = line.once.lock().await;
        if let Some(made) = line.kept().get(&asked).filter(|made| made.turn > came) {
            return Some(made.answer.clone());
        }
        let turn = line.turns.fetch_add(1, Ordering::Relaxed);
        let answer = self.write(found.await?).await??;
        let mut kept = line.kept();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(asked, Made { turn, answer: answer.clone() });
        Some(answer)
    }
}

/// The large answers that wait to be read. All clones are one.
#[derive(Debug, Clone)]
pub(super) struct Unread {
    inner: Arc<Reading>,
}

#[derive(Debug)]
struct Reading {
    clock: Clock,
    answers: Mutex<Answers>,
    /// Whoever waits for room does so one after the other.
    line: tokio::sync::Mutex<()>,
    /// Tells the first of them that there may be room.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Answers {
    moves: u64,
    read: Sum,
    waiting: Sum,
    /// By when something was taken of it last.
    all: BTreeMap<u64, Place>,
}

/// What is held for one that is read.
#[derive(Debug)]
struct Place {
    memory: Memory,
    lease: Lease,
    moved: MonoTime,
}

/// Where an answer is, and how long it is. Those of one text are in one place.
#[derive(Debug, Clone, Copy)]
struct Memory {
    at: usize,
    length: usize,
}

impl Memory {
    fn of(text: &Bytes) -> Self {
        Self { at: text.as_ptr().addr(), length: text.len() }
    }
}

/// How much memory answers are in, each place of which counts once.
#[derive(Debug, Default)]
struct Sum {
    bytes: usize,
    /// How many answers are there.
    at: BTreeMap<usize, usize>,
}

impl Sum {
    fn has_room(&self, memory: Memory) -> bool {
        self.bytes == 0 || self.at.contains_key(&memory.at) || self.bytes + memory.length <= UNREAD_MAX
    }

    fn add(&mut self, memory: Memory) {
        let count = self.at.entry(memory.at).or_default();
        *count += 1;
        if *count == 1 {
            self.bytes += memory.length;
        }
    }

    fn remove(&mut self, memory: Memory) {
        if let Some(count) = self.at.get_mut(&memory.at) {
            *count -= 1;
            if *count == 0 {
                self.at.remove(&memory.at);
                self.bytes -= memory.length;
            }
        }
    }
}

impl Answers {
    /// A place for one more; or after how long one may be that is not read now.
    fn take(&mut self, memory: Memory, lease: &Lease, now: MonoTime) -> Result<u64, Duration> {
        while !self.read.has_room(memory)
            && let Some(first) = self.all.first_entry()
        {
            let idle = now.since(first.get().moved);
            if idle < STUCK {
                return Err(STUCK.saturating_sub(idle));
            }
            let stuck = first.remove();
            self.read.remove(stuck.memory);
            stuck.lease.cut();
        }
        self.read.add(memory);
        Ok(self.put(Place { memory, lease: lease.clone(), moved: now }))
    }

    fn put(&mut self, place: Place) -> u64 {
        self.moves += 1;
        self.all.insert(self.moves, place);
        self.moves
    }
}

/// A large answer's place among them.
#[derive(Debug)]
struct Held {
    unread: Unread,
    at: u64,
}

/// One that waits for its place.
struct Queued<'a>(&'a Unread, Memory);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.locked(|answers| answers.waiting.remove(self.1));
    }
}

impl Unread {
    pub(super) fn new(clock: Clock) -> Self {
        let (answers, line) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { inner: Arc::new(Reading { clock, answers, line, freed: Notify::new() }) }
    }

    fn locked<T>(&self, act: impl FnOnce(&mut Answers) -> T) -> T {
        act(&mut self.inner.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn try_hold(&self, memory: Memory, lease: &Lease) -> Result<Held, Duration> {
        let at = self.locked(|answers| answers.take(memory, lease, self.inner.clock.now()))?;
        Ok(Held { unread: self.clone(), at })
    }

    /// A place for `text`, which goes to whoever `lease` is of, once there is room; none if there is none in time, or too much waits.
    async fn hold(&self, text: &Bytes, lease: &Lease) -> Option<Held> {
        let memory = Memory::of(text);
        let _queued = self.locked(|answers| {
            let is_taken = answers.waiting.has_room(memory);
            is_taken.then(|| {
                answers.waiting.add(memory);
                Queued(self, memory)
            })
        })?;
        let held = async {
            let _first = self.inner.line.lock().await;
            loop {
                match self.try_hold(memory, lease) {
                    Ok(held) => return held,
                    // Cancel-safety: that something was freed is kept until somebody waits for it.
                    Err(after) => _ = timeout(after, self.inner.freed.notified()).await,
                }
            }
        };
        timeout(ROOM_WITHIN, held).await.ok()
    }
}

impl Held {
    /// Something is taken of it.
    fn moves(&mut self) {
        let (at, now) = (self.at, self.unread.inner.clock.now());
        let moved = |answers: &mut Answers| {
            let place = answers.all.remove(&at)?;
            Some(answers.put(Place { moved: now, ..place }))
        };
        self.at = self.unread.locked(moved).unwrap_or(at);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.unread.locked(|answers| {
            if let Some(place) = answers.all.remove(&self.at) {
                answers.read.remove(place.memory);
            }
        });
        self.unread.inner.freed.notify_one();
    }
}

/// Has a large answer handed on in pieces, as it is read, once there is room for it. What comes of an order is always told.
pub(super) async fn bounded(State(unread): State<Unread>, request: Request, next: Next) -> Response {
    let lease = request.extensions().get::<Lease>().filter(|_| request.method() == Method::GET).cloned();
    let response = next.run(request).await;
    let is_large = response.body().size_hint().exact().is_some_and(|length| length >= LARGE as u64);
    let Some(lease) = lease.filter(|_| is_large) else { return response };
    let (head, body) = response.into_parts();
    // It is there as a whole, and is not copied.
    let Ok(rest) = to_bytes(body, usize::MAX).await else { return Problem::Internal.into_response() };
    match unread.hold(&rest, &lease).await {
        Some(held) => Response::from_parts(head, Body::new(Pieces { held, rest })),
        None => ([(RETRY_AFTER, HeaderValue::from(STUCK.as_secs()))], Problem::TooMuchUnread).into_response(),
    }
}

/// A body in pieces.
struct Pieces {
    /// Goes before the memory does, which may be another answer's then.
    held: Held,
    rest: Bytes,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        self.held.moves();
        let length = self.rest.len().min(PIECE);
        // A part of it would keep all of it while that waits to be sent, when this is gone.
        let piece = Bytes::copy_from_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, poll_fn};
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};
    use std::time::Duration;

    use axum::body::{Bytes, HttpBody};
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use axum::{Extension, Router};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::sync::watch;
    use tokio::task::yield_now;
    use tokio::time::{Instant, sleep};

    use super::{Lease, PIECE, Pieces, ROOM_WITHIN, STUCK, Tagged, Turns, UNREAD_MAX, Unread, bounded};
    use crate::admin::{Peer, serve_client, within};
    use crate::model::Generation;
    use crate::sys::Clock;

    #[tokio::test]
    async fn what_is_asked_for_meanwhile_is_made_once_and_after_that_anew() {
        let (turns, made) = (Turns::default(), Cell::new(0));
        let once = |asked: &str| {
            let asked = asked.to_owned();
            turns.once(asked, async {
                made.set(made.get() + 1);
                yield_now().await;
                let number = made.get();
                Some(move || Some(Tagged::new(Generation(number), "{}".to_owned())))
            })
        };
        let (first, second, third, other) = tokio::join!(once("a"), once("a"), once("a"), once("b"));
        let text = |answer: &Option<Tagged>| format!("{answer:?}");
        assert_eq!(made.get(), 3, "the first, one for all who came meanwhile, and another one");
        assert_ne!(text(&first), text(&second), "what was begun before may be older than the question");
        assert!(text(&second) == text(&third) && text(&second) != text(&other));
        assert!(turns.inner.kept().is_empty(), "nobody waits for it");
        once("a").await.unwrap();
        assert_eq!(made.get(), 4);
        let gone = turns.once("c".to_owned(), async { None::<fn() -> Option<Tagged>> });
        assert!(gone.await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_goes_with_the_last_who_waits_and_a_question_without_answer_holds_up_no_other_turn() {
        let turns = Turns::default();
        let answer = || Some(|| Some(Tagged::new(Generation(1), "{}".to_owned())));
        let mut first = pin!(turns.once("a".to_owned(), async {
            yield_now().await;
            answer()
        }));
        assert!(waits(first.as_mut()));
        let mut second = Box::pin(turns.once("b".to_owned(), pending::<Option<fn() -> Option<Tagged>>>()));
        assert!(waits(second.as_mut()));
        first.await.unwrap();
        assert!(waits(second.as_mut()));
        assert_eq!(turns.inner.kept().len(), 1);
        assert_eq!(turns.write(|| 7).await, Some(7), "it waits for nobody who waits for the control plane");
        drop(second);
        assert!(turns.inner.kept().is_empty());
    }

    /// Whether it has nothing yet.
    fn waits(future: Pin<&mut impl Future>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    fn unread() -> (Unread, Vec<Lease>) {
        (Unread::new(Clock::start()), (0..5).map(|_| Lease::new(watch::channel(false).1)).collect())
    }

    fn cut(leases: &[Lease]) -> Vec<bool> {
        leases.iter().map(|lease| lease.at_rest().is_none()).collect()
    }

    fn text(bytes: usize) -> Bytes {
        vec![b'a'; bytes].into()
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_unread_bytes_those_go_of_which_nothing_is_taken_for_a_second() {
        let (unread, leases) = unread();
        let (half, other, more, huge) =
            (text(UNREAD_MAX / 2), text(UNREAD_MAX / 2), text(UNREAD_MAX / 4), text(2 * UNREAD_MAX));
        let mut slow = unread.hold(&half, &leases[0]).await.unwrap();
        let stuck = unread.hold(&other, &leases[1]).await.unwrap();
        sleep(STUCK / 2).await;
        slow.moves();
        let begun = Instant::now();
        let fresh = unread.hold(&more, &leases[2]).await.unwrap();
        assert_eq!((begun.elapsed(), cut(&leases)), (STUCK / 2, vec![false, true, false, false, false]));
        drop((slow, stuck));
        let next = unread.hold(&half, &leases[3]).await.unwrap();
        assert!(!cut(&leases)[2], "what was given back counts no more");
        let last = unread.hold(&huge, &leases[4]).await.unwrap();
        assert_eq!(cut(&leases), [false, true, true, true, false], "and one alone may be as long as it is");
        drop((fresh, next, last));
        unread.locked(|answers| {
            assert_eq!((answers.read.bytes, answers.waiting.bytes, answers.all.len()), (0, 0, 0));
            assert!(answers.read.at.is_empty() && answers.waiting.at.is_empty());
        });
    }

    #[tokio::test(start_paused = true)]
    async fn one_text_counts_once() {
        let (unread, leases) = unread();
        let whole = text(UNREAD_MAX);
        let mut held = Vec::new();
        for lease in &leases {
            held.push(unread.hold(&whole.clone(), lease).await.unwrap());
        }
        assert_eq!((unread.locked(|answers| answers.read.bytes), cut(&leases)), (UNREAD_MAX, vec![false; 5]));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_reads_is_not_cut_and_others_wait_for_room_but_not_for_ever() {
        let (unread, leases) = unread();
        let (whole, late, later) = (text(UNREAD_MAX), text(UNREAD_MAX), text(UNREAD_MAX / 2));
        let mut reads = unread.hold(&whole, &leases[0]).await.unwrap();
        let begun = Instant::now();
        let mut queued = pin!(unread.hold(&late, &leases[1]));
        assert!(waits(queued.as_mut()));
        assert!(unread.hold(&later, &leases[2]).await.is_none(), "more waits than may");
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let reading = async {
            loop {
                sleep(STUCK / 2).await;
                reads.moves();
            }
        };
        let refused = tokio::select! {
            held = queued.as_mut() => held.is_none(),
            () = reading => false,
        };
        assert!(refused && begun.elapsed() == ROOM_WITHIN);
        let mut queued = pin!(unread.hold(&late, &leases[1]));
        assert!(waits(queued.as_mut()));
        drop(reads);
        assert!(queued.await.is_some() && begun.elapsed() == ROOM_WITHIN, "at once when there is room");
        assert_eq!(cut(&leases), [false; 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn fast_readers_of_more_than_may_be_unread_get_all_and_those_that_are_stuck_are_cut() {
        const LONG: usize = 12 << 20;
        let router = Router::new().route("/", get(async || text(LONG)));
        let router = router.layer(from_fn_with_state(Unread::new(Clock::start()), bounded));
        let client = async |reads: bool| {
            let lease = Lease::new(watch::channel(false).1);
            let (ours, mut theirs) = duplex(PIECE);
            let router = router.clone().layer(Extension(lease.clone()));
            let served = within(&lease, serve_client(router, Peer::Unix { uid: None }, ours, &lease));
            let asking = async {
                // Those that do not read come first.
                sleep(if reads { STUCK / 2 } else { Duration::ZERO }).await;
                theirs.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
                let mut got = Vec::new();
                if reads {
                    theirs.read_to_end(&mut got).await.unwrap();
                }
                (got.len(), theirs)
            };
            let (begun, ((), (got, _theirs))) = (Instant::now(), tokio::join!(served, asking));
            (got > LONG, begun.elapsed())
        };
        let (got, stuck) = ((true, STUCK / 2), (false, STUCK));
        let all = tokio::join!(client(true), client(true), client(true), client(true));
        assert_eq!(all, (got, got, got, got));
        let all = tokio::join!(client(false), client(false), client(true), client(true));
        assert_eq!(all, (stuck, stuck, (true, STUCK), (true, STUCK)));
    }

    #[tokio::test]
    async fn an_answer_in_pieces_is_the_whole_and_none_of_them_keeps_it() {
        let all: Vec<u8> = (0..=250).cycle().take(3 * PIECE + 7).collect();
        let (unread, leases) = unread();
        let rest = Bytes::from(all.clone());
        let held = unread.hold(&rest, &leases[0]).await.unwrap();
        let mut pieces = Box::pin(Pieces { held, rest: rest.clone() });
        assert_eq!(pieces.size_hint().exact(), Some(all.len() as u64));
        let (mut got, mut last) = (Vec::new(), Bytes::new());
        while let Some(Ok(piece)) = poll_fn(|cx| pieces.as_mut().poll_frame(cx)).await {
            last = piece.into_data().unwrap();
            got.extend_from_slice(&last);
        }
        assert!(got == all && pieces.is_end_stream());
        drop(pieces);
        assert!(rest.is_unique() && last.is_unique());
    }
}
