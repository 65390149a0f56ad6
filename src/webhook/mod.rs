//! Floor 5: webhooks. The history is the queue: each webhook has a cursor into it, the last event that it is done with, and
//! posts what comes after, one at a time and in order. A receiver that does not answer holds up its own webhook and nothing
//! else: what waits for it is in the history, and nobody who decides knows of it. Whether an alert still holds is asked of those
//! who decide, and never of the history alone.

mod alerts;
mod delivery;
mod feed;
mod post;
mod present;
mod text;
mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, spawn_local};
use tokio::time::{sleep, timeout_at};

use crate::model::{WebhookName, WebhookPlan};
use crate::routing::ControlHandle;
use crate::store::{Change, Filter, Refused, StoreHandle};
use crate::sys::Clock;
use crate::telemetry::Metrics;

use feed::{Feed, Work};

/// From one try to the next while the store has no room.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// From the end of a webhook's task that nobody asked for to its next beginning, at first and when it goes on so: an event that
/// it cannot bear must not fill the log.
const BEGIN_AGAIN_MIN: Duration = Duration::from_secs(1);
const BEGIN_AGAIN_MAX: Duration = Duration::from_secs(60);

/// How long attempts that are under way may take to come to their end when the daemon stops, or the webhook is another one.
const END_MAX: Duration = Duration::from_secs(2);

/// All webhooks that are in force, by name.
pub type Plans = BTreeMap<WebhookName, Arc<WebhookPlan>>;

/// What webhooks are run with.
#[derive(Debug)]
pub struct Webhooks {
    /// Where the history is, and where cursors are kept.
    pub store: StoreHandle,
    /// Whom to ask how pools stand.
    pub control: ControlHandle,
    /// The calendar.
    pub clock: Clock,
    /// All series.
    pub metrics: Arc<Metrics>,
    /// Those that are in force. When its sender goes, all end in order; the store is to be open until they have.
    pub plans: watch::Receiver<Plans>,
}

