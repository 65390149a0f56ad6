//! Whose certificates a webhook trusts. They are read on a thread for what takes its time, and kept for a while.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;

use crate::model::MonoTime;
use crate::sys::Clock;

/// After so long they are read again: those of a system are many files in many places.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// What TLS connections are made with.
pub(super) struct Trust {
    ca_file: Option<PathBuf>,
    clock: Clock,
    kept: Option<(MonoTime, TlsConnector)>,
}

impl Trust {
    pub(super) const fn new(ca_file: Option<PathBuf>, clock: Clock) -> Self {
        Self { ca_file, clock, kept: None }
    }

    /// What connections are made with now. The error is for people: it names the file.
    pub(super) async fn connector(&mut self) -> Result<TlsConnector, String> {
        let now = self.clock.now();
        if let Some((_, connector)) = self.kept.as_ref().filter(|(read, _)| now.since(*read) < KEPT_FOR) {
            return Ok(connector.clone());
        }
        let ca_file = self.ca_file.clone();
        let read = spawn_blocking(move || read(ca_file)).await;
        let connector = TlsConnector::from(Arc::new(read.map_err(|error| error.to_string()).flatten()?));
        self.kept = Some((now, connector.clone()));
        Ok(connector)
    }

    /// What to do about `error`, after a semicolon; empty if it is no matter of trust.
    pub(super) fn advice(&self, error: &std::io::Error) -> String {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        let is_of_trust = matches!(
            cause,
            Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature))
        );
        match &self.ca_file {
            _ if !is_of_trust => String::new(),
            Some(file) => format!("; the receiver's certificate must be signed by one in ca_file {}", file.display()),
            None => {
                "; the receiver's certificate must be signed by one that the system trusts; name others with ca_file"
                    .to_owned()
            }
        }
    }

    /// A connection could not be made: what is trusted may be out of date.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }
}

fn read(ca_file: Option<PathBuf>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let certificates = match &ca_file {
        None => rustls_native_certs::load_native_certs().certs,
        Some(file) => {
            let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            read.map_err(|error| format!("ca_file {}: {error}", file.display()))?
        }
    };
    let (added, _unusable) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(match &ca_file {
            None => "the system has no certificates to trust; name them with ca_file".to_owned(),
            Some(file) => format!("ca_file {} has no certificate in PEM", file.display()),
        });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
