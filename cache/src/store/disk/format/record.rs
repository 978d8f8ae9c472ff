//! A record: a header of 64 bytes on a boundary of 64, and a body padded to 64.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic, `REC1` |
//! | 1 | version of the record, 1 |
//! | 1 | kind: 1 start of a segment, 2 pad, 3 chunk, 4 page, 5 head, 6 tombstone |
//! | 2 | flags: the codec of the body in the low 4 bits, 0 as it is; the others 0 |
//! | 8 | sequence of the segment |
//! | 4 | body bytes |
//! | 4 | checksum of the other 60 bytes: the low half of their salted xxh3 |
//! | 8 | xxh3 of the body |
//! | 32 | name |
//!
//! The name of a start is the volume's id (16), when the segment was opened in seconds since 1970 (8), and 8 zeroes; a pad has none. Starts and tombstones have no body; a pad's is not looked at. The magic
//! and the checksum keep their places in every version, so that a newer one is told from a damaged one.

use xxhash_rust::xxh3::xxh3_64;

use super::{Fields, Row, Salt, UNIT_BYTES, VolumeId};
use crate::store::disk::{BODY_BYTES_MAX, Kind, Name};

/// The length of a header.
pub const HEADER_BYTES: usize = 64;
/// The version of records that this build writes, and the only one it reads.
pub const RECORD_VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"REC1";
/// Where the checksum lies.
const CHECKSUM: std::ops::Range<usize> = 20..24;
/// [`BODY_BYTES_MAX`] as records count.
#[expect(clippy::cast_possible_truncation, reason = "asserted below")]
pub(in super::super) const BODY_MAX: u32 = BODY_BYTES_MAX as u32;
const _: () = assert!(BODY_BYTES_MAX < 1 << 24, "a footer has 3 bytes for it");

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// The first of a segment.
    Start,
    /// Nothing, up to the next record.
    Pad,
    /// Something stored.
    Stored(Kind),
    /// What lay under this name before is forgotten.
    Tombstone,
}

impl RecordKind {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Start => 1,
            Self::Pad => 2,
            Self::Stored(Kind::Chunk) => 3,
            Self::Stored(Kind::Page) => 4,
            Self::Stored(Kind::Head) => 5,
            Self::Tombstone => 6,
        }
    }

    pub(super) const fn of_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Start,
            2 => Self::Pad,
            3 => Self::Stored(Kind::Chunk),
            4 => Self::Stored(Kind::Page),
            5 => Self::Stored(Kind::Head),
            6 => Self::Tombstone,
            _ => return None,
        })
    }

    /// The longest body of this kind.
    pub(super) const fn body_max(self) -> u32 {
        match self {
            Self::Start | Self::Tombstone => 0,
            Self::Pad | Self::Stored(_) => BODY_MAX,
        }
    }
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it is.
    pub kind: RecordKind,
    /// The sequence of the segment it was written to. Another one means that the segment has not been written this far.
    pub sequence: u64,
    /// Bytes of the body, without padding; at most [`BODY_BYTES_MAX`].
    pub body_bytes: u32,
    /// xxh3 of the body; of no bytes where there is none, 0 for a pad.
    pub body_hash: u64,
    /// The record's name; see the head of this file for starts and pads.
    pub name: Name,
}

/// Why bytes are no header. In recovery each of them ends a segment's tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than a header has.
    #[error("{0} bytes, a record's header has {HEADER_BYTES}")]
    Short(usize),
    /// No record was ever written here, or its first bytes are damaged.
    #[error("no record's magic")]
    Magic,
    /// Damaged, written in part, or another volume's.
    #[error("a record's header has not its checksum")]
    Checksum,
    /// Another build wrote it.
    #[error("record version {0}, this build reads {RECORD_VERSION}")]
    Version(u8),
    /// A kind this build does not know.
    #[error("record kind {0}, this build knows 1 to 6")]
    Kind(u8),
    /// A codec or another flag this build does not know.
    #[error("record flags {0:#06x}, this build knows none")]
    Flags(u16),
    /// A body longer than the kind allows.
    #[error("a body of {got} bytes, at most {max} in a {kind:?}")]
    BodyBytes {
        /// What the header says.
        got: u32,
        /// The most allowed.
        max: u32,
        /// In a record of this kind.
        kind: RecordKind,
    },
    /// A pad with a name, or a start with more than a volume's id.
    #[error("a {0:?} has no such name")]
    Name(RecordKind),
}

