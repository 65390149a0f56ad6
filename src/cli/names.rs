//! Names of pools and backends for a shell that completes: asked of the running daemon. Whoever presses Tab wants no error and
//! no wait, so that a daemon that is not there, or does not answer at once, has no names. For `changeover tunnel` there are
//! none but those behind tunnels: any other is refused.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::model::EVENT_KINDS;

use super::{DEFAULT_CONFIG, Reach, connect_by};

/// The longest that somebody who presses Tab waits.
const PATIENCE: Duration = Duration::from_millis(500);

/// Options after which nothing is their value.
const FLAGS: [&str; 3] = ["--json", "--yes", "--help"];

/// A pool.
pub(super) fn pool() -> ArgValueCompleter {
    ArgValueCompleter::new(|begun: &OsStr| offered(begun, |(pool, _)| vec![pool]))
}

/// A backend, without its pool's name: of the pool that stands on the line, or of any if none does.
pub(super) fn backend() -> ArgValueCompleter {
    ArgValueCompleter::new(|begun: &OsStr| {
        let of = pool_on(&words(std::env::args_os()));
        offered(begun, |(pool, backends)| if of.as_ref().is_none_or(|of| *of == pool) { backends } else { Vec::new() })
    })
}

/// A kind of event.
pub(super) fn kind() -> ArgValueCompleter {
    ArgValueCompleter::new(|begun: &OsStr| {
        let kinds = EVENT_KINDS.iter().filter(|kind| begun.to_str().is_some_and(|begun| kind.starts_with(begun)));
        kinds.map(CompletionCandidate::new).collect()
    })
}

/// A backend, with its pool's name.
pub(super) fn target() -> ArgValueCompleter {
    ArgValueCompleter::new(|begun: &OsStr| offered(begun, |(pool, backends)| full(&pool, backends)))
}

/// The same, or a pool.
pub(super) fn pool_or_target() -> ArgValueCompleter {
    ArgValueCompleter::new(|begun: &OsStr| {
        offered(begun, |(pool, backends)| {
            let backends = full(&pool, backends);
            std::iter::once(pool).chain(backends).collect()
        })
    })
}

fn full(pool: &str, backends: Vec<String>) -> Vec<String> {
    backends.into_iter().map(|backend| format!("{pool}/{backend}")).collect()
}

/// What of all that `names` makes of the pools goes on as it was begun.
fn offered(begun: &OsStr, names: impl Fn((String, Vec<String>)) -> Vec<String>) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return Vec::new() };
    let mut found: Vec<String> = known().into_iter().flat_map(names).filter(|name| name.starts_with(begun)).collect();
    found.sort();
    found.dedup();
    found.into_iter().map(CompletionCandidate::new).collect()
}

fn known() -> Vec<(String, Vec<String>)> {
    let words = words(std::env::args_os());
    let Ok(client) = connect_by(&reach(&words), |_| true) else { return Vec::new() };
    let client = client.within(PATIENCE);
    if !is_about_tunnels(&words) {
        return client.names().unwrap_or_default();
    }
    let mut known = client.names_of(|backend| backend["tunnel"].is_object()).unwrap_or_default();
    known.retain(|(_, backends)| !backends.is_empty());
    known
}

/// Whether the command of the line is for those alone that are behind a tunnel.
fn is_about_tunnels(words: &[String]) -> bool {
    words.get(1).is_some_and(|command| command == "tunnel")
}

/// The line that is being completed: it is all behind the first `--`.
fn words(given: impl Iterator<Item = OsString>) -> Vec<String> {
    let line = given.skip_while(|word| word != "--").skip(1);
    whole(line.filter_map(|word| word.into_string().ok()))
}

/// What `option` is given on the line.
fn value(words: &[String], option: &str) -> Option<String> {
    let apart = words.iter().position(|word| word == option).and_then(|at| words.get(at + 1)).map(String::as_str);
    let together = || words.iter().find_map(|word| word.strip_prefix(option)?.strip_prefix('='));
    apart.or_else(together).map(str::to_owned)
}

/// The pool that the line is about: that of `--pool`, or the one that `failover` is given.
fn pool_on(words: &[String]) -> Option<String> {
    let is_value = |before: &str| before.starts_with("--") && !before.contains('=') && !FLAGS.contains(&before);
    let is_failover = words.get(1).is_some_and(|command| command == "failover");
    let given = words.windows(2).skip(1).filter(|_| is_failover);
    let mut given = given.filter_map(|two| match two {
        [before, word] if !word.starts_with('-') && !is_value(before) => Some(word.clone()),
        _ => None,
    });
    value(words, "--pool").or_else(|| given.next()).filter(|pool| !pool.is_empty())
}

/// How to find the daemon, as far as that stands on the line.
fn reach(words: &[String]) -> Reach {
    let value = |option: &str| value(words, option);
    Reach {
        admin: value("--admin").or_else(|| std::env::var("CHANGEOVER_ADMIN").ok()),
        config: value("--config").map_or_else(|| PathBuf::from(DEFAULT_CONFIG), PathBuf::from),
        token_file: value("--token-file").map(PathBuf::from),
        ca_file: value("--ca-file").map(PathBuf::from),
        is_quiet: true,
    }
}

/// The words as they were written: bash takes them apart at each `:` and `=`.
fn whole(parts: impl Iterator<Item = String>) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut goes_on = false;
    for part in parts {
        let is_break = part == ":" || part == "=";
        match words.last_mut() {
            Some(last) if is_break || goes_on => last.push_str(&part),
            Some(_) | None => words.push(part),
        }
        goes_on = is_break;
    }
    words
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::{pool_on, words};

    fn reach(line: impl Iterator<Item = OsString>) -> super::Reach {
        super::reach(&words(line))
    }

    #[test]
    fn the_pool_is_the_one_that_the_line_is_about() {
        for (line, wanted) in [
            (&["failover", "orders", "--to", ""][..], Some("orders")),
            (&["failover", "--admin", "unix:/x", "--json", "orders", "--to", ""], Some("orders")),
            (&["failover", "-y", "--admin=unix:/x", "orders", "--to", "o"], Some("orders")),
            (&["failover", "--reason", "web", "--to", "o"], None),
            (&["sessions", "--pool", "web", "--backend", ""], Some("web")),
            (&["events", "--pool=web", "--backend", ""], Some("web")),
            (&["sessions", "--backend", ""], None),
        ] {
            let words: Vec<String> =
                std::iter::once("changeover").chain(line.iter().copied()).map(str::to_owned).collect();
            assert_eq!(pool_on(&words).as_deref(), wanted, "{line:?}");
        }
    }

    #[test]
    fn the_daemon_is_found_as_the_line_says_that_is_being_completed() {
        let line = ["changeover", "--", "changeover", "drain", "--admin", "unix:/x", "--config=/y", "ord"];
        let found = reach(line.into_iter().map(OsString::from));
        assert_eq!(found.admin.as_deref(), Some("unix:/x"));
        assert_eq!(found.config, Path::new("/y"));
        assert_eq!(found.token_file, None);
        let line =
            ["changeover", "--", "changeover", "drain", "--admin", "http", ":", "//127.0.0.1", ":", "7072", "ord"];
        let found = reach(line.into_iter().map(OsString::from));
        assert_eq!(found.admin.as_deref(), Some("http://127.0.0.1:7072"), "as bash takes it apart");
    }
}
