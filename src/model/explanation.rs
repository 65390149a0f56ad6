//! Why traffic goes where it goes: the decision, the rules behind it, the evidence, and what would come next. Facts, to
//! be put into words and times of day by whoever shows them.

use super::{BackendName, BackendStatus, MonoTime, OrderedBy, PoolName, PoolState};

labelled! {
    /// A rule by which it is decided who serves, or what clients get when nobody does.
    Rule {
        /// The first tier ever.
        FirstSeat = "first_seat",
        /// What served was lost, or nothing served yet.
        EmptySeat = "empty_seat",
        /// A better tier was fit for long enough.
        StableTime = "stable_time",
        /// The stable time is longer than configured.
        Damping = "damping",
        /// An operator ordered who serves.
        Ordered = "ordered",
        /// An operator has bound the pool.
        Pinned = "pinned",
        /// An operator has new clients wait.
        Paused = "paused",
        /// New sessions do not leave the active tier.
        AutomaticOff = "automatic_off",
        /// The pool does not return by itself.
        ManualFailback = "manual_failback",
        /// A backend answers too slowly.
        Slow = "slow",
        /// Who is the primary is proven.
        Primary = "primary",
        /// No server says that it is the primary and may be believed.
        NoPrimary = "no_primary",
        /// Several say so, and nothing proves who is right.
        SplitBrain = "split_brain",
        /// The primary is in doubt.
        Suspect = "suspect",
        /// What a server says.
        Server = "server",
        /// How a tunnel fares.
        Tunnel = "tunnel",
        /// What tunnels lead to does not answer behind any of them.
        TargetDown = "target_down",
        /// Verdicts are still out.
        NoVerdict = "no_verdict",
        /// Clients wait while nothing serves.
        Hold = "hold",
        /// Clients are closed while nothing serves.
        Refuse = "refuse",
        /// Clients are sent to the preferred backend while nothing serves.
        UsePreferred = "use_preferred",
    }
}

impl Rule {
    /// What it says, in one sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::FirstSeat => {
                "The first tier to serve is the best one that is fit once every better one has a verdict."
            }
            Self::EmptySeat => "When nothing serves, the best tier that is fit serves at once.",
            Self::StableTime => "A better tier serves again after it has been fit for the stable time without a break.",
            Self::Damping => {
                "The stable time doubles each time that a return does not last, and halves after a quiet one."
            }
            Self::Ordered => "An operator ordered it.",
            Self::Pinned => "A pinned pool serves from what it is pinned to and from nothing else.",
            Self::Paused => "New clients of a paused pool wait; sessions that exist go on.",
            Self::AutomaticOff => "With automatic failover off, no new session leaves the active tier.",
            Self::ManualFailback => "With manual failback, a better tier serves again on an operator's order only.",
            Self::Slow => {
                "A slow backend is passed over while a fit one is faster by enough, and serves when nothing fit is left."
            }
            Self::Primary => {
                "The primary is the server that says so, and whose history comes from all that was ever routed to."
            }
            Self::NoPrimary => {
                "While servers live and none of them proves that it is the primary, clients that write wait."
            }
            Self::SplitBrain => {
                "Of several that say they are the primary, nobody gets clients that write until one proves it or a person decides."
            }
            Self::Suspect => "While the primary is in doubt, new clients that write wait and sessions go on.",
            Self::Server => "What a server is follows from what its session and its accept path said last.",
            Self::Tunnel => "A backend behind a tunnel is fit while its tunnel is open and its checks come through.",
            Self::TargetDown => {
                "While a target answers behind none of its tunnels, all its backends are unfit, and no tunnel is set up anew but one at a time."
            }
            Self::NoVerdict => "While verdicts are out, clients wait for them.",
            Self::Hold => "While nothing serves, new clients wait.",
            Self::Refuse => "While nothing serves, new clients are closed at once.",
            Self::UsePreferred => "While nothing serves, new clients are sent to the preferred backend, fit or not.",
        }
    }
}

/// A rule as it applies to one pool now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The rule.
    pub rule: Rule,
    /// What it comes to here, in words.
    pub detail: String,
    /// When it applied; or when it will, if that is to come.
    pub at: Option<MonoTime>,
    /// Who ordered it, and when, which may be before this process began; the core does not know.
    pub by: Option<OrderedBy>,
}

/// What would happen if something did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prospect {
    /// Those that would serve; empty if nobody fit would.
    pub to: Vec<BackendName>,
    /// Why, and what clients would get if nobody would serve.
    pub rules: Vec<Applied>,
}

/// Why traffic of a pool goes where it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The pool.
    pub pool: PoolName,
    /// When this was so.
    pub at: MonoTime,
    /// How it fares.
    pub state: PoolState,
    /// Those that serve; empty if nothing does.
    pub serving: Vec<BackendName>,
    /// Since when they do.
    pub since: Option<MonoTime>,
    /// By which rules: first the one that decided, then those that keep it so or will change it.
    pub rules: Vec<Applied>,
    /// On which evidence: the backends by priority, then name.
    pub evidence: Vec<BackendStatus>,
    /// What would happen if all that serve failed now; nothing if nothing serves.
    pub if_active_failed: Option<Prospect>,
}

/// Whether a pool should fail over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// Whether it should.
    pub should_failover: bool,
    /// Those that serve, or did last.
    pub from: Vec<BackendName>,
    /// Those that would serve instead; empty if nothing else is fit.
    pub to: Vec<BackendName>,
    /// Why, or what stands in the way.
    pub reason: String,
}
