//! One event to one receiver: tried until it is taken, or until nobody wants to know any more.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::model::{EventRecord, MonoTime, WallTime, WebhookFormat, WebhookPlan};
use crate::store::StoreHandle;
use crate::sys::Clock;
use crate::telemetry::WebhookMetrics;

use super::alerts::{self, Alert};
use super::feed::FAILED;
use super::post::{Answer, Poster};
use super::text;

/// The longest pause after the first attempt that failed; after each one it is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// No pause is longer, whoever asks for one.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// No pause is shorter: a receiver that fails at once is not asked without end.
const PAUSE_LEAST: Duration = Duration::from_millis(20);
/// What a post says in its head that is of no event, but tells alerts again.
const AGAIN: &str = "alerts.again";
/// Parts of a pause that a clock's digits choose from.
const PARTS: u32 = 1024;

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// It was taken.
    Taken,
    /// It may be taken later; not before that, if the receiver says so.
    Later { why: String, after: Option<Duration> },
    /// It never will be.
    Never(String),
}

/// Posts to one receiver.
pub(super) struct Delivery {
    plan: Arc<WebhookPlan>,
    poster: Poster,
    store: StoreHandle,
    clock: Clock,
    metrics: WebhookMetrics,
    /// Turns true when there is to be no further attempt.
    stop: watch::Receiver<bool>,
    /// When it began: what happened before that is as old as this, for nobody could be told of it.
    begun: WallTime,
    /// Whether the last attempt failed.
    is_failing: bool,
}

impl Delivery {
    pub(super) fn new(
        plan: Arc<WebhookPlan>,
        store: StoreHandle,
        clock: Clock,
        metrics: WebhookMetrics,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let poster = Poster::new(Arc::clone(&plan), clock);
        let begun = clock.wall(clock.now());
        Self { plan, poster, store, clock, metrics, stop, begun, is_failing: false }
    }

    /// Posts `event` until it is taken or given up, which is an event then. `false` if it was told to stop before.
    pub(super) async fn deliver(&mut self, event: &EventRecord) -> bool {
        let (mut longest, mut attempts) = (PAUSE_MIN, 0_u32);
        loop {
            attempts += 1;
            // What is said of time is true when it is said.
            let Some(body) = body(self.plan.format, event, self.clock.wall(self.clock.now())) else { return true };
            let (why, pause) = match judge(self.poster.post(event, body).await) {
                Outcome::Taken => {
                    self.metrics.delivered.inc();
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!(webhook = %self.plan.name, event = event.id, "the webhook is taken again");
                    }
                    return true;
                }
                Outcome::Never(why) => {
                    self.give_up(event, &why, attempts);
                    return true;
                }
                Outcome::Later { why, after } => {
                    let drawn = drawn(longest, self.clock.now());
                    let pause = after.map_or(drawn, |after| after.min(PAUSE_MAX).max(drawn));
                    (why, pause.max(PAUSE_LEAST))
                }
            };
            if !std::mem::replace(&mut self.is_failing, true) {
                let webhook = &self.plan.name;
                tracing::warn!(%webhook, event = event.id, error = %why, "the webhook is not taken, and is tried again");
            }
            if self.is_too_old(event, pause) {
                self.give_up(event, &why, attempts);
                return true;
            }
            self.metrics.retried.inc();
            longest = (longest * 2).min(PAUSE_MAX);
            // Cancel-safety: neither has anything to lose.
            tokio::select! {
                biased;
                _ = self.stop.wait_for(|&stop| stop) => return false,
                () = sleep(pause) => {}
            }
        }
    }

    /// Posts once more the alerts that last. `false` if that is not taken: it is for the caller to try it again.
    pub(super) async fn tell_again(&mut self, alerts: &[Alert]) -> bool {
        let mut of_none = EventRecord::new(self.clock.wall(self.clock.now()), AGAIN);
        of_none.id = 0;
        let Ok(body) = serde_json::to_vec(alerts) else { return true };
        let (Outcome::Later { why, .. } | Outcome::Never(why)) =
            judge(self.poster.post(&of_none, Bytes::from(body)).await)
        else {
            return true;
        };
        tracing::warn!(webhook = %self.plan.name, error = why, "the alerts that last are not taken again, and are told soon");
        self.metrics.retried.inc();
        false
    }

    /// Whether `event` will be after `pause`.
    fn is_too_old(&self, event: &EventRecord, pause: Duration) -> bool {
        let age = self.clock.wall(self.clock.now()).as_micros() - event.time.max(self.begun).as_micros();
        Duration::from_micros(u64::try_from(age).unwrap_or(0)) + pause > self.plan.give_up_after
    }

    /// Some of the events after the number `after` were forgotten by the history before they could be posted.
    pub(super) fn missed(&mut self, after: u64) {
        let (name, why) = (&self.plan.name, "the history kept no more of what could not be posted in time");
        tracing::warn!(webhook = %name, after, "events are given up: {why}");
        self.metrics.given_up.inc();
        let mut failed = EventRecord::new(self.clock.wall(self.clock.now()), FAILED);
        (failed.reason, failed.status) = (Some(why.to_owned()), Some("failed".to_owned()));
        if let serde_json::Value::Object(detail) = json!({ "webhook": name, "after": after }) {
            failed.detail = detail;
        }
        self.store.append(failed);
    }

    fn give_up(&mut self, event: &EventRecord, why: &str, attempts: u32) {
        let name = &self.plan.name;
        tracing::warn!(webhook = %name, event = event.id, error = why, attempts, "the webhook's event is given up");
        self.metrics.given_up.inc();
        if event.kind == FAILED {
            // Or two receivers that take nothing would have each other told of it without end.
            return;
        }
        let mut failed = EventRecord::new(self.clock.wall(self.clock.now()), FAILED);
        (failed.pool, failed.backend) = (event.pool.clone(), event.backend.clone());
        (failed.reason, failed.status) = (Some(why.to_owned()), Some("failed".to_owned()));
        let detail = json!({ "webhook": name, "event": event.id, "kind": event.kind, "attempts": attempts });
        if let serde_json::Value::Object(detail) = detail {
            failed.detail = detail;
        }
        self.store.append(failed);
    }
}

