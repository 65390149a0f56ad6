//! The plan: the configuration after every check, as plain types. `config` makes it, everything
//! else is told its part of it. What stands here is valid; nobody checks it again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Address, Approach, BackendName, Balance, Failback, HIDDEN, JwtPlan, LimitsPlan, ListenerName, LogFormat, LogLevel,
    OutReason, PoolKind, PoolName, PostgresPlan, Rate, Resend, Secret, SessionPolicy, Target, TlsPlan, TokenPlan,
    TunnelPlan, WebhookName, WebhookPlan, WhenDown,
};

/// The whole configuration, checked. Its JSON is for recordings of decisions: what nothing is decided by is left out, and
/// reads back as nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// `[daemon]`.
    pub daemon: DaemonPlan,
    /// `[admin]`.
    #[serde(skip)]
    pub admin: AdminPlan,
    /// `[log]`.
    #[serde(skip)]
    pub log: LogPlan,
    /// `[listeners.NAME]`. Each one's pool exists.
    #[serde(skip)]
    pub listeners: BTreeMap<ListenerName, Arc<ListenerPlan>>,
    /// `[pools.NAME]`.
    pub pools: BTreeMap<PoolName, Arc<PoolPlan>>,
    /// `[webhooks.NAME]`.
    #[serde(skip)]
    pub webhooks: BTreeMap<WebhookName, Arc<WebhookPlan>>,
}

/// `[daemon]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonPlan {
    /// Data-plane threads; 0 is one per core.
    #[serde(skip)]
    pub workers: usize,
    /// How long sessions may go on after their backend was drained or the daemon told to stop.
    pub drain_timeout: Duration,
    /// Sessions at once; 0 is what the descriptor limit allows.
    #[serde(skip)]
    pub max_sessions: usize,
    /// The size in bytes of the buffers that are lent to sessions while they move data.
    #[serde(skip)]
    pub relay_buffer: usize,
    /// A connection that is silent for so long is kept alive; zero is never.
    #[serde(skip)]
    pub tcp_keepalive: Duration,
    /// Where state and history are kept, and how much of it.
    #[serde(skip)]
    pub store: StorePlan,
}

/// What of `[daemon]` says where state and history are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePlan {
    /// An absolute path; none is memory only.
    pub state_dir: Option<PathBuf>,
    /// Events older than this are forgotten.
    pub history_max_age: Duration,
    /// The bytes that events take, as JSON; the oldest beyond it are forgotten.
    pub history_max_size: u64,
}

impl Default for StorePlan {
    /// Memory only, with the defaults of the configuration file (a test of it compares them).
    fn default() -> Self {
        Self { state_dir: None, history_max_age: Duration::from_secs(30 * 86_400), history_max_size: 64 << 20 }
    }
}

/// `[admin]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdminPlan {
    /// Where the admin server listens: IP addresses and Unix sockets.
    pub bind: Vec<Address>,
    /// How often one caller may change something, if that is limited.
    pub rate: Option<Rate>,
    /// Tokens, by name.
    pub tokens: Vec<TokenPlan>,
    /// The JWTs that are taken, if any are.
    pub jwt: Option<JwtPlan>,
    /// What IP addresses are served with by TLS, if they are.
    pub tls: Option<TlsPlan>,
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPlan {
    /// How lines are written.
    pub format: LogFormat,
    /// The least important level that is written.
    pub level: LogLevel,
}

impl Default for LogPlan {
    /// What the configuration file begins with.
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: LogLevel::Info }
    }
}

/// `[listeners.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerPlan {
    /// Its name.
    pub name: ListenerName,
    /// Where it listens: IP addresses and Unix sockets.
    pub bind: Vec<Address>,
    /// The pool that serves it.
    pub pool: PoolName,
    /// Which of a postgres pool's servers its sessions want; `any` of other pools.
    pub target: Target,
    /// Who may connect, how many and how fast.
    pub limits: LimitsPlan,
    /// A session in which nothing moves for so long is closed; zero is never.
    pub idle_timeout: Duration,
    /// The same once one direction has ended; zero is never.
    pub half_close_timeout: Duration,
    /// After bytes have moved, their thread stays awake for so long.
    pub busy_poll: Duration,
}

