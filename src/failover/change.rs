//! What the core has to say to people.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    Actor, AdminState, Attach, BackendName, FailoverStatus, OutReason, PoolName, RunId, Timeline, TunnelCause,
    TunnelState,
};

/// Something that changed in a pool, or in the daemon, with the evidence for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Where; nothing if it concerns the daemon as a whole.
    pub pool: Option<PoolName>,
    /// Who had it done.
    pub actor: Actor,
    /// What.
    pub change: Change,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A backend is fit to serve.
    BackendHealthy {
        /// The backend.
        backend: BackendName,
        /// How long it was not; nothing if this is its first verdict.
        downtime: Option<Duration>,
    },
    /// A backend is not fit to serve, or for a worse reason than before.
    BackendUnhealthy {
        /// The backend.
        backend: BackendName,
        /// Why.
        reason: OutReason,
        /// The evidence in words.
        detail: String,
        /// From the first piece of evidence to this verdict.
        detect: Duration,
    },
    /// An operator changed a backend's admin state.
    BackendAdminState {
        /// The backend.
        backend: BackendName,
        /// What it was.
        from: AdminState,
        /// What it is.
        to: AdminState,
    },
    /// A backend was added.
    BackendRegistered {
        /// The backend.
        backend: BackendName,
    },
    /// A backend was removed.
    BackendRemoved {
        /// The backend.
        backend: BackendName,
    },
    /// New sessions are to be served from another tier, because the one that served cannot, or an operator said so.
    PoolFailover {
        /// Its number within the pool: its events carry the same.
        number: u64,
        /// How far it has come.
        status: FailoverStatus,
        /// Those that served.
        from: Vec<BackendName>,
        /// Those that serve, or are to serve; empty while that is not known.
        to: Vec<BackendName>,
        /// Why.
        reason: OutReason,
        /// The operator's words if one ordered it; else why it came to nothing, if there is more to say.
        note: Option<String>,
        /// What was seen, or who was taken out, in words: why what served is lost. None if an operator ordered the failover.
        evidence: Option<String>,
        /// From the first piece of evidence to the verdict on what served.
        detect: Duration,
        /// From the first piece of evidence to this status.
        duration: Duration,
    },
    /// A better tier serves new sessions again.
    PoolFailback {
        /// Those that served.
        from: Vec<BackendName>,
        /// Those that serve.
        to: Vec<BackendName>,
    },
    /// The preferred tier serves, but not every backend is fit.
    PoolDegraded,
    /// Nothing serves.
    PoolDown {
        /// Why the last one went.
        reason: OutReason,
        /// What that means for all of them, in words, if it does.
        note: Option<String>,
    },
    /// Something serves again.
    PoolRecovered {
        /// How long nothing did.
        downtime: Duration,
    },
    /// New clients wait, by an operator's order.
    PoolPaused {
        /// For how long at most.
        timeout: Option<Duration>,
    },
    /// They go on.
    PoolResumed {
        /// How long they waited at most.
        paused: Duration,
        /// Whether the time was up, rather than an operator's order.
        timed_out: bool,
    },
    /// The pool is bound to nothing any more.
    PoolUnpinned {
        /// What it was bound to.
        backend: BackendName,
        /// Whether that is no part of the plan any more, rather than that an operator released the pool.
        removed: bool,
    },
    /// A backend answers slower than `max_latency`.
    LatencyHigh {
        /// The backend.
        backend: BackendName,
        /// How long it takes, smoothed.
        latency: Duration,
        /// The most that it may take.
        limit: Duration,
    },
    /// Another server is the primary by proof of its lineage.
    PrimaryChanged {
        /// The one before; nothing if none was known.
        from: Option<BackendName>,
        /// The one now.
        to: BackendName,
        /// Its line of history.
        timeline: Option<Timeline>,
        /// How many bytes of the log that the one before was seen to have written it has not; none if that cannot be told.
        lost: Option<u64>,
    },
    /// A server that takes writes says that it is the primary, and is not: whoever writes to it past us writes what is lost.
    PrimaryRefused {
        /// The server.
        backend: BackendName,
        /// What it claims, in words.
        detail: String,
    },
    /// Several servers say that they are the primary, or one does and may have been overtaken, and nothing proves what is true: nobody
    /// gets writes, but who served already when a standby alone speaks against it.
    SplitBrain {
        /// Those that say so.
        claimants: Vec<BackendName>,
        /// What each claims, in words.
        detail: String,
    },
    /// A standby is too far behind for new sessions, or is not any more.
    BackendLagging {
        /// The standby.
        backend: BackendName,
        /// Whether it is.
        lagging: bool,
        /// How far, in bytes and in time; none if that is not known any more.
        behind: Option<(u64, Duration)>,
    },
    /// A tunnel fares otherwise than before.
    Tunnel {
        /// The backend that it leads to.
        backend: BackendName,
        /// How it fares.
        state: TunnelState,
        /// Why, in a word.
        reason: TunnelCause,
        /// The same in many: the last that its program said, or what failed.
        detail: Option<String>,
        /// The provider's name.
        provider: Arc<str>,
        /// What it gives.
        attach: Attach,
        /// The present run, or the last; zero before the first.
        run: RunId,
        /// The process number of its program, if that runs and is known.
        pid: Option<u32>,
        /// How long until it is tried again, if it waits for that.
        next_retry: Option<Duration>,
    },
    /// The control loop did not run for a while; what was found out meanwhile counts for nothing.
    WasStalled {
        /// For how long.
        lasted: Duration,
        /// Questions whose answers are void.
        probes: usize,
    },
}

