//! Floor 4: watches PostgreSQL servers, each over a session that is held open, on a thread that decides nothing ([`Service`]).
//! Knows nothing of pools, roles wanted or tables.
//!
//! A heartbeat is five bytes (`Sync`), answered in microseconds without privilege, snapshot or log line; a server that was promoted
//! says so in the very next answer. The session is opened as `replication` or `plain` says:
//!
//! - **replication**: first as `replication=database`, which takes SQL too and so can tell how far a standby has replayed; if the
//!   server does not let that in (no line of the database in `pg_hba.conf`, no such database), as a physical one, which only needs
//!   the line `replication` and cannot tell it: [`ServerFacts::replayed`] is then none. See `facts` for what was measured.
//! - **plain**: SQL alone, for roles without `REPLICATION`; tells no history, and a standby's timeline neither.
//!
//! How sessions end, measured on PostgreSQL 15: `stop -m fast` and the death of the postmaster are told to both kinds (57P01). An
//! immediate stop and the crash of another process are told to plain sessions alone, in warnings (57P01, 57P02): processes that
//! serve replication just exit, which is [`WatchEnd::Closed`].
//!
//! [`WatchEnd::Closed`]: crate::model::WatchEnd::Closed
//! [`ServerFacts::replayed`]: crate::model::ServerFacts::replayed

mod examine;
mod facts;
mod judge;
mod knock;
mod login;
mod retry;
mod service;
mod session;
mod talk;
mod tls;

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout_at};

use crate::dial::Ways;
use crate::model::{
    DialError, LoginError, MonoTime, ServerFacts, WatchError, WatchNews, WatchSession, WatchSpec, spoken,
};
use crate::sys::{Clock, Tickers};

pub use examine::{Complaint, Examined};
use facts::{Known, NoFacts};
use knock::Door;
use login::{Failure, Kind, Means, log_in};
use retry::Retry;
pub use service::{Order, Orders, Service, Told, Watched};
use session::Session;
use talk::Talk;
use tls::Trusts;
pub use tls::{server_name, verified};

/// That a session to a database was not let in is remembered for so long: each attempt is a line in the server's log.
const PHYSICAL_FOR: Duration = Duration::from_secs(600);
/// "Too late" counts only if we noticed it within this time.
const OWN_LATENESS_MAX: Duration = Duration::from_millis(100);

/// What all watches on one thread have in common. A clone has the same.
#[derive(Debug, Clone)]
pub struct Watcher {
    clock: Clock,
    tickers: Tickers,
    means: Means,
}

impl Watcher {
    /// One that watches nobody yet, and dials servers by `ways`.
    #[must_use]
    pub fn new(clock: Clock, ways: Ways) -> Self {
        let trusts = Arc::new(Trusts::new(clock));
        Self { clock, tickers: Tickers::default(), means: Means { ways, trusts } }
    }

    /// Watches the server that `spec` names, and tells `news` of it, for as long as it is polled: always on the same runtime,
    /// that of all other watches of this watcher. Whenever `knocks` rings it logs in once more, beside the session that it has, and
    /// tells whether that is turned away.
    pub async fn watch(self, spec: Arc<WatchSpec>, knocks: Arc<Notify>, mut news: impl AsyncFnMut(WatchNews)) {
        let (clock, means) = (self.clock, &self.means);
        let mut opener =
            Opener { spec: &spec, clock, means, physical_until: MonoTime::ZERO, connected: Cell::default() };
        let mut retry = Retry::default();
        let mut is_shut_out = false;
        loop {
            let pause = retry.pause(clock.now());
            if !pause.is_zero() {
                sleep(pause).await;
            }
            // Before there is a session: should there be no descriptor for it, that says nothing of the server.
            let ticker = self.tickers.every(spec.postgres.heartbeat).map_err(|error| Some(no_timer(&error)));
            // The state of a login is large, and most of a watch's life is spent after it.
            let opened = match ticker {
                Ok(ticker) => Box::pin(opener.open()).await.map(|open| (open, ticker)),
                Err(failure) => Err(failure),
            };
            match opened {
                Ok((mut open, mut ticker)) => {
                    let begun = clock.now();
                    if std::mem::take(&mut is_shut_out) {
                        tracing::info!(address = %spec.address, "the server lets the monitor in again");
                    }
                    news(WatchNews::Opened(open.facts.clone())).await;
                    let door = Door::new(&spec, open.kind, clock, means);
                    let mut talk = Talk::new(clock, &spec.postgres, &mut ticker, &door.said, &mut news);
                    // Cancel-safety: a login that is under way is of no use when the session is over.
                    let over = tokio::select! {
                        biased;
                        over = talk.run(&mut open.session, open.kind, &mut open.known) => over,
                        never = door.knock(&knocks) => match never {},
                    };
                    retry.ended(clock.now().since(begun));
                    drop(open.session);
                    news(WatchNews::Ended { end: over.end, detail: over.detail }).await;
                }
                Err(Some(failure)) => {
                    // No server is taken out for it, so nothing else would say it before the role is missed.
                    if is_denied(failure.error) && !std::mem::replace(&mut is_shut_out, true) {
                        let (address, user) = (&spec.address, &spec.postgres.user);
                        tracing::warn!(%address, %user, "the server does not let the monitor in: {}", failure.detail);
                    }
                    retry.failed(failure.error);
                    if retry.is_news(clock.now(), failure.error) {
                        news(WatchNews::Failed { error: failure.error, detail: failure.detail }).await;
                    }
                }
                Err(None) => tracing::debug!(address = %spec.address, "we were too late ourselves to judge a login"),
            }
        }
    }
}

