//! When to ask whom: one schedule a target, however many backends share it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{BackendId, MonoTime, ProbeId, TargetId};

use super::event::{Command, ProbeSpec};

/// While a pool has nothing fit, its backends are asked this often, or as their interval says if that is shorter,
/// or as their recovery interval says if they have one.
pub const EMPTY_POOL_PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// Clients' failed dials start no more than one probe of a target in this time.
const SUSPICION_GAP: Duration = Duration::from_millis(10);

/// First probes are spread over this time for each target there is, and at most over one interval.
const FIRST_PROBE_SPREAD: Duration = Duration::from_micros(100);

/// Each wait is up to this share of the interval shorter or longer, so that targets drift apart.
const JITTER: f64 = 0.1;

/// How one thing is to be probed.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) interval: Duration,
    pub(super) subscribers: Vec<BackendId>,
    /// Whether one of them has no verdict yet, and so is asked as soon as if it were new.
    pub(super) is_urgent: bool,
}

impl Wanted {
    pub(super) const fn every(interval: Duration) -> Self {
        Self { interval, subscribers: Vec::new(), is_urgent: false }
    }
}

/// One thing that is probed.
#[derive(Debug)]
struct Target {
    spec: Arc<ProbeSpec>,
    /// The backends that the answer is for. Never empty.
    subscribers: Vec<BackendId>,
    due: MonoTime,
    in_flight: Option<InFlight>,
    last_start: Option<MonoTime>,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    probe: ProbeId,
    /// Started upon suspicion, and so not to be restarted by more of it.
    hastened: bool,
}

