//! What the host has to allow: addresses, files, room, descriptors, the clock.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::model::{Address, Plan};
use crate::sys::{descriptor_limit, directory, is_clock_set, may_bind, own_uid, unbound};

use super::Finding;

/// The bits of a file's mode by which everybody reads it.
const READ_BY_ALL: u32 = 0o004;
/// The bits by which everybody, or the group, writes to it.
const WRITTEN_BY_OTHERS: u32 = 0o022;
/// What may be shown, by the labels of PEM.
const PUBLIC: &[&str] = &["CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE", "PUBLIC KEY", "RSA PUBLIC KEY"];
/// The longest file that is looked into for that, in bytes: the bundles of systems have a fourth of it. Of a longer one it
/// is not known what is in it.
const PEM_MAX: u64 = 1 << 20;
/// Besides the history: what the state itself and its next copy take, in bytes.
const STATE_ROOM: u64 = 64 << 20;
/// With less than this, nothing can be kept.
const ROOM_MIN: u64 = 16 << 20;
/// What most crowds of clients fit in.
const SESSIONS_FEW: usize = 1_000;

/// The file itself, and those that it names for its values.
pub(super) fn files(config: &Path, named: &BTreeSet<PathBuf>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mode = |path: &Path| fs::metadata(path).map(|found| found.permissions().mode());
    if let Ok(mode) = mode(config)
        && mode & WRITTEN_BY_OTHERS != 0
    {
        let mend = format!("chmod go-w {}", config.display());
        let found = format!("others than its owner may write to it (mode {:04o})", mode & 0o7777);
        findings.push(Finding::warn(format!("configuration {}", config.display()), found, mend));
    }
    for path in named {
        let what = format!("file {}", path.display());
        match mode(path) {
            Ok(_) if is_public(path) => {
                findings.push(Finding::ok(what, "a certificate or public key: anybody may read it"))
            }
            Ok(mode) if mode & READ_BY_ALL != 0 => {
                let found = format!("everybody on this host may read it (mode {:04o})", mode & 0o7777);
                findings.push(Finding::warn(what, found, format!("if it is a secret: chmod o-rwx {}", path.display())));
            }
            Ok(mode) => findings
                .push(Finding::ok(what, format!("read by its owner and group alone (mode {:04o})", mode & 0o7777))),
            Err(error) => findings.push(Finding::fail(what, error.to_string(), "name a file that is there")),
        }
    }
    findings
}

/// Whether all that is in it is made to be shown: blocks of certificates and public keys in PEM (RFC 7468), and nothing
/// between them, where a password might be.
fn is_public(path: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(PEM_MAX + 1).read_to_end(&mut bytes));
    let is_whole = read.is_ok_and(|length| u64::try_from(length).is_ok_and(|length| length <= PEM_MAX));
    is_whole && String::from_utf8(bytes).is_ok_and(|text| has_only_public_blocks(&text))
}

fn has_only_public_blocks(text: &str) -> bool {
    let (mut inside, mut blocks) = (None, 0_usize);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let label = |prefix: &str| line.strip_prefix(prefix)?.strip_suffix("-----");
        inside = match (inside, label("-----BEGIN "), label("-----END ")) {
            (None, Some(begun), None) if PUBLIC.contains(&begun) => Some(begun),
            (Some(begun), None, Some(ended)) if begun == ended => {
                blocks += 1;
                None
            }
            (Some(begun), None, None) if line.bytes().all(is_base64) => Some(begun),
            _ => return false,
        };
    }
    inside.is_none() && blocks > 0
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

/// Whether the daemon may listen where its clients come.
pub(super) fn listeners(plan: &Plan, is_running: bool) -> Vec<Finding> {
    let all = plan.listeners.values().flat_map(|listener| listener.bind.iter().map(move |bind| (listener, bind)));
    all.map(|(listener, bind)| bindable(format!("listener {} {bind}", listener.name), bind, is_running)).collect()
}

