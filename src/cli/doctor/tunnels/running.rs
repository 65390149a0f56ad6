//! Tunnels of a daemon that runs: it is asked how they fare. A second copy of their programs might break the first.

use serde_json::Value;

use crate::cli::views::{age, items};

use super::super::Finding;
use super::words::{About, mend};

/// How the tunnel of `pool/backend` fares, by what the daemon says of all `pools`, or why it does not.
pub(super) fn finding(
    what: String,
    (pool, backend): (&str, &str),
    pools: &Result<Value, String>,
    about: &About,
) -> Finding {
    let pools = match pools {
        Ok(pools) => pools,
        Err(why) => {
            let found = format!(
                "a daemon runs, so that it is not tried a second time, and that one does not tell how it fares: {why}"
            );
            return Finding::warn(what, found, "be root or the daemon's user, or see `changeover tunnel list`");
        }
    };
    let pool_of = items(&pools["pools"]).iter().find(|one| one["name"] == pool);
    let found = pool_of.and_then(|one| items(&one["backends"]).iter().find(|one| one["name"] == backend));
    let Some(tunnel) = found.map(|found| &found["tunnel"]).filter(|tunnel| tunnel.is_object()) else {
        let found = "the daemon that runs has no such tunnel: it has another configuration";
        return Finding::warn(what, found, "reload it (SIGHUP), and look at its log");
    };
    let state = tunnel["state"].as_str().unwrap_or_default();
    let mut found = format!("the daemon that runs says that it is {state}");
    if let Some(up) = tunnel["uptime_seconds"].as_f64() {
        found.push_str(&format!(", for {}", age(up)));
    }
    let reason = tunnel["reason"].as_str().filter(|reason| !reason.is_empty());
    if let Some(reason) = reason {
        found.push_str(&format!(": {reason}"));
    }
    if let Some(at) = tunnel["next_retry"].as_str() {
        found.push_str(&format!("; it is tried again at {at}"));
    }
    let name = format!("{pool}/{backend}");
    let known = reason.and_then(|reason| mend(&[reason.to_owned()], about));
    let mend = known.unwrap_or_else(|| format!("`changeover tunnel logs {name}` shows what it has said"));
    match state {
        "connected" => Finding::ok(what, found),
        "disconnected" => {
            Finding::warn(what, found, format!("`changeover tunnel start {name}`, if it is wanted again"))
        }
        "failed" => Finding::fail(what, found, mend),
        _ => Finding::warn(what, found, mend),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::Level;
    use super::*;

    fn told(pools: &Result<Value, String>) -> Finding {
        finding("tunnel home/a".to_owned(), ("home", "a"), pools, &About::default())
    }

    fn with(tunnel: Value) -> Finding {
        told(&Ok(json!({"pools": [{"name": "home", "backends": [{"name": "a", "tunnel": tunnel}]}]})))
    }

    #[test]
    fn a_daemons_word_is_told_with_its_reason_and_its_next_try() {
        let up = with(json!({"state": "connected", "uptime_seconds": 61.0, "reason": null, "next_retry": null}));
        assert_eq!(
            (up.level, up.found.as_str()),
            (Level::Ok, "the daemon that runs says that it is connected, for 1m")
        );
        let failed = with(json!({"state": "failed", "reason": "Permission denied (publickey).", "next_retry": "SOON"}));
        assert_eq!(failed.level, Level::Fail);
        assert!(
            failed.found.ends_with("it is failed: Permission denied (publickey).; it is tried again at SOON"),
            "{failed:?}"
        );
        assert!(failed.mend.contains("authorized_keys"), "{failed:?}");
        let other = with(json!({"state": "reconnecting", "reason": "exit status: 1"}));
        assert_eq!(other.level, Level::Warn);
        assert!(other.mend.contains("changeover tunnel logs home/a"), "{other:?}");
        let stopped = with(json!({"state": "disconnected"}));
        assert!(stopped.level == Level::Warn && stopped.mend.contains("changeover tunnel start home/a"), "{stopped:?}");
    }

    #[test]
    fn a_daemon_that_does_not_say_or_does_not_know_is_told() {
        assert!(with(Value::Null).found.contains("another configuration"));
        assert!(told(&Ok(json!({"pools": []}))).found.contains("another configuration"));
        let shut = told(&Err("you may not".to_owned()));
        assert!(shut.level == Level::Warn && shut.found.contains("you may not"), "{shut:?}");
    }
}
