//! Answers that may be large. They are made one at a time, and once for all who asked for the same before, so that small ones
//! do not wait behind many of them; and no more of them wait to be read than may.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;

use super::lease::Lease;
use super::tag::Tagged;

/// An answer that is as long as this is large, in bytes.
const LARGE: usize = 256 << 10;
/// The large ones that wait to be read, in bytes; beyond it, the one goes of which nothing was taken for the longest, unless
/// there is no other: that one is as long as it is.
const UNREAD_MAX: usize = 32 << 20;
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

type Kept = BTreeMap<String, Made>;

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
    kept: Arc<tokio::sync::Mutex<Kept>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _kept: OwnedMutexGuard<Kept>,
}

/// One who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    /// One's turn. Whoever has it does not wait for anything.
    pub(super) async fn turn(&self) -> Turn {
        Turn { _kept: Arc::clone(&self.inner.kept).lock_owned().await }
    }

    /// The answer to `asked`, as it was made after this call: by this one, or by one that came before it and had its turn later. It is
    /// written by what `found` comes to, on no thread that answers; none if that is none.
    pub(super) async fn once<W>(&self, asked: String, found: impl Future<Output = Option<W>>) -> Option<Tagged>
    where
        W: FnOnce() -> Option<Tagged> + Send + 'static,
    {
        let line = &self.inner;
        let came = line.turns.fetch_add(1, Ordering::Relaxed);
        line.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&line.waiting);
        let mut kept = Arc::clone(&line.kept).lock_owned().await;
        let answer = match kept.get(&asked).filter(|made| made.turn > came) {
            Some(made) => made.answer.clone(),
            None => {
                let turn = line.turns.fetch_add(1, Ordering::Relaxed);
                let write = found.await?;
                // Cancel-safety: whoever goes meanwhile leaves what ends by itself, and gives the turn back then.
                let (answer, given_back) = spawn_blocking(move || (write(), kept)).await.ok()?;
                kept = given_back;
                let answer = answer?;
                if kept.len() >= KEPT_MAX {
                    kept.clear();
                }
                kept.insert(asked, Made { turn, answer: answer.clone() });
                answer
            }
        };
        drop(waiting);
        // Whoever comes from now on has another one made.
        if line.waiting.load(Ordering::Relaxed) == 0 {
            kept.clear();
        }
        Some(answer)
    }
}

/// The large answers that wait to be read. All clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Unread {
    inner: Arc<Mutex<Answers>>,
}

#[derive(Debug, Default)]
struct Answers {
    moves: u64,
    bytes: usize,
    /// How long each is and whose, by when something was taken of it last.
    all: BTreeMap<u64, (usize, Lease)>,
}

/// A large answer's place among them.
#[derive(Debug)]
struct Held {
    unread: Unread,
    at: u64,
}

impl Unread {
    fn locked<T>(&self, act: impl FnOnce(&mut Answers) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// There is one more, of `bytes`, which goes to whoever `lease` is of.
    fn hold(&self, bytes: usize, lease: Lease) -> Held {
        let at = self.locked(|answers| {
            while answers.bytes + bytes > UNREAD_MAX
                && let Some((_, (freed, stuck))) = answers.all.pop_first()
            {
                answers.bytes -= freed;
                stuck.cut();
            }
            answers.bytes += bytes;
            answers.put((bytes, lease))
        });
        Held { unread: self.clone(), at }
    }
}

impl Answers {
    fn put(&mut self, answer: (usize, Lease)) -> u64 {
        self.moves += 1;
        self.all.insert(self.moves, answer);
        self.moves
    }
}

impl Held {
    /// Something is taken of it.
    fn moves(&mut self) {
        let at = self.at;
        self.at = self.unread.locked(|answers| answers.all.remove(&at).map_or(at, |answer| answers.put(answer)));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.unread.locked(|answers| {
            answers.bytes -= answers.all.remove(&self.at).map_or(0, |(bytes, _)| bytes);
        });
    }
}

/// Has a large answer handed on in pieces, as it is read.
pub(super) async fn bounded(State(unread): State<Unread>, request: Request, next: Next) -> Response {
    let lease = request.extensions().get::<Lease>().cloned();
    let response = next.run(request).await;
    let length = response.body().size_hint().exact().and_then(|length| usize::try_from(length).ok());
    match (length.filter(|length| *length >= LARGE), lease) {
        (Some(length), Some(lease)) => {
            let held = unread.hold(length, lease);
            response.map(|whole| Body::new(Pieces { whole, rest: Bytes::new(), held }))
        }
        _ => response,
    }
}

/// A body in pieces.
struct Pieces {
    whole: Body,
    rest: Bytes,
    held: Held,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.whole).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        self.held.moves();
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.whole.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        self.whole.size_hint().exact().map_or_else(SizeHint::default, |whole| SizeHint::with_exact(whole + rest))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use axum::body::{Body, Bytes, HttpBody, to_bytes};
    use tokio::sync::watch;
    use tokio::task::yield_now;

    use super::{Lease, PIECE, Pieces, Tagged, Turns, UNREAD_MAX, Unread};
    use crate::model::Generation;

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
        assert!(turns.inner.kept.lock().await.is_empty(), "nobody waits for it");
        once("a").await.unwrap();
        assert_eq!(made.get(), 4);
        let gone = turns.once("c".to_owned(), async { None::<fn() -> Option<Tagged>> });
        assert!(gone.await.is_none());
        turns.turn().await;
    }

    #[tokio::test]
    async fn of_too_many_unread_bytes_those_go_of_which_nothing_is_taken() {
        let unread = Unread::default();
        let leases: Vec<Lease> = (0..5).map(|_| Lease::new(watch::channel(false).1)).collect();
        let hold = |at: usize, bytes: usize| unread.hold(bytes, leases[at].clone());
        let (mut slow, stuck) = (hold(0, UNREAD_MAX / 2), hold(1, UNREAD_MAX / 2));
        slow.moves();
        let fresh = hold(2, UNREAD_MAX / 4);
        let cut = || leases.iter().map(|lease| lease.at_rest().is_none()).collect::<Vec<_>>();
        assert_eq!(cut(), [false, true, false, false, false]);
        drop((slow, stuck));
        let next = hold(3, UNREAD_MAX / 2);
        assert!(!cut()[2], "what was given back counts no more");
        let huge = hold(4, 2 * UNREAD_MAX);
        assert_eq!(cut(), [false, true, true, true, false], "and one alone may be as long as it is");
        drop((fresh, next, huge));
        assert_eq!(unread.locked(|answers| (answers.bytes, answers.all.len())), (0, 0));
    }

    #[tokio::test]
    async fn an_answer_in_pieces_is_the_whole() {
        let text: Vec<u8> = (0..=250).cycle().take(3 * PIECE + 7).collect();
        let held = Unread::default().hold(text.len(), Lease::new(watch::channel(false).1));
        let pieces = Pieces { whole: Body::from(text.clone()), rest: Bytes::new(), held };
        assert_eq!(pieces.size_hint().exact(), Some(text.len() as u64));
        assert_eq!(to_bytes(Body::new(pieces), usize::MAX).await.unwrap(), text);
    }
}
