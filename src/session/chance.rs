//! One thread's source of chance, for the balances that draw. Nobody gains by guessing it.

use std::cell::Cell;

/// Words that look like chance; each thread has its own sequence.
#[derive(Debug)]
pub(super) struct Chance(Cell<u64>);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// The next word. The core mixes it, so that counting on with an odd step is enough here.
    pub(super) fn next(&self) -> u64 {
        let word = self.0.get().wrapping_add(0xd134_2543_de82_ef95);
        self.0.set(word);
        word
    }
}
