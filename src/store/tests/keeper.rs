//! The keeper by itself, with a clock that is told and a disk that is played.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, oneshot};

use super::event;
use crate::model::{Actor, EventRecord, MonoTime, PoolName, WallTime};
use crate::store::disk::{Batch, Found, Kept};
use crate::store::figures::Figures;
use crate::store::keeper::{ANSWER_AFTER, BACKOFF_MAX, BACKOFF_MIN, Keeper, SHOW_AFTER, UNSAVED_MAX};
use crate::store::request::{Answer, Applied, Job, Now, Refused, Request};
use crate::store::state::ENTRIES_MAX;
use crate::store::{Change, Patch, Pause, PoolCounters};

struct Rig {
    keeper: Keeper,
    now: Duration,
    live: broadcast::Receiver<Arc<EventRecord>>,
    figures: Arc<Figures>,
}

type Waiting = oneshot::Receiver<Result<Applied, Refused>>;

impl Rig {
    fn new(has_disk: bool) -> Self {
        let (live, listener) = broadcast::channel(64);
        let figures = Arc::new(Figures::default());
        let found = Found { next_id: 1, ..Found::default() };
        let now = Now { mono: MonoTime::ZERO, wall: WallTime::default() };
        let keeper = Keeper::new(found, has_disk, live, Arc::clone(&figures), now);
        let mut rig = Self { keeper, now: Duration::ZERO, live: listener, figures };
        if has_disk {
            // The first look for what is too old.
            rig.tick();
            rig.written();
        }
        rig
    }

    fn at(&self) -> Now {
        Now { mono: MonoTime::ZERO + self.now, wall: WallTime::default() + self.now }
    }

    fn tick(&mut self) {
        self.keeper.tick(self.at());
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.tick();
    }

    fn append(&mut self, kind: &str) {
        let request = Request::Record { changes: Vec::new(), events: vec![event(kind, "p")], reply: None };
        self.keeper.handle(self.at(), request);
    }

    fn change(&mut self, failovers: u64) -> Waiting {
        let (reply, waiting) = oneshot::channel();
        let counters = PoolCounters { last_failover: failovers, failovers, recoveries: 0 };
        let changes = vec![Change::Counters(PoolName::from("p"), Some(counters))];
        self.keeper.handle(self.at(), Request::Record { changes, events: vec![event("c", "p")], reply: Some(reply) });
        waiting
    }

    /// The one write that is to be done; none if there is none.
    fn write(&mut self) -> Option<Batch> {
        let mut batches: Vec<Batch> = Vec::new();
        for job in self.keeper.take_jobs() {
            match job {
                Job::Write(batch) => batches.push(batch),
                Job::Scan { .. } | Job::Close => {}
            }
        }
        assert!(batches.len() <= 1, "one at a time");
        batches.pop()
    }

    fn written(&mut self) {
        let kept = Kept { oldest: Some(1), events: 1, bytes: 1, has_overdue: false };
        let answer = Answer::Written { kept, took: Duration::from_millis(1), file_bytes: 1, set_aside: None };
        self.keeper.handle(self.at(), Request::Disk(answer));
    }

    fn failed(&mut self) {
        let answer = Answer::Failed { reason: "full".to_owned(), set_aside: None };
        self.keeper.handle(self.at(), Request::Disk(answer));
    }

    fn shown(&mut self) -> Vec<(u64, String)> {
        std::iter::from_fn(|| self.live.try_recv().ok()).map(|event| (event.id, event.kind.clone())).collect()
    }

    fn is_degraded(&self) -> bool {
        self.figures.read().is_degraded
    }
}

fn is_durable(waiting: &mut Waiting) -> Option<bool> {
    waiting.try_recv().ok().map(|answer| answer.unwrap().is_durable)
}

#[test]
fn an_event_is_shown_when_it_is_durable() {
    let mut rig = Rig::new(true);
    rig.write();
    rig.append("a");
    let batch = rig.write().unwrap();
    assert_eq!(batch.events.len(), 1);
    rig.pass(SHOW_AFTER - Duration::from_nanos(1));
    assert_eq!(rig.shown(), []);
    rig.written();
    assert_eq!(rig.shown(), [(1, "a".to_owned())]);
    assert!(rig.write().is_none(), "it is not written twice");
}

