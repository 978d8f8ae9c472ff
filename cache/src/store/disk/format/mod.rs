//! The log as bytes. Version 1; all integers little-endian.
//!
//! The device begins with the [`superblock`], twice: at 0 and at 4096. Segment `i` begins at [`SEGMENTS_OFFSET`] + `i` ×
//! [`Geometry::segment_bytes`]. A segment is a row of records ([`record`]), the first of kind [`Start`](record::RecordKind::Start); a sealed one ends
//! in a [`footer`], whose last 64 bytes are the segment's last.
//!
//! Nothing here reads or writes a device. Decoding takes any bytes, never panics, and accepts exactly what encoding produces. What is decoded
//! was written by this volume, whole: every checksum is salted with the volume's random id, so that what an earlier volume left in the same
//! blocks, or what a stored body holds, does not pass. It says nothing against somebody who can read the device and write to it; the
//! callers' keyed checks do.

pub mod footer;
pub mod record;
pub mod superblock;

use std::fmt;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The format that this build writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Where segment 0 begins: two superblocks, and room up to the next boundary that filesystems and flash like.
pub const SEGMENTS_OFFSET: u64 = 1024 * 1024;
/// The longest segment: 2^19 units of 64 bytes, which is what an index entry can address.
pub const SEGMENT_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// The shortest segment: a start, a record of the longest body, and a footer, twice over.
pub const SEGMENT_BYTES_MIN: u32 = 512 * 1024;
/// Segments of a volume at least, so that reclaiming one of them is a small loss.
pub const SEGMENTS_MIN: u32 = 16;
/// Segments of a volume at most, which is what an index entry can address: 32 TiB of the longest.
pub const SEGMENTS_MAX: u32 = 1 << 20;

/// The unit of places in a segment, in bytes: records begin on it and are padded to it.
pub const UNIT_BYTES: u32 = 64;

/// The random name of a volume, given when it is formatted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VolumeId([u8; 16]);

impl VolumeId {
    /// The id with these bytes: random ones, or those of a superblock.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// What the checksums of this volume are salted with.
    #[must_use]
    pub fn salt(&self) -> Salt {
        Salt(xxh3_64(&self.0))
    }
}

/// 32 lower-case hexadecimal digits.
impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeId({self})")
    }
}

/// What the checksums of a volume are salted with. See [`VolumeId::salt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(u64);

impl Salt {
    /// The checksum of these bytes in this volume.
    pub(super) fn checksum(self, bytes: &[u8]) -> u64 {
        xxh3_64_with_seed(bytes, self.0)
    }
}

/// How a volume is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    segment_bytes: u32,
    segments: u32,
}

impl Geometry {
    /// The division of a volume of at most `bytes`: the longest segments of which there are at least [`SEGMENTS_MIN`]. None below 9 MiB.
    #[must_use]
    pub fn for_size(bytes: u64) -> Option<Self> {
        let room = bytes.checked_sub(SEGMENTS_OFFSET)?;
        let mut segment_bytes = SEGMENT_BYTES_MAX;
        while room / u64::from(segment_bytes) < u64::from(SEGMENTS_MIN) {
            segment_bytes /= 2;
        }
        let segments = (room / u64::from(segment_bytes.max(1))).min(u64::from(SEGMENTS_MAX));
        Self::new(segment_bytes, u32::try_from(segments).ok()?)
    }

    /// A division into so many segments of this length, a power of two. None outside the bounds of this format.
    #[must_use]
    pub const fn new(segment_bytes: u32, segments: u32) -> Option<Self> {
        if segment_bytes.is_power_of_two()
            && segment_bytes >= SEGMENT_BYTES_MIN
            && segment_bytes <= SEGMENT_BYTES_MAX
            && segments >= SEGMENTS_MIN
            && segments <= SEGMENTS_MAX
        {
            Some(Self {
                segment_bytes,
                segments,
            })
        } else {
            None
        }
    }

    /// The length of a segment.
    #[must_use]
    pub const fn segment_bytes(self) -> u32 {
        self.segment_bytes
    }

    /// Segments at most.
    #[must_use]
    pub const fn segments(self) -> u32 {
        self.segments
    }

    /// Where a segment begins on the device.
    #[must_use]
    pub const fn segment_offset(self, segment: u32) -> u64 {
        SEGMENTS_OFFSET + segment as u64 * self.segment_bytes as u64
    }

    /// What the device needs at most.
    #[must_use]
    pub const fn device_bytes(self) -> u64 {
        self.segment_offset(self.segments)
    }
}

/// Fields in a row. Every read says whether it was all there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Writes fields one after another. What does not fit is a mistake in this module, found by its first test.
#[derive(Debug)]
pub(super) struct Row<'a>(pub(super) &'a mut [u8]);

impl Row<'_> {
    pub(super) fn put(&mut self, field: &[u8]) {
        let (here, rest) = std::mem::take(&mut self.0).split_at_mut(field.len());
        here.copy_from_slice(field);
        self.0 = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::device::BLOCK_BYTES, *};

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_volume_has_the_longest_segments_of_which_there_are_enough() {
        for (bytes, expected) in [
            (0, None),
            (9 * MIB - 1, None),
            (9 * MIB, Some((512 * 1024, 16))),
            (64 * MIB, Some((2 * 1024 * 1024, 31))),
            (512 * MIB, Some((16 * 1024 * 1024, 31))),
            (513 * MIB, Some((SEGMENT_BYTES_MAX, 16))),
            (1 << 40, Some((SEGMENT_BYTES_MAX, 32_767))),
            (u64::MAX, Some((SEGMENT_BYTES_MAX, SEGMENTS_MAX))),
        ] {
            let got = Geometry::for_size(bytes);
            assert_eq!(
                got.map(|got| (got.segment_bytes(), got.segments())),
                expected,
                "{bytes}"
            );
            assert!(got.is_none_or(|got| got.device_bytes() <= bytes));
        }
    }

    #[test]
    fn a_division_outside_the_format_is_none() {
        for (segment_bytes, segments) in [
            (SEGMENT_BYTES_MIN / 2, 16),
            (SEGMENT_BYTES_MAX * 2, 16),
            (SEGMENT_BYTES_MAX - 64, 16),
            (0, 16),
            (SEGMENT_BYTES_MAX, SEGMENTS_MIN - 1),
            (SEGMENT_BYTES_MAX, SEGMENTS_MAX + 1),
        ] {
            assert_eq!(
                Geometry::new(segment_bytes, segments),
                None,
                "{segment_bytes} × {segments}"
            );
        }
    }

    #[test]
    fn superblocks_and_segments_do_not_overlap() {
        assert!(SEGMENTS_OFFSET >= 2 * BLOCK_BYTES as u64);
        assert!(SEGMENTS_OFFSET.is_multiple_of(BLOCK_BYTES as u64));
    }
}
