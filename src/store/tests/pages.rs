//! Pages and live events, over what memory still has and over what only the disk has; and what is forgotten.

use std::time::Duration;

use super::shaky_disk::ShakyDisk;
use super::{all, clock, close, event, ids, plan, wait, wall};
use crate::model::{EventRecord, PoolName, StorePlan};
use crate::store::handle::{ASK_AGAIN_AFTER, LIVE_MAX};
use crate::store::keeper::RING_MAX;
use crate::store::start::open_on;
use crate::store::{Filter, Followed, Looked, Opened, Page, StoreHandle};

/// What each event brings, so that few of them are more than memory holds.
const BIG: usize = 20_000;
/// So many are twice what memory holds.
const MANY: u64 = 2 * RING_MAX as u64 / BIG as u64;

fn open(disk: &ShakyDisk, plan: &StorePlan) -> Opened {
    open_on(Some(Box::new(disk.clone())), plan, super::DEADLINE, clock()).unwrap()
}

fn big(id: u64) -> EventRecord {
    let pool = if id.is_multiple_of(50) { "rare" } else { "common" };
    let mut event = event("kind", pool);
    event.detail.insert("evidence".to_owned(), "x".repeat(BIG).into());
    event
}

/// Writes big events up to the id `last`, and waits until they are durable.
fn fill(store: &StoreHandle, first: u64, last: u64) {
    for id in first..=last {
        let applied = wait(store.change(Vec::new(), vec![big(id)])).unwrap();
        assert_eq!((applied.events[0].id, applied.is_durable), (id, true));
    }
}

fn find(store: &StoreHandle, filter: &Filter, after: Option<u64>, limit: usize) -> Page {
    let page = wait(store.events(filter.clone(), after, limit)).unwrap();
    assert!(!page.is_partial);
    page
}

fn rare() -> Filter {
    Filter { pool: Some(PoolName::from("rare")), ..Filter::default() }
}

#[test]
fn pages_are_the_same_from_memory_and_from_disk() {
    let disk = ShakyDisk::default();
    let store = open(&disk, &plan());
    fill(&store.handle, 1, MANY);
    let any = Filter::default();
    assert_eq!(ids(&all(&store.handle)), (1..=MANY).collect::<Vec<_>>());
    // The oldest, the newest, and across the border of what memory holds.
    assert_eq!(ids(&find(&store.handle, &any, Some(0), 3)), [1, 2, 3]);
    assert_eq!(ids(&find(&store.handle, &any, None, 3)), [MANY - 2, MANY - 1, MANY]);
    assert_eq!(ids(&find(&store.handle, &any, None, usize::MAX)), (1..=MANY).collect::<Vec<_>>());
    let wanted: Vec<u64> = (1..=MANY / 50).map(|number| number * 50).collect();
    assert!(wanted.len() > 4);
    assert_eq!(ids(&find(&store.handle, &rare(), Some(0), 1000)), wanted);
    assert_eq!(ids(&find(&store.handle, &rare(), None, 1000)), wanted);
    let newest = &wanted[wanted.len() - 3..];
    assert_eq!(ids(&find(&store.handle, &rare(), None, 3)), newest);
    // By pages of two.
    let (mut paged, mut after) = (Vec::new(), 0);
    loop {
        let page = find(&store.handle, &rare(), Some(after), 2);
        assert!(page.next >= after);
        after = page.next;
        paged.extend(ids(&page));
        if page.events.len() < 2 {
            break;
        }
    }
    assert_eq!(paged, wanted);
    assert_eq!(after, MANY, "nothing is searched twice");
    close(store);
}

#[test]
fn what_is_kept_nowhere_any_more_is_said_to_be_gone() {
    let store = crate::store::open(&plan(), Duration::ZERO, clock()).unwrap();
    let after = |id: u64| wait(store.handle.events(Filter::default(), Some(id), 1)).unwrap();
    assert!(!after(0).is_cut, "nothing has happened");
    let begin = after(0).next;
    store.handle.append(big(1));
    assert!(!after(0).is_cut && !after(begin).is_cut, "nothing is forgotten");
    for id in 2..=MANY {
        store.handle.append(big(id));
    }
    let first = after(0).events[0].id;
    assert!(first > begin + 2, "memory has forgotten some: {first}");
    let mut follow = store.handle.follow(Filter::default(), Some(begin + 1));
    assert_eq!(wait(follow.next()), Some(Followed::Cut(begin + 1)), "whoever follows is told");
    assert!(matches!(wait(follow.next()), Some(Followed::Event(event)) if event.id == first), "and has what is left");
    assert!(after(0).is_cut && after(first - 2).is_cut);
    assert!(!after(first - 1).is_cut && !after(begin + MANY).is_cut);
    assert!(!wait(store.handle.events(Filter::default(), None, 1)).unwrap().is_cut, "nothing was asked for");
    // With a disk nothing is gone that memory has forgotten.
    let store = open(&ShakyDisk::default(), &plan());
    fill(&store.handle, 1, MANY);
    assert!(!find(&store.handle, &Filter::default(), Some(0), 1).is_cut);
    close(store);
}

