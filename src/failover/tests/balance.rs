//! The shares of a tier, and how evenly they are spread.

use proptest::prelude::*;

use crate::failover::balance::round;

fn shares(order: &[u32], count: usize) -> Vec<u32> {
    let mut shares = vec![0; count];
    for &index in order {
        shares[index as usize] += 1;
    }
    shares
}

#[test]
fn no_backends_have_no_round() {
    assert!(round(&[]).is_empty());
}

#[test]
fn equal_weights_take_turns_in_order() {
    assert_eq!(round(&[1, 1, 1]), [0, 1, 2]);
    assert_eq!(round(&[7, 7, 7]), [0, 1, 2], "what weights have in common makes the round no longer");
    assert_eq!(round(&[1; 10_000]), (0..10_000).collect::<Vec<_>>());
}

#[test]
fn a_round_gives_each_weight_its_exact_share() {
    assert_eq!(round(&[2, 1]), [0, 1, 0]);
    assert_eq!(shares(&round(&[5, 1, 1]), 3), [5, 1, 1]);
    assert_eq!(shares(&round(&[6, 4, 2]), 3), [3, 2, 1]);
    let all: Vec<u32> = (1..=200).collect();
    assert_eq!(shares(&round(&all), 200), all);
}

#[test]
fn one_to_a_thousand_is_exact() {
    assert_eq!(shares(&round(&[1, 1000]), 2), [1, 1000]);
    let order = round(&[1000, 1]);
    assert_eq!(order.iter().position(|&index| index == 1), Some(500), "the light one's turn is in the middle");
}

#[test]
fn a_round_that_would_be_too_long_is_scaled_down() {
    let weights: Vec<u32> = (0..10_000).map(|i| i % 1000 + 1).collect();
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let order = round(&weights);
    assert!(order.len() <= 65_536 + weights.len(), "{} turns", order.len());
    for (&weight, share) in weights.iter().zip(shares(&order, weights.len())) {
        let (wanted, got) = (f64::from(weight) / total, f64::from(share) / order.len() as f64);
        assert!((wanted - got).abs() <= 2.0 / 65_536.0, "weight {weight} gets {got} for {wanted}");
        assert!(share > 0, "everybody has a turn");
    }
}

#[test]
fn a_round_at_its_limit_is_not_scaled() {
    let mut weights = vec![1000; 65];
    weights.push(536);
    weights[0] = 999;
    weights.push(1);
    assert_eq!(weights.iter().sum::<u32>(), 65_536);
    assert_eq!(shares(&round(&weights), weights.len()), weights);
}

proptest! {
    #[test]
    fn turns_are_exact_and_spread_evenly(weights in prop::collection::vec(1u32..=100, 1..20)) {
        let order = round(&weights);
        let total: u32 = weights.iter().sum();
        let length = order.len() as f64;
        let divisor = f64::from(total) / length;
        for (index, share) in shares(&order, weights.len()).into_iter().enumerate() {
            prop_assert!((f64::from(share) * divisor - f64::from(weights[index])).abs() < 1e-9);
        }
        // At no moment is anybody further from its due than the number of others allows.
        let mut got = vec![0.0; weights.len()];
        for (turn, &index) in order.iter().enumerate() {
            got[index as usize] += 1.0;
            for (&weight, got) in weights.iter().zip(&got) {
                let due = (turn + 1) as f64 * f64::from(weight) / f64::from(total);
                prop_assert!((due - got).abs() <= 1.0 + weights.len() as f64 / 2.0, "{due} due, {got} got");
            }
        }
    }

    /// Every turn is where the divisor method puts it, compared with fractions and not with rounded places.
    #[test]
    fn the_order_is_that_of_the_divisor_method(weights in prop::collection::vec(1u32..=60, 1..8)) {
        let order = round(&weights);
        let mut taken = vec![0u64; weights.len()];
        for window in order.windows(2) {
            let (a, b) = (window[0] as usize, window[1] as usize);
            let (ka, wa) = (2 * taken[a] + 1, u64::from(weights[a]));
            taken[a] += 1;
            let (kb, wb) = (2 * taken[b] + 1, u64::from(weights[b]));
            prop_assert!(ka * wb <= kb * wa);
            prop_assert!(ka * wb < kb * wa || (wa, b) > (wb, a) || wa > wb);
        }
    }
}
