//! One event as history keeps it and the API shows it. What happened is said elsewhere; this is its form.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Actor, BackendName, PoolName, WallTime};

/// An event of the history. Its JSON is the API's; what a case has nothing to say of is `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its number, given by the store: grows, and is never given twice. 0 until it is given.
    pub id: u64,
    /// When it happened.
    pub time: WallTime,
    /// What happened: one of the contract's kinds, such as `pool.failover`.
    pub kind: String,
    /// The pool it happened in.
    pub pool: Option<PoolName>,
    /// The backend it happened to.
    pub backend: Option<BackendName>,
    /// What was before.
    pub from: Option<String>,
    /// What is since.
    pub to: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// How far it has come, if it takes time.
    pub status: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: Option<f64>,
    /// Who had it done.
    pub actor: Actor,
    /// The evidence, and whatever else belongs to it.
    pub detail: Map<String, Value>,
}

impl EventRecord {
    /// An event without a number, of which nothing is known but its time and kind: the daemon's own doing.
    #[must_use]
    pub fn new(time: WallTime, kind: &str) -> Self {
        Self {
            id: 0,
            time,
            kind: kind.to_owned(),
            pool: None,
            backend: None,
            from: None,
            to: None,
            reason: None,
            status: None,
            duration_ms: None,
            actor: Actor::changeover(),
            detail: Map::new(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::EventRecord;
    use crate::model::{BackendName, PoolName, WallTime};

    #[test]
    fn an_event_is_written_as_the_contract_has_it() {
        let time: WallTime = "2026-11-21T10:00:00.123456Z".parse().unwrap();
        let event = EventRecord {
            id: 812,
            pool: Some(PoolName::from("orders")),
            backend: Some(BackendName::from("pg2")),
            from: Some("pg1".to_owned()),
            to: Some("pg2".to_owned()),
            reason: Some("dead".to_owned()),
            status: Some("completed".to_owned()),
            duration_ms: Some(38.2),
            ..EventRecord::new(time, "pool.failover")
        };
        let json = concat!(
            r#"{"id":812,"time":"2026-11-21T10:00:00.123456Z","kind":"pool.failover","pool":"orders","backend":"pg2","#,
            r#""from":"pg1","to":"pg2","reason":"dead","status":"completed","duration_ms":38.2,"actor":"changeover","#,
            r#""detail":{}}"#
        );
        assert_eq!(serde_json::to_string(&event).unwrap(), json);
        assert_eq!(serde_json::from_str::<EventRecord>(json).unwrap(), event);
        let empty = serde_json::to_value(EventRecord::new(time, "daemon.started")).unwrap();
        for absent in ["pool", "backend", "from", "to", "reason", "status", "duration_ms"] {
            assert_eq!(empty.get(absent), Some(&serde_json::Value::Null), "{absent}");
        }
    }
}
