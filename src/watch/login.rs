//! From an address to a session: dial, TLS, password.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::dial::Ways;
use crate::model::{LoginError, PostgresPlan, TlsMode, WatchEnd, WatchError, WatchSpec};
use crate::sys::{MarkedStream, Stream, dial_error};
use crate::wire::own_proxy_header;
use crate::wire::postgres::{Demand, MESSAGE_MAX, SSL_REQUEST, Said, Told, scram_iterations};

use super::session::{Line, Over, Session};
use super::tls::{Trusts, server_name};

/// The most often that a password is hashed for a server. PostgreSQL's default is 4,096, and whoever answers in its place may say anything.
const ITERATIONS_MAX: u32 = 1_000_000;

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) error: WatchError,
    pub(super) detail: String,
    /// What the server said it by, if it said it.
    pub(super) code: Option<String>,
}

impl Failure {
    pub(super) fn login(error: LoginError, detail: impl Into<String>) -> Self {
        Self { error: WatchError::Login(error), detail: detail.into(), code: None }
    }

    pub(super) fn told(told: &Told) -> Self {
        let error = match told.code.as_str() {
            "57P03" => LoginError::CannotConnectNow,
            "53300" => LoginError::TooManyConnections,
            "42501" => LoginError::NotPermitted,
            // It was let in and thrown out before it was done: the server is on its way down, or has just lost a process.
            "57P01" | "57P02" => LoginError::ClosedEarly,
            code if code.starts_with("28") => LoginError::NotAuthorized,
            _ => LoginError::Other,
        };
        Self { error: WatchError::Login(error), detail: told.to_string(), code: Some(told.code.clone()) }
    }
}

impl From<Over> for Failure {
    fn from(over: Over) -> Self {
        let error = match over.end {
            WatchEnd::Malformed => LoginError::NotPostgres,
            WatchEnd::Silent => LoginError::TimedOut,
            WatchEnd::Terminated | WatchEnd::Crashed | WatchEnd::Closed => LoginError::ClosedEarly,
        };
        Self::login(error, over.detail)
    }
}

/// What a session is opened as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A replication connection to a database: takes SQL besides the commands of replication.
    Database,
    /// A physical replication connection: takes the commands of replication alone.
    Physical,
    /// Neither: takes SQL alone.
    Plain,
}

/// What logins are made with.
#[derive(Debug, Clone)]
pub(super) struct Means {
    /// By which servers are dialled.
    pub(super) ways: Ways,
    pub(super) trusts: Arc<Trusts>,
}

/// Connects as `spec` says, and logs in as `kind`. Whoever breaks it off finds in `connected` how far it has come.
pub(super) async fn log_in(
    spec: &WatchSpec,
    kind: Kind,
    means: &Means,
    connected: &Cell<bool>,
) -> Result<Session, Failure> {
    match attempt(spec, kind, spec.postgres.tls, means, connected).await {
        Err(Failure { error: WatchError::Login(LoginError::Tls), .. }) if spec.postgres.tls == TlsMode::Prefer => {
            attempt(spec, kind, TlsMode::Disable, means, connected).await
        }
        done => done,
    }
}

async fn attempt(
    spec: &WatchSpec,
    kind: Kind,
    mode: TlsMode,
    means: &Means,
    connected: &Cell<bool>,
) -> Result<Session, Failure> {
    connected.set(false);
    let address = &spec.address;
    let stream = means.ways.dial(address, spec.timeout, &spec.approach).await.map_err(|error| Failure {
        error: WatchError::Dial(dial_error(&error)),
        detail: format!("connecting to {address}: {error}"),
        code: None,
    })?;
    connected.set(true);
    let header = own_proxy_header(spec.approach.send_proxy_protocol);
    stream.send_all(&header).await.map_err(|error| Failure::login(LoginError::ClosedEarly, error.to_string()))?;
    let is_tunnelled = spec.approach.via.is_some();
    let (line, is_private) = match stream {
        // Nobody is in between; PostgreSQL speaks no TLS there.
        stream @ Stream::Unix(_) if !is_tunnelled => (Box::new(stream) as Box<dyn Line>, true),
        stream @ (Stream::Unix(_) | Stream::Program(_)) => {
            encrypt(stream, spec, mode, &means.trusts).await?.line(false)
        }
        Stream::Tcp(stream) => {
            // Of a tunnel only the near end is.
            let is_near = !is_tunnelled && stream.peer_addr().is_ok_and(|peer| is_loopback(peer.ip()));
            encrypt(MarkedStream::new(stream), spec, mode, &means.trusts).await?.line(is_near)
        }
    };
    let mut session = Session::new(line);
    session.send(&startup(&spec.postgres, kind)?).await?;
    Login { session: &mut session, plan: &spec.postgres, is_private }.run().await?;
    Ok(session)
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

enum Encrypted<S> {
    Yes(Box<dyn Line>),
    No(S),
}

impl<S: Line + 'static> Encrypted<S> {
    /// It, and whether nobody can listen in; in the clear nobody can if the server `is_near`.
    fn line(self, is_near: bool) -> (Box<dyn Line>, bool) {
        match self {
            Self::Yes(line) => (line, true),
            Self::No(stream) => (Box::new(stream), is_near),
        }
    }
}

