//! The footer of a sealed segment: the names of its records, so that recovery need not read the segment.
//!
//! It takes the segment's last whole blocks:
//!
//! | bytes | what |
//! |---|---|
//! | 40 each | name (32), place in the segment in units of 64 (4), body bytes (3), kind as in records (1: chunk, page, head or tombstone) |
//! | | zeroes |
//! | 4 | magic, `FTR1` |
//! | 1 | version, 1 |
//! | 3 | zeroes |
//! | 8 | sequence of the segment |
//! | 4 | entries |
//! | 4 | where the footer begins in the segment |
//! | 8 | xxh3 of the entries |
//! | 24 | zeroes |
//! | 8 | salted xxh3 of the 56 bytes before |
//!
//! Entries are in the order of the log. An open segment has none yet, but may end in one that an earlier lap left: its sequence tells.

use xxhash_rust::xxh3::xxh3_64;

use super::{
    Fields, Row, SEGMENT_BYTES_MAX, Salt, UNIT_BYTES,
    record::{RecordKind, record_bytes},
};
use crate::store::disk::{Name, device::BLOCK_BYTES};

/// The length of a trailer, the segment's last bytes.
pub const TRAILER_BYTES: usize = 64;
/// The length of an entry.
pub const ENTRY_BYTES: usize = 40;
/// The version of footers that this build writes, and the only one it reads.
pub const FOOTER_VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"FTR1";

/// One record of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FooterEntry {
    /// The record's name.
    pub name: Name,
    /// Where its header begins in the segment, in bytes; a multiple of 64.
    pub offset: u32,
    /// Bytes of its body.
    pub body_bytes: u32,
    /// What it is: stored or a tombstone.
    pub kind: RecordKind,
}

/// What the end of a sealed segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The segment's sequence. The footer speaks of the segment's content only if its start has the same.
    pub sequence: u64,
    /// Entries of the footer.
    pub entries: u32,
    /// Where the footer begins in the segment; whole blocks from there to the segment's end.
    pub offset: u32,
    hash: u64,
}

/// Why bytes are no footer. The segment is then read record by record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FooterError {
    /// Fewer or more bytes than the footer has.
    #[error("{got} bytes of a footer of {want}")]
    Length {
        /// Bytes given.
        got: usize,
        /// Bytes wanted.
        want: usize,
    },
    /// Not sealed, or the end is damaged.
    #[error("no footer's magic")]
    Magic,
    /// Damaged, or another volume's.
    #[error("a footer's end has not its checksum")]
    Checksum,
    /// Another build wrote it.
    #[error("footer version {0}, this build reads {FOOTER_VERSION}")]
    Version(u8),
    /// The numbers do not fit a segment.
    #[error(
        "a footer of {entries} entries at {offset} does not end a segment of {segment_bytes} bytes"
    )]
    Shape {
        /// Entries it claims.
        entries: u32,
        /// Where it claims to begin.
        offset: u32,
        /// The segment's length.
        segment_bytes: u32,
    },
    /// Damaged, or written in part.
    #[error("a footer's entries have not their hash")]
    Entries,
    /// An entry that is no place of a record, or out of order.
    #[error("entry {0} of a footer is no record's place")]
    Entry(usize),
}

/// The blocks that a footer of so many entries takes, in bytes.
#[must_use]
pub const fn footer_bytes(entries: u32) -> u64 {
    (entries as u64 * ENTRY_BYTES as u64 + TRAILER_BYTES as u64)
        .next_multiple_of(BLOCK_BYTES as u64)
}

