//! Where something listens: an IP address, a host name to look up, or a Unix socket.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest path that fits in a `sockaddr_un`, in bytes, with its final NUL (unix(7)).
const UNIX_PATH_MAX: usize = 107;

/// An address as written in the configuration: `IP:PORT`, `HOST:PORT` or `unix:PATH`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A host name, looked up at each dial, and a port.
    Name {
        /// The host name.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
    /// The path of a Unix stream socket.
    Unix(Arc<Path>),
}

impl Address {
    /// The host to put in a URL or a `Host` header, where an IPv6 address stands in brackets; `localhost` for Unix
    /// sockets.
    #[must_use]
    pub fn host(&self) -> String {
        match self {
            Self::Ip(SocketAddr::V4(addr)) => addr.ip().to_string(),
            Self::Ip(SocketAddr::V6(addr)) => format!("[{}]", addr.ip()),
            Self::Name { host, .. } => host.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    /// The host for a program's command line: the path of a Unix socket is its own.
    #[must_use]
    pub fn command_host(&self) -> String {
        match self {
            Self::Ip(addr) => addr.ip().to_string(),
            Self::Name { host, .. } => host.to_string(),
            Self::Unix(path) => path.display().to_string(),
        }
    }

    /// The port; a Unix socket has none.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(addr) => Some(addr.port()),
            Self::Name { port, .. } => Some(*port),
            Self::Unix(_) => None,
        }
    }

    /// The same host at another port; a Unix socket has none and stays as it is.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        match self {
            Self::Ip(addr) => Self::Ip(SocketAddr::new(addr.ip(), port)),
            Self::Name { host, .. } => Self::Name { host: host.clone(), port },
            Self::Unix(path) => Self::Unix(path.clone()),
        }
    }

    /// Whether who dials it arrives at what listens on `bind`, as far as the addresses tell: which others this host has, and what
    /// a name stands for that is not `localhost`, they do not.
    #[must_use]
    pub fn reaches(&self, bind: &Self) -> bool {
        match (self, bind) {
            (Self::Unix(dialled), Self::Unix(bound)) => dialled == bound,
            (Self::Ip(dialled), Self::Ip(bound)) => {
                let (to, on) = (dialled.ip().to_canonical(), bound.ip().to_canonical());
                let local = to.is_loopback() || to.is_unspecified();
                let same_family = to.is_ipv4() == on.is_ipv4();
                dialled.port() == bound.port()
                    && (to == on
                        || (on.is_unspecified() && local && same_family)
                        || (to.is_unspecified() && on.is_loopback() && same_family))
            }
            (Self::Name { host, port }, Self::Ip(bound)) => {
                let on = bound.ip();
                let host = host.strip_suffix('.').unwrap_or(host);
                let local = on.is_loopback() || on.is_unspecified();
                host.eq_ignore_ascii_case("localhost") && *port == bound.port() && local
            }
            (Self::Unix(_) | Self::Ip(_) | Self::Name { .. }, _) => false,
        }
    }
}

/// Why a text is no address. The message says what would be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No colon, so no port.
    #[error("`{0}` has no port; write HOST:PORT, [IPV6]:PORT or unix:PATH")]
    NoPort(String),
    /// A path that does not say that it is one.
    #[error("`{0}` is a path; write unix:{0}")]
    BarePath(String),
    /// A URL.
    #[error("`{0}` is a URL; leave out what stands before HOST:PORT, and what stands behind it")]
    Url(String),
    /// A port alone.
    #[error("`{0}` has no host; write 127.0.0.1{0} for loopback, 0.0.0.0{0} for every interface")]
    NoHost(String),
    /// What stands behind the last colon is not a port.
    #[error("`{0}` is not a port; a port is a number from 0 to 65535")]
    BadPort(String),
    /// What stands before the port is neither an IP address nor a host name.
    #[error("`{0}` is neither an IP address nor a host name")]
    BadHost(String),
    /// A Unix path that is not absolute, or too long.
    #[error("`{0}` is not a usable socket path; it must begin with / and have at most {UNIX_PATH_MAX} bytes")]
    BadPath(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let usable = path.starts_with('/') && path.len() <= UNIX_PATH_MAX && !path.contains('\0');
            return if usable {
                Ok(Self::Unix(Arc::from(PathBuf::from(path))))
            } else {
                Err(AddressError::BadPath(path.to_owned()))
            };
        }
        if text.starts_with('/') {
            return Err(AddressError::BarePath(text.to_owned()));
        }
        if text.contains("://") {
            return Err(AddressError::Url(text.to_owned()));
        }
        if text.starts_with(':') && text.bytes().skip(1).all(|b| b.is_ascii_digit()) {
            return Err(AddressError::NoHost(text.to_owned()));
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(Self::Ip(addr));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| AddressError::NoPort(text.to_owned()))?;
        let port = port.parse::<u16>().map_err(|_| AddressError::BadPort(port.to_owned()))?;
        if !is_host_name(host) {
            return Err(AddressError::BadHost(host.to_owned()));
        }
        Ok(Self::Name { host: Arc::from(host), port })
    }
}