#[test]
fn a_number_of_another_history_is_the_beginning_of_this_one_and_said_to_be() {
    // That of a process which has ended, and the one after it: by then as many have happened, or not yet.
    for (before, since) in [(3, 1), (3, 3), (3, 5)] {
        let open = || crate::store::open(&plan(), Duration::ZERO, clock()).unwrap();
        let happen = |store: &Opened, many: u64| {
            (0..many).for_each(|_| store.handle.append(event("kind", "p")));
            find(&store.handle, &Filter::default(), None, 1000)
        };
        let old = happen(&open(), before).next;
        let store = open();
        let all = happen(&store, since);
        let page = find(&store.handle, &Filter::default(), Some(old), 1000);
        assert!(page.is_cut, "what came after it is kept nowhere");
        assert_eq!((ids(&page), page.next), (ids(&all), all.next), "{before} and {since}");
        // On a disk that was taken away, numbers begin anew.
        let store = open_on(Some(Box::new(ShakyDisk::default())), &plan(), super::DEADLINE, clock()).unwrap();
        fill(&store.handle, 1, since);
        let page = find(&store.handle, &Filter::default(), Some(old), 1000);
        assert_eq!((page.is_cut, page.next, page.events.len() as u64), (true, since, since));
        let mut follow = store.handle.follow(Filter::default(), Some(old));
        assert_eq!(wait(follow.next()), Some(Followed::Cut(old)));
        fill(&store.handle, since + 1, since + 1);
        for id in 1..=since + 1 {
            assert!(matches!(wait(follow.next()), Some(Followed::Event(event)) if event.id == id));
        }
        close(store);
    }
}

#[test]
fn what_only_the_disk_has_is_missing_and_said_to_be_while_it_fails() {
    let disk = ShakyDisk::default();
    let store = open(&disk, &plan());
    fill(&store.handle, 1, MANY);
    disk.fail_writes(Some(std::io::ErrorKind::StorageFull));
    assert!(!wait(store.handle.change(Vec::new(), vec![event("late", "rare")])).unwrap().is_durable);
    let page = wait(store.handle.events(Filter::default(), Some(0), 10)).unwrap();
    assert!(page.is_partial);
    assert_eq!(page.events.len(), 10);
    assert!(page.events[0].id > 1);
    let page = wait(store.handle.events(Filter::default(), None, 5)).unwrap();
    assert!(!page.is_partial, "memory has the newest");
}