/// `[pools.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPlan {
    /// Its name.
    pub name: PoolName,
    /// What it is made of.
    pub kind: PoolKind,
    /// How sessions are shared within a tier.
    pub balance: Balance,
    /// How backends are dialled.
    pub dial: DialPlan,
    /// What clients get while nothing is fit.
    pub hold: HoldPlan,
    /// When to leave a tier and when to return.
    pub failover: FailoverPlan,
    /// How the servers of a postgres pool are watched; none of other pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Arc<PostgresPlan>>,
    /// Its backends, in the order of their names. At least one.
    pub backends: Vec<BackendPlan>,
}

/// How a session dials the backends of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialPlan {
    /// The longest that one dial may take.
    pub connect_timeout: Duration,
    /// How many dials a client gets before it is held or refused, each to another backend. At least one.
    pub connect_attempts: usize,
    /// What is sent again of that which a backend did not answer.
    pub resend: Resend,
}

/// What a client gets while no backend of its pool is fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldPlan {
    /// The policy.
    pub when_down: WhenDown,
    /// How long a client may wait.
    pub hold: Duration,
    /// How many clients of the pool may wait at once for each target.
    pub hold_limit: usize,
}

/// `[pools.NAME.failover]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverPlan {
    /// Whether new sessions may leave the active tier without an operator's order.
    pub automatic: bool,
    /// How the pool returns to a better tier.
    pub failback: Failback,
    /// How long a better tier must have been fit before the pool returns to it.
    pub failback_after: Duration,
    /// What becomes of established sessions, by reason.
    pub sessions: SessionPolicies,
}

/// `[pools.NAME.failover.sessions]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPolicies {
    /// When the backend is dead.
    pub dead: SessionPolicy,
    /// When it cannot be reached.
    pub unreachable: SessionPolicy,
    /// When it is not the primary any more.
    pub demoted: SessionPolicy,
    /// When it is a standby, and too far behind.
    pub lagging: SessionPolicy,
    /// When its check failed.
    pub check_failed: SessionPolicy,
    /// When it was drained, put in maintenance or removed.
    pub drained: SessionPolicy,
    /// When the pool went back to a better tier.
    pub failed_back: SessionPolicy,
}

impl SessionPolicies {
    /// The policy for sessions of a backend that is out for `reason`.
    #[must_use]
    pub const fn policy(&self, reason: OutReason) -> SessionPolicy {
        match reason {
            OutReason::Dead => self.dead,
            OutReason::Unreachable => self.unreachable,
            OutReason::Demoted => self.demoted,
            OutReason::Lagging => self.lagging,
            OutReason::CheckFailed => self.check_failed,
            OutReason::Drained => self.drained,
            OutReason::FailedBack => self.failed_back,
            // Slow is no reason to end what works; an operator's order says itself what becomes of sessions.
            OutReason::Slow | OutReason::Manual => SessionPolicy::Keep,
        }
    }
}

/// One backend of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendPlan {
    /// Its name within the pool.
    pub name: BackendName,
    /// Where it listens.
    pub address: Address,
    /// Its tier: the lower number is tried first.
    pub priority: u32,
    /// Its share within the tier, from 1 to 1000.
    pub weight: u32,
    /// Sessions at once; 0 is no limit.
    pub max_connections: u32,
    /// How its health is found out.
    pub check: CheckPlan,
    /// How it is dialled.
    pub approach: Approach,
    /// The tunnel that leads to it, if one does; its approach is by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Arc<TunnelPlan>>,
}

