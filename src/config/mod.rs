//! Floor 2: the configuration file becomes a [`crate::model::Plan`], or a list of everything
//! that is wrong with it, each with its line and column and what would be right.
//!
//! There is one table of keys (`keys`). The reader (`read`) walks the file along it; the JSON schema
//! and the reference file are printed from it. Files and the environment are read in `source` alone.
//! What is changed at run time lies over the file (`overlay`) and is read by the same reader.
//! Nothing here logs or prints, and no message shows a secret.

mod access;
mod admin_at;
mod callers;
mod check;
mod command;
mod conflict;
pub mod credentials;
mod describe;
mod document;
mod fault;
mod key;
mod keys;
mod listeners;
pub mod overlay;
mod pools;
mod postgres;
mod read;
mod reference;
mod schema;
mod snippet;
mod source;
mod text;
mod tunnel;
mod units;
mod value;
mod view;
mod webhooks;
mod wording;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::model::{Address, AdminPlan, DaemonPlan, LogPlan, Plan, StorePlan};

pub use admin_at::{AdminAt, AdminAtError, admin_at};
pub use describe::describe;
pub use document::Document;
pub use fault::{ConfigError, ConfigErrors};
pub use reference::reference;
pub use schema::json_schema;
pub use source::{OsSources, SourceError, Sources};
pub(crate) use tunnel::LOOKED_UP;
pub use tunnel::{TunnelNeeds, VersionNeed, explain_tunnel};
pub use units::bytes;

use fault::Faults;
use key::Preset;
use read::Reader;
use view::View;

/// Reads the configuration file at `path`, with the process's own environment and files.
///
/// # Errors
/// Everything that is wrong with it; a single error if it cannot be read at all.
pub fn load(path: &Path) -> Result<Plan, ConfigErrors> {
    let file = path.display().to_string();
    parse(&file, &read_text(path, &file)?, &OsSources)
}

/// The text of the configuration file at `path`, which messages call `file`.
fn read_text(path: &Path, file: &str) -> Result<String, ConfigErrors> {
    text_of(source::read(path, source::FILE_MAX).map_err(|error| unread(file, &error))?, file)
}

/// The error that the configuration file cannot be read.
fn unread(file: &str, error: &std::io::Error) -> ConfigErrors {
    let mend = if error.kind() == std::io::ErrorKind::NotFound {
        "create it, or name another one with --config"
    } else {
        "let the daemon's user read it, or name another one with --config"
    };
    ConfigErrors::whole(file, format!("cannot read the configuration: {error}; {mend}"))
}

/// What a file of these bytes says.
fn text_of(bytes: Vec<u8>, file: &str) -> Result<String, ConfigErrors> {
    if bytes.len() > source::FILE_MAX {
        let message = format!("the file is larger than {} MiB, which no configuration is", source::FILE_MAX >> 20);
        return Err(ConfigErrors::whole(file, message));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let mut faults = Faults::default();
        faults.syntax(at..at, "this is not UTF-8; save the file in that encoding".to_owned());
        faults.into_errors(file, &String::from_utf8_lossy(error.as_bytes()))
    })
}

/// Reads a configuration from `text`; `file` is what messages call it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(file: &str, text: &str, sources: &dyn Sources) -> Result<Plan, ConfigErrors> {
    parse_with_needs(file, text, sources).map(|(plan, _)| plan)
}

/// The same, and what its tunnels need of this machine.
fn parse_with_needs(file: &str, text: &str, sources: &dyn Sources) -> Result<(Plan, Vec<TunnelNeeds>), ConfigErrors> {
    if text.len() > source::FILE_MAX {
        let most = source::FILE_MAX >> 20;
        return Err(ConfigErrors::whole(
            file,
            format!("the text is larger than {most} MiB, which no configuration is"),
        ));
    }
    let mut reader = Reader::new(sources);
    let (tree, errors) = DeTable::parse_recoverable(text);
    reader.broken(&errors);
    let table = tree.into_inner();
    let plan = {
        let root = reader.root(&table);
        build(&mut reader, &root)
    };
    dismantle(table);
    if reader.faults.is_empty() { Ok((plan, reader.needs)) } else { Err(reader.faults.into_errors(file, text)) }
}

