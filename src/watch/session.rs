//! One session with a server: sends questions, takes answers in, and notices the end.
//!
//! A heartbeat is asked in one of two ways. **Exactly**: whoever waits is woken by its answer. **Quietly**: the socket's low-water
//! mark is one byte more than the bare answer, which so wakes nobody and is looked for later; whatever is longer still does at
//! once: the report of a promotion, an error, the end, a reset. How long the bare answer is on the wire is measured, for over TLS
//! it depends on the cipher; it is the least that an exact heartbeat took, so that whatever came along with one does not count.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

use crate::model::WatchEnd;
use crate::sys::{MarkedStream, Stream};
use crate::wire::postgres::{MESSAGE_MAX, Row, SYNC, Said, TERMINATE, Told, is_bare_ready, next_said};

/// The most rows of an answer that are kept. The monitor's own questions have one.
const ROWS_MAX: usize = 16;
/// The most messages from one question to the next. A login has some twenty; a server that goes on and on would keep the thread
/// from its other servers, and this one's alarm from ringing.
const MESSAGES_MAX: u32 = 128;

const HUNG_UP: &str = "the server closed the connection";

/// Bytes to the server and from it, encrypted or not.
pub(super) trait Line: AsyncRead + AsyncWrite + Unpin {
    /// The socket below, if it has a low-water mark.
    fn socket(&mut self) -> Option<&mut MarkedStream>;
}

impl Line for MarkedStream {
    fn socket(&mut self) -> Option<&mut MarkedStream> {
        Some(self)
    }
}

impl Line for TlsStream<MarkedStream> {
    fn socket(&mut self) -> Option<&mut MarkedStream> {
        Some(self.get_mut().0)
    }
}

impl Line for Stream {
    fn socket(&mut self) -> Option<&mut MarkedStream> {
        None
    }
}

impl Line for TlsStream<Stream> {
    fn socket(&mut self) -> Option<&mut MarkedStream> {
        None
    }
}

/// How a session came to its end.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) end: WatchEnd,
    pub(super) detail: String,
}

impl Over {
    fn closed(error: &io::Error) -> Self {
        // Over TLS, an end without leave is an error.
        let hung_up = error.kind() == io::ErrorKind::UnexpectedEof;
        let detail = if hung_up { HUNG_UP.to_owned() } else { error.to_string() };
        Self { end: WatchEnd::Closed, detail }
    }

    fn malformed(detail: String) -> Self {
        Self { end: WatchEnd::Malformed, detail }
    }

    /// The end that `told` is, if it is one. An immediate shutdown and the crash of another process are told in warnings.
    pub(super) fn by(told: &Told) -> Option<Self> {
        let end = match told.code.as_str() {
            "57P01" => WatchEnd::Terminated,
            "57P02" => WatchEnd::Crashed,
            _ if matches!(told.severity.as_str(), "FATAL" | "PANIC") => WatchEnd::Closed,
            _ => return None,
        };
        Some(Self { end, detail: told.to_string() })
    }
}

/// What the server reports of itself unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reported {
    /// `in_hot_standby`, which servers before version 14 do not report.
    pub(super) hot_standby: Option<bool>,
}

/// A connection to a server.
pub(super) struct Session {
    line: Box<dyn Line>,
    inbox: BytesMut,
    pub(super) reported: Reported,
    /// Whether a heartbeat is not answered yet.
    owes: bool,
    /// Messages since the last question.
    heard: u32,
    /// How long the answer to a heartbeat is on the wire that has nothing else to say, once one has come.
    bare: Option<u32>,
}

