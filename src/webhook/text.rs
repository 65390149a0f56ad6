//! An event in a line of words, for people.

use serde_json::Value;

use crate::model::EventRecord;

/// `event` as a message that Slack and its like take.
pub(super) fn of(event: &EventRecord) -> String {
    escaped(&format!("*{}* {}", event.kind, words(event)))
}

/// What `event` says, without its kind.
pub(super) fn words(event: &EventRecord) -> String {
    let place = match (&event.pool, &event.backend) {
        (Some(pool), Some(backend)) => Some(format!("{pool}/{backend}")),
        (Some(pool), None) => Some(pool.to_string()),
        (None, Some(backend)) => Some(backend.to_string()),
        (None, None) => None,
    };
    let moved = match (&event.from, &event.to) {
        (Some(from), Some(to)) => Some(format!("{from} → {to}")),
        (Some(from), None) => Some(format!("from {from}")),
        (None, Some(to)) => Some(format!("to {to}")),
        (None, None) => None,
    };
    let took = event.duration_ms.map(|millis| format!("{millis:.0} ms"));
    let parts = [place, moved, why(event), event.status.clone(), took];
    let mut words = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if words.is_empty() {
        words = format!("by {}", event.actor);
    }
    format!("{words} ({})", event.time)
}

/// Why. A tunnel's word for it says less than its program has said, whose words are what somebody mends it by.
fn why(event: &EventRecord) -> Option<String> {
    let is_of_tunnel = event.kind.starts_with("tunnel.");
    let evidence = event.detail.get("evidence").and_then(Value::as_str).filter(|text| is_of_tunnel && !text.is_empty());
    match (&event.reason, evidence) {
        (Some(reason), Some(evidence)) if !evidence.contains(reason.as_str()) => Some(format!("{reason}: {evidence}")),
        (_, Some(evidence)) => Some(evidence.to_owned()),
        (reason, None) => reason.clone(),
    }
}

/// What Slack's messages have instead of the three characters by which it marks links and commands.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::of;
    use crate::model::EventRecord;

    #[test]
    fn an_event_is_a_line_and_commands_nobody() {
        let mut event = EventRecord::new("2026-11-21T10:00:00Z".parse().unwrap(), "pool.failover");
        (event.pool, event.backend) = (Some("orders".into()), Some("pg2".into()));
        (event.from, event.to) = (Some("pg1".to_owned()), Some("pg2".to_owned()));
        (event.reason, event.duration_ms) = (Some("<!channel> & co".to_owned()), Some(38.2));
        let wanted =
            "*pool.failover* orders/pg2, pg1 → pg2, &lt;!channel&gt; &amp; co, 38 ms (2026-11-21T10:00:00.000000Z)";
        assert_eq!(of(&event), wanted);
    }
    #[test]
    fn an_event_of_a_tunnel_says_what_its_program_said() {
        let told = |kind: &str, reason: Option<&str>, evidence: Option<&str>| {
            let mut event = EventRecord::new("2026-11-21T10:00:00Z".parse().unwrap(), kind);
            (event.pool, event.backend) = (Some("home".into()), Some("b".into()));
            event.reason = reason.map(str::to_owned);
            if let Some(evidence) = evidence {
                event.detail.insert("evidence".to_owned(), json!(evidence));
            }
            of(&event)
        };
        let at = "(2026-11-21T10:00:00.000000Z)";
        for (kind, reason, evidence, wanted) in [
            ("tunnel.connected", None, None, format!("*tunnel.connected* home/b {at}")),
            ("tunnel.disconnected", Some("ordered"), None, format!("*tunnel.disconnected* home/b, ordered {at}")),
            (
                "tunnel.failed",
                Some("fatal"),
                Some("Permission denied (publickey)"),
                format!("*tunnel.failed* home/b, fatal: Permission denied (publickey) {at}"),
            ),
            (
                "tunnel.reconnecting",
                Some("exited"),
                Some("its program has ended (exited)"),
                format!("*tunnel.reconnecting* home/b, its program has ended (exited) {at}"),
            ),
            // Of anything else it is in the history.
            ("backend.unhealthy", Some("dead"), Some("reset"), format!("*backend.unhealthy* home/b, dead {at}")),
        ] {
            assert_eq!(told(kind, reason, evidence), wanted);
        }
    }
}
