//! The questions whose answers are a server's facts, by the kind of session.
//!
//! What a standby tells, measured on PostgreSQL 15 while its replay was paused 3 MB behind:
//!
//! | session | hba line it needs | system, timeline, history | received | replayed |
//! |---|---|---|---|---|
//! | `replication=true` | `replication` | yes | `IDENTIFY_SYSTEM` | cannot be asked: it takes no SQL |
//! | `replication=database` | the database | yes | `IDENTIFY_SYSTEM` | `pg_last_wal_replay_lsn()` |
//! | plain | the database | the system; on a primary the timeline too | `pg_last_wal_receive_lsn()` | the same |
//!
//! `IDENTIFY_SYSTEM` gives the greater of received and replayed, so it says nothing of how far reads have come. Both kinds of
//! replication session take a place of `max_wal_senders` and none of `max_connections`, and need the `REPLICATION` attribute.

use std::sync::Arc;

use crate::model::{Fork, Lsn, Role, ServerFacts, SystemId, Timeline};
use crate::wire::postgres::{HISTORY_MAX, Identity, MESSAGE_MAX, Row, Told, parse_history, parse_lsn};

use super::login::Kind;
use super::session::{Over, Reported, Session};

/// Room for a history in a message.
const HISTORY_MESSAGE_MAX: usize = HISTORY_MAX + MESSAGE_MAX;

/// A server is promoted once in a while.
const ASKED_AT_MOST: usize = 3;

const RECOVERY: &str = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn()";
/// On in recovery. Servers before version 14 say so by nothing else on a physical replication connection; a primary whose
/// sessions are read-only by default says it as well.
const READ_ONLY: &str = "SHOW transaction_read_only";
const SYSTEM: &str = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
/// The timeline is in the name of the file that is being written. A standby writes none, and its control file's is that of the last
/// restart point, which may be an old one.
const PLAIN: &str = "SELECT r, CASE WHEN r THEN pg_catalog.pg_last_wal_receive_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, \
    CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() END, \
    CASE WHEN NOT r THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END \
    FROM pg_catalog.pg_is_in_recovery() AS r";

/// Why there are no facts.
#[derive(Debug)]
pub(super) enum NoFacts {
    /// The session is over.
    Over(Over),
    /// The server has something against a question.
    Told(Told),
    /// An answer is not what the question was.
    Strange(&'static str),
}

impl From<Over> for NoFacts {
    fn from(over: Over) -> Self {
        Self::Over(over)
    }
}

/// What need not be asked again.
#[derive(Debug, Default)]
pub(super) struct Known {
    system: Option<SystemId>,
    history: Option<(Timeline, Arc<[Fork]>)>,
}

/// Asks for all of a server's facts.
pub(super) async fn ask(session: &mut Session, kind: Kind, known: &mut Known) -> Result<ServerFacts, NoFacts> {
    let mut asked = 0;
    loop {
        let before = session.reported;
        let facts = match kind {
            Kind::Database | Kind::Physical => by_replication(session, kind, before, known).await?,
            Kind::Plain => by_sql(session, known).await?,
        };
        asked += 1;
        // It was promoted while it was asked.
        if session.reported == before || asked == ASKED_AT_MOST {
            return Ok(facts);
        }
    }
}

/// The role is found out first, and the timeline after it: a server that is promoted in between is told as a standby of the new
/// timeline, which claims nothing, and never as a primary of the old one.
async fn by_replication(
    session: &mut Session,
    kind: Kind,
    before: Reported,
    known: &mut Known,
) -> Result<ServerFacts, NoFacts> {
    let mut replayed = None;
    let in_recovery = match (before.hot_standby, kind) {
        (Some(false), _) => false,
        (Some(true), Kind::Physical) => true,
        (None, Kind::Physical) => text(&one(session, READ_ONLY).await?, 0) == Some("on"),
        (Some(true) | None, Kind::Database | Kind::Plain) => {
            let row = one(session, RECOVERY).await?;
            let in_recovery = before.hot_standby.unwrap_or(text(&row, 0) == Some("t"));
            replayed = text(&row, 1).and_then(parse_lsn).filter(|_| in_recovery);
            in_recovery
        }
    };
    let row = one(session, "IDENTIFY_SYSTEM").await?;
    let identity = Identity::parse(&row).ok_or(NoFacts::Strange("IDENTIFY_SYSTEM"))?;
    let history = history(session, identity.timeline, known).await?;
    Ok(ServerFacts {
        system: Some(identity.system),
        timeline: Some(identity.timeline),
        role: role(in_recovery),
        written: Some(identity.written),
        replayed,
        history,
    })
}

/// The history of `timeline`: a file that is written once, so it is asked for once.
async fn history(session: &mut Session, timeline: Timeline, known: &mut Known) -> Result<Arc<[Fork]>, NoFacts> {
    // The first has none.
    if timeline <= Timeline(1) {
        return Ok(Arc::default());
    }
    if let Some((_, history)) = known.history.as_ref().filter(|(of, _)| *of == timeline) {
        return Ok(Arc::clone(history));
    }
    let asked = session.query(&format!("TIMELINE_HISTORY {timeline}"), HISTORY_MESSAGE_MAX).await?;
    let rows = match asked {
        Ok(rows) => rows,
        Err(told) => {
            // A standby may have followed to the timeline before its file has come, and asks again with the next facts.
            tracing::debug!(%timeline, %told, "no history of a timeline");
            return Ok(Arc::default());
        }
    };
    let content = rows.first().and_then(|row| row.get(1)?.as_ref());
    let forks = content.and_then(|content| parse_history(content)).ok_or(NoFacts::Strange("TIMELINE_HISTORY"))?;
    let forks: Arc<[Fork]> = forks.into();
    known.history = Some((timeline, Arc::clone(&forks)));
    Ok(forks)
}

async fn by_sql(session: &mut Session, known: &mut Known) -> Result<ServerFacts, NoFacts> {
    let system = match known.system {
        Some(system) => system,
        None => {
            let row = one(session, SYSTEM).await?;
            let system = text(&row, 0).and_then(|text| text.parse().ok());
            SystemId(system.ok_or(NoFacts::Strange("pg_control_system()"))?)
        }
    };
    known.system = Some(system);
    let row = one(session, PLAIN).await?;
    let in_recovery = match text(&row, 0) {
        Some("t") => true,
        Some("f") => false,
        Some(_) | None => return Err(NoFacts::Strange("pg_is_in_recovery()")),
    };
    let timeline = text(&row, 3).and_then(|file| u32::from_str_radix(file.get(..8)?, 16).ok());
    let replayed: Option<Lsn> = text(&row, 2).and_then(parse_lsn);
    Ok(ServerFacts {
        system: Some(system),
        timeline: timeline.map(Timeline),
        role: role(in_recovery),
        // A standby that restores from an archive receives nothing.
        written: text(&row, 1).and_then(parse_lsn).max(replayed),
        replayed,
        history: Arc::default(),
    })
}

const fn role(in_recovery: bool) -> Role {
    if in_recovery { Role::Standby } else { Role::Primary }
}

async fn one(session: &mut Session, question: &'static str) -> Result<Row, NoFacts> {
    let rows = session.query(question, MESSAGE_MAX).await?.map_err(NoFacts::Told)?;
    rows.into_iter().next().ok_or(NoFacts::Strange(question))
}

fn text(row: &Row, column: usize) -> Option<&str> {
    std::str::from_utf8(row.get(column)?.as_ref()?).ok()
}
