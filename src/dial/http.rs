//! One HTTP/1.1 request over a connection of its own, and what is made of the answer.

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use crate::sys::Stream;

/// Sends `request` over `stream`, and gives what `take` makes of the answer.
///
/// # Errors
///
/// Why there is no answer. That its body ends early is for `take` to see.
pub async fn ask_http<T>(
    stream: Stream,
    request: Request<Empty<Bytes>>,
    take: impl AsyncFnOnce(Response<Incoming>) -> T,
) -> Result<T, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async { Ok(take(sender.send_request(request).await?).await) };
    tokio::pin!(answer);
    let mut connection = Box::pin(connection);
    // Cancel-safety: the connection does the reading and writing, and neither is dropped half done but with the whole question.
    tokio::select! {
        biased;
        taken = &mut answer => taken,
        ended = &mut connection => {
            // An answer that came before the end counts, whatever the end was like.
            drop(connection);
            answer.await.map_err(|error| ended.err().unwrap_or(error))
        }
    }
}