impl Session {
    pub(super) fn new(line: Box<dyn Line>) -> Self {
        let (inbox, reported) = (BytesMut::with_capacity(4096), Reported::default());
        Self { line, inbox, reported, owes: false, heard: 0, bare: None }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Over> {
        self.heard = 0;
        let sent = async {
            self.line.write_all(bytes).await?;
            self.line.flush().await
        };
        match sent.await {
            Ok(()) => Ok(()),
            // What it said before it hung up tells more than that it did.
            Err(error) => Err(self.last_words().await.unwrap_or_else(|| Over::closed(&error))),
        }
    }

    /// What of the server's last messages has arrived, if one of them is an end.
    async fn last_words(&mut self) -> Option<Over> {
        loop {
            let said = self.receive(MESSAGE_MAX).await.ok()?;
            if let Err(over) = self.heed(&said) {
                return Some(over);
            }
        }
    }

    /// The next message, of at most `max` bytes. Cancel-safe.
    pub(super) async fn receive(&mut self, max: usize) -> Result<Said, Over> {
        loop {
            match next_said(&mut self.inbox, max) {
                Ok(Some(said)) => {
                    self.heard += 1;
                    if self.heard > MESSAGES_MAX {
                        let detail = format!("it says more than {MESSAGES_MAX} things to one question");
                        return Err(Over::malformed(detail));
                    }
                    return Ok(said);
                }
                Ok(None) => self.fill().await?,
                Err(error) => return Err(Over::malformed(format!("what came is not PostgreSQL's protocol: {error}"))),
            }
        }
    }

    /// Reads once. Cancel-safe.
    async fn fill(&mut self) -> Result<(), Over> {
        match self.line.read_buf(&mut self.inbox).await {
            Ok(0) => Err(Over { end: WatchEnd::Closed, detail: HUNG_UP.to_owned() }),
            Ok(_) => Ok(()),
            Err(error) => Err(Over::closed(&error)),
        }
    }

    /// Takes in what concerns the session, whatever was asked.
    pub(super) fn heed(&mut self, said: &Said) -> Result<(), Over> {
        match said {
            Said::Parameter { name, value } if name == "in_hot_standby" => {
                self.reported.hot_standby = Some(value == "on");
                Ok(())
            }
            Said::Error(told) | Said::Notice(told) => Over::by(told).map_or(Ok(()), Err),
            Said::Ready => {
                self.owes = false;
                Ok(())
            }
            Said::Demand(_) | Said::Parameter { .. } | Said::Row(_) | Said::Other => Ok(()),
        }
    }

    /// One heartbeat, exactly: five bytes there, six back.
    pub(super) async fn beat(&mut self) -> Result<(), Over> {
        self.wake_from(1)?;
        let before = self.received();
        self.owes = true;
        self.send(&SYNC).await?;
        let was_bare = self.answered().await?;
        if was_bare && let Some(length) = self.received().zip(before).map(|(after, before)| after - before) {
            let length = u32::try_from(length).ok().filter(|length| *length > 0);
            self.bare = self.bare.into_iter().chain(length).min();
        }
        Ok(())
    }

    /// Whether a heartbeat can be quiet: its line has a low-water mark, and an exact one has shown how long the answer is.
    pub(super) const fn can_be_quiet(&self) -> bool {
        self.bare.is_some()
    }

    /// Sends a heartbeat whose answer wakes nobody.
    pub(super) async fn beat_quietly(&mut self) -> Result<(), Over> {
        self.wake_from(self.bare.unwrap_or(0) + 1)?;
        self.owes = true;
        self.send(&SYNC).await
    }

    /// Whether a heartbeat is not answered, as far as was read.
    pub(super) const fn owes(&self) -> bool {
        self.owes
    }

    /// Takes what is there of the answer to a heartbeat, and waits for nothing.
    pub(super) async fn look(&mut self) -> Result<(), Over> {
        self.line.socket().map(MarkedStream::look);
        let mut answered = pin!(self.answered());
        poll_fn(|cx| match answered.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(done.map(drop)),
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
    }

    /// Waits for the answer to a quiet heartbeat, from now on exactly. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Result<(), Over> {
        self.wake_from(1)?;
        self.answered().await.map(drop)
    }

    /// Reads until no heartbeat is unanswered, and says whether the answer was the bare one. Cancel-safe.
    async fn answered(&mut self) -> Result<bool, Over> {
        let mut is_bare = true;
        while self.owes {
            if self.inbox.is_empty() {
                self.fill().await?;
            }
            if is_bare_ready(&self.inbox) {
                self.inbox.clear();
                self.owes = false;
                return Ok(is_bare);
            }
            is_bare = false;
            let said = self.receive(MESSAGE_MAX).await?;
            self.heed(&said)?;
        }
        Ok(false)
    }

    /// From how many bytes on the socket wakes us.
    fn wake_from(&mut self, bytes: u32) -> Result<(), Over> {
        let set = self.line.socket().map_or(Ok(()), |socket| socket.wake_from(bytes));
        set.map_err(|error| Over::closed(&error))
    }

    /// How many bytes have come over the socket, if that is counted.
    fn received(&mut self) -> Option<u64> {
        self.line.socket().map(|socket| socket.received())
    }

    /// The rows of the answer to `question`, whose messages have at most `max` bytes; or what the server has against it.
    pub(super) async fn query(&mut self, question: &str, max: usize) -> Result<Result<Vec<Row>, Told>, Over> {
        let mut bytes = BytesMut::new();
        frontend::query(question, &mut bytes).map_err(|error| Over::closed(&error))?;
        self.wake_from(1)?;
        self.send(&bytes).await?;
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            let said = self.receive(max).await?;
            self.heed(&said)?;
            match said {
                Said::Ready => return Ok(refused.map_or(Ok(rows), Err)),
                Said::Row(row) if rows.len() < ROWS_MAX => rows.push(row),
                Said::Error(told) => refused = Some(told),
                Said::Row(_) | Said::Demand(_) | Said::Parameter { .. } | Said::Notice(_) | Said::Other => {}
            }
        }
    }

    /// Reads what comes while nothing is waited for, until it reports something of itself or is over. Cancel-safe.
    pub(super) async fn rest(&mut self) -> Result<(), Over> {
        let reported = self.reported;
        while self.reported == reported {
            let said = self.receive(MESSAGE_MAX).await?;
            self.heed(&said)?;
        }
        Ok(())
    }
}

