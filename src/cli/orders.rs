//! The commands that change something, and `explain`: what is asked of the daemon for each. What is printed is in
//! `told` and `explain`.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::model::{Address, SessionPolicy};

use super::client::Client;
use super::exit::CliError;
use super::{ClientArgs, connect, connect_by, encoded, explain as explained, print, told, warn};

/// The orders.
#[derive(Debug, Subcommand)]
pub enum OrderCommand {
    /// Serve a pool from another backend, and from it alone until `failback`
    Failover(FailoverArgs),
    /// Release a pool that is pinned: it serves from the best backends that are fit, at once
    Failback(PoolArgs),
    /// Give a backend no new sessions; those it has go by the pool's `drained` policy
    Drain(BackendArgs),
    /// Let a backend serve again after `drain` or `maintenance`
    Ready(BackendArgs),
    /// As drain, and its checks count for nothing: for work on its host
    Maintenance(BackendArgs),
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
    #[arg(value_name = "POOL")]
    pool: String,
}

/// Where to, and what becomes of the sessions.
#[derive(Debug, Args)]
pub struct FailoverArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The pool
    #[arg(value_name = "POOL")]
    pool: String,
    /// The backend that is to serve [default: the best of the other tiers, with all of its tier]
    #[arg(long, value_name = "BACKEND")]
    to: Option<String>,
    /// Why, for those who ask later: kept with the event and shown by `explain`
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// What becomes of the sessions of the backends that served [default: keep]
    #[arg(long, value_name = "POLICY")]
    sessions: Option<Sessions>,
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
    #[arg(value_name = "POOL")]
    pool: String,
    /// Resume by itself after this time, such as 30s or 5m [default: wait for `resume`]
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
}

/// Which backend.
#[derive(Debug, Args)]
pub struct BackendArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The backend
    #[arg(value_name = "POOL/BACKEND", value_parser = backend)]
    target: (String, String),
}

/// Which backend, or all of which pool.
#[derive(Debug, Args)]
pub struct TargetArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The backend, or the pool for all of them
    #[arg(value_name = "POOL[/BACKEND]", value_parser = target)]
    target: (String, Option<String>),
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

fn pool_path(pool: &str) -> String {
    format!("/api/v1/pools/{}", encoded(pool))
}

fn backend_path(pool: &str, backend: &str) -> String {
    format!("{}/backends/{}", pool_path(pool), encoded(backend))
}

/// Carries an order out and says what came of it.
pub(super) fn give(order: &OrderCommand) -> Result<(), CliError> {
    match order {
        OrderCommand::Failover(args) => failover(args),
        OrderCommand::Failback(args) => {
            let (client, path) = (by_socket(&args.client)?, pool_path(&args.pool));
            let event = client.post_ok(&format!("{path}/failback"), &json!({}))?;
            done(&args.client, &event, || Ok(told::failback(&args.pool, &client.get_ok(&path)?)))
        }
        OrderCommand::Drain(args) => admin_state(args, "drain"),
        OrderCommand::Ready(args) => admin_state(args, "ready"),
        OrderCommand::Maintenance(args) => admin_state(args, "maintenance"),
        OrderCommand::Pause(args) => {
            let path = format!("{}/pause", pool_path(&args.pool));
            let pool = by_socket(&args.client)?.post_ok(&path, &json!({ "timeout": args.timeout }))?;
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
    let answer = connect(&args.client)?.get_ok(&format!("{}/explain", pool_path(&args.pool)))?;
    show(&args.client, &answer, || Ok(explained::page(&answer)))
}

/// Only over a Unix socket may anything be changed.
fn by_socket(args: &ClientArgs) -> Result<Client, CliError> {
    connect_by(args, |address| matches!(address, Address::Unix(_)))
}

fn show(args: &ClientArgs, answer: &Value, words: impl FnOnce() -> Result<String, CliError>) -> Result<(), CliError> {
    if args.json { print(&format!("{answer:#}\n")) } else { print(&words()?) }
}

/// As `show`, of an order that a restart would forget also with a word on that.
fn done(args: &ClientArgs, answer: &Value, words: impl FnOnce() -> Result<String, CliError>) -> Result<(), CliError> {
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
    let order = json!({ "to": args.to, "reason": args.reason, "sessions": sessions.label() });
    let event = by_socket(&args.client)?.post_ok(&format!("{}/failover", pool_path(&args.pool)), &order)?;
    done(&args.client, &event, || Ok(told::failover(&event, args.to.as_deref(), sessions)))
}

fn admin_state(args: &BackendArgs, state: &str) -> Result<(), CliError> {
    let (pool, backend) = (&args.target.0, &args.target.1);
    let client = by_socket(&args.client)?;
    let answer = client.post_ok(&format!("{}/{state}", backend_path(pool, backend)), &json!({}))?;
    done(&args.client, &answer, || Ok(told::admin_state(pool, &answer, &client.get_ok(&pool_path(pool))?)))
}

fn targeted(args: &TargetArgs, order: &str, words: fn(&str) -> String) -> Result<(), CliError> {
    let (pool, backend) = (&args.target.0, args.target.1.as_deref());
    let (path, name) = match backend {
        Some(backend) => (backend_path(pool, backend), format!("{pool}/{backend}")),
        None => (pool_path(pool), format!("every backend of {pool}")),
    };
    let answer = by_socket(&args.client)?.post_ok(&format!("{path}/{order}"), &json!({}))?;
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
