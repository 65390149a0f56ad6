//! When to ask whom: one schedule a target, however many backends share it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{BackendId, MonoTime, ProbeId, ProbeSpec, TargetId};

use super::event::Command;
use super::recovery::Pace;

/// While a pool has nothing fit, its backends are asked this often, or as their interval says if that is shorter,
/// or as their recovery interval says if they have one. From a thousand targets on it is longer: see
/// `FIRST_PROBE_SPREAD`.
pub const EMPTY_POOL_PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// Clients' failed dials start no more than one probe of a target in this time.
const SUSPICION_GAP: Duration = Duration::from_millis(10);

/// First probes are spread over this time for each target there is, and at most over one interval. Nor are the targets
/// of pools in need asked faster than that: were they all in need, the threads that ask and decide would do nothing else.
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
    /// Whether there is no way there, so that nobody is asked for now.
    pub(super) rests: bool,
}

impl Wanted {
    pub(super) const fn every(interval: Duration) -> Self {
        Self { interval, subscribers: Vec::new(), is_urgent: false, rests: false }
    }
}

/// One thing that is probed.
#[derive(Debug)]
struct Target {
    spec: Arc<ProbeSpec>,
    /// The backends that the answer is for. Never empty.
    subscribers: Vec<BackendId>,
    /// Nothing while nobody wants it asked.
    due: Option<MonoTime>,
    in_flight: Option<InFlight>,
    last_start: Option<MonoTime>,
    /// Whether it is not asked, whoever wants that, before there is a way to it.
    rests: bool,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    probe: ProbeId,
    /// Started upon suspicion, and so not to be restarted by more of it.
    hastened: bool,
}

