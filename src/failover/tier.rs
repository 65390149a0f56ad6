//! One tier and the pick from it, by each of the balances.
//!
//! Whatever the balance, what was tried or is full is passed over. Only if all that the balance would choose from
//! is, the tier is gone through, so that no backend with room is ever missed: the next ones in order, and then the blocks
//! in which backends note that they are full, 64 at a look. For a moment such a note may stand where there is room; who would
//! wait for room because of it, and be called by nobody, has each backend looked at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{BackendName, Balance, Block};

use super::balance::round;
use super::slots::{slots, word};
use super::table::{Arrival, Route};

/// Up to so many backends, `least-connections` looks at all of them; it takes the least of [`DRAWS`] of a larger tier.
pub const EXACT_MAX: usize = 32;

/// Draws of `least-connections` from a tier that is too large to look at: the least of them is among the least loaded
/// eighth, and nobody is ahead of the rest by more than a session or two.
pub const DRAWS: usize = 8;

/// Draws of `random` and `latency`. The second halves the distance of the fullest from the rest again and again; a
/// third adds next to nothing.
const TWO: usize = 2;

/// What `source-hash` draws for a client whose backend is passed over.
const SLOTS_OF_A_CLIENT: u64 = 8;

/// Added to each latency before `latency` compares them: differences below it are noise, and weigh little.
pub const LATENCY_GRAIN: Duration = Duration::from_micros(250);

/// Backends of one priority.
#[derive(Debug)]
pub struct Tier {
    balance: Balance,
    routes: Vec<Route>,
    /// Indices of routes: of `source-hash` the owner of each slot, of the others a round in which each has as many turns as
    /// its weight says. Empty until it is laid out.
    order: Arc<[u32]>,
    /// Empty where nobody has a limit.
    blocks: Vec<Members>,
}

/// Backends of a tier that share a block.
#[derive(Debug)]
struct Members {
    block: Arc<Block>,
    /// A bit for each of them.
    present: u64,
    /// Their indices, by bit.
    routes: [u32; u64::BITS as usize],
}

/// Nobody was chosen, and whether somebody who was not tried is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) full: bool,
}

/// What a session costs at a backend, as a fraction.
#[derive(Debug, Clone, Copy)]
struct Cost(u128, u32);

impl Cost {
    fn is_below(self, other: Self) -> bool {
        self.0 * u128::from(other.1) < other.0 * u128::from(self.1)
    }

    /// One session more, for each part of the weight.
    fn of_load(route: &Route) -> Self {
        Self(u128::from(route.load.sessions()) + 1, route.weight)
    }

    /// The same, times the time that an answer takes.
    fn of_latency(route: &Route) -> Self {
        let Self(load, weight) = Self::of_load(route);
        Self(load * (route.load.latency() + LATENCY_GRAIN).as_nanos(), weight)
    }
}

impl Tier {
    /// A tier of these backends. Nobody is picked from it before it is laid out.
    pub(super) fn new(balance: Balance, routes: Vec<Route>) -> Self {
        Self { balance, routes, order: Arc::default(), blocks: Vec::new() }
    }

    /// How its backends take turns.
    #[must_use]
    pub const fn balance(&self) -> Balance {
        self.balance
    }

    /// Its backends.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// What it has laid out, and shares with the tiers of other tables that are laid out alike.
    #[cfg(test)]
    pub(super) const fn order(&self) -> &Arc<[u32]> {
        &self.order
    }

    /// Lays out what picks look into, or takes it from the one `before` where it is the same.
    pub(super) fn lay_out(&mut self, before: &[Self]) {
        self.lay_out_blocks();
        self.order = match before.iter().find(|tier| tier.is_laid_out_as(self)) {
            Some(tier) => Arc::clone(&tier.order),
            None if self.balance == Balance::SourceHash => slots(&self.routes).into(),
            None => round(&self.routes.iter().map(|route| route.weight).collect::<Vec<_>>()).into(),
        };
    }

    /// Brings those together that share a block, and has their limits be in force.
    fn lay_out_blocks(&mut self) {
        if self.routes.iter().all(|route| route.max_connections == 0) {
            return;
        }
        let mut places: BTreeMap<*const Block, usize> = BTreeMap::new();
        for (index, route) in (0u32..).zip(&self.routes) {
            route.load.set_limit(route.max_connections);
            let (block, bit) = route.load.bit();
            let place = *places.entry(Arc::as_ptr(block)).or_insert(self.blocks.len());
            if place == self.blocks.len() {
                self.blocks.push(Members { block: Arc::clone(block), present: 0, routes: [0; u64::BITS as usize] });
            }
            if let Some(members) = self.blocks.get_mut(place)
                && let Some(route) = members.routes.get_mut(bit as usize)
            {
                *route = index;
                members.present |= 1 << bit;
            }
        }
    }

