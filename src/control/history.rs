//! What the history is told: a transition as the contract has an event, and of a completed failover where its time went.

use std::time::Duration;

use serde_json::Value;

use crate::failover::{Change, Transition};
use crate::model::{BackendName, EventRecord, FailoverStatus, OutReason, WallTime};

/// What one turn told, and how long it took to be in force.
#[derive(Debug, Default)]
pub(super) struct Reports {
    pub(super) transitions: Vec<Transition>,
    pub(super) took: Took,
}

/// The time that one turn took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Took {
    /// From what the controller was told to what it wanted done.
    pub(super) decide: Duration,
    /// From there until its table was in force, and its fences closed.
    pub(super) publish: Duration,
}

/// A time in milliseconds, to the microsecond.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn joined(names: &[BackendName]) -> Option<String> {
    let names: Vec<&str> = names.iter().map(BackendName::as_str).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// `transition` as an event that happened at `time`, in a turn that `took` so long.
pub(super) fn event_of(transition: &Transition, time: WallTime, took: Took) -> EventRecord {
    let Transition { pool, actor, change } = transition;
    let mut event = EventRecord::new(time, change.kind());
    event.pool.clone_from(pool);
    event.actor = actor.clone();
    event.detail.insert("message".to_owned(), Value::from(change.to_string()));
    describe(change, took, &mut event);
    event
}

fn describe(change: &Change, took: Took, event: &mut EventRecord) {
    let EventRecord { backend: of, from: before, to: after, reason: why, status: how_far, duration_ms, detail, .. } =
        event;
    let mut more = |name: &str, value: Value| drop(detail.insert(name.to_owned(), value));
    match change {
        Change::BackendHealthy { backend, downtime } => {
            *of = Some(backend.clone());
            *duration_ms = downtime.map(millis);
        }
        Change::BackendUnhealthy { backend, reason, detail, detect } => {
            (*of, *why) = (Some(backend.clone()), Some(reason.label().to_owned()));
            *duration_ms = Some(millis(*detect));
            more("evidence", Value::from(detail.as_str()));
        }
        Change::BackendAdminState { backend, from, to } => {
            *of = Some(backend.clone());
            (*before, *after) = (Some(from.label().to_owned()), Some(to.label().to_owned()));
        }
        Change::BackendRegistered { backend } | Change::BackendRemoved { backend } => *of = Some(backend.clone()),
        Change::PoolFailover { number, status, from, to, reason, note, evidence, detect, duration } => {
            *of = if let [only] = to.as_slice() { Some(only.clone()) } else { None };
            (*before, *after) = (joined(from), joined(to));
            (*why, *how_far) = (Some(reason.label().to_owned()), Some(status.label().to_owned()));
            *duration_ms = Some(millis(*duration));
            more("number", Value::from(*number));
            more("detect_ms", Value::from(millis(*detect)));
            more("note", Value::from(note.clone()));
            more("evidence", Value::from(evidence.as_ref().or(note.as_ref()).cloned()));
            if *status == FailoverStatus::Completed {
                let phases = phases(*detect, *duration, took);
                *duration_ms = Some(millis(phases.iter().map(|(_, time)| time).sum()));
                more("phases", phases.iter().map(|&(phase, time)| (phase, millis(time))).collect());
            }
        }
        Change::PoolFailback { from, to } => {
            *of = if let [only] = to.as_slice() { Some(only.clone()) } else { None };
            (*before, *after) = (joined(from), joined(to));
        }
        Change::PoolDegraded => {}
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
        Change::PrimaryChanged { .. }
        | Change::PrimaryRefused { .. }
        | Change::SplitBrain { .. }
        | Change::BackendLagging { .. } => {
            describe_cluster(change, event);
        }
        Change::PoolDown { .. } | Change::Tunnel { .. } => describe_tunnel(change, event),
        Change::WasStalled { lasted, probes } => {
            *duration_ms = Some(millis(*lasted));
            more("probes", Value::from(*probes));
        }
    }
}

