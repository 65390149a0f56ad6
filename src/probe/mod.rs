//! Floor 4: asks backends, each question with a deadline, on a thread of its own ([`Service`]). Knows nothing of
//! thresholds, pools or tables.

mod agent;
mod command;
mod expect;
mod http;
mod postgres;
mod pulse;
mod service;
mod tcp;
mod tls;

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use crate::dial::Ways;
use crate::model::{
    Address, Advice, Approach, Attach, CheckError, CheckKind, DialError, HttpCheck, MonoTime, OutReason, ProbeError,
    ProbeOutcome, spoken,
};
use crate::sys::{Clock, Stream, dial_error};
use crate::wire::own_proxy_header;

use pulse::Pulse;
pub use pulse::Stalls;
pub use service::{Asked, Finished, Order, Orders, Service};

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

/// Behind a tunnel a connection proves that its near end lives, and no more: ssh and its like take a client in first and dial the
/// target then. So there it must not be closed at once. A target that refuses is told of within a round trip or two.
pub const TUNNEL_OPEN_FOR: Duration = Duration::from_millis(300);

/// Probes over sockets in flight at once; the rest wait their turn. Each takes a descriptor or two.
pub const IN_FLIGHT_MAX: usize = 512;
/// Programs that run at once, each with a thread of its own. The rest wait their turn, apart from the probes above:
/// programs take their time, and nobody else is to wait for them.
const COMMANDS_MAX: usize = 32;

/// Asks, within limits of how many questions may be open at once.
#[derive(Debug, Clone)]
pub struct Prober {
    clock: Clock,
    ways: Ways,
    pulse: Arc<Pulse>,
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
    /// One that has asked nothing yet, and dials backends by `ways`.
    #[must_use]
    pub fn new(clock: Clock, ways: Ways) -> Self {
        let (sockets, commands) = (Semaphore::new(IN_FLIGHT_MAX), Semaphore::new(COMMANDS_MAX));
        Self { clock, ways, pulse: Arc::default(), sockets: Arc::new(sockets), commands: Arc::new(commands) }
    }

    /// Asks `address` the question `kind`, approaching it as clients are brought to it; a header that it wants says
    /// that the connection is the proxy's own. Answers within `limit` and our own lateness from when it is its turn;
    /// a command whose turn does not come within `limit` has found out nothing.
    pub async fn probe(&self, address: &Address, kind: &CheckKind, limit: Duration, approach: &Approach) -> Answer {
        let asked = match kind {
            CheckKind::Command(_) => command::turn(&self.commands, limit).await,
            CheckKind::Tcp
            | CheckKind::Http(_)
            | CheckKind::Expect(_)
            | CheckKind::Tls
            | CheckKind::Agent(_)
            | CheckKind::Postgres
            | CheckKind::None => Arc::clone(&self.sockets).acquire_owned().await.map_err(|closed| closed.to_string()),
        };
        let turn = match asked {
            Ok(turn) => turn,
            Err(detail) => {
                let outcome = ProbeOutcome::Inconclusive { error: None, detail };
                return Answer { outcome, time: Duration::ZERO };
            }
        };
        let begun = self.clock.now();
        let answer = self.ask(address, kind, begun + limit, limit, approach, turn).await;
        let ended = self.clock.now();
        Answer { outcome: self.judge(answer, begun, ended, limit), time: ended.since(begun) }
    }

    /// What an answer proves that came at `ended` to a question of `begun`, and whether it was us.
    fn judge(&self, answer: Result<Good, Failure>, begun: MonoTime, ended: MonoTime, limit: Duration) -> ProbeOutcome {
        let late = ended.since(begun + limit);
        match answer {
            Ok(Good { advice, proven }) => {
                ProbeOutcome::Passed { latency: proven.unwrap_or(ended).since(begun), advice }
            }
            Err(_) if late > OWN_LATENESS_MAX => {
                ProbeOutcome::Inconclusive { error: None, detail: format!("we were {late:.1?} late ourselves") }
            }
            Err(Failure { error: ProbeError::Dial(error), detail }) if error.is_own() => {
                ProbeOutcome::Inconclusive { error: Some(error), detail }
            }
            // The other side may have been asked late, or have given us up.
            Err(Failure { error, detail }) if !is_refusal(error) && self.pulse.stalled_since(begun, ended) => {
                let detail = format!("we stood still ourselves meanwhile; it seemed: {detail}");
                ProbeOutcome::Inconclusive { error: None, detail }
            }
            Err(Failure { error, detail }) => ProbeOutcome::Failed { error, detail },
        }
    }

