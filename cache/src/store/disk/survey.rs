//! Walking through what lies on a volume: is it what was written, whose is it, how old is it.
//!
//! A survey reads a segment's live records in pieces and compares each with the hash it was written with. That hash needs no key, so damage is found without knowing
//! whose a record is; it is dropped then, as a reader would. What moves or leaves meanwhile is passed over.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::{Instant, sleep_until};

use super::{
    Kind, Name,
    device::{BLOCK_BYTES, Extent},
    format::{
        footer::FooterEntry,
        record::{HEADER_BYTES, RecordHeader, RecordKind},
    },
    index::Place,
    recover,
    segments::Life,
    volume::Volume,
};

/// Read at once.
const PIECE_BYTES: usize = 1 << 20;

/// What lies between two records is read with them if it is no longer than this.
const GAP_BYTES: usize = 64 << 10;

/// What a walk looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Records of these kinds.
    pub(super) kinds: &'a [Kind],
    /// In segments of this sequence and later ones alone.
    pub(super) since: Option<u64>,
    /// In segments too that are being filled or emptied.
    pub(super) unsealed: bool,
}

impl Wanted<'_> {
    /// Everything that is not about to change.
    const SEALED: Self = Self {
        kinds: &[Kind::Chunk, Kind::Page, Kind::Head],
        since: None,
        unsealed: false,
    };

    fn segment(&self, volume: &Volume, segment: u32) -> bool {
        let is_in = match volume.segments.life(segment) {
            Life::Sealed => true,
            Life::Open | Life::Reclaiming => self.unsealed,
            Life::Empty => false,
        };
        is_in
            && self
                .since
                .is_none_or(|since| volume.segments.sequence(segment) >= since)
    }

    fn record(&self, kind: RecordKind) -> bool {
        matches!(kind, RecordKind::Stored(kind) if self.kinds.contains(&kind))
    }
}

/// What a walk through segments found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Segments looked at.
    pub segments: u64,
    /// Segments that could not be read.
    pub unreadable: u64,
    /// Records that can be found and are what was written.
    pub records: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Records that are not what was written. Those that can be found are dropped; the others are when a reader comes.
    pub damaged: u64,
}

impl Survey {
    /// Both together.
    pub const fn add(&mut self, other: &Self) {
        self.segments += other.segments;
        self.unreadable += other.unreadable;
        self.records += other.records;
        self.bytes += other.bytes;
        self.damaged += other.damaged;
    }
}

/// Who is shown each record that is what was written.
pub(super) type See<'a> = &'a mut (dyn FnMut(Kind, &Name, &[u8]) + Send);

/// How fast a walk may be.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_a_second: Option<u64>,
    next: Instant,
}

impl Pace {
    /// At most so many bytes a second; `None` for as fast as it goes.
    pub(super) fn new(bytes_a_second: Option<u64>) -> Self {
        Self {
            bytes_a_second,
            next: Instant::now(),
        }
    }

    async fn step(&mut self, bytes: usize) {
        let Some(rate) = self.bytes_a_second else {
            return;
        };
        sleep_until(self.next).await;
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        // Time that was not used is not made up for.
        self.next = self.next.max(Instant::now()) + takes;
    }
}

/// Walks through one segment. What is in memory alone is not looked at.
async fn segment(
    volume: &Arc<Volume>,
    segment: u32,
    wanted: Wanted<'_>,
    pace: &mut Pace,
    see: See<'_>,
) -> Survey {
    let mut survey = Survey {
        segments: 1,
        ..Survey::default()
    };
    let sequence = volume.segments.sequence(segment);
    let (device, layout) = (&*volume.device, &volume.layout);
    let entries = recover::entries_beyond_damage(device, layout, segment, sequence).await;
    let Ok((mut entries, unrecognized)) = entries else {
        survey.unreadable = 1;
        return survey;
    };
    // While a segment is filled, what is written first may lie behind what is written next.
    if volume.segments.life(segment) != Life::Open {
        survey.damaged += unrecognized;
    }
    entries.retain(|entry| {
        let place = entry.place(segment);
        wanted.record(entry.kind) && place.is_some() && volume.index.get(&entry.name) == place
    });
    let mut rest = entries.as_slice();
    while let Some(first) = rest.first() {
        let end = first.offset as usize + PIECE_BYTES;
        let mut reached = first.offset as usize;
        let within = rest.iter().take_while(|entry| {
            let is_near = entry.offset as usize <= reached + GAP_BYTES;
            reached = entry_end(entry);
            is_near && reached <= end
        });
        let (piece, others) = rest.split_at(within.count().max(1));
        rest = others;
        let last = piece.last().map_or(0, entry_end);
        let from = first.offset as usize / BLOCK_BYTES * BLOCK_BYTES;
        let extent = Extent {
            offset: volume.layout.offset(segment, from as u64),
            len: (last - from).next_multiple_of(BLOCK_BYTES),
        };
        pace.step(extent.len).await;
        match volume.device.read(extent).await {
            Ok(bytes) => {
                for entry in piece {
                    let record = bytes.get(entry.offset as usize - from..).unwrap_or(&[]);
                    look(volume, segment, entry, record, &mut survey, see);
                }
            }
            Err(_) => {
                volume.metrics.read_errors.inc();
                survey.unreadable = 1;
            }
        }
    }
    survey
}

