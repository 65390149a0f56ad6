//! A tunnel that waits for its next try while the network changes around the daemon.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use support::namespace::Namespace;
use support::{DEADLINE, Daemon, changeover, wait_for, wait_until};

/// A tunnel whose program writes a line into `starts` and ends, and is tried again after ten minutes at the most.
fn config(socket: &str, starts: &Path) -> String {
    format!(
        "[admin]\nbind = \"{socket}\"\n[listeners.home]\nbind = \"127.0.0.1:0\"\npool = \"home\"\n\
         [pools.home.backends.far.tunnel]\nprovider = \"command\"\ntarget = \"127.0.0.1:9\"\n\
         command = [\"/bin/sh\", \"-c\", \"echo {{local_port}} >> {}; exit 1\"]\n\
         retry_initial = \"600s\"\nretry_max = \"600s\"\n",
        starts.display()
    )
}

#[test]
fn a_tunnel_that_waits_is_tried_as_soon_as_the_network_has_changed() {
    // By itself it is not tried again before the test has given up.
    const FAR: Duration = Duration::from_secs(120);
    assert!(FAR >= DEADLINE * 2);
    let Some(namespace) = Namespace::make() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (socket, file) = (format!("unix:{}", dir.path().join("admin").display()), dir.path().join("starts"));
    let _daemon = Daemon::start_inside(&config(&socket, &file), &namespace);
    let starts = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
    let tunnel = || {
        let ended = changeover(&["tunnel", "list", "--json", "--admin", &socket]);
        let list: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        list["tunnels"][0]["tunnel"].clone()
    };
    // How long it waits is drawn: it is set up anew until that is long.
    let (mut begun, mut drawn) = (0, 0);
    loop {
        let wait = wait_for("it waits for its next try", DEADLINE, || {
            let now = tunnel();
            (starts() > begun).then_some(())?;
            let next: Timestamp = now["next_retry"].as_str()?.parse().ok()?;
            Some(next.duration_since(Timestamp::now()))
        });
        begun = starts();
        if wait > SignedDuration::try_from(FAR).unwrap() {
            break;
        }
        drawn += 1;
        assert!(drawn < 100, "it never waits long: {wait:?}");
        assert_eq!(changeover(&["tunnel", "restart", "home/far", "--admin", &socket]).code, Some(0));
    }
    namespace.add_interface("lan0");
    wait_until("it is tried again", DEADLINE, || starts() > begun);
}
