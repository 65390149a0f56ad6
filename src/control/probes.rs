//! The probes in flight: each a task of its own, so that a slow one delays nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};

use crate::failover::{Event, ProbeSpec};
use crate::model::{DialError, ProbeId, ProbeOutcome, TargetId};
use crate::probe::{IN_FLIGHT_MAX, Prober};
use crate::sys::Clock;

/// A probe's answer.
pub(super) struct Answer {
    pub(super) target: TargetId,
    probe: ProbeId,
    /// The address it was dialled from, if that was not left to the kernel.
    source: Option<IpAddr>,
    pub(super) outcome: ProbeOutcome,
    /// How long it took.
    pub(super) time: Duration,
}

/// What the core is told of all that has been answered. One answer by itself is told as such.
pub(super) fn event(answers: &mut Vec<Answer>) -> Event {
    let mut told = answers.drain(..).map(|Answer { target, probe, outcome, .. }| (target, probe, outcome));
    match (told.next(), told.len()) {
        (Some((target, probe, outcome)), 0) => Event::ProbeFinished { target, probe, outcome },
        (first, _) => Event::ProbesFinished { answers: first.into_iter().chain(told).collect() },
    }
}

/// The probes in flight.
pub(super) struct Probes {
    prober: Prober,
    answers: mpsc::Sender<Answer>,
    running: BTreeMap<TargetId, AbortHandle>,
    /// Addresses to dial from that the host did not have when one was last needed.
    missing: BTreeSet<IpAddr>,
}

impl Probes {
    pub(super) fn new(clock: Clock) -> (Self, mpsc::Receiver<Answer>) {
        let (answers, receiver) = mpsc::channel(IN_FLIGHT_MAX);
        (Self { prober: Prober::new(clock), answers, running: BTreeMap::new(), missing: BTreeSet::new() }, receiver)
    }

    /// Asks; an older question to the same target is dropped.
    pub(super) fn start(&mut self, target: TargetId, id: ProbeId, spec: Arc<ProbeSpec>) {
        self.stop(target);
        let (prober, answers) = (self.prober.clone(), self.answers.clone());
        let task = spawn_local(async move {
            let asked = prober.probe(&spec.address, &spec.kind, spec.timeout, spec.approach).await;
            let source = spec.approach.source_address;
            let answer = Answer { target, probe: id, source, outcome: asked.outcome, time: asked.time };
            // Nobody listens any more only when the daemon ends.
            drop(answers.send(answer).await);
        });
        self.running.insert(target, task.abort_handle());
    }

    /// Says, once for all backends and not at each probe, that the host lacks an address to dial from: those backends
    /// have no verdict, and nothing else tells why.
    pub(super) fn note_source(&mut self, answer: &Answer) {
        let Some(source) = answer.source else { return };
        match &answer.outcome {
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

    /// Forgets which addresses the host lacked but for those that a new plan still dials from: if one that is wanted again
    /// later is missing then, that is news.
    pub(super) fn still_from(&mut self, wanted: impl Iterator<Item = IpAddr>) {
        if !self.missing.is_empty() {
            let wanted: BTreeSet<IpAddr> = wanted.collect();
            self.missing.retain(|source| wanted.contains(source));
        }
    }

    /// Asks no more.
    pub(super) fn stop(&mut self, target: TargetId) {
        if let Some(task) = self.running.remove(&target) {
            task.abort();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::{Answer, Probes};
    use crate::model::{DialError, ProbeId, ProbeOutcome, TargetId};
    use crate::sys::Clock;

    #[test]
    fn an_address_that_no_plan_wants_any_more_is_not_known_to_be_missing() {
        let (mut probes, _answers) = Probes::new(Clock::start());
        let sources: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        for source in sources {
            let outcome =
                ProbeOutcome::Inconclusive { error: Some(DialError::SourceAddress), detail: "none such".to_owned() };
            let (target, probe, time) = (TargetId::default(), ProbeId::default(), Duration::ZERO);
            probes.note_source(&Answer { target, probe, source: Some(source), outcome, time });
        }
        probes.still_from(sources.into_iter());
        assert_eq!(probes.missing.len(), 2, "still missing, and no news");
        probes.still_from(sources.into_iter().take(1));
        assert!(probes.missing.iter().eq(&sources[..1]), "{:?}", probes.missing);
    }
}
