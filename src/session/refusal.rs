//! Why a client got no backend, and how one of PostgreSQL is told: by FATAL 57P03, `cannot_connect_now`, and then the end.
//!
//! A client that has asked for encryption first is told `N`, no, and turned away when it goes on without. One cannot be told
//! from another that insists on TLS (`sslmode=require` and stricter), and for those there is no good answer. Measured with
//! psql and libpq 15.18, five times each; "next" is whether a second host in the connection string is tried:
//!
//! | answer | `disable` | next | `prefer` | next | `require` | next |
//! |---|---|---|---|---|---|---|
//! | `N`, then 57P03 | our words | yes | our words | yes | "server does not support SSL" | no |
//! | 57P03 at once | our words | yes | "sent an error response during SSL exchange" | no | the same | no |
//! | `N`, then the end | our words | yes | "server closed the connection" | no | "does not support SSL" | no |
//! | the end, or a reset | "server closed the connection" | no | the same | no | the same | no |
//! | a reset at accept | the same, or "reset" | now and then | the same | now and then | the same | now and then |
//! | no listening socket | "refused" | yes | the same | yes | the same | yes |
//!
//! So it is `N`, then 57P03: nothing else tells those who may do without TLS, and nothing that can be said on a connection
//! makes the others try their next host. They read that there is no TLS here, which is true of this answer only.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::failover::{PoolRoutes, Tier};
use crate::model::{BackendName, HoldEnd, ListenerPlan, RejectReason, Target, spoken};
use crate::relay::FirstChunk;
use crate::sys::{Gated, Stream};
use crate::wire::postgres::{FirstPacket, cannot_connect_now, parse_first_packet};

use super::Worker;

/// Who is turned away, and why. The client's socket closes only when it has been counted; it is lost if the
/// runtime could not watch it any more.
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) client: Option<Arc<Gated>>,
}

/// How long a client that is told `N` may take for what it sends next, all in all: a round trip for each request.
const NEXT_PACKETS_WAIT: Duration = Duration::from_secs(1);

/// How long a client that was told its error may take to go. A close with bytes left to be read is a reset, which would
/// overtake the error.
const LEAVE_WAIT: Duration = Duration::from_secs(1);

/// So long after the cut those are still told who were held until then; the daemon waits for sessions a little longer than that.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Both kinds of encryption may be asked for, one after the other.
const REQUESTS_MAX: usize = 2;

/// Why a client got no backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing is fit, and the pool refuses.
    NoBackend,
    /// All that is fit is full, and the pool refuses.
    Full,
    /// Every dial failed, and the pool refuses.
    DialFailed,
    /// An operator closed it.
    Closed,
    /// Whoever could be dialled reset the connection before its first byte.
    Reset,
    /// It was held, in vain.
    Hold(HoldEnd),
    /// Its first packet was none, or did not come.
    FirstPacket(RejectReason),
    /// It wants no session, but to cancel another one.
    Cancels,
}

impl Refusal {
    /// Under which word it is counted; none if it is no refusal.
    pub(super) const fn reason(self) -> Option<RejectReason> {
        Some(match self {
            Self::NoBackend => RejectReason::NoEligibleBackend,
            Self::Full => RejectReason::BackendsFull,
            Self::Closed => RejectReason::Closed,
            Self::DialFailed | Self::Reset => RejectReason::DialFailed,
            Self::Hold(HoldEnd::LimitReached) => RejectReason::HoldLimit,
            Self::Hold(HoldEnd::TimedOut) => RejectReason::HoldTimeout,
            Self::Hold(HoldEnd::ShuttingDown) => RejectReason::ShuttingDown,
            Self::Hold(HoldEnd::ClientLeft | HoldEnd::Released) => RejectReason::ClientLeft,
            Self::FirstPacket(reason) => reason,
            Self::Cancels => return None,
        })
    }

    /// What the client is told of it, if it is there to be told.
    fn words(self, plan: &ListenerPlan, routes: Option<&PoolRoutes>) -> Option<String> {
        let hold = routes.map(|routes| routes.hold);
        Some(match self {
            Self::NoBackend => "clients are not held here".to_owned(),
            Self::Full => "each has as many sessions as it may".to_owned(),
            Self::DialFailed | Self::Reset => "no connection to one that was taken to be fit could be made".to_owned(),
            Self::Hold(HoldEnd::TimedOut) => {
                hold.map_or_else(|| "held in vain".to_owned(), |hold| format!("held for {}", spoken(hold.hold)))
            }
            Self::Hold(HoldEnd::LimitReached) => hold
                .map_or_else(|| "too many wait".to_owned(), |hold| format!("{} clients wait already", hold.hold_limit)),
            Self::Hold(HoldEnd::ShuttingDown) | Self::FirstPacket(RejectReason::ShuttingDown) => {
                format!("the daemon behind listener {} is going down", plan.name)
            }
            Self::Hold(HoldEnd::ClientLeft | HoldEnd::Released)
            | Self::Closed
            | Self::FirstPacket(_)
            | Self::Cancels => return None,
        })
    }
}