/// `[pools.NAME.check]`, as it applies to one backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckPlan {
    /// What is asked.
    pub kind: CheckKind,
    /// From one probe to the next.
    pub interval: Duration,
    /// The longest that one probe may take.
    pub timeout: Duration,
    /// Failures in a row that make a healthy backend unhealthy.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make an unhealthy backend healthy.
    pub healthy_threshold: u32,
    /// From one probe to the next while the backend is unhealthy, if that differs.
    pub recovery_interval: Option<Duration>,
    /// After so many failed probes in a row of an unhealthy backend it is probed no more until it is reset; 0 is never.
    pub recovery_attempts: u32,
    /// With `recovery_attempts`: the least wait before the second attempt; it doubles with each.
    pub recovery_backoff: Duration,
    /// A good answer that takes longer counts as a failure: the probe tells the time, and the core judges it.
    pub max_latency: Option<Duration>,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// Whether the backend's address accepts a connection.
    Tcp,
    /// That, and whether an HTTP request is answered with an expected status.
    Http(HttpCheck),
    /// What an agent on its host says, in HAProxy's agent protocol.
    Agent(AgentCheck),
    /// How a program ends.
    Command(CommandCheck),
    /// Whether it answers what it is sent as expected.
    Expect(ExpectCheck),
    /// Whether it answers the first message of a TLS handshake.
    Tls,
    /// Whether a PostgreSQL server answers a request for TLS, which takes no login.
    Postgres,
    /// Nothing: the backend is taken to be fit until somebody else says otherwise.
    None,
}

/// `check.agent`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AgentCheck {
    /// The port to ask at; 0 is the backend's own. A backend on a Unix socket has but that.
    pub port: u16,
    /// What is sent first, if anything.
    pub send: String,
}

/// `check.expect`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExpectCheck {
    /// What is sent first, if anything. It may hold a key.
    pub send: String,
    /// What the answer must begin with; any byte will do if it is empty. It may hold a key.
    pub answer: String,
}

impl fmt::Debug for ExpectCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (send, answer) = (self.send.len(), self.answer.len());
        write!(f, "ExpectCheck {{ sends {send} bytes, expects {answer} bytes }}")
    }
}

/// `check.command`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CommandCheck {
    /// The program and its arguments, `{host}`, `{port}` and the like already filled in. Never empty.
    pub argv: Vec<Argument>,
    /// The pool for which it is run: the program is told.
    pub pool: PoolName,
    /// The backend for which it is run.
    pub backend: BackendName,
}

/// One word of a command line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Argument {
    /// As it stands in the file.
    Shown(String),
    /// Looked up in the environment or in a file, and so perhaps a secret.
    Hidden(Secret),
}

impl Argument {
    /// The word itself, for the one place that runs the program.
    #[must_use]
    pub fn expose(&self) -> &str {
        match self {
            Self::Shown(text) => text,
            Self::Hidden(secret) => secret.expose(),
        }
    }
}

/// `check.http`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HttpCheck {
    /// The request's method.
    pub method: String,
    /// The request's path, with its query.
    pub path: String,
    /// The port to ask at; 0 is the backend's own.
    pub port: u16,
    /// The statuses that are good news.
    pub expect: Vec<StatusRange>,
    /// The value of an `Authorization` header to send.
    pub authorization: Option<Secret>,
}

impl HttpCheck {
    /// `path` for all to read: what is behind its `?` may hold a key.
    #[must_use]
    pub fn shown_path(path: &str) -> Cow<'_, str> {
        match path.split_once('?') {
            Some((before, _)) => Cow::Owned(format!("{before}?{HIDDEN}")),
            None => Cow::Borrowed(path),
        }
    }
}

/// HTTP statuses from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StatusRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl StatusRange {
    /// Whether `status` is in the range.
    #[must_use]
    pub const fn contains(self, status: u16) -> bool {
        self.first <= status && status <= self.last
    }
}