/// Letters, digits, hyphens and underscores in labels of 1 to 63 bytes, not all of them digits.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let dotted_number = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let trimmed = host.strip_suffix('.').unwrap_or(host);
    host.len() <= 253 && !dotted_number && trimmed.split('.').all(label)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => f.pad(&addr.to_string()),
            Self::Name { host, port } => f.pad(&format!("{host}:{port}")),
            Self::Unix(path) => f.pad(&format!("unix:{}", path.display())),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]
mod tests {
    use super::{Address, AddressError};

    #[test]
    fn an_address_reads_as_it_prints() {
        for text in ["127.0.0.1:80", "[::1]:5432", "db-1.internal:5432", "localhost:1", "unix:/run/pg/.s.PGSQL.5432"] {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn a_host_is_written_as_in_a_url() {
        for (address, host) in
            [("127.0.0.1:80", "127.0.0.1"), ("[::1]:80", "[::1]"), ("db:80", "db"), ("unix:/x", "localhost")]
        {
            assert_eq!(address.parse::<Address>().unwrap().host(), host);
        }
    }

    #[test]
    fn who_dials_an_address_reaches_what_listens_there_or_everywhere() {
        for (dialled, bound, reaches) in [
            ("10.0.0.1:1", "10.0.0.1:1", true),
            ("10.0.0.1:1", "10.0.0.1:2", false),
            ("[::ffff:10.0.0.1]:1", "10.0.0.1:1", true),
            ("127.0.0.9:1", "0.0.0.0:1", true),
            ("127.0.0.9:1", "127.0.0.1:1", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("[::1]:1", "0.0.0.0:1", false),
            // Whether it is the host's, an address does not tell.
            ("10.0.0.1:1", "0.0.0.0:1", false),
            ("LocalHost.:1", "127.0.0.1:1", true),
            ("db:1", "0.0.0.0:1", false),
            ("unix:/run/s", "unix:/run/s", true),
            ("unix:/run/s", "127.0.0.1:1", false),
        ] {
            let [dialled, bound] = [dialled, bound].map(|address| address.parse::<Address>().unwrap());
            assert_eq!(dialled.reaches(&bound), reaches, "{dialled} to {bound}");
        }
    }

    #[test]
    fn a_bad_address_says_what_is_wrong() {
        let error = |text: &str| text.parse::<Address>().err();
        assert_eq!(error("10.0.0.1"), Some(AddressError::NoPort("10.0.0.1".into())));
        assert_eq!(error("10.0.0.1:70000"), Some(AddressError::BadPort("70000".into())));
        assert_eq!(error("10.0.0.256:80"), Some(AddressError::BadHost("10.0.0.256".into())));
        assert_eq!(error("a b:80"), Some(AddressError::BadHost("a b".into())));
        assert_eq!(error(":80"), Some(AddressError::NoHost(":80".into())));
        assert_eq!(error("/run/x"), Some(AddressError::BarePath("/run/x".into())));
        assert_eq!(error("http://10.0.0.1:80"), Some(AddressError::Url("http://10.0.0.1:80".into())));
        assert_eq!(error("unix:run/x"), Some(AddressError::BadPath("run/x".into())));
        assert_eq!(
            error(&format!("unix:/{}", "x".repeat(107))),
            Some(AddressError::BadPath(format!("/{}", "x".repeat(107))))
        );
    }
}
