//! Floor 7: the commands that are not the daemon. Those that ask a running one talk HTTP and import nothing of it; `replay`
//! decides again by itself what a daemon has recorded.

mod client;
mod exit;
mod explain;
mod orders;
mod replay;
mod retelling;
mod table;
mod told;
mod views;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::config;
use crate::model::Address;

use client::Client;
pub use exit::{CliError, Exit};
pub use replay::{ReplayArgs, replay};

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
    /// Those that change something
    #[command(flatten)]
    Order(orders::OrderCommand),
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
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Only those of backends of this name
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// No more than this many, those that came first; up to 10000
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

/// How to find the daemon, and how to print.
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// The daemon's admin address: http://HOST:PORT or unix:PATH [default: the config's admin.bind]
    #[arg(long, env = "CHANGEOVER_ADMIN", value_name = "ADDRESS")]
    admin: Option<String>,
    /// The daemon's configuration file, for its admin address
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print JSON, for scripts
    #[arg(long)]
    json: bool,
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
        ClientCommand::Order(order) => orders::give(order),
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
        print(&format!("changeover at {}: {code}\n\n{}", client.address(), views::status(&pools)))
    }
}

fn listing(args: &ClientArgs, view: fn(&Value) -> String) -> Result<(), CliError> {
    let pools = connect(args)?.get_ok("/api/v1/pools")?;
    if args.json { print(&format!("{pools:#}\n")) } else { print(&view(&pools)) }
}

fn sessions(args: &SessionArgs) -> Result<(), CliError> {
    let filters = [("listener", &args.listener), ("pool", &args.pool), ("backend", &args.backend)];
    let filters = filters.iter().filter_map(|(key, name)| Some((key, name.as_ref()?)));
    let query: String = filters.map(|(key, name)| format!("&{key}={}", encoded(name))).collect();
    let path = format!("/api/v1/sessions?limit={}{query}", args.limit);
    let answer = connect(&args.client)?.get_ok(&path)?;
    if args.client.json { print(&format!("{answer:#}\n")) } else { print(&views::sessions(&answer)) }
}

/// `name` as a value in a query or one part of a path (RFC 3986, 3.3 and 3.4): whatever is not plain is written by its bytes.
fn encoded(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|b| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// By `--admin` or the environment, else by the configuration file, else at the default address.
fn connect(args: &ClientArgs) -> Result<Client, CliError> {
    connect_by(args, |_| true)
}

/// The same, where of the file's addresses the first that is `wanted` goes before the others.
fn connect_by(args: &ClientArgs, wanted: fn(&Address) -> bool) -> Result<Client, CliError> {
    if let Some(address) = &args.admin {
        return Client::new(address);
    }
    let file_is_meant = args.config.exists() || args.config != Path::new(DEFAULT_CONFIG);
    let address = if file_is_meant {
        let plan = config::load(&args.config).map_err(|errors| {
            CliError::Config(format!("{errors}\nto ask the daemon all the same, name it with --admin"))
        })?;
        let bind = &plan.admin.bind;
        bind.iter().find(|at| wanted(at)).or(bind.first()).map(client::dialable).unwrap_or_default()
    } else {
        format!("http://{}", config::default_admin_bind())
    };
    Client::new(&address)
}
