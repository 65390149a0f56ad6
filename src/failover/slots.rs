//! The table of a `source-hash` tier: clients hash to slots, and each slot belongs to one backend.
//!
//! Every backend shoots at the slots in a sequence of its own, as often per unit of time as its weight says; a
//! slot belongs to whoever hits it first. Where and when a backend shoots follows from its name and weight alone,
//! so that a backend that goes gives up its own slots and changes no other, and one that comes takes its
//! share from all alike (weighted rendezvous hashing, laid out). Nothing here depends on the process or the machine.

use std::net::IpAddr;

use super::table::Route;

/// The slots of a table, as bits. 64 Ki slots of four bytes are 256 KiB a tier, and a share is true to within the
/// square root of backends by slots: about 1 in 80 at ten backends, 1 in 25 at a hundred.
const SLOT_BITS: u32 = 16;
const SLOTS: usize = 1 << SLOT_BITS;

/// Shots per slot until the table is done. Of the slots, e^-8 are never hit (1 in 3,000): they go to the owner of the next.
const SHOTS_PER_SLOT: u64 = 8;

/// The step of the generator, and its mixing: splitmix64, whose every output is as good as random.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number that looks like chance, and is the same for the same `word` for ever.
pub(super) const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The `number`-th word of the sequence that `seed` begins.
pub(super) const fn word(seed: u64, number: u64) -> u64 {
    mix(seed.wrapping_add(number.wrapping_add(1).wrapping_mul(STEP)))
}

/// A hash of bytes that is the same for ever (FNV-1a, mixed).
fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// Who a client is to `source-hash`: its IP address without the port. All clients over Unix sockets are one.
#[must_use]
pub fn client_key(ip: Option<IpAddr>) -> u64 {
    match ip.map(|ip| ip.to_canonical()) {
        None => hash(b"unix"),
        Some(IpAddr::V4(ip)) => hash(&ip.octets()),
        Some(IpAddr::V6(ip)) => hash(&ip.octets()),
    }
}

/// Which of `routes` each slot belongs to: indices. Empty only if `routes` is.
pub(super) fn slots(routes: &[Route]) -> Vec<u32> {
    let total: u64 = routes.iter().map(|route| u64::from(route.weight)).sum();
    // A unit of time has 2^32 parts, and in each unit a backend has as many shots as its weight says.
    let Some(end) = ((SHOTS_PER_SLOT << SLOT_BITS) << u32::BITS).checked_div(total) else { return Vec::new() };
    let mut slots = vec![(u64::MAX, u32::MAX); SLOTS];
    for (index, route) in (0u32..).zip(routes) {
        let seed = hash(route.name.as_str().as_bytes());
        let between = (1 << u32::BITS) / u64::from(route.weight.max(1));
        for number in 0u64.. {
            let shot = word(seed, number);
            // Somewhere in its part of the unit.
            let time = number * between + (((shot & u64::from(u32::MAX)) * between) >> u32::BITS);
            if time >= end {
                break;
            }
            let hit = usize::try_from(shot >> (u64::BITS - SLOT_BITS)).unwrap_or(0);
            if let Some(slot) = slots.get_mut(hit).filter(|slot| time < slot.0) {
                *slot = (time, index);
            }
        }
    }
    let mut owner = slots.iter().map(|&(_, owner)| owner).find(|&owner| owner != u32::MAX).unwrap_or(0);
    let owners = slots.iter().rev().map(|&(_, hit)| {
        owner = if hit == u32::MAX { owner } else { hit };
        owner
    });
    let mut owners: Vec<u32> = owners.collect();
    owners.reverse();
    owners
}
