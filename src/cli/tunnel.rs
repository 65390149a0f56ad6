//! `tunnel`: the programs that lead to backends, by the daemon's word.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{current, park_timeout};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::sys::on_end;

use super::client::Client;
use super::events::say;
use super::exit::CliError;
use super::foresight;
use super::orders::{BackendArgs, Consent, TargetArgs, backend_path, by_socket, confirm, done, may_ask, show};
use super::table::{layout, wrapped};
use super::views::{age, items, plight, reason, text, tried_at};
use super::{ClientArgs, connect, names, print, warn};

/// Lines that are shown before those that follow, unless the caller says otherwise.
const LINES: u16 = 100;
/// The most of them: a daemon keeps no more of a tunnel.
const LINES_MAX: u16 = 500;
/// How often it is asked for more.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What is to be done about tunnels.
#[derive(Debug, Subcommand)]
pub enum TunnelCommand {
    /// One line a tunnel: its state, its program, and when it is tried again if it is down
    List(ListArgs),
    /// Start a tunnel that was stopped, or try one that failed again now
    Start(TargetArgs),
    /// Stop a tunnel, also over restarts of the daemon, until it is started
    Stop(StopArgs),
    /// End the program of a tunnel and start it anew
    Restart(TargetArgs),
    /// What the program of a tunnel has written
    Logs(LogArgs),
    /// What the daemon runs for a tunnel, with all that its provider adds; secrets are not shown
    Explain(BackendArgs),
}

/// Which tunnels.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Only those of this pool
    #[arg(long, value_name = "POOL", add = names::pool())]
    pool: Option<String>,
}

/// Which tunnels are to be stopped.
#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    of: TargetArgs,
    #[command(flatten)]
    consent: Consent,
}

/// Which lines.
#[derive(Debug, Args)]
pub struct LogArgs {
    #[command(flatten)]
    of: BackendArgs,
    /// Go on with what is written from now on, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// No more than this many, the newest; up to 500
    #[arg(long, short = 'n', value_name = "N", default_value_t = LINES, value_parser = clap::value_parser!(u16).range(1..=i64::from(LINES_MAX)))]
    lines: u16,
}

/// Does it, and says what came of it.
pub(super) fn run(command: &TunnelCommand) -> Result<(), CliError> {
    match command {
        TunnelCommand::List(args) => list(args),
        TunnelCommand::Start(args) => each(args, "start"),
        TunnelCommand::Stop(args) => stop(args),
        TunnelCommand::Restart(args) => each(args, "restart"),
        TunnelCommand::Logs(args) => logs(args),
        TunnelCommand::Explain(args) => explain(args),
    }
}

fn path(pool: &str, backend: &str, what: &str) -> String {
    format!("{}/tunnel/{what}", backend_path(pool, backend))
}

/// The backends with tunnels, each with its pool's name.
fn tunnels<'a>(pools: &'a Value, pool: Option<&str>) -> Vec<(String, &'a Value)> {
    let wanted = items(&pools["pools"]).iter().filter(|one| pool.is_none_or(|pool| one["name"] == pool));
    let of = |pool: &'a Value| {
        let tunnels = items(&pool["backends"]).iter().filter(|backend| backend["tunnel"].is_object());
        tunnels.map(move |backend| (text(pool, "name"), backend))
    };
    wanted.flat_map(of).collect()
}

fn list(args: &ListArgs) -> Result<(), CliError> {
    let pools = connect(&args.client)?.get_ok("/api/v1/pools")?;
    let tunnels = tunnels(&pools, args.pool.as_deref());
    if args.client.json {
        let told = |(pool, backend): &(String, &Value)| json!({ "pool": pool, "backend": backend["name"], "health": backend["health"], "tunnel": backend["tunnel"] });
        let told: Vec<Value> = tunnels.iter().map(told).collect();
        return print(&format!("{:#}\n", json!({ "tunnels": told })));
    }
    print(&table(&tunnels))
}

