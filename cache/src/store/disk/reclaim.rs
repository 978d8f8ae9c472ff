//! Making room: segments are allocated as they are first needed, then the oldest is emptied for the next.
//!
//! First in, first out, with a second chance that has a price: records that were used since they were written, or that the tiers above still hold,
//! are appended again, the most used first, up to a third of a segment. So of what is written at most a third is written again: a write
//! amplification of 1.5.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::{Instant, sleep, timeout};

use super::{
    device::Extent,
    format::{
        footer::FooterEntry,
        record::{HEADER_BYTES, RecordHeader},
    },
    index::Place,
    log::{Fresh, NoPlace, Record, record_bytes},
    recover,
    segments::Life,
    volume::Volume,
};

/// Fresh segments kept ahead of need, where the volume is large enough.
const FRESH: usize = 3;

/// Room is asked for this many bytes at once, for each time may take as long as the filesystem's next commit.
const GROWTH_BYTES: u64 = 64 << 20;

/// Of a segment's bytes at most a third are moved.
const MOVED_PART: usize = 3;

/// Readers of a segment are waited for so long; none reads for longer, since reads time out before.
const READERS_TIMEOUT: Duration = Duration::from_secs(2);

/// After a failure to make room, the next try.
const RETRY: Duration = Duration::from_millis(500);

/// Keeps fresh segments ahead of need. Never ends.
pub(super) async fn run(volume: &Arc<Volume>) {
    let mut ring = Ring::new(volume);
    loop {
        let opened = volume.opened.notified();
        let fresh = volume.log.lock().fresh();
        if fresh >= ring.target() {
            opened.await;
            continue;
        }
        // While writing is off, what would be moved would be lost.
        if !volume.health.writes() || ring.next(volume).await.is_none() {
            sleep(RETRY).await;
        }
    }
}

/// The order of segments: round and round through those there is room for.
#[derive(Debug)]
struct Ring {
    /// The segment that was offered last.
    last: Option<u32>,
    /// Segments there is room for: the first so many.
    allocated: u32,
    most: u32,
    /// The next sequence.
    sequence: u64,
}

impl Ring {
    fn new(volume: &Volume) -> Self {
        let end = volume.log.lock().position();
        let segments = volume.segments.count();
        let used = (0..segments)
            .rev()
            .find(|segment| volume.segments.sequence(*segment) != 0)
            .map_or(0, |last| last + 1);
        count_allocated(volume, used);
        Self {
            last: (end.sequence != 0).then_some(end.segment),
            allocated: used,
            most: segments,
            sequence: volume.layout.epoch << 32,
        }
    }

    fn target(&self) -> usize {
        FRESH.min((self.most as usize / 4).max(1))
    }

    /// Makes one more segment fresh; `None` where that is not to be had now.
    async fn next(&mut self, volume: &Arc<Volume>) -> Option<()> {
        let after = self.last.map_or(0, |last| last + 1);
        let segment = if after >= self.allocated && self.allocated < self.most {
            match self.grow(volume).await {
                Ok(()) => after,
                Err(_) if self.allocated > u32::try_from(FRESH).unwrap_or(u32::MAX) => 0,
                Err(error) => {
                    // Too small for a log.
                    volume.health.write_failed(&error);
                    return None;
                }
            }
        } else if after >= self.allocated {
            0
        } else {
            after
        };
        match volume.segments.life(segment) {
            Life::Empty => {}
            Life::Sealed => reclaim(volume, segment).await?,
            // Its last bytes are on their way, or it waits to be opened.
            Life::Open | Life::Reclaiming => return None,
        }
        self.sequence += 1;
        let opened_at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        volume.segments.set(segment, Life::Open, self.sequence);
        volume.log.lock().offer(Fresh {
            segment,
            sequence: self.sequence,
            name: RecordHeader::start(volume.layout.id, self.sequence, opened_at).name,
        });
        volume.pay_tombstones();
        volume.landed.notify_waiters();
        self.last = Some(segment);
        Some(())
    }

    /// Room for so many segments more.
    async fn allocate(&self, volume: &Arc<Volume>, many: u32) -> io::Result<u32> {
        let extent = Extent {
            offset: volume.layout.offset(self.allocated, 0),
            len: volume.layout.segment_bytes() * many as usize,
        };
        // Off this thread: it may take seconds on a busy filesystem, and the writer's turns are here.
        let device = Arc::clone(&volume.device);
        tokio::task::spawn_blocking(move || device.allocate(extent))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map(|()| many)
    }

    async fn grow(&mut self, volume: &Arc<Volume>) -> io::Result<()> {
        let segment_bytes = volume.layout.segment_bytes();
        let many = u32::try_from(GROWTH_BYTES / segment_bytes as u64).unwrap_or(1);
        let many = many.clamp(1, self.most - self.allocated);
        let mut grown = self.allocate(volume, many).await;
        if grown.is_err() && many > 1 {
            // There may be room for less.
            grown = self.allocate(volume, 1).await;
        }
        if volume.health.space(grown.as_ref().err()) {
            match &grown {
                Ok(_) => tracing::info!(volume = %volume.label, "the disk tier grows again"),
                Err(error) => {
                    tracing::error!(volume = %volume.label, %error, segments = self.allocated, of = self.most, "no room for the disk tier to grow to its configured size; it makes do with what it has");
                }
            }
        }
        self.allocated += grown?;
        count_allocated(volume, self.allocated);
        Ok(())
    }
}

