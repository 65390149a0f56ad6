//! The commands that change something, and `explain`: what is asked of the daemon for each. What is printed is in
//! `told` and `explain`.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::model::{Address, SessionPolicy};

use super::client::Client;
use super::exit::CliError;
use super::{ClientArgs, connect, connect_by, encoded, explain as explained, foresight, names, print, told, warn};

/// The orders.
#[derive(Debug, Subcommand)]
pub enum OrderCommand {
    /// Serve a pool from another backend, and from it alone until `failback`
    Failover(FailoverArgs),
    /// Release a pool that is pinned: it serves from the best backends that are fit, at once
    Failback(PoolArgs),
    /// Give a backend no new sessions; those it has go by the pool's `drained` policy
    Drain(OutArgs),
    /// Let a backend serve again after `drain` or `maintenance`
    Ready(BackendArgs),
    /// As drain, and its checks count for nothing: for work on its host
    Maintenance(OutArgs),
    /// Let new clients of a pool wait; sessions that exist go on
    Pause(PauseArgs),
    /// Let the clients of a paused pool go on, in the order of their arrival
    Resume(PoolArgs),
    /// Forget every failure of a backend, or of all of a pool, and let its next check decide alone
    Reset(TargetArgs),
    /// Check a backend, or all of a pool, now
    Probe(TargetArgs),
}

/// Which pool.
#[derive(Debug, Args)]
pub struct PoolArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The pool
    #[arg(value_name = "POOL", add = names::pool())]
    pool: String,
}

/// Where to, and what becomes of the sessions.
#[derive(Debug, Args)]
pub struct FailoverArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The pool
    #[arg(value_name = "POOL", add = names::pool())]
    pool: String,
    /// The backend that is to serve [default: the best of the other tiers, with all of its tier]
    #[arg(long, value_name = "BACKEND", add = names::backend())]
    to: Option<String>,
    /// Why, for those who ask later: kept with the event and shown by `explain`
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// What becomes of the sessions of the backends that served [default: keep]
    #[arg(long, value_name = "POLICY")]
    sessions: Option<Sessions>,
    #[command(flatten)]
    consent: Consent,
}

/// Whether an order is given also if it is to be warned of.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Consent {
    /// Do not ask, also on a terminal and if nothing would serve afterwards: warn, and do it
    #[arg(long, short = 'y')]
    yes: bool,
}

/// What becomes of sessions.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sessions {
    /// They go on
    Keep,
    /// They may end by themselves within `drain_timeout`
    Drain,
    /// They are closed at once
    Close,
}

/// How long to pause.
#[derive(Debug, Args)]
pub struct PauseArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The pool
    #[arg(value_name = "POOL", add = names::pool())]
    pool: String,
    /// Resume by itself after this time, such as 30s or 5m [default: wait for `resume`]
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
}

/// Which backend.
#[derive(Debug, Args)]
pub struct BackendArgs {
    #[command(flatten)]
    pub(super) client: ClientArgs,
    /// The backend
    #[arg(value_name = "POOL/BACKEND", value_parser = backend, add = names::target())]
    pub(super) target: (String, String),
}

/// Which backend is to be taken out.
#[derive(Debug, Args)]
pub struct OutArgs {
    #[command(flatten)]
    of: BackendArgs,
    #[command(flatten)]
    consent: Consent,
}

/// Which backend, or all of which pool.
#[derive(Debug, Args)]
pub struct TargetArgs {
    #[command(flatten)]
    pub(super) client: ClientArgs,
    /// The backend, or the pool for all of them
    #[arg(value_name = "POOL[/BACKEND]", value_parser = target, add = names::pool_or_target())]
    pub(super) target: (String, Option<String>),
}

/// A backend's name may have slashes of its own, a pool's has none.
fn backend(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((pool, backend)) if !pool.is_empty() && !backend.is_empty() => Ok((pool.to_owned(), backend.to_owned())),
        Some(_) | None => Err("write POOL/BACKEND, such as orders/pg1".to_owned()),
    }
}

