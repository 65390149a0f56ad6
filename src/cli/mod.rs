//! Floor 7: the commands that are not the daemon. Those that ask a running one talk HTTP and import nothing of it; `replay`
//! decides again by itself what a daemon has recorded, and `doctor` tries by itself what a daemon would do.

mod client;
mod colour;
mod doctor;
mod events;
mod exit;
mod explain;
mod follow;
mod foresight;
mod generated;
mod names;
mod orders;
mod replay;
mod retelling;
mod surroundings;
mod table;
mod token;
mod told;
mod top;
mod tunnel;
mod views;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::config::{self, AdminAt, AdminAtError};
use crate::model::Address;

use client::Client;
pub use doctor::{DoctorArgs, doctor};
pub use exit::{CliError, Exit};
pub use generated::{COMPLETE_VARIABLE, CompletionArgs, ManArgs, completions, man};
pub use replay::{ReplayArgs, replay};
pub use surroundings::help as surroundings;

/// Where the configuration lies if nobody says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/changeover/changeover.toml";

/// The commands that ask a running daemon.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// How the daemon and its pools stand, in a few lines
    Status(ClientArgs),
    /// One line a pool: its state, what serves, what stands by
    Pools(ClientArgs),
    /// One line a backend: its health, its sessions, and why it does not serve if it does not
    Backends(ClientArgs),
    /// One line a session: who is connected to what, for how long, and what has moved
    Sessions(SessionArgs),
    /// What happened, the newest last, and with --follow what happens
    Events(events::EventArgs),
    /// Those that change something
    #[command(flatten)]
    Order(orders::OrderCommand),
    /// The programs that lead to backends: how they fare, start, stop, what they have written
    #[command(subcommand)]
    Tunnel(tunnel::TunnelCommand),
    /// A full-screen live view, with keys to drain, fail over and explain
    Top(top::TopArgs),
    /// Why a pool's traffic goes where it goes, and where it would go if what serves failed now
    Explain(orders::PoolArgs),
}

/// Which sessions to show.
#[derive(Debug, Args)]
pub struct SessionArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Only those of this listener
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Only those of this pool
    #[arg(long, value_name = "NAME", add = names::pool())]
    pool: Option<String>,
    /// Only those of backends of this name
    #[arg(long, value_name = "NAME", add = names::backend())]
    backend: Option<String>,
    /// No more than this many, those that came first; up to 10000
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
}