/// Writes the footer of a segment into `out`, the segment's last [`footer_bytes`], all of which are overwritten.
///
/// Entries are those of the records in the order of the log.
///
/// # Errors
/// [`FooterError::Length`] if `out` is of another length, [`FooterError::Entry`] or [`FooterError::Shape`] for entries that cannot be those of a segment of
/// this length. `out` is then in no defined state.
pub fn encode(
    entries: &[FooterEntry],
    sequence: u64,
    segment_bytes: u32,
    salt: Salt,
    out: &mut [u8],
) -> Result<(), FooterError> {
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let trailer = Trailer::shaped(sequence, count, segment_bytes)?;
    let want = (segment_bytes - trailer.offset) as usize;
    if out.len() != want {
        let got = out.len();
        return Err(FooterError::Length { got, want });
    }
    out.fill(0);
    let (rows, last) = out.split_at_mut(out.len() - TRAILER_BYTES);
    let rows = &mut rows[..entries.len() * ENTRY_BYTES];
    let mut row = Row(rows);
    let mut end = UNIT_BYTES;
    for (index, entry) in entries.iter().enumerate() {
        end = entry
            .end_after(end, trailer.offset)
            .ok_or(FooterError::Entry(index))?;
        row.put(&entry.name);
        row.put(&(entry.offset / UNIT_BYTES).to_le_bytes());
        let [a, b, c, _] = entry.body_bytes.to_le_bytes();
        row.put(&[a, b, c, entry.kind.number()]);
    }
    let hash = xxh3_64(rows);
    last.copy_from_slice(&Trailer { hash, ..trailer }.encode(salt));
    Ok(())
}

impl Trailer {
    /// The trailer of a footer of so many entries, in its place.
    fn shaped(sequence: u64, entries: u32, segment_bytes: u32) -> Result<Self, FooterError> {
        let offset = u64::from(segment_bytes)
            .checked_sub(footer_bytes(entries))
            .and_then(|offset| u32::try_from(offset).ok())
            .filter(|_| segment_bytes <= SEGMENT_BYTES_MAX)
            .ok_or(FooterError::Shape {
                entries,
                offset: 0,
                segment_bytes,
            })?;
        Ok(Self {
            sequence,
            entries,
            offset,
            hash: 0,
        })
    }

    fn encode(&self, salt: Salt) -> [u8; TRAILER_BYTES] {
        let mut out = [0; TRAILER_BYTES];
        let (said, sum) = out.split_at_mut(TRAILER_BYTES - 8);
        let mut row = Row(said);
        row.put(&MAGIC);
        row.put(&[FOOTER_VERSION, 0, 0, 0]);
        row.put(&self.sequence.to_le_bytes());
        row.put(&self.entries.to_le_bytes());
        row.put(&self.offset.to_le_bytes());
        row.put(&self.hash.to_le_bytes());
        sum.copy_from_slice(&salt.checksum(said).to_le_bytes());
        out
    }

    /// The trailer that these bytes end with: the last bytes of a segment of this length, at least [`TRAILER_BYTES`].
    ///
    /// # Errors
    /// [`FooterError`] for anything that does not end a footer.
    pub fn decode(bytes: &[u8], segment_bytes: u32, salt: Salt) -> Result<Self, FooterError> {
        let length = FooterError::Length {
            got: bytes.len(),
            want: TRAILER_BYTES,
        };
        let bytes: &[u8; TRAILER_BYTES] = bytes.last_chunk().ok_or(length)?;
        let mut fields = Fields(bytes);
        if fields.array().ok_or(length)? != MAGIC {
            return Err(FooterError::Magic);
        }
        let (said, sum) = bytes.split_at(TRAILER_BYTES - 8);
        if Fields(sum).u64().ok_or(length)? != salt.checksum(said) {
            return Err(FooterError::Checksum);
        }
        let version = fields.u8().ok_or(length)?;
        if version != FOOTER_VERSION {
            return Err(FooterError::Version(version));
        }
        let [_, _, _] = fields.array().ok_or(length)?;
        let sequence = fields.u64().ok_or(length)?;
        let entries = fields.u32().ok_or(length)?;
        let offset = fields.u32().ok_or(length)?;
        let hash = fields.u64().ok_or(length)?;
        let trailer = Self {
            hash,
            ..Self::shaped(sequence, entries, segment_bytes)?
        };
        // The fields decide all bytes: what is not zero where zeroes belong is refused with a wrong place.
        if trailer.offset != offset || trailer.encode(salt) != *bytes {
            return Err(FooterError::Shape {
                entries,
                offset,
                segment_bytes,
            });
        }
        Ok(trailer)
    }