#[test]
fn an_event_is_shown_after_a_second_if_the_disk_does_not_answer() {
    let mut rig = Rig::new(true);
    rig.write();
    rig.append("a");
    rig.pass(SHOW_AFTER / 2);
    rig.append("b");
    assert_eq!(rig.keeper.deadline(), Some(MonoTime::ZERO + SHOW_AFTER));
    rig.pass(SHOW_AFTER / 2);
    assert_eq!(rig.shown(), [(1, "a".to_owned())]);
    rig.pass(SHOW_AFTER / 2);
    assert_eq!(rig.shown(), [(2, "b".to_owned())]);
    rig.written();
    assert_eq!(rig.shown(), [], "and not again when it is");
    assert!(!rig.is_degraded());
}

#[test]
fn what_comes_during_a_write_goes_together_into_the_next() {
    let mut rig = Rig::new(true);
    rig.write();
    let mut first = rig.change(1);
    let batch = rig.write().unwrap();
    assert_eq!((batch.rows.len(), batch.events.len()), (1, 1));
    let mut second = rig.change(2);
    let mut third = rig.change(3);
    assert!(rig.write().is_none());
    rig.written();
    assert_eq!((is_durable(&mut first), is_durable(&mut second)), (Some(true), None));
    let batch = rig.write().unwrap();
    assert_eq!((batch.rows.len(), batch.events.len(), batch.is_all), (2, 2, false));
    rig.written();
    assert_eq!((is_durable(&mut second), is_durable(&mut third)), (Some(true), Some(true)));
}

#[test]
fn after_a_failure_everything_is_written_anew_ever_more_seldom() {
    let mut rig = Rig::new(true);
    rig.write();
    let mut change = rig.change(1);
    rig.write().unwrap();
    rig.failed();
    assert_eq!(is_durable(&mut change), Some(false));
    let kinds: Vec<String> = rig.shown().into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, ["c", "store.degraded"]);
    let mut backoff = BACKOFF_MIN;
    for _ in 0..8 {
        rig.pass(backoff - Duration::from_nanos(1));
        assert!(rig.write().is_none(), "before {backoff:?}");
        rig.pass(Duration::from_nanos(1));
        let batch = rig.write().unwrap();
        assert_eq!((batch.is_all, batch.rows.len(), batch.events.len()), (true, 1, 2), "{backoff:?}");
        rig.failed();
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
    assert_eq!(rig.shown(), [], "it is said once");
    let mut change = rig.change(2);
    assert_eq!(is_durable(&mut change), Some(false), "at once");
    rig.pass(BACKOFF_MAX);
    let batch = rig.write().unwrap();
    assert_eq!((batch.is_all, batch.rows.len(), batch.events.len()), (true, 1, 3));
    rig.written();
    assert!(!rig.is_degraded());
    let batch = rig.write().unwrap();
    assert_eq!(batch.events[0].kind, "store.recovered");
    assert!(!batch.is_all);
    assert_eq!(rig.figures.read().failed_writes, 9);
}

#[test]
fn a_disk_that_does_not_answer_counts_as_failing_until_it_does() {
    let mut rig = Rig::new(true);
    rig.write();
    let mut change = rig.change(1);
    rig.write().unwrap();
    rig.pass(ANSWER_AFTER - Duration::from_nanos(1));
    assert_eq!((is_durable(&mut change), rig.is_degraded()), (None, false));
    rig.pass(Duration::from_nanos(1));
    assert_eq!((is_durable(&mut change), rig.is_degraded()), (Some(false), true));
    let mut change = rig.change(2);
    assert_eq!(is_durable(&mut change), Some(false));
    assert!(rig.write().is_none(), "one write at a time, however long it takes");
    rig.written();
    assert!(!rig.is_degraded());
    let batch = rig.write().unwrap();
    assert_eq!((batch.is_all, batch.rows.len()), (false, 1));
    let kinds: Vec<&str> = batch.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["store.degraded", "c", "store.recovered"]);
}

