//! Memory on block boundaries.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use super::BLOCK_BYTES;

/// Bytes on a block boundary, a whole number of blocks, at least one.
pub struct IoBuf {
    bytes: NonNull<u8>,
    /// What was allocated.
    capacity: usize,
    /// What counts of it.
    len: usize,
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
        BLOCK_BYTES, Deref, DerefMut, IoBuf, Layout, NonNull, alloc_zeroed, dealloc,
        handle_alloc_error,
    };

    // SAFETY: an `IoBuf` owns its memory alone, like a `Box<[u8]>`.
    unsafe impl Send for IoBuf {}
    // SAFETY: shared access only reads.
    unsafe impl Sync for IoBuf {}

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, BLOCK_BYTES)
            .expect("buffers are far smaller than the address space")
    }

    impl IoBuf {
        /// Zeroes, `len` rounded up to whole blocks, at least one.
        #[must_use]
        pub fn zeroed(len: usize) -> Self {
            let len = len.max(1).next_multiple_of(BLOCK_BYTES);
            // SAFETY: the length is at least a block, so not zero.
            let bytes = unsafe { alloc_zeroed(layout(len)) };
            let Some(bytes) = NonNull::new(bytes) else {
                handle_alloc_error(layout(len))
            };
            Self {
                bytes,
                capacity: len,
                len,
            }
        }
    }

    impl Deref for IoBuf {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            // SAFETY: at least `len` bytes were allocated and initialised, and live as long as `self`.
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
            // SAFETY: allocated by `zeroed` with this layout, and dropped once.
            unsafe { dealloc(self.bytes.as_ptr(), layout(self.capacity)) }
        }
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
}
