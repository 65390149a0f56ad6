//! The route table: one immutable value that says where new sessions go, and the pick from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Address, Approach, BackendId, BackendName, DialPlan, Epoch, Generation, HoldPlan, PoolName};

use super::balance;

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
    /// The tiers in the order in which they are tried; the first is the active one.
    pub tiers: Vec<Tier>,
}

/// Backends of one priority.
#[derive(Debug)]
pub struct Tier {
    routes: Vec<Route>,
    round: Vec<u32>,
}

/// One backend that a session may be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The epoch under which sessions are admitted to it.
    pub epoch: Epoch,
}

/// Why there is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// First verdicts are still out.
    Pending,
    /// Nothing is fit.
    Down,
    /// Everything fit has been tried.
    Exhausted,
}

impl Tier {
    /// A tier of these backends, with its round laid out.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        let weights: Vec<u32> = routes.iter().map(|route| route.weight).collect();
        Self { round: balance::round(&weights), routes }
    }

    /// Its backends.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The backend whose turn it is or, if it has been tried, the next one that has not.
    fn pick(&self, turn: u64, tried: &[BackendId]) -> Option<&Route> {
        let slots = u64::try_from(self.round.len()).ok().filter(|&slots| slots > 0)?;
        let slot = usize::try_from(turn % slots).ok()?;
        let first = usize::try_from(*self.round.get(slot)?).ok()?;
        let from_first = self.routes.iter().cycle().skip(first).take(self.routes.len());
        from_first.into_iter().find(|route| !tried.contains(&route.backend))
    }
}

/// The round follows from the routes, so comparing those is enough.
impl PartialEq for Tier {
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes
    }
}

impl Eq for Tier {}

impl PoolRoutes {
    /// The backend for the `turn`-th new session, passing over those that it has tried already.
    /// Takes no lock and allocates nothing.
    ///
    /// # Errors
    ///
    /// [`NoRoute`] says why there is none.
    pub fn pick(&self, turn: u64, tried: &[BackendId]) -> Result<&Route, NoRoute> {
        match self.tiers.iter().find_map(|tier| tier.pick(turn, tried)) {
            Some(route) => Ok(route),
            None if !self.tiers.is_empty() => Err(NoRoute::Exhausted),
            None if self.pending => Err(NoRoute::Pending),
            None => Err(NoRoute::Down),
        }
    }
}
