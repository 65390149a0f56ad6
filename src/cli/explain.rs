//! `changeover explain`: one page that says who serves, by which rule, on which evidence, when, and what would come next.

use jiff::Timestamp;
use serde_json::Value;

use super::table::{layout, wrapped};
use super::views::{age, items, lag, names, plight, reason, serves, text};

/// How far the parts of the page are set in.
const IN: &str = "  ";

/// What holds for verdicts from outside.
const PUSHED: &str = "A pushed verdict holds for its time: unhealthy takes a backend out whatever its checks say, \
                      healthy does not outvote them.";

/// Seconds in a day.
const DAY: f64 = 86_400.0;

/// The page.
pub(super) fn page(answer: &Value) -> String {
    let mut page = decision(answer);
    page.push_str("\nBY WHICH RULE\n");
    page.push_str(&rules_lines(items(&answer["rules"]), answer));
    page.push_str("\nON WHICH EVIDENCE\n");
    page.push_str(&evidence(answer));
    page.push_str(&at_run_time(answer));
    page.push_str(&format!("\nAS OF {}\n", clock_time(answer["time"].as_str())));
    page.push_str(&prospect(answer));
    page
}

fn decision(answer: &Value) -> String {
    let (pool, state) = (text(answer, "pool"), text(answer, "state"));
    let mut line = if items(&answer["serving"]).is_empty() {
        format!("{pool}: NOTHING SERVES")
    } else {
        format!("{pool}: {} serves", names(answer, "serving"))
    };
    if let Some(since) = answer["since"].as_str().filter(|_| !items(&answer["serving"]).is_empty()) {
        line.push_str(&format!(", since {}{}", clock_time(Some(since)), ago(since, answer)));
    }
    wrapped(&format!("{line}. The pool is {state}."))
}

/// Each rule with what it comes to; one that applies to several in a row is said once.
fn rules_lines(rules: &[Value], answer: &Value) -> String {
    let (mut page, mut last) = (String::new(), None);
    for rule in rules {
        let sentence = text(rule, "sentence");
        if last.as_ref() != Some(&sentence) {
            page.push_str(&wrapped(&format!("{IN}{sentence}")));
        }
        let when =
            rule["at"].as_str().map(|at| format!(" [{}{}{}]", shorter(at, answer), ago(at, answer), by(rule, answer)));
        page.push_str(&wrapped(&format!("{IN}{IN}{}{}", text(rule, "detail"), when.unwrap_or_default())));
        last = Some(sentence);
    }
    page
}

/// Who ordered what `rule` says; and when, if that is not since when it applies.
fn by(rule: &Value, answer: &Value) -> String {
    let Some(who) = rule["by"].as_str() else { return String::new() };
    let at = rule["ordered_at"].as_str().filter(|at| rule["at"].as_str().map(clock_of) != Some(clock_of(at)));
    let when = at.map(|at| format!(" {}", moment(at, answer))).unwrap_or_default();
    format!("; ordered by {who}{when}")
}

fn clock_of(stamp: &str) -> String {
    clock_time(Some(stamp))
}

fn evidence(answer: &Value) -> String {
    let mut said = String::new();
    let row = |backend: &Value| {
        let since = backend["since"].as_str().and_then(|since| elapsed(since, answer));
        let checked = backend["last_check"].as_str().and_then(|at| elapsed(at, answer));
        let span = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), |s| age(s.abs()));
        let latency = backend["latency_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}ms"));
        vec![
            format!("{IN}{}", text(backend, "name")),
            text(backend, "priority"),
            text(backend, "health"),
            span(since),
            text(backend, "admin_state"),
            serves(backend).to_owned(),
            text(backend, "consecutive_failures"),
            text(backend, "consecutive_successes"),
            latency,
            span(checked),
            text(backend, "sessions"),
        ]
    };
    let backends = items(&answer["evidence"]);
    let rows: Vec<Vec<String>> = backends.iter().map(row).collect();
    let header =
        ["  BACKEND", "PRIO", "HEALTH", "FOR", "ADMIN", "SERVES", "FAILS", "OKS", "LATENCY", "CHECKED", "SESS"];
    for backend in backends {
        let (name, reason) = (text(backend, "name"), reason(backend));
        let reason = plight(backend, reason, |at| moment(at, answer)).unwrap_or_default();
        if !reason.is_empty() {
            said.push_str(&wrapped(&format!("{IN}{name}: {reason}")));
        }
        if let Some(server) = server(backend, answer) {
            said.push_str(&wrapped(&format!("{IN}{name}: {server}")));
        }
        let error = backend["last_error"].as_str().filter(|error| !reason.contains(error));
        if let Some(error) = error {
            let when = backend["last_error_at"].as_str();
            let when = when.map(|at| format!(" [{}{}]", shorter(at, answer), ago(at, answer))).unwrap_or_default();
            said.push_str(&wrapped(&format!("{IN}{name}: last error{when}: {error}")));
        }
    }
    let gap = if said.is_empty() { "" } else { "\n" };
    format!("{}{gap}{said}", layout(&header, &rows))
}

