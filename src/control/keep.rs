//! What outlives a restart, kept in step with the core: after each turn that told something of a pool, what that pool
//! remembers is compared with what the store was told last, and the difference is written. Never waits for a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::failover::{Controller, PinMemory, PoolMemory, Transition};
use crate::model::{Actor, AdminState, BackendName, EventRecord, MonoTime, Paused, PoolName, WallTime};
use crate::store::{AdminEntry, Applied, Change, Pause, Pin, PoolCounters, Refused, State, StoreHandle};
use crate::sys::Clock;

use super::history::event_of;

/// The way from the core to the store.
pub(super) struct Keeper {
    store: StoreHandle,
    clock: Clock,
    /// What the store was told last.
    told: BTreeMap<PoolName, PoolMemory>,
}

/// What a turn leaves to be kept.
pub(super) struct Left {
    changes: Vec<Change>,
    events: Vec<EventRecord>,
}

impl Left {
    /// The events of `pool`, which have no ids yet.
    pub(super) fn events_of(&self, pool: &PoolName) -> Vec<Arc<EventRecord>> {
        let of_pool = self.events.iter().filter(|event| event.pool.as_ref() == Some(pool));
        of_pool.cloned().map(Arc::new).collect()
    }

    /// Whether something is to be kept besides events.
    pub(super) fn is_change(&self) -> bool {
        !self.changes.is_empty()
    }
}

impl Keeper {
    pub(super) const fn new(store: StoreHandle, clock: Clock) -> Self {
        Self { store, clock, told: BTreeMap::new() }
    }

    /// Whether what was kept so far outlives a restart.
    pub(super) fn is_durable(&self) -> bool {
        let figures = self.store.figures();
        figures.is_durable && !figures.is_degraded
    }

    /// What the core is to be given back of `state`, at `now`.
    pub(super) fn recall(&mut self, now: MonoTime, state: &State) -> BTreeMap<PoolName, PoolMemory> {
        self.told = memories(self.clock.wall(now), now, state);
        self.told.clone()
    }

    /// What is to be kept of a turn at `now` that told `reports`. If the plan was `replaced`, what belongs to pools and
    /// backends that are gone is forgotten.
    pub(super) fn after(
        &mut self,
        controller: &Controller,
        now: MonoTime,
        reports: &[Transition],
        replaced: bool,
    ) -> Left {
        let (wall, ours) = (self.clock.wall(now), Actor::changeover());
        let events = reports.iter().map(|transition| event_of(transition, wall)).collect();
        let all: Vec<PoolName> = if replaced { self.told.keys().cloned().collect() } else { Vec::new() };
        let mut pools: BTreeMap<&PoolName, &Actor> = all.iter().map(|pool| (pool, &ours)).collect();
        pools.extend(reports.iter().filter_map(|told| Some((told.pool.as_ref()?, &told.actor))));
        let mut changes = Vec::new();
        for (pool, actor) in pools {
            let memory = controller.memory(pool);
            self.note(pool, memory, &By { now, wall, actor }, &mut changes);
        }
        Left { changes, events }
    }

    /// At the end: backends that are out now have been so until now.
    pub(super) fn end(&self, controller: &Controller, now: MonoTime) {
        let mut changes = Vec::new();
        for status in controller.pool_statuses(now) {
            for backend in status.backends.iter().filter(|backend| !backend.downtime.is_zero()) {
                let key = (status.name.clone(), backend.name.clone());
                changes.push(Change::Downtime(key, Some(backend.downtime)));
            }
        }
        self.write(Left { changes, events: Vec::new() });
    }

    /// Has it written; nobody waits.
    pub(super) fn write(&self, left: Left) {
        if left.is_change() || !left.events.is_empty() {
            self.store.record(left.changes, left.events);
        }
    }

    /// Has it written; what is returned resolves when it is.
    pub(super) fn change(&self, left: Left) -> impl Future<Output = Result<Applied, Refused>> + use<> {
        self.store.change(left.changes, left.events)
    }

    /// Adds to `changes` what is different in `memory`; without one, the pool is gone.
    fn note(&mut self, pool: &PoolName, memory: Option<PoolMemory>, by: &By<'_>, changes: &mut Vec<Change>) {
        let nothing = PoolMemory::default();
        let before = self.told.get(pool).unwrap_or(&nothing);
        let after = memory.as_ref().unwrap_or(&nothing);
        if before == after {
            return;
        }
        differences(pool, before, after, by, changes);
        match memory {
            Some(memory) => drop(self.told.insert(pool.clone(), memory)),
            None => drop(self.told.remove(pool)),
        }
    }
}

/// When, and by whom.
struct By<'a> {
    now: MonoTime,
    wall: WallTime,
    actor: &'a Actor,
}

