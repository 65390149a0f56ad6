//! A client of PostgreSQL's protocol by hand: none of the time that it takes to start a program is in what it measures, and it
//! can leave a query unanswered for as long as it likes.
//!
//! It is the superuser, who is trusted, with TLS or without.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::net::dial;
use super::wait::DEADLINE;

/// Protocol 3.0, and the number that says "cancel" in its place.
const PROTOCOL: i32 = 3 << 16;
const CANCEL: i32 = (1234 << 16) | 5678;
/// The request for TLS.
pub const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";

/// Bytes to the server and from it, encrypted or not.
trait Line: Read + Write + Send {}

impl<T: Read + Write + Send> Line for T {}

/// Whom to trust with what is encrypted: a CA, and the address that is in the server's certificate.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl Tls {
    /// Trusts the CA in the file `ca`, and a certificate for `server`.
    #[track_caller]
    pub fn trusting(ca: &Path, server: SocketAddr) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("a CA");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        Self { config: Arc::new(config), server: ServerName::from(server.ip()) }
    }

    /// Asks for TLS on `stream`, which must be to be had.
    fn over(&self, mut stream: TcpStream) -> Result<Box<dyn Line>, String> {
        stream.write_all(SSL_REQUEST).map_err(told)?;
        let mut answer = [0];
        stream.read_exact(&mut answer).map_err(told)?;
        assert_eq!(answer, *b"S", "the server encrypts");
        let connection = ClientConnection::new(Arc::clone(&self.config), self.server.clone()).expect("a connection");
        Ok(Box::new(StreamOwned::new(connection, stream)))
    }
}

/// A session.
pub struct Talker {
    stream: Box<dyn Line>,
    /// The server's process, and its secret, as `CancelRequest` has them.
    pub key: Vec<u8>,
}

impl fmt::Debug for Talker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Talker").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Talker {
    /// Opens one through `at`.
    ///
    /// # Errors
    ///
    /// Why not: the server's code and message, or how the connection ended.
    pub fn open(at: SocketAddr) -> Result<Self, String> {
        Self::log_in(Box::new(dial(at).map_err(told)?))
    }

    /// The same for one who is held while much else happens, for each part of which there is a deadline.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_patient(at: SocketAddr) -> Result<Self, String> {
        let stream = dial(at).map_err(told)?;
        stream.set_read_timeout(Some(4 * DEADLINE)).map_err(told)?;
        Self::log_in(Box::new(stream))
    }

    /// The same, encrypted.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_encrypted(at: SocketAddr, tls: &Tls) -> Result<Self, String> {
        Self::log_in(tls.over(dial(at).map_err(told)?)?)
    }

    fn log_in(stream: Box<dyn Line>) -> Result<Self, String> {
        let mut talker = Self { stream, key: Vec::new() };
        talker.send(None, &[&PROTOCOL.to_be_bytes()[..], b"user\0postgres\0database\0postgres\0\0"].concat())?;
        talker.finish()?;
        Ok(talker)
    }

    /// Sends `query`, whose answer [`Self::finish`] takes.
    ///
    /// # Errors
    ///
    /// How the connection ended.
    pub fn begin(&mut self, query: &str) -> Result<(), String> {
        self.send(Some(b'Q'), &[query.as_bytes(), b"\0"].concat())
    }

    /// The first column of each row that is answered.
    ///
    /// # Errors
    ///
    /// The server's code and message, or how the connection ended.
    pub fn finish(&mut self) -> Result<Vec<String>, String> {
        let (mut rows, mut error) = (Vec::new(), None);
        loop {
            let (kind, body) = self.receive().map_err(|end| error.take().unwrap_or_else(|| told(end)))?;
            match kind {
                b'K' => self.key = body,
                b'D' => rows.push(first_column(&body)),
                b'E' => error = Some(spoken(&body)),
                b'Z' => return error.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Both.
    ///
    /// # Errors
    ///
    /// As [`Self::finish`].
    pub fn ask(&mut self, query: &str) -> Result<Vec<String>, String> {
        self.begin(query)?;
        self.finish()
    }

    /// The number of the server's process.
    pub fn pid(&self) -> u32 {
        u32::from_be_bytes(*self.key.first_chunk().expect("a key"))
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<(), String> {
        let length = i32::try_from(body.len() + 4).expect("short").to_be_bytes();
        let message: Vec<u8> = kind.into_iter().chain(length).chain(body.iter().copied()).collect();
        self.stream.write_all(&message).map_err(told)
    }

    fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
        self.stream.read_exact(&mut body)?;
        Ok((kind, body))
    }
}

/// Cancels through `at`, and waits for the end of the connection, after which the request has arrived.
#[track_caller]
pub fn cancel(at: SocketAddr, key: &[u8]) {
    let mut stream = dial(at).expect("connect");
    stream.write_all(&cancel_request(key)).expect("write");
    assert_eq!(stream.read_to_end(&mut Vec::new()).expect("an end"), 0, "nothing is answered");
}

/// The same, encrypted.
#[track_caller]
pub fn cancel_encrypted(at: SocketAddr, key: &[u8], tls: &Tls) {
    let mut stream = tls.over(dial(at).expect("connect")).expect("TLS");
    stream.write_all(&cancel_request(key)).expect("write");
    stream.flush().expect("flush");
    // The server just hangs up, which is no end in order over TLS.
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    assert_eq!(answer, b"", "nothing is answered");
}

fn cancel_request(key: &[u8]) -> Vec<u8> {
    let length = i32::try_from(key.len() + 8).expect("short");
    [&length.to_be_bytes()[..], &CANCEL.to_be_bytes(), key].concat()
}

fn told(end: io::Error) -> String {
    end.to_string()
}

/// The fields of an `ErrorResponse` that say what: its code and its message.
fn spoken(body: &[u8]) -> String {
    let fields = body.split(|&byte| byte == 0).filter(|field| matches!(field.first(), Some(b'C' | b'M')));
    fields.map(|field| String::from_utf8_lossy(&field[1..])).collect::<Vec<_>>().join(" ")
}

fn first_column(body: &[u8]) -> String {
    let length = body.get(2..6).and_then(<[u8]>::first_chunk).map_or(-1, |bytes| i32::from_be_bytes(*bytes));
    let value = usize::try_from(length).ok().and_then(|length| body.get(6..6 + length));
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}