/// What goes before the file, if anything does.
fn at_run_time(answer: &Value) -> String {
    let runtime = &answer["runtime"];
    let who = |entry: &Value| {
        let at = entry["at"].as_str().unwrap_or_default();
        format!("by {} [{}{}]", text(entry, "by"), shorter(at, answer), ago(at, answer))
    };
    let registered = |entry: &Value| format!("{IN}{IN}backend {} is registered, {}", text(entry, "name"), who(entry));
    let patched = |entry: &Value| {
        let of = entry["backend"].as_str().map(|backend| format!("{backend}: ")).unwrap_or_default();
        let file = &entry["file"];
        let file = if file.is_null() { "nothing".to_owned() } else { file.to_string() };
        format!("{IN}{IN}{of}{} = {} (the file: {file}), {}", text(entry, "key"), entry["value"], who(entry))
    };
    let lines = items(&runtime["registered"]).iter().map(registered);
    let lines: Vec<String> = lines.chain(items(&runtime["patched"]).iter().map(patched)).collect();
    let mut said = sentence("This goes before the file, until the file says something else.", &lines);
    let pushed = |entry: &Value| {
        let why = entry["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let (since, until) = (text(entry, "since"), text(entry, "until"));
        format!(
            "{IN}{IN}{} is reported {}{why} [{}{}], until {}{}",
            text(entry, "backend"),
            text(entry, "health"),
            shorter(&since, answer),
            ago(&since, answer),
            shorter(&until, answer),
            ago(&until, answer)
        )
    };
    let lines: Vec<String> = items(&runtime["pushed"]).iter().map(pushed).collect();
    said.push_str(&sentence(PUSHED, &lines));
    if said.is_empty() { said } else { format!("\nSET AT RUN TIME\n{said}") }
}

/// `lines` under what holds for all of them; nothing if there are none.
fn sentence(sentence: &str, lines: &[String]) -> String {
    let all = lines.iter().map(|line| wrapped(line));
    if lines.is_empty() {
        String::new()
    } else {
        std::iter::once(wrapped(&format!("{IN}{sentence}"))).chain(all).collect()
    }
}

/// What is known of a PostgreSQL server, and what that means unless a rule has said so already.
fn server(backend: &Value, answer: &Value) -> Option<String> {
    let meaning = backend["meaning"].as_str()?;
    let is_standby = backend["role"] == "standby";
    let mut parts = vec![backend["role"].as_str().unwrap_or("role not known").to_owned()];
    let mut known = |field: &str, what: &str| {
        if !backend[field].is_null() {
            parts.push(format!("{what} {}", text(backend, field)));
        }
    };
    known("timeline", "timeline");
    known("written_lsn", if is_standby { "received to" } else { "written to" });
    known("replayed_lsn", "replayed to");
    if is_standby {
        parts.push(lag(backend).map_or_else(|| "lag not known".to_owned(), |lag| format!("behind by {lag}")));
    }
    let is_told = |rule: &Value| rule["detail"].as_str().is_some_and(|detail| detail.contains(meaning));
    let told = items(&answer["rules"]).iter().any(is_told);
    let meaning = if told || meaning.is_empty() { String::new() } else { format!("; {meaning}") };
    Some(format!("{}{meaning}", parts.join(", ")))
}

fn prospect(answer: &Value) -> String {
    let prospect = &answer["if_active_failed"];
    if prospect.is_null() {
        return String::new();
    }
    let mut page = wrapped(&format!("IF {} FAILED NOW", names(answer, "serving")));
    page.push_str(&if items(&prospect["to"]).is_empty() {
        let waits = if is_cluster(answer) { " those who write, until a standby is promoted" } else { "" };
        wrapped(&format!("{IN}nothing would serve{waits}."))
    } else {
        wrapped(&format!("{IN}{} would serve.", names(prospect, "to")))
    });
    page.push_str(&rules_lines(items(&prospect["rules"]), answer));
    format!("\n{page}")
}

/// Whether the pool is a PostgreSQL cluster.
fn is_cluster(answer: &Value) -> bool {
    items(&answer["evidence"]).iter().any(|backend| backend["meaning"].is_string())
}

/// A moment in UTC, to the second: nobody compares more digits by eye.
pub(super) fn clock_time(stamp: Option<&str>) -> String {
    match stamp.and_then(|stamp| stamp.parse::<Timestamp>().ok()) {
        Some(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        None => "-".to_owned(),
    }
}

/// The same without its date where that goes without saying.
fn shorter(stamp: &str, answer: &Value) -> String {
    let whole = clock_time(Some(stamp));
    match (elapsed(stamp, answer), whole.split_once(' ')) {
        (Some(seconds), Some((_, time))) if seconds.abs() < DAY => time.to_owned(),
        _ => whole,
    }
}

/// A moment to come, or one that was, for the end of a sentence.
pub(super) fn moment(stamp: &str, answer: &Value) -> String {
    format!("at {}{}", shorter(stamp, answer), ago(stamp, answer))
}

/// Seconds from `stamp` to the moment of the answer.
fn elapsed(stamp: &str, answer: &Value) -> Option<f64> {
    let now = answer["time"].as_str()?.parse::<Timestamp>().ok()?;
    Some(now.duration_since(stamp.parse::<Timestamp>().ok()?).as_secs_f64())
}

/// How far `stamp` lies from the moment of the answer, to stand behind it.
fn ago(stamp: &str, answer: &Value) -> String {
    match elapsed(stamp, answer) {
        Some(seconds) if seconds < 0.0 => format!(", in {}", age(-seconds)),
        Some(seconds) => format!(", {} ago", age(seconds)),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::page;

    fn answer(rule: &str) -> Value {
        let server = |name: &str, role: Value, more: Value| {
            let mut server = json!({
                "name": name, "priority": 1, "health": "healthy", "since": "2026-11-21T10:00:00Z", "admin_state": "ready",
                "role": role, "eligible": true, "active": name == "pg1", "reason": "", "latency_ms": 0.4, "sessions": 1,
                "consecutive_failures": 0, "consecutive_successes": 9, "last_check": "2026-11-21T10:00:59Z",
                "last_error": null, "meaning": format!("alive: what {name} said"),
            });
            for (field, value) in more.as_object().into_iter().flatten() {
                server[field] = value.clone();
            }
            server
        };
        let servers = [
            server("pg1", json!("primary"), json!({"timeline": 3, "written_lsn": "1/3000060", "replayed_lsn": null})),
            server(
                "pg2",
                json!("standby"),
                json!({"timeline": 3, "written_lsn": "1/3000060", "replayed_lsn": "1/3000000", "lag_bytes": 96,
                    "lag_seconds": 1.5}),
            ),
            server("pg3", json!("standby"), json!({})),
            server("pg4", Value::Null, json!({})),
        ];
        json!({
            "pool": "orders", "state": "healthy", "serving": ["pg1"], "since": "2026-11-21T10:00:00Z",
            "rules": [{"sentence": "A rule.", "detail": rule, "at": null}], "evidence": servers,
            "time": "2026-11-21T10:01:00Z", "if_active_failed": null,
        })
    }

    #[test]
    fn a_rule_that_applies_to_several_is_said_once() {
        let mut answer = answer("one");
        answer["rules"] = json!([
            {"sentence": "A rule.", "detail": "one", "at": null},
            {"sentence": "A rule.", "detail": "two", "at": null},
            {"sentence": "Another.", "detail": "three", "at": null},
        ]);
        let page = page(&answer);
        assert!(page.contains("\n  A rule.\n    one\n    two\n  Another.\n    three\n"), "{page}");
    }

    #[test]
    fn what_was_ordered_is_said_with_who_did_and_when_also_before_a_restart() {
        let mut answer = answer("one");
        let rule = |detail: &str, ordered_at: &str| json!({"sentence": "Ordered.", "detail": detail, "at": "2026-11-21T09:59:59.9Z", "by": "ops", "ordered_at": ordered_at});
        answer["rules"] = json!([rule("pinned", "2026-11-21T09:59:59.8Z"), rule("paused", "2026-11-21T09:31:00Z")]);
        let page = page(&answer);
        for line in [
            "\n    pinned [09:59:59 UTC, 1m ago; ordered by ops]\n",
            "\n    paused [09:59:59 UTC, 1m ago; ordered by ops at 09:31:00 UTC, 30m ago]\n",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
    }

    #[test]
    fn what_was_wrong_last_is_shown_with_its_time_unless_it_is_why_the_backend_is_out() {
        let mut answer = answer("one");
        answer["evidence"][0]["last_error"] = json!("refused");
        answer["evidence"][0]["last_error_at"] = json!("2026-11-21T09:31:00Z");
        answer["evidence"][1]["last_error"] = json!("too late");
        answer["evidence"][2]["last_error"] = json!("reset");
        answer["evidence"][2]["last_error_at"] = json!("2026-11-20T09:01:00Z");
        answer["evidence"][3]["last_error"] = json!("no answer");
        answer["evidence"][3]["last_error_at"] = json!("2026-11-21T10:00:59Z");
        answer["evidence"][3]["reason"] = json!("unreachable: no answer");
        let page = page(&answer);
        for line in [
            "\n  pg1: last error [09:31:00 UTC, 30m ago]: refused\n",
            "\n  pg2: last error: too late\n",
            "\n  pg3: last error [2026-11-20 09:01:00 UTC, 1.0d ago]: reset\n",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
        assert!(!page.contains("pg4: last error"), "{page}");
    }

    #[test]
    fn a_tunnel_that_is_not_up_stands_in_the_line_of_its_backend_with_its_next_try() {
        let mut answer = answer("one");
        let tunnel = |state: &str, reason: Value, next_retry: Value| json!({"state": state, "provider": "ssh", "reason": reason, "next_retry": next_retry});
        let retry = json!("2026-11-21T10:01:20Z");
        answer["evidence"][0]["tunnel"] = tunnel("connected", Value::Null, Value::Null);
        answer["evidence"][1]["tunnel"] = tunnel("connecting", Value::Null, Value::Null);
        answer["evidence"][2]["tunnel"] = tunnel("failed", json!("Host key verification failed."), retry.clone());
        answer["evidence"][3]["tunnel"] = tunnel("reconnecting", json!("its program has ended"), retry);
        answer["evidence"][3]["reason"] = json!("unreachable: its program has ended");
        answer["evidence"][3]["last_error"] = json!("its program has ended");
        let page = page(&answer);
        for line in [
            "\n  pg2: its tunnel is connecting\n",
            "\n  pg3: its tunnel has failed: Host key verification failed; it is tried again at 10:01:20 UTC, in\n    20s\n",
            "\n  pg4: unreachable: its program has ended; its tunnel is reconnecting; it is tried again at 10:01:20\n    UTC, in 20s\n",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
        assert!(!page.contains("pg1: its tunnel") && !page.contains("pg4: last error"), "{page}");
    }

    #[test]
    fn a_verdict_that_was_pushed_is_set_at_run_time() {
        let mut answer = answer("one");
        answer["runtime"] = json!({"registered": [], "patched": [], "pushed": [
            {"backend": "pg2", "health": "unhealthy", "reason": "disk full", "since": "2026-11-21T10:00:30Z",
                "until": "2026-11-21T10:05:00Z"},
        ]});
        let page = page(&answer);
        let line = "\n    pg2 is reported unhealthy (disk full) [10:00:30 UTC, 30s ago], until 10:05:00 UTC, in 4m\n";
        assert!(
            page.contains("\nSET AT RUN TIME\n  A pushed verdict holds for its time: ") && page.contains(line),
            "{page}"
        );
        assert!(!page.contains("goes before the file"), "{page}");
    }

    #[test]
    fn while_a_cluster_has_nobody_else_it_is_said_who_waits_for_what() {
        let mut answer = answer("one");
        answer["if_active_failed"] = json!({"to": [], "rules": []});
        let words = "\n  nothing would serve those who write, until a standby is promoted.\n";
        assert!(page(&answer).ends_with(words), "{}", page(&answer));
    }

    #[test]
    fn each_server_of_a_cluster_is_shown_with_what_it_says_and_what_that_means() {
        let page = page(&answer("pg3: alive: what pg3 said"));
        for line in [
            "\n  pg1: primary, timeline 3, written to 1/3000060; alive: what pg1 said\n",
            "\n  pg2: standby, timeline 3, received to 1/3000060, replayed to 1/3000000, behind by 96B 1.5s;",
            "\n  pg3: standby, lag not known\n",
            "\n  pg4: role not known; alive: what pg4 said\n",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
        assert_eq!(page.matches("what pg3 said").count(), 1, "what a rule says is not said again\n{page}");
        assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
    }
}
