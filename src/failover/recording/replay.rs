//! A recorded life once more.

use std::collections::{BTreeMap, BTreeSet};

use super::Decision;
use super::decision::Decisions;
use crate::failover::controller::Controller;
use crate::failover::event::Event;
use crate::model::{BackendId, BackendName, MonoTime, PoolName, TargetId};

/// A controller that is told what another one was told.
#[derive(Debug)]
pub struct Replay {
    controller: Controller,
    decisions: Decisions,
    names: BTreeMap<BackendId, (PoolName, BackendName)>,
    pools: BTreeSet<PoolName>,
}

impl Replay {
    /// One with the seed of the recording.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            controller: Controller::new(seed),
            decisions: Decisions::default(),
            names: BTreeMap::new(),
            pools: BTreeSet::new(),
        }
    }

    /// What is decided upon the next event.
    pub fn turn(&mut self, at: MonoTime, event: Event) -> Vec<Decision> {
        let replaced = matches!(event, Event::PlanReplaced { .. });
        if let Event::PlanReplaced { plan, .. } = &event {
            self.pools.extend(plan.pools.keys().cloned());
        }
        let mut commands = Vec::new();
        self.controller.handle(at, event, &mut commands);
        if replaced {
            // Those that went keep their names: their sessions may be fenced later.
            let backends = self.controller.backends();
            self.names.extend(backends.map(|(id, pool, name, _)| (id, (pool.clone(), name.clone()))));
        }
        self.decisions.of(&commands)
    }

    /// The pool and the name of a backend that is there, or was.
    #[must_use]
    pub fn name(&self, id: BackendId) -> Option<(&PoolName, &BackendName)> {
        self.names.get(&id).map(|(pool, name)| (pool, name))
    }

    /// The pools that are there, or were.
    #[must_use]
    pub const fn pools(&self) -> &BTreeSet<PoolName> {
        &self.pools
    }

    /// The backends that the answers of `target` are for.
    #[must_use]
    pub fn subscribers(&self, target: TargetId) -> &[BackendId] {
        self.controller.subscribers(target)
    }
}
