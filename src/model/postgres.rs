//! Words for PostgreSQL: what a server says of itself, how it is watched, and where sessions want to go.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Address, Approach, DialError, Secret};

labelled! {
    /// What a session wants to reach.
    Target {
        /// The primary.
        Primary = "primary",
        /// A standby.
        Standby = "standby",
        /// A standby or, while none is fit, the primary.
        PreferStandby = "prefer-standby",
        /// Whatever serves.
        Any = "any",
    }
}

labelled! {
    /// What a server says it is.
    Role {
        /// It takes writes.
        Primary = "primary",
        /// It follows a primary.
        Standby = "standby",
    }
}

labelled! {
    /// How the connection to a server is protected.
    TlsMode {
        /// Never.
        Disable = "disable",
        /// If the server can.
        Prefer = "prefer",
        /// Always, whoever the server is.
        Require = "require",
        /// Always, and its certificate is signed by one that is trusted.
        VerifyCa = "verify-ca",
        /// And it is for the host's name.
        VerifyFull = "verify-full",
    }
}

labelled! {
    /// As what the monitor logs in.
    WatchSession {
        /// A physical replication connection: takes none of `max_connections`, and tells the timeline.
        Replication = "replication",
        /// A plain one.
        Plain = "plain",
    }
}

labelled! {
    /// Who promotes a standby when the primary is lost.
    Promotion {
        /// Somebody else: changeover only notices.
        Never = "never",
    }
}

/// A cluster's identity: all servers that were copied from one another have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The server that a person has decided for. Its name may be given to another one later, for which nobody has decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedServer {
    /// Where it was.
    pub address: Address,
    /// Its cluster; none if it could not tell.
    pub system: Option<SystemId>,
}

/// A line of history: each promotion begins one with a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in the write-ahead log, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from `earlier` to here; 0 if that is further on.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// As PostgreSQL writes it: two hexadecimal halves.
impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// One line of a timeline's history file: which timeline was left, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The timeline that ended there.
    pub timeline: Timeline,
    /// Where the next one began.
    pub at: Lsn,
}

/// What a server says of itself, all of it at about one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// Its cluster; none if a plain session cannot tell.
    pub system: Option<SystemId>,
    /// Its line of history; none if that is not known.
    pub timeline: Option<Timeline>,
    /// What it is.
    pub role: Role,
    /// How far it has written (a primary), or received (a standby).
    pub written: Option<Lsn>,
    /// How far a standby has replayed.
    pub replayed: Option<Lsn>,
    /// The timelines before its own, oldest first, as its history file has them.
    pub history: Arc<[Fork]>,
}

labelled! {
    /// How a monitoring session that was open came to its end.
    WatchEnd {
        /// The server ended it in order (57P01): it stops, or somebody ended this session alone.
        Terminated = "terminated",
        /// The server ended it because another of its processes crashed (57P02).
        Crashed = "crashed",
        /// The connection ended or was reset.
        Closed = "closed",
        /// It did not answer, and was given up by us.
        Silent = "silent",
        /// What came was not the protocol.
        Malformed = "malformed",
    }
}

labelled! {
    /// Why a monitoring session could not be opened on a connection that was made.
    LoginError {
        /// It is starting, stopping or recovering, and takes no session yet or no more (57P03).
        CannotConnectNow = "cannot_connect_now",
        /// It has as many sessions as it may (53300).
        TooManyConnections = "too_many_connections",
        /// It does not let this user in: password, `pg_hba.conf`, missing role (class 28).
        NotAuthorized = "not_authorized",
        /// The user may not do what monitoring takes (42501).
        NotPermitted = "not_permitted",
        /// TLS failed, or is not to be had.
        Tls = "tls",
        /// It answers, and is no PostgreSQL.
        NotPostgres = "not_postgres",
        /// It did not answer in time.
        TimedOut = "timed_out",
        /// The connection ended before the login was done.
        ClosedEarly = "closed_early",
        /// Any other error that the server told.
        Other = "other",
    }
}

/// Why a monitoring session could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchError {
    /// No connection.
    Dial(DialError),
    /// A connection, and no session.
    Login(LoginError),
}

impl WatchError {
    /// The word for it in logs and the API.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Dial(error) => error.label(),
            Self::Login(error) => error.label(),
        }
    }
}

/// What a monitor has to tell of its one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchNews {
    /// A session is open.
    Opened(ServerFacts),
    /// What the server says now. Told at once when its role or timeline changes, and otherwise every `facts_interval`.
    Seen(ServerFacts),
    /// A heartbeat is later than this server's own answers make likely. It may still come.
    Late {
        /// How long it has been waited for.
        waited: Duration,
        /// The longest that an answer took of late, in the last ten to twenty seconds.
        #[serde(default)]
        slowest: Duration,
    },
    /// It came after all.
    OnTime {
        /// After so long.
        took: Duration,
    },
    /// The session is over; another one is being opened.
    Ended {
        /// How.
        end: WatchEnd,
        /// The server's words, or the kernel's.
        detail: String,
    },
    /// Another login, beside the session that is open, was turned away (57P03): the server waits for its clients to go.
    TurnedAway {
        /// The server's words.
        detail: String,
    },
    /// Another login was not turned away any more.
    LetIn,
    /// No session could be opened; it is tried again.
    Failed {
        /// Why.
        error: WatchError,
        /// The server's words, or the kernel's.
        detail: String,
    },
}

/// `[pools.NAME.postgres]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PostgresPlan {
    /// The monitoring role.
    pub user: String,
    /// Its password, if it has one.
    pub password: Option<Secret>,
    /// The database of plain sessions.
    pub database: String,
    /// How the connection is protected.
    pub tls: TlsMode,
    /// The certificates that are trusted, in PEM; none is the system's.
    pub ca_file: Option<PathBuf>,
    /// As what the monitor logs in.
    pub session: WatchSession,
    /// From one heartbeat to the next.
    pub heartbeat: Duration,
    /// A heartbeat that is not answered for so long, and no other sign of life meanwhile, is the end of the server.
    pub heartbeat_deadline: Duration,
    /// A standby that is so many bytes behind gets no new sessions; 0 is no limit.
    pub max_lag: u64,
    /// A standby that is behind by so much time gets no new sessions; zero is no limit.
    pub max_lag_time: Duration,
    /// Who promotes.
    pub promotion: Promotion,
}

/// Whom to watch, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchSpec {
    /// The server's address.
    pub address: Address,
    /// How it is approached.
    pub approach: Approach,
    /// The longest that connecting and logging in may take.
    pub timeout: Duration,
    /// How it is watched.
    pub postgres: Arc<PostgresPlan>,
}
