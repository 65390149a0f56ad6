//! Buffers of one thread, lent to directions while they have bytes to move.

use std::cell::RefCell;

/// Buffers kept for the next borrower; more are made when needed and not kept.
const KEPT_MAX: usize = 64;

/// A buffer with bytes on their way: `buffer[start..end]`.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) buffer: Box<[u8]>,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Filled {
    /// What is still to be written.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }
}

/// The buffers of one thread.
#[derive(Debug)]
pub(super) struct BufferPool {
    size: usize,
    idle: RefCell<Vec<Box<[u8]>>>,
}

impl BufferPool {
    /// A pool of buffers of `size` bytes, empty at first.
    pub(super) const fn new(size: usize) -> Self {
        Self { size, idle: RefCell::new(Vec::new()) }
    }

    pub(super) fn borrow(&self) -> Box<[u8]> {
        self.idle.borrow_mut().pop().unwrap_or_else(|| vec![0; self.size].into_boxed_slice())
    }

    /// Keeps `buffer` for the next borrower, if it is one of this pool's and there is a place for it.
    pub(super) fn give_back(&self, buffer: Box<[u8]>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < KEPT_MAX && buffer.len() == self.size {
            idle.push(buffer);
        }
    }
}
