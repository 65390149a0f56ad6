//! What tunnels need of this host: programs, keys and other files, and names that can be looked up.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use crate::config::{TunnelNeeds, VersionNeed};
use crate::model::{Filling, Text, TunnelPlan, quote, spoken};
use crate::sys::{Launch, Spawner, look_up, own_uid, runnable};

use super::super::Finding;
use super::super::backends::unresolved;
use super::SSH;

/// How long a program may take to tell its version, and a name to be looked up.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most of the answer that is read, in bytes.
const ANSWER_MAX: u64 = 4 << 10;
/// The longest version that is shown, in characters.
const VERSION_MAX: usize = 40;
/// The bits of a file's mode by which others than its owner do anything with it.
const FOR_OTHERS: u32 = 0o077;
/// The same of those who are not of its group either.
const FOR_ALL: u32 = 0o007;

/// All that is to be said of the programs of a tunnel.
pub(super) async fn programs(
    what: &str,
    tunnel: &TunnelPlan,
    needs: Option<&TunnelNeeds>,
    spawner: &Spawner,
) -> Vec<Finding> {
    let Some(program) = tunnel.program.as_ref().and_then(|program| program.argv.first()) else { return Vec::new() };
    let what = format!("{what}, program");
    let version = needs.and_then(|needs| needs.version.as_ref());
    let teller = version.and_then(|version| version.argv.first());
    let mut findings = Vec::new();
    let mut told = None;
    if let (Some(version), Some(name)) = (version, teller) {
        match runnable(&name.expose(Filling::default())) {
            Ok(_) => told = Some(asked(spawner, version).await),
            // It is told below, if it is the one that is run.
            Err(_) if name == program => {}
            Err(error) => {
                let found = format!("`{name}`, which tells the version, cannot be run: {error}");
                let mend = "install it, or set `program` in the tunnel's options to where it is";
                findings.push(Finding::warn(what.clone(), found, mend));
            }
        }
    }
    let path = match runnable(&program.expose(Filling::default())) {
        // What was looked up is not shown.
        Ok(_) if program.secrets().next().is_some() => program.to_string(),
        Ok(path) => path.display().to_string(),
        Err(error) => {
            findings.push(missing(what, program, &error, tunnel));
            return findings;
        }
    };
    findings.push(match told {
        None => Finding::ok(what, format!("it is {path}")),
        Some(Ok(version)) => Finding::ok(what, format!("it is {path}, {version}")),
        Some(Err(why)) => Finding::warn(
            what,
            format!("it is {path}, and its version is not known: {why}"),
            "see whether it is the program that is meant",
        ),
    });
    findings
}

fn missing(what: String, name: &Text, error: &std::io::Error, tunnel: &TunnelPlan) -> Finding {
    let mend = match &*tunnel.provider {
        "command" => "install it, or have `command` name it by its path".to_owned(),
        provider => {
            format!("install what has it ({provider}), or set `program` in the tunnel's options to where it is")
        }
    };
    Finding::fail(what, format!("`{name}` cannot be run: {error}"), mend)
}

/// What a program answers that is asked for its version.
async fn asked(spawner: &Spawner, need: &VersionNeed) -> Result<String, String> {
    let argv = need.argv.iter().map(|word| word.expose(Filling::default())).collect();
    let launch = Launch { argv, env: Vec::new(), file: None, connects: false, mark: "doctor".to_owned() };
    let answer = async {
        let mut child = spawner.spawn(launch).await.map_err(|error| format!("it {error}"))?;
        let unread = |error: std::io::Error| format!("its answer cannot be read: {error}");
        let output = child.output.take().ok_or_else(|| "it has no output".to_owned())?;
        let pipe = pipe::Receiver::from_owned_fd(output).map_err(unread)?;
        let mut answer = Vec::new();
        pipe.take(ANSWER_MAX).read_to_end(&mut answer).await.map_err(unread)?;
        Ok::<_, String>(String::from_utf8_lossy(&answer).into_owned())
    };
    // It is killed if it is late.
    let answer = timeout(PATIENCE, answer).await.map_err(|_| format!("no answer within {}", spoken(PATIENCE)))??;
    if let Some(version) = version(&answer, &need.after) {
        return Ok(format!("version {version}"));
    }
    let has_secrets = need.argv.iter().any(|word| word.secrets().next().is_some());
    match answer.lines().find(|line| !line.trim().is_empty()) {
        Some(line) if !has_secrets => Err(format!("it says {}", quote(line))),
        Some(_) => Err("what it says is none".to_owned()),
        None => Err("it says nothing".to_owned()),
    }
}

/// The version in an answer: what stands behind `after`, or else the first number with a full stop in it.
fn version<'a>(answer: &'a str, after: &str) -> Option<&'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_');
    let word = |text: &'a str| text.split(|c: char| !is_part(c)).next();
    let found = if after.is_empty() {
        let begins = |text: &&str| text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('.');
        let words = answer.split(|c: char| !is_part(c)).map(|text| text.strip_prefix('v').unwrap_or(text));
        words.map(|text| text.trim_end_matches('.')).find(begins)
    } else {
        answer.split_once(after).and_then(|(_, rest)| word(rest))
    };
    found.filter(|version| !version.is_empty() && version.len() <= VERSION_MAX)
}

