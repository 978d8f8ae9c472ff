//! A device: blocks at offsets. The seam between the log and whatever moves its bytes.
//!
//! All offsets and lengths are multiples of [`BLOCK_BYTES`], and buffers begin at such addresses, so that the kernel's page cache can be
//! passed by (`O_DIRECT`). Nothing is ordered but by waiting: a write that has not completed may or may not be there after a crash, whole or in
//! part, block by block; what completed before a [`Device::sync`] that completed is there.

//!
//! [`open()`] gives the device of a file, by the best engine there is, and says which. [`Sim`] is one in memory for tests, that loses power and
//! fails on command.

use std::{fmt::Debug, io, sync::Arc, time::Duration};

use super::DiskFuture;

mod arena;
mod buffer;
mod file;
mod flight;
mod job;
mod open;
mod pool;
mod ring;
mod sim;
mod uring;

pub use self::{
    arena::ARENA_BYTES,
    buffer::IoBuf,
    open::{Engine, OpenError, Opened, open},
    pool::THREADS_MAX,
    ring::IN_FLIGHT_MAX,
    sim::{Counts, Effect, Fault, Loss, Op, Sim},
};

/// The unit of a device, in bytes.
pub const BLOCK_BYTES: usize = 4096;

/// The most that one operation moves, in bytes.
pub const EXTENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Reads that wait for their turn at a device, by ring or by pool, beyond those the kernel has: at 64 KiB each and 1 GB/s the last waits for 67 ms.
/// The next is refused.
pub const READS_WAITING_MAX: usize = 1024;

/// How long the end of an engine waits for what is under way. A disk that has not answered by then is given up with the memory it may still write to.
const END_WAIT: Duration = Duration::from_secs(10);

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
/// An operation begins when it is asked for, not when its future is first waited for. Futures are `'static` and may be dropped: the operation then
/// goes on (a read that has not begun does not) and its buffer is kept alive until it has ended. A tokio runtime that asks needs I/O enabled; who asks
/// outside of one is served by threads. Dropping a device waits for what is under way, ten seconds at most.
pub trait Device: Send + Sync + Debug {
    /// Reads blocks.
    ///
    /// Fewer bytes than asked for are an error ([`io::ErrorKind::UnexpectedEof`]); [`io::ErrorKind::WouldBlock`] says that [`READS_WAITING_MAX`] reads
    /// wait already, and nothing about the disk.
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

#[cfg(test)]
mod tests;