/// Whether the daemon may listen at `address`, or does so.
pub(super) fn bindable(what: String, address: &Address, is_running: bool) -> Finding {
    match may_bind(address) {
        Ok(()) if is_running => {
            let mend = "reload it (SIGHUP), and look at its log";
            Finding::warn(what, "it is free, though a daemon runs: that one has another configuration", mend)
        }
        Ok(()) => Finding::ok(what, "it can be bound"),
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_running => {
            Finding::ok(what, "it is in use, by the daemon that runs")
        }
        Err(error) => Finding::fail(what, format!("it cannot be bound: {error}"), unbound(address, &error)),
    }
}

/// Whether state can be kept.
pub(super) fn state(plan: &Plan) -> Vec<Finding> {
    let store = &plan.daemon.store;
    let Some(path) = &store.state_dir else {
        let found = "none is named: orders, changes at run time and the history end with the process";
        let mend = "set daemon.state_dir, such as \"/var/lib/changeover\"; under systemd StateDirectory= does";
        return vec![Finding::warn("state_dir", found, mend)];
    };
    let what = format!("state_dir {}", path.display());
    let found = match directory(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return vec![to_be_made(what, path)],
        Err(error) => {
            return vec![Finding::fail(
                what,
                error.to_string(),
                "name a directory that the daemon's user may write to",
            )];
        }
    };
    let mut findings = Vec::new();
    let owner = found.owner;
    if !found.is_writable {
        let mend = format!("chown it to the daemon's user, or run this as that user: yours is {}", own_uid());
        findings.push(Finding::fail(what.clone(), format!("it is uid {owner}'s, and you may not write to it"), mend));
    } else if found.mode & WRITTEN_BY_OTHERS != 0 {
        let shown = format!("others than its owner may write to it (mode {:04o})", found.mode);
        findings.push(Finding::warn(what.clone(), shown, format!("chmod 0700 {}", path.display())));
    } else if owner != own_uid() {
        let shown = format!("you (uid {}) may write to it, but it is uid {owner}'s", own_uid());
        findings.push(Finding::ok(what.clone(), shown));
    } else {
        findings.push(Finding::ok(what.clone(), "it can be written to"));
    }
    findings.push(room(what, found.free, store.history_max_size));
    findings
}

/// The daemon makes the directory itself, where it may.
fn to_be_made(what: String, path: &Path) -> Finding {
    let above = path.ancestors().skip(1).find_map(|above| directory(above).ok().map(|found| (above, found)));
    match above {
        Some((_, found)) if found.is_writable => Finding::ok(what, "it is not there yet; the daemon makes it"),
        Some((above, _)) => {
            let mend = format!("mkdir -p {0} and chown it to the daemon's user", path.display());
            Finding::fail(what, format!("it is not there, and you may make nothing in {}", above.display()), mend)
        }
        None => Finding::fail(what, "it is not there", "name another directory"),
    }
}

fn room(what: String, free: u64, history: u64) -> Finding {
    let (mib, wanted) = (free >> 20, history.saturating_add(STATE_ROOM));
    let mend = "make room, or lower daemon.history_max_size";
    if free < ROOM_MIN {
        Finding::fail(what, format!("{mib} MiB are free, in which nothing can be kept"), mend)
    } else if free < wanted {
        Finding::warn(what, format!("{mib} MiB are free, and it may come to {} MiB", wanted >> 20), mend)
    } else {
        Finding::ok(what, format!("{mib} MiB are free, and it comes to no more than {} MiB", wanted >> 20))
    }
}

