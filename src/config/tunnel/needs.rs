//! What a tunnel needs of this machine, for whoever looks whether it is there before it is wanted.

use std::path::PathBuf;

use crate::model::{BackendName, PoolName, ProgramPlan, Text, Via};

use super::provider::{OptionKind, Provider};
use super::template::Known;
use super::words;

/// What a tunnel needs of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelNeeds {
    /// Its backend's pool.
    pub pool: PoolName,
    /// Its backend.
    pub backend: BackendName,
    /// How its program tells its version; none if no program is run, or it tells none.
    pub version: Option<VersionNeed>,
    /// Files that nobody else may read, by their option.
    pub keys: Vec<(String, PathBuf)>,
    /// Other files and directories, by their option.
    pub paths: Vec<(String, PathBuf)>,
    /// Whom it connects to, by the option: a host, with a port or as a URL if the provider takes that. None that was looked up.
    pub servers: Vec<(String, String)>,
}

/// How a program tells its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionNeed {
    /// The program and its arguments.
    pub argv: Vec<Text>,
    /// What stands before the version in the answer; nothing if the first number with a full stop in it is the version.
    pub after: String,
}

/// Those of a tunnel by `provider`.
pub(super) fn of(
    via: &Via,
    provider: &Provider,
    known: Known<'_>,
    program: Option<&ProgramPlan>,
    is_asked: bool,
) -> TunnelNeeds {
    let of_kind = |kind: OptionKind| {
        let about = provider.options.iter().filter(move |(name, option)| {
            option.kind == kind && provider.is_about(via.attach, name) && (program.is_some() || is_asked)
        });
        about.filter_map(|(name, _)| {
            let setting = known.settings.get(name).filter(|setting| !setting.is_hidden)?;
            Some((name.clone(), setting.text.clone()))
        })
    };
    let paths = |kind| of_kind(kind).map(|(name, path)| (name, PathBuf::from(path))).collect();
    let argv = words::fill(&provider.version, known);
    let version =
        (program.is_some() && !argv.is_empty()).then(|| VersionNeed { argv, after: provider.version_after.clone() });
    TunnelNeeds {
        pool: via.pool.clone(),
        backend: via.backend.clone(),
        version,
        keys: paths(OptionKind::Key),
        paths: paths(OptionKind::Path),
        servers: of_kind(OptionKind::Server).collect(),
    }
}
