//! Whom a connection trusts: the modes of `sslmode`, in rustls' terms.
//!
//! Certificates are read, and parsed, on a thread for what takes its time, and kept: the file is looked at before each login, and
//! read again if it is another one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use tokio::task::spawn_blocking;

use crate::model::{Address, MonoTime, TlsMode};
use crate::sys::Clock;

/// What is kept at most: reloads may name ever new files, and then all that is kept is read again.
const KEPT_MAX: usize = 64;
/// The system's certificates are many files in many places: they are read again after so long, whatever has changed.
const SYSTEM_FOR: Duration = Duration::from_secs(300);

/// What TLS connections are made with, by mode and file.
#[derive(Debug)]
pub(super) struct Trusts {
    clock: Clock,
    kept: Mutex<BTreeMap<(TlsMode, Option<PathBuf>), Kept>>,
}

#[derive(Debug)]
struct Kept {
    version: Version,
    config: Arc<ClientConfig>,
}

/// What tells one state of what is trusted from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Nothing is read.
    Fixed,
    /// A file: when it was last written to, or put there, its length, and which one it is.
    File { written: (i64, i64), changed: (i64, i64), length: u64, device: u64, inode: u64 },
    /// The system's certificates, read at that time.
    System(MonoTime),
}

impl Version {
    /// The version to be had now; an error is left to whoever reads the file.
    fn now(clock: Clock, mode: TlsMode, ca_file: Option<&Path>) -> Option<Self> {
        match (mode, ca_file) {
            (TlsMode::Disable | TlsMode::Prefer | TlsMode::Require, _) => Some(Self::Fixed),
            (TlsMode::VerifyCa | TlsMode::VerifyFull, None) => Some(Self::System(clock.now())),
            (TlsMode::VerifyCa | TlsMode::VerifyFull, Some(file)) => {
                let found = fs::metadata(file).ok()?;
                Some(Self::File {
                    written: (found.mtime(), found.mtime_nsec()),
                    changed: (found.ctime(), found.ctime_nsec()),
                    length: found.len(),
                    device: found.dev(),
                    inode: found.ino(),
                })
            }
        }
    }

    /// Whether what was read of this version will do where `now` is to be had.
    fn will_do(self, now: Self) -> bool {
        match (self, now) {
            (Self::System(read), Self::System(now)) => now.since(read) < SYSTEM_FOR,
            (kept, now) => kept == now,
        }
    }
}

impl Trusts {
    pub(super) const fn new(clock: Clock) -> Self {
        Self { clock, kept: Mutex::new(BTreeMap::new()) }
    }

    /// What TLS connections of `mode` are made with; read anew if `ca_file` has changed since it was last asked for.
    ///
    /// The error is for people: it names the file.
    pub(super) async fn config(
        self: Arc<Self>,
        mode: TlsMode,
        ca_file: Option<PathBuf>,
    ) -> Result<Arc<ClientConfig>, String> {
        let read = spawn_blocking(move || self.kept_or_read(mode, ca_file)).await;
        read.map_err(|error| error.to_string()).flatten()
    }

    fn kept_or_read(&self, mode: TlsMode, ca_file: Option<PathBuf>) -> Result<Arc<ClientConfig>, String> {
        let key = (mode, ca_file);
        // Before it is read: what is written while it is read is another version.
        let now = Version::now(self.clock, mode, key.1.as_deref());
        let kept = |now| {
            let all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(&key).filter(|kept| kept.version.will_do(now)).map(|kept| Arc::clone(&kept.config))
        };
        if let Some(config) = now.and_then(kept) {
            return Ok(config);
        }
        let config = client_config(mode, key.1.as_deref())?;
        if let Some(version) = now {
            let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= KEPT_MAX && !all.contains_key(&key) {
                all.clear();
            }
            all.insert(key, Kept { version, config: Arc::clone(&config) });
        }
        Ok(config)
    }
}

/// What TLS connections are made with whose server has to prove its name. Reads `ca_file`, or the system's certificates if
/// none is named.
///
/// # Errors
///
/// For people: it names the file.
pub fn verified(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    client_config(TlsMode::VerifyFull, ca_file)
}

/// What TLS connections of `mode` are made with. Reads `ca_file`, or the system's certificates if none is named.
///
/// The error is for people: it names the file.
fn client_config(mode: TlsMode, ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (chain, own) = match mode {
        TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => (None, Vec::new()),
        TlsMode::VerifyCa | TlsMode::VerifyFull => {
            let trusted = trusted(ca_file)?;
            let mut roots = RootCertStore::empty();
            let (_added, _unusable) = roots.add_parsable_certificates(trusted.iter().cloned());
            let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
            let chain = chain.map_err(|error| match ca_file {
                Some(file) => format!("ca_file {}: {error}", file.display()),
                None => format!("the system's certificates: {error}"),
            })?;
            // The system has no server's own certificate among those that it trusts.
            (Some(chain), if ca_file.is_some() { trusted } else { Vec::new() })
        }
    };
    let trust = Trust { chain, own, named: mode == TlsMode::VerifyFull, provider: Arc::clone(&provider) };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust))
        .with_no_client_auth();
    // Whose certificate has expired, or is trusted no more, is not to be let in for having been trusted once.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn trusted(ca_file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let Some(file) = ca_file else {
        let found = rustls_native_certs::load_native_certs();
        let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        return if found.certs.is_empty() {
            Err(format!("the system has no certificates to trust{why}; name them with ca_file"))
        } else {
            Ok(found.certs)
        };
    };
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| format!("ca_file {}: {error}", file.display()))?;
    if read.is_empty() { Err(format!("ca_file {} has no certificate in PEM", file.display())) } else { Ok(read) }
}

