//! One volume: a log on one device, its index, and the tasks that keep them.
//!
//! Whoever puts and reads records shares it between threads; no lock is held across I/O. What writes, reclaims and saves runs as one future
//! ([`Keeper::run`]) wherever the owner lets it run.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout},
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    BODY_BYTES_MAX, Check, DiskRead, Kind, Name, Put, Refused,
    budget::Budget,
    checkpoint::Position,
    device::{BLOCK_BYTES, Device, Extent},
    format::{
        Geometry, Salt, VolumeId,
        footer::FooterEntry,
        record::{HEADER_BYTES, RecordHeader, RecordKind},
    },
    health::Health,
    index::{Index, Place},
    log::{Claim, Log, NoPlace, Pending, Record},
    metrics::DiskMetrics,
    names::NameSet,
    segments::Segments,
};

/// Reads of a volume under way; more are told that it is throttled.
const READS_MAX: usize = 256;

/// A read that takes longer is given up: the requester asks elsewhere. The device finishes it unheard.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// A putter that can wait does so for at most this long.
const ROOM_TIMEOUT: Duration = Duration::from_secs(1);

/// Neighbours on the device whose gap is no longer than this are read in one piece.
const GAP_BYTES_MAX: u64 = 2 * BLOCK_BYTES as u64;

/// One piece is no longer than this.
const PIECE_BYTES_MAX: u64 = (1 << 20) + 2 * BLOCK_BYTES as u64;

/// Where things lie on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) id: VolumeId,
    pub(super) salt: Salt,
    pub(super) geometry: Geometry,
    pub(super) epoch: u64,
}

impl Layout {
    /// The device's place of a byte of a segment.
    pub(super) fn offset(&self, segment: u32, within: u64) -> u64 {
        self.geometry.segment_offset(segment) + within
    }

    /// The length of a segment.
    pub(super) fn segment_bytes(&self) -> usize {
        self.geometry.segment_bytes() as usize
    }
}

/// Whether what lies under a name is held in the tiers above: a reason to keep it here too.
pub type Retained = Arc<dyn Fn(&Name) -> bool + Send + Sync>;

/// A volume's state, shared by all who use it.
pub(super) struct Volume {
    pub(super) label: String,
    pub(super) device: Arc<dyn Device>,
    pub(super) layout: Layout,
    pub(super) index: Index,
    pub(super) log: Mutex<Log>,
    pub(super) segments: Segments,
    pub(super) health: Health,
    pub(super) metrics: DiskMetrics,
    pub(super) retained: OnceLock<Retained>,
    budget: Mutex<Budget>,
    /// Chunks and pages put since an operator's sweep began; see [`super::care`].
    pub(super) collected: Mutex<Option<NameSet>>,
    pub(super) is_collecting: AtomicBool,
    reads: Semaphore,
    /// Bytes of records that the index names.
    pub(super) live_bytes: AtomicU64,
    /// Rung when the writer has work.
    pub(super) work: Notify,
    /// Rung when a segment was opened: others may be needed.
    pub(super) opened: Notify,
    /// Rung when bytes have landed, and when segments become free.
    pub(super) landed: Notify,
    /// Rung when a device that failed works again: the index is saved at once.
    pub(super) recovered: Notify,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("label", &self.label)
            .field("layout", &self.layout)
            .field("records", &self.index.len())
            .finish_non_exhaustive()
    }
}

/// What a volume begins with: what recovery found, or nothing.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) index: Index,
    pub(super) segments: Segments,
    pub(super) live_bytes: u64,
    pub(super) end: Position,
}

impl Volume {
    pub(super) fn new(
        label: String,
        device: Arc<dyn Device>,
        layout: Layout,
        contents: Contents,
        bytes_a_day: Option<u64>,
    ) -> Self {
        Self {
            label,
            device,
            layout,
            index: contents.index,
            log: Mutex::new(Log::new(layout.segment_bytes(), layout.salt, contents.end)),
            segments: contents.segments,
            health: Health::default(),
            metrics: DiskMetrics::default(),
            retained: OnceLock::new(),
            budget: Mutex::new(Budget::new(bytes_a_day, Instant::now())),
            collected: Mutex::new(None),
            is_collecting: AtomicBool::new(false),
            reads: Semaphore::new(READS_MAX),
            live_bytes: AtomicU64::new(contents.live_bytes),
            work: Notify::new(),
            opened: Notify::new(),
            landed: Notify::new(),
            recovered: Notify::new(),
        }
    }

