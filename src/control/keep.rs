//! What outlives a restart, kept in step with the core: after each turn that told something of a pool, what that pool
//! remembers is compared with what the store was told last, and the difference is written. Never waits for a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::failover::{Controller, Event, Lineage, PinMemory, PoolMemory};
use crate::model::{Actor, AdminState, BackendName, EventRecord, MonoTime, OrderedBy, Paused, PoolName, WallTime};
use crate::store::{AdminEntry, Applied, Change, Pause, Pin, PoolCounters, Refused, State, StoppedTunnel, StoreHandle};
use crate::sys::Clock;

use super::givers::Givers;
use super::history::{Reports, event_of};
use super::lineage::Lineages;

/// The way from the core to the store.
pub(super) struct Keeper {
    store: StoreHandle,
    clock: Clock,
    /// What the store was told last.
    told: BTreeMap<PoolName, PoolMemory>,
    /// Pools whose last changes it had no room for, and whose doing they were: it is told again after the next turn.
    owed: BTreeMap<PoolName, Actor>,
    lineages: Lineages,
    givers: Givers,
}

/// What a turn leaves to be kept.
#[derive(Default)]
pub(super) struct Left {
    changes: Vec<Change>,
    events: Vec<EventRecord>,
    /// What the store had been told of the pools that the changes are about.
    before: Vec<Before>,
}

/// What the store had been told of a pool, and who changed it.
struct Before {
    pool: PoolName,
    actor: Actor,
    memory: Option<PoolMemory>,
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
    /// Where the core is told what is on disk comes with it.
    pub(super) fn new(store: StoreHandle, clock: Clock) -> (Self, mpsc::Receiver<Event>) {
        let (lineages, kept) = Lineages::new(store.clone());
        (Self { store, clock, told: BTreeMap::new(), owed: BTreeMap::new(), lineages, givers: Givers::default() }, kept)
    }

    /// Has `lineage` written down, before `pool` sends anybody there.
    pub(super) fn keep_lineage(&mut self, pool: PoolName, lineage: Lineage) {
        self.told.entry(pool.clone()).or_default().lineage = Some(lineage.clone());
        self.lineages.keep(pool, lineage);
    }

    /// By whom the orders that hold were given.
    pub(super) const fn givers(&self) -> &Givers {
        &self.givers
    }

    /// Whether what was kept so far outlives a restart.
    pub(super) fn is_durable(&self) -> bool {
        let figures = self.store.figures();
        figures.is_durable && !figures.is_degraded && self.owed.is_empty()
    }

    /// What the core is to be given back of `state`, at `now`.
    pub(super) fn recall(&mut self, now: MonoTime, state: &State) -> BTreeMap<PoolName, PoolMemory> {
        self.told = memories(self.clock.wall(now), now, state);
        self.givers = Givers::recall(state, &self.told);
        self.told.clone()
    }

    /// What is to be kept of a turn at `now` that told `reports`. If the plan was `replaced`, what belongs to pools and
    /// backends that are gone is forgotten.
    pub(super) fn after(&mut self, controller: &Controller, now: MonoTime, reports: &Reports, replaced: bool) -> Left {
        let (wall, ours) = (self.clock.wall(now), Actor::changeover());
        let Reports { transitions, took } = reports;
        let events: Vec<EventRecord> = transitions.iter().map(|transition| event_of(transition, wall, *took)).collect();
        let owed = std::mem::take(&mut self.owed);
        let all: Vec<PoolName> = if replaced { self.told.keys().cloned().collect() } else { Vec::new() };
        let mut pools: BTreeMap<&PoolName, &Actor> = all.iter().map(|pool| (pool, &ours)).collect();
        pools.extend(&owed);
        pools.extend(transitions.iter().filter_map(|told| Some((told.pool.as_ref()?, &told.actor))));
        let mut left = Left { events, ..Left::default() };
        for (pool, actor) in pools {
            let memory = controller.memory(pool);
            let giver = OrderedBy { actor: actor.clone(), at: wall };
            self.givers.note(pool, memory.as_ref(), &giver, replaced);
            self.note(pool, memory, &By { now, wall, actor }, &mut left);
        }
        left
    }

    /// At the end: what is still owed, and backends that are out now have been so until now.
    pub(super) fn end(&mut self, controller: &Controller, now: MonoTime) {
        let mut left = self.after(controller, now, &Reports::default(), false);
        left.changes.extend(self.lineages.left());
        for status in controller.pool_statuses(now) {
            for backend in status.backends.iter().filter(|backend| !backend.downtime.is_zero()) {
                let key = (status.name.clone(), backend.name.clone());
                left.changes.push(Change::Downtime(key, Some(backend.downtime)));
            }
        }
        self.write(left);
    }