    async fn ask(
        &self,
        address: &Address,
        kind: &CheckKind,
        deadline: MonoTime,
        limit: Duration,
        approach: &Approach,
        turn: OwnedSemaphorePermit,
    ) -> Result<Good, Failure> {
        let deadline = self.clock.instant(deadline);
        let dial = Dial { ways: &self.ways, address, limit, approach };
        // Boxed, but for the plain one: a crowd is asked that way, and each question has room for the largest.
        let asked = match kind {
            CheckKind::None => return Ok(Good::default()),
            CheckKind::Command(check) => {
                let asked = Box::pin(command::ask(address, check, turn, deadline, limit));
                return asked.await.map(|()| Good::default());
            }
            CheckKind::Tcp if approach.via.is_some() => {
                return Box::pin(async {
                    let stream = dial.own().await?;
                    let proven = tcp::stays_open(&stream, self.clock, deadline).await?;
                    drop(stream.end_writing());
                    Ok(Good { advice: Advice::default(), proven: Some(proven) })
                })
                .await;
            }
            CheckKind::Tcp => {
                return match dial.own().await {
                    Ok(stream) => {
                        // In order, not by a reset: many servers log a reset as an error, probe after probe.
                        drop(stream.end_writing());
                        Ok(Good::default())
                    }
                    // It has accepted, and that is all there is to ask.
                    Err(Failure { error: ProbeError::Check(CheckError::ClosedEarly), .. }) => Ok(Good::default()),
                    Err(failure) => Err(failure),
                };
            }
            CheckKind::Http(_) | CheckKind::Agent(_) | CheckKind::Expect(_) | CheckKind::Tls | CheckKind::Postgres => {
                let stream = dial.own().await?;
                timeout_at(deadline, Box::pin(dial.question(kind, stream))).await
            }
        };
        let advice = asked.unwrap_or_else(|_| {
            let detail = format!("{}: no answer within {}", asked_for(kind), spoken(limit));
            Err(Failure::check(CheckError::AnswerTimedOut, detail))
        })?;
        Ok(Good { advice, proven: None })
    }
}

/// What a question is called whose answer did not come.
fn asked_for(kind: &CheckKind) -> Cow<'static, str> {
    Cow::Borrowed(match kind {
        CheckKind::Http(check) => {
            return Cow::Owned(format!("{} {}", check.method, HttpCheck::shown_path(&check.path)));
        }
        CheckKind::Agent(_) => "the agent",
        CheckKind::Expect(check) if check.send.is_empty() => "what it says first",
        CheckKind::Expect(_) => "the answer to what it was sent",
        CheckKind::Tls => "TLS",
        CheckKind::Postgres => "PostgreSQL",
        CheckKind::Tcp | CheckKind::Command(_) | CheckKind::None => "the backend",
    })
}

/// A good answer.
#[derive(Debug, Default)]
struct Good {
    advice: Advice,
    /// Since when it is known to be one, if that is not the moment at which it was told.
    proven: Option<MonoTime>,
}

/// Whether it is the other kernel's word, which is no other for being read late.
fn is_refusal(error: ProbeError) -> bool {
    error.out_reason() == OutReason::Dead
}

/// How the backend and what speaks for it are dialled.
struct Dial<'a> {
    ways: &'a Ways,
    address: &'a Address,
    limit: Duration,
    approach: &'a Approach,
}

