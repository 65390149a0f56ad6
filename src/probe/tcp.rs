//! Whether a backend accepts a connection and, behind a tunnel, does not close it at once.

use tokio::time::{Instant, timeout_at};

use crate::model::{CheckError, MonoTime};
use crate::sys::{Clock, Stream};

use super::{Failure, TUNNEL_OPEN_FOR};

/// Who it is that lets in.
pub(super) const THE_TUNNEL: &str = "the tunnel";

/// Waits until something comes over `stream`, which goes through a tunnel, or it has been open for [`TUNNEL_OPEN_FOR`] or until
/// `deadline`, whatever is first. When that was proven which could be: as it was dialled if nothing has come.
pub(super) async fn stays_open(stream: &Stream, clock: Clock, deadline: Instant) -> Result<MonoTime, Failure> {
    let dialled = clock.now();
    let until = clock.instant(dialled + TUNNEL_OPEN_FOR).min(deadline);
    match timeout_at(until, stream.receive(&mut [0; 1])).await {
        Ok(Ok(0)) => Err(closed(THE_TUNNEL, "it ended")),
        Ok(Ok(_)) => Ok(clock.now()),
        Ok(Err(error)) => Err(closed(THE_TUNNEL, &error.to_string())),
        Err(_) => Ok(dialled),
    }
}

/// That `who` has let in, and no more.
pub(super) fn closed(who: &str, why: &str) -> Failure {
    Failure::check(CheckError::ClosedEarly, format!("{who} let the connection in and then closed it: {why}"))
}
