//! Whom events are posted to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Address, PoolName, Secret, WebhookName};

/// Every kind of event.
pub const EVENT_KINDS: &[&str] = &[
    "backend.healthy",
    "backend.unhealthy",
    "backend.registered",
    "backend.removed",
    "backend.admin_state",
    "backend.lagging",
    "backend.primary_refused",
    "pool.failover",
    "pool.failback",
    "pool.primary_changed",
    "pool.split_brain",
    "pool.degraded",
    "pool.down",
    "pool.recovered",
    "pool.paused",
    "pool.resumed",
    "pool.unpinned",
    "tunnel.connecting",
    "tunnel.connected",
    "tunnel.reconnecting",
    "tunnel.disconnected",
    "tunnel.failed",
    "latency.high",
    "config.reloaded",
    "config.rejected",
    "admin.action",
    "daemon.started",
    "daemon.stopping",
    "daemon.stalled",
    "store.degraded",
    "store.recovered",
    "store.set_aside",
    "webhook.failed",
];

/// Whether `kind` is `wanted`, or begins as one that ends in `.*` does; `*` is every kind.
#[must_use]
pub fn is_of_kind(kind: &str, wanted: &str) -> bool {
    match wanted.strip_suffix('*').filter(|start| start.is_empty() || start.ends_with('.')) {
        Some(start) => kind.starts_with(start),
        None => kind == wanted,
    }
}

labelled! {
    /// What is posted.
    WebhookFormat {
        /// The event as the API shows it.
        Json = "json",
        /// A text, for whoever takes Slack's messages.
        Slack = "slack",
        /// Alerts, for an Alertmanager.
        Alertmanager = "alertmanager",
    }
}

/// Where events are posted to. What stands behind the host may be a secret, and is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    /// Whether TLS is spoken.
    pub is_tls: bool,
    /// Whom to connect to.
    pub address: Address,
    /// The host, and the port if it was given: for the header `Host`.
    pub authority: String,
    /// The path and the query.
    pub path: String,
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, more) = (if self.is_tls { "https" } else { "http" }, if self.path == "/" { "" } else { "…" });
        write!(f, "{scheme}://{}/{more}", self.authority)
    }
}

impl std::str::FromStr for WebhookUrl {
    type Err = &'static str;

    /// The error does not repeat what was given.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let scheme = |name: &str| text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        let (is_tls, rest) = match () {
            () if scheme("https://") => (true, text.get(8..)),
            () if scheme("http://") => (false, text.get(7..)),
            () => return Err("is no URL of a webhook; it begins with https:// or http://"),
        };
        let rest = rest.unwrap_or_default();
        if rest.contains('#') || !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has a `#`, a blank or a letter that is not ASCII; write such bytes as %XX");
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("has a name or a password before an `@`, which is not sent; leave it out");
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.contains(']'));
        let port = if is_tls { 443 } else { 80 };
        let dialled = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
        let address: Address =
            dialled.parse().map_err(|_| "has no host that can be connected to; write https://HOST/PATH")?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { is_tls, address, authority: authority.to_owned(), path })
    }
}

/// `[webhooks.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookPlan {
    /// Its name.
    pub name: WebhookName,
    /// Where to.
    pub url: WebhookUrl,
    /// The kinds of events, such as `pool.down` or `pool.*`; never empty.
    pub kinds: Vec<String>,
    /// Those of these pools; all if there is none.
    pub pools: Vec<PoolName>,
    /// What they are signed with.
    pub secret: Option<Secret>,
    /// What is posted.
    pub format: WebhookFormat,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// An event that is older is given up when an attempt fails.
    pub give_up_after: Duration,
    /// Whose certificates are trusted, in PEM; none is the system's.
    pub ca_file: Option<PathBuf>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{EVENT_KINDS, WebhookUrl, is_of_kind};

    #[test]
    fn a_url_is_taken_apart_and_its_path_never_shown() {
        for (text, shown, address, path) in [
            (
                "https://hooks.example.net/T0/s3cret",
                "https://hooks.example.net/…",
                "hooks.example.net:443",
                "/T0/s3cret",
            ),
            ("HTTP://10.0.0.1:9093", "http://10.0.0.1:9093/", "10.0.0.1:9093", "/"),
            ("http://[::1]/api?s3cret=1", "http://[::1]/…", "[::1]:80", "/api?s3cret=1"),
            ("http://[::1]:81?x", "http://[::1]:81/…", "[::1]:81", "/?x"),
        ] {
            let url: WebhookUrl = text.parse().unwrap();
            assert_eq!(
                (url.to_string().as_str(), url.address.to_string().as_str(), url.path.as_str()),
                (shown, address, path)
            );
            assert!(!format!("{url:?}").contains("s3cret"));
        }
        for bad in [
            "",
            "ftp://a/b",
            "hooks.example.net",
            "https://",
            "https://a b/",
            "https://a/#b",
            "https://u:p@a/",
            "http://a:x/",
            "https://:80/",
        ] {
            assert!(bad.parse::<WebhookUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_kind_may_be_one_or_all_that_begin_so() {
        assert!(
            is_of_kind("pool.down", "pool.down") && is_of_kind("pool.down", "pool.*") && is_of_kind("pool.down", "*")
        );
        for other in ["pool.up", "pool", "poo*", "backend.*", ".*", ""] {
            assert!(!is_of_kind("pool.down", other), "{other}");
        }
        assert!(EVENT_KINDS.iter().all(|kind| kind.split('.').count() == 2));
    }
}