fn count_allocated(volume: &Volume, segments: u32) {
    let bytes = u64::from(segments) * volume.layout.segment_bytes() as u64;
    let gauge = &volume.metrics.allocated_bytes;
    gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
}

/// Empties a sealed segment.
async fn reclaim(volume: &Arc<Volume>, segment: u32) -> Option<()> {
    if !volume
        .segments
        .turn(segment, Life::Sealed, Life::Reclaiming)
    {
        return None;
    }
    let sequence = volume.segments.sequence(segment);
    let (device, layout) = (&*volume.device, &volume.layout);
    let is_whole = match recover::listing(device, layout, segment, sequence).await {
        Ok(listing) => {
            move_or_drop(volume, segment, &listing.entries).await;
            listing.is_whole
        }
        Err(error) => {
            volume.metrics.read_errors.inc();
            tracing::warn!(volume = %volume.label, segment, %error, "a segment that cannot be read is given up");
            false
        }
    };
    if !is_whole {
        drop_unlisted(volume, segment).await;
    }
    let unread = async {
        while !volume.segments.is_unread(segment) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = timeout(READERS_TIMEOUT, unread).await;
    volume.metrics.reclaimed_segments.inc();
    Some(())
}

/// Drops what the index finds in a segment whose records cannot all be listed. Walks the whole index, so on a thread that may be kept busy.
async fn drop_unlisted(volume: &Arc<Volume>, segment: u32) {
    let shared = Arc::clone(volume);
    let walk = move || {
        let mut bytes = 0;
        let evicted = shared.index.retain(|place| {
            let stays = place.segment() != segment;
            if !stays {
                bytes += u64::from(place.record_bytes());
            }
            stays
        });
        shared.live_bytes.fetch_sub(bytes, Ordering::Relaxed);
        evicted as u64
    };
    match tokio::task::spawn_blocking(walk).await {
        Ok(evicted) => {
            volume.metrics.evicted_records.inc_by(evicted);
        }
        Err(error) => {
            tracing::error!(volume = %volume.label, segment, %error, "the index could not be walked");
        }
    }
}

/// Moves the records that are worth it to the log's end; the others leave the index.
async fn move_or_drop(volume: &Arc<Volume>, segment: u32, entries: &[FooterEntry]) {
    let retained = volume.retained.get();
    let mut worth: Vec<(u8, &FooterEntry, Place)> = Vec::new();
    for entry in entries {
        let Some(place) = entry.place(segment) else {
            continue;
        };
        let Some(uses) = volume.index.uses(&entry.name, place) else {
            continue;
        };
        let held = retained.is_some_and(|retained| retained(&entry.name));
        if uses > 0 || held {
            worth.push((uses + u8::from(held), entry, place));
        } else if volume.drop_place(&entry.name, place) {
            volume.metrics.evicted_records.inc();
        }
    }
    // The most used first; among equals what was written last.
    worth.sort_by(|(a, x, _), (b, y, _)| (b, y.offset).cmp(&(a, x.offset)));
    let mut left = volume.layout.segment_bytes() / MOVED_PART;
    worth.retain(|(_, entry, place)| {
        let bytes = record_bytes(entry.body_bytes as usize);
        if let Some(rest) = left.checked_sub(bytes) {
            left = rest;
            return true;
        }
        if volume.drop_place(&entry.name, *place) {
            volume.metrics.evicted_records.inc();
        }
        false
    });
    worth.sort_unstable_by_key(|(_, entry, _)| entry.offset);
    for (_, entry, place) in worth {
        match move_record(volume, entry, place).await {
            Ok(true) => {
                volume.metrics.moved_records.inc();
                volume
                    .metrics
                    .moved_bytes
                    .inc_by(u64::from(entry.body_bytes));
            }
            Ok(false) => {}
            Err(_) => {
                volume.metrics.read_errors.inc();
            }
        }
        if volume.drop_place(&entry.name, place) {
            volume.metrics.evicted_records.inc();
        }
    }
}

/// Appends a record again; whether that was done. Its uses begin anew.
async fn move_record(volume: &Arc<Volume>, entry: &FooterEntry, place: Place) -> io::Result<bool> {
    let extent = volume.extent(place);
    let read = timeout(READERS_TIMEOUT, volume.device.read(extent)).await;
    let buffer = read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let bytes = buffer.get(volume.within(place, extent)..).unwrap_or(&[]);
    let whole = RecordHeader::decode(bytes, volume.layout.salt)
        .ok()
        .and_then(|header| {
            let body = bytes.get(HEADER_BYTES..HEADER_BYTES + header.body_bytes as usize)?;
            (header.name == entry.name && header.is_body(body)).then_some((header, body))
        });
    let Some((header, body)) = whole else {
        volume.metrics.corrupt.inc();
        return Ok(false);
    };
    let record = Record {
        kind: header.kind,
        name: header.name,
        body,
        hash: header.body_hash,
    };
    let until = Instant::now() + READERS_TIMEOUT;
    loop {
        let landed = volume.landed.notified();
        if volume.index.get(&entry.name) != Some(place) {
            // A newer one was put meanwhile.
            return Ok(false);
        }
        match volume.append_again(&record, place) {
            Ok(()) => return Ok(true),
            // Nobody but this task makes segments fresh: the record has had its time.
            Err(NoPlace::Segments) => return Ok(false),
            Err(NoPlace::Buffers) => {}
        }
        if tokio::time::timeout_at(until, landed).await.is_err() {
            return Ok(false);
        }
    }
}