fn target(text: &str) -> Result<(String, Option<String>), String> {
    if text.contains('/') {
        return backend(text).map(|(pool, backend)| (pool, Some(backend)));
    }
    Ok((text.to_owned(), None))
}

pub(super) fn pool_path(pool: &str) -> String {
    format!("/api/v1/pools/{}", encoded(pool))
}

pub(super) fn backend_path(pool: &str, backend: &str) -> String {
    format!("{}/backends/{}", pool_path(pool), encoded(backend))
}

fn explain_path(pool: &str) -> String {
    format!("{}/explain", pool_path(pool))
}

/// Carries an order out and says what came of it.
pub(super) fn give(given: &OrderCommand) -> Result<(), CliError> {
    match given {
        OrderCommand::Failover(args) => failover(args),
        OrderCommand::Failback(args) => {
            let (client, path) = (by_socket(&args.client)?, pool_path(&args.pool));
            let event = client.post_ok(&format!("{path}/failback"), &json!({}))?;
            done(&args.client, &event, || Ok(told::failback(&args.pool, &client.get_ok(&path)?)))
        }
        OrderCommand::Drain(args) => take_out(args, "drain"),
        OrderCommand::Ready(args) => ready(args),
        OrderCommand::Maintenance(args) => take_out(args, "maintenance"),
        OrderCommand::Pause(args) => {
            let (path, timeout) = (format!("{}/pause", pool_path(&args.pool)), json!({ "timeout": args.timeout }));
            let pool = by_socket(&args.client)?.post_ok(&path, &timeout)?;
            done(&args.client, &pool, || Ok(told::paused(&pool, args.timeout.as_deref())))
        }
        OrderCommand::Resume(args) => {
            let path = format!("{}/resume", pool_path(&args.pool));
            let pool = by_socket(&args.client)?.post_ok(&path, &json!({}))?;
            done(&args.client, &pool, || Ok(told::resumed(&pool)))
        }
        OrderCommand::Reset(args) => targeted(args, "reset", told::reset),
        OrderCommand::Probe(args) => targeted(args, "check", told::probed),
    }
}

/// Why a pool's traffic goes where it goes.
pub(super) fn explain(args: &PoolArgs) -> Result<(), CliError> {
    let client = connect(&args.client)?;
    let answer = client.get_ok(&explain_path(&args.pool))?;
    show(&args.client, &answer, || Ok(explained::page(&answer)))
}

/// Over a Unix socket, if the file has one: there root and the daemon's own user need no token.
pub(super) fn by_socket(args: &ClientArgs) -> Result<Client, CliError> {
    connect_by(&args.reach, |address| matches!(address, Address::Unix(_)))
}

pub(super) fn show(
    args: &ClientArgs,
    answer: &Value,
    words: impl FnOnce() -> Result<String, CliError>,
) -> Result<(), CliError> {
    if args.json { print(&format!("{answer:#}\n")) } else { print(&words()?) }
}

/// As `show`, of an order that a restart would forget also with a word on that.
pub(super) fn done(
    args: &ClientArgs,
    answer: &Value,
    words: impl FnOnce() -> Result<String, CliError>,
) -> Result<(), CliError> {
    show(args, answer, words)?;
    if answer["durable"] == false {
        warn(told::NOT_DURABLE);
    }
    Ok(())
}

fn failover(args: &FailoverArgs) -> Result<(), CliError> {
    let sessions = match args.sessions {
        None | Some(Sessions::Keep) => SessionPolicy::Keep,
        Some(Sessions::Drain) => SessionPolicy::Drain,
        Some(Sessions::Close) => SessionPolicy::Close,
    };
    let (client, to) = (by_socket(&args.client)?, args.to.as_deref());
    confirm(&client, &args.pool, may_ask(&args.client, args.consent), |pool| foresight::moved(pool, to))?;
    let body = json!({ "to": to, "reason": args.reason, "sessions": sessions.label() });
    let event = client.post_ok(&format!("{}/failover", pool_path(&args.pool)), &body)?;
    done(&args.client, &event, || {
        let pool = client.get_ok(&pool_path(&args.pool))?;
        Ok(told::failover(&event, &pool, to, sessions))
    })
}

