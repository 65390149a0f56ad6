//! Floor 0: words. Plain types that every other room speaks in: names, ids, addresses, time, the
//! checked plan, and the reasons that become log fields, metric labels and API values alike.
//!
//! Nothing here decides, reads a clock or touches a socket. One thing changes once it is made: a backend's `Load`.

#[macro_use]
mod labelled;
mod access;
mod addr;
mod cancel_key;
mod evidence;
mod explanation;
mod figures;
mod history;
mod ids;
mod limits;
mod load;
mod meaning;
mod outcome;
mod plan;
mod postgres;
mod secret;
mod session;
mod state;
mod status;
mod time;
mod tunnel;
mod webhook;
mod wording;

pub use access::{AccessRole, JwtAlgorithm, JwtPlan, TlsPlan, TokenPlan};
pub use addr::{Address, AddressError};
pub use cancel_key::CancelKey;
pub use evidence::{Advice, FIGURES_MAX, PushedHealth, SmoothedLatency};
pub use explanation::{Applied, Evaluation, Explanation, Prospect, Rule};
pub use figures::{BackendFigures, PoolFigures, ServerFigures, TunnelFigures};
pub use history::EventRecord;
pub use ids::{
    Actor, BackendId, BackendName, Epoch, Generation, ListenerName, PoolName, ProbeId, RunId, TargetId, WatchId,
    WebhookName,
};
pub use limits::{Approach, LimitsPlan, Networks, ProxyProtocol, Rate};
pub use load::{Block, Load, Loads, Place};
pub use meaning::{AcceptPath, ClusterState, Meaning, SessionPath};
pub use outcome::{
    CancelWay, CheckError, DialError, FailoverStatus, HoldEnd, NotLetIn, OutReason, PipeRefusal, ProbeError,
    ProbeOutcome, ProbeSpec, RejectReason, SessionEnd,
};
pub use plan::{
    AdminPlan, AgentCheck, Argument, BackendPlan, CheckKind, CheckPlan, CommandCheck, DaemonPlan, DialPlan,
    ExpectCheck, FailoverPlan, HoldPlan, HttpCheck, ListenerPlan, LogPlan, Plan, PoolPlan, SessionPolicies,
    StatusRange, StorePlan,
};
pub use postgres::{
    Fork, LoginError, Lsn, PinnedServer, PostgresPlan, Promotion, Role, ServerFacts, SystemId, Target, Timeline,
    TlsMode, WatchEnd, WatchError, WatchNews, WatchSession, WatchSpec,
};
pub use secret::{HIDDEN, Secret};
pub use session::{SessionId, SessionState, SessionStatus};
pub use state::{
    AdminState, Balance, Direction, Failback, HealthState, LogFormat, LogLevel, PoolKind, PoolState, Redundancy,
    Resend, SessionPolicy, WhenDown,
};
pub use status::{BackendStatus, LastFailover, OrderedBy, Paused, PoolStatus, PushedVerdict, ServerStatus};
pub use time::{MonoTime, WallTime};
pub use tunnel::{
    Attach, Filling, LookupPlan, LookupSource, Part, ProgramPlan, RunEnd, Text, TunnelCause, TunnelNews, TunnelPlan,
    TunnelState, TunnelStatus, Via,
};
pub use webhook::{EVENT_KINDS, WebhookFormat, WebhookPlan, WebhookUrl, is_of_kind};
pub use wording::{is_unprintable, meant, nearest, parse_duration, quote, spoken};