impl Change {
    /// The event kind under which logs, the API and webhooks know this change.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::BackendHealthy { .. } => "backend.healthy",
            Self::BackendUnhealthy { .. } => "backend.unhealthy",
            Self::BackendAdminState { .. } => "backend.admin_state",
            Self::BackendRegistered { .. } => "backend.registered",
            Self::BackendRemoved { .. } => "backend.removed",
            Self::PoolFailover { .. } => "pool.failover",
            Self::PoolFailback { .. } => "pool.failback",
            Self::PoolDegraded => "pool.degraded",
            Self::PoolDown { .. } => "pool.down",
            Self::PoolRecovered { .. } => "pool.recovered",
            Self::PoolPaused { .. } => "pool.paused",
            Self::PoolResumed { .. } => "pool.resumed",
            Self::PoolUnpinned { .. } => "pool.unpinned",
            Self::LatencyHigh { .. } => "latency.high",
            Self::PrimaryChanged { .. } => "pool.primary_changed",
            Self::PrimaryRefused { .. } => "backend.primary_refused",
            Self::SplitBrain { .. } => "pool.split_brain",
            Self::BackendLagging { .. } => "backend.lagging",
            Self::Tunnel { state: TunnelState::Disconnected, .. } => "tunnel.disconnected",
            Self::Tunnel { state: TunnelState::Connecting, .. } => "tunnel.connecting",
            Self::Tunnel { state: TunnelState::Connected, .. } => "tunnel.connected",
            Self::Tunnel { state: TunnelState::Reconnecting, .. } => "tunnel.reconnecting",
            Self::Tunnel { state: TunnelState::Failed, .. } => "tunnel.failed",
            Self::WasStalled { .. } => "daemon.stalled",
        }
    }
}

/// At most this many names are written out in one line; the rest is counted.
const NAMES_SHOWN: usize = 5;