/// A line a tunnel, and below them why those that are not connected are not.
fn table(tunnels: &[(String, &Value)]) -> String {
    let name = |(pool, backend): &(String, &Value)| format!("{pool}/{}", text(backend, "name"));
    let row = |of: &(String, &Value)| {
        let tunnel = &of.1["tunnel"];
        let up = tunnel["uptime_seconds"].as_f64().map_or_else(|| "-".to_owned(), age);
        let plain = ["state", "provider", "attach", "pid", "restarts"].map(|key| text(tunnel, key));
        std::iter::once(name(of)).chain(plain).chain([up]).collect()
    };
    let rows: Vec<Vec<String>> = tunnels.iter().map(row).collect();
    let mut told = layout(&["TUNNEL", "STATE", "PROVIDER", "ATTACH", "PID", "RESTARTS", "UP"], &rows);
    let reasons = tunnels.iter().filter_map(|of| {
        let said = plight(of.1, reason(of.1), tried_at).filter(|_| of.1["tunnel"]["state"] != "connected")?;
        Some(wrapped(&format!("{}: {said}", name(of))))
    });
    let reasons: String = reasons.collect();
    if !reasons.is_empty() {
        told.push('\n');
        told.push_str(&reasons);
        if tunnels.iter().any(|of| !matches!(of.1["tunnel"]["state"].as_str(), Some("connected" | "disconnected"))) {
            told.push_str("\n`changeover tunnel logs POOL/BACKEND` shows what a program has said.\n");
        }
    }
    told
}

/// The backends of `pool` (as the API shows it) that tunnels lead to.
fn all_of(pool: &Value) -> Vec<String> {
    let all = json!({ "pools": [pool] });
    tunnels(&all, None).iter().map(|(_, backend)| text(backend, "name")).collect()
}

/// The tunnels that are meant: one, or all of a pool.
fn meant(client: &Client, args: &TargetArgs) -> Result<Vec<String>, CliError> {
    let (pool, backend) = (&args.target.0, &args.target.1);
    if let Some(backend) = backend {
        return Ok(vec![backend.clone()]);
    }
    let names = all_of(&client.get_ok(&super::orders::pool_path(pool))?);
    if names.is_empty() {
        return Err(CliError::NoSuchName(format!("pool {pool} has no tunnel; `changeover tunnel list` lists them")));
    }
    Ok(names)
}

