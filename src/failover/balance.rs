//! How the sessions of a tier are shared: smooth weighted round-robin, laid out once when the table
//! is built, so that a pick is one look into an array.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// The longest round that is laid out; heavier weights are scaled down to fit. 64 Ki slots of four
/// bytes are 256 KiB a tier at worst, and shares stay true to within 1 in 65,536.
const ROUND_MAX: u64 = 65_536;

/// One backend's next turn: at (2k + 1) / 2w of the round, for its k-th turn at weight w. Turns in
/// that order are spread as evenly as whole turns can be (the divisor method of Sainte-Laguë).
#[derive(PartialEq, Eq)]
struct Turn {
    odd: u64,
    weight: u64,
    index: u32,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        // odd / weight, compared by cross-multiplication; among equals the heavier, then the first.
        (self.odd * other.weight)
            .cmp(&(other.odd * self.weight))
            .then(other.weight.cmp(&self.weight))
            .then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order in which backends of these weights take turns: indices into `weights`, each as often in
/// a round as its weight says. Empty only if `weights` is.
pub(super) fn round(weights: &[u32]) -> Vec<u32> {
    let weights = reduced(weights);
    let total: u64 = weights.iter().sum();
    let mut turns: BinaryHeap<Reverse<Turn>> =
        (0u32..).zip(&weights).map(|(index, &weight)| Reverse(Turn { odd: 1, weight, index })).collect();
    let mut order = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for _ in 0..total {
        let Some(Reverse(turn)) = turns.pop() else { break };
        order.push(turn.index);
        turns.push(Reverse(Turn { odd: turn.odd + 2, ..turn }));
    }
    order
}

/// Divides the weights by what they have in common, and further if the round would be too long.
fn reduced(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |a, &b| gcd(a, u64::from(b))).max(1);
    let total: u64 = weights.iter().map(|&w| u64::from(w) / divisor).sum();
    let room = ROUND_MAX.max(u64::try_from(weights.len()).unwrap_or(u64::MAX));
    let scale = |w: u64| if total > room { w * room / total } else { w };
    weights.iter().map(|&w| scale(u64::from(w) / divisor).max(1)).collect()
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
