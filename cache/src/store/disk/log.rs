//! The end of the log in memory: where the next record goes, and the bytes that are not on the device yet.
//!
//! Values only: no device, no clock, no task. Whoever puts a record reserves its place and copies the body under one short lock. The volume's writer
//! takes buffers that are full or old, in order, and says when they are written; until then reads find their bytes here.
//!
//! Invariants: places are given out in the order of the log; the bytes of a record are on the device, or in here, or the record has left the index.

use std::{collections::VecDeque, sync::Arc};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    Name,
    checkpoint::Position,
    device::{BLOCK_BYTES, IoBuf},
    format::{
        Salt,
        footer::{FooterEntry, footer_bytes},
        record::{HEADER_BYTES, RecordHeader, RecordKind},
    },
    index::Place,
};

/// The size of an append.
pub(super) const BUFFER_BYTES: usize = 1 << 20;

/// Tombstones that wait for room; 2 MiB of names.
const OWED_MAX: usize = 1 << 16;

/// How much of the log's room a record may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// Buffers there may be, of 1 MiB, the open one and those on their way included.
    buffers: usize,
    /// Fresh segments that are left for others.
    reserve: usize,
}

impl Claim {
    /// What can be had again: 16 MiB, and not the last fresh segment. At the bound a put is refused as busy.
    pub(super) const CONTENT: Self = Self {
        buffers: 16,
        reserve: 1,
    };

    /// What makes content of use, and is small: 4 MiB more, and the last segment, so that no flood of content leaves it out.
    pub(super) const HEAD: Self = Self {
        buffers: 20,
        reserve: 0,
    };

    /// What is moved out of an old segment, for there is no other way to a fresh one.
    pub(super) const MOVED: Self = Self {
        buffers: 16,
        reserve: 0,
    };
}

/// A record to be appended; `hash` is its body's, as headers have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: RecordKind,
    pub(super) name: Name,
    pub(super) body: &'a [u8],
    pub(super) hash: u64,
}

/// The unit of places, in bytes.
pub(super) const UNIT: usize = super::format::UNIT_BYTES as usize;

/// Bytes that a record with a body of this length takes in the log.
pub(super) const fn record_bytes(body_bytes: usize) -> usize {
    HEADER_BYTES + body_bytes.next_multiple_of(UNIT)
}

/// A segment that may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fresh {
    pub(super) segment: u32,
    pub(super) sequence: u64,
    /// The name of its first record.
    pub(super) name: Name,
}

/// What the writer is to do, in order.
#[derive(Debug)]
pub(super) enum Work {
    /// Write these bytes.
    Write(Arc<Flight>),
    /// All of a segment's bytes have been handed out: write its footer, once they are written.
    Seal {
        /// The segment.
        segment: u32,
        /// Its sequence.
        sequence: u64,
    },
}

/// Bytes on their way to the device.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) segment: u32,
    pub(super) sequence: u64,
    /// Bytes from the segment's first.
    pub(super) start: usize,
    /// Whole blocks.
    pub(super) bytes: Arc<IoBuf>,
    /// The records in it.
    pub(super) entries: Vec<FooterEntry>,
    /// Its number: flights are counted as they are handed over.
    number: u64,
}

/// Why there is no place for a record now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    /// All buffers wait for the device.
    #[error("all buffers wait for the device")]
    Buffers,
    /// No segment is free.
    #[error("no segment is free")]
    Segments,
}

/// The segment that is being filled.
#[derive(Debug)]
struct Open {
    segment: u32,
    sequence: u64,
    /// Where the next byte that is handed over goes.
    start: usize,
    /// Records in it, for the size of its footer.
    records: u32,
    buffer: Option<Buffer>,
}

/// What is being filled, and goes to `Open::start`.
#[derive(Debug)]
struct Buffer {
    bytes: IoBuf,
    filled: usize,
    entries: Vec<FooterEntry>,
}

/// The end of the log.
#[derive(Debug)]
pub(super) struct Log {
    segment_bytes: usize,
    salt: Salt,
    open: Option<Open>,
    fresh: VecDeque<Fresh>,
    work: VecDeque<Work>,
    /// Handed over and not written yet, in order.
    flying: VecDeque<Arc<Flight>>,
    spare: Vec<IoBuf>,
    /// Buffers there are, wherever they are.
    buffers: usize,
    /// Flights so far.
    handed_over: u64,
    /// The buffer that was open at the last tick.
    aged: Option<(u64, usize)>,
    /// Where the log ended when nothing was on its way.
    end: Position,
    /// Names whose tombstones found no place, or were lost with a write. The next that can be had is theirs.
    owed: VecDeque<Name>,
}

