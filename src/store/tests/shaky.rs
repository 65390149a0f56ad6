//! Disks that are full, broken or slow.

use std::io::ErrorKind;

use super::shaky_disk::ShakyDisk;
use super::{all, clock, close, event, ids, kinds, plan, wait, wait_until};
use crate::model::{Actor, BackendName, PoolName};
use crate::store::start::open_on;
use crate::store::{Change, Opened, Pin, PoolCounters};

fn open(disk: &ShakyDisk) -> Opened {
    open_on(Some(Box::new(disk.clone())), &plan(), super::DEADLINE, clock()).unwrap()
}

fn counted(failovers: u64) -> Change {
    Change::Counters(
        PoolName::from("orders"),
        Some(PoolCounters { last_failover: failovers, failovers, recoveries: 0 }),
    )
}

fn pin() -> Change {
    let pin = Pin {
        overrules: false,
        server: None,
        awaits: false,
        backend: BackendName::from("pg1"),
        whole_tier: false,
        mates: Vec::new(),
        since: super::wall(),
        reason: None,
        actor: Actor::from("ops"),
    };
    Change::Pin(PoolName::from("orders"), Some(pin))
}

#[test]
fn what_is_durable_is_there_after_the_next_start() {
    let disk = ShakyDisk::default();
    let store = open(&disk);
    let applied = wait(store.handle.change(vec![pin(), counted(3)], vec![event("admin.action", "orders")])).unwrap();
    assert!(applied.is_durable);
    assert_eq!(applied.events[0].id, 1);
    let state = wait(store.handle.state()).unwrap();
    close(store);
    let store = open(&disk);
    assert_eq!(store.state, state);
    assert_eq!(store.state.counters[&PoolName::from("orders")].failovers, 3);
    assert_eq!(all(&store.handle).events, applied.events);
    let applied = wait(store.handle.change(Vec::new(), vec![event("pool.down", "orders")])).unwrap();
    assert_eq!(applied.events[0].id, 2, "ids go on");
}

#[test]
fn who_is_the_primary_is_written_again_and_again_until_the_disk_has_it() {
    let disk = ShakyDisk::default();
    let store = open(&disk);
    let pool = PoolName::from("orders");
    let lineage = |of: &str| Change::Lineage(pool.clone(), Some(of.to_owned()));
    assert!(wait(store.handle.change(vec![lineage("first")], Vec::new())).unwrap().is_durable);
    disk.fail_writes(Some(ErrorKind::StorageFull));
    assert!(!wait(store.handle.change(vec![lineage("second")], Vec::new())).unwrap().is_durable, "nobody waits");
    wait_until("it is known to fail", || store.handle.figures().is_degraded);
    assert_eq!(open(&disk.image()).state.lineages[&pool], "first", "as after a crash");
    disk.fail_writes(None);
    wait_until("the disk is well again", || !store.handle.figures().is_degraded);
    assert_eq!(open(&disk.image()).state.lineages[&pool], "second");
    close(store);
}

#[test]
fn a_full_disk_stops_nobody_and_loses_nothing() {
    let disk = ShakyDisk::default();
    let store = open(&disk);
    assert!(wait(store.handle.change(vec![pin()], vec![event("before", "orders")])).unwrap().is_durable);
    disk.fail_writes(Some(ErrorKind::StorageFull));
    let applied = wait(store.handle.change(vec![counted(1)], vec![event("during", "orders")])).unwrap();
    assert!(!applied.is_durable);
    for _ in 0..10 {
        store.handle.append(event("during", "orders"));
    }
    wait_until("it is known to fail", || store.handle.figures().is_degraded);
    assert!(!wait(store.handle.change(vec![counted(2)], Vec::new())).unwrap().is_durable, "and it says so at once");
    let page = all(&store.handle);
    let shown = kinds(&page);
    assert_eq!(shown.iter().filter(|kind| **kind == "during").count(), 11, "{shown:?}");
    assert_eq!(shown.iter().filter(|kind| **kind == "store.degraded").count(), 1, "{shown:?}");
    disk.fail_writes(None);
    wait_until("the disk is well again", || !store.handle.figures().is_degraded);
    assert!(wait(store.handle.change(vec![counted(3)], vec![event("after", "orders")])).unwrap().is_durable);
    let page = all(&store.handle);
    assert_eq!(kinds(&page).last(), Some(&"after"));
    assert_eq!(kinds(&page).iter().filter(|kind| **kind == "store.recovered").count(), 1);
    assert_eq!(ids(&page), (1..=15).collect::<Vec<_>>());
    assert!(store.handle.figures().failed_writes >= 1);
    let state = wait(store.handle.state()).unwrap();
    close(store);
    let store = open(&disk);
    assert_eq!(store.state, state);
    assert_eq!(all(&store.handle), page, "all of it is on disk");
    assert_eq!(store.handle.figures().events_lost, 0);
}

