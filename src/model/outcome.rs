//! How things end, and why: the reasons shared by log field, metric label and API.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Address, Advice, Approach, CheckKind};

labelled! {
    /// Why a dial did not become a connection, graded by what it proves.
    DialError {
        /// The kernel of the backend's host answered: nobody listens.
        Refused = "refused",
        /// No answer in time.
        TimedOut = "timed_out",
        /// No route to the host or network.
        Unreachable = "unreachable",
        /// The host name could not be looked up.
        Unresolved = "unresolved",
        /// The host does not have the pool's `source_address`: our own fault, that says nothing of the backend.
        SourceAddress = "source_address",
        /// Our own fault (no descriptor, no local port): says nothing of the backend.
        Local = "local",
        /// The tunnel that it is behind is down: there is no way to it, or nobody at the near end of it.
        TunnelDown = "tunnel_down",
        /// A proxy was asked for the way and let nobody through, for a reason of its own.
        ProxyRefused = "proxy_refused",
        /// A proxy reached the backend's host, whose kernel answered: nobody listens.
        TargetRefused = "target_refused",
        /// A proxy did not reach the backend's host.
        TargetUnreachable = "target_unreachable",
        /// Anything else.
        Other = "other",
    }
}

labelled! {
    /// Why a backend that could be connected to did not let a client in. Counted beside failed dials.
    NotLetIn {
        /// It accepted, and ended before its first byte.
        Unanswered = "unanswered",
        /// It is PostgreSQL, and has as many sessions as it may.
        Full = "full",
    }
}

impl DialError {
    /// Whether it is our own fault, and says nothing of the backend.
    #[must_use]
    pub const fn is_own(self) -> bool {
        matches!(self, Self::SourceAddress | Self::Local)
    }
}

labelled! {
    /// What was wrong with the answer of a backend that could be connected to.
    CheckError {
        /// The check's own port refused, although the backend's did not.
        SourceRefused = "source_refused",
        /// The connection was there, the answer was not in time.
        AnswerTimedOut = "answer_timed_out",
        /// The connection ended before the answer.
        ClosedEarly = "closed_early",
        /// The answer's status is none of those expected.
        UnexpectedStatus = "unexpected_status",
        /// The answer is not what was expected.
        UnexpectedAnswer = "unexpected_answer",
        /// The answer was not in the check's protocol.
        Malformed = "malformed",
        /// It is PostgreSQL, and takes no session now: it starts, stops or recovers.
        CannotConnectNow = "cannot_connect_now",
        /// The answer was good and took longer than `max_latency`.
        Slow = "slow",
        /// The agent said that the backend is down.
        AgentDown = "agent_down",
        /// The command ended with another code than 0.
        CommandFailed = "command_failed",
    }
}

/// Why a probe failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeError {
    /// The backend's own address could not be connected to.
    Dial(DialError),
    /// It could, but the check said no.
    Check(CheckError),
}

impl ProbeError {
    /// The word for this error in logs, metrics and the API.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Dial(error) => error.label(),
            Self::Check(error) => error.label(),
        }
    }

    /// The reason for which a backend with this error is taken out.
    #[must_use]
    pub const fn out_reason(self) -> OutReason {
        match self {
            Self::Dial(DialError::Refused | DialError::TargetRefused | DialError::TunnelDown) => OutReason::Dead,
            Self::Dial(
                DialError::TimedOut
                | DialError::Unreachable
                | DialError::TargetUnreachable
                | DialError::ProxyRefused
                | DialError::SourceAddress
                | DialError::Local
                | DialError::Other,
            ) => OutReason::Unreachable,
            // A name that cannot be looked up is the resolver's failure, not the backend's.
            Self::Dial(DialError::Unresolved) => OutReason::CheckFailed,
            Self::Check(CheckError::Slow) => OutReason::Slow,
            Self::Check(_) => OutReason::CheckFailed,
        }
    }

    /// Whether the failure of a backend behind a tunnel is at the far end of the way, or cannot be told from one there: then a
    /// new tunnel to the same place would help nobody.
    ///
    /// | error | | why |
    /// |---|---|---|
    /// | `target_refused`, `target_unreachable` | yes | the proxy came through, and says so of what is behind it |
    /// | `refused` | yes | of a way that is dialled at the backend's address its own host has answered |
    /// | `closed_early` | yes | where a tunnel cannot say that its target refuses, it lets in and closes |
    /// | `malformed`, `unexpected_status`, `unexpected_answer`, `cannot_connect_now`, `agent_down`, `command_failed`, `source_refused`, `slow` | yes | somebody answered |
    /// | `tunnel_down`, `proxy_refused` | no | the near end has failed |
    /// | `timed_out`, `answer_timed_out`, `unreachable`, `unresolved`, `other` | no | the way itself may be lost |
    /// | `source_address`, `local` | no | it is our own fault, and says nothing |
    #[must_use]
    pub const fn is_of_target(self) -> bool {
        match self {
            Self::Dial(DialError::TargetRefused | DialError::TargetUnreachable | DialError::Refused) => true,
            Self::Dial(
                DialError::TimedOut
                | DialError::Unreachable
                | DialError::Unresolved
                | DialError::SourceAddress
                | DialError::Local
                | DialError::TunnelDown
                | DialError::ProxyRefused
                | DialError::Other,
            )
            | Self::Check(CheckError::AnswerTimedOut) => false,
            Self::Check(
                CheckError::SourceRefused
                | CheckError::ClosedEarly
                | CheckError::UnexpectedStatus
                | CheckError::UnexpectedAnswer
                | CheckError::Malformed
                | CheckError::CannotConnectNow
                | CheckError::Slow
                | CheckError::AgentDown
                | CheckError::CommandFailed,
            ) => true,
        }
    }
}