impl Drop for Session {
    /// Takes leave, if the line takes it at once: a server logs one that just hangs up.
    fn drop(&mut self) {
        let mut nobody = Context::from_waker(Waker::noop());
        let mut line = Pin::new(&mut self.line);
        if line.as_mut().poll_write(&mut nobody, &TERMINATE).is_ready() {
            drop(line.poll_flush(&mut nobody));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const READY: &[u8] = b"Z\0\0\0\x05I";
    const STANDBY: &[u8] = b"S\0\0\0\x16in_hot_standby\0on\0";

    async fn pair() -> (Session, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Session::new(Box::new(MarkedStream::new(near.unwrap()))), far.unwrap().0)
    }

    async fn hear_sync(far: &mut TcpStream) {
        let mut sync = [0; 5];
        timeout(PATIENCE, far.read_exact(&mut sync)).await.unwrap().unwrap();
        assert_eq!(sync, SYNC);
    }

    /// A session after one exact heartbeat, and its server.
    async fn after_one() -> (Session, TcpStream) {
        let (mut session, mut far) = pair().await;
        assert!(!session.can_be_quiet());
        let (beat, ()) = tokio::join!(session.beat(), async {
            hear_sync(&mut far).await;
            far.write_all(READY).await.unwrap();
        });
        beat.unwrap();
        assert_eq!(session.bare, Some(6));
        assert!(session.can_be_quiet() && !session.owes());
        (session, far)
    }

    /// A session that waits for the answer to a quiet heartbeat, of which it is told `answer`; what wakes it.
    async fn woken_by(answer: &[u8]) -> (Session, TcpStream, Option<Result<(), Over>>) {
        let (mut session, mut far) = after_one().await;
        session.beat_quietly().await.unwrap();
        hear_sync(&mut far).await;
        far.write_all(answer).await.unwrap();
        let limit = if answer.len() > READY.len() { PATIENCE } else { Duration::from_millis(50) };
        let woken = timeout(limit, session.rest()).await.ok();
        (session, far, woken)
    }

    #[tokio::test]
    async fn the_bare_answer_to_a_quiet_heartbeat_wakes_nobody_and_is_found() {
        let (mut session, _far, woken) = woken_by(READY).await;
        assert!(woken.is_none() && session.owes(), "{woken:?}");
        session.look().await.unwrap();
        assert!(!session.owes());
        session.look().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_there_at_the_look_is_waited_for_to_the_byte() {
        let (mut session, mut far, _) = woken_by(b"Z\0\0").await;
        session.look().await.unwrap();
        assert!(session.owes());
        let (answered, ()) = tokio::join!(timeout(PATIENCE, session.answer()), async {
            far.write_all(b"\0\x05I").await.unwrap();
        });
        answered.unwrap().unwrap();
        assert!(!session.owes());
    }

    #[tokio::test]
    async fn what_came_before_anybody_waited_for_it_is_there() {
        let (mut session, _far, woken) = woken_by(READY).await;
        assert!(woken.is_none());
        timeout(PATIENCE, session.answer()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_promotion_and_an_end_wake_at_once() {
        let (mut session, _far, woken) = woken_by(&[STANDBY, READY].concat()).await;
        assert!(matches!(woken, Some(Ok(()))), "{woken:?}");
        assert_eq!(session.reported.hot_standby, Some(true));
        session.look().await.unwrap();
        assert!(!session.owes());
        let (_, _far, woken) = woken_by(b"E\0\0\0\x1cSFATAL\0C57P01\0Mgo away\0\0").await;
        assert!(matches!(woken, Some(Err(Over { end: WatchEnd::Terminated, .. }))), "{woken:?}");
        let (mut session, far, woken) = woken_by(READY).await;
        assert!(woken.is_none());
        drop(far);
        let woken = timeout(PATIENCE, session.rest()).await.unwrap();
        assert!(matches!(woken, Err(Over { end: WatchEnd::Closed, .. })), "{woken:?}");
    }

    #[tokio::test]
    async fn more_than_the_bare_answer_is_not_taken_for_it() {
        let (mut session, mut far) = pair().await;
        for (answer, bare) in [([STANDBY, READY].concat(), None), (READY.to_vec(), Some(6))] {
            let (beat, ()) = tokio::join!(session.beat(), async {
                hear_sync(&mut far).await;
                far.write_all(&answer).await.unwrap();
            });
            beat.unwrap();
            assert_eq!(session.bare, bare);
        }
    }

    #[tokio::test]
    async fn who_goes_on_and_on_is_left() {
        let notice = b"N\0\0\0\x11SLOG\0C00000\0\0";
        let (mut session, mut far) = pair().await;
        session.send(&SYNC).await.unwrap();
        far.write_all(&notice.repeat(MESSAGES_MAX as usize)).await.unwrap();
        assert!(timeout(Duration::from_millis(50), session.rest()).await.is_err(), "as many as may be");
        far.write_all(notice).await.unwrap();
        let over = timeout(PATIENCE, session.rest()).await.unwrap().unwrap_err();
        assert_eq!(over.end, WatchEnd::Malformed);
    }
}
