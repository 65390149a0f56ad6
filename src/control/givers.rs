//! Who gave the orders that hold, and when: pins and pauses, which outlive the process that was given them.

use std::collections::BTreeMap;

use crate::failover::{PinMemory, PoolMemory};
use crate::model::{Explanation, OrderedBy, Paused, PoolName, PoolStatus, Rule};
use crate::store::{Change, State};

/// What holds of one pool, and by whom.
#[derive(Debug, Default)]
struct Held {
    pin: Option<(PinMemory, OrderedBy)>,
    pause: Option<(Paused, OrderedBy)>,
}

/// By whom what holds was ordered.
#[derive(Debug, Default)]
pub(super) struct Givers {
    pools: BTreeMap<PoolName, Held>,
}

impl Givers {
    /// As `state` says of what the last process left in `memories`.
    pub(super) fn recall(state: &State, memories: &BTreeMap<PoolName, PoolMemory>) -> Self {
        let mut givers = Self::default();
        for (name, memory) in memories {
            let kept = |(actor, at): (&_, &_)| OrderedBy { actor: Clone::clone(actor), at: *at };
            let pinned = state.pins.get(name).map(|pin| kept((&pin.actor, &pin.since)));
            let paused = state.pauses.get(name).map(|pause| kept((&pause.actor, &pause.since)));
            let held = Held { pin: memory.pin.clone().zip(pinned), pause: memory.pause.zip(paused) };
            givers.put(name, held);
        }
        givers
    }

    fn put(&mut self, pool: &PoolName, held: Held) {
        if held.pin.is_none() && held.pause.is_none() {
            self.pools.remove(pool);
        } else {
            self.pools.insert(pool.clone(), held);
        }
    }

    /// After a turn that was `by` whom, `pool` remembers `memory`. What was ordered before is still theirs who ordered it: a plan that
    /// `replaced` another orders nothing, whatever becomes of the pin.
    pub(super) fn note(&mut self, pool: &PoolName, memory: Option<&PoolMemory>, by: &OrderedBy, replaced: bool) {
        let held = self.pools.remove(pool).unwrap_or_default();
        let pin = memory.and_then(|memory| memory.pin.clone()).map(|pin| {
            let earlier = held.pin.filter(|(earlier, _)| replaced || is_same(earlier, &pin));
            (pin, earlier.map_or_else(|| by.clone(), |(_, by)| by))
        });
        let pause = memory.and_then(|memory| memory.pause).map(|pause| {
            let earlier = held.pause.filter(|(earlier, _)| replaced || *earlier == pause);
            (pause, earlier.map_or_else(|| by.clone(), |(_, by)| by))
        });
        self.put(pool, Held { pin, pause });
    }

    fn of(&self, pool: &PoolName) -> (Option<&OrderedBy>, Option<&OrderedBy>) {
        let held = self.pools.get(pool);
        let pin = held.and_then(|held| held.pin.as_ref()).map(|(_, by)| by);
        (pin, held.and_then(|held| held.pause.as_ref()).map(|(_, by)| by))
    }

    /// Has `change`, if it keeps an order, keep whose it is.
    pub(super) fn sign(&self, change: &mut Change) {
        match change {
            Change::Pin(pool, Some(pin)) => {
                if let Some(by) = self.of(pool).0 {
                    (pin.actor, pin.since) = (by.actor.clone(), by.at);
                }
            }
            Change::Pause(pool, Some(pause)) => {
                if let Some(by) = self.of(pool).1 {
                    (pause.actor, pause.since) = (by.actor.clone(), by.at);
                }
            }
            Change::Registration(..)
            | Change::Patch(..)
            | Change::Pin(_, None)
            | Change::Pause(_, None)
            | Change::AdminState(..)
            | Change::StoppedTunnel(..)
            | Change::Counters(..)
            | Change::Downtime(..)
            | Change::Lineage(..)
            | Change::Cursor(..) => {}
        }
    }

    /// `status`, and by whom.
    pub(super) fn tell(&self, status: PoolStatus) -> PoolStatus {
        let (pin, pause) = self.of(&status.name);
        let (pinned_by, paused_by) = (pin.cloned(), pause.cloned());
        PoolStatus { pinned_by, paused_by, ..status }
    }

    /// `explanation`, and by whom what binds the pool.
    pub(super) fn explain(&self, mut explanation: Explanation) -> Explanation {
        let (pin, pause) = self.of(&explanation.pool);
        let prospect = explanation.if_active_failed.iter_mut().flat_map(|prospect| &mut prospect.rules);
        for applied in explanation.rules.iter_mut().chain(prospect) {
            if applied.rule == Rule::Pinned {
                applied.by = pin.cloned();
            } else if applied.rule == Rule::Paused {
                applied.by = pause.cloned();
            }
        }
        explanation
    }
}