/// What a record of such a body takes in a segment: header, body, padding. A multiple of 64.
#[must_use]
pub const fn record_bytes(body_bytes: u32) -> u32 {
    UNIT_BYTES + body_bytes.next_multiple_of(UNIT_BYTES)
}

impl RecordHeader {
    /// The first record of a segment that was opened at this time, in seconds since 1970.
    #[must_use]
    pub fn start(volume: VolumeId, sequence: u64, opened_at: u64) -> Self {
        let mut name = Name::default();
        let mut row = Row(&mut name);
        row.put(volume.as_bytes());
        row.put(&opened_at.to_le_bytes());
        Self {
            kind: RecordKind::Start,
            sequence,
            body_bytes: 0,
            body_hash: xxh3_64(&[]),
            name,
        }
    }

    /// When a segment was opened, in seconds since 1970, as its start says.
    #[must_use]
    pub fn opened_at(&self) -> Option<u64> {
        let (_, rest) = self.name.split_at(16);
        (self.kind == RecordKind::Start)
            .then(|| Fields(rest).u64())
            .flatten()
    }

    /// A record that fills `bytes` up to the next one: a multiple of 64, at least 64. What lies in them is not looked at.
    ///
    /// # Errors
    /// [`RecordError::BodyBytes`] if that is more than one record can fill.
    pub fn pad(sequence: u64, bytes: u32) -> Result<Self, RecordError> {
        Self {
            kind: RecordKind::Pad,
            sequence,
            body_bytes: bytes.saturating_sub(UNIT_BYTES),
            body_hash: 0,
            name: Name::default(),
        }
        .within_bounds()
    }

    /// The header of something stored.
    ///
    /// # Errors
    /// [`RecordError::BodyBytes`] above [`BODY_BYTES_MAX`].
    pub fn stored(kind: Kind, sequence: u64, name: Name, body: &[u8]) -> Result<Self, RecordError> {
        Self {
            kind: RecordKind::Stored(kind),
            sequence,
            body_bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
            body_hash: xxh3_64(body),
            name,
        }
        .within_bounds()
    }

    /// Says that what lay under this name is forgotten.
    #[must_use]
    pub fn tombstone(sequence: u64, name: Name) -> Self {
        Self {
            kind: RecordKind::Tombstone,
            sequence,
            body_bytes: 0,
            body_hash: xxh3_64(&[]),
            name,
        }
    }

    /// What the record takes in a segment. See [`record_bytes`].
    #[must_use]
    pub const fn record_bytes(&self) -> u32 {
        record_bytes(self.body_bytes)
    }

    /// Whether this is the body, by its length and its xxh3. Guards against damage, not against intent.
    #[must_use]
    pub fn is_body(&self, body: &[u8]) -> bool {
        body.len() == self.body_bytes as usize && xxh3_64(body) == self.body_hash
    }

