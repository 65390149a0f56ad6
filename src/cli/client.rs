//! One HTTP request to the admin server, over TCP or a Unix socket.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use crate::model::Address;
use crate::sys::{Stream, connect};

use super::exit::CliError;

/// The longest that one request may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes: some 20,000 backends.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// Where the daemon is.
#[derive(Debug)]
pub(super) struct Client {
    address: Address,
    shown: String,
}

/// What it answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// An address to bind as one to dial: every interface is reached by loopback.
pub(super) fn dialable(bound: &Address) -> String {
    match bound {
        Address::Unix(_) => bound.to_string(),
        Address::Ip(addr) if addr.ip().is_unspecified() => {
            let host = if addr.is_ipv4() { "127.0.0.1" } else { "[::1]" };
            format!("http://{host}:{}", addr.port())
        }
        Address::Ip(_) | Address::Name { .. } => format!("http://{bound}"),
    }
}

impl Client {
    /// For the daemon at `address`: `http://HOST:PORT` or `unix:PATH`.
    pub(super) fn new(address: &str) -> Result<Self, CliError> {
        let bad = |cause: String| CliError::Address { address: address.to_owned(), cause };
        let host = match address.strip_prefix("http://") {
            Some(rest) => rest.trim_end_matches('/'),
            None if address.starts_with("unix:") => address,
            None => return Err(bad("neither http:// nor unix:".to_owned())),
        };
        let parsed = host.parse::<Address>().map_err(|error| bad(error.to_string()))?;
        Ok(Self { address: parsed, shown: address.to_owned() })
    }

    pub(super) fn address(&self) -> &str {
        &self.shown
    }

    /// What `GET path` answers, if that is good news.
    pub(super) fn get_ok(&self, path: &str) -> Result<Value, CliError> {
        good(self.get(path)?)
    }

    /// What `POST path` with `body` answers, if that is good news.
    pub(super) fn post_ok(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        good(self.request("POST", path, body.to_string())?)
    }

    /// What `GET path` answers.
    pub(super) fn get(&self, path: &str) -> Result<Answer, CliError> {
        self.request("GET", path, String::new())
    }

    fn request(&self, method: &str, path: &str, body: String) -> Result<Answer, CliError> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.address.host());
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|error| CliError::Internal(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CliError::Internal(error.to_string()))?;
        let unreachable = |cause: String| CliError::Unreachable { address: self.shown.clone(), cause };
        runtime
            .block_on(async { timeout(LIMIT, self.exchange(request)).await })
            .map_err(|_| unreachable(format!("no answer within {LIMIT:?}")))?
            .map_err(|error| match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
                Some(std::io::ErrorKind::PermissionDenied) => {
                    CliError::Forbidden { address: self.shown.clone(), cause: error.to_string() }
                }
                Some(_) | None => unreachable(error.to_string()),
            })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        match connect(&self.address, LIMIT).await? {
            Stream::Tcp(stream) => ask(request, TokioIo::new(stream)).await,
            Stream::Unix(stream) => ask(request, TokioIo::new(stream)).await,
        }
    }
}

/// The answer's body if it is good news, else what the daemon has against it.
fn good(answer: Answer) -> Result<Value, CliError> {
    if answer.status == 200 {
        return Ok(answer.body);
    }
    let text = |key: &str| answer.body.get(key).and_then(Value::as_str).map(str::to_owned);
    let title = text("detail").or_else(|| text("title")).unwrap_or_else(|| "it gives no reason".to_owned());
    let code = text("code").unwrap_or_else(|| "unknown".to_owned());
    Err(CliError::Refused { status: answer.status, code, title })
}

async fn ask<I>(request: Request<Full<Bytes>>, io: I) -> anyhow::Result<Answer>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(io).await?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Ok::<_, anyhow::Error>(Answer { status, body: serde_json::from_slice(&body)? })
    };
    tokio::pin!(connection);
    // Cancel-safety: the answer is wanted; the connection only drives it and may end before it is read.
    tokio::select! {
        biased;
        answer = answered => answer,
        Err(error) = &mut connection => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Client, dialable};

    #[test]
    fn an_admin_address_is_a_url_or_a_socket_path() {
        assert!(Client::new("http://127.0.0.1:7072").is_ok());
        assert!(Client::new("http://localhost:7072/").is_ok());
        assert!(Client::new("unix:/run/changeover/admin.sock").is_ok());
        for bad in ["127.0.0.1:7072", "https://127.0.0.1:7072", "http://127.0.0.1", "unix:relative"] {
            assert!(Client::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_interface_is_reached_by_loopback() {
        assert_eq!(dialable(&"0.0.0.0:1".parse().unwrap()), "http://127.0.0.1:1");
        assert_eq!(dialable(&"[::]:1".parse().unwrap()), "http://[::1]:1");
        assert_eq!(dialable(&"10.0.0.1:1".parse().unwrap()), "http://10.0.0.1:1");
        assert_eq!(dialable(&"unix:/x".parse().unwrap()), "unix:/x");
    }
}
