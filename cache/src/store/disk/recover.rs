//! What a volume holds, found out at its start.
//!
//! With a checkpoint: the index as it was saved, then the log from there, segment after segment, as long as each is a later one than the one before. Without one:
//! every segment that begins with a start of this volume, from the oldest to the newest. A sealed segment says what it holds in its footer; any other is read record by
//! record, and the first header that is not one of it ends it, as does a body that is not the one it was written with.

use std::{collections::HashSet, io};

use futures_util::{StreamExt, future::join_all, stream};

use super::{
    checkpoint::{Checkpoint, Position},
    device::{BLOCK_BYTES, Device, Extent},
    format::{
        footer::{FooterEntry, Trailer},
        record::{HEADER_BYTES, RecordHeader, RecordKind},
    },
    index::{Index, Place},
    log::UNIT,
    segments::{Life, Segments},
    volume::{Contents, Layout},
};

/// Segments looked at together, where all must be.
const BATCH: usize = 64;

/// A segment's records, as of a sequence.
#[derive(Debug)]
struct Lap {
    segment: u32,
    sequence: u64,
    entries: Vec<FooterEntry>,
}

/// What a volume holds. `saved` is its checkpoint, if there is one to be read.
///
/// # Errors
/// What the device says; a volume that cannot be read cannot be opened.
pub(super) async fn recover(
    device: &dyn Device,
    layout: &Layout,
    saved: Option<Checkpoint>,
) -> io::Result<Contents> {
    match saved {
        Some(saved) => since(device, layout, saved).await,
        None => all(device, layout, Index::new(rand::random())).await,
    }
}

/// From a checkpoint on.
async fn since(device: &dyn Device, layout: &Layout, saved: Checkpoint) -> io::Result<Contents> {
    let position = saved.head().position;
    if position.sequence != 0
        && start_sequence(device, layout, position.segment).await? != Some(position.sequence)
    {
        // The log has come round since: where it goes on from there is not where it went on from the checkpoint.
        return all(device, layout, Index::new(rand::random())).await;
    }
    let laps = laps_since(device, layout, position).await?;
    // What was written over since is found in the log, if anywhere.
    let rewritten: HashSet<u32> = laps
        .iter()
        .filter(|lap| lap.sequence != position.sequence)
        .map(|lap| lap.segment)
        .collect();
    let sequences = saved.head().sequences.clone();
    let loaded = saved.load(|place| {
        let segment = place.segment();
        let sequence = sequences.get(segment as usize).copied().unwrap_or(0);
        (1..=position.sequence).contains(&sequence)
            && !rewritten.contains(&segment)
            && segment < layout.geometry.segments()
            && (segment != position.segment || place.offset() < position.offset)
    });
    let index = match loaded {
        Ok(index) => index,
        Err(error) => {
            tracing::warn!(%error, "the saved index is damaged; the whole log is read");
            return all(device, layout, Index::new(rand::random())).await;
        }
    };
    let segments = Segments::new(layout.geometry.segments());
    for (segment, sequence) in (0..).zip(sequences) {
        if sequence != 0 && sequence <= position.sequence {
            segments.set(segment, Life::Sealed, sequence);
        }
    }
    let end = laps.last().map_or(position, end_of);
    for lap in &laps {
        segments.set(lap.segment, Life::Sealed, lap.sequence);
        let first = if lap.sequence == position.sequence {
            position.offset
        } else {
            0
        };
        let new = lap.entries.iter();
        apply(
            &index,
            lap.segment,
            new.filter(|entry| entry.offset >= first),
        );
    }
    Ok(contents(index, segments, end))
}

/// Everything there is.
async fn all(device: &dyn Device, layout: &Layout, index: Index) -> io::Result<Contents> {
    let segments = Segments::new(layout.geometry.segments());
    let there = device.len().saturating_sub(layout.offset(0, 0))
        / u64::from(layout.geometry.segment_bytes());
    let there = u32::try_from(there)
        .unwrap_or(u32::MAX)
        .min(layout.geometry.segments());
    let mut found = Vec::new();
    for first in (0..there).step_by(BATCH) {
        let batch: Vec<u32> = (first..there).take(BATCH).collect();
        let starts = batch
            .iter()
            .map(|segment| start_sequence(device, layout, *segment));
        for (segment, sequence) in batch.iter().zip(join_all(starts).await) {
            if let Some(sequence) = sequence? {
                found.push((sequence, *segment));
            }
        }
    }
    found.sort_unstable();
    let end = found.last().copied();
    let mut laps = stream::iter(found)
        .map(|(sequence, segment)| async move {
            let listing = listing(device, layout, segment, sequence).await?;
            Ok::<_, io::Error>(Lap {
                segment,
                sequence,
                entries: listing.entries,
            })
        })
        .buffered(4);
    while let Some(lap) = laps.next().await {
        let lap = lap?;
        segments.set(lap.segment, Life::Sealed, lap.sequence);
        apply(&index, lap.segment, lap.entries.iter());
    }
    drop(laps);
    let end = end.map_or(
        Position {
            segment: 0,
            sequence: 0,
            offset: 0,
        },
        |(sequence, segment)| Position {
            segment,
            sequence,
            offset: u32::MAX,
        },
    );
    Ok(contents(index, segments, end))
}