#[test]
fn of_more_than_memory_holds_the_oldest_are_given_up_and_counted() {
    let mut rig = Rig::new(true);
    rig.write();
    rig.append("first");
    rig.write().unwrap();
    rig.failed();
    let count = u64::try_from(UNSAVED_MAX / 1024 + 100).unwrap();
    for _ in 0..count {
        rig.append("more");
    }
    let lost = rig.figures.read().events_lost;
    assert!(lost > 100 && lost < count, "{lost}");
    rig.pass(BACKOFF_MIN);
    let batch = rig.write().unwrap();
    // The first one and the word of the failure came before them.
    assert_eq!(u64::try_from(batch.events.len()).unwrap(), count + 2 - lost);
    assert_eq!(batch.events.last().unwrap().id, count + 2, "the newest are kept");
    let ids: Vec<u64> = batch.events.iter().map(|event| event.id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]));
}

#[test]
fn without_a_disk_all_is_shown_at_once_and_nothing_is_durable() {
    let mut rig = Rig::new(false);
    let mut change = rig.change(1);
    assert_eq!(is_durable(&mut change), Some(false));
    assert_eq!(rig.shown(), [(1, "c".to_owned())]);
    assert!(rig.write().is_none());
    assert!(!rig.is_degraded());
    assert_eq!(rig.keeper.deadline(), None);
    let (reply, mut closed) = oneshot::channel();
    rig.keeper.handle(rig.at(), Request::Close(Some(reply)));
    assert_eq!(closed.try_recv(), Ok(false));
    assert!(rig.keeper.is_over());
}

#[test]
fn closing_waits_for_what_is_under_way_and_writes_the_rest() {
    let mut rig = Rig::new(true);
    rig.write();
    rig.append("a");
    rig.write().unwrap();
    rig.append("b");
    let (reply, mut closed) = oneshot::channel();
    rig.keeper.handle(rig.at(), Request::Close(Some(reply)));
    assert!(rig.write().is_none() && !rig.keeper.is_over());
    rig.written();
    let batch = rig.write().unwrap();
    assert_eq!((batch.events.len(), batch.is_last), (1, true));
    assert!(closed.try_recv().is_err() && !rig.keeper.is_over());
    rig.written();
    assert!(closed.try_recv().is_err() && !rig.keeper.is_over(), "not before the file is closed");
    assert!(matches!(rig.keeper.take_jobs()[..], [Job::Close]));
    rig.keeper.handle(rig.at(), Request::Disk(Answer::Closed));
    assert_eq!(closed.try_recv(), Ok(true));
    assert!(rig.keeper.is_over());
}

#[test]
fn what_is_beyond_the_limits_is_refused_and_changes_nothing() {
    let mut rig = Rig::new(true);
    rig.write();
    let (reply, mut waiting) = oneshot::channel();
    let key = (PoolName::from("p"), crate::model::BackendName::from("b"));
    let changes = vec![Change::Registration(key, Some("x".repeat(70_000)))];
    rig.keeper.handle(rig.at(), Request::Record { changes, events: vec![event("c", "p")], reply: Some(reply) });
    assert_eq!(waiting.try_recv().unwrap(), Err(Refused::TooLong(70_002)));
    assert!(rig.write().is_none());
    assert_eq!(rig.figures.read().refused, 1);
    let (reply, mut state) = oneshot::channel();
    rig.keeper.handle(rig.at(), Request::State(reply));
    assert!(state.try_recv().unwrap().is_empty());
}

