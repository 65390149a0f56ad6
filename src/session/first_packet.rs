//! The first packet of a PostgreSQL client, read before a server is dialled: whoever cancels wants no session, and whoever
//! is turned away is told so in a language that it understands.

use std::time::Duration;

use tokio::time::timeout;

use crate::model::RejectReason;
use crate::relay::FirstChunk;
use crate::sys::Stream;
use crate::wire::postgres::{FirstPacket, parse_first_packet};

use super::Worker;

/// How long a first packet may take. Clients send it at once; a lost segment or two are sent again within this time.
const FIRST_PACKET_WAIT: Duration = Duration::from_secs(5);

/// Reads the first packet of `client` into `first`, and what came with it.
///
/// # Errors
///
/// `FirstPacket` if there is none in time, or it is none of PostgreSQL's; `ClientLeft` if the client went without a byte, as
/// checks do that only see whether somebody listens; `ShuttingDown`.
pub(super) async fn first_packet(
    worker: &Worker,
    client: &Stream,
    first: &mut FirstChunk,
) -> Result<FirstPacket, RejectReason> {
    // Cancel-safety: what was read is kept in `first`, and the client is turned away.
    tokio::select! {
        biased;
        read = timeout(FIRST_PACKET_WAIT, read(worker, client, first)) => read.unwrap_or(Err(RejectReason::FirstPacket)),
        () = worker.until_cut() => Err(RejectReason::ShuttingDown),
    }
}

async fn read(worker: &Worker, client: &Stream, first: &mut FirstChunk) -> Result<FirstPacket, RejectReason> {
    loop {
        match parse_first_packet(first.bytes()) {
            Ok(Some((packet, _))) => return Ok(packet),
            Ok(None) => {}
            Err(_) => return Err(RejectReason::FirstPacket),
        }
        let left = if first.is_empty() { RejectReason::ClientLeft } else { RejectReason::FirstPacket };
        match first.receive(client, &worker.loans).await {
            Ok(0) | Err(_) => return Err(left),
            Ok(_) => {}
        }
    }
}
