//! The series of what leaves the daemon as it happens: the live stream of events, and webhooks.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::model::WebhookName;

use super::family::Maker;

/// What may come of an attempt to post an event.
const RESULTS: [&str; 3] = ["delivered", "retried", "given_up"];

/// The families.
#[derive(Debug)]
pub(super) struct OutwardVecs {
    subscribers: SubscriberMetrics,
    deliveries: IntCounterVec,
    pending: IntGaugeVec,
    not_renewed: IntCounterVec,
}

impl OutwardVecs {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        let subscribers = SubscriberMetrics {
            present: make.gauge("event_subscribers", "Number of subscribers of the live stream of events.")?,
            dropped: make.counter(
                "event_subscribers_dropped_total",
                "Number of subscribers that did not read fast enough and were dropped.",
            )?,
        };
        Ok(Self {
            subscribers,
            deliveries: make.counters(
                "webhook_deliveries_total",
                "Number of attempts to post an event: delivered, retried (it failed, and is made again) or given_up.",
                &["webhook", "result"],
            )?,
            pending: make.gauges("webhook_pending", "Number of events that are still to be posted.", &["webhook"])?,
            not_renewed: make.counters(
                "webhook_alerts_not_renewed_total",
                "Number of alerts that last and were told an Alertmanager once, because 1000 others lasted.",
                &["webhook"],
            )?,
        })
    }

    pub(super) fn subscribers(&self) -> SubscriberMetrics {
        self.subscribers.clone()
    }

    pub(super) fn webhook(&self, name: &WebhookName) -> WebhookMetrics {
        let [delivered, retried, given_up] =
            RESULTS.map(|result| self.deliveries.with_label_values(&[name.as_str(), result]));
        let pending = self.pending.with_label_values(&[name.as_str()]);
        let not_renewed = self.not_renewed.with_label_values(&[name.as_str()]);
        WebhookMetrics { delivered, retried, given_up, pending, not_renewed }
    }

    /// Drops the series of a webhook that is gone. A series that was never there is no error.
    pub(super) fn forget_webhook(&self, name: &WebhookName) {
        for result in RESULTS {
            drop(self.deliveries.remove_label_values(&[name.as_str(), result]));
        }
        drop(self.pending.remove_label_values(&[name.as_str()]));
        drop(self.not_renewed.remove_label_values(&[name.as_str()]));
    }
}

/// What is counted of the subscribers of the live stream.
#[derive(Debug, Clone)]
pub struct SubscriberMetrics {
    /// Those that are there.
    pub present: IntGauge,
    /// Those that did not read and were dropped.
    pub dropped: IntCounter,
}

/// A webhook's series.
#[derive(Debug, Clone)]
pub struct WebhookMetrics {
    /// Events that were taken.
    pub delivered: IntCounter,
    /// Attempts that failed and are made again.
    pub retried: IntCounter,
    /// Events that were given up.
    pub given_up: IntCounter,
    /// Events that are still to be posted.
    pub pending: IntGauge,
    /// Alerts that last and are not told again, because too many do.
    pub not_renewed: IntCounter,
}
