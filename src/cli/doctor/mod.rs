//! `changeover doctor`: tries everything that a configuration needs, as the daemon would, and says what is missing and how to mend
//! it. It changes nothing: it listens nowhere, and writes nothing. Programs of tunnels are started and ended again.

mod backends;
mod cluster;
mod host;
mod tunnels;
mod unit;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::config::{Document, OsSources, SourceError, Sources};
use crate::model::Plan;
use crate::sys::Clock;

use super::client::{Client, dialable};
use super::exit::CliError;
use super::table::wrapped_to;
use super::{DEFAULT_CONFIG, print, print_table};

/// The longest that the daemon's own answer is waited for.
const DAEMON_PATIENCE: Duration = Duration::from_secs(2);

/// The longest line that still fits behind its level, in characters.
const LINE_MAX: usize = 94;

/// Which configuration.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// As it should be.
    Ok,
    /// It works, and may not do so for long or not as well as it could.
    Warn,
    /// It does not work.
    Fail,
}

impl Level {
    const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    level: Level,
    /// What was tried: `backend orders/pg1`.
    what: String,
    /// What came of it.
    found: String,
    /// What to do about it; empty if nothing.
    mend: String,
}

impl Finding {
    fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), found: found.into(), mend: String::new() }
    }

    fn warn(what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Warn, what: what.into(), found: found.into(), mend: mend.into() }
    }

    fn fail(what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Fail, what: what.into(), found: found.into(), mend: mend.into() }
    }

    fn line(&self) -> String {
        let mend = if self.mend.is_empty() { String::new() } else { format!("; {}", self.mend) };
        // What comes from a server may have lines of its own.
        let said = format!("{}: {}{mend}", self.what, self.found).replace('\n', " ");
        let lines = wrapped_to(&said, LINE_MAX);
        let label = |at: usize| if at == 0 { self.level.label() } else { "" };
        lines.iter().enumerate().map(|(at, line)| format!("{:<4}  {line}\n", label(at))).collect()
    }

    fn json(&self) -> Value {
        let mend = (!self.mend.is_empty()).then_some(&self.mend);
        json!({ "level": self.level.label(), "what": self.what, "found": self.found, "mend": mend })
    }
}

/// The process's environment and files, with a list of the files that were read.
#[derive(Debug, Default)]
struct Noting {
    files: RefCell<BTreeSet<PathBuf>>,
}

impl Sources for Noting {
    fn env(&self, name: &str) -> Result<String, SourceError> {
        OsSources.env(name)
    }

    fn file(&self, path: &str) -> Result<String, SourceError> {
        self.files.borrow_mut().insert(PathBuf::from(path));
        OsSources.file(path)
    }
}

/// Tries everything, and prints what was found.
///
/// # Errors
///
/// If the configuration has errors, or anything else fails.
pub fn doctor(args: &DoctorArgs) -> Result<(), CliError> {
    let sources = Noting::default();
    let document = match Document::load_with(&args.config, &sources) {
        Ok(document) => document,
        Err(errors) => {
            if args.json {
                let what = format!("configuration {}", args.config.display());
                show(
                    &[Finding::fail(what, errors.to_string(), "mend the file; `changeover check` shows the same")],
                    true,
                )?;
            }
            return Err(CliError::Config(errors.to_string()));
        }
    };
    let (plan, needs) = (document.plan(), document.tunnel_needs());
    let mut findings = vec![understood(&args.config, plan)];
    let files = sources.files.into_inner();
    findings.extend(host::files(&args.config, &files));
    let (admin, running) = daemon(plan);
    findings.extend(admin);
    findings.extend(host::listeners(plan, running.is_some()));
    findings.extend(host::state(plan));
    findings.push(host::descriptors(plan));
    findings.push(host::clock());
    findings.extend(unit::findings(plan, needs));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Internal(error.to_string()))?;
    let clock = Clock::start();
    let pools = running.map(Running::pools);
    // Those that watch servers stay on their thread.
    findings.extend(tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut found = backends::findings(plan, clock).await;
        let (behind, logins) = tunnels::findings(plan, needs, pools, clock).await;
        found.extend(behind);
        found.extend(cluster::findings(plan, logins, clock).await);
        found
    }));
    show(&findings, args.json)?;
    let failed = findings.iter().filter(|finding| finding.level == Level::Fail).count();
    match failed {
        0 => Ok(()),
        1 => Err(CliError::Unfit("1 thing fails; what to do about it stands beside it".to_owned())),
        _ => Err(CliError::Unfit(format!("{failed} things fail; what to do about each stands beside it"))),
    }
}