#[test]
fn a_write_that_fails_at_any_step_loses_nothing() {
    for step in 0..14 {
        let disk = ShakyDisk::default();
        let store = open(&disk);
        assert!(wait(store.handle.change(vec![counted(1)], vec![event("one", "orders")])).unwrap().is_durable);
        disk.fail_after(step);
        let two = wait(store.handle.change(vec![counted(2)], vec![event("two", "orders")])).unwrap();
        drop(store);
        disk.fail_writes(None);
        let opened = disk.opened();
        let store = open(&disk);
        assert!(disk.opened() > opened && disk.aside() == 0, "step {step}");
        let failovers = store.state.counters[&PoolName::from("orders")].failovers;
        let page = all(&store.handle);
        // Not known to be durable may still be durable, but whole.
        let has_two = kinds(&page).contains(&"two");
        assert_eq!(failovers, if has_two { 2 } else { 1 }, "step {step}");
        assert!(has_two || !two.is_durable, "step {step}");
        assert!(kinds(&page).contains(&"one"), "step {step}");
    }
}

#[test]
fn a_disk_that_is_full_at_the_start_is_read_all_the_same() {
    for was_closed in [true, false] {
        let disk = ShakyDisk::default();
        let store = open(&disk);
        wait(store.handle.change(vec![pin()], vec![event("before", "orders")])).unwrap();
        let state = wait(store.handle.state()).unwrap();
        if was_closed {
            close(store);
            disk.fail_writes(Some(ErrorKind::StorageFull));
        } else {
            disk.fail_writes(Some(ErrorKind::StorageFull));
            drop(store);
            wait_until("the last process is gone", || disk.opened() > 0);
        }
        let store = open(&disk);
        assert!(store.handle.figures().is_degraded);
        assert_eq!(store.state, state);
        let before = ids(&all(&store.handle));
        assert_eq!(kinds(&all(&store.handle)), ["before", "store.degraded"]);
        assert!(before[1] > before[0]);
        wait(store.handle.change(vec![counted(9)], Vec::new())).unwrap();
        disk.fail_writes(None);
        wait_until("the disk is well again", || !store.handle.figures().is_degraded);
        close(store);
        let store = open(&disk);
        assert_eq!(store.state.counters[&PoolName::from("orders")].failovers, 9);
        assert_eq!(store.state.pins, state.pins);
        assert_eq!(kinds(&all(&store.handle)), ["before", "store.degraded", "store.recovered"]);
    }
}

#[test]
fn a_disk_that_can_not_even_be_read_at_the_start_keeps_what_it_has() {
    let disk = ShakyDisk::default();
    let store = open(&disk);
    wait(store.handle.change(vec![pin()], vec![event("before", "orders")])).unwrap();
    close(store);
    disk.fail_reads(Some(ErrorKind::Other));
    let store = open(&disk);
    wait_until("it is known to fail", || store.handle.figures().is_degraded);
    assert!(store.state.is_empty());
    assert!(ids(&all(&store.handle)).iter().all(|id| *id > 1_000_000), "no id is given twice");
    disk.fail_reads(None);
    wait_until("the disk is well again", || !store.handle.figures().is_degraded);
    assert_eq!(disk.aside(), 1, "what was there lies beside it");
}

#[test]
fn what_becomes_corrupt_while_running_is_begun_anew_from_memory() {
    let disk = ShakyDisk::default();
    let store = open(&disk);
    wait(store.handle.change(vec![pin()], vec![event("before", "orders")])).unwrap();
    // It cannot be opened anew before it is spoiled, and what held it open is closed before that is tried.
    let opened = disk.opened();
    disk.fail_reads(Some(ErrorKind::Other));
    disk.fail_writes(Some(ErrorKind::Other));
    wait(store.handle.change(vec![counted(5)], Vec::new())).unwrap();
    wait_until("it has been tried to open it anew", || disk.opened() > opened);
    disk.spoil();
    disk.fail_writes(None);
    disk.fail_reads(None);
    wait_until("the disk is well again", || !store.handle.figures().is_degraded);
    assert_eq!(disk.aside(), 1);
    let state = wait(store.handle.state()).unwrap();
    close(store);
    let store = open(&disk);
    assert_eq!(store.state, state);
    assert!(kinds(&all(&store.handle)).contains(&"store.set_aside"));
}

#[test]
fn a_disk_that_hangs_holds_nobody_up() {
    let disk = ShakyDisk::default();
    let store = open(&disk);
    assert!(wait(store.handle.change(vec![counted(1)], Vec::new())).unwrap().is_durable);
    disk.hang(true);
    store.handle.append(event("unanswered", "orders"));
    let mut live = store.handle.follow(Default::default(), Some(0));
    let shown = wait(live.next());
    assert!(matches!(&shown, Some(super::super::Followed::Event(event)) if event.kind == "unanswered"), "{shown:?}");
    let applied = wait(store.handle.change(vec![counted(2)], vec![event("late", "orders")])).unwrap();
    assert!(!applied.is_durable);
    wait_until("it counts as failing", || store.handle.figures().is_degraded);
    assert!(!wait(store.handle.change(vec![counted(3)], Vec::new())).unwrap().is_durable, "and at once from now on");
    disk.hang(false);
    wait_until("the disk is well again", || !store.handle.figures().is_degraded);
    assert!(wait(store.handle.change(vec![counted(4)], Vec::new())).unwrap().is_durable);
    close(store);
    let store = open(&disk);
    assert_eq!(store.state.counters[&PoolName::from("orders")].failovers, 4);
    assert_eq!(kinds(&all(&store.handle)), ["unanswered", "late", "store.degraded", "store.recovered"]);
}