/// Whether a question that is asked upon suspicion, or by order, is put anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Only if no question is open: any answer that comes soon will do.
    IfIdle,
    /// Only if it was asked as a matter of routine: a storm of suspicion must not keep the answer from coming.
    IfOlder,
    /// In any case: what was asked before is of no interest any more.
    Always,
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
    /// How many questions are open.
    open: usize,
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
            open: 0,
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
                target.due.map(|due| self.due.remove(&(due, id)));
                self.open -= usize::from(target.in_flight.is_some());
            }
            self.hastened.remove(&id);
            out.push(Command::StopProbe { target: id });
        }
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        for (spec, Wanted { interval, subscribers, is_urgent, rests }) in wanted {
            let spread = FIRST_PROBE_SPREAD.saturating_mul(count).min(interval);
            let due = now + spread.mul_f64(self.rng.f64());
            let known = self.by_spec.get(&spec).copied();
            if rests {
                known.into_iter().for_each(|id| self.rest(id));
            }
            if let Some((id, target)) = known.and_then(|id| self.targets.get_mut(&id).map(|target| (id, target))) {
                target.subscribers = subscribers;
                if std::mem::replace(&mut target.rests, rests) != rests {
                    self.set_due(id, Some(due));
                    continue;
                }
                if is_urgent && target.in_flight.is_none() && target.due.is_none_or(|planned| due < planned) {
                    self.set_due(id, Some(due));
                }
            } else {
                self.add(spec, subscribers, (!rests).then_some(due));
            }
        }
    }

    /// Adds a target that is asked at the time `due`, or rests.
    fn add(&mut self, spec: ProbeSpec, subscribers: Vec<BackendId>, due: Option<MonoTime>) {
        self.last_target = self.last_target.next();
        let id = self.last_target;
        let spec = Arc::new(spec);
        self.by_spec.insert(Arc::clone(&spec), id);
        self.due.extend(due.map(|due| (due, id)));
        let rests = due.is_none();
        self.targets.insert(id, Target { spec, subscribers, due, in_flight: None, last_start: None, rests });
    }

    /// How often what is in need is asked.
    pub(super) fn hurry(&self) -> Duration {
        let count = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        EMPTY_POOL_PROBE_INTERVAL.max(FIRST_PROBE_SPREAD.saturating_mul(count))
    }

    /// Whether a question is open.
    pub(super) const fn has_open(&self) -> bool {
        self.open > 0
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
            let before = target.in_flight.replace(InFlight { probe: self.last_probe, hastened });
            self.open += usize::from(before.is_none());
            target.last_start = Some(now);
            let spec = Arc::clone(&target.spec);
            // Should the answer never come, the question is asked anew.
            let anew = now + spec.timeout.saturating_mul(2);
            target.due = Some(anew);
            self.due.insert((anew, id));
            out.push(Command::StartProbe { target: id, probe: self.last_probe, spec });
        }
    }

    /// Takes an answer in. Gives the backends it is for; nothing if it answers an older question.
    pub(super) fn finish(&mut self, id: TargetId, probe: ProbeId) -> Option<Vec<BackendId>> {
        let target = self.targets.get_mut(&id)?;
        target.in_flight.take_if(|current| current.probe == probe)?;
        self.open -= 1;
        Some(target.subscribers.clone())
    }

    /// Sets the next probe of `id` one jittered `pace` after the last one; none if nobody wants one.
    pub(super) fn plan_next(&mut self, now: MonoTime, id: TargetId, pace: Option<Pace>) {
        let factor = 1.0 + JITTER * (2.0 * self.rng.f64() - 1.0);
        let Some(target) = self.targets.get(&id) else { return };
        let began = target.last_start.unwrap_or(now);
        let due =
            pace.map(|Pace { interval, rest }| (began + interval.mul_f64(factor)).max(now + rest.mul_f64(factor)));
        // An answer to a question older than the suspicion does not allay it.
        let due = if self.hastened.contains(&id) { due.into_iter().chain(target.due).min() } else { due };
        self.set_due(id, due);
    }

    /// There is no way to `id` for now: it is not asked, and the question that is open is void.
    pub(super) fn rest(&mut self, id: TargetId) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        target.rests = true;
        self.open -= usize::from(target.in_flight.take().is_some());
        self.hastened.remove(&id);
        self.set_due(id, None);
    }

    /// There is a way to `id`: it is asked at once.
    pub(super) fn wake(&mut self, now: MonoTime, id: TargetId) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        target.rests = false;
        self.set_due(id, Some(now));
    }

    /// Whether nobody asks `id`, since there is no way there.
    pub(super) fn rests(&self, id: TargetId) -> bool {
        self.targets.get(&id).is_some_and(|target| target.rests)
    }

    /// Asks `id` again at once.
    pub(super) fn ask_again(&mut self, now: MonoTime, id: TargetId) {
        if self.targets.get(&id).is_none_or(|target| target.rests) {
            return;
        }
        self.set_due(id, Some(now));
        self.hastened.insert(id);
    }

    /// Asks `id` soon because something was heard of it, unless that is being asked already.
    pub(super) fn suspect(&mut self, now: MonoTime, id: TargetId) {
        self.ask_soon(now, id, Again::IfOlder);
    }

    /// Asks `id` soon.
    pub(super) fn ask_soon(&mut self, now: MonoTime, id: TargetId, again: Again) {
        self.hasten(now, now, id, again);
    }

    /// Asks all of these soon, but not in one moment.
    pub(super) fn ask_all(&mut self, now: MonoTime, ids: &BTreeSet<TargetId>, again: Again) {
        for &id in ids {
            let at = now + self.offset(ids.len() - 1);
            self.hasten(now, at, id, again);
        }
    }

    /// Asks `id` at that time, or before if that is planned anyway.
    fn hasten(&mut self, now: MonoTime, at: MonoTime, id: TargetId, again: Again) {
        let Some(target) = self.targets.get(&id).filter(|target| !target.rests) else { return };
        let is_asked = match again {
            Again::IfIdle => target.in_flight.is_some(),
            Again::IfOlder => target.in_flight.is_some_and(|current| current.hastened),
            Again::Always => false,
        };
        if is_asked {
            return;
        }
        let earliest = target.last_start.map_or(at, |start| (start + SUSPICION_GAP).max(at)).max(now);
        self.set_due(id, Some(target.due.map_or(earliest, |due| due.min(earliest))));
        self.hastened.insert(id);
    }

    /// A moment in the time over which so many targets are spread.
    fn offset(&mut self, others: usize) -> Duration {
        let count = u32::try_from(others).unwrap_or(u32::MAX);
        FIRST_PROBE_SPREAD.saturating_mul(count).mul_f64(self.rng.f64())
    }

    /// We did not run until now: makes every open question void, and puts it anew, as well as those that are overdue.
    /// Gives how many were open.
    pub(super) fn start_anew(&mut self, now: MonoTime) -> usize {
        let overdue = |target: &Target| target.due.is_some_and(|due| due <= now);
        let late = self.targets.iter().filter(|(_, target)| target.in_flight.is_some() || overdue(target));
        let late: Vec<TargetId> = late.map(|(&id, _)| id).collect();
        for &id in &late {
            let at = now + self.offset(late.len() - 1);
            let Some(target) = self.targets.get_mut(&id) else { continue };
            target.in_flight = None;
            self.set_due(id, Some(at));
        }
        std::mem::take(&mut self.open)
    }

    /// The pool of a backend behind `id` is in need: does not wait longer than `interval` from now.
    pub(super) fn no_later_than(&mut self, now: MonoTime, id: TargetId, interval: Duration) {
        let Some(target) = self.targets.get(&id) else { return };
        if target.in_flight.is_none() && target.due.is_none_or(|due| due > now + interval) {
            // Many may be in need at once: they are not asked in one moment.
            let factor = 1.0 - JITTER * self.rng.f64();
            self.set_due(id, Some(now + interval.mul_f64(factor)));
        }
    }

    fn set_due(&mut self, id: TargetId, due: Option<MonoTime>) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        let due = due.filter(|_| !target.rests);
        let before = std::mem::replace(&mut target.due, due);
        before.map(|before| self.due.remove(&(before, id)));
        self.due.extend(due.map(|due| (due, id)));
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
        let wanted = self.targets.values().filter(|target| target.due.is_some()).count();
        let agree = self.targets.len() == self.by_spec.len() && wanted == self.due.len();
        let queued =
            self.targets.iter().all(|(&id, target)| target.due.is_none_or(|due| self.due.contains(&(due, id))));
        let found = self.targets.iter().all(|(id, target)| self.by_spec.get(&target.spec) == Some(id));
        if self.open != self.targets.values().filter(|target| target.in_flight.is_some()).count() {
            return Err("questions are open that are not, or the other way round".to_owned());
        }
        if !(agree && queued && found) {
            return Err("a target is not in every index".to_owned());
        }
        if self.targets.values().any(|target| target.rests && (target.due.is_some() || target.in_flight.is_some())) {
            return Err("a target is asked though it rests".to_owned());
        }
        if self.targets.values().any(|target| target.subscribers.is_empty()) {
            return Err("a target is asked for nobody".to_owned());
        }
        let asked = |id: &TargetId| self.targets.get(id).is_some_and(|target| target.due.is_some());
        match self.hastened.iter().find(|id| !asked(id)) {
            Some(id) => Err(format!("target {id} is hastened and is gone, or asked no more")),
            None => Ok(()),
        }
    }
}
