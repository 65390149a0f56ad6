//! One login as the monitor, and what the server says of itself, its settings and the monitor's role: for those who ask once.

use std::cell::Cell;
use std::time::Duration;

use crate::model::{MonoTime, ServerFacts, WatchError, WatchSpec};
use crate::wire::postgres::MESSAGE_MAX;

use super::login::{Failure, Kind};
use super::session::Session;
use super::{Opener, Watcher};

const ROLE: &str = "SELECT rolreplication, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
const ENCRYPTED: &str = "SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()";
const CLOCK: &str = "SELECT pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())";

/// What a server says. What it does not say, or not to this session, is none.
#[derive(Debug, Clone)]
pub struct Examined {
    /// What is always asked.
    pub facts: ServerFacts,
    /// Whether the session has a database: without one nobody is told how far a standby has replayed.
    pub has_database: bool,
    /// The server's version, in its own words.
    pub version: Option<String>,
    /// Whether the connection is encrypted.
    pub is_encrypted: Option<bool>,
    /// Whether the role may replicate.
    pub may_replicate: Option<bool>,
    /// Whether the role may do anything.
    pub is_superuser: Option<bool>,
    /// `wal_retrieve_retry_interval`.
    pub retry_interval: Option<Duration>,
    /// How far the server's clock is from ours, in seconds; negative if it is behind.
    pub clock_offset: Option<f64>,
}

/// Why a server could not be examined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// What it amounts to.
    pub error: Option<WatchError>,
    /// The server's words, or the kernel's.
    pub detail: String,
    /// The server's SQLSTATE, if it said one.
    pub code: Option<String>,
}

impl From<Failure> for Complaint {
    fn from(Failure { error, detail, code }: Failure) -> Self {
        Self { error: Some(error), detail, code }
    }
}

impl Watcher {
    /// Logs in to the server that `spec` names as its watch would, asks, and takes leave.
    ///
    /// # Errors
    ///
    /// Why there is no session.
    pub async fn examine(&self, spec: &WatchSpec) -> Result<Examined, Complaint> {
        let (clock, means) = (self.clock, &self.means);
        let mut opener = Opener { spec, clock, means, physical_until: MonoTime::ZERO, connected: Cell::default() };
        let late =
            || Complaint { error: None, detail: "this host is too busy to judge an answer".to_owned(), code: None };
        let mut open = Box::pin(opener.open()).await.map_err(|failure| failure.map_or_else(late, Complaint::from))?;
        let has_database = open.kind != Kind::Physical;
        let session = &mut open.session;
        let version = first(session, "SHOW server_version").await.and_then(|row| row.into_iter().next().flatten());
        let interval = first(session, "SHOW wal_retrieve_retry_interval").await;
        let (mut role, mut encrypted, mut time) = (None, None, None);
        if has_database {
            role = first(session, ROLE).await;
            encrypted = first(session, ENCRYPTED).await;
            time = first(session, CLOCK).await;
        }
        let now = clock.unix_seconds(clock.now());
        let flag = |row: &Option<Vec<Option<String>>>, column: usize| {
            row.as_ref().and_then(|row| row.get(column)?.as_deref().map(|text| text == "t"))
        };
        let text = |row: Option<Vec<Option<String>>>| row.and_then(|row| row.into_iter().next().flatten());
        Ok(Examined {
            facts: open.facts,
            has_database,
            version,
            is_encrypted: flag(&encrypted, 0),
            may_replicate: flag(&role, 0),
            is_superuser: flag(&role, 1),
            retry_interval: text(interval).and_then(|shown| setting(&shown)),
            clock_offset: text(time).and_then(|seconds| seconds.parse::<f64>().ok()).map(|seconds| seconds - now),
        })
    }
}

/// The first row of the answer, as text; none if the server has something against the question.
async fn first(session: &mut Session, question: &str) -> Option<Vec<Option<String>>> {
    let rows = session.query(question, MESSAGE_MAX).await.ok()?.ok()?;
    let row = rows.into_iter().next()?;
    Some(row.iter().map(|cell| cell.as_ref().and_then(|cell| String::from_utf8(cell.to_vec()).ok())).collect())
}

/// A time as `SHOW` puts it: a whole number and its unit.
fn setting(shown: &str) -> Option<Duration> {
    let digits = shown.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = shown.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        "d" => number.checked_mul(86_400).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::setting;

    #[test]
    fn a_setting_is_read_in_its_unit() {
        for (shown, wanted) in [("5s", 5_000), ("50ms", 50), ("2min", 120_000), ("1h", 3_600_000)] {
            assert_eq!(setting(shown), Some(Duration::from_millis(wanted)), "{shown}");
        }
        assert!(["", "5", "s", "5 fortnights"].iter().all(|shown| setting(shown).is_none()));
    }
}
