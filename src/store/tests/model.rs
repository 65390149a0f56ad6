//! Random operations against a plain model, with reopening in between.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::shaky_disk::ShakyDisk;
use super::{all, clock, close, plan, wait, wall};
use crate::model::{Actor, AdminState, BackendName, EventRecord, PinnedServer, PoolName, SystemId};
use crate::store::start::open_on;
use crate::store::{AdminEntry, Change, Filter, Opened, Patch, Pause, Pin, PoolCounters, State, StoppedTunnel};

#[derive(Debug, Clone)]
enum Op {
    Change(Vec<(u8, u8, u8, Option<u32>)>, u8),
    Append(u8, u8),
    Reopen,
    Crash,
    Find { pool: Option<u8>, kind: Option<u8>, after: Option<u8>, limit: u8 },
}

fn op() -> impl Strategy<Value = Op> {
    let entry = (0..9u8, 0..3u8, 0..3u8, proptest::option::weighted(0.7, any::<u32>()));
    prop_oneof![
        4 => (proptest::collection::vec(entry, 0..5), 0..3u8).prop_map(|(entries, events)| Op::Change(entries, events)),
        4 => (0..3u8, 0..3u8).prop_map(|(pool, kind)| Op::Append(pool, kind)),
        1 => Just(Op::Reopen),
        1 => Just(Op::Crash),
        3 => (proptest::option::of(0..3u8), proptest::option::of(0..3u8), proptest::option::of(0..40u8), 1..9u8)
            .prop_map(|(pool, kind, after, limit)| Op::Find { pool, kind, after, limit }),
    ]
}

fn pool(number: u8) -> PoolName {
    PoolName::from(format!("p{number}").as_str())
}

fn kind(number: u8) -> String {
    format!("kind.{number}")
}

fn change((shelf, at, name, value): (u8, u8, u8, Option<u32>)) -> Change {
    let (since, actor) = (wall(), Actor::from("ops"));
    let backend = BackendName::from(format!("b{name}").as_str());
    let key = (pool(at), backend.clone());
    match shelf {
        0 => Change::Registration(key, value.map(|v| format!("{{\"weight\":{v}}}"))),
        1 => {
            let patch = |v: u32| Patch {
                value: v.to_string(),
                file_value: v.is_multiple_of(2).then(String::new),
                since,
                actor,
            };
            Change::Patch(pool(at), format!("check.k{name}"), value.map(patch))
        }
        2 => {
            let pin = |v: u32| Pin {
                backend: backend.clone(),
                whole_tier: v.is_multiple_of(2),
                mates: vec![backend.clone()],
                since,
                reason: Some(v.to_string()),
                actor: actor.clone(),
                overrules: v.is_multiple_of(3),
                server: v.is_multiple_of(3).then(|| PinnedServer {
                    address: format!("10.0.0.{}:5432", v % 256).parse().unwrap(),
                    system: Some(SystemId(v.into())),
                }),
                awaits: v.is_multiple_of(5),
            };
            Change::Pin(pool(at), value.map(pin))
        }
        3 => {
            Change::Pause(pool(at), value.map(|v| Pause { until: v.is_multiple_of(2).then_some(since), since, actor }))
        }
        4 => {
            let entry = |v: u32| AdminEntry { state: AdminState::ALL[v as usize % 3], since, actor };
            Change::AdminState(key, value.map(entry))
        }
        5 => {
            let counters = |v: u32| PoolCounters {
                last_failover: u64::from(v) + 1,
                failovers: u64::from(v),
                recoveries: u64::from(v / 2),
            };
            Change::Counters(pool(at), value.map(counters))
        }
        6 => Change::StoppedTunnel(key, value.map(|_| StoppedTunnel { since, actor })),
        7 => Change::Lineage(pool(at), value.map(|v| v.to_string())),
        _ => Change::Downtime(key, value.map(|v| Duration::from_micros(u64::from(v)))),
    }
}

