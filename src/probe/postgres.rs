//! One byte of a PostgreSQL server: it takes new connections, and starts a process for each. Nobody logs in.
//!
//! The question is `GSSENCRequest` and not `SSLRequest`: measured on PostgreSQL 15 with `ssl = on`, each `SSLRequest` that is not
//! followed by a handshake is a line in the server's log ("could not accept SSL connection: EOF detected"), and a
//! `GSSENCRequest` is none, whether it is answered `G` or, by servers without GSSAPI, `N`. Both cost a process.

use bytes::BytesMut;
use tokio::io::AsyncReadExt;

use crate::model::CheckError;
use crate::sys::Stream;
use crate::wire::postgres::{GSSENC_REQUEST, MESSAGE_MAX, Said, Told, next_said};

use super::Failure;

/// The most of an answer that is read, in bytes.
const ANSWER_MAX: u64 = 1024;

/// Asks the server behind `stream`.
pub(super) async fn ask(stream: Stream) -> Result<(), Failure> {
    // One that hangs up may have said why before.
    drop(stream.send_all(&GSSENC_REQUEST).await);
    judge(stream).await
}

async fn judge(mut stream: Stream) -> Result<(), Failure> {
    let closed = |error: std::io::Error| {
        Failure::check(CheckError::ClosedEarly, format!("PostgreSQL, before the first byte of its answer: {error}"))
    };
    match stream.read_u8().await.map_err(closed)? {
        b'G' | b'N' | b'S' => Ok(()),
        b'E' => {
            let mut bytes = vec![b'E'];
            // What came before a reset is judged all the same.
            drop(stream.take(ANSWER_MAX).read_to_end(&mut bytes).await);
            match next_said(&mut BytesMut::from(&*bytes), MESSAGE_MAX) {
                Ok(Some(Said::Error(told))) => refused(&told),
                Ok(_) | Err(_) => Err(strange(b'E')),
            }
        }
        byte => Err(strange(byte)),
    }
}

/// An error is an answer too: of one that is full, or older than the question. Only one that says it takes nobody now does not.
fn refused(told: &Told) -> Result<(), Failure> {
    match told.code.as_str() {
        "57P03" | "57P01" | "57P02" => Err(Failure::check(CheckError::CannotConnectNow, told.to_string())),
        _ => Ok(()),
    }
}

fn strange(byte: u8) -> Failure {
    Failure::check(CheckError::Malformed, format!("it answered with the byte 0x{byte:02x}: this is no PostgreSQL"))
}
