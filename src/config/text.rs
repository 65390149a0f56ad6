//! Texts with a form of their own: addresses, and what goes into an HTTP request.

use std::path::PathBuf;

use crate::model::{Address, AddressError, Secret, StatusRange};

use super::key::{Key, Kind, Part};
use super::keys;
use super::value::{Given, Value};

/// The longest path of an HTTP check, in bytes.
const PATH_MAX: usize = 2048;
/// The longest path of a directory, in bytes: what Linux takes.
const DIRECTORY_MAX: usize = 4096;
/// The longest secret, in bytes: what servers take in a header.
const SECRET_MAX: usize = 8192;
/// What is said of a credential that no request can carry.
const NO_HEADER: &str =
    "cannot stand in a header; it must be one line of at most 8192 visible ASCII characters and spaces";
/// What is said of a webhook's secret that its receiver could not be given as it is.
const NO_WEBHOOK_SECRET: &str = "has more than one line, or what cannot be seen; it must be one line of at most 8192 visible ASCII \
                                 characters and spaces";
/// What cannot be a password of PostgreSQL.
const NO_PASSWORD: &str = "cannot be a password; it has at most 8192 bytes, none of them NUL";
/// The most statuses and ranges in `expect`.
const RANGES_MAX: usize = 100;

impl Value for Address {
    fn blank() -> Self {
        Self::Unix(std::sync::Arc::from(std::path::Path::new("/")))
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let text = given.text(key)?;
        let address = text.parse::<Self>().map_err(|error| given.but(key, address_error(&error)))?;
        let listens = key.kind == Kind::Binds;
        match &address {
            Self::Name { port, .. } if listens => {
                let host = if text.starts_with("localhost:") { "127.0.0.1" } else { "0.0.0.0" };
                Err(given.but(
                    key,
                    &format!(
                        "is a host name; one listens on an IP address of this machine: write \"{host}:{port}\" ({})",
                        if host == "0.0.0.0" { "all of them" } else { "loopback" }
                    ),
                ))
            }
            Self::Ip(addr) if addr.port() == 0 && !listens => Err(given.but(key, "has port 0, where nobody listens")),
            Self::Name { port: 0, .. } => Err(given.but(key, "has port 0, where nobody listens")),
            Self::Ip(_) | Self::Name { .. } | Self::Unix(_) => Ok(address),
        }
    }
}

/// What is wrong with an address, without repeating it.
const fn address_error(error: &AddressError) -> &'static str {
    match error {
        AddressError::NoPort(_) => "is no address: it has no port; write HOST:PORT, [IPV6]:PORT or unix:PATH",
        AddressError::BarePath(_) => "is a path and no address; write unix: before it",
        AddressError::Url(_) => "is a URL and no address; leave out what stands before HOST:PORT and behind it",
        AddressError::NoHost(_) => "has no host; write 127.0.0.1 before it for loopback, 0.0.0.0 for every interface",
        AddressError::BadPort(_) => "is no address: behind the last colon must stand a port from 0 to 65535",
        AddressError::BadHost(_) => {
            "is no address: before the port must stand an IP address (IPv6 in brackets) or a host name"
        }
        AddressError::BadPath(_) => "is no address: the path of a Unix socket begins with / and has at most 107 bytes",
    }
}

impl Value for String {
    fn blank() -> Self {
        Self::new()
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let text = given.text(key)?;
        if key.kind == Kind::Method
            && (text.is_empty() || text.len() > 16 || !text.bytes().all(|b| b.is_ascii_uppercase()))
        {
            return Err(given.but(key, "is no HTTP method; write capital letters, such as \"HEAD\" or \"GET\""));
        }
        if let Kind::Text { max } = key.kind
            && u32::try_from(text.len()).map_or(true, |length| length > max)
        {
            return Err(given.but(key, &format!("is too long; {max} bytes is the most")));
        }
        if key.kind == Kind::UrlPath {
            if !text.starts_with('/') {
                return Err(given.but(key, "is no path of a URL; it begins with /, such as \"/health\""));
            }
            if text.len() > PATH_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(
                    given.but(key, "is no path of a URL; write at most 2048 visible ASCII characters, others as %XX")
                );
            }
        }
        Ok(text.to_owned())
    }
}

impl Value for PathBuf {
    fn blank() -> Self {
        Self::new()
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let text = given.text(key)?;
        if text.len() > DIRECTORY_MAX || !text.starts_with('/') || text.contains('\0') {
            let why = format!("is no absolute path; write one that begins with /, such as {}", key.literal());
            return Err(given.but(key, &why));
        }
        Ok(Self::from(text))
    }
}