fn entry_end(entry: &FooterEntry) -> usize {
    entry.offset as usize + super::log::record_bytes(entry.body_bytes as usize)
}

fn look(
    volume: &Volume,
    segment: u32,
    entry: &FooterEntry,
    record: &[u8],
    survey: &mut Survey,
    see: See<'_>,
) {
    let whole = RecordHeader::decode(record, volume.layout.salt)
        .ok()
        .filter(|header| header.name == entry.name && header.kind == entry.kind)
        .and_then(|header| {
            let body = record.get(HEADER_BYTES..HEADER_BYTES + header.body_bytes as usize)?;
            header.is_body(body).then_some(body)
        });
    match (whole, entry.kind) {
        (Some(body), RecordKind::Stored(kind)) => {
            survey.records += 1;
            survey.bytes += body.len() as u64;
            see(kind, &entry.name, body);
        }
        (Some(_), _) => {}
        (None, _) => {
            let dropped = |place: Place| volume.drop_place(&entry.name, place);
            // What is no longer there was moved or has left.
            if entry.place(segment).is_some_and(dropped) {
                survey.damaged += 1;
                volume.metrics.corrupt.inc();
            }
        }
    }
}

/// Walks through all sealed segments.
pub(super) async fn all(volume: &Arc<Volume>, pace: &mut Pace, see: See<'_>) -> Survey {
    some(volume, Wanted::SEALED, pace, see).await
}

/// Walks through what is wanted.
pub(super) async fn some(
    volume: &Arc<Volume>,
    wanted: Wanted<'_>,
    pace: &mut Pace,
    see: See<'_>,
) -> Survey {
    let mut survey = Survey::default();
    for number in 0..volume.segments.count() {
        if wanted.segment(volume, number) {
            survey.add(&segment(volume, number, wanted, pace, see).await);
        }
    }
    survey
}

/// Drops records of these kinds that `keep` does not want, of sealed segments older than `seconds`. How many, and their bytes in the log.
///
/// # Errors
/// What the device says.
pub(super) async fn sweep(
    volume: &Arc<Volume>,
    kinds: &[Kind],
    seconds: u64,
    keep: &(dyn Fn(&Name) -> bool + Sync),
) -> io::Result<(u64, u64)> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let mut swept = (0, 0);
    for segment in 0..volume.segments.count() {
        if volume.segments.life(segment) != Life::Sealed {
            continue;
        }
        let start = recover::start(&*volume.device, &volume.layout, segment).await?;
        let opened_at = start.and_then(|start| start.opened_at()).unwrap_or(now);
        if now.saturating_sub(opened_at) < seconds {
            continue;
        }
        let sequence = volume.segments.sequence(segment);
        let (device, layout) = (&*volume.device, &volume.layout);
        let listing = recover::listing(device, layout, segment, sequence).await?;
        for entry in listing.entries {
            let RecordKind::Stored(kind) = entry.kind else {
                continue;
            };
            if kinds.contains(&kind)
                && let Some(place) = entry.place(segment)
                && volume.drop_unwanted(&entry.name, place, keep)
            {
                swept = (swept.0 + 1, swept.1 + u64::from(place.record_bytes()));
            }
        }
    }
    Ok(swept)
}

/// Walks round and round at a pace. Never ends.
pub(super) async fn scrub(volume: &Arc<Volume>, bytes_a_second: u64) {
    /// Between two rounds, so that an empty volume is not walked through all the time.
    const REST: Duration = Duration::from_secs(600);
    loop {
        let mut pace = Pace::new(Some(bytes_a_second));
        let survey = all(volume, &mut pace, &mut |_, _, _| ()).await;
        volume.metrics.scrubs.inc();
        if survey.damaged > 0 || survey.unreadable > 0 {
            tracing::warn!(volume = %volume.label, ?survey, "damage found on disk; what was damaged is fetched again when it is asked for");
        }
        tokio::time::sleep(REST).await;
    }
}

/// Bounds of the ages that segments are counted by, in seconds: a minute, an hour, a day, a week, 30 days.
pub const AGE_BOUNDS_SECONDS: [u64; 5] = [60, 3_600, 86_400, 604_800, 2_592_000];

/// Segments in use by age: below each bound, and older.
///
/// # Errors
/// What the device says.
pub(super) async fn ages(volume: &Volume, now: SystemTime) -> io::Result<[u64; 6]> {
    let now = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let mut ages = [0; 6];
    for segment in 0..volume.segments.count() {
        if volume.segments.sequence(segment) == 0 {
            continue;
        }
        let start = recover::start(&*volume.device, &volume.layout, segment).await?;
        let Some(opened_at) = start.and_then(|start| start.opened_at()) else {
            continue;
        };
        let age = now.saturating_sub(opened_at);
        let place = AGE_BOUNDS_SECONDS.partition_point(|bound| *bound <= age);
        if let Some(count) = ages.get_mut(place) {
            *count += 1;
        }
    }
    Ok(ages)
}
