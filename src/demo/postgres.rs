//! PostgreSQL's programs on this machine, and the account that may run its server.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use super::process::run;

/// Where Debian and its kin keep the programs of each version: `VERSION/bin`.
const PACKAGED: &str = "/usr/lib/postgresql";
/// What it takes.
const PROGRAMS: [&str; 5] = ["initdb", "postgres", "pg_ctl", "pg_basebackup", "psql"];
/// The account under which it is run where this process is root, which PostgreSQL refuses to run as.
const ACCOUNT: &str = "postgres";
/// How long the small programs asked here may take.
const SHORT: Duration = Duration::from_secs(5);

/// The programs, and how to run them.
#[derive(Debug, Clone)]
pub(super) struct Toolbox {
    bin: PathBuf,
    /// What to put before a program's path.
    prefix: Vec<String>,
    /// Where the programs run: a directory that their account may enter.
    home: PathBuf,
}

impl Toolbox {
    /// Finds the programs and prepares `home` for their account. The error says why there is no PostgreSQL here.
    pub(super) fn open(home: &Path) -> anyhow::Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let bin = find(Path::new(PACKAGED), &path).with_context(|| {
            format!("its programs ({}) are neither in the PATH nor in {PACKAGED}", PROGRAMS.join(", "))
        })?;
        fs::create_dir_all(home).with_context(|| format!("cannot make {}", home.display()))?;
        fs::set_permissions(home, fs::Permissions::from_mode(0o700))?;
        // What this process makes is owned by the account it has.
        let is_root = fs::metadata(home)?.uid() == 0;
        let mut prefix = Vec::new();
        let setpriv = run(Command::new("setpriv").arg("--help"), SHORT).unwrap_or_default();
        if setpriv.contains("--pdeathsig") {
            // SIGQUIT is the server's immediate shutdown: it follows this process, however that ends.
            prefix = ["setpriv", "--pdeathsig=QUIT"].map(str::to_owned).to_vec();
        }
        if is_root {
            if prefix.is_empty() {
                bail!("this is root, as whom PostgreSQL does not run, and there is no setpriv to become somebody else");
            }
            let (user, group) = (id("-u")?, id("-g")?);
            chown(home, Some(user), Some(group)).with_context(|| format!("cannot chown {}", home.display()))?;
            prefix.extend([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
        }
        if !prefix.is_empty() {
            prefix.push("--".to_owned());
        }
        Ok(Self { bin, prefix, home: home.to_owned() })
    }

    /// Where the programs are.
    pub(super) fn bin(&self) -> &Path {
        &self.bin
    }

    /// Where their account may write.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// `program` under the server's account.
    pub(super) fn server(&self, program: &str) -> Command {
        let path = self.bin.join(program);
        let mut command = match self.prefix.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(path);
                command
            }
            None => Command::new(path),
        };
        command.current_dir(&self.home);
        clean(&mut command);
        command
    }

    /// `psql` as this process's own account.
    pub(super) fn psql(&self) -> Command {
        let mut command = Command::new(self.bin.join("psql"));
        clean(&mut command);
        command
    }
}

/// No setting of the caller's for other servers reaches this one, and messages are in English.
fn clean(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C");
}

fn id(which: &str) -> anyhow::Result<u32> {
    let text = run(Command::new("id").args([which, ACCOUNT]), SHORT)
        .with_context(|| format!("this is root, as whom PostgreSQL does not run, and there is no account {ACCOUNT}"))?;
    text.trim().parse().with_context(|| format!("`id {which} {ACCOUNT}` says `{}`", text.trim()))
}

/// The directory that holds all the programs: the newest version under `packaged`, else the first of `path`.
fn find(packaged: &Path, path: &OsStr) -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(packaged)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let newest_first = versions.into_iter().rev().map(|(_, bin)| bin);
    newest_first.chain(env::split_paths(path)).find(|bin| PROGRAMS.iter().all(|name| is_program(&bin.join(name))))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::{PROGRAMS, find};

    fn fill(bin: PathBuf, programs: &[&str]) -> PathBuf {
        fs::create_dir_all(&bin).unwrap();
        for program in programs {
            fs::write(bin.join(program), "").unwrap();
            fs::set_permissions(bin.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        bin
    }

    #[test]
    fn the_newest_complete_version_is_found() {
        let root = tempfile::tempdir().unwrap();
        fill(root.path().join("9/bin"), &PROGRAMS);
        let newest = fill(root.path().join("16/bin"), &PROGRAMS);
        fill(root.path().join("17/bin"), &["psql", "pg_basebackup"]);
        fill(root.path().join("common/bin"), &PROGRAMS);
        assert_eq!(find(root.path(), OsStr::new("")), Some(newest));
    }

    #[test]
    fn the_path_is_looked_through_where_nothing_is_packaged() {
        let root = tempfile::tempdir().unwrap();
        let client_only = fill(root.path().join("client"), &["psql"]);
        let all = fill(root.path().join("all"), &PROGRAMS);
        let path = std::env::join_paths([&client_only, &all]).unwrap();
        assert_eq!(find(Path::new("/nonexistent"), &path), Some(all.clone()));
        fs::set_permissions(all.join("initdb"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(find(Path::new("/nonexistent"), &path), None);
    }
}