/// Whether its files are there, and keys for nobody else to read.
pub(super) fn files(what: &str, tunnel: &TunnelPlan, needs: &TunnelNeeds) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (option, path) in &needs.keys {
        findings.push(key(format!("{what}, {option}"), path, &*tunnel.provider == SSH));
    }
    for (option, path) in &needs.paths {
        let what = format!("{what}, {option}");
        findings.push(match fs::metadata(path) {
            Ok(_) => Finding::ok(what, format!("{} is there", path.display())),
            Err(error) => {
                let mend = "name one that is there, unless its program makes it itself";
                Finding::warn(what, format!("{}: {error}", path.display()), mend)
            }
        });
    }
    findings
}

fn key(what: String, path: &Path, is_ssh: bool) -> Finding {
    let shown = path.display();
    let found = match File::open(path).and_then(|file| file.metadata()) {
        Ok(found) => found,
        Err(error) => {
            let mend = format!(
                "name a key that is there and that your user (uid {}) may read, as the daemon's has to",
                own_uid()
            );
            return Finding::fail(what, format!("{shown}: {error}"), mend);
        }
    };
    let mode = found.mode() & 0o7777;
    // So ssh itself judges: of another owner's file it asks nothing.
    if is_ssh && found.uid() == own_uid() && mode & FOR_OTHERS != 0 {
        let told = format!("{shown} is open to others (mode {mode:04o}), and ssh refuses such a key");
        Finding::fail(what, told, format!("chmod 600 {shown}"))
    } else if mode & FOR_ALL != 0 {
        let told = format!("everybody on this host may use {shown} (mode {mode:04o})");
        Finding::warn(what, told, format!("chmod 600 {shown}"))
    } else {
        Finding::ok(what, format!("{shown} can be read, and not by everybody (mode {mode:04o})"))
    }
}

/// Whether the hosts that it connects to can be looked up.
pub(super) async fn servers(what: &str, tunnel: &TunnelPlan, needs: &TunnelNeeds) -> Vec<Finding> {
    // The name is for the host between to look up.
    if &*tunnel.provider == SSH && after(tunnel, "-J").is_some() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (option, server) in &needs.servers {
        let host = host(server);
        if host.is_empty() || host.parse::<IpAddr>().is_ok() {
            continue;
        }
        let what = format!("{what}, {option}");
        findings.push(match timeout(PATIENCE, look_up(host, 0)).await {
            Ok(Ok(found)) if !found.is_empty() => {
                let all: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
                Finding::ok(what, format!("{host} is {}", all.join(", ")))
            }
            Ok(Ok(_)) => unresolved(what, host, "it has no address"),
            Ok(Err(error)) => unresolved(what, host, &error.to_string()),
            Err(_) => unresolved(what, host, &format!("no answer within {}", spoken(PATIENCE))),
        });
    }
    findings
}

/// The host of `HOST`, `HOST:PORT` or a URL.
pub(super) fn host(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let rest = rest.split(['/', '?']).next().unwrap_or(rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    if let Some((inside, _)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside;
    }
    match rest.split_once(':') {
        // More than one are an address of IPv6.
        Some((host, port)) if !port.contains(':') => host,
        Some(_) | None => rest,
    }
}

/// The word after `flag` on the command line of a tunnel's program.
pub(super) fn after(tunnel: &TunnelPlan, flag: &str) -> Option<String> {
    let argv = &tunnel.program.as_ref()?.argv;
    let at = argv.iter().position(|word| word.to_string() == flag)?;
    argv.get(at + 1).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::super::Level;
    use super::*;

    #[test]
    fn a_version_is_found_in_what_programs_answer() {
        for (answer, after, wanted) in [
            ("OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.19", "OpenSSH_", Some("9.2p1")),
            ("cloudflared version 2024.1.5 (built 2024)", "cloudflared version ", Some("2024.1.5")),
            ("0.52.3\n", "", Some("0.52.3")),
            ("chisel v1.10.1\n", "", Some("1.10.1")),
            ("a tool, 3rd of its kind. Version 1.2.", "", Some("1.2")),
            ("usage: tool", "", None),
            ("usage: tool", "tool_", None),
            ("", "", None),
        ] {
            assert_eq!(version(answer, after), wanted, "{answer}");
        }
    }

    #[test]
    fn the_host_is_found_in_what_servers_are_called() {
        for (server, wanted) in [
            ("bastion", "bastion"),
            ("bastion.example.net:22", "bastion.example.net"),
            ("wss://user@relay.example.net:443/path?x=1", "relay.example.net"),
            ("https://[2001:db8::1]:443/", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("", ""),
        ] {
            assert_eq!(host(server), wanted, "{server}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_fails_for_ssh_and_is_told_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "hunter2").unwrap();
        let level = |mode: u32, is_ssh: bool| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let finding = key("key".to_owned(), &path, is_ssh);
            assert!(
                finding.level == Level::Ok || finding.mend == format!("chmod 600 {}", path.display()),
                "{finding:?}"
            );
            assert!(!format!("{finding:?}").contains("hunter2"));
            finding.level
        };
        assert_eq!(
            [0o600, 0o400, 0o640, 0o644].map(|mode| level(mode, true)),
            [Level::Ok, Level::Ok, Level::Fail, Level::Fail]
        );
        assert_eq!([0o600, 0o640, 0o644].map(|mode| level(mode, false)), [Level::Ok, Level::Ok, Level::Warn]);
        let missing = key("key".to_owned(), &dir.path().join("none"), true);
        assert_eq!(missing.level, Level::Fail);
    }
}
