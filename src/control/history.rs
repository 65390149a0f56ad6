//! What the history is told: a transition as the contract has an event.

use serde_json::Value;

use crate::failover::{Change, Transition};
use crate::model::{BackendName, EventRecord, WallTime};

/// A time in milliseconds, to the microsecond.
fn millis(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn joined(names: &[BackendName]) -> Option<String> {
    let names: Vec<&str> = names.iter().map(BackendName::as_str).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// `transition` as an event that happened at `time`.
pub(super) fn event_of(transition: &Transition, time: WallTime) -> EventRecord {
    let Transition { pool, actor, change } = transition;
    let mut event = EventRecord::new(time, change.kind());
    event.pool.clone_from(pool);
    event.actor = actor.clone();
    event.detail.insert("message".to_owned(), Value::from(change.to_string()));
    describe(change, &mut event);
    event
}

fn describe(change: &Change, event: &mut EventRecord) {
    let EventRecord { backend: of, from: before, to: after, reason: why, status: how_far, duration_ms, detail, .. } =
        event;
    let mut more = |name: &str, value: Value| drop(detail.insert(name.to_owned(), value));
    match change {
        Change::BackendHealthy { backend, downtime } => {
            *of = Some(backend.clone());
            *duration_ms = downtime.map(millis);
        }
        Change::BackendUnhealthy { backend, reason, detail, detect } => {
            *of = Some(backend.clone());
            *why = Some(reason.label().to_owned());
            *duration_ms = Some(millis(*detect));
            more("evidence", Value::from(detail.as_str()));
        }
        Change::BackendAdminState { backend, from, to } => {
            *of = Some(backend.clone());
            *before = Some(from.label().to_owned());
            *after = Some(to.label().to_owned());
        }
        Change::BackendRegistered { backend } | Change::BackendRemoved { backend } => *of = Some(backend.clone()),
        Change::PoolFailover { number, status, from, to, reason, note, detect, duration } => {
            *of = if let [only] = to.as_slice() { Some(only.clone()) } else { None };
            (*before, *after) = (joined(from), joined(to));
            *why = Some(reason.label().to_owned());
            *how_far = Some(status.label().to_owned());
            *duration_ms = Some(millis(*duration));
            more("number", Value::from(*number));
            more("detect_ms", Value::from(millis(*detect)));
            more("note", Value::from(note.clone()));
        }
        Change::PoolFailback { from, to } => {
            *of = if let [only] = to.as_slice() { Some(only.clone()) } else { None };
            (*before, *after) = (joined(from), joined(to));
        }
        Change::PoolDegraded => {}
        Change::PoolDown { reason } => *why = Some(reason.label().to_owned()),
        Change::PoolRecovered { downtime } => *duration_ms = Some(millis(*downtime)),
        Change::PoolPaused { timeout } => more("timeout_ms", Value::from(timeout.map(millis))),
        Change::PoolResumed { paused, timed_out } => {
            *duration_ms = Some(millis(*paused));
            more("timed_out", Value::from(*timed_out));
        }
        Change::PoolUnpinned { backend, removed } => {
            *of = Some(backend.clone());
            more("removed", Value::from(*removed));
        }
        Change::LatencyHigh { backend, latency, limit } => {
            *of = Some(backend.clone());
            *duration_ms = Some(millis(*latency));
            more("limit_ms", Value::from(millis(*limit)));
        }
        Change::WasStalled { lasted, probes } => {
            *duration_ms = Some(millis(*lasted));
            more("probes", Value::from(*probes));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::event_of;
    use crate::failover::{Change, Transition};
    use crate::model::{Actor, AdminState, BackendName, FailoverStatus, OutReason, WallTime};

    fn told(change: Change) -> Value {
        let transition = Transition { pool: Some("orders".into()), actor: Actor::from("ops"), change };
        let time: WallTime = "2026-11-21T10:00:00.123456Z".parse().unwrap();
        serde_json::to_value(event_of(&transition, time)).unwrap()
    }

    #[test]
    fn a_failover_is_told_as_the_contract_has_it() {
        let ms = Duration::from_micros;
        let failover = |to: &[&str]| Change::PoolFailover {
            number: 7,
            status: FailoverStatus::Completed,
            from: vec!["pg1".into()],
            to: to.iter().map(|name| BackendName::from(*name)).collect(),
            reason: OutReason::Dead,
            note: None,
            detect: ms(1500),
            duration: ms(38_200),
        };
        let event = told(failover(&["pg2"]));
        for (field, value) in [
            ("time", json!("2026-11-21T10:00:00.123456Z")),
            ("kind", json!("pool.failover")),
            ("pool", json!("orders")),
            ("backend", json!("pg2")),
            ("from", json!("pg1")),
            ("to", json!("pg2")),
            ("reason", json!("dead")),
            ("status", json!("completed")),
            ("duration_ms", json!(38.2)),
            ("actor", json!("ops")),
        ] {
            assert_eq!(event[field], value, "{field}");
        }
        assert_eq!((&event["detail"]["number"], &event["detail"]["detect_ms"]), (&json!(7), &json!(1.5)));
        let event = told(failover(&["pg2", "pg3"]));
        assert_eq!((&event["to"], &event["backend"]), (&json!("pg2, pg3"), &Value::Null));
        assert_eq!(told(failover(&[]))["to"], Value::Null);
    }

    #[test]
    fn an_order_and_evidence_are_told_with_what_belongs_to_them() {
        let (from, to) = (AdminState::Ready, AdminState::Drain);
        let event = told(Change::BackendAdminState { backend: "pg1".into(), from, to });
        assert_eq!(
            (&event["backend"], &event["from"], &event["to"]),
            (&json!("pg1"), &json!("ready"), &json!("drain"))
        );
        let evidence = "connecting to 10.0.0.1:5432: Connection refused".to_owned();
        let (reason, detect) = (OutReason::Dead, Duration::from_millis(2));
        let event = told(Change::BackendUnhealthy { backend: "pg1".into(), reason, detail: evidence.clone(), detect });
        assert_eq!((&event["reason"], &event["detail"]["evidence"]), (&json!("dead"), &json!(evidence)));
    }
}