/// Every target with its schedule.
#[derive(Debug)]
pub(super) struct Schedule {
    targets: BTreeMap<TargetId, Target>,
    by_spec: BTreeMap<Arc<ProbeSpec>, TargetId>,
    due: BTreeSet<(MonoTime, TargetId)>,
    hastened: BTreeSet<TargetId>,
    last_target: TargetId,
    last_probe: ProbeId,
    rng: fastrand::Rng,
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            targets: BTreeMap::new(),
            by_spec: BTreeMap::new(),
            due: BTreeSet::new(),
            hastened: BTreeSet::new(),
            last_target: TargetId::default(),
            last_probe: ProbeId::default(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Asks exactly what `wanted` says from now on. What was asked before goes on undisturbed.
    pub(super) fn replace(&mut self, now: MonoTime, wanted: BTreeMap<ProbeSpec, Wanted>, out: &mut Vec<Command>) {
        let mut gone: Vec<(Arc<ProbeSpec>, TargetId)> = self
            .by_spec
            .iter()
            .filter(|(spec, _)| !wanted.contains_key(&***spec))
            .map(|(spec, &id)| (Arc::clone(spec), id))
            .collect();
        // Not in the order of what is asked: that may hold secrets, and the order of their texts decides nothing.
        gone.sort_by_key(|&(_, id)| id);
        let mut wanted: Vec<(ProbeSpec, Wanted)> = wanted.into_iter().collect();
        wanted.sort_by_key(|(_, wanted)| wanted.subscribers.first().copied());
        for (spec, id) in gone {
            self.by_spec.remove(&spec);
            if let Some(target) = self.targets.remove(&id) {
                self.due.remove(&(target.due, id));
            }
            self.hastened.remove(&id);
            out.push(Command::StopProbe { target: id });
        }
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        for (spec, Wanted { interval, subscribers, is_urgent }) in wanted {
            let spread = FIRST_PROBE_SPREAD.saturating_mul(count).min(interval);
            let due = now + spread.mul_f64(self.rng.f64());
            let known = self.by_spec.get(&spec).copied();
            if let Some((id, target)) = known.and_then(|id| self.targets.get_mut(&id).map(|target| (id, target))) {
                target.subscribers = subscribers;
                if is_urgent && target.in_flight.is_none() && due < target.due {
                    self.set_due(id, due);
                }
            } else {
                self.add(spec, subscribers, due);
            }
        }
    }

    fn add(&mut self, spec: ProbeSpec, subscribers: Vec<BackendId>, due: MonoTime) {
        self.last_target = self.last_target.next();
        let id = self.last_target;
        let spec = Arc::new(spec);
        self.by_spec.insert(Arc::clone(&spec), id);
        self.due.insert((due, id));
        self.targets.insert(id, Target { spec, subscribers, due, in_flight: None, last_start: None });
    }

    /// When the next probe is due.
    pub(super) fn next_due(&self) -> Option<MonoTime> {
        self.due.first().map(|&(due, _)| due)
    }

    /// Starts every probe that is due.
    pub(super) fn start_due(&mut self, now: MonoTime, out: &mut Vec<Command>) {
        while let Some(&(due, id)) = self.due.first() {
            if due > now {
                break;
            }
            self.due.remove(&(due, id));
            let hastened = self.hastened.remove(&id);
            let Some(target) = self.targets.get_mut(&id) else { continue };
            self.last_probe = self.last_probe.next();
            target.in_flight = Some(InFlight { probe: self.last_probe, hastened });
            target.last_start = Some(now);
            let spec = Arc::clone(&target.spec);
            // Should the answer never come, the question is asked anew.
            target.due = now + spec.timeout.saturating_mul(2);
            self.due.insert((target.due, id));
            out.push(Command::StartProbe { target: id, probe: self.last_probe, spec });
        }
    }

    /// Takes an answer in. Gives the backends it is for; none if it answers an older question.
    pub(super) fn finish(&mut self, id: TargetId, probe: ProbeId) -> Vec<BackendId> {
        let Some(target) = self.targets.get_mut(&id) else { return Vec::new() };
        if target.in_flight.is_none_or(|current| current.probe != probe) {
            return Vec::new();
        }
        target.in_flight = None;
        target.subscribers.clone()
    }

    /// Sets the next probe of `id` one jittered `interval` after the last one began.
    pub(super) fn plan_next(&mut self, now: MonoTime, id: TargetId, interval: Duration) {
        let factor = 1.0 + JITTER * (2.0 * self.rng.f64() - 1.0);
        let Some(target) = self.targets.get(&id) else { return };
        let began = target.last_start.unwrap_or(now);
        let due = (began + interval.mul_f64(factor)).max(now);
        // An answer to a question older than the suspicion does not allay it.
        let due = if self.hastened.contains(&id) { due.min(target.due) } else { due };
        self.set_due(id, due);
    }

    /// Asks `id` again at once.
    pub(super) fn ask_again(&mut self, now: MonoTime, id: TargetId) {
        self.set_due(id, now);
        self.hastened.insert(id);
    }

    /// Asks `id` soon because a client could not reach it, unless that is being asked already.
    pub(super) fn suspect(&mut self, now: MonoTime, id: TargetId) {
        let Some(target) = self.targets.get(&id) else { return };
        if target.in_flight.is_some_and(|current| current.hastened) {
            return;
        }
        let earliest = target.last_start.map_or(now, |start| (start + SUSPICION_GAP).max(now));
        self.set_due(id, earliest.min(target.due));
        self.hastened.insert(id);
    }

    /// The pool of a backend behind `id` is in need: does not wait longer than `interval` from now.
    pub(super) fn no_later_than(&mut self, now: MonoTime, id: TargetId, interval: Duration) {
        let Some(target) = self.targets.get(&id) else { return };
        if target.in_flight.is_none() && target.due > now + interval {
            // Many may be in need at once: they are not asked in one moment.
            let factor = 1.0 - JITTER * self.rng.f64();
            self.set_due(id, now + interval.mul_f64(factor));
        }
    }

    fn set_due(&mut self, id: TargetId, due: MonoTime) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        self.due.remove(&(target.due, id));
        target.due = due;
        self.due.insert((due, id));
    }

    /// The backends that the answers of `id` are for.
    pub(super) fn subscribers(&self, id: TargetId) -> &[BackendId] {
        self.targets.get(&id).map_or(&[], |target| &target.subscribers)
    }

    /// The target that asks `spec`.
    pub(super) fn target(&self, spec: &ProbeSpec) -> Option<TargetId> {
        self.by_spec.get(spec).copied()
    }

    /// Whether `id` is asked on behalf of `backend`.
    pub(super) fn asks(&self, id: TargetId, backend: BackendId) -> bool {
        self.targets.get(&id).is_some_and(|target| target.subscribers.contains(&backend))
    }

    /// Whether all that it keeps is of one mind.
    ///
    /// # Errors
    ///
    /// Says in words what is not.
    pub(super) fn check(&self) -> Result<(), String> {
        let agree = self.targets.len() == self.by_spec.len() && self.targets.len() == self.due.len();
        let queued = self.targets.iter().all(|(&id, target)| self.due.contains(&(target.due, id)));
        let found = self.targets.iter().all(|(id, target)| self.by_spec.get(&target.spec) == Some(id));
        if !(agree && queued && found) {
            return Err("a target is not in every index".to_owned());
        }
        if self.targets.values().any(|target| target.subscribers.is_empty()) {
            return Err("a target is asked for nobody".to_owned());
        }
        match self.hastened.iter().find(|id| !self.targets.contains_key(id)) {
            Some(id) => Err(format!("target {id} is hastened and gone")),
            None => Ok(()),
        }
    }
}
