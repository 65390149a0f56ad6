//! Tests of the store: the keeper by itself, the whole on a disk that fails when it is told to, files that are
//! wrong in every way, and random histories against a model.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod files;
mod keeper;
mod model;
mod pages;
mod shaky;
mod shaky_disk;

use std::future::Future;
use std::time::{Duration, Instant};

use super::{Opened, Page, StoreHandle};
use crate::model::{EventRecord, PoolName, StorePlan, WallTime};
use crate::sys::Clock;

/// For a machine in trouble; a healthy one never meets it.
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs `work` to its end; panics if it takes for ever.
fn wait<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, work).await.expect("in time") })
}

/// Waits until `condition` is true.
#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn clock() -> Clock {
    Clock::start()
}

/// The time now.
fn wall() -> WallTime {
    let clock = clock();
    clock.wall(clock.now())
}

fn event(kind: &str, pool: &str) -> EventRecord {
    EventRecord { pool: Some(PoolName::from(pool)), ..EventRecord::new(wall(), kind) }
}

fn plan() -> StorePlan {
    StorePlan::default()
}

/// Every event that is shown, oldest first.
fn all(store: &StoreHandle) -> Page {
    let mut whole = Page::default();
    loop {
        let page = wait(store.events(Default::default(), Some(whole.next), super::PAGE_MAX)).unwrap();
        let is_end = page.events.len() < super::PAGE_MAX;
        whole.events.extend(page.events);
        whole.next = page.next;
        whole.is_partial |= page.is_partial;
        if is_end {
            return whole;
        }
    }
}

fn kinds(page: &Page) -> Vec<&str> {
    page.events.iter().map(|event| event.kind.as_str()).collect()
}

fn ids(page: &Page) -> Vec<u64> {
    page.events.iter().map(|event| event.id).collect()
}

/// Closes the store; everything must be on disk.
#[track_caller]
fn close(opened: Opened) {
    assert!(wait(opened.handle.close()), "everything is written");
}