    /// Has it written; nobody waits.
    pub(super) fn write(&mut self, left: Left) {
        let Left { changes, events, before } = left;
        if (!changes.is_empty() || !events.is_empty()) && self.store.record(changes, events).is_err() {
            self.owe(before);
        }
    }

    /// Has it written; what is returned resolves when it is.
    pub(super) fn change(&mut self, left: Left) -> impl Future<Output = Result<Applied, Refused>> + use<> {
        let begun = self.store.begin(left.changes, left.events);
        if begun.is_err() {
            self.owe(left.before);
        }
        async move { begun?.await }
    }

    /// The store was not told after all.
    fn owe(&mut self, before: Vec<Before>) {
        for Before { pool, actor, memory } in before {
            match memory {
                Some(mut memory) => {
                    // It has a way of its own.
                    memory.lineage = self.told.remove(&pool).map_or(memory.lineage, |told| told.lineage);
                    drop(self.told.insert(pool.clone(), memory));
                }
                None => drop(self.told.remove(&pool)),
            }
            self.owed.insert(pool, actor);
        }
    }

    /// Adds to `left` what is different in `memory`; without one, the pool is gone.
    fn note(&mut self, pool: &PoolName, memory: Option<PoolMemory>, by: &By<'_>, left: &mut Left) {
        let nothing = PoolMemory::default();
        let before = self.told.get(pool).unwrap_or(&nothing);
        let after = memory.as_ref().unwrap_or(&nothing);
        if before == after {
            return;
        }
        let first = left.changes.len();
        differences(pool, before, after, by, &mut left.changes);
        left.changes.iter_mut().skip(first).for_each(|change| self.givers.sign(change));
        let before = match memory {
            Some(memory) => self.told.insert(pool.clone(), memory),
            None => {
                self.lineages.forget(pool);
                self.told.remove(pool)
            }
        };
        left.before.push(Before { pool: pool.clone(), actor: by.actor.clone(), memory: before });
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
        let pin =
            after.pin.clone().map(|PinMemory { backend, whole_tier, mates, reason, overrules, server, awaits }| Pin {
                overrules,
                server,
                awaits,
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
    // How far it was written alone is not worth a batch: that goes its own way now and then.
    let is_like = before.lineage.as_ref().zip(after.lineage.as_ref()).is_some_and(|(was, is)| was.is_like(is));
    if before.lineage != after.lineage && !is_like {
        // Names, numbers and places: there is always a JSON of them.
        let lineage = after.lineage.as_ref().map(|lineage| serde_json::to_string(lineage).unwrap_or_default());
        changes.push(Change::Lineage(pool.clone(), lineage));
    }
    for backend in different(&before.admin, &after.admin) {
        let entry = after.admin.get(backend).map(|state| AdminEntry { state: *state, since, actor: actor() });
        changes.push(Change::AdminState((pool.clone(), backend.clone()), entry));
    }
    for backend in before.stopped.symmetric_difference(&after.stopped) {
        let stopped = after.stopped.contains(backend).then(|| StoppedTunnel { since, actor: actor() });
        changes.push(Change::StoppedTunnel((pool.clone(), backend.clone()), stopped));
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
        let Pin { backend, whole_tier, mates, reason, overrules, server, awaits, .. } = pin.clone();
        let pin = PinMemory { backend, whole_tier, mates, reason, overrules, server, awaits };
        memories.entry(pool.clone()).or_default().pin = Some(pin);
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
    for (pool, backend) in state.stopped_tunnels.keys() {
        memories.entry(pool.clone()).or_default().stopped.insert(backend.clone());
    }
    for (pool, &PoolCounters { last_failover, failovers, recoveries }) in &state.counters {
        let memory = memories.entry(pool.clone()).or_default();
        (memory.last_failover, memory.failovers, memory.recoveries) = (last_failover, failovers, recoveries);
    }
    for (pool, lineage) in &state.lineages {
        match serde_json::from_str(lineage) {
            Ok(lineage) => memories.entry(pool.clone()).or_default().lineage = Some(lineage),
            Err(error) => tracing::error!(%pool, %error, "which line of history was routed to last cannot be read"),
        }
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
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::{By, Keeper, Left, Reports, differences, memories};
    use crate::failover::{Controller, Lineage, PinMemory, PoolMemory, Rejected};
    use crate::model::{
        Actor, AdminState, Fork, Lsn, MonoTime, Paused, PinnedServer, PoolName, SystemId, Timeline, WallTime,
    };
    use crate::store::{AdminEntry, Change, Pause, Refused, State, Stuck};
    use crate::sys::Clock;

    /// A pool that remembers something of every kind; its pause ends ten seconds after `now`.
    fn memory(now: MonoTime) -> PoolMemory {
        PoolMemory {
            pin: Some(PinMemory {
                backend: "b".into(),
                whole_tier: true,
                mates: vec!["b2".into()],
                reason: Some("upgrade".to_owned()),
                overrules: true,
                server: Some(PinnedServer {
                    address: "10.0.0.2:5432".parse().unwrap(),
                    system: Some(SystemId(7_456_789_012_345_678_901)),
                }),
                awaits: true,
            }),
            pause: Some(Paused { since: now, until: Some(now + Duration::from_secs(10)) }),
            stopped: BTreeSet::from(["b3".into()]),
            admin: [("a".into(), AdminState::Drain)].into(),
            last_failover: 5,
            failovers: 3,
            recoveries: 2,
            downtimes: [("a".into(), Duration::from_millis(1234))].into(),
            lineage: Some(Lineage {
                server: "b".into(),
                system: Some(SystemId(7_456_789_012_345_678_901)),
                timeline: Some(Timeline(2)),
                history: [Fork { timeline: Timeline(1), at: Lsn(0x0680_0AA8) }].into(),
                address: Some("10.0.0.2:5432".parse().unwrap()),
                at: Some(Lsn(0x0700_0000)),
                rejected: vec![Rejected { timeline: Timeline(2), left: None }],
            }),
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

    #[test]
    fn a_pause_is_no_longer_than_was_asked_for_however_the_calendar_was_set() {
        let (pool, ops) = (PoolName::from("p"), Actor::from("ops"));
        let since = WallTime::from_micros(1_000_000_000);
        let ten = Duration::from_secs(10);
        let mut state = State::default();
        state.apply(Change::Pause(pool.clone(), Some(Pause { until: Some(since + ten), since, actor: ops })));
        let left = |wall| {
            let memory = memories(wall, MonoTime::ZERO, &state)[&pool].pause.unwrap();
            memory.until.unwrap().since(MonoTime::ZERO)
        };
        assert_eq!(left(since + Duration::from_secs(3)), Duration::from_secs(7));
        assert_eq!(left(since.before(Duration::from_secs(500))), ten, "set back between the two processes");
    }

    #[test]
    fn what_the_store_had_no_room_for_is_told_again_after_the_next_turn() {
        let (store, handle) = Stuck::new();
        let (pool, now, wall, ops) =
            (PoolName::from("p"), MonoTime::ZERO, WallTime::from_micros(1_000_000_000), Actor::from("ops"));
        let (mut keeper, _kept) = Keeper::new(handle, Clock::start());
        let mut left = Left::default();
        keeper.note(&pool, Some(memory(now)), &By { now, wall, actor: &ops }, &mut left);
        let all = left.changes.len();
        keeper.write(left);
        // To a controller without that pool, it is gone; there is no room to say so.
        let controller = Controller::new(1);
        let gone = keeper.after(&controller, now, &Reports::default(), true);
        assert_eq!(gone.changes.len(), all);
        let expected = gone.changes.clone();
        keeper.write(gone);
        assert_eq!(store.take().map(|changes| changes.len()), Some(all), "only the first was taken");
        let again = keeper.after(&controller, now, &Reports::default(), false);
        assert_eq!(again.changes, expected);
        keeper.write(again);
        assert_eq!(store.take(), Some(expected));
        assert!(keeper.after(&controller, now, &Reports::default(), false).changes.is_empty(), "and not once more");
    }

    #[test]
    fn an_order_that_the_store_had_no_room_for_is_kept_later_in_the_name_of_who_gave_it() {
        let (store, handle) = Stuck::new();
        handle.append(crate::model::EventRecord::new(WallTime::from_micros(1), "in.the.way"));
        let (pool, now, wall, ops) =
            (PoolName::from("p"), MonoTime::ZERO, WallTime::from_micros(2), Actor::from("ops"));
        let (mut keeper, _kept) = Keeper::new(handle, Clock::start());
        let drained = PoolMemory { admin: [("a".into(), AdminState::Drain)].into(), ..PoolMemory::default() };
        let mut left = Left::default();
        keeper.note(&pool, Some(drained.clone()), &By { now, wall, actor: &ops }, &mut left);
        let answer = keeper.change(left);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(answer), Err(Refused::Busy));
        assert_eq!(store.take(), Some(Vec::new()));
        assert_eq!(keeper.owed.get(&pool), Some(&ops));
        let mut left = Left::default();
        keeper.note(&pool, Some(drained), &By { now, wall, actor: &ops }, &mut left);
        let entry = AdminEntry { state: AdminState::Drain, since: wall, actor: ops };
        assert_eq!(left.changes, [Change::AdminState((pool, "a".into()), Some(entry))]);
    }
}
