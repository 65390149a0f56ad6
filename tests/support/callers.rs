//! Callers of the admin API: keys, tokens and certificates made for one test, and requests sent with them.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::http::{self, Response};
use super::net::{dial, dial_unix};
use super::process::run;

/// A token and the configuration's line for it.
pub fn token_table(name: &str, token: &str, role: &str, pools: &str) -> String {
    let sha256: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("[admin.tokens.{name}]\nrole = \"{role}\"\nsha256 = \"{sha256}\"\n{pools}\n")
}

/// Runs openssl in `dir`.
#[track_caller]
pub fn openssl(dir: &Path, args: &str) {
    let ended = run(Command::new("openssl").args(args.split(' ')).current_dir(dir));
    assert_eq!(ended.code, Some(0), "openssl {args}: {}", ended.stderr);
}

/// A pair of keys, by the name of an algorithm of JWTs, in `dir`.
#[derive(Debug)]
pub struct Keys {
    /// The file with the public one.
    pub public: PathBuf,
    private: PathBuf,
    algorithm: Algorithm,
}

impl Keys {
    /// Makes them.
    #[track_caller]
    pub fn make(dir: &Path, algorithm: Algorithm) -> Self {
        let name = format!("{algorithm:?}");
        let kind = match name.as_str() {
            "RS256" => "RSA -pkeyopt rsa_keygen_bits:2048",
            "ES256" => "EC -pkeyopt ec_paramgen_curve:P-256",
            "EdDSA" => "ED25519",
            other => panic!("no pair of keys for {other}"),
        };
        openssl(dir, &format!("genpkey -algorithm {kind} -out {name}.key"));
        openssl(dir, &format!("pkey -in {name}.key -pubout -out {name}.pub"));
        Self { public: dir.join(format!("{name}.pub")), private: dir.join(format!("{name}.key")), algorithm }
    }

    /// Signs `claims`.
    #[track_caller]
    pub fn sign(&self, claims: &Value) -> String {
        let pem = std::fs::read(&self.private).expect("made");
        let all = [EncodingKey::from_rsa_pem, EncodingKey::from_ec_pem, EncodingKey::from_ed_pem];
        let mut keys = all.iter().filter_map(|read| read(&pem).ok());
        let key = keys.find(|key| key.family() == self.algorithm.family());
        encode(&Header::new(self.algorithm), claims, &key.expect("a key")).expect("signed")
    }
}

/// Claims that are right, with `changes` over them; what is null there is left out.
pub fn claims(changes: &Value) -> Value {
    let exp = get_current_timestamp() + 600;
    let mut claims = json!({ "sub": "ann", "role": "admin", "iss": "login", "aud": "changeover", "exp": exp });
    let all = claims.as_object_mut().expect("an object");
    all.extend(changes.as_object().expect("an object").clone());
    all.retain(|_, value| !value.is_null());
    claims
}

/// A certificate for 127.0.0.1 that signs itself, at `dir/NAME.pem` and `dir/NAME.key`.
#[track_caller]
pub fn certificate(dir: &Path, name: &str) {
    openssl(
        dir,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=changeover \
             -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
             -keyout {name}.key -out {name}.pem"
        ),
    );
}

/// A connection by TLS to `addr`, whose certificate must be the one in `trusted`.
pub fn dial_tls(addr: SocketAddr, trusted: &Path) -> io::Result<StreamOwned<ClientConnection, std::net::TcpStream>> {
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(trusted)?;
    roots.add(CertificateDer::from_pem_slice(&pem).map_err(io::Error::other)?).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::from(addr.ip());
    let mut client = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = dial(addr)?;
    client.complete_io(&mut stream)?;
    Ok(StreamOwned::new(client, stream))
}

/// How a caller comes, and what it presents.
#[derive(Debug, Clone)]
pub struct Caller {
    /// What it is, for messages.
    pub name: &'static str,
    /// What it presents.
    pub bearer: Option<String>,
    /// How it comes.
    pub by: By,
}

/// How a caller comes.
#[derive(Debug, Clone)]
pub enum By {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over TLS, to whom has this certificate.
    Tls(SocketAddr, PathBuf),
    /// Over a Unix socket, as the test's own user.
    Unix(PathBuf),
    /// The same as user 65534. The test must be root's.
    UnixAsNobody(PathBuf),
}

impl Caller {
    /// Sends a request.
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, body: &str) -> Response {
        let headers = self.bearer.as_ref().map(|bearer| format!("Authorization: Bearer {bearer}\r\n"));
        let headers = headers.unwrap_or_default();
        let sent = match &self.by {
            By::Tcp(addr) => dial(*addr).and_then(|stream| http::send_with(stream, method, path, &headers, body)),
            By::Tls(addr, trusted) => dial_tls(*addr, trusted)
                .and_then(|stream| http::send_with(Lenient(stream), method, path, &headers, body)),
            By::Unix(path_of) => {
                dial_unix(path_of).and_then(|stream| http::send_with(stream, method, path, &headers, body))
            }
            By::UnixAsNobody(path_of) => {
                as_nobody(path_of).and_then(|stream| http::send_with(stream, method, path, &headers, body))
            }
        };
        sent.unwrap_or_else(|error| panic!("{method} {path} as {}: {error}", self.name))
    }
}

/// A connection that the kernel tells of as user 65534's: whose it is is settled when it is made, by the thread that does.
fn as_nobody(socket: &Path) -> io::Result<UnixStream> {
    let socket = socket.to_owned();
    let connecting = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65_534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody)?;
        dial_unix(&socket)
    });
    connecting.join().map_err(|_| io::Error::other("the thread panicked"))?
}

/// A server that closes without a word of TLS has said all that it had to.
struct Lenient<S>(S);

impl<S: Read> Read for Lenient<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }
}

impl<S: Write> Write for Lenient<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