fn show(findings: &[Finding], as_json: bool) -> Result<(), CliError> {
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let (warned, failed) = (count(Level::Warn), count(Level::Fail));
    if as_json {
        let all: Vec<Value> = findings.iter().map(Finding::json).collect();
        return print(&format!("{:#}\n", json!({ "findings": all, "warned": warned, "failed": failed })));
    }
    let lines: String = findings.iter().map(Finding::line).collect();
    print_table(&format!("{lines}\n{} ok, {warned} to look at, {failed} that fail\n", count(Level::Ok)))
}

fn understood(path: &Path, plan: &Plan) -> Finding {
    let backends: usize = plan.pools.values().map(|pool| pool.backends.len()).sum();
    let number = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let found = format!(
        "{}, {}, {}",
        number(plan.listeners.len(), "listener"),
        number(plan.pools.len(), "pool"),
        number(backends, "backend")
    );
    Finding::ok(format!("configuration {}", path.display()), found)
}

/// A daemon that runs.
enum Running {
    /// It answers.
    Answers(Client),
    /// It is not to be asked, for this reason.
    Silent(String),
}

impl Running {
    /// What it says of all pools, or why it does not.
    fn pools(self) -> Result<Value, String> {
        match self {
            Self::Answers(client) => client.get_ok("/api/v1/pools").map_err(|error| error.to_string()),
            Self::Silent(why) => Err(why),
        }
    }
}

/// Whether a daemon answers at the admin addresses, or may listen there. One that answers goes before one that does not.
fn daemon(plan: &Plan) -> (Vec<Finding>, Option<Running>) {
    let (mut findings, mut answers, mut silent) = (Vec::new(), None, None);
    for address in &plan.admin.bind {
        let what = format!("admin {address}");
        // The file may name port 0, where nobody can be asked.
        let (is_tls, trusted) = (plan.admin.tls.is_some(), plan.admin.tls.as_ref().map(|tls| &*tls.certificate));
        let client =
            Client::new(&dialable(address, is_tls), trusted, None).map(|client| client.within(DAEMON_PATIENCE));
        match client.and_then(|client| client.get("/readyz").map(|answer| (client, answer))) {
            Ok((client, answer)) => {
                let state = answer.body["status"].as_str().filter(|_| answer.status == 200);
                let state = state.or(answer.body["code"].as_str()).unwrap_or("no state that is known");
                findings.push(Finding::ok(what, format!("a daemon answers: {state}")));
                answers.get_or_insert(Running::Answers(client));
            }
            Err(CliError::Forbidden { cause, .. }) => {
                let mend = "be root or the daemon's user, or ask over TCP with a token";
                findings.push(Finding::warn(what, format!("somebody listens, and you may not ask: {cause}"), mend));
                silent.get_or_insert(Running::Silent(format!("you may not ask at {address}: {cause}")));
            }
            // Whoever speaks TLS there is running; the system's own trust would have done for a client.
            Err(CliError::Unreachable { cause, .. }) if is_tls && cause.starts_with("TLS: ") => {
                findings.push(Finding::ok(what, "a daemon answers over TLS".to_owned()));
                silent.get_or_insert(Running::Silent(format!("its certificate at {address} is not trusted here")));
            }
            Err(_) => findings.push(host::bindable(what, address, false)),
        }
    }
    (findings, answers.or(silent))
}
