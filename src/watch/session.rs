//! One session with a server: sends questions, takes answers in, and notices the end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::model::WatchEnd;
use crate::wire::postgres::{MESSAGE_MAX, Row, SYNC, Said, TERMINATE, Told, is_bare_ready, next_said};

/// The most rows of an answer that are kept. The monitor's own questions have one.
const ROWS_MAX: usize = 16;

const HUNG_UP: &str = "the server closed the connection";

/// Bytes to the server and from it, encrypted or not.
pub(super) trait Line: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Line for T {}

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
}

impl Session {
    pub(super) fn new(line: Box<dyn Line>) -> Self {
        Self { line, inbox: BytesMut::with_capacity(4096), reported: Reported::default() }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Over> {
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
                Ok(Some(said)) => return Ok(said),
                Ok(None) => self.fill().await?,
                Err(error) => {
                    let detail = format!("what came is not PostgreSQL's protocol: {error}");
                    return Err(Over { end: WatchEnd::Malformed, detail });
                }
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
            Said::Demand(_) | Said::Parameter { .. } | Said::Row(_) | Said::Ready | Said::Other => Ok(()),
        }
    }

    /// One heartbeat: five bytes there, six back.
    pub(super) async fn beat(&mut self) -> Result<(), Over> {
        self.send(&SYNC).await?;
        loop {
            if self.inbox.is_empty() {
                self.fill().await?;
            }
            if is_bare_ready(&self.inbox) {
                self.inbox.clear();
                return Ok(());
            }
            let said = self.receive(MESSAGE_MAX).await?;
            self.heed(&said)?;
            if said == Said::Ready {
                return Ok(());
            }
        }
    }

    /// The rows of the answer to `question`, whose messages have at most `max` bytes; or what the server has against it.
    pub(super) async fn query(&mut self, question: &str, max: usize) -> Result<Result<Vec<Row>, Told>, Over> {
        let mut bytes = BytesMut::new();
        frontend::query(question, &mut bytes).map_err(|error| Over::closed(&error))?;
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

    /// Reads what comes while nothing was asked, until that is the end. Cancel-safe.
    pub(super) async fn rest(&mut self) -> Over {
        loop {
            let said = match self.receive(MESSAGE_MAX).await {
                Ok(said) => said,
                Err(over) => return over,
            };
            if let Err(over) = self.heed(&said) {
                return over;
            }
        }
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
