//! Whom a request was meant for. A page in a browser of this machine can have its own name lead to loopback and read
//! what is answered there, as if it came from its own server; only the name gives that away.

use std::net::IpAddr;

use axum::Extension;
use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::caller::Caller;
use super::problem::Problem;

/// Lets a request pass that came over loopback only if it was meant for an IP address or `localhost`, whose answers no
/// page of another origin may read. One that names no host is from no browser. Elsewhere, and over Unix sockets, any
/// name will do: those who can connect there may read, and scrapers use the names that hosts have in DNS.
pub(super) async fn check(Extension(caller): Extension<Caller>, request: Request, next: Next) -> Response {
    let named = request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let mut named = named.chain(request.uri().authority().map(Authority::as_str));
    if caller == Caller::Loopback && !named.all(is_here) {
        return Problem::MisdirectedRequest.into_response();
    }
    next.run(request).await
}

/// Whether `authority`, a host with or without a port, is an IP address or `localhost`, be it with the root's dot.
fn is_here(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = host.strip_suffix('.').unwrap_or(host);
    address.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::is_here;

    #[test]
    fn only_addresses_and_localhost_are_here() {
        let names = ["localhost", "LocalHost:80", "localhost.", "localhost.:7072"];
        for here in names.into_iter().chain(["127.0.0.1", "127.0.0.1:7072", "[::1]:7072", "[::1]", "10.0.0.1"]) {
            assert!(is_here(here), "{here}");
        }
        let strange = ["", "example.org", "example.org:7072", "localhost.example.org", "127.0.0.1.example.org"];
        let dots = [".", "localhost..", "example.org.", ".localhost"];
        for elsewhere in strange.into_iter().chain(dots).chain(["a b", "127.1", "[localhost]", "http://localhost"]) {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }
}