/// Where the time of a failover went, which was `detect`ed, and then lasted until `duration` before the turn that ended it.
/// Together they are the whole: from the first piece of evidence until the table was in force.
fn phases(detect: Duration, duration: Duration, Took { decide, publish }: Took) -> [(&'static str, Duration); 4] {
    let wait = duration.saturating_sub(detect);
    let all = [("detect_ms", detect), ("wait_ms", wait), ("decide_ms", decide), ("publish_ms", publish)];
    // To the microsecond, as they are shown, so that the parts that are shown make the whole that is.
    let shown = |time: Duration| {
        let nearest = time + Duration::from_nanos(500);
        Duration::new(nearest.as_secs(), nearest.subsec_micros() * 1000)
    };
    all.map(|(phase, time)| (phase, shown(time)))
}

/// How a tunnel fares; and what is told of pools that are down, of which a tunnel's target may be the reason.
fn describe_tunnel(change: &Change, event: &mut EventRecord) {
    if let Change::PoolDown { reason, note } = change {
        event.reason = Some(reason.label().to_owned());
        event.detail.insert("note".to_owned(), Value::from(note.clone()));
    }
    let Change::Tunnel { backend, reason, detail: last, provider, attach, run, pid, next_retry, .. } = change else {
        return;
    };
    event.backend = Some(backend.clone());
    event.reason = Some(reason.label().to_owned());
    let detail = &mut event.detail;
    let mut more = |name: &str, value: Value| drop(detail.insert(name.to_owned(), value));
    more("provider", Value::from(&**provider));
    more("attach", Value::from(attach.label()));
    more("run", Value::from(run.0));
    more("pid", Value::from(*pid));
    more("next_retry_ms", Value::from(next_retry.map(millis)));
    more("evidence", Value::from(last.clone()));
}

/// What only PostgreSQL clusters have to tell.
fn describe_cluster(change: &Change, event: &mut EventRecord) {
    let detail = &mut event.detail;
    let mut more = |name: &str, value: Value| drop(detail.insert(name.to_owned(), value));
    if let Change::PrimaryChanged { from, to, timeline, lost } = change {
        event.backend = Some(to.clone());
        event.from = from.as_ref().map(BackendName::to_string);
        event.to = Some(to.to_string());
        more("timeline", Value::from(timeline.map(|timeline| timeline.0)));
        more("lost_bytes", Value::from(*lost));
    } else if let Change::PrimaryRefused { backend, detail: evidence } = change {
        event.backend = Some(backend.clone());
        more("evidence", Value::from(evidence.as_str()));
    } else if let Change::SplitBrain { claimants, detail: evidence } = change {
        more("claimants", claimants.iter().map(BackendName::as_str).collect());
        more("evidence", Value::from(evidence.as_str()));
    } else if let Change::BackendLagging { backend, lagging, behind } = change {
        event.backend = Some(backend.clone());
        event.reason = lagging.then(|| OutReason::Lagging.label().to_owned());
        more("lagging", Value::from(*lagging));
        more("lag_bytes", Value::from(behind.map(|(bytes, _)| bytes)));
        more("lag_seconds", Value::from(behind.map(|(_, time)| millis(time) / 1e3)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::{Took, event_of};
    use crate::failover::{Change, Transition};
    use crate::model::{
        Actor, AdminState, Attach, BackendName, FailoverStatus, OutReason, RunId, Timeline, TunnelCause, TunnelState,
        WallTime,
    };

    fn told(change: Change) -> Value {
        let transition = Transition { pool: Some("orders".into()), actor: Actor::from("ops"), change };
        let time: WallTime = "2026-11-21T10:00:00.123456Z".parse().unwrap();
        let took = Took { decide: Duration::from_micros(40), publish: Duration::from_micros(160) };
        serde_json::to_value(event_of(&transition, time, took)).unwrap()
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
            evidence: Some("connecting to 10.0.0.1:5432: Connection refused".to_owned()),
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
            ("duration_ms", json!(38.4)),
            ("actor", json!("ops")),
        ] {
            assert_eq!(event[field], value, "{field}");
        }
        assert_eq!((&event["detail"]["number"], &event["detail"]["detect_ms"]), (&json!(7), &json!(1.5)));
        assert_eq!(event["detail"]["evidence"], "connecting to 10.0.0.1:5432: Connection refused");
        let phases = json!({"detect_ms": 1.5, "wait_ms": 36.7, "decide_ms": 0.04, "publish_ms": 0.16});
        assert_eq!(event["detail"]["phases"], phases, "they are the whole duration");
        let event = told(failover(&["pg2", "pg3"]));
        assert_eq!((&event["to"], &event["backend"]), (&json!("pg2, pg3"), &Value::Null));
        assert_eq!(told(failover(&[]))["to"], Value::Null);
        let Change::PoolFailover { number, from, to, detect, duration, .. } = failover(&["pg2"]) else { panic!() };
        let ordered = |status| Change::PoolFailover {
            number,
            status,
            from: from.clone(),
            to: to.clone(),
            reason: OutReason::Manual,
            note: Some("upgrade".to_owned()),
            evidence: None,
            detect,
            duration,
        };
        let event = told(ordered(FailoverStatus::Completed));
        assert_eq!((&event["detail"]["evidence"], &event["detail"]["note"]), (&json!("upgrade"), &json!("upgrade")));
        let event = told(ordered(FailoverStatus::Failed));
        assert_eq!(
            (&event["duration_ms"], &event["detail"]["phases"]),
            (&json!(38.2), &Value::Null),
            "nothing is over"
        );
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

    #[test]
    fn a_tunnel_is_told_as_the_contract_has_it() {
        let tunnel = |state| Change::Tunnel {
            backend: "pg2".into(),
            state,
            reason: TunnelCause::Exited,
            detail: Some("Connection closed by remote host.".to_owned()),
            provider: "ssh".into(),
            attach: Attach::Listen,
            run: RunId(3),
            pid: None,
            next_retry: Some(Duration::from_micros(812_300)),
        };
        for state in TunnelState::ALL {
            let event = told(tunnel(*state));
            assert_eq!(event["kind"], json!(format!("tunnel.{state}")));
            assert_eq!((&event["backend"], &event["reason"]), (&json!("pg2"), &json!("exited")));
            for (field, value) in [
                ("provider", json!("ssh")),
                ("attach", json!("listen")),
                ("run", json!(3)),
                ("pid", Value::Null),
                ("next_retry_ms", json!(812.3)),
                ("evidence", json!("Connection closed by remote host.")),
            ] {
                assert_eq!(event["detail"][field], value, "{field} of {event}");
            }
        }
        let words =
            "tunnel of pg2 (ssh) is reconnecting (exited): Connection closed by remote host; next try in 812.3ms";
        assert_eq!(told(tunnel(TunnelState::Reconnecting))["detail"]["message"], json!(words));
    }

    #[test]
    fn another_primary_is_told_with_who_it_was_and_its_timeline() {
        let changed = |from: Option<&str>, timeline| {
            told(Change::PrimaryChanged {
                from: from.map(BackendName::from),
                to: "pg2".into(),
                timeline,
                lost: timeline.map(|_| 4096),
            })
        };
        let event = changed(Some("pg1"), Some(Timeline(4)));
        for (field, value) in [
            ("kind", json!("pool.primary_changed")),
            ("pool", json!("orders")),
            ("backend", json!("pg2")),
            ("from", json!("pg1")),
            ("to", json!("pg2")),
            ("reason", Value::Null),
        ] {
            assert_eq!(event[field], value, "{field} of {event}");
        }
        assert_eq!(event["detail"]["timeline"], json!(4));
        assert_eq!(
            event["detail"]["message"],
            json!("pg2 is the primary on timeline 4, pg1 was; it lacks 4096 bytes that were written before")
        );
        assert_eq!(event["detail"]["lost_bytes"], json!(4096));
        let event = changed(None, None);
        assert_eq!((&event["from"], &event["detail"]["timeline"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn a_split_brain_is_told_with_all_who_claim_and_why_none_is_believed() {
        let detail = "both on timeline 4, and neither descends from the other".to_owned();
        let event = told(Change::SplitBrain { claimants: vec!["pg1".into(), "pg2".into()], detail: detail.clone() });
        assert_eq!((&event["kind"], &event["pool"]), (&json!("pool.split_brain"), &json!("orders")));
        assert_eq!((&event["backend"], &event["from"], &event["to"]), (&Value::Null, &Value::Null, &Value::Null));
        assert_eq!(event["detail"]["claimants"], json!(["pg1", "pg2"]));
        assert_eq!(event["detail"]["evidence"], json!(detail));
    }

    #[test]
    fn a_standby_that_falls_behind_and_catches_up_is_told_with_how_far() {
        let time = Duration::from_micros(12_345_678);
        for (lagging, reason) in [(true, json!("lagging")), (false, Value::Null)] {
            let event = told(Change::BackendLagging { backend: "pg3".into(), lagging, behind: Some((20 << 20, time)) });
            assert_eq!((&event["kind"], &event["backend"]), (&json!("backend.lagging"), &json!("pg3")));
            assert_eq!((&event["reason"], &event["detail"]["lagging"]), (&reason, &json!(lagging)));
            let (bytes, seconds) = (&event["detail"]["lag_bytes"], event["detail"]["lag_seconds"].as_f64().unwrap());
            assert_eq!(bytes, &json!(20 << 20));
            assert!((seconds - 12.345_678).abs() < 1e-6, "{seconds}");
        }
        let event = told(Change::BackendLagging { backend: "pg3".into(), lagging: true, behind: None });
        assert_eq!((&event["detail"]["lag_bytes"], &event["detail"]["lag_seconds"]), (&Value::Null, &Value::Null));
    }
}
