//! Floor 4: asks one backend once, with a deadline. Knows nothing of thresholds, pools or tables.

mod http;

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::model::{Address, Advice, Approach, CheckError, CheckKind, DialError, HttpCheck, ProbeError, ProbeOutcome};
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

/// Asks `address` the question `kind`, approaching it as clients are brought to it; a header that it wants says that
/// the connection is the proxy's own. Answers within `limit` and our own lateness.
pub async fn probe(
    clock: Clock,
    address: &Address,
    kind: &CheckKind,
    limit: Duration,
    approach: Approach,
) -> ProbeOutcome {
    let begun = clock.now();
    let deadline = begun + limit;
    let answer = ask(address, kind, clock.instant(deadline), limit, approach).await;
    let ended = clock.now();
    match answer {
        Ok(()) => ProbeOutcome::Passed { latency: ended.since(begun), advice: Advice::default() },
        Err(_) if ended.since(deadline) > OWN_LATENESS_MAX => {
            let detail = format!("we were {:.1?} late ourselves", ended.since(deadline));
            ProbeOutcome::Inconclusive { error: None, detail }
        }
        Err(Failure { error: ProbeError::Dial(error), detail }) if error.is_own() => {
            ProbeOutcome::Inconclusive { error: Some(error), detail }
        }
        Err(Failure { error, detail }) => ProbeOutcome::Failed { error, detail },
    }
}

async fn ask(
    address: &Address,
    kind: &CheckKind,
    deadline: Instant,
    limit: Duration,
    approach: Approach,
) -> Result<(), Failure> {
    let options = DialOptions { source: approach.source_address };
    let stream = connect_with(address, limit, options).await.map_err(|error| {
        let detail = format!("connecting to {address}: {error}");
        Failure { error: ProbeError::Dial(dial_error(&error)), detail }
    })?;
    let header = own_proxy_header(approach.send_proxy_protocol);
    if !header.is_empty() {
        // A socket that was just connected has room for it; one that is broken says so when it is asked.
        drop(stream.try_send(&header));
    }
    match kind {
        CheckKind::Tcp => {
            // In order, not by a reset: many servers log a reset as an error, probe after probe.
            drop(stream.end_writing());
            Ok(())
        }
        // Not asked yet.
        CheckKind::Agent(_) | CheckKind::Command(_) | CheckKind::None => Ok(()),
        CheckKind::Http(check) => {
            let asked = timeout_at(deadline, ask_http(address, check, stream, limit, options)).await;
            asked.unwrap_or_else(|_| {
                let detail = format!("{} {}: no answer within {limit:?}", check.method, check.path);
                Err(Failure::check(CheckError::AnswerTimedOut, detail))
            })
        }
    }
}

/// Asks over `stream` or, if the check has a port of its own, there: a good answer from a side port says
/// nothing of the port that clients use, so both have to be open.
async fn ask_http(
    address: &Address,
    check: &HttpCheck,
    stream: Stream,
    limit: Duration,
    options: DialOptions,
) -> Result<(), Failure> {
    let (asked, stream) = if check.port == 0 {
        (address.clone(), stream)
    } else {
        let source = address.with_port(check.port);
        drop(stream.end_writing());
        let connected = connect_with(&source, limit, options).await.map_err(|error| {
            let class = match dial_error(&error) {
                own @ (DialError::SourceAddress | DialError::Local) => ProbeError::Dial(own),
                DialError::Refused => ProbeError::Check(CheckError::SourceRefused),
                DialError::TimedOut
                | DialError::Unreachable
                | DialError::Unresolved
                | DialError::Unanswered
                | DialError::Other => ProbeError::Check(CheckError::AnswerTimedOut),
            };
            Failure { error: class, detail: format!("connecting to {source}: {error}") }
        })?;
        (source, connected)
    };
    http::ask(&asked, check, stream).await
}
