//! The probes in flight: each a task of its own, so that a slow one delays nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, spawn_local};

use crate::failover::{Event, ProbeSpec};
use crate::model::{MonoTime, ProbeId, ProbeOutcome, TargetId};
use crate::probe::probe;
use crate::sys::Clock;

/// Probes in flight at once; the rest wait their turn. Each takes a descriptor or two.
const IN_FLIGHT_MAX: usize = 512;

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
    clock: Clock,
    answers: mpsc::Sender<Answer>,
    permits: Arc<Semaphore>,
    running: BTreeMap<TargetId, AbortHandle>,
}

impl Probes {
    pub(super) fn new(clock: Clock) -> (Self, mpsc::Receiver<Answer>) {
        let (answers, receiver) = mpsc::channel(IN_FLIGHT_MAX);
        let permits = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        (Self { clock, answers, permits, running: BTreeMap::new() }, receiver)
    }

    /// Asks; an older question to the same target is dropped.
    pub(super) fn start(&mut self, target: TargetId, id: ProbeId, spec: Arc<ProbeSpec>) {
        self.stop(target);
        let (clock, answers, permits) = (self.clock, self.answers.clone(), Arc::clone(&self.permits));
        let task = spawn_local(async move {
            let Ok(_permit) = permits.acquire().await else { return };
            let begun: MonoTime = clock.now();
            let outcome = probe(clock, &spec.address, &spec.kind, spec.timeout, spec.approach).await;
            let answer = Answer { target, probe: id, outcome, time: clock.now().since(begun) };
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