impl Dial<'_> {
    /// Asks over `stream` what is asked in a protocol.
    async fn question(&self, kind: &CheckKind, stream: Stream) -> Result<Advice, Failure> {
        match kind {
            CheckKind::Http(check) => {
                let (asked, stream) = self.source(stream, check.port).await?;
                http::ask(&asked, check, stream).await?;
            }
            CheckKind::Agent(check) => {
                let (_, stream) = self.source(stream, check.port).await?;
                return agent::ask(&check.send, stream).await;
            }
            CheckKind::Expect(check) => expect::ask(check, stream).await?,
            CheckKind::Tls => {
                tls::ask(self.approach.via.as_ref().map_or(self.address, |via| &via.target), stream).await?
            }
            CheckKind::Postgres => postgres::ask(stream).await?,
            CheckKind::Tcp | CheckKind::Command(_) | CheckKind::None => {}
        }
        Ok(Advice::default())
    }

    /// Whether there is no proxy on the way, which has accepted before it was asked for the backend.
    fn is_led_to(&self) -> bool {
        self.approach.via.as_ref().is_none_or(|via| match via.attach {
            Attach::Listen | Attach::Stdio | Attach::Address => true,
            Attach::Socks5 | Attach::HttpConnect => false,
        })
    }

    /// Connects to the backend's own address.
    async fn own(&self) -> Result<Stream, Failure> {
        let address = self.address;
        let stream = self.ways.dial(address, self.limit, self.approach).await.map_err(|error| {
            // Whoever resets it had accepted it, before we have noticed that.
            if error.kind() == io::ErrorKind::ConnectionReset && self.is_led_to() {
                let who = if self.approach.via.is_some() { tcp::THE_TUNNEL } else { "it" };
                return tcp::closed(who, &error.to_string());
            }
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
        let connected = self.ways.dial(&source, self.limit, self.approach).await.map_err(|error| {
            let class = match dial_error(&error) {
                error @ (DialError::Local | DialError::SourceAddress | DialError::TunnelDown) => {
                    ProbeError::Dial(error)
                }
                DialError::Refused | DialError::TargetRefused => ProbeError::Check(CheckError::SourceRefused),
                DialError::TimedOut
                | DialError::Unreachable
                | DialError::Unresolved
                | DialError::ProxyRefused
                | DialError::TargetUnreachable
                | DialError::Other => ProbeError::Check(CheckError::AnswerTimedOut),
            };
            Failure { error: class, detail: format!("connecting to {source}: {error}") }
        })?;
        Ok((source, connected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonoTime {
        MonoTime::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_stall_within_the_time_of_a_question_leaves_a_refusal_alone_to_be_believed() {
        const LIMIT: Duration = Duration::from_secs(1);
        let prober = Prober::new(Clock::start(), Ways::default());
        let refused = || Err(Failure { error: ProbeError::Dial(DialError::Refused), detail: String::new() });
        let silent = || Err(Failure::check(CheckError::AnswerTimedOut, ""));
        let judge = |answer, begun, ended| prober.judge(answer, at(begun), at(ended), LIMIT);
        let failed = |outcome| match outcome {
            ProbeOutcome::Failed { error, .. } => Some(error.out_reason()),
            ProbeOutcome::Passed { .. } | ProbeOutcome::Inconclusive { .. } => None,
        };
        prober.pulse.beat(at(1000));
        assert_eq!(failed(judge(silent(), 100, 1100)), Some(OutReason::CheckFailed), "in time");
        assert_eq!(failed(judge(silent(), 1000, 2000)), None, "the thread did not run from 1100 on");
        assert_eq!(failed(judge(refused(), 1000, 2000)), Some(OutReason::Dead), "whenever it is read");
        assert_eq!(failed(judge(refused(), 500, 2000)), None, "but not half a second after its time");
        assert!(matches!(judge(Ok(Good::default()), 1000, 2000), ProbeOutcome::Passed { .. }));
        prober.pulse.beat(at(2000));
        assert_eq!(failed(judge(silent(), 1000, 2001)), None);
        prober.pulse.beat(at(2100));
        assert_eq!(failed(judge(silent(), 2001, 2150)), Some(OutReason::CheckFailed), "it was begun after the stall");
    }
}
