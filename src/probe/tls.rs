//! The first message of a TLS handshake, and whether it is answered by anybody who speaks TLS. What the answer says is not asked:
//! an alert is one, too. Nothing is encrypted, and no certificate is looked at.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::model::{Address, CheckError};
use crate::sys::Stream;
use crate::wire::printable;

use super::Failure;

/// The head of a record: its type, its version and its length.
const HEAD: usize = 5;
/// The type of a record with an alert.
const ALERT: u8 = 21;
/// The type of a record with a message of the handshake.
const HANDSHAKE: u8 = 22;
/// The first byte of every version that there is.
const MAJOR: u8 = 3;

/// Sends a `ClientHello` for the host of `server` over `stream`, and reads the head of the first record that comes.
pub(super) async fn ask(server: &Address, stream: Stream) -> Result<(), Failure> {
    let hello = hello(server).map_err(|why| Failure::check(CheckError::Malformed, why))?;
    // One that hangs up may have said why before.
    drop(stream.send_all(&hello).await);
    let mut head = [0; HEAD];
    let mut seen = 0;
    while seen < HEAD {
        let room = head.get_mut(seen..).unwrap_or_default();
        let length = stream.receive(room).await.map_err(|error| closed(&error.to_string()))?;
        if length == 0 {
            return Err(closed("it ended"));
        }
        seen += length;
        let kind = head.first().is_some_and(|kind| matches!(*kind, ALERT | HANDSHAKE));
        if !kind || (seen > 1 && head.get(1) != Some(&MAJOR)) {
            let said = printable(head.get(..seen).unwrap_or_default(), HEAD);
            return Err(Failure::check(CheckError::Malformed, format!("it answered with `{said}`: this is no TLS")));
        }
    }
    drop(stream.end_writing());
    Ok(())
}

/// The first message of a client that wants to speak to `server`, by whose name it is asked for if it has one.
fn hello(server: &Address) -> Result<Vec<u8>, String> {
    let name = match server {
        Address::Ip(addr) => ServerName::from(addr.ip()),
        Address::Name { host, .. } => ServerName::try_from(host.trim_end_matches('.').to_owned())
            .map_err(|error| format!("`{host}` can be in no certificate: {error}"))?,
        // It has none that a server would know.
        Address::Unix(_) => ServerName::from(std::net::IpAddr::from([127, 0, 0, 1])),
    };
    let unsayable = |error: &dyn std::error::Error| format!("the handshake cannot be begun: {error}");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unsayable(&error))?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), name).map_err(|error| unsayable(&error))?;
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).map_err(|error| unsayable(&error))?;
    }
    Ok(hello)
}

fn closed(why: &str) -> Failure {
    Failure::check(CheckError::ClosedEarly, format!("TLS, before the first record of its answer: {why}"))
}