impl Log {
    /// A log that ended at `end`; the next record goes to the first fresh segment.
    pub(super) fn new(segment_bytes: usize, salt: Salt, end: Position) -> Self {
        Self {
            segment_bytes,
            salt,
            open: None,
            fresh: VecDeque::new(),
            work: VecDeque::new(),
            flying: VecDeque::new(),
            spare: Vec::new(),
            buffers: 0,
            handed_over: 0,
            aged: None,
            end,
            owed: VecDeque::new(),
        }
    }

    /// Remembers a name whose tombstone is still to be written. Not beyond [`OWED_MAX`]: then `false`.
    pub(super) fn owe(&mut self, name: Name) -> bool {
        let has_room = self.owed.len() < OWED_MAX;
        if has_room {
            self.owed.push_back(name);
        }
        has_room
    }

    /// The next name whose tombstone is to be written, if there is room for one.
    pub(super) fn next_owed(&mut self) -> Option<Name> {
        if self.owed.is_empty() || !self.has_room(0, Claim::HEAD) {
            return None;
        }
        self.owed.pop_front()
    }

    /// Adds a segment to those that may be opened.
    pub(super) fn offer(&mut self, fresh: Fresh) {
        self.fresh.push_back(fresh);
    }

    /// Segments that may be opened.
    pub(super) fn fresh(&self) -> usize {
        self.fresh.len()
    }

    /// Whether a record with a body of this length would find a place.
    pub(super) fn has_room(&self, body_bytes: usize, claim: Claim) -> bool {
        let bytes = record_bytes(body_bytes);
        let spare = self.has_buffer(claim);
        match &self.open {
            Some(open) if self.fits(open, bytes) => {
                let in_buffer = |buffer: &Buffer| buffer.filled + bytes <= BUFFER_BYTES;
                spare || open.buffer.as_ref().is_some_and(in_buffer)
            }
            _ => spare && self.fresh.len() > claim.reserve,
        }
    }

    fn has_buffer(&self, claim: Claim) -> bool {
        let in_use = self.buffers - self.spare.len();
        in_use < claim.buffers
    }

    /// Copies a record to the log's end.
    pub(super) fn append(&mut self, record: &Record<'_>, claim: Claim) -> Result<Place, NoPlace> {
        let bytes = record_bytes(record.body.len());
        if !self.has_room(record.body.len(), claim) {
            return Err(if self.has_buffer(claim) {
                NoPlace::Segments
            } else {
                NoPlace::Buffers
            });
        }
        if self
            .open
            .as_ref()
            .is_none_or(|open| !self.fits(open, bytes))
        {
            self.seal();
            self.open_next()?;
        } else if self
            .open
            .as_ref()
            .and_then(|open| open.buffer.as_ref())
            .is_some_and(|buffer| buffer.filled + bytes > BUFFER_BYTES)
        {
            self.hand_over();
        }
        self.push(record)
    }

    /// Hands over the open buffer, however full.
    pub(super) fn hand_over(&mut self) {
        let Some(open) = &mut self.open else { return };
        let Some(mut buffer) = open.buffer.take() else {
            return;
        };
        let gap = buffer.filled.next_multiple_of(BLOCK_BYTES) - buffer.filled;
        if gap > 0 {
            // Records are multiples of a unit, which is a header's size: a header fits.
            let pad = u32::try_from(gap)
                .ok()
                .and_then(|gap| RecordHeader::pad(open.sequence, gap).ok());
            let (at, end) = (buffer.filled, buffer.filled + gap);
            if let (Some(place), Some(pad)) = (buffer.bytes.get_mut(at..end), pad) {
                place.fill(0);
                place[..HEADER_BYTES].copy_from_slice(&pad.encode(self.salt));
            }
            buffer.filled = end;
        }
        buffer.bytes.truncate(buffer.filled);
        self.handed_over += 1;
        let flight = Arc::new(Flight {
            number: self.handed_over,
            segment: open.segment,
            sequence: open.sequence,
            start: open.start,
            bytes: Arc::new(buffer.bytes),
            entries: buffer.entries,
        });
        open.start += buffer.filled;
        self.flying.push_back(Arc::clone(&flight));
        self.work.push_back(Work::Write(flight));
    }