/// Whether a server lives and does not let the monitor in.
const fn is_denied(error: WatchError) -> bool {
    use LoginError::{NotAuthorized, NotPermitted, Other, Tls};
    matches!(error, WatchError::Login(NotAuthorized | NotPermitted | Tls | Other))
}

fn no_timer(error: &io::Error) -> Failure {
    let detail = format!("there is no timer for the heartbeat: {error}");
    Failure { error: WatchError::Dial(DialError::Local), detail, code: None }
}

/// A session, and what its server said first.
struct Open {
    session: Session,
    kind: Kind,
    known: Known,
    facts: ServerFacts,
}

struct Opener<'a> {
    spec: &'a WatchSpec,
    clock: Clock,
    means: &'a Means,
    /// Until when a session to a database is not tried.
    physical_until: MonoTime,
    connected: Cell<bool>,
}

impl Opener<'_> {
    /// Opens a session within the time it may take. No failure at all if it was us who were late.
    async fn open(&mut self) -> Result<Open, Option<Failure>> {
        let limit = self.spec.timeout;
        let deadline = self.clock.now() + limit;
        let opened = timeout_at(self.clock.instant(deadline), self.as_configured()).await;
        let now = self.clock.now();
        match opened {
            Ok(Ok(open)) => Ok(open),
            Err(_) | Ok(Err(_)) if now.since(deadline) > OWN_LATENESS_MAX => Err(None),
            Ok(Err(failure)) => Err(Some(failure)),
            Err(_) if self.connected.get() => {
                let detail = format!("connected, and not logged in within {}", spoken(limit));
                Err(Some(Failure::login(LoginError::TimedOut, detail)))
            }
            Err(_) => {
                let detail = format!("connecting to {}: no answer within {}", self.spec.address, spoken(limit));
                Err(Some(Failure { error: WatchError::Dial(DialError::TimedOut), detail, code: None }))
            }
        }
    }

    async fn as_configured(&mut self) -> Result<Open, Failure> {
        match self.spec.postgres.session {
            WatchSession::Plain => self.open_as(Kind::Plain).await,
            WatchSession::Replication if self.clock.now() < self.physical_until => self.open_as(Kind::Physical).await,
            WatchSession::Replication => match self.open_as(Kind::Database).await {
                Err(failure) if may_be_the_database(&failure) => {
                    let open = self.open_as(Kind::Physical).await?;
                    self.physical_until = self.clock.now() + PHYSICAL_FOR;
                    tracing::info!(
                        address = %self.spec.address,
                        "the monitor's session has no database, so how far a standby has replayed is not known: {}",
                        failure.detail
                    );
                    Ok(open)
                }
                done => done,
            },
        }
    }

    async fn open_as(&self, kind: Kind) -> Result<Open, Failure> {
        let mut session = log_in(self.spec, kind, self.means, &self.connected).await?;
        let mut known = Known::default();
        let facts = facts::ask(&mut session, kind, &mut known).await.map_err(|error| match error {
            NoFacts::Over(over) => over.into(),
            NoFacts::Told(told) => Failure::told(&told),
            NoFacts::Strange(what) => {
                Failure::login(LoginError::NotPostgres, format!("the answer to {what} is not what was asked"))
            }
        })?;
        Ok(Open { session, kind, known, facts })
    }
}

/// Whether a physical session might be let in where this one to a database was not: there is no line for it in `pg_hba.conf`, the
/// role may not connect to it, or it is not there. A wrong password is wrong for both.
fn may_be_the_database(failure: &Failure) -> bool {
    matches!(failure.error, WatchError::Login(_))
        && matches!(failure.code.as_deref(), Some("28000" | "42501" | "3D000"))
}
