//! Keys and certificates of the admin server, from the text that stands for them. What is wrong with one is said without
//! a word of it. The configuration is checked by this, and what it makes is what callers are checked by: nothing is read
//! in two ways.

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use jsonwebtoken::DecodingKey;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::model::{JwtAlgorithm, Secret};

/// The shortest secret of HS256, in bytes: as long as what it makes (RFC 7518, 3.2).
const HS256_MIN: usize = 32;
/// The shortest public key of RSA that is taken has 2048 bits, and in DER a bit more than their bytes.
const RSA_DER_MIN: usize = 2048 / 8;

/// What JWTs are checked by.
///
/// # Errors
///
/// Says what is wrong with `key`, as the end of a sentence.
pub fn verifying_key(algorithm: JwtAlgorithm, key: &Secret) -> Result<DecodingKey, &'static str> {
    let text = key.expose();
    let pem = text.as_bytes();
    if algorithm == JwtAlgorithm::Hs256 {
        if text.contains("-----BEGIN") {
            return Err("is a key in PEM, which others may know, and HS256 takes a secret; \
                 write the algorithm that goes with the key: RS256, ES256 or EdDSA");
        }
        if text.len() < HS256_MIN {
            return Err("has fewer than 32 bytes, which can be guessed; make one with `openssl rand -hex 32`");
        }
        return Ok(DecodingKey::from_secret(pem));
    }
    if text.contains("PRIVATE KEY-----") {
        return Err("is a private key, which makes JWTs and has no business here; \
             write the public one, which `openssl pkey -in FILE -pubout` shows");
    }
    if text.contains("-----BEGIN CERTIFICATE") {
        return Err("is a certificate; write the public key in it, which `openssl x509 -in FILE -pubkey -noout` shows");
    }
    let (key, wrong) = match algorithm {
        JwtAlgorithm::Rs256 | JwtAlgorithm::Hs256 => (
            DecodingKey::from_rsa_pem(pem),
            "is no public key of RSA with 2048 to 8192 bits in PEM, which begins with -----BEGIN PUBLIC KEY-----",
        ),
        JwtAlgorithm::Es256 => (
            DecodingKey::from_ec_pem(pem),
            "is no public key on P-256 (prime256v1) in PEM, which begins with -----BEGIN PUBLIC KEY-----",
        ),
        JwtAlgorithm::EdDsa => (
            DecodingKey::from_ed_pem(pem),
            "is no public key of Ed25519 in PEM, which begins with -----BEGIN PUBLIC KEY-----",
        ),
    };
    let key = key.map_err(|_| wrong)?;
    let bytes = key.try_get_as_bytes().map_err(|_| wrong)?;
    let parsed = match algorithm {
        JwtAlgorithm::Rs256 | JwtAlgorithm::Hs256 => {
            if bytes.len() < RSA_DER_MIN {
                return Err(wrong);
            }
            ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, bytes)
        }
        JwtAlgorithm::Es256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes),
        JwtAlgorithm::EdDsa => ParsedPublicKey::new(&ED25519, bytes),
    };
    parsed.map_err(|_| wrong)?;
    Ok(key)
}

/// What is wrong with a certificate and its key, as the end of a sentence, and with which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// The certificates.
    Certificate(&'static str),
    /// The private key.
    Key(&'static str),
}

/// What TLS is served with: the certificates in `chain` and their key, both in PEM.
///
/// # Errors
///
/// [`TlsFault`].
pub fn tls_server(chain: &str, private_key: &Secret) -> Result<Arc<ServerConfig>, TlsFault> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| TlsFault::Certificate("has something in it that is no certificate in PEM"))?;
    if certificates.is_empty() {
        let why = "has no certificate in PEM in it, which begins with -----BEGIN CERTIFICATE-----";
        return Err(TlsFault::Certificate(why));
    }
    let key = PrivateKeyDer::from_pem_slice(private_key.expose().as_bytes()).map_err(|_| {
        TlsFault::Key(
            "has no private key without a password in PEM in it, which begins with -----BEGIN PRIVATE KEY-----",
        )
    })?;
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|_| TlsFault::Key("cannot be used"))?;
    let served = builder.with_no_client_auth().with_single_cert(certificates, key);
    let mut config = served.map_err(|error| {
        if matches!(error, rustls::Error::InconsistentKeys(_)) {
            TlsFault::Key("is not the key of the certificate")
        } else if matches!(error, rustls::Error::InvalidCertificate(_)) {
            TlsFault::Certificate("has a certificate in it that cannot be read")
        } else {
            TlsFault::Key("cannot be used; RSA with 2048 bits, P-256, P-384 and Ed25519 can")
        }
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
