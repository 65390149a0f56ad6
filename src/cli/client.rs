//! One HTTP request to the admin server: over TCP, TLS or a Unix socket, with the token if there is one.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::request::Builder;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::model::{Address, Secret, meant, spoken};
use crate::sys::{Stream, connect};
use crate::watch::{server_name, verified};

use super::exit::CliError;

/// The longest that one request may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes: some 20,000 backends.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// Where the daemon is, and as whom it is asked.
#[derive(Debug, Clone)]
pub(super) struct Client {
    address: Address,
    shown: String,
    /// Whom to trust; none where TLS is not spoken.
    tls: Option<Arc<ClientConfig>>,
    token: Option<Secret>,
    limit: Duration,
    /// How the address came about, for whoever finds nobody there; empty if it was named.
    origin: String,
}

/// Bytes to the daemon and from it.
trait Line: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Line for T {}

/// What it answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// An address to bind as one to dial: every interface is reached by loopback, and over TCP by TLS if `is_tls`.
pub(super) fn dialable(bound: &Address, is_tls: bool) -> String {
    let scheme = if is_tls { "https" } else { "http" };
    match bound {
        Address::Unix(_) => bound.to_string(),
        Address::Ip(addr) if addr.ip().is_unspecified() => {
            let host = if addr.is_ipv4() { "127.0.0.1" } else { "[::1]" };
            format!("{scheme}://{host}:{}", addr.port())
        }
        Address::Ip(_) | Address::Name { .. } => format!("{scheme}://{bound}"),
    }
}