    /// Closes the open segment: what follows goes to the next.
    pub(super) fn seal(&mut self) {
        self.hand_over();
        if let Some(open) = self.open.take() {
            self.end = position(open.segment, open.sequence, open.start);
            self.work.push_back(Work::Seal {
                segment: open.segment,
                sequence: open.sequence,
            });
        }
    }

    /// Closes the open segment if it is of this sequence.
    pub(super) fn seal_if_open(&mut self, sequence: u64) {
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.sequence == sequence)
        {
            self.seal();
        }
    }

    /// The writer's next work.
    pub(super) fn next_work(&mut self) -> Option<Work> {
        self.work.pop_front()
    }

    /// Whether the writer has work waiting.
    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// How many flights were handed over.
    pub(super) fn handed_over(&self) -> u64 {
        self.handed_over
    }

    /// Up to which number all flights have landed.
    pub(super) fn landed_up_to(&self) -> u64 {
        self.flying
            .front()
            .map_or(self.handed_over, |first| first.number - 1)
    }

    /// Hands over the open buffer if it was open when this was asked last: so nothing is in memory alone for longer than twice the time between
    /// two calls.
    pub(super) fn age(&mut self) {
        let begun = self
            .open
            .as_ref()
            .and_then(|open| open.buffer.as_ref().map(|_| (open.sequence, open.start)));
        if begun.is_some() && begun == self.aged {
            self.hand_over();
            self.aged = None;
        } else {
            self.aged = begun;
        }
    }

    /// A flight has landed, or failed for good: its bytes are no longer here.
    pub(super) fn landed(&mut self, flight: &Arc<Flight>) {
        self.flying.retain(|other| !Arc::ptr_eq(other, flight));
    }

    /// Takes back the buffer of a flight that nobody holds any more.
    pub(super) fn recycle(&mut self, flight: Arc<Flight>) {
        let bytes = Arc::try_unwrap(flight)
            .ok()
            .and_then(|flight| Arc::try_unwrap(flight.bytes).ok());
        match bytes {
            Some(mut bytes) => {
                bytes.restore();
                self.spare.push(bytes);
            }
            // A reader copies from it at this moment. It frees the memory; another buffer may be made.
            None => self.buffers -= 1,
        }
    }

    /// The bytes of a record that is not on the device yet: header and body.
    pub(super) fn pending(&self, place: Place) -> Option<Pending<'_>> {
        let (offset, len) = (place.offset() as usize, place.record_bytes() as usize);
        if let Some(open) = &self.open
            && open.segment == place.segment()
            && let Some(buffer) = &open.buffer
            && let Some(at) = offset.checked_sub(open.start)
        {
            return buffer.bytes.get(at..at + len).map(Pending::Open);
        }
        self.flying
            .iter()
            .find(|flight| {
                flight.segment == place.segment()
                    && offset >= flight.start
                    && offset + len <= flight.start + flight.bytes.len()
            })
            .map(|flight| Pending::Flying(Arc::clone(flight), offset - flight.start))
    }

    /// Up to where everything is on the device.
    pub(super) fn position(&self) -> Position {
        if let Some(first) = self.flying.front() {
            return position(first.segment, first.sequence, first.start);
        }
        self.open.as_ref().map_or(self.end, |open| {
            position(open.segment, open.sequence, open.start)
        })
    }

    /// Whether a record still fits before the footer.
    fn fits(&self, open: &Open, record_bytes: usize) -> bool {
        let filled = open.buffer.as_ref().map_or(0, |buffer| buffer.filled);
        let begin = if filled + record_bytes > BUFFER_BYTES {
            // The buffer is handed over first, and padded for that.
            (open.start + filled).next_multiple_of(BLOCK_BYTES)
        } else {
            open.start + filled
        };
        let end = (begin + record_bytes).next_multiple_of(BLOCK_BYTES);
        end as u64 + footer_bytes(open.records + 1) <= self.segment_bytes as u64
    }

    fn open_next(&mut self) -> Result<(), NoPlace> {
        let fresh = self.fresh.pop_front().ok_or(NoPlace::Segments)?;
        self.open = Some(Open {
            segment: fresh.segment,
            sequence: fresh.sequence,
            start: 0,
            records: 0,
            buffer: None,
        });
        self.push(&Record {
            kind: RecordKind::Start,
            name: fresh.name,
            body: &[],
            hash: xxh3_64(&[]),
        })?;
        Ok(())
    }

    /// Writes a record that fits into the open segment's buffer.
    fn push(&mut self, record: &Record<'_>) -> Result<Place, NoPlace> {
        let open = self.open.as_mut().ok_or(NoPlace::Segments)?;
        let buffer = match &mut open.buffer {
            Some(buffer) => buffer,
            none => {
                let bytes = match self.spare.pop() {
                    Some(bytes) => bytes,
                    // Whoever claims room was asked before how many there may be.
                    None => {
                        self.buffers += 1;
                        IoBuf::zeroed(BUFFER_BYTES)
                    }
                };
                none.insert(Buffer {
                    bytes,
                    filled: 0,
                    entries: Vec::new(),
                })
            }
        };
        let body_bytes = record.body.len();
        let bytes = record_bytes(body_bytes);
        let offset = open.start + buffer.filled;
        let (Ok(offset), Ok(body_len)) = (u32::try_from(offset), u32::try_from(body_bytes)) else {
            return Err(NoPlace::Segments);
        };
        let header = RecordHeader {
            kind: record.kind,
            sequence: open.sequence,
            body_bytes: body_len,
            body_hash: record.hash,
            name: record.name,
        };
        let Some(place) = buffer.bytes.get_mut(buffer.filled..buffer.filled + bytes) else {
            return Err(NoPlace::Buffers);
        };
        let (head, rest) = place.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&header.encode(self.salt));
        let (body, padding) = rest.split_at_mut(body_bytes);
        body.copy_from_slice(record.body);
        padding.fill(0);
        buffer.filled += bytes;
        if record.kind != RecordKind::Start {
            open.records += 1;
            buffer.entries.push(FooterEntry {
                name: record.name,
                offset,
                body_bytes: body_len,
                kind: record.kind,
            });
        }
        Place::new(open.segment, offset, body_len).ok_or(NoPlace::Segments)
    }
}

