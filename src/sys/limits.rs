//! What the host gives us: cores and file descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files this process may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// The limit now in force; `usize::MAX` is none.
    pub limit: usize,
}

/// Raises the limit of open files to the most that is allowed, and says what it is.
#[must_use]
pub fn raise_descriptor_limit() -> Descriptors {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    Descriptors { limit: limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX) }
}

/// How many cores this process may use; one if that cannot be found out.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
