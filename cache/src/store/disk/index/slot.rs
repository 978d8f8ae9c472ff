//! One entry of the index, 128 bits: hash 74, place 52 (segment 20, offset 19, length 13), uses 2.

use std::fmt;

use crate::store::disk::format::{
    SEGMENT_BYTES_MAX, SEGMENTS_MAX, UNIT_BYTES,
    record::{BODY_MAX, record_bytes},
};

/// Uses are counted up to this.
pub const USES_MAX: u8 = 3;

/// Where the hash begins in a slot. The bits of a name's hash below it choose its table.
pub(super) const TAG_SHIFT: u32 = 54;
const USES_BITS: u32 = 2;
const UNITS_BITS: u32 = 13;
const OFFSET_BITS: u32 = 19;
const PLACE_MASK: u64 = (1 << (TAG_SHIFT - USES_BITS)) - 1;

/// Where a record lies: 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(u64);

impl Place {
    /// The place of a record with such a body, whose header begins `offset` bytes into a segment.
    ///
    /// None for what no volume has: segments from [`SEGMENTS_MAX`] up, offsets off the 64-byte grid or beyond the longest segment, bodies above
    /// [`BODY_BYTES_MAX`](crate::store::disk::BODY_BYTES_MAX).
    #[must_use]
    pub const fn new(segment: u32, offset: u32, body_bytes: u32) -> Option<Self> {
        if segment >= SEGMENTS_MAX
            || offset >= SEGMENT_BYTES_MAX
            || !offset.is_multiple_of(UNIT_BYTES)
            || body_bytes > BODY_MAX
        {
            return None;
        }
        let units = record_bytes(body_bytes) / UNIT_BYTES;
        Some(Self(
            (segment as u64) << (OFFSET_BITS + UNITS_BITS)
                | ((offset / UNIT_BYTES) as u64) << UNITS_BITS
                | units as u64,
        ))
    }

    /// The segment.
    #[must_use]
    pub const fn segment(self) -> u32 {
        self.field(OFFSET_BITS + UNITS_BITS, 32)
    }

    /// Where the record's header begins in the segment, in bytes; a multiple of 64.
    #[must_use]
    pub const fn offset(self) -> u32 {
        self.field(UNITS_BITS, OFFSET_BITS) * UNIT_BYTES
    }

    /// What the record takes: header, body and padding, in bytes. The header has the body's length.
    #[must_use]
    pub const fn record_bytes(self) -> u32 {
        self.field(0, UNITS_BITS) * UNIT_BYTES
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most 32 bits are left")]
    const fn field(self, shift: u32, bits: u32) -> u32 {
        ((self.0 >> shift) & ((1 << bits) - 1)) as u32
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (segment, offset, bytes) = (self.segment(), self.offset(), self.record_bytes());
        write!(f, "Place({segment}:{offset}+{bytes})")
    }
}

/// An entry as it lies in memory and in a checkpoint. All zeroes where there is none: a record takes at least one unit.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct Slot(u128);

impl Slot {
    pub(super) const EMPTY: Self = Self(0);

    pub(super) fn new(tag: Tag, place: Place, uses: u8) -> Self {
        Self(tag.0 | u128::from(place.0) << USES_BITS | u128::from(uses.min(USES_MAX)))
    }

    /// What a checkpoint has. None if there is no record in it.
    pub(in super::super) fn from_bits(bits: u128) -> Option<Self> {
        Some(Self(bits)).filter(|slot| slot.place().record_bytes() > 0)
    }

    pub(in super::super) const fn bits(self) -> u128 {
        self.0
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    pub(super) const fn tag(self) -> Tag {
        Tag::of_hash(self.0)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the place is the low half without the uses"
    )]
    pub(in super::super) const fn place(self) -> Place {
        Place((self.0 >> USES_BITS) as u64 & PLACE_MASK)
    }

    #[expect(clippy::cast_possible_truncation, reason = "masked to 2 bits")]
    pub(super) const fn uses(self) -> u8 {
        self.0 as u8 & USES_MAX
    }
}

/// 74 bits of a name's hash, at the top.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(u128);

impl Tag {
    pub(super) const fn of_hash(hash: u128) -> Self {
        Self(hash >> TAG_SHIFT << TAG_SHIFT)
    }

    /// Where a slot of this hash wants to lie among `slots`: in proportion, so that growing keeps the order.
    pub(super) const fn home(self, slots: usize) -> usize {
        ((((self.0 >> 96) as u64) * slots as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_place_keeps_its_numbers(
            segment in 0..SEGMENTS_MAX, offset in 0..SEGMENT_BYTES_MAX / 64, body in 0..=262_144_u32, uses in 0..=3_u8, tag: u128
        ) {
            let place = Place::new(segment, offset * 64, body).unwrap();
            prop_assert_eq!(
                (place.segment(), place.offset(), place.record_bytes()),
                (segment, offset * 64, record_bytes(body))
            );
            let tag = Tag::of_hash(tag);
            let slot = Slot::new(tag, place, uses);
            prop_assert!(slot.tag() == tag && slot.place() == place && slot.uses() == uses);
            prop_assert!(Slot::from_bits(slot.bits()) == Some(slot));
        }
    }

    #[test]
    fn places_no_volume_has_are_none() {
        for (segment, offset, body) in [
            (SEGMENTS_MAX, 0, 0),
            (0, SEGMENT_BYTES_MAX, 0),
            (0, 63, 0),
            (0, 0, 262_145),
        ] {
            assert_eq!(Place::new(segment, offset, body), None);
        }
        assert!(Slot::from_bits(u128::MAX << 15).is_none());
    }
}
