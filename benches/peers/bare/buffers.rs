//! The buffers that io_uring receives into, and nothing of what is done with them.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// Buffers of the ring, a power of two, and the size of each: in all what bulk keeps moving, and one for every
/// small message that may be under way.
const BUFFERS: u16 = 128;
const SIZE: usize = 32 * 1024;
/// The number by which receiving names them.
pub(super) const GROUP: u16 = 0;

/// A buffer, and what of it is still to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) buffer: u16,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The buffers that the kernel chooses from, and the ring in which they are offered to it. Both stay for ever.
pub(super) struct Buffers {
    ring: *mut BufRingEntry,
    bytes: *mut u8,
    tail: u16,
    /// How many the kernel may choose from.
    free: usize,
}

impl Buffers {
    pub(super) fn register(ring: &IoUring) -> io::Result<Self> {
        let layout = Layout::array::<BufRingEntry>(usize::from(BUFFERS)).and_then(|layout| layout.align_to(4096));
        // SAFETY: the layout's size is not zero.
        let entries = unsafe { alloc_zeroed(layout.map_err(io::Error::other)?) }.cast::<BufRingEntry>();
        let bytes = vec![0; SIZE * usize::from(BUFFERS)].leak().as_mut_ptr();
        // SAFETY: as many entries, aligned to a page, which are never freed.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries as u64, BUFFERS, GROUP, 0)? };
        let mut buffers = Self { ring: entries, bytes, tail: 0, free: 0 };
        (0..BUFFERS).for_each(|buffer| buffers.give_back(buffer));
        Ok(buffers)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free == 0
    }

    /// The kernel has chosen `buffer` and filled it up to `end`.
    pub(super) fn take(&mut self, buffer: u16, end: usize) -> Piece {
        self.free -= 1;
        Piece { buffer, start: 0, end }
    }

    pub(super) fn at(&self, piece: Piece) -> *const u8 {
        // SAFETY: a piece lies in its buffer, and every buffer in the allocation.
        unsafe { self.bytes.add(usize::from(piece.buffer) * SIZE + piece.start) }
    }

    pub(super) fn give_back(&mut self, buffer: u16) {
        self.free += 1;
        // SAFETY: the entry lies in the ring, and the kernel does not read it before the tail says so; the tail
        // has the place of a field that entries do not use.
        unsafe {
            let entry = &mut *self.ring.add(usize::from(self.tail % BUFFERS));
            entry.set_addr(self.bytes.add(usize::from(buffer) * SIZE) as u64);
            entry.set_len(u32::try_from(SIZE).unwrap());
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.ring).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}
