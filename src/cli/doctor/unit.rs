//! What systemd makes of the daemon's unit, where there is one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::config::TunnelNeeds;
use crate::model::{Plan, parse_duration, spoken};

use super::Finding;

/// The unit that is asked for.
const UNIT: &str = "changeover.service";
/// What is asked of it.
const PROPERTIES: &str = "LoadState,Type,NotifyAccess,LimitNOFILE,TimeoutStopUSec,StateDirectory,ProtectHome";
/// Directories that `ProtectHome=yes` hides (systemd.exec(5)).
const HOMES: &[&str] = &["/home", "/root", "/run/user"];
/// There where systemd is the service manager (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";

/// What there is to say of the unit; nothing where there is none.
pub(super) fn findings(plan: &Plan, needs: &[TunnelNeeds]) -> Vec<Finding> {
    if !Path::new(BOOTED).is_dir() {
        return Vec::new();
    }
    let asked = Command::new("systemctl").args(["show", UNIT, "--property", PROPERTIES]).output();
    asked.map(|answer| judged(&String::from_utf8_lossy(&answer.stdout), plan, needs)).unwrap_or_default()
}

fn judged(shown: &str, plan: &Plan, needs: &[TunnelNeeds]) -> Vec<Finding> {
    let values: BTreeMap<&str, &str> = shown.lines().filter_map(|line| line.split_once('=')).collect();
    let value = |key: &str| values.get(key).copied().unwrap_or_default();
    if value("LoadState") != "loaded" {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut fail = |found: String, mend: &str| findings.push(Finding::fail(UNIT, found, mend));
    if !value("Type").starts_with("notify") {
        let found = format!("Type={}: systemd does not learn when the daemon is ready", value("Type"));
        fail(found, "Type=notify, as systemd/changeover.service has it");
    }
    let limit: usize = value("LimitNOFILE").parse().unwrap_or(usize::MAX);
    if plan.daemon.max_sessions.saturating_mul(2) > limit {
        let found =
            format!("LimitNOFILE={limit} is less than two for each of max_sessions = {}", plan.daemon.max_sessions);
        fail(found, "raise it, or lower max_sessions");
    }
    if let Ok(stop) = parse_duration(value("TimeoutStopUSec")) {
        findings.extend(killed_early(stop, plan));
    }
    // `read-only` shows them.
    if matches!(value("ProtectHome"), "yes" | "true" | "tmpfs") {
        findings.extend(hidden(value("ProtectHome"), needs));
    }
    if value("StateDirectory").is_empty() && plan.daemon.store.state_dir.is_none() {
        findings.push(Finding::warn(
            UNIT,
            "it has no StateDirectory, and no state_dir is set",
            "StateDirectory=changeover",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(UNIT, "systemd knows it, and it is as the daemon needs it"));
    }
    findings
}

/// Whether systemd, which waits for so long until it kills, leaves no time to drain, and to end tunnels after that.
fn killed_early(stop: Duration, plan: &Plan) -> Option<Finding> {
    let drain = plan.daemon.drain_timeout;
    let tunnels = plan.pools.values().flat_map(|pool| pool.backends.iter().filter_map(|one| one.tunnel.as_ref()));
    let grace = tunnels.map(|tunnel| tunnel.stop_grace).max();
    if stop <= drain {
        let found = format!(
            "TimeoutStopSec is {}: sessions are killed before drain_timeout ({}) has gone by",
            spoken(stop),
            spoken(drain)
        );
        return Some(Finding::warn(UNIT, found, "let it be more than daemon.drain_timeout"));
    }
    let grace = grace.filter(|grace| stop <= drain + *grace)?;
    let found = format!(
        "TimeoutStopSec is {}: tunnels are killed before drain_timeout ({}) and the longest stop_grace ({}) have gone by",
        spoken(stop),
        spoken(drain),
        spoken(grace)
    );
    Some(Finding::warn(UNIT, found, "let it be more than both together"))
}

/// The files of tunnels that the daemon does not see.
fn hidden(protect: &str, needs: &[TunnelNeeds]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for need in needs {
        for (option, path) in need.keys.iter().chain(&need.paths) {
            if HOMES.iter().any(|home| path.starts_with(home)) {
                let TunnelNeeds { pool, backend, .. } = need;
                let path = path.display();
                let found =
                    format!("ProtectHome={protect} hides {path} ({option} of tunnel {pool}/{backend}) from the daemon");
                let mend = "move it to /etc/changeover, or set ProtectHome=read-only (`systemctl edit changeover`)";
                findings.push(Finding::warn(UNIT, found, mend));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::judged;
    use crate::config::{Document, OsSources, parse};

    #[test]
    fn a_unit_that_kills_before_the_drain_is_over_is_told() {
        let text = "[daemon]\nmax_sessions = 10000\n[listeners.a]\nbind = \"127.0.0.1:1\"\npool = \"a\"\n\
                    [pools.a]\nbackends = [\"127.0.0.1:2\"]\n";
        let plan = parse("a.toml", text, &OsSources).unwrap();
        let shown = |limit: &str, stop: &str, kind: &str| {
            format!(
                "LoadState=loaded\nType={kind}\nLimitNOFILE={limit}\nTimeoutStopUSec={stop}\nStateDirectory=changeover\n"
            )
        };
        let levels = |text: &str| judged(text, &plan, &[]).iter().map(|finding| finding.level).collect::<Vec<_>>();
        assert_eq!(levels(&shown("1048576", "45s", "notify")), [Level::Ok]);
        assert_eq!(levels(&shown("1048576", "5s", "notify")), [Level::Warn]);
        assert_eq!(levels(&shown("1024", "1min 30s", "simple")), [Level::Fail, Level::Fail]);
        assert_eq!(levels("LoadState=not-found\n"), []);
    }
    #[test]
    fn a_unit_that_kills_tunnels_or_hides_their_files_is_told() {
        let text = "[daemon]\ndrain_timeout = \"30s\"\n[listeners.a]\nbind = \"127.0.0.1:1\"\npool = \"a\"\n\
                    [pools.a.backends.b.tunnel]\nprovider = \"ssh\"\ntarget = \"db:1\"\nstop_grace = \"20s\"\n\
                    options = { host = \"h\", identity_file = \"/home/tun/key\", known_hosts = \"/etc/hosts.known\" }\n";
        let document = Document::parse("a.toml", text, &OsSources).unwrap();
        let told = |stop: &str, protect: &str| {
            let shown = format!(
                "LoadState=loaded\nType=notify\nTimeoutStopUSec={stop}\nStateDirectory=changeover\nProtectHome={protect}\n"
            );
            judged(&shown, document.plan(), document.tunnel_needs())
        };
        assert_eq!(told("1min", "read-only").first().unwrap().level, Level::Ok);
        let both = told("45s", "yes");
        assert_eq!(both.iter().map(|one| one.level).collect::<Vec<_>>(), [Level::Warn, Level::Warn]);
        assert!(both[0].found.contains("stop_grace (20s)"), "{both:?}");
        assert!(both[1].found.contains("/home/tun/key (identity_file of tunnel a/b)"), "{both:?}");
        assert!(told("10s", "no")[0].found.contains("sessions are killed"));
    }
}