    /// The header as bytes.
    #[must_use]
    pub fn encode(&self, salt: Salt) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut row = Row(&mut out);
        row.put(&MAGIC);
        row.put(&[RECORD_VERSION, self.kind.number()]);
        row.put(&0_u16.to_le_bytes());
        row.put(&self.sequence.to_le_bytes());
        row.put(&self.body_bytes.to_le_bytes());
        row.put(&[0; 4]);
        row.put(&self.body_hash.to_le_bytes());
        row.put(&self.name);
        let checksum = checksum(out, salt);
        out[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// The header that these bytes begin with.
    ///
    /// # Errors
    /// [`RecordError`] for anything that [`encode`](Self::encode) does not produce.
    pub fn decode(bytes: &[u8], salt: Salt) -> Result<Self, RecordError> {
        let short = RecordError::Short(bytes.len());
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(short)?;
        let mut fields = Fields(bytes);
        if fields.array().ok_or(short)? != MAGIC {
            return Err(RecordError::Magic);
        }
        let version = fields.u8().ok_or(short)?;
        let kind = fields.u8().ok_or(short)?;
        let flags = fields.u16().ok_or(short)?;
        let sequence = fields.u64().ok_or(short)?;
        let body_bytes = fields.u32().ok_or(short)?;
        if fields.u32().ok_or(short)? != checksum(*bytes, salt) {
            return Err(RecordError::Checksum);
        }
        if version != RECORD_VERSION {
            return Err(RecordError::Version(version));
        }
        let kind = RecordKind::of_number(kind).ok_or(RecordError::Kind(kind))?;
        if flags != 0 {
            return Err(RecordError::Flags(flags));
        }
        Self {
            kind,
            sequence,
            body_bytes,
            body_hash: fields.u64().ok_or(short)?,
            name: fields.array().ok_or(short)?,
        }
        .within_bounds()
    }

    fn within_bounds(self) -> Result<Self, RecordError> {
        let max = self.kind.body_max();
        if self.body_bytes > max {
            return Err(RecordError::BodyBytes {
                got: self.body_bytes,
                max,
                kind: self.kind,
            });
        }
        let zeroes: &[u8] = match self.kind {
            RecordKind::Start => self.name.split_at(24).1,
            RecordKind::Pad => &self.name,
            RecordKind::Stored(_) | RecordKind::Tombstone => &[],
        };
        if zeroes.iter().any(|byte| *byte != 0) {
            return Err(RecordError::Name(self.kind));
        }
        Ok(self)
    }
}

/// The low half of the xxh3 of a header without its checksum.
fn checksum(mut header: [u8; HEADER_BYTES], salt: Salt) -> u32 {
    header[CHECKSUM].fill(0);
    let [a, b, c, d, ..] = salt.checksum(&header).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn salt() -> Salt {
        VolumeId::from_bytes([7; 16]).salt()
    }

    pub(in super::super) fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::Chunk), Just(Kind::Page), Just(Kind::Head)]
    }

    fn headers() -> impl Strategy<Value = RecordHeader> {
        let stored = (
            kinds(),
            any::<(u64, u64, Name)>(),
            0..=u32::try_from(BODY_BYTES_MAX).unwrap(),
        )
            .prop_map(
                |(kind, (sequence, body_hash, name), body_bytes)| RecordHeader {
                    kind: RecordKind::Stored(kind),
                    sequence,
                    body_bytes,
                    body_hash,
                    name,
                },
            );
        prop_oneof![
            stored,
            any::<(u64, [u8; 16], u64)>().prop_map(|(sequence, id, at)| RecordHeader::start(
                VolumeId(id),
                sequence,
                at
            )),
            (any::<u64>(), 1..=64_u32).prop_map(|(sequence, units)| RecordHeader::pad(
                sequence,
                units * 64
            )
            .unwrap()),
            any::<(u64, Name)>()
                .prop_map(|(sequence, name)| RecordHeader::tombstone(sequence, name)),
        ]
    }

    proptest! {
        #[test]
        fn decoding_inverts_encoding(header in headers()) {
            let bytes = header.encode(salt());
            prop_assert_eq!(RecordHeader::decode(&bytes, salt()), Ok(header));
        }

        #[test]
        fn any_flipped_bit_is_refused(header in headers()) {
            for bit in 0..HEADER_BYTES * 8 {
                let mut bytes = header.encode(salt());
                bytes[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(RecordHeader::decode(&bytes, salt()).is_err(), "bit {}", bit);
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..130)) {
            prop_assert!(RecordHeader::decode(&bytes, salt()).is_err());
        }

        /// What has magic, version and checksum right is decoded to something that encodes to the same bytes, or refused.
        #[test]
        fn one_encoding_for_each_header(fields in any::<[u8; 60]>(), kind in 0..9_u8, small: bool) {
            let mut bytes = [0; HEADER_BYTES];
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[4..64].copy_from_slice(&fields);
            (bytes[4], bytes[5]) = (RECORD_VERSION, kind);
            if small {
                (bytes[6], bytes[7], bytes[18], bytes[19]) = (0, 0, 0, 0);
            }
            let sum = checksum(bytes, salt());
            bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
            if let Ok(header) = RecordHeader::decode(&bytes, salt()) {
                prop_assert_eq!(header.encode(salt()), bytes);
            }
        }
    }

    #[test]
    fn the_golden_header() {
        let header = RecordHeader::stored(Kind::Page, 0x0102_0304, [0xab; 32], b"body").unwrap();
        let hex: String = header
            .encode(salt())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "5245433101040000040302010000000004000000e632abdbfae17f18eec8f284abababababababababababababababababababababababababababababababab"
        );
    }

    #[test]
    fn a_header_of_another_volume_is_refused() {
        let bytes = RecordHeader::tombstone(1, [1; 32]).encode(salt());
        let other = VolumeId::from_bytes([8; 16]).salt();
        assert_eq!(
            RecordHeader::decode(&bytes, other),
            Err(RecordError::Checksum)
        );
    }

    #[test]
    fn each_fault_has_its_name() {
        let header = RecordHeader::stored(Kind::Chunk, 1, [1; 32], &[0; 100]).unwrap();
        let with = |change: fn(&mut [u8; HEADER_BYTES])| {
            let mut bytes = header.encode(salt());
            change(&mut bytes);
            let sum = checksum(bytes, salt());
            bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
            RecordHeader::decode(&bytes, salt())
        };
        assert_eq!(with(|_| ()), Ok(header));
        assert_eq!(with(|bytes| bytes[0] = 0), Err(RecordError::Magic));
        assert_eq!(with(|bytes| bytes[4] = 2), Err(RecordError::Version(2)));
        assert_eq!(with(|bytes| bytes[5] = 7), Err(RecordError::Kind(7)));
        assert_eq!(with(|bytes| bytes[6] = 1), Err(RecordError::Flags(1)));
        assert_eq!(with(|bytes| bytes[7] = 1), Err(RecordError::Flags(0x100)));
        let long = with(|bytes| bytes[19] = 1);
        assert!(
            matches!(long, Err(RecordError::BodyBytes { got, .. }) if got == (1 << 24) + 100),
            "{long:?}"
        );
        assert_eq!(
            with(|bytes| bytes[5] = 2),
            Err(RecordError::Name(RecordKind::Pad))
        );
        assert!(matches!(
            with(|bytes| bytes[5] = 6),
            Err(RecordError::BodyBytes { max: 0, .. })
        ));
        assert_eq!(
            RecordHeader::decode(&[0; 63], salt()),
            Err(RecordError::Short(63))
        );
    }

    #[test]
    fn a_record_is_a_row_of_units() {
        for (body, expected) in [
            (0, 64),
            (1, 128),
            (64, 128),
            (65, 192),
            (BODY_MAX, BODY_MAX + 64),
        ] {
            assert_eq!(record_bytes(body), expected);
        }
        assert_eq!(RecordHeader::pad(1, 64).unwrap().record_bytes(), 64);
        assert_eq!(RecordHeader::pad(1, 4096).unwrap().record_bytes(), 4096);
        assert!(RecordHeader::pad(1, BODY_MAX + 128).is_err());
        assert!(
            RecordHeader::stored(Kind::Chunk, 1, [1; 32], &vec![0; BODY_BYTES_MAX + 1]).is_err()
        );
    }

    #[test]
    fn a_body_is_known_by_its_length_and_hash() {
        let header = RecordHeader::stored(Kind::Chunk, 1, [1; 32], b"body").unwrap();
        assert!(header.is_body(b"body"));
        assert!(!header.is_body(b"bodz") && !header.is_body(b"bod") && !header.is_body(b"body "));
    }
}
