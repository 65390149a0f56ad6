//! What people read after an order: what happened, and what to do next.

use serde_json::Value;

use crate::model::{SessionPolicy, parse_duration, spoken};

use super::explain::moment;
use super::table::wrapped;
use super::views::{hold, items, names, reason, text};

/// Said of an order that is in force and would not outlive a restart.
pub(super) const NOT_DURABLE: &str =
    "changeover: not written to disk: a restart forgets it; daemon.state_dir is not set, or its disk fails";

fn lines(list: &[String]) -> String {
    list.iter().map(|line| wrapped(line)).collect()
}

fn serves(pool: &Value) -> bool {
    pool["active"].as_array().is_some_and(|active| !active.is_empty())
}

/// Who serves a pool now, and what new clients get if nobody does.
fn serving(pool: &Value) -> String {
    let name = text(pool, "name");
    if serves(pool) {
        format!("{name} serves from {} now", names(pool, "active"))
    } else {
        format!("nothing serves {name} now; `changeover explain {name}` says what clients get, and why")
    }
}

/// `to` is who was asked for: of a cluster that may be one that cannot serve before it is promoted. Nor does an order decide there
/// what becomes of the sessions of whoever is the primary no more.
pub(super) fn failover(event: &Value, whole: &Value, to: Option<&str>, sessions: SessionPolicy) -> String {
    let (pool, from) = (text(event, "pool"), event["from"].as_str());
    let (is_cluster, waits) = (whole["kind"] == "postgres", event["to"].is_null() && to.is_some());
    let (to, mut told) = match (event["to"].as_str(), to) {
        (None, Some(to)) => {
            let waits = "those who write wait until it is, for as long as `hold`";
            (to.to_owned(), vec![format!("{pool} is pinned to {to}, which is not the primary yet: {waits}.")])
        }
        (Some(_), _) | (None, None) => {
            let to = text(event, "to");
            let serves = format!("{pool} serves from {to} now, and from nothing else: it is pinned.");
            (to, vec![serves])
        }
    };
    if let Some(from) = from.filter(|from| *from != to) {
        told.push(match sessions {
            SessionPolicy::Keep if waits => {
                format!("Sessions on {from} go on until {to} is the primary; then they go by the `demoted` policy.")
            }
            SessionPolicy::Keep | SessionPolicy::Drain if is_cluster && !waits => {
                format!("Sessions on {from} go by the `demoted` policy: it is not the primary any more.")
            }
            SessionPolicy::Keep => format!("Sessions on {from} go on; --sessions drain or close would end them."),
            SessionPolicy::Drain => format!("Sessions on {from} may end by themselves within drain_timeout."),
            SessionPolicy::Close => format!("Sessions on {from} are closed."),
        });
    }
    told.push(format!("Next: `changeover failback {pool}` releases it; until then nothing takes over if {to} fails."));
    lines(&told)
}

pub(super) fn failback(name: &str, pool: &Value) -> String {
    let mut told = vec![format!("{name} is released: {}.", serving(pool))];
    if serves(pool) {
        told.push(format!("Next: nothing. `changeover explain {name}` says what happens from here on."));
    }
    lines(&told)
}

/// After `drain` or `maintenance`.
pub(super) fn taken_out(pool: &str, backend: &Value, whole: &Value) -> String {
    let name = format!("{pool}/{}", text(backend, "name"));
    let sessions = text(backend, "sessions");
    let (happened, next) = if backend["admin_state"] == "maintenance" {
        (
            format!("{name} is in maintenance: it gets no new sessions, and its checks count for nothing."),
            format!("Next: `changeover ready {name}` when the work is done."),
        )
    } else {
        (
            format!("{name} drains: it gets no new sessions; the {sessions} it has go by the `drained` policy."),
            format!(
                "Next: `changeover sessions --pool {pool}` shows who is left; `changeover ready {name}` takes it back."
            ),
        )
    };
    lines(&[happened, format!("{}.", serving(whole)), next])
}

/// After `ready`; `explained` says whether the backend is waited for, and until when.
pub(super) fn ready(pool: &str, backend: &Value, whole: &Value, explained: &Value) -> String {
    let own = text(backend, "name");
    let name = format!("{pool}/{own}");
    // How it stood when the answer was made: since then it may have begun to serve.
    let now = items(&whole["backends"]).iter().find(|one| one["name"] == *own).unwrap_or(backend);
    let (happened, next) = if now["eligible"] != true {
        (
            format!("{name} is ready, but not fit to serve yet: {}.", text(now, "reason")),
            format!("Next: `changeover probe {name}` checks it now; `changeover explain {pool}` says what is missing."),
        )
    } else {
        let next = if now["active"] == true { None } else { way_back(&own, now, explained) };
        (format!("{name} is ready and may serve."), next.unwrap_or_else(|| "Next: nothing.".to_owned()))
    };
    lines(&[happened, format!("{}.", serving(whole)), next])
}

/// What a backend that may serve, and does not, is waited for.
fn way_back(name: &str, backend: &Value, explained: &Value) -> Option<String> {
    let of = |rule: &str| {
        let is_it =
            |applied: &&Value| applied["rule"] == rule && applied["detail"].as_str().is_some_and(|d| d.contains(name));
        items(&explained["rules"]).iter().find(is_it)
    };
    if let Some(due) = of("stable_time") {
        let when = due["at"].as_str().map(|at| format!(": {}", moment(at, explained))).unwrap_or_default();
        return Some(format!("Next: nothing. {}{when}.", text(due, "detail")));
    }
    if let Some(manual) = of("manual_failback") {
        return Some(format!("Next: {}.", text(manual, "detail")));
    }
    reason(backend).map(|reason| format!("Next: nothing. It does not serve now: {reason}."))
}

