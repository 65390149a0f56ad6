//! What was decided, in the form in which it is compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::failover::change::Transition;
use crate::failover::event::{Command, Sessions};
use crate::failover::line::Lineage;
use crate::failover::table::{PoolRoutes, RouteTable};
use crate::model::{
    Actor, BackendId, BackendName, Epoch, Generation, OutReason, PoolName, ProbeId, RunId, Target, TargetId, WatchId,
};

/// A command, without what follows from the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Put a question to a target.
    Ask(TargetId, ProbeId),
    /// Ask it no more.
    Stop(TargetId),
    /// New sessions go by another table.
    Publish {
        /// Its number.
        generation: Generation,
        /// The pools in which it differs from the last one; nothing for those that are gone.
        pools: BTreeMap<PoolName, Option<Share>>,
    },
    /// Close the sessions of a backend below an epoch.
    Fence {
        /// The backend.
        backend: BackendId,
        /// The first epoch that may go on.
        epoch: Epoch,
        /// Why.
        reason: OutReason,
        /// Which of them.
        #[serde(default, skip_serializing_if = "is_all")]
        which: Sessions,
    },
    /// Watch a server, under this number.
    Watch(BackendId, WatchId),
    /// Try another login there.
    Knock(BackendId),
    /// The server is watched no more.
    Unwatch(BackendId),
    /// Start the tunnel that leads to a backend, as this run.
    Open(BackendId, RunId),
    /// Stop it.
    Close(BackendId),
    /// Have a pool's line of history written down.
    Keep {
        /// Where.
        pool: PoolName,
        /// Which.
        lineage: Lineage,
    },
    /// Tell people.
    Report {
        /// Where.
        pool: Option<PoolName>,
        /// Who had it done.
        actor: Actor,
        /// What, as [`Change::kind`](crate::failover::Change::kind) has it.
        kind: String,
        /// What, in words.
        text: String,
    },
}

/// Where new sessions of a pool go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Whether verdicts that matter are out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// Whether new clients wait by an operator's order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Each tier's backends with their epochs and weights; the first tier is the active one.
    pub tiers: Vec<Vec<(BackendName, Epoch, u32)>>,
    /// Of a cluster: the same for sessions that want something else than the primary.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<Target, TargetShare>,
}

/// Where new sessions of one target go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetShare {
    /// Whether verdicts that matter are out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// As of the pool.
    pub tiers: Vec<Vec<(BackendName, Epoch, u32)>>,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_all(which: &Sessions) -> bool {
    *which == Sessions::All
}

impl Share {
    fn of(routes: &PoolRoutes) -> Self {
        let tier = |routes: &[crate::failover::Route]| {
            routes.iter().map(|route| (route.name.clone(), route.epoch, route.weight)).collect()
        };
        let all = |tiers: &[crate::failover::Tier]| tiers.iter().map(|of| tier(of.routes())).collect();
        let other = |(target, of): (&Target, &crate::failover::TargetRoutes)| {
            (*target, TargetShare { pending: of.pending, tiers: all(&of.tiers) })
        };
        let others = routes.others.iter().map(other).collect();
        let &PoolRoutes { pending, paused, .. } = routes;
        Self { pending, paused, tiers: all(&routes.tiers), others }
    }
}

/// Brings commands into their form: of each table, what differs from the last.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    table: Arc<RouteTable>,
}

impl Decisions {
    /// What these commands, the next in order, come to.
    pub(super) fn of(&mut self, commands: &[Command]) -> Vec<Decision> {
        commands.iter().map(|command| self.decision(command)).collect()
    }

    fn decision(&mut self, command: &Command) -> Decision {
        match command {
            Command::StartProbe { target, probe, spec: _ } => Decision::Ask(*target, *probe),
            Command::StopProbe { target } => Decision::Stop(*target),
            Command::StartWatch { backend, watch, spec: _ } => Decision::Watch(*backend, *watch),
            Command::Knock { backend } => Decision::Knock(*backend),
            Command::StopWatch { backend } => Decision::Unwatch(*backend),
            Command::StartTunnel { backend, run, plan: _ } => Decision::Open(*backend, *run),
            Command::StopTunnel { backend } => Decision::Close(*backend),
            Command::PublishTable(table) => self.publish(table),
            Command::KeepLineage { pool, lineage } => Decision::Keep { pool: pool.clone(), lineage: lineage.clone() },
            &Command::FenceSessions { backend, epoch, reason, which } => {
                Decision::Fence { backend, epoch, reason, which }
            }
            Command::Report(Transition { pool, actor, change }) => Decision::Report {
                pool: pool.clone(),
                actor: actor.clone(),
                kind: change.kind().to_owned(),
                text: change.to_string(),
            },
        }
    }

    fn publish(&mut self, table: &Arc<RouteTable>) -> Decision {
        let before = std::mem::replace(&mut self.table, Arc::clone(table));
        let is_same = |name: &PoolName, routes: &Arc<PoolRoutes>| {
            before.pools.get(name).is_some_and(|before| Arc::ptr_eq(before, routes))
        };
        let changed = table.pools.iter().filter(|(name, routes)| !is_same(name, routes));
        let gone = before.pools.keys().filter(|name| !table.pools.contains_key(*name));
        let pools = changed.map(|(name, routes)| (name.clone(), Some(Share::of(routes))));
        Decision::Publish {
            generation: table.generation,
            pools: pools.chain(gone.map(|name| (name.clone(), None))).collect(),
        }
    }
}
