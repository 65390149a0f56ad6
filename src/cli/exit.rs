//! Exit codes, and the errors that lead to them.

use std::process::ExitCode;

/// How the command ended, as scripts see it (after sysexits(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// The daemon said no; or a client failed during the demo, a replay differs from its recording, or `doctor` found what fails.
    No,
    /// The command was given wrongly.
    Usage,
    /// The daemon is not reachable, an address cannot be bound, or another process has the state.
    Unavailable,
    /// A fault of ours.
    Internal,
    /// Not permitted.
    Permission,
    /// The configuration is bad, or a recording, or what is in its state directory.
    Config,
}

impl Exit {
    /// All of them.
    pub(super) const ALL: [Self; 7] =
        [Self::Done, Self::No, Self::Usage, Self::Unavailable, Self::Internal, Self::Permission, Self::Config];

    /// Its number.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::No => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Permission => 77,
            Self::Config => 78,
        }
    }

    /// What it means, in a line.
    pub(super) const fn said(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::No => "the daemon said no, a replay differs, or doctor found what fails",
            Self::Usage => "the command was given wrongly",
            Self::Unavailable => "the daemon is not reachable, an address cannot be bound, or the state is in use",
            Self::Internal => "a fault of changeover's own",
            Self::Permission => "not permitted",
            Self::Config => "bad configuration or recording, or a state that this version cannot open",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The address makes no sense.
    #[error("`{address}` is no admin address: {cause}; write http://HOST:PORT, https://HOST:PORT or unix:PATH")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Nobody answers there.
    #[error("the daemon does not answer at {address}: {cause}; is it running, and is this its admin.bind?{origin}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why not.
        cause: String,
        /// How the address came about, after a semicolon; empty if somebody named it.
        origin: String,
    },
    /// We may not connect there.
    #[error(
        "no permission to reach the daemon at {address}: {cause}; be root or the daemon's user, or ask at a TCP address with a token"
    )]
    Forbidden {
        /// Where.
        address: String,
        /// Why not.
        cause: String,
    },
    /// It answered with an error.
    #[error("the daemon said no: {title} ({code}){advice}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The stable code.
        code: String,
        /// In words.
        title: String,
        /// What to do about it, to be put after the words; empty where they say it.
        advice: String,
    },
    /// A recording has nothing of a name.
    #[error("{0}")]
    NoSuchName(String),
    /// Whoever was asked whether an order is meant did not say so.
    #[error("left as it is: nothing was ordered")]
    Declined,
    /// There is no terminal to show it on.
    #[error("top wants a terminal; `changeover status` and `changeover backends --json` want none")]
    Terminal,
    /// The token is not there, or is none.
    #[error("{0}")]
    Token(String),
    /// A file that we may not read.
    #[error("{0}; let your user read it")]
    Unreadable(String),
    /// A file that we may not write.
    #[error("{0}; name another directory with --out, or let your user write there")]
    Unwritable(String),
    /// The certificates to trust cannot be had.
    #[error("{0}; name a file of certificates in PEM with --ca-file")]
    Trust(String),
    /// Something does not work as it should; what has been printed.
    #[error("{0}")]
    Unfit(String),
    /// A turn of a recording is decided otherwise now.
    #[error("{0}")]
    Differs(String),
    /// The configuration has errors, or a file is no recording.
    #[error("{0}")]
    Config(String),
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

impl CliError {
    /// Whether it may be otherwise in a moment, without anybody doing anything here.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Refused { status: 429 | 503, .. })
    }

    /// The exit code for it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Address { .. } | Self::NoSuchName(_) | Self::Terminal | Self::Token(_) | Self::Trust(_) => {
                Exit::Usage
            }
            Self::Unreachable { .. } => Exit::Unavailable,
            Self::Forbidden { .. }
            | Self::Unreadable(_)
            | Self::Unwritable(_)
            | Self::Refused { status: 401 | 403, .. } => Exit::Permission,
            Self::Refused { .. } | Self::Declined | Self::Differs(_) | Self::Unfit(_) => Exit::No,
            Self::Config(_) => Exit::Config,
            Self::Internal(_) => Exit::Internal,
        }
    }
}
