//! What the tables show of the daemon's answers.

use std::time::Duration;

use serde_json::Value;

use crate::config::LOOKED_UP;
use crate::model::spoken;

use super::explain::clock_time;
use super::table::{layout, wrapped};

pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn text(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => other.to_string(),
    }
}

pub(super) fn names(value: &Value, key: &str) -> String {
    let names: Vec<&str> = items(&value[key]).iter().filter_map(Value::as_str).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(",") }
}

pub(super) fn session_count(pool: &Value) -> String {
    items(&pool["backends"]).iter().filter_map(|backend| backend["sessions"].as_i64()).sum::<i64>().to_string()
}

/// A line a pool, in short.
pub(super) fn status(answer: &Value) -> String {
    let row = |pool: &Value| {
        vec![text(pool, "name"), text(pool, "state"), names(pool, "active"), text(pool, "held"), session_count(pool)]
    };
    let rows: Vec<Vec<String>> = items(&answer["pools"]).iter().map(row).collect();
    let table = layout(&["POOL", "STATE", "ACTIVE", "HELD", "SESSIONS"], &rows);
    format!("{table}{}{}", bound(answer), cut_off(answer))
}

/// The tunnels that are not up, below a table that has no line for them.
fn cut_off(answer: &Value) -> String {
    let mut said = String::new();
    for pool in items(&answer["pools"]) {
        for backend in items(&pool["backends"]) {
            if let Some(how) = tunnel_down(backend, "", tried_at) {
                said.push_str(&wrapped(&format!("{}/{}: {how}", text(pool, "name"), text(backend, "name"))));
            }
        }
    }
    if said.is_empty() { said } else { format!("\n{said}") }
}

/// What operators have ordered of the pools and not taken back: below a table, so that nobody forgets it.
fn bound(answer: &Value) -> String {
    let mut said = String::new();
    for pool in items(&answer["pools"]) {
        let name = text(pool, "name");
        let by = |order: &str| {
            let (who, when) = (pool[format!("{order}_by")].as_str(), pool[format!("{order}_at")].as_str());
            who.map(|who| format!("; ordered by {who}, {}", clock_time(when))).unwrap_or_default()
        };
        if pool["paused"] == true {
            let until = pool["paused_until"].as_str().map(|until| format!(", or {} at most", clock_time(Some(until))));
            let hold = hold(pool).map(|hold| format!("; each no longer than `hold` ({})", spoken(hold)));
            let (until, hold) = (until.unwrap_or_default(), hold.unwrap_or_default());
            said.push_str(&wrapped(&format!(
                "{name}: paused, new clients wait until `changeover resume {name}`{until}{hold}{}",
                by("paused")
            )));
        }
        if let Some(pinned) = pool["pinned"].as_str() {
            let until = format!("until `changeover failback {name}`");
            said.push_str(&wrapped(&format!("{name}: pinned to {pinned} {until}{}", by("pinned"))));
        }
    }
    if said.is_empty() { said } else { format!("\n{said}") }
}