/// Has the connection encrypted, if `mode` wants it and the server can.
async fn encrypt<S: Line + 'static>(
    mut stream: S,
    spec: &WatchSpec,
    mode: TlsMode,
    trusts: &Arc<Trusts>,
) -> Result<Encrypted<S>, Failure>
where
    TlsStream<S>: Line,
{
    if mode == TlsMode::Disable {
        return Ok(Encrypted::No(stream));
    }
    let tls = |detail: String| Failure::login(LoginError::Tls, detail);
    let closed = |error: std::io::Error| Failure::login(LoginError::ClosedEarly, format!("asking for TLS: {error}"));
    stream.write_all(&SSL_REQUEST).await.map_err(closed)?;
    // One byte and no more: what comes after it in the clear is nobody's to read.
    match stream.read_u8().await.map_err(closed)? {
        b'S' => {}
        b'N' if mode == TlsMode::Prefer => return Ok(Encrypted::No(stream)),
        b'N' => return Err(tls(format!("the server does not do TLS, and tls is {mode}"))),
        b'E' => {
            let mut inbox = vec![b'E'];
            stream.take(1024).read_to_end(&mut inbox).await.map_err(closed)?;
            let said = crate::wire::postgres::next_said(&mut BytesMut::from(&*inbox), MESSAGE_MAX);
            return Err(match said {
                Ok(Some(Said::Error(told))) => Failure::told(&told),
                Ok(_) | Err(_) => not_postgres(b'E'),
            });
        }
        byte => return Err(not_postgres(byte)),
    }
    let ca_file = spec.postgres.ca_file.clone();
    let config = Arc::clone(trusts).config(mode, ca_file).await.map_err(tls)?;
    let Some(name) = server_name(spec.approach.via.as_ref().map_or(&spec.address, |via| &via.target)).map_err(tls)?
    else {
        return Ok(Encrypted::No(stream));
    };
    let encrypted = TlsConnector::from(config).connect(name, stream).await;
    let encrypted = encrypted.map_err(|error| tls(format!("TLS with {}: {error}", spec.address)))?;
    Ok(Encrypted::Yes(Box::new(encrypted)))
}

fn not_postgres(byte: u8) -> Failure {
    Failure::login(
        LoginError::NotPostgres,
        format!("asked for TLS it answered with the byte 0x{byte:02x}: this is no PostgreSQL"),
    )
}

fn startup(plan: &PostgresPlan, kind: Kind) -> Result<BytesMut, Failure> {
    let mut parameters =
        vec![("user", plan.user.as_str()), ("application_name", "changeover"), ("client_encoding", "UTF8")];
    match kind {
        Kind::Database => parameters.extend([("database", plan.database.as_str()), ("replication", "database")]),
        Kind::Physical => parameters.push(("replication", "true")),
        Kind::Plain => parameters.push(("database", plan.database.as_str())),
    }
    let mut bytes = BytesMut::new();
    frontend::startup_message(parameters, &mut bytes)
        .map_err(|error| Failure::login(LoginError::Other, format!("the user's name or the database's: {error}")))?;
    Ok(bytes)
}

/// The talk from the startup message to the first `ReadyForQuery`.
struct Login<'a> {
    session: &'a mut Session,
    plan: &'a PostgresPlan,
    /// Whether nobody can listen in.
    is_private: bool,
}

