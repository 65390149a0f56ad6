//! What happens to the host: its network changes, or it wakes from sleep.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::World;
use crate::sys::{NetworkWatch, slept};

/// From one look at how long the host has slept to the next.
const LOOK: Duration = Duration::from_secs(2);
/// A shorter sleep is none.
const SLEEP_MIN: Duration = Duration::from_secs(1);
/// A change of the network is many: the last of them is waited for, for so long.
const SETTLES: Duration = Duration::from_millis(300);
/// But not longer than so many times.
const CHANGES_MAX: u32 = 20;

/// Tells `told` of it as long as somebody listens.
pub(super) async fn watch_world(told: mpsc::Sender<World>) {
    // Cancel-safety: neither comes to an end but when nobody listens.
    tokio::select! {
        () = watch_network(&told) => {}
        () = watch_sleep(&told) => {}
    }
}

async fn watch_network(told: &mpsc::Sender<World>) {
    let mut watch = match NetworkWatch::new() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(%error, "changes of the network are not noticed: tunnels that wait do not try earlier for them");
            return std::future::pending().await;
        }
    };
    loop {
        let mut change = match watch.changed().await {
            Ok(change) => change,
            Err(error) => {
                tracing::warn!(%error, "changes of the network are noticed no more");
                return std::future::pending().await;
            }
        };
        for _ in 0..CHANGES_MAX {
            match timeout(SETTLES, watch.changed()).await {
                Ok(Ok(more)) => change = more,
                Ok(Err(_)) | Err(_) => break,
            }
        }
        if told.send(World::NetworkChanged(change)).await.is_err() {
            return;
        }
    }
}

async fn watch_sleep(told: &mpsc::Sender<World>) {
    let mut before = slept();
    loop {
        sleep(LOOK).await;
        let now = slept();
        let asleep = now.saturating_sub(std::mem::replace(&mut before, now));
        if asleep > SLEEP_MIN && told.send(World::Woke(asleep)).await.is_err() {
            return;
        }
    }
}
