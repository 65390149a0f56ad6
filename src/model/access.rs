//! Who may ask the admin server what: roles, and by what callers prove who they are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{PoolName, Secret};

labelled! {
    /// What a caller of the admin server may do. Each may what the one before it may, too.
    AccessRole {
        /// Reads.
        Viewer = "viewer",
        /// Gives orders that a failover or another order undoes: drains, pauses, reports.
        Operator = "operator",
        /// Moves traffic and changes what is configured.
        Admin = "admin",
    }
}

labelled! {
    /// How a JWT is signed.
    JwtAlgorithm {
        /// HMAC with SHA-256: whoever can check one can make one.
        Hs256 = "HS256",
        /// RSA (PKCS #1 v1.5) with SHA-256.
        Rs256 = "RS256",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

/// `[admin.tokens.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPlan {
    /// Its name, under which its holder is known.
    pub name: Arc<str>,
    /// What its holder may.
    pub role: AccessRole,
    /// The SHA-256 of the token: 64 lower-case hexadecimal digits.
    pub sha256: Secret,
    /// The only pools that its holder may see and change; none is all.
    pub pools: Option<Arc<[PoolName]>>,
}

/// `[admin.jwt]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtPlan {
    /// The only one that is taken, whatever a token says of itself.
    pub algorithm: JwtAlgorithm,
    /// The secret of HS256, or else the public key in PEM.
    pub key: Secret,
    /// What `iss` must be, if that is looked at.
    pub issuer: Option<String>,
    /// What must be in `aud`, if that is looked at.
    pub audience: Option<String>,
    /// The claim with the role.
    pub role_claim: String,
    /// The claim with the only pools of the caller.
    pub pools_claim: String,
    /// How far the clocks of issuer and daemon may be apart.
    pub leeway: Duration,
}

/// `[admin.tls]`, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPlan {
    /// Where the certificates stand.
    pub certificate: PathBuf,
    /// Where the private key stands.
    pub key: PathBuf,
    /// The certificates in PEM, the server's own first.
    pub chain: Arc<str>,
    /// The private key in PEM.
    pub private_key: Secret,
}
