//! One HTTP/1.1 request; only the status of the answer counts.

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;

use crate::model::{Address, CheckError, HttpCheck};
use crate::sys::Stream;

use super::Failure;

const AGENT: &str = concat!("changeover/", env!("CARGO_PKG_VERSION"));

/// Sends `check`'s request to the server behind `stream`, which listens at `address`.
pub(super) async fn ask(address: &Address, check: &HttpCheck, stream: Stream) -> Result<(), Failure> {
    let request = request(address, check)?;
    exchange(TokioIo::new(stream), check, request).await
}

fn request(address: &Address, check: &HttpCheck) -> Result<Request<Empty<Bytes>>, Failure> {
    let host = match address {
        Address::Unix(_) => "localhost".to_owned(),
        Address::Ip(_) | Address::Name { .. } => address.to_string(),
    };
    let method = Method::from_bytes(check.method.as_bytes()).map_err(|error| unsendable(&error))?;
    let mut request = Request::builder()
        .method(method)
        .uri(&check.path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close");
    if let Some(secret) = &check.authorization {
        let mut value = HeaderValue::from_str(secret.expose()).map_err(|error| unsendable(&error))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Empty::new()).map_err(|error| unsendable(&error))
}

/// The configuration is checked, so this is a request that hyper knows better about than we do.
fn unsendable(error: &dyn std::error::Error) -> Failure {
    Failure::check(CheckError::Malformed, format!("the request cannot be sent: {error}"))
}

async fn exchange(io: TokioIo<Stream>, check: &HttpCheck, request: Request<Empty<Bytes>>) -> Result<(), Failure> {
    let what = format!("{} {}", check.method, HttpCheck::shown_path(&check.path));
    let closed = |error: hyper::Error| {
        let class = if error.is_parse() { CheckError::Malformed } else { CheckError::ClosedEarly };
        Failure::check(class, format!("{what}: {error}"))
    };
    let (mut sender, connection) = http1::handshake(io).await.map_err(closed)?;
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    let mut connection = Box::pin(connection);
    // Cancel-safety: the connection does the reading and writing, and neither is dropped half done but
    // with the whole probe.
    let ended = tokio::select! {
        biased;
        response = &mut answer => Ok(response),
        ended = &mut connection => Err(ended),
    };
    let response = match ended {
        Ok(response) => response.map_err(closed)?,
        Err(ended) => {
            // An answer that came before the end counts, whatever the end was like.
            drop(connection);
            answer.await.map_err(|error| closed(ended.err().unwrap_or(error)))?
        }
    };
    let status = response.status().as_u16();
    if check.expect.iter().any(|range| range.contains(status)) {
        return Ok(());
    }
    Err(Failure::check(CheckError::UnexpectedStatus, format!("{what}: answered {status}")))
}
