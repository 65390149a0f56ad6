//! Exit codes, and the errors that lead to them.

use std::process::ExitCode;

/// How the command ended, as scripts see it (after sysexits(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// The daemon said no; or a client failed during the demo, or a replay differs from its recording.
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

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::No => 1,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::Internal => 70,
            Exit::Permission => 77,
            Exit::Config => 78,
        })
    }
}

/// Why a command could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The address makes no sense.
    #[error("`{address}` is no admin address: {cause}; write http://HOST:PORT or unix:PATH")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Nobody answers there.
    #[error("the daemon does not answer at {address}: {cause}; is it running, and is this its admin.bind?")]
    Unreachable {
        /// Where.
        address: String,
        /// Why not.
        cause: String,
    },
    /// We may not connect there.
    #[error("no permission to reach the daemon at {address}: {cause}")]
    Forbidden {
        /// Where.
        address: String,
        /// Why not.
        cause: String,
    },
    /// It answered with an error.
    #[error("the daemon said no: {title} ({code})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The stable code.
        code: String,
        /// In words.
        title: String,
    },
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
    /// The exit code for it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Address { .. } => Exit::Usage,
            Self::Unreachable { .. } => Exit::Unavailable,
            Self::Forbidden { .. } | Self::Refused { status: 401 | 403, .. } => Exit::Permission,
            Self::Refused { .. } | Self::Differs(_) => Exit::No,
            Self::Config(_) => Exit::Config,
            Self::Internal(_) => Exit::Internal,
        }
    }
}
