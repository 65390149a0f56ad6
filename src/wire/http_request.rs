//! The HTTP request of a check, and of whatever else is asked in its terms.

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request};

use crate::model::{Address, HttpCheck};

/// By what name we ask: `User-Agent`.
pub const HTTP_AGENT: &str = concat!("changeover/", env!("CARGO_PKG_VERSION"));

/// The request of `check` to the server at `address`, on a connection of its own. What kind of answer is accepted is said if it
/// matters.
///
/// # Errors
///
/// What of it cannot be sent. The configuration is checked: so it is something that hyper knows better about than we do.
pub fn http_request(
    address: &Address,
    check: &HttpCheck,
    accepted: Option<&'static str>,
) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    let host = match address {
        Address::Unix(_) => "localhost".to_owned(),
        Address::Ip(_) | Address::Name { .. } => address.to_string(),
    };
    let mut request = Request::builder()
        .method(Method::from_bytes(check.method.as_bytes())?)
        .uri(&check.path)
        .header(HOST, host)
        .header(USER_AGENT, HTTP_AGENT)
        .header(CONNECTION, "close");
    if let Some(accepted) = accepted {
        request = request.header(ACCEPT, accepted);
    }
    if let Some(secret) = &check.authorization {
        let mut value = HeaderValue::from_str(secret.expose())?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Empty::new())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::Secret;

    fn check() -> HttpCheck {
        let (method, path) = ("HEAD".to_owned(), "/ready?full=1".to_owned());
        HttpCheck { method, path, port: 0, expect: Vec::new(), authorization: None }
    }

    fn header(request: &Request<Empty<Bytes>>, name: hyper::header::HeaderName) -> Option<&str> {
        request.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn a_request_says_whom_it_asks_and_who_asks() {
        for (address, host) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("[::1]:8080", "[::1]:8080"),
            ("db.internal:80", "db.internal:80"),
            ("unix:/run/admin.sock", "localhost"),
        ] {
            let request = http_request(&address.parse().unwrap(), &check(), None).unwrap();
            assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("HEAD", "/ready?full=1"));
            let said = [HOST, USER_AGENT, CONNECTION, ACCEPT, AUTHORIZATION].map(|name| header(&request, name));
            assert_eq!(said, [Some(host), Some(HTTP_AGENT), Some("close"), None, None]);
        }
    }

    #[test]
    fn a_request_has_its_secret_and_shows_it_to_nobody() {
        let check = HttpCheck { authorization: Some(Secret::new("Bearer s3cret")), ..check() };
        let request = http_request(&"127.0.0.1:1".parse().unwrap(), &check, Some("application/json")).unwrap();
        assert_eq!(header(&request, AUTHORIZATION), Some("Bearer s3cret"));
        assert_eq!(header(&request, ACCEPT), Some("application/json"));
        assert!(!format!("{request:?}").contains("s3cret"), "{request:?}");
    }

    #[test]
    fn what_cannot_be_sent_is_an_error_that_does_not_show_it() {
        let wrong = HttpCheck { authorization: Some(Secret::new("s3cret\n")), ..check() };
        let error = http_request(&"127.0.0.1:1".parse().unwrap(), &wrong, None).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
        for wrong in
            [HttpCheck { method: "A B".to_owned(), ..check() }, HttpCheck { path: "/ /".to_owned(), ..check() }]
        {
            assert!(http_request(&"127.0.0.1:1".parse().unwrap(), &wrong, None).is_err());
        }
    }
}
