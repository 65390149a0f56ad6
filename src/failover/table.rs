//! The route table: one immutable value that says where new sessions go, and the pick from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{
    Address, Approach, BackendId, BackendName, DialPlan, Epoch, Generation, HoldPlan, Load, PoolKind, PoolName, Target,
};

use super::tier::{Passed, Tier};

/// Where new sessions of every pool go.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// Its number; each table published has one more than the last.
    pub generation: Generation,
    /// By pool.
    pub pools: BTreeMap<PoolName, Arc<PoolRoutes>>,
}

/// Where new sessions of one pool go.
#[derive(Debug, PartialEq, Eq)]
pub struct PoolRoutes {
    /// The pool.
    pub name: PoolName,
    /// How to dial.
    pub dial: DialPlan,
    /// What to do without a route.
    pub hold: HoldPlan,
    /// Whether a backend that could still be fit has no verdict yet.
    pub pending: bool,
    /// Whether an operator has new clients wait; there are no tiers then.
    pub paused: bool,
    /// The tiers in the order in which they are tried; the first is the active one. Of a postgres pool, those with the primary.
    pub tiers: Vec<Tier>,
    /// Of a postgres pool: where sessions go that want something else than the primary.
    pub others: BTreeMap<Target, TargetRoutes>,
    /// What it is made of.
    pub kind: PoolKind,
    /// Of a postgres pool: all its servers, fit or not. A request to cancel may be for any of them.
    pub servers: Vec<PoolServer>,
    /// Of a postgres pool: standbys whose sessions go on though they get no new ones, since they are drained or too far
    /// behind. What may be a request to cancel such a session, encrypted, is all that is sent there.
    pub lingering: Vec<Route>,
}

/// A server of a postgres pool, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolServer {
    /// Its name.
    pub name: BackendName,
    /// Where it listens.
    pub address: Address,
    /// How it is approached.
    pub approach: Approach,
}

/// Where new sessions of a postgres pool go that want something else than the primary.
#[derive(Debug, PartialEq, Eq)]
pub struct TargetRoutes {
    /// Whether a server that could still be fit has no verdict yet.
    pub pending: bool,
    /// The tiers in the order in which they are tried.
    pub tiers: Vec<Tier>,
}

/// One backend that a session may be sent to.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its number.
    pub backend: BackendId,
    /// Its name.
    pub name: BackendName,
    /// Where it listens.
    pub address: Address,
    /// Its share within the tier.
    pub weight: u32,
    /// How it is approached.
    pub approach: Approach,
    /// Sessions that it may have at once; 0 is no limit.
    pub max_connections: u32,
    /// The epoch under which sessions are admitted to it.
    pub epoch: Epoch,
    /// What it carries now.
    pub load: Arc<Load>,
}

/// A new session, as far as a pick depends on it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arrival<'a> {
    /// What it wants to reach; nothing else than that is picked in a postgres pool.
    pub target: Option<Target>,
    /// How many have come before it.
    pub turn: u64,
    /// Whether it waits if there is no room, until a place is given back: then none that is free now may be overlooked.
    pub will_wait: bool,
    /// Who the client is: [`client_key`](super::client_key).
    pub client: u64,
    /// A word of chance, for the balances that draw.
    pub chance: u64,
    /// The backends that it has tried already.
    pub tried: &'a [BackendId],
}

/// Why there is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// An operator has new clients wait.
    Paused,
    /// First verdicts are still out.
    Pending,
    /// Nothing is fit.
    Down,
    /// Everything fit has been tried.
    Exhausted,
    /// Something fit has not been tried, and is full.
    Full,
}

/// Two routes are the same if they lead to the same place in the same way; what is carried there meanwhile is no part of it.
impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        let Self { backend, name, address, weight, approach, max_connections, epoch, load: _ } = self;
        (backend, name, address) == (&other.backend, &other.name, &other.address)
            && (weight, approach) == (&other.weight, &other.approach)
            && (max_connections, epoch) == (&other.max_connections, &other.epoch)
    }
}

impl Eq for Route {}

impl Route {
    /// Whether it has as many sessions as it may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.load.is_full(self.max_connections)
    }
}

impl PoolRoutes {
    /// Lays out what picks look into, and takes over from the routes `before` what is the same there.
    pub(super) fn lay_out(&mut self, before: Option<&Self>) {
        let tiers = |target| before.map_or(&[][..], |before: &Self| before.wanted(target).1);
        self.tiers.iter_mut().for_each(|tier| tier.lay_out(tiers(None)));
        for (target, routes) in &mut self.others {
            routes.tiers.iter_mut().for_each(|tier| tier.lay_out(tiers(Some(*target))));
        }
    }

    /// Of a cluster: who gets the sessions that write, and under which epoch.
    pub(super) fn write_route(&self) -> Option<(BackendId, Epoch)> {
        let route = self.tiers.first().and_then(|tier| tier.routes().first());
        route.map(|route| (route.backend, route.epoch))
    }

    /// Every route, by whichever target; one that several lead to comes as often.
    pub(super) fn all(&self) -> impl Iterator<Item = &Route> {
        let others = self.others.values().flat_map(|of| &of.tiers);
        self.tiers.iter().chain(others).flat_map(|tier| tier.routes())
    }

    /// Whether `backend` is the one that sessions which write are sent to.
    #[must_use]
    pub fn is_write_route(&self, backend: BackendId) -> bool {
        self.write_route().is_some_and(|(id, _)| id == backend)
    }

    /// Whether a verdict is out on what `target` wants, and the tiers for it.
    #[must_use]
    pub fn wanted(&self, target: Option<Target>) -> (bool, &[Tier]) {
        let other = target.and_then(|target| self.others.get(&target));
        other.map_or((self.pending, &self.tiers), |other| (other.pending, &other.tiers))
    }

    /// The backend for a new session, passing over those that it has tried already and those that are full.
    /// Takes no lock and allocates nothing.
    ///
    /// # Errors
    ///
    /// [`NoRoute`] says why there is none.
    pub fn pick(&self, arrival: &Arrival<'_>) -> Result<&Route, NoRoute> {
        let mut full = false;
        let (pending, tiers) = self.wanted(arrival.target);
        for tier in tiers {
            match tier.pick(arrival) {
                Ok(route) => return Ok(route),
                Err(Passed { full: here }) => full |= here,
            }
        }
        Err(match (tiers.is_empty(), pending) {
            (false, _) if full => NoRoute::Full,
            (false, _) => NoRoute::Exhausted,
            (true, _) if self.paused => NoRoute::Paused,
            (true, true) => NoRoute::Pending,
            (true, false) => NoRoute::Down,
        })
    }
}
