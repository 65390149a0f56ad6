//! What the host gives us: cores and file descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files this process may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// The limit now in force; `usize::MAX` is none.
    pub limit: usize,
    /// The one that this process was started with; none is none. Programs that it starts get that one: some of them close,
    /// or keep a table of, as many as they may have.
    pub started_with: Option<u64>,
}

/// Raises the limit of open files to the most that is allowed, and says what it is.
#[must_use]
pub fn raise_descriptor_limit() -> Descriptors {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    Descriptors {
        limit: limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX),
        started_with: current,
    }
}

/// How many cores this process may use; one if that cannot be found out.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The user as whom this process acts.
#[must_use]
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Has the allocator return to the host what it keeps for later, as far as it can. With glibc only: others
/// do it by themselves.
pub fn release_memory() {
    // SAFETY: malloc_trim(3) takes no pointer and may be called by any thread at any time.
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no safe wrapper of malloc_trim exists")]
    let _released = unsafe { libc::malloc_trim(0) };
}