/// The name by which the server at `address` has to be known; none where TLS is not spoken.
///
/// # Errors
///
/// For people: the host's name can be in no certificate.
pub fn server_name(address: &Address) -> Result<Option<ServerName<'static>>, String> {
    match address {
        Address::Ip(addr) => Ok(Some(ServerName::IpAddress(addr.ip().into()))),
        Address::Name { host, .. } => {
            let name = ServerName::try_from(host.to_string());
            name.map(Some).map_err(|error| format!("`{host}` can be in no certificate: {error}"))
        }
        Address::Unix(_) => Ok(None),
    }
}

/// Decides over a server's certificate.
#[derive(Debug)]
struct Trust {
    /// Who must have signed it; nobody in particular if none.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates that are trusted as they are, whether or not they may sign others: a server's own, which it signed
    /// itself, is what most `ca_file`s of single servers hold, and those that OpenSSL makes say that they may sign.
    own: Vec<CertificateDer<'static>>,
    /// Whether it must be for the server's name.
    named: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        if self.own.iter().any(|own| own == end_entity) {
            if self.named {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, when all else is as it should be.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.named => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Two of different names, which nothing is signed with.
    const ONE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBbjCCARWgAwIBAgIUAUTKqnR63pYCWH3kD+jIJQcQ8MswCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBYTAgFw0yNjExMjExNzA4NDZaGA8yMTI2MTAyODE3MDg0Nlow
DDEKMAgGA1UEAwwBYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFYlEQ12Kr8H
tXQStVKS3ODxzntpZ1pq4h703uyIcs+y1xz4fHY31QDVlcghc/8YsTiyvw9RVNCi
6H2xVp62XymjUzBRMB0GA1UdDgQWBBQRDiokAMAdwCUahW7WjMpXlnd0JDAfBgNV
HSMEGDAWgBQRDiokAMAdwCUahW7WjMpXlnd0JDAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0cAMEQCIH8geXjenC3eCUAs4DCSH024zbwAq8VTBt9t14oHH0KN
AiAJyBr6ZG1fDA84jv+LTSqmgKeu+lXS/7dyo/zzavdt7g==
-----END CERTIFICATE-----
";
    const OTHER: &str = "\
-----BEGIN CERTIFICATE-----
MIIBbjCCARWgAwIBAgIUMs4Ms0UzhaX0eQ9AcvnJB2DhcOMwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBYjAgFw0yNjExMjExNzA4NDZaGA8yMTI2MTAyODE3MDg0Nlow
DDEKMAgGA1UEAwwBYjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABI2pqTMFRSjp
NxoqC/VadYyH+C3OtpGrunXyDaBKlk/rdlo8dv440jTRdknpfqoy7xTMltVh6HOQ
eliXLNyF8emjUzBRMB0GA1UdDgQWBBTu2Jj6GeoS7J8zQ9YcxpJugh9hizAfBgNV
HSMEGDAWgBTu2Jj6GeoS7J8zQ9YcxpJugh9hizAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0cAMEQCIGJjQAlrC9qwBqJwNAWhMMpnWMRQbvQhd6azsd/XXGyv
AiBio8HwAhGk+wwtF4OLK/xn4qTJyNVA9N3mQfdqjam5pg==
-----END CERTIFICATE-----
";

    #[tokio::test]
    async fn certificates_are_read_again_when_the_file_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let (file, beside) = (dir.path().join("ca.pem"), dir.path().join("new.pem"));
        let trusts = Arc::new(Trusts::new(Clock::start()));
        let ask = |mode| Arc::clone(&trusts).config(mode, Some(file.clone()));
        let error = ask(TlsMode::VerifyCa).await.unwrap_err();
        assert!(error.contains("ca.pem"), "{error}");
        fs::write(&file, ONE).unwrap();
        let first = ask(TlsMode::VerifyCa).await.unwrap();
        assert!(Arc::ptr_eq(&first, &ask(TlsMode::VerifyCa).await.unwrap()), "nothing has changed");
        assert!(!Arc::ptr_eq(&first, &ask(TlsMode::VerifyFull).await.unwrap()), "a mode is not the other");
        // Put in its place, as certificates are renewed.
        fs::write(&beside, OTHER).unwrap();
        fs::rename(&beside, &file).unwrap();
        let second = ask(TlsMode::VerifyCa).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        fs::write(&file, [ONE, OTHER].concat()).unwrap();
        let third = ask(TlsMode::VerifyCa).await.unwrap();
        assert!(!Arc::ptr_eq(&second, &third), "written over");
        assert!(Arc::ptr_eq(&third, &ask(TlsMode::VerifyCa).await.unwrap()));
        fs::remove_file(&file).unwrap();
        assert!(ask(TlsMode::VerifyCa).await.is_err(), "what is gone is trusted no more");
    }

    #[test]
    fn the_systems_certificates_are_read_again_after_a_while_and_no_file_is_looked_at_in_vain() {
        let clock = Clock::start();
        let nothing = Version::now(clock, TlsMode::Require, Some(Path::new("/nonexistent"))).unwrap();
        assert!(nothing.will_do(Version::Fixed));
        let read = Version::System(MonoTime::ZERO);
        let later = |after| Version::System(MonoTime::ZERO + after);
        assert!(read.will_do(later(SYSTEM_FOR / 2)) && !read.will_do(later(SYSTEM_FOR)));
    }

    #[tokio::test]
    async fn no_more_than_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let trusts = Arc::new(Trusts::new(Clock::start()));
        for number in 0..KEPT_MAX + 2 {
            let file = dir.path().join(format!("{number}.pem"));
            fs::write(&file, ONE).unwrap();
            Arc::clone(&trusts).config(TlsMode::VerifyCa, Some(file)).await.unwrap();
            assert!(trusts.kept.lock().unwrap().len() <= KEPT_MAX);
        }
    }
}
