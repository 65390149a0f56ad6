//! Whom a request was meant for. A page in a browser of this machine can have its own name lead to loopback and read
//! what is answered there, as if it came from its own server; only the name gives that away.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;

use super::access::Peer;

/// Whether a request that came from this host was meant for anything but an IP address or `localhost`, whose answers no
/// page of another origin may read. That holds for Unix sockets as well: one that is forwarded to a port of loopback, as
/// `ssh -L` does, is within reach of a browser, and gives it the rights of whoever forwards. One that names no host is
/// from no browser. Over the network any name will do: being connected gives no rights there, and scrapers use the names
/// that hosts have in DNS.
pub(super) fn is_misdirected(peer: &Peer, request: &Parts) -> bool {
    let named = request.headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let mut named = named.chain(request.uri.authority().map(Authority::as_str));
    peer.is_of_this_host() && !named.all(is_here)
}

/// Whether a request comes from a page that is not of this server: browsers send a page's origin with whatever may change
/// something. A page could otherwise have a browser that is let in, say by a forwarded Unix socket, do as it likes.
pub(super) fn is_of_other_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
    let hosts: Vec<&str> = text(HOST).collect();
    text(ORIGIN).any(|origin| {
        let own = origin.split_once("://").is_some_and(|(_, authority)| hosts.contains(&authority));
        !own
    })
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
    use axum::http::header::{HOST, HeaderName, HeaderValue, ORIGIN};

    use super::{is_here, is_of_other_page};

    #[test]
    fn a_page_of_another_server_is_told_by_its_origin() {
        let is_other = |headers: &[(HeaderName, &'static str)]| {
            let value = |(name, value): &(HeaderName, &'static str)| (name.clone(), HeaderValue::from_static(value));
            is_of_other_page(&headers.iter().map(value).collect())
        };
        let host = (HOST, "localhost:7072");
        assert!(!is_other(std::slice::from_ref(&host)), "no browser");
        assert!(!is_other(&[host.clone(), (ORIGIN, "http://localhost:7072")]));
        assert!(!is_other(&[host.clone(), (ORIGIN, "https://localhost:7072")]));
        for origin in ["http://evil.example", "http://localhost", "http://localhost:8080", "null", "", "localhost:7072"]
        {
            assert!(is_other(&[host.clone(), (ORIGIN, origin)]), "{origin}");
        }
        assert!(is_other(&[(ORIGIN, "http://localhost:7072")]), "no host");
    }

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