/// How long a client of the pool may wait.
pub(super) fn hold(pool: &Value) -> Option<Duration> {
    pool["hold_seconds"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

/// A line a pool, in full. Where one is a PostgreSQL cluster: who is primary, and how far the last standby is behind.
pub(super) fn pools(answer: &Value) -> String {
    let clusters = has_clusters(answer);
    let row = |pool: &Value| {
        let mut row = vec![
            text(pool, "name"),
            text(pool, "kind"),
            text(pool, "state"),
            text(pool, "redundancy"),
            names(pool, "active"),
            names(pool, "standby"),
        ];
        if clusters {
            row.extend([primaries(pool), worst_lag(pool)]);
        }
        row.extend([text(pool, "held"), session_count(pool)]);
        row
    };
    let rows: Vec<Vec<String>> = items(&answer["pools"]).iter().map(row).collect();
    let mut header = vec!["POOL", "KIND", "STATE", "REDUNDANCY", "ACTIVE", "STANDBY"];
    if clusters {
        header.extend(["PRIMARY", "LAG"]);
    }
    header.extend(["HELD", "SESSIONS"]);
    format!("{}{}", layout(&header, &rows), bound(answer))
}

pub(super) fn has_clusters(answer: &Value) -> bool {
    items(&answer["pools"]).iter().any(|pool| pool["kind"] == "postgres")
}

/// Those that say that they are the primary.
fn primaries(pool: &Value) -> String {
    let says = |backend: &&Value| backend["role"] == "primary";
    let names: Vec<String> =
        items(&pool["backends"]).iter().filter(says).map(|backend| text(backend, "name")).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(",") }
}

/// Whether a tunnel leads to any of the backends.
pub(super) fn has_tunnels(answer: &Value) -> bool {
    items(&answer["pools"]).iter().any(|pool| items(&pool["backends"]).iter().any(|one| one["tunnel"].is_object()))
}

/// How the tunnel that leads to a backend fares, in a word.
pub(super) fn tunnel_state(backend: &Value) -> String {
    text(&backend["tunnel"], "state")
}

/// What is to be said of a tunnel that is not up, beside what is `said` of its backend already; `tried` puts the moment of the
/// next try into words.
pub(super) fn tunnel_down(backend: &Value, said: &str, tried: impl Fn(&str) -> String) -> Option<String> {
    let tunnel = &backend["tunnel"];
    let state = tunnel["state"].as_str().filter(|state| *state != "connected")?;
    let why = tunnel["reason"].as_str().map(|why| why.trim_end_matches('.')).filter(|why| !why.is_empty());
    let fares = if state == "failed" { format!("{ITS_TUNNEL} has failed") } else { format!("{ITS_TUNNEL} is {state}") };
    // How a program ended may be new where the last that it said is not: it says no more.
    let last = why.map(|why| why.rsplit_once(SAID_LAST).map_or(why, |(_, last)| last));
    let how = match why {
        Some(_) | None
            if STATED.iter().any(|words| said.contains(words)) && last.is_none_or(|last| said.contains(last)) =>
        {
            String::new()
        }
        Some(why) if why.starts_with(ITS_TUNNEL) => why.to_owned(),
        Some(why) if !said.contains(why) => format!("{fares}: {why}"),
        Some(_) | None => fares,
    };
    let how = Some(how).filter(|how| !how.is_empty() && !said.contains(how.as_str()));
    let retry = tunnel["next_retry"].as_str().map(|at| format!("it is tried again {}", tried(at)));
    let parts: Vec<String> = [how, retry].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// How words about a backend's tunnel begin.
const ITS_TUNNEL: &str = "its tunnel";
/// What stands before the last line of a program that has ended.
const SAID_LAST: &str = "it said last: ";
/// What says of a backend already that its tunnel is not up.
const STATED: [&str; 2] = ["its tunnel is not up", "its tunnel is being set up"];

/// Where a backend is, as far as that is known before it is looked up.
pub(super) fn place(backend: &Value) -> String {
    let address = text(backend, "address");
    if address.ends_with(LOOKED_UP) { "looked up".to_owned() } else { address }
}

/// Why a backend gets no new sessions, and how its tunnel fares that is not up, in one sentence.
pub(super) fn plight(backend: &Value, reason: Option<&str>, tried: impl Fn(&str) -> String) -> Option<String> {
    let tunnel = tunnel_down(backend, reason.unwrap_or_default(), tried);
    // What a program said may end with a full stop.
    let reason = reason.map(|reason| if tunnel.is_some() { reason.trim_end_matches('.') } else { reason });
    let said: Vec<&str> = reason.into_iter().chain(tunnel.as_deref()).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// When a tunnel is tried again, where nothing says what time it is.
pub(super) fn tried_at(stamp: &str) -> String {
    format!("at {}", clock_time(Some(stamp)))
}

/// What stands for a lag that is not known: it may be any.
const UNKNOWN: &str = "?";

/// How far the last of a pool's standbys is behind; one of which it is not known may be the last.
fn worst_lag(pool: &Value) -> String {
    let standbys: Vec<&Value> =
        items(&pool["backends"]).iter().filter(|backend| backend["role"] == "standby").collect();
    if standbys.iter().any(|backend| lag(backend).is_none()) {
        return UNKNOWN.to_owned();
    }
    let last = standbys.into_iter().max_by_key(|backend| backend["lag_bytes"].as_u64());
    last.and_then(lag).unwrap_or_else(|| "-".to_owned())
}

/// How far a server is behind, in bytes and, if it is any, in time; nothing if that is not known.
pub(super) fn lag(backend: &Value) -> Option<String> {
    let bytes = size(backend["lag_bytes"].as_f64()?);
    Some(match backend["lag_seconds"].as_f64() {
        Some(seconds) if seconds >= 60.0 => format!("{bytes} {}", age(seconds)),
        Some(seconds) if seconds >= 0.05 => format!("{bytes} {seconds:.1}s"),
        Some(_) | None => bytes,
    })
}

/// Why a backend gets no new sessions, if there is more to it than that it is a standby.
pub(super) fn reason(backend: &Value) -> Option<&str> {
    backend["reason"].as_str().filter(|&reason| !reason.is_empty() && backend["role"] != reason)
}

/// Whether what is known of a PostgreSQL server is worth a line although it serves: its monitor is not let in, say.
fn is_odd(meaning: &str) -> bool {
    !meaning.is_empty() && !meaning.starts_with("alive")
}

/// A line a backend, and below the table why those do not serve that do not.
pub(super) fn backends(answer: &Value) -> String {
    let (clusters, tunnels) = (has_clusters(answer), has_tunnels(answer));
    let (mut rows, mut reasons) = (Vec::new(), String::new());
    for pool in items(&answer["pools"]) {
        for backend in items(&pool["backends"]) {
            let name = format!("{}/{}", text(pool, "name"), text(backend, "name"));
            let reason = reason(backend).or_else(|| backend["meaning"].as_str().filter(|said| is_odd(said)));
            if let Some(said) = plight(backend, reason, tried_at) {
                reasons.push_str(&wrapped(&format!("{name}: {said}")));
            }
            rows.push(backend_row(name, backend, clusters, tunnels));
        }
    }
    let mut header = vec!["BACKEND", "ADDRESS"];
    if tunnels {
        header.push("TUNNEL");
    }
    if clusters {
        header.extend(["ROLE", "LAG"]);
    }
    header.extend(["PRIO", "WT", "HEALTH", "SERVES", "SESS", "LATENCY"]);
    let gap = if reasons.is_empty() { "" } else { "\n" };
    format!("{}{gap}{reasons}", layout(&header, &rows))
}

/// A line a session.
pub(super) fn sessions(answer: &Value) -> String {
    let row = |session: &Value| {
        vec![
            text(session, "id"),
            text(session, "client"),
            text(session, "listener"),
            format!("{}/{}", text(session, "pool"), text(session, "backend")),
            text(session, "state"),
            session["age_seconds"].as_f64().map_or_else(|| "-".to_owned(), age),
            session["bytes_to_backend"].as_f64().map_or_else(|| "-".to_owned(), size),
            session["bytes_to_client"].as_f64().map_or_else(|| "-".to_owned(), size),
        ]
    };
    let rows: Vec<Vec<String>> = items(&answer["sessions"]).iter().map(row).collect();
    let table = layout(&["ID", "CLIENT", "LISTENER", "BACKEND", "STATE", "AGE", "UP", "DOWN"], &rows);
    if answer["next"].is_null() { table } else { format!("{table}\nthere are more: raise --limit or narrow down\n") }
}

/// Seconds in the largest unit that fits.
pub(super) fn age(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.0}s"),
        s if s < 3600.0 => format!("{:.0}m", s / 60.0),
        s if s < 86_400.0 => format!("{:.1}h", s / 3600.0),
        s => format!("{:.1}d", s / 86_400.0),
    }
}

/// Bytes in the largest unit that fits.
pub(super) fn size(bytes: f64) -> String {
    match bytes {
        b if b < 1024.0 => format!("{b:.0}B"),
        b if b < 1024.0 * 1024.0 => format!("{:.1}K", b / 1024.0),
        b if b < 1024.0 * 1024.0 * 1024.0 => format!("{:.1}M", b / (1024.0 * 1024.0)),
        b => format!("{:.1}G", b / (1024.0 * 1024.0 * 1024.0)),
    }
}

/// Whether a backend gets new sessions; of a cluster's standbys, those that do not write.
pub(super) fn serves(backend: &Value) -> &'static str {
    match (backend["active"] == true, backend["role"] == "standby" && backend["eligible"] == true) {
        (true, _) => "yes",
        (false, true) => "reads",
        (false, false) => "no",
    }
}