#[test]
fn a_follower_of_what_only_the_disk_has_waits_for_the_disk_and_passes_over_nothing() {
    let disk = ShakyDisk::default();
    let store = open(&disk, &plan());
    fill(&store.handle, 1, MANY);
    disk.fail_writes(Some(std::io::ErrorKind::StorageFull));
    assert!(!wait(store.handle.change(Vec::new(), vec![event("late", "p")])).unwrap().is_durable);
    let mut follow = store.handle.follow(rare(), Some(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let early = tokio::time::timeout(3 * ASK_AGAIN_AFTER, follow.look()).await;
        assert!(early.is_err(), "given while the disk fails: {early:?}");
        disk.fail_writes(None);
        let mut seen = Vec::new();
        let all = async {
            loop {
                match follow.look().await {
                    Some(Looked::Given(Followed::Event(event))) => seen.push(event.id),
                    // Everything was looked at, also after a disk that did not answer.
                    Some(Looked::Passed(id)) if id > MANY => break,
                    Some(Looked::Passed(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::time::timeout(super::DEADLINE, all).await.unwrap();
        assert_eq!(seen, (1..=MANY / 50).map(|number| number * 50).collect::<Vec<_>>());
    });
    close(store);
}

#[test]
fn times_and_kinds_narrow_the_search() {
    let store = open(&ShakyDisk::default(), &plan());
    let start = wall();
    for (second, kind) in [(0, "a"), (10, "b"), (20, "a")] {
        store.handle.append(EventRecord::new(start + Duration::from_secs(second), kind));
    }
    wait(store.handle.change(Vec::new(), vec![EventRecord::new(start, "c")])).unwrap();
    let kind = Filter { kinds: vec!["a".to_owned()], ..Filter::default() };
    assert_eq!(ids(&find(&store.handle, &kind, None, 10)), [1, 3]);
    let between = Filter {
        since: Some(start + Duration::from_secs(5)),
        until: Some(start + Duration::from_secs(10)),
        ..Filter::default()
    };
    assert_eq!(ids(&find(&store.handle, &between, None, 10)), [2]);
    close(store);
}

#[test]
fn a_follower_gets_the_past_and_then_what_comes_without_a_gap() {
    let disk = ShakyDisk::default();
    let store = open(&disk, &plan());
    fill(&store.handle, 1, MANY);
    let mut follow = store.handle.follow(rare(), Some(50));
    let mut live = store.handle.follow(Filter::default(), None);
    let mut seen = Vec::new();
    fill(&store.handle, MANY + 1, MANY + 100);
    for _ in 0..(MANY + 100) / 50 - 1 {
        match wait(follow.next()) {
            Some(Followed::Event(event)) => seen.push(event.id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, (2..=(MANY + 100) / 50).map(|number| number * 50).collect::<Vec<_>>());
    match wait(live.next()) {
        Some(Followed::Event(event)) => assert_eq!(event.id, MANY + 1),
        other => panic!("{other:?}"),
    }
    close(store);
    // What has come is still given, and then it is over.
    for _ in 2..=100 {
        assert!(matches!(wait(live.next()), Some(Followed::Event(_))));
    }
    assert_eq!(wait(live.next()), None);
}

#[test]
fn a_slow_follower_is_told_and_gets_what_it_missed_from_the_history() {
    let store = open(&ShakyDisk::default(), &plan());
    let mut follow = store.handle.follow(Filter::default(), None);
    let count = LIVE_MAX + 100;
    for _ in 0..count {
        store.handle.append(event("kind", "p"));
    }
    wait(store.handle.change(Vec::new(), vec![event("last", "p")])).unwrap();
    let first = wait(follow.next());
    assert!(matches!(first, Some(Followed::Lagged(missed)) if missed >= 101), "{first:?}");
    let mut last = 0;
    while last <= count as u64 {
        match wait(follow.next()) {
            Some(Followed::Event(event)) => {
                assert_eq!(event.id, last + 1);
                last = event.id;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_oldest_are_forgotten_when_there_are_too_many() {
    let disk = ShakyDisk::default();
    let small = StorePlan { history_max_size: 1 << 20, ..plan() };
    let store = open(&disk, &small);
    fill(&store.handle, 1, 200);
    let figures = store.handle.figures();
    assert!(figures.history_bytes <= 1 << 20, "{figures:?}");
    assert!((40..=60).contains(&figures.history_events), "{figures:?}");
    close(store);
    let store = open(&disk, &small);
    let kept = ids(&all(&store.handle));
    let first = 201 - figures.history_events;
    assert_eq!(kept, (first..=200).collect::<Vec<_>>(), "and no others");
    close(store);
}

#[test]
fn a_smaller_limit_is_reached_by_and_by() {
    let disk = ShakyDisk::default();
    let store = open(&disk, &plan());
    // More than one transaction forgets.
    for _ in 0..5000 {
        store.handle.append(event("kind", "p"));
    }
    wait(store.handle.change(Vec::new(), vec![event("last", "p")])).unwrap();
    close(store);
    let store = open(&disk, &StorePlan { history_max_size: 64 << 10, ..plan() });
    super::wait_until("the history is small", || store.handle.figures().history_bytes <= 64 << 10);
    assert!(store.handle.figures().history_events > 100);
    close(store);
}

#[test]
fn the_old_are_forgotten() {
    let disk = ShakyDisk::default();
    let store = open(&disk, &plan());
    let hours_ago = |hours: u64| wall().before(Duration::from_secs(hours * 3600));
    for hours in [50, 30, 10] {
        store.handle.append(EventRecord::new(hours_ago(hours), "kind"));
    }
    wait(store.handle.change(Vec::new(), vec![EventRecord::new(wall(), "now")])).unwrap();
    assert_eq!(ids(&all(&store.handle)), [1, 2, 3, 4]);
    close(store);
    let two_days = StorePlan { history_max_age: Duration::from_secs(48 * 3600), ..plan() };
    let store = open(&disk, &two_days);
    super::wait_until("the oldest is forgotten", || store.handle.figures().history_events == 3);
    close(store);
    let for_ever = StorePlan { history_max_age: Duration::ZERO, ..plan() };
    let store = open(&disk, &for_ever);
    assert_eq!(ids(&all(&store.handle)), [2, 3, 4]);
    close(store);
}