/// What TLS is spoken with, if those in `ca_file` are trusted, or the system's.
fn trusting(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, CliError> {
    if let Some((path, error)) = ca_file.and_then(|path| Some((path, File::open(path).err()?)))
        && error.kind() == ErrorKind::PermissionDenied
    {
        return Err(CliError::Unreadable(format!("the certificates in {} cannot be read: {error}", path.display())));
    }
    verified(ca_file).map_err(CliError::Trust)
}

impl Client {
    /// For the daemon at `address`: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`. At an `https` address its
    /// certificate must be signed by one in `ca_file`, or of the system if none is named.
    pub(super) fn new(address: &str, ca_file: Option<&Path>, token: Option<Secret>) -> Result<Self, CliError> {
        let bad = |cause: String| CliError::Address { address: address.to_owned(), cause };
        let (host, is_tls) = match (address.strip_prefix("http://"), address.strip_prefix("https://")) {
            (Some(rest), _) => (rest.trim_end_matches('/'), false),
            (None, Some(rest)) => (rest.trim_end_matches('/'), true),
            (None, None) if address.starts_with("unix:") => (address, false),
            (None, None) => return Err(bad("it begins with none of http://, https:// and unix:".to_owned())),
        };
        let parsed = host.parse::<Address>().map_err(|error| bad(error.to_string()))?;
        let tls = if is_tls { Some(trusting(ca_file)?) } else { None };
        Ok(Self { address: parsed, shown: address.to_owned(), tls, token, limit: LIMIT, origin: String::new() })
    }

    /// The same, of an address that nobody has named: `origin` says how it came about, and is told if nobody answers there.
    pub(super) fn guessed(self, origin: String) -> Self {
        Self { origin, ..self }
    }

    /// The same, with less patience: no request takes longer than `limit`.
    pub(super) fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Whether it presents a token where others can read it on its way.
    pub(super) fn shows_token(&self) -> bool {
        let is_near = match &self.address {
            Address::Ip(address) => address.ip().to_canonical().is_loopback(),
            Address::Name { host, .. } => &**host == "localhost",
            Address::Unix(_) => true,
        };
        self.token.is_some() && self.tls.is_none() && !is_near
    }

    pub(super) fn address(&self) -> &str {
        &self.shown
    }

    /// What `GET path` answers, if that is good news.
    pub(super) fn get_ok(&self, path: &str) -> Result<Value, CliError> {
        self.good(self.get(path)?)
    }

    /// What `POST path` with `body` answers, if that is good news.
    pub(super) fn post_ok(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        self.good(self.request("POST", path, body.to_string())?)
    }

    /// What `GET path` answers.
    pub(super) fn get(&self, path: &str) -> Result<Answer, CliError> {
        self.request("GET", path, String::new())
    }

    /// The head of a request, with the token.
    fn head(&self, method: &str, path: &str) -> Result<Builder, CliError> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.address.host());
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .map_err(|_| CliError::Token("the token has characters that cannot be sent".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        Ok(request)
    }

    fn request(&self, method: &str, path: &str, body: String) -> Result<Answer, CliError> {
        let mut request = self.head(method, path)?;
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|error| CliError::Internal(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CliError::Internal(error.to_string()))?;
        runtime.block_on(self.in_time(self.exchange(request)))
    }

    /// What `asked` answers, if it does so in time.
    async fn in_time<T>(&self, asked: impl Future<Output = anyhow::Result<T>>) -> Result<T, CliError> {
        let unreachable =
            |cause: String| CliError::Unreachable { address: self.shown.clone(), cause, origin: self.origin.clone() };
        timeout(self.limit, asked)
            .await
            .map_err(|_| unreachable(format!("no answer within {}", spoken(self.limit))))?
            .map_err(|error| match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
                Some(std::io::ErrorKind::PermissionDenied) => {
                    CliError::Forbidden { address: self.shown.clone(), cause: error.to_string() }
                }
                Some(_) | None => unreachable(format!("{error:#}")),
            })
    }

    /// What `GET path` answers, piece by piece, for as long as it lasts: a stream of events after the event `last`, if one
    /// is named. For those who have a runtime.
    pub(super) async fn open(&self, path: &str, last: Option<u64>) -> Result<Pieces, CliError> {
        let mut request = self.head("GET", path)?;
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Full::new(Bytes::new())).map_err(|error| CliError::Internal(error.to_string()))?;
        let opened = async { begin(request, TokioIo::new(self.line().await?)).await };
        match self.in_time(opened).await? {
            Opened::Stream(pieces) => Ok(pieces),
            Opened::Refused(answer) => self.good(answer).and_then(|_| Err(CliError::Internal("no stream".to_owned()))),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        ask(request, TokioIo::new(self.line().await?)).await
    }

    /// A connection to the daemon, encrypted or not.
    async fn line(&self) -> anyhow::Result<Box<dyn Line>> {
        let stream = connect(&self.address, self.limit).await?;
        Ok(match (stream, &self.tls) {
            (Stream::Tcp(stream), Some(config)) => {
                let name = server_name(&self.address).map_err(anyhow::Error::msg)?;
                let name = name.ok_or_else(|| anyhow::anyhow!("TLS is not spoken on Unix sockets"))?;
                let encrypted = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
                Box::new(encrypted.map_err(|error| match error.get_ref().and_then(|cause| cause.downcast_ref()) {
                    Some(rustls::Error::InvalidMessage(_)) => {
                        anyhow::anyhow!("it speaks no TLS; write http:// instead of https://")
                    }
                    _ => {
                        anyhow::anyhow!("TLS: {error}; name the certificates to trust with --ca-file, or write http://")
                    }
                })?)
            }
            (Stream::Tcp(stream), None) => Box::new(stream),
            (stream @ (Stream::Unix(_) | Stream::Program(_)), _) => Box::new(stream),
        })
    }

    /// The answer's body if it is good news, else what the daemon has against it, and what to do about that.
    fn good(&self, answer: Answer) -> Result<Value, CliError> {
        if answer.status == 200 {
            return Ok(answer.body);
        }
        let text = |key: &str| answer.body.get(key).and_then(Value::as_str).map(str::to_owned);
        let title = text("detail").or_else(|| text("title")).unwrap_or_else(|| "it gives no reason".to_owned());
        let code = text("code").unwrap_or_else(|| "unknown".to_owned());
        let advice = self.advice(answer.status, &code, &title);
        Err(CliError::Refused { status: answer.status, code, title, advice })
    }

    /// What to do about a refusal; empty where its own words say it.
    fn advice(&self, status: u16, code: &str, title: &str) -> String {
        match (status, code) {
            (401, _) if self.token.is_some() => {
                "; the token is not one of [admin.tokens], or has expired: ask for a new one".to_owned()
            }
            (401, _) => format!("; present a token with --token-file FILE or {}", super::token::VARIABLE),
            (429, _) => "; wait as long, or raise [admin] rate_limit".to_owned(),
            _ if matches!(code, "pool_not_found" | "backend_not_found") => {
                self.names().map(|known| or_where(title, &known)).unwrap_or_default()
            }
            _ => String::new(),
        }
    }

    /// The pools that there are, and the backends of each.
    pub(super) fn names(&self) -> Option<Vec<(String, Vec<String>)>> {
        self.names_of(|_| true)
    }

    /// The same, of the backends only those that are `meant`.
    pub(super) fn names_of(&self, meant: impl Fn(&Value) -> bool) -> Option<Vec<(String, Vec<String>)>> {
        let answer = self.get("/api/v1/pools").ok().filter(|answer| answer.status == 200)?;
        let name = |value: &Value| value["name"].as_str().map(str::to_owned);
        let backends = |list: &Vec<Value>| list.iter().filter(|one| meant(one)).filter_map(name).collect();
        let pools = answer.body["pools"].as_array()?.iter();
        let pools = pools.filter_map(|pool| Some((name(pool)?, pool["backends"].as_array().map(backends))));
        Some(pools.map(|(pool, backends)| (pool, backends.unwrap_or_default())).collect())
    }
}