fn backend_row(name: String, backend: &Value, clusters: bool, tunnels: bool) -> Vec<String> {
    let latency = backend["latency_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}ms"));
    let mut row = vec![name, place(backend)];
    if tunnels {
        row.push(tunnel_state(backend));
    }
    if clusters {
        let behind = match backend["role"] == "standby" {
            true => lag(backend).unwrap_or_else(|| UNKNOWN.to_owned()),
            false => "-".to_owned(),
        };
        row.extend([text(backend, "role"), behind]);
    }
    row.extend([
        text(backend, "priority"),
        text(backend, "weight"),
        text(backend, "health"),
        serves(backend).to_owned(),
        text(backend, "sessions"),
        latency,
    ]);
    row
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{backends, lag, pools, status, tunnel_down};

    fn server(name: &str, role: &Value, lag: &Value) -> Value {
        json!({
            "name": name, "address": "10.0.0.1:5432", "role": role, "priority": 1, "weight": 1, "health": "healthy",
            "active": role == "primary", "eligible": name != "pg3", "sessions": 3, "latency_ms": 0.44, "lag_bytes": lag[0], "lag_seconds": lag[1],
            "reason": if role == "standby" { "standby" } else { "" },
        })
    }

    /// A cluster of three, and a plain pool beside it.
    fn answer() -> Value {
        let cluster = [
            server("pg1", &json!("primary"), &json!([0, 0.0])),
            server("pg2", &json!("standby"), &json!([1_258_291, 3.21])),
            server("pg3", &json!("standby"), &json!([0, 0.0])),
            server("pg4", &Value::Null, &json!([null, null])),
        ];
        let plain = server("one", &Value::Null, &json!([null, null]));
        json!({"pools": [
            {"name": "orders", "kind": "postgres", "state": "healthy", "redundancy": "multi", "active": ["pg1"],
                "standby": ["pg2", "pg3"], "held": 0, "backends": cluster},
            {"name": "web", "kind": "tcp", "state": "healthy", "redundancy": "single", "active": ["one"],
                "standby": [], "held": 0, "backends": [plain]},
        ]})
    }

    fn cells(table: &str, name: &str) -> Vec<String> {
        let line = table.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn where_there_is_a_cluster_tables_have_roles_and_lag() {
        let table = backends(&answer());
        assert_eq!(cells(&table, "BACKEND")[2..5], ["ROLE", "LAG", "PRIO"], "{table}");
        assert_eq!(cells(&table, "orders/pg1")[2..5], ["primary", "-", "1"], "{table}");
        assert_eq!(cells(&table, "orders/pg2")[2..5], ["standby", "1.2M 3.2s", "1"], "{table}");
        assert_eq!(cells(&table, "orders/pg3")[2..5], ["standby", "0B", "1"], "{table}");
        assert_eq!(cells(&table, "orders/pg4")[2..5], ["-", "-", "1"], "{table}");
        assert_eq!(cells(&table, "web/one")[2..5], ["-", "-", "1"], "{table}");
        let serving = ["pg1", "pg2", "pg3"].map(|name| cells(&table, &format!("orders/{name}"))[7].clone());
        assert_eq!(serving, ["yes", "reads", "no"], "{table}");
        let table = pools(&answer());
        assert_eq!(cells(&table, "POOL")[6..8], ["PRIMARY", "LAG"], "{table}");
        assert_eq!(cells(&table, "orders")[6..8], ["pg1", "1.2M 3.2s"], "{table}");
        assert_eq!(cells(&table, "web")[6..8], ["-", "-"], "{table}");
        for line in pools(&answer()).lines().chain(backends(&answer()).lines()) {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }

    #[test]
    fn a_lag_that_is_not_known_is_no_0() {
        let mut answer = answer();
        answer["pools"][0]["backends"][2]["lag_bytes"] = Value::Null;
        let table = backends(&answer);
        assert_eq!(cells(&table, "orders/pg3")[2..4], ["standby", "?"], "{table}");
        assert_eq!(cells(&table, "orders/pg1")[2..4], ["primary", "-"], "{table}");
        let table = pools(&answer);
        assert_eq!(cells(&table, "orders")[7], "?", "{table}");
    }

    #[test]
    fn what_is_ordered_and_not_taken_back_stands_below_the_tables() {
        let mut answer = answer();
        assert!(![status(&answer), pools(&answer)].concat().contains("changeover "), "nothing is ordered");
        answer["pools"][0]["paused"] = json!(true);
        answer["pools"][1]["pinned"] = json!("one");
        for table in [status(&answer), pools(&answer)] {
            for line in [
                "\n\norders: paused, new clients wait until `changeover resume orders`\n",
                "\nweb: pinned to one until `changeover failback web`\n",
            ] {
                assert!(table.contains(line), "{line}\n{table}");
            }
        }
        answer["pools"][1]["pinned_by"] = json!("ops");
        answer["pools"][1]["pinned_at"] = json!("2026-11-21T10:00:00.123456Z");
        let line = "\nweb: pinned to one until `changeover failback web`; ordered by ops, 2026-11-21 10:00:00 UTC\n";
        assert!(status(&answer).contains(line), "{}", status(&answer));
    }

    #[test]
    fn of_a_pause_it_is_said_when_it_ends_and_how_long_a_client_waits() {
        let mut answer = answer();
        answer["pools"][0]["paused"] = json!(true);
        answer["pools"][0]["paused_until"] = json!("2026-11-21T10:05:00.5Z");
        answer["pools"][0]["hold_seconds"] = json!(90.0);
        for table in [status(&answer), pools(&answer)] {
            let line = table.lines().skip_while(|line| !line.contains("paused,")).collect::<Vec<_>>().join(" ");
            for words in ["or 2026-11-21 10:05:00 UTC at most", "each no longer than `hold` (1m 30s)"] {
                assert!(line.split_whitespace().collect::<Vec<_>>().join(" ").contains(words), "{words}\n{table}");
            }
        }
    }

    #[test]
    fn a_standby_that_is_read_from_needs_no_reason() {
        let table = backends(&answer());
        assert!(!table.contains("orders/pg2:"), "{table}");
        let mut answer = answer();
        answer["pools"][0]["backends"][0]["meaning"] = json!("no_permission: the session is denied");
        assert!(backends(&answer).contains("\norders/pg1: no_permission: the session is denied\n"), "{answer:#}");
        answer["pools"][0]["backends"][1]["reason"] = json!("standby: behind by 5 bytes and 1.0s");
        assert!(backends(&answer).contains("\norders/pg2: standby: behind by 5 bytes"), "{answer:#}");
    }

    /// The answer, with a tunnel to the plain backend and one to a server of the cluster.
    fn behind_tunnels(state: &str, reason: &Value) -> Value {
        let mut answer = answer();
        let tunnel = |state: &str, reason: &Value, next_retry: &Value| {
            json!({"state": state, "provider": "ssh", "attach": "listen", "pid": 7, "restarts": 2, "uptime_seconds": null,
                "next_retry": next_retry, "since": "2026-11-21T10:00:00Z", "reason": reason})
        };
        answer["pools"][0]["backends"][1]["tunnel"] = tunnel("connected", &Value::Null, &Value::Null);
        answer["pools"][1]["backends"][0]["tunnel"] = tunnel(state, reason, &json!("2026-11-21T10:00:05.123456Z"));
        answer
    }

    #[test]
    fn where_there_is_a_tunnel_tables_say_how_it_fares() {
        assert!(!backends(&answer()).contains("TUNNEL"), "{}", backends(&answer()));
        let answer = behind_tunnels("failed", &json!("Permission denied (publickey)"));
        let table = backends(&answer);
        assert_eq!(cells(&table, "BACKEND")[1..5], ["ADDRESS", "TUNNEL", "ROLE", "LAG"], "{table}");
        assert_eq!(cells(&table, "orders/pg1")[2..4], ["-", "primary"], "{table}");
        assert_eq!(cells(&table, "orders/pg2")[2..4], ["connected", "standby"], "{table}");
        assert_eq!(cells(&table, "web/one")[2..4], ["failed", "-"], "{table}");
        let line = "web/one: its tunnel has failed: Permission denied (publickey); it is tried again at 2026-11-21 10:00:05 UTC";
        let joined = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for table in [table, status(&answer)] {
            assert!(joined(&table).ends_with(line), "{table}");
            assert!(!table.contains("orders/pg2: its tunnel"), "{table}");
        }
        let mut narrow = behind_tunnels("reconnecting", &Value::Null);
        narrow["pools"][0]["backends"][1]["health"] = json!("unhealthy");
        narrow["pools"][1]["backends"][0]["address"] = json!("a-host-with-a-long-name.internal.example:5432");
        let table = backends(&narrow);
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        assert!(cells(&table, "BACKEND").contains(&"LATENCY".to_owned()), "the last column is seen\n{table}");
        assert!(table.contains("orders/pg2") && table.contains("reconnecti…"), "{table}");
    }

    #[test]
    fn what_the_reason_says_already_is_not_said_again_of_the_tunnel() {
        let at = |stamp: &str| format!("at {stamp}");
        let tunnel = |state: &str, reason: Value, next_retry: Value| json!({"tunnel": {"state": state, "reason": reason, "next_retry": next_retry}});
        let exited = "its program has ended (exited)";
        for (backend, said, wanted) in [
            (json!({"tunnel": null}), "", None),
            (tunnel("connected", Value::Null, Value::Null), "no answer", None),
            (tunnel("connecting", Value::Null, Value::Null), "no answer", Some("its tunnel is connecting")),
            (
                tunnel("reconnecting", json!(exited), json!("10")),
                "no answer",
                Some("its tunnel is reconnecting: its program has ended (exited); it is tried again at 10"),
            ),
            (
                tunnel("reconnecting", json!(exited), json!("10")),
                "tunnel: its program has ended (exited)",
                Some("its tunnel is reconnecting; it is tried again at 10"),
            ),
            (
                tunnel("reconnecting", json!(exited), json!("10")),
                "its tunnel is reconnecting: its program has ended (exited)",
                Some("it is tried again at 10"),
            ),
            (
                tunnel("disconnected", json!("its tunnel was stopped by an operator"), Value::Null),
                "",
                Some("its tunnel was stopped by an operator"),
            ),
            (
                tunnel("disconnected", json!("its tunnel was stopped by an operator"), Value::Null),
                "its tunnel was stopped by an operator",
                None,
            ),
        ] {
            assert_eq!(tunnel_down(&backend, said, at).as_deref(), wanted, "{backend} after {said}");
        }
    }

    #[test]
    fn without_one_they_are_as_they_were() {
        let mut answer = answer();
        if let Some(pools) = answer["pools"].as_array_mut() {
            pools.remove(0);
        }
        assert!(!backends(&answer).contains("ROLE") && !pools(&answer).contains("PRIMARY"));
    }

    #[test]
    fn a_lag_is_told_in_units_that_people_read() {
        for (bytes, seconds, wanted) in [
            (json!(0), json!(0.0), Some("0B")),
            (json!(512), json!(0.01), Some("512B")),
            (json!(1 << 30), json!(75.0), Some("1.0G 1m")),
            (json!(4096), Value::Null, Some("4.0K")),
            (Value::Null, json!(2.0), None),
        ] {
            let server = json!({"lag_bytes": bytes, "lag_seconds": seconds});
            assert_eq!(lag(&server).as_deref(), wanted, "{server}");
        }
    }

    #[test]
    fn what_a_program_said_last_is_said_once() {
        let answer = json!({"pools": [{"name": "p", "backends": [{"name": "b", "address": "b.looked-up.invalid:1", "health": "unhealthy",
            "reason": "dead: its tunnel is not up: Permission denied (publickey).",
            "tunnel": {"state": "connecting", "reason": "exit status: 255; it said last: Permission denied (publickey).",
                "next_retry": "2026-11-21T10:00:05Z"}}]}]});
        let told = backends(&answer);
        assert!(
            told.ends_with("\np/b: dead: its tunnel is not up: Permission denied (publickey); it is tried again at 2026-11-21\n  10:00:05 UTC\n"),
            "{told}"
        );
        assert!(told.contains("looked up") && !told.contains("invalid"), "{told}");
    }
}
