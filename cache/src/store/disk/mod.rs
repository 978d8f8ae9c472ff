//! The tier on disk: a log of records, by name.
//!
//! A record is a name of 32 bytes and a body of at most [`BODY_BYTES_MAX`]. Chunks are named by their keyed hash, pages of
//! manifests by their digest, heads of stored responses by their [`CacheKey`](crate::key::CacheKey). The tier promises nothing
//! about what it keeps; it promises that a body it gives back passed the caller's check and is the last that was put under that name.
//!
//! - [`DiskTier`]: what the store sees of it; [`Disk`]: volumes behind that face.
//! - `volume`: one log on one device, its index, and the tasks that keep them: `log` its end in memory, `keeper` what writes and saves, `reclaim` what makes
//!   room, `recover` what is found at the start.
//! - `survey` looks through what lies there, `care` is what an operator has done to it.
//! - [`mod@format`]: the bytes on the device. [`index`]: where each name lies. [`checkpoint`]: the index on disk.
//! - [`device`]: blocks at offsets, by io_uring or by threads; a faulty one for tests.
//! - [`directory`]: the directory of a volume, its own and held by one process.

mod budget;
mod care;
pub mod checkpoint;
pub mod device;
pub mod directory;
pub mod format;
mod health;
pub mod index;
mod keeper;
mod log;
mod metrics;
mod names;
mod open;
mod reclaim;
mod recover;
mod running;
mod segments;
mod survey;
mod tier;
mod volume;

use std::{fmt::Debug, future::Future, pin::Pin};

pub use self::{
    care::{Collecting, Ends},
    health::Ailments,
    metrics::DiskMetrics,
    names::NameSet,
    open::{Found, OpenError, VolumeConfig},
    survey::{AGE_BOUNDS_SECONDS, Survey},
    tier::{Disk, VolumeStats},
    volume::Retained,
};

use bytes::Bytes;

/// The longest body of a record: a chunk of 256 KiB; heads and pages are shorter.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// The name of a record. All names are hashes, uniform in every bit.
pub type Name = [u8; 32];

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A chunk's bytes. Two of one name are the same.
    Chunk,
    /// A page of a manifest. Two of one name are the same.
    Page,
    /// What is stored under a URL. The last that was put counts.
    Head,
}

/// Whether a body is what its name says.
pub type Check<'a> = &'a (dyn Fn(&[u8]) -> bool + Send + Sync);

/// What a read of the tier comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskRead {
    /// The body, in a buffer of its size, and it passed the check.
    Hit(Bytes),
    /// Nothing under this name.
    Miss,
    /// There may be something, but the tier has no capacity to read it now.
    Throttled,
    /// What lay there is not what was put. It was dropped and counted.
    Corrupt,
}

/// What became of a record that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It can be read from now on, and is on the device within a second.
    Queued,
    /// The tier holds it already (chunks and pages).
    Present,
    /// It was not taken, and counted under this reason.
    Refused(Refused),
}

/// Why the tier did not take a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Longer than [`BODY_BYTES_MAX`].
    TooLarge,
    /// The device is slower than what is put; see [`DiskTier::room`].
    Busy,
    /// The budget of bytes a day is spent.
    Budget,
    /// The device fails; the tier is off until it works again.
    Off,
}

impl Refused {
    const fn word(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
            Self::Budget => "budget",
            Self::Off => "off",
        }
    }
}

/// A future of the tier.
pub type DiskFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The tier on disk, as the store sees it.
pub trait DiskTier: Send + Sync + Debug {
    /// Takes a record. Never waits for the device: the body is copied into a buffer that leaves within a second.
    fn put(&self, kind: Kind, name: Name, body: &[u8]) -> Put;

    /// Forgets what is under this name, also over a restart. For heads.
    fn forget(&self, name: &Name);

    /// Whether the tier holds something under this name now. No I/O, about 100 ns.
    fn contains(&self, name: &Name) -> bool;

    /// What lies under this name. Cancel safe.
    fn read<'a>(&'a self, kind: Kind, name: &'a Name, check: Check<'a>)
    -> DiskFuture<'a, DiskRead>;

    /// Chunks of one object in order, of at most 1 MiB together: read at once, neighbours on the device in one piece. The answers are in the order of
    /// the names; `check` gets the place of the name with the body. Cancel safe.
    fn read_run<'a>(
        &'a self,
        names: &'a [Name],
        check: &'a (dyn Fn(usize, &[u8]) -> bool + Send + Sync),
    ) -> DiskFuture<'a, Vec<DiskRead>>;

    /// Waits until a put is not refused as [`Refused::Busy`], at most about a second. For writers that can wait. Cancel safe.
    fn room(&self) -> DiskFuture<'_, ()>;

    /// Waits until everything that was put before is on the device, and the device has it for good (`fdatasync`). Cancel safe.
    ///
    /// # Errors
    /// Says what failed; the records are then gone.
    fn flush(&self) -> DiskFuture<'_, std::io::Result<()>>;
}

#[cfg(test)]
mod tests;
