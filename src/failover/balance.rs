//! How the sessions of a tier are shared: smooth weighted round-robin, laid out once when the table
//! is built, so that a pick is one look into an array.

/// The longest round that is laid out; heavier weights are scaled down to fit. 64 Ki slots of four
/// bytes are 256 KiB a tier at worst, and shares stay true to within 1 in 65,536.
const ROUND_MAX: u64 = 65_536;

/// Turns are compared as whole numbers: their place in the round times 2^40. Two places at weights of at most 2^20
/// differ by 2^-40 or not at all, so that rounding down keeps their order.
const PLACE_BITS: u32 = 40;

/// The bits that a weight may have.
const WEIGHT_MASK: u64 = 0xffff_ffff;

/// The order in which backends of these weights take turns: indices into `weights`, each as often in
/// a round as its weight says. Empty only if `weights` is.
///
/// The k-th turn at weight w comes at (2k + 1) / 2w of the round. Turns in that order are spread as evenly as whole
/// turns can be (the divisor method of Sainte-Laguë). Among equals the heavier goes first, then the first.
pub(super) fn round(weights: &[u32]) -> Vec<u32> {
    let weights = reduced(weights);
    // One number holds all that turns are ordered by: place, then weight from the heaviest, then index.
    let turns_of = |(index, &weight): (u32, &u64)| {
        let tie = u128::from(!weight & WEIGHT_MASK) << u32::BITS | u128::from(index);
        let place = move |k: u64| u128::from(((2 * k + 1) << PLACE_BITS) / weight);
        (0..weight).map(move |k| place(k) << u64::BITS | tie)
    };
    let mut turns = Vec::with_capacity(usize::try_from(weights.iter().sum::<u64>()).unwrap_or(0));
    turns.extend((0u32..).zip(&weights).flat_map(turns_of));
    turns.sort_unstable();
    let index = |turn: u128| u32::try_from(turn & u128::from(u32::MAX)).unwrap_or(0);
    turns.into_iter().map(index).collect()
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
