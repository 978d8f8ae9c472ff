//! Memory on block boundaries.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use super::{
    BLOCK_BYTES,
    arena::{ARENA_BYTES, Arena, Lease},
};

/// Bytes on a block boundary, a whole number of blocks, at least one.
///
/// They come from a piece of memory of [`ARENA_BYTES`] for the process that is used again and again, and from the heap when that is taken.
pub struct IoBuf {
    bytes: NonNull<u8>,
    /// What was allocated.
    capacity: usize,
    /// What counts of it.
    len: usize,
    /// Where in the arena; otherwise the heap.
    lease: Option<Lease>,
}

impl IoBuf {
    /// Leaves the first `len` bytes, rounded up to whole blocks, at least one. The others stay allocated.
    pub fn truncate(&mut self, len: usize) {
        self.len = len.max(1).next_multiple_of(BLOCK_BYTES).min(self.len);
    }

    /// Undoes all [`truncate`](Self::truncate)s. What the bytes are by now is anyone's guess.
    pub const fn restore(&mut self) {
        self.len = self.capacity;
    }
}

#[expect(
    unsafe_code,
    reason = "direct I/O needs memory on block boundaries, which no safe container gives"
)]
mod memory {
    use super::{
        ARENA_BYTES, Arena, BLOCK_BYTES, Deref, DerefMut, IoBuf, Layout, NonNull, alloc_zeroed,
        dealloc, handle_alloc_error,
    };

    // SAFETY: an `IoBuf` owns its memory alone, like a `Box<[u8]>`.
    unsafe impl Send for IoBuf {}
    // SAFETY: shared access only reads.
    unsafe impl Sync for IoBuf {}

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, BLOCK_BYTES)
            .expect("buffers are far smaller than the address space")
    }

    fn whole_blocks(len: usize) -> usize {
        len.max(1).next_multiple_of(BLOCK_BYTES)
    }

    impl IoBuf {
        /// Zeroes, `len` rounded up to whole blocks, at least one.
        #[must_use]
        pub fn zeroed(len: usize) -> Self {
            let len = whole_blocks(len);
            // Buffers of a writer live long: half of the arena is left to reads.
            if let Some(mut buffer) = Self::leased(len, ARENA_BYTES / 2) {
                buffer.fill(0);
                return buffer;
            }
            // SAFETY: the length is at least a block, so not zero.
            let bytes = unsafe { alloc_zeroed(layout(len)) };
            let Some(bytes) = NonNull::new(bytes) else {
                handle_alloc_error(layout(len))
            };
            Self {
                bytes,
                capacity: len,
                len,
                lease: None,
            }
        }

        /// As many bytes, of any content: for reads, which give a buffer away only when all of it was overwritten.
        pub(in super::super) fn to_read_into(len: usize) -> Self {
            Self::leased(whole_blocks(len), 0).unwrap_or_else(|| Self::zeroed(len))
        }

        /// From the arena, if more than `spare` bytes of it stay free.
        fn leased(len: usize, spare: usize) -> Option<Self> {
            let arena = Arena::get()?;
            let lease = arena.take(len, spare)?;
            Some(Self {
                bytes: arena.start_of(lease),
                capacity: len,
                len,
                lease: Some(lease),
            })
        }
    }

    impl Deref for IoBuf {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            // SAFETY: at least `len` bytes were allocated and initialised, are nobody else's, and live as long as `self`.
            unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
        }
    }

    impl DerefMut for IoBuf {
        fn deref_mut(&mut self) -> &mut [u8] {
            // SAFETY: as above, and `&mut self` is the only access.
            unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len) }
        }
    }

    impl Drop for IoBuf {
        fn drop(&mut self) {
            match (self.lease, Arena::get()) {
                (Some(lease), Some(arena)) => arena.give(lease),
                (Some(_), None) => {}
                // SAFETY: allocated by `zeroed` with this layout, and dropped once.
                (None, _) => unsafe { dealloc(self.bytes.as_ptr(), layout(self.capacity)) },
            }
        }
    }
}

impl IoBuf {
    /// Whether it lies in the memory that rings register.
    pub(super) fn is_registered(&self) -> bool {
        self.lease.is_some()
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoBuf")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_and_ends_on_blocks() {
        for (asked, got) in [(0, 4096), (1, 4096), (4096, 4096), (4097, 8192)] {
            let mut buffer = IoBuf::zeroed(asked);
            assert_eq!(
                (buffer.len(), buffer.as_ptr().addr() % BLOCK_BYTES),
                (got, 0)
            );
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer[got - 1] = 7;
            assert_eq!(buffer[got - 1], 7);
        }
    }

    #[test]
    fn buffers_are_apart_and_zeroed_from_the_arena_and_from_the_heap() {
        // Twice what the arena has, so that some of each come; twice over, so that used memory comes back.
        for round in 0..2 {
            let mut buffers: Vec<IoBuf> = (0..2 * ARENA_BYTES / 81_920)
                .map(|number| {
                    let mut buffer = if number % 2 == 0 {
                        IoBuf::zeroed(81_920)
                    } else {
                        IoBuf::to_read_into(81_920)
                    };
                    assert!(number % 2 == 1 || buffer.iter().all(|byte| *byte == 0));
                    buffer.fill(u8::try_from(number % 251).unwrap() + 1);
                    buffer
                })
                .collect();
            let of_arena = buffers.iter().filter(|buffer| buffer.is_registered());
            let of_arena = of_arena.count();
            assert!(of_arena < buffers.len(), "round {round}");
            for (number, buffer) in buffers.drain(..).enumerate() {
                assert!(
                    buffer.len() == 81_920
                        && buffer
                            .iter()
                            .all(|byte| usize::from(*byte) == number % 251 + 1)
                );
            }
        }
    }
}