impl Value for Secret {
    fn blank() -> Self {
        Self::new("")
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let text = given.text(key)?;
        if text.is_empty() {
            return Err(given.but(key, "is empty; leave the key out if there is no secret"));
        }
        if key.part == Part::Jwt {
            // A key in PEM has several lines. What kind of key it is to be is not known here.
            let fits = text.len() <= SECRET_MAX && !text.contains('\0');
            let why = "cannot be a key; it has at most 8192 bytes, none of them NUL";
            return if fits { Ok(Self::new(text)) } else { Err(given.but(key, why)) };
        }
        if *key == keys::LOOKUP_URL {
            // What a URL must be is judged with its options filled in.
            return if text.len() <= SECRET_MAX { Ok(Self::new(text)) } else { Err(given.but(key, "is too long")) };
        }
        if key.part == Part::Token {
            // Whatever it is, it is said by whoever looks for a digest in it.
            return Ok(Self::new(text));
        }
        if key.part == Part::Postgres {
            let fits = text.len() <= SECRET_MAX && !text.contains('\0');
            return if fits { Ok(Self::new(text)) } else { Err(given.but(key, NO_PASSWORD)) };
        }
        if text.len() > SECRET_MAX || !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
            let why = if key.part == Part::Webhook { NO_WEBHOOK_SECRET } else { NO_HEADER };
            return Err(given.but(key, why));
        }
        Ok(Self::new(text))
    }
}

impl Value for Vec<StatusRange> {
    fn blank() -> Self {
        Self::new()
    }

    fn read(given: &Given<'_>, key: &Key) -> Result<Self, String> {
        let text = given.text(key)?;
        let ranges: Option<Self> = text.split(',').take(RANGES_MAX + 1).map(|part| range(part.trim())).collect();
        ranges.filter(|ranges| ranges.len() <= RANGES_MAX).ok_or_else(|| {
            given.but(
                key,
                "is no list of statuses; write numbers from 100 to 599 and ranges of them, \
                 such as \"200-399\" or \"200,204\"",
            )
        })
    }
}

fn range(text: &str) -> Option<StatusRange> {
    let status = |text: &str| {
        let digits = text.trim();
        let plain = digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|status| plain && (100..=599).contains(status))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (status(first)?, status(last)?),
        None => (status(text)?, status(text)?),
    };
    (first <= last).then_some(StatusRange { first, last })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::{Given, Value};
    use crate::config::key::Key;
    use crate::config::keys;
    use crate::model::{Address, Secret, StatusRange};

    fn text<T: Value>(text: &str, key: &Key) -> Result<T, String> {
        T::read(&Given::literal(text), key)
    }

    #[test]
    fn statuses_are_numbers_and_ranges() {
        let range = |first, last| StatusRange { first, last };
        assert_eq!(text("200-399", &keys::EXPECT), Ok(vec![range(200, 399)]));
        assert_eq!(
            text("200, 204 ,300-301", &keys::EXPECT),
            Ok(vec![range(200, 200), range(204, 204), range(300, 301)])
        );
        for bad in ["", "2xx", "399-200", "200,", "099", "600", "0200", "+20", "200-299-300", "-"] {
            assert!(text::<Vec<StatusRange>>(bad, &keys::EXPECT).is_err(), "{bad}");
        }
        assert!(text::<Vec<StatusRange>>(&"200,".repeat(1000), &keys::EXPECT).is_err());
    }

    #[test]
    fn nothing_can_be_put_into_a_request_that_ends_its_line() {
        for bad in ["/a\r\nX: y", "/a b", "a", "", "/\u{e9}"] {
            assert!(text::<String>(bad, &keys::PATH).is_err(), "{bad:?}");
        }
        for bad in ["GET\r\n", "get", "", "G ET"] {
            assert!(text::<String>(bad, &keys::METHOD).is_err(), "{bad:?}");
        }
        for bad in ["Bearer a\r\nX: y", "Bearer \u{0}", "", "a\tb"] {
            let error = text::<Secret>(bad, &keys::AUTHORIZATION).unwrap_err();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn a_directory_is_an_absolute_path() {
        assert_eq!(text::<PathBuf>("/var/lib/changeover", &keys::STATE_DIR), Ok(PathBuf::from("/var/lib/changeover")));
        for bad in ["", "state", "./state", "~/state", "/a\0b"] {
            assert!(text::<PathBuf>(bad, &keys::STATE_DIR).unwrap_err().contains("begins with /"), "{bad:?}");
        }
    }

    #[test]
    fn one_listens_on_addresses_and_connects_to_names() {
        assert!(text::<Address>("localhost:1", &keys::BIND).unwrap_err().contains("write \"127.0.0.1:1\""));
        assert!(text::<Address>("db:1", &keys::BIND).unwrap_err().contains("write \"0.0.0.0:1\""));
        assert!(text::<Address>("127.0.0.1:0", &keys::BIND).is_ok());
        assert!(text::<Address>("db:1", &keys::ADDRESS).is_ok());
        assert!(text::<Address>("db:0", &keys::ADDRESS).is_err());
        assert!(text::<Address>("10.0.0.1:0", &keys::ADDRESS).is_err());
    }
}