/// How to find the daemon, and how to print.
#[derive(Debug, Args)]
pub struct ClientArgs {
    #[command(flatten)]
    reach: Reach,
    /// Print JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// How to find the daemon, and as whom.
#[derive(Debug, Args)]
pub struct Reach {
    /// The daemon's admin address: http://HOST:PORT, https://HOST:PORT or unix:PATH [default: the config's admin.bind]
    #[arg(long, env = "CHANGEOVER_ADMIN", value_name = "ADDRESS")]
    admin: Option<String>,
    /// The daemon's configuration file, for its admin address
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// A file with the token to present [default: what the environment's CHANGEOVER_TOKEN says, if it is set]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The certificates to trust at an https:// address, in PEM [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Whether nothing is said on standard error: while a shell completes, that is somebody's prompt.
    #[arg(skip)]
    is_quiet: bool,
}

/// Runs one client command.
///
/// # Errors
///
/// [`CliError`], which knows its exit code.
pub fn run(command: &ClientCommand) -> Result<(), CliError> {
    match command {
        ClientCommand::Status(args) => status(args),
        ClientCommand::Pools(args) => listing(args, views::pools),
        ClientCommand::Backends(args) => listing(args, views::backends),
        ClientCommand::Sessions(args) => sessions(args),
        ClientCommand::Events(args) => events::show(args),
        ClientCommand::Order(order) => orders::give(order),
        ClientCommand::Tunnel(command) => tunnel::run(command),
        ClientCommand::Top(args) => top::top(args),
        ClientCommand::Explain(args) => orders::explain(args),
    }
}

/// Validates the file at `path` and prints the plan as understood.
///
/// # Errors
///
/// Every error of the file.
pub fn check(path: &Path) -> Result<(), CliError> {
    let plan = config::load(path).map_err(|errors| CliError::Config(errors.to_string()))?;
    print(&config::describe(&plan).lines().map(table::wrapped).collect::<String>())
}

/// Prints the JSON schema of the configuration file.
///
/// # Errors
///
/// If standard output cannot be written.
pub fn schema() -> Result<(), CliError> {
    print(&format!("{:#}\n", config::json_schema()))
}

/// Writes to standard output. A reader that has read enough and gone, such as `head`, is no error.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::Internal(format!("standard output cannot be written: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The same of a table, in colour where that is wanted.
fn print_table(text: &str) -> Result<(), CliError> {
    if colour::is_wanted() { print(&colour::painted(text)) } else { print(text) }
}

/// Writes a line to standard error, beside what is asked for. If that cannot be, it is left out.
fn warn(text: &str) {
    let _nowhere_to_say_so = writeln!(io::stderr(), "{text}");
}

fn status(args: &ClientArgs) -> Result<(), CliError> {
    let client = connect(args)?;
    let ready = client.get("/readyz")?;
    let pools = client.get_ok("/api/v1/pools")?;
    let code = ready.body.get("code").and_then(Value::as_str).unwrap_or("ready").to_owned();
    if args.json {
        let status = json!({ "ready": ready.status == 200, "status": code, "pools": pools["pools"] });
        print(&format!("{status:#}\n"))
    } else {
        print_table(&format!("changeover at {}: {code}\n\n{}", client.address(), views::status(&pools)))
    }
}

fn listing(args: &ClientArgs, view: fn(&Value) -> String) -> Result<(), CliError> {
    let pools = connect(args)?.get_ok("/api/v1/pools")?;
    if args.json { print(&format!("{pools:#}\n")) } else { print_table(&view(&pools)) }
}

fn sessions(args: &SessionArgs) -> Result<(), CliError> {
    let filters = [("listener", &args.listener), ("pool", &args.pool), ("backend", &args.backend)];
    let filters = filters.iter().filter_map(|(key, name)| Some((key, name.as_ref()?)));
    let query: String = filters.map(|(key, name)| format!("&{key}={}", encoded(name))).collect();
    let path = format!("/api/v1/sessions?limit={}{query}", args.limit);
    let answer = connect(&args.client)?.get_ok(&path)?;
    if args.client.json { print(&format!("{answer:#}\n")) } else { print_table(&views::sessions(&answer)) }
}

/// `name` as a value in a query or one part of a path (RFC 3986, 3.3 and 3.4): whatever is not plain is written by its bytes.
fn encoded(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|b| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// By `--admin` or the environment, else by the configuration file, else at the default address.
fn connect(args: &ClientArgs) -> Result<Client, CliError> {
    connect_by(&args.reach, |_| true)
}

/// The same, where of the file's addresses the first that is `wanted` goes before the others.
fn connect_by(args: &Reach, wanted: fn(&Address) -> bool) -> Result<Client, CliError> {
    let (address, origin) = match &args.admin {
        Some(address) => (address.clone(), String::new()),
        None => configured(args, wanted)?,
    };
    let token = token::find(args.token_file.as_deref(), args.is_quiet)?;
    let client = Client::new(&address, args.ca_file.as_deref(), token)?.guessed(origin);
    if client.shows_token() && !args.is_quiet {
        warn(&format!(
            "changeover: the token goes to {address} unencrypted, for all on the way to read; use https:// or a tunnel"
        ));
    }
    Ok(client)
}

/// The admin address of the configuration file, or the default one where there is no file; and how it came about, if that is
/// worth a word to whoever finds nobody there.
fn configured(args: &Reach, wanted: fn(&Address) -> bool) -> Result<(String, String), CliError> {
    let file = args.config.display();
    if args.config == Path::new(DEFAULT_CONFIG) && is_missing(&args.config) {
        let origin = format!(
            " There is no {file}, so that the default address was asked: name the daemon's file with --config, or its \
             address with --admin"
        );
        return Ok((format!("http://{}", config::default_admin_bind()), origin));
    }
    let AdminAt { bind, is_tls } = config::admin_at(&args.config).map_err(|error| match error {
        AdminAtError::Denied(cause) => CliError::Unreadable(format!(
            "without --admin, where the daemon is stands in {file}, which cannot be read: {cause}"
        )),
        AdminAtError::Wrong(errors) => {
            CliError::Config(format!("{errors}\nto ask the daemon all the same, name it with --admin"))
        }
    })?;
    // Where TLS is spoken, whoever is on this host has it simpler by the socket: there is no certificate to trust.
    let is_simple = |at: &&Address| wanted(at) && (!is_tls || matches!(at, Address::Unix(_)));
    let bound = bind.iter().find(is_simple).or_else(|| bind.iter().find(|at| wanted(at))).or(bind.first());
    let origin = format!(" The address is that of {file}");
    Ok((bound.map(|bound| client::dialable(bound, is_tls)).unwrap_or_default(), origin))
}

/// Whether there is no such file. Of one behind a directory that we may not enter nobody knows.
fn is_missing(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{DEFAULT_CONFIG, Reach, configured, is_missing};

    #[test]
    fn a_file_that_nobody_can_look_for_is_not_taken_for_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_missing(&dir.path().join("none")));
        // Root may enter every directory, but no ring.
        let ring = dir.path().join("ring");
        std::os::unix::fs::symlink(&ring, &ring).unwrap();
        assert!(!is_missing(&ring.join("a.toml")));
    }

    fn reach(config: &str) -> Reach {
        Reach { admin: None, config: PathBuf::from(config), token_file: None, ca_file: None, is_quiet: true }
    }

    #[test]
    fn an_address_that_nobody_named_says_where_it_comes_from() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        let text = "[admin]\nbind = \"127.0.0.1:1\"\n[listeners.a]\nbind = \"127.0.0.1:2\"\npool = \"a\"\n\
                    [pools.a]\nbackends = [\"127.0.0.1:3\"]\n";
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        let (address, origin) = configured(&reach(&path), |_| true).unwrap();
        assert!(address == "http://127.0.0.1:1" && origin.contains(&path), "{address}{origin}");
        // Where this host has the default file, its own address stands there.
        let (_, origin) = configured(&reach(DEFAULT_CONFIG), |_| true).unwrap();
        assert!(origin.contains(DEFAULT_CONFIG), "{origin}");
    }
}