#[test]
fn an_event_that_is_too_long_is_cut_down() {
    let mut rig = Rig::new(true);
    rig.write();
    let mut long = event("long", "p");
    long.reason = Some("é".repeat(50_000));
    long.detail.insert("evidence".to_owned(), "x".repeat(100_000).into());
    rig.keeper.handle(rig.at(), Request::Record { changes: Vec::new(), events: vec![long], reply: None });
    let batch = rig.write().unwrap();
    let json = serde_json::to_string(batch.events[0].as_ref()).unwrap();
    assert!(json.len() < 4096, "{}", json.len());
    assert!(json.contains("left_out_bytes"), "{json}");
    // Whoever is refused may have named anything.
    let named = EventRecord {
        pool: Some("p".repeat(60_000).as_str().into()),
        backend: Some("é".repeat(60_000).as_str().into()),
        actor: Actor::from("a".repeat(60_000).as_str()),
        ..event("named", "p")
    };
    rig.written();
    rig.keeper.handle(rig.at(), Request::Record { changes: Vec::new(), events: vec![named], reply: None });
    let batch = rig.write().unwrap();
    let json = serde_json::to_string(batch.events[0].as_ref()).unwrap();
    assert!(json.len() < 6000, "{}", json.len());
}

#[test]
fn who_is_the_primary_is_kept_whatever_comes_with_it_and_however_long_its_history_is() {
    let mut rig = Rig::new(true);
    rig.write();
    rig.written();
    let pool = PoolName::from("p");
    let lineage = Change::Lineage(pool.clone(), Some("x".repeat(900_000)));
    let (reply, mut waiting) = oneshot::channel();
    rig.keeper
        .handle(rig.at(), Request::Record { changes: vec![lineage.clone()], events: Vec::new(), reply: Some(reply) });
    assert_eq!(rig.write().unwrap().rows, [lineage.row()]);
    assert!(waiting.try_recv().is_err(), "it is not on disk yet");
    rig.written();
    assert!(waiting.try_recv().unwrap().unwrap().is_durable);
    // In one piece with what is beyond a limit, and nobody would hear of that.
    let newer = Change::Lineage(pool.clone(), Some("newer".to_owned()));
    let too_long = Change::Registration((pool, "b".into()), Some("x".repeat(70_000)));
    let changes = vec![too_long, newer.clone()];
    rig.keeper.handle(rig.at(), Request::Record { changes, events: Vec::new(), reply: None });
    assert_eq!(rig.write().unwrap().rows, [newer.row()]);
    assert_eq!(rig.figures.read().refused, 1);
}

#[test]
fn with_as_many_entries_as_there_may_be_only_what_people_would_add_is_refused() {
    let mut rig = Rig::new(false);
    let pool = PoolName::from("p");
    let registered =
        |name: usize| Change::Registration((pool.clone(), name.to_string().as_str().into()), Some("x".to_owned()));
    let ask = |rig: &mut Rig, changes: Vec<Change>| {
        let (reply, mut waiting) = oneshot::channel();
        rig.keeper.handle(rig.at(), Request::Record { changes, events: Vec::new(), reply: Some(reply) });
        waiting.try_recv().unwrap().map(|applied| applied.is_durable)
    };
    assert_eq!(ask(&mut rig, (0..ENTRIES_MAX).map(registered).collect()), Ok(false));
    assert_eq!(ask(&mut rig, vec![registered(ENTRIES_MAX)]), Err(Refused::Full));
    let patch =
        Patch { value: "1".to_owned(), file_value: None, since: WallTime::default(), actor: Actor::from("ops") };
    let patched = Change::Patch(pool.clone(), "check.interval".to_owned(), Some(patch));
    assert_eq!(ask(&mut rig, vec![patched.clone()]), Err(Refused::Full));
    assert_eq!(ask(&mut rig, vec![registered(7)]), Ok(false), "what is there may be changed");
    let paused = Pause { until: None, since: WallTime::default(), actor: Actor::from("ops") };
    assert_eq!(ask(&mut rig, vec![Change::Pause(pool.clone(), Some(paused))]), Ok(false), "orders are kept");
    let removed = |name: usize| Change::Registration((pool.clone(), name.to_string().as_str().into()), None);
    assert_eq!(ask(&mut rig, vec![removed(1), removed(2)]), Ok(false), "and what is there removed");
    assert_eq!(ask(&mut rig, vec![patched]), Ok(false));
}