/// Whether there are descriptors for the sessions that are wanted: each takes two.
pub(super) fn descriptors(plan: &Plan) -> Finding {
    let limit = descriptor_limit().limit;
    let wanted = plan.daemon.max_sessions;
    // What is kept back for listeners, probes and the admin server is never more than a quarter.
    let sure = (limit - limit / 4) / 2;
    let what = "descriptors";
    let mend = "raise LimitNOFILE= of the unit, or `ulimit -Hn` of this shell";
    if limit == usize::MAX {
        Finding::ok(what, "there is no limit")
    } else if wanted.saturating_mul(2) > limit {
        let found = format!("the limit here is {limit}, and max_sessions = {wanted} takes two for each session");
        Finding::fail(what, found, format!("{mend}, or lower max_sessions"))
    } else if wanted > sure {
        let found = format!("the limit here is {limit}, which is near what max_sessions = {wanted} takes");
        Finding::warn(what, found, mend)
    } else if wanted == 0 && sure < SESSIONS_FEW {
        Finding::warn(what, format!("the limit here is {limit}, which is enough for {sure} sessions"), mend)
    } else {
        Finding::ok(what, format!("the limit here is {limit}, which is enough for {} sessions", wanted.max(sure)))
    }
}

/// Whether something keeps the clock right. Decisions need it for nothing; tokens, certificates and whoever reads events do.
pub(super) fn clock() -> Finding {
    let mend = "let chrony or systemd-timesyncd keep it: tokens, certificates and the times of events go by it";
    match is_clock_set() {
        Some(true) => Finding::ok("clock", "the kernel says that it is kept right"),
        Some(false) => Finding::warn("clock", "nothing keeps it right, as far as the kernel knows", mend),
        None => Finding::warn("clock", "the kernel does not say whether it is kept right", mend),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::Level;
    use super::{bindable, files, room};

    #[test]
    fn too_little_room_fails_before_it_is_full() {
        let level = |free: u64| room("state_dir /x".to_owned(), free, 64 << 20).level;
        assert_eq!(level(1 << 20), Level::Fail);
        assert_eq!(level(100 << 20), Level::Warn);
        assert_eq!(level(1 << 30), Level::Ok);
    }

    #[test]
    fn an_address_in_use_is_well_if_a_daemon_runs_and_fails_otherwise() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap().to_string().parse().unwrap();
        assert_eq!(bindable("listener a".to_owned(), &address, true).level, Level::Ok);
        let finding = bindable("listener a".to_owned(), &address, false);
        assert!(finding.level == Level::Fail && finding.mend.contains("ss -tlnp"), "{finding:?}");
    }

    #[test]
    fn a_secret_that_everybody_may_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "hunter2").unwrap();
        let level = |mode: u32| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let found = files(dir.path(), &[path.clone()].into());
            assert!(!format!("{found:?}").contains("hunter2"));
            found.last().unwrap().level
        };
        assert_eq!(level(0o600), Level::Ok);
        assert_eq!(level(0o640), Level::Ok);
        assert_eq!(level(0o644), Level::Warn);
        let pem = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        for (text, wanted) in [
            (pem("CERTIFICATE"), Level::Ok),
            (pem("CERTIFICATE").repeat(3), Level::Ok),
            (pem("PUBLIC KEY"), Level::Ok),
            (pem("PRIVATE KEY"), Level::Warn),
            (pem("EC PRIVATE KEY"), Level::Warn),
            (pem("CERTIFICATE") + &pem("RSA PRIVATE KEY"), Level::Warn),
            (String::new(), Level::Warn),
            (pem("CERTIFICATE").replace('\n', "\r\n") + "\r\n", Level::Ok),
            ("hunter2\n".to_owned() + &pem("CERTIFICATE"), Level::Warn),
            (pem("CERTIFICATE") + "hunter2\n", Level::Warn),
            (pem("CERTIFICATE").replace("AAAA", "AAAA\nhunter-2"), Level::Warn),
            (pem("CERTIFICATE").replace("-----END", "-----BEGIN"), Level::Warn),
            // What is behind so many of them was not looked at.
            (pem("CERTIFICATE").repeat(1 << 15), Level::Warn),
        ] {
            std::fs::write(&path, &text).unwrap();
            assert_eq!(level(0o644), wanted, "{text:.200}");
        }
    }
}