/// Gives the order for each, and goes on where one of several is so already.
fn each(args: &TargetArgs, order: &str) -> Result<(), CliError> {
    let client = by_socket(&args.client)?;
    let pool = &args.target.0;
    let mut refused = None;
    let names = meant(&client, args)?;
    for name in &names {
        match client.post_ok(&path(pool, name, order), &json!({})) {
            // What is done and over is nothing that a restart of the daemon could forget.
            Ok(backend) if order == "restart" => show(&args.client, &backend, || Ok(ordered(pool, &backend, order)))?,
            Ok(backend) => done(&args.client, &backend, || Ok(ordered(pool, &backend, order)))?,
            Err(CliError::Refused { status: 409, title, .. }) if names.len() > 1 => {
                warn(&format!("changeover: {title}"))
            }
            Err(error) if names.len() > 1 => {
                warn(&format!("changeover: {pool}/{name}: {error}"));
                refused = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    refused.map_or(Ok(()), Err)
}

fn stop(args: &StopArgs) -> Result<(), CliError> {
    let (pool, client) = (&args.of.target.0, by_socket(&args.of.client)?);
    let meant = |whole: &Value| match &args.of.target.1 {
        Some(backend) => vec![backend.clone()],
        None => all_of(whole),
    };
    let may_ask = may_ask(&args.of.client, args.consent);
    confirm(&client, pool, may_ask, |whole| foresight::without_all(whole, &meant(whole)))?;
    each(&args.of, "stop")
}

/// What came of an order.
fn ordered(pool: &str, backend: &Value, order: &str) -> String {
    let name = format!("{pool}/{}", text(backend, "name"));
    let state = text(&backend["tunnel"], "state");
    wrapped(&match order {
        "stop" if backend["durable"] == false => {
            format!("The tunnel of {name} is stopped. Next: `changeover tunnel start {name}`.")
        }
        "stop" => format!(
            "The tunnel of {name} is stopped, also after a restart of the daemon. Next: `changeover tunnel start {name}`."
        ),
        _ => format!("The tunnel of {name} is {state}. Next: `changeover tunnel list` shows how it fares."),
    })
}

fn explain(args: &BackendArgs) -> Result<(), CliError> {
    let (pool, backend) = (&args.target.0, &args.target.1);
    let answer = connect(&args.client)?.get_ok(&path(pool, backend, "explain"))?;
    show(&args.client, &answer, || Ok(text(&answer, "expansion")))
}

/// Shows what is kept and, if that is wanted, what comes.
fn logs(args: &LogArgs) -> Result<(), CliError> {
    let (pool, backend) = (&args.of.target.0, &args.of.target.1);
    let (client, is_json) = (connect(&args.of.client)?, args.of.client.json);
    let of = path(pool, backend, "logs");
    let page = client.get_ok(&format!("{of}?limit={}", args.lines))?;
    match (args.follow, is_json) {
        (true, _) => follow(&client, &of, page, is_json),
        (false, true) => print(&format!("{page:#}\n")),
        (false, false) => print(&written(&page, false)),
    }
}

/// Shows `page` and what is written after it, until interrupted, or until nobody reads on. A daemon that has gone is waited for.
fn follow(client: &Client, of: &str, mut page: Value, is_json: bool) -> Result<(), CliError> {
    let is_over = interruption()?;
    let mut is_lost = false;
    loop {
        if let ControlFlow::Break(()) = say(&written(&page, is_json))? {
            return Ok(());
        }
        let mut after = page["next"].as_u64().unwrap_or_default();
        page = loop {
            park_timeout(AGAIN_AFTER);
            if is_over.load(Ordering::Relaxed) {
                return Ok(());
            }
            match client.get_ok(&format!("{of}?limit={LINES_MAX}&after={after}")) {
                Ok(more) => {
                    if std::mem::take(&mut is_lost) {
                        warn("changeover: connected again");
                    }
                    if !items(&more["lines"]).is_empty() {
                        break more;
                    }
                    // The numbers of a daemon that was started anew begin anew.
                    after = more["next"].as_u64().unwrap_or_default().min(after);
                }
                Err(error) if error.is_passing() => {
                    if !std::mem::replace(&mut is_lost, true) {
                        warn(&format!("changeover: the connection is lost ({error}); trying again"));
                    }
                }
                Err(error) => return Err(error),
            }
        };
    }
}

/// Whether the command was interrupted; whoever waits then is woken.
fn interruption() -> Result<Arc<AtomicBool>, CliError> {
    let (is_over, waits) = (Arc::new(AtomicBool::new(false)), current());
    let told = Arc::clone(&is_over);
    let interrupt = move || {
        told.store(true, Ordering::Relaxed);
        waits.unpark();
        true
    };
    on_end(interrupt).map_err(|error| CliError::Internal(error.to_string()))?;
    Ok(is_over)
}

/// The lines of a page, one JSON object each for programs.
fn written(page: &Value, is_json: bool) -> String {
    let line = |line: &Value| {
        if is_json {
            return format!("{line}\n");
        }
        let time = text(line, "time");
        format!("{} {}\n", time.get(..23).unwrap_or(&time), text(line, "text"))
    };
    let gap = if page["gap"] == true && !is_json { "… what was written before is not kept any more\n" } else { "" };
    let lines: String = items(&page["lines"]).iter().map(line).collect();
    format!("{gap}{lines}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{table, tunnels, written};

    #[test]
    fn those_that_are_down_say_why_below_the_table() {
        let tunnel = |state: &str, reason: serde_json::Value| {
            json!({"state": state, "provider": "ssh", "attach": "listen", "pid": 7, "restarts": 2, "uptime_seconds": 61.0,
                "next_retry": "2026-11-21T10:00:00Z", "reason": reason})
        };
        let pools = json!({"pools": [
            {"name": "home", "backends": [
                {"name": "a", "tunnel": tunnel("connected", json!(null))},
                {"name": "b", "tunnel": tunnel("failed", json!("Permission denied (publickey)"))},
                {"name": "direct", "tunnel": null}]},
            {"name": "web", "backends": [{"name": "c", "reason": "no verdict yet: its tunnel is being set up", "tunnel": tunnel("connecting", json!(null))}]},
        ]});
        let all = table(&tunnels(&pools, None));
        assert_eq!(all.lines().filter(|line| line.contains("ssh")).count(), 3, "{all}");
        assert!(!all.contains("direct"), "{all}");
        let below = "\n\nhome/b: its tunnel has failed: Permission denied (publickey); it is tried again at 2026-11-21\n  10:00:00 UTC\n";
        assert!(all.contains(below), "{all}");
        assert!(
            all.contains("\nweb/c: no verdict yet: its tunnel is being set up; it is tried again at 2026"),
            "{all}"
        );
        assert!(all.ends_with("shows what a program has said.\n") && !all.contains("home/a: "), "{all}");
        assert_eq!(tunnels(&pools, Some("web")).len(), 1);
    }

    #[test]
    fn what_is_lost_before_a_line_is_told() {
        let page = json!({"lines": [{"id": 9, "time": "2026-11-21T10:00:00.123456Z", "text": "hello"}], "next": 9, "gap": true});
        let told = written(&page, false);
        assert_eq!(told, "… what was written before is not kept any more\n2026-11-21T10:00:00.123 hello\n");
        assert!(written(&page, true).starts_with("{\"id\":9"), "{}", written(&page, true));
    }
}
