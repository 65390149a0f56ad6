//! The command line: what was asked, who does it, and with which code it ends.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;

use changeover::cli::{self, ClientCommand, CompletionArgs, DEFAULT_CONFIG, DoctorArgs, Exit, ManArgs, ReplayArgs};
use changeover::control::RecordTo;
use changeover::daemon::{self, RunError, StartError};
use changeover::demo::{self, DemoArgs};
use changeover::store::StoreError;
use changeover::sys::{Signal, on_signals};
use changeover::tunnel;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::CompleteEnv;

/// The automatic changeover switch for TCP: a local proxy that moves new connections to a healthy
/// backend in milliseconds, and holds them while there is none.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Record every decision, and all that it is made by, to this file, which must not be there yet
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
        /// The most that the recording may have; then it ends, and the daemon goes on
        #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size, requires = "record")]
        record_max: u64,
    },
    /// Validate a configuration file: print every error, or else the plan as understood
    Check {
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Watch failover happen: the real daemon over backends that are killed and restored by turns
    Demo(DemoArgs),
    #[command(flatten)]
    Client(ClientCommand),
    /// Try everything that a configuration needs, and say what is missing and how to mend it
    ///
    /// What servers notice of it: each backend is checked once, as the daemon would check it, four at
    /// a time. To each PostgreSQL server the monitor logs in once, one server after the other: for that
    /// moment it takes one of max_wal_senders there (with session = "plain", one of max_connections).
    /// Each tunnel is started once, checked through and ended again, four at a time: an ssh server sees
    /// one login for each. Where the daemon runs, it is asked how they fare, and none is started.
    /// Nothing is written and nothing is listened to, but by programs of tunnels.
    #[command(verbatim_doc_comment)]
    Doctor(DoctorArgs),
    /// Decide a recording again, and show what was decided when and why
    Replay(ReplayArgs),
    /// Print the JSON schema of the configuration file
    Schema,
    /// Print the script by which a shell completes this command, names of pools and backends included
    Completions(CompletionArgs),
    /// Print the man page, or write those of all commands
    Man(ManArgs),
    /// A backend of the demo: says its name, then echoes; ends with its standard input
    #[command(hide = true)]
    DemoBackend {
        #[arg(long)]
        bind: SocketAddr,
        #[arg(long)]
        name: String,
    },
    /// What kills the tunnels of a daemon that was killed; ends with its standard input
    #[command(hide = true)]
    TunnelGuard,
}