/// What to ask a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeSpec {
    /// The backend's address.
    pub address: Address,
    /// The question.
    pub kind: CheckKind,
    /// The longest that the answer may take.
    pub timeout: Duration,
    /// How it is approached.
    pub approach: Approach,
}

/// What one probe found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// The backend answered as it should.
    Passed {
        /// From the start of the dial to the end of the answer.
        latency: Duration,
        /// What it asked for besides.
        advice: Advice,
    },
    /// It did not.
    Failed {
        /// Why.
        error: ProbeError,
        /// The evidence in words, for the log and the API.
        detail: String,
    },
    /// We could not ask, or were too late ourselves to judge the answer: no evidence at all.
    Inconclusive {
        /// Our own fault at the dial, if it was one.
        error: Option<DialError>,
        /// What was in the way.
        detail: String,
    },
}

labelled! {
    /// Why a backend gets no new sessions, and what decides over those it has.
    OutReason {
        /// Proof of death: refused twice in a row.
        Dead = "dead",
        /// It could not be connected to.
        Unreachable = "unreachable",
        /// It could, but its check failed.
        CheckFailed = "check_failed",
        /// Drained, put in maintenance, or removed.
        Drained = "drained",
        /// The pool went back to a better tier.
        FailedBack = "failed_back",
        /// It is not the primary any more.
        Demoted = "demoted",
        /// It is a standby, and too far behind.
        Lagging = "lagging",
        /// It answers slower than `max_latency`. New sessions go elsewhere; none is ever closed for it.
        Slow = "slow",
        /// An operator had the pool serve from elsewhere.
        Manual = "manual",
    }
}

labelled! {
    /// How far a failover has come.
    FailoverStatus {
        /// What served is lost; where to go is not known yet.
        Pending = "pending",
        /// Where to go is known, and it is being done.
        InProgress = "in_progress",
        /// New sessions are served from there.
        Completed = "completed",
        /// There is nowhere to go.
        Failed = "failed",
    }
}

impl OutReason {
    /// Whether probes said so, rather than people or a policy.
    #[must_use]
    pub const fn is_verdict(self) -> bool {
        match self {
            Self::Dead | Self::Unreachable | Self::CheckFailed | Self::Demoted | Self::Lagging | Self::Slow => true,
            Self::Drained | Self::FailedBack | Self::Manual => false,
        }
    }
}

labelled! {
    /// Why a client was turned away before it reached a backend.
    RejectReason {
        /// `max_sessions` are open.
        MaxSessions = "max_sessions",
        /// The listener's `max_connections` are open.
        MaxConnections = "max_connections",
        /// The client's `max_connections_per_client` are open.
        MaxConnectionsPerClient = "max_connections_per_client",
        /// The client comes faster than `connection_rate_per_client`.
        ConnectionRate = "connection_rate",
        /// `deny` says no, or `allow` does not say yes.
        NotAllowed = "not_allowed",
        /// No header of the PROXY protocol came, or not from where one may come.
        ProxyProtocol = "proxy_protocol",
        /// No first packet of PostgreSQL's protocol came in time, or it was none.
        FirstPacket = "first_packet",
        /// `hold_limit` clients wait already.
        HoldLimit = "hold_limit",
        /// It waited for `hold`, and no backend became fit.
        HoldTimeout = "hold_timeout",
        /// No backend is fit and the pool refuses.
        NoEligibleBackend = "no_eligible_backend",
        /// Every backend that is fit has its `max_connections`, and the pool refuses.
        BackendsFull = "backends_full",
        /// It went away before it had a backend.
        ClientLeft = "client_left",
        /// An operator closed it while it dialled.
        Closed = "closed",
        /// Every dial failed and the pool refuses.
        DialFailed = "dial_failed",
        /// The daemon is going down.
        ShuttingDown = "shutting_down",
    }
}