fn happened(at: u8, number: u8) -> EventRecord {
    EventRecord { pool: Some(pool(at)), ..EventRecord::new(wall(), &kind(number)) }
}

/// What must be there.
#[derive(Default)]
struct Model {
    state: State,
    events: BTreeMap<u64, (PoolName, String)>,
}

impl Model {
    fn note(&mut self, event: &EventRecord) {
        let last = self.events.last_key_value().map_or(0, |(id, _)| *id);
        assert!(event.id > last, "ids grow");
        self.events.insert(event.id, (event.pool.clone().unwrap(), event.kind.clone()));
    }

    fn find(&self, filter: &Filter, after: Option<u64>, limit: usize) -> Vec<u64> {
        let wanted = |(_, (pool, kind)): &(&u64, &(PoolName, String))| {
            filter.pool.as_ref().is_none_or(|p| p == pool)
                && (filter.kinds.is_empty() || filter.kinds.iter().any(|k| k == kind))
        };
        match after {
            Some(after) => self.events.range(after + 1..).filter(wanted).map(|(id, _)| *id).take(limit).collect(),
            None => {
                let newest = self.events.iter().rev().filter(wanted).map(|(id, _)| *id);
                let mut ids: Vec<u64> = newest.take(limit).collect();
                ids.reverse();
                ids
            }
        }
    }
}

fn reopen(disk: &ShakyDisk) -> Opened {
    open_on(Some(Box::new(disk.clone())), &plan(), super::DEADLINE, clock()).unwrap()
}

fn run(ops: Vec<Op>) {
    // A crash is a copy of the disk as it is: whatever the store does afterwards, it does to another one.
    let mut disk = ShakyDisk::default();
    let mut store = reopen(&disk);
    let mut model = Model::default();
    for op in ops {
        match op {
            Op::Change(entries, events) => {
                let changes: Vec<Change> = entries.into_iter().map(change).collect();
                let events = (0..events).map(|number| happened(number, number)).collect();
                let applied = wait(store.handle.change(changes.clone(), events)).unwrap();
                assert!(applied.is_durable);
                changes.into_iter().for_each(|change| model.state.apply(change));
                applied.events.iter().for_each(|event| model.note(event));
            }
            Op::Append(at, number) => {
                store.handle.append(happened(at, number));
                // Its id is known once what comes after it is durable.
                let applied = wait(store.handle.change(Vec::new(), vec![happened(at, number)])).unwrap();
                let id = applied.events[0].id - 1;
                model.note(&EventRecord { id, ..happened(at, number) });
                model.note(&applied.events[0]);
            }
            Op::Reopen => {
                close(store);
                store = reopen(&disk);
                assert_eq!(store.state, model.state);
            }
            Op::Crash => {
                disk = disk.image();
                store = reopen(&disk);
                assert_eq!(store.state, model.state);
            }
            Op::Find { pool: at, kind: number, after, limit } => {
                let filter =
                    Filter { pool: at.map(pool), kinds: number.map(kind).into_iter().collect(), ..Filter::default() };
                let after = after.map(u64::from);
                let newest = wait(store.handle.events(Filter::default(), None, 1)).unwrap().next;
                let page = wait(store.handle.events(filter.clone(), after, limit.into())).unwrap();
                let found: Vec<u64> = page.events.iter().map(|event| event.id).collect();
                // One that is of no event yet is of another history.
                let after = after.map(|after| if after > newest { 0 } else { after });
                assert_eq!(found, model.find(&filter, after, limit.into()));
                assert!(!page.is_partial);
            }
        }
    }
    assert_eq!(wait(store.handle.state()).unwrap(), model.state);
    let ids: Vec<u64> = all(&store.handle).events.iter().map(|event| event.id).collect();
    assert_eq!(ids, model.events.keys().copied().collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_done_the_store_is_what_a_plain_map_would_be(ops in proptest::collection::vec(op(), 1..40)) {
        run(ops);
    }
}