/// What is posted of `event` at `now`; none if its format has nothing to say of it.
fn body(format: WebhookFormat, event: &EventRecord, now: WallTime) -> Option<Bytes> {
    let written = match format {
        WebhookFormat::Json => serde_json::to_vec(event),
        WebhookFormat::Slack => serde_json::to_vec(&json!({ "text": text::of(event) })),
        WebhookFormat::Alertmanager => serde_json::to_vec(&alerts::of(event, now)),
    };
    written.ok().map(Bytes::from)
}

/// What `answer` means.
fn judge(answer: Result<Answer, String>) -> Outcome {
    match answer {
        Err(why) => Outcome::Later { why, after: None },
        Ok(Answer { status: 200..=299, .. }) => Outcome::Taken,
        Ok(Answer { status, retry_after }) if !(400..500).contains(&status) || matches!(status, 408 | 425 | 429) => {
            Outcome::Later { why: format!("it answered {status}"), after: retry_after }
        }
        Ok(Answer { status, .. }) => Outcome::Never(format!("it answered {status}")),
    }
}

/// Any time up to `longest`, by whatever the clock's last digits are: so that all who wait for one receiver do not come
/// together.
fn drawn(longest: Duration, now: MonoTime) -> Duration {
    let part = u32::try_from(now.as_nanos() / 64 % u64::from(PARTS)).unwrap_or(0);
    longest * part / PARTS
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Answer, Outcome, drawn, judge};
    use crate::model::MonoTime;

    #[test]
    fn what_an_answer_means() {
        let answer = |status| judge(Ok(Answer { status, retry_after: None }));
        for taken in [200, 202, 204, 299] {
            assert_eq!(answer(taken), Outcome::Taken);
        }
        for never in [400, 401, 404, 410, 422] {
            assert!(matches!(answer(never), Outcome::Never(_)), "{never}");
        }
        for later in [100, 301, 308, 408, 425, 429, 500, 503, 599] {
            assert!(matches!(answer(later), Outcome::Later { .. }), "{later}");
        }
        let asked = Some(Duration::from_secs(7));
        let wanted = Outcome::Later { why: "it answered 503".to_owned(), after: asked };
        assert_eq!(judge(Ok(Answer { status: 503, retry_after: asked })), wanted);
    }

    #[test]
    fn a_pause_is_anything_up_to_the_longest() {
        let longest = Duration::from_secs(60);
        let drawn: Vec<Duration> =
            (0..1024_u64).map(|n| drawn(longest, MonoTime::ZERO + Duration::from_nanos(n * 64))).collect();
        assert!(drawn.iter().all(|pause| *pause < longest));
        let mean = drawn.iter().sum::<Duration>() / 1024;
        assert!((Duration::from_secs(29)..Duration::from_secs(31)).contains(&mean), "{mean:?}");
    }
}
