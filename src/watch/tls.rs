//! Whom a connection trusts: the modes of `sslmode`, in rustls' terms.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::model::{Address, TlsMode};

/// What TLS connections of `mode` are made with. Reads `ca_file`, or the system's certificates if none is named.
///
/// The error is for people: it names the file.
pub(super) fn client_config(mode: TlsMode, ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
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
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust))
        .with_no_client_auth();
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
pub(super) fn server_name(address: &Address) -> Result<Option<ServerName<'static>>, String> {
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
