//! The files around the program say what the program relies on: the systemd unit, and the scripts.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The settings of the unit's `[Service]` section, in order.
fn service() -> io::Result<Vec<(String, String)>> {
    let unit = fs::read_to_string(path("systemd/changeover.service"))?;
    let section =
        unit.lines().skip_while(|line| *line != "[Service]").skip(1).take_while(|line| !line.starts_with('['));
    let settings = section.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    Ok(settings.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

fn values<'a>(settings: &'a [(String, String)], key: &str) -> Vec<&'a str> {
    settings.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn the_unit_has_the_lines_that_the_daemon_relies_on() -> io::Result<()> {
    let unit = service()?;
    let expected: &[(&str, &[&str])] = &[
        ("Type", &["notify"]),
        ("NotifyAccess", &["main"]),
        ("ExecStart", &["/usr/bin/changeover run --config /etc/changeover/changeover.toml"]),
        (
            "ExecReload",
            &["/usr/bin/changeover check --config /etc/changeover/changeover.toml", "/bin/kill -HUP $MAINPID"],
        ),
        ("Restart", &["on-failure"]),
        ("RestartPreventExitStatus", &["64 78"]),
        ("KillMode", &["mixed"]),
        ("LimitNOFILE", &["1048576"]),
        ("StateDirectory", &["changeover"]),
        ("RuntimeDirectory", &["changeover"]),
        ("ConfigurationDirectory", &["changeover"]),
        ("AmbientCapabilities", &["CAP_NET_BIND_SERVICE"]),
        ("CapabilityBoundingSet", &["CAP_NET_BIND_SERVICE"]),
        ("RestrictAddressFamilies", &["AF_INET AF_INET6 AF_UNIX AF_NETLINK"]),
        ("SystemCallFilter", &["@system-service"]),
    ];
    for (key, wanted) in expected {
        assert_eq!(values(&unit, key), *wanted, "{key}");
    }
    Ok(())
}

#[test]
fn the_unit_waits_longer_than_the_drain() -> io::Result<()> {
    let unit = service()?;
    let seconds: Vec<u64> = values(&unit, "TimeoutStopSec")
        .iter()
        .filter_map(|value| value.strip_suffix('s').and_then(|seconds| seconds.parse().ok()))
        .collect();
    assert!(
        matches!(seconds.as_slice(), [seconds] if *seconds > 30),
        "drain_timeout is 30s, TimeoutStopSec {seconds:?}"
    );
    Ok(())
}

#[test]
fn the_unit_sets_nothing_twice() -> io::Result<()> {
    let unit = service()?;
    for (key, _) in unit.iter().filter(|(key, _)| key != "ExecReload") {
        assert_eq!(values(&unit, key).len(), 1, "{key}");
    }
    Ok(())
}

#[test]
fn ci_runs_the_one_test_command_and_nothing_else() -> io::Result<()> {
    for script in ["tests/run", ".ci/run"] {
        let mode = fs::metadata(path(script))?.permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script} is not executable");
    }
    let ci = fs::read_to_string(path(".ci/run"))?;
    let commands: Vec<&str> = ci.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert_eq!(commands.last(), Some(&"exec ./tests/run"));
    assert_eq!(commands.len(), 3, "set, cd, exec: {commands:?}");
    Ok(())
}
