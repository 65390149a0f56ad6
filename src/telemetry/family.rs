//! How the families of the process, of listeners and of pools are made: one prefix, one set of buckets, all in one registry.
//! Those of backends are in `exposition`, with the same prefix and buckets.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// From 100 µs to 10 s, three steps a decade: a dial on loopback and a check that runs into its timeout both show.
pub(super) const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Makes families under the project's prefix and registers them.
pub(super) struct Maker<'a> {
    registry: &'a Registry,
}

impl<'a> Maker<'a> {
    pub(super) const fn new(registry: &'a Registry) -> Self {
        Self { registry }
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        let series = IntCounter::new(full(name), help)?;
        self.registry.register(Box::new(series.clone()))?;
        Ok(series)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        let series = IntGauge::new(full(name), help)?;
        self.registry.register(Box::new(series.clone()))?;
        Ok(series)
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let family = IntCounterVec::new(Opts::new(full(name), help), labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let family = IntGaugeVec::new(Opts::new(full(name), help), labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    pub(super) fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
        let family = HistogramVec::new(HistogramOpts::new(full(name), help).buckets(SECONDS.to_vec()), labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }
}

/// A family's whole name.
pub(super) fn full(name: &str) -> String {
    format!("changeover_{name}")
}