impl Login<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        loop {
            match self.next().await? {
                Said::Demand(demand) => self.answer(demand).await?,
                Said::Ready => return Ok(()),
                Said::Row(_) => {
                    return Err(Failure::login(LoginError::NotPostgres, "it sends rows before it was asked"));
                }
                Said::Parameter { .. } | Said::Notice(_) | Said::Error(_) | Said::Other => {}
            }
        }
    }

    /// The next message that is no refusal.
    async fn next(&mut self) -> Result<Said, Failure> {
        let said = self.session.receive(MESSAGE_MAX).await?;
        if let Said::Error(told) = &said {
            return Err(Failure::told(told));
        }
        self.session.heed(&said)?;
        Ok(said)
    }

    fn password(&self) -> Result<&str, Failure> {
        let password = self.plan.password.as_ref();
        password.map(|secret| secret.expose()).ok_or_else(|| {
            let detail = format!("the server wants a password of user {}, and none is configured", self.plan.user);
            Failure::login(LoginError::NotAuthorized, detail)
        })
    }

    async fn answer(&mut self, demand: Demand) -> Result<(), Failure> {
        let mut bytes = BytesMut::new();
        match demand {
            Demand::Nothing => return Ok(()),
            Demand::Cleartext if !self.is_private => {
                let detail = "the server wants the password in the clear, and the connection is not encrypted: \
                              set tls, or have it use scram-sha-256";
                return Err(Failure::login(LoginError::NotAuthorized, detail));
            }
            Demand::Cleartext => {
                frontend::password_message(self.password()?.as_bytes(), &mut bytes).map_err(unsendable)?
            }
            Demand::Md5(salt) => {
                let hash = md5_hash(self.plan.user.as_bytes(), self.password()?.as_bytes(), salt);
                frontend::password_message(hash.as_bytes(), &mut bytes).map_err(unsendable)?;
            }
            Demand::Sasl(mechanisms) if mechanisms.iter().any(|name| name == SCRAM_SHA_256) => {
                return self.scram().await;
            }
            Demand::Sasl(mechanisms) => return Err(unsupported(&mechanisms.join(", "))),
            Demand::Unsupported(what) => return Err(unsupported(what)),
            Demand::SaslContinue(_) | Demand::SaslFinal(_) => {
                return Err(Failure::login(LoginError::NotPostgres, "it goes on with a login that was not begun"));
            }
        }
        Ok(self.session.send(&bytes).await?)
    }

    async fn scram(&mut self) -> Result<(), Failure> {
        let mut bytes = BytesMut::new();
        let mut scram = ScramSha256::new(self.password()?.as_bytes(), ChannelBinding::unsupported());
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut bytes).map_err(unsendable)?;
        self.session.send(&bytes).await?;
        let Said::Demand(Demand::SaslContinue(first)) = self.next().await? else { return Err(out_of_turn()) };
        if let Some(iterations) = scram_iterations(&first).filter(|iterations| *iterations > ITERATIONS_MAX) {
            let detail =
                format!("the server wants the password hashed {iterations} times; {ITERATIONS_MAX} is the most");
            return Err(Failure::login(LoginError::NotAuthorized, detail));
        }
        // Some milliseconds of hashing, which this thread has no time for.
        let hashed = spawn_blocking(move || scram.update(&first).map(|()| scram)).await;
        let hashed = hashed.map_err(|error| Failure::login(LoginError::Other, error.to_string()))?;
        let mut scram = hashed.map_err(|error| Failure::login(LoginError::NotAuthorized, format!("SCRAM: {error}")))?;
        bytes.clear();
        frontend::sasl_response(scram.message(), &mut bytes).map_err(unsendable)?;
        self.session.send(&bytes).await?;
        let Said::Demand(Demand::SaslFinal(last)) = self.next().await? else { return Err(out_of_turn()) };
        scram.finish(&last).map_err(|error| {
            // It let us in without knowing the password itself.
            Failure::login(LoginError::NotAuthorized, format!("the server does not know the password either: {error}"))
        })
    }
}

fn unsendable(error: std::io::Error) -> Failure {
    Failure::login(LoginError::NotAuthorized, format!("the password cannot be sent: {error}"))
}

fn unsupported(what: &str) -> Failure {
    let detail = format!("the server wants {what}, which a monitor does not do: give its role scram-sha-256");
    Failure::login(LoginError::NotAuthorized, detail)
}

fn out_of_turn() -> Failure {
    Failure::login(LoginError::NotPostgres, "a message of its login is out of turn")
}