/// Where the admin server listens if no file says otherwise.
#[must_use]
pub const fn default_admin_bind() -> &'static str {
    match keys::ADMIN_BIND.preset {
        Preset::Text(address) => address,
        Preset::Required(_)
        | Preset::Optional(_)
        | Preset::Flag(_)
        | Preset::Integer(_)
        | Preset::Empty
        | Preset::Section => "",
    }
}

fn build(reader: &mut Reader<'_>, root: &View<'_>) -> Plan {
    let daemon = reader.table(root, &keys::DAEMON);
    let tcp_keepalive = units::keepalive(reader, &daemon);
    let daemon = DaemonPlan {
        workers: reader.get(&daemon, &keys::WORKERS),
        drain_timeout: reader.get(&daemon, &keys::DRAIN_TIMEOUT),
        max_sessions: reader.get(&daemon, &keys::MAX_SESSIONS),
        relay_buffer: reader.get(&daemon, &keys::RELAY_BUFFER),
        tcp_keepalive,
        store: store(reader, &daemon),
    };
    let log = reader.table(root, &keys::LOG);
    let log = LogPlan { format: reader.get(&log, &keys::LOG_FORMAT), level: reader.get(&log, &keys::LOG_LEVEL) };
    let admin_view = reader.table(root, &keys::ADMIN);
    let admin = listeners::binds(reader, &admin_view, &keys::ADMIN_BIND);
    tunnel::take_in(reader, root);
    let pools = pools::all(reader, root);
    let listeners = listeners::all(reader, root, &pools);
    let callers = callers::all(reader, &admin_view, &pools);
    conflict::binds(&mut reader.faults, &admin, &listeners);
    let webhooks = webhooks::all(reader, root, &pools);
    conflict::loops(&mut reader.faults, listeners.iter().map(|draft| &draft.plan), pools.values());
    let bind: Vec<Address> = admin.into_iter().map(|bind| bind.address).collect();
    conflict::doors(&mut reader.faults, &bind, pools.values());
    Plan {
        daemon,
        admin: AdminPlan { bind, ..callers },
        log,
        listeners: listeners.into_iter().map(|draft| (draft.plan.name.clone(), Arc::new(draft.plan))).collect(),
        pools: pools.into_iter().map(|(name, draft)| (name, Arc::new(draft.plan))).collect(),
        webhooks,
    }
}

/// Where state is kept: where the file says, else where systemd says, else nowhere.
fn store(reader: &mut Reader<'_>, daemon: &View<'_>) -> StorePlan {
    let state_dir = match reader.given::<PathBuf>(daemon, &keys::STATE_DIR) {
        Some(path) => Some(path),
        None if daemon.node(&keys::STATE_DIR).is_some() => None,
        None => reader.state_directory(),
    };
    StorePlan {
        state_dir,
        history_max_age: reader.get(daemon, &keys::HISTORY_MAX_AGE),
        history_max_size: reader.get(daemon, &keys::HISTORY_MAX_SIZE),
    }
}

/// Drops a tree level by level. Its own drop goes down once for every level, and dotted keys within
/// inline tables make 6,000 of them in spite of the parser's limit of 80 for each of the two: more
/// than 1 MiB of stack in a debug build, against less than 256 KiB this way.
fn dismantle(table: DeTable<'_>) {
    let mut rest: Vec<DeValue<'_>> = vec![DeValue::Table(table)];
    while let Some(value) = rest.pop() {
        match value {
            DeValue::Table(table) => rest.extend(table.into_iter().map(|(_, value)| value.into_inner())),
            DeValue::Array(list) => rest.extend(list.into_iter().map(toml::Spanned::into_inner)),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }
}