/// An answer without an end of its own.
pub(super) struct Pieces {
    body: Incoming,
}

impl Pieces {
    /// The next piece; none at the end, and if the connection is lost.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Ok(piece) = self.body.frame().await?.ok()?.into_data() {
                return Some(piece);
            }
        }
    }
}

enum Opened {
    Stream(Pieces),
    Refused(Answer),
}

async fn begin<I>(request: Request<Full<Bytes>>, io: I) -> anyhow::Result<Opened>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(io).await?;
    // It ends with the body, or with the runtime.
    drop(tokio::spawn(connection));
    let response = sender.send_request(request).await?;
    let (status, body) = (response.status().as_u16(), response.into_body());
    if status == 200 {
        return Ok(Opened::Stream(Pieces { body }));
    }
    let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(Opened::Refused(Answer { status, body: serde_json::from_slice(&body.to_bytes())? }))
}

/// What a name that is in quotes in `title` was probably meant to be, or else where to look.
fn or_where(title: &str, known: &[(String, Vec<String>)]) -> String {
    let quoted = title.split('`').nth(1).unwrap_or_default();
    let of_pool = known.iter().find(|(pool, _)| title.starts_with(&format!("pool {pool} has no")));
    let (names, list): (Vec<&str>, &str) = match of_pool {
        Some((_, backends)) => (backends.iter().map(String::as_str).collect(), "backends"),
        None => (known.iter().map(|(pool, _)| pool.as_str()).collect(), "pools"),
    };
    let guess = meant(quoted, names.into_iter());
    if guess.is_empty() { format!("; `changeover {list}` lists them") } else { guess }
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
    tokio::pin!(connection, answered);
    // Cancel-safety: the answer is wanted; the connection only drives it and may end before it is read.
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        // What has come before the end may be all of it: a server that hangs up without taking leave has answered all the same.
        ended = &mut connection => answered.await.map_err(|error| ended.err().map_or(error, anyhow::Error::from)),
    }
}

#[cfg(test)]
mod tests {
    use crate::model::Secret;

    use super::{Client, dialable, or_where};

    #[test]
    fn an_admin_address_is_a_url_or_a_socket_path() {
        for good in ["http://127.0.0.1:7072", "http://localhost:7072/", "unix:/run/changeover/admin.sock"] {
            assert!(Client::new(good, None, None).is_ok(), "{good}");
        }
        for bad in ["127.0.0.1:7072", "ftp://127.0.0.1:7072", "http://127.0.0.1", "unix:relative"] {
            assert!(Client::new(bad, None, None).is_err(), "{bad}");
        }
        let told = Client::new("https://127.0.0.1:1", Some("/no/such/ca".as_ref()), None).unwrap_err().to_string();
        assert!(told.contains("/no/such/ca"), "{told}");
    }

    #[test]
    fn a_token_is_shown_to_the_network_by_plain_http_to_other_hosts_alone() {
        let shows = |address: &str| Client::new(address, None, Some(Secret::new("t"))).unwrap().shows_token();
        assert!(shows("http://10.0.0.1:7072") && shows("http://db.example:7072"));
        assert!(!shows("http://127.0.0.1:7072") && !shows("http://[::1]:1") && !shows("unix:/x"));
        let client = Client::new("http://10.0.0.1:7072", None, Some(Secret::new("hunter2"))).unwrap();
        assert!(!format!("{client:?}").contains("hunter2"));
    }

    #[test]
    fn a_name_that_is_not_known_is_guessed() {
        let known = [("orders".to_owned(), vec!["pg1".to_owned(), "pg2".to_owned()]), ("web".to_owned(), Vec::new())];
        assert_eq!(or_where("there is no pool `ordres`", &known), "; did you mean `orders`?");
        assert_eq!(or_where("there is no pool `invoices`", &known), "; `changeover pools` lists them");
        assert_eq!(or_where("pool orders has no backend `gp2`", &known), "; did you mean `pg2`?");
    }

    #[test]
    fn every_interface_is_reached_by_loopback() {
        assert_eq!(dialable(&"0.0.0.0:1".parse().unwrap(), false), "http://127.0.0.1:1");
        assert_eq!(dialable(&"[::]:1".parse().unwrap(), false), "http://[::1]:1");
        assert_eq!(dialable(&"10.0.0.1:1".parse().unwrap(), false), "http://10.0.0.1:1");
        assert_eq!(dialable(&"0.0.0.0:1".parse().unwrap(), true), "https://127.0.0.1:1");
        for is_tls in [false, true] {
            assert_eq!(dialable(&"unix:/x".parse().unwrap(), is_tls), "unix:/x");
        }
    }
}
