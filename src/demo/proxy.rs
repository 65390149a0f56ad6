//! The real daemon, with a configuration that is written out for people and read as any other.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::config::{Document, OsSources};
use crate::daemon::{self, Daemon};
use crate::failover::Transition;
use crate::model::Address;

use super::report::Pool;

/// How long the first verdicts may take.
const READY: Duration = Duration::from_secs(10);
/// How long sessions that are still open at the end, by hand perhaps, may go on.
const DRAIN: Duration = Duration::from_millis(500);

/// A pool of the demo: its backends in the order of preference.
pub(super) type Backends<'a> = (Pool, &'a [(&'static str, SocketAddr)]);

/// The daemon; stopped when dropped.
pub(super) struct Proxy(Option<Daemon>);

impl Proxy {
    /// Writes the configuration to `file`, and starts the daemon by it.
    pub(super) fn start(
        file: &Path,
        pools: &[Backends<'_>],
        observer: impl FnMut(&Transition) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let text = configuration(pools);
        fs::write(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
        let document = Document::parse(&file.display().to_string(), &text, &OsSources)
            .map_err(|errors| anyhow::anyhow!("the demo's own configuration is wrong:\n{errors}"))?;
        let options = daemon::Options { observer: Some(Box::new(observer)), ..daemon::Options::default() };
        let proxy = Self(Some(daemon::start(document, options).context("the daemon cannot start")?));
        if !proxy.0.as_ref().is_some_and(|daemon| daemon.wait_ready(READY)) {
            bail!("the daemon has no verdict on every backend within {READY:?}");
        }
        Ok(proxy)
    }

    /// Where `pool`'s clients connect.
    pub(super) fn address(&self, pool: Pool) -> anyhow::Result<SocketAddr> {
        ip(self.0.as_ref().and_then(|daemon| daemon.listener_address(pool.name())))
    }

    /// Where the admin server listens.
    pub(super) fn admin(&self) -> anyhow::Result<SocketAddr> {
        ip(self.0.as_ref().and_then(Daemon::admin_address))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(daemon) = self.0.take() {
            daemon.stop(DRAIN);
        }
    }
}

fn ip(address: Option<Address>) -> anyhow::Result<SocketAddr> {
    match address {
        Some(Address::Ip(address)) => Ok(address),
        Some(Address::Name { .. } | Address::Unix(_)) | None => bail!("the daemon does not listen where it should"),
    }
}

/// The configuration file.
fn configuration(pools: &[Backends<'_>]) -> String {
    let mut text = String::from("# What `changeover demo` runs with.\n\n[admin]\nbind = \"127.0.0.1:0\"\n");
    for (pool, backends) in pools {
        let name = pool.name();
        text.push_str(&format!(
            "\n[listeners.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n\n\
             [pools.{name}.check]\ninterval = \"250ms\"\ntimeout = \"2s\"\n\n\
             [pools.{name}.failover]\nfailback_after = \"1s\"\n"
        ));
        for (index, (backend, address)) in backends.iter().enumerate() {
            let priority = index + 1;
            text.push_str(&format!(
                "\n[pools.{name}.backends.{backend}]\naddress = \"{address}\"\npriority = {priority}\n"
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::configuration;
    use crate::config::{self, OsSources};
    use crate::demo::report::Pool;

    #[test]
    fn the_configuration_says_the_order_of_preference() {
        let echo = [("alpha", "127.0.0.1:1001".parse().unwrap()), ("beta", "127.0.0.1:1002".parse().unwrap())];
        let pg = [("primary", "127.0.0.1:1003".parse().unwrap())];
        let text = configuration(&[(Pool::Echo, &echo), (Pool::Postgres, &pg)]);
        let plan = config::parse("demo.toml", &text, &OsSources).unwrap();
        assert_eq!(plan.pools.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["echo", "pg"]);
        assert_eq!(plan.listeners.len(), 2);
        let order: Vec<(&str, u32)> =
            plan.pools["echo"].backends.iter().map(|backend| (backend.name.as_str(), backend.priority)).collect();
        assert_eq!(order, [("alpha", 1), ("beta", 2)]);
    }
}