    /// The entries, of the segment's bytes from [`offset`](Self::offset) to its end. All were looked at when this returns.
    ///
    /// # Errors
    /// [`FooterError::Length`], [`FooterError::Entries`] or [`FooterError::Entry`].
    pub fn entries<'a>(
        &self,
        footer: &'a [u8],
    ) -> Result<impl Iterator<Item = FooterEntry> + use<'a>, FooterError> {
        let want = usize::try_from(footer_bytes(self.entries)).unwrap_or(usize::MAX);
        let got = footer.len();
        if got != want {
            return Err(FooterError::Length { got, want });
        }
        let rows = footer
            .get(..self.entries as usize * ENTRY_BYTES)
            .ok_or(FooterError::Length { got, want })?;
        if xxh3_64(rows) != self.hash {
            return Err(FooterError::Entries);
        }
        let (rows, _) = rows.as_chunks::<ENTRY_BYTES>();
        let mut end = UNIT_BYTES;
        for (index, row) in rows.iter().enumerate() {
            end = FooterEntry::decode(row)
                .and_then(|entry| entry.end_after(end, self.offset))
                .ok_or(FooterError::Entry(index))?;
        }
        Ok(rows.iter().filter_map(FooterEntry::decode))
    }
}

impl FooterEntry {
    fn decode(row: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let mut fields = Fields(row);
        let name = fields.array()?;
        let offset = fields.u32()?.checked_mul(UNIT_BYTES)?;
        let [a, b, c] = fields.array()?;
        Some(Self {
            name,
            offset,
            body_bytes: u32::from_le_bytes([a, b, c, 0]),
            kind: RecordKind::of_number(fields.u8()?)?,
        })
    }

    /// Where the record ends, if it can lie between the end of the one before and the footer.
    fn end_after(&self, end: u32, footer: u32) -> Option<u32> {
        let stored = match self.kind {
            RecordKind::Stored(_) | RecordKind::Tombstone => {
                self.body_bytes <= self.kind.body_max()
            }
            RecordKind::Start | RecordKind::Pad => false,
        };
        let placed = self.offset >= end && self.offset.is_multiple_of(UNIT_BYTES);
        // The body's length was checked, so this does not overflow before it is compared.
        let after = (stored && placed).then(|| record_bytes(self.body_bytes))?;
        self.offset
            .checked_add(after)
            .filter(|after| *after <= footer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            SEGMENT_BYTES_MIN,
            record::tests::{kinds, salt},
        },
        *,
    };

    /// Records of a segment of the shortest length, some with gaps between them.
    fn segments() -> impl Strategy<Value = Vec<FooterEntry>> {
        let kind = prop_oneof![
            4 => kinds().prop_map(RecordKind::Stored),
            1 => Just(RecordKind::Tombstone),
        ];
        let record = (any::<Name>(), kind, 0..9_000_u32, 0..3_u32);
        prop::collection::vec(record, 0..300).prop_map(|records| {
            let mut offset = UNIT_BYTES;
            let mut entries = Vec::new();
            for (name, kind, body_bytes, gap) in records {
                let body_bytes = body_bytes.min(kind.body_max());
                offset += gap * UNIT_BYTES;
                entries.push(FooterEntry {
                    name,
                    offset,
                    body_bytes,
                    kind,
                });
                offset += record_bytes(body_bytes);
                let footer = footer_bytes(u32::try_from(entries.len()).unwrap());
                if u64::from(offset) + footer > u64::from(SEGMENT_BYTES_MIN) {
                    entries.pop();
                    break;
                }
            }
            entries
        })
    }

    fn encoded(entries: &[FooterEntry]) -> Vec<u8> {
        let len = footer_bytes(u32::try_from(entries.len()).unwrap());
        let mut out = vec![0xff; usize::try_from(len).unwrap()];
        encode(entries, 9, SEGMENT_BYTES_MIN, salt(), &mut out).unwrap();
        out
    }

