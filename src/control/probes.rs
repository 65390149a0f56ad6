//! The probes in flight: each a task of its own, so that a slow one delays nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};

use crate::failover::{Event, ProbeSpec};
use crate::model::{ProbeId, ProbeOutcome, TargetId};
use crate::probe::{IN_FLIGHT_MAX, Prober};
use crate::sys::Clock;

/// A probe's answer.
pub(super) struct Answer {
    pub(super) target: TargetId,
    probe: ProbeId,
    pub(super) outcome: ProbeOutcome,
    /// How long it took.
    pub(super) time: Duration,
}

impl Answer {
    pub(super) fn event(self) -> Event {
        Event::ProbeFinished { target: self.target, probe: self.probe, outcome: self.outcome }
    }
}

/// The probes in flight.
pub(super) struct Probes {
    prober: Prober,
    answers: mpsc::Sender<Answer>,
    running: BTreeMap<TargetId, AbortHandle>,
}

impl Probes {
    pub(super) fn new(clock: Clock) -> (Self, mpsc::Receiver<Answer>) {
        let (answers, receiver) = mpsc::channel(IN_FLIGHT_MAX);
        (Self { prober: Prober::new(clock), answers, running: BTreeMap::new() }, receiver)
    }

    /// Asks; an older question to the same target is dropped.
    pub(super) fn start(&mut self, target: TargetId, id: ProbeId, spec: Arc<ProbeSpec>) {
        self.stop(target);
        let (prober, answers) = (self.prober.clone(), self.answers.clone());
        let task = spawn_local(async move {
            let asked = prober.probe(&spec.address, &spec.kind, spec.timeout, spec.approach).await;
            let answer = Answer { target, probe: id, outcome: asked.outcome, time: asked.time };
            // Nobody listens any more only when the daemon ends.
            drop(answers.send(answer).await);
        });
        self.running.insert(target, task.abort_handle());
    }

    /// Asks no more.
    pub(super) fn stop(&mut self, target: TargetId) {
        if let Some(task) = self.running.remove(&target) {
            task.abort();
        }
    }
}
