//! What a pool remembers beyond the process: what people have ordered, and what is counted over all its life. It can be read
//! out at any time, and given back once, before the first verdicts, and before the first plan if anything is to be fit without
//! one. Giving it back is no news, and nobody is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{AdminState, BackendName, MonoTime, OutReason, Paused, PinnedServer, PoolName};

use super::change::Change;
use super::controller::{Controller, Turn};
use super::line::Lineage;
use super::member::Member;
use super::pin::{Pin, pinned_server};
use super::pool::{Effects, Pool};
use super::primary::Cluster;

/// The most names that a pin of a whole tier remembers of it: any one of them that is still there is enough.
const MATES_MAX: usize = 32;
/// The most clusters that are in no plan and whose lines of history are remembered.
const ABSENT_MAX: usize = 1024;

/// What outlives the process of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolMemory {
    /// What an operator has bound it to.
    pub pin: Option<PinMemory>,
    /// Whether its new clients wait.
    pub pause: Option<Paused>,
    /// Its backends that an operator has not left ready.
    pub admin: BTreeMap<BackendName, AdminState>,
    /// Its backends whose tunnels an operator has stopped.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stopped: BTreeSet<BackendName>,
    /// The number of the last failover.
    #[serde(default)]
    pub last_failover: u64,
    /// Failovers that were completed.
    pub failovers: u64,
    /// How often it served again after it was down, or went back to a better tier.
    pub recoveries: u64,
    /// How long its backends have been unhealthy in all, without the present spell; nothing is left out.
    pub downtimes: BTreeMap<BackendName, Duration>,
    /// Of a cluster: the highest line of history that was ever routed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
}

/// A pool that is bound to one backend, or to its tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinMemory {
    /// The backend.
    pub backend: BackendName,
    /// Whether all of its tier serve with it.
    pub whole_tier: bool,
    /// If so, others of that tier, 32 at most: the pool stays bound to their tier if the backend is gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mates: Vec<BackendName>,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Whether it says who is the primary of a cluster, over all proof.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overrules: bool,
    /// If so, the server that it says it of; none if it was written down by a version that did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<PinnedServer>,
    /// Whether the failover to it is pending: it is to be promoted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaits: bool,
}

impl Controller {
    /// What outlives the process of pool `name`; none if there is no such pool.
    #[must_use]
    pub fn memory(&self, name: &PoolName) -> Option<PoolMemory> {
        // What a cluster was routed to is remembered while it is in no plan, or its pool is none of servers.
        let absent = self.absent.get(name).and_then(|cluster| cluster.lineage.clone());
        let Some(pool) = self.pools.get(name) else {
            return absent.map(|lineage| PoolMemory { lineage: Some(lineage), ..PoolMemory::default() });
        };
        let memory = pool.memory();
        Some(PoolMemory { lineage: memory.lineage.clone().or(absent), ..memory })
    }

    /// The cluster of pool `name` is in no plan any more.
    pub(super) fn rests(&mut self, name: PoolName, cluster: Cluster) {
        self.absent.insert(name, cluster.at_rest());
        while self.absent.len() > ABSENT_MAX {
            drop(self.absent.pop_first());
        }
    }

    /// Gives back what the last process remembered. Pools and backends that are not there any more are passed over,
    /// but for what their clusters were routed to.
    pub(super) fn restore(&mut self, now: MonoTime, pools: BTreeMap<PoolName, PoolMemory>, turn: &mut Turn) {
        for (name, mut memory) in pools {
            let is_absent = self.pools.get(&name).is_none_or(|pool| pool.cluster.is_none());
            if let Some(lineage) = memory.lineage.take_if(|_| is_absent) {
                let mut cluster = Cluster::new();
                cluster.recall(lineage);
                self.rests(name.clone(), cluster);
            }
            let Some(pool) = self.pools.get_mut(&name) else { continue };
            let mut effects = Effects::default();
            pool.recall(now, memory, &mut effects);
            if pool.last_resort().is_none() {
                pool.loss.reason = OutReason::Drained;
            }
            turn.touched.insert(name.clone());
            self.take(now, &name, effects, turn);
        }
    }
}