    fn decoded(footer: &[u8]) -> Result<Vec<FooterEntry>, FooterError> {
        let trailer = Trailer::decode(footer, SEGMENT_BYTES_MIN, salt())?;
        assert_eq!(trailer.sequence, 9);
        Ok(trailer.entries(footer)?.collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn decoding_inverts_encoding(entries in segments()) {
            let footer = encoded(&entries);
            prop_assert_eq!(footer.len() % BLOCK_BYTES, 0);
            prop_assert_eq!(decoded(&footer), Ok(entries));
        }

        /// Any bit of the entries and the trailer. Those of the padding between them say nothing.
        #[test]
        fn any_flipped_bit_is_refused(entries in segments(), at in any::<prop::sample::Index>()) {
            let mut footer = encoded(&entries);
            let said = entries.len() * ENTRY_BYTES;
            let bit = at.index((said + TRAILER_BYTES) * 8);
            let byte = if bit / 8 < said { bit / 8 } else { footer.len() - TRAILER_BYTES + bit / 8 - said };
            footer[byte] ^= 1 << (bit % 8);
            prop_assert!(decoded(&footer).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..9_000)) {
            prop_assert!(Trailer::decode(&bytes, SEGMENT_BYTES_MIN, salt()).is_err());
        }

        /// Entries that no log writes, under a right hash and checksum: an error or entries in bounds, no panic.
        #[test]
        fn forged_entries_stay_in_bounds(
            rows in prop::collection::vec((any::<Name>(), 0..9_000_u32, any::<[u8; 3]>(), 0..9_u8), 1..9)
        ) {
            let count = u32::try_from(rows.len()).unwrap();
            let mut footer = vec![0; usize::try_from(footer_bytes(count)).unwrap()];
            let mut row = Row(&mut footer);
            for (name, offset, len, kind) in &rows {
                row.put(name);
                row.put(&offset.to_le_bytes());
                row.put(len);
                row.put(&[*kind]);
            }
            let hash = xxh3_64(&footer[..rows.len() * ENTRY_BYTES]);
            let trailer = Trailer { hash, ..Trailer::shaped(9, count, SEGMENT_BYTES_MIN).unwrap() };
            let end = footer.len() - TRAILER_BYTES;
            footer[end..].copy_from_slice(&trailer.encode(salt()));
            if let Ok(entries) = decoded(&footer) {
                for entry in entries {
                    prop_assert!(entry.offset + record_bytes(entry.body_bytes) <= trailer.offset);
                }
            }
        }
    }

    #[test]
    fn the_golden_footer() {
        let entry = FooterEntry {
            name: [0xab; 32],
            offset: 64,
            body_bytes: 0x01_02_03,
            kind: RecordKind::Stored(crate::store::disk::Kind::Chunk),
        };
        let footer = encoded(&[entry]);
        let hex =
            |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        assert_eq!(footer.len(), BLOCK_BYTES);
        assert_eq!(
            hex(&footer[..40]),
            format!("{}0100000003020103", "ab".repeat(32))
        );
        assert_eq!(
            hex(&footer[BLOCK_BYTES - TRAILER_BYTES..]),
            "465452310100000009000000000000000100000000f007007704d5da0ed2cc16000000000000000000000000000000000000000000000000e36e8e01c4d05477"
        );
    }

    #[test]
    fn a_footer_takes_whole_blocks() {
        for (entries, expected) in [(0, 4096), (100, 4096), (101, 8192), (700, 28_672)] {
            assert_eq!(footer_bytes(entries), expected);
        }
        assert!(footer_bytes(u32::MAX) > u64::from(u32::MAX));
    }

    #[test]
    fn entries_that_no_segment_has_are_not_written() {
        let entry = |offset, body_bytes, kind| FooterEntry {
            name: [1; 32],
            offset,
            body_bytes,
            kind,
        };
        let stored = RecordKind::Stored(crate::store::disk::Kind::Head);
        let mut out = vec![0; BLOCK_BYTES];
        for entries in [
            vec![entry(0, 10, stored)],
            vec![entry(65, 10, stored)],
            vec![entry(64, 10, RecordKind::Start)],
            vec![entry(64, 10, RecordKind::Tombstone)],
            vec![entry(64, 262_145, stored)],
            vec![entry(64, 65, stored), entry(192, 1, stored)],
            vec![entry(SEGMENT_BYTES_MIN - 4096, 0, stored)],
            vec![entry(u32::MAX - 63, 0, stored)],
        ] {
            let got = encode(&entries, 1, SEGMENT_BYTES_MIN, salt(), &mut out);
            assert!(
                matches!(got, Err(FooterError::Entry(at)) if at == entries.len() - 1),
                "{got:?}"
            );
        }
        let fits = [entry(SEGMENT_BYTES_MIN - 4096 - 64, 0, stored)];
        assert_eq!(
            encode(&fits, 1, SEGMENT_BYTES_MIN, salt(), &mut out),
            Ok(())
        );
        let length = encode(&fits, 1, SEGMENT_BYTES_MIN, salt(), &mut out[1..]);
        assert!(matches!(length, Err(FooterError::Length { .. })));
    }
}