fn contents(index: Index, segments: Segments, end: Position) -> Contents {
    let mut live_bytes = 0;
    index.for_each(|place, _| live_bytes += u64::from(place.record_bytes()));
    Contents {
        index,
        segments,
        live_bytes,
        end,
    }
}

/// A lap is not written to again: what it did not fill is lost until it is reclaimed.
fn end_of(lap: &Lap) -> Position {
    Position {
        segment: lap.segment,
        sequence: lap.sequence,
        offset: u32::MAX,
    }
}

fn apply<'a>(index: &Index, segment: u32, entries: impl Iterator<Item = &'a FooterEntry>) {
    for entry in entries {
        let Some(place) = entry.place(segment) else {
            continue;
        };
        if entry.kind == RecordKind::Tombstone {
            if let Some(place) = index.get(&entry.name) {
                index.remove_if(&entry.name, place);
            }
        } else {
            index.insert(&entry.name, place);
        }
    }
}

/// The laps from a position of the log on: its own first, then those that follow.
async fn laps_since(
    device: &dyn Device,
    layout: &Layout,
    position: Position,
) -> io::Result<Vec<Lap>> {
    let mut laps = Vec::new();
    let mut at = (position.sequence != 0).then_some((position.segment, position.sequence));
    if at.is_none() {
        at = start_sequence(device, layout, 0)
            .await?
            .map(|sequence| (0, sequence));
    }
    while let Some((segment, sequence)) = at {
        // Sequences grow, so no segment comes twice.
        let listing = listing(device, layout, segment, sequence).await?;
        laps.push(Lap {
            segment,
            sequence,
            entries: listing.entries,
        });
        let mut next = None;
        for candidate in [segment + 1, 0] {
            if candidate >= layout.geometry.segments() {
                continue;
            }
            if let Some(later) = start_sequence(device, layout, candidate).await?
                && later > sequence
                && next.is_none_or(|(_, other)| later < other)
            {
                next = Some((candidate, later));
            }
        }
        at = next;
    }
    Ok(laps)
}

/// The sequence that a segment begins with, if anything of this volume does.
async fn start_sequence(
    device: &dyn Device,
    layout: &Layout,
    segment: u32,
) -> io::Result<Option<u64>> {
    let start = start(device, layout, segment).await?;
    Ok(start.map(|start| start.sequence))
}

/// What a segment begins with, if anything of this volume does.
pub(super) async fn start(
    device: &dyn Device,
    layout: &Layout,
    segment: u32,
) -> io::Result<Option<RecordHeader>> {
    let extent = Extent {
        offset: layout.offset(segment, 0),
        len: BLOCK_BYTES,
    };
    if extent.offset + BLOCK_BYTES as u64 > device.len() {
        return Ok(None);
    }
    let block = device.read(extent).await?;
    let start = RecordHeader::decode(&block, layout.salt).ok();
    Ok(start.filter(|start| start.kind == RecordKind::Start))
}

/// The records of a segment as of a sequence.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) entries: Vec<FooterEntry>,
    /// Whether these are all. Without a footer there may be more behind a hole that a failed write left.
    pub(super) is_whole: bool,
}

/// The records of a segment as of a sequence; none where it does not begin as one of it.
///
/// # Errors
/// What the device says.
pub(super) async fn listing(
    device: &dyn Device,
    layout: &Layout,
    segment: u32,
    sequence: u64,
) -> io::Result<Listing> {
    if start_sequence(device, layout, segment).await? != Some(sequence) {
        return Ok(Listing::default());
    }
    if let Some(entries) = footer(device, layout, segment, sequence).await? {
        return Ok(Listing {
            entries,
            is_whole: true,
        });
    }
    let whole = Extent {
        offset: layout.offset(segment, 0),
        len: layout.segment_bytes(),
    };
    let bytes = device.read(whole).await?;
    let (entries, _) = scan(&bytes, 0, layout, sequence, Bodies::Whole);
    Ok(Listing {
        entries,
        is_whole: false,
    })
}