impl Pool {
    fn memory(&self) -> PoolMemory {
        let admin = self.members().iter().filter(|member| member.admin != AdminState::Ready);
        let down = self.members().iter().map(|member| (member.plan.name.clone(), member.health.past_downtime));
        PoolMemory {
            pin: self.pin.as_ref().map(|pin| PinMemory {
                backend: pin.backend.clone(),
                whole_tier: pin.whole_tier,
                mates: self.mates(pin),
                reason: pin.reason.clone(),
                overrules: pin.overrules.is_some(),
                server: pin.overrules.clone(),
                awaits: self.awaits_promotion(),
            }),
            pause: self.pause,
            admin: admin.map(|member| (member.plan.name.clone(), member.admin)).collect(),
            stopped: self.stopped_tunnels(),
            last_failover: self.failovers.last,
            failovers: self.failovers.completed,
            recoveries: self.failovers.recoveries,
            downtimes: down.filter(|(_, time)| !time.is_zero()).collect(),
            lineage: self.cluster.as_ref().and_then(|cluster| cluster.lineage.clone()),
        }
    }

    /// The backends whose tunnels an operator has stopped.
    pub(super) fn stopped_tunnels(&self) -> BTreeSet<BackendName> {
        let stopped = self.members().iter().filter(|member| member.is_cut_off());
        stopped.map(|member| member.plan.name.clone()).collect()
    }

    /// Those that `pin` lets serve besides its backend, as many as are remembered.
    fn mates(&self, pin: &Pin) -> Vec<BackendName> {
        let seated = self.members().iter().filter(|member| pin.whole_tier && self.is_seated(member));
        let names = seated.map(|member| &member.plan.name).filter(|name| **name != pin.backend);
        names.take(MATES_MAX).cloned().collect()
    }

    /// Takes `memory` as if it had never been forgotten. Only a pin that can hold no longer is told of.
    fn recall(&mut self, now: MonoTime, memory: PoolMemory, effects: &mut Effects) {
        let PoolMemory { pin, pause, admin, stopped, last_failover, failovers, recoveries, downtimes, lineage } =
            memory;
        if let (Some(cluster), Some(lineage)) = (&mut self.cluster, lineage) {
            cluster.recall(lineage);
        }
        for member in &mut self.members {
            if let Some(state) = admin.get(&member.plan.name) {
                member.admin = *state;
                member.settle(now);
            }
            let tunnel = member.tunnel.as_mut().filter(|_| stopped.contains(&member.plan.name));
            if let Some(tunnel) = tunnel.filter(|tunnel| !tunnel.has_begun()) {
                tunnel.stay_stopped();
                member.settle(now);
            }
            if let Some(time) = downtimes.get(&member.plan.name) {
                member.health.past_downtime += *time;
            }
        }
        // Where the number was not remembered yet, at least as many have been given as were completed.
        self.failovers.last += last_failover.max(failovers);
        self.failovers.completed += failovers;
        self.failovers.recoveries += recoveries;
        self.pause = pause;
        if let Some(pin) = pin {
            self.recall_pin(now, pin, effects);
        }
    }

    /// As in a reload: a tier stays pinned as long as one of it is there.
    fn recall_pin(&mut self, now: MonoTime, pin: PinMemory, effects: &mut Effects) {
        let PinMemory { backend, whole_tier, mates, reason, overrules, server, awaits } = pin;
        let stayed = self.members().iter().find(|member| mates.contains(&member.plan.name));
        let Some(member) = self.named(&backend).or(stayed) else {
            effects.changes.push(Change::PoolUnpinned { backend, removed: true });
            return;
        };
        let known = || self.led_last(member).unwrap_or_else(|| pinned_server(member));
        let overrules = overrules.then(|| server.unwrap_or_else(known));
        let (backend, priority) = (member.plan.name.clone(), member.tier);
        self.active = Some(priority);
        self.pin = Some(Pin { backend, whole_tier, at: now, reason, overrules });
        if awaits {
            self.await_promotion_again(now);
        }
    }

    /// The server that led last under the name of `member`.
    fn led_last(&self, member: &Member) -> Option<PinnedServer> {
        let lineage = self.cluster.as_ref()?.lineage.as_ref().filter(|lineage| lineage.server == member.plan.name)?;
        Some(PinnedServer { address: lineage.address.clone()?, system: lineage.system })
    }
}