fn differences(pool: &PoolName, before: &PoolMemory, after: &PoolMemory, by: &By<'_>, changes: &mut Vec<Change>) {
    let By { now, wall: since, actor } = by;
    let (since, actor) = (*since, || (*actor).clone());
    if before.pin != after.pin {
        let pin = after.pin.clone().map(|PinMemory { backend, whole_tier, mates, reason }| Pin {
            backend,
            whole_tier,
            mates,
            since,
            reason,
            actor: actor(),
        });
        changes.push(Change::Pin(pool.clone(), pin));
    }
    if before.pause != after.pause {
        let until = |until: MonoTime| since + until.since(*now);
        let pause = after.pause.map(|pause| Pause { until: pause.until.map(until), since, actor: actor() });
        changes.push(Change::Pause(pool.clone(), pause));
    }
    let (was, is) = (counters(before), counters(after));
    if was != is {
        let counters = Some(is).filter(|counters| *counters != PoolCounters::default());
        changes.push(Change::Counters(pool.clone(), counters));
    }
    for backend in different(&before.admin, &after.admin) {
        let entry = after.admin.get(backend).map(|state| AdminEntry { state: *state, since, actor: actor() });
        changes.push(Change::AdminState((pool.clone(), backend.clone()), entry));
    }
    for backend in different(&before.downtimes, &after.downtimes) {
        let time = after.downtimes.get(backend).copied();
        changes.push(Change::Downtime((pool.clone(), backend.clone()), time));
    }
}

const fn counters(of: &PoolMemory) -> PoolCounters {
    let &PoolMemory { last_failover, failovers, recoveries, .. } = of;
    PoolCounters { last_failover, failovers, recoveries }
}

/// The names under which `before` and `after` have not the same.
fn different<'m, V: PartialEq>(
    before: &'m BTreeMap<BackendName, V>,
    after: &'m BTreeMap<BackendName, V>,
) -> BTreeSet<&'m BackendName> {
    before.keys().chain(after.keys()).filter(|name| before.get(*name) != after.get(*name)).collect()
}

/// What the core is to be given back: `state`, whose times are on the calendar, on the daemon's clock.
fn memories(wall: WallTime, now: MonoTime, state: &State) -> BTreeMap<PoolName, PoolMemory> {
    let mut memories: BTreeMap<PoolName, PoolMemory> = BTreeMap::new();
    for (pool, pin) in &state.pins {
        let Pin { backend, whole_tier, mates, reason, .. } = pin.clone();
        memories.entry(pool.clone()).or_default().pin = Some(PinMemory { backend, whole_tier, mates, reason });
    }
    for (pool, pause) in &state.pauses {
        // However the calendar was set meanwhile: no longer than was asked for.
        let left = |until: WallTime| between(wall, until).min(between(pause.since, until));
        let until = pause.until.map(|until| now + left(until));
        memories.entry(pool.clone()).or_default().pause = Some(Paused { since: now, until });
    }
    for ((pool, backend), entry) in state.admin_states.iter().filter(|(_, entry)| entry.state != AdminState::Ready) {
        memories.entry(pool.clone()).or_default().admin.insert(backend.clone(), entry.state);
    }
    for (pool, &PoolCounters { last_failover, failovers, recoveries }) in &state.counters {
        let memory = memories.entry(pool.clone()).or_default();
        (memory.last_failover, memory.failovers, memory.recoveries) = (last_failover, failovers, recoveries);
    }
    for ((pool, backend), time) in state.downtimes.iter().filter(|(_, time)| !time.is_zero()) {
        memories.entry(pool.clone()).or_default().downtimes.insert(backend.clone(), *time);
    }
    memories
}

/// How long after `earlier` it is `later`; nothing if it is not after it.
fn between(earlier: WallTime, later: WallTime) -> Duration {
    Duration::from_micros(u64::try_from(later.as_micros().saturating_sub(earlier.as_micros())).unwrap_or(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::{By, differences, memories};
    use crate::failover::{PinMemory, PoolMemory};
    use crate::model::{Actor, AdminState, MonoTime, Paused, PoolName, WallTime};
    use crate::store::State;

    /// A pool that remembers something of every kind; its pause ends ten seconds after `now`.
    fn memory(now: MonoTime) -> PoolMemory {
        PoolMemory {
            pin: Some(PinMemory {
                backend: "b".into(),
                whole_tier: true,
                mates: vec!["b2".into()],
                reason: Some("upgrade".to_owned()),
            }),
            pause: Some(Paused { since: now, until: Some(now + Duration::from_secs(10)) }),
            admin: [("a".into(), AdminState::Drain)].into(),
            last_failover: 5,
            failovers: 3,
            recoveries: 2,
            downtimes: [("a".into(), Duration::from_millis(1234))].into(),
        }
    }

    #[test]
    fn what_is_written_comes_back_with_what_is_left_of_its_time() {
        let pool = PoolName::from("p");
        let (now, wall) = (MonoTime::ZERO + Duration::from_secs(100), WallTime::from_micros(1_000_000_000));
        let (mut state, mut changes) = (State::default(), Vec::new());
        let by = By { now, wall, actor: &Actor::from("ops") };
        differences(&pool, &PoolMemory::default(), &memory(now), &by, &mut changes);
        changes.drain(..).for_each(|change| state.apply(change));
        assert_eq!(state.pins[&pool].actor, Actor::from("ops"));
        let start = MonoTime::ZERO;
        let later = memories(wall + Duration::from_secs(4), start, &state);
        let pause = Paused { since: start, until: Some(start + Duration::from_secs(6)) };
        assert_eq!(later[&pool], PoolMemory { pause: Some(pause), ..memory(now) });
        let much_later = memories(wall + Duration::from_secs(400), start, &state);
        assert_eq!(much_later[&pool].pause.unwrap().until, Some(start), "over");
        differences(&pool, &memory(now), &PoolMemory::default(), &by, &mut changes);
        changes.drain(..).for_each(|change| state.apply(change));
        assert!(state.is_empty(), "{state:?}");
    }
}
