//! Floor 4: asks one backend once, with a deadline. Knows nothing of thresholds, pools or tables.

mod agent;
mod command;
mod http;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use crate::model::{Address, Advice, Approach, CheckError, CheckKind, DialError, MonoTime, ProbeError, ProbeOutcome};
use crate::sys::{Clock, DialOptions, Stream, connect_with, dial_error};
use crate::wire::own_proxy_header;

/// "Too late" counts only if we noticed it within this time: if our own loop was late by more, the
/// answer may have been there all along, and it was us.
const OWN_LATENESS_MAX: Duration = Duration::from_millis(100);

/// Why a question was not answered as it should be.
struct Failure {
    error: ProbeError,
    detail: String,
}

impl Failure {
    fn check(error: CheckError, detail: impl Into<String>) -> Self {
        Self { error: ProbeError::Check(error), detail: detail.into() }
    }
}

/// Probes over sockets in flight at once; the rest wait their turn. Each takes a descriptor or two.
pub const IN_FLIGHT_MAX: usize = 512;
/// Programs that run at once, each with a thread of its own. The rest wait their turn, apart from the probes above:
/// programs take their time, and nobody else is to wait for them.
const COMMANDS_MAX: usize = 32;

/// Asks, within limits of how many questions may be open at once.
#[derive(Debug, Clone)]
pub struct Prober {
    clock: Clock,
    sockets: Arc<Semaphore>,
    commands: Arc<Semaphore>,
}

/// What was found out.
#[derive(Debug)]
pub struct Answer {
    /// That.
    pub outcome: ProbeOutcome,
    /// How long it took, without the wait for a turn.
    pub time: Duration,
}

impl Prober {
    /// One that has asked nothing yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let (sockets, commands) = (Semaphore::new(IN_FLIGHT_MAX), Semaphore::new(COMMANDS_MAX));
        Self { clock, sockets: Arc::new(sockets), commands: Arc::new(commands) }
    }

    /// Asks `address` the question `kind`, approaching it as clients are brought to it; a header that it wants says
    /// that the connection is the proxy's own. Answers within `limit` and our own lateness from when it is its turn;
    /// a command whose turn does not come within `limit` has found out nothing.
    pub async fn probe(&self, address: &Address, kind: &CheckKind, limit: Duration, approach: Approach) -> Answer {
        let asked = match kind {
            CheckKind::Command(_) => command::turn(&self.commands, limit).await,
            CheckKind::Tcp | CheckKind::Http(_) | CheckKind::Agent(_) | CheckKind::None => {
                Arc::clone(&self.sockets).acquire_owned().await.map_err(|closed| closed.to_string())
            }
        };
        let turn = match asked {
            Ok(turn) => turn,
            Err(detail) => {
                let outcome = ProbeOutcome::Inconclusive { error: None, detail };
                return Answer { outcome, time: Duration::ZERO };
            }
        };
        let begun = self.clock.now();
        let deadline = begun + limit;
        let answer = self.ask(address, kind, deadline, limit, approach, turn).await;
        let ended = self.clock.now();
        let time = ended.since(begun);
        let late = ended.since(deadline);
        let outcome = match answer {
            Ok(advice) => ProbeOutcome::Passed { latency: time, advice },
            Err(_) if late > OWN_LATENESS_MAX => {
                ProbeOutcome::Inconclusive { error: None, detail: format!("we were {late:.1?} late ourselves") }
            }
            Err(Failure { error: ProbeError::Dial(error), detail }) if error.is_own() => {
                ProbeOutcome::Inconclusive { error: Some(error), detail }
            }
            Err(Failure { error, detail }) => ProbeOutcome::Failed { error, detail },
        };
        Answer { outcome, time }
    }

    async fn ask(
        &self,
        address: &Address,
        kind: &CheckKind,
        deadline: MonoTime,
        limit: Duration,
        approach: Approach,
        turn: OwnedSemaphorePermit,
    ) -> Result<Advice, Failure> {
        let deadline = self.clock.instant(deadline);
        let silent =
            |what: String| Failure::check(CheckError::AnswerTimedOut, format!("{what}: no answer within {limit:?}"));
        let dial = Dial { address, limit, approach };
        // Boxed, but for the plain one: a crowd is asked that way, and each question has room for the largest.
        match kind {
            CheckKind::None => Ok(Advice::default()),
            CheckKind::Command(check) => {
                let asked = Box::pin(command::ask(address, check, turn, deadline, limit));
                asked.await.map(|()| Advice::default())
            }
            CheckKind::Tcp => {
                // In order, not by a reset: many servers log a reset as an error, probe after probe.
                drop(dial.own().await?.end_writing());
                Ok(Advice::default())
            }
            CheckKind::Http(check) => {
                let stream = dial.own().await?;
                let asked = Box::pin(timeout_at(deadline, async {
                    let (asked, stream) = dial.source(stream, check.port).await?;
                    http::ask(&asked, check, stream).await
                }));
                let asked = asked.await.unwrap_or_else(|_| Err(silent(format!("{} {}", check.method, check.path))));
                asked.map(|()| Advice::default())
            }
            CheckKind::Agent(check) => {
                let stream = dial.own().await?;
                let asked = Box::pin(timeout_at(deadline, async {
                    let (_, stream) = dial.source(stream, check.port).await?;
                    agent::ask(&check.send, stream).await
                }));
                asked.await.unwrap_or_else(|_| Err(silent("the agent".to_owned())))
            }
        }
    }
}

/// How the backend and what speaks for it are dialled.
struct Dial<'a> {
    address: &'a Address,
    limit: Duration,
    approach: Approach,
}

impl Dial<'_> {
    fn options(&self) -> DialOptions {
        DialOptions { source: self.approach.source_address }
    }

    /// Connects to the backend's own address.
    async fn own(&self) -> Result<Stream, Failure> {
        let address = self.address;
        let stream = connect_with(address, self.limit, self.options()).await.map_err(|error| {
            let detail = format!("connecting to {address}: {error}");
            Failure { error: ProbeError::Dial(dial_error(&error)), detail }
        })?;
        let header = own_proxy_header(self.approach.send_proxy_protocol);
        if !header.is_empty() {
            // A socket that was just connected has room for it; one that is broken says so when it is asked.
            drop(stream.try_send(&header));
        }
        Ok(stream)
    }

    /// What answers for the backend, and where: `stream` itself or, if the check has a `port` of its own, what listens
    /// there. A good answer from a side port says nothing of the port that clients use, so both have to be open.
    async fn source(&self, stream: Stream, port: u16) -> Result<(Address, Stream), Failure> {
        if port == 0 {
            return Ok((self.address.clone(), stream));
        }
        let source = self.address.with_port(port);
        drop(stream.end_writing());
        let connected = connect_with(&source, self.limit, self.options()).await.map_err(|error| {
            let class = match dial_error(&error) {
                error @ (DialError::Local | DialError::SourceAddress) => ProbeError::Dial(error),
                DialError::Refused => ProbeError::Check(CheckError::SourceRefused),
                DialError::TimedOut
                | DialError::Unreachable
                | DialError::Unresolved
                | DialError::Unanswered
                | DialError::Other => ProbeError::Check(CheckError::AnswerTimedOut),
            };
            Failure { error: class, detail: format!("connecting to {source}: {error}") }
        })?;
        Ok((source, connected))
    }
}
