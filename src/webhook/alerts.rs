//! An event as alerts, as an Alertmanager takes them: one that lasts ends when what it tells of is over. Those that last are
//! told again and again, since an Alertmanager forgets what it is not told and keeps nothing over its own restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::model::{EventRecord, WallTime};
use crate::store::Page;

use super::present::{Present, Stands};
use super::text;

/// An alert that is not told again is over after so long, counted from when it is told.
const LASTS: Duration = Duration::from_secs(24 * 3600);
/// The same of one that tells of a moment.
const MOMENT: Duration = Duration::from_secs(5 * 60);
/// From one time that those that last are told to the next.
pub(super) const AGAIN_EVERY: Duration = Duration::from_secs(5 * 60);
/// The same after one that was not taken; and from one look for what came to its end without an event to the next.
pub(super) const AGAIN_SOON: Duration = Duration::from_secs(30);
/// Of more that last at once than this, the others are told once, and counted.
const LASTING_MAX: usize = 1000;

/// An alert. Those with the same labels are the same one.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Alert {
    labels: Labels,
    annotations: Annotations,
    #[serde(rename = "startsAt")]
    starts_at: WallTime,
    #[serde(rename = "endsAt")]
    ends_at: WallTime,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Labels {
    alertname: &'static str,
    severity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Annotations {
    summary: String,
    event: String,
}

/// What an event means for an alert that lasts: it begins, or it ends.
const LASTING: &[(&str, &str, &str, &[&str])] = &[
    ("pool.down", "ChangeoverPoolDown", "critical", &["pool.recovered"]),
    ("pool.split_brain", "ChangeoverSplitBrain", "critical", &["pool.primary_changed", "pool.recovered"]),
    ("pool.degraded", "ChangeoverPoolDegraded", "warning", &["pool.recovered"]),
    ("pool.paused", "ChangeoverPoolPaused", "warning", &["pool.resumed"]),
    ("backend.unhealthy", "ChangeoverBackendUnhealthy", "warning", &["backend.healthy", "backend.removed"]),
    ("tunnel.failed", "ChangeoverTunnelFailed", "warning", &["tunnel.connected", "tunnel.disconnected"]),
    ("store.degraded", "ChangeoverStoreDegraded", "critical", &["store.recovered"]),
];

/// The alerts that `event`, which is told at `now`, begins, and those that it ends; if there are none, one of its own that is
/// soon over.
pub(super) fn of(event: &EventRecord, now: WallTime) -> Vec<Alert> {
    let mut alerts = Vec::new();
    for (begins, name, severity, ends) in LASTING {
        if event.kind == *begins {
            alerts.push(alert(event, name, severity, now.max(event.time) + LASTS));
        } else if ends.contains(&event.kind.as_str()) {
            alerts.push(alert(event, name, severity, event.time));
        }
    }
    if alerts.is_empty() {
        // It was not there while it could not be told.
        let mut moment = alert(event, "ChangeoverEvent", "info", now.max(event.time) + MOMENT);
        moment.labels.kind = Some(event.kind.clone());
        moment.labels.backend = event.backend.as_ref().map(ToString::to_string);
        alerts.push(moment);
    }
    alerts
}

/// Every kind that begins or ends an alert that lasts.
pub(super) fn lasting_kinds() -> Vec<String> {
    LASTING.iter().flat_map(|(begins, _, _, ends)| ends.iter().chain([begins])).map(|kind| (*kind).to_owned()).collect()
}

/// The alerts that last, each by the event that it began with.
#[derive(Debug, Default)]
pub(super) struct Lasting {
    begun: BTreeMap<Labels, Arc<EventRecord>>,
    /// The last event of the history that this knows of.
    pub(super) read_to: u64,
}

impl Lasting {
    /// `event` has happened and was posted. `false` if there is no room for the alert that it begins.
    fn learn(&mut self, event: &Arc<EventRecord>) -> bool {
        let mut is_known = true;
        for (begins, name, severity, ends) in LASTING {
            let labels = || alert(event, name, severity, event.time).labels;
            if ends.contains(&event.kind.as_str()) {
                self.begun.remove(&labels());
            } else if event.kind == *begins {
                let labels = labels();
                is_known = self.begun.len() < LASTING_MAX || self.begun.contains_key(&labels);
                if is_known {
                    self.begun.insert(labels, Arc::clone(event));
                }
            }
        }
        is_known
    }

    /// Learns what `page`, which was asked for after what was read, has up to `done`. Returns for how many alerts there was no
    /// room. A page that is not whole is read once more, and they are counted then.
    pub(super) fn read(&mut self, page: &Page, done: u64) -> u64 {
        let mut left_out = 0;
        for event in page.events.iter().filter(|event| event.id <= done) {
            left_out += u64::from(!self.learn(event));
        }
        if page.is_partial {
            return 0;
        }
        self.read_to = page.next.min(done).max(self.read_to);
        left_out
    }

    /// What of them is over by what is `present`, as it is to be told at `now`.
    pub(super) fn over(&self, present: &Present, now: WallTime) -> Vec<Alert> {
        let is_over = |(_, event): &(_, &Arc<EventRecord>)| present.stands(event) == Stands::Over;
        let told = |(labels, event): (&Labels, &Arc<EventRecord>)| alert(event, labels.alertname, labels.severity, now);
        self.begun.iter().filter(is_over).map(told).collect()
    }

    /// What is to be told of them at `now`: what still holds lasts on, and what is over by what is `present` ends. Of what nobody
    /// can tell nothing is told.
    pub(super) fn again(&self, present: &Present, now: WallTime) -> Vec<Alert> {
        let told = |(labels, event): (&Labels, &Arc<EventRecord>)| {
            let until = match present.stands(event) {
                Stands::Still => now + LASTS,
                Stands::Over => now,
                Stands::Untold => return None,
            };
            Some(alert(event, labels.alertname, labels.severity, until))
        };
        self.begun.iter().filter_map(told).collect()
    }

    /// What is over by what is `present` has been told, and is told no more.
    pub(super) fn settle(&mut self, present: &Present) {
        self.begun.retain(|_, event| present.stands(event) != Stands::Over);
    }
}

fn alert(event: &EventRecord, alertname: &'static str, severity: &'static str, ends_at: WallTime) -> Alert {
    // An alert of a pool is the same one whichever backend an event names beside it.
    let is_of_backend = event.kind.starts_with("backend.") || event.kind.starts_with("tunnel.");
    let backend = event.backend.as_ref().filter(|_| is_of_backend).map(ToString::to_string);
    let pool = event.pool.as_ref().map(ToString::to_string);
    Alert {
        labels: Labels { alertname, severity, kind: None, pool, backend },
        annotations: Annotations { summary: text::words(event), event: event.id.to_string() },
        starts_at: event.time,
        ends_at,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::{LASTING, LASTING_MAX, Lasting, lasting_kinds, of};
    use crate::model::{EVENT_KINDS, EventRecord, HealthState, PoolState, WallTime};
    use crate::store::Page;
    use crate::webhook::present::Present;
    use crate::webhook::present::tests::orders;

    const BEGUN: &str = "2026-11-21T10:00:00Z";

    fn at(time: &str) -> WallTime {
        time.parse().unwrap()
    }

    fn event(kind: &str) -> EventRecord {
        let mut event = EventRecord::new(at(BEGUN), kind);
        (event.id, event.pool, event.backend) = (7, Some("orders".into()), Some("pg1".into()));
        event
    }

    fn told(alerts: &[super::Alert]) -> Vec<Value> {
        alerts.iter().map(|alert| serde_json::to_value(alert).unwrap()).collect()
    }

    fn alerts(kind: &str) -> Vec<Value> {
        told(&of(&event(kind), at(BEGUN)))
    }

    #[test]
    fn what_is_told_late_is_told_for_as_long_as_in_time() {
        let late = at("2026-11-21T14:00:00Z");
        let end = |kind: &str| told(&of(&event(kind), late))[0]["endsAt"].clone();
        assert_eq!(end("pool.failover"), "2026-11-21T14:05:00.000000Z");
        assert_eq!(end("pool.down"), "2026-11-22T14:00:00.000000Z");
        assert_eq!(end("pool.resumed"), "2026-11-21T10:00:00.000000Z", "what is over is over since then");
    }

    #[test]
    fn what_lasts_is_told_again_until_it_is_over() {
        let down = Present::new(vec![orders(PoolState::Down, HealthState::Unhealthy)], false);
        let mut lasting = Lasting::default();
        for kind in ["pool.down", "backend.unhealthy", "pool.failover", "pool.degraded"] {
            assert!(lasting.learn(&Arc::new(event(kind))));
        }
        for now in ["2026-11-21T10:05:00Z", "2026-11-29T10:00:00Z"] {
            let again = told(&lasting.again(&down, at(now)));
            let names: Vec<&Value> = again.iter().map(|alert| &alert["labels"]["alertname"]).collect();
            assert_eq!(names, ["ChangeoverBackendUnhealthy", "ChangeoverPoolDegraded", "ChangeoverPoolDown"]);
            for alert in &again {
                assert_eq!(alert["startsAt"], "2026-11-21T10:00:00.000000Z");
                assert_eq!(alert["endsAt"], (at(now) + Duration::from_secs(86_400)).to_string());
            }
            lasting.settle(&down);
        }
        assert!(lasting.learn(&Arc::new(event("pool.recovered"))));
        assert!(lasting.learn(&Arc::new(event("backend.healthy"))));
        assert_eq!(lasting.again(&down, at(BEGUN)), []);
    }

    #[test]
    fn what_came_to_its_end_without_a_word_is_told_to_be_over_until_that_is_taken() {
        let now = "2026-11-21T11:00:00.000000Z";
        let well = Present::new(vec![orders(PoolState::Healthy, HealthState::Healthy)], false);
        let unknown = Present::new(vec![orders(PoolState::Unknown, HealthState::Unknown)], true);
        for (begins, ..) in LASTING {
            let mut lasting = Lasting::default();
            lasting.learn(&Arc::new(event(begins)));
            if !["pool.paused", "tunnel.failed", "store.degraded"].contains(begins) {
                assert_eq!(lasting.again(&unknown, at(now)), [], "{begins}: nobody knows");
                lasting.settle(&unknown);
            }
            // A receiver that does not take it is told once more.
            for _ in 0..2 {
                let over = told(&lasting.again(&well, at(now)));
                assert_eq!(told(&lasting.over(&well, at(now))), over, "{begins}");
                assert_eq!((over.len(), &over[0]["endsAt"]), (1, &json!(now)), "{begins}");
            }
            lasting.settle(&well);
            assert_eq!(lasting.again(&well, at(now)), [], "{begins}: it was told");
            lasting.learn(&Arc::new(event(begins)));
            let gone = told(&lasting.again(&Present::default(), at(now)));
            assert_eq!((gone.len(), &gone[0]["endsAt"]), (1, &json!(now)), "{begins}: its pool is gone");
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_once_however_often_its_page_is_read() {
        let of = |number: usize| {
            let mut event = event("backend.unhealthy");
            (event.id, event.backend) = (number as u64, Some(format!("b{number}").as_str().into()));
            Arc::new(event)
        };
        let last = LASTING_MAX as u64 + 7;
        let whole = Page { events: (1..LASTING_MAX + 8).map(of).collect(), next: last, ..Page::default() };
        // Its older half is on a disk that does not answer.
        let newer = whole.events[LASTING_MAX / 2..].to_vec();
        let partial = Page { events: newer, is_partial: true, ..whole.clone() };
        let mut lasting = Lasting::default();
        for _ in 0..3 {
            assert_eq!((lasting.read(&partial, last), lasting.read_to), (0, 0));
        }
        assert_eq!(lasting.begun.len(), LASTING_MAX / 2 + 7, "what is there is told again");
        assert_eq!(
            (lasting.read(&whole, last - 2), lasting.read_to),
            (7, last - 2),
            "the two that follow have a place"
        );
        let rest = Page { events: whole.events[LASTING_MAX + 5..].to_vec(), ..whole };
        assert_eq!((lasting.read(&rest, last), lasting.read_to), (0, last));
    }

    #[test]
    fn no_more_is_told_again_than_may_be() {
        let mut lasting = Lasting::default();
        let of = |number: usize| {
            let mut event = event("backend.unhealthy");
            event.backend = Some(format!("b{number}").as_str().into());
            Arc::new(event)
        };
        let learnt = (0..2 * LASTING_MAX).filter(|number| lasting.learn(&of(*number))).count();
        assert_eq!((learnt, lasting.begun.len()), (LASTING_MAX, LASTING_MAX));
        assert!(lasting.learn(&of(0)), "it has its place");
        assert!(lasting_kinds().iter().all(|kind| EVENT_KINDS.contains(&kind.as_str())));
    }

    #[test]
    fn what_lasts_is_one_alert_that_begins_and_ends() {
        for (begins, _, _, ends) in LASTING {
            let begun = alerts(begins).remove(0);
            assert!(begun["endsAt"].as_str() > begun["startsAt"].as_str(), "{begun}");
            for end in *ends {
                let ended = alerts(end).into_iter().find(|alert| alert["labels"] == begun["labels"]);
                let ended = ended.unwrap_or_else(|| panic!("{end} does not end {begun}"));
                assert_eq!(ended["endsAt"], "2026-11-21T10:00:00.000000Z");
            }
        }
        let down = json!({"alertname": "ChangeoverPoolDown", "severity": "critical", "pool": "orders"});
        assert_eq!(alerts("pool.down")[0]["labels"], down);
    }

    #[test]
    fn a_tunnel_that_failed_is_an_alert_of_its_backend_until_that_is_connected_or_stopped() {
        let labels =
            json!({"alertname": "ChangeoverTunnelFailed", "severity": "warning", "pool": "orders", "backend": "pg1"});
        let failed = alerts("tunnel.failed");
        assert_eq!((failed.len(), &failed[0]["labels"]), (1, &labels));
        for over in ["tunnel.connected", "tunnel.disconnected"] {
            let of_another = EventRecord { backend: Some("pg2".into()), ..event(over) };
            let mut lasting = Lasting::default();
            lasting.learn(&Arc::new(event("tunnel.failed")));
            // Each try is told, and none of them is the end.
            for other in [event("tunnel.connecting"), event("tunnel.reconnecting"), of_another] {
                lasting.learn(&Arc::new(other));
                assert_eq!(lasting.begun.len(), 1, "{over}");
            }
            lasting.learn(&Arc::new(event(over)));
            assert_eq!(lasting.begun.len(), 0, "{over}");
            assert_eq!((alerts(over).len(), &alerts(over)[0]["labels"]), (1, &labels), "{over}");
        }
        assert_eq!(alerts("tunnel.reconnecting")[0]["labels"]["alertname"], "ChangeoverEvent");
    }

    #[test]
    fn whatever_happens_is_an_alert_or_ends_one() {
        for kind in EVENT_KINDS {
            assert!(!alerts(kind).is_empty(), "{kind}");
        }
        let wanted = json!({"alertname": "ChangeoverEvent", "severity": "info", "kind": "pool.failover",
            "pool": "orders", "backend": "pg1"});
        assert_eq!(alerts("pool.failover")[0]["labels"], wanted);
        assert!(LASTING.iter().flat_map(|row| row.3.iter().chain([&row.0])).all(|kind| EVENT_KINDS.contains(kind)));
    }
}