/// Whether somebody is there who reads the question and answers it: a script that reads what is printed may have the rest
/// of its streams on a terminal, and nobody in front of it.
pub(super) fn may_ask(args: &ClientArgs, consent: Consent) -> bool {
    let are_terminals = io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal();
    !consent.yes && !args.json && are_terminals
}

/// Warns of what would leave nobody to serve, and on a terminal asks whether it is meant: a script that drains is not kept
/// waiting. A daemon that does not say how the pool stands says more to the order itself.
pub(super) fn confirm(
    client: &Client,
    pool: &str,
    may_ask: bool,
    foreseen: impl Fn(&Value) -> Option<String>,
) -> Result<(), CliError> {
    let known = client.get(&pool_path(pool)).ok().filter(|answer| answer.status == 200);
    let Some(warning) = known.and_then(|answer| foreseen(&answer.body)) else { return Ok(()) };
    warn(&foresight::lines(&warning));
    if !may_ask {
        return Ok(());
    }
    let unheard = |error: io::Error| CliError::Internal(format!("the terminal cannot be used: {error}"));
    let mut asked = io::stderr();
    asked.write_all(b"Do it all the same? [y/N] ").and_then(|()| asked.flush()).map_err(unheard)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(unheard)?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) { Ok(()) } else { Err(CliError::Declined) }
}

fn take_out(args: &OutArgs, state: &str) -> Result<(), CliError> {
    let (pool, backend) = (&args.of.target.0, &args.of.target.1);
    let client = by_socket(&args.of.client)?;
    confirm(&client, pool, may_ask(&args.of.client, args.consent), |pool| foresight::without(pool, backend))?;
    let answer = client.post_ok(&format!("{}/{state}", backend_path(pool, backend)), &json!({}))?;
    done(&args.of.client, &answer, || Ok(told::taken_out(pool, &answer, &client.get_ok(&pool_path(pool))?)))
}

fn ready(args: &BackendArgs) -> Result<(), CliError> {
    let (pool, backend) = (&args.target.0, &args.target.1);
    let client = by_socket(&args.client)?;
    let answer = client.post_ok(&format!("{}/ready", backend_path(pool, backend)), &json!({}))?;
    done(&args.client, &answer, || {
        Ok(told::ready(pool, &answer, &client.get_ok(&pool_path(pool))?, &client.get_ok(&explain_path(pool))?))
    })
}

fn targeted(args: &TargetArgs, verb: &str, words: fn(&str) -> String) -> Result<(), CliError> {
    let (pool, backend) = (&args.target.0, args.target.1.as_deref());
    let (path, name) = match backend {
        Some(backend) => (backend_path(pool, backend), format!("{pool}/{backend}")),
        None => (pool_path(pool), format!("every backend of {pool}")),
    };
    let answer = by_socket(&args.client)?.post_ok(&format!("{path}/{verb}"), &json!({}))?;
    show(&args.client, &answer, || Ok(words(&name)))
}

#[cfg(test)]
mod tests {
    use super::{backend, target};

    #[test]
    fn a_target_is_a_pool_or_a_backend_whose_name_may_have_slashes() {
        let pair = |pool: &str, backend: &str| Ok((pool.to_owned(), backend.to_owned()));
        assert_eq!(backend("orders/pg1"), pair("orders", "pg1"));
        assert_eq!(backend("orders/unix:/run/pg"), pair("orders", "unix:/run/pg"));
        for bad in ["orders", "orders/", "/pg1", ""] {
            assert!(backend(bad).is_err(), "{bad}");
        }
        assert_eq!(target("orders"), Ok(("orders".to_owned(), None)));
        assert_eq!(target("orders/pg1"), Ok(("orders".to_owned(), Some("pg1".to_owned()))));
        assert!(target("orders/").is_err());
    }
}
