//! What one thread lends to directions while they have bytes to move: buffers and pipes.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use crate::model::PipeRefusal;
use crate::sys::Pipe;

use super::buffer::BufferPool;

/// Borrowings that are refused after the kernel has refused a pipe, before it is asked again.
const REFUSALS: u16 = 256;

/// The pipes that a thread has at most, of two descriptors each.
pub const PIPES_MAX: usize = 64;

/// When a direction is a stream, and what it is lent. The header of the module says where the numbers come from.
#[derive(Debug, Clone, Copy)]
pub struct Splicing {
    /// The length of a read that may be part of a stream; a buffer that is smaller must be full.
    pub large_read: usize,
    /// So many bytes in large reads without a small one between them make a stream.
    pub stream: usize,
    /// A move through a pipe of fewer bytes than this is small.
    pub small_move: usize,
    /// So many small moves without a larger one between them end a stream.
    pub small_moves: u8,
    /// The bytes asked for in one move, and the size of a pipe.
    pub pipe_size: usize,
    /// A pipe that the kernel makes smaller than this is not used.
    pub pipe_least: usize,
    /// The pipes that a thread has, lent or not.
    pub pipes_max: usize,
}

impl Default for Splicing {
    fn default() -> Self {
        Self {
            large_read: 32 * 1024,
            stream: 96 * 1024,
            small_move: 16 * 1024,
            small_moves: 4,
            pipe_size: 256 * 1024,
            pipe_least: 64 * 1024,
            pipes_max: PIPES_MAX,
        }
    }
}

/// The pipes of one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipeCounts {
    /// Now lent.
    pub lent: usize,
    /// Empty, and waiting for a borrower.
    pub kept: usize,
    /// How often one was borrowed.
    pub borrowed: u64,
    /// Borrowings that were refused, by the index of [`PipeRefusal`]; those bytes were copied.
    pub refused: [u64; PipeRefusal::ALL.len()],
}

/// What one thread lends.
#[derive(Debug)]
pub struct Loans {
    pub(super) buffers: BufferPool,
    pub(super) splicing: Splicing,
    idle: RefCell<Vec<Pipe>>,
    lent: Rc<Cell<usize>>,
    borrowed: Cell<u64>,
    refused: Cell<[u64; PipeRefusal::ALL.len()]>,
    /// Why the kernel refused the last one.
    last_refusal: Cell<PipeRefusal>,
    /// How many more borrowings are refused unasked.
    refusing: Cell<u16>,
}

impl Loans {
    /// Buffers of `buffer` bytes, and pipes.
    #[must_use]
    pub fn new(buffer: usize) -> Self {
        Self::with(buffer, Splicing::default())
    }

    /// The same by other numbers.
    #[must_use]
    pub fn with(buffer: usize, splicing: Splicing) -> Self {
        Self {
            buffers: BufferPool::new(buffer),
            splicing,
            idle: RefCell::default(),
            lent: Rc::default(),
            borrowed: Cell::new(0),
            refused: Cell::default(),
            last_refusal: Cell::new(PipeRefusal::Kernel),
            refusing: Cell::new(0),
        }
    }

    /// Its pipes.
    #[must_use]
    pub fn pipes(&self) -> PipeCounts {
        PipeCounts {
            lent: self.lent.get(),
            kept: self.idle.borrow().len(),
            borrowed: self.borrowed.get(),
            refused: self.refused.get(),
        }
    }

    /// An empty pipe, if there is one or may be one more.
    pub(super) fn borrow_pipe(&self) -> Option<LentPipe> {
        let idle = self.idle.borrow_mut().pop();
        let pipe = match idle.map_or_else(|| self.open(), Ok) {
            Ok(pipe) => pipe,
            Err(refusal) => {
                let mut refused = self.refused.get();
                if let Some(count) = refused.get_mut(refusal.index()) {
                    *count += 1;
                }
                self.refused.set(refused);
                return None;
            }
        };
        self.lent.set(self.lent.get() + 1);
        self.borrowed.set(self.borrowed.get() + 1);
        Some(LentPipe { pipe, _lent: Lent(Rc::clone(&self.lent)) })
    }

    fn open(&self) -> Result<Pipe, PipeRefusal> {
        if self.lent.get() >= self.splicing.pipes_max {
            return Err(PipeRefusal::Limit);
        }
        if let Some(left) = self.refusing.get().checked_sub(1) {
            self.refusing.set(left);
            return Err(self.last_refusal.get());
        }
        match Pipe::open(self.splicing.pipe_size, self.splicing.pipe_least) {
            Ok(pipe) => Ok(pipe),
            Err(error) => {
                tracing::debug!(%error, "no pipe: streams are copied");
                self.refusing.set(REFUSALS);
                let is_quota = error.kind() == io::ErrorKind::QuotaExceeded;
                self.last_refusal.set(if is_quota { PipeRefusal::Quota } else { PipeRefusal::Kernel });
                Err(self.last_refusal.get())
            }
        }
    }

    /// Keeps the pipe for the next borrower. One that holds bytes is closed: they are nobody else's.
    pub(super) fn give_back_pipe(&self, lent: LentPipe) {
        if lent.pipe.is_empty() {
            self.idle.borrow_mut().push(lent.pipe);
        }
    }
}

/// A borrowed pipe. Dropped, it is closed with what it holds.
#[derive(Debug)]
pub(super) struct LentPipe {
    pub(super) pipe: Pipe,
    _lent: Lent,
}

/// One of the pipes that are lent, for as long as it lives.
#[derive(Debug)]
struct Lent(Rc<Cell<usize>>);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