/// One that runs.
struct Running {
    plan: Arc<WebhookPlan>,
    cursor: Arc<AtomicU64>,
    /// Turned true when it is to end after the attempt that is under way.
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Webhooks {
    /// Runs them, and goes over to others as they are put in force: what is the same goes on, and what is changed goes on
    /// where it was.
    pub async fn run(mut self) {
        let Some(mut cursors) = self.kept().await else { return };
        // Before the first are in force there is none that is gone.
        if self.plans.changed().await.is_err() {
            return;
        }
        let mut running = BTreeMap::<WebhookName, Running>::new();
        loop {
            let plans = self.plans.borrow_and_update().clone();
            let is_other = |name: &WebhookName, one: &mut Running| plans.get(name).is_none_or(|plan| *plan != one.plan);
            let others = running.extract_if(.., is_other).collect();
            cursors.extend(self.end(others).await);
            // One that comes back under its name begins anew, and not with what happened meanwhile.
            let gone: Vec<WebhookName> = cursors.keys().filter(|name| !plans.contains_key(*name)).cloned().collect();
            for name in gone {
                cursors.remove(&name);
                self.metrics.forget_webhook(&name);
                self.keep(Change::Cursor(name, None)).await;
            }
            for (name, plan) in &plans {
                if running.contains_key(name) {
                    continue;
                }
                let cursor = match cursors.get(name) {
                    Some(id) => *id,
                    None => {
                        let Some(newest) = self.newest().await else { return };
                        cursors.insert(name.clone(), newest);
                        // At once: what happens from now on is posted, whatever becomes of this process.
                        self.keep(Change::Cursor(name.clone(), Some(newest))).await;
                        newest
                    }
                };
                running.insert(name.clone(), self.begin(plan, cursor));
            }
            if self.plans.changed().await.is_err() {
                break;
            }
        }
        for (name, cursor) in self.end(running).await {
            self.keep(Change::Cursor(name, Some(cursor))).await;
        }
    }

    fn begin(&self, plan: &Arc<WebhookPlan>, after: u64) -> Running {
        let cursor = Arc::new(AtomicU64::new(after));
        let (stopping, stop) = watch::channel(false);
        let work = Work {
            plan: Arc::clone(plan),
            store: self.store.clone(),
            control: self.control.clone(),
            clock: self.clock,
            metrics: self.metrics.webhook(&plan.name),
            cursor: Arc::clone(&cursor),
            stop: stop.clone(),
        };
        let make = move || Feed::new(work.clone()).run();
        let task = spawn_local(keep_running(plan.name.clone(), self.clock, stop, make));
        Running { plan: Arc::clone(plan), cursor, stop: stopping, task }
    }

    /// Ends `running` after the attempts that are under way, and tells how far each of them is: what was posted is not
    /// posted again, unless its receiver takes longer to say so than is waited for.
    async fn end(&self, running: BTreeMap<WebhookName, Running>) -> Vec<(WebhookName, u64)> {
        let deadline = self.clock.instant(self.clock.now() + END_MAX);
        for one in running.values() {
            one.stop.send_replace(true);
        }
        let mut cursors = Vec::new();
        for (name, mut one) in running {
            if timeout_at(deadline, &mut one.task).await.is_err() {
                one.task.abort();
            }
            cursors.push((name, one.cursor.load(Ordering::Relaxed)));
        }
        cursors
    }

    /// The cursors that the last process left; none if the store is closed.
    async fn kept(&self) -> Option<BTreeMap<WebhookName, u64>> {
        loop {
            match self.store.state().await {
                Ok(state) => return Some(state.cursors),
                Err(Refused::Closed) => return None,
                Err(_) => sleep(AGAIN_AFTER).await,
            }
        }
    }

    /// The newest event's number.
    async fn newest(&self) -> Option<u64> {
        loop {
            match self.store.events(Filter::default(), None, 1).await {
                Ok(page) => return Some(page.next),
                Err(Refused::Closed) => return None,
                Err(_) => sleep(AGAIN_AFTER).await,
            }
        }
    }

    async fn keep(&self, change: Change) {
        while let Err(Refused::Busy) = self.store.record(vec![change.clone()], Vec::new()) {
            sleep(AGAIN_AFTER).await;
        }
    }
}

/// Runs what `make` makes until it is told to stop. What ends before, be it by a panic, goes on after a pause: a webhook must not be
/// silent because of one mistake, nor must all others.
async fn keep_running<F>(name: WebhookName, clock: Clock, mut stop: watch::Receiver<bool>, make: impl Fn() -> F)
where
    F: Future<Output = ()> + 'static,
{
    let mut pause = BEGIN_AGAIN_MIN;
    loop {
        let begun = clock.now();
        // Of a set, so that it ends with this.
        let mut task = JoinSet::new();
        task.spawn_local(make());
        let ended = task.join_next().await;
        if *stop.borrow() {
            return;
        }
        let why = match ended {
            Some(Err(error)) => error.to_string(),
            Some(Ok(())) | None => "the history did not answer".to_owned(),
        };
        if clock.now().since(begun) >= BEGIN_AGAIN_MAX {
            pause = BEGIN_AGAIN_MIN;
        }
        tracing::error!(webhook = %name, error = why, again_after = ?pause, "a webhook's task has ended, which it never should");
        // Cancel-safety: neither has anything to lose.
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(BEGIN_AGAIN_MAX);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::sync::watch;
    use tokio::task::{LocalSet, spawn_local};
    use tokio::time::{advance, sleep};

    use super::{BEGIN_AGAIN_MAX, keep_running};
    use crate::sys::Clock;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_or_ends_is_begun_again_after_a_pause_that_grows() {
        let test = async {
            let (stop, stopped) = watch::channel(false);
            let (clock, begun) = (Clock::start(), Rc::new(RefCell::new(Vec::new())));
            let (starts, at) = (Rc::clone(&begun), clock.now());
            let make = move || {
                starts.borrow_mut().push(clock.now().since(at).as_secs());
                let number = starts.borrow().len();
                async move {
                    match number {
                        1 | 2 => panic!("on purpose"),
                        3 => {}
                        // One that has run for long is begun again as soon as the first.
                        4 => {
                            sleep(BEGIN_AGAIN_MAX).await;
                            panic!("on purpose");
                        }
                        _ => std::future::pending().await,
                    }
                }
            };
            let kept = spawn_local(keep_running("pager".into(), clock, stopped, make));
            sleep(Duration::from_secs(300)).await;
            assert_eq!(*begun.borrow(), [0, 1, 3, 7, 68]);
            kept.abort();
            assert!(kept.await.unwrap_err().is_cancelled());
            assert_eq!(Rc::strong_count(&begun), 1, "what it ran has gone with it");
            drop(stop);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_told_to_stop_is_not_begun_again() {
        let test = async {
            let (stop, stopped) = watch::channel(false);
            let mut told = stopped.clone();
            let of_task = stopped.clone();
            let make = move || {
                let mut stopped = of_task.clone();
                async move {
                    stopped.wait_for(|&stop| stop).await.unwrap();
                }
            };
            let kept = spawn_local(keep_running("pager".into(), Clock::start(), stopped, make));
            advance(Duration::from_secs(5)).await;
            assert!(!kept.is_finished());
            stop.send_replace(true);
            told.wait_for(|&stop| stop).await.unwrap();
            kept.await.unwrap();
        };
        LocalSet::new().run_until(test).await;
    }
}