    /// Takes a record: see [`super::DiskTier::put`].
    pub(super) fn put(&self, kind: Kind, name: Name, body: &[u8]) -> Put {
        // Before it is looked for: a sweep that did not see the note has dropped it by then.
        self.note(kind, &name);
        let put = self.try_put(kind, name, body);
        match put {
            Put::Queued => {
                self.metrics.put_records.inc();
                self.metrics.put_bytes.inc_by(body.len() as u64);
            }
            Put::Present => {
                self.metrics.present_records.inc();
                self.metrics.present_bytes.inc_by(body.len() as u64);
            }
            Put::Refused(why) => {
                self.metrics.refused(why).inc();
            }
        }
        put
    }

    fn try_put(&self, kind: Kind, name: Name, body: &[u8]) -> Put {
        if body.len() > BODY_BYTES_MAX {
            return Put::Refused(Refused::TooLarge);
        }
        if !self.health.writes() {
            return Put::Refused(Refused::Off);
        }
        if kind != Kind::Head && self.index.get(&name).is_some() {
            self.index.touch(&name);
            return Put::Present;
        }
        let record = Record {
            kind: RecordKind::Stored(kind),
            name,
            body,
            hash: xxh3_64(body),
        };
        let bytes = super::log::record_bytes(body.len());
        if !self.budget.lock().take(bytes, Instant::now()) {
            return Put::Refused(Refused::Budget);
        }
        let claim = match kind {
            Kind::Head => Claim::HEAD,
            Kind::Chunk | Kind::Page => Claim::CONTENT,
        };
        match self.append(&record, claim) {
            Ok(()) => Put::Queued,
            Err(_) => Put::Refused(Refused::Busy),
        }
    }

    /// Forgets a name, and lets that be known after a restart.
    pub(super) fn forget(&self, name: &Name) {
        {
            // The index is changed under the log's lock, so that it agrees with the log's order.
            let mut log = self.log.lock();
            let Some(place) = self.index.get(name) else {
                return;
            };
            self.drop_place(name, place);
            self.owe(&mut log, *name);
        }
        self.pay_tombstones();
    }

    /// A tombstone is to be written as soon as there is room.
    fn owe(&self, log: &mut Log, name: Name) {
        if !log.owe(name) {
            // Forgotten all the same, until the next start.
            self.metrics.tombstones_lost.inc();
        }
    }

    /// Writes the tombstones that wait, as many as there is room for. While writing is off they wait on.
    pub(super) fn pay_tombstones(&self) {
        if self.health.is_ill() {
            return;
        }
        let mut log = self.log.lock();
        let mut any = false;
        while let Some(name) = log.next_owed() {
            any = true;
            // What was put meanwhile comes after it in the log by itself.
            if self.index.get(&name).is_some() {
                continue;
            }
            let tombstone = Record {
                kind: RecordKind::Tombstone,
                name,
                body: &[],
                hash: xxh3_64(&[]),
            };
            if log.append(&tombstone, Claim::HEAD).is_err() {
                self.owe(&mut log, name);
                break;
            }
        }
        drop(log);
        if any {
            self.opened.notify_one();
            self.work.notify_one();
        }
    }

    /// A record is gone with a write that failed.
    pub(super) fn lose(&self, entry: &FooterEntry, segment: u32) {
        self.metrics.lost_records.inc();
        if entry.kind == RecordKind::Tombstone {
            self.owe(&mut self.log.lock(), entry.name);
        } else if let Some(place) = entry.place(segment) {
            self.drop_place(&entry.name, place);
        }
    }

