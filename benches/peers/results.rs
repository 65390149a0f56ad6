//! What was measured, by figure, peer and round; medians, and ratios within a round.

use std::collections::BTreeMap;

use crate::cell::Figure;
use crate::peer::Peer;

/// All values of one run.
#[derive(Debug, Default)]
pub(crate) struct Results {
    values: BTreeMap<(Figure, Peer, usize), f64>,
    errors: BTreeMap<Peer, u64>,
    /// Of the time a proxy wanted to run, the share it had to wait for its CPU, by figure.
    waits: Vec<f64>,
    /// What went wrong, for people.
    pub(crate) notes: Vec<String>,
}

impl Results {
    /// Values that are no number (nothing was moved) are left out.
    pub(crate) fn add(&mut self, figure: Figure, peer: Peer, round: usize, value: f64) {
        if value.is_finite() {
            self.values.insert((figure, peer, round), value);
        }
    }

    pub(crate) fn add_errors(&mut self, peer: Peer, errors: u64) {
        *self.errors.entry(peer).or_default() += errors;
    }

    pub(crate) fn add_wait(&mut self, share: f64) {
        if share.is_finite() {
            self.waits.push(share);
        }
    }

    pub(crate) fn errors(&self, peer: Peer) -> u64 {
        self.errors.get(&peer).copied().unwrap_or(0)
    }

    /// Whether anybody has the figure.
    pub(crate) fn has(&self, figure: Figure) -> bool {
        self.values.keys().any(|(of, _, _)| *of == figure)
    }

    pub(crate) fn median(&self, figure: Figure, peer: Peer) -> Option<f64> {
        median(self.of(figure, peer).map(|(_, value)| value).collect())
    }

    /// The median of the rounds' ratios, and the least and the greatest of them: in one round both stood under
    /// the same load of others.
    pub(crate) fn ratio(&self, figure: Figure, peer: Peer, base: Peer) -> Option<Ratio> {
        let ratios: Vec<f64> = self
            .of(figure, peer)
            .filter_map(|(round, value)| Some(value / self.values.get(&(figure, base, round))?))
            .filter(|ratio| ratio.is_finite())
            .collect();
        let least = ratios.iter().copied().reduce(f64::min)?;
        let greatest = ratios.iter().copied().reduce(f64::max)?;
        Some(Ratio { median: median(ratios)?, least, greatest })
    }

    /// How much others were in the way: the median and the worst share.
    pub(crate) fn waits(&self) -> Option<(f64, f64)> {
        let worst = self.waits.iter().copied().reduce(f64::max)?;
        Some((median(self.waits.clone())?, worst))
    }

    fn of(&self, figure: Figure, peer: Peer) -> impl Iterator<Item = (usize, f64)> {
        let range = (figure, peer, 0)..=(figure, peer, usize::MAX);
        self.values.range(range).map(|((_, _, round), value)| (*round, *value))
    }
}

/// How one peer compares with another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}