    fn is_laid_out_as(&self, other: &Self) -> bool {
        fn what(route: &Route) -> (&BackendName, u32) {
            (&route.name, route.weight)
        }
        self.balance == other.balance && self.routes.iter().map(what).eq(other.routes.iter().map(what))
    }

    /// The backend for `arrival`, if there is one that it has not tried and that has room.
    pub(super) fn pick(&self, arrival: &Arrival<'_>) -> Result<&Route, Passed> {
        let all = self.routes.len();
        let turn = self.at(arrival.turn);
        let drawn = (0u64..).map(|number| self.at(word(arrival.chance, number)));
        let chosen = match self.balance {
            Balance::RoundRobin => None,
            Balance::LeastConnections if all <= EXACT_MAX => {
                self.best(arrival, (turn..turn + all).map(|at| at % all), Cost::of_load)
            }
            Balance::LeastConnections => self.best(arrival, drawn.take(DRAWS), Cost::of_load),
            Balance::Random => self.best(arrival, drawn.take(TWO), Cost::of_load),
            Balance::Latency => self.best(arrival, drawn.take(TWO), Cost::of_latency),
            Balance::SourceHash => {
                let own = (0..SLOTS_OF_A_CLIENT).map(|number| self.at(word(arrival.client, number)));
                own.filter_map(|at| self.routes.get(at)).find(|route| is_open(route, arrival))
            }
        };
        match chosen {
            Some(route) => Ok(route),
            None => {
                self.next(if self.balance == Balance::SourceHash { self.at(arrival.client) } else { turn }, arrival)
            }
        }
    }

    /// Whose place `word` is in the order.
    fn at(&self, word: u64) -> usize {
        let place = word.checked_rem(self.order.len() as u64).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.order.get(place)).map_or(0, |&index| index as usize)
    }

    /// The one of these that costs least, the first among equals.
    fn best(
        &self,
        arrival: &Arrival<'_>,
        candidates: impl Iterator<Item = usize>,
        cost: impl Fn(&Route) -> Cost,
    ) -> Option<&Route> {
        let open = candidates.filter_map(|at| self.routes.get(at)).filter(|route| is_open(route, arrival));
        let costs = open.map(|route| (cost(route), route));
        costs.reduce(|best, other| if other.0.is_below(best.0) { other } else { best }).map(|(_, route)| route)
    }

    /// The first one that is open from `first` on, or any that is if the next ones are not.
    fn next(&self, first: usize, arrival: &Arrival<'_>) -> Result<&Route, Passed> {
        let (before, behind) = self.routes.split_at(first.min(self.routes.len()));
        let mut passed = Passed { full: false };
        for (looked, route) in behind.iter().chain(before).enumerate() {
            if looked == EXACT_MAX && !self.blocks.is_empty() {
                return self.any(arrival);
            }
            if arrival.tried.contains(&route.backend) {
                continue;
            }
            if !route.is_full() {
                return Ok(route);
            }
            passed.full = true;
        }
        Err(passed)
    }

    /// Any that is open. What a block still calls open and is not is noted there by this look, so that the next one is short.
    fn any(&self, arrival: &Arrival<'_>) -> Result<&Route, Passed> {
        let mut passed = Passed { full: false };
        let start = usize::try_from(arrival.turn).unwrap_or(0).checked_rem(self.blocks.len()).unwrap_or(0);
        let (before, behind) = self.blocks.split_at(start);
        for Members { block, present, routes } in behind.iter().chain(before) {
            let full = block.full();
            passed.full |= full & present != 0;
            let mut open = !full & present;
            while open != 0 {
                let index = routes.get(open.trailing_zeros() as usize).map_or(0, |&index| index as usize);
                open &= open - 1;
                let Some(route) = self.routes.get(index).filter(|route| !arrival.tried.contains(&route.backend)) else {
                    continue;
                };
                if !route.is_full() {
                    return Ok(route);
                }
                passed.full = true;
            }
        }
        if arrival.will_wait
            && let Some(route) = self.routes.iter().find(|route| is_open(route, arrival))
        {
            route.load.has_room();
            return Ok(route);
        }
        Err(passed)
    }
}

fn is_open(route: &Route, arrival: &Arrival<'_>) -> bool {
    !arrival.tried.contains(&route.backend) && !route.is_full()
}

/// The order follows from the rest, so comparing that is enough.
impl PartialEq for Tier {
    fn eq(&self, other: &Self) -> bool {
        (self.balance, &self.routes) == (other.balance, &other.routes)
    }
}

impl Eq for Tier {}