fn position(segment: u32, sequence: u64, offset: usize) -> Position {
    Position {
        sequence,
        segment,
        offset: u32::try_from(offset).unwrap_or(u32::MAX),
    }
}

/// Where a record's bytes are that are not on the device yet.
#[derive(Debug)]
pub(super) enum Pending<'a> {
    /// In the open buffer: to be copied under the lock.
    Open(&'a [u8]),
    /// In a flight, from this byte of it: to be copied without the lock.
    Flying(Arc<Flight>, usize),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::disk::{
        BODY_BYTES_MAX, Kind,
        format::{SEGMENT_BYTES_MAX, VolumeId, footer},
    };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Lengths that leave gaps of all sizes at the ends of buffers and segments.
        #[test]
        fn every_segment_has_room_for_its_footer(
            lens in prop::collection::vec(prop_oneof![0..5_000_usize, 0..BODY_BYTES_MAX], 800..1_200),
            halvings in 2..6_u32,
            aged in prop::collection::vec(any::<bool>(), 64),
        ) {
            let segment_bytes = SEGMENT_BYTES_MAX >> halvings;
            let salt = VolumeId::from_bytes([1; 16]).salt();
            let end = Position { sequence: 0, segment: 0, offset: 0 };
            let mut log = Log::new(segment_bytes as usize, salt, end);
            let body = vec![7; BODY_BYTES_MAX];
            let mut entries = Vec::new();
            let mut segments = 0;
            for (number, len) in lens.iter().enumerate() {
                while log.fresh() < 2 {
                    segments += 1;
                    log.offer(Fresh { segment: segments, sequence: u64::from(segments), name: [0; 32] });
                }
                let name = *blake3::hash(&number.to_le_bytes()).as_bytes();
                let record = Record {
                    kind: RecordKind::Stored(Kind::Chunk),
                    name,
                    body: &body[..*len],
                    hash: 0,
                };
                log.append(&record, Claim::CONTENT).unwrap();
                if aged[number % aged.len()] {
                    log.hand_over();
                }
                while let Some(work) = log.next_work() {
                    match work {
                        Work::Write(flight) => {
                            entries.extend_from_slice(&flight.entries);
                            log.landed(&flight);
                            log.recycle(flight);
                        }
                        Work::Seal { sequence, .. } => {
                            let count = u32::try_from(entries.len()).unwrap();
                            let mut out = vec![0; usize::try_from(footer_bytes(count)).unwrap()];
                            footer::encode(&entries, sequence, segment_bytes, salt, &mut out).unwrap();
                            entries.clear();
                        }
                    }
                }
            }
            prop_assert!(segments > 1);
        }
    }
}