/// As [`listing`], beyond what is damaged too: for who looks for damage. With them the number of records that must be there and are not to be recognized.
///
/// # Errors
/// What the device says.
pub(super) async fn entries_beyond_damage(
    device: &dyn Device,
    layout: &Layout,
    segment: u32,
    sequence: u64,
) -> io::Result<(Vec<FooterEntry>, u64)> {
    if start_sequence(device, layout, segment).await? != Some(sequence) {
        return Ok((Vec::new(), 0));
    }
    if let Some(entries) = footer(device, layout, segment, sequence).await? {
        return Ok((entries, 0));
    }
    let whole = Extent {
        offset: layout.offset(segment, 0),
        len: layout.segment_bytes(),
    };
    let whole = device.read(whole).await?;
    let mut found = (Vec::new(), 0);
    let mut from = 0;
    loop {
        let (entries, end) = scan(&whole, from, layout, sequence, Bodies::Any);
        found.0.extend(entries);
        let next = (end + UNIT..whole.len()).step_by(UNIT).find(|at| {
            let header = RecordHeader::decode(whole.get(*at..).unwrap_or(&[]), layout.salt);
            header.is_ok_and(|header| header.sequence == sequence)
        });
        let Some(next) = next else {
            // Nothing of this lap follows: it is the end of what was written.
            return Ok(found);
        };
        found.1 += 1;
        from = next;
    }
}

/// Which bodies end a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bodies {
    /// One that is not what was written.
    Whole,
    /// None.
    Any,
}

/// What a sealed segment's footer says.
async fn footer(
    device: &dyn Device,
    layout: &Layout,
    segment: u32,
    sequence: u64,
) -> io::Result<Option<Vec<FooterEntry>>> {
    let segment_bytes = layout.geometry.segment_bytes();
    let read = |from: u32| {
        device.read(Extent {
            offset: layout.offset(segment, u64::from(from)),
            len: (segment_bytes - from) as usize,
        })
    };
    // Most footers fit the first guess.
    let guess = segment_bytes - GUESS_BYTES.min(segment_bytes);
    let last = read(guess).await?;
    let trailer = Trailer::decode(&last, segment_bytes, layout.salt).ok();
    let Some(trailer) = trailer.filter(|trailer| trailer.sequence == sequence) else {
        return Ok(None);
    };
    let entries = match trailer.offset.checked_sub(guess) {
        Some(from) => collect(&trailer, last.get(from as usize..).unwrap_or(&[])),
        None => collect(&trailer, &read(trailer.offset).await?),
    };
    Ok(entries)
}

/// A footer of 800 records.
const GUESS_BYTES: u32 = 32 * 1024;

fn collect(trailer: &Trailer, footer: &[u8]) -> Option<Vec<FooterEntry>> {
    Some(trailer.entries(footer).ok()?.collect())
}

/// The records of a segment one by one, from a place on, up to the first that is none; and where that is.
fn scan(
    segment: &[u8],
    from: usize,
    layout: &Layout,
    sequence: u64,
    bodies: Bodies,
) -> (Vec<FooterEntry>, usize) {
    let mut entries = Vec::new();
    let mut at = from;
    while let Some(bytes) = segment.get(at..) {
        let Ok(header) = RecordHeader::decode(bytes, layout.salt) else {
            break;
        };
        let body_bytes = header.body_bytes as usize;
        let Some(body) = bytes.get(HEADER_BYTES..HEADER_BYTES + body_bytes) else {
            break;
        };
        let is_body =
            bodies == Bodies::Any || header.kind == RecordKind::Pad || header.is_body(body);
        if header.sequence != sequence || !is_body {
            break;
        }
        if let (RecordKind::Stored(_) | RecordKind::Tombstone, Ok(offset)) =
            (header.kind, u32::try_from(at))
        {
            entries.push(FooterEntry {
                name: header.name,
                offset,
                body_bytes: header.body_bytes,
                kind: header.kind,
            });
        }
        at += HEADER_BYTES + body_bytes.next_multiple_of(UNIT);
    }
    (entries, at)
}

impl FooterEntry {
    /// Where its record lies. None for what no log writes.
    pub(super) fn place(&self, segment: u32) -> Option<Place> {
        Place::new(segment, self.offset, self.body_bytes)
    }
}