/// Names in a sentence.
pub(super) fn names(list: &[BackendName]) -> String {
    let shown: Vec<&str> = list.iter().take(NAMES_SHOWN).map(BackendName::as_str).collect();
    match list.len().saturating_sub(NAMES_SHOWN) {
        0 if shown.is_empty() => "nothing".to_owned(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BackendHealthy { backend, downtime: Some(time) } => {
                write!(f, "backend {backend} is healthy after {time:.1?}")
            }
            Self::BackendHealthy { backend, downtime: None } => write!(f, "backend {backend} is healthy"),
            Self::BackendUnhealthy { backend, reason, detail, detect } => {
                write!(f, "backend {backend} is unhealthy ({reason}): {detail}")?;
                if detect.is_zero() { Ok(()) } else { write!(f, "; confirmed in {detect:.1?}") }
            }
            Self::BackendAdminState { backend, from, to } => write!(f, "backend {backend} goes from {from} to {to}"),
            Self::BackendRegistered { backend } => write!(f, "backend {backend} was added"),
            Self::BackendRemoved { backend } => write!(f, "backend {backend} was removed"),
            Self::PoolFailover { status, from, to, reason, note, .. } => {
                write!(f, "failover from {}", names(from))?;
                if !to.is_empty() {
                    write!(f, " to {}", names(to))?;
                }
                write!(f, " ({reason}): {status}")?;
                note.as_ref().map_or(Ok(()), |note| write!(f, "; {note}"))
            }
            Self::PoolFailback { from, to } => write!(f, "failback from {} to {}", names(from), names(to)),
            Self::PoolDegraded => write!(f, "degraded: not every backend is fit"),
            Self::PoolDown { reason, note } => {
                write!(f, "down: no backend is fit ({reason})")?;
                note.as_ref().map_or(Ok(()), |note| write!(f, "; {note}"))
            }
            Self::PoolRecovered { downtime } => write!(f, "serving again after {downtime:.1?}"),
            Self::PoolPaused { timeout: Some(time) } => write!(f, "paused for {time:.1?} at most: new clients wait"),
            Self::PoolPaused { timeout: None } => write!(f, "paused: new clients wait"),
            Self::PoolResumed { paused, timed_out: false } => write!(f, "resumed after {paused:.1?}"),
            Self::PoolResumed { paused, timed_out: true } => write!(f, "resumed after {paused:.1?}: the time was up"),
            Self::PoolUnpinned { backend, removed: false } => write!(f, "released: it was pinned to {backend}"),
            Self::PoolUnpinned { backend, removed: true } => {
                write!(f, "released: it was pinned to {backend}, which was removed")
            }
            Self::PrimaryChanged { from, to, timeline, lost } => {
                write!(f, "{to} is the primary")?;
                timeline.map_or(Ok(()), |timeline| write!(f, " on timeline {timeline}"))?;
                from.as_ref().map_or(Ok(()), |from| write!(f, ", {from} was"))?;
                let lost = lost.filter(|lost| *lost > 0);
                lost.map_or(Ok(()), |lost| write!(f, "; it lacks {lost} bytes that were written before"))
            }
            Self::PrimaryRefused { backend, detail } => {
                write!(f, "{backend} takes writes as if it were the primary, and gets no clients: {detail}")
            }
            Self::SplitBrain { claimants, detail } => {
                write!(f, "{} cannot prove to be the primary: {detail}", names(claimants))
            }
            Self::BackendLagging { backend, lagging: true, behind: Some((bytes, time)) } => {
                write!(f, "backend {backend} is behind by {bytes} bytes and {time:.1?}, and gets no new sessions")
            }
            Self::BackendLagging { backend, lagging: true, behind: None } => {
                write!(f, "backend {backend} does not say any more how far it is behind, and gets no new sessions")
            }
            Self::BackendLagging { backend, lagging: false, behind } => {
                let (bytes, time) = behind.unwrap_or_default();
                write!(f, "backend {backend} has caught up: it is behind by {bytes} bytes")?;
                if time.is_zero() { Ok(()) } else { write!(f, " and {time:.1?}") }
            }
            Self::LatencyHigh { backend, latency, limit } => {
                write!(f, "backend {backend} answers in {latency:.1?}, and may take {limit:.1?}")
            }
            Self::Tunnel { .. } => self.tunnel(f),
            Self::WasStalled { lasted, probes } => {
                write!(f, "the daemon itself did not run for {lasted:.1?}; the answers of {probes} probes are void")
            }
        }
    }
}

impl Change {
    /// How a tunnel fares, in words.
    fn tunnel(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Tunnel { backend, state, reason, detail, provider, next_retry, .. } = self else { return Ok(()) };
        let has = if *state == TunnelState::Failed { "has" } else { "is" };
        write!(f, "tunnel of {backend} ({provider}) {has} {state}")?;
        if let TunnelState::Connecting | TunnelState::Connected = state {
            return Ok(());
        }
        write!(f, " ({reason})")?;
        detail.as_ref().map_or(Ok(()), |detail| write!(f, ": {}", detail.trim_end_matches('.')))?;
        match next_retry {
            Some(wait) if wait.is_zero() => f.write_str("; next try at once"),
            Some(wait) => write!(f, "; next try in {wait:.1?}"),
            None => Ok(()),
        }
    }
}