labelled! {
    /// To whom a PostgreSQL client's request to cancel was passed on.
    CancelWay {
        /// To the server that had told its key.
        Learned = "learned",
        /// To all servers of the pool: whose key it is was not known.
        Broadcast = "broadcast",
        /// To nobody: there is no server.
        Nowhere = "nowhere",
        /// To nobody: it was held or delayed here, and could hit a later query than the one that was meant.
        Late = "late",
        /// To nobody: whose key it is was not known, and too many such requests had come.
        Limited = "limited",
    }
}

labelled! {
    /// Why a stream got no pipe, and was copied.
    PipeRefusal {
        /// Its thread has as many pipes as it may.
        Limit = "limit",
        /// The user has so many pipes that the kernel gives only small ones, or none.
        Quota = "quota",
        /// The kernel said no for another reason: there was no descriptor, nearly always.
        Kernel = "kernel",
    }
}

/// How a client's wait in the hold queue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldEnd {
    /// There is a route to try.
    Released,
    /// Too many wait already.
    LimitReached,
    /// The time was up.
    TimedOut,
    /// The client went away.
    ClientLeft,
    /// The daemon is going down.
    ShuttingDown,
}

labelled! {
    /// Why an established session ended.
    SessionEnd {
        /// Both directions ended in order.
        Completed = "completed",
        /// The client reset its connection.
        ClientReset = "client_reset",
        /// The backend reset its connection.
        BackendReset = "backend_reset",
        /// No byte moved for the listener's `idle_timeout`.
        IdleTimeout = "idle_timeout",
        /// One direction had ended and the other moved nothing for `half_close_timeout`.
        HalfCloseTimeout = "half_close_timeout",
        /// Fenced: the backend is dead.
        FencedDead = "dead",
        /// Fenced: the backend cannot be reached.
        FencedUnreachable = "unreachable",
        /// Fenced: the backend's check failed.
        FencedCheckFailed = "check_failed",
        /// Fenced: the backend is not the primary any more.
        FencedDemoted = "demoted",
        /// Fenced: the backend is too far behind.
        FencedLagging = "lagging",
        /// Fenced: the backend was drained or removed.
        FencedDrained = "drained",
        /// Fenced: the pool went back to a better tier.
        FencedFailedBack = "failed_back",
        /// Fenced: an operator had the pool serve from elsewhere.
        FencedManual = "manual",
        /// An operator closed it.
        Closed = "closed",
        /// The daemon went down and `drain_timeout` was up.
        DrainDeadline = "drain_deadline",
    }
}

impl From<OutReason> for SessionEnd {
    fn from(reason: OutReason) -> Self {
        match reason {
            OutReason::Dead => Self::FencedDead,
            OutReason::Unreachable => Self::FencedUnreachable,
            OutReason::CheckFailed => Self::FencedCheckFailed,
            OutReason::Demoted => Self::FencedDemoted,
            OutReason::Lagging => Self::FencedLagging,
            OutReason::Drained => Self::FencedDrained,
            OutReason::FailedBack => Self::FencedFailedBack,
            // No session is closed because its backend is slow.
            OutReason::Slow => Self::FencedCheckFailed,
            OutReason::Manual => Self::FencedManual,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CheckError, DialError, OutReason, ProbeError};

    #[test]
    fn whose_fault_a_failure_is_behind_a_tunnel_is_as_the_table_says() {
        let of_target = ["target_refused", "target_unreachable", "refused"];
        for &error in DialError::ALL {
            assert_eq!(ProbeError::Dial(error).is_of_target(), of_target.contains(&error.label()), "{error}");
        }
        for &error in CheckError::ALL {
            assert_eq!(ProbeError::Check(error).is_of_target(), error != CheckError::AnswerTimedOut, "{error}");
        }
        for (error, reason) in [
            (DialError::TunnelDown, OutReason::Dead),
            (DialError::TargetRefused, OutReason::Dead),
            (DialError::TargetUnreachable, OutReason::Unreachable),
            (DialError::ProxyRefused, OutReason::Unreachable),
        ] {
            assert_eq!(ProbeError::Dial(error).out_reason(), reason, "{error}");
            assert!(!error.is_own());
        }
    }
}