/// Tells `client`, which has sent `first`, why it is turned away, and which server was full when it was there last; waits for a
/// moment until it has gone. Who waits for nothing, or cannot be told, is not waited for.
pub(super) async fn tell(
    worker: &Worker,
    plan: &ListenerPlan,
    client: &Gated,
    packet: &FirstPacket,
    first: FirstChunk,
    (refusal, full): (Refusal, Option<&BackendName>),
) {
    let error = {
        let published = worker.routes.load();
        let routes = published.table.pools.get(&plan.pool).map(|routes| &**routes);
        let Some(mut words) = refusal.words(plan, routes) else { return };
        if let Some(full) = full {
            // A string takes whatever it is given.
            _ = write!(words, "; {full} has no free connection");
        }
        cannot_connect_now(&message(plan), &hint(plan, routes, &words))
    };
    // Cancel-safety: a client that is not told in time reads the end instead.
    tokio::select! {
        biased;
        () = tell_error(worker, client, packet, first, &error) => {}
        () = worker.until_cut_for(LAST_WORDS) => {}
    }
}

async fn tell_error(worker: &Worker, client: &Gated, packet: &FirstPacket, first: FirstChunk, error: &[u8]) {
    if *packet == FirstPacket::DirectTls {
        return;
    }
    match timeout(NEXT_PACKETS_WAIT, goes_on_without_encryption(worker, client, first)).await {
        Ok(true) => {}
        Ok(false) | Err(_) => return,
    }
    let sent = client.try_send(error);
    if sent.is_ok_and(|sent| sent == error.len()) && client.end_writing().is_ok() {
        let _gone_or_too_slow = timeout(LEAVE_WAIT, until_gone(worker, client)).await;
    }
}

/// Whether `client`, which has sent `first`, is one that waits for an answer to a `StartupMessage`, if it is told that nothing
/// is encrypted here.
async fn goes_on_without_encryption(worker: &Worker, client: &Gated, mut first: FirstChunk) -> bool {
    let mut requests = first.refusals();
    loop {
        match parse_first_packet(first.bytes()) {
            Ok(Some((FirstPacket::Startup, _))) => return true,
            // What follows without having waited for the answer may have been put there by somebody else.
            Ok(Some((FirstPacket::Encryption, length))) if length == first.bytes().len() && requests < REQUESTS_MAX => {
            }
            Ok(None) if requests > 0 => match first.receive(client, &worker.loans).await {
                Ok(1..) => continue,
                Ok(0) | Err(_) => return false,
            },
            Ok(_) | Err(_) => return false,
        }
        requests += 1;
        first = FirstChunk::default();
        if !client.try_send(b"N").is_ok_and(|sent| sent == 1) {
            return false;
        }
    }
}

async fn until_gone(worker: &Worker, client: &Stream) {
    // So much is read and forgotten, which is more than a client has to say before it is let in.
    for _ in 0..REQUESTS_MAX {
        if !FirstChunk::default().receive(client, &worker.loans).await.is_ok_and(|length| length > 0) {
            return;
        }
    }
}

/// What `target` wants, in a word.
const fn wanted(target: Target) -> &'static str {
    match target {
        Target::Primary => "primary",
        Target::Standby => "standby",
        Target::PreferStandby | Target::Any => "server",
    }
}

fn message(plan: &ListenerPlan) -> String {
    format!("changeover: no {} is available in pool {}", wanted(plan.target), plan.pool)
}

fn hint(plan: &ListenerPlan, routes: Option<&PoolRoutes>, words: &str) -> String {
    let mut hint = words.to_owned();
    if let Some(routes) = routes {
        let mut rest: Vec<&str> = routes.servers.iter().map(|server| server.name.as_str()).collect();
        for (what, target) in [("the primary", Target::Primary), ("standbys in service", Target::Standby)] {
            let names = names(routes.wanted(Some(target)).1);
            let named: Vec<&str> = rest.extract_if(.., |name| names.contains(name)).collect();
            say(&mut hint, what, &named);
        }
        say(&mut hint, "not in service", &rest);
    }
    // A string takes whatever it is given.
    _ = write!(hint, "; `changeover explain {}` tells why", plan.pool);
    hint
}

fn say(hint: &mut String, what: &str, names: &[&str]) {
    if !names.is_empty() {
        _ = write!(hint, "; {what}: {}", names.join(", "));
    }
}

fn names(tiers: &[Tier]) -> Vec<&str> {
    tiers.iter().flat_map(Tier::routes).map(|route| route.name.as_str()).collect()
}