    /// Appends a record and lets the index find it.
    pub(super) fn append(&self, record: &Record<'_>, claim: Claim) -> Result<(), NoPlace> {
        self.append_if(record, claim, || true)
    }

    /// Appends a record that lies at `from`, if that is still where the index finds it.
    pub(super) fn append_again(&self, record: &Record<'_>, from: Place) -> Result<(), NoPlace> {
        self.append_if(record, Claim::MOVED, || {
            self.index.get(&record.name) == Some(from)
        })
    }

    fn append_if(
        &self,
        record: &Record<'_>,
        claim: Claim,
        condition: impl FnOnce() -> bool,
    ) -> Result<(), NoPlace> {
        let mut log = self.log.lock();
        if !condition() {
            return Ok(());
        }
        let fresh = log.fresh();
        let place = log.append(record, claim)?;
        // Under the log's lock, so that of two records of one name the later stays.
        let previous = self.index.insert(&record.name, place);
        self.live_bytes
            .fetch_add(place_bytes(place), Ordering::Relaxed);
        if let Some(previous) = previous {
            self.live_bytes
                .fetch_sub(place_bytes(previous), Ordering::Relaxed);
        }
        let opened = log.fresh() != fresh;
        let has_work = log.has_work();
        drop(log);
        if opened {
            self.opened.notify_one();
        }
        if has_work {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Takes a name out of the index, if this is still where it points.
    pub(super) fn drop_place(&self, name: &Name, place: Place) -> bool {
        let removed = self.index.remove_if(name, place);
        if removed {
            self.live_bytes
                .fetch_sub(place_bytes(place), Ordering::Relaxed);
        }
        removed
    }

    /// Waits for room for any record.
    pub(super) async fn room(&self) {
        let wait = async {
            loop {
                let landed = self.landed.notified();
                if !self.health.writes() || self.log.lock().has_room(BODY_BYTES_MAX, Claim::CONTENT)
                {
                    return;
                }
                self.metrics.waits_for_room.inc();
                landed.await;
            }
        };
        // At the bound the put itself says busy.
        let _ = timeout(ROOM_TIMEOUT, wait).await;
    }

    /// Writes what was put before, and has the device keep it.
    pub(super) async fn flush(&self) -> io::Result<()> {
        let failures = self.health.failures();
        let target = {
            let mut log = self.log.lock();
            log.hand_over();
            log.handed_over()
        };
        self.work.notify_one();
        loop {
            let landed = self.landed.notified();
            if self.log.lock().landed_up_to() >= target {
                break;
            }
            if self.health.has_ended() {
                return Err(io::Error::other("the volume has ended"));
            }
            landed.await;
        }
        if self.health.failures() != failures {
            return Err(io::Error::other("a write failed: its records are gone"));
        }
        self.device.sync().await
    }

    /// What lies under a name: see [`super::DiskTier::read`].
    pub(super) async fn read(&self, kind: Kind, name: &Name, check: Check<'_>) -> DiskRead {
        // Twice, for a record may move between being looked up and being read.
        for _ in 0..2 {
            let Some(place) = self.index.get(name) else {
                return self.counted(DiskRead::Miss);
            };
            if let Some(record) = self.pending(place) {
                match self.take(kind, name, place, &record, check) {
                    Taken::Is(read) => return self.counted(read),
                    Taken::Moved => continue,
                }
            }
            let Ok(_turn) = self.reads.try_acquire() else {
                return self.counted(DiskRead::Throttled);
            };
            if !self.health.reads() {
                return self.counted(DiskRead::Throttled);
            }
            let _pin = self.segments.pin(place.segment());
            if self.index.get(name) != Some(place) {
                continue;
            }
            let extent = self.extent(place);
            let read = timeout(READ_TIMEOUT, self.device.read(extent)).await;
            let buffer = match self.judge(read, name, place) {
                Ok(buffer) => buffer,
                Err(read) => return self.counted(read),
            };
            let record = buffer.get(self.within(place, extent)..).unwrap_or(&[]);
            match self.take(kind, name, place, record, check) {
                Taken::Is(read) => return self.counted(read),
                Taken::Moved => {}
            }
        }
        self.counted(DiskRead::Miss)
    }

    /// Several chunks at once: see [`super::DiskTier::read_run`]. The answers are by place in `names`.
    pub(super) async fn read_run(
        &self,
        names: &[(usize, Name)],
        check: &(dyn Fn(usize, &[u8]) -> bool + Send + Sync),
    ) -> Vec<(usize, DiskRead)> {
        let mut answers = Vec::with_capacity(names.len());
        let mut wanted = Vec::with_capacity(names.len());
        for (at, name) in names {
            match self.index.get(name) {
                None => answers.push((*at, self.counted(DiskRead::Miss))),
                Some(place) => match self.pending(place) {
                    None => wanted.push((place, *at, name)),
                    Some(_) => {
                        let read = self.read(Kind::Chunk, name, &|body| check(*at, body)).await;
                        answers.push((*at, read));
                    }
                },
            }
        }
        wanted.sort_unstable_by_key(|(place, at, _)| (place.segment(), place.offset(), *at));
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        for (place, at, name) in wanted {
            let extent = self.extent(place);
            match pieces.last_mut() {
                Some(piece) if piece.takes(extent) => piece.add(extent, place, at, name),
                _ => pieces.push(Piece {
                    extent,
                    records: vec![(place, at, name)],
                }),
            }
        }
        let turns = self
            .reads
            .try_acquire_many(u32::try_from(pieces.len()).unwrap_or(u32::MAX));
        if pieces.is_empty() || turns.is_err() || !self.health.reads() {
            let throttled = pieces.into_iter().flat_map(|piece| piece.records);
            answers.extend(throttled.map(|(_, at, _)| (at, self.counted(DiskRead::Throttled))));
            return answers;
        }
        let _pins: Vec<_> = pieces
            .iter()
            .flat_map(|piece| &piece.records)
            .map(|(place, _, _)| self.segments.pin(place.segment()))
            .collect();
        let extents: Vec<Extent> = pieces.iter().map(|piece| piece.extent).collect();
        let reads = self.device.read_many(&extents);
        let reads = join_all(reads.into_iter().map(|read| timeout(READ_TIMEOUT, read))).await;
        for (piece, read) in pieces.iter().zip(reads) {
            let Some((first, at, name)) = piece.records.first() else {
                continue;
            };
            let buffer = match self.judge(read, name, *first) {
                Ok(buffer) => buffer,
                Err(read) => {
                    answers.push((*at, self.counted(read)));
                    let others = piece.records.iter().skip(1);
                    answers
                        .extend(others.map(|(_, at, _)| (*at, self.counted(DiskRead::Throttled))));
                    continue;
                }
            };
            for (place, at, name) in &piece.records {
                let record = buffer
                    .get(self.within(*place, piece.extent)..)
                    .unwrap_or(&[]);
                let taken = self.take(Kind::Chunk, name, *place, record, &|body| check(*at, body));
                let read = match taken {
                    Taken::Is(read) => self.counted(read),
                    Taken::Moved => self.read(Kind::Chunk, name, &|body| check(*at, body)).await,
                };
                answers.push((*at, read));
            }
        }
        answers
    }

    /// The blocks that hold a record.
    pub(super) fn extent(&self, place: Place) -> Extent {
        let block = BLOCK_BYTES as u64;
        let start = u64::from(place.offset());
        let first = start / block * block;
        let end = (start + place_bytes(place)).next_multiple_of(block);
        Extent {
            offset: self.layout.offset(place.segment(), first),
            len: usize::try_from(end - first).unwrap_or(0),
        }
    }

    /// Where a record begins in blocks that hold it.
    pub(super) fn within(&self, place: Place, extent: Extent) -> usize {
        let start = u64::from(place.offset());
        let at = self.layout.offset(place.segment(), start);
        usize::try_from(at.saturating_sub(extent.offset)).unwrap_or(0)
    }

    /// A copy of a record that is not on the device yet.
    fn pending(&self, place: Place) -> Option<Vec<u8>> {
        let log = self.log.lock();
        match log.pending(place)? {
            Pending::Open(bytes) => Some(bytes.to_vec()),
            Pending::Flying(flight, from) => {
                drop(log);
                let end = from + usize::try_from(place_bytes(place)).ok()?;
                flight.bytes.get(from..end).map(<[u8]>::to_vec)
            }
        }
    }

    /// What became of a read of the device.
    fn judge<T>(
        &self,
        read: Result<io::Result<T>, tokio::time::error::Elapsed>,
        name: &Name,
        place: Place,
    ) -> Result<T, DiskRead> {
        let (why, answer) = match read {
            Ok(Ok(buffer)) => {
                self.health.read_succeeded();
                return Ok(buffer);
            }
            // The device's own queue is full.
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(DiskRead::Throttled);
            }
            Ok(Err(error)) => {
                self.metrics.read_errors.inc();
                // These blocks are lost; others may be well.
                self.drop_place(name, place);
                (error.to_string(), DiskRead::Miss)
            }
            Err(_) => {
                self.metrics.read_timeouts.inc();
                (
                    format!("reads take longer than {READ_TIMEOUT:?}"),
                    DiskRead::Throttled,
                )
            }
        };
        if self.health.read_failed(&why) {
            tracing::error!(volume = %self.label, why, "the disk tier reads no more until its device works again");
            self.work.notify_one();
        }
        Err(answer)
    }

    /// The body of a record as it was read, if it is what its name says.
    fn take(
        &self,
        kind: Kind,
        name: &Name,
        place: Place,
        record: &[u8],
        check: Check<'_>,
    ) -> Taken {
        let body = record
            .get(..HEADER_BYTES)
            .and_then(|header| RecordHeader::decode(header, self.layout.salt).ok())
            .filter(|header| {
                header.kind == RecordKind::Stored(kind)
                    && header.name == *name
                    && header.sequence == self.segments.sequence(place.segment())
            })
            .and_then(|header| record.get(HEADER_BYTES..HEADER_BYTES + header.body_bytes as usize))
            .filter(|body| check(body));
        if let Some(body) = body {
            self.index.touch(name);
            return Taken::Is(DiskRead::Hit(Bytes::copy_from_slice(body)));
        }
        if !self.drop_place(name, place) {
            return Taken::Moved;
        }
        tracing::warn!(volume = %self.label, segment = place.segment(), offset = place.offset(), "a record on disk is not what was written; dropped");
        Taken::Is(DiskRead::Corrupt)
    }

    fn counted(&self, read: DiskRead) -> DiskRead {
        match &read {
            DiskRead::Hit(body) => {
                self.metrics.hits.inc();
                self.metrics.hit_bytes.inc_by(body.len() as u64);
            }
            DiskRead::Miss => {
                self.metrics.misses.inc();
            }
            DiskRead::Throttled => {
                self.metrics.throttled.inc();
            }
            DiskRead::Corrupt => {
                self.metrics.corrupt.inc();
            }
        }
        read
    }
}

enum Taken {
    Is(DiskRead),
    /// It is no longer there, but may be elsewhere.
    Moved,
}

/// Records that are read in one piece.
struct Piece<'a> {
    extent: Extent,
    records: Vec<(Place, usize, &'a Name)>,
}

impl<'a> Piece<'a> {
    fn takes(&self, next: Extent) -> bool {
        let end = self.extent.offset + self.extent.len as u64;
        let next_end = next.offset + next.len as u64;
        next.offset <= end + GAP_BYTES_MAX && next_end - self.extent.offset <= PIECE_BYTES_MAX
    }

    fn add(&mut self, next: Extent, place: Place, at: usize, name: &'a Name) {
        let end = (self.extent.offset + self.extent.len as u64).max(next.offset + next.len as u64);
        self.extent.len = usize::try_from(end - self.extent.offset).unwrap_or(self.extent.len);
        self.records.push((place, at, name));
    }
}

/// Bytes of a record in the log.
pub(super) fn place_bytes(place: Place) -> u64 {
    u64::from(place.record_bytes())
}
