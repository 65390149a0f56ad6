//! An event in a line of words, for people.

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
    let parts = [place, moved, event.reason.clone(), event.status.clone(), took];
    let mut words = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if words.is_empty() {
        words = format!("by {}", event.actor);
    }
    format!("{words} ({})", event.time)
}

/// What Slack's messages have instead of the three characters by which it marks links and commands.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
}
