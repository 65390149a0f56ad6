//! What systemd makes of the daemon's unit, where there is one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::model::{Plan, parse_duration, spoken};

use super::Finding;

/// The unit that is asked for.
const UNIT: &str = "changeover.service";
/// What is asked of it.
const PROPERTIES: &str = "LoadState,Type,NotifyAccess,LimitNOFILE,TimeoutStopUSec,StateDirectory";
/// There where systemd is the service manager (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";

/// What there is to say of the unit; nothing where there is none.
pub(super) fn findings(plan: &Plan) -> Vec<Finding> {
    if !Path::new(BOOTED).is_dir() {
        return Vec::new();
    }
    let asked = Command::new("systemctl").args(["show", UNIT, "--property", PROPERTIES]).output();
    asked.map(|answer| judged(&String::from_utf8_lossy(&answer.stdout), plan)).unwrap_or_default()
}

fn judged(shown: &str, plan: &Plan) -> Vec<Finding> {
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
    let drain = plan.daemon.drain_timeout;
    if let Ok(stop) = parse_duration(value("TimeoutStopUSec"))
        && stop <= drain
    {
        let found = format!(
            "TimeoutStopSec is {}: sessions are killed before drain_timeout ({}) has gone by",
            spoken(stop),
            spoken(drain)
        );
        findings.push(Finding::warn(UNIT, found, "let it be more than daemon.drain_timeout"));
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

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::judged;
    use crate::config::{OsSources, parse};

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
        let levels = |text: &str| judged(text, &plan).iter().map(|finding| finding.level).collect::<Vec<_>>();
        assert_eq!(levels(&shown("1048576", "45s", "notify")), [Level::Ok]);
        assert_eq!(levels(&shown("1048576", "5s", "notify")), [Level::Warn]);
        assert_eq!(levels(&shown("1024", "1min 30s", "simple")), [Level::Fail, Level::Fail]);
        assert_eq!(levels("LoadState=not-found\n"), []);
    }
}