fn main() -> ExitCode {
    // Ends the program if it is a shell that asks.
    CompleteEnv::with_factory(Cli::command).var(cli::COMPLETE_VARIABLE).complete();
    let command = Cli::command();
    let surroundings = cli::surroundings(&command);
    let given = command.after_help(surroundings).try_get_matches();
    let cli = match given.and_then(|given| Cli::from_arg_matches(&given)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command {
        Command::Run { config, record, record_max: max } => run(&config, record.map(|path| RecordTo { path, max })),
        Command::Check { config } => finish(cli::check(&config)),
        Command::Demo(args) => demo(&args),
        Command::Client(command) => finish(cli::run(&command)),
        Command::Doctor(args) => finish(cli::doctor(&args)),
        Command::Replay(args) => finish(cli::replay(&args)),
        Command::Schema => finish(cli::schema()),
        Command::Completions(args) => finish(cli::completions(&args, &Cli::command())),
        Command::Man(args) => finish(cli::man(&args, Cli::command())),
        Command::TunnelGuard => internal(tunnel::guard(io::stdin().lock()).map(|()| Exit::Done).map_err(Into::into)),
        Command::DemoBackend { bind, name } => internal(demo::backend::serve(bind, &name).map(|()| Exit::Done)),
    }
    .into()
}

/// The size in bytes that a text such as "64MiB" means.
fn size(text: &str) -> Result<u64, String> {
    changeover::config::bytes(text).map_err(|why| format!("`{text}` {why}"))
}

/// The code for a recording that cannot be begun: the file is named wrongly, or may not be written.
fn unrecorded(error: &StartError) -> Exit {
    match error {
        StartError::Record { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => Exit::Permission,
        StartError::Record { .. } => Exit::Usage,
        StartError::Bind { .. }
        | StartError::Credentials(_)
        | StartError::Thread(_)
        | StartError::Metrics(_)
        | StartError::Store(_) => Exit::Internal,
    }
}

/// Help and version are what was asked for; anything else is a wrong use.
fn usage(error: &clap::Error) -> ExitCode {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // Nobody reads on: then there is nobody to tell.
    let _unread = error.print();
    if asked_for { Exit::Done } else { Exit::Usage }.into()
}

fn run(config: &std::path::Path, record: Option<RecordTo>) -> Exit {
    match daemon::run(config, record) {
        Ok(()) => Exit::Done,
        Err(RunError::Config(errors)) => {
            complain(&errors.to_string());
            Exit::Config
        }
        Err(error @ RunError::Start(StartError::Bind { .. })) => unstarted(&error, config, Exit::Unavailable),
        Err(RunError::Start(error @ StartError::Record { .. })) => told(&error, unrecorded(&error)),
        Err(RunError::Start(StartError::Store(error))) => unstarted(&error, config, state_exit(&error)),
        Err(error @ (RunError::Start(_) | RunError::SetUp(_))) => told(&error, Exit::Internal),
        // The log has it: it was a daemon by then.
        Err(RunError::Died(_)) => Exit::Internal,
    }
}

/// Of a daemon that the host does not let start, why, and what finds out what else it lacks.
fn unstarted(error: &dyn std::error::Error, config: &std::path::Path, exit: Exit) -> Exit {
    let exit = told(error, exit);
    complain(&format!("  next: `changeover doctor --config {}` tries all that the file needs", config.display()));
    exit
}

/// With which code the daemon ends that cannot have its state.
fn state_exit(error: &StoreError) -> Exit {
    match error {
        StoreError::InUse { .. } => Exit::Unavailable,
        StoreError::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Permission,
        StoreError::Newer { .. } | StoreError::Open { .. } => Exit::Config,
        StoreError::Thread(_) => Exit::Internal,
    }
}

fn demo(args: &DemoArgs) -> Exit {
    let (stop, stopped) = mpsc::channel();
    let signals = on_signals(move |signal| signal != Signal::Terminate || stop.send(()).is_ok());
    internal(signals.map_err(Into::into).and_then(|()| {
        let all_served = demo::run(args.options(), &stopped)?;
        Ok(if all_served { Exit::Done } else { Exit::No })
    }))
}

fn finish(done: Result<(), cli::CliError>) -> Exit {
    match done {
        Ok(()) => Exit::Done,
        // These begin with the file's name and position, which editors and scripts look for.
        Err(cli::CliError::Config(errors)) => {
            complain(&errors);
            Exit::Config
        }
        Err(error @ cli::CliError::Differs(_)) => {
            complain(&error.to_string());
            error.exit()
        }
        Err(error) => told(&error, error.exit()),
    }
}

fn internal(done: anyhow::Result<Exit>) -> Exit {
    done.unwrap_or_else(|error| {
        complain(&format!("changeover: {error:#}"));
        Exit::Internal
    })
}

fn told(error: &dyn std::error::Error, exit: Exit) -> Exit {
    let mut said = format!("changeover: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        // Those that say why themselves say it with what to do about it.
        if !said.contains(&error.to_string()) {
            said.push_str(&format!("\n  because: {error}"));
        }
        cause = error.source();
    }
    complain(&said);
    exit
}

/// To standard error; if nobody listens there, the exit code says enough.
fn complain(line: &str) {
    let _unheard = writeln!(std::io::stderr(), "{line}");
}
