//! The hands that probe: a thread of its own does, by orders from here. Nothing is asked on the control thread, and
//! nothing here waits for an answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::failover::Event;
use crate::model::{DialError, Plan, ProbeId, ProbeOutcome, ProbeSpec, TargetId};
use crate::probe::{Finished, Order, Orders};

/// What the core is told of all that has been answered. One answer by itself is told as such.
pub(super) fn event(answers: &mut Vec<Finished>) -> Event {
    let mut told = answers.drain(..).map(|Finished { target, probe, answer, .. }| (target, probe, answer.outcome));
    match (told.next(), told.len()) {
        (Some((target, probe, outcome)), 0) => Event::ProbeFinished { target, probe, outcome },
        (first, _) => Event::ProbesFinished { answers: first.into_iter().chain(told).collect() },
    }
}

/// Gives the orders.
pub(super) struct Probes {
    orders: Orders,
    /// Addresses to dial from that the host did not have when one was last needed.
    missing: BTreeSet<IpAddr>,
}

impl Probes {
    pub(super) const fn new(orders: Orders) -> Self {
        Self { orders, missing: BTreeSet::new() }
    }

    /// Asks; an older question to the same target is dropped.
    pub(super) fn start(&self, target: TargetId, probe: ProbeId, spec: Arc<ProbeSpec>) {
        self.orders.give(target, Order::Start { probe, spec });
    }

    /// Says, once for all backends and not at each probe, that the host lacks an address to dial from: those backends
    /// have no verdict, and nothing else tells why.
    pub(super) fn note_source(&mut self, finished: &Finished) {
        let Some(source) = finished.source else { return };
        match &finished.answer.outcome {
            ProbeOutcome::Inconclusive { error: Some(DialError::SourceAddress), .. } => {
                if self.missing.insert(source) {
                    tracing::error!(
                        source_address = %source,
                        "this host has no address {source}, which is a pool's source_address: its backends can be neither \
                         checked nor dialled. Give the host that address, or change source_address and reload"
                    );
                }
            }
            ProbeOutcome::Inconclusive { .. } => {}
            ProbeOutcome::Passed { .. } | ProbeOutcome::Failed { .. } => {
                if self.missing.remove(&source) {
                    tracing::info!(source_address = %source, "source_address {source} can be dialled from again");
                }
            }
        }
    }

    /// Goes over to the plan of `event`, if it has one. Whether it has.
    pub(super) fn adopt_of(&mut self, event: &Event) -> bool {
        let Event::PlanReplaced { plan, .. } = event else { return false };
        self.adopt(plan);
        true
    }

    /// Forgets which addresses the host lacked but for those that a new plan still dials from: if one that is wanted again
    /// later is missing then, that is news.
    fn adopt(&mut self, plan: &Plan) {
        let backends = plan.pools.values().flat_map(|pool| &pool.backends);
        self.still_from(backends.filter_map(|backend| backend.approach.source_address));
    }

    fn still_from(&mut self, wanted: impl Iterator<Item = IpAddr>) {
        if !self.missing.is_empty() {
            let wanted: BTreeSet<IpAddr> = wanted.collect();
            self.missing.retain(|source| wanted.contains(source));
        }
    }

    /// Asks no more.
    pub(super) fn stop(&self, target: TargetId) {
        self.orders.give(target, Order::Stop);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::{Finished, Probes};
    use crate::dial::Ways;
    use crate::model::{DialError, ProbeId, ProbeOutcome, TargetId};
    use crate::probe::{Answer, Service};
    use crate::sys::Clock;

    #[test]
    fn an_address_that_no_plan_wants_any_more_is_not_known_to_be_missing() {
        let (_service, asked) = Service::new(Clock::start(), Ways::default());
        let mut probes = Probes::new(asked.orders);
        let sources: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        for source in sources {
            let outcome =
                ProbeOutcome::Inconclusive { error: Some(DialError::SourceAddress), detail: "none such".to_owned() };
            let answer = Answer { outcome, time: Duration::ZERO };
            let (target, probe) = (TargetId::default(), ProbeId::default());
            probes.note_source(&Finished { target, probe, source: Some(source), answer });
        }
        probes.still_from(sources.into_iter());
        assert_eq!(probes.missing.len(), 2, "still missing, and no news");
        probes.still_from(sources.into_iter().take(1));
        assert!(probes.missing.iter().eq(&sources[..1]), "{:?}", probes.missing);
    }
}