pub(super) fn paused(pool: &Value, timeout: Option<&str>) -> String {
    let name = text(pool, "name");
    let limit = timeout.map_or_else(|| "until it is resumed".to_owned(), |time| format!("for {time} at most"));
    let mut told = vec![format!("{name} is paused: new clients wait, {limit}; sessions that exist go on.")];
    let pause = timeout.and_then(|time| parse_duration(time).ok());
    if let Some(hold) = hold(pool).filter(|hold| pause.is_none_or(|pause| pause > *hold)) {
        told.push(format!("None waits longer than {name}'s `hold`, {}: who does is turned away.", spoken(hold)));
    }
    told.push(format!("Next: `changeover resume {name}` lets them go on in the order of their arrival."));
    lines(&told)
}

pub(super) fn resumed(pool: &Value) -> String {
    let name = text(pool, "name");
    lines(&[
        format!("{name} goes on: {}.", serving(pool)),
        format!("Next: nothing. `changeover status` shows how many still wait: {} did just now.", text(pool, "held")),
    ])
}

pub(super) fn reset(name: &str) -> String {
    lines(&[
        format!("What was held against {name} is forgotten: failures, reports and pushed verdicts."),
        "Next: nothing. The check that runs now decides alone; `changeover backends` shows what it found.".to_owned(),
    ])
}

pub(super) fn probed(name: &str) -> String {
    lines(&[
        format!("The check of {name} runs now and counts like any other."),
        "Next: `changeover backends` shows what it found.".to_owned(),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::model::SessionPolicy;

    use super::{failback, failover, paused, ready};

    #[test]
    fn a_pause_that_is_longer_than_clients_may_wait_says_so() {
        let pool = json!({"name": "orders", "hold_seconds": 10.0});
        for (timeout, is_longer) in [(None, true), (Some("5m"), true), (Some("10s"), false), (Some("1s"), false)] {
            let told = paused(&pool, timeout);
            assert_eq!(told.contains("None waits longer than orders's `hold`, 10s"), is_longer, "{told}");
        }
    }

    #[test]
    fn a_failover_to_a_standby_says_that_it_waits_for_its_promotion() {
        let event = json!({"pool": "orders", "from": "pg1", "to": null});
        let cluster = json!({"name": "orders", "kind": "postgres"});
        let told = failover(&event, &cluster, Some("pg2"), SessionPolicy::Keep);
        assert!(
            told.starts_with("orders is pinned to pg2, which is not the primary yet: those who write wait"),
            "{told}"
        );
        assert!(told.contains("Sessions on pg1 go on") && told.contains("if pg2 fails"), "{told}");
        let event = json!({"pool": "orders", "from": "pg1", "to": "pg2"});
        let told = failover(&event, &json!({"kind": "tcp"}), None, SessionPolicy::Keep);
        assert!(told.starts_with("orders serves from pg2 now") && told.contains("Sessions on pg1 go on;"), "{told}");
    }

    #[test]
    fn of_a_cluster_it_is_not_said_that_sessions_go_on_at_whoever_is_the_primary_no_more() {
        let event = json!({"pool": "orders", "from": "pg2", "to": "pg1"});
        let cluster = json!({"name": "orders", "kind": "postgres"});
        for (sessions, said) in [
            (SessionPolicy::Keep, "Sessions on pg2 go by the `demoted` policy"),
            (SessionPolicy::Drain, "Sessions on pg2 go by the `demoted` policy"),
            (SessionPolicy::Close, "Sessions on pg2 are closed."),
        ] {
            let told = failover(&event, &cluster, Some("pg1"), sessions);
            assert!(told.contains(said) && !told.contains("go on"), "{told}");
        }
    }

    #[test]
    fn where_nothing_serves_after_a_release_there_is_something_to_do_next() {
        for (active, is_done) in [(json!(["pg1"]), true), (json!([]), false)] {
            let told = failback("orders", &json!({"name": "orders", "active": active}));
            assert_eq!(told.contains("Next: nothing"), is_done, "{told}");
            assert!(told.contains("changeover explain orders"), "{told}");
        }
    }

    #[test]
    fn whoever_is_ready_and_waited_for_is_told_until_when() {
        let own =
            json!({"name": "pg1", "eligible": true, "active": false, "reason": "fit again, waiting for failback"});
        let pool = json!({"name": "orders", "active": ["pg2"], "backends": [own]});
        let explained = |rule: &str, detail: &str, at: &serde_json::Value| json!({"time": "2026-11-21T10:00:00Z", "rules": [{"rule": rule, "detail": detail, "at": at}]});
        let told = |explained: &serde_json::Value| ready("orders", &own, &pool, explained);
        let due = json!("2026-11-21T10:00:10Z");
        let said = told(&explained("stable_time", "pg1 serves again once fit for 10s", &due));
        assert!(
            said.ends_with("Next: nothing. pg1 serves again once fit for 10s: at 10:00:10 UTC, in 10s.\n"),
            "{said}"
        );
        let manual = "pg1 is fit and waits for `changeover failback orders`";
        let said = told(&explained("manual_failback", manual, &json!(null)));
        assert!(said.ends_with(&format!("Next: {manual}.\n")), "{said}");
        let said = told(&explained("pinned", "pinned to pg2", &json!(null)));
        assert!(said.ends_with("Next: nothing. It does not serve now: fit again, waiting for failback.\n"), "{said}");
    }
}