/// Whether `later` is of the order that `earlier` is of: others of the tier come and go with the plan, its failover comes to its
/// end, and another server that has the name is not what was decided for.
fn is_same(earlier: &PinMemory, later: &PinMemory) -> bool {
    let overrules = |pin: &PinMemory| pin.overrules && later.overrules;
    let order = |pin: &PinMemory| PinMemory {
        mates: Vec::new(),
        overrules: overrules(pin),
        server: pin.server.clone().filter(|_| overrules(pin)),
        awaits: false,
        ..pin.clone()
    };
    order(earlier) == order(later)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::Givers;
    use crate::failover::{PinMemory, PoolMemory};
    use crate::model::{BackendName, MonoTime, OrderedBy, Paused, PoolName, WallTime};
    use crate::store::{Change, Pause, Pin, State};

    fn by(actor: &str, second: i64) -> OrderedBy {
        OrderedBy { actor: actor.into(), at: WallTime::from_micros(second * 1_000_000) }
    }

    fn pin(backend: &str, mates: &[&str]) -> PinMemory {
        PinMemory {
            backend: backend.into(),
            whole_tier: true,
            mates: mates.iter().copied().map(BackendName::from).collect(),
            reason: None,
            overrules: false,
            server: None,
            awaits: false,
        }
    }

    fn pause(seconds: u64) -> Paused {
        Paused { since: MonoTime::ZERO, until: Some(MonoTime::ZERO + Duration::from_secs(seconds)) }
    }

    #[test]
    fn an_order_is_of_who_gave_it_until_there_is_another_or_none() {
        let (pool, mut givers) = (PoolName::from("p"), Givers::default());
        let memory = |pin: Option<PinMemory>, pause| PoolMemory { pin, pause, ..PoolMemory::default() };
        let (ann, bob, us) = (by("ann", 1), by("bob", 2), by("changeover", 3));
        for (what, (pin, pause), who, replaced, (pinned_by, paused_by)) in [
            ("the first", (Some(pin("b", &["b2"])), None), &ann, false, (Some(&ann), None)),
            ("a mate is gone", (Some(pin("b", &[])), None), &us, false, (Some(&ann), None)),
            ("its backend is gone", (Some(pin("b2", &[])), None), &us, true, (Some(&ann), None)),
            ("paused as well", (Some(pin("b2", &[])), Some(pause(1))), &bob, false, (Some(&ann), Some(&bob))),
            ("paused for longer", (Some(pin("b2", &[])), Some(pause(2))), &ann, false, (Some(&ann), Some(&ann))),
            ("pinned elsewhere", (Some(pin("c", &[])), Some(pause(2))), &bob, false, (Some(&bob), Some(&ann))),
            ("released", (None, Some(pause(2))), &ann, false, (None, Some(&ann))),
            ("all is over", (None, None), &us, false, (None, None)),
        ] {
            givers.note(&pool, Some(&memory(pin, pause)), who, replaced);
            assert_eq!(givers.of(&pool), (pinned_by, paused_by), "{what}");
        }
        givers.note(&pool, Some(&memory(Some(pin("b", &[])), None)), &ann, false);
        givers.note(&pool, None, &us, true);
        assert!(givers.pools.is_empty(), "its pool is gone");
    }

    #[test]
    fn what_the_last_process_kept_is_still_theirs_who_ordered_it() {
        let (pool, ann, bob, us) = (PoolName::from("p"), by("ann", 1), by("bob", 2), by("changeover", 3));
        let mut state = State::default();
        let kept = |by: &OrderedBy| Pin {
            backend: "b".into(),
            whole_tier: true,
            mates: vec!["b2".into()],
            since: by.at,
            reason: None,
            actor: by.actor.clone(),
            overrules: false,
            server: None,
            awaits: false,
        };
        let held = |by: &OrderedBy| Pause { until: None, since: by.at, actor: by.actor.clone() };
        state.pins.insert(pool.clone(), kept(&ann));
        state.pauses.insert(pool.clone(), held(&bob));
        let paused = Some(Paused { since: MonoTime::ZERO, until: None });
        let memory = PoolMemory { pin: Some(pin("b", &["b2"])), pause: paused, ..PoolMemory::default() };
        let mut givers = Givers::recall(&state, &[(pool.clone(), memory.clone())].into());
        givers.note(&pool, Some(&memory), &us, true);
        // What is written anew since one of its tier is gone is signed by the same.
        let mut changes = [Change::Pin(pool.clone(), Some(kept(&us))), Change::Pause(pool.clone(), Some(held(&us)))];
        changes.iter_mut().for_each(|change| givers.sign(change));
        assert_eq!(changes, [Change::Pin(pool.clone(), Some(kept(&ann))), Change::Pause(pool, Some(held(&bob)))]);
    }
}
