//! A device: blocks at offsets. The seam between the log and whatever moves its bytes.
//!
//! All offsets and lengths are multiples of [`BLOCK_BYTES`], and buffers begin at such addresses, so that the kernel's page cache can be
//! passed by (`O_DIRECT`). Nothing is ordered but by waiting: a write that has not completed may or may not be there after a crash, whole or in
//! part, block by block; what completed before a [`Device::sync`] that completed is there.

use std::{fmt::Debug, io, sync::Arc};

use super::DiskFuture;

mod buffer;

pub use buffer::IoBuf;

/// The unit of a device, in bytes.
pub const BLOCK_BYTES: usize = 4096;

/// Blocks in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first byte's place.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

/// Blocks at offsets.
///
/// Futures are `'static` and may be dropped: the operation then goes on and its buffer is kept alive until it has ended. They need a
/// tokio runtime with I/O enabled.
pub trait Device: Send + Sync + Debug {
    /// Reads blocks. Fewer bytes than asked for are an error ([`io::ErrorKind::UnexpectedEof`]).
    fn read(&self, extent: Extent) -> DiskFuture<'static, io::Result<IoBuf>>;

    /// Reads several runs of blocks, handed to the kernel at once. The answers are in the order of the extents.
    fn read_many(&self, extents: &[Extent]) -> Vec<DiskFuture<'static, io::Result<IoBuf>>> {
        extents.iter().map(|extent| self.read(*extent)).collect()
    }

    /// Writes a buffer's blocks. The buffer is not changed meanwhile: others may read it.
    fn write(&self, offset: u64, buffer: Arc<IoBuf>) -> DiskFuture<'static, io::Result<()>>;

    /// Waits until all writes that completed before are there for good (`fdatasync`).
    fn sync(&self) -> DiskFuture<'static, io::Result<()>>;

    /// Makes sure that there is room for these blocks (`fallocate`), so that a write to them cannot run out of space where the filesystem
    /// keeps such promises. Blocks; milliseconds.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] above all.
    fn allocate(&self, extent: Extent) -> io::Result<()>;

    /// Bytes there is room for now: what was allocated or written last.
    fn len(&self) -> u64;

    /// Whether there is room for nothing yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
